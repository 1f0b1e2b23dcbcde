"""The metrics that validation and test log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

SHARPEST, OCTAVES = 64.0, 13
"""What logits may be multiplied by at most, and how often that is halved."""

INFINITE = 2.0**23
"""A temperature that makes all classes equally probable, but for their order."""

TEMPERATURES = (
    *(2 ** (quarter / 4) / SHARPEST * 2**octave for quarter in range(4) for octave in reversed(range(OCTAVES))),
    INFINITE,
)
"""What logits may be divided by where they are too sure or not sure enough of themselves: from 1/64 to 108 in quarters
of a power of two, and beyond."""


def tempered(logits: Tensor, index: Tensor) -> Tensor:
    """Cross-entropy in nats of logits at each temperature, float64 (temperatures, N) or (temperatures, N, heads).

    The exponentials at half a temperature are those at the whole one, squared.

    Args:
        logits: (N, classes), or (N, classes, heads).
        index: int64 (N, 1), or (N, 1, heads): the labels.
    """
    below = logits.double()
    below = below - below.amax(1, keepdim=True)
    at_label = below.gather(1, index).squeeze(1)
    losses = []
    for temperature in TEMPERATURES[: 4 * OCTAVES : OCTAVES]:
        powers, factor = (below / temperature).exp_(), 1 / temperature
        for _ in range(OCTAVES):
            losses.append(powers.sum(1).log_() - factor * at_label)
            powers, factor = powers.square_(), 2 * factor
    losses.append((below / INFINITE).logsumexp(1) - at_label / INFINITE)
    return torch.stack(losses)


def coolest(losses: Tensor) -> Tensor:
    """Which temperature makes the sum of losses, float64 (temperatures, ...), smallest; 1 where none does more."""
    one = TEMPERATURES.index(1.0)
    best = losses.argmin(0)
    gain = losses[one] - losses.amin(0)
    return best.where(gain > 1e-9 * losses[one].abs(), one)


class Metrics(MetricCollection):
    """Metrics that stay on the CPU when the model goes to a device without float64, an Apple GPU."""

    # Private in name alone: torch's way for a module to take part in `to`, which Lightning calls on the whole model.
    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return self if fn(torch.empty(0)).device.type == "mps" else super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]

    def update(self, *args: Any, **kwargs: Any) -> None:
        super().update(*map(_with_float64, args), **{name: _with_float64(value) for name, value in kwargs.items()})


def _with_float64(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) and value.device.type == "mps" else value


class CrossEntropy(Metric):
    """Mean cross-entropy in nats of logits (N, classes) with labels (N,), summed in float64.

    With class weights, float (classes,), it is the weighted mean.

    Args:
        can_calibrate: Whether `calibrates` may be set.

    Attributes:
        calibrates: Whether to divide the logits by the one of the temperatures that makes the loss, not weighted,
            smallest.
        temperature: That one, once the loss was computed.
    """

    total: Tensor
    unweighted: Tensor
    count: Tensor

    def __init__(self, can_calibrate: bool = False) -> None:
        super().__init__()
        self.temperature, self.calibrates = 1.0, False
        sums = torch.zeros(len(TEMPERATURES) if can_calibrate else 1, dtype=torch.float64)
        self.add_state("total", sums, dist_reduce_fx="sum")
        self.add_state("unweighted", sums.clone(), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> None:
        if self.calibrates:
            losses = tempered(logits, labels.unsqueeze(1))
        else:
            losses = F.cross_entropy(logits, labels, reduction="none").double().unsqueeze(0)
        weights = torch.ones_like(losses[0]) if class_weights is None else class_weights[labels].double()
        # Not in place: a reset under torch.inference_mode leaves states that nothing may change afterwards.
        self.unweighted = self.unweighted + losses.sum(1)
        self.total = self.total + losses @ weights
        self.count = self.count + weights.sum()

    def compute(self) -> Tensor:
        best = coolest(self.unweighted) if self.calibrates else torch.tensor(0)
        self.temperature = TEMPERATURES[int(best)] if self.calibrates else 1.0
        return self.total[best] / self.count


class BalancedAccuracy(Metric):
    """Mean of the classes' recalls, as scikit-learn has it: a class that no image has does not count.

    torchmetrics' own counts each two classes of a batch, which of thousands of classes takes longer than the model.
    """

    hits: Tensor
    images: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name in ("hits", "images"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        right = labels[logits.argmax(1) == labels]
        self.images = self.images + labels.bincount(minlength=self.num_classes)
        self.hits = self.hits + right.bincount(minlength=self.num_classes)

    def compute(self) -> Tensor:
        labelled = self.images > 0
        recalls: Tensor = self.hits[labelled] / self.images[labelled]
        return recalls.mean()


def val_metrics(num_classes: int, can_calibrate: bool = False) -> MetricCollection:
    """Loss and accuracy, prefixed `val/`."""
    accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
    return Metrics({"loss": CrossEntropy(can_calibrate), "accuracy": accuracy}, prefix="val/", compute_groups=False)


def test_metrics(num_classes: int) -> MetricCollection:
    """The same, balanced accuracy and the expected calibration error, prefixed `test/`.

    Its 15 bins and L1 norm: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
    """
    metrics = val_metrics(num_classes).clone("test/")
    metrics["balanced_accuracy"] = BalancedAccuracy(num_classes)
    metrics["calibration_error"] = MulticlassCalibrationError(num_classes, n_bins=15, norm="l1", validate_args=False)
    return metrics


def compute(metrics: MetricCollection) -> dict[str, float]:
    """Every metric by its logged name, from then on reset.

    The calibration error is summed up in float64: the order in which processes share the images leaves no trace.
    """
    metrics.set_dtype(torch.float64)
    values = {name: value.float().item() for name, value in metrics.compute().items()}
    metrics.reset()
    return values
