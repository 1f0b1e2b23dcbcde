"""A folder with a folder of pictures for each class: decoded once, in parallel, into a cache that is memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.data.dataset import Dataset, Images, hold_out
from logreg_lightning.data.idx import map_read_only
from logreg_lightning.data.named import cache_name
from logreg_lightning.data.pictures import read_picture, to_pixels
from logreg_lightning.errors import InputError
from logreg_lightning.features import extract
from logreg_lightning.runtime.files import atomic_write, locked, read_json, replace, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

TEST_SHARE = 0.2
"""Of each class's pictures, what is held out for testing where there is no test folder."""

CACHE_FORMAT = 2
"""Raised whenever a cache written by an older version could no longer be read."""


@dataclass(frozen=True)
class Layout:
    """The pictures of a folder.

    Attributes:
        classes: Names of the classes' folders, sorted.
        splits: Those of train, val and test that there are, or the one split `all`.
        files: Path, split's index and class's index of each file, sorted.
        hidden: Files whose name starts with a dot.
    """

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    files: tuple[tuple[Path, int, int], ...]
    hidden: tuple[Path, ...]


def layout(folder: Path) -> Layout:
    """What is in the folder, by its names alone.

    Raises:
        InputError: it does not hold a folder for each of two classes.
    """

    def folders(inside: Path) -> list[Path]:
        return sorted(path for path in inside.iterdir() if path.is_dir() and not path.name.startswith("."))

    inside = {path.name: path for path in folders(folder)}
    splits = ("train", *(name for name in ("val", "test") if name in inside)) if "train" in inside else ("all",)
    if splits == ("train",):
        splits = ("all",)
    tops = [inside["train"] if name == "all" and "train" in inside else inside.get(name, folder) for name in splits]
    classes = tuple(path.name for path in folders(tops[0]))
    files: list[tuple[Path, int, int]] = []
    hidden: list[Path] = []
    for number, top in enumerate(tops):
        for path in folders(top):
            if path.name not in classes:
                raise InputError(f"{path}: {tops[0]} has no class {path.name}; move or remove that folder")
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                if file.name.startswith("."):
                    hidden.append(file)
                else:
                    files.append((file, number, classes.index(path.name)))
    if len(classes) < 2:
        raise InputError(
            f"`dataset={str(folder)!r}`: a data set of your own is a folder with a folder of pictures for each class, "
            "at least two, or a folder with the four files of MNIST's format"
        )
    return Layout(classes, splits, tuple(files), tuple(hidden))


def _cache(folder: Path, root: Path) -> Path:
    return root / "decoded" / cache_name(folder)


def _key(folder: Path, found: Layout, image_size: int, color: bool) -> str:
    """Changes whenever a picture, or what is made of it, changes."""
    listed = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns, split, number)
        for path, split, number in found.files
    ]
    return hashlib.sha256(
        json.dumps([CACHE_FORMAT, image_size, color, found.splits, found.classes, listed]).encode()
    ).hexdigest()


def prepare(folder: Path, root: Path, image_size: int, color: bool) -> None:
    """Decodes the pictures into the cache under `root`, unless they are there already as they are now.

    Raises:
        InputError: the folder is not a data set, or none of its pictures can be read.
    """
    found = layout(folder)
    cache, key = _cache(folder, root), _key(folder, found, image_size, color)
    if _is_fresh(cache, key):
        return
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache.parent, wait=True):
            if not _is_fresh(cache, key):
                for left_by_a_kill in cache.parent.glob(f".{cache.name}-*"):
                    shutil.rmtree(left_by_a_kill, ignore_errors=True)
                staging = Path(tempfile.mkdtemp(prefix=f".{cache.name}-", dir=cache.parent))
                old = cache.with_name(f".{cache.name}-old")
                try:
                    _decode(folder, found, staging, key, image_size, color)
                    if cache.exists():
                        replace(cache, old)  # Windows refuses as long as another process maps it
                    replace(staging, cache)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
                    shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{error.filename or cache} cannot be written ({error.strerror}); set another folder as `root`"
        ) from None


