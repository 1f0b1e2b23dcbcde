"""LogisticRegression: one linear layer, cross-entropy, SGD, torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from logreg_lightning import preprocess
from logreg_lightning.batches import LOG_EVERY, Batch, Steps
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.graphs import GraphedSteps

DIVERGED = 1e6
"""Nats: a step's mean loss from here on, or NaN, ends the training. A large learning rate alone never makes the loss
infinite, since the gradient of cross-entropy is bounded; this loss stands for a probability of exp(-1,000,000)."""


def cross_entropy_gradient(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Gradient by the logits (N, classes) of their cross-entropy with labels (N,), summed and divided by `count`.

    It is (softmax - one-hot) / count (Bishop 2006, Pattern Recognition and Machine Learning, eq. 4.109). The operator
    is the one that autograd calls, so results are autograd's bit for bit; a whole step takes two thirds of the time.
    """
    log_p = logits.log_softmax(1)
    by_log_p = torch.zeros_like(log_p).scatter_(1, labels.unsqueeze(1), -1 / count)
    return torch.ops.aten._log_softmax_backward_data(by_log_p, log_p, 1, log_p.dtype)  # type: ignore[no-any-return]


class CrossEntropy(Metric):
    """Mean cross-entropy in nats of logits (N, classes) with labels (N,), summed in float64."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.total += F.cross_entropy(logits, labels, reduction="none").double().sum()
        self.count += len(labels)

    def compute(self) -> Tensor:
        return self.total / self.count


class LogisticRegression(L.LightningModule):
    """Multinomial logistic regression on images.

    Args:
        inputs: Values in an image: channels x height x width.
        classes: Number of classes.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD, from 0 to below 1.
        weight_decay: L2 penalty of SGD.
        schedule: constant, or cosine: from lr down to 0 over the whole run, a step at a time. A run resumed with
            another length goes on along that length's curve.

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
        accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.val_metrics = MetricCollection(
            {"loss": CrossEntropy(), "accuracy": accuracy}, prefix="val/", compute_groups=False
        )
        self.test_metrics = self.val_metrics.clone("test/")
        # Guo et al. 2017, https://arxiv.org/abs/1706.04599: 15 bins, L1
        self.test_metrics["calibration_error"] = MulticlassCalibrationError(
            classes, n_bins=15, norm="l1", validate_args=False
        )
        # Of each image since the last point of the training curve: its loss, and whether it was right. A run is saved
        # only where a point was just drawn, so no checkpoint needs them.
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.pending_sizes: list[int] = []
        self.graphed_steps = GraphedSteps(self.optimizer_steps)
        self.class_names: tuple[str, ...] = tuple(map(str, range(classes)))
        self.image_shape: tuple[int, int, int] = (1, 1, inputs)

    @classmethod
    def load(cls, run: str | Path) -> LogisticRegression:
        """The model of a run, from its folder's `last.ckpt` or a `.ckpt` file, ready to predict; no code in it is run.

        Raises:
            InputError: there is none, or it is not a whole checkpoint of this project.
        """
        from logreg_lightning.checkpoints import read
        from logreg_lightning.runs import checkpoint_of

        checkpoint = read(checkpoint_of(str(run)))
        model = cls(**checkpoint["hyper_parameters"])
        model.load_state_dict(checkpoint["state_dict"])
        data = checkpoint["ImageDataModule"]
        model.class_names, model.image_shape = tuple(data["classes"]), tuple(data["image_shape"])
        return model.eval()

    def to_pixels(self, images: Any) -> Tensor:
        """uint8 (N, C, H, W) as the model takes them, of a PIL image, or of an array or tensor of uint8.

        An array or tensor has the shape (H, W) or (N, H, W), with the channels behind or, as in PyTorch, before
        height and width where there are three. PIL images of any size and mode are scaled.

        Raises:
            InputError: another type or shape.
        """
        from PIL.Image import Image

        channels, height, width = self.image_shape
        if isinstance(images, Image):
            return preprocess.to_pixels(preprocess.upright(images), self.image_shape).unsqueeze(0)
        if isinstance(images, list | tuple):
            return torch.cat([self.to_pixels(image) for image in images])
        pixels = torch.as_tensor(images)
        if pixels.shape[-3:] == (height, width, channels):
            pixels = pixels.movedim(-1, -3)
        one = (height, width) if channels == 1 else (channels, height, width)
        if pixels.dtype == torch.uint8 and pixels.shape[-len(one) :] == one and pixels.ndim <= 4:
            return pixels.reshape(-1, channels, height, width)
        raise InputError(
            f"images of {pixels.dtype} {tuple(pixels.shape)} are not what this model takes: uint8 values, "
            f"{channels} x {height} x {width} an image"
        )

    @torch.inference_mode()
    def predict_proba(self, images: Any) -> Tensor:
        """Probabilities, float (N, classes), of images as `to_pixels` takes them."""
        return cast(Tensor, self(self.to_pixels(images).to(self.device)).softmax(1))

    def predict(self, images: Any) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.class_names[number] for number in self.predict_proba(images).argmax(1).tolist()]

    def features(self, images: Tensor) -> Tensor:
        """Floats (N, inputs) in [0, 1] of uint8 images (N, C, H, W), as `ToTensor` scales them."""
        return images.flatten(1).to(self.linear.weight.dtype).div_(255)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float (N, classes), of uint8 images (N, C, H, W)."""
        return cast(Tensor, self.linear(self.features(images)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = True if self.device.type == "cuda" else None  # what a CUDA graph can hold
        return torch.optim.SGD(
            self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused
        )

    def lr_at(self, step: int, run_steps: int) -> float:
        """The learning rate of optimiser step `step`, counted from 0, in a run of `run_steps`."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * min(step / run_steps, 1.0))) / 2

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        # Lightning would look into every number of it.
        return type(batch)._make(part.to(device) if isinstance(part, Tensor) else part for part in batch)

    @torch.no_grad()
    def training_step(self, steps: Steps, batch_idx: int) -> None:
        run_steps = cast(ImageDataModule, cast(Any, self.trainer).datamodule).run_steps
        rates = [self.lr_at(self.global_step + number, run_steps) for number in range(len(steps.sizes))]
        logits = self.graphed_steps(steps, rates) if steps.images.is_cuda else self.optimizer_steps(steps, rates)
        cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False)).param_groups[0]["lr"] = rates[-1]
        # Lightning's `global_step`; its wrapper of the optimiser, which counts too, costs as much as a step.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for _ in steps.sizes:
            progress.increment_ready()
            progress.increment_completed()
        losses = F.cross_entropy(logits, steps.labels, reduction="none").double()
        self.pending.append((losses, logits.argmax(1) == steps.labels))
        self.pending_sizes += steps.global_sizes
        last = batch_idx + 1 == self.trainer.num_training_batches
        if last or len(self.pending_sizes) == LOG_EVERY or self.global_step == self.trainer.max_steps:
            self._draw_training_curve(rates[-1])

    def optimizer_steps(self, steps: Steps, rates: Sequence[float | Tensor]) -> Tensor:
        """Steps the optimiser once for each mini-batch and returns all logits (N, classes), each before its step.

        Nothing in it waits for the device or depends on a value, so on a GPU it can be recorded and replayed.
        """
        optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
        weight, bias = self.linear.weight, self.linear.bias
        batches = zip(*(torch.split(part, steps.sizes) for part in (steps.images, steps.labels)), strict=True)
        all_logits = []
        for (images, labels), global_size, rate in zip(batches, steps.global_sizes, rates, strict=True):
            features = self.features(images)
            logits = self.linear(features)
            error = cross_entropy_gradient(logits, labels, global_size)
            weight.grad, bias.grad = (error.T @ features).to(weight.dtype), error.sum(0).to(bias.dtype)
            if self.trainer.world_size > 1:
                torch.distributed.all_reduce(weight.grad)
                torch.distributed.all_reduce(bias.grad)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            all_logits.append(logits)
        return torch.cat(all_logits)

    def _draw_training_curve(self, rate: float) -> None:
        """One point: the mean loss and accuracy of the images since the last, each with the weights of its step."""
        losses, right = (torch.cat(parts) for parts in zip(*self.pending, strict=True))
        sums = torch.stack([losses.sum(), right.sum()])
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        loss, accuracy = (sums / sum(self.pending_sizes)).tolist()
        if not loss < DIVERGED:
            raise RunError(
                f"the training diverged: {self._where_it_diverged(losses)}; try a smaller --model.lr, it is "
                f"{self.lr:g} (--model.momentum {self.momentum:g}, --model.weight_decay {self.weight_decay:g})"
            )
        self.pending, self.pending_sizes = [], []
        self.log("train/loss", loss, prog_bar=True, logger=False)
        self._write({"train/loss": loss, "train/accuracy": accuracy, "train/lr": rate})

    def _where_it_diverged(self, losses: Tensor) -> str:
        """The first step, of those since the last point, whose loss is out of bounds."""
        first = self.global_step - len(self.pending_sizes) + 1
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        steps = torch.split(losses, [len(range(rank, size, ranks)) for size in self.pending_sizes])
        worst = [(float(step.mean()), number) for number, step in enumerate(steps, first) if not step.mean() < DIVERGED]
        loss, number = worst[0] if worst else (float(losses.max()), self.global_step)
        return f"the loss is {loss:.3g} at step {number}"

    def _write(self, metrics: dict[str, float]) -> None:
        """To the logger, with optimiser steps on the x axis (Lightning's own counts calls of training_step)."""
        if self.logger is not None:
            self.logger.log_metrics(metrics, step=self.global_step)

    def _report(self, metrics: MetricCollection) -> None:
        # The calibration error's sums in double: the order in which processes share the images leaves no trace.
        metrics.set_dtype(torch.float64)
        values = {name: value.float().item() for name, value in metrics.compute().items()}
        metrics.reset()
        self.log_dict(values, prog_bar=True, logger=False)
        self._write(values)

    def _evaluate(self, metrics: MetricCollection, images: Tensor, labels: Tensor) -> None:
        if len(labels):  # none where there are fewer batches than processes
            metrics.update(self(images), labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.val_metrics, *batch)

    def on_validation_epoch_end(self) -> None:
        self._report(self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.test_metrics, *batch)

    def on_test_epoch_end(self) -> None:
        self._report(self.test_metrics)
