"""What TensorBoard is told: the training curve, which ends a training that diverges, and what runs are compared by."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from logreg_lightning.errors import InputError, RunError
from logreg_lightning.runtime.files import replace
from logreg_lightning.runtime.names import printable
from logreg_lightning.runtime.plan import Plan

DIVERGED = 1e6
"""Nats: a training whose mean loss is here or beyond, or NaN, has diverged. A large learning rate alone never makes the
loss infinite, since the gradient of cross-entropy is bounded; this loss stands for a probability of exp(-1,000,000)."""


class _After:
    """In place of the module `time` where TensorBoard names a file: later than a stamp, the first time it is asked."""

    def __init__(self, stamp: int) -> None:
        self.least = stamp + 1

    def time(self) -> float:
        now, self.least = max(time.time(), self.least), 0
        return now


def _writer(folder: str, **settings: Any) -> Any:
    """TensorBoard's, whose new file's name comes after those of the folder's others, as its points do.

    TensorBoard reads files in the order of their names: the second, which a clock may be set back by, then the number
    of the process, as text.
    """
    from tensorboard.summary.writer import event_file_writer
    from torch.utils.tensorboard import SummaryWriter

    class Writer(SummaryWriter):
        # Private: it opens a file at first, and once more when something is written after a training has closed it.
        def _get_file_writer(self) -> Any:
            if self.file_writer is not None:
                return self.file_writer
            names = (file.name.split(".") for file in event_files(Path(self.log_dir)))
            stamps = [int(parts[3]) for parts in names if parts[3].isdecimal()]
            before, event_file_writer.time = event_file_writer.time, _After(max(stamps, default=-1))
            try:
                return super()._get_file_writer()  # type: ignore[no-untyped-call]
            finally:
                event_file_writer.time = before

    return Writer(folder, **settings)


class StepLogger(TensorBoardLogger):
    """TensorBoard with optimiser steps on the x axis; Lightning would add a curve of the epoch to every point."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _writer(self.log_dir, **self._kwargs)
        return self._experiment

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def save(self) -> None:
        """Lightning's, with `hparams.yaml` whole or not there: it is written once, so a cut one would stay cut."""
        file = Path(self.log_dir) / self.NAME_HPARAMS_FILE
        if not file.exists():
            partial = file.with_name(file.name + ".partial")
            save_hparams_to_yaml(partial, self.hparams)
            replace(partial, file)
        super().save()


