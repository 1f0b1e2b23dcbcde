"""When a run is saved, and how: whole or not at all."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from logreg_lightning.runtime import checkpoints
from logreg_lightning.runtime.curves import TrainingCurve, event_files
from logreg_lightning.runtime.files import atomic_write
from logreg_lightning.runtime.plan import Plan


class AtomicCheckpointIO(TorchCheckpointIO):
    """Plugin for all of a trainer's checkpoints: written whole or not at all, read with their checksums compared."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, content.getvalue())

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return checkpoints.read(Path(path))


def _numbers(content: dict[Any, Any], key: type, kinds: tuple[type, ...]) -> dict[Any, Any]:
    """The same, values of these types by keys of that type.

    Raises:
        ValueError: it is something else.
    """
    if not all(type(name) is key and type(value) in kinds for name, value in content.items()):
        raise ValueError(f"its numbers are {content}")
    return content


# Not a `Checkpoint`: Lightning calls those after all other callbacks, and `StopOnSignal` must come after this one.
class Saver(L.Callback):
    """Keeps `last.ckpt`, at most 50 optimiser steps old, and `best.ckpt`, by `val/accuracy`, and counts the seconds.

    Lightning resumes exactly from a save at a validation's end, from one after a batch that is followed neither by a
    validation nor by the epoch's end, and from one at an epoch's end in a run without `max_steps`; with it, Lightning
    would count that epoch twice. Nothing is saved anywhere else, so with both `max_steps` and `val_check_interval`
    `last.ckpt` may once an epoch be 100 steps old. At the end of a training Lightning takes an epoch that `max_steps`
    cut short for a whole one: what is saved after it says that its loops are where they were at the last save.

    Args:
        curve: What logs the training curve.
        last: Name of the file that is kept at least every 50 optimiser steps.
        best: Name of the file of the best validation; None where none is kept.
        every: Optimiser steps between two saves at least, for a state that takes long to write; the end is saved too.
        settings: What the training was started with, in plain types; a save has them.

    Attributes:
        folder: The run's.
        saved_at: Optimiser steps at the last save of `last`, -1 before the first.
        validated: The last validation's metrics by their logged names, and those of training since the last point.
        progress: Where in its loops Lightning was at the last save, or where it was loaded.
        earlier: `val/loss` at the last validation of the run's first quarter and of its first two, where there was one.
    """

    def __init__(
        self,
        curve: TrainingCurve,
        settings: dict[str, Any],
        last: str = "last.ckpt",
        best: str | None = "best.ckpt",
        every: int = 1,
    ) -> None:
        self.curve, self.settings, self.last, self.best_file, self.every = curve, settings, last, best, every
        self.folder = Path()
        self.best = float("-inf")
        self.seconds = 0.0
        self.saved_at = -1
        self.validated: dict[str, float] = {}
        self.earlier: dict[int, float] = {}
        self.progress: dict[str, Any] = {}
        self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        events = {file.name: file.stat().st_size for file in event_files(self.folder)}
        return {
            "best": self.best,
            "seconds": self.fit_seconds,
            "validated": self.validated,
            "earlier": self.earlier,
            "events": events,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.seconds = float(state_dict["best"]), float(state_dict["seconds"])
        # Of several models the best one's, and of each those of training.
        self.validated = _numbers(
            state_dict["validated"], str, (float,) if self.best_file is not None else (float, list)
        )
        self.earlier = _numbers(state_dict["earlier"], int, (float,))
        if math.isnan(self.best) or not 0 <= self.seconds < math.inf:
            raise ValueError(f"the best accuracy was {self.best}, after {self.seconds} seconds")
        if min(_numbers(state_dict["events"], str, (int,)).values(), default=0) < 0:
            raise ValueError("the size of a file of events is below 0")

    def path(self, name: str) -> Path:
        """Where the file of that name is."""
        return self.folder / "checkpoints" / name

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.progress = {name: checkpoint[name] for name in ("epoch", "loops")}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._since:  # it trains
            self.progress = {name: checkpoint[name] for name in ("epoch", "loops")}
        checkpoint.update({**self.progress, "settings": self.settings})

    @property
    def fit_seconds(self) -> float:
        """Wall time from the first batch asked for to the last step done or to now, over all parts of the run."""
        return self.seconds + (time.perf_counter() - self._since if self._since else 0.0)

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Writes the trainer's state into the folder."""
        # The curves on disk must hold every point up to the save, or a kill leaves a gap.
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.flush()
        trainer.save_checkpoint(self.path(name))

    def _save_last(self, trainer: L.Trainer) -> None:
        if trainer.global_step - self.saved_at >= self.every or trainer.global_step == self.plan.run_steps:
            self.save(trainer, self.last)
            self.saved_at = trainer.global_step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.plan = Plan.in_training(trainer)
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.plan.is_save(trainer.global_step):
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.plan.is_epoch_end_save(trainer.global_step):
            self._save_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":  # `Trainer.validate` calls this too
            return
        # A callback's `on_validation_epoch_end` would come before the model has logged these.
        validated = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.validated = {**self.curve.point, **validated}
        for quarters in (1, 2):
            if 4 * trainer.global_step <= quarters * (self.plan.run_steps or 0):
                self.earlier[quarters] = self.validated["val/loss"]
        if self.validated["val/accuracy"] > self.best:
            self.best = self.validated["val/accuracy"]
            if self.best_file is not None:
                self.save(trainer, self.best_file)
        self._save_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds, self._since = self.fit_seconds, 0.0
