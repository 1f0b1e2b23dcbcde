"""The tutorial's exercise: many settings, trained at once. `sweep` from Python, `sweep.py` on the command line."""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import itertools
import math
import os
import random as random_numbers
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities.seed import isolate_rng

from logreg_lightning import cli
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime import checkpoints, curves, processes, runs
from logreg_lightning.runtime.curves import TrainingCurve
from logreg_lightning.runtime.files import atomic_write
from logreg_lightning.runtime.names import printable
from logreg_lightning.runtime.output import print_once
from logreg_lightning.runtime.plain import json_of, plain
from logreg_lightning.runtime.saver import Saver
from logreg_lightning.runtime.threads import alone
from logreg_lightning.training import hyperparameters as ranges
from logreg_lightning.training.experiment import FROM_THE_DATA, SHOWN_FIRST, Experiment, Run, check_given, seeded
from logreg_lightning.training.heads import Heads, ranking, winner
from logreg_lightning.training.initialize import Initializer, rounded, settle

SWEPT = ("lr", "momentum", "weight_decay", "schedule", "seed")
"""Settings that may have several values; `seed` is the training's, the others are the model's."""

GROUP = 2**30
"""Bytes of weights and momentum that are trained together at most: more settings are trained group after group."""

LARGE = 2**28
"""Bytes of them from which on it is said how much memory they take."""

SAVE_EVERY = 250
"""Optimiser steps between two saves: the state is that of all heads, and so takes longer to write than a model's."""

SHOWN = 10
"""Settings in the table at the end."""

IN_PYTHON_ONLY = {"data", "verbose"}
"""Parameters of `sweep` that are neither flags nor settings."""

