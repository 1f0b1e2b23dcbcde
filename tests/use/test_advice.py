"""The one sentence about results that look wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Patch, write_features

from logreg_lightning import fit
from logreg_lightning.use.advice import advice

GOOD: dict[str, Any] = {
    "test/accuracy": 0.9, "majority_class_accuracy": 0.2, "train/accuracy": 0.92, "val/accuracy": 0.9,
    "val/loss": 0.30, "lr": 0.01, "weight_decay": 0.001, "features": "pixels",
}  # fmt: skip


LATER, OVERFIT = {1: 0.4, 2: 0.31}, {"train/accuracy": 1.0, "val/accuracy": 0.7}
BACKBONE = "try the features of a backbone (--data.features efficientnet-lite0), "
CASES: list[tuple[dict[str, Any], dict[int, float], str | None]] = [
    ({}, LATER, None),
    ({}, {}, None),
    (
        {"test/accuracy": 0.21, "val/accuracy": 0.25},
        LATER,
        f"0.21 is on 400 images not clearly better than always predicting the most frequent class (0.2): {BACKBONE}",
    ),
    ({"test/accuracy": 0.2, "val/accuracy": 0.25}, LATER, "0.2 is no better than always predicting"),
    ({"test/accuracy": 0.23, "val/accuracy": 0.25}, LATER, "not clearly better"),  # 1.5 standard errors
    (
        {"test/accuracy": 0.6, "val/accuracy": 0.79, "majority_class_accuracy": 0.6},
        LATER,
        "far below val/accuracy 0.79",
    ),
    ({"test/accuracy": 1.0, "majority_class_accuracy": 1.0}, LATER, "all test images are of one class"),
    ({"test/accuracy": 0.21, "val/accuracy": 0.25, "features": "npy"}, {}, "class (0.2): try more or larger"),
    (OVERFIT, {}, f"else {BACKBONE}a weight_decay above 0.001"),
    ({**OVERFIT, "features": "timm/x"}, {}, "else try a weight_decay above 0.001"),
    ({"majority_class_accuracy": 0.9}, LATER, "efficientnet-lite0), class_weight balanced, more or larger"),
    ({"test/accuracy": 0.6, "val/accuracy": 0.79}, LATER, "test/accuracy 0.6 is far below val/accuracy 0.79: the test"),
    (
        {"test/accuracy": 0.6, "val/accuracy": 0.79, "test/loss": 1.9},
        LATER,
        "0.79, and test/loss 1.9 is above that of guessing by the classes' frequencies, 1.5: the test images",
    ),
    ({"test/loss": 1.9}, LATER, "frequencies, 1.5, so the probabilities are too sure"),
    ({"test/loss": 1.7}, LATER, None),  # 0.2 of 1.5 may be chance, among 400
    ({"test/accuracy": 0.8, "val/accuracy": 0.92}, LATER, None),  # so may 0.12, among 100 and 400
    ({"test/accuracy": 0.97, "val/accuracy": 0.9}, LATER, None),  # an easier test set is none of a run's faults
    (
        {"test/accuracy": 0.25, "val/accuracy": 0.25, "train/accuracy": 0.26},
        LATER,
        None,
    ),  # more than two standard errors above 0.2
    (OVERFIT, LATER, "train/accuracy 1 is far above val/accuracy 0.7"),
    ({"train/accuracy": 1.0, "val/accuracy": 0.85}, LATER, None),  # chance alone, among 100 images
    ({}, {1: 0.36, 2: 0.32}, None),  # it fell because the learning rate did
    ({}, {2: 0.32}, None),  # two validations in all say nothing about that
    ({}, {1: 0.4, 2: 0.32}, "val/loss was still falling, from 0.32 after half of the steps to 0.3: train longer"),
]


@pytest.mark.parametrize(("results", "earlier", "said"), CASES)
def test_says_what_looks_wrong_first(results: dict[str, Any], earlier: dict[int, float], said: str | None) -> None:
    found = advice(GOOD | results, earlier, "cosine", 100, 400, guessing=1.5)
    assert found is None if said is None else found is not None and said in found


def test_a_run_without_a_validation_says_only_what_it_can() -> None:
    results = {name: GOOD[name] for name in ("test/accuracy", "majority_class_accuracy", "features")}
    assert advice(results, {}, "cosine", 100, 100) is None


def test_at_a_constant_rate_a_falling_loss_is_enough() -> None:
    found = advice(GOOD, {1: 0.36, 2: 0.32}, "constant", 100, 400)
    assert found is not None and "val/loss was still falling" in found


def test_chance_alone_raises_no_alarm() -> None:
    """Ten thousand runs whose validation and test images are equally hard, in sets from tiny to large."""
    rng = np.random.default_rng(0)
    for num_val, num_test in ((5, 10), (20, 50), (1000, 200), (6000, 10000)):
        for accuracy in (0.5, 0.8, 0.99):
            val, test = (rng.binomial(n, accuracy, 1000) / n for n in (num_val, num_test))
            results = [
                {**GOOD, "train/accuracy": v, "val/accuracy": v, "test/accuracy": t}
                for v, t in zip(val, test, strict=True)
            ]
            said = [advice(one, {}, "cosine", num_val, num_test) or "" for one in results]
            assert sum("far below" in sentence for sentence in said) <= 3


def test_a_run_says_that_its_test_images_are_of_another_kind(tmp_path: Path, monkeypatch: Patch) -> None:
    """A test set whose classes are swapped in half of the rows."""
    monkeypatch.chdir(tmp_path)
    write_features(Path("six"), 400, 200)
    labels = np.load("six/test_labels.npy")
    labels[:70] = 1 - labels[:70]
    np.save("six/test_labels.npy", labels)
    run = fit("six", max_steps=200, pictures=False, verbose=False)
    assert run.remark is not None and "far below val/accuracy" in run.remark and "guessing" in run.remark
