"""A backbone's features: each computed once, right whatever happens to files and processes, and what is learnt of them.

Most tests use a backbone so small that what it gives can be computed beside it with NumPy; some use the real weights.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import (
    COLORS,
    Capsys,
    Patch,
    curves,
    events_of,
    fit,
    killed_in,
    newest,
    outcome,
    ready,
    refused,
    results_of,
    run_script,
    said_by,
    state,
    weights_of,
    write_idx,
    write_pictures,
)
from PIL.Image import Image, Resampling
from test_figures import TAGS as TAGS_OF_PIXELS
from tolerance import EPS, assert_trained_alike
from torch import Tensor, nn

from logreg_lightning import LogisticRegression
from logreg_lightning.data.dataset import Dataset, key_of
from logreg_lightning.data.folder import FilePictures, FolderSource
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.features import backbones, cache, extract
from logreg_lightning.features.backbones import BATCH, EMBEDDED, Backbone, Pixels
from logreg_lightning.features.cache import Cache
from logreg_lightning.features.view import View
from logreg_lightning.runtime.checkpoints import read
from logreg_lightning.runtime.files import LOCK, locked, write_json
from logreg_lightning.runtime.saver import Saver
from logreg_lightning.use import evaluate, predict

CPU = [torch.device("cpu")]
ROOT = Path("data")


class Quarters(nn.Module):
    """Mean of each colour in each quarter of an image, times `factor`; counts images."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return self.factor * nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


class Resize:
    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image) -> Image:
        return picture.resize((self.size, self.size), Resampling.BILINEAR)

    def __repr__(self) -> str:
        return f"Resize({self.size})"


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NEAR: Any = {"atol": 20 * EPS, "rtol": 0}
"""float32 means of up to 16 values, of which each is at most 5 after it was divided by STD, against float64."""


def small_backbone(image_size: int | None = None, factor: float = 1.0) -> Backbone:
    size = image_size or 8
    return Backbone(EMBEDDED, Quarters(factor), Resize(size), MEAN, STD, size)


def expected_of(picture: Image, size: int = 8) -> np.ndarray:
    """What `Quarters` gives of a picture."""
    values = np.asarray(picture.convert("RGB").resize((size, size), Resampling.BILINEAR)) / 255
    half = size // 2
    means = [
        [values[top : top + half, left : left + half].mean((0, 1)) for left in (0, half)] for top in (0, half)
    ]  # rows, columns, colours
    return ((np.array(means) - MEAN) / STD).transpose(2, 0, 1).flatten()


def expected_of_files(paths: list[Path]) -> Tensor:
    rows = []
    for path in paths:
        with PIL.Image.open(path) as picture:
            rows.append(expected_of(picture))
    return torch.from_numpy(np.stack(rows)).float()


class Counter:
    """How many pictures the backbones of this process have looked at since they were last asked."""

    def __init__(self) -> None:
        self.made: dict[Any, Backbone] = {}
        self.factor = 1.0

    def load(self, name: str, image_size: int | None = None) -> Backbone:
        assert name == EMBEDDED
        key = (image_size, self.factor)
        if key not in self.made:
            self.made[key] = small_backbone(*key)
            self.network(self.made[key]).seen.clear()
        return self.made[key]

    def network(self, backbone: Backbone) -> Quarters:
        assert isinstance(backbone.network, Quarters)
        return backbone.network

    def count(self) -> int:
        total = 0
        for backbone in self.made.values():
            total += sum(self.network(backbone).seen)
            self.network(backbone).seen.clear()
        return total

    def check(self, cost: int | None = None) -> Dataset:
        """The features are those of the pictures in pets/, at so many looks, without a limit if none is named."""
        data = prepared()
        torch.testing.assert_close(data.train.pixels, expected_of_files(files()), **NEAR)
        looks = self.count()
        assert cost is None or looks == cost
        return data


@pytest.fixture
def counter(workdir: Path, monkeypatch: Patch) -> Counter:
    """A small backbone in the real one's place."""
    counts = Counter()
    monkeypatch.setattr(backbones, "load", counts.load)
    return counts


def prepared(
    dataset: str = "pets", image_size: int | str = "auto", workers: int = 2, features: str = EMBEDDED
) -> Dataset:
    view = View(dataset, ROOT, image_size, True, features)
    view.prepare(CPU, workers)
    return view.load()


def files(folder: str = "pets") -> list[Path]:
    """The pictures in the order of their rows: by class, then by name."""
    return [path for inside in sorted(Path(folder).iterdir()) for path in sorted(inside.iterdir())]


def caches(dataset: str = "pets") -> list[Path]:
    """The folders of features of a data set, and whatever else is left there."""
    return sorted((ROOT / "features" / key_of(Path(dataset))).iterdir())


def only_cache(dataset: str = "pets") -> Path:
    [folder] = caches(dataset)
    return folder


def stored(folder: Path) -> Path:
    [file] = folder.glob("values-*.npy")
    return file


