"""Heads trained together are what torch's own optimiser makes of each alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import Patch
from tolerance import EPS, LOSS, assert_trained_alike
from torch import Tensor
from torch.nn import functional as F

from logreg_lightning import LogisticRegression
from logreg_lightning.data.loader import Steps
from logreg_lightning.training import heads
from logreg_lightning.training.heads import Heads, winner
from logreg_lightning.training.metrics import TEMPERATURES

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"},
    {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.5, "schedule": "constant"},
    {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.01, "schedule": "cosine"},
]
SIZES = [8, 8, 3]


def together(**more: Any) -> tuple[Heads, list[LogisticRegression]]:
    """Heads and the models they were made of, of 6 features and 4 classes."""
    torch.manual_seed(0)
    models = [LogisticRegression(6, 4, **setting, standardize=False, **more) for setting in SETTINGS]
    made = Heads(models)
    return made, models


def some_images(count: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 6), torch.randint(0, 4, (count,))


def of_head(rows: Tensor, number: int) -> Tensor:
    """Class by class, in a class head by head."""
    return rows[number :: len(SETTINGS)]


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 0.7]])
def test_steps_are_those_of_torchs_sgd(weights: list[float] | None) -> None:
    made, models = together(class_weight=None if weights is None else "balanced")
    class_weights = None if weights is None else torch.tensor(weights)
    if class_weights is not None:
        assert made.class_weights is not None
        made.class_weights.copy_(class_weights)
    images, labels = some_images(sum(SIZES))
    rates = made.rates(0, len(SIZES), 10)
    assert rates[0].tolist() == pytest.approx([setting["lr"] for setting in SETTINGS], rel=EPS)
    with torch.no_grad():
        sums = made.steps(Steps(images, labels, SIZES, SIZES), rates).sum(1)
    for number, (model, setting) in enumerate(zip(models, SETTINGS, strict=True)):
        weight, bias = (part.detach().double().requires_grad_() for part in model.linear.parameters())
        optimizer = torch.optim.SGD(
            [{"params": [weight], "weight_decay": setting["weight_decay"]}, {"params": [bias], "weight_decay": 0.0}],
            lr=1.0,
            momentum=setting["momentum"],
        )
        loss_sum, hits = 0.0, 0
        batches = zip(torch.split(images.double(), SIZES), torch.split(labels, SIZES), strict=True)
        for step, (x, y) in enumerate(batches):
            falls = (1 + math.cos(math.pi * step / 10)) / 2 if setting["schedule"] == "cosine" else 1.0
            for group in optimizer.param_groups:
                group["lr"] = setting["lr"] * falls
            logits = F.linear(x, weight, bias)
            each = F.cross_entropy(logits, y, reduction="none")
            each = each if class_weights is None else each * class_weights[y].double()
            loss = each.mean()  # the weights of the classes average to 1 over all images, not over a batch's
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum, hits = loss_sum + each.detach().sum().item(), hits + int((logits.argmax(1) == y).sum())
        found = {"weight": of_head(made.weight.detach(), number), "bias": of_head(made.bias.detach(), number)}
        assert_trained_alike(found, {"weight": weight.detach(), "bias": bias.detach()}, len(SIZES))
        count = sum(SIZES)
        assert sums[0, number] / count == pytest.approx(loss_sum / count, **LOSS) and int(sums[1, number]) == hits


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_head_that_is_not_finite_changes_no_bit_of_the_others(poison: float) -> None:
    images, labels = some_images(sum(SIZES))
    found = []
    for broken in (False, True):
        made, _ = together()
        if broken:
            of_head(made.weight.data, 1).fill_(poison)
        with torch.no_grad():
            made.steps(Steps(images, labels, SIZES, SIZES), made.rates(0, len(SIZES), 10))
        found.append(made)
    whole, broken_one = found
    assert not of_head(broken_one.weight, 1).isfinite().any()
    for number in (0, 2):
        assert torch.equal(of_head(whole.weight, number), of_head(broken_one.weight, number))
        assert torch.equal(of_head(whole.bias, number), of_head(broken_one.bias, number))


def test_the_learning_rate_falls_to_zero_or_stays() -> None:
    made, _ = together()
    rates = made.rates(0, 101, 100)
    assert torch.equal(rates[:, 0], rates[:1, 0].expand(101)) and torch.equal(made.rates(40, 3, 100), rates[40:43])
    assert rates[[0, 50, 100], 2].tolist() == pytest.approx([0.3, 0.15, 0.0], abs=EPS)
    assert made.rates(5, 1, None)[0].tolist() == pytest.approx([0.1, 0.02, 0.3], rel=EPS)  # a run without an end


@pytest.mark.parametrize("most", [2**22, 24])  # 24 logits are two images of three heads of four classes
def test_validation_is_that_of_each_alone(monkeypatch: Patch, most: int) -> None:
    made, models = together()
    monkeypatch.setattr(heads, "VALIDATED", most)
    images, labels = some_images(25)
    images[0], labels[0] = 0, 2
    made.bias.data[:] = 0  # equal logits of the first image count as class 0
    of_head(made.weight.data, 0).mul_(20)  # far too sure of itself
    models[0].linear.weight.data *= 20
    for model in models:
        model.linear.bias.data[:] = 0
    with torch.no_grad():
        made.begin_validation(at_temperatures=True)
        for x, y in zip(torch.split(images, 10), torch.split(labels, 10), strict=True):
            made.validation_step((x, y), 0)
        made.end_validation()
    assert made.temperature[0] > 1
    for number, model in enumerate(models):
        logits = model.linear(images).double().detach()
        losses = [float(F.cross_entropy(logits / t, labels)) for t in TEMPERATURES]
        # And of one image more, of any class: as torch has it, labels smoothed by 1 / 26.
        smoothed = [float(F.cross_entropy(logits / t, labels, label_smoothing=1 / 26)) for t in TEMPERATURES]
        best = smoothed.index(min(smoothed))
        assert float(made.val_loss[number]) == pytest.approx(losses[best], **LOSS)
        assert float(made.temperature[number]) == pytest.approx(TEMPERATURES[best])
        hits = int((logits[1:].argmax(1) == labels[1:]).sum())  # the first is a miss
        assert float(made.val_accuracy[number]) == pytest.approx(hits / 25, rel=EPS)


def test_the_winner_is_the_most_accurate_then_the_surest_then_the_first() -> None:
    nan, inf = math.nan, math.inf
    assert winner([0.5, 0.9, 0.9, 0.9], [0.1, 0.3, 0.2, 0.2]) == 2
    assert winner([nan, 0.1], [nan, 5.0]) == 1
    assert winner([0.1, nan, 0.1], [5.0, 0.0, 5.0]) == 0
    assert winner([0.9, 0.1], [nan, 5.0]) == 1
    assert winner([0.9, 0.9], [inf, 7.0]) == 1
    assert winner([0.0], [3.0]) == 0
    assert winner([nan, nan], [nan, nan]) is None and winner([], []) is None
