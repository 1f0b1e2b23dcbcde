"""What any training needs, of one model or of many: settings, data, trainer, folder, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import inspect
import math
import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.seed import isolate_rng
from packaging.version import Version

from logreg_lightning.datamodule import VAL_SHARE, ImageDataModule
from logreg_lightning.errors import InputError, RunError, Stopped
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime import checkpoints, curves, processes, runs
from logreg_lightning.runtime.files import DENIED, FULL, atomic_write
from logreg_lightning.runtime.output import muted, print_once, quiet
from logreg_lightning.runtime.plan import Plan
from logreg_lightning.runtime.progress import progress
from logreg_lightning.runtime.saver import AtomicCheckpointIO, Saver
from logreg_lightning.runtime.signals import StopOnSignal
from logreg_lightning.runtime.threads import drawing, threads_for, use_threads
from logreg_lightning.training import initialize
from logreg_lightning.training.hyperparameters import check_whole
from logreg_lightning.use.by_class import FILES, ByClass, predicted
from logreg_lightning.use.classifier import read_model

FROM_THE_DATA = ("in_features", "num_classes", "image_shape", "class_names", "backbone", "pixel_range")
"""Parameters of a model that are no settings."""


SHOWN_FIRST = ("model.lr", "model.momentum", "model.weight_decay")
"""Settings by which runs differ most often: with them and those that are no default TensorBoard begins its tab."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: Its folder.
        results: What `results.json` holds.
        model: The trained model, on the CPU, ready to predict.
        remark: What looks wrong about the results, and what to do; None where nothing does.
    """

    path: Path
    results: dict[str, Any]
    model: LogisticRegression
    remark: str | None = None


class Experiment:
    """A training from its settings to its results; leave it as a context, whatever happens.

    The order is: `prepare_data`, a model, `make_trainer`, `open_folder`, `train`, `end`. Nothing of the training is
    written before the folder is opened.

    Args:
        kind: version for one run, sweep for many at once: what its folder is called.
        data: The images, or what `ImageDataModule` takes as `dataset`. It is copied, never changed.
        given: Settings but for those of data and model.
        settings_of_model: Those that were given.
        resumed: The folder to resume, if any, and the checkpoint in it, if any.
        may_change: Settings that a resumed training may be given anew.
        verbose: Whether to say anything.

    Attributes:
        settings: All settings, as `config.yaml` holds them: as given, or as a resumed training was started; numbers in
            place of auto once these are known.
        started: The settings of a resumed training; empty in a new one.
        folder: Of the training; None before it is opened.
        state: Content of the checkpoint; None where there is none.

    Raises:
        InputError: something of it cannot be used.
    """

    def __init__(
        self,
        kind: str,
        data: ImageDataModule | str | Path,
        given: dict[str, Any],
        settings_of_model: dict[str, Any],
        resumed: tuple[Path | None, Path | None] = (None, None),
        may_change: frozenset[str] = runs.MAY_CHANGE,
        verbose: bool = True,
    ) -> None:
        self.kind = kind
        self.folder, self.checkpoint = resumed
        self.data = ImageDataModule(data) if isinstance(data, str | Path) else data.copy()
        self.started: dict[str, Any] = {}
        self._given, self._settings_of_model, self._may_change = given, settings_of_model, may_change
        self._verbose = verbose
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet())
            if not self._verbose:
                stack.enter_context(muted())
            processes.check_variables()
            curves.check_folder(self.folder or Path(self._given.get("log_dir", runs.LOGS)))
            processes.end_with_parent(peer_exited_message(self.folder))
            if self.folder is not None:
                stack.enter_context(runs.used_by_one(self.folder))
                self.started = runs.read_config(self.folder)
            self.state = read_model(self.checkpoint) if self.checkpoint is not None else None
            if self.folder is not None:
                file = self.checkpoint or self.folder / "checkpoints" / "group_0.ckpt"
                if (state := self.state or (checkpoints.read(file) if file.is_file() else None)) is not None:
                    with checkpoints.content_of(file):
                        runs.check_edited(file, state["settings"], self.started, self._may_change)
                        self.started = merged(state["settings"], self.started)
            config = settings_of(self.data, self._given, self._settings_of_model)
            self.settings = as_started(config, self.started)
            for name in ("dataset", "batch_size", "val_size"):
                setattr(self.data, name, self.settings["data"][name])
            if self.kind == "sweep" and self.data.val_size == "auto":
                self.data.val_size = VAL_SHARE  # by which it chooses
            if self.folder is not None:
                runs.check_config(self.folder, self.started, self.settings, self._may_change)
            rank = processes.rank()
            self.machine = trainer_of(self.settings, [])  # refuses what this machine has not; it trains nothing
            processes.check_launched(rank, self.machine)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> bool | None:
        return self._stack.__exit__(*details)

    # The data.

    def prepare_data(self) -> ImageDataModule:
        """Fetches, loads and splits the images; settings that depend on them become numbers.

        Raises:
            InputError: they cannot be had, or are not those that a checkpoint was trained on.
        """
        data, settings = self.data, self.settings
        self._stack.enter_context(use_threads(settings["threads"]))
        data.trainer = self.machine
        data.prepare_data()
        data.setup()
        settings["data"] |= {name: getattr(data, name) for name in ("dataset", "batch_size", "val_size")}
        self.max_epochs = settings["max_epochs"]
        if self.max_epochs == "auto":
            self.max_epochs = initialize.epochs(data.steps_per_epoch, settings["max_steps"])
            if self.kind == "sweep" or settings["max_steps"] == -1:  # else it stays auto: a run may be given more steps
                settings["max_epochs"] = self.max_epochs
        if self.checkpoint is not None and self.state is not None:
            with checkpoints.content_of(self.checkpoint):
                data.check_resumable(self.checkpoint, self.state)
                fresh = self.machine.fit_loop.state_dict()
                checkpoints.check_progress(self.state, data.steps_per_epoch, fresh)
        before = runs.read_trained_on(self.folder) if self.folder is not None else None
        if before is not None and str(before["digest"]) != data.copies.digest:
            raise InputError(
                f"{self.folder} was started with other images or labels than those of `dataset={data.dataset!r}`; name "
                "those that it was started with, or start a new run"
            )
        return data

    def describe(self, models: int = 1) -> None:
        """Says on what data and on what device so many models at once are trained, and chooses the threads.

        Where none are given, one process on the CPU takes those that it began with, or as many as a step is worth.
        """
        print_once(self.data.describe())
        device, world_size = self.machine.strategy.root_device.type, self.machine.world_size
        threads = self.settings["threads"]
        if threads is None and device == "cpu" and world_size == 1:
            weights = self.data.data.num_features * len(self.data.data.classes) * models
            # Another number of threads sums in another order, and so rounds otherwise.
            threads = self.started.get("threads") or threads_for(self.data.batch_size * weights)
        self.settings["threads"] = threads
        self._stack.enter_context(use_threads(threads))
        name = {"cpu": "the CPU", "mps": "an Apple GPU"}.get(device, "a GPU")
        on_threads = f" with {threads} thread{'' if threads == 1 else 's'}" if threads is not None else ""
        in_processes = f" in {world_size} processes" if world_size > 1 else ""
        print_once(f"Computing on {name}{on_threads}{in_processes}")

    @property
    def run_steps(self) -> int | None:
        """Optimiser steps in the whole training; None where nothing limits them. Known once the data is prepared."""
        plan = Plan(self.data.steps_per_epoch, max_epochs=self.max_epochs, max_steps=self.settings["max_steps"])
        return plan.run_steps

    # The model.

    def new_model(self, **changes: Any) -> LogisticRegression:
        """A new model of the data's images or features and classes, with the settings, but for these.

        It draws its weights from the beginning of torch's seed, whatever other threads have drawn since that was set.
        """
        dataset = self.data.data
        with drawing:
            torch.manual_seed(torch.initial_seed())
            return LogisticRegression(
                dataset.num_features,
                len(dataset.classes),
                **{**self.settings["model"], **changes},
                image_shape=dataset.image_shape,
                class_names=dataset.classes,
                backbone=dataset.backbone,
                pixel_range=dataset.pixel_range,
            )

    def check_loads(self, model: LogisticRegression, saver: Saver) -> None:
        """Makes sure that what is resumed can be, before anything is written: Lightning loads it once more.

        Raises:
            InputError: the checkpoint holds something else.
        """
        if self.checkpoint is None or self.state is None:
            return
        with checkpoints.content_of(self.checkpoint):
            state, optimizer = self.state, model.configure_optimizers()
            model.load_state_dict(state["state_dict"])
            [of_optimizer], callbacks = state["optimizer_states"], state["callbacks"]
            optimizer.load_state_dict(of_optimizer)
            for parameter in model.parameters() if model.momentum else ():
                value = optimizer.state[parameter]["momentum_buffer"]
                if value.shape != parameter.shape or not value.isfinite().all():
                    raise ValueError(f"its momentum_buffer has the shape {tuple(value.shape)}, or is not finite")
            saver.load_state_dict(callbacks["Saver"])
            saver.curve.load_state_dict(callbacks["TrainingCurve"])
            _ = float(of_optimizer["param_groups"][0]["lr"]), Version(state["pytorch-lightning_version"])
            if state["lr_schedulers"] != []:
                raise ValueError("it has schedulers")
            trained_with = {**state["hyper_parameters"], "seed": state["ImageDataModule"]["seed"]}
            for name, value in {**state["settings"]["model"], "seed": state["settings"]["seed"]}.items():
                if (type(trained_with[name]), trained_with[name]) != (type(value), value):
                    raise ValueError(f"its {name} is {value} in one place and {trained_with[name]} in another")
            with isolate_rng():
                LogisticRegression(**state["hyper_parameters"])

    # The folder and the trainer.

    def open_folder(self) -> Path:
        """Makes the folder, if it is a new one, and writes the settings; from here on errors say how to resume."""
        if self.folder is None and processes.rank() == 0:
            self.folder = runs.create(self.kind, Path(self.settings["log_dir"]))
            self._stack.enter_context(runs.used_by_one(self.folder))
        # Process 0 tells it to those that torchrun or SLURM started.
        self.folder = self.folder or Path(self.settings["log_dir"])
        self._stack.enter_context(report_expected_errors(self.folder))
        if processes.rank() == 0:
            runs.write_config(self.folder, self.settings)
            self.write_trained_on(self.folder)
        return self.folder

    def make_trainer(self, callbacks: Iterable[L.Callback], saver: Saver) -> L.Trainer:
        """The trainer that the data and settings ask for, with these callbacks and what saves and stops a training.

        It becomes the data's. The order counts: a save knows all that was logged and drawn up to its step, and nothing
        of a later one; and a training stops only where it was just saved.
        """
        shown = [progress(self.settings["val_check_interval"])] if self._verbose else []
        all_callbacks = [Agreement(saver), *callbacks, *shown, saver, StopOnSignal(saver)]
        trainer = trainer_of({**self.settings, "max_epochs": self.max_epochs}, all_callbacks)
        self.data.trainer = trainer
        return trainer

    def train(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: Path | None) -> None:
        """Trains what a checkpoint left, if there is one, in as many processes as the trainer has."""
        assert self.folder is not None
        resume = (checkpoint if self.kind == "version" else None) or self.folder
        with processes.starting_others(trainer.strategy.launcher, resume, peer_exited_message(self.folder)):
            # Not ckpt_path="last": Lightning looks for it only where the new run saves, and else trains from scratch.
            trainer.fit(module, datamodule=self.data, ckpt_path=checkpoint, weights_only=True)

    # The end of a run.

    def start_logging(
        self, trainer: L.Trainer, folder: Path, settings: dict[str, Any], more: Sequence[Logger] = ()
    ) -> None:
        """From here on curves go into that run's folder, and to more loggers; what its checkpoint has not seen goes.

        Args:
            settings: The run's.
        """
        state = self.state if folder == self.folder else None
        if processes.rank() == 0:
            last = folder / "checkpoints" / "last.ckpt"
            if state is not None and self.checkpoint is not None and self.checkpoint.resolve() != last.resolve():
                # A kill from now on must not lead back to what is the future of this checkpoint.
                atomic_write(last, self.checkpoint.read_bytes())
            for name in ("results.json", *FILES, *(["hparams.yaml"] if state is None else [])):
                (folder / name).unlink(missing_ok=True)
            self.write_trained_on(folder)
            curves.truncate_event_files(folder, state["callbacks"]["Saver"]["events"] if state is not None else {})
        logger = curves.logger(folder, state["global_step"] if state else 0)
        trainer.loggers = [logger, *more]
        if state is None:
            shown = {
                **{f"model.{name}": value for name, value in settings["model"].items()},
                **{name: settings[name] for name in ("max_epochs", "seed")},
                **{f"data.{name}": settings["data"][name] for name in ("batch_size", "val_size")},
                "data.dataset": self.data.dataset,
                "data.features": self.data.source.what,
            }
            given = {**shown, "data.features": settings["data"]["features"]}  # which is pixels for .npy files too
            first = [
                *SHOWN_FIRST,
                *(name for name in shown if name not in SHOWN_FIRST and _is_changed(name, given[name])),
            ]
            curves.record_hyperparameters(logger, {name: shown[name] for name in (*first, *shown)}, first)

    def write_trained_on(self, folder: Path) -> None:
        """Writes into a run's folder which images it is trained on, and its id, unless they are there."""
        copies = self.data.copies
        keys = {"train": copies.trained_on, "val": copies.validated_on, "digest": np.array(copies.digest)}
        runs.write_trained_on(folder, keys)

    def end(self, trainer: L.Trainer, model: LogisticRegression, saver: Saver, settings: dict[str, Any]) -> Run:
        """Tests a trained model, draws it, and writes its results into the saver's folder.

        Args:
            trainer: Its `loggers` are the run's, see `start_logging`.
            settings: The run's.
        """
        from logreg_lightning.use.advice import advice, rests_on_copies

        data, folder = self.data, saver.folder
        trainer.test(model, datamodule=data, verbose=False)
        logger: Any = trainer.loggers[0]
        if settings["pictures"] and processes.rank() == 0:
            from logreg_lightning.use import figures

            figures.draw(logger.experiment, model, data, trainer.global_step)
        logger.experiment.flush()
        labels, preds = predicted(model, data.test_images())
        if processes.rank() == 0:
            ByClass.of(labels, preds, len(data.data.classes)).write(folder, data.data.classes)
        num_test, in_training = data.data.num_test, torch.from_numpy(data.copies.in_test)
        without_copies = {}
        if 0 < in_training.sum() < num_test:
            is_right = (labels == preds)[~in_training]
            without_copies = {"test/accuracy_without_copies": is_right.double().mean().item()}
        results = {
            **self.what_was_trained(trainer.global_step),
            "checkpoint": "checkpoints/last.ckpt",
            "lr": model.lr,
            "weight_decay": model.weight_decay,
            "temperature": 1.0 if model.temperature is None else float(model.temperature),
            "fit_seconds": saver.fit_seconds,
            **saver.validated,
            **{name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")},
            **without_copies,
            "majority_class_accuracy": labels.bincount().max().item() / num_test,
            "seed": settings["seed"],
        }
        runs.write_results(folder, results)
        schedule = settings["model"]["schedule"]
        num_val = len(data.val_indices) or num_test
        guessing = self._loss_of_guessing() if model.class_weights is None else math.inf
        remark = advice(results, saver.earlier, schedule, num_val, num_test, guessing)
        remark = rests_on_copies(results, int(in_training.sum()), num_test) or remark
        return Run(folder, results, model.cpu().eval(), remark)

    def _loss_of_guessing(self) -> float:
        """Mean cross-entropy on the test set, in nats, of predicting each class as often as it is in training."""
        data = self.data
        counts = data.data.train.labels[data.train_indices].bincount(minlength=len(data.data.classes)) + 1  # never 0
        return float(-(counts / counts.sum()).log()[data.test_labels()].mean())

    def what_was_trained(self, steps: int) -> dict[str, Any]:
        """What `results.json` holds of any training: on what data, how long, and what made it."""
        data = self.data
        return {
            "command": processes.command_line(),
            "dataset": data.dataset,
            "features": data.source.what,
            "epochs": math.ceil(steps / data.steps_per_epoch),
            "steps": steps,
            "batch_size": data.batch_size,
            "accelerator": type(self.machine.accelerator).__name__.removesuffix("Accelerator").lower(),
            "devices": self.machine.num_devices,
            "versions": runs.versions(),
        }


class Agreement(L.Callback):
    """Where several processes train: all have the data of process 0, and save where it does.

    Raises:
        InputError: a process has other data.
    """

    def __init__(self, saver: Saver) -> None:
        self.saver = saver

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        fingerprint = cast(Any, trainer).datamodule.fingerprint()
        self.saver.folder, expected = trainer.strategy.broadcast((self.saver.folder, fingerprint))
        if fingerprint != expected:
            raise InputError(
                f"process {trainer.global_rank} has other data than process 0: {fingerprint}, not {expected}; set "
                "`dataset`, and put its files under `root` on every machine"
            )


def check_given(given: dict[str, Any]) -> None:
    """Makes sure that what a training was given is in its range.

    Raises:
        InputError: something is not.
    """
    for name, (least, most) in _RANGES.items():
        if (name, given[name]) != ("max_steps", -1):
            check_whole(name, given[name], least, most, ", or -1 for no limit" if name == "max_steps" else "")


_RANGES = {
    **dict.fromkeys(("max_epochs", "max_steps", "num_nodes", "val_check_interval"), (1, 10**15)),
    "threads": (1, 1024),
    "seed": (0, 2**32 - 1),
}


def settings_of(data: ImageDataModule, given: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """All settings of a training, as `config.yaml` holds them."""
    parameters = inspect.signature(LogisticRegression).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in FROM_THE_DATA}
    unknown = set(model) - set(defaults)
    if unknown:
        raise TypeError(f"fit() takes no {', '.join(sorted(unknown))}; a model has {', '.join(defaults)}")
    of_data = {**dict(data.hparams), "dataset": data.dataset, "root": str(data.root)}
    return {
        **given,
        "resume": None,
        "log_dir": str(given.get("log_dir", runs.LOGS)),
        "data": of_data,
        "model": {**defaults, **model},
    }


def _is_changed(name: str, value: Any) -> bool:
    """Whether a setting of a model, of the data or the seed is neither its default nor what auto became."""
    if name == "seed":
        return bool(value != 0)
    owner = LogisticRegression if name.startswith("model.") else ImageDataModule
    parameter = inspect.signature(owner).parameters.get(name.partition(".")[2])
    return parameter is not None and parameter.default not in ("auto", parameter.empty, value)


def as_started(settings: dict[str, Any], started: dict[str, Any]) -> dict[str, Any]:
    """The settings, those that are auto as they became when the training was started."""
    filled = {name: started.get(name, value) if value == "auto" else value for name, value in settings.items()}
    if "log_dir" in started:  # where the run is, however it was found
        filled["log_dir"] = started["log_dir"]
    return filled | {
        name: as_started(value, started.get(name, {})) for name, value in settings.items() if isinstance(value, dict)
    }


def merged(settings: Any, changes: Any) -> Any:
    """The settings, those in sections too, with these in place of those of the same names."""
    if not (isinstance(settings, dict) and isinstance(changes, dict)):
        return changes
    return {**settings, **{name: merged(settings.get(name), value) for name, value in changes.items()}}


def trainer_of(given: dict[str, Any], callbacks: Iterable[L.Callback]) -> L.Trainer:
    """Lightning's trainer of these settings, which saves, draws and prints nothing of its own.

    Raises:
        InputError: it cannot be had on this machine.
    """
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps")
    # Lightning's own requeueing on SLURM saves where nothing here looks for it.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    interval, callbacks = given["val_check_interval"], list(callbacks)
    settings = {name: given[name] for name in names if given[name] != "auto" or name != "max_epochs"}
    if MPSAccelerator.is_available() and settings["accelerator"] == "auto":
        # For so small a model an Apple GPU would mostly wait: each of a step's ten operators takes longer to start than
        # to compute. The CPU also has float64, and the same results on every machine.
        settings["accelerator"] = "cpu"
    try:
        trainer = L.Trainer(
            **settings,
            # An integer interval counts over epochs only if `check_val_every_n_epoch` is None.
            **({} if interval is None else {"val_check_interval": interval, "check_val_every_n_epoch": None}),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), *slurm],
            logger=False,
            # False contradicts a bar among the callbacks, and True without one adds Lightning's.
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            num_sanity_val_steps=0,  # a sanity check would validate, and save, before the first step
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
    except (MisconfigurationException, ImportError, TypeError, ValueError, RuntimeError) as error:
        accelerator = given["accelerator"]
        missing = "No supported gpu backend|can not run on|Requirement 'torch_xla"
        if accelerator in ("gpu", "cuda", "mps", "tpu") and re.search(missing, str(error)):
            raise InputError(
                f"no {'TPU' if accelerator == 'tpu' else 'GPU'} found for `accelerator={accelerator!r}`; use "
                "`accelerator='cpu'` or auto"
            ) from None
        wanted = ", ".join(f"`{name}={given[name]!r}`" for name in ("accelerator", "devices", "strategy", "precision"))
        raise InputError(
            f"{wanted} are not available together on this machine: {' '.join(str(error).split())} "
            "Use `accelerator='cpu'` or auto"
        ) from None
    if isinstance(trainer.accelerator, MPSAccelerator) and given["precision"] == "64-true":
        raise InputError("`precision='64-true'`: an Apple GPU has no float64; use `accelerator='cpu'`")
    launcher = trainer.strategy.launcher
    if launcher is not None and launcher.is_interactive_compatible:  # it forks, which Lightning does only in a notebook
        raise InputError(
            f"`devices={given['devices']!r}`: a notebook trains on one device; use `devices=1`, or a script"
        )
    return trainer


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
def report_expected_errors(folder: Path) -> Iterator[None]:
    """Says how to resume the run where something ends it that is no bug."""
    try:
        yield
    except Stopped as stop:
        print_once(f"\n{stop}. Resume with: {processes.resume_with(folder)}")
        if stop.signum == signal.SIGINT:
            raise KeyboardInterrupt(str(stop)) from None
        raise SystemExit(128 + stop.signum if processes.rank() == 0 else 0) from None
    except RunError as error:
        files = sorted((folder / "checkpoints").glob("*.ckpt"))  # best.ckpt comes before last.ckpt
        saved = f"{files[-1]} is complete" if files else f"{folder} was not saved yet"
        raise RunError(f"{error}; {saved}") from None
    except OSError as error:
        if error.errno not in DENIED | FULL | {errno.EPIPE}:
            raise
        remedy = "" if error.errno == errno.EPIPE else "make room or get write access, then "
        raise RunError(
            f"{error.filename or folder} cannot be written ({error.strerror}); what was saved before is complete: "
            f"{remedy}resume with: {processes.resume_with(folder)}"
        ) from None
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        raise RunError(peer_exited_message(folder)) from None


def peer_exited_message(folder: Path | None) -> str:
    """What a process says when another one of its run is gone."""
    resume = f"; resume with: {processes.resume_with(folder)}" if folder is not None else ""
    return f"another process of this run has ended{resume}"