def pets(per_class: int = 20) -> None:
    """Pictures of one size that all differ, whatever their number."""
    for name, color in COLORS.items():
        Path("pets", name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            draw(color, number).save(Path("pets", name, f"{number:03}.png"))


def draw(color: tuple[int, int, int], number: int) -> Image:
    rng = np.random.default_rng(number)
    noise = np.repeat(np.repeat(rng.integers(-40, 40, (3, 3, 3)), 5, 0), 4, 1)
    return PIL.Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8))


# What is there, and in which order.


def test_rows_are_the_features_of_the_pictures_in_the_order_of_the_labels(counter: Counter) -> None:
    write_pictures(Path("pets"), 20)
    data = counter.check(40)
    assert data.train.pixels.dtype == torch.float32 and data.train.labels.tolist() == [0] * 20 + [1] * 20
    assert data.image_shape == (3, 8, 8) and data.num_features == 12 and data.backbone == counter.load(EMBEDDED).about
    Path("pets/cats/1.png").unlink()
    shown = data.train.thumbnails(torch.tensor([0, 1], dtype=torch.int32), 16)
    assert shown is not None and shown.shape == (2, 3, 16, 16)
    assert shown[0].float().mean() > 50 and shown[1].max() == 0  # a file that is gone is black


def test_grey_upright_and_transparent_pictures_are_what_a_person_sees(counter: Counter) -> None:
    write_pictures(Path("pets"), 2)
    grey = PIL.Image.fromarray(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    grey.save("pets/cats/z.png", exif=exif)
    PIL.Image.new("RGBA", (5, 5), (9, 9, 9, 0)).save("pets/dogs/z.png")
    data = prepared()
    turned, white = grey.transpose(PIL.Image.Transpose.ROTATE_270), PIL.Image.new("RGB", (5, 5), "white")
    for row, picture in ((2, turned), (5, white)):
        np.testing.assert_allclose(data.train.pixels[row], expected_of(picture), **NEAR)


@pytest.mark.parametrize("dataset", ["mnist", "digits", "mine"])
def test_images_of_other_data_sets_keep_the_order_of_their_labels(counter: Counter, dataset: str) -> None:
    write_idx(Path("mine"))
    pixels, data = prepared(dataset, features="pixels"), prepared(dataset)
    assert not any((ROOT / "features").rglob("pixels-*"))  # they stay where they are
    different = 0
    for before, images in ((pixels.train, data.train), (pixels.test, data.test)):
        pictures = [PIL.Image.fromarray(image[0].numpy()) for image in before.pixels]
        expected = torch.from_numpy(np.stack([expected_of(picture) for picture in pictures])).float()
        torch.testing.assert_close(images.pixels, expected, **NEAR)
        assert torch.equal(images.labels, before.labels) and len(set(images.labels.tolist())) > 2
        shown = images.thumbnails(torch.tensor([5, 2], dtype=torch.int32), 64)
        assert shown is not None and torch.equal(shown, before.pixels[[5, 2]])
        different += len({bytes(image.numpy().tobytes()) for image in before.pixels})
    assert counter.count() <= different  # digits has images twice
    assert prepared(dataset).classes == pixels.classes and counter.count() == 0


def test_splits_and_labels_are_those_of_pixels(counter: Counter) -> None:
    write_pictures(Path("pets/train"), 20)
    write_pictures(Path("pets/test"), 6)
    Path("pets/train/cats/5.png").write_text("no picture", encoding="utf-8")
    paths = [path for split in ("train", "test") for path in files(f"pets/{split}")]
    pixels, features_ = (ready(ImageDataModule("pets", features=kind, color=True)) for kind in ("pixels", EMBEDDED))
    assert torch.equal(pixels.data.train.labels, features_.data.train.labels)
    parts: Any = [(data.train_indices, data.val_indices, data.data.test_indices) for data in (pixels, features_)]
    assert all(map(torch.equal, *parts))
    used = torch.cat(parts[1]).tolist()
    assert len(used) == len(paths) - 1 == len(features_.data.train) - 1  # the row that is no picture is not used
    expected = expected_of_files([paths[row] for row in used])
    torch.testing.assert_close(features_.data.train.pixels[used], expected, **NEAR)


def test_a_picture_twice_is_looked_at_once(counter: Counter) -> None:
    pets(5)
    shutil.copy("pets/cats/003.png", "pets/cats/copy.png")
    shutil.copy("pets/cats/003.png", "pets/dogs/000.png")
    rows = counter.check(9).train.pixels
    assert torch.equal(rows[3], rows[5]) and torch.equal(rows[3], rows[6])


def test_what_is_no_picture_is_skipped_and_named_as_for_pixels(counter: Counter, capsys: Capsys) -> None:
    pets(12)
    Path("pets/cats/.DS_Store").write_text("x", encoding="utf-8")
    Path("pets/cats/notes.txt").write_text("not a picture", encoding="utf-8")
    Path("pets/dogs/000.png").write_bytes(b"")
    Path("pets/dogs/001.png").write_bytes(Path("pets/dogs/002.png").read_bytes()[:60])
    data = prepared()
    assert data.notes == prepared(features="pixels").notes
    assert "1 hidden" in data.notes[0] and "2 unreadable" in data.notes[0]
    used = sorted(torch.cat([data.train_indices, data.test_indices]).tolist())  # type: ignore[list-item]
    paths = [path for path in files() if path.suffix == ".png"]
    assert [paths[row].name for row in range(len(paths)) if row not in used] == ["000.png", "001.png"]
    capsys.readouterr()
    counter.count()
    assert prepared().notes == data.notes and counter.count() == 0  # that they are no pictures is known
    assert "Computing" not in capsys.readouterr().out
    draw((1, 2, 3), 0).save("pets/dogs/000.png")
    assert "1 unreadable" in prepared().notes[0] and counter.count() == 1


def test_a_folder_without_a_readable_picture(counter: Counter) -> None:
    for name in COLORS:
        Path("pets", name).mkdir(parents=True)
        Path("pets", name, "a.png").write_text(name, encoding="utf-8")
    with pytest.raises(InputError, match="pets: none of its 2 files is a readable picture"):
        prepared()


def test_a_file_that_nobody_may_read_is_skipped_until_somebody_may(counter: Counter, monkeypatch: Patch) -> None:
    pets(12)
    read_bytes = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path == Path("pets/cats/004.png"):
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", denied)
        for looks in (23, 0):
            note = prepared().notes[0]
            assert "1 unreadable" in note and str(Path("cats", "004.png")) in note
            assert counter.count() == looks
    assert "unreadable" not in " ".join(counter.check(1).notes)


# What costs a look at a picture, and what does not.


def change(path: Path = Path("pets/cats/007.png")) -> None:
    draw((7, 200, 7), 1000).save(path)


def move() -> None:
    Path("pets/cats/007.png").rename("pets/dogs/moved.png")


def rename_all() -> None:
    for path in files():
        path.rename(path.with_name(f"{999 - int(path.stem)}.png"))


def copy_all() -> None:
    shutil.copytree("pets", "other")
    shutil.rmtree("pets")
    Path("other").rename("pets")


def another_class() -> None:
    Path("pets/birds").mkdir()
    for number in (1, 2):
        draw((0, 250, 250), number).save(f"pets/birds/{number}.png")


def touch() -> None:
    for path in files():
        os.utime(path, (1, 1))


def remove() -> None:
    for path in files()[:3]:
        path.unlink()


def replace_at_the_same_time() -> None:
    path = Path("pets/cats/007.bmp")  # uncompressed: any picture takes as many bytes
    before = path.stat()
    draw((99, 9, 9), 2).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


COSTS: dict[str, tuple[Callable[[], object], int]] = {
    "nothing": (lambda: None, 0),
    "another picture": (change, 1),
    "other times": (touch, 0),
    "a move": (move, 0),
    "other names": (rename_all, 0),
    "copies": (copy_all, 0),
    "fewer": (remove, 0),
    "another class": (another_class, 2),
}
if sys.platform != "win32":  # where no time tells of it
    COSTS["another picture of the same size and time"] = (replace_at_the_same_time, 1)


@pytest.mark.parametrize("kind", COSTS)
def test_a_picture_costs_one_look_whenever_its_content_is_new(counter: Counter, kind: str) -> None:
    pets()
    draw((9, 9, 9), 1).save("pets/cats/007.bmp")
    counter.check(41)
    do, cost = COSTS[kind]
    do()
    data = counter.check(cost)
    assert [data.classes[label] for label in data.train.labels] == [path.parent.name for path in files()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in ROOT.rglob("*") if path.is_file()}
    assert torch.equal(counter.check(0).train.pixels, data.train.pixels)
    assert all((path.read_bytes(), path.stat().st_mtime_ns) == there for path, there in before.items())


def test_files_are_read_again_only_if_they_look_changed(counter: Counter, monkeypatch: Patch) -> None:
    pets()
    prepared()
    reads: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path.name) or read_bytes(path))  # type: ignore[func-returns-value]
    prepared()
    assert not [name for name in reads if name.endswith(".png")]
    os.utime("pets/dogs/003.png", (1, 1))
    prepared()
    assert [name for name in reads if name.endswith(".png")] == ["003.png"]


