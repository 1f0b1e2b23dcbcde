"""Files are whole or as they were; a folder has one user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Patch

from logreg_lightning.runtime import files
from logreg_lightning.runtime.files import LOCK, atomic_write, locked, replace

# Of the package a child needs one file, which needs nothing of the rest.
WRITE = """
import runpy, sys
from pathlib import Path
try:
    runpy.run_path(sys.argv[1])["atomic_write"](Path(sys.argv[2]), b"x" * 100_000)
except OSError as error:
    print(error.filename, error.strerror)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="only a POSIX shell can limit the size of files")
def test_a_file_too_large_for_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"old")
    limited = subprocess.run(
        ["sh", "-c", 'ulimit -f 50; exec "$@"', "sh", sys.executable, "-c", WRITE, files.__file__, str(target)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert limited.stdout.strip() == f"{target} File too large"
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_write_that_is_cut_off_leaves_the_old_one(tmp_path: Path, monkeypatch: Patch) -> None:
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


def test_temporary_files_of_the_system_are_not_used(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_another_program_holds_is_replaced_a_moment_later(tmp_path: Path, monkeypatch: Patch) -> None:
    target, failures = tmp_path / "file", 3
    rename = Path.replace

    def held(self: Path, to: Path) -> Path:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise PermissionError(13, "held by a virus scanner", str(self))
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", held)
    monkeypatch.setattr(files, "PATIENCE", 60.0)
    atomic_write(target, b"new")
    assert target.read_bytes() == b"new"
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    failures = 1
    with pytest.raises(PermissionError):
        replace(target, tmp_path / "other")


LOCKS = """
import runpy, sys
from pathlib import Path
with runpy.run_path(sys.argv[1])["locked"](Path(sys.argv[2]), wait=False):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    command, pipe = [sys.executable, "-c", LOCKS, files.__file__, str(tmp_path)], subprocess.PIPE
    holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
    with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path, wait=False), pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pass
    with locked(tmp_path, wait=False):
        assert {path.name for path in tmp_path.iterdir()} <= {LOCK}
