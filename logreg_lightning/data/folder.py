"""A folder with a folder of pictures for each class."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.data.dataset import Dataset, Images, Pictures, content_of, hold_out, key_of, stat_of
from logreg_lightning.data.pictures import PixelRange, eight_bits, extremes, pixel_range, read_picture, to_pixels
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.files import locked, read_json, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

TEST_SHARE = 0.2
"""Of each class's pictures, what is held out for testing where there is no test folder."""

CHUNK = 100
"""Files that a thread looks at in one go: with one at a time, threads wait for each other more than for a disk."""

_NONE_READABLE = "{folder}: none of its {count} files is a readable picture; use another folder"


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


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def layout(folder: Path) -> Layout:
    """What is in the folder, by its names alone.

    Raises:
        InputError: it does not hold a folder for each of two classes.
    """
    by_name = {path.name: path for path in _folders(folder)}
    splits: list[str] = [name for name in ("train", "val", "test") if name in by_name] if "train" in by_name else []
    split_folders = [by_name[name] for name in splits]
    if len(splits) < 2:
        splits, split_folders = ["all"], split_folders or [by_name.get("all", folder)]
    classes = tuple(path.name for path in _folders(split_folders[0]))
    files: list[tuple[Path, int, int]] = []
    hidden: list[Path] = []
    for split, split_folder in enumerate(split_folders):
        for path in _folders(split_folder):
            if path.name not in classes:
                raise InputError(f"{path}: {split_folders[0]} has no class {path.name}; move or remove that folder")
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                if file.name.startswith("."):
                    hidden.append(file)
                else:
                    files.append((file, split, classes.index(path.name)))
    if len(classes) < 2:
        raise InputError(
            f"`dataset={str(folder)!r}`: a data set of your own is a folder with a folder of pictures for each class, "
            "at least two, or a folder with the four files of MNIST's format"
        )
    return Layout(classes, tuple(splits), tuple(files), tuple(hidden))


