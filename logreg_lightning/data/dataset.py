"""What a data set is here, before and after its pictures are made into what a model takes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from logreg_lightning.data.split import Keys, keys_of_contents, keys_of_rows
from logreg_lightning.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from logreg_lightning.data.pictures import PixelRange


class Pictures(Protocol):
    """Pictures, each looked at when it is needed."""

    @property
    def pixel_range(self) -> PixelRange | None:
        """What those of more than 8 bits are scaled by; None where there are none or it is not known."""

    @property
    def pixels(self) -> Tensor | None:
        """uint8 (N, C, H, W) where the pictures are such an array already."""

    @property
    def contents(self) -> Sequence[str]:
        """Of each picture what tells it from others, wherever it lies; empty where it cannot be read."""

    def read(self, index: int) -> Image:
        """A picture, in mode L or RGB.

        Raises:
            OSError: it is not a picture; `reason_of` says why.
            InputError: it is no longer the one that its content was noted of.
        """

    def thumbnails(self, indices: Tensor, size: int) -> Tensor:
        """uint8 (n, C, H, W), for a person to see: those at indices (n,), as they are or `size` high and wide."""


class Source(Protocol):
    """Where a data set comes from: its pictures, and what is known of them.

    Each method raises an InputError where files are missing, damaged, or do not belong together.

    Attributes:
        is_stratified: Whether the validation images are the same share of each class.
        holds_features: Whether it holds features that somebody else computed, and no pictures.
    """

    is_stratified: bool
    holds_features: bool

    @property
    def pixel_range(self) -> PixelRange | None:
        """What pictures of more than 8 bits are scaled by, from those to train on; None where there are none.

        It may be set to that of a trained model, before `pictures` are asked for.
        """

    def prepare(self) -> None:
        """Fetches and unpacks files, unless that is done already."""

    @property
    def pictures(self) -> Mapping[str, Pictures]:
        """Its pictures, in one part or in several, each by a name for what is made of it; `prepare` comes first."""

    def dataset(self, parts: Sequence[tuple[Tensor, Mapping[int, str]]]) -> Dataset:
        """The data set, with what was made of its pictures.

        Args:
            parts: For each part of `pictures` the values, uint8 (N, C, H, W) or float (N, features), and which rows
                hold none because a file is not a picture, each with the reason.
        """

    def examples(self, count: int) -> list[Image]:
        """So many of its pictures at most, as `upright` returns them; none where there are none that can be read."""


@dataclass(frozen=True)
class Images:
    """Labelled images, or features in their place.

    Attributes:
        pixels: uint8 (N, C, H, W), or features, float (N, features).
        labels: int64, shape (N,), each in [0, number of classes).
        pictures: What the features were computed of; None where that is not known.
    """

    pixels: Tensor
    labels: Tensor
    pictures: Pictures | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def keys(self) -> Keys:
        """uint64 (N,), what tells each picture, or features without one, from others: copies have the same."""
        if self.pictures is None:
            return keys_of_rows(self.pixels)
        if self.pictures.pixels is not None:
            return keys_of_rows(self.pictures.pixels)
        return keys_of_contents(self.pictures.contents)

    @functools.cached_property
    def keys_as_seen(self) -> Keys:
        """uint64 (N,), the same for images that a model cannot tell from each other."""
        is_made = self.pictures is not None and self.pictures.pixels is not self.pixels
        return keys_of_rows(self.pixels) if is_made and self.pixels.ndim == 4 else self.keys

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the images or features and labels, int64 (n,), at `indices`, int32 (n,)."""
        return self.pixels.index_select(0, indices), self.labels.index_select(0, indices)

    def thumbnails(self, indices: Tensor, size: int) -> Tensor | None:
        """uint8 (n, C, H, W), for a person to see, those of features `size` high and wide; None where there are none.

        Args:
            indices: int32 (n,).
            size: Pixels.
        """
        if self.pixels.ndim == 4:
            return self.take(indices)[0]
        return None if self.pictures is None else self.pictures.thumbnails(indices, size)


@dataclass(frozen=True)
class Dataset:
    """A named data set: its class names, and the images to train on and to test on.

    Attributes:
        train_indices, test_indices: int32 (n,), which of `train` and `test` are meant; None for all of them.
        val_indices: int32 (n,), which of `train` are for validation, where the data set says so itself.
        notes: Sentences that a person who trains on it should read.
        backbone: What decided the features, as `Backbone.about` says it; None where no backbone did.
        pixel_range: What pictures of more than 8 bits were scaled by; None where there are none.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    train_indices: Tensor | None = None
    test_indices: Tensor | None = None
    val_indices: Tensor | None = None
    notes: tuple[str, ...] = ()
    backbone: dict[str, Any] | None = None
    pixel_range: PixelRange | None = None

    def relabelled(self, classes: Sequence[str]) -> Dataset:
        """The same with the labels of these classes, by their names; some may be missing here.

        Raises:
            InputError: there are images of another class.
        """
        if self.classes == tuple(classes):
            return self
        counts = torch.cat([self.train.labels, self.test.labels]).bincount(minlength=len(self.classes))
        number = {name: label for label, name in enumerate(classes)}
        for name, count in zip(self.classes, counts.tolist(), strict=True):
            if count and name not in number:
                raise InputError(f"{self.name} has the class {name}, which the model has not learnt; leave it out")
        labels = torch.tensor([number.get(name, 0) for name in self.classes])
        train = dataclasses.replace(self.train, labels=labels[self.train.labels])
        test = train if self.test is self.train else dataclasses.replace(self.test, labels=labels[self.test.labels])
        return dataclasses.replace(self, classes=tuple(classes), train=train, test=test)

    @property
    def num_test(self) -> int:
        """Images to test on."""
        return len(self.test) if self.test_indices is None else len(self.test_indices)

    @property
    def num_features(self) -> int:
        """Values of an image, or features."""
        return self.train.pixels[0].numel()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of what a model takes, with a backbone what that takes; else (features,)."""
        if self.backbone is not None:
            return 3, self.backbone["image_size"], self.backbone["image_size"]
        return tuple(self.train.pixels.shape[1:])


def key_of(folder: Path) -> str:
    """A name for what is made of a folder: the folder's own, as any file system takes it, and a hash of its path."""
    path = folder.resolve()
    name = re.sub(r"[^\w.-]", "_", path.name)[:40]
    return f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


def content_of(data: bytes) -> str:
    """What tells data from any other: 128 bits of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


def stat_of(file: Path) -> list[int]:
    """What changes whenever a file does: its size, and when it and its entry were last written."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


@contextlib.contextmanager
def writing(folder: Path, suggest_digits: bool = False) -> Iterator[None]:
    """Says in one sentence that something in the folder cannot be written, and whether digits would need no file.

    Raises:
        InputError: an OSError was raised inside.
    """
    try:
        yield
    except OSError as error:
        digits = ", or train without files: `dataset='digits'`" if suggest_digits else ""
        raise InputError(
            f"{error.filename or folder} cannot be written ({error.strerror}); set another folder as `root`{digits}"
        ) from None
