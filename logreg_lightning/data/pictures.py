"""Pictures from anywhere, brought to the shape that a model was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MNIST_SHAPE = (1, 28, 28)


def read_picture(path: Path | IO[bytes]) -> Image:
    """A picture of any format that PIL reads, upright by its EXIF data, transparent parts on white, in L or RGB.

    Raises:
        OSError: it cannot be read or is not a picture.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path) as picture:
            return upright(picture)
    except (SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:  # as PIL calls some damage
        raise OSError(str(error)) from None


def upright(picture: Image) -> Image:
    """The same picture as a person sees it, in mode L or RGB."""
    import PIL.ExifTags
    import PIL.Image
    import PIL.ImageOps

    if picture.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1:  # a copy of each would take time
        picture = PIL.ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more a pixel: PIL would cut off at 255
        values = np.asarray(picture, dtype=np.float64)
        top = 65535 if values.max(initial=0) > 255 else 255
        return PIL.Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", picture.size, "white")
        picture = PIL.Image.alpha_composite(white, picture)
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def square_shape(in_features: int) -> tuple[int, int, int]:
    """Channels, height and width of a square image of so many values, grey or in three colours; else of one row."""
    for channels in (1, 3):
        side = math.isqrt(in_features // channels)
        if channels * side * side == in_features:
            return channels, side, side
    return 1, 1, in_features


def to_batch(images: Any, shape: Sequence[int], num_features: int | None, prepare: Callable[[Image], Tensor]) -> Tensor:
    """What a model takes, of a PIL image, a list of what this takes, uint8 values, or features.

    PIL images may have any size and mode. An array or tensor of uint8 has the shape (H, W) or (N, H, W), with the
    channels behind or, as in PyTorch, before height and width where there are three; one of floats has the shape
    (features,) or (N, features).

    Args:
        shape: (C, H, W) of the images that the model takes; (features,) where it takes none.
        num_features: Of the features that it takes; None where it takes none.
        prepare: Makes uint8 (C, H, W) of a picture in mode L or RGB.

    Returns:
        uint8 (N, C, H, W), or float (N, features).

    Raises:
        InputError: another type or shape.
    """
    from PIL.Image import Image

    if isinstance(images, Image):
        return prepare(upright(images)).unsqueeze(0)
    if isinstance(images, list | tuple):
        parts = [to_batch(image, shape, num_features, prepare) for image in images]
        if len({part.ndim for part in parts}) > 1:
            raise InputError("images and features in one list are not what this model takes; give one kind at a time")
        return torch.cat(parts)
    values = torch.as_tensor(images)
    if values.is_floating_point() and values.ndim in (1, 2) and values.shape[-1] == num_features:
        return values.reshape(-1, num_features)
    wanted = f"features, floats (N, {num_features})" if num_features is not None else ""
    if len(shape) == 3:
        channels, height, width = shape
        if values.shape[-3:] == (height, width, channels):
            values = values.movedim(-1, -3)
        single = (height, width) if channels == 1 else (channels, height, width)
        if values.dtype == torch.uint8 and values.shape[-len(single) :] == single and values.ndim <= 4:
            return values.reshape(-1, channels, height, width)
        pixels = f"uint8 values, {channels} x {height} x {width} an image"
        wanted = f"{pixels}, or {wanted}" if wanted else pixels
    raise InputError(f"images of {values.dtype} {tuple(values.shape)} are not what this model takes: {wanted}")


def to_pixels(picture: Image, shape: Sequence[int]) -> Tensor:
    """uint8 (C, H, W) of that shape: the middle of the picture, scaled; grey where C is 1."""
    import PIL.Image
    import PIL.ImageOps

    channels, height, width = shape
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = PIL.ImageOps.fit(picture, (width, height), PIL.Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(picture, dtype=np.uint8).copy())
    return values.unsqueeze(0) if channels == 1 else values.permute(2, 0, 1)


def digit_to_pixels(picture: Image) -> Tensor:
    """uint8 (1, 28, 28) of a photo or scan of one digit, made as MNIST was.

    Light on dark, whatever the paper; the ink's box scaled into 20 x 20, its proportions kept; placed by its centre of
    mass in the middle of 28 x 28 (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/), which in MNIST's own images is
    pixel (14, 14) from 0. Ink is what differs from the paper, the border's median, by a tenth of the most.
    """
    import PIL.Image

    values = np.asarray(picture.convert("L"), dtype=np.float64)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    paper = np.median(border)
    ink = values - paper if (values - paper).max() >= (paper - values).max() else paper - values
    ink = (ink / max(ink.max(), 1.0)).clip(0, 1)
    ink[ink < 0.1] = 0  # the paper's grain
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        return torch.zeros(MNIST_SHAPE, dtype=torch.uint8)
    box = PIL.Image.fromarray((255 * ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).astype(np.uint8))
    scale = 20 / max(box.size)
    size = (max(1, round(box.width * scale)), max(1, round(box.height * scale)))
    small = np.asarray(box.resize(size, PIL.Image.Resampling.LANCZOS))
    total = max(float(small.sum()), 1.0)
    middle = [float((small.sum(1 - axis) * np.arange(small.shape[axis])).sum()) / total for axis in (0, 1)]
    top, left = (min(max(round(14 - middle[axis]), 0), 28 - small.shape[axis]) for axis in (0, 1))
    placed = np.zeros((28, 28), dtype=np.uint8)
    placed[top : top + small.shape[0], left : left + small.shape[1]] = small
    return torch.from_numpy(placed).unsqueeze(0)
