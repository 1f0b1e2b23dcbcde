"""The trained weights against a plain PyTorch loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import fit
from torch import Tensor, nn

from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.model import LogisticRegression, cross_entropy_gradient


def trained(run: Path) -> dict[str, Tensor]:
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return {"weight": state["linear.weight"], "bias": state["linear.bias"]}


@pytest.mark.parametrize("steps_per_execution", [1, 7, 50, 1000])
def test_weights_equal_a_plain_loops(workdir: Path, steps_per_execution: int) -> None:
    run = fit(
        *("--data.dataset=mnist", "--data.batch_size=8", "--max_epochs=2", "--seed=3"),
        *("--model.lr=0.1", "--model.momentum=0.9", "--model.weight_decay=1e-4", "--model.schedule=constant"),
        f"--data.steps_per_execution={steps_per_execution}",
    )
    data = ImageDataModule("mnist", batch_size=8)
    data.seed = 3
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()

    torch.manual_seed(3)
    linear = nn.Linear(784, 10)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for epoch in range(2):
        for indices in torch.split(loader.order(epoch), 8):
            images = data.data.train.pixels[indices].reshape(-1, 784).float() / 255
            loss = nn.CrossEntropyLoss()(linear(images), data.data.train.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in trained(run).items():
        assert torch.equal(value, linear.state_dict()[name])
    assert json.loads((run / "results.json").read_text())["steps"] == 2 * 68


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_no_precision_sees_how_many_steps_a_call_runs(workdir: Path, precision: str) -> None:
    runs = [
        fit("--data.dataset=mnist", "--data.batch_size=8", "--max_epochs=1", f"--precision={precision}",
            f"--data.steps_per_execution={steps}")
        for steps in (1, 50)
    ]  # fmt: skip
    one, many = (trained(run) for run in runs)
    assert torch.equal(one["weight"], many["weight"]) and torch.equal(one["bias"], many["bias"])
    assert json.loads((runs[0] / "results.json").read_text())["test/accuracy"] > 0.9


def test_the_gradient_is_autograds() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(37, 5, requires_grad=True), torch.randint(5, (37,))
    nn.CrossEntropyLoss()(logits, labels).backward()
    assert logits.grad is not None
    assert torch.equal(cross_entropy_gradient(logits.detach(), labels, 37), logits.grad)
    softmax_minus_one_hot = (logits.softmax(1) - nn.functional.one_hot(labels, 5)) / 37
    torch.testing.assert_close(logits.grad, softmax_minus_one_hot)


def test_scales_pixels_as_to_tensor_does() -> None:
    from torchvision.transforms.functional import to_tensor

    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    model = LogisticRegression(256, 2)
    nn.init.eye_(model.linear.weight)
    expected = to_tensor(pixels[0, 0].numpy()).reshape(1, -1)
    assert torch.equal(model(pixels), model.linear(expected))


def test_reports_the_metrics_of_the_saved_weights(workdir: Path) -> None:
    run = fit("--data.dataset", "mnist", "--max_epochs", "3")
    results = json.loads((run / "results.json").read_text())
    data = ImageDataModule("mnist")
    data.prepare_data()
    data.setup()
    weights = trained(run)
    logits = data.data.test.pixels.reshape(-1, 784).float() / 255 @ weights["weight"].T + weights["bias"]
    labels = data.data.test.labels
    assert results["test/accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert results["test/loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
