"""Where a data set's images come from, by its name or folder: as pixels, or as a backbone's features of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from logreg_lightning.data import folder as folders
from logreg_lightning.data import named, npy, pictures
from logreg_lightning.data.dataset import Dataset, Images
from logreg_lightning.errors import InputError
from logreg_lightning.features import backbones
from logreg_lightning.features.backbones import Backbone
from logreg_lightning.features.extract import Look, Pictures, PixelPictures, load_features, place_of, prepare_features

if TYPE_CHECKING:
    from PIL.Image import Image

PIXEL_SIZE = 28
"""Height and width that pictures are scaled to where nothing else is said."""


@dataclass(frozen=True)
class Source:
    """A data set by its settings, as `ImageDataModule` explains them.

    Raises:
        InputError: the data set or the backbone is not known, or they do not go together.
    """

    dataset: str
    root: Path
    image_size: int | str
    color: bool
    features: str

    def __post_init__(self) -> None:
        if self.dataset not in named.NAMES and not named.is_folder(self.dataset):
            names = ", ".join(named.NAMES)
            raise InputError(f"`dataset={self.dataset!r}` is not known; use auto, {names}, or a folder's path")
        backbones.check_name(self.features)
        if self.features != "pixels" and self._is_npy_folder:
            raise InputError(
                f"`dataset={self.dataset!r}` holds features already; leave `features={self.features!r}` out"
            )

    @property
    def _folder(self) -> Path | None:
        return Path(self.dataset) if named.is_folder(self.dataset) else None

    @property
    def _is_npy_folder(self) -> bool:
        return self._folder is not None and npy.is_npy_folder(self._folder)

    @property
    def _class_folder(self) -> Path | None:
        """The folder with a folder for each class, if that is the data set."""
        other = self._folder is None or named.is_idx_folder(self._folder) or self._is_npy_folder
        return None if other else self._folder

    @property
    def is_stratified(self) -> bool:
        """Whether the validation images are the same share of each class."""
        return self._class_folder is not None or self._is_npy_folder

    @property
    def what(self) -> str:
        """What a model learns from: pixels, features of a backbone by its name, or those of .npy files."""
        return "npy" if self._is_npy_folder else self.features

    def prepare(self, devices: Sequence[torch.device], workers: int) -> None:
        """Fetches, unpacks and decodes files, and computes features on the devices, unless that is done already.

        Raises:
            InputError: something is missing, damaged, or cannot be written.
        """
        if self._is_npy_folder:
            return
        if self.features != "pixels":
            self._backbone()  # refused before anything is written
        if self._class_folder is None:
            named.prepare(self.dataset, self.root)
        elif self.features == "pixels":
            size = PIXEL_SIZE if isinstance(self.image_size, str) else self.image_size
            folders.prepare(self._class_folder, self.root, size, self.color)
        if self.features != "pixels":
            for pictures, place in self._pictures:
                prepare_features(place, pictures, self._backbone(), devices, workers)

    def load(self) -> Dataset:
        """The data set; `prepare` must have been called.

        Raises:
            InputError: its files are damaged or do not belong together.
        """
        if self._is_npy_folder:
            return npy.load(Path(self.dataset))
        if self.features == "pixels":
            folder = self._class_folder
            return named.load(self.dataset, self.root) if folder is None else folders.load(folder, self.root)
        about = self._backbone().about
        if self._class_folder is not None:
            ((files, place),) = self._pictures
            assert isinstance(files, folders.FilePictures)
            return files.dataset(*load_features(place, files), about)
        data = named.load(self.dataset, self.root)
        train, test = (
            Images(load_features(place, pictures)[0], images.labels, _look_at(images))
            for images, (pictures, place) in zip((data.train, data.test), self._pictures, strict=True)
        )
        return dataclasses.replace(data, train=train, test=test, backbone=about)

    def examples(self, number: int) -> list[Image]:
        """So many of its pictures at most, in mode L or RGB; none where there are none or they cannot be read.

        Raises:
            InputError: its files are damaged.
        """
        if self._is_npy_folder:
            return []
        if self._class_folder is None:
            pixels = PixelPictures(named.load(self.dataset, self.root).train.pixels[:number])
            return [pixels.read(row) for row in range(len(pixels.contents))]
        found = []
        files = folders.layout(self._class_folder).files
        for path, _, _ in files[:: max(1, len(files) // number)][:number]:
            with contextlib.suppress(OSError):
                found.append(pictures.read_picture(path))
        return found

    def _backbone(self) -> Backbone:
        return backbones.load(self.features, None if isinstance(self.image_size, str) else self.image_size)

    @functools.cached_property
    def _pictures(self) -> list[tuple[Pictures, Path]]:
        """The pictures to compute features of, and where these go."""
        backbone = self._backbone()
        name = self.dataset if self._folder is None else named.cache_name(self._folder)
        if self._class_folder is not None:
            files = folders.FilePictures(self._class_folder, self.root)
            return [(files, place_of(self.root, name, backbone))]
        data = named.load(self.dataset, self.root)
        return [
            (PixelPictures(images.pixels), place_of(self.root, f"{name}-{split}", backbone))
            for split, images in (("train", data.train), ("test", data.test))
        ]


def _look_at(images: Images) -> Look:
    def look(indices: Tensor, size: int) -> Tensor:
        return images.take(indices)[0]

    return look
