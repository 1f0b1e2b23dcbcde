"""The metrics that validation and test log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 2.0**23)
"""What logits may be divided by where they are too sure of themselves. By a power of two no digit is lost; the last one
makes all classes equally probable, but for their order."""


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

    Attributes:
        calibrates: Whether to divide the logits by the one of the temperatures that makes the loss smallest.
        temperature: That one, once the loss was computed.
    """

    total: Tensor
    count: Tensor

    def __init__(self, temperatures: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.temperatures, self.temperature, self.calibrates = temperatures, 1.0, False
        self.add_state("total", torch.zeros(len(temperatures), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> None:
        # Not in place: a reset under torch.inference_mode leaves states that nothing may change afterwards.
        losses = [F.cross_entropy(logits / t, labels, class_weights, reduction="none") for t in self.temperatures]
        self.total = self.total + torch.stack([loss.double().sum() for loss in losses])
        self.count = self.count + (len(labels) if class_weights is None else class_weights[labels].double().sum())

    def compute(self) -> Tensor:
        best = int(self.total.argmin()) if self.calibrates else 0
        self.temperature = self.temperatures[best]
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


def val_metrics(num_classes: int, temperatures: tuple[float, ...] = (1.0,)) -> MetricCollection:
    """Loss and accuracy, prefixed `val/`."""
    accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
    return Metrics({"loss": CrossEntropy(temperatures), "accuracy": accuracy}, prefix="val/", compute_groups=False)


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