NO_SETTINGS = IN_PYTHON_ONLY | {"hyperparameters"}


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        path: Its folder.
        results: What `results.json` holds.
        settings: Of each setting, by its index, what `results.csv` holds: what was swept, `val/loss`, `val/accuracy`.
        best: The winner, as a run of its own.
    """

    path: Path
    results: dict[str, Any]
    settings: list[dict[str, Any]]
    best: Run


@alone()
def sweep(
    data: ImageDataModule | str | Path = "auto",
    *,
    lr: Any = "auto",
    momentum: Any = 0.9,
    weight_decay: Any = "auto",
    schedule: Any = "cosine",
    seed: Any = 0,
    random: int | None = None,
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp"] = "auto",
    precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true"] = "32-true",
    threads: int | None = None,
    max_epochs: int | Literal["auto"] = "auto",
    max_steps: int = -1,
    val_check_interval: int | None = None,
    pictures: bool = True,
    log_dir: str | Path = "lightning_logs",
    resume: str | Path | None = None,
    verbose: bool = True,
    **hyperparameters: Any,
) -> Sweep:
    """Trains every combination of settings at once, on the same batches, and leaves the best one as a run of its own.

    The best has the highest val/accuracy; of several the lowest val/loss, then the lowest index. Only the
    winner is tested. Threads of a process that call this or `fit` take turns, as `fit` says.

    Args:
        data: The images: a data module, or what it takes as `dataset`, a name or a folder.
        lr: Learning rates: numbers, auto, or auto times a factor (0.3x,1x,3x); several as a list or with commas.
        momentum: Momenta.
        weight_decay: L2 penalties: numbers, auto, or auto times a factor.
        schedule: constant, cosine, or both.
        seed: Seeds. Each has an order of the images of its own, so those of each seed are trained together.
        random: Draw so many settings, in place of all combinations: a range a..b is drawn from evenly on a logarithmic
            scale, or a linear one if it begins at 0 or is of momentum; a list at random.
        accelerator: What to compute on; auto takes a CUDA GPU if there is one, else the CPU.
        devices: How many devices a node, or which ones ("0,1"), or auto for all there are (one process on a CPU).
        num_nodes: How many machines train together.
        strategy: How processes work together, by Lightning's names; auto is ddp where there are several.
        precision: Lightning's names for the numbers to compute with.
        threads: CPU threads to compute with. Chosen by the size of an optimiser step when not given, unless the
            environment sets OMP_NUM_THREADS.
        max_epochs: Passes over the training images; auto is 10, or as many as make 2,000 optimiser steps, or
            `max_steps`.
        max_steps: Optimiser steps after which to stop in any case; -1 for no such limit.
        val_check_interval: Optimiser steps between two validations; one at each epoch's end when not given.
        pictures: Draw figures for TensorBoard.
        log_dir: Folder that runs land in, each in a folder of its own; where `last` is looked for.
        resume: A sweep to resume in its own folder, with its own settings: last, FOLDER/last for the newest
            in another folder, or a sweep's folder.
        verbose: Whether to say anything.
        hyperparameters: Of `LogisticRegression`, the same for all: standardize, class_weight, calibrate.

    Returns:
        The sweep: its folder, its results, its settings, its best run.

    Raises:
        InputError: a parameter cannot be used; nothing was written.
        RunError: all settings diverged, a file could not be written, or another process of the sweep ended.
        KeyboardInterrupt: Ctrl-C ended it, after it was saved.
    """
    given, hyperparameters = plain(
        ({name: value for name, value in locals().items() if name not in NO_SETTINGS}, hyperparameters)
    )
    swept = {name: values_of(name, given.pop(name)) for name in SWEPT}
    settings = _drawn(swept, random) if random is not None else _combinations(swept)
    for setting in settings:
        ranges.check(**{name: 1.0 if str(value).endswith("x") else value for name, value in setting.items()})
        check_given({**given, "seed": setting["seed"]})
    ranges.check(**hyperparameters)
    written = {name: values if isinstance(values, str) else list(values) for name, values in swept.items()}
    given["seed"] = written.pop("seed")
    resumed = (find(str(resume), Path(log_dir)) if resume is not None else None, None)
    # Of groups of different lengths no winner could be chosen.
    may_change = runs.MAY_CHANGE - {"max_epochs", "max_steps"}
    with Experiment("sweep", data, given, {**hyperparameters, **written}, resumed, may_change, verbose) as experiment:
        images = experiment.prepare_data()
        if images.validates_on_test:
            raise InputError(
                f"`val_size={images.val_size}` leaves no validation images, by which a sweep chooses; use a larger one"
            )
        groups = _groups(settings, images.data.num_features * len(images.data.classes))
        if (finished := _finished(experiment.folder)) is not None:
            print_once(f"{printable(str(finished.path))} is finished: {len(settings)} settings")
            return finished
        experiment.describe(models=len(groups[0]))
        experiment.open_folder()
        trainings = _Trainings(experiment, settings, groups)
        rows = trainings.train_all()
        best = winner([row["val/accuracy"] for row in rows], [row["val/loss"] for row in rows])
        if best is None:
            raise RunError("all settings diverged: try smaller values of `lr`")
        run = trainings.promote(best)
        return _leave(experiment, trainings, swept, rows, best, run)


def find(sweep: str, logs: Path = runs.LOGS) -> Path:
    """A sweep's folder, or the newest one's for `last`, in `logs`, or `FOLDER/last`, in that folder.

    Raises:
        InputError: there is none; the sentence lists the sweeps here.
    """
    is_last, logs = runs.logs_of(sweep, logs)
    here = [folder for folder in runs.all_of("sweep", logs) if (folder / "config.yaml").is_file()]
    folder = here[-1] if is_last and here else Path(sweep)
    if folder not in here and not ((folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()):
        names = ", ".join(map(str, here)) or "none yet"
        raise InputError(f"no sweep found at {folder}; sweeps here: {names}")
    return folder


@alone()
def promote(sweep: str, index: int) -> Run:
    """Makes an ordinary run of a setting of a finished sweep, and tests it.

    Args:
        sweep: Its folder, or last.
        index: Of the setting, as `results.csv` has it.

    Raises:
        InputError: there is no such sweep or setting, or it diverged.
    """
    folder = find(sweep)
    if not runs.has_results(folder):
        raise InputError(f"{folder} is not finished; resume it first: {processes.resume_with(folder)}")
    config, rows = runs.read_config(folder), _rows(folder)
    if rows is None:
        raise InputError(
            f"{folder / 'results.csv'} is gone or damaged; it is written again by: {processes.resume_with(folder)}"
        )
    if not 0 <= index < len(rows):
        raise InputError(f"{folder} has the settings 0 to {len(rows) - 1}, not {index}")
    if math.isnan(rows[index]["val/loss"]):
        raise InputError(f"setting {index} of {folder} diverged; promote another")
    top = {name: value for name, value in config.items() if name not in ("data", "model", "random")}
    with Experiment("sweep", ImageDataModule(**config["data"]), top, config["model"], (folder, None)) as experiment:
        experiment.prepare_data()
        experiment.describe()
        experiment.open_folder()
        files = sorted((folder / "checkpoints").glob("group_*.ckpt"), key=lambda file: int(file.stem[6:]))
        groups = [checkpoints.read(file)["indices"] for file in files]
        run = _Trainings(experiment, [], groups).promote(index)
    print_once(f"{printable(str(run.path))}: test/accuracy {run.results['test/accuracy']:.4g}")
    return run


def _finished(folder: Path | None) -> Sweep | None:
    """A finished sweep; None where it is not, or where its winner's run is gone, which is then made again."""
    results, rows = (runs.read_results(folder), _rows(folder)) if folder is not None else (None, None)
    if folder is None or results is None or rows is None:
        return None
    best = results.get("best", {})
    run = _promoted(folder).get(str(best.get("index")))
    if run is None or (run_results := runs.read_results(run)) is None:
        return None
    best["run"] = str(run)  # which may have been moved, with its sweep
    return Sweep(folder, results, rows, Run(run, run_results, LogisticRegression.load(run)))


