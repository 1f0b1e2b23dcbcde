"""Pictures from anywhere, brought to the shape that a model was trained on."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import io
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.errors import InputError
from logreg_lightning.runtime.files import check_file

if TYPE_CHECKING:
    import PIL.Image
    from PIL.Image import Image


PixelRange = tuple[float, float]
"""Which value of a picture of more than 8 bits becomes 0, and which 255."""

LONG = 2.0
"""How many times as long as an image's shape a picture may be to be cropped; a longer one is squeezed into it whole."""

LARGE = 20_000_000
"""Pixels of a picture beyond which one is decoded at a time, and no more of them are kept: each takes 16 bytes."""

_decoding_large = threading.Lock()

_SIGNATURES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"DDS ": "DDS",
    b"\0\0\0\x0cjP": "JPEG 2000",
}
"""What a file begins with that is meant to be a picture."""

_PLUGINS = {
    "AVIF": (("avif", "avis"), "pillow_avif", "pillow-avif-plugin"),
    "HEIC": (("heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"), "pillow_heif", "pillow-heif"),
}
"""Of formats that Pillow may need a package for: their brands (ISO/IEC 14496-12, 4.3), its module and its name."""


def white(picture: Image) -> str:
    """The paper of a picture whose transparent parts are seen on white, as browsers show them."""
    return "white"


def read_picture(path: Path | IO[bytes], paper: Callable[[Image], str] = white) -> Image:
    """A picture of any format that PIL reads, as `upright` makes it; one of more than `LARGE` pixels is made smaller.

    Raises:
        OSError: it cannot be read or is no picture; `reason_of` says why.
    """
    with _opened(path) as picture:
        picture = upright(picture, paper)
        times = picture.width * picture.height / LARGE
        return picture if times <= 1 or is_deep(picture) else picture.reduce(math.ceil(math.sqrt(times)))


def extremes(data: bytes) -> PixelRange | None:
    """The least and the greatest number in a file's picture, if that has more than 8 bits a value; else None."""
    is_grey16 = data[24:26] == b"\x10\0"  # of a PNG: bits, and type of colour
    if data.startswith((b"\xff\xd8\xff", b"GIF8", b"RIFF")) or (data.startswith(b"\x89PNG") and not is_grey16):
        return None  # which is known without opening it
    with contextlib.suppress(OSError), _opened(io.BytesIO(data)) as picture:
        if is_deep(picture):
            finite = (block[np.isfinite(block)] for block in _blocks(upright(picture)))
            ends = [(float(block.min()), float(block.max())) for block in finite if len(block)]
            return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None
    return None


def pixel_range(minima: Sequence[float], maxima: Sequence[float]) -> PixelRange | None:
    """What decides how bright all pictures of more than 8 bits of a data set are, from those to train on.

    The 5th percentile of their least values and the 95th of their greatest: one picture with a flaw changes little.

    Args:
        minima, maxima: Of each such picture; None is returned where there is none.
    """
    if not len(minima):
        return None
    low, high = float(np.percentile(minima, 5)), float(np.percentile(maxima, 95))
    return low, high if high > low else low + max(1.0, abs(low))


def eight_bits(picture: Image, pixel_range: Sequence[float] | None) -> Image:
    """The picture in mode L or RGB: one of more than 8 bits is scaled, and cut off at the ends of the range.

    Args:
        picture: As `upright` returns it.
        pixel_range: None where none is known: 0 to 65535 for integers, 0 to 1 for floats.
    """
    import PIL.Image

    if not is_deep(picture):
        return picture
    low, high = pixel_range or ((0, 1) if picture.mode == "F" else (0, 65535))
    scaled = np.empty((picture.height, picture.width), dtype=np.uint8)
    row = 0
    for block in _blocks(picture):
        values = np.nan_to_num(block, nan=low, posinf=high, neginf=low).clip(low, high)
        scaled[row : row + len(block)] = ((values - low) * (255 / (high - low))).round()
        row += len(block)
    return PIL.Image.fromarray(scaled)


