"""Files are whole or as they were; a folder has one user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from logreg_lightning.runtime.files import atomic_write, locked

WRITE = """
import sys
from pathlib import Path
from logreg_lightning.runtime.files import atomic_write
try:
    atomic_write(Path(sys.argv[1]), b"x" * 100_000)
except OSError as error:
    print(error.filename, error.strerror)
"""


def test_a_file_too_large_for_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"old")
    limited = subprocess.run(
        ["sh", "-c", 'ulimit -f 50; exec "$@"', "sh", sys.executable, "-c", WRITE, str(target)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert limited.stdout.strip() == f"{target} File too large"
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_that_is_cut_off_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(SystemExit("killed")))
    with pytest.raises(SystemExit):
        atomic_write(target, b"new")
    assert target.read_bytes() == b"old"
    monkeypatch.undo()
    atomic_write(target, b"newer")
    assert target.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [target]


def test_temporary_files_of_the_system_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_folder_is_locked_until_it_is_left(tmp_path: Path) -> None:
    with locked(tmp_path, wait=False), pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pass
    with locked(tmp_path, wait=False):
        assert list(tmp_path.iterdir()) == []
