"""The one place that knows which format a data set's name or path means."""

from __future__ import annotations

from pathlib import Path

from logreg_lightning.data import folder, idx, named, npy
from logreg_lightning.data.dataset import Source
from logreg_lightning.errors import InputError


def source_of(dataset: str, root: Path) -> Source:
    """Where the data set of that name, or in that folder, comes from; nothing is read or written yet.

    Args:
        root: Folder for what is downloaded or unpacked.

    Raises:
        InputError: it is neither a data set's name nor a folder.
    """
    if dataset in named.NAMES:
        return named.source(dataset, root)
    path = Path(dataset)
    if not path.is_dir():
        names = ", ".join(named.NAMES)
        raise InputError(f"`dataset={dataset!r}` is not known; use auto, {names}, or a folder's path")
    if npy.is_npy_folder(path):
        return npy.source(path)
    return idx.source(path, root) if idx.is_idx_folder(path) else folder.FolderSource(path, root)
