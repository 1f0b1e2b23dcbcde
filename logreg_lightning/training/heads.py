"""Many settings of one model trained at once: a head for each, all on the same batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from logreg_lightning.data.loader import Steps
from logreg_lightning.model import LogisticRegression, rate_at
from logreg_lightning.runtime import checkpoints
from logreg_lightning.runtime.curves import DIVERGED, TrainingCurve, count_steps_on_the_x_axis
from logreg_lightning.runtime.plan import Plan
from logreg_lightning.runtime.saver import Saver
from logreg_lightning.runtime.steps import GraphedSteps, Rates, count_steps
from logreg_lightning.training import metrics
from logreg_lightning.training.standardize import to_floats

SAVE_EVERY = 250
"""Optimiser steps between two saves: the state is that of all heads, and so takes longer to write than a model's."""

VALIDATED = 2**22
"""Logits that are validated together at most."""


class Heads(L.LightningModule):
    """Linear classifiers that differ in learning rate, momentum, weight decay and schedule.

    Each is trained as `LogisticRegression` trains itself, up to rounding. Weights are kept class by class, in a class
    head by head: so logits of a batch, (N, classes, heads), come from one matrix product, and a softmax over classes
    goes through memory in order. A head whose numbers are no longer finite does not touch the others.

    Args:
        models: One for each setting, with numbers for what was auto. They share everything else.

    Attributes:
        val_loss, val_accuracy: float64 (heads,), of the last validation; NaN of heads that diverged.
    """

    weight_momentum: Tensor
    bias_momentum: Tensor
    class_weights: Tensor | None
    temperature: Tensor
    point: Tensor
    diverged: Tensor
    momentum: Tensor
    weight_decay: Tensor

    def __init__(self, models: Iterable[LogisticRegression]) -> None:
        super().__init__()
        self.automatic_optimization = False
        weights, biases, hyperparameters = [], [], []
        for model in models:
            weights.append(model.linear.weight.detach())
            biases.append(model.linear.bias.detach())
            hyperparameters.append(dict(model.hparams))
        self.settings: list[dict[str, Any]] = hyperparameters
        self.weight = nn.Parameter(torch.stack(weights, 1).flatten(0, 1).contiguous())
        self.bias = nn.Parameter(torch.stack(biases, 1).flatten())
        self.register_buffer("weight_momentum", torch.zeros_like(self.weight.data))
        self.register_buffer("bias_momentum", torch.zeros_like(self.bias.data))
        self.standardizer = copy.deepcopy(model.standardizer)
        self.register_buffer("class_weights", copy.deepcopy(model.class_weights))
        self.calibrates = model.calibrates
        heads = len(self.settings)
        self.register_buffer("temperature", torch.ones(heads))
        self.register_buffer("point", torch.zeros(2, heads))  # loss and accuracy of the last point of training
        self.register_buffer("diverged", torch.zeros(heads, dtype=torch.bool))
        of_rows = [torch.tensor([float(s[name]) for s in self.settings]) for name in ("momentum", "weight_decay")]
        for name, values in zip(("momentum", "weight_decay"), of_rows, strict=True):
            self.register_buffer(name, values.repeat(self.num_classes), persistent=False)
        self.decays = bool(of_rows[1].any())
        self.val_loss = self.val_accuracy = torch.full((heads,), math.nan, dtype=torch.float64)

    @property
    def num_classes(self) -> int:
        return int(self.settings[0]["num_classes"])

    def configure_optimizers(self) -> None:
        """None: the steps update the weights themselves, each head by its own settings."""
        on_gpu = self.device.type == "cuda" and self.trainer.world_size == 1
        self.graphed = GraphedSteps(self._steps) if on_gpu else None

    def rates(self, first: int, count: int, run_steps: int | None) -> Tensor:
        """Learning rates, float32 (count, heads), of the optimiser steps from `first` on."""
        rates = [[_rate(setting, step, run_steps) for setting in self.settings] for step in range(first, first + count)]
        return torch.tensor(rates, dtype=torch.float32)

    def features(self, images: Tensor) -> Tensor:
        """Standardised features, float (N, features), of images, uint8 or float (N, ...)."""
        if self.standardizer is None:
            return to_floats(images, self.weight.dtype)
        mean, scale = self.standardizer.scaling(1 if images.is_floating_point() else 255)
        return torch.addcmul(-mean * scale, images.flatten(1).to(self.weight.dtype), scale)

    def logits(self, features: Tensor) -> Tensor:
        """float (N, classes, heads)."""
        logits = F.linear(features, self.weight, self.bias)
        return logits.view(len(features), self.num_classes, len(self.settings))

    @torch.no_grad()
    def training_step(self, batch: Steps | Sequence[Tensor], batch_idx: int) -> dict[str, Any]:
        """The optimiser steps of a call; returns losses and hits, float (2, heads), summed over its images."""
        steps = Steps.of(batch, self.trainer.world_size)
        rates = self.rates(self.global_step, len(steps.sizes), Plan.in_training(self.trainer).run_steps)
        on_device = rates.to(self.device)
        sums = self.graphed(steps, on_device) if self.graphed else self._steps(steps, on_device.unbind())
        count_steps(self.trainer, len(rates))
        return {"sums": sums, "sizes": steps.global_sizes}

    def _steps(self, steps: Steps, rates: Rates) -> Tensor:
        """An optimiser step for each mini-batch, of all heads; returns losses and hits, float (2, heads)."""
        heads = len(self.settings)
        dtype = self.weight.dtype
        sums = []
        batches = zip(*(torch.split(part, steps.sizes) for part in (steps.images, steps.labels)), strict=True)
        for (images, labels), global_size, rate in zip(batches, steps.global_sizes, rates, strict=True):
            features = self.features(images)
            log_probs = self.logits(features).log_softmax(1)
            index = labels.view(-1, 1, 1).expand(-1, 1, heads)
            picked = log_probs.gather(1, index).squeeze(1)
            share = torch.full_like(labels, 1 / global_size, dtype=dtype)
            if self.class_weights is not None:
                share = share * self.class_weights[labels].to(dtype)
            losses = (picked * (share * -global_size).unsqueeze(1)).sum(0)
            sums.append(torch.stack([losses, (picked >= log_probs.amax(1)).sum(0).to(losses.dtype)]))
            grad = log_probs.exp_().scatter_(1, index, -1, reduce="add").mul_(share.view(-1, 1, 1)).flatten(1)
            self._update(grad, features, cast(Tensor, rate).to(dtype).repeat(self.num_classes))
        return torch.stack(sums).sum(0)

    def _update(self, grad: Tensor, features: Tensor, rate: Tensor) -> None:
        """A step of SGD: the gradient by the logits (N, classes x heads), and each row's learning rate."""
        weight, bias, momentum = self.weight, self.bias, self.momentum.to(self.weight.dtype)
        self.weight_momentum.mul_(momentum.unsqueeze(1))
        self.bias_momentum.mul_(momentum)
        if self.trainer.world_size > 1:
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
        self.temperatures = metrics.TEMPERATURES if self.calibrates and at_the_end else (1.0,)
        self.totals = torch.zeros(len(self.temperatures) + 1, len(self.settings), dtype=torch.float64)
        self.count = torch.zeros(2, dtype=torch.float64)  # images, and the sum of their weights

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        images, labels = batch
        most = max(1, VALIDATED // len(self.bias))
        for part, truth in zip(torch.split(images, most), torch.split(labels, most), strict=True):
            logits = self.logits(self.features(part)).float()
            index = truth.view(-1, 1, 1).expand(-1, 1, logits.shape[2])
            weights = torch.ones_like(truth, dtype=torch.float32)
            weights = weights if self.class_weights is None else self.class_weights[truth].float()
            # Equal logits count as the class that comes first, as argmax has it.
            hits = (logits.argmax(1) == truth.unsqueeze(1)).sum(0)
            losses = [
                ((logits / t).log_softmax(1).gather(1, index).squeeze(1) * -weights.unsqueeze(1)).cpu().double().sum(0)
                for t in self.temperatures
            ]
            self.totals += torch.stack([*losses, hits.cpu().double()])
            self.count += torch.tensor([len(truth), float(weights.double().sum())], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            both = torch.cat([self.totals.flatten(), self.count]).to(self.device)
            torch.distributed.all_reduce(both)
            self.totals, self.count = both[:-2].view_as(self.totals).cpu(), both[-2:].cpu()
        smallest, chosen = self.totals[:-1].min(0)
        self.temperature.copy_(torch.tensor(self.temperatures)[chosen])
        diverged = self.diverged.cpu() | ~smallest.isfinite()
        self.diverged.copy_(diverged)
        self.val_loss = (smallest / self.count[1]).masked_fill(diverged, math.nan)
        self.val_accuracy = (self.totals[-1] / self.count[0]).masked_fill(diverged, math.nan)
        best = winner(self.val_accuracy.tolist(), self.val_loss.tolist()) or 0
        self.log_dict(
            {"val/loss": self.val_loss[best].float(), "val/accuracy": self.val_accuracy[best].float()}, prog_bar=True
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = checkpoints.FORMAT
        checkpoint["heads"] = self.settings


def _rate(setting: dict[str, Any], step: int, run_steps: int | None) -> float:
    """Without an end, which a sweep always has, the rate stays."""
    schedule = "constant" if run_steps is None else setting["schedule"]
    return rate_at(setting["lr"], schedule, step, run_steps)


def ranking(accuracies: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Settings by validation accuracy, the highest first; equal ones by loss, the lowest first, then by number.

    Those that diverged, whose numbers are NaN, come last.
    """

    def rank(number: int) -> tuple[bool, float, float]:
        accuracy, loss = accuracies[number], losses[number]
        return (True, 0.0, 0.0) if math.isnan(accuracy + loss) else (False, -accuracy, loss)

    return sorted(range(len(accuracies)), key=rank)


def winner(accuracies: Sequence[float], losses: Sequence[float]) -> int | None:
    """The first of the `ranking`; None where all have diverged."""
    first = next(iter(ranking(accuracies, losses)), None)
    return None if first is None or math.isnan(accuracies[first] + losses[first]) else first


class HeadsCurve(TrainingCurve):
    """Notes loss and accuracy of each head at every point of the training curve; one that diverges ends nothing."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.sums: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.sums.append(outputs["sums"])
        self.sizes += outputs["sizes"]
        count_steps_on_the_x_axis(trainer)
        if self.plan.is_point(trainer.global_step):
            sums = torch.stack(self.sums).sum(0)
            if trainer.world_size > 1:
                torch.distributed.all_reduce(sums)
            heads = cast(Heads, pl_module)
            heads.point.copy_(sums / sum(self.sizes))
            heads.diverged |= ~(heads.point[0] < DIVERGED)
            least = heads.point[0].masked_fill(heads.diverged, math.inf).min()
            self.point = {"train/loss": float(least)}
            pl_module.log("train/loss", self.point["train/loss"], prog_bar=True, logger=False)
            self.sums, self.sizes = [], []


class HeadsSaver(Saver):
    """Keeps the heads' state in one file, every 250 optimiser steps and at the end.

    Args:
        file: Its name.
    """

    def __init__(self, curve: HeadsCurve, file: str) -> None:
        super().__init__(curve)
        self.file = file

    def _save(self, trainer: L.Trainer, name: str) -> None:
        step, run_steps = trainer.global_step, self.plan.run_steps
        if name == "last.ckpt" and (step - self.saved_at >= SAVE_EVERY or step == run_steps):
            super()._save(trainer, self.file)


def run_checkpoint(state: dict[str, Any], number: int) -> dict[str, Any]:
    """The checkpoint of an ordinary run, of the head of that number in the state of all: `fit` resumes it."""
    hyperparameters, weights = state["heads"][number], state["state_dict"]
    count, classes = len(state["heads"]), hyperparameters["num_classes"]
    model = LogisticRegression(**hyperparameters)

    def of_head(rows: Tensor) -> Tensor:
        return rows.view(classes, count, *rows.shape[1:])[:, number].contiguous()

    model.linear.weight.data, model.linear.bias.data = of_head(weights["weight"]), of_head(weights["bias"])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=model.momentum)
    if model.momentum:
        buffers = (of_head(weights["weight_momentum"]), of_head(weights["bias_momentum"]))
        for parameter, buffer in zip(model.parameters(), buffers, strict=True):
            optimizer.state[parameter]["momentum_buffer"] = buffer
    step, saver = state["global_step"], state["callbacks"]["HeadsSaver"]
    optimizer.param_groups[0]["lr"] = _rate(hyperparameters, step - 1, step)
    if model.temperature is not None:
        model.temperature = weights["temperature"][number].clone()
    if model.class_weights is not None:
        model.class_weights = weights["class_weights"]
    if model.standardizer is not None:
        model.standardizer.mean, model.standardizer.scale = (weights[f"standardizer.{k}"] for k in ("mean", "scale"))
    loss, accuracy = (column[number] for column in state["validated"])
    trained = dict(zip(("train/loss", "train/accuracy"), weights["point"][:, number].tolist(), strict=True))
    validated = {**trained, "val/accuracy": accuracy, "val/loss": loss}
    kept = {name: value for name, value in state.items() if name not in ("heads", "indices", "validated")}
    return {
        **kept,
        "state_dict": model.state_dict(),
        "hyper_parameters": hyperparameters,
        "hparams_name": "kwargs",
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {
            "Saver": {
                "best": accuracy,
                "seconds": saver["seconds"] / count,
                "validated": validated,
                "earlier": {},
                "events": {},
            }
        },
    }
