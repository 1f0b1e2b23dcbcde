"""Files written whole or not at all, and folders that one process at a time works in."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes beside the target, on the same file system whatever `$TMPDIR` is, then renames.

    A kill, a full disk or a power cut leaves the file that was there before.

    Raises:
        OSError: it cannot be written; its `filename` is the target.
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
    """Holds the folder's lock, which ends with the process however that ends; nothing is written.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
