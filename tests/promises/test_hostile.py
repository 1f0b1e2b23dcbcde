"""Nothing lost and nothing wrong without a word: kinds of odd input, several of each."""

from __future__ import annotations

import gzip
import os
import pickle
import socket
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
from logreg_lightning.sweep import main as sweep_main
from logreg_lightning.training.experiment import Run
from logreg_lightning.use.export import main as export
from logreg_lightning.use.predict import main as predict

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


@pytest.mark.parametrize("sizes", [(4, 9), (9, 4), (6, 6)], ids=str)
def test_two_data_modules_of_a_folder_have_their_own_pixels(workdir: Path, sizes: tuple[int, int]) -> None:
    write_pictures(Path("pets"), 6)
    small, large = (
        ImageDataModule("pets", image_size=size, color=color) for size, color in zip(sizes, (False, True), strict=True)
    )
    for data in (small, large):
        data.prepare_data()
    shapes = []
    for data in (small, large):
        data.setup()
        shapes.append(tuple(data.train_dataloader().images.pixels.shape[1:]))
    assert shapes == [(1, sizes[0], sizes[0]), (3, sizes[1], sizes[1])]


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


def a_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)


NO_FILES: dict[str, Callable[[str], None]] = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: os.symlink("/dev/zero", path),  # noqa: PTH211
    "socket": a_socket,
}


@not_on_windows("there are no pipes with names in folders")
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_no_picture(workdir: Path, kind: str) -> None:
    write_pictures(Path("pets"), 6)
    NO_FILES[kind]("pets/cats/odd.png")
    data = ready(ImageDataModule("pets", image_size=6))
    assert len(data.data.train) == 12 and "odd.png" in data.describe()
    with pytest.raises(OSError, match="a pipe, a socket or a device"):
        read_picture(Path("pets/cats/odd.png"))


@pytest.mark.parametrize("hidden", ["pets/cats", "pets/cats/inside", "pets"])
def test_a_folder_that_may_not_be_read_is_named(run: Path, capsys: Capsys, hidden: str, request: Any) -> None:
    write_pictures(Path("pets"), 6)
    write_pictures(Path("pets/cats"), 2, ("inside",))
    Path(hidden).chmod(0)
    request.getfixturevalue("as_nobody")
    try:
        named = f"{hidden} cannot be read (Permission denied)" if hidden != "pets" else "Permission denied"
        for command, flags in ((main, ["--data.dataset=pets"]), (predict, [str(run), "pets"])):
            capsys.readouterr()
            with pytest.raises(SystemExit, match=r"^2$"):
                command(flags)
            assert named in capsys.readouterr().err
    finally:
        os.seteuid(0)
        Path(hidden).chmod(0o755)


CLOSED: dict[str, tuple[str, int, str]] = {
    "the sweep": ("lightning_logs/sweep_0", 0, "config.yaml"),
    "the sweep, to be written": ("lightning_logs/sweep_0", 0o500, "config.yaml"),
    "its heads": ("lightning_logs/sweep_0/checkpoints/group_0.ckpt", 0, "group_0.ckpt"),
    "their folder": ("lightning_logs/sweep_0/checkpoints", 0, "group_0.ckpt"),
    "its table": ("lightning_logs/sweep_0/results.csv", 0, "results.csv"),
    "its runs": ("lightning_logs/sweep_0/promoted.json", 0, "promoted.json"),
    "the cache": ("data/features", 0, "data/features/"),
    "what was unpacked": ("data/unpacked", 0, "data/unpacked/"),
    "where it is exported to": ("closed", 0o500, "closed/page.html"),
}


def test_what_of_a_sweep_may_not_be_used_is_named(workdir: Path, capsys: Capsys, request: Any) -> None:
    write_pictures(Path("pets"), 8)
    write_idx(Path("packed"), packed=True)
    flags = ["--max_epochs=1", "--pictures=false", "--accelerator=cpu"]
    sweep_main(["--data.dataset=pets", "--data.image_size=6", "--model.lr=0.1,0.2", *flags])
    main(["--data.dataset=packed", *flags])
    Path("closed").mkdir()
    request.getfixturevalue("as_nobody")
    promote = sweep_main, ["--promote", "0", "lightning_logs/sweep_0"]
    uses: dict[str, tuple[Callable[[list[str]], None], list[str]]] = {
        "what was unpacked": (main, ["--data.dataset=packed", *flags]),
        "where it is exported to": (export, ["lightning_logs/version_0", "closed/page.html"]),
    }
    other = sweep_main, ["--promote", "1", "lightning_logs/sweep_0"]
    for kind, (place, mode, named) in CLOSED.items():
        for command, words in [uses[kind]] if kind in uses else [promote, other]:
            before, _ = Path(place).stat().st_mode, capsys.readouterr()
            Path(place).chmod(mode)
            try:
                command(words)
            except SystemExit as ended:
                [line] = capsys.readouterr().err.splitlines()
                assert ended.code in (1, 2) and "Permission denied" in line and named in line, (kind, line)
            else:
                raise AssertionError((kind, words))
            finally:
                Path(place).chmod(before)
    assert not list(Path().rglob("*.partial"))
