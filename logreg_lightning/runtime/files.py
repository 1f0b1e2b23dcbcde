"""Files written whole or not at all, and folders that only one process works in at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

LOCK = ".lock"
"""Name of the file in a folder that is locked; it holds nothing, and what lists a folder ignores it."""

PATIENCE = 5.0 if sys.platform == "win32" else 0.0
"""Seconds for which to try again to replace a file: on Windows that fails while a virus scanner or a reader has it."""

DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""Errors of a file that somebody may not read or write."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a file that cannot be written, by anybody."""


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
        replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_json(path: Path, value: Any) -> None:
    """Writes a value with a checksum, whole or not at all.

    Raises:
        OSError: the file cannot be written; `filename` is the target.
    """
    atomic_write(path, json.dumps([value, _checksum(value)]).encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote; None where that is not there or is damaged."""
    try:
        value, checksum = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    return value if checksum == _checksum(value) else None


def _checksum(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def check_file(path: Path) -> None:
    """Makes sure that nobody waits for ever for what is in a file.

    Raises:
        OSError: it is a pipe, a socket or a device, or there is nothing.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder says that it is one
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and no file")


def replace(source: Path, target: Path) -> None:
    """Renames a file or folder, over the target if there is one.

    Raises:
        OSError: it cannot be done, on Windows after some seconds.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def locked(folder: Path, wait: bool, name: str = LOCK) -> Iterator[None]:
    """Holds the folder's lock of that name, which ends with the process, however that ends.

    Raises:
        BlockingIOError: another process holds it and `wait` is false.
        OSError: the folder cannot be written.
    """
    # Not `fcntl`, which Windows does not have.
    lock = filelock.FileLock(folder / name, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BlockingIOError(f"{folder} is locked") from None
    try:
        yield
    finally:
        lock.release()
