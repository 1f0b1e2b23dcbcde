"""When a run is saved, and how: whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from logreg_lightning.errors import InputError
from logreg_lightning.model import LogisticRegression


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target, then renames: a kill or a full disk leaves the last good file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


class Saver(L.Callback):
    """Keeps `last.ckpt`, at most 50 optimiser steps old, and `best.ckpt`, by `val/accuracy`, and counts the seconds.

    Lightning resumes exactly from a save after a batch where no validation follows and from one at a validation's
    end; nothing is saved anywhere else. (At the end of training it takes an epoch that --max_steps cut as whole.)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"
        self.best = float("-inf")
        self.seconds = 0.0
        self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "seconds": self.fit_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.seconds = state_dict["best"], state_dict["seconds"]

    @property
    def fit_seconds(self) -> float:
        """Wall time from the first batch asked for to now or to the last step done, over all parts of the run."""
        return self.seconds + (time.perf_counter() - self._since if self._since else 0.0)

    def _save(self, trainer: L.Trainer, name: str) -> None:
        # A curve must hold every point up to the save, or a kill leaves a gap.
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.flush()
        trainer.save_checkpoint(self.folder / name)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        just_drawn = not cast(LogisticRegression, pl_module).pending
        if just_drawn and not self._validation_follows(trainer, batch_idx):
            self._save(trainer, "last.ckpt")

    @staticmethod
    def _validation_follows(trainer: L.Trainer, batch_idx: int) -> bool:
        if trainer.check_val_every_n_epoch is None:
            calls = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            return bool(calls % int(trainer.val_check_batch or 1) == 0)
        return batch_idx + 1 == trainer.num_training_batches

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        accuracy = float(trainer.callback_metrics["val/accuracy"])
        if accuracy > self.best:
            self.best = accuracy
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds, self._since = self.fit_seconds, 0.0


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content; no code in the file is run.

    Raises:
        InputError: it is not a whole checkpoint of this project.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if checkpoint["state_dict"]["linear.weight"].ndim != 2:
            raise KeyError("linear.weight")
    except Exception as error:  # torch.load raises whatever the bytes make it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} is not a whole checkpoint of this project ({reason[:120]}); name another file or run"
        ) from None
    return dict(checkpoint)
