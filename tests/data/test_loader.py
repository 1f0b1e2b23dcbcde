"""Which images come when: every one once an epoch, in an order that seed and epoch alone decide."""

from __future__ import annotations

import itertools

import pytest
import torch

from logreg_lightning.data.dataset import Images
from logreg_lightning.data.loader import EvalLoader, TrainLoader
from logreg_lightning.runtime.plan import Plan

COUNT = 1037
IMAGES = Images(torch.zeros(COUNT, 1, 1, 1, dtype=torch.uint8), torch.arange(COUNT))


def loader(steps_per_call: int = 50, seed: int = 0, rank: int = 0, world_size: int = 1) -> TrainLoader:
    return TrainLoader(IMAGES, torch.arange(COUNT), 10, Plan(104, steps_per_call), seed, rank, world_size)


def labels(batches: TrainLoader) -> list[list[int]]:
    return [part.tolist() for steps in batches for part in torch.split(steps.labels, steps.sizes)]


@pytest.mark.parametrize("steps_per_call", [1, 3, 7, 50, 64, 1000])
def test_every_image_once_in_the_same_mini_batches(steps_per_call: int) -> None:
    batches = loader(steps_per_call)
    assert labels(batches) == labels(loader(1))
    assert sorted(itertools.chain(*labels(batches))) == list(range(COUNT))
    assert len(list(batches)) == len(batches)
    ends = {stop for _, stop in batches.plan.calls}
    assert {50, 100, 104} <= ends  # where curves are drawn and the run is saved


def test_order_depends_on_seed_and_epoch() -> None:
    first, second = loader(), loader()
    second.set_epoch(1)
    assert labels(first) == labels(loader())
    assert labels(first) != labels(second)
    assert labels(first) != labels(loader(seed=1))


def test_resumes_inside_an_epoch() -> None:
    whole = loader(7)
    iterator = iter(whole)
    for _ in range(5):
        next(iterator)
    resumed = loader(7)
    resumed.load_state_dict(whole.state_dict())
    assert labels(resumed) == labels(loader())[whole.steps_done :]
    assert labels(resumed) == labels(loader())  # once only


def test_ranks_share_each_mini_batch() -> None:
    shares = [labels(loader(rank=rank, world_size=3)) for rank in range(3)]
    for mini_batch, *parts in zip(labels(loader()), *shares, strict=True):
        assert sorted(itertools.chain(*parts)) == sorted(mini_batch)


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_counts_every_image_once(world_size: int) -> None:
    seen = [
        label
        for rank in range(world_size)
        for _, batch in EvalLoader(IMAGES, None, rank, world_size, batch_size=100)
        for label in batch.tolist()
    ]
    assert sorted(seen) == list(range(COUNT))
