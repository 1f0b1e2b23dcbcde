"""What is trusted when a checkpoint is read: complete, of today's format, made of tensors and plain types alone."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from logreg_lightning.errors import InputError
from logreg_lightning.runtime.names import shortened

FORMAT = 7
"""Of the checkpoints written here; raised whenever the code here could no longer read older ones correctly."""


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content; no code in the file is run.

    Raises:
        InputError: it is not a complete checkpoint of this project.
    """
    with content_of(path):
        checkpoint = dict(torch.load(_checked(path), map_location="cpu", weights_only=True))
        file_format = checkpoint["format"]
    if file_format != FORMAT:
        raise InputError(
            f"{path} is a checkpoint of format {file_format}, and this version of logreg_lightning reads format "
            f"{FORMAT}; use the version that wrote it, which its run's results.json names, or start a new run"
        )
    return checkpoint


@contextlib.contextmanager
def content_of(path: Path) -> Iterator[None]:
    """Inside, a checkpoint's content is taken for what it should be, and what goes wrong is the file's fault.

    Raises:
        InputError: something went wrong.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); get access to it") from None
    except Exception as error:  # zipfile, torch and Lightning raise whatever the bytes make them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is not a complete checkpoint of this project ({shortened(reason, 160)}); use another file or run"
        ) from None


def _checked(path: Path) -> IO[bytes]:
    """A checkpoint's parts, whose checksums torch.load does not compare, as they are once they were compared.

    torch has a reader of zip archives of its own, which may find other bytes than Python's where an index is damaged.
    """
    checked = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(checked, "w") as copy:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is compressed")  # into what may be more than memory
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
