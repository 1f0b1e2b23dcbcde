"""Data sets that are arrays already, in memory or in a file that is mapped: images, or features of them."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.data.dataset import Dataset, Images, Pictures, content_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from logreg_lightning.data.pictures import PixelRange


class ArrayPictures:
    """Images in memory as pictures.

    Args:
        pixels: uint8 (N, C, H, W), C 1 or 3.
    """

    pixel_range = None

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    @functools.cached_property
    def contents(self) -> list[str]:
        shape = str(tuple(self.pixels.shape[1:])).encode()
        return [content_of(shape + image.numpy().tobytes()) for image in self.pixels]

    def read(self, index: int) -> Image:
        import PIL.Image

        pixels = self.pixels[index].movedim(0, -1).numpy()
        return PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

    def thumbnails(self, indices: Tensor, size: int) -> Tensor:
        return self.pixels.index_select(0, indices)


@dataclass
class ArraySource:
    """A data set of two arrays, one to train on and one to test on.

    Args:
        key: A name for what is made of its pictures.
        load: Maps its files.
        prepare, is_stratified, holds_features: As `Source` has them.
    """

    key: str
    load: Callable[[], Dataset]
    prepare: Callable[[], None] = lambda: None
    is_stratified: bool = False
    holds_features: bool = False
    pixel_range: PixelRange | None = None  # its images have 8 bits

    @functools.cached_property
    def _loaded(self) -> Dataset:
        return self.load()

    @functools.cached_property
    def pictures(self) -> dict[str, Pictures]:
        if self.holds_features:
            return {}
        sets = {"train": self._loaded.train, "test": self._loaded.test}
        return {f"{self.key}-{name}": ArrayPictures(images.pixels) for name, images in sets.items()}

    def dataset(self, parts: Sequence[tuple[Tensor, Mapping[int, str]]]) -> Dataset:
        if self.holds_features:
            return self._loaded
        sets = (self._loaded.train, self._loaded.test)
        train, test = (
            Images(values, images.labels, pictures)
            for (values, _), images, pictures in zip(parts, sets, self.pictures.values(), strict=True)
        )
        return dataclasses.replace(self._loaded, train=train, test=test)

    def examples(self, count: int) -> list[Image]:
        if self.holds_features:
            return []
        pictures = ArrayPictures(self._loaded.train.pixels[:count])
        return [pictures.read(index) for index in range(len(pictures.pixels))]


def map_read_only(values: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of the same memory, which may be a file's; nothing may write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)
