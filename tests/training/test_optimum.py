"""The optimum is scikit-learn's, for each head as for one alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from logreg_lightning.training.optimum import Optimum

DIGITS = load_digits()
ROWS = torch.from_numpy(StandardScaler().fit_transform(DIGITS.data))
LABELS = torch.from_numpy(DIGITS.target).long()


def objective(weight: torch.Tensor, bias: torch.Tensor, share: torch.Tensor, decay: float) -> float:
    losses = torch.nn.functional.cross_entropy(ROWS @ weight.T + bias, LABELS, reduction="none")
    return float(share @ losses + decay / 2 * weight.square().sum())


@pytest.mark.parametrize("decay", [1.0, 1e-2, 1e-4])
def test_the_optimum_is_that_of_scikit_learn(decay: float) -> None:
    """On all rows, on the even ones, and on all with weights of their own; at once, from the penalty before."""
    count = len(ROWS)
    weights = np.stack([np.ones(count), np.arange(count) % 2 == 0, 0.2 + DIGITS.target])
    shares = torch.from_numpy(weights / weights.sum(1, keepdims=True))
    optimum = Optimum(ROWS, LABELS, 10, shares)
    optimum.minimize(10 * decay, 1e-9)
    logits = optimum.minimize(decay, 1e-12)
    for head, (weight, share) in enumerate(zip(weights, shares, strict=True)):
        theirs = LogisticRegression(C=1 / (decay * weight.sum()), tol=1e-8, max_iter=10_000)
        theirs.fit(ROWS.numpy(), DIGITS.target, sample_weight=weight)
        best = objective(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_), share, decay)
        found = objective(optimum.weights[head], optimum.bias[head], share, decay)
        assert found == pytest.approx(best, rel=1e-6)
        torch.testing.assert_close(logits[head], ROWS @ optimum.weights[head].T + optimum.bias[head])


def test_what_cannot_be_told_apart_ends() -> None:
    """Rows that are all alike, and classes that no row has: the optimum is the classes' shares."""
    labels = torch.tensor([0, 0, 0, 2])
    optimum = Optimum(torch.zeros(4, 3), labels, 3, torch.full((1, 4), 0.25))
    probabilities = optimum.minimize(0.1, 1e-9).softmax(2)[0, 0]
    assert probabilities.tolist() == pytest.approx([0.75, 0, 0.25], abs=1e-3)
