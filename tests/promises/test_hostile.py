"""Nothing lost and nothing wrong without a word: kinds of odd input, several of each."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from conftest import (
    ALONE,
    NAMES,
    Capsys,
    config_of,
    contents,
    idx,
    not_on_windows,
    ready,
    refused,
    write_features,
    write_idx,
    write_pictures,
)

from logreg_lightning import ImageDataModule, LogisticRegression, fit, load, sweep
from logreg_lightning.data.pictures import read_picture
from logreg_lightning.errors import InputError
from logreg_lightning.fit import main
from logreg_lightning.training.experiment import Run

SHORT: dict[str, Any] = {"max_steps": 20, "pictures": False, "verbose": False}

# What a caller may pass.

GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "numpy": ({"lr": np.float64(0.1), "seed": np.int64(3)}, {"batch_size": np.int32(20), "val_size": np.float32(0.25)}),
    "numpy settings": (
        {"standardize": np.bool_(True), "schedule": np.str_("constant"), "devices": np.int64(1)},
        {"steps_per_execution": np.int16(10), "val_seed": np.uint8(7)},
    ),
    "arrays": ({"lr": np.array(0.1), "threads": np.array(1)}, {"color": np.array(False)}),
    "torch": ({"lr": torch.tensor(0.1), "weight_decay": torch.tensor(0)}, {"val_seed": torch.tensor(4)}),
    "paths": ({"log_dir": Path("logs")}, {"root": Path("files")}),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_what_a_caller_passes_becomes_plain(workdir: Path, kind: str) -> None:
    of_fit, of_data = GIVEN[kind]
    run = fit(ImageDataModule("digits", **of_data), **{**SHORT, **of_fit})
    assert type(run) is Run
    config, classifier = config_of(run.path), load(str(run.path))
    assert torch.equal(classifier.as_linear().weight, run.model.classifier().as_linear().weight)
    written = {**config, **config["data"], **config["model"]}
    for name, value in {**of_fit, **of_data}.items():
        expected = str(value) if isinstance(value, Path) else value.item() if hasattr(value, "item") else value
        assert written[name] == expected and type(written[name]) in (int, float, bool, str)
    longer = fit(ImageDataModule("digits", **of_data), resume=run.path, **{**SHORT, **of_fit, "max_steps": 40})
    assert longer.path == run.path and longer.results["steps"] == 40


@pytest.mark.parametrize("values", [np.logspace(-2, -1, 3), range(1, 4), (np.float32(0.5), np.float64(0.1))], ids=str)
def test_a_sweep_takes_any_sequence(workdir: Path, values: Any) -> None:
    found = sweep("digits", lr=values, seed=range(1), **SHORT)
    assert [row["model.lr"] for row in found.settings] == pytest.approx([float(value) for value in values])
    assert yaml.safe_load((found.path / "config.yaml").read_text("utf-8"))["model"]["lr"] == list(map(float, values))


def test_a_stock_trainer_writes_what_can_be_read(workdir: Path) -> None:
    data = ready(ImageDataModule("digits", root=Path("files"), val_size=np.float64(0.1)))
    names, shape = np.array(list("abcdefghij")), np.array([1, 8, 8])
    given: dict[str, Any] = {"lr": np.float64(0.1), "image_shape": shape, "class_names": names}
    model = LogisticRegression(*np.array([64, 10]), **given)
    trainer = L.Trainer(max_epochs=1, **ALONE)
    trainer.fit(model, data)
    trainer.save_checkpoint("stock.ckpt")
    read = load("stock.ckpt")
    assert read.class_names == tuple("abcdefghij") and read.image_shape == (1, 8, 8)


OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    ({"lr": 1e39}, "`lr` must be auto or a positive number, not 1e"),
    ({"lr": np.array([0.1, 0.2])}, "`lr` must be auto or a positive number, not .0.1, 0.2."),
    ({"weight_decay": 10**400}, "`weight_decay` must be auto, 0 or a positive number"),
    ({"momentum": "much"}, "`momentum` must be from 0 to below 1, not much"),
    ({"seed": 2**70}, "`seed` must be from 0 to 4294967295"),
    ({"seed": -1}, "`seed` must be from 0 to"),
    ({"threads": 10**6}, "`threads` must be from 1 to 1024"),
    ({"max_epochs": 2.5}, "`max_epochs` must be from 1 to .*, a whole number"),
    ({"max_steps": -2}, "`max_steps` must be from 1 to .*, or -1 for no limit"),
    ({"accelerator": "tpu"}, "no TPU found for `accelerator='tpu'`; use `accelerator='cpu'`"),
]


@pytest.mark.parametrize(("given", "message"), OUT_OF_RANGE, ids=str)
def test_a_setting_out_of_range_is_refused(workdir: Path, given: dict[str, Any], message: str) -> None:
    before = contents(workdir)
    with pytest.raises(InputError, match=message):
        fit("digits", **{**SHORT, **given})
    assert contents(workdir) == before


@pytest.mark.parametrize(
    "given", [{"val_seed": 2**70}, {"val_seed": -1}, {"image_size": 10**9}, {"batch_size": 2.5}], ids=str
)
def test_a_setting_of_the_data_out_of_range_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(given))}` must be "):
        ImageDataModule("digits", **given)


def test_a_run_goes_through_pickle(workdir: Path) -> None:
    for run in (fit("digits", **SHORT), sweep("digits", lr=[0.1, 0.2], **SHORT).best):
        other = pickle.loads(pickle.dumps(run))
        assert other.path == run.path and other.results == run.results
        assert all(torch.equal(a, b) for a, b in zip(other.model.parameters(), run.model.parameters(), strict=True))


# Data that changed, lies beside what this project writes, or is none.


def pixels_of(dataset: str) -> torch.Tensor:
    return ready(ImageDataModule(dataset, image_size=6)).train_dataloader().images.pixels


def test_two_data_modules_of_a_folder_have_their_own_pixels(workdir: Path) -> None:
    write_pictures(Path("pets"), 6)
    small, large = ImageDataModule("pets", image_size=4, color=False), ImageDataModule("pets", image_size=9, color=True)
    for data in (small, large):
        data.prepare_data()
    shapes = []
    for data in (small, large):
        data.setup()
        shapes.append(tuple(data.train_dataloader().images.pixels.shape[1:]))
    assert shapes == [(1, 4, 4), (3, 9, 9)]


@pytest.mark.parametrize("age", [1, 10**9, 4 * 10**9])
def test_packed_files_that_were_replaced_are_unpacked_again(workdir: Path, age: int) -> None:
    for seed in range(2):
        write_idx(Path("packed"), packed=True, seed=seed)
        for file in Path("packed").iterdir():
            os.utime(file, (age, age))
        write_idx(Path("raw"), seed=seed)
        assert torch.equal(pixels_of("packed"), pixels_of("raw"))


@pytest.mark.parametrize("flags", [[], ["--log_dir=logs", "--data.root=files"], ["--log_dir=cats/logs"]], ids=str)
def test_what_this_project_wrote_is_no_data(workdir: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    write_pictures(Path("pets"), 6)
    monkeypatch.chdir("pets")
    before = ready(ImageDataModule(".", image_size=6, root="../kept")).data
    main(["--data.dataset=.", "--data.image_size=6", "--max_epochs=1", *flags])
    after = ready(ImageDataModule(".", image_size=6, root="../kept")).data
    assert after.classes == before.classes == ("cats", "dogs")
    assert [len(part) for part in (after.train, after.test)] == [len(part) for part in (before.train, before.test)]


def other_size() -> None:
    write_idx(Path("bad"))
    (Path("bad") / NAMES[2]).write_bytes(idx(np.zeros((30, 6, 9))))


def other_width() -> None:
    write_idx(Path("bad"), packed=True)
    (Path("bad") / f"{NAMES[2]}.gz").write_bytes(gzip.compress(idx(np.zeros((30, 5, 8)))))


def huge_label() -> None:
    write_idx(Path("bad"))
    labels = np.array([0] * 89 + [20_000_000], ">i4").tobytes()
    (Path("bad") / NAMES[1]).write_bytes(bytes([0, 0, 12, 1, 0, 0, 0, 90]) + labels)


def many_dimensions() -> None:
    write_idx(Path("bad"))
    (Path("bad") / NAMES[0]).write_bytes(bytes([0, 0, 8, 65]) + np.ones(65, ">u4").tobytes() + b"\0")


def beyond_float32() -> None:
    write_features(Path("bad"))
    features = np.load("bad/train_features.npy")
    features[3, 1] = -1e39
    np.save("bad/train_features.npy", features)


def a_pipe(name: str) -> None:
    write_features(Path("bad")) if name.endswith(".npy") else write_idx(Path("bad"), packed=name.endswith(".gz"))
    (Path("bad") / name).unlink()
    os.mkfifo(Path("bad") / name)


def a_device() -> None:
    write_features(Path("bad"))
    (Path("bad") / "test_labels.npy").unlink()
    (Path("bad") / "test_labels.npy").symlink_to("/dev/zero")


BAD: dict[str, tuple[Callable[[], None], str]] = {
    "other size": (other_size, "5 x 9 pixels, "),
    "other width": (other_width, "of 5 x 8; make them equal"),
    "huge label": (huge_label, "has the label 20000000"),
    "many dimensions": (many_dimensions, "has 65 dimensions"),
    "beyond float32": (beyond_float32, "beyond float32, in row 3"),
    **{name: (partial(a_pipe, name), "is a pipe") for name in (NAMES[0], f"{NAMES[1]}.gz", "train_labels.npy")},
    "device": (a_device, "a device, and no file"),
}


@pytest.mark.parametrize("kind", BAD)
@not_on_windows("there are no pipes and devices with names in folders")
def test_data_that_cannot_be_trained_on_is_refused_before(workdir: Path, capsys: Capsys, kind: str) -> None:
    write, named = BAD[kind]
    write()
    refused(["--data.dataset=bad", f"--data.root={workdir.parent / 'elsewhere'}"], named, capsys)


@not_on_windows("there are no pipes with names in folders")
def test_a_pipe_is_no_picture(workdir: Path) -> None:
    write_pictures(Path("pets"), 6)
    os.mkfifo("pets/cats/pipe.png")
    data = ready(ImageDataModule("pets", image_size=6))
    assert len(data.data.train) == 12 and "pipe.png" in data.describe()
    with pytest.raises(OSError, match="pipe"):
        read_picture(Path("pets/cats/pipe.png"))
