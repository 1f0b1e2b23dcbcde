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


def tempered(logits: Tensor, index: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sums of cross-entropies of logits at each temperature, float64 (3, temperatures[, heads]), in nats.

    The first are weighted, the second are not, the third are those with every class, a mean over the classes. The
    exponentials at half a temperature are those at the whole one, squared.

    Args:
        logits: (N, classes), or (N, classes, heads).
        index: int64 (N, 1), or (N, 1, heads): the labels.
        weights: float64 (N,).
    """
    below = logits.double()
    below = below - below.amax(1, keepdim=True)
    at_label, at_all = below.gather(1, index).squeeze(1), below.mean(1)
    weights = torch.ones_like(at_label) if weights is None else weights.view(-1, *[1] * (at_label.ndim - 1))
    sums = []

    def add(log_sums: Tensor, factor: float) -> None:
        losses, with_all = log_sums - factor * at_label, log_sums - factor * at_all
        sums.append(torch.stack([(weights * losses).sum(0), losses.sum(0), with_all.sum(0)]))

    for temperature in TEMPERATURES[: 4 * OCTAVES : OCTAVES]:
        powers, factor = (below / temperature).exp_(), 1 / temperature
        for _ in range(OCTAVES):
            add(powers.sum(1).log_(), factor)
            powers, factor = powers.square_(), 2 * factor
    add((below / INFINITE).logsumexp(1), 1 / INFINITE)
    return torch.stack(sums, 1)


def coolest(sums: Tensor, images: Tensor) -> Tensor:
    """Which temperature makes the loss, not weighted, of so many images and one more smallest; 1 where none does more.

    The one more may be of any class: without it, images that are all predicted right would make a model quite sure
    (Platt 1999, Probabilistic Outputs for Support Vector Machines, section 2.2).

    Args:
        sums: What `tempered` returns.
    """
    one, losses = TEMPERATURES.index(1.0), sums[1] + sums[2] / images
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

    sums: Tensor
    count: Tensor

    def __init__(self, can_calibrate: bool = False) -> None:
        super().__init__()
        self.temperature, self.calibrates = 1.0, False
        sums = torch.zeros(3, len(TEMPERATURES) if can_calibrate else 1, dtype=torch.float64)
        self.add_state("sums", sums, dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")  # of weights, of images

    def update(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> None:
        weights = torch.ones_like(labels).double() if class_weights is None else class_weights[labels].double()
        if self.calibrates:
            sums = tempered(logits, labels.unsqueeze(1), weights)
        else:
            sums = weights @ F.cross_entropy(logits, labels, reduction="none").double()
        # Not in place: a reset under torch.inference_mode leaves states that nothing may change afterwards.
        self.sums = self.sums + sums
        self.count = self.count + torch.stack([weights.sum(), torch.ones_like(weights).sum()])

    def compute(self) -> Tensor:
        best = int(coolest(self.sums, self.count[1])) if self.calibrates else 0
        self.temperature = TEMPERATURES[best] if self.calibrates else 1.0
        return self.sums[0, best] / self.count[0]


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
