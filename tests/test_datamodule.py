"""The data module: names and folders as people write them, and what a stock trainer asks of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import config_of, fit, ready, results_of, write_pictures

from logreg_lightning import ImageDataModule, InputError
from logreg_lightning import fit as fit_in_python
from logreg_lightning.features.backbones import EMBEDDED
from logreg_lightning.fit import build_parser
from logreg_lightning.sweep import build_parser as sweep_parser


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("MNIST", "mnist"),
        ("FashionMNIST", "fashion-mnist"),
        ("Fashion-MNIST", "fashion-mnist"),
        ("fashion_mnist", "fashion-mnist"),
        ("K-MNIST", "kmnist"),
        ("QMNIST", "qmnist"),
        ("Digits", "digits"),
        ("AUTO", "auto"),
    ],
)
def test_a_data_sets_name_counts_in_any_case(written: str, name: str) -> None:
    data = ImageDataModule(written)
    assert (data.dataset, data.hparams["dataset"]) == (name, name)


def test_a_backbones_name_counts_in_any_case() -> None:
    for written, name in (("Pixels", "pixels"), ("EfficientNet_Lite0", EMBEDDED), ("timm/ResNet18", "timm/ResNet18")):
        data = ImageDataModule("digits", features=written)
        assert (data.features, data.hparams["features"]) == (name, name)


def test_a_folder_called_like_a_data_set_is_meant_by_its_path(workdir: Path) -> None:
    write_pictures(Path("Digits"), 3)
    assert len(ready(ImageDataModule("Digits")).data.classes) == 10
    for folder in ("./Digits", str(Path("Digits").resolve()), Path("Digits"), Path("Digits").resolve()):
        data = ready(ImageDataModule(folder))
        assert data.data.classes == ("cats", "dogs") and Path(data.dataset).samefile("Digits")


def test_a_run_keeps_the_name_as_it_is_spelt_here(workdir: Path) -> None:
    run = fit("--data.dataset=Digits", "--data.features=Pixels", "--max_epochs=1")
    assert (config_of(run)["data"]["dataset"], results_of(run)["dataset"]) == ("digits", "digits")
    assert config_of(run)["data"]["features"] == "pixels"
    assert fit(f"--resume={run}", "--data.dataset=DIGITS", "--max_epochs=2") == run
    assert results_of(run)["epochs"] == 2


def test_paths_are_plain_text_at_once(workdir: Path) -> None:
    write_pictures(Path("pets"), 11)
    data = ImageDataModule(Path("pets"), Path("made"), image_size=8)
    assert [type(data.hparams[name]) for name in ("dataset", "root")] == [str, str]
    run = fit_in_python(data, max_epochs=1, pictures=False)
    config = config_of(run.path)["data"]
    assert (config["dataset"], config["root"]) == ("pets", "made")
    assert fit(f"--resume={run.path}", "--max_epochs=2") == run.path  # a checkpoint holds no Path
    assert results_of(run.path)["epochs"] == 2


def test_a_transform_is_refused_and_no_flag() -> None:
    with pytest.raises(InputError, match=r"^`transform` is not taken.* use `color`, `image_size` or `features`, or .*"):
        ImageDataModule("digits", transform=torch.nn.Flatten())  # type: ignore[arg-type]
    data = ImageDataModule("digits")
    assert "transform" not in data.hparams
    for parser in (build_parser(), sweep_parser()):
        assert "transform" not in parser.format_help()
