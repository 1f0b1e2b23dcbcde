"""IDX, the file format that MNIST came in, and a folder of such files: memory-mapped, so any size is there at once."""

from __future__ import annotations

import gzip
import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.data.arrays import map_read_only
from logreg_lightning.data.dataset import Dataset, Images, content_of, key_of, stat_of, writing
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.files import check_file, locked, read_json, replace, write_json

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""MNIST's names of a data set's four files."""

REPLACE_IT = "replace it with a complete copy, or delete it to have it downloaded or unpacked again"

MOST_DIMENSIONS = 3
"""Images have three: their number, rows and columns."""

_DTYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}


def read_idx(path: Path) -> Tensor:
    """An IDX file as a tensor, uint8 (memory-mapped, so any size starts at once) or int32.

    The format: http://yann.lecun.com/exdb/mnist/, two zero bytes, a type byte, the number of dimensions, each
    dimension as a big-endian uint32, then the values.

    Raises:
        InputError: unreadable, not IDX, of another type than unsigned bytes or 32-bit integers, or of another
            size than its header says.
    """
    try:
        check_file(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0":
                raise InputError(f"{path} is not an IDX file (it starts with {head.hex() or 'nothing'}); {REPLACE_IT}")
            if head[2] not in _DTYPES:
                raise InputError(
                    f"{path} holds values of IDX type 0x{head[2]:02x}, not unsigned bytes (0x08) or "
                    f"32-bit integers (0x0c); {REPLACE_IT}"
                )
            dtype, dimensions = _DTYPES[head[2]], head[3]
            sizes = file.read(4 * dimensions)
        if dimensions > MOST_DIMENSIONS:
            raise InputError(f"{path} has {dimensions} dimensions, not {MOST_DIMENSIONS} at most; {REPLACE_IT}")
        if len(sizes) < 4 * dimensions:
            raise InputError(f"{path} is cut short inside its header; {REPLACE_IT}")
        shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
        offset = 4 + 4 * dimensions
        expected = offset + math.prod(shape) * dtype.itemsize
        if size != expected:  # torchvision checks only the .gz: an unpacked file passes however short it is
            raise InputError(f"{path} has {size} bytes where its header promises {expected}; {REPLACE_IT}")
        if 0 in shape or not shape:
            raise InputError(f"{path} holds no values; {REPLACE_IT}")
        values = np.memmap(path, dtype, "r", offset, shape)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {REPLACE_IT}") from None
    return map_read_only(values) if dtype == np.uint8 else torch.from_numpy(values.astype(np.int32))


def read_pair(images: Path, labels: Path, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, 1, H, W), and labels, int64 (N,), below the number of classes where that is known.

    Raises:
        InputError: a file is damaged, or the two do not belong together.
    """
    pixels, targets = read_idx(images), read_idx(labels)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3:
        raise InputError(f"{images} does not hold images (N, height, width) of unsigned bytes; {REPLACE_IT}")
    if targets.ndim == 2:  # QMNIST: the class, then seven columns about the writer
        targets = targets[:, 0]
    if targets.ndim != 1 or len(targets) != len(pixels):
        raise InputError(f"{images} holds {len(pixels)} images but {labels} {len(targets)} labels; {REPLACE_IT}")
    targets = targets.long()
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        known = f"one of 0 to {num_classes - 1}" if num_classes is not None else "0 or more"
        raise InputError(f"{labels} holds the label {low if low < 0 else high}, not {known}; {REPLACE_IT}")
    return pixels.unsqueeze(1), targets


def is_idx_folder(folder: Path) -> bool:
    """Whether it is a folder in MNIST's format, complete or not."""
    return any((folder / f"{name}{packed}").exists() for name in FILES for packed in ("", ".gz"))


def load(folder: Path, root: Path) -> Dataset:
    """The data set in the folder; `prepare` must have been called.

    Raises:
        InputError: its files are missing, damaged, or do not belong together.
    """
    train_images, train_labels, test_images, test_labels = (raw for _, raw in _files(folder, root))
    train = Images(*read_pair(train_images, train_labels, None))
    highest = int(train.labels.max())
    if highest >= len(train):
        raise InputError(
            f"{train_labels} has the label {highest}, but not so many images; number its classes from 0 on"
        )
    classes = tuple(map(str, range(highest + 1)))
    test = Images(*read_pair(test_images, test_labels, len(classes)))
    if test.pixels.shape[2:] != train.pixels.shape[2:]:
        sizes = [" x ".join(map(str, images.pixels.shape[2:])) for images in (train, test)]
        raise InputError(
            f"{train_images} holds images of {sizes[0]} pixels, {test_images} of {sizes[1]}; make them equal"
        )
    return Dataset(str(folder), classes, train, test)


def prepare(folder: Path, root: Path) -> None:
    """Unpacks the folder's .gz files under `root`, except those that were unpacked since they last changed.

    Raises:
        InputError: a file is missing or damaged, or cannot be written.
    """
    if _to_unpack(folder, root):  # a root that holds all may be read-only
        with writing(root, suggest_digits=True):
            (root / "unpacked" / key_of(folder)).mkdir(parents=True, exist_ok=True)
            with locked(root, wait=True):
                for packed, raw in _to_unpack(folder, root):
                    _unpack(packed, raw)


def _to_unpack(folder: Path, root: Path) -> list[tuple[Path, Path]]:
    """The packed files that were not unpacked since they last changed, each with the file to unpack it into."""
    return [(packed, raw) for packed, raw in _files(folder, root) if packed != raw and not _is_of(raw, packed)]


def _is_of(raw: Path, packed: Path) -> bool:
    """Whether `raw` was unpacked from what is in `packed` now."""
    stat, content = read_json(_note(raw)) or (None, None)
    return raw.exists() and (stat == stat_of(packed) or content == content_of(packed.read_bytes()))


def _note(raw: Path) -> Path:
    """The file that says what `raw` was unpacked from."""
    return raw.with_name(f"{raw.name}.json")


def _files(folder: Path, root: Path) -> list[tuple[Path, Path]]:
    """The four files, raw or packed, each with the file to read."""
    files = []
    for name in FILES:
        raw, packed = folder / name, folder / f"{name}.gz"
        if not raw.exists() and not packed.exists():
            raise InputError(
                f"`dataset={str(folder)!r}`: {name} or {name}.gz is missing; a folder of your own holds the four files "
                f"{', '.join(FILES)} in MNIST's format"
            )
        files.append((raw, raw) if raw.exists() else (packed, root / "unpacked" / key_of(folder) / name))
        try:
            check_file(files[-1][0])
            files[-1][0].open("rb").close()
        except OSError as error:
            raise InputError(f"{files[-1][0]} cannot be read ({error.strerror}); {REPLACE_IT}") from None
    return files


def _unpack(packed: Path, raw: Path) -> None:
    identity = [stat_of(packed), content_of(packed.read_bytes())]
    partial = raw.with_name(raw.name + ".partial")
    try:
        with gzip.open(packed) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        replace(partial, raw)
        write_json(_note(raw), identity)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{packed} is not a complete gzip file ({error}); replace it with a complete copy") from None
    finally:
        partial.unlink(missing_ok=True)
