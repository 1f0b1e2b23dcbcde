"""One training, from its settings to its results."""

from __future__ import annotations

import contextlib
import errno
import math
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only

from logreg_lightning import checkpoints, processes, progress, runs
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError, RunError, Stopped
from logreg_lightning.files import write_whole
from logreg_lightning.model import LogisticRegression
from logreg_lightning.processes import say
from logreg_lightning.signals import StopOnSignal

_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def _check(settings: Namespace) -> None:
    for key in ("max_epochs", "num_nodes", "val_check_interval"):
        if settings[key] is not None and settings[key] < 1:
            raise InputError(f"--{key} must be at least 1, not {settings[key]}")
    if not 0 <= settings.seed < 2**32:
        raise InputError(f"--seed must be from 0 to {2**32 - 1}, not {settings.seed}")
    if settings.max_steps != -1 and settings.max_steps < 1:
        raise InputError(f"--max_steps must be at least 1, or -1 for no limit, not {settings.max_steps}")


def _trainer(settings: Namespace, plugins: list[Any] | None = None, **parts: Any) -> L.Trainer:
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps")
    # Lightning's own requeueing on SLURM saves where nothing here looks for it.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    try:
        return L.Trainer(
            **{name: settings[name] for name in names},
            **parts,
            plugins=[*(plugins or []), *slurm],
            enable_progress_bar=any(isinstance(part, ProgressBar) for part in parts.get("callbacks", ())),
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--accelerator {settings.accelerator} --devices {settings.devices} --strategy {settings.strategy} "
            f"--precision {settings.precision} cannot be had on this machine: {error} Try --accelerator cpu or auto"
        ) from None


def fit(parser: ArgumentParser, settings: Namespace, folder: Path | None, checkpoint: Path | None) -> None:
    """Trains, or goes on with the run in `folder` from `checkpoint`, tests, and writes what came out.

    Raises:
        InputError: a setting cannot be used.
        RunError: the training diverged, a file could not be written, or another process of the run ended.
        Stopped: a signal ended it, after it was saved.
    """
    with contextlib.ExitStack() as held:
        if folder is not None:
            processes.end_with_parent(f"fit.py: error: {_lost(folder)}")
            held.enter_context(runs.used_by_one(folder))
        # 1. Everything that can be refused is refused before anything is written.
        _check(settings)
        data = ImageDataModule(**settings.data)
        L.seed_everything(settings.seed, verbose=False)
        LogisticRegression(1, 2, **settings.model)
        state = checkpoints.read(checkpoint) if checkpoint is not None else None
        _trainer(settings, logger=False)
        data.prepare_data()
        data.setup()
        for name in ("seed", "max_epochs", "max_steps", "val_check_interval"):
            setattr(data, name, settings[name])
        if folder is not None and checkpoint is not None and state is not None:
            checkpoints.check_data(checkpoint, state, data)
            if _finished(folder, settings, state, data):
                return
        say(data.describe())

        # 2. The run's folder, and in it what would repeat the run.
        if folder is None and processes.rank() == 0:
            folder = runs.create()
            held.enter_context(runs.used_by_one(folder))
        run = folder or runs.LOGS  # a process that torchrun or SLURM started learns its folder from process 0
        settings = settings.clone()
        settings.resume, settings.data.dataset = None, data.dataset
        try:
            _begin(run, parser.dump(settings), checkpoint, state)
            _fit(settings, data, run, checkpoint, state)
        except Stopped as stop:
            say(f"\n{stop}; to go on: {_command(run)}")
            raise
        except RunError as error:
            last = run / "checkpoints" / "last.ckpt"
            raise RunError(
                f"{error}; " + (f"{last} is whole" if last.is_file() else f"{run} was not saved yet")
            ) from None
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            raise RunError(
                f"{error.filename or run} cannot be written ({error.strerror}); what was saved before is whole: "
                f"make room or give the right to write, then go on with: {_command(run)}"
            ) from None
        except RuntimeError as error:
            lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
            if not lost:
                raise
            raise RunError(_lost(run)) from None


def _finished(folder: Path, settings: Namespace, state: dict[str, Any], data: ImageDataModule) -> bool:
    """Whether the run has nothing left to do, said if so."""
    steps = state["global_step"]
    if steps >= data.run_steps and runs.has_results(folder):
        say(f"{folder} is finished: {steps} steps. To train on: {_train_on(folder, settings, steps)}")
        return True
    before = state["ImageDataModule"]["steps_per_call"]
    if data.steps_per_call != before:
        raise InputError(f"--max_steps {settings.max_steps} cannot be met by {folder}: choose a multiple of {before}")
    return False


