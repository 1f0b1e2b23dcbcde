"""A folder with a folder of pictures for each class."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.data.dataset import Dataset, Images, Pictures, content_of, key_of, stat_of
from logreg_lightning.data.layout import Layout, layout
from logreg_lightning.data.pictures import PixelRange, eight_bits, extremes, pixel_range, read_picture, to_pixels
from logreg_lightning.data.split import held_out, keys_of_contents
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.files import locked, read_json, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

TEST_SHARE = 0.2
"""Of each class's pictures, what is held out for testing where there is no test folder."""

TEST_SEED = -1
"""Of that hold-out, which no setting moves: no validation seed is the same."""

CHUNK = 100
"""Files that a thread looks at in one go: with one at a time, threads wait for each other more than for a disk."""


class FolderSource:
    """The data set in such a folder.

    Args:
        folder: With a folder of pictures for each class, or with train, and val or test, that hold those.
        root: Where contents are noted, so that a file is read again only when it looks as if it had changed.
        known: Classes that a model has learnt and is to be tested on, as `layout` takes them.
    """

    is_stratified = True
    holds_features = False

    def __init__(self, folder: Path, root: Path, known: Sequence[str] | None = None) -> None:
        self.folder, self.root, self.known = folder, root, known

    def prepare(self) -> None:
        """There is nothing to fetch."""

    @functools.cached_property
    def layout(self) -> Layout:
        return layout(self.folder, self.known)

    @functools.cached_property
    def _files(self) -> FilePictures:
        paths = [path for path, _, _ in self.layout.files]
        if not paths:
            raise InputError(
                f"{self.folder} holds no pictures in a folder of their class; use another folder, or predict.py, which "
                "takes pictures without classes"
            )
        return FilePictures(self.folder, paths, self.root / "contents" / f"{key_of(self.folder)}.json")

    @functools.cached_property
    def pixel_range(self) -> PixelRange | None:
        """Of those to train on; None where none of them has more than 8 bits."""
        extremes_of = self._files.extremes
        if not any(extremes_of):
            return None
        is_train = np.array([split == "train" for _, split, _ in self.layout.files])
        if not self.layout.has_test:
            labels = torch.tensor([label for _, _, label in self.layout.files])
            is_train &= ~held_out(keys_of_contents(self._files.contents), labels, TEST_SHARE, TEST_SEED).numpy()
        known = [pair for pair, is_one in zip(extremes_of, is_train, strict=True) if is_one and pair is not None]
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
        is_readable = torch.ones(len(files), dtype=torch.bool)
        is_readable[list(unreadable)] = False
        readable = is_readable.nonzero().flatten()
        if not len(readable):
            raise InputError(f"{self.folder}: none of its {len(files)} files is a readable picture; use another folder")
        all_labels = torch.tensor([label for _, _, label in files])
        left_out: dict[str, Sequence[Path | str]] = {**self.layout.left_out}
        if unreadable:
            left_out["unreadable"] = [f"{files[row][0]} ({reason})" for row, reason in unreadable.items()]
        if self.known is None:
            counts = all_labels[readable].bincount(minlength=len(classes))
            left_out |= {"without a picture": [Path(name) for name in classes if not counts[classes.index(name)]]}
            all_labels = (counts > 0).cumsum(0)[all_labels] - 1  # of a class without pictures any: it has no rows
            all_labels = all_labels.clamp(min=0)
            classes = tuple(name for name, count in zip(classes, counts.tolist(), strict=True) if count)
            if len(classes) < 2:
                raise InputError(f"{self.folder}: only {', '.join(classes)} has readable pictures; add another class")
        images = Images(values, all_labels, self._files)
        labels, keys = all_labels[readable], images.keys[readable.numpy()]
        splits = np.array([split for _, split, _ in files])[readable.numpy()]
        notes = [*self.layout.notes, *self._about(left_out)]
        is_val, is_test = torch.from_numpy(splits == "val"), torch.from_numpy(splits == "test")
        if self.known is not None and not self.layout.has_splits:
            notes.append(f"no test split: all {len(labels):,} pictures are tested on")
        if not self.layout.has_test:
            is_test = held_out(keys, labels, TEST_SHARE, TEST_SEED) & ~is_val
            count = int(is_test.sum())
            notes.append(
                f"no test split: {count:,} of {len(labels):,} pictures, about a fifth of each class, are held out for "
                "testing; which ones follows from their content"
            )
        for name, mask in (("training", ~is_test & ~is_val), ("test", is_test)) if self.known is None else ():
            counts = labels[mask].bincount(minlength=len(classes))
            rare = [f"{label} ({count})" for label, count in zip(classes, counts.tolist(), strict=True) if count < 10]
            notes += [f"fewer than 10 pictures of a class in the {name} split: {', '.join(rare)}"] if rare else []
        if not is_test.any() or (self.known is None and not (~is_test & ~is_val).any()):
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

    def _about(self, left_out: Mapping[str, Sequence[Path | str]]) -> list[str]:
        """One line that counts what was left out."""
        parts = []
        for reason, paths in left_out.items():
            if paths:
                names = [str(path).removeprefix(f"{self.folder}{os.sep}") for path in paths[:3]]
                parts.append(f"{len(paths):,} {reason} ({', '.join(names)}{', ...' if len(paths) > 3 else ''})")
        return [f"left out: {'; '.join(parts)}"] if parts else []


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