def test_another_image_size_other_weights_or_another_folder_has_a_place_of_its_own(counter: Counter) -> None:
    pets(5)
    first = prepared().train.pixels.clone()
    assert counter.count() == 10 and len(caches()) == 1
    assert prepared(image_size=4).image_shape == (3, 4, 4) and counter.count() == 10 and len(caches()) == 2
    counter.factor = 2.0
    torch.testing.assert_close(prepared().train.pixels, 2 * first)
    assert counter.count() == 10 and len(caches()) == 3
    counter.factor = 1.0
    assert torch.equal(prepared().train.pixels, first) and counter.count() == 0
    prepared(image_size=4)
    assert counter.count() == 0
    for name in COLORS:  # another folder of that name
        Path("other/pets", name).mkdir(parents=True)
        for number in range(5):
            draw((0, 100, 0), number).save(Path("other/pets", name, f"{number}.png"))
    assert len(prepared("other/pets").train) == 10 and counter.count() == 5  # those of one class are the other's
    assert torch.equal(prepared().train.pixels, first) and counter.count() == 0


# Damage.


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 4
    file.write_bytes(content)


def flip_and_restore_times(file: Path) -> None:
    stat = file.stat()
    flip(file, -5)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def swap(about_file: Path) -> None:
    """Two pictures' contents, in a file that is whole."""
    about, checksum = json.loads(about_file.read_text(encoding="utf-8"))
    about["contents"][3], about["contents"][30] = about["contents"][30], about["contents"][3]
    about_file.write_text(json.dumps([about, checksum]), encoding="utf-8")


