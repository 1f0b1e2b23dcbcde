"""Working through pictures: each is read and computed once, by threads, and by all processes that want the same."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightning as L
import numpy as np
import torch

from logreg_lightning.data.dataset import Pictures, writing
from logreg_lightning.data.pictures import length_of, reason_of
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.features.backbones import BATCH, Extractor, exact
from logreg_lightning.features.cache import Block, Cache, Part, Rows
from logreg_lightning.runtime.files import locked
from logreg_lightning.runtime.output import print_once
from logreg_lightning.runtime.threads import use_threads

LARGE = 2**30
"""Bytes from which on a cache's size is said before it is made."""

LINE_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""


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


def extract(
    cache: Cache, pictures: Pictures, extractor: Extractor, devices: Sequence[torch.device], workers: int
) -> None:
    """Makes sure that the cache holds what the extractor makes of the pictures.

    Only changed pictures are recomputed: values belong to a picture's content. Each of the workers, threads of
    this process, takes the next few pictures that nobody has taken, of this process or of another that does the same,
    reads them, and writes down their values at once. So a kill loses what was under way.

    Args:
        devices: To compute on; the extractor itself stays where it is.
        workers: Threads that compute.

    Raises:
        InputError: the folder cannot be written, or a picture changed in the meantime.
        RunError: the extractor gives no finite numbers for a picture.
    """
    contents = list(pictures.contents)
    while (rows := cache.rows()) is None or rows.contents != contents:
        known = {"", *(rows.contents if rows is not None else ())}
        blocks = _blocks([content for content in dict.fromkeys(contents) if content not in known], extractor.block)
        size = len(contents) * int(np.prod(extractor.shape)) * extractor.dtype.itemsize
        if size > LARGE:
            print_once(
                f"The features will take {size / 1e9:.1f} GB in {cache.folder}, and as much again while they are "
                "computed"
            )
        with writing(cache.folder):
            cache.parts.mkdir(parents=True, exist_ok=True)
            with use_threads(1), exact():  # one thread for each worker
                _compute(cache, pictures, blocks, extractor, devices, workers + extractor.spare_threads)
            with locked(cache.folder, wait=True):
                latest = cache.rows()  # another process may have been faster
                if latest is None or latest.contents != contents:
                    cache.assemble(contents, rows, blocks)
                else:
                    shutil.rmtree(cache.parts, ignore_errors=True)


def extracted(cache: Cache, pictures: Pictures) -> Rows:
    """What is made of the pictures, as `extract` left it.

    Raises:
        InputError: they are of other pictures.
    """
    rows = cache.rows()
    if rows is None or rows.contents != list(pictures.contents):
        raise InputError(f"{cache.folder} does not hold the features of the pictures as they are now; begin again")
    return rows


def _blocks(contents: Sequence[str], most: int) -> list[Block]:
    """Blocks of so many pictures at most: of a few pictures smaller ones, so that each thread has some."""
    size = min(most, max(BATCH, -(-len(contents) // 16)))
    return [contents[begin : begin + size] for begin in range(0, len(contents), size)]


def _compute(
    cache: Cache,
    pictures: Pictures,
    blocks: Sequence[Block],
    extractor: Extractor,
    devices: Sequence[torch.device],
    workers: int,
) -> None:
    """Writes a part for each block, together with all other processes that do the same."""
    row_of = {content: row for row, content in enumerate(pictures.contents)}
    copies = [extractor.on(device) for device in devices]
    turns = [threading.Lock() if device.type != "cpu" else contextlib.nullcontext() for device in devices]
    guard, stopped, version = threading.Lock(), threading.Event(), cache.version()

    def compute(block: Block, device: int) -> None:
        images = torch.zeros(len(block), *extractor.image_shape, dtype=torch.uint8)
        reasons, lengths = [""] * len(block), [1.0] * len(block)
        for position, content in enumerate(block):
            try:
                picture = pictures.read(row_of[content])
            except OSError as error:
                reasons[position] = reason_of(error)
            else:
                images[position] = extractor.prepare(picture)
                lengths[position] = length_of(picture.size, extractor.image_shape)
        with turns[device]:
            values = copies[device].features(images).cpu()
        if not bool(values[[not reason for reason in reasons]].isfinite().all()):
            raise RunError(f"{extractor.name} gives numbers that are not finite for a picture; use another")
        cache.write_part(block, Part(values.numpy(), reasons, lengths))

    def work(device: int, queue: Iterator[Block], wait: bool) -> None:
        try:
            while not stopped.is_set():
                with guard:
                    block = next(queue, None)
                if block is None:
                    return
                # A block that another process has taken is left to it, and waited for in the second round.
                with contextlib.suppress(BlockingIOError), cache.taken(block, wait):
                    if cache.version() != version:  # another process has put all parts together
                        stopped.set()
                        return
                    if cache.part(block) is None:
                        compute(block, device)
                    with guard:
                        left.remove(block)
                        progress.add(len(block))
        except FileNotFoundError:  # and has removed them
            stopped.set()
        except BaseException:
            stopped.set()
            raise

    left = [block for block in blocks if cache.part(block) is None]
    if not left:
        return
    progress = _Progress(sum(map(len, left)), extractor.task)
    with contextlib.closing(progress.bar), ThreadPoolExecutor(workers) as pool:
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
    """A bar on a terminal, elsewhere a line now and then, each with the time that is left; no line for no task."""

    def __init__(self, total: int, task: str) -> None:
        from tqdm import tqdm

        self.total, self.task, self.done = total, task, 0
        self.begun = self.said = time.monotonic()
        if task:
            print_once(task.format(f"{total:,} picture{'s' if total > 1 else ''}"))
        self.bar = tqdm(total=total, unit=" pictures", disable=not sys.stderr.isatty(), leave=False)

    def add(self, pictures: int) -> None:
        self.done += pictures
        self.bar.update(pictures)
        clock = time.monotonic()
        if self.task and self.bar.disable and clock - self.said > LINE_EVERY and self.done < self.total:
            left = (self.total - self.done) * (clock - self.begun) / self.done
            print_once(f"  {self.done:,} of {self.total:,} pictures, {left:,.0f} seconds left")
            self.said = clock
