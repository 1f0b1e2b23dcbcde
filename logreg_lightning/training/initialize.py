"""What `auto` becomes: batch size, epochs, weight decay and learning rate, each from the training images."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from logreg_lightning.training.metrics import TEMPERATURES, coolest, tempered
from logreg_lightning.training.optimum import Optimum
from logreg_lightning.training.standardize import Standardizer, to_floats, training_statistics


class Model(Protocol):
    """What is initialized: a `LogisticRegression`, of which nothing else is used."""

    @property
    def hparams(self) -> Any: ...

    @property
    def sees_pixels(self) -> bool: ...

    class_names: tuple[str, ...]
    class_weights: Tensor | None
    standardizer: Standardizer | None
    temperature: Tensor | None
    needs_data: bool


EPOCHS, STEPS, MOST_EPOCHS = 10, 2000, 200
"""Passes over the training images, and optimiser steps that they make at least, but of few images in so many passes."""

BATCH_SIZES = (8, 200)
"""The smallest and the largest batch; between them an epoch has 50."""

MANY_CLASSES = 1000
"""The largest batch has an image a class, up to so many: the passes over the weights then cost less an image."""

ITERATIONS = 20
"""Of the power method."""

SHARE = 0.5
"""Of the largest stable learning rate."""

PRIOR_VARIANCE = 10
"""Of a typical image's logits: they are seldom beyond 6, a probability of 0.998."""

VARIANCES = tuple(4.0**power for power in range(-2, 9))
"""What is tried for features, the strongest penalty first."""

FOLDS, TOL = 5, 1e-4
"""Parts that rows are held out in; the share of the objective to which each optimum is found."""

PRODUCTS = 2**30
"""Multiplications in a pass over all folds' rows: beyond these one fold alone is judged, beyond four times of them, or
1,000 rows, fewer rows."""


def batch_size(images: int, classes: int = 0) -> int:
    """Images in an optimiser step, for so many training images and classes.

    With the number of steps given, small batches mean fewer passes over few images, in less time, to the same end.
    """
    smallest, largest = BATCH_SIZES
    return min(max(largest, min(classes, MANY_CLASSES)), max(smallest, math.ceil(images / 50)))


def epochs(steps_per_epoch: int, max_steps: int) -> int:
    """Passes over the training images: as `max_steps` needs, or ten, or as many, up to 200, as make 2,000 steps.

    The limit is for less than 80 images, of which Lightning's epochs would take far longer than their few steps.
    """
    if max_steps > 0:
        return math.ceil(max_steps / steps_per_epoch)
    return min(max(EPOCHS, math.ceil(STEPS / steps_per_epoch)), MOST_EPOCHS)


def balanced(class_counts: Tensor) -> Tensor:
    """A weight for each class, float64 (classes,): count / (classes x its count), as scikit-learn's `balanced`."""
    return class_counts.sum() / (len(class_counts) * class_counts.clamp(min=1).double())


def weight_decay(features: Tensor, images: int, variance: float = PRIOR_VARIANCE) -> float:
    """The L2 penalty that says: before it was seen, the logits of a typical image have a variance of 10, or another.

    Weights of variance v give an image x logits of variance v |x|^2; the penalty of such weights is 1 / (v N), for N
    images (Bishop 2006, Pattern Recognition and Machine Learning, section 3.3). In scikit-learn's terms C = 10 / |x|^2.

    Args:
        features: float (n, features), standardised, of some of the images.
        images: Number of training images, N.
        variance: Of a typical image's logits.
    """
    return rounded(float(features.square().sum(1).mean()) / (variance * images))


def prior_variance(features: Tensor, labels: Tensor, class_weights: Tensor) -> tuple[float, float]:
    """The variance of the logits that suits such features, and the temperature that suits it, by cross-validation.

    Pixels are alike from one data set to the next, features are not: the best variance may be 0.1 or 10,000. Each row
    is judged by the optimum on the other folds' rows, at the temperature that suits all best; every variance begins
    with the weights of the one before, and where two more have not lowered the loss, no more are tried. Classes of one
    row leave nothing to judge: then it is 10, as for pixels.

    Args:
        features: float (n, features), standardised.
        labels: int64 (n,).
        class_weights: float (classes,), what an image's loss is multiplied by.
    """
    counts = torch.bincount(labels, minlength=len(class_weights))
    if 2 * int((counts > 1).sum()) < int((counts > 0).sum()):
        return PRIOR_VARIANCE, 1.0
    order = labels.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels[order]]  # of a row in its class
    folds = FOLDS if FOLDS * features.numel() * len(counts) <= PRODUCTS else 1
    held_out = ((place + labels) % FOLDS).unsqueeze(0) == torch.arange(folds).unsqueeze(1)
    weights = class_weights[labels].to(features.dtype)
    # Each class keeps its share, or a bias would speak against just those that rows are judged of.
    kept = torch.stack([torch.bincount(labels[~out], minlength=len(counts)) for out in held_out])
    shares = weights * ~held_out * (counts / kept.clamp(min=1))[:, labels]
    optimum = Optimum(features - features.mean(0), labels, len(counts), shares / shares.sum(1, keepdim=True))
    index, judged = labels.expand(folds, -1)[held_out].unsqueeze(1), weights.expand(folds, -1)[held_out].double()
    losses, temperatures = [], []
    for variance in VARIANCES:
        decay = weight_decay(features, len(features) * (FOLDS - 1) // FOLDS, variance)
        logits = optimum.minimize(decay, TOL)[held_out]
        sums = tempered(logits, index, judged)
        best = int(coolest(sums, torch.tensor(len(index))))
        losses.append(float(sums[0, best] / judged.sum()))
        temperatures.append(TEMPERATURES[best])
        if min(losses[:-2], default=math.inf) <= min(losses[-2:]):
            break
    chosen = min(range(len(losses)), key=losses.__getitem__)
    return VARIANCES[chosen], temperatures[chosen]


def curvature(features: Tensor, weights: Tensor, batch_size: int) -> float:
    """The largest curvature of cross-entropy that SGD on batches of such images meets.

    It is at most half the largest eigenvalue of the features' second moment (Boehning 1992, Multinomial logistic
    regression algorithm), to which a batch adds what it has by chance (Ma, Bassily, Belkin 2018, The Power of
    Interpolation, theorem 4; here with the mean of the squared lengths, not their largest).

    Args:
        features: float (n, features), standardised, of some of the images.
        weights: float (n,), what each image's loss is multiplied by.
        batch_size: Images in an optimiser step.
    """
    features = torch.cat([features, torch.ones_like(features[:, :1])], 1)  # the bias is a weight too
    weighted = features * weights.unsqueeze(1)
    vector = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(0)).to(features.dtype)
    for _ in range(ITERATIONS):
        vector = weighted.T @ (features @ vector) / len(features)
        largest = vector.norm()
        vector = vector / largest
    squared_length = weighted.square().sum(1).mean()
    return float(largest + (squared_length - largest) / batch_size) / 2


