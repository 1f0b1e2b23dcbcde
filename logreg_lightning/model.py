"""Steps 3 to 7 of the tutorial: the model, its loss and their gradient, its optimizer, and one step after another.

A mini-batch of images x, (N, D), and their labels y, (N,), is one step of SGD:

    logits = x W' + b                            (N, K)  steps 3 and 4, `LogisticRegression.forward`
    loss = mean of -log softmax(logits)[y]               step 5
    G = (softmax(logits) - one_hot(y)) / N       (N, K)  its gradient by the logits, `gradient`
    W.grad = G' x, b.grad = sum of G over N              the chain rule, in place of `loss.backward()`
    optimizer.step()                                     steps 6 and 7, `sgd_steps`

A model that standardises takes `standardized_steps`, the same in fewer passes. A step takes 0.3 ms, Lightning's
machinery around it up to 1 ms, so one `training_step` runs several steps; how many changes no bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from torch import Tensor, nn
from torch.nn import functional as F

from logreg_lightning.data.loader import Steps
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.curves import TrainingCurve, count_steps
from logreg_lightning.runtime.graph import Graph
from logreg_lightning.runtime.plain import plain
from logreg_lightning.runtime.plan import Plan
from logreg_lightning.training import hyperparameters
from logreg_lightning.training.initialize import Initialization
from logreg_lightning.training.standardize import STANDARDIZED_LINEAR, Standardizer
from logreg_lightning.training.validation import Calibration, ImageClassifier
from logreg_lightning.use.classifier import Classifier, features_of, folded_weights


class LogisticRegression(ImageClassifier):
    """Multinomial logistic regression: one linear layer, trained with cross-entropy and SGD.

    A subclass may override `forward`, with a hidden layer say, or `configure_optimizers`, with any optimizer of torch;
    it is then trained by autograd, see `autograd_steps`.

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
        calibrate: Divide logits by the temperature that makes the validation loss smallest: few images make a model too
            sure, a strong penalty not sure enough. It changes no predicted class.
        image_shape: Channels, height and width; (features,) where there are no images. A square image, grey or in three
            colours, where none is given.
        class_names: A name for each class; their numbers where none are given.
        backbone: What decides an image's features, as `Backbone.about` says it; its pixels do where none is given.
        pixel_range: Which value of a picture of more than 8 bits becomes 0, and which 255; where none is given, 0 and
            65535 of integers, 0 and 1 of floats.

    Raises:
        InputError: a value is out of its range.
    """

    takes_steps = True  # several mini-batches a call, of uint8; see `ImageDataModule.train_dataloader`

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
        pixel_range: Sequence[float] | None = None,
    ) -> None:
        hyperparameters.check(**locals())
        # `save_hyperparameters` takes these variables as they are when it is called.
        image_shape = hyperparameters.shape_of(in_features, image_shape, backbone)
        class_names = hyperparameters.names_of(num_classes, class_names)
        class_weights = torch.ones(num_classes) if class_weight else None
        in_features, num_classes, pixel_range = plain((in_features, num_classes, pixel_range))
        calibrates = calibrate and not self.has_own_forward()
        super().__init__(image_shape, class_names, class_weights, calibrates, backbone, pixel_range)
        self.save_hyperparameters()
        self.hparams.update(plain(dict(self.hparams)))
        self.linear = nn.Linear(in_features, num_classes)
        self.standardizer = Standardizer(in_features) if standardize else None
        if standardize:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        if standardize and not self.has_own_forward():
            self.register_state_dict_post_hook(_rename_to_saved)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_rename_from_saved)  # type: ignore[no-untyped-call]
        self.needs_data = standardize or bool(class_weight) or "auto" in (lr, weight_decay)  # see `initialize`
        self.automatic_optimization = False  # one training_step runs several optimiser steps

    @property
    def lr(self) -> float:
        """The learning rate; auto until the training images were seen."""
        return cast(float, self.hparams["lr"])

    @property
    def momentum(self) -> float:
        return cast(float, self.hparams["momentum"])

    @property
    def weight_decay(self) -> float:
        """The L2 penalty; auto until the training images were seen."""
        return cast(float, self.hparams["weight_decay"])

    @classmethod
    def has_own_forward(cls) -> bool:
        """Whether a subclass computes logits in a way of its own, so that the gradient written out here is not its."""
        return cls.forward is not LogisticRegression.forward

    # Steps 3 and 4: the model.

    def features(self, images: Tensor) -> Tensor:
        """Floats (N, in_features) of images (N, C, H, W): uint8 divided by 255, as `ToTensor` does, floats kept.

        With a backbone, its features of them. Features (N, in_features) are kept.
        """
        return features_of(images, self.backbone, self.linear.weight)

    def standardized(self, images: Tensor) -> Tensor:
        """Standardised `features` (N, in_features), for a `forward` of one's own."""
        features = self.features(images)
        return features if self.standardizer is None else self.standardizer(features)

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
        if self.has_own_forward():
            name = type(self).__name__
            raise InputError(f"{name} has a `forward` of its own: its weights cannot be folded into one layer")
        mean = None if self.standardizer is None else self.standardizer.mean
        weight, bias = self.on_pixels()
        about = {"backbone": self.backbone, "training_mean": mean, "pixel_range": self.pixel_range}
        return Classifier(weight, bias, self.class_names, self.image_shape, **about).eval()  # type: ignore[arg-type]

    # Steps 5 to 7: loss, optimizer, training.

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD: the steps set its learning rate, and add weight decay, of the weights alone, to its gradients."""
        # Lightning calls this in each `fit`, with the model on its device. Only fused SGD takes its learning rate as a
        # tensor without reading it back, which a CUDA graph forbids.
        fused = True if self.device.type == "cuda" else None
        return torch.optim.SGD(self.parameters(), lr=1.0, momentum=self.momentum, fused=fused)

    def configure_callbacks(self) -> list[L.Callback]:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(one, LearningRateFinder | BatchSizeFinder) for one in callbacks):  # they changed nothing yet
            raise InputError(
                "Lightning's Tuner, its `lr_find` and `scale_batch_size`, trains without the callbacks that this model "
                "needs; `lr='auto'` and `batch_size='auto'` choose by the data, `sweep` compares: make another trainer"
            )
        # Lightning replaces a callback of the same type with one returned here, and moves it to the end.
        given = {type(callback) for callback in callbacks}
        return [kind() for kind in (TrainingCurve, Initialization, Calibration) if kind not in given]

    def on_train_start(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        if not isinstance(optimizer, torch.optim.Optimizer) or self.lr_schedulers() is not None:
            raise InputError(
                "`configure_optimizers` must return one optimizer alone; `schedule` changes learning rates"
            )
        has_own_optimizer = type(self).configure_optimizers is not LogisticRegression.configure_optimizers
        by_autograd = self.has_own_forward() or has_own_optimizer
        if by_autograd and not has_own_optimizer:
            optimizer.param_groups[0]["initial_lr"] = self.lr
        self.run_steps: Callable[[Steps, list[float]], Tensor] = (
            functools.partial(autograd_steps, self, optimizer, world_size=self.trainer.world_size)
            if by_autograd
            else sgd(self, optimizer, self.trainer.world_size)
        )

    def on_train_end(self) -> None:
        del self.run_steps  # which cannot be pickled, and holds what only a training needs

    @torch.no_grad()
    def training_step(self, batch: Steps | Sequence[Tensor], batch_idx: int) -> dict[str, Any]:
        """The steps of a call: those that `ImageDataModule` loads, or one, on the batch of a plain `DataLoader`.

        Returns what `batch_sums` does, and the last step's learning rate.
        """
        steps = Steps.of(batch, self.trainer.world_size)
        run_steps, first = Plan.in_training(self.trainer).run_steps, self.global_step
        rates = [self.lr_at(step, run_steps) for step in range(first, first + len(steps.sizes))]
        found = self.run_steps(steps, rates)
        count_steps(self.trainer, len(rates))
        return {**batch_sums(found, steps, self.class_weights), "lr": rates[-1]}

    def lr_at(self, step: int, run_steps: int | None) -> float:
        """The learning rate of optimiser step `step`, counted from 0, in a run of `run_steps`.

        Raises:
            InputError: the schedule needs the run's length, and there is none.
        """
        return rate_at(self.lr, self.hparams["schedule"], step, run_steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.hparams.update(checkpoint["hyper_parameters"])  # with numbers for what was auto
        self.needs_data = False


def _rename_to_saved(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in ("weight", "bias"):
        state[f"{prefix}{STANDARDIZED_LINEAR}.{name}"] = state.pop(f"{prefix}linear.{name}")


def _rename_from_saved(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in ("weight", "bias"):
        if f"{prefix}{STANDARDIZED_LINEAR}.{name}" in state:
            state[f"{prefix}linear.{name}"] = state.pop(f"{prefix}{STANDARDIZED_LINEAR}.{name}")


def rate_at(lr: float, schedule: str, step: int, run_steps: int | None) -> float:
    """What a schedule makes of a learning rate; see `LogisticRegression.lr_at`."""
    if schedule == "constant":
        return lr
    if run_steps is None:
        raise InputError("`schedule='cosine'` needs an end: give the trainer `max_epochs` or `max_steps`")
    return lr * (1 + math.cos(math.pi * min(step / run_steps, 1.0))) / 2


def gradient(log_probs: Tensor, labels: Tensor, count: int, class_weights: Tensor | None = None) -> Tensor:
    """Gradient by logits of their cross-entropy with labels (N,), summed and divided by `count`.

    It is (softmax - one-hot) / count (Bishop 2006, Pattern Recognition and Machine Learning, eq. 4.109), times the
    weight of the image's class where classes have weights, float (classes,). The operator is the one that autograd
    calls, so results are autograd's bit for bit; a whole step takes two thirds of the time.

    Args:
        log_probs: (N, classes), or (N, classes, heads) of several models at once: `logits.log_softmax(1)`.
    """
    index = at_labels(log_probs, labels)
    grad_log_probs = torch.zeros_like(log_probs)
    if class_weights is None:
        grad_log_probs.scatter_(1, index, -1 / count)
    else:
        grad_log_probs.scatter_(1, index, class_weights[index].to(log_probs.dtype) * (-1 / count))
    # Private: autograd's own operator has no public name.
    return torch.ops.aten._log_softmax_backward_data(grad_log_probs, log_probs, 1, log_probs.dtype)  # type: ignore[no-any-return]


def at_labels(log_probs: Tensor, labels: Tensor) -> Tensor:
    """The index of each image's label, (N, 1) or (N, 1, heads), in log-probabilities (N, classes[, heads])."""
    return labels.view(-1, *[1] * (log_probs.ndim - 1)).expand(-1, 1, *log_probs.shape[2:])


