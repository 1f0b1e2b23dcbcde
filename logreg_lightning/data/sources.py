"""The one place that knows which format a data set's name or path means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from logreg_lightning.data import idx, named, npy
from logreg_lightning.data.arrays import ArraySource
from logreg_lightning.data.dataset import Source, key_of
from logreg_lightning.data.folder import FolderSource
from logreg_lightning.errors import InputError


def source_of(dataset: str, root: Path, known: Sequence[str] | None = None) -> Source:
    """Where the data set of that name, or in that folder, comes from; nothing is read or written yet.

    Args:
        root: Folder for what is downloaded or unpacked.
        known: Classes that a model has learnt and is to be tested on; None where one is to be trained.

    Raises:
        InputError: it is neither a data set's name nor a folder.
    """
    if dataset in named.NAMES:
        return ArraySource(dataset, partial(named.load, dataset, root), partial(named.prepare, dataset, root))
    folder = Path(dataset)
    if not folder.is_dir():
        if folder.exists() or folder.name != dataset:
            what = "is no folder" if folder.exists() else "does not exist"
            raise InputError(f"`dataset={dataset!r}` {what}; use a folder that holds a data set")
        names = ", ".join(named.NAMES)
        raise InputError(f"`dataset={dataset!r}` is not known; use auto, {names}, or a folder's path")
    if npy.is_npy_folder(folder):
        return ArraySource(key_of(folder), partial(npy.load, folder), is_stratified=True, holds_features=True)
    if idx.is_idx_folder(folder):
        return ArraySource(key_of(folder), partial(idx.load, folder, root), partial(idx.prepare, folder, root))
    return FolderSource(folder, root, known)