def learning_rate(largest_curvature: float, momentum: float) -> float:
    """Half of the largest learning rate at which SGD with momentum is stable.

    The largest is 2 (1 + momentum) / L (Polyak 1964, Some methods of speeding up the convergence of iteration methods).
    """
    return rounded(SHARE * 2 * (1 + momentum) / largest_curvature)


def rounded(value: float) -> float:
    """To three digits: easy to read, and the order in which processors add leaves no trace."""
    return float(f"{value:.3g}")


def settle(module: Any, **chosen: Any) -> None:
    """Puts numbers for what was auto into the hyperparameters that are saved, and those that a logger is told."""
    # The second is private: what a logger is told, and `hparams_initial` gives a copy of it.
    for hparams in (module.hparams, module._hparams_initial):
        hparams.update(chosen)


class Initializer:
    """What models take from their training images, found in one pass over these.

    Args:
        model: Any of the models: they differ in learning rate, momentum and weight decay alone.
        batches: Images (N, C, H, W), uint8 or float in [0, 1], and labels (N,): each training image once.
        batch_size: Images in an optimiser step; as many as in the first batch when not given.
    """

    @torch.no_grad()
    def __init__(self, model: Model, batches: Iterable[Sequence[Tensor]], batch_size: int | None = None) -> None:
        if batch_size is None:
            stream = iter(batches)
            first = next(stream)
            batches, batch_size = itertools.chain([first], stream), len(first[1])
        self.batch_size = batch_size
        self.statistics = statistics = training_statistics(batches, len(model.class_names), model.sees_pixels)
        self.sees_pixels = model.sees_pixels
        self.features = to_floats(statistics.sample, torch.float32)
        if model.standardizer is not None:
            self.features = (self.features - statistics.mean.float()) * statistics.scale.float()
        counts = statistics.class_counts
        self.class_weights = balanced(counts) if model.class_weights is not None else torch.ones(len(counts)).double()

    @functools.cached_property
    def curvature(self) -> float:
        return curvature(self.features, self.class_weights[self.statistics.sample_labels].float(), self.batch_size)

    @functools.cached_property
    def prior(self) -> tuple[float, float]:
        """What `prior_variance` returns; of pixels that of all data sets, and 1."""
        if self.sees_pixels:
            return PRIOR_VARIANCE, 1.0
        rows = max(1000, 4 * PRODUCTS // (self.features.shape[1] * len(self.class_weights)))
        return prior_variance(self.features[:rows], self.statistics.sample_labels[:rows], self.class_weights)

    @functools.cached_property
    def weight_decay(self) -> float:
        return weight_decay(self.features, self.statistics.count, self.prior[0])

    @torch.no_grad()
    def initialize(self, model: Model) -> None:
        """Sets mean and scale of each feature, weights of the classes, and the learning rate and weight decay that are
        auto, with the temperature that stays where no validation chooses another; the model's hyperparameters then have
        numbers for what was auto."""
        if model.standardizer is not None:
            model.standardizer.mean.copy_(self.statistics.mean.to(model.standardizer.mean.dtype))
            model.standardizer.scale.copy_(self.statistics.scale.to(model.standardizer.scale.dtype))
        if model.class_weights is not None:
            model.class_weights.copy_(self.class_weights.to(model.class_weights.dtype))
        if model.hparams["weight_decay"] == "auto":
            settle(model, weight_decay=self.weight_decay)
            if model.temperature is not None:
                model.temperature.fill_(self.prior[1])
        if model.hparams["lr"] == "auto":
            bend = self.curvature + model.hparams["weight_decay"]
            settle(model, lr=learning_rate(bend, model.hparams["momentum"]))
        model.needs_data = False


def initialize(model: Model, batches: Iterable[Sequence[Tensor]], batch_size: int | None = None) -> None:
    """Sets what a model takes from its training images, if it needs any; takes what `Initializer` takes."""
    if model.needs_data:
        Initializer(model, batches, batch_size).initialize(model)


class Initialization(L.Callback):
    """Initializes a model that was not yet, before its first step, to the images of the trainer's loader."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = cast(Any, trainer).datamodule
        if hasattr(data, "training_images"):
            initialize(cast(Model, pl_module), data.training_images(), data.batch_size)
        else:
            with isolate_rng():  # shuffling must not draw from what the training draws from
                initialize(cast(Model, pl_module), cast(Any, trainer.train_dataloader))