def found_at(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Of log-probabilities (N, classes), float (2, N): those of the labels (N,), and 1 where these are predicted."""
    picked = log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    return torch.stack([picked, (log_probs.argmax(1) == labels).to(picked.dtype)])


def batch_sums(found: Tensor, steps: Steps, class_weights: Tensor | None) -> dict[str, Any]:
    """What the curve of a call's steps is drawn from.

    Args:
        found: float (2, N), what `found_at` returns, each image's from before its step.

    Returns:
        losses, hits: float64 (steps,), summed over each mini-batch of this process.
        images: How many each mini-batch has over all processes.
    """
    losses, hits = -found[0], found[1]
    if class_weights is not None:
        losses = losses * class_weights[steps.labels].to(losses.dtype)
    if losses.device.type == "mps":  # which has no float64
        losses, hits = losses.cpu(), hits.cpu()
    size = steps.sizes[0]  # of each mini-batch but the last, which may be smaller
    missing = size * len(steps.sizes) - len(losses)

    def sums(values: Tensor) -> Tensor:
        return F.pad(values.double(), (0, missing)).view(len(steps.sizes), size).sum(1)

    return {"losses": sums(losses), "hits": sums(hits), "images": steps.global_sizes}


def mini_batches(steps: Steps, rates: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor, int, Any]]:
    """Of each optimiser step: this process's images and labels, the images of all processes, the learning rate."""
    batches = (torch.split(part, steps.sizes) for part in (steps.images, steps.labels))
    return zip(*batches, steps.global_sizes, rates, strict=True)


def sgd_steps(
    model: LogisticRegression, optimizer: torch.optim.Optimizer, steps: Steps, rates: Sequence[Any], world_size: int
) -> Tensor:
    """A step for each mini-batch; returns what `found_at` does, of all images, each from before its step.

    Nothing in it waits for the device or depends on a value, so on a GPU it can be recorded and replayed. Weight decay
    is added as `torch.optim.SGD` would, which knows no parameter without it but by a group more, which costs time.
    """
    weight, bias = model.linear.weight, model.linear.bias
    class_weights, weight_decay = model.class_weights, model.weight_decay
    all_log_probs = []
    for images, labels, count, rate in mini_batches(steps, rates):
        features = model.features(images)
        log_probs = model.linear(features).log_softmax(1)
        grad_logits = gradient(log_probs, labels, count, class_weights)
        weight.grad, bias.grad = (grad_logits.T @ features).to(weight.dtype), grad_logits.sum(0).to(bias.dtype)
        if world_size > 1:  # DDP would do it in `backward`, which is not called
            torch.distributed.all_reduce(weight.grad)
            torch.distributed.all_reduce(bias.grad)
        if weight_decay:
            weight.grad.add_(weight, alpha=weight_decay)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        all_log_probs.append(log_probs)
    return found_at(torch.cat(all_log_probs), steps.labels)


def standardized_steps(
    model: LogisticRegression, optimizer: torch.optim.Optimizer, steps: Steps, rates: Sequence[Any], world_size: int
) -> Tensor:
    """What `sgd_steps` does, of a model that standardises, in fewer passes over weights and logits.

    Of many classes these cost as much as the two matrix products: the second adds to the momentum what it makes. It is
    SGD as `torch.optim.SGD` has it, whose buffers it uses, up to rounding.
    """
    assert model.standardizer is not None
    weight, bias, momentum, class_weights = model.linear.weight, model.linear.bias, model.momentum, model.class_weights
    standardized = model.standardizer.prepared_for(steps.images)
    weight_momentum, bias_momentum = (
        optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        if momentum
        else torch.zeros_like(parameter)
        for parameter in (weight, bias)
    )
    found = []
    for images, labels, count, rate in mini_batches(steps, rates):
        features = standardized(images)
        log_probs = F.linear(features, weight, bias).log_softmax(1)
        found.append(found_at(log_probs, labels))
        grad = log_probs.exp_()
        grad.scatter_add_(1, labels.unsqueeze(1), grad.new_full((len(labels), 1), -1))
        if class_weights is not None:
            grad.mul_(class_weights[labels].to(grad.dtype).unsqueeze(1))
        grad = grad.to(weight.dtype)
        if world_size > 1:
            grad_weight, grad_bias = grad.T @ features, grad.sum(0)
            torch.distributed.all_reduce(grad_weight)
            torch.distributed.all_reduce(grad_bias)
            weight_momentum.mul_(momentum).add_(grad_weight, alpha=1 / count)
        else:
            grad_bias = grad.sum(0)
            weight_momentum.addmm_(grad.T, features, beta=momentum, alpha=1 / count)
        bias_momentum.mul_(momentum).add_(grad_bias, alpha=1 / count)
        if model.weight_decay:
            weight_momentum.add_(weight, alpha=model.weight_decay)
        weight.data.addcmul_(weight_momentum, rate, value=-1)
        bias.data.addcmul_(bias_momentum, rate, value=-1)
    return torch.cat(found, 1)


def sgd(
    model: LogisticRegression, optimizer: torch.optim.Optimizer, world_size: int
) -> Callable[[Steps, list[float]], Tensor]:
    """What runs the steps of a call, `sgd_steps` or `standardized_steps`: as one CUDA graph on a GPU, else one by one.

    Make a new one for each training: a graph holds on to the weights and the optimiser that it was recorded with.
    """
    group, on_gpu = optimizer.param_groups[0], model.device.type == "cuda"
    take_steps = sgd_steps if model.standardizer is None else standardized_steps

    def run(sizes: tuple[int, ...], images: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
        steps = Steps(images, labels, list(sizes), list(sizes))
        return take_steps(model, optimizer, steps, rates.unbind(), world_size)

    graph = Graph(run)

    def run_steps(steps: Steps, rates: list[float]) -> Tensor:
        # What a CUDA graph can hold; a checkpoint of another device says otherwise.
        group["fused"] = True if on_gpu else None
        if on_gpu and world_size == 1:  # in a step of several processes their gradients meet, which is not recorded
            on_device = torch.tensor(rates, device=model.device, dtype=torch.float32)  # as the fused kernel reads them
            found = graph(tuple(steps.sizes), steps.images, steps.labels, on_device)
        else:
            given: Sequence[Any] = rates
            if take_steps is standardized_steps:
                given = torch.tensor(rates, device=model.device, dtype=model.linear.weight.dtype).unbind()
            found = take_steps(model, optimizer, steps, given, world_size)
        group["lr"] = rates[-1]  # a checkpoint holds a number, not a tensor on a GPU
        return found

    return run_steps


def autograd_steps(
    model: LogisticRegression, optimizer: torch.optim.Optimizer, steps: Steps, rates: Sequence[float], world_size: int
) -> Tensor:
    """What `sgd_steps` does, for any `forward` and any optimizer, one `backward` a step.

    The optimizer's own learning rates follow the model's schedule. Weight decay is of every weight matrix.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own_forward = model.has_own_forward()

    def loss_and_gradients(images: Tensor, labels: Tensor, count: int, seen: list[Tensor]) -> float:
        with torch.enable_grad():
            # The temperature, which `forward` divides by, is for what is trained, not for training.
            logits = model(images) if own_forward else model.linear(model.standardized(images))
            log_probs = logits.log_softmax(1)
            loss = F.nll_loss(log_probs, labels, model.class_weights, reduction="sum") / count
            # Not loss.backward(): DDP would make means of what are parts of a sum here.
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        with torch.no_grad():
            for parameter, grad in zip(parameters, gradients, strict=True):
                if world_size > 1:
                    torch.distributed.all_reduce(grad)
                parameter.grad = grad + model.weight_decay * parameter if parameter.ndim > 1 else grad
        seen.append(log_probs.detach())
        return loss.detach()  # type: ignore[return-value]  # as torch's own examples do

    all_log_probs = []
    for images, labels, count, rate in mini_batches(steps, rates):
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * rate / model.lr
        seen: list[Tensor] = []  # a step may evaluate the loss more than once
        optimizer.step(functools.partial(loss_and_gradients, images, labels, count, seen))
        all_log_probs.append(seen[0])
    return found_at(torch.cat(all_log_probs), steps.labels)
