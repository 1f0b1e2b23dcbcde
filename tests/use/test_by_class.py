"""What is counted of each class, with scikit-learn as the oracle; and that of many classes a person sees a few."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Capsys, Patch, fit, results_of, said_by
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from logreg_lightning import load
from logreg_lightning.training.metrics import BalancedAccuracy
from logreg_lightning.use import evaluate, figures
from logreg_lightning.use.by_class import ByClass
from logreg_lightning.use.classifier import MOST_CLASSES

MANY = 300


def guesses(num_classes: int, images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """True classes, of which the last one has no image, and others in half of the places."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes - 1, images)
    preds = np.where(rng.random(images) < 0.5, labels, rng.integers(0, num_classes, images))
    return torch.from_numpy(labels), torch.from_numpy(preds)


@pytest.mark.parametrize(("num_classes", "images"), [(2, 1), (3, 40), (30, 500), (MANY, 2000)])
def test_counts_as_scikit_learn_does(num_classes: int, images: int) -> None:
    labels, preds = guesses(num_classes, images)
    found, every = ByClass.of(labels, preds, num_classes), range(num_classes)
    expected = precision_recall_fscore_support(labels, preds, labels=every, zero_division=0)
    columns = (found.precision, found.recall, found.f1, found.images)
    for column, of_scikit_learn in zip(columns, expected, strict=True):
        np.testing.assert_allclose(column, of_scikit_learn, rtol=1e-12)
    matrix = confusion_matrix(labels, preds, labels=every)
    assert np.array_equal(found.matrix(every), matrix)
    some = found.most_confused(min(num_classes, 20))
    assert some == sorted(set(some)) and np.array_equal(found.matrix(some), matrix[np.ix_(some, some)])
    off = matrix - np.diag(matrix.diagonal())
    assert found.mistakes[:, 2].tolist() == sorted(off[off > 0].tolist(), reverse=True)
    assert all(off[true, predicted] == count for true, predicted, count in found.mistakes.tolist())
    if off.max() > 0:  # the most frequent mistake is between classes that are shown
        assert set(found.mistakes[0, :2].tolist()) <= set(some)


def test_balanced_accuracy_needs_no_table_of_all_classes() -> None:
    metric = BalancedAccuracy(50_000)  # 2.5e9 pairs, 20 GB of counts
    metric.update(torch.eye(3, 50_000), torch.tensor([0, 1, 1]))
    assert metric.compute() == pytest.approx(0.75)


def test_precision_and_recall_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    probabilities = torch.rand(200, 30, generator=rng).softmax(1)
    probabilities[:, 0] += 0.5
    targets = torch.randint(30, (200,), generator=rng)
    hits = torch.nn.functional.one_hot(targets, 30).bool()
    found = figures.precision_recall_curve(probabilities, probabilities[hits])
    points = []
    for threshold in torch.linspace(0, 1, 100):
        above = probabilities >= threshold
        if above.any():
            right = int((above & hits).sum())
            points.append((right / 200, right / int(above.sum())))
    np.testing.assert_allclose(np.array(found).T, points)


@pytest.fixture
def many(tmp_path: Path, monkeypatch: Patch) -> Path:
    """A current folder with features of many classes, each with two training images, the last two as one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(MANY, 16)).astype(np.float32)
    centres[-1] = centres[-2]
    Path("many").mkdir()
    for part, each in (("train", 4), ("test", 2)):
        labels = np.repeat(np.arange(MANY), each)
        np.save(f"many/{part}_features.npy", centres[labels] + rng.normal(size=(len(labels), 16)).astype(np.float32))
        np.save(f"many/{part}_labels.npy", labels)
    Path("many/classes.txt").write_text("\n".join(f"class {k}" for k in range(MANY)), encoding="utf-8")
    return Path("many")


def test_of_many_classes_a_person_sees_a_few(many: Path, capsys: Capsys) -> None:
    run = fit("--data.dataset=many", "--max_steps=100", "--pictures=true")
    printed = capsys.readouterr().out
    assert len(printed) < 3000

    features, labels = (np.load(f"many/test_{what}.npy") for what in ("features", "labels"))
    preds = load(run).predict_proba(torch.from_numpy(features)).argmax(1).numpy()
    matrix = confusion_matrix(labels, preds, labels=range(MANY))
    table = said_by(evaluate.main, [run, "--csv=all", "--pictures=all"], capsys)
    lines = table.splitlines()
    assert len(lines) < 90 and max(map(len, lines)) < 100 and "--csv FOLDER" in table
    _, _, f1, _ = precision_recall_fscore_support(labels, preds, labels=range(MANY), zero_division=0)
    listed = [int(line.split()[1]) for line in lines if line.startswith("  class ") and line.split()[1].isdecimal()]
    assert sorted(f1[listed[: evaluate.LISTED]]) == sorted(f1)[: evaluate.LISTED]

    for folder in (run, Path("all")):  # `fit` leaves the same
        with (folder / "classes.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class"] for row in rows] == [f"class {k}" for k in range(MANY)]
        np.testing.assert_allclose([float(row["f1"]) for row in rows], f1, atol=1e-6)
        assert [int(row["correct"]) for row in rows] == matrix.diagonal().tolist()
        with (folder / "confusion.csv").open(encoding="utf-8", newline="") as file:
            wrong = [(row["class"], row["predicted_class"], int(row["images"])) for row in csv.DictReader(file)]
        assert sum(count for _, _, count in wrong) == matrix.sum() - np.trace(matrix)
        assert all(matrix[int(a.split()[1]), int(b.split()[1])] == count for a, b, count in wrong)

    text = said_by(evaluate.main, [run, "--json"], capsys)
    found = json.loads(text)
    sparse = found["confusion_matrix"]
    dense = np.zeros((MANY, MANY), int)
    dense[sparse["rows"], sparse["columns"]] = sparse["counts"]
    assert np.array_equal(dense, matrix) and len(text) < 300 * MANY
    assert found["accuracy"] == results_of(run)["test/accuracy"]


def test_figures_of_many_classes_draw_a_few(many: Path) -> None:
    labels, preds = guesses(MANY, 2000)
    names = tuple(map(str, range(MANY)))
    probabilities = torch.nn.functional.one_hot(preds, MANY).float()
    confusion = figures.confusion_matrix(probabilities, labels, names, "test").axes[0]
    assert len(confusion.get_yticklabels()) == MOST_CLASSES
    assert len(figures.precision_recall(probabilities, labels, names, "test").axes[0].lines) == 1
    fit("--data.dataset=many", "--max_steps=10", "--pictures=true")


def test_a_table_of_few_classes_is_whole(run: Path, capsys: Capsys) -> None:
    table = said_by(evaluate.main, [run], capsys)
    assert "..." not in table and len(table.split("confusion matrix")[1].splitlines()) == 2 + 10
    found: dict[str, Any] = json.loads(said_by(evaluate.main, [run, "--json"], capsys))
    assert np.array(found["confusion_matrix"]).shape == (10, 10)
