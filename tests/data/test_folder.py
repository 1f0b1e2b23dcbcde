"""A folder with a folder of pictures for each class, as people have them: of all sizes, with other files among them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Capsys, Patch, fit, ready, refused, results_of, write_pictures

from logreg_lightning.data.dataset import stratified
from logreg_lightning.data.pictures import read_picture, to_pixels
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.features import backbones


def test_trains_on_colours_that_grey_does_not_tell(workdir: Path, capsys: Capsys) -> None:
    write_pictures(Path("pets"))
    Path("pets/.hidden").mkdir()
    Path("pets/cats/.DS_Store").write_text("x", encoding="utf-8")
    Path("pets/cats/notes.txt").write_text("not a picture", encoding="utf-8")
    Path("pets/dogs/broken.jpg").write_bytes(Path("pets/dogs/0.jpg").read_bytes()[:100])
    flags = ["--data.dataset=pets", "--data.image_size=8", "--data.color=true", "--data.batch_size=4"]
    run = fit(*flags, "--max_epochs=10", "--model.lr=0.05")
    printed = capsys.readouterr().out
    hidden, text, broken = (str(Path(name)) for name in ("cats/.DS_Store", "cats/notes.txt", "dogs/broken.jpg"))
    assert f"skipped 3 hidden or unreadable files: {hidden}, {text} (no picture), {broken} (" in printed
    assert "no test split: a fifth of each class, 12 pictures, is held out for testing" in printed
    results = results_of(run)
    assert results["test/accuracy"] == 1.0
    assert results["majority_class_accuracy"] == 0.5
    assert "always predicting cats" in printed


def module(**settings: Any) -> ImageDataModule:
    return ready(ImageDataModule("pets", image_size=8, **settings))


def test_splits_that_are_there_are_used(workdir: Path) -> None:
    write_pictures(Path("pets/train"), 30)
    write_pictures(Path("pets/val"), 10)
    assert module().data.num_test == 20  # val alone is the test set
    Path("pets/val").rename("pets/test")
    data = module(val_size=0.1)
    assert (len(data.train_indices), len(data.val_indices), data.data.num_test) == (54, 6, 20)
    write_pictures(Path("pets/val"), 5)
    data = module()
    assert (len(data.train_indices), len(data.val_indices), data.data.num_test) == (60, 10, 20)
    assert sorted(data.data.train.labels[data.val_indices].tolist()) == [0] * 5 + [1] * 5
    seen = torch.cat([data.train_indices, data.val_indices, data.data.test_indices])  # type: ignore[list-item]
    assert sorted(seen.tolist()) == list(range(90))


def test_pixels_are_what_pil_makes_of_the_pictures(workdir: Path) -> None:
    write_pictures(Path("pets"), 10)
    data = module(color=True)
    paths = sorted(Path("pets/cats").iterdir()) + sorted(Path("pets/dogs").iterdir())
    assert len(data.data.train) == 20
    for path, pixels in zip(paths, data.data.train.pixels, strict=True):
        with PIL.Image.open(path) as picture:
            small = PIL.ImageOps.fit(picture.convert("RGB"), (8, 8), PIL.Image.Resampling.BICUBIC)
        assert torch.equal(pixels, torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1))


def test_only_changed_pictures_are_decoded_again(workdir: Path, monkeypatch: Patch) -> None:
    write_pictures(Path("pets"), 10)
    decoded = 0

    def count(*arguments: Any) -> torch.Tensor:
        nonlocal decoded
        decoded += 1
        return to_pixels(*arguments)

    def cost(**settings: object) -> int:
        nonlocal decoded
        decoded = 0
        pixels, paths = module(**settings).data.train.pixels, sorted(Path("pets").rglob("*.*"))
        assert [to_pixels(read_picture(path), pixels.shape[1:]).tolist() for path in paths] == pixels.tolist()
        return decoded

    monkeypatch.setattr(backbones, "to_pixels", count)
    assert (cost(), cost()) == (20, 0)
    os.utime("pets/cats/3.png", (1, 1))
    Path("pets/cats/4.jpg").rename("pets/dogs/moved.jpg")
    shutil.copy("pets/cats/5.png", "pets/dogs/copied.png")
    Path("pets/dogs/3.png").unlink()
    assert cost() == 0
    PIL.Image.new("L", (30, 20), 77).save("pets/dogs/5.png")
    assert cost() == 1
    assert (cost(color=True), cost(), cost(color=True)) == (19, 0, 0)  # one is there twice


def test_rare_classes_are_reported(workdir: Path) -> None:
    write_pictures(Path("pets"), 30, ("cats",))
    write_pictures(Path("pets"), 2, ("dogs",))
    notes = " ".join(module().data.notes)
    assert "fewer than 10 pictures of a class in the training split: dogs (2)" in notes
    assert "in the test split: cats (6), dogs (0)" in notes


def no_class_of_the_test_split_in_train() -> None:
    write_pictures(Path("pets/train"), 3)
    Path("pets/test/fish").mkdir(parents=True)


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: None, "a folder of pictures for each class, at least two"),
    (lambda: write_pictures(Path("pets"), 3, ("cats",)), "at least two"),
    (lambda: write_pictures(Path("pets"), 0), "none of its 0 files"),
    (no_class_of_the_test_split_in_train, "no class fish"),
]


@pytest.mark.parametrize(("spoil", "named"), WRONG)
def test_a_folder_that_is_no_data_set(workdir: Path, capsys: Capsys, spoil: Callable[[], None], named: str) -> None:
    Path("pets").mkdir()
    spoil()
    refused(["--data.dataset=pets"], named, capsys)
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(("val_size", "held_out"), [(0.1, [5, 1, 1]), (0.5, [24, 8, 3]), (14, [10, 3, 1])])
def test_the_validation_split_is_stratified(workdir: Path, val_size: float, held_out: list[int]) -> None:
    for name, count in (("many", 60), ("some", 20), ("few", 8)):
        write_pictures(Path("pets"), count, (name,))

    data, again, other = (module(val_size=val_size, val_seed=seed) for seed in (0, 0, 1))
    counts = data.data.train.labels[data.val_indices].bincount(minlength=3)
    by_name = dict(zip(data.data.classes, counts.tolist(), strict=True))
    assert [by_name[name] for name in ("many", "some", "few")] == held_out
    assert torch.equal(data.val_indices, again.val_indices) and not torch.equal(data.val_indices, other.val_indices)
    assert not set(data.val_indices.tolist()) & set(data.train_indices.tolist())
    assert len(data.val_indices) + len(data.train_indices) == 48 + 16 + 6


@pytest.mark.parametrize("counts", [(1, 1), (2, 2), (3, 40), (1, 100)])
def test_a_class_is_never_held_out_whole(counts: tuple[int, int]) -> None:
    labels = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    for share in (0.01, 0.1, 0.9):
        left = labels[~stratified(labels, share, 0)].bincount(minlength=2)
        assert left.min() >= 1
        assert all(number == 1 or number > kept for number, kept in zip(counts, left.tolist(), strict=True))