def _rows(folder: Path) -> list[dict[str, Any]] | None:
    """What `results.csv` holds, numbers as numbers, without the index; None where it is not there or is damaged."""
    results = runs.read_results(folder)
    try:
        with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
            table = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file, strict=True)]
        numbers = [row.pop("index") for row in table]
        whole = all(isinstance(row["val/loss"], float) and isinstance(row["val/accuracy"], float) for row in table)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return None
    is_right = whole and results is not None and numbers == list(range(results.get("settings", -1)))
    return table if is_right else None


def _promoted(folder: Path) -> dict[str, Path | None]:
    """The runs that settings of a sweep have become, by the settings' indices; None for one that is gone.

    Each is found by where it lies as seen from the sweep's folder, and known by its id: another run may have taken the
    number of one that was deleted.
    """
    noted = runs.read_json(folder / "promoted.json")
    promoted: dict[str, Path | None] = {}
    for index, note in noted.items() if isinstance(noted, dict) else ():
        path, its_id = note if isinstance(note, list) and len(note) == 2 else (".", None)
        run = Path(os.path.normpath(folder / str(path)))
        promoted[index] = run if its_id is not None and runs.id_of(run) == its_id else None
    return promoted


def _number(text: str) -> Any:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


# What is swept.


def values_of(name: str, given: Any) -> tuple[Any, ...] | str:
    """The values of a swept setting, of a number, a text with commas, or a list; or its range, a..b, as a text.

    Raises:
        InputError: they are no such values.
    """
    if isinstance(given, str) and ".." in given:
        if not re.fullmatch(r"[^,]+\.\.[^,]+", given):
            raise InputError(f"`{name}={given!r}` mixes a range with values; use one or the other")
        return given.replace(" ", "")
    values = given.split(",") if isinstance(given, str) else given if isinstance(given, list | tuple) else [given]
    distinct = tuple(dict.fromkeys(_value(name, value) for value in values))
    if not distinct:
        raise InputError(f"`{name}` has no values")
    return distinct


def _value(name: str, given: Any) -> Any:
    text = str(given).strip()
    if name == "schedule":
        return text
    if name in ("lr", "weight_decay") and (text == "auto" or text == "1x"):
        return "auto"
    try:
        if name in ("lr", "weight_decay") and text.endswith("x") and 0 < float(text[:-1]) < math.inf:
            return text
        return int(text) if name == "seed" else float(text)
    except ValueError:
        allowed = ", auto or a factor of it as in 3x" if name in ("lr", "weight_decay") else ""
        kind = "whole numbers" if name == "seed" else "numbers"
        raise InputError(f"`{name}={given!r}` must be {kind}{allowed}, several with commas between them") from None


def _combinations(swept: dict[str, tuple[Any, ...] | str]) -> list[dict[str, Any]]:
    for name, values in swept.items():
        if isinstance(values, str):
            raise InputError(
                f"`{name}={values!r}` is a range; say with `random` how many settings to draw, or use values"
            )
    return [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]


