"""What a person sees during training: a bar in optimiser steps on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import math
import sys
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_only

from logreg_lightning.runtime.output import say


class StepBar(TQDMProgressBar):
    """Lightning's bar, counting optimiser steps instead of calls of `training_step`."""

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.unit = "step"
        return bar

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.total = cast(Any, trainer.train_dataloader).plan.steps_per_epoch
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        bar = self.train_progress_bar
        bar.update(cast(Any, trainer.train_dataloader).steps_done - bar.n)
        bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


MOST_LINES = 20
"""Of a run that validates at each epoch's end: of many epochs not each gets a line."""


class Lines(L.Callback):
    """A line at a validation, as the tutorial prints it where validations come every `interval` optimiser steps."""

    def __init__(self, interval: int | None) -> None:
        self.interval = interval

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        if self.interval is None:
            if epoch % math.ceil(max(epochs, 1) / MOST_LINES) and epoch != epochs:
                return
            say(
                f"Epoch {epoch}/{epochs}: "
                f"train/loss {metrics['train/loss']:.4f}, val/loss {metrics['val/loss']:.4f}, "
                f"val/accuracy {metrics['val/accuracy']:.4f}"
            )
        else:
            loss = f"Loss: {metrics['train/loss']:.1f}. " if "train/loss" in metrics else ""  # none before step 50
            say(f"Iteration: {trainer.global_step}. {loss}Accuracy: {100 * metrics['val/accuracy']:.1f}.")


def progress(interval: int | None) -> L.Callback:
    """What shows progress here, with a validation every `interval` optimiser steps, or each epoch if that is None."""
    return StepBar(leave=True) if interval is None and sys.stderr.isatty() else Lines(interval)
