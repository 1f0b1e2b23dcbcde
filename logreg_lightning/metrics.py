"""The metrics that validation and test log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError


class Metrics(MetricCollection):
    """Metrics that stay on the CPU when the model goes to a device without float64, an Apple GPU."""

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return self if _has_no_float64(fn(torch.empty(0))) else super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        super().update(*((part.cpu() if _has_no_float64(part) else part) for part in (logits, labels)))


def _has_no_float64(tensor: Tensor) -> bool:
    return tensor.device.type == "mps"


class CrossEntropy(Metric):
    """Mean cross-entropy in nats of logits (N, classes) with labels (N,), summed in float64."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        # Not in place: a reset under torch.inference_mode leaves states that nothing may change afterwards.
        self.total = self.total + F.cross_entropy(logits, labels, reduction="none").double().sum()
        self.count = self.count + len(labels)

    def compute(self) -> Tensor:
        return self.total / self.count


def val_metrics(num_classes: int) -> MetricCollection:
    """Loss and accuracy, prefixed `val/`."""
    accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
    return Metrics({"loss": CrossEntropy(), "accuracy": accuracy}, prefix="val/", compute_groups=False)


def test_metrics(num_classes: int) -> MetricCollection:
    """The same and the expected calibration error, prefixed `test/`.

    Its 15 bins and L1 norm: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
    """
    metrics = val_metrics(num_classes).clone("test/")
    calibration = MulticlassCalibrationError(num_classes, n_bins=15, norm="l1", validate_args=False)
    metrics["calibration_error"] = calibration
    return metrics


def compute(metrics: MetricCollection) -> dict[str, float]:
    """Every metric by its logged name, from then on reset.

    The calibration error is summed up in float64: the order in which processes share the images leaves no trace.
    """
    metrics.set_dtype(torch.float64)
    values = {name: value.float().item() for name, value in metrics.compute().items()}
    metrics.reset()
    return values
