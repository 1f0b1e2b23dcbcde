"""The optimiser steps of one call of `training_step`: their gradient written out, on a GPU as one CUDA graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from logreg_lightning.data.loader import Steps

if TYPE_CHECKING:
    from logreg_lightning.model import LogisticRegression

Rates = Sequence[float | Tensor]
"""The learning rate of each optimiser step of a call; where several models are trained at once, one for each."""


def cross_entropy_gradient(logits: Tensor, labels: Tensor, count: int, class_weights: Tensor | None = None) -> Tensor:
    """Gradient by the logits (N, classes) of their cross-entropy with labels (N,), summed and divided by `count`.

    It is (softmax - one-hot) / count (Bishop 2006, Pattern Recognition and Machine Learning, eq. 4.109), times the
    weight of the image's class where classes have weights, float (classes,). The operator is the one that autograd
    calls, so results are autograd's bit for bit; a whole step takes two thirds of the time.
    """
    log_probs, index = logits.log_softmax(1), labels.unsqueeze(1)
    grad_log_probs = torch.zeros_like(log_probs)
    if class_weights is None:
        grad_log_probs.scatter_(1, index, -1 / count)
    else:
        grad_log_probs.scatter_(1, index, class_weights[index].to(log_probs.dtype) * (-1 / count))
    return torch.ops.aten._log_softmax_backward_data(grad_log_probs, log_probs, 1, log_probs.dtype)  # type: ignore[no-any-return]


def optimizer_steps(model: LogisticRegression, optimizer: torch.optim.Optimizer, steps: Steps, rates: Rates) -> Tensor:
    """Steps the optimiser once for each mini-batch; returns all logits (N, classes), each from before its step.

    Nothing in it waits for the device or depends on a value, so on a GPU it can be recorded and replayed.

    Standardisation is folded into the weights, and with it the division of uint8 by 255. Weight decay is added as
    `torch.optim.SGD` would, which knows no parameter without it but by a group more, which costs time.
    """
    weight, bias = model.linear.weight, model.linear.bias
    unit = 1 if steps.images.is_floating_point() else 255
    scaling = None if model.standardizer is None else model.standardizer.scaling(unit)
    class_weights, weight_decay = model.class_weights, cast(float, model.weight_decay)
    batches = zip(*(torch.split(part, steps.sizes) for part in (steps.images, steps.labels)), strict=True)
    all_logits = []
    for (images, labels), global_size, rate in zip(batches, steps.global_sizes, rates, strict=True):
        if scaling is None:
            features = model.features(images)
            logits = model.linear(features)
        else:
            features = images.flatten(1).to(weight.dtype)
            logits = F.linear(features, *scaling.fold(weight, bias))
        grad_logits = cross_entropy_gradient(logits, labels, global_size, class_weights)
        weight.grad, bias.grad = (grad_logits.T @ features).to(weight.dtype), grad_logits.sum(0).to(bias.dtype)
        if scaling is not None:
            scaling.unfold(weight.grad, bias.grad)
        if model.trainer.world_size > 1:
            torch.distributed.all_reduce(weight.grad)
            torch.distributed.all_reduce(bias.grad)
        if weight_decay:
            weight.grad.add_(weight, alpha=weight_decay)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        all_logits.append(logits)
    return torch.cat(all_logits)


def step_runner(model: LogisticRegression, optimizer: torch.optim.Optimizer) -> Callable[[Steps, list[float]], Tensor]:
    """What runs the optimiser steps of a call: as a CUDA graph on a GPU, else one after the other.

    Make a new one for each fit: a graph holds on to the weights and the optimiser that it was recorded with.
    """
    run = functools.partial(optimizer_steps, model, optimizer)
    on_gpu = model.device.type == "cuda"
    # In each step the gradients of several processes meet, which is not recorded.
    run_all = GraphedSteps(run) if on_gpu and model.trainer.world_size == 1 else run

    def run_steps(steps: Steps, rates: list[float]) -> Tensor:
        group = optimizer.param_groups[0]
        group["fused"] = True if on_gpu else None  # a checkpoint of another device says otherwise
        logits = run_all(steps, rates)
        group["lr"] = rates[-1]  # a checkpoint holds a number, not a tensor on a GPU
        return logits

    return run_steps


def count_steps(trainer: L.Trainer, number: int) -> None:
    """Adds to Lightning's `global_step`; its wrapper of the optimiser, which counts too, costs as much as a step."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    for _ in range(number):
        progress.increment_ready()
        progress.increment_completed()


class GraphedSteps:
    """Records `run` at the second call with mini-batches of the same sizes, in a row or not, and replays it afterwards.

    Calls of other sizes, such as an epoch's last, run as they are. The very first call does too: it makes the momentum
    buffers, which a recording must find.

    Args:
        run: What to record: returns logits (N, classes), and changes the weights, for the mini-batches and the learning
            rate of each.
    """

    def __init__(self, run: Callable[[Steps, Rates], Tensor]) -> None:
        self.run = run
        self.seen: list[list[int]] = []
        self.sizes: list[int] = []
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, steps: Steps, rates: list[float] | Tensor) -> Tensor:
        device = steps.images.device
        on_device = torch.as_tensor(rates, device=device, dtype=torch.float32)  # as the fused kernel reads them
        if steps.sizes != self.sizes and (self.graph is not None or steps.sizes not in self.seen):
            if self.graph is None:
                self.seen.append(steps.sizes)
            return self.run(steps, on_device.unbind())
        if self.graph is None:
            self.sizes = steps.sizes
            self.images, self.labels, self.rates = steps.images.clone(), steps.labels.clone(), on_device.clone()
            self.graph = torch.cuda.CUDAGraph()
            static = Steps(self.images, self.labels, steps.sizes, steps.global_sizes)
            with torch.cuda.graph(self.graph):
                self.logits = self.run(static, self.rates.unbind())
        self.images.copy_(steps.images)
        self.labels.copy_(steps.labels)
        self.rates.copy_(on_device)
        self.graph.replay()
        return self.logits.clone()
