"""Files written whole or not at all, and folders that only one process works in at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def atomic_write(path: Path, content: bytes) -> None:
    """Writes beside the target, so on the same file system whatever `$TMPDIR` is, then renames.

    A kill, a full disk or a power cut leaves the old file in place.

    Raises:
        OSError: the file cannot be written; `filename` is the target.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def locked(folder: Path, wait: bool) -> Iterator[None]:
    """Holds the folder's lock, which ends with the process, however that ends. Writes nothing.

    Raises:
        BlockingIOError: another process holds it and `wait` is false.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
