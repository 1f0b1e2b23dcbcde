"""Mini-batches from memory: order from (seed, epoch), shard by rank, resumable inside an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from logreg_lightning.runtime.plan import Plan

if TYPE_CHECKING:
    from logreg_lightning.data.dataset import Images


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

    @classmethod
    def of(cls, batch: Steps | Sequence[Tensor], world_size: int) -> Steps:
        """The batch itself, or the one mini-batch of a plain `DataLoader`, which gives every rank equally many."""
        if isinstance(batch, Steps):
            return batch
        images, labels = batch
        return cls(images, labels, [len(labels)], [len(labels) * world_size])

    def to(self, device: torch.device, **kwargs: Any) -> Steps:
        """Lightning's own transfer would look at each of the sizes."""
        return self._replace(images=self.images.to(device, **kwargs), labels=self.labels.to(device, **kwargs))


class TrainLoader:
    """The mini-batches of an epoch, those of several optimiser steps at a time.

    The order of an epoch is a permutation drawn from (seed, epoch), nothing else, so any epoch can be entered anywhere.
    A mini-batch is the global one; rank r of w takes its images r, r + w, ... and so every image counts once.

    Args:
        plain: Whether to give what a `DataLoader` gives, images and labels of one mini-batch, in place of `Steps`.

    Attributes:
        epoch: The epoch that is under way, counted from 0.
        steps_done: Optimiser steps of that epoch that were handed out.
    """

    def __init__(
        self,
        images: Images,
        indices: Tensor,
        batch_size: int,
        plan: Plan,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        plain: bool = False,
    ) -> None:
        self.images, self.indices, self.plan = images, indices, plan
        self.batch_size, self.seed, self.plain = batch_size, seed, plain
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.steps_done = 0
        self._resume_at: tuple[int, int] | None = None

    @property
    def sampler(self) -> TrainLoader:
        """Lightning calls `set_epoch` only on a loader's `sampler`."""
        return self

    def __len__(self) -> int:  # without it Lightning reads one batch ahead, and a resume would lose that batch
        return len(self.plan.calls)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self, epoch: int) -> Tensor:
        """Indices into the images, int32 (N,), as the epoch goes through them."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return self.indices[torch.randperm(len(self.indices), generator=generator)]

    def __iter__(self) -> Iterator[Any]:
        # A generator: Lightning asks for an iterator twice before it takes the first batch.
        first = self._resume_at[1] if self._resume_at is not None and self._resume_at[0] == self.epoch else 0
        self._resume_at = None
        order = self.order(self.epoch).to(self.images.pixels.device)
        for start, stop in self.plan.calls:
            if start >= first:
                self.steps_done = stop
                steps = self._steps(order[start * self.batch_size : stop * self.batch_size])
                yield Batch(steps.images, steps.labels) if self.plain else steps

    def _steps(self, indices: Tensor) -> Steps:
        batches = torch.split(indices, self.batch_size)
        global_sizes = [len(batch) for batch in batches]
        if self.world_size > 1:
            # Lightning shares only a real `DataLoader` among processes.
            batches = tuple(batch[self.rank :: self.world_size] for batch in batches)
            indices = torch.cat(batches)
        return Steps(*self.images.take(indices), [len(batch) for batch in batches], global_sizes)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "step": self.steps_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # With `max_steps` Lightning loads this at an epoch's start too, so the state names its epoch.
        self._resume_at = (state["epoch"], state["step"])


class EvalLoader:
    """Batches in the data's own order; rank r of w takes batches r, r + w, ..., so that every image counts once.

    A batch is never divided, so that its arithmetic is the same whatever the number of ranks. A rank that there is no
    batch for gets an empty one: Lightning skips the end of an evaluation, where ranks meet, on a rank without batches.
    """

    def __init__(
        self, images: Images, indices: Tensor | None, rank: int = 0, world_size: int = 1, batch_size: int = 2000
    ) -> None:
        self.images = images
        indices = torch.arange(len(images), dtype=torch.int32) if indices is None else indices
        # `DistributedSampler` would pad: 10,000 images on 3 processes would count as 10,002.
        self.batches = torch.split(indices, batch_size)[rank::world_size] or (indices[:0],)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        device = self.images.pixels.device
        return (Batch(*self.images.take(batch.to(device))) for batch in self.batches)
