"""What is trusted when a checkpoint is read: complete, of today's format, made of tensors and plain types alone."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from logreg_lightning.errors import InputError

FORMAT = 7
"""Of the checkpoints written here; raised whenever the code here could no longer read older ones correctly."""


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content; no code in the file is run.

    Raises:
        InputError: it is not a complete checkpoint of this project.
    """
    try:
        checkpoint = dict(torch.load(_checked(path), map_location="cpu", weights_only=True))
        file_format = checkpoint["format"]
    except Exception as error:  # zipfile and torch.load raise whatever the bytes make them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is not a complete checkpoint of this project ({reason[:120]}); use another file or run"
        ) from None
    if file_format != FORMAT:
        raise InputError(
            f"{path} is a checkpoint of format {file_format}, and this version of logreg_lightning reads format "
            f"{FORMAT}; use the version that wrote it, which its run's results.json names, or start a new run"
        )
    return checkpoint


def _checked(path: Path) -> IO[bytes]:
    """A checkpoint's parts, whose checksums torch.load does not compare, as they are once they were compared.

    torch has a reader of zip archives of its own, which may find other bytes than Python's where an index is damaged.
    """
    checked = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(checked, "w") as copy:
        for name in archive.namelist():
            try:
                copy.writestr(name, archive.read(name))
            except zipfile.BadZipFile as error:
                raise ValueError(f"its part {name} is damaged: {error}") from None
    checked.seek(0)
    return checked


def as_file(path: str | Path | IO[bytes]) -> IO[bytes]:
    """A checkpoint that `read` takes, as a file for what reads one itself; what is no path is taken as it is."""
    if not isinstance(path, str | Path):
        return path
    content = io.BytesIO()
    torch.save(read(Path(path)), content)
    content.seek(0)
    return content
