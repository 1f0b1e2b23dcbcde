"""The one cache of what is made of pictures, keyed by their content: memory-mapped, mended where it is damaged."""

from __future__ import annotations

import contextlib
import dataclasses
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
from logreg_lightning.data.pictures import PixelRange
from logreg_lightning.features.backbones import Extractor
from logreg_lightning.runtime.files import locked, read_json, write_json

CACHE_FORMAT = 3
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
        unreadable: Rows of files that are no pictures, each with the reason.
        lengths: Of each row how many times as long as an image its picture is, see `length_of`.
        values: (N, *shape), memory-mapped.
    """

    contents: list[str]
    unreadable: dict[int, str]
    lengths: list[float]
    values: Array


@dataclass(frozen=True)
class Part:
    """What a block's file holds, row for row.

    Attributes:
        values: (n, *shape).
        reasons: Why a file is no picture; empty of one that is.
        lengths: As `Rows` has them.
    """

    values: Array
    reasons: Sequence[str]
    lengths: Sequence[float]


class Cache:
    """The folder for what an extractor makes of the pictures that have this key, in that range of values.

    `about.json` says which `values-*.npy` counts; `parts/` holds what is computed until it is put together.
    """

    def __init__(self, root: Path, key: str, extractor: Extractor, pixel_range: PixelRange | None = None) -> None:
        self.shape, self.dtype = extractor.shape, extractor.dtype
        identity = json.dumps([CACHE_FORMAT, extractor.key, self.dtype.name, pixel_range])
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
            rows = Rows(about["contents"], dict(about["unreadable"]), about["lengths"], values)
            if about["stat"] == stat:
                return rows
            # It was copied, or altered.
            pairs = zip(_checksums(values), about["checksums"], strict=True)
            is_wrong = [actual != expected for actual, expected in pairs]
        except Exception:  # numpy raises whatever the bytes make it
            return None
        if any(is_wrong):
            contents = ["" if is_wrong[row // CHUNK] else content for row, content in enumerate(rows.contents)]
            return dataclasses.replace(rows, contents=contents)
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

    def part(self, block: Block) -> Part | None:
        """What was made of a block; None where there is no whole file."""
        try:
            with np.load(self._file(block), allow_pickle=False) as arrays:
                return Part(arrays["values"], arrays["reasons"].tolist(), arrays["lengths"].tolist())
        except Exception:  # numpy raises whatever the bytes make it
            return None

    def write_part(self, block: Block, part: Part) -> None:
        """Straight into its file: one that a kill or a power cut leaves incomplete is none, by its checksums."""
        np.savez(self._file(block), values=part.values, reasons=list(part.reasons), lengths=list(part.lengths))

    def _file(self, block: Block) -> Path:
        return self.parts / f"{content_of(''.join(block).encode())}.npz"

    def assemble(self, contents: Sequence[str], old: Rows | None, blocks: Sequence[Block]) -> None:
        """Writes a new file of values, from the old rows and from the blocks' parts, in place of the old one.

        Changes nothing where a part was damaged in between, which has to be computed again.
        """
        rows_of: dict[str, list[int]] = {}
        for row, content in enumerate(contents):
            rows_of.setdefault(content, []).append(row)
        unreadable = dict.fromkeys(rows_of.pop("", []), "it cannot be read")
        lengths = [1.0] * len(contents)
        file = self.folder / f"values-{secrets.token_hex(4)}.npy"
        values = np.lib.format.open_memmap(file, "w+", self.dtype, (len(contents), *self.shape))
        _reserve(file)
        if old is not None:
            for old_row, content in enumerate(old.contents):
                for row in rows_of.get(content, []):
                    values[row], lengths[row] = old.values[old_row], old.lengths[old_row]
                    if old_row in old.unreadable:
                        unreadable[row] = old.unreadable[old_row]
        for block in blocks:
            part = self.part(block)
            if part is None:
                return
            for content, value, reason, length in zip(block, part.values, part.reasons, part.lengths, strict=True):
                for row in rows_of[content]:
                    values[row], lengths[row] = value, length
                    if reason:
                        unreadable[row] = reason
        values.flush()
        about: dict[str, Any] = {
            "file": file.name,
            "contents": list(contents),
            "unreadable": sorted(unreadable.items()),
        }
        about |= {"lengths": lengths, "checksums": _checksums(values)}
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