@rank_zero_only
def _begin(run: Path, config: str, checkpoint: Path | None, state: dict[str, Any] | None) -> None:
    """Makes the folder ready: its settings written, nothing in it that the training will write again."""
    write_whole(run / "config.yaml", config.encode())
    last = run / "checkpoints" / "last.ckpt"
    if checkpoint is not None and checkpoint.resolve() != last.resolve():
        # A kill from now on must not lead back to what is the future of this checkpoint.
        write_whole(last, checkpoint.read_bytes())
    (run / "results.json").unlink(missing_ok=True)
    checkpoints.rewind_curves(run, state)


def _fit(
    settings: Namespace, data: ImageDataModule, run: Path, checkpoint: Path | None, state: dict[str, Any] | None
) -> None:
    # 3. Training.
    command = sys.argv.copy()
    L.seed_everything(settings.seed, verbose=False)
    channels, height, width = data.data.image_shape
    model = LogisticRegression(channels * height * width, len(data.data.classes), **settings.model)
    model.class_names, model.image_shape = data.data.classes, data.data.image_shape
    if state is not None:
        _say_new_schedule(model, data, state)
    logger = runs.logger(run, state["global_step"] if state else 0)
    saver = checkpoints.Saver(run)
    drawn: list[L.Callback] = []
    if settings.pictures:
        from logreg_lightning import pictures

        drawn = [pictures.WeightsAsTheyGrow(saver)]
    interval = settings.val_check_interval
    every = {"check_val_every_n_epoch": None, "val_check_interval": interval // data.steps_per_call} if interval else {}
    trainer = _trainer(
        settings,
        logger=logger,
        callbacks=[*progress.callbacks(interval), *drawn, saver, StopOnSignal(saver)],
        plugins=[checkpoints.WholeFiles()],
        **every,
    )
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        processes.prepare_to_start_others(checkpoint or run, f"fit.py: error: {_lost(run)}")
    if state is None:
        names = (
            "max_epochs",
            "seed",
            "data.batch_size",
            "data.val_size",
            *(f"model.{name}" for name in vars(settings.model)),
        )
        runs.write_hparams(logger, {"data.dataset": data.dataset, **{name: settings[name] for name in names}})
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)

    # 4. The final weights on the test set.
    trainer.test(model, datamodule=data, verbose=False)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    steps = trainer.fit_loop.epoch_loop.global_step
    if settings.pictures and processes.rank() == 0:
        pictures.draw(logger.experiment, model, data, steps)
    logger.experiment.flush()
    labels = data.test_labels()
    majority = int(labels.bincount().argmax())
    majority_share = (labels == majority).double().mean().item()
    runs.write_results(
        run,
        command=command,
        dataset=data.dataset,
        epochs=math.ceil(steps / data.steps_per_epoch),
        steps=steps,
        fit_seconds=saver.fit_seconds,
        accelerator=type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
        devices=trainer.num_devices,
        **saver.validated,
        **metrics,
        majority_class_accuracy=majority_share,
        seed=settings.seed,
    )
    name = data.data.classes[majority]
    shown = {
        **metrics,
        f"  of always saying {name}": majority_share,
        "steps": steps,
        "fit_seconds": round(saver.fit_seconds, 2),
    }
    say("\n" + "\n".join(f"  {label:<34}{value:>10.4g}" for label, value in shown.items()))
    say(
        f"\nRun:          {run}\nCurves:       {_python()} -m tensorboard.main --logdir {run.parent}\n"
        f"Train on:     {_train_on(run, settings, steps)}"
    )


def _say_new_schedule(model: LogisticRegression, data: ImageDataModule, state: dict[str, Any]) -> None:
    step, was = state["global_step"], state["optimizer_states"][0]["param_groups"][0]["lr"]
    if model.lr_at(step - 1, data.run_steps) != was:
        say(
            f"The {model.schedule} schedule now ends at step {data.run_steps}: the learning rate goes on from "
            f"{model.lr_at(step, data.run_steps):.3g}, where it had come to {was:.3g}"
        )


def _python() -> str:
    """This interpreter as a person in this folder would type it."""
    here = Path(sys.prefix).parent == Path.cwd()
    return str(Path(sys.executable).relative_to(Path.cwd())) if here else sys.executable


def _command(run: Path) -> str:
    """The command that goes on with a run."""
    return f"{_python()} {sys.argv[0]} --resume {run}"


def _lost(run: Path) -> str:
    return f"another process of this run has ended; go on with: {_command(run)}"


def _train_on(run: Path, settings: Namespace, steps: int) -> str:
    """The command that goes on with a finished run: it lifts the limit that ended it."""
    flag = "max_steps" if 0 < settings.max_steps <= steps else "max_epochs"
    return f"{_command(run)} --{flag} {2 * settings[flag]}"
