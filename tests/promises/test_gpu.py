"""What only a GPU can show: steps as a CUDA graph, runs that change their device, images that live there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import ALONE, Patch, fit, outcome, results_of
from test_checkpoints import fit_until
from tolerance import trained
from torch import Tensor

from logreg_lightning import model
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime.graph import Graph

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no CUDA device; make gpu runs these tests on a machine with one"
)

# 135 steps an epoch, the last of 2 images, in calls of 50, 50 and 35: the second is recorded, then replayed.
FLAGS = [
    *("--data.dataset=mnist", "--data.val_size=62", "--data.batch_size=4", "--model.lr=0.05"),
    *("--max_epochs=2", "--devices=1"),
]
GPU, CPU = "--accelerator=gpu", "--accelerator=cpu"
NEAR: Any = {"atol": trained(540), "rtol": 0}
"""Weights after at most so many steps; none is larger than 1."""


def weights(run: Path) -> Tensor:
    """Weights and bias of a run's last checkpoint, on the CPU."""
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    return torch.cat([state["standardized_linear.weight"], state["standardized_linear.bias"].unsqueeze(1)], 1)


class OneByOne(Graph):
    """Never records: each call runs as it is."""

    def __call__(self, kind: object, *tensors: Tensor) -> Tensor:
        return self.run(kind, *tensors)


@pytest.fixture
def recorders(monkeypatch: Patch) -> list[Graph]:
    """Whatever records graphs in this test, in the order in which they were made."""
    made: list[Graph] = []

    class Noted(Graph):
        def __init__(self, run: Any) -> None:
            super().__init__(run)
            made.append(self)

    monkeypatch.setattr(model, "Graph", Noted)
    return made


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_graph_leaves_what_single_steps_leave(
    workdir: Path, monkeypatch: Patch, recorders: list[Graph], schedule: str
) -> None:
    flags = [*FLAGS, GPU, f"--model.schedule={schedule}", "--model.weight_decay=1e-3"]
    graphed = fit(*flags)
    [recorder] = recorders
    assert recorder.graph is not None and len(recorder.kind) == 50
    monkeypatch.setattr(model, "Graph", OneByOne)
    single = fit(*flags)
    assert torch.equal(weights(graphed), weights(single))
    assert outcome(graphed) == outcome(single)


def test_a_gpu_trains_what_a_cpu_trains(workdir: Path) -> None:
    torch.testing.assert_close(weights(fit(*FLAGS, GPU)), weights(fit(*FLAGS, CPU)), **NEAR)


@pytest.mark.parametrize("devices", [[CPU, GPU], [GPU, CPU], [CPU, GPU, CPU], [GPU, CPU, GPU]])
def test_a_run_trains_on_where_it_is_taken(workdir: Path, devices: list[str]) -> None:
    flags = [*FLAGS, "--model.schedule=constant"]
    whole = fit(*flags, CPU, f"--max_epochs={len(devices)}")
    run = fit(*flags, devices[0], "--max_epochs=1")
    for number, device in enumerate(devices[1:], 2):
        before = weights(run)
        fit(f"--resume={run}", device, f"--max_epochs={number}")
        assert not torch.equal(weights(run), before)
    assert results_of(run)["steps"] == 135 * len(devices)
    torch.testing.assert_close(weights(run), weights(whole), **NEAR)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
def test_no_precision_sees_how_many_steps_a_graph_holds(workdir: Path, recorders: list[Graph], precision: str) -> None:
    one, many = (
        fit(*FLAGS, GPU, f"--precision={precision}", f"--data.steps_per_execution={number}") for number in (1, 50)
    )
    assert [len(recorder.kind) for recorder in recorders] == [1, 50]
    assert all(recorder.graph is not None for recorder in recorders)
    assert torch.equal(weights(one), weights(many))
    assert weights(one).dtype == {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert results_of(one)["test/accuracy"] > 0.9


@pytest.mark.parametrize("saves", [1, 2, 3, 4, 5])  # inside and at the end of an epoch, before and after the recording
def test_death_after_a_save_leaves_no_trace_on_a_gpu(workdir: Path, saves: int) -> None:
    whole = fit(*FLAGS, GPU)
    assert fit_until(saves, *FLAGS, GPU)
    run = fit("--resume=last")
    assert run != whole
    assert outcome(run) == outcome(whole)


def test_each_fit_of_a_process_records_its_own_graph(workdir: Path, recorders: list[Graph]) -> None:
    first, second = fit(*FLAGS, GPU), fit(*FLAGS, GPU)
    assert outcome(first) == outcome(second)
    one, two = recorders
    assert one.graph is not None and two.graph is not None and one.graph is not two.graph


ONE: dict[str, Any] = {**ALONE, "devices": 1, "max_epochs": 1}


def test_a_model_that_is_fitted_twice_trains_on(workdir: Path) -> None:
    """A graph of the first fit would go on changing that fit's momentum."""
    found = []
    for accelerator in ("gpu", "cpu"):
        torch.manual_seed(0)
        net = LogisticRegression(784, 10, lr=0.05)
        for _ in range(2):
            L.Trainer(**{**ONE, "accelerator": accelerator}).fit(net, ImageDataModule("mnist", batch_size=4))
        found.append(net.linear.weight.detach().cpu())
    torch.testing.assert_close(*found, **NEAR)


def test_images_live_on_the_gpu_once(workdir: Path) -> None:
    pixels: list[Tensor] = []

    class Look(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            pixels.extend(loader.images.pixels for loader in (trainer.train_dataloader, trainer.val_dataloaders))  # type: ignore[union-attr]

    trainer = L.Trainer(**{**ONE, "accelerator": "gpu"}, callbacks=[Look()])
    trainer.fit(LogisticRegression(784, 10), ImageDataModule("mnist", batch_size=8))
    train, val = pixels
    assert train.is_cuda and train.dtype == torch.uint8 and len(train) == 600
    assert val.data_ptr() == train.data_ptr()
