"""Data sets by name: downloaded by torchvision, or shipped inside scikit-learn."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from logreg_lightning.data import idx
from logreg_lightning.data.dataset import Dataset, Images, writing
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.files import locked, replace

NAMES = ("mnist", "fashion-mnist", "kmnist", "qmnist", "digits")
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}


def spelt(name: str, known: Iterable[str]) -> str:
    """The known name that this one is but for case, hyphens and underscores; itself where it is none of them."""

    def plain(text: str) -> str:
        return text.casefold().replace("-", "").replace("_", "")

    return next((other for other in known if plain(other) == plain(name)), name)


def load(name: str, root: Path) -> Dataset:
    """The data set of that name, from the files under `root`; nothing is downloaded.

    Raises:
        InputError: its files are missing, damaged, or do not belong together.
    """
    if name == "digits":
        return _digits()
    kind = _torchvision_class(name)
    classes = tuple(str(c).partition(" - ")[0] for c in kind.classes)  # "7 - seven" is 7
    files = _raw_files(kind, root / kind.__name__ / "raw")
    train, test = (Images(*idx.read_pair(*pair, len(classes))) for pair in files)
    return Dataset(name, classes, train, test)


def prepare(name: str, root: Path) -> None:
    """Makes sure that the files of a data set are under `root`: there already, unpacked, or downloaded.

    torchvision downloads them, MD5 checked, from each mirror in turn, into a folder beside their place; only complete
    files are moved in. A lock keeps several processes from doing it at once.

    Raises:
        InputError: the files are not available; the sentence says what was tried and what helps.
    """
    if name == "digits":
        return
    kind = _torchvision_class(name)
    raw = root / kind.__name__ / "raw"
    if not _is_complete(kind, raw):
        with writing(root, suggest_digits=True):
            raw.mkdir(parents=True, exist_ok=True)
            with locked(root, wait=True):
                if not _is_complete(kind, raw):
                    _fetch(kind, name, raw)


def _fetch(kind: Any, name: str, raw: Path) -> None:
    for left_by_a_kill in raw.glob(".download-*"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    staging = raw / Path(tempfile.mkdtemp(prefix=".download-", dir=raw)).name  # relative if raw is
    timeout = socket.getdefaulttimeout()
    try:
        staged = staging / kind.__name__ / "raw"
        staged.mkdir(parents=True)
        for file in raw.glob("*.gz"):
            shutil.copyfile(file, staged / file.name)
        socket.setdefaulttimeout(20)
        try:
            for what in ("train", "test") if name == "qmnist" else (None,):
                _download(kind, staging, {"what": what} if what else {})
        except (RuntimeError, OSError, EOFError, ValueError, gzip.BadGzipFile) as error:
            tried = ", ".join(getattr(kind, "mirrors", ())) or "its only address"
            reason = " ".join(str(error).split())
            packed = ", ".join(str(file) for file in sorted(raw.glob("*.gz")))
            incomplete = f" (of those there, {packed}, some are missing or damaged)" if packed else ""
            raise InputError(
                f"{name} cannot be downloaded from {tried}: {reason}. Put its files, as published (.gz), into "
                f"{raw}{incomplete}, or use `dataset='digits'`, which needs no network"
            ) from None
        for file in staged.iterdir():
            replace(file, raw / file.name)
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


def _is_complete(kind: Any, raw: Path) -> bool:
    return all(file.exists() for pair in _raw_files(kind, raw) for file in pair)


def _digits() -> Dataset:
    """The 1,797 8x8 digits inside scikit-learn; they have no official test set, so a fixed fifth is held out as one.

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


def _download(kind: Any, staging: Path, options: dict[str, str]) -> None:
    """torchvision's own download, from each mirror in turn: its 0.26 stays with a mirror whose file is damaged."""
    *others, last = [{"mirrors": [mirror]} for mirror in getattr(kind, "mirrors", ())] or [{}]
    for mirror in others:
        with contextlib.suppress(RuntimeError, OSError, EOFError, ValueError):
            type(kind.__name__, (kind,), mirror)(staging, **options, download=True)
            return
    type(kind.__name__, (kind,), last)(staging, **options, download=True)
