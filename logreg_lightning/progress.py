"""What a person sees while a run trains: a bar in optimiser steps on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_only

from logreg_lightning.batches import TrainLoader


class StepBar(TQDMProgressBar):
    """Lightning's bar, counting optimiser steps instead of calls of `training_step`."""

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.unit = "step"
        return bar

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.total = cast(TrainLoader, trainer.train_dataloader).steps
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        bar = self.train_progress_bar
        bar.update(cast(TrainLoader, trainer.train_dataloader).done - bar.n)
        bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class Lines(L.Callback):
    """A line at each validation: as the tutorial prints it where validation comes every so many steps."""

    def __init__(self, every_epoch: bool) -> None:
        self.every_epoch = every_epoch

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.every_epoch:
            print(
                f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: "
                f"train/loss {metrics['train/loss']:.4f}, val/loss {metrics['val/loss']:.4f}, "
                f"val/accuracy {metrics['val/accuracy']:.4f}",
                flush=True,
            )
        else:
            print(
                f"Iteration: {trainer.global_step}. Loss: {metrics['train/loss']:.1f}. "
                f"Accuracy: {100 * metrics['val/accuracy']:.1f}.",
                flush=True,
            )


def callbacks(interval: int | None) -> list[L.Callback]:
    """What shows progress here."""
    if interval is not None:
        return [Lines(every_epoch=False)]
    return [StepBar(leave=True)] if sys.stderr.isatty() else [Lines(every_epoch=True)]
