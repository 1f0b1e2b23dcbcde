"""NumPy's files of features that somebody else computed: memory-mapped, so that any size is there at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.data.arrays import map_read_only
from logreg_lightning.data.dataset import Dataset, Images
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.files import check_file

FILES = ("train_features.npy", "train_labels.npy", "test_features.npy", "test_labels.npy")
"""A data set's four files; `classes.txt`, a name a line, may be there too."""

CHUNK = 2**22
"""Values that are looked at together."""


def is_npy_folder(folder: Path) -> bool:
    """Whether it is a folder of such files, complete or not."""
    return any((folder / name).exists() for name in FILES)


def load(folder: Path) -> Dataset:
    """The data set in the folder: features, float16 to float64 (N, features), and labels of any integer type (N,).

    Raises:
        InputError: a file is missing, cut, or holds something else, a number is not finite, or the files do not belong
            together.
    """
    train, test = (_images(folder / FILES[first], folder / FILES[first + 1]) for first in (0, 2))
    if test.pixels.shape[1] != train.pixels.shape[1]:
        raise InputError(
            f"{folder / FILES[2]} has {test.pixels.shape[1]} features a row, not {train.pixels.shape[1]} as {FILES[0]}"
        )
    highest = int(max(train.labels.max(), test.labels.max()))
    if not (folder / "classes.txt").exists() and highest >= len(train) + len(test):
        raise InputError(f"{folder} has the label {highest}, but not so many rows; number its classes from 0 on")
    classes = _classes(folder / "classes.txt") or tuple(map(str, range(highest + 1)))
    if highest >= len(classes):
        raise InputError(f"{folder / 'classes.txt'} names {len(classes)} classes, but there is the label {highest}")
    if len(classes) < 2:
        raise InputError(f"{folder} has one class; at least two are needed")
    return Dataset(str(folder), classes, train, test)


def _images(features_file: Path, labels_file: Path) -> Images:
    features, labels = _read(features_file), _read(labels_file)
    if features.dtype not in (np.float16, np.float32, np.float64) or features.ndim != 2 or not features.size:
        raise InputError(
            f"{features_file} holds {_type_of(features)}, not features (rows, features) of float16, float32 or float64"
        )
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(f"{labels_file} holds {_type_of(labels)}, not labels (rows,) of integers")
    if len(features) != len(labels):
        raise InputError(f"{features_file} has {len(features)} rows, but {labels_file} {len(labels)} labels")
    values = map_read_only(features)
    targets = torch.from_numpy(labels.astype(np.int64))
    if targets.min() < 0:
        raise InputError(f"{labels_file} holds the label {int(targets.min())}; the first class is 0")
    row = _first_not_finite(values)
    if row is not None:
        raise InputError(
            f"{features_file} holds a number that is not finite, NaN, infinite or beyond float32, in row {row}; "
            "leave it out"
        )
    return Images(values, targets)


def _read(file: Path) -> np.ndarray[Any, Any]:
    try:
        check_file(file)
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        files = ", ".join(FILES)
        raise InputError(
            f"{file} cannot be read ({error.strerror or error}); a folder of features holds {files}"
        ) from None
    except Exception as error:  # numpy raises whatever the bytes make it
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file} is not a complete .npy file of numbers ({reason}); save it with numpy.save") from None
    if not isinstance(values, np.ndarray):
        raise InputError(f"{file} holds several arrays; save one with numpy.save")
    return values


def _type_of(values: np.ndarray[Any, Any]) -> str:
    return f"{values.dtype} {values.shape}"


def _first_not_finite(values: Tensor) -> int | None:
    rows = max(1, CHUNK // values.shape[1])
    for begin in range(0, len(values), rows):
        chunk = values[begin : begin + rows]
        if chunk.dtype == torch.float64:
            chunk = chunk.float()  # what the model computes with
        if not bool(chunk.sum(dtype=torch.float64).isfinite()):  # three times as fast as looking at each
            bad = (~chunk.isfinite()).any(1).nonzero()
            if len(bad):
                return begin + int(bad[0])
    return None


def _classes(file: Path) -> tuple[str, ...]:
    if not file.exists():
        return ()
    try:
        names = tuple(file.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as UTF-8 text ({error}); write a class's name a line") from None
    if not names or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise InputError(f"{file} is empty, has an empty line or a name twice; write a class's name a line")
    return names
