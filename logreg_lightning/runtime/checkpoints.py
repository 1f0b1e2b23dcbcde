"""When a run is saved, how, and what is trusted when it is read again."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from logreg_lightning.errors import InputError
from logreg_lightning.runtime.curves import TrainingCurve, event_files
from logreg_lightning.runtime.files import atomic_write
from logreg_lightning.runtime.plan import Plan

FORMAT = 4
"""Of the checkpoints written here; raised whenever an older version could no longer read them correctly.

Older ones are read. Format 1 called the model's `in_features` and `num_classes` `inputs` and `classes`, and kept its
class names and image shape with the data. Up to format 2 nothing was standardised, weighted or calibrated, weight decay
took the bias too, and no split was stratified. Up to format 3 there were no features of a backbone.
"""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all, and read with their checksums compared."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, content.getvalue())

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read(Path(path))


class Saver(L.Callback):
    """Keeps `last.ckpt`, at most 50 optimiser steps old, and `best.ckpt`, by `val/accuracy`, and counts the seconds.

    Lightning resumes exactly from a save at a validation's end, from one after a batch that is followed neither by a
    validation nor by the epoch's end, and from one at an epoch's end in a run without `max_steps`; with it, Lightning
    would count that epoch twice. Nothing is saved anywhere else, so with both `max_steps` and `val_check_interval`
    `last.ckpt` may once an epoch be 100 steps old. (Lightning takes an epoch that `max_steps` cut short for a whole one
    at the end of training.)

    Args:
        curve: What logs the training curve.
        last: Name of the file that is kept at least every 50 optimiser steps.
        best: Name of the file of the best validation; None where none is kept.
        every: Optimiser steps between two saves at least, for a state that takes long to write; the end is saved too.

    Attributes:
        folder: The run's.
        saved_at: Optimiser steps at the last save of `last`, -1 before the first.
        validated: The last validation's metrics by their logged names, and those of training since the last point.
        progress: Where in its loops Lightning was at the last save; None while it trains.
        earlier: `val/loss` at the last validation of the run's first quarter and of its first two, where there was one.
    """

    def __init__(
        self, curve: TrainingCurve, last: str = "last.ckpt", best: str | None = "best.ckpt", every: int = 1
    ) -> None:
        self.curve, self.last, self.best_file, self.every = curve, last, best, every
        self.folder = Path()
        self.best = float("-inf")
        self.seconds = 0.0
        self.saved_at = -1
        self.validated: dict[str, float] = {}
        self.earlier: dict[int, float] = {}
        self.progress: dict[str, Any] | None = None
        self._since = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        fingerprint = cast(Any, trainer).datamodule.fingerprint()
        folder, expected = trainer.strategy.broadcast((self.folder, fingerprint))
        if fingerprint != expected:
            raise InputError(
                f"process {trainer.global_rank} has other data than process 0: {fingerprint}, not {expected}; set "
                "`dataset`, and put its files under `root` on every machine"
            )
        self.folder = folder

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
        self.best, self.seconds = state_dict["best"], state_dict["seconds"]
        self.validated, self.earlier = state_dict["validated"], state_dict["earlier"]

    def path(self, name: str) -> Path:
        """Where the file of that name is."""
        return self.folder / "checkpoints" / name

    def keep_progress(self, state: dict[str, Any]) -> None:
        """What is saved from here on says that Lightning is where it was when it wrote this.

        At the end of a training it takes an epoch that `max_steps` cut short for a whole one.
        """
        self.progress = {name: state[name] for name in ("epoch", "loops")}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.progress or {})

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
        if trainer.state.fn != "fit":
            return
        validated = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
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


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, in today's format; no code in the file is run.

    Raises:
        InputError: it is not a complete checkpoint of this project.
    """
    try:
        checkpoint = dict(torch.load(_checked(path), map_location="cpu", weights_only=True))
        number = checkpoint["format"]
    except Exception as error:  # zipfile and torch.load raise whatever the bytes make them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is not a complete checkpoint of this project ({reason[:120]}); use another file or run"
        ) from None
    if number not in range(1, FORMAT + 1):
        raise InputError(
            f"{path} is a checkpoint of format {number}, and this version of logreg_lightning reads formats 1 to "
            f"{FORMAT}; use the version that wrote it, which its run's results.json names, or start a new run"
        )
    for older, convert in enumerate((_from_format_1, _from_format_2, _from_format_3), 1):
        checkpoint = convert(checkpoint) if number <= older else checkpoint
    return checkpoint


def _checked(path: Path) -> IO[bytes]:
    """A checkpoint's parts, whose checksums torch.load does not compare, as they are once they were compared.

    torch has a reader of zip archives of its own, which may find other bytes than Python's where an index is damaged.
    """
    checked = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(checked, "w") as copy:
        for name in archive.namelist():
            try:
                copy.writestr(name, archive.read(name))
            except zipfile.BadZipFile as error:
                raise ValueError(f"its part {name} is damaged: {error}") from None
    checked.seek(0)
    return checked


def as_file(path: str | Path | IO[bytes]) -> IO[bytes]:
    """A checkpoint in today's format as a file, for what reads one itself; what is no path is taken as it is."""
    if not isinstance(path, str | Path):
        return path
    content = io.BytesIO()
    torch.save(read(Path(path)), content)
    content.seek(0)
    return content


def _from_format_1(checkpoint: dict[str, Any]) -> dict[str, Any]:
    hyperparameters, data = dict(checkpoint["hyper_parameters"]), checkpoint["ImageDataModule"]
    in_features, num_classes = hyperparameters.pop("inputs"), hyperparameters.pop("classes")
    shape, names = list(data["image_shape"]), list(data["classes"])
    return {
        **checkpoint,
        "hyper_parameters": {
            "in_features": in_features,
            "num_classes": num_classes,
            **hyperparameters,
            "image_shape": shape,
            "class_names": names,
        },
    }


def _from_format_2(checkpoint: dict[str, Any]) -> dict[str, Any]:
    callbacks = dict(checkpoint["callbacks"])
    if "Saver" in callbacks:  # not in those of a stock trainer
        callbacks["Saver"] = {"earlier": {}, **callbacks["Saver"]}
    return {
        **checkpoint,
        "hyper_parameters": {**checkpoint["hyper_parameters"], **BEFORE_FORMAT_3},
        "ImageDataModule": {**checkpoint.get("ImageDataModule", {}), "split": "random"},
        "callbacks": callbacks,
    }


def _from_format_3(checkpoint: dict[str, Any]) -> dict[str, Any]:
    data = {**checkpoint.get("ImageDataModule", {}), "backbone": None}
    return {**checkpoint, "format": FORMAT, "ImageDataModule": data}


BEFORE_FORMAT_3 = {"standardize": False, "class_weight": None, "calibrate": False}
"""What models were before they had these settings."""


def check_data(path: Path, state: dict[str, Any], now: dict[str, Any]) -> None:
    """Makes sure that the data is what a checkpoint was trained on.

    Raises:
        InputError: it is not; the sentence says what differs.
    """
    then = state["ImageDataModule"]
    for name, value in now.items():
        if then[name] != value:
            raise InputError(
                f"{path} cannot be resumed with this data: its {name} is {value} and was {then[name]}; put the files "
                "that it was trained on under `root`, or start a new run"
            )