def _is_fresh(cache: Path, key: str) -> bool:
    try:
        return bool(json.loads((cache / "about.json").read_text(encoding="utf-8"))["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def _decode(folder: Path, found: Layout, place: Path, key: str, image_size: int, color: bool) -> None:
    from tqdm import tqdm

    shape = (3 if color else 1, image_size, image_size)

    def load(file: tuple[Path, int, int]) -> Tensor | None:
        try:
            return to_pixels(read_picture(file[0]), shape)
        except OSError:
            return None

    pixels = np.lib.format.open_memmap(place / "pixels.npy", "w+", np.uint8, (len(found.files), *shape))
    kept: list[tuple[int, int]] = []
    skipped = [str(path.relative_to(folder)) for path in found.hidden]
    with ThreadPoolExecutor() as pool:
        loaded = pool.map(load, found.files)
        bar = tqdm(loaded, total=len(found.files), unit=" pictures", disable=not sys.stderr.isatty(), leave=False)
        for (path, split, number), values in zip(found.files, bar, strict=True):
            if values is None:
                skipped.append(str(path.relative_to(folder)))
            else:
                pixels[len(kept)] = values.numpy()
                kept.append((split, number))
    if not kept:
        raise InputError(_NONE_READABLE.format(folder=folder, count=len(found.files)))
    pixels.flush()
    np.save(place / "labels.npy", np.array(kept, dtype=np.int64).reshape(-1, 2))
    about = {"key": key, "classes": found.classes, "splits": found.splits, "skipped": skipped}
    atomic_write(place / "about.json", json.dumps(about).encode())


def load(folder: Path, root: Path) -> Dataset:
    """The data set in the cache; `prepare` must have been called."""
    cache = _cache(folder, root)
    about: dict[str, Any] = json.loads((cache / "about.json").read_text(encoding="utf-8"))
    splits, labels = (torch.from_numpy(column.copy()) for column in np.load(cache / "labels.npy").T)
    images = Images(map_read_only(np.load(cache / "pixels.npy", mmap_mode="r"))[: len(labels)], labels)
    return _dataset(
        folder, about["classes"], about["splits"], splits, images, torch.arange(len(labels)), about["skipped"]
    )


def _dataset(
    folder: Path,
    class_names: Sequence[str],
    split_names: Sequence[str],
    splits: Tensor,
    images: Images,
    readable: Tensor,
    skipped: Sequence[str],
    backbone: dict[str, Any] | None = None,
) -> Dataset:
    """The data set of a folder's images.

    Args:
        splits: int64 (N,), each an index of `split_names`.
        readable: int64 (n,), which of the N images are there.
        skipped: Names of the files that are not.
    """
    classes = tuple(class_names)
    labels, splits = images.labels[readable], splits[readable]
    if list(split_names) == ["all"]:
        of_each = labels.bincount(minlength=len(classes)).tolist()
        is_test = hold_out(labels, [round(count * TEST_SHARE) for count in of_each], seed=0)
        is_val = torch.zeros_like(is_test)
    else:
        is_test = splits == len(split_names) - 1
        is_val = (splits == 1) & ~is_test
    train, test, val = (readable[mask].int() for mask in (~is_test, is_test, is_val))
    notes = [_skipped(skipped)] if skipped else []
    if list(split_names) == ["all"]:
        notes.append(f"no test split: a fifth of each class, {len(test):,} pictures, is held out for testing")
    for name, mask in (("training", ~is_test & ~is_val), ("test", is_test)):
        counts = torch.bincount(labels[mask], minlength=len(classes))
        rare = [f"{classes[n]} ({counts[n]})" for n in range(len(classes)) if counts[n] < 10]
        notes += [f"fewer than 10 pictures of a class in the {name} split: {', '.join(rare)}"] if rare else []
    if not len(test) or not bool((~is_test & ~is_val).any()):
        raise InputError(f"{folder} has no pictures to train on or none to test on; add some")
    return Dataset(
        str(folder),
        classes,
        images,
        images,
        train_indices=train,
        test_indices=test,
        val_indices=val if len(val) else None,
        notes=tuple(notes),
        backbone=backbone,
    )


class FilePictures:
    """The pictures of a folder as files.

    Args:
        folder: With a folder of pictures for each class.
        root: Where contents are noted, so that a file is read again only when it looks as if it had changed.

    Raises:
        InputError: the folder is not a data set, or the notes cannot be written.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.layout = folder, layout(folder)
        self.paths = [path for path, _, _ in self.layout.files]
        if not self.paths:
            raise InputError(_NONE_READABLE.format(folder=folder, count=0))
        notes = root / "features" / cache_name(folder) / "contents.json"
        before = read_json(notes) or {}

        def note(path: Path) -> list[Any]:
            try:
                stat = path.stat()
                seen = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
                noted: list[Any] = before.get(self._name(path), [])
                return noted if noted[:3] == seen else [*seen, extract.content(path.read_bytes())]
            except OSError:
                return [0, 0, 0, ""]

        with ThreadPoolExecutor() as pool:
            now = {self._name(path): found for path, found in zip(self.paths, pool.map(note, self.paths), strict=True)}
        self.contents = [now[self._name(path)][3] for path in self.paths]
        if now != before:
            try:
                notes.parent.mkdir(parents=True, exist_ok=True)
                with locked(notes.parent, wait=True):
                    write_json(notes, now)
            except OSError as error:
                raise InputError(
                    f"{error.filename or notes} cannot be written ({error.strerror}); set another folder as `root`"
                ) from None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def read(self, number: int) -> Image:
        """A picture, in mode L or RGB.

        Raises:
            OSError: it is not a picture.
            InputError: it cannot be read, or has changed, since its content was noted.
        """
        try:
            data = self.paths[number].read_bytes()
        except OSError as error:
            raise InputError(f"{self.paths[number]} can no longer be read ({error.strerror}); begin again") from None
        if extract.content(data) != self.contents[number]:
            raise InputError(f"{self.paths[number]} has just changed; begin again once it no longer does")
        return read_picture(io.BytesIO(data))

    def look(self, indices: Tensor, size: int) -> Tensor:
        """uint8 (n, 3, size, size), for a person to see; black where a file is gone."""

        pictures = np.zeros((len(indices), 3, size, size), dtype=np.uint8)

        def draw(row: int) -> None:
            with contextlib.suppress(OSError):
                picture = read_picture(self.paths[int(indices[row])])
                pictures[row] = to_pixels(picture, (3, size, size)).numpy()

        with ThreadPoolExecutor() as pool:
            list(pool.map(draw, range(len(indices))))
        return torch.from_numpy(pictures)

    def dataset(self, values: Tensor, unreadable: Sequence[int], backbone: dict[str, Any]) -> Dataset:
        """The data set of the pictures' features, float (N, features)."""
        labels, splits = (torch.tensor([file[k] for file in self.layout.files], dtype=torch.int64) for k in (2, 1))
        is_readable = torch.ones(len(labels), dtype=torch.bool)
        is_readable[list(unreadable)] = False
        if not is_readable.any():
            raise InputError(_NONE_READABLE.format(folder=self.folder, count=len(labels)))
        skipped = [*self.layout.hidden, *(self.paths[number] for number in unreadable)]
        return _dataset(
            self.folder,
            self.layout.classes,
            self.layout.splits,
            splits,
            Images(values, labels, self.look),
            is_readable.nonzero().flatten(),
            [str(path.relative_to(self.folder)) for path in skipped],
            backbone,
        )


_NONE_READABLE = "{folder}: none of its {count} files is a readable picture; use another folder"


def _skipped(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"skipped {len(names)} hidden or unreadable file{'s' if len(names) > 1 else ''}: {shown}"
