"""Which calls are recorded and replayed; what a GPU makes of it, only a GPU can test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from logreg_lightning.runtime.loader import Steps
from logreg_lightning.runtime.steps import GraphedSteps


class Recorder:
    """Stands for a CUDA graph: replaying runs what was recorded on the same tensors again, in place."""

    def __init__(self) -> None:
        self.recorded: Callable[[], None] = lambda: None
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.recorded()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()

    @contextlib.contextmanager
    def record(graph: Recorder) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made)
    monkeypatch.setattr(torch.cuda, "graph", record)
    return made


def call(value: int, sizes: list[int]) -> Steps:
    count = sum(sizes)
    return Steps(torch.full((count, 1, 1, 1), value, dtype=torch.uint8), torch.zeros(count).long(), sizes, sizes)


def test_replays_calls_of_the_same_sizes_with_their_own_values(recorder: Recorder) -> None:
    ran: list[list[int]] = []

    def run(steps: Steps, rates: Sequence[float | Tensor]) -> Tensor:
        ran.append(steps.sizes)
        result = torch.empty(len(steps.images), 1)

        def compute() -> None:
            rate = torch.stack([torch.as_tensor(rate) for rate in rates]).repeat_interleave(torch.tensor(steps.sizes))
            result.copy_(steps.images.flatten(1) * rate.unsqueeze(1))

        compute()
        recorder.recorded = compute
        return result

    graphed = GraphedSteps(run)
    for value, sizes, replays in [(1, [2, 2], 0), (2, [2, 2], 1), (3, [2, 2], 2), (4, [2, 1], 2), (5, [2, 2], 3)]:
        rates = [0.5 * value, 2.0 * value]
        kept = recorder.recorded
        logits = graphed(call(value, sizes), rates)
        if replays == recorder.replays and sizes == [2, 1]:
            recorder.recorded = kept
        expected = torch.tensor(rates).repeat_interleave(torch.tensor(sizes)) * value
        assert torch.equal(logits.flatten(), expected), (value, sizes)
        assert recorder.replays == replays
    assert ran == [[2, 2], [2, 2], [2, 1]]


def test_shares_of_several_processes_are_not_recorded(recorder: Recorder) -> None:
    graphed = GraphedSteps(lambda steps, rates: torch.zeros(len(steps.images), 1))
    for _ in range(3):
        graphed(call(1, [2, 2])._replace(global_sizes=[4, 4]), [0.1, 0.1])
    assert recorder.replays == 0
