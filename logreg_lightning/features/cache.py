"""The one cache of what is made of pictures, keyed by their content: memory-mapped, mended where it is damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from logreg_lightning.data.dataset import content_of, stat_of
from logreg_lightning.features.backbones import Extractor
from logreg_lightning.runtime.files import locked, read_json, write_json

CACHE_FORMAT = 2
"""Raised whenever a cache written by an older version could no longer be read."""

CHUNK = 4096
"""Rows that share a checksum."""

Array = np.ndarray[Any, Any]
Block = Sequence[str]
"""Contents of pictures that are looked at together, and whose values lie in one file until all are there."""


@dataclass(frozen=True)
class Rows:
    """What a cache holds.

    Attributes:
        contents: Of each row its picture's content; empty where the row's checksum is wrong.
        unreadable: Rows of files that are no pictures.
        values: (N, *shape), memory-mapped.
    """

    contents: list[str]
    unreadable: list[int]
    values: Array


class Cache:
    """The folder for what an extractor makes of the pictures that have this key.

    `about.json` says which `values-*.npy` counts; `parts/` holds what is computed until it is put together.
    """

    def __init__(self, root: Path, key: str, extractor: Extractor) -> None:
        self.shape, self.dtype = extractor.shape, extractor.dtype
        identity = json.dumps([CACHE_FORMAT, extractor.key, self.dtype.name])
        name = f"{extractor.name.replace('/', '-')}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        self.folder = root / "features" / key / name
        self.about_file, self.parts = self.folder / "about.json", self.folder / "parts"

    def rows(self) -> Rows | None:
        """What is there, if it can be read at all; rows that were altered have no content."""
        about = read_json(self.about_file)
        try:
            file = self.folder / about["file"]
            values = np.load(file, mmap_mode="r", allow_pickle=False)
            if values.shape != (len(about["contents"]), *self.shape) or values.dtype != self.dtype:
                return None
            stat = stat_of(file)
            rows = Rows(about["contents"], about["unreadable"], values)
            if about["stat"] == stat:
                return rows
            # It was copied, or altered.
            pairs = zip(_checksums(values), about["checksums"], strict=True)
            is_wrong = [actual != expected for actual, expected in pairs]
        except Exception:  # numpy raises whatever the bytes make it
            return None
        if any(is_wrong):
            contents = ["" if is_wrong[row // CHUNK] else content for row, content in enumerate(rows.contents)]
            return Rows(contents, rows.unreadable, values)
        with contextlib.suppress(OSError), locked(self.folder, wait=False):
            if read_json(self.about_file) == about:
                write_json(self.about_file, {**about, "stat": stat})
        return rows

    def version(self) -> list[int] | None:
        """Another one whenever the rows are."""
        try:
            return stat_of(self.about_file)
        except OSError:
            return None

    def taken(self, block: Block, wait: bool) -> AbstractContextManager[None]:
        """Keeps other processes from computing the same block.

        Raises:
            BlockingIOError: another process computes it and `wait` is false.
        """
        return locked(self.parts, wait, self._file(block).with_suffix(".lock").name)

    def part(self, block: Block) -> tuple[Array, Array] | None:
        """A block's values (n, *shape), and which are of pictures, bool (n,); None where there is no whole file."""
        try:
            with np.load(self._file(block), allow_pickle=False) as arrays:
                return arrays["values"], arrays["readable"]
        except Exception:  # numpy raises whatever the bytes make it
            return None

    def write_part(self, block: Block, values: Array, readable: Array) -> None:
        """Straight into its file: one that a kill or a power cut leaves incomplete is none, by its checksums."""
        np.savez(self._file(block), values=values, readable=readable)

    def _file(self, block: Block) -> Path:
        return self.parts / f"{content_of(''.join(block).encode())}.npz"

    def assemble(self, contents: Sequence[str], old: Rows | None, blocks: Sequence[Block]) -> None:
        """Writes a new file of values, from the old rows and from the blocks' parts, in place of the old one.

        Changes nothing where a part was damaged in between, which has to be computed again.
        """
        rows_of: dict[str, list[int]] = {}
        for row, content in enumerate(contents):
            rows_of.setdefault(content, []).append(row)
        unreadable = set(rows_of.pop("", []))
        file = self.folder / f"values-{secrets.token_hex(4)}.npy"
        values = np.lib.format.open_memmap(file, "w+", self.dtype, (len(contents), *self.shape))
        _reserve(file)
        if old is not None:
            skipped = set(old.unreadable)
            for old_row, content in enumerate(old.contents):
                for row in rows_of.get(content, []):
                    values[row] = old.values[old_row]
                    unreadable |= {row} if old_row in skipped else set()
        for block in blocks:
            part = self.part(block)
            if part is None:
                return
            for content, value, is_readable in zip(block, *part, strict=True):
                for row in rows_of[content]:
                    values[row] = value
                unreadable |= set() if is_readable else set(rows_of[content])
        values.flush()
        about = {"file": file.name, "contents": list(contents), "unreadable": sorted(unreadable)}
        about["checksums"] = _checksums(values)
        del values
        write_json(self.about_file, {**about, "stat": stat_of(file)})  # from here on this file counts
        for other in self.folder.glob("values-*.npy"):
            if other.name != file.name:
                with contextlib.suppress(OSError):  # on Windows as long as another process maps it
                    other.unlink()
        shutil.rmtree(self.parts, ignore_errors=True)


def _reserve(file: Path) -> None:
    """Takes the file's bytes from the disk: where that is full, this is an error; a write to a mapped page would kill.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError:
            file.unlink()
            raise


def _checksums(values: Array) -> list[int]:
    return [zlib.crc32(np.ascontiguousarray(values[row : row + CHUNK]).data) for row in range(0, len(values), CHUNK)]
