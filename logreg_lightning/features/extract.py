"""A frozen backbone's features of pictures, each computed once, into a cache that is memory-mapped."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import secrets
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import lightning as L
import numpy as np
import torch
from torch import Tensor

from logreg_lightning.data.idx import map_read_only
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.features.backbones import BATCH, Backbone, exact
from logreg_lightning.runtime.files import atomic_write, locked, read_json, write_json
from logreg_lightning.runtime.output import say
from logreg_lightning.runtime.threads import use_threads

if TYPE_CHECKING:
    from PIL.Image import Image

CACHE_FORMAT = 1
"""Raised whenever a cache written by an older version could no longer be read."""

DTYPE = np.float32

CHUNK = 4096
"""Rows that share a checksum."""

LARGE = 2**30
"""Bytes from which on a cache's size is said before it is made."""

LINE_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class Pictures(Protocol):
    """Pictures to compute features of.

    Attributes:
        contents: Of each picture what tells it from others; empty where it cannot be read.
    """

    @property
    def contents(self) -> Sequence[str]: ...

    def read(self, number: int) -> Image:
        """A picture, in mode L or RGB.

        Raises:
            OSError: it cannot be read or is not a picture.
        """
        ...


Look = Callable[[Tensor, int], Tensor]
"""Pictures for a person to see, see `datasets.Images`."""


class PixelPictures:
    """Images in memory as pictures.

    Args:
        pixels: uint8 (N, C, H, W), C 1 or 3.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        shape = str(tuple(pixels.shape[1:])).encode()
        self.contents = [content(shape + image.numpy().tobytes()) for image in pixels]

    def read(self, number: int) -> Image:
        import PIL.Image

        pixels = self.pixels[number].movedim(0, -1).numpy()
        return PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def content(data: bytes) -> str:
    """What tells data from any other: 128 bits of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


def place_of(root: Path, name: str, backbone: Backbone) -> Path:
    """The folder under `root` for a data set's features, of this backbone as it is."""
    key = hashlib.sha256(json.dumps([CACHE_FORMAT, backbone.about, np.dtype(DTYPE).name]).encode()).hexdigest()
    return root / "features" / name / f"{backbone.about['name'].replace('/', '-')}-{key[:16]}"


