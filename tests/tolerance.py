"""How far two ways of computing one thing may differ, and from what that follows.

Processors add the terms of a sum in different orders, with fused products or without, and approximate exp and log each
in its own way. So two ways are compared within one of these; equality is asked for only where the operations are the
same ones, on the same processor and with as many threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

EPS = 2.0**-23
"""float32's spacing at 1: an operation rounds by at most half of it, relative to its result."""

DOUBLE = 2.0**-42
"""Relative: float64 sums of up to 1,000 terms, each of which rounds by at most 2**-53; twice that, for two ways."""

LOSS: Any = {"rel": 1e-5, "abs": EPS}
"""A mean cross-entropy from float32 logits.

That of an image which the model is sure of, and right, is the log of a sum close to 1, where float32 has steps of EPS:
however small the loss, it ends there. A larger one follows the logits: an error of e in each moves it by at most
2 (1 - p) e, and 1 - p is less than -log p, the loss itself. Weights that differ by 1e-6 in norm leave an e of 5e-6.
"""

PROBABILITY = 2.0**-17
"""Absolute: a softmax of float32 logits from the same weights.

Logits are below 32 here, where float32 has steps of 2**-19. Some 1,000 products that are added up in another order are
worth eight of these, and a probability moves by at most half of what two logits do, p (1 - p) by each.
"""


def trained(steps: int) -> float:
    """Relative, in norm: weights after so many float32 steps of SGD.

    A step rounds some eight times one after the other, from the sums over features to the weights, each time by at most
    half of EPS. The signs are random, and a stable learning rate makes no error larger: so the 16 roundings a step of
    two ways add up to EPS / 2 times the square root of their number. This is twice that.
    """
    return 2 * EPS / 2 * math.sqrt(16 * steps)


def assert_trained_alike(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], steps: int) -> None:
    """Of each tensor by its name: weights, and what they are saved with."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = float((found[name].double() - value.double()).norm())
        assert difference <= trained(steps) * float(value.double().norm()), (name, difference)


def assert_same_features(found: Tensor, expected: Tensor) -> None:
    """float32 features of a network: some fifty layers, which round sums and activations by EPS of the largest each."""
    torch.testing.assert_close(found, expected, rtol=0, atol=100 * EPS * float(expected.abs().max()))
