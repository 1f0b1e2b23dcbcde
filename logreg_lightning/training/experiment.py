"""What a training is made of, whatever it trains: its settings, its trainer, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import inspect
import math
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.seed import isolate_rng

from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError, RunError, Stopped
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime import processes, runs
from logreg_lightning.runtime.output import say
from logreg_lightning.runtime.saver import AtomicCheckpointIO
from logreg_lightning.runtime.threads import threads_for

FROM_THE_DATA = ("in_features", "num_classes", "image_shape", "class_names", "backbone")
"""Parameters of a model that are no settings."""


def check_given(given: dict[str, Any]) -> None:
    """Makes sure that what a training was given is in its range.

    Raises:
        InputError: something is not.
    """
    for name in ("max_epochs", "num_nodes", "val_check_interval", "threads"):
        if given[name] not in (None, "auto") and given[name] < 1:
            raise InputError(f"`{name}` must be at least 1, not {given[name]}")
    if not 0 <= given["seed"] < 2**32:
        raise InputError(f"`seed` must be from 0 to {2**32 - 1}, not {given['seed']}")
    if given["max_steps"] != -1 and given["max_steps"] < 1:
        raise InputError(f"`max_steps` must be at least 1, or -1 for no limit, not {given['max_steps']}")


def config_of(data: ImageDataModule, given: dict[str, Any], hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """All settings of a run, as `config.yaml` holds them."""
    parameters = inspect.signature(LogisticRegression).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in FROM_THE_DATA}
    unknown = set(hyperparameters) - set(defaults)
    if unknown:
        raise TypeError(f"fit() takes no {', '.join(sorted(unknown))}; a model has {', '.join(defaults)}")
    settings = {**dict(data.hparams), "dataset": data.dataset, "root": str(data.root)}
    return {**given, "resume": None, "data": settings, "model": {**defaults, **hyperparameters}}


def as_started(config: dict[str, Any], started: dict[str, Any]) -> dict[str, Any]:
    """The settings, those that are auto as they became when the run was started."""
    filled = {name: started.get(name, value) if value == "auto" else value for name, value in config.items()}
    return filled | {
        name: as_started(value, started.get(name, {})) for name, value in config.items() if isinstance(value, dict)
    }


def trainer_of(given: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
    """Lightning's trainer of these settings, which saves, draws and prints nothing of its own.

    Raises:
        InputError: it cannot be had on this machine.
    """
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps")
    # Lightning's own requeueing on SLURM saves where nothing here looks for it.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    interval = given["val_check_interval"]
    settings = {name: given[name] for name in names if given[name] != "auto" or name != "max_epochs"}
    if MPSAccelerator.is_available() and settings["accelerator"] == "auto":
        # For so small a model an Apple GPU would mostly wait: each of a step's ten operators takes longer to start than
        # to compute. The CPU also has float64, and the same results on every machine.
        settings["accelerator"] = "cpu"
    try:
        trainer = L.Trainer(
            **settings,
            **({} if interval is None else {"val_check_interval": interval, "check_val_every_n_epoch": None}),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), *slurm],
            logger=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        accelerator = given["accelerator"]
        if accelerator in ("gpu", "cuda", "mps") and re.search("No supported gpu backend|can not run on", str(error)):
            raise InputError(
                f"no GPU found for `accelerator={accelerator!r}`; use `accelerator='cpu'` or auto"
            ) from None
        wanted = ", ".join(f"`{name}={given[name]!r}`" for name in ("accelerator", "devices", "strategy", "precision"))
        raise InputError(
            f"{wanted} are not available together on this machine: {error} Use `accelerator='cpu'` or auto"
        ) from None
    if isinstance(trainer.accelerator, MPSAccelerator) and given["precision"] == "64-true":
        raise InputError("`precision='64-true'`: an Apple GPU has no float64; use `accelerator='cpu'`")
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            f"`devices={given['devices']!r}`: a notebook trains on one device; use `devices=1`, or a script"
        )
    return trainer


def model_for(data: ImageDataModule, hyperparameters: dict[str, Any]) -> LogisticRegression:
    """A new model of the data's images or features and classes."""
    names = data.data.classes
    return LogisticRegression(
        data.data.num_features,
        len(names),
        **hyperparameters,
        image_shape=data.data.image_shape,
        class_names=names,
        backbone=data.data.backbone,
    )


def run_threads(started: dict[str, Any], data: ImageDataModule, trainer: L.Trainer, models: int = 1) -> int | None:
    """Those that the run began with, or as many as a step of so many models is worth; None where that is left to
    Lightning and torch."""
    if trainer.world_size > 1 or trainer.strategy.root_device.type != "cpu":
        return None
    before: int | None = started.get("threads")
    work = data.batch_size * data.data.num_features * len(data.data.classes) * models
    return before or threads_for(work)


def computes_on(trainer: L.Trainer, threads: int | None) -> str:
    """What it computes on, for a person to read."""
    device = {"cpu": "the CPU", "mps": "an Apple GPU"}.get(trainer.strategy.root_device.type, "a GPU")
    number = f" with {threads} thread{'' if threads == 1 else 's'}" if threads is not None else ""
    many = f" in {trainer.world_size} processes" if trainer.world_size > 1 else ""
    return f"Computing on {device}{number}{many}"


def what_was_trained(data: ImageDataModule, trainer: L.Trainer, steps: int) -> dict[str, Any]:
    """What `results.json` holds of any training: on what data, how long, and what made it."""
    return {
        "command": processes.command_line(),
        "dataset": data.dataset,
        "features": data.source.what,
        "epochs": math.ceil(steps / data.steps_per_epoch),
        "steps": steps,
        "batch_size": data.batch_size,
        "accelerator": type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
        "devices": trainer.num_devices,
        "versions": runs.versions(),
    }


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds this process and those it starts, which Lightning seeds once more from the environment; undoes it all."""
    before = os.environ.get("PL_GLOBAL_SEED")
    with isolate_rng():
        L.seed_everything(seed, verbose=False)
        try:
            yield
        finally:
            os.environ.pop("PL_GLOBAL_SEED")
            if before is not None:
                os.environ["PL_GLOBAL_SEED"] = before


@contextlib.contextmanager
def one_sentence(folder: Path) -> Iterator[None]:
    """Says how to resume the run where something ends it that is no bug."""
    try:
        yield
    except Stopped as stop:
        say(f"\n{stop}. Resume with: {processes.resume_with(folder)}")
        if stop.signum == signal.SIGINT:
            raise KeyboardInterrupt(str(stop)) from None
        raise SystemExit(128 + stop.signum if processes.rank() == 0 else 0) from None
    except RunError as error:
        files = sorted((folder / "checkpoints").glob("*.ckpt"))  # best.ckpt comes before last.ckpt
        saved = f"{files[-1]} is complete" if files else f"{folder} was not saved yet"
        raise RunError(f"{error}; {saved}") from None
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise RunError(
            f"{error.filename or folder} cannot be written ({error.strerror}); what was saved before is complete: make "
            f"room or get write access, then resume with: {processes.resume_with(folder)}"
        ) from None
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        raise RunError(lost(folder)) from None


_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def lost(folder: Path | None) -> str:
    """What a process says when another one of its run is gone."""
    resume = f"; resume with: {processes.resume_with(folder)}" if folder is not None else ""
    return f"another process of this run has ended{resume}"
