"""What validation and test log, and the temperature, against scikit-learn and plain formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path

import lightning as L
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ALONE, Capsys, Patch, curves, fit, results_of, said_by
from sklearn.metrics import balanced_accuracy_score
from tolerance import EPS, LOSS
from torch.nn import functional as F

from logreg_lightning import ImageDataModule, LogisticRegression
from logreg_lightning.training.metrics import TEMPERATURES, BalancedAccuracy, CrossEntropy
from logreg_lightning.use import evaluate


def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(300, 5), torch.randint(0, 4, (300,))  # class 4 is predicted, and never there
    metric = BalancedAccuracy(5)
    for part in range(3):
        metric.update(logits[part::3], labels[part::3])
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy())
    assert metric.compute().item() == pytest.approx(expected, rel=4 * EPS)  # a mean of four recalls


def test_a_weighted_loss_is_torchs() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(50, 3), torch.randint(0, 3, (50,)), torch.tensor([0.5, 1, 4])
    metric = CrossEntropy()
    for part in range(2):
        metric.update(logits[part::2], labels[part::2], class_weights=weights)
    assert metric.compute().item() == pytest.approx(F.cross_entropy(logits, labels, weights).item(), **LOSS)


@pytest.mark.parametrize(
    ("scale", "temperature"), [(0.02, 1 / 53.8), (0.25, 0.25), (1, 1), (1.7, 2**0.75), (8, 8), (75, 64 * 2**0.25)]
)
def test_the_temperature_is_the_one_with_the_smallest_loss(scale: float, temperature: float) -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000, 3)
    labels = torch.multinomial(logits.softmax(1), 1).flatten()  # so that these logits are right, and others too sure
    metric = CrossEntropy(can_calibrate=True)
    metric.calibrates = True
    metric.update(scale * logits, labels)
    losses = [F.cross_entropy(scale * logits / t, labels).item() for t in TEMPERATURES]
    # Of 4,000 images one more changes no choice here.
    assert metric.compute().item() == pytest.approx(min(losses), **LOSS) and metric.temperature == pytest.approx(
        temperature, rel=1e-3
    )


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: Patch) -> Path:
    """A folder of pictures, below the current one, that tell nothing about their class."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for name in ("left", "right"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


@pytest.mark.slow
def test_few_pictures_that_tell_nothing_end_no_worse_than_guessing(noise: Path, capsys: Capsys) -> None:
    run = fit("--data.dataset=pictures")
    results = results_of(run)
    assert results["temperature"] > 1
    guessing = math.log(2) + 8 * EPS  # the last temperature leaves EPS of logits, which are less than 16 apart
    assert max(value for _, value in curves(run)["val/loss"]) <= guessing
    assert results["val/loss"] <= guessing and results["test/loss"] < 0.8
    assert "Note: test/accuracy" in capsys.readouterr().out
    model = LogisticRegression.load(run)
    assert float(model.temperature or 0) == results["temperature"]
    plain = results_of(fit("--data.dataset=pictures", "--model.calibrate=false"))
    assert plain["val/loss"] > math.log(2) and plain["temperature"] == 1
    assert plain["test/accuracy"] == results["test/accuracy"]
    watched = fit("--data.dataset=pictures", "--data.val_size=0")  # a test set that is watched chooses no temperature
    assert results_of(watched)["temperature"] == 1


def test_only_a_training_sets_the_temperature_and_each_validation_anew(workdir: Path) -> None:
    data = ImageDataModule("mnist")
    model = LogisticRegression(784, 10)
    trainer = L.Trainer(max_epochs=1, num_sanity_val_steps=0, **ALONE)
    assert model.temperature is not None
    model.temperature.fill_(64)
    trainer.fit(model, datamodule=data)
    assert float(model.temperature) in torch.tensor(TEMPERATURES) and float(model.temperature) < 4
    trained = float(trainer.callback_metrics["val/loss"])
    assert trainer.validate(model, data, verbose=False)[0]["val/loss"] == pytest.approx(trained, **LOSS)
    model.temperature.fill_(4)
    [found] = trainer.validate(model, data, verbose=False)
    images, labels = data.data.train.take(data.val_indices)
    with torch.inference_mode():
        assert found["val/loss"] == pytest.approx(F.cross_entropy(model(images), labels).item(), **LOSS)
    assert float(model.temperature) == 4


def test_evaluates_weighted_losses_as_training_did(noise: Path, capsys: Capsys) -> None:
    for number in range(4, 40):
        (noise / "left" / f"{number}.png").unlink()
    run = fit("--data.dataset=pictures", "--model.class_weight=balanced", "--model.calibrate=false", "--max_epochs=2")
    assert "test/loss, weighted by class" in capsys.readouterr().out
    assert "loss (cross-entropy, weighted by class)" in said_by(evaluate.main, [run], capsys)
    found = json.loads(said_by(evaluate.main, [run, "--json"], capsys))
    results = results_of(run)
    assert found["loss"] == results["test/loss"] and found["balanced_accuracy"] == results["test/balanced_accuracy"]
    model = LogisticRegression.load(run)
    assert model.class_weights is not None and model.class_weights[0] > 5 * model.class_weights[1]
