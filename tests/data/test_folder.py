"""A folder with a folder of pictures for each class, as people have them: of all sizes, with other files among them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Capsys, Patch, fit, ready, refused, results_of, said_by, weights_of, write_pictures

from logreg_lightning.data.pictures import read_picture, to_pixels
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.features import backbones
from logreg_lightning.fit import main
from logreg_lightning.use import evaluate


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
    assert f"1 hidden ({hidden}); 1 no pictures by their names ({text})" in printed
    assert f"1 unreadable ({broken}" in printed
    assert re.search(r"no test split: \d+ of 60 pictures, about a fifth of each class, are held", printed)
    results = results_of(run)
    assert results["test/accuracy"] == 1.0
    assert re.search(r"always predicting (cats|dogs)", printed)


def module(**settings: Any) -> ImageDataModule:
    return ready(ImageDataModule("pets", image_size=8, **settings))


def test_splits_that_are_there_are_used(workdir: Path) -> None:
    write_pictures(Path("pets/train"), 30)
    write_pictures(Path("pets/val"), 10)
    assert module().data.num_test == 20  # val alone is the test set
    Path("pets/val").rename("pets/test")
    data = module(val_size=0.1)
    assert len(data.train_indices) + len(data.val_indices) == 60 and data.data.num_test == 20
    assert 2 <= len(data.val_indices) <= 14
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
    assert "fewer than 10 pictures of a class in the training split: dogs (1)" in notes
    assert re.search(r"in the test split: cats \(\d\), dogs \(1\)", notes)


def no_class_of_the_test_split_in_train() -> None:
    write_pictures(Path("pets/train"), 3)
    write_pictures(Path("pets/test"), 1, ("cats", "fish"))


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: None, "a folder of pictures for each class, at least two"),
    (lambda: write_pictures(Path("pets"), 3, ("cats",)), "at least two"),
    (lambda: write_pictures(Path("pets"), 0), "at least two"),
    (no_class_of_the_test_split_in_train, "no class fish"),
]


@pytest.mark.parametrize(("spoil", "named"), WRONG)
def test_a_folder_that_is_no_data_set(workdir: Path, capsys: Capsys, spoil: Callable[[], None], named: str) -> None:
    Path("pets").mkdir()
    spoil()
    refused(["--data.dataset=pets"], named, capsys)
    assert not Path("lightning_logs").exists()


def nothing_readable() -> None:
    for name in ("cats", "dogs"):
        Path("pets", name).mkdir()
        Path("pets", name, "1.png").write_bytes(b"no picture")


def one_class_readable() -> None:
    write_pictures(Path("pets"), 3, ("cats",))
    Path("pets/dogs").mkdir()
    Path("pets/dogs/1.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("spoil", "named"), [(nothing_readable, "none of its 2 files"), (one_class_readable, "only cats has readable")]
)
def test_a_folder_without_enough_pictures(workdir: Path, capsys: Capsys, spoil: Callable[[], None], named: str) -> None:
    Path("pets").mkdir()
    spoil()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--data.dataset=pets"])
    assert named in capsys.readouterr().err and not Path("lightning_logs").exists()


def test_a_class_without_pictures_is_none(workdir: Path) -> None:
    write_pictures(Path("pets"), 12, ("ants", "cats", "dogs"))
    expected = module().data
    Path("pets/bees").mkdir()
    Path("pets/bees/1.png").write_bytes(b"no picture")
    data = module().data
    assert data.classes == ("ants", "cats", "dogs")
    rows = (data.train_indices, data.test_indices)
    for indices, before in zip(rows, (expected.train_indices, expected.test_indices), strict=True):
        assert indices is not None and before is not None
        assert data.train.labels[indices].tolist() == expected.train.labels[before].tolist()
        assert torch.equal(data.train.pixels[indices], expected.train.pixels[before])
    assert "1 without a picture (bees)" in " ".join(data.notes)


def noise(folder: Path, numbers: range) -> None:
    """Pictures that tell nothing of their classes."""
    for number in numbers:
        rng = np.random.default_rng(number)
        file = folder / "abcd"[int(rng.integers(4))] / f"{rng.integers(10**6):06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)


def test_an_old_run_is_tested_on_nothing_that_it_has_seen(workdir: Path, capsys: Capsys) -> None:
    noise(Path("pets"), range(150))
    run = fit("--data.dataset=pets", "--data.image_size=8", "--max_steps=300", "--pictures=false")
    before = module()
    seen = {path.read_bytes() for path in of(before, before.train_indices) + of(before, before.val_indices)}
    first = json.loads(said_by(evaluate.main, [run, "--json"], capsys))
    assert (first["left_out"], first["images"]) == (0, 150 - len(seen))

    noise(Path("pets"), range(150, 170))
    grown = json.loads(said_by(evaluate.main, [run, "--json"], capsys))
    after = module()
    assert not seen & {path.read_bytes() for path in of(after, after.data.test_indices)}
    assert grown["accuracy"] < 0.5 and grown["left_out"] == 0 and grown["images"] > first["images"]

    Path("pets").rename("moved")
    elsewhere = json.loads(said_by(evaluate.main, [run, "--json", "--data.dataset=moved"], capsys))
    assert (elsewhere["left_out"], elsewhere["images"]) == (len(seen), 170 - len(seen))
    shutil.copytree("moved/a", "one/a")
    one = said_by(evaluate.main, [run, "--data.dataset=one"], capsys)
    assert "all" in one and "are left out" in one
    Path("one/a").rename("one/z")
    with pytest.raises(SystemExit, match=r"^2$"):
        evaluate.main([str(run), "--data.dataset=one"])
    assert "no class z" in capsys.readouterr().err


def of(data: ImageDataModule, indices: torch.Tensor | None) -> list[Path]:
    """The files at these rows."""
    assert indices is not None
    pictures: Any = data.data.train.pictures
    return [pictures.paths[row] for row in indices.tolist()]


def test_a_run_goes_on_elsewhere(workdir: Path, capsys: Capsys) -> None:
    noise(Path("pets"), range(60))
    flags = ["--data.image_size=8", "--model.schedule=constant", "--data.dataset"]
    whole = weights_of(fit("--max_steps=100", *flags, "pets"))
    run = Path(fit("--max_steps=50", *flags, "pets"))
    Path("elsewhere").mkdir()
    run = run.rename("elsewhere/run")
    Path("pets").rename("elsewhere/animals")
    main([f"--resume={run}", "--max_steps=100", "--data.dataset=elsewhere/animals", "--data.root=other"])
    for name, value in whole.items():
        assert torch.equal(weights_of(run)[name], value)
    noise(Path("elsewhere/animals"), range(60, 61))
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        main([f"--resume={run}", "--max_steps=150", "--data.dataset=elsewhere/animals"])
    assert "cannot be resumed with this data" in capsys.readouterr().err


def test_a_result_on_copies_is_no_success(workdir: Path, capsys: Capsys) -> None:
    noise(Path("pets/train"), range(60))
    noise(Path("pets/test"), range(60, 100))
    for name in "abcd":
        for file in sorted(Path("pets/train", name).iterdir()):
            PIL.Image.open(file).save(Path("pets/test", name, f"copy-{file.name}"), compress_level=0)
    run = fit("--data.dataset=pets", "--data.image_size=8", "--max_epochs=200", "--model.weight_decay=0")
    printed = capsys.readouterr().out
    assert "60 of 100 test images are in training or validation too" in printed
    results = results_of(run)
    rest = results["test/accuracy_without_copies"]
    assert rest < 0.5 < results["test/accuracy"]
    assert re.search(r"\nNote: test/accuracy [\d.]+ rests on copies: 60 of 100", printed)
