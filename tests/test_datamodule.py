"""The data module: names and folders as people write them, and what a stock trainer asks of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import config_of, fit, not_on_windows, ready, results_of, write_idx, write_pictures

from logreg_lightning import ImageDataModule, InputError, sweep
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


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def wrong_modes(folder: Path, umask: int) -> dict[str, str]:
    """What in the folder, itself included, others may read less, or more, than the umask says."""
    found = {path: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    assert len(found) > 3
    return {
        str(path): oct(mode) for path, mode in found.items() if mode != (0o777 if path.is_dir() else 0o666) & ~umask
    }


@not_on_windows("a file's mode denies nobody to read it")
def test_what_is_kept_is_readable_by_whoever_may_read_its_folder(workdir: Path, umask: int) -> None:
    write_pictures(Path("pets"), 11)
    write_idx(Path("packed"), packed=True)
    for folder in (Path("pets"), Path("packed")):
        fit_in_python(ImageDataModule(folder, "made", image_size=8), max_epochs=1)
    sweep(ImageDataModule("packed", "made"), lr=[0.1, 0.2], max_epochs=1)
    assert {path.name for path in Path("made").iterdir()} >= {"contents", "features", "unpacked"}
    assert wrong_modes(Path("made"), umask) == {} == wrong_modes(Path("lightning_logs"), umask)


@not_on_windows("a file's mode denies nobody to read it")
@pytest.mark.parametrize("folder", ["pets", "packed"])
def test_a_root_that_holds_all_may_be_read_only(workdir: Path, request: pytest.FixtureRequest, folder: str) -> None:
    write_pictures(Path("pets"), 11)
    write_idx(Path("packed"), packed=True)
    expected = ready(ImageDataModule(folder, "made", image_size=8)).data.train.pixels
    for path in [Path("made"), *Path("made").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    request.getfixturevalue("as_nobody")
    with pytest.raises(PermissionError):
        Path("made", "more").mkdir()
    assert torch.equal(ready(ImageDataModule(folder, "made", image_size=8)).data.train.pixels, expected)
