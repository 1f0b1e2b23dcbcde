"""LogisticRegression: one linear layer, cross-entropy, SGD, torchmetrics."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from logreg_lightning.batches import LOG_EVERY, Batch
from logreg_lightning.errors import InputError


class LogisticRegression(L.LightningModule):
    """Multinomial logistic regression on images.

    Args:
        inputs: Values in an image: channels x height x width.
        classes: Number of classes.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD, from 0 to below 1.
        weight_decay: L2 penalty of SGD.
        schedule: constant, or cosine: from lr down to 0 over the whole run, a step at a time. A run resumed with more
            epochs goes on along the longer run's curve.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        lr: float = 0.2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "cosine"] = "cosine",
    ) -> None:
        super().__init__()
        if not (math.isfinite(lr) and lr > 0):
            raise InputError(f"--model.lr must be a positive number, not {lr}")
        if not 0 <= momentum < 1:
            raise InputError(f"--model.momentum must be from 0 to below 1, not {momentum}")
        if not (math.isfinite(weight_decay) and weight_decay >= 0):
            raise InputError(f"--model.weight_decay must be 0 or a positive number, not {weight_decay}")
        self.save_hyperparameters()
        self.lr, self.momentum, self.weight_decay, self.schedule = lr, momentum, weight_decay, schedule
        self.automatic_optimization = False  # one training_step runs several optimiser steps
        self.linear = nn.Linear(inputs, classes)
        self.val_metrics = nn.ModuleDict(
            {"loss": MeanMetric(), "accuracy": MulticlassAccuracy(classes, average="micro")}
        )
        self.test_metrics = nn.ModuleDict(
            {
                "loss": MeanMetric(),
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                # Guo et al. 2017, https://arxiv.org/abs/1706.04599: 15 bins, L1
                "calibration_error": MulticlassCalibrationError(classes, n_bins=15, norm="l1"),
            }
        )
        # Loss and number right of each step since the last point of the training curve. A run is saved only where a
        # point was just drawn, so no checkpoint needs them.
        self.pending: list[Tensor] = []
        self.pending_images = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float (N, classes), of uint8 images (N, C, H, W), scaled to [0, 1] as `ToTensor` does."""
        return cast(Tensor, self.linear(images.flatten(1).to(self.linear.weight.dtype).div_(255)))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        if self.schedule == "constant":
            return optimizer
        total = cast(int, self.trainer.max_epochs) * cast(Any, self.trainer).datamodule.steps_per_epoch
        # A function of the step alone: a run resumed with more epochs follows the longer curve from where it is.
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * min(step / total, 1.0))) / 2
        )
        return [optimizer], [scheduler]

    def training_step(self, batches: list[tuple[Tensor, Tensor, int]], batch_idx: int) -> None:
        optimizer = cast(Any, self.optimizers())
        scheduler = cast(Any, self.lr_schedulers())
        for images, labels, global_size in batches:
            logits = self(images)
            # The mean over the global batch, weighted rightly where ranks have different shares of it.
            if self.trainer.world_size == 1:
                loss = F.cross_entropy(logits, labels)
            else:
                loss = F.cross_entropy(logits, labels, reduction="sum") * (self.trainer.world_size / global_size)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            share = loss.detach() / self.trainer.world_size
            right = (logits.detach().argmax(1) == labels).sum()
            self.pending.append(torch.stack([share.double(), right.double()]))
            self.pending_images += global_size
        last = batch_idx + 1 == self.trainer.num_training_batches
        if last or len(self.pending) == LOG_EVERY or self.global_step == self.trainer.max_steps:
            self._draw_training_curve()

    def _draw_training_curve(self) -> None:
        sums = torch.stack(self.pending)
        if self.trainer.world_size > 1:
            sums = cast(Tensor, self.trainer.strategy.reduce(sums, reduce_op="sum"))
        loss, accuracy = sums[:, 0].mean().item(), sums[:, 1].sum().item() / self.pending_images
        self.pending, self.pending_images = [], 0
        optimizer = cast(Any, self.optimizers(use_pl_optimizer=False))
        self.log("train/loss", loss, prog_bar=True, logger=False)
        self._write({"train/loss": loss, "train/accuracy": accuracy, "train/lr": optimizer.param_groups[0]["lr"]})

    def _write(self, metrics: dict[str, float]) -> None:
        """To the logger, with optimiser steps on the x axis (Lightning's own counts calls of training_step)."""
        if self.logger is not None:
            self.logger.log_metrics(metrics, step=self.global_step)

    def _evaluate(self, metrics: nn.ModuleDict, batch: Batch) -> None:
        images, labels = batch
        logits = self(images)
        for name, metric in metrics.items():
            if name == "loss":
                cast(MeanMetric, metric).update(F.cross_entropy(logits, labels), weight=len(labels))
            else:
                cast(Any, metric).update(logits, labels)

    def _report(self, stage: str, metrics: nn.ModuleDict) -> None:
        values = {f"{stage}/{name}": cast(Any, metric).compute().item() for name, metric in metrics.items()}
        for metric in metrics.values():
            cast(Any, metric).reset()
        self.log_dict(values, prog_bar=True, logger=False)
        self._write(values)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.test_metrics, batch)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_metrics)