def replace_by_copy(file: Path) -> None:
    Path(shutil.copy(file, "copy")).replace(file)


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(change(file.read_bytes()))


def spell_digest_backwards(notes: Path) -> None:
    content = notes.read_bytes()
    digest = json.loads(content)[0]["cats/003.png"][3].encode()
    notes.write_bytes(content.replace(digest, digest[::-1]))


VALUES, ABOUT, NOTES = "values-*.npy", "about.json", "contents/*.json"
DAMAGE: dict[str, tuple[str, Callable[[Path], object], int]] = {
    "a bit": (VALUES, lambda file: flip(file, -5), 8),
    "cut": (VALUES, rewrite(lambda content: content[:-1]), 40),
    "empty": (VALUES, rewrite(lambda _: b""), 40),
    "other values": (VALUES, lambda file: np.save(file, np.zeros((40, 12), np.float32)), 40),
    "other shape": (VALUES, lambda file: np.save(file, np.zeros((40, 5), np.float32)), 40),
    "other type": (VALUES, lambda file: np.save(file, np.load(file).astype(np.float64)), 40),
    "other header": (VALUES, rewrite(lambda content: content.replace(b"(40, 12)", b"(40, 12 ", 1)), 40),
    "an archive": (VALUES, rewrite(lambda _: b"PK\x03\x04 and nothing more"), 40),
    "gone": (VALUES, Path.unlink, 40),
    "about gone": (ABOUT, Path.unlink, 40),
    "about cut": (ABOUT, rewrite(lambda content: content[:-9]), 40),
    "about swapped": (ABOUT, swap, 40),
    "about something else": (ABOUT, rewrite(lambda _: b"[1, 2, 3]"), 40),
    "no damage, a copy": (VALUES, replace_by_copy, 0),
    "notes cut": (NOTES, rewrite(lambda content: content[: len(content) // 2]), 0),
    "notes wrong": (NOTES, spell_digest_backwards, 0),
    "notes something else": (NOTES, rewrite(lambda _: b'{"cats/000.png": 5}'), 0),
    **{f"notes {text}": (NOTES, functools.partial(Path.write_text, data=text), 0) for text in ("", "{", "{}", "[]")},
}
if sys.platform != "win32":  # where no time tells of it
    DAMAGE["a bit, at the same times"] = (VALUES, flip_and_restore_times, 8)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_noticed_and_mended(counter: Counter, monkeypatch: Patch, kind: str) -> None:
    monkeypatch.setattr(cache, "CHUNK", 8)
    pets()
    whole = counter.check(40).train.pixels.clone()
    pattern, spoil, cost = DAMAGE[kind]
    [file] = ROOT.rglob(pattern)
    content, notes = stored(only_cache()).read_bytes(), next(ROOT.rglob(NOTES)).read_bytes()
    spoil(file)
    assert torch.equal(counter.check(cost).train.pixels, whole)
    assert stored(only_cache()).read_bytes() == content and next(ROOT.rglob(NOTES)).read_bytes() == notes
    counter.check(0)


# Kills.


def dies(function: Callable[..., None], times: int) -> Callable[..., None]:
    """The function, which works so many times, then ends the process, as far as a test can tell."""
    left = iter(range(times))

    def work_or_die(*arguments: Any) -> None:
        if next(left, None) is None:
            raise SystemExit("killed")
        function(*arguments)

    return work_or_die


def killed(after: int, features: str = EMBEDDED, workers: int = 1) -> list[Path]:
    """The parts that a process leaves which dies when it would write one more than that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "write_part", dies(Cache.write_part, after))
        with pytest.raises(SystemExit, match="killed"):
            prepared(features=features, workers=workers)
    return sorted(ROOT.rglob("*.npz"))


@pytest.fixture
def fifty(counter: Counter) -> bytes:
    """Fifty pictures, and their cache when nothing went wrong, which is not there."""
    pets(25)
    prepared()
    counter.count()
    content = stored(only_cache()).read_bytes()
    shutil.rmtree(ROOT / "features")
    return content


@pytest.mark.parametrize("parts", range(4))  # of four; the last is of two pictures
@pytest.mark.parametrize("workers", [1, 3])
def test_a_kill_loses_at_most_what_is_under_way(fifty: bytes, counter: Counter, parts: int, workers: int) -> None:
    killed(parts, workers=workers)
    kept = parts * BATCH
    assert counter.count() <= kept + workers * BATCH
    counter.check(50 - kept if workers == 1 else None)
    assert stored(only_cache()).read_bytes() == fifty


@pytest.mark.parametrize("parts", [0, 2])
def test_a_kill_while_pixels_are_decoded_loses_as_little(workdir: Path, monkeypatch: Patch, parts: int) -> None:
    pets(25)
    pixels = prepared(features="pixels").train.pixels.clone()
    content = stored(only_cache()).read_bytes()
    shutil.rmtree(ROOT / "features")
    killed(parts, "pixels", 2)
    decoded: list[int] = []
    prepare = Pixels.prepare
    monkeypatch.setattr(Pixels, "prepare", lambda *given: (decoded.append(1), prepare(*given))[1])  # type: ignore[func-returns-value]
    assert torch.equal(prepared(features="pixels").train.pixels, pixels)
    assert len(decoded) in (50 - parts * BATCH, 50 - parts * BATCH + BATCH - 2)  # the short last block may be a part
    assert stored(only_cache()).read_bytes() == content


def test_many_small_pictures_do_not_make_many_files() -> None:
    for count, most, blocks in ((50_000, Pixels.block, 196), (2_000, Pixels.block, 16), (50, 16, 4)):
        contents = [str(number) for number in range(count)]
        made = extract._blocks(contents, most)
        assert len(made) == blocks and [content for block in made for content in block] == contents
    assert len(extract._blocks(contents, Pixels.block)) == 4
    assert {len(block) for block in extract._blocks(contents * 100, Backbone.block)} <= {BATCH, 8}


def test_parts_that_are_damaged_are_computed_again(fifty: bytes, counter: Counter) -> None:
    parts = killed(3)
    assert len(parts) == 3
    counter.count()
    parts[0].write_bytes(parts[0].read_bytes()[:-1])
    flip(parts[1], 300)  # in the features
    counter.check(2 + 2 * BATCH)
    assert stored(only_cache()).read_bytes() == fifty


def test_a_part_may_end_anywhere_and_any_byte_be_wrong(fifty: bytes, counter: Counter) -> None:
    part = killed(3)[0]
    content = part.read_bytes()
    pictures = FolderSource(Path("pets"), ROOT).pictures[key_of(Path("pets"))]
    parts = Cache(ROOT, key_of(Path("pets")), counter.load(EMBEDDED))
    [block] = [block for block in extract._blocks(pictures.contents, BATCH) if parts._file(block) == part]
    right = parts.part(block)
    assert right is not None
    for position in range(len(content)):
        for damaged in (content[:position], [*content[:position], content[position] ^ 4, *content[position + 1 :]]):
            part.write_bytes(bytes(damaged))
            read_back = parts.part(block)
            assert read_back is None or all(map(np.array_equal, vars(read_back).values(), vars(right).values())), (
                position
            )


@pytest.mark.parametrize("writes", [0, 1], ids=["before it counts", "before the old one is gone"])
def test_a_kill_while_a_new_cache_takes_the_old_ones_place_loses_neither(
    fifty: bytes, counter: Counter, monkeypatch: Patch, writes: int
) -> None:
    prepared()
    counter.count()
    change()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_json", dies(write_json, writes))
        patch.setattr(Path, "unlink", dies(Path.unlink, 0))
        with pytest.raises(SystemExit):
            prepared()
    assert counter.count() == 1
    counter.check(0)
    another_class()  # so that something is written again
    counter.check(2)
    assert stored(only_cache())


def test_pictures_that_change_after_a_kill_are_looked_at_as_they_are(fifty: bytes, counter: Counter) -> None:
    killed(3)
    change()
    Path("pets/cats/003.png").unlink()
    counter.check()
    assert sorted(path.name for path in only_cache().iterdir())[1:] == ["about.json", stored(only_cache()).name]


def test_a_picture_that_changes_while_it_is_computed_ends_it(counter: Counter, monkeypatch: Patch) -> None:
    pets()
    with monkeypatch.context() as patch:
        read_picture = FilePictures.read
        patch.setattr(FilePictures, "read", lambda *given: (change(), read_picture(*given))[1])  # type: ignore[func-returns-value]
        with pytest.raises(InputError, match=r"007\.png has just changed; begin again once it no longer does"):
            prepared()
    counter.check()


def test_a_file_that_could_not_be_read_for_a_moment_is_read_the_next_time(counter: Counter, monkeypatch: Patch) -> None:
    pets()
    reads: list[Path] = []
    read_bytes = Path.read_bytes

    def read_or_fail(path: Path) -> bytes:
        if path.name == "007.png":
            reads.append(path)
            if len(reads) == 3:  # 007.png of each class was read once to note its content
                raise OSError(24, "Too many open files")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_or_fail)
        try:
            prepared()
        except InputError as error:
            assert "007.png" in str(error)
    assert len(reads) >= 3
    assert not any("unreadable" in note for note in counter.check().notes)


def test_features_are_never_given_to_other_pictures(counter: Counter) -> None:
    """Between preparing and loading somebody else may put a picture into another class."""
    pets()
    prepared()
    move()
    try:
        data = View("pets", ROOT, "auto", True, EMBEDDED).load()
    except InputError:
        return
    torch.testing.assert_close(data.train.pixels, expected_of_files(files()), **NEAR)


def test_features_that_are_no_numbers_end_it_and_are_not_kept(counter: Counter) -> None:
    pets(5)
    counter.factor = float("nan")
    with pytest.raises(RunError, match=rf"^{EMBEDDED} gives numbers that are not finite for a picture; use another$"):
        prepared()
    assert not list(ROOT.rglob("values-*.npy")) and not list(ROOT.rglob("*.npz"))


def test_a_folder_that_cannot_be_written_is_named(counter: Counter, monkeypatch: Patch, capsys: Capsys) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    pets(5)
    Path("file").write_text("no folder", encoding="utf-8")
    flags = ["--data.dataset=pets", f"--data.features={EMBEDDED}", "--data.root=file"]
    refused(flags, "set another folder as --data.root", capsys)
    for module, writes in ((np, "savez"), (os, "posix_fallocate")):
        with monkeypatch.context() as patch:
            patch.setattr(module, writes, full, raising=False)
            with pytest.raises(InputError, match=r"-lite0-\w+ cannot be written \(No space left on device\); set ano"):
                prepared()
        assert not list(ROOT.rglob("values-*.npy"))
    prepared()
    assert counter.count() == 20  # the parts of the second time were whole


# Speed changes nothing.


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_cache_does_not_depend_on_the_number_of_workers(fifty: bytes, counter: Counter, workers: int) -> None:
    prepared(workers=workers)
    assert stored(only_cache()).read_bytes() == fifty and counter.count() == 50


@pytest.mark.slow
def test_nor_with_the_real_weights(workdir: Path, monkeypatch: Patch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pets(9)
    threads, contents = torch.get_num_threads(), set()
    for workers in (1, 3):
        prepared(workers=workers)
        contents.add(stored(only_cache()).read_bytes())
        shutil.rmtree(ROOT / "features")
    assert len(contents) == 1
    assert torch.get_num_threads() == threads and "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(("large", "said"), [(40 * 12 * 4, False), (40 * 12 * 4 - 1, True)])
def test_a_size_that_is_large_is_said_before(
    counter: Counter, monkeypatch: Patch, capsys: Capsys, large: int, said: bool
) -> None:
    pets()
    monkeypatch.setattr(extract, "LARGE", large)
    prepared()
    size, computing = f"The features will take 0.0 GB in {only_cache()}", "Computing the features of 40 pictures"
    assert capsys.readouterr().out.startswith(size if said else computing)
    prepared()
    assert capsys.readouterr().out == ""


def test_a_million_pictures_have_a_size_in_gigabytes(counter: Counter, monkeypatch: Patch, capsys: Capsys) -> None:
    class Many:
        contents = range(1_000_000)  # what tells them from each other; here numbers will do

    monkeypatch.setattr(extract, "_compute", dies(print, 0))
    backbone = small_backbone()
    backbone.shape = (1280,)
    with pytest.raises(SystemExit):
        extract.extract(Cache(ROOT, "many", backbone), Many(), backbone, CPU, 1)  # type: ignore[arg-type]
    assert "will take 5.1 GB in" in capsys.readouterr().out


def test_who_comes_after_the_last_computes_no_more_than_what_was_under_way(
    fifty: bytes, counter: Counter, monkeypatch: Patch
) -> None:
    """Another process does all the rest, and puts it together, between two blocks of this one."""
    other, asked = small_backbone(), 0

    @contextlib.contextmanager
    def locked_late(folder: Path, wait: bool, name: str = LOCK) -> Iterator[None]:
        nonlocal asked
        asked += 1
        if asked == 2:
            counter.network(other).seen.clear()
            extract_pets(other, 1)
        with locked(folder, wait, name):
            yield

    monkeypatch.setattr(cache, "locked", locked_late)
    # Here the other process is a thread of this one, which would wait until it alone may set the number of threads.
    monkeypatch.setattr(extract, "use_threads", lambda _: contextlib.nullcontext())
    prepared(workers=1)
    assert sum(counter.network(other).seen) == 50 - BATCH
    assert stored(only_cache()).read_bytes() == fifty
    assert counter.count() <= 2 * BATCH


def extract_pets(backbone: Backbone, workers: int) -> None:
    [(key, pictures)] = FolderSource(Path("pets"), ROOT).pictures.items()
    extract.extract(Cache(ROOT, key, backbone), pictures, backbone, CPU, workers)


def extract_alone(folder: str, ready: Any) -> int:
    """In a process of its own: how many pictures it looked at."""
    os.chdir(folder)
    backbone = small_backbone()
    network = backbone.network
    assert isinstance(network, Quarters)
    network.seen.clear()
    ready.wait()
    extract_pets(backbone, 2)
    return sum(network.seen)


@pytest.mark.slow
def test_processes_share_the_work_and_write_what_one_writes(workdir: Path) -> None:
    pets(200)
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(3) as pool:
        alone = pool.apply(extract_alone, (str(workdir), manager.Barrier(1)))
        expected = stored(only_cache()).read_bytes()
        assert alone == 400
        shared = False  # one may be so late, now and then, that the others have done it all
        for _ in range(5):
            shutil.rmtree(ROOT / "features")
            counts = pool.starmap(extract_alone, [(str(workdir), manager.Barrier(3))] * 3, chunksize=1)
            assert stored(only_cache()).read_bytes() == expected
            assert 400 <= sum(counts) < 2 * 400, counts
            shared = max(counts) < 400
            if shared:
                break
        assert shared
    rows = torch.from_numpy(np.load(stored(only_cache())))
    torch.testing.assert_close(rows, expected_of_files(files()), **NEAR)


# Whole runs, with the real weights.

REAL = ["--data.dataset=pets", f"--data.features={EMBEDDED}", "--data.batch_size=4", "--data.val_size=0.1"]


@pytest.fixture
def colours(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Pictures in pets/, and their features, which are computed once."""
    write_pictures(Path("pets"), 12)
    kept = tmp_path_factory.getbasetemp() / "features of colours"
    if kept.exists():
        shutil.copytree(kept, ROOT / "features")
    else:
        prepared()
        shutil.copytree(ROOT / "features", kept)


def projector(run: Path) -> list[Path]:
    return [run / "projector_config.pbtxt", *sorted(run.rglob("tensors.tsv"))]


@pytest.mark.slow
@pytest.mark.usefixtures("colours")
def test_a_run_learns_is_loaded_evaluated_and_asked(workdir: Path, capsys: Capsys) -> None:
    shutil.rmtree(ROOT / "features")
    run = fit(*REAL, "--max_epochs=5")
    printed = capsys.readouterr().out
    assert "Computing the features of 24 pictures by efficientnet-lite0" in printed
    assert re.search(r"pets, features of efficientnet-lite0: \d+ training, \d+ test, \d+ validation", printed)
    results = results_of(run)
    assert results["features"] == EMBEDDED and results["test/accuracy"] == 1.0
    assert not any(path.exists() for path in projector(run)[:1]) and len(projector(run)) == 1

    checkpoint = read(run / "checkpoints/last.ckpt")
    assert checkpoint["state_dict"]["standardized_linear.weight"].shape == (2, 1280)
    about = checkpoint["hyper_parameters"]["backbone"]
    assert about == checkpoint["ImageDataModule"]["backbone"] == backbones.load(EMBEDDED).about

    # From pictures, from cached features, and by hand.
    model, rows = LogisticRegression.load(run), torch.from_numpy(np.load(stored(only_cache())))
    assert model.image_shape == (3, 224, 224)
    pictures = [PIL.Image.open(path) for path in files()]
    assert model.predict(pictures) == [path.parent.name for path in files()] == model.predict(rows)
    # A picture's features alone and in a batch are up to 7e-5 apart (`assert_same_features`), and so may be its logits.
    near: Any = {"atol": 1e-4, "rtol": 0}
    probabilities = model.predict_proba(pictures[3])
    torch.testing.assert_close(probabilities, model.predict_proba(rows[3]), **near)
    weights = {name: value.double() for name, value in checkpoint["state_dict"].items()}
    scaled = (rows[3].double() - weights["standardizer.mean"]) * weights["standardizer.scale"]
    logits = (weights["standardized_linear.weight"] @ scaled + weights["standardized_linear.bias"]) / weights[
        "temperature"
    ]
    torch.testing.assert_close(probabilities[0].double(), logits.softmax(0), **near)
    images = torch.stack([model.prepare(picture.convert("RGB")) for picture in pictures[:3]])
    for same in (images, images.permute(0, 2, 3, 1).numpy(), rows[:3].numpy(), list(rows[:3]), pictures[:3]):
        torch.testing.assert_close(model.predict_proba(same), model.predict_proba(rows[:3]), **near)
    for wrong in (images.float(), images[..., 1:], rows[:3, 1:], rows[:3].int(), rows.unsqueeze(0)):
        with pytest.raises(InputError, match=r"not what this model takes: uint8 values, .* or features, floats \(N, 1"):
            model.predict_proba(wrong)

    again = json.loads(said_by(evaluate.main, [run, "--json"], capsys))
    assert (again["accuracy"], again["loss"]) == (results["test/accuracy"], results["test/loss"])
    lines = said_by(predict.main, [run, "pets/cats", "--format=csv"], capsys).splitlines()
    assert len(lines) == 13 and all(",cats," in line for line in lines[1:])
    assert float(lines[1].rpartition(",")[2]) == pytest.approx(float(model.predict_proba(rows[0])[0, 0]), abs=1e-4)

    with pytest.raises(SystemExit, match=r"^2$"):
        predict.main([str(run), "pets/cats/0.jpg", "--digit"])


@pytest.mark.slow
@pytest.mark.usefixtures("colours")
def test_runs_that_die_grow_or_step_otherwise_end_alike(workdir: Path, monkeypatch: Patch) -> None:
    flags = [*REAL, "--model.schedule=constant"]
    whole = fit(*flags, "--max_epochs=4")
    looked: list[int] = []
    forward = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda *given: (looked.append(1), forward(*given))[1])  # type: ignore[func-returns-value]
    for number in (1, 4):
        with killed_in(Saver, "save", Saver.save, number):
            pytest.fail(f"outlived save {number}: {fit(*flags, '--max_epochs=4')}")
        assert outcome(fit("--resume=last")) == outcome(whole)
    fit(*flags, "--max_epochs=2")
    grown = fit("--resume=last", "--max_epochs=4")
    assert state(grown) == state(whole)
    assert curves(grown)["train/loss"] == curves(whole)["train/loss"]
    for steps in (1, 3):
        other = weights_of(fit(*flags, "--max_epochs=4", f"--data.steps_per_execution={steps}"))
        assert all(torch.equal(other[name], value) for name, value in weights_of(whole).items())
    assert not looked  # not at one picture


@pytest.mark.slow
@pytest.mark.usefixtures("colours")
def test_a_run_is_resumed_only_with_the_features_it_was_trained_on(
    workdir: Path, capsys: Capsys, monkeypatch: Patch
) -> None:
    fit(*REAL, "--max_epochs=1")
    refused(["--resume=last", "--max_epochs=2", "--data.features=pixels"], "features", capsys)
    with monkeypatch.context() as patch:
        patch.setattr(backbones, "_sha256", lambda _: "0" * 64)
        backbones._load.cache_clear()
        with pytest.raises(SystemExit, match=r"^2$"):  # and the features of that backbone are there
            fit("--resume=last", "--max_epochs=2")
        assert "cannot be resumed with this data: its backbone is" in capsys.readouterr().err
        model = LogisticRegression.load("last")
        with pytest.raises(InputError, match=r"efficientnet-lite0 whose weights, by their SHA-256, were"):
            model.predict(PIL.Image.new("RGB", (50, 50)))
        assert len(model.predict(torch.zeros(3, 1280))) == 3  # features need no backbone
        refused(["last", "pets/cats/0.jpg"], "whose weights", capsys, predict.main)
    backbones._load.cache_clear()


TAGS = TAGS_OF_PIXELS - {"model/weights"}


@pytest.mark.slow
@pytest.mark.usefixtures("colours")
def test_figures_show_pictures_and_the_projector_features(workdir: Path) -> None:
    flags = [*REAL, "--data.val_size=0.5", "--pictures=true"]
    run = fit(*flags, "--max_epochs=1")
    fit("--resume=last", "--max_epochs=2", "--pictures=true")
    events = events_of(run)
    assert set(events.Tags()["images"]) == TAGS  # no weights: a feature has no place in a picture
    assert all(len(events.Images(tag)) == 1 for tag in TAGS)
    config, tensors = projector(run)
    folder = tensors.parent
    assert config.read_text(encoding="utf-8").count("embeddings {") == 1
    assert all((run / name).is_file() for name in config.read_text(encoding="utf-8").split('"') if "/" in name)
    data = ready(ImageDataModule("pets", batch_size=4, val_size=0.5, features=EMBEDDED))
    labels = data.data.train.labels[data.val_indices].tolist()
    header, *lines = (folder / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "class\tpredicted class" and [line.split("\t")[0] for line in lines] == [
        data.data.classes[label] for label in labels
    ]
    sprite = np.asarray(PIL.Image.open(folder / "sprite.png").convert("RGB")).astype(int)
    side = 32
    for number, label in enumerate(labels):  # sprites are side by side in a square
        top, left = divmod(number, sprite.shape[1] // side)
        middle = sprite[top * side + 4 : top * side + 28, left * side + 4 : left * side + 28].mean((0, 1))
        assert np.abs(middle - COLORS[data.data.classes[label]]).max() < 20
    # Features that are near each other stay so.
    points = torch.from_numpy(np.loadtxt(tensors)).float()
    values = data.data.train.pixels[data.val_indices]
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(values, values), atol=0.05, rtol=0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("colours")
def test_two_processes_extract_and_train_as_one_does(workdir: Path, capsys: Capsys) -> None:
    flags = [*REAL, "--max_epochs=4", "--accelerator=cpu", "--model.schedule=constant"]
    shutil.rmtree(ROOT / "features")
    one = fit(*flags)
    assert capsys.readouterr().out.count("Computing the features") == 1
    cached = stored(only_cache()).read_bytes()
    shutil.rmtree(ROOT / "features")
    said = run_script("fit", *flags, "--pictures=false", "--devices=2")
    two = newest()
    assert said.count("Computing the features") == 1 and stored(only_cache()).read_bytes() == cached
    weights = [weights_of(run) for run in (one, two)]
    results = [results_of(run) for run in (one, two)]
    assert_trained_alike(weights[1], weights[0], results[0]["steps"])
    assert [result["devices"] for result in results] == [1, 2]
    assert results[0]["test/accuracy"] == results[1]["test/accuracy"] == 1.0
