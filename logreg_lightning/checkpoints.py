"""When a run is saved, how, and what is trusted when it is read again."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError
from logreg_lightning.files import write_whole
from logreg_lightning.model import LogisticRegression

FORMAT = 1
"""Of the checkpoints written here; to be raised when an older version could no longer read them rightly."""


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        content = io.BytesIO()
        torch.save({**checkpoint, "format": FORMAT}, content)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content.getvalue())


class Saver(L.Callback):
    """Keeps `last.ckpt`, at most 50 optimiser steps old, and `best.ckpt`, by `val/accuracy`, and counts the seconds.

    Lightning resumes exactly from a save after a batch where no validation follows and from one at a validation's
    end; nothing is saved anywhere else. (At the end of training it takes an epoch that --max_steps cut as whole.)

    Attributes:
        saved_at: Optimiser steps of the last save, -1 before the first.
        validated: The last validation's metrics by their logged names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best = float("-inf")
        self.seconds = 0.0
        self.saved_at = -1
        self.validated: dict[str, float] = {}
        self._since = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        mine = cast(Any, trainer).datamodule.identity()
        folder, theirs = trainer.strategy.broadcast((self.folder, mine))
        if mine != theirs:
            raise InputError(
                f"process {trainer.global_rank} has other data than process 0: {mine}, not {theirs}; name one with "
                "--data.dataset, and put its files under --data.root on every machine"
            )
        self.folder = folder

    def state_dict(self) -> dict[str, Any]:
        events = {file.name: file.stat().st_size for file in event_files(self.folder)}
        return {"best": self.best, "seconds": self.fit_seconds, "validated": self.validated, "events": events}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.seconds = state_dict["best"], state_dict["seconds"]
        self.validated = state_dict["validated"]

    @property
    def fit_seconds(self) -> float:
        """Wall time from the first batch asked for to now or to the last step done, over all parts of the run."""
        return self.seconds + (time.perf_counter() - self._since if self._since else 0.0)

    def _save(self, trainer: L.Trainer, name: str) -> None:
        # A curve must hold every point up to the save, or a kill leaves a gap.
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.flush()
        trainer.save_checkpoint(self.folder / "checkpoints" / name)
        self.saved_at = trainer.global_step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        just_drawn = not cast(LogisticRegression, pl_module).pending_sizes
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
        self.validated = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if self.validated["val/accuracy"] > self.best:
            self.best = self.validated["val/accuracy"]
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds, self._since = self.fit_seconds, 0.0


def event_files(folder: Path) -> list[Path]:
    """A run's TensorBoard files."""
    return sorted(folder.glob("events.out.tfevents.*"))


def rewind_curves(folder: Path, state: dict[str, Any] | None) -> None:
    """Cuts a run's curves back to what they were when `state`, or when there is none nothing, was saved."""
    kept = state["callbacks"]["Saver"]["events"] if state is not None else {}
    for file in event_files(folder):
        if file.name not in kept:
            file.unlink()
        elif file.stat().st_size > kept[file.name]:
            with file.open("r+b") as events:
                events.truncate(kept[file.name])


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content; no code in the file is run.

    Raises:
        InputError: it is not a whole checkpoint of this project.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load itself does not compare checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its part {damaged} is damaged")
        checkpoint = dict(torch.load(path, map_location="cpu", weights_only=True))
        number = checkpoint["format"]
    except Exception as error:  # zipfile and torch.load raise whatever the bytes make them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is not a whole checkpoint of this project ({reason[:120]}); name another file or run"
        ) from None
    if number != FORMAT:
        raise InputError(
            f"{path} is a checkpoint of format {number}, and this version of logreg_lightning reads format {FORMAT}; "
            "resume it with the version that wrote it, which is in its run's results.json, or train anew"
        )
    return checkpoint


def check_classes(path: Path, model: LogisticRegression, data: ImageDataModule) -> None:
    """Makes sure that a model can be asked about this data.

    Raises:
        InputError: it was trained on other classes or another image size.
    """
    for name, theirs, now in (
        ("classes", model.class_names, data.data.classes),
        ("image size", model.image_shape, data.data.image_shape),
    ):
        if theirs != now:
            raise InputError(f"{path} was trained on other data: its {name} {theirs} are not {now}; name data like it")


def check_data(path: Path, state: dict[str, Any], data: ImageDataModule) -> None:
    """Makes sure that the checkpoint's run saw the same data.

    Raises:
        InputError: it did not; the sentence says what differs.
    """
    for name, now in data.identity().items():
        then = state["ImageDataModule"][name]
        if then != now:
            raise InputError(
                f"{path} cannot go on with this data: its {name} is {now} and was {then}; put the files that it was "
                "trained on under --data.root, or train anew without --resume"
            )
