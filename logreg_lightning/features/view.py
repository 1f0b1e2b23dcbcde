"""A data set as a model sees it: a source's pictures, through pixels or a backbone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from logreg_lightning.data.arrays import map_read_only
from logreg_lightning.data.dataset import Dataset, Source
from logreg_lightning.data.pictures import LONG, PixelRange
from logreg_lightning.data.sources import source_of
from logreg_lightning.errors import InputError
from logreg_lightning.features import backbones
from logreg_lightning.features.backbones import PIXEL_SIZE, Extractor, Pixels
from logreg_lightning.features.cache import Cache
from logreg_lightning.features.extract import extract, extracted

CUT = 4 / 3
"""How many times as long as an image a picture may be before it is said that its ends are cut off."""


@dataclass(frozen=True)
class View:
    """A data set by its settings, as `ImageDataModule` explains them.

    Args:
        pixel_range: What pictures of more than 8 bits are scaled by; auto is what those to train on say.
        known: Classes that a model has learnt and is to be tested on, some of which may be missing; None where a model
            is to be trained.

    Raises:
        InputError: the data set or the backbone is not known, or they do not go together.
    """

    dataset: str
    root: Path
    image_size: int | str
    color: bool
    features: str
    pixel_range: PixelRange | Literal["auto"] | None = "auto"
    known: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        backbones.check_name(self.features)
        if self.source.holds_features and self.features != Pixels.name:
            raise InputError(
                f"`dataset={self.dataset!r}` holds features already; leave `features={self.features!r}` out"
            )

    @functools.cached_property
    def source(self) -> Source:
        """Where the pictures come from."""
        source = source_of(self.dataset, self.root, self.known)
        if self.pixel_range != "auto":
            cast(Any, source).pixel_range = self.pixel_range
        return source

    @property
    def what(self) -> str:
        """What a model learns from: pixels, features of a backbone by its name, or those of .npy files."""
        return "npy" if self.source.holds_features else self.features

    def prepare(self, devices: Sequence[torch.device], workers: int) -> None:
        """Fetches and unpacks files, and makes values of pictures on the devices, unless that is done already.

        Raises:
            InputError: something is missing, damaged, or cannot be written.
        """
        extractor = self._extractor()  # refused before anything is written
        self.source.prepare()
        for key, pictures in self.source.pictures.items():
            if pictures.pixels is None or not extractor.is_identity:
                cache = Cache(self.root, key, extractor, pictures.pixel_range)
                extract(cache, pictures, extractor, devices, workers)

    def load(self) -> Dataset:
        """The data set; `prepare` must have been called.

        Raises:
            InputError: its files are damaged or do not belong together.
        """
        extractor = self._extractor()
        parts: list[tuple[Tensor, Mapping[int, str]]] = []
        lengths: list[float] = []
        for key, pictures in self.source.pictures.items():
            if pictures.pixels is not None and extractor.is_identity:
                parts.append((pictures.pixels, {}))
            else:
                rows = extracted(Cache(self.root, key, extractor, pictures.pixel_range), pictures)
                parts.append((map_read_only(rows.values), rows.unreadable))
                lengths += [length for row, length in enumerate(rows.lengths) if row not in rows.unreadable]
        data = self.source.dataset(parts)
        notes = (*data.notes, *_cut_and_squeezed(lengths))
        return dataclasses.replace(data, backbone=extractor.about, notes=notes)

    def _extractor(self) -> Extractor:
        size = None if isinstance(self.image_size, str) else self.image_size
        if self.features == Pixels.name:
            return Pixels(size or PIXEL_SIZE, self.color)
        return backbones.load(self.features, size)


def _cut_and_squeezed(lengths: Sequence[float]) -> list[str]:
    """Sentences about pictures that are far from as wide as high, by how many times as long as an image each is."""
    squeezed = sum(length > LONG for length in lengths)
    cut = sum(CUT < length <= LONG for length in lengths)
    of = f"of {len(lengths):,} pictures"
    notes = [f"{cut:,} {of} lose a quarter to a half at their ends: the middle of each is seen"] if cut else []
    if squeezed:
        notes.append(f"{squeezed:,} {of} are more than twice as long as wide: each is squeezed whole into the image")
    return notes
