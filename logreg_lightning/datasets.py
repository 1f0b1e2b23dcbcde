"""What a data set is here, uint8 images, int64 labels and class names, and where each one comes from."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import math
import shutil
import socket
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning.errors import InputError
from logreg_lightning.files import locked

NAMES = ("mnist", "fashion-mnist", "kmnist", "qmnist", "digits")
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}
_IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IDX_DTYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8, shape (N, C, H, W).
        labels: int64, shape (N,), each in [0, number of classes).
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the images, uint8 (n, C, H, W), and labels, int64 (n,), at `indices`, int32 (n,)."""
        return self.pixels.index_select(0, indices), self.labels.index_select(0, indices)


@dataclass(frozen=True)
class Dataset:
    """A named data set: its class names, and the images to train on and to test on.

    Attributes:
        train_indices, test_indices: int32 (n,), which of `train` and `test` are meant; None for all of them.
        val_indices: int32 (n,), which of `train` are for validation, where the data set says so itself.
        notes: Sentences that a person who trains on it should read.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    train_indices: Tensor | None = None
    test_indices: Tensor | None = None
    val_indices: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def test_count(self) -> int:
        """Images to test on."""
        return len(self.test) if self.test_indices is None else len(self.test_indices)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.train.pixels.shape
        return channels, height, width


def read_idx(path: Path) -> Tensor:
    """An IDX file as a tensor, uint8 (memory-mapped, so any size starts at once) or int32.

    The format: http://yann.lecun.com/exdb/mnist/, two zero bytes, a type byte, the number of dimensions, each
    dimension as a big-endian uint32, then the values.

    Raises:
        InputError: unreadable, not IDX, of another type than unsigned bytes or 32-bit integers, or of another
            size than its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0":
                raise InputError(f"{path} is not an IDX file (it starts with {head.hex() or 'nothing'}); {_MEND}")
            if head[2] not in _IDX_DTYPES:
                raise InputError(
                    f"{path} holds values of IDX type 0x{head[2]:02x}, not unsigned bytes (0x08) or "
                    f"32-bit integers (0x0c); {_MEND}"
                )
            dtype, dimensions = _IDX_DTYPES[head[2]], head[3]
            sizes = file.read(4 * dimensions)
        if len(sizes) < 4 * dimensions:
            raise InputError(f"{path} is cut short inside its header; {_MEND}")
        shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
        offset = 4 + 4 * dimensions
        expected = offset + math.prod(shape) * dtype.itemsize
        if size != expected:
            raise InputError(f"{path} has {size} bytes where its header promises {expected}; {_MEND}")
        if 0 in shape or not shape:
            raise InputError(f"{path} holds no values; {_MEND}")
        values = np.memmap(path, dtype, "r", offset, shape)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {_MEND}") from None
    return map_read_only(values) if dtype == np.uint8 else torch.from_numpy(values.astype(np.int32))


def map_read_only(values: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of the same memory, which may be a file's; nothing may write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)


_MEND = "delete it so that it is fetched or unpacked again, or put a whole copy there"


def load(name: str, root: Path) -> Dataset:
    """The data set of that name, or in that folder, from the files there or under `root`; nothing is downloaded.

    Raises:
        InputError: its files are not there, damaged, or do not fit together.
    """
    if name == "digits":
        return _digits()
    if name in _TORCHVISION:
        kind = _torchvision_class(name)
        classes = tuple(str(c).partition(" - ")[0] for c in kind.classes)  # "7 - seven" is 7
        files = _raw_files(kind, root / kind.__name__ / "raw")
        train, test = (_read_pair(*pair, len(classes)) for pair in files)
        return Dataset(name, classes, train, test)
    train_files, test_files = _folder_files(Path(name), root)
    train = _read_pair(*train_files, None)
    classes = tuple(map(str, range(int(train.labels.max()) + 1)))
    return Dataset(name, classes, train, _read_pair(*test_files, len(classes)))


def prepare(name: str, root: Path) -> None:
    """Makes sure that the files of a data set are under `root`: there already, unpacked, or downloaded.

    torchvision fetches them, MD5 checked, from each mirror in turn, into a folder beside their place; only whole files
    move into it. The .gz files of a folder of one's own are unpacked under `root`. A lock keeps several processes from
    doing it at once.

    Raises:
        InputError: they cannot be had; the sentence says what was tried and what helps.
    """
    if name == "digits":
        return
    try:
        if name in _TORCHVISION:
            kind = _torchvision_class(name)
            raw = root / kind.__name__ / "raw"
            if not _all_there(kind, raw):
                raw.mkdir(parents=True, exist_ok=True)
                with locked(root, wait=True):
                    if not _all_there(kind, raw):
                        _fetch(kind, name, raw)
            return
        packed = [
            (file, place)
            for file, place in zip(_found(Path(name)), itertools.chain(*_folder_files(Path(name), root)), strict=True)
            if file != place
        ]
        if packed:
            packed[0][1].parent.mkdir(parents=True, exist_ok=True)
            with locked(root, wait=True):
                for file, place in packed:
                    if not place.exists() or place.stat().st_mtime < file.stat().st_mtime:
                        _unpack(file, place)
    except OSError as error:
        raise InputError(
            f"{error.filename or root} cannot be written ({error.strerror}); name another folder with --data.root, or "
            "train without files: --data.dataset digits"
        ) from None


def is_idx_folder(folder: Path) -> bool:
    """Whether it is a folder in MNIST's format, whole or not, and so not one with a folder for each class."""
    return any((folder / f"{name}{packed}").exists() for name in _IDX_NAMES for packed in ("", ".gz"))


def is_folder(name: str) -> bool:
    """Whether it names a folder of one's own, not a data set; a data set's name comes first."""
    return name not in NAMES and Path(name).is_dir()


def _found(folder: Path) -> list[Path]:
    """The four files, raw or packed, of a folder in MNIST's format, by MNIST's names."""
    found = []
    for name in _IDX_NAMES:
        raw, packed = folder / name, folder / f"{name}.gz"
        if not raw.exists() and not packed.exists():
            raise InputError(
                f"--data.dataset {folder}: {name} or {name}.gz is not there; a folder of your own holds the four files "
                f"{', '.join(_IDX_NAMES)} in MNIST's format"
            )
        found.append(raw if raw.exists() else packed)
    return found


def _folder_files(folder: Path, root: Path) -> list[tuple[Path, Path]]:
    """Images' and labels' file to read, of the training set, then of the test set."""
    unpacked = root / "unpacked" / own_name(folder)
    files = [unpacked / file.stem if file.suffix == ".gz" else file for file in _found(folder)]
    return [(files[0], files[1]), (files[2], files[3])]


def own_name(folder: Path) -> str:
    """A name for what is made of a folder: its own, and what tells it from others of that name."""
    path = folder.resolve()
    return f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"


def _unpack(file: Path, place: Path) -> None:
    partial = place.with_name(place.name + ".partial")
    try:
        with gzip.open(file) as packed, partial.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 2**20)
        partial.replace(place)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is not a whole gzip file ({error}); put a whole copy there") from None
    finally:
        partial.unlink(missing_ok=True)


