"""Which calls are recorded and replayed; what a GPU makes of it, only a GPU can test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from logreg_lightning.runtime.steps import GraphedSteps
from torch import Tensor

from logreg_lightning.data.loader import Steps
from logreg_lightning.runtime import steps


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


def test_calls_that_take_turns_are_recorded(recorder: Recorder) -> None:
    """As in an epoch of 51 to 99 steps."""
    graphed = GraphedSteps(lambda call, rates: torch.zeros(len(call.images), 1))
    for sizes, replays in [([2, 2], 0), ([2], 0), ([2, 2], 1), ([2], 1), ([2, 2], 2)]:
        graphed(call(1, sizes), [0.1] * len(sizes))
        assert recorder.replays == replays


@pytest.mark.parametrize(("processes", "replays"), [(1, 2), (2, 0)])
def test_only_one_process_alone_is_recorded(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, processes: int, replays: int
) -> None:
    monkeypatch.setattr(steps, "optimizer_steps", lambda model, optimizer, call, rates: torch.zeros(len(call.images)))
    model: Any = SimpleNamespace(device=torch.device("cuda"), trainer=SimpleNamespace(world_size=processes))
    run = steps.step_runner(model, torch.optim.SGD([torch.zeros(1)], lr=1.0))
    whole = call(1, [2, 2])
    shares = [whole] if processes == 1 else [whole, whole._replace(global_sizes=[4, 4])]
    for share in shares:  # one process of two may have a whole mini-batch, where the other has nothing of it
        for _ in range(3):
            run(share, [0.1, 0.1])
    assert recorder.replays == replays


@pytest.mark.parametrize(("device", "fused"), [("cuda", True), ("cpu", None)])
def test_a_checkpoint_of_another_device_changes_no_kernel(
    monkeypatch: pytest.MonkeyPatch, device: str, fused: bool | None
) -> None:
    """A loaded state says what was fused where it was saved."""
    seen: list[object] = []

    def note(model: object, optimizer: torch.optim.Optimizer, call: Steps, rates: object) -> Tensor:
        seen.append(optimizer.param_groups[0]["fused"])
        return torch.zeros(len(call.images))

    monkeypatch.setattr(steps, "optimizer_steps", note)
    model: Any = SimpleNamespace(device=torch.device(device), trainer=SimpleNamespace(world_size=1))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    run = steps.step_runner(model, optimizer)
    optimizer.param_groups[0]["fused"] = None if fused else True
    run(call(1, [2]), [0.25])
    assert seen == [fused] and optimizer.param_groups[0]["lr"] == 0.25


def test_rates_are_what_the_fused_kernel_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def run(call: Steps, rates: Sequence[float | Tensor]) -> Tensor:
        seen.extend(torch.as_tensor(rate).dtype for rate in rates)
        return torch.zeros(len(call.images), 1)

    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        GraphedSteps(run)(call(1, [2, 2]), [0.1, 0.2])
    finally:
        torch.set_default_dtype(default)
    assert seen == [torch.float32, torch.float32]