class TrainingCurve(L.Callback):
    """Logs `train/loss`, `train/accuracy` and `train/lr` at every 50th optimiser step of an epoch and at its end.

    A point is the mean over the images since the last one, each with the weights of its own step. `training_step` must
    return, of each of its steps, the sums of its images' `losses` and `hits`, float64 (steps,), how many `images` they
    are of, over all processes, and the last `lr`. The x axis of all curves is made to count optimiser steps, while
    Lightning's counts `training_step`s.

    Where several models are trained at once, the sums are (steps, models): nothing is logged but the smallest loss, on
    the bar, and a model that diverges ends nothing.

    Attributes:
        point: Loss and accuracy of the last point; a list of them for several models.
        diverged: Which of several models have diverged, at any point.

    Raises:
        RunError: the training diverged.
    """

    def __init__(self) -> None:
        self.point: dict[str, Any] = {}
        self.diverged: list[bool] = []
        # Since the last point. A run is saved only where a point was just logged, so no checkpoint needs it.
        self.sums: list[tuple[Tensor, Tensor]] = []
        self.images: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        return {"point": self.point, "diverged": self.diverged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.point, self.diverged = dict(state_dict["point"]), list(state_dict["diverged"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.sums, self.images = [], []
        self.plan = Plan.in_training(trainer)
        if self.plan.val_interval is not None:
            # Lightning counts calls. It set this before `on_train_start`, so what is set here stays.
            trainer.val_check_batch = self.plan.val_interval // self.plan.steps_per_call

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # What `training_step` returned: Lightning hands a dictionary on as it is, even without a loss.
        self.sums.append((outputs["losses"], outputs["hits"]))
        self.images += outputs["images"]
        count_steps_on_the_x_axis(trainer)
        if self.plan.is_point(trainer.global_step):
            self._log_point(trainer, pl_module, outputs["lr"])

    def _log_point(self, trainer: L.Trainer, pl_module: L.LightningModule, lr: float) -> None:
        losses, hits = (torch.cat(parts) for parts in zip(*self.sums, strict=True))
        sums = torch.stack([losses.sum(0), hits.sum(0)])
        if trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        loss, accuracy = (sums / sum(self.images)).tolist()
        self.point = {"train/loss": loss, "train/accuracy": accuracy}
        if isinstance(loss, list):
            before = self.diverged or [False] * len(loss)
            self.diverged = [was or not value < DIVERGED for was, value in zip(before, loss, strict=True)]
            shown = min((value for value, bad in zip(loss, self.diverged, strict=True) if not bad), default=math.inf)
        elif loss < DIVERGED:
            shown = loss
            for logger in trainer.loggers:  # not self.log: Trainer(log_every_n_steps=...) would leave points out
                logger.log_metrics({**self.point, "train/lr": lr}, trainer.global_step)
        else:
            where = _where_it_diverged(losses, self.images, trainer)
            settings = "`lr` is {lr:g}, `momentum` {momentum:g}, `weight_decay` {weight_decay:g}".format(
                **pl_module.hparams
            )
            raise RunError(f"training diverged: {where}; try a smaller `lr` ({settings})")
        self.sums, self.images = [], []
        pl_module.log("train/loss", shown, prog_bar=True, logger=False)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        count_steps_on_the_x_axis(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        count_steps_on_the_x_axis(trainer)


def count_steps(trainer: L.Trainer, count: int) -> None:
    """Adds to Lightning's `global_step`; its wrapper of the optimiser, which counts too, costs as much as a step."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    for _ in range(count):
        progress.increment_ready()
        progress.increment_completed()


def count_steps_on_the_x_axis(trainer: L.Trainer) -> None:
    # Private: the number that Lightning logs with, for want of a public one; a "step" among the metrics would be a
    # float, and rounded from 2**24 on.
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def _where_it_diverged(losses: Tensor, images: Sequence[int], trainer: L.Trainer) -> str:
    """The first of these optimiser steps whose loss is out of bounds, of this process's sums of losses (steps,)."""
    first, ranks = trainer.global_step - len(images) + 1, trainer.world_size
    shares = [max(1, len(range(trainer.global_rank, size, ranks))) for size in images]
    means = [loss / share for loss, share in zip(losses.tolist(), shares, strict=True)]
    diverged = [(loss, step) for step, loss in enumerate(means, first) if not loss < DIVERGED]
    loss, step = diverged[0] if diverged else (max(means), trainer.global_step)
    return f"the loss is {loss:.3g} at step {step}"


def event_files(folder: Path) -> list[Path]:
    """A run's TensorBoard files."""
    return sorted(folder.glob("events.out.tfevents.*"))


def truncate_event_files(folder: Path, sizes: dict[str, int]) -> None:
    """Cuts a run's TensorBoard files back to these sizes in bytes, by name; removes those that have none."""
    for file in event_files(folder):
        if file.name not in sizes:
            file.unlink()
        elif file.stat().st_size > sizes[file.name]:
            with file.open("r+b") as events:
                events.truncate(sizes[file.name])


def check_folder(folder: Path) -> None:
    """Makes sure that TensorBoard's files can be written below that folder.

    Raises:
        InputError: TensorBoard takes no such name.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise InputError(f"{folder}: TensorBoard writes into no folder whose name is no UTF-8; rename it") from None


def logger(folder: Path, step: int) -> TensorBoardLogger:
    """The TensorBoard logger of the run in `folder`; an open TensorBoard drops the points after `step`."""
    purge_step = step + 1 if step else None
    version = folder.name  # without one, Lightning's logger opens a new version_N
    return StepLogger(folder.parent.parent, folder.parent.name, version, default_hp_metric=False, purge_step=purge_step)


@rank_zero_only
def record_hyperparameters(
    logger: TensorBoardLogger, settings: dict[str, int | float | str], first: Collection[str]
) -> None:
    """Fills TensorBoard's HParams tab: the settings, which of them to show first, and the names of the curves to
    compare runs by."""
    # Not `log_hyperparams`, which would also draw each metric's first value as a point.
    for summary in _summaries(settings, first):
        logger.experiment.file_writer.add_summary(summary)


def _summaries(settings: dict[str, int | float | str], first: Collection[str]) -> list[Any]:
    """What the HParams tab reads."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    text = {name: printable(value) if isinstance(value, str) else value for name, value in settings.items()}
    summaries = [*hparams(text, dict.fromkeys(COMPARED, 0.0))]  # type: ignore[no-untyped-call]
    # The tab's order is not that of what is written: those that differ between runs, by name, then the others, and it
    # asks the experiment, the first of the summaries, which these are.
    about = summaries[0].value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(about.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in first
    about.content = content.SerializeToString()
    return summaries


COMPARED = ("test/accuracy", "test/loss", "test/calibration_error", "val/accuracy", "val/loss")
"""Curves that TensorBoard's HParams tab compares runs by."""


def write_setting(
    folder: Path,
    settings: dict[str, int | float | str],
    first: Collection[str],
    metrics: dict[str, float],
    step: int,
) -> None:
    """Makes a row of TensorBoard's HParams tab that is no run: its settings, which of them to show first, and its
    metrics at a step."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import scalar

    shutil.rmtree(folder, ignore_errors=True)  # of a sweep that was killed while it wrote
    folder.mkdir()
    summaries = _summaries(settings, first)
    summaries += [scalar(name, value) for name, value in metrics.items()]  # type: ignore[no-untyped-call]
    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2")]
    events += [Event(wall_time=now, step=step, summary=summary) for summary in summaries]
    with (folder / "events.out.tfevents.0").open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
        writer.flush()