class FolderSource:
    """The data set in such a folder.

    Args:
        folder: With a folder of pictures for each class, or with train, and val or test, that hold those.
        root: Where contents are noted, so that a file is read again only when it looks as if it had changed.
    """

    is_stratified = True
    holds_features = False

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root

    def prepare(self) -> None:
        """There is nothing to fetch."""

    @functools.cached_property
    def layout(self) -> Layout:
        return layout(self.folder)

    @functools.cached_property
    def _files(self) -> FilePictures:
        paths = [path for path, _, _ in self.layout.files]
        if not paths:
            raise InputError(_NONE_READABLE.format(folder=self.folder, count=0))
        return FilePictures(self.folder, paths, self.root / "contents" / f"{key_of(self.folder)}.json")

    @functools.cached_property
    def pixel_range(self) -> PixelRange | None:
        trained_on = zip(self._files.extremes, self.layout.files, strict=True)
        known = [found for found, (_, split, _) in trained_on if split == 0 and found is not None]
        return pixel_range(*zip(*known, strict=True)) if known else None

    @property
    def pictures(self) -> dict[str, Pictures]:
        self._files.pixel_range = self.pixel_range if any(self._files.extremes) else None
        return {key_of(self.folder): self._files}

    def examples(self, count: int) -> list[Image]:
        pictures = []
        files = self.layout.files
        for path, _, _ in files[:: max(1, len(files) // count)][:count]:
            with contextlib.suppress(OSError):
                pictures.append(read_picture(path))
        return pictures

    def dataset(self, parts: Sequence[tuple[Tensor, Mapping[int, str]]]) -> Dataset:
        ((values, unreadable),) = parts
        files, classes = self.layout.files, self.layout.classes
        all_labels = torch.tensor([label for _, _, label in files])
        images = Images(values, all_labels, self._files)
        is_readable = torch.ones(len(files), dtype=torch.bool)
        is_readable[list(unreadable)] = False
        readable = is_readable.nonzero().flatten()
        if not len(readable):
            raise InputError(_NONE_READABLE.format(folder=self.folder, count=len(files)))
        labels, splits = all_labels[readable], torch.tensor([split for _, split, _ in files])[readable]
        notes = []
        skipped = [str(path.relative_to(self.folder)) for path in self.layout.hidden]
        skipped += [f"{files[row][0].relative_to(self.folder)} ({reason})" for row, reason in unreadable.items()]
        if skipped:
            names = ", ".join(skipped[:3])
            names += ", ..." if len(skipped) > 3 else ""
            notes.append(f"skipped {len(skipped)} hidden or unreadable file{'s' if len(skipped) > 1 else ''}: {names}")
        if self.layout.splits == ("all",):
            counts = labels.bincount(minlength=len(classes)).tolist()
            is_test = hold_out(labels, [round(count * TEST_SHARE) for count in counts], seed=0)
            is_val = torch.zeros_like(is_test)
            held_out = f"a fifth of each class, {int(is_test.sum()):,} pictures, is held out for testing"
            notes.append(f"no test split: {held_out}")
        else:
            is_test = splits == len(self.layout.splits) - 1
            is_val = (splits == 1) & ~is_test
        for name, mask in (("training", ~is_test & ~is_val), ("test", is_test)):
            counts = labels[mask].bincount(minlength=len(classes)).tolist()
            rare = [f"{label} ({count})" for label, count in zip(classes, counts, strict=True) if count < 10]
            notes += [f"fewer than 10 pictures of a class in the {name} split: {', '.join(rare)}"] if rare else []
        if not is_test.any() or not (~is_test & ~is_val).any():
            raise InputError(f"{self.folder} has no pictures to train on or none to test on; add some")
        return Dataset(
            str(self.folder),
            classes,
            images,
            images,
            train_indices=readable[~is_test].int(),
            test_indices=readable[is_test].int(),
            val_indices=readable[is_val].int() if is_val.any() else None,
            notes=tuple(notes),
            pixel_range=self.pixel_range,
        )


class FilePictures:
    """Files as pictures.

    Args:
        folder: That they are in, at any depth.
        paths: The files.
        notes: File in which contents are noted.
    """

    pixels = None
    pixel_range: PixelRange | None = None  # set by who knows which are to train on

    def __init__(self, folder: Path, paths: Sequence[Path], notes: Path) -> None:
        self.folder, self.paths, self.notes = folder, paths, notes

    @property
    def contents(self) -> list[str]:
        return self._noted[0]

    @property
    def extremes(self) -> list[PixelRange | None]:
        """Of each picture of more than 8 bits its least and its greatest value; None of any other."""
        return self._noted[1]

    @functools.cached_property
    def _noted(self) -> tuple[list[str], list[PixelRange | None]]:
        """Of each file its content, and its extremes."""
        old_notes = read_json(self.notes) or {}

        def note(name: str, path: Path) -> list[Any]:
            try:
                stat = stat_of(path)
                noted: list[Any] = old_notes.get(name, [])
                if noted[:3] == stat and len(noted) == 5:
                    return noted
                data = path.read_bytes()
                found = extremes(data)
                return [*stat, content_of(data), None if found is None else list(found)]
            except OSError:
                return [0, 0, 0, "", None]

        above = f"{self.folder.as_posix()}/"
        named = [(path.as_posix().removeprefix(above), path) for path in self.paths]
        chunks = [named[begin : begin + CHUNK] for begin in range(0, len(named), CHUNK)]
        with ThreadPoolExecutor() as pool:
            noted = pool.map(lambda chunk: [(name, note(name, path)) for name, path in chunk], chunks)
            new_notes = dict(itertools.chain.from_iterable(noted))
        if new_notes != old_notes:
            with contextlib.suppress(OSError):  # then the files are read again the next time
                self.notes.parent.mkdir(parents=True, exist_ok=True)
                with locked(self.notes.parent, wait=True):
                    write_json(self.notes, new_notes)
        contents, found = zip(*(new_notes[name][3:] for name, _ in named), strict=True)
        return list(contents), [None if pair is None else (pair[0], pair[1]) for pair in found]

    def read(self, index: int) -> Image:
        path = self.paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} can no longer be read ({error.strerror}); begin again") from None
        if content_of(data) != self.contents[index]:
            raise InputError(f"{path} has just changed; begin again once it no longer does")
        return eight_bits(read_picture(io.BytesIO(data)), self.pixel_range)

    def thumbnails(self, indices: Tensor, size: int) -> Tensor:
        """uint8 (n, 3, size, size), for a person to see; black where a file is gone."""
        thumbnails = np.zeros((len(indices), 3, size, size), dtype=np.uint8)

        def draw(row: int) -> None:
            with contextlib.suppress(OSError):
                picture = eight_bits(read_picture(self.paths[int(indices[row])]), self.pixel_range)
                thumbnails[row] = to_pixels(picture, (3, size, size)).numpy()

        with ThreadPoolExecutor() as pool:
            list(pool.map(draw, range(len(indices))))
        return torch.from_numpy(thumbnails)