def _drawn(swept: dict[str, tuple[Any, ...] | str], count: int) -> list[dict[str, Any]]:
    if count < 1:
        raise InputError(f"`random` must be at least 1, not {count}")
    chance = random_numbers.Random(0)
    ranges = {name: _range(name, values) for name, values in swept.items() if isinstance(values, str)}

    def draw(name: str, values: tuple[Any, ...] | str) -> Any:
        if not isinstance(values, str):
            return chance.choice(values)
        low, high = ranges[name]
        if name == "seed":
            return chance.randint(int(low), int(high))
        if name == "momentum" or low == 0:
            return rounded(chance.uniform(low, high))
        return rounded(math.exp(chance.uniform(math.log(low), math.log(high))))

    return [{name: draw(name, values) for name, values in swept.items()} for _ in range(count)]


def _range(name: str, given: str) -> tuple[float, float]:
    low, high = (_value(name, end) for end in given.split("..", 1))
    if isinstance(low, str) or isinstance(high, str) or not 0 <= low < high:
        raise InputError(f"`{name}={given!r}` must be a range of two numbers from 0 on, the smaller one first")
    return low, high


def _groups(settings: list[dict[str, Any]], weights: int) -> list[list[int]]:
    """Indices of the settings that are trained together: of one seed, and no more than memory is meant for."""
    most = max(1, GROUP // (8 * weights))  # weights and momentum, float32
    by_seed: dict[int, list[int]] = {}
    for index, setting in enumerate(settings):
        by_seed.setdefault(setting["seed"], []).append(index)
    groups = [same[begin : begin + most] for same in by_seed.values() for begin in range(0, len(same), most)]
    size = 8 * weights * max(map(len, groups))
    if size > LARGE:
        together = "" if len(groups) == 1 else f", in {len(groups)} groups, one after the other"
        print_once(f"The weights and momentum of {max(map(len, groups))} settings take {size / 1e9:.1f} GB{together}")
    return groups


# Training.


@dataclass
class _Group:
    """Settings that are trained together.

    Attributes:
        seed: Of all of them.
        heads: A head for each, trained and validated.
    """

    seed: int
    heads: Heads
    trainer: L.Trainer
    curve: TrainingCurve
    saver: Saver

    def rows(self) -> dict[int, dict[str, Any]]:
        """Of each setting what it was trained with, and its validation metrics, by its index."""
        losses, accuracies = self.heads.val_loss.tolist(), self.heads.val_accuracy.tolist()
        rows = {}
        for head, (index, setting) in enumerate(zip(self.heads.indices, self.heads.settings, strict=True)):
            own = {f"model.{name}": setting[name] for name in SWEPT if name != "seed"}
            diverged = bool(self.curve.diverged) and self.curve.diverged[head]
            loss, accuracy = (math.nan, math.nan) if diverged else (losses[head], accuracies[head])
            rows[index] = {**own, "seed": self.seed, "val/loss": loss, "val/accuracy": accuracy}
        return rows


class _Trainings:
    """The trainings of a sweep, group after group.

    Args:
        settings: All of them; none are needed of groups that were saved.
        groups: Indices of the settings that are trained together.

    Attributes:
        seconds: What the trainings took.
    """

    def __init__(self, experiment: Experiment, settings: list[dict[str, Any]], groups: list[list[int]]) -> None:
        self.experiment, self.settings, self.groups = experiment, settings, groups
        self.initializer: Initializer | None = None
        self.seconds = 0.0
        self.last: _Group | None = None

    def train_all(self) -> list[dict[str, Any]]:
        """Trains what is left of each group; returns the settings' rows."""
        rows: dict[int, dict[str, Any]] = {}
        for group in range(len(self.groups)):
            self.last = None  # its weights may be large
            self.last = self.train(group)
            self.seconds += self.last.saver.fit_seconds
            rows |= self.last.rows()
        return [rows[index] for index in sorted(rows)]

    def train(self, group: int) -> _Group:
        """Trains the group of that index, or what is left of it, and validates it."""
        experiment, indices = self.experiment, self.groups[group]
        assert experiment.folder is not None
        file = experiment.folder / "checkpoints" / f"group_{group}.ckpt"
        state = checkpoints.read(file) if file.is_file() else None
        curve = TrainingCurve()
        saver = Saver(curve, experiment.settings, file.name, best=None, every=SAVE_EVERY)
        saver.folder = experiment.folder
        seed = state["ImageDataModule"]["seed"] if state is not None else self.settings[indices[0]]["seed"]
        with seeded(seed):
            trainer = experiment.make_trainer([curve], saver)
            if state is None:
                heads = Heads(self._models([self.settings[index] for index in indices]), indices)
            else:
                with checkpoints.content_of(file):
                    experiment.data.check_resumable(file, state)
                    if state["validated"] is None:  # else its loops may be where they were at the save before the last
                        fresh = trainer.fit_loop.state_dict()
                        checkpoints.check_progress(state, experiment.data.steps_per_epoch, fresh)
                    heads = Heads((LogisticRegression(**parameters) for parameters in state["heads"]), indices)
                    heads.load_state_dict(state["state_dict"])
                    heads.on_load_checkpoint(state)
                    for callback in (curve, saver):
                        callback.load_state_dict(state["callbacks"][type(callback).__name__])
            if state is None or state["global_step"] < (experiment.run_steps or 0):
                together = f"{len(indices)} setting{'' if len(indices) == 1 else 's'} at once"
                which = f", group {group + 1} of {len(self.groups)}," if len(self.groups) > 1 else ""
                steps = f"{experiment.run_steps or 0:,} steps of {experiment.data.batch_size} images"
                print_once(f"Training {together}{which} for {steps}")
            experiment.train(trainer, heads, file if state is not None else None)
            if not heads.is_validated:
                # Once more, now that the temperatures matter, and where max_steps cut the last epoch short.
                trainer.validate(heads, datamodule=experiment.data, verbose=False)
                heads.is_validated = True
                saver.save(trainer, file.name)
        experiment.folder = saver.folder  # process 0 told it to the others
        return _Group(seed, heads, trainer, curve, saver)

    def _models(self, settings: list[dict[str, Any]]) -> list[LogisticRegression]:
        """A model for each setting, with numbers for what was auto; the images are looked at once for all of them."""
        data, models = self.experiment.data, []
        for setting in settings:
            own = {name: value for name, value in setting.items() if name != "seed"}
            factors = {name: float(value[:-1]) for name, value in own.items() if str(value).endswith("x")}
            with seeded(setting["seed"]):  # each has the first weights that it would have alone
                model = self.experiment.new_model(**{**own, **dict.fromkeys(factors, "auto")})
            if model.needs_data:
                self.initializer = self.initializer or Initializer(model, data.training_images(), data.batch_size)
                self.initializer.initialize(model)
            settle(model, **{name: rounded(factor * getattr(model, name)) for name, factor in factors.items()})
            models.append(model)
        return models

    def promote(self, index: int) -> Run:
        """Makes an ordinary run of a setting, once, and tests it."""
        experiment = self.experiment
        assert experiment.folder is not None
        runs_so_far, noted_in = _promoted(experiment.folder), experiment.folder / "promoted.json"
        path = runs_so_far.get(str(index))
        if noted_in.is_file() and not isinstance(runs.read_json(noted_in), dict):
            print_once(
                f"{printable(str(noted_in))} is damaged: which run setting {index} had become is not known, so it "
                "becomes another one"
            )
        if path is None and str(index) in runs_so_far:
            print_once(f"The run that setting {index} had become is gone: it is made again")
        if path is not None and (results := runs.read_results(path)) is not None:
            return Run(path, results, LogisticRegression.load(path))
        [its_group] = [group for group, indices in enumerate(self.groups) if index in indices]
        group = self.last if self.last is not None and index in self.last.heads.indices else self.train(its_group)
        row, head = group.rows()[index], group.heads.indices.index(index)
        with isolate_rng():  # of the first weights that a model draws nothing is used
            model, optimizer = group.heads.model(head)
        model_settings = {name: value for name, value in model.hparams.items() if name not in FROM_THE_DATA}
        settings = {**experiment.settings, "seed": row["seed"], "model": model_settings}
        settings.pop("random", None)
        if processes.rank() == 0 and path is None:
            path = runs.create(logs=experiment.folder.parent)  # beside its sweep
            experiment.write_trained_on(path)
            runs_so_far[str(index)] = path
            noted = {
                number: [Path(os.path.relpath(run, experiment.folder)).as_posix(), runs.id_of(run)]
                for number, run in runs_so_far.items()
                if run is not None
            }
            atomic_write(noted_in, (json_of(noted) + "\n").encode())
        folder = Path(group.trainer.strategy.broadcast(str(path)))
        trainer, saver = group.trainer, Saver(group.curve, settings)
        saver.progress = group.saver.progress
        if processes.rank() == 0:
            runs.write_config(folder, settings)
        experiment.start_logging(trainer, folder, settings)

        # What the trainer has trained is this one head from here on.
        saver.folder, saver.best = folder, row["val/accuracy"]
        saver.seconds = group.saver.fit_seconds / len(group.heads.indices)
        trained = {name: values[head] for name, values in group.curve.point.items()}
        saver.validated = {**trained, "val/loss": row["val/loss"], "val/accuracy": row["val/accuracy"]}
        group.curve.point, group.curve.diverged = {}, []
        trainer.callbacks = [group.curve, saver]  # type: ignore[attr-defined]
        trainer.strategy.connect(model)
        trainer.strategy.optimizers = [optimizer]
        optimizer.param_groups[0]["lr"] = model.lr_at(trainer.global_step - 1, trainer.global_step)
        for name in ("best.ckpt", "last.ckpt"):
            saver.save(trainer, name)
        return experiment.end(trainer, model, saver, settings)


# Results.


def _named(swept: dict[str, tuple[Any, ...] | str], trained: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `results.csv`: what was swept, by its flag's name, and the metrics."""
    names = [name if name == "seed" else f"model.{name}" for name in SWEPT if len(swept[name]) > 1]
    return [{name: row[name] for name in (*names, "val/loss", "val/accuracy")} for row in trained]


def _given(row: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """What was swept, as it was given: a factor of auto, which may be another number for another momentum."""
    return {name: setting[name.removeprefix("model.")] for name in row if not name.startswith("val/")}


def _leave(
    experiment: Experiment,
    trainings: _Trainings,
    swept: dict[str, tuple[Any, ...] | str],
    rows: list[dict[str, Any]],
    best: int,
    run: Run,
) -> Sweep:
    """Draws, writes and says the results."""
    folder, steps, named = experiment.folder or run.path, run.results["steps"], _named(swept, rows)
    results = {
        **experiment.what_was_trained(steps),
        "settings": len(rows),
        "diverged": [index for index, row in enumerate(rows) if math.isnan(row["val/loss"])],
        "fit_seconds": trainings.seconds,
        "best": {"index": best, "run": str(run.path), **named[best]},
    }
    if processes.rank() == 0:
        if experiment.settings["pictures"]:
            given = [row | _given(row, setting) for row, setting in zip(named, trainings.settings, strict=True)]
            _draw(folder, experiment.data, rows, given, steps)
        _write(folder, results, named)
    _say(folder, results, named, run)
    return Sweep(folder, results, named, run)


def _draw(
    folder: Path, data: ImageDataModule, trained: list[dict[str, Any]], named: list[dict[str, Any]], steps: int
) -> None:
    """TensorBoard's HParams tab, a row a setting, and a picture of the accuracy."""
    from torch.utils.tensorboard import SummaryWriter

    from logreg_lightning.use import figures

    for index, row in enumerate(trained):
        settings = {name: value for name, value in row.items() if not name.startswith("val/")}
        metrics = {name: value for name, value in row.items() if name.startswith("val/")}
        first = {*SHOWN_FIRST, *(name for name in named[index] if not name.startswith("val/"))}
        shown = {**settings, "data.dataset": data.dataset, "data.features": data.source.what}
        curves.write_setting(folder / str(index), shown, first, metrics, steps)
    for old in curves.event_files(folder):
        old.unlink()
    figure = figures.swept(named)
    if figure is not None:
        with contextlib.closing(SummaryWriter(str(folder))) as writer:
            writer.add_figure("sweep/accuracy", figure, steps)


def _write(folder: Path, results: dict[str, Any], named: list[dict[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, ["index", *named[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"index": index, **row} for index, row in enumerate(named))
    atomic_write(folder / "results.csv", table.getvalue().encode())
    runs.write_results(folder, results)


def _say(folder: Path, results: dict[str, Any], named: list[dict[str, Any]], run: Run) -> None:
    order = ranking(*([row[name] for row in named] for name in ("val/accuracy", "val/loss")))
    columns = list(named[0])
    rows = [["index", *columns]]
    for index in order[:SHOWN]:
        values = [named[index][column] for column in columns]
        rows.append([str(index), *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    print_once(
        "\n" + "\n".join("  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    )
    if results["diverged"]:
        print_once(f"\nDiverged: {', '.join(map(str, results['diverged']))}")
    best = results["best"]["index"]
    print_once(
        f"\nSweep:              {printable(str(folder))}, "
        f"{len(named)} settings in {results['fit_seconds']:.2f} seconds\n"
        f"Best:               {best}, a run of its own in {printable(str(run.path))}: "
        f"test/accuracy {run.results['test/accuracy']:.4g}"
    )
    if processes.command_line() is not None:
        print_once(f"Promote another:    {processes.command_with('--promote', 'INDEX', str(folder), name='sweep')}")
    edge = _edge(named, best)
    if edge:
        print_once(f"\nNote: {edge}")


def _edge(named: list[dict[str, Any]], best: int) -> str | None:
    """A sentence where the best value is the largest or the smallest of those tried."""
    sentences = []
    for name, value in named[best].items():
        tried = {row[name] for row in named}
        if name.startswith("val/") or name == "seed" or isinstance(value, str) or len(tried) < 2:
            continue
        if value == max(tried):
            sentences.append(f"{name} {value:g} is the largest that was tried: try larger ones")
        elif value == min(tried) and value > 0:
            sentences.append(f"{name} {value:g} is the smallest that was tried: try smaller ones")
    return "; ".join(sentences) or None


# The command line.


def build_parser() -> ArgumentParser:
    """The flags of `sweep.py`."""
    parser = cli.new_parser(
        "sweep", "--model.lr 0.01,0.03,0.1 --model.weight_decay 0,1e-3", "Trains many settings at once."
    )
    parser.add_argument("--config", action="config", help="A YAML file of settings, as --print_config writes it.")
    promote_help = "Make a run of that setting of a finished sweep, and end."
    # --take is its name so far.
    parser.add_argument("--promote", "--take", nargs=2, metavar=("INDEX", "SWEEP"), help=promote_help)
    parameters = inspect.signature(sweep).parameters
    models = {name: parameters[name].default for name in SWEPT if name != "seed"}
    parser.add_argument("--seed", type=Any, default=0, help="Seeds; those of each seed are trained together.")
    parser.add_function_arguments(
        sweep, skip={*IN_PYTHON_ONLY, *SWEPT, *inspect.signature(LogisticRegression).parameters}
    )
    parser.add_class_arguments(ImageDataModule, "data", skip={"transform"})
    parser.add_class_arguments(LogisticRegression, "model", skip={*FROM_THE_DATA, *models})
    for name, default in models.items():
        parser.add_argument(f"--model.{name}", type=Any, default=default, help=_HELP[name])
    return parser


_HELP = {
    "lr": "Learning rates, with commas between them: numbers, auto, or auto times a factor (0.3x,1x,3x); or a..b.",
    "momentum": "Momenta, with commas between them; or a..b.",
    "weight_decay": "L2 penalties of the weights: numbers, auto, or auto times a factor; or a..b.",
    "schedule": "constant, cosine, or both with a comma.",
}


def main(argv: list[str] | None = None) -> None:
    """The command `sweep.py`."""
    parser = build_parser()

    def run(settings: Namespace) -> None:
        if settings.promote is not None:
            index, folder = settings.promote
            if not str(index).isdecimal():
                raise InputError(f"--promote {index} {folder}: the first word is the setting's index, a number")
            promote(folder, int(index))
            return
        if settings.resume is not None:
            settings = cli.settings_of_run(parser, argv, find(settings.resume, Path(settings.log_dir)))
        top = settings.as_dict()
        for name in ("config", "promote"):
            top.pop(name, None)
        data, hyperparameters = top.pop("data"), top.pop("model")
        sweep(ImageDataModule(**data), **top, **hyperparameters)

    cli.command("sweep", parser, run, argv)