def _fetch(kind: Any, name: str, raw: Path) -> None:
    for left_by_a_kill in raw.glob(".download-*"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".download-", dir=raw))
    timeout = socket.getdefaulttimeout()
    try:
        staged = staging / kind.__name__ / "raw"
        staged.mkdir(parents=True)
        for file in raw.glob("*.gz"):
            shutil.copyfile(file, staged / file.name)
        socket.setdefaulttimeout(20)
        try:
            if name == "qmnist":
                for what in ("train", "test"):
                    kind(staging, what=what, download=True)
            else:
                kind(staging, download=True)
        except (RuntimeError, OSError, EOFError, ValueError, gzip.BadGzipFile) as error:
            tried = ", ".join(getattr(kind, "mirrors", ())) or "its only address"
            reason = " ".join(str(error).split())
            damaged = [str(f) for f in sorted(raw.glob("*.gz"))]
            found = f" ({', '.join(damaged)} there are not enough or damaged)" if damaged else ""
            raise InputError(
                f"{name} cannot be downloaded from {tried}: {reason}. Put its files, as published (.gz), into "
                f"{raw}{found}, or use --data.dataset digits, which needs no network"
            ) from None
        for file in staged.iterdir():
            file.replace(raw / file.name)
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(staging, ignore_errors=True)


def _torchvision_class(name: str) -> Any:
    import torchvision

    return getattr(torchvision.datasets, _TORCHVISION[name])


def _raw_files(kind: Any, raw: Path) -> list[tuple[Path, Path]]:
    """Images' and labels' file of the training set, then of the test set."""
    resources = kind.resources
    pairs = [resources["train"], resources["test"]] if isinstance(resources, dict) else [resources[:2], resources[2:]]
    return [(raw / Path(images[0]).stem, raw / Path(labels[0]).stem) for images, labels in pairs]


def _all_there(kind: Any, raw: Path) -> bool:
    return all(file.exists() for pair in _raw_files(kind, raw) for file in pair)


def _read_pair(images: Path, labels: Path, classes: int | None) -> Images:
    """Images whose labels are checked to be below the number of classes, where that is known."""
    pixels, targets = read_idx(images), read_idx(labels)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3:
        raise InputError(f"{images} does not hold images (N, height, width) of unsigned bytes; {_MEND}")
    if targets.ndim == 2:  # QMNIST: the class, then seven columns about the writer
        targets = targets[:, 0]
    if targets.ndim != 1 or len(targets) != len(pixels):
        raise InputError(f"{images} holds {len(pixels)} images but {labels} {len(targets)} labels; {_MEND}")
    targets = targets.long()
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (classes is not None and high >= classes):
        known = f"one of 0 to {classes - 1}" if classes is not None else "0 or more"
        raise InputError(f"{labels} holds the label {low if low < 0 else high}, not {known}; {_MEND}")
    return Images(pixels.unsqueeze(1), targets)


def _digits() -> Dataset:
    """The 1,797 8x8 digits inside scikit-learn; they have no official test set, so a fixed fifth is one.

    Pixels run from 0 to 16 there and are spread over 0 to 255 here.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "the digits data set needs scikit-learn; install it with: pip install 'logreg-lightning[digits]'"
        ) from None
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[: len(labels) // 5], order[len(labels) // 5 :]
    return Dataset(
        "digits",
        tuple(str(c) for c in bunch.target_names),
        Images(pixels[train], labels[train]),
        Images(pixels[test], labels[test]),
    )
