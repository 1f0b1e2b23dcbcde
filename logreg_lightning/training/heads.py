"""Many settings of one model trained at once: a head for each, all on the same batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from logreg_lightning.data.loader import Steps
from logreg_lightning.model import LogisticRegression, at_labels, gradient, mini_batches, rate_at
from logreg_lightning.runtime import checkpoints
from logreg_lightning.runtime.curves import count_steps
from logreg_lightning.runtime.graph import Graph
from logreg_lightning.runtime.plan import Plan
from logreg_lightning.training import metrics
from logreg_lightning.training.standardize import to_floats

VALIDATED = 2**22
"""Logits that are validated together at most."""


class Heads(L.LightningModule):
    """Linear classifiers that differ in learning rate, momentum, weight decay and schedule.

    Each is trained as `LogisticRegression` trains itself, up to rounding. Weights are kept class by class, in a class
    head by head: so logits of a batch, (N, classes, heads), come from one matrix product, and a softmax over classes
    goes through memory in order. A head whose numbers are no longer finite does not touch the others.

    Args:
        models: One for each setting, with numbers for what was auto. They share everything else.
        indices: Theirs, among more models than these.

    Attributes:
        val_loss, val_accuracy: float64 (heads,), of the last validation; NaN of heads that are no longer finite.
        is_validated: Whether these are of the trained heads, at the temperatures that suit them.
    """

    takes_steps = True

    weight_momentum: Tensor
    bias_momentum: Tensor
    class_weights: Tensor | None
    temperature: Tensor
    val_loss: Tensor
    val_accuracy: Tensor
    momentum: Tensor
    weight_decay: Tensor

    def __init__(self, models: Iterable[LogisticRegression], indices: Sequence[int] = ()) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.indices, self.is_validated = list(indices), False
        weights, biases = [], []
        self.settings: list[dict[str, Any]] = []
        for model in models:
            weights.append(model.linear.weight.detach())
            biases.append(model.linear.bias.detach())
            self.settings.append(dict(model.hparams))
        self.weight = nn.Parameter(torch.stack(weights, 1).flatten(0, 1).contiguous())
        self.bias = nn.Parameter(torch.stack(biases, 1).flatten())
        self.register_buffer("weight_momentum", torch.zeros_like(self.weight.data))
        self.register_buffer("bias_momentum", torch.zeros_like(self.bias.data))
        self.standardizer = copy.deepcopy(model.standardizer)
        self.register_buffer("class_weights", copy.deepcopy(model.class_weights))
        self.calibrates = model.calibrates
        heads = len(self.settings)
        self.register_buffer("temperature", torch.ones(heads))
        for name in ("momentum", "weight_decay"):
            values = torch.tensor([float(setting[name]) for setting in self.settings])
            self.register_buffer(name, values.repeat(self.num_classes), persistent=False)
        self.decays = bool(self.weight_decay.any())
        self.val_loss = self.val_accuracy = torch.full((heads,), math.nan, dtype=torch.float64)

    @property
    def num_classes(self) -> int:
        return int(self.settings[0]["num_classes"])

    def configure_optimizers(self) -> None:
        """None: the steps update the weights themselves, each head by its own settings."""

    def on_train_start(self) -> None:
        def run(sizes: tuple[int, ...], images: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
            return self.steps(Steps(images, labels, list(sizes), list(sizes)), rates)

        self.graph = Graph(run) if self.device.type == "cuda" and self.trainer.world_size == 1 else None

    def rates(self, first: int, count: int, run_steps: int | None) -> Tensor:
        """Learning rates, float32 (count, heads), of the optimiser steps from `first` on; without an end they stay."""
        of_heads = [(s["lr"], "constant" if run_steps is None else s["schedule"]) for s in self.settings]
        steps = range(first, first + count)
        rates = [[rate_at(lr, schedule, step, run_steps) for lr, schedule in of_heads] for step in steps]
        return torch.tensor(rates, dtype=torch.float32)

    def features(self, images: Tensor) -> Tensor:
        """Standardised features, float (N, features), of images, uint8 or float (N, ...)."""
        if self.standardizer is None:
            return to_floats(images, self.weight.dtype)
        return self.standardizer.prepared_for(images)(images)

    def logits(self, features: Tensor) -> Tensor:
        """float (N, classes, heads)."""
        logits = F.linear(features, self.weight, self.bias)
        return logits.view(len(features), self.num_classes, len(self.settings))

    @torch.no_grad()
    def training_step(self, batch: Steps | Sequence[Tensor], batch_idx: int) -> dict[str, Any]:
        """The optimiser steps of a call; returns what `TrainingCurve` takes of several models."""
        steps = Steps.of(batch, self.trainer.world_size)
        rates = self.rates(self.global_step, len(steps.sizes), Plan.in_training(self.trainer).run_steps).to(self.device)
        if self.graph is None:
            losses, hits = self.steps(steps, rates, self.trainer.world_size)
        else:
            losses, hits = self.graph(tuple(steps.sizes), steps.images, steps.labels, rates)
        count_steps(self.trainer, len(rates))
        return {"losses": losses, "hits": hits, "images": steps.global_sizes, "lr": 0.0}

    def steps(self, steps: Steps, rates: Tensor, world_size: int = 1) -> Tensor:
        """An optimiser step for each mini-batch, of all heads, with learning rates (steps, heads).

        Returns losses and hits, float64 (2, steps, heads), summed over each mini-batch of this process.
        """
        sums = []
        for images, labels, count, rate in mini_batches(steps, rates.unbind()):
            features = self.features(images)
            log_probs = self.logits(features).log_softmax(1)
            index = at_labels(log_probs, labels)
            picked = log_probs.gather(1, index).squeeze(1)
            weights = 1 if self.class_weights is None else self.class_weights[labels].to(picked.dtype).unsqueeze(1)
            sums.append(torch.stack([(-weights * picked).sum(0), (picked >= log_probs.amax(1)).sum(0)]))
            grad = gradient(log_probs, labels, count, self.class_weights).flatten(1)
            self._update(grad, features, rate.to(grad.dtype).repeat(self.num_classes), world_size)
        sums_of_steps = torch.stack(sums, 1)
        return (sums_of_steps.cpu() if sums_of_steps.device.type == "mps" else sums_of_steps).double()

    def _update(self, grad: Tensor, features: Tensor, rate: Tensor, world_size: int) -> None:
        """A step of SGD: the gradient by the logits (N, classes x heads), and each row's learning rate."""
        weight, bias, momentum = self.weight, self.bias, self.momentum.to(self.weight.dtype)
        self.weight_momentum.mul_(momentum.unsqueeze(1))
        self.bias_momentum.mul_(momentum)
        if world_size > 1:
            grad_weight, grad_bias = (grad.T @ features).to(weight.dtype), grad.sum(0).to(bias.dtype)
            torch.distributed.all_reduce(grad_weight)
            torch.distributed.all_reduce(grad_bias)
            self.weight_momentum.add_(grad_weight)
            self.bias_momentum.add_(grad_bias)
        else:
            self.weight_momentum.addmm_(grad.T.to(weight.dtype), features)
            self.bias_momentum.add_(grad.sum(0))
        if self.decays:
            self.weight_momentum.addcmul_(weight, self.weight_decay.to(weight.dtype).unsqueeze(1))
        weight.data.addcmul_(self.weight_momentum, rate.unsqueeze(1), value=-1)
        bias.data.addcmul_(self.bias_momentum, rate, value=-1)

    def on_validation_epoch_start(self) -> None:
        # Before the end nothing needs the temperatures, and each costs a pass over all logits.
        at_the_end = self.trainer.state.fn == "validate"
        self.begin_validation(self.calibrates and at_the_end)

    def begin_validation(self, at_temperatures: bool) -> None:
        """From here on losses are summed, at each of the temperatures or as they are."""
        self.at_temperatures = at_temperatures
        losses = len(metrics.TEMPERATURES) if at_temperatures else 1
        self.sums = torch.zeros(3, losses, len(self.settings), dtype=torch.float64)  # as `metrics.tempered` has them
        self.hits = torch.zeros(len(self.settings), dtype=torch.float64)
        self.count = torch.zeros(2, dtype=torch.float64)  # images, and the sum of their weights

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        images, labels = batch
        most = max(1, VALIDATED // len(self.bias))
        for part, truth in zip(torch.split(images, most), torch.split(labels, most), strict=True):
            logits = self.logits(self.features(part)).float()
            index = at_labels(logits, truth)
            if logits.device.type == "mps":  # which has no float64
                logits, index, truth = logits.cpu(), index.cpu(), truth.cpu()
            weights = torch.ones_like(truth, dtype=torch.float64)
            weights = weights if self.class_weights is None else self.class_weights[truth].to(weights)
            # Equal logits count as the class that comes first, as argmax has it.
            hits = (logits.argmax(1) == truth.unsqueeze(1)).sum(0)
            if self.at_temperatures:
                self.sums += metrics.tempered(logits, index, weights).cpu()
            else:
                self.sums -= (weights @ logits.log_softmax(1).gather(1, index).squeeze(1).double()).cpu()
            self.hits += hits.cpu()
            self.count += torch.tensor([len(truth), float(weights.sum())], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            for sums in (self.sums, self.hits, self.count):
                on_device = sums.to(self.device)
                torch.distributed.all_reduce(on_device)
                sums.copy_(on_device)
        self.end_validation()
        best = winner(self.val_accuracy.tolist(), self.val_loss.tolist()) or 0
        values = {"val/loss": self.val_loss[best].float(), "val/accuracy": self.val_accuracy[best].float()}
        self.log_dict(values, prog_bar=True)

    def end_validation(self) -> None:
        """Sets `temperature`, `val_loss` and `val_accuracy` by what was summed."""
        chosen = torch.zeros(len(self.settings), dtype=torch.int64)
        if self.at_temperatures:
            chosen = metrics.coolest(self.sums, self.count[0])
            self.temperature.copy_(torch.tensor(metrics.TEMPERATURES, dtype=torch.float64)[chosen])
        loss = self.sums[0].gather(0, chosen.unsqueeze(0)).squeeze(0)
        broken = ~loss.isfinite()
        self.val_loss = (loss / self.count[1]).masked_fill(broken, math.nan)
        self.val_accuracy = (self.hits / self.count[0]).masked_fill(broken, math.nan)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = checkpoints.FORMAT
        checkpoint["heads"] = self.settings
        checkpoint["indices"] = self.indices
        checkpoint["validated"] = [self.val_loss.tolist(), self.val_accuracy.tolist()] if self.is_validated else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint["validated"] is not None:
            self.val_loss, self.val_accuracy = (torch.tensor(v, dtype=torch.float64) for v in checkpoint["validated"])
            self.is_validated = True

    def model(self, head: int) -> tuple[LogisticRegression, torch.optim.Optimizer]:
        """That head as a model of its own, on the CPU, and its optimizer, as if trained alone."""
        model = LogisticRegression(**self.settings[head])
        model.needs_data = False

        def of_head(rows: Tensor) -> Tensor:
            by_head = rows.detach().cpu().view(self.num_classes, len(self.settings), *rows.shape[1:])
            return by_head[:, head].contiguous()

        model.to(self.weight.dtype)
        model.linear.weight.data, model.linear.bias.data = of_head(self.weight), of_head(self.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=model.momentum)
        if model.momentum:
            buffers = (of_head(self.weight_momentum), of_head(self.bias_momentum))
            for parameter, buffer in zip(model.parameters(), buffers, strict=True):
                optimizer.state[parameter]["momentum_buffer"] = buffer
        if model.temperature is not None:
            model.temperature.copy_(self.temperature[head])
        if model.class_weights is not None and self.class_weights is not None:
            model.class_weights.copy_(self.class_weights)
        if model.standardizer is not None and self.standardizer is not None:
            model.standardizer.load_state_dict(self.standardizer.state_dict())
        return model, optimizer


def ranking(accuracies: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Settings by validation accuracy, the highest first; equal ones by loss, the lowest first, then by index.

    Those that diverged, whose numbers are NaN, come last.
    """

    def rank(index: int) -> tuple[bool, float, float]:
        accuracy, loss = accuracies[index], losses[index]
        return (True, 0.0, 0.0) if math.isnan(accuracy + loss) else (False, -accuracy, loss)

    return sorted(range(len(accuracies)), key=rank)


def winner(accuracies: Sequence[float], losses: Sequence[float]) -> int | None:
    """The first of the `ranking`; None where all have diverged."""
    first = next(iter(ranking(accuracies, losses)), None)
    return None if first is None or math.isnan(accuracies[first] + losses[first]) else first