def extraction_devices(trainer: L.Trainer | None) -> tuple[list[torch.device], int]:
    """What to compute features on before a trainer trains, and with how many threads.

    Lightning starts a run's other processes later: until then this one has all their devices. Processes that torchrun
    or SLURM started are there already and share the work, each on its own device.
    """
    devices, processes = [torch.device("cuda" if torch.cuda.is_available() else "cpu")], 1
    if trainer is not None:
        strategy: Any = trainer.strategy
        environment = getattr(strategy, "cluster_environment", None)
        if environment is not None and environment.creates_processes_externally:
            devices, processes = [strategy.root_device], trainer.num_devices
        else:
            devices = getattr(strategy, "parallel_devices", None) or [strategy.root_device]
    devices = list(dict.fromkeys(devices))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if devices[0].type == "cpu":
        cores = min(cores, torch.get_num_threads())
    return devices, max(len(devices), cores // processes)


@dataclass(frozen=True)
class Cache:
    """What a folder holds.

    Attributes:
        contents: Of each row its picture's content; empty where the row's checksum is wrong.
        unreadable: Rows of files that are no pictures.
        values: float32 (N, features), memory-mapped.
    """

    contents: list[str]
    unreadable: list[int]
    values: np.ndarray[Any, Any]


def prepare_features(
    folder: Path, pictures: Pictures, backbone: Backbone, devices: Sequence[torch.device], workers: int
) -> None:
    """Makes sure that the folder holds the pictures' features.

    What is there of a picture's content is kept. Each of the workers, threads of this process, takes the next few
    pictures that nobody has taken, of this process or of another that does the same, reads them, and writes down their
    features at once. So a kill loses what was under way.

    Args:
        folder: As `place_of` names it.
        pictures: Changed and new ones cost a forward pass each.
        backbone: Wherever it is, it stays there.
        devices: To compute on.
        workers: Number of threads.

    Raises:
        InputError: the folder cannot be written, or a picture changed in the meantime.
        RunError: the backbone gives no finite numbers for a picture.
    """
    while (cache := _open(folder)) is None or cache.contents != list(pictures.contents):
        there = set(cache.contents) if cache is not None else set()
        missing = list(dict.fromkeys(c for c in pictures.contents if c and c not in there))
        size = len(pictures.contents) * backbone.num_features * np.dtype(DTYPE).itemsize
        if size > LARGE:
            say(f"The features will take {size / 1e9:.1f} GB in {folder}, and as much again while they are computed")
        try:
            parts = folder / "parts"
            parts.mkdir(parents=True, exist_ok=True)
            with use_threads(1), exact():  # one thread for each worker
                _compute(pictures, missing, parts, backbone, devices, workers)
            with locked(folder, wait=True):
                now = _open(folder)  # another process may have been faster
                done = now is not None and now.contents == list(pictures.contents)
                if done or _assemble(folder, pictures.contents, backbone.num_features, cache, parts):
                    shutil.rmtree(parts, ignore_errors=True)
        except OSError as error:
            raise InputError(
                f"{error.filename or folder} cannot be written ({error.strerror}); set another folder as `root`"
            ) from None


def load_features(folder: Path, pictures: Pictures) -> tuple[Tensor, list[int]]:
    """Features, float32 (N, features), memory-mapped, and the rows that hold none, as `prepare_features` left them.

    Raises:
        InputError: they are of other pictures.
    """
    cache = _open(folder)
    if cache is None or cache.contents != list(pictures.contents):
        raise InputError(f"{folder} does not hold the features of the pictures as they are now; begin again")
    return map_read_only(cache.values), cache.unreadable


def _open(folder: Path) -> Cache | None:
    """What is there, if it can be read at all; rows that were altered have no content."""
    about = read_json(folder / "about.json")
    try:
        file = folder / about["file"]
        values = np.load(file, mmap_mode="r", allow_pickle=False)
        if values.shape[:1] != (len(about["contents"]),) or values.dtype != DTYPE:
            return None
        stat = _stat(file)
        if about["stat"] == stat:
            return Cache(about["contents"], about["unreadable"], values)
        # It was copied, or altered.
        wrong = [now != then for now, then in zip(_checksums(values), about["checksums"], strict=True)]
    except Exception:  # numpy raises whatever the bytes make it
        return None
    if any(wrong):
        contents = ["" if wrong[row // CHUNK] else name for row, name in enumerate(about["contents"])]
        return Cache(contents, about["unreadable"], values)
    with contextlib.suppress(OSError), locked(folder, wait=False):
        if read_json(folder / "about.json") == about:
            write_json(folder / "about.json", {**about, "stat": stat})
    return Cache(about["contents"], about["unreadable"], values)


def _version(folder: Path) -> list[int] | None:
    """Another one whenever the folder's content is."""
    try:
        return _stat(folder / "about.json")
    except OSError:
        return None


def _stat(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _checksums(values: np.ndarray[Any, Any]) -> list[int]:
    return [zlib.crc32(np.ascontiguousarray(values[row : row + CHUNK]).data) for row in range(0, len(values), CHUNK)]


def _part(parts: Path, contents: Sequence[str]) -> Path:
    """The file for the features of pictures with these contents."""
    return parts / f"{content(''.join(contents).encode())}.npz"


def _read_part(part: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Features (n, features), and which rows are of pictures, bool (n,); None where there is no whole file."""
    try:
        with np.load(part, allow_pickle=False) as arrays:
            return arrays["features"], arrays["readable"]
    except Exception:  # numpy raises whatever the bytes make it
        return None


def _blocks(missing: Sequence[str]) -> list[Sequence[str]]:
    """The contents that are looked at together."""
    return [missing[begin : begin + BATCH] for begin in range(0, len(missing), BATCH)]


def _compute(
    pictures: Pictures,
    missing: Sequence[str],
    parts: Path,
    backbone: Backbone,
    devices: Sequence[torch.device],
    workers: int,
) -> None:
    """Writes a part for each block of contents, together with all other processes that do the same."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(pictures.contents):
        numbers.setdefault(name, number)
    copies = [backbone if backbone.mean.device == device else copy.deepcopy(backbone).to(device) for device in devices]
    turns = [threading.Lock() if device.type != "cpu" else contextlib.nullcontext() for device in devices]
    guard, stopped, begun = threading.Lock(), threading.Event(), _version(parts.parent)

    def compute(block: Sequence[str], device: int) -> None:
        images = torch.zeros(len(block), *backbone.image_shape, dtype=torch.uint8)
        readable = np.zeros(len(block), dtype=bool)
        for row, name in enumerate(block):
            with contextlib.suppress(OSError):
                images[row] = backbone.prepare(pictures.read(numbers[name]))
                readable[row] = True
        with turns[device]:
            features = copies[device].features(images.to(devices[device])).cpu()
        if not bool(features[torch.from_numpy(readable)].isfinite().all()):
            raise RunError(f"{backbone.about['name']} gives numbers that are not finite for a picture; use another")
        archive = io.BytesIO()
        np.savez(archive, features=features.numpy(), readable=readable)
        atomic_write(_part(parts, block), archive.getvalue())

    def work(device: int, queue: Iterator[Sequence[str]], wait: bool) -> None:
        try:
            while not stopped.is_set():
                with guard:
                    block = next(queue, None)
                if block is None:
                    return
                part = _part(parts, block)
                # A block that another process has taken is left to it, and waited for in the second round.
                with contextlib.suppress(BlockingIOError), locked(parts, wait, f"{part.stem}.lock"):
                    if _version(parts.parent) != begun:  # another process has put all parts together
                        stopped.set()
                        return
                    if _read_part(part) is None:
                        compute(block, device)
                    with guard:
                        left.remove(block)
                        bar.add(len(block))
        except FileNotFoundError:  # and has removed them
            stopped.set()
        except BaseException:
            stopped.set()
            raise

    left = [block for block in _blocks(missing) if _read_part(_part(parts, block)) is None]
    if not left:
        return
    with _Progress(sum(map(len, left)), backbone.about["name"]) as bar, ThreadPoolExecutor(workers) as pool:
        for wait in (False, True):
            queue = iter(list(left))
            futures = [pool.submit(work, k % len(devices), queue, wait) for k in range(workers)]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                stopped.set()
                raise


class _Progress:
    """A bar on a terminal, elsewhere a line now and then, each with the time that is left."""

    def __init__(self, total: int, name: str) -> None:
        from tqdm import tqdm

        self.total, self.done, self.begun, self.said = total, 0, time.monotonic(), time.monotonic()
        say(f"Computing the features of {total:,} pictures by {name}")
        self.bar = tqdm(total=total, unit=" pictures", disable=not sys.stderr.isatty(), leave=False)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, number: int) -> None:
        self.done += number
        self.bar.update(number)
        now = time.monotonic()
        if self.bar.disable and now - self.said > LINE_EVERY and self.done < self.total:
            left = (self.total - self.done) * (now - self.begun) / self.done
            say(f"  {self.done:,} of {self.total:,} pictures, {left:,.0f} seconds left")
            self.said = now


def _assemble(folder: Path, contents: Sequence[str], features: int, old: Cache | None, parts: Path) -> bool:
    """Writes a new file of features, from what was there and from the parts, in place of the old one.

    Returns whether it could: not where a part was damaged in between, which has to be computed again.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(contents):
        rows.setdefault(name, []).append(row)
    unreadable = set(rows.pop("", []))
    file = folder / f"features-{secrets.token_hex(4)}.npy"
    values = np.lib.format.open_memmap(file, "w+", DTYPE, (len(contents), features))
    if old is not None:
        no_pictures = set(old.unreadable)
        for row, name in enumerate(old.contents):
            for target in rows.get(name, []):
                values[target] = old.values[row]
                unreadable |= {target} if row in no_pictures else set()
    there = set(old.contents) if old is not None else set()
    for block in _blocks([name for name in rows if name not in there]):
        found = _read_part(_part(parts, block))
        if found is None:
            return False
        for name, value, readable in zip(block, *found, strict=True):
            values[rows[name]] = value
            unreadable |= set() if readable else set(rows[name])
    values.flush()
    checksums = _checksums(values)
    del values
    about = {"file": file.name, "contents": list(contents), "unreadable": sorted(unreadable), "checksums": checksums}
    write_json(folder / "about.json", {**about, "stat": _stat(file)})  # from here on this file counts
    for other in folder.glob("features-*.npy"):
        if other.name != file.name:
            with contextlib.suppress(OSError):  # on Windows as long as another process maps it
                other.unlink()
    return True
