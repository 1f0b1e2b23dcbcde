"""Steps 3 to 6 of the tutorial: the model class, its loss, its optimizer, and one call of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import lightning as L
import torch
from torch import Tensor, nn

from logreg_lightning import hyperparameters, metrics, preprocess
from logreg_lightning.errors import InputError
from logreg_lightning.runtime import checkpoints
from logreg_lightning.runtime.curves import TrainingCurve
from logreg_lightning.runtime.loader import Steps
from logreg_lightning.runtime.plan import Plan
from logreg_lightning.runtime.runs import checkpoint_of
from logreg_lightning.runtime.steps import count_steps, step_runner


class LogisticRegression(L.LightningModule):
    """Multinomial logistic regression: one linear layer, trained with cross-entropy and SGD.

    Args:
        in_features: Values in an image: channels x height x width.
        num_classes: Number of classes.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD, from 0 to below 1.
        weight_decay: L2 penalty of SGD.
        schedule: constant, or cosine: from lr down to 0 over the whole run, a step at a time. A run resumed with
            another length continues along that length's curve.
        image_shape: Channels, height and width. A square image, grey or in three colours, where none is given.
        class_names: A name for each class; their numbers where none are given.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        lr: float = 0.2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "cosine"] = "cosine",
        image_shape: Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        hyperparameters.check(lr=lr, momentum=momentum, weight_decay=weight_decay, schedule=schedule)
        image_shape = hyperparameters.shape_of(in_features, image_shape)
        class_names = hyperparameters.names_of(num_classes, class_names)
        self.save_hyperparameters()
        self.image_shape, self.class_names = tuple(image_shape), tuple(class_names)
        self.lr, self.momentum, self.weight_decay, self.schedule = lr, momentum, weight_decay, schedule
        self.linear = nn.Linear(in_features, num_classes)
        self.val_metrics = metrics.val_metrics(num_classes)
        self.test_metrics = metrics.test_metrics(num_classes)
        self.automatic_optimization = False  # one training_step runs several optimiser steps

    def features(self, images: Tensor) -> Tensor:
        """Floats (N, in_features) of images (N, C, H, W): uint8 divided by 255, as `ToTensor` does, floats kept."""
        floats = images.flatten(1).to(self.linear.weight.dtype)
        return floats if images.is_floating_point() else floats.div_(255)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float (N, num_classes), of images (N, C, H, W), uint8 or float in [0, 1]."""
        return cast(Tensor, self.linear(self.features(images)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = True if self.device.type == "cuda" else None  # what a CUDA graph can hold
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused
        )
        self.optimizer_steps = step_runner(self, optimizer)
        return optimizer

    def configure_callbacks(self) -> list[L.Callback]:
        there = any(isinstance(callback, TrainingCurve) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [] if there else [TrainingCurve()]

    @torch.no_grad()
    def training_step(self, batch: Steps | Sequence[Tensor], batch_idx: int) -> dict[str, Any]:
        """For each mini-batch: logits, the gradient of their cross-entropy, a step of SGD.

        Takes what `ImageDataModule` loads, several mini-batches, or images and labels of a plain `DataLoader`, one.
        Returns the logits (N, num_classes), each from before its step, and the last step's learning rate.
        """
        steps = Steps.of(batch, self.trainer.world_size)
        run_steps = Plan.in_training(self.trainer).run_steps
        rates = [self.lr_at(self.global_step + number, run_steps) for number in range(len(steps.sizes))]
        logits = self.optimizer_steps(steps, rates)
        count_steps(self.trainer, len(rates))
        return {"logits": logits, "lr": rates[-1]}

    def lr_at(self, step: int, run_steps: int | None) -> float:
        """The learning rate of optimiser step `step`, counted from 0, in a run of `run_steps`.

        Raises:
            InputError: the schedule needs the run's length, and there is none.
        """
        if self.schedule == "constant":
            return self.lr
        if run_steps is None:
            raise InputError("`schedule='cosine'` needs an end: give the trainer `max_epochs` or `max_steps`")
        return self.lr * (1 + math.cos(math.pi * min(step / run_steps, 1.0))) / 2

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._evaluate(self.val_metrics, *batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(metrics.compute(self.val_metrics), prog_bar=True)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._evaluate(self.test_metrics, *batch)

    def on_test_epoch_end(self) -> None:
        self.log_dict(metrics.compute(self.test_metrics))

    def _evaluate(self, collection: Any, images: Tensor, labels: Tensor) -> None:
        if len(labels):  # none where there are fewer batches than processes
            collection.update(self(images), labels)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = checkpoints.FORMAT

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Lightning's, which also reads checkpoints of older formats, compares checksums and runs no code in the file.

        Raises:
            InputError: it is not a complete checkpoint of this project.
        """
        return super().load_from_checkpoint(checkpoints.as_file(checkpoint_path), *args, **kwargs)

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """The model of a run, from its folder's `last.ckpt`, or of `last`, the newest run, or of a `.ckpt` file.

        It is on the CPU and ready to predict.

        Raises:
            InputError: there is none, or it is not a complete checkpoint of this project.
        """
        return cls.load_from_checkpoint(checkpoint_of(str(run)), map_location="cpu").eval()

    @torch.inference_mode()
    def predict_proba(self, images: Any) -> Tensor:
        """Probabilities, float (N, num_classes), of a PIL image, a list of them, or uint8 values.

        An array or tensor has the shape (H, W) or (N, H, W), with the channels behind or, as in PyTorch, before height
        and width where there are three.

        Raises:
            InputError: another type or shape.
        """
        pixels = preprocess.to_batch(images, self.image_shape)
        return cast(Tensor, self(pixels.to(self.device)).softmax(1))

    def predict(self, images: Any) -> list[str]:
        """The name of the most probable class of each image; takes what `predict_proba` takes."""
        return [self.class_names[number] for number in self.predict_proba(images).argmax(1).tolist()]
