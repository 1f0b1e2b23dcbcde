"""The data module: names and folders as people write them, and what a stock trainer asks of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import config_of, fit, ready, results_of, write_pictures

from logreg_lightning import ImageDataModule
from logreg_lightning.features.backbones import EMBEDDED


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
    for folder in ("./Digits", str(Path("Digits").resolve())):
        data = ready(ImageDataModule(folder))
        assert (data.dataset, data.data.classes) == (folder, ("cats", "dogs"))


def test_a_run_keeps_the_name_as_it_is_spelt_here(workdir: Path) -> None:
    run = fit("--data.dataset=Digits", "--data.features=Pixels", "--max_epochs=1")
    assert (config_of(run)["data"]["dataset"], results_of(run)["dataset"]) == ("digits", "digits")
    assert config_of(run)["data"]["features"] == "pixels"
    assert fit(f"--resume={run}", "--data.dataset=DIGITS", "--max_epochs=2") == run
    assert results_of(run)["epochs"] == 2
