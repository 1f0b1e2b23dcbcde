"""A data set as a model sees it: a source's pictures, through pixels or a backbone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from logreg_lightning.data.dataset import Dataset, Source
from logreg_lightning.data.sources import source_of
from logreg_lightning.errors import InputError
from logreg_lightning.features import backbones
from logreg_lightning.features.backbones import PIXEL_SIZE, Extractor, Pixels
from logreg_lightning.features.cache import Cache
from logreg_lightning.features.extract import extract, extracted


@dataclass(frozen=True)
class View:
    """A data set by its settings, as `ImageDataModule` explains them.

    Args:
        known: Classes that a model has learnt and is to be tested on: labels are numbered by these, some of which may
            be missing. None where a model is to be trained.

    Raises:
        InputError: the data set or the backbone is not known, or they do not go together.
    """

    dataset: str
    root: Path
    image_size: int | str
    color: bool
    features: str
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
        return source_of(self.dataset, self.root, self.known)

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
                extract(Cache(self.root, key, extractor), pictures, extractor, devices, workers)

    def load(self) -> Dataset:
        """The data set; `prepare` must have been called.

        Raises:
            InputError: its files are damaged or do not belong together.
        """
        extractor = self._extractor()
        parts: list[tuple[Tensor, list[int]]] = []
        for key, pictures in self.source.pictures.items():
            pixels = pictures.pixels if extractor.is_identity else None
            parts.append((pixels, []) if pixels is not None else extracted(Cache(self.root, key, extractor), pictures))
        data = dataclasses.replace(self.source.dataset(parts), backbone=extractor.about)
        return data if self.known is None else data.relabelled(self.known)

    def _extractor(self) -> Extractor:
        size = None if isinstance(self.image_size, str) else self.image_size
        if self.features == Pixels.name:
            return Pixels(size or PIXEL_SIZE, self.color)
        return backbones.load(self.features, size)
