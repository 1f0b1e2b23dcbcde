"""The in-memory batch loaders: order from (seed, epoch), shard by rank, resumable inside an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from logreg_lightning.datasets import Images

LOG_EVERY = 50
"""Optimiser steps between two points of a training curve and between two saves: a call never crosses one."""


class Batch(NamedTuple):
    """Images, uint8 (N, C, H, W), and labels, int64 (N,)."""

    images: Tensor
    labels: Tensor


class Steps(NamedTuple):
    """What one `training_step` takes: the mini-batches of several optimiser steps, one after the other.

    Attributes:
        images: uint8 (N, C, H, W), this rank's share of all of them.
        labels: int64 (N,).
        sizes: This rank's images in each mini-batch; they add up to N.
        global_sizes: All ranks' images in each mini-batch.
    """

    images: Tensor
    labels: Tensor
    sizes: list[int]
    global_sizes: list[int]


class TrainLoader:
    """The mini-batches of an epoch, those of several optimiser steps at a time.

    The order of an epoch is a permutation drawn from (seed, epoch), nothing else, so any epoch can be entered anywhere.
    A mini-batch is the global one; rank r of w takes its images r, r + w, ... and so every image counts once.
    """

    def __init__(
        self,
        images: Images,
        indices: Tensor,
        batch_size: int,
        steps_per_call: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images = images
        self.indices = indices
        self.batch_size = batch_size
        self.steps_per_call = steps_per_call
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.done = 0
        self.resume_at: tuple[int, int] | None = None

    @property
    def sampler(self) -> TrainLoader:
        """Lightning tells only a loader's `.sampler` which epoch begins."""
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps in an epoch; the last mini-batch may be smaller, as with `DataLoader`."""
        return math.ceil(len(self.indices) / self.batch_size)

    def calls(self) -> list[tuple[int, int]]:
        """First step and the one after the last, in the epoch, of each `training_step` call."""
        starts = [
            start
            for point in range(0, self.steps, LOG_EVERY)
            for start in range(point, min(point + LOG_EVERY, self.steps), self.steps_per_call)
        ]
        return list(zip(starts, [*starts[1:], self.steps], strict=True))

    def __len__(self) -> int:
        return len(self.calls())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self, epoch: int) -> Tensor:
        """Indices into the images, int32 (N,), as the epoch goes through them."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return self.indices[torch.randperm(len(self.indices), generator=generator)]

    def __iter__(self) -> Iterator[Steps]:
        # A generator: Lightning asks for an iterator twice before it takes the first batch.
        first = self.resume_at[1] if self.resume_at is not None and self.resume_at[0] == self.epoch else 0
        self.resume_at = None
        order = self.order(self.epoch).to(self.images.pixels.device)
        for start, stop in self.calls():
            if start >= first:
                self.done = stop
                yield self._steps(order[start * self.batch_size : stop * self.batch_size])

    def _steps(self, indices: Tensor) -> Steps:
        batches = torch.split(indices, self.batch_size)
        global_sizes = [len(batch) for batch in batches]
        if self.world_size > 1:
            batches = tuple(batch[self.rank :: self.world_size] for batch in batches)
            indices = torch.cat(batches)
        return Steps(*self.images.take(indices), [len(batch) for batch in batches], global_sizes)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "step": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.resume_at = (state["epoch"], state["step"])


class EvalLoader:
    """Batches in the data's own order; rank r of w takes batches r, r + w, ..., so that every image counts once.

    A batch is never divided, so that its arithmetic is the same whatever the number of ranks. A rank that there is no
    batch for gets an empty one: Lightning skips the end of an evaluation, where ranks meet, on a rank without batches.
    """

    def __init__(
        self, images: Images, indices: Tensor | None, rank: int = 0, world_size: int = 1, batch_size: int = 2000
    ) -> None:
        self.images = images
        every = torch.arange(len(images), dtype=torch.int32) if indices is None else indices
        self.batches = torch.split(every, batch_size)[rank::world_size] or (every[:0],)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        device = self.images.pixels.device
        return (Batch(*self.images.take(batch.to(device))) for batch in self.batches)
