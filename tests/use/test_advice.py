"""The one sentence about results that look wrong."""

from __future__ import annotations

from typing import Any

import pytest

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
        {"test/accuracy": 0.21},
        LATER,
        f"no better than always predicting the most frequent class (0.2): {BACKBONE}more or",
    ),
    ({"test/accuracy": 0.21, "features": "npy"}, {}, "class (0.2): try more or larger"),
    (OVERFIT, {}, f"else {BACKBONE}a weight_decay above 0.001"),
    ({**OVERFIT, "features": "timm/x"}, {}, "else try a weight_decay above 0.001"),
    ({"majority_class_accuracy": 0.9}, LATER, "efficientnet-lite0), class_weight balanced, more or larger"),
    ({"test/accuracy": 0.24}, LATER, None),  # more than a standard error above 0.2
    (OVERFIT, LATER, "train/accuracy 1 is far above val/accuracy 0.7"),
    ({"train/accuracy": 1.0, "val/accuracy": 0.85}, LATER, None),  # chance alone, among 100 images
    ({}, {1: 0.36, 2: 0.32}, None),  # it fell because the learning rate did
    ({}, {2: 0.32}, None),  # two validations in all say nothing about that
    ({}, {1: 0.4, 2: 0.32}, "val/loss was still falling, from 0.32 after half of the steps to 0.3: train longer"),
]


@pytest.mark.parametrize(("results", "earlier", "said"), CASES)
def test_says_what_looks_wrong_first(results: dict[str, Any], earlier: dict[int, float], said: str | None) -> None:
    found = advice(GOOD | results, earlier, "cosine", 100, 400)
    assert found is None if said is None else found is not None and said in found


def test_a_run_without_a_validation_says_only_what_it_can() -> None:
    results = {name: GOOD[name] for name in ("test/accuracy", "majority_class_accuracy", "features")}
    assert advice(results, {}, "cosine", 100, 100) is None


def test_at_a_constant_rate_a_falling_loss_is_enough() -> None:
    found = advice(GOOD, {1: 0.36, 2: 0.32}, "constant", 100, 400)
    assert found is not None and "val/loss was still falling" in found