def _blocks(picture: Image) -> Iterator[np.ndarray[Any, Any]]:
    """A picture's values, float64 (rows, width), a million or so at a time: all of them would take much memory."""
    values, rows = np.asarray(picture), max(1, 2**20 // picture.width)
    for begin in range(0, len(values), rows):
        with np.errstate(invalid="ignore"):  # of a NaN that the processor would report
            yield values[begin : begin + rows].astype(np.float64)


def is_deep(picture: Image) -> bool:
    """Whether it has more than 8 bits a value: these are integers, or floats in mode F."""
    return picture.mode.startswith("I") or picture.mode == "F"


def upright(picture: Image, paper: Callable[[Image], str] = white) -> Image:
    """A new picture as a person sees it: turned by its EXIF data, transparent parts on paper, in mode L or RGB.

    One of more than 8 bits a value is turned alone, and is in mode I;16, I or F, with NaN where it has no data; see
    `eight_bits`.

    Args:
        paper: The colour behind transparent parts, of a picture in mode RGBA that has some.
    """
    import PIL.Image

    picture.load()
    if 0 in picture.size:
        raise OSError("it has no pixels")
    info, turn = dict(picture.info), _turn(picture)
    if is_deep(picture):
        picture = _deep(picture)
    if turn is not None:  # a copy of each would take time
        picture = picture.transpose(turn)
    if not is_deep(picture):
        if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in info:
            picture = picture.convert("RGBA")
            picture = PIL.Image.alpha_composite(PIL.Image.new("RGBA", picture.size, paper(picture)), picture)
        picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    picture.info = {}  # nobody shall turn it again
    return picture


def reason_of(error: OSError) -> str:
    """Why a file is no picture, in a few words."""
    return " ".join((error.strerror or str(error)).split())[:120] or type(error).__name__


@contextlib.contextmanager
def _opened(path: Path | IO[bytes]) -> Iterator[Image]:
    """The file's picture, to be decoded inside; whatever Pillow raises meanwhile is an OSError."""
    import PIL.Image

    head = b""
    try:
        if isinstance(path, Path):
            check_file(path)
        with path.open("rb") if isinstance(path, Path) else contextlib.nullcontext(path) as file:
            head = file.read(64)
            file.seek(0)
            _add_plugin(head)
            _quiet_libtiff()
            with PIL.Image.open(file) as picture:
                is_large = picture.width * picture.height > LARGE
                with _decoding_large if is_large else contextlib.nullcontext():
                    yield picture
    except PIL.UnidentifiedImageError:
        raise OSError(_unidentified(head)) from None
    except OSError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise OSError(str(error)) from None
    except MemoryError:
        raise OSError("it is too large for this machine's memory") from None
    except Exception as error:  # Pillow's plugins raise whatever the bytes make them
        raise OSError(f"damaged: {type(error).__name__} {error}") from None


@functools.cache
def _quiet_libtiff() -> None:
    """libtiff, which Pillow's C part brings, writes to stderr what it finds wrong; what counts Pillow raises."""
    import PIL._imaging

    with contextlib.suppress(OSError, AttributeError):  # a build that hides it
        library = ctypes.CDLL(PIL._imaging.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def _turn(picture: Image) -> PIL.Image.Transpose | None:
    """How to turn a picture so that it is upright; None where its EXIF data say nothing, or are damaged."""
    import PIL.ExifTags
    from PIL.Image import Transpose

    try:
        orientation = picture.getexif().get(PIL.ExifTags.Base.Orientation)
    except Exception:  # as in `_opened`; a viewer shows such a picture too
        return None
    # Not ImageOps.exif_transpose: it writes all the EXIF data anew, and refuses a picture of which it cannot.
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(orientation) if isinstance(orientation, int) else None


def _deep(picture: Image) -> Image:
    """The values as the file means them, of a picture of more than 8 bits."""
    import PIL.Image

    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    values = np.asarray(picture)
    if picture.mode == "I" and tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
        values = values.view(np.uint32)  # which Pillow takes for signed
    floats = values.astype(np.float32)
    try:
        nodata = np.float32(str(tags[_GDAL_NODATA]).strip("\0 "))
    except (KeyError, ValueError):
        return PIL.Image.fromarray(floats) if values.dtype == np.uint32 else picture.copy()
    return PIL.Image.fromarray(np.where(floats == nodata, np.float32(np.nan), floats))


_BITS, _SAMPLE_FORMAT, _GDAL_NODATA = 258, 339, 42113
"""Tags of TIFF; the last, a text, is the value of pixels without data (https://gdal.org/drivers/raster/gtiff.html)."""


def _iso_format(head: bytes) -> str | None:
    """AVIF or HEIC where a file's first bytes say so, whatever its name."""
    if head[4:8] != b"ftyp":
        return None
    end = min(len(head), int.from_bytes(head[:4], "big"))
    brands = {head[begin : begin + 4].decode("latin-1") for begin in (8, *range(16, end, 4))}
    return next((name for name, (known, _, _) in _PLUGINS.items() if brands & set(known)), None)


def _add_plugin(head: bytes) -> None:
    """Makes Pillow read AVIF or HEIC, if a file begins so and the package for it is installed."""
    import PIL.features

    name = _iso_format(head)
    if name is not None and not (name == "AVIF" and PIL.features.check("avif")):
        with contextlib.suppress(ImportError):
            module = importlib.import_module(_PLUGINS[name][1])
            if name == "HEIC":
                module.register_heif_opener()


def _unidentified(head: bytes) -> str:
    """Why Pillow knows no format for a file that begins so."""
    import PIL.features

    if not head:
        return "it is empty"
    if name := _iso_format(head):
        module, package = _PLUGINS[name][1:]
        if importlib.util.find_spec(module) is None and not (name == "AVIF" and PIL.features.check("avif")):
            return f"{name}, which needs a package: pip install {package}"
        return f"damaged {name}"
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return f"{name}, damaged or of a kind that Pillow does not read"
    return "no picture"


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
        prepare: Makes uint8 (C, H, W) of a picture as `upright` returns it.

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


def length_of(size: Sequence[int], shape: Sequence[int]) -> float:
    """How many times as wide or as high as an image of that shape (C, H, W) a picture (width, height) is; 1 or more."""
    ratio = size[0] * shape[1] / (size[1] * shape[2])
    return max(ratio, 1 / ratio)


def to_pixels(picture: Image, shape: Sequence[int]) -> Tensor:
    """uint8 (C, H, W) of that shape: the middle of the picture, scaled; grey where C is 1.

    One that is more than `LONG` times as long as the shape is squeezed into it whole.
    """
    import PIL.Image
    import PIL.ImageOps

    channels, height, width = shape
    picture = picture.convert("L" if channels == 1 else "RGB")
    if length_of(picture.size, shape) > LONG:
        picture = picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
    elif picture.size != (width, height):
        picture = PIL.ImageOps.fit(picture, (width, height), PIL.Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(picture, dtype=np.uint8).copy())
    return values.unsqueeze(0) if channels == 1 else values.permute(2, 0, 1)


def edge_mean(pixels: Tensor) -> float:
    """The mean of the pixels at the edges of an image (C, H, W)."""
    edge = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
    return float(edge.float().mean())
