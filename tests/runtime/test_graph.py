"""Which calls are recorded and replayed; what a GPU makes of it, only a GPU can test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import Patch
from torch import Tensor

from logreg_lightning import LogisticRegression
from logreg_lightning.data.loader import Steps
from logreg_lightning.model import sgd
from logreg_lightning.runtime.graph import Graph


class Recorder:
    """Stands for a CUDA graph: replaying runs what was recorded on the same tensors again, in place."""

    def __init__(self) -> None:
        self.recorded: Callable[[], None] = lambda: None
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.recorded()


@pytest.fixture
def recorder(monkeypatch: Patch) -> Recorder:
    made = Recorder()

    @contextlib.contextmanager
    def record(graph: Recorder) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made)
    monkeypatch.setattr(torch.cuda, "graph", record)
    return made


def test_replays_calls_of_one_kind_with_their_own_values(recorder: Recorder) -> None:
    ran: list[object] = []

    def run(kind: object, values: Tensor, factor: Tensor) -> Tensor:
        ran.append(kind)
        result = torch.empty(len(values))

        def compute() -> None:
            result.copy_(values * factor)

        compute()
        if len(ran) == 2:  # what is recorded
            recorder.recorded = compute
        return result

    graph = Graph(run)
    for value, kind, replays in [(1.0, "a", 0), (2.0, "a", 1), (3.0, "a", 2), (4.0, "b", 2), (5.0, "a", 3)]:
        values, factor = torch.full((2,), value), torch.tensor(value / 2)
        product = graph(kind, values, factor)
        assert product.tolist() == [value * value / 2] * 2
        assert recorder.replays == replays
    assert ran == ["a", "a", "b"]


def test_kinds_that_take_turns_are_recorded(recorder: Recorder) -> None:
    """As in an epoch of 51 to 99 steps."""
    graph = Graph(lambda kind, values: torch.zeros(1))
    for kind, replays in [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)]:
        graph(kind, torch.zeros(1))
        assert recorder.replays == replays


class OnGpu(LogisticRegression):
    """Says that it is on a GPU."""

    device = torch.device("cuda")


def steps(sizes: list[int], global_sizes: list[int]) -> Steps:
    count = sum(sizes)
    return Steps(torch.zeros(count, 4, dtype=torch.uint8), torch.zeros(count).long(), sizes, global_sizes)


@pytest.mark.parametrize(
    ("model", "fused", "world_size", "replays"),
    [(OnGpu, True, 1, 2), (OnGpu, True, 2, 0), (LogisticRegression, None, 1, 0)],
)
def test_only_one_process_alone_on_a_gpu_is_recorded(
    recorder: Recorder,
    monkeypatch: Patch,
    model: type[LogisticRegression],
    fused: bool | None,
    world_size: int,
    replays: int,
) -> None:
    """A loaded state says what was fused where it was saved; the fused kernel reads learning rates as float32."""
    seen: list[tuple[object, object]] = []

    def note(
        model: object, optimizer: torch.optim.Optimizer, steps: Steps, rates: list[float | Tensor], _: int
    ) -> Tensor:
        kinds = {rate.dtype if isinstance(rate, Tensor) else float for rate in rates}
        seen.append((optimizer.param_groups[0]["fused"], kinds))
        return torch.zeros(2, len(steps.images))

    as_tensor = torch.tensor
    monkeypatch.setattr("logreg_lightning.model.standardized_steps", note)
    monkeypatch.setattr(torch, "tensor", lambda values, device=None, **more: as_tensor(values, **more))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    run = sgd(model(4, 2), optimizer, world_size)
    optimizer.param_groups[0]["fused"] = None if fused else True
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        # One process of two may have a whole mini-batch, where the other has nothing of it.
        for global_sizes in [[2, 2], [2, 2], [2, 2]] if world_size == 1 else [[2, 2], [4, 4], [2, 2]]:
            run(steps([2, 2], global_sizes), [0.1, 0.25])
    finally:
        torch.set_default_dtype(default)
    assert recorder.replays == replays and seen[0] == (fused, {torch.float32})
    assert optimizer.param_groups[0]["lr"] == 0.25
