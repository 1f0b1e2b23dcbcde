"""Steps 3 to 6 of the tutorial: the model class, its loss, its optimizer, and one call of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from logreg_lightning.data.loader import Steps
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.curves import TrainingCurve
from logreg_lightning.runtime.plan import Plan
from logreg_lightning.runtime.steps import count_steps, step_runner
from logreg_lightning.training import hyperparameters
from logreg_lightning.training.initialize import Adaptation
from logreg_lightning.training.standardize import Standardizer
from logreg_lightning.training.validation import Calibration, ImageClassifier
from logreg_lightning.use.classifier import Classifier, features_of, folded_weights


class LogisticRegression(ImageClassifier):
    """Multinomial logistic regression: one linear layer, trained with cross-entropy and SGD.

    Args:
        in_features: Values in an image, channels x height x width, or features.
        num_classes: Number of classes.
        lr: Learning rate of SGD; auto is half of the largest that is stable on the training images.
        momentum: Momentum of SGD, from 0 to below 1.
        weight_decay: L2 penalty of the weights, not of the bias, as in scikit-learn, whose C is 1 / (weight_decay x
            training images); auto suits the number of training images and how far they are from their mean.
        schedule: constant, or cosine: from lr down to 0 over the whole run, a step at a time. A run resumed with
            another length continues along that length's curve.
        standardize: Subtract from each value of an image its mean over the training images, and divide by its standard
            deviation there; the first weights are then 0.
        class_weight: balanced weighs each image by how rare its class is among the training images, as in scikit-learn;
            losses are then weighted means.
        calibrate: Divide logits by a temperature, 1 or more, where that makes the validation loss smaller: few images
            make a model too sure. It changes no predicted class.
        image_shape: Channels, height and width; (features,) where there are no images. A square image, grey or in three
            colours, where none is given.
        class_names: A name for each class; their numbers where none are given.
        backbone: What decides an image's features, as `Backbone.about` says it; its pixels do where none is given.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        lr: float | Literal["auto"] = "auto",
        momentum: float = 0.9,
        weight_decay: float | Literal["auto"] = "auto",
        schedule: Literal["constant", "cosine"] = "cosine",
        standardize: bool = True,
        class_weight: Literal["balanced"] | None = None,
        calibrate: bool = True,
        image_shape: Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        backbone: Mapping[str, Any] | None = None,
    ) -> None:
        hyperparameters.check(**locals())
        image_shape = hyperparameters.shape_of(in_features, image_shape, backbone)
        class_names = hyperparameters.names_of(num_classes, class_names)
        weights = torch.ones(num_classes) if class_weight else None
        super().__init__(image_shape, class_names, weights, calibrate, backbone)
        self.save_hyperparameters()
        self.lr, self.momentum, self.weight_decay, self.schedule = lr, momentum, weight_decay, schedule
        self.linear = nn.Linear(in_features, num_classes)
        self.standardizer = Standardizer(in_features) if standardize else None
        if standardize:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        self.needs_data = standardize or bool(class_weight) or "auto" in (lr, weight_decay)  # see `auto.adapt`
        self.automatic_optimization = False  # one training_step runs several optimiser steps

    def features(self, images: Tensor) -> Tensor:
        """Floats (N, in_features) of images (N, C, H, W): uint8 divided by 255, as `ToTensor` does, floats kept.

        With a backbone, its features of them. Features (N, in_features) are kept.
        """
        return features_of(images, self.backbone, self.linear.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float (N, num_classes), of images (N, C, H, W), uint8 or float in [0, 1], or of features."""
        return F.linear(self.features(images), *self.on_pixels())

    def on_pixels(self) -> tuple[Tensor, Tensor]:
        """Weights (num_classes, in_features) and bias as they act on `features`, all the rest folded in."""
        scaling = None if self.standardizer is None else self.standardizer.scaling()
        return folded_weights(self.linear.weight, self.linear.bias, scaling, self.temperature)

    def classifier(self) -> Classifier:
        """What predicts as this model does now, without Lightning and without what training needs.

        Raises:
            InputError: a subclass has a `forward` of its own, whose weights are not those of one linear layer.
        """
        if type(self).forward is not LogisticRegression.forward:
            raise InputError(
                f"{type(self).__name__} has a `forward` of its own: its weights cannot be folded into one layer"
            )
        mean = None if self.standardizer is None else self.standardizer.mean
        return Classifier(*self.on_pixels(), self.class_names, self.image_shape, self.backbone, mean).eval()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = True if self.device.type == "cuda" else None  # what a CUDA graph can hold
        # The steps set its learning rate, and add weight decay themselves, to the weights alone.
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0, momentum=self.momentum, fused=fused)
        self.optimizer_steps = step_runner(self, optimizer)
        return optimizer

    def configure_callbacks(self) -> list[L.Callback]:
        there = {type(callback) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        return [kind() for kind in (TrainingCurve, Adaptation, Calibration) if kind not in there]

    @torch.no_grad()
    def training_step(self, batch: Steps | Sequence[Tensor], batch_idx: int) -> dict[str, Any]:
        """For each mini-batch: logits, the gradient of their cross-entropy, a step of SGD.

        Takes what `ImageDataModule` loads, several mini-batches, or images and labels of a plain `DataLoader`, one.
        Returns the images' logits (N, num_classes) and losses (N,), each from before its step, and the last step's
        learning rate.
        """
        steps = Steps.of(batch, self.trainer.world_size)
        run_steps = Plan.in_training(self.trainer).run_steps
        rates = [self.lr_at(self.global_step + number, run_steps) for number in range(len(steps.sizes))]
        logits = self.optimizer_steps(steps, rates)
        count_steps(self.trainer, len(rates))
        losses = F.cross_entropy(logits, steps.labels, self.class_weights, reduction="none")
        return {"logits": logits, "losses": losses, "lr": rates[-1]}

    def lr_at(self, step: int, run_steps: int | None) -> float:
        """The learning rate of optimiser step `step`, counted from 0, in a run of `run_steps`.

        Raises:
            InputError: the schedule needs the run's length, and there is none.
        """
        return rate_at(cast(float, self.lr), self.schedule, step, run_steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        found = checkpoint["hyper_parameters"]  # with numbers for what was auto
        self.lr, self.weight_decay, self.needs_data = found["lr"], found["weight_decay"], False


def rate_at(lr: float, schedule: str, step: int, run_steps: int | None) -> float:
    """What a schedule makes of a learning rate; see `LogisticRegression.lr_at`."""
    if schedule == "constant":
        return lr
    if run_steps is None:
        raise InputError("`schedule='cosine'` needs an end: give the trainer `max_epochs` or `max_steps`")
    return lr * (1 + math.cos(math.pi * min(step / run_steps, 1.0))) / 2
