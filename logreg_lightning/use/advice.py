"""What looks wrong about a run's results, and what to do."""

from __future__ import annotations

import math
from typing import Any

from logreg_lightning.features.backbones import EMBEDDED

OVERFITTED = 0.1
"""By how much training accuracy may exceed validation accuracy."""

ELSEWHERE = 0.05
"""By how much validation accuracy may exceed test accuracy, however many images both are of."""

CLEAR = 2
"""Standard errors by which test accuracy must exceed the most frequent class's share: one run in forty by chance."""

SURE = 3
"""Standard errors beyond which a difference is no chance: one run in a thousand."""

COPIES = 0.02
"""By how much test images that are in training too may raise test accuracy."""

FALLING = 0.05
"""By which share the validation loss may fall in a run's second half."""


def advice(
    results: dict[str, Any],
    earlier: dict[int, float],
    schedule: str,
    num_val: int,
    num_test: int,
    guessing: float = math.inf,
) -> str | None:
    """One sentence about the first thing that looks wrong; None where nothing does.

    Args:
        results: What `results.json` holds.
        earlier: `val/loss` after one quarter and after two quarters of the steps, where it is known.
        schedule: Of the learning rate.
        num_val: Images that `val/accuracy` is of.
        num_test: Images that `test/accuracy` is of.
        guessing: The loss on them of predicting how frequent each class is in training; infinite where no such
            comparison is fair.
    """
    test, majority = results["test/accuracy"], results["majority_class_accuracy"]
    train, val, loss = results.get("train/accuracy"), results.get("val/accuracy"), results.get("test/loss", 0.0)
    backbone = f"the features of a backbone (--data.features {EMBEDDED}), " if results["features"] == "pixels" else ""
    # A loss of single images spreads about as widely as it is large.
    is_worse_than_guessing = loss > guessing * (1 + SURE / math.sqrt(num_test))
    worse = f"test/loss {loss:.3g} is above that of guessing by the classes' frequencies, {guessing:.3g}"
    if majority == 1:
        return "all test images are of one class, so test/accuracy says little: test on images of each class"
    if val is not None and val - test > max(
        ELSEWHERE, SURE * _standard_error_of_difference(val, num_val, test, num_test)
    ):
        return (
            f"test/accuracy {test:.3g} is far below val/accuracy {val:.3g}"
            + (f", and {worse}" if is_worse_than_guessing else "")
            + ": the test images are of another kind than those trained on, or the validation images resemble the "
            "training images too much (parts of one recording, say); look at them, and split by where they come from"
        )
    if test <= majority + CLEAR * _standard_error(majority, num_test):
        balance = "class_weight balanced, " if majority > 0.5 else ""
        better = "no better" if test <= majority else f"on {num_test:,} images not clearly better"
        return (
            f"test/accuracy {test:.3g} is {better} than always predicting the most frequent class ({majority:.3g}): "
            f"try {backbone}{balance}more or larger pictures, and check the labels"
        )
    if is_worse_than_guessing:
        return (
            f"{worse}, so the probabilities are too sure: calibrate on validation images that are like the test images"
        )
    if train is None or val is None:
        return None
    if train - val > OVERFITTED + 2 * _standard_error(val, num_val):
        return (
            f"train/accuracy {train:.3g} is far above val/accuracy {val:.3g}: the model is overfitting; "
            f"more training images help most, else try {backbone}a weight_decay above {results['weight_decay']:g}"
        )
    halfway, end = earlier.get(2, 0.0), results["val/loss"]
    # On a cosine, the second half is a fifth of the way, the second quarter a third. A loss that falls more than so in
    # the second half falls because the learning rate does: more steps would not help much.
    most = 0.4 * (earlier.get(1, halfway) - halfway) if schedule == "cosine" else math.inf
    if FALLING * halfway < halfway - end < most:
        return (
            f"val/loss was still falling, from {halfway:.3g} after half of the steps to {end:.3g}: "
            f"train longer, or with an lr above {results['lr']:g}"
        )
    return None


def rests_on_copies(results: dict[str, Any], copies: int, num_test: int) -> str | None:
    """One sentence where so many of the test images are in training too that the result says little; else None."""
    accuracy, without = results["test/accuracy"], results.get("test/accuracy_without_copies")
    if copies == num_test:
        where = "in training or validation too"
        return f"each of the {num_test:,} test images is {where}: test/accuracy says nothing; use others"
    if without is None or accuracy - without < COPIES:
        return None
    return (
        f"test/accuracy {accuracy:.3g} rests on copies: {copies:,} of {num_test:,} test images are in training or "
        f"validation too, and without them it is {without:.3g}; remove the copies"
    )


def _standard_error(accuracy: float, images: int) -> float:
    return math.sqrt(accuracy * (1 - accuracy) / images)


def _standard_error_of_difference(first: float, images: int, second: float, other_images: int) -> float:
    """Of two accuracies, if both were the same: that of all their images."""
    same = (first * images + second * other_images) / (images + other_images)
    return math.sqrt(same * (1 - same) * (1 / images + 1 / other_images))
