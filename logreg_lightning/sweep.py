"""The tutorial's exercise: many settings, trained at once. `sweep` from Python, `sweep.py` on the command line."""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import itertools
import json
import math
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
from logreg_lightning.fit import Run, fit
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime import checkpoints, curves, processes, runs
from logreg_lightning.runtime.files import atomic_write
from logreg_lightning.runtime.output import quiet, say
from logreg_lightning.runtime.progress import progress
from logreg_lightning.runtime.saver import AtomicCheckpointIO
from logreg_lightning.runtime.signals import StopOnSignal
from logreg_lightning.runtime.threads import use_threads
from logreg_lightning.training import initialize
from logreg_lightning.training.experiment import (
    FROM_THE_DATA,
    as_started,
    check_given,
    computes_on,
    config_of,
    lost,
    model_for,
    one_sentence,
    run_threads,
    seeded,
    trainer_of,
    what_was_trained,
)
from logreg_lightning.training.heads import Heads, HeadsCurve, HeadsSaver, ranking, run_checkpoint, winner
from logreg_lightning.training.hyperparameters import check

SWEPT = ("lr", "momentum", "weight_decay", "schedule", "seed")
"""Settings that may have several values; `seed` is the training's, the others are the model's."""

GROUP = 2**30
"""Bytes of weights and momentum that are trained together at most: more settings are trained group after group."""

LARGE = 2**28
"""Bytes of them from which on it is said how much memory they take."""

SHOWN = 10
"""Settings in the table at the end."""


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


def sweep(
    data: ImageDataModule,
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
    resume: str | None = None,
    **hyperparameters: Any,
) -> Sweep:
    """Trains every combination of settings at once, on the same batches, and leaves the best one as a run of its own.

    The best has the highest val/accuracy; of several the lowest val/loss, then the lowest index. It alone is tested.

    Args:
        data: The images.
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
        resume: A sweep to resume in its own folder, with its own settings: last, or a sweep's folder.
        hyperparameters: Of `LogisticRegression`, the same for all: standardize, class_weight, calibrate.

    Returns:
        The sweep: its folder, its results, its settings, its best run.

    Raises:
        InputError: a parameter cannot be used; nothing was written.
        RunError: all settings diverged, a file could not be written, or another process of the sweep ended.
        KeyboardInterrupt: Ctrl-C ended it, after it was saved.
    """
    given = {name: value for name, value in locals().items() if name not in ("data", "hyperparameters")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())

        # 1. Refuse what can be refused before anything is written.
        swept = {name: values_of(name, given.pop(name)) for name in SWEPT}
        settings = _drawn(swept, random) if random is not None else _combinations(swept)
        for setting in settings:
            check(**{name: 1.0 if str(value).endswith("x") else value for name, value in setting.items()})
            check_given({**given, "seed": setting["seed"]})
        check(**hyperparameters)
        folder = find(resume) if resume is not None else None
        processes.end_with_parent(lost(folder))
        started: dict[str, Any] = {}
        if folder is not None:
            stack.enter_context(runs.used_by_one(folder))
            started = runs.read_config(folder)
        written = {name: values if isinstance(values, str) else list(values) for name, values in swept.items()}
        config = config_of(data, {**given, "seed": written.pop("seed")}, {**hyperparameters, **written})
        config = as_started(config, started)
        data.dataset, data.batch_size = config["data"]["dataset"], config["data"]["batch_size"]
        if folder is not None:
            # Of groups of different lengths no winner could be chosen.
            runs.check_config(folder, started, config, runs.MAY_CHANGE - {"max_epochs", "max_steps"})

        # 2. The data.
        stack.enter_context(use_threads(threads))
        data.trainer = trainer_of(config, [])
        data.prepare_data()
        data.setup()
        if data.watches_test:
            raise InputError(
                f"`val_size={data.val_size}` leaves no validation images, by which a sweep chooses; use a larger one"
            )
        config["data"] |= {"dataset": data.dataset, "batch_size": data.batch_size}
        if config["max_epochs"] == "auto":
            config["max_epochs"] = initialize.epochs(data.steps_per_epoch, max_steps)
        groups = _groups(settings, data.data.num_features * len(data.data.classes))
        if folder is not None and runs.has_results(folder) and (finished := _finished(folder)):
            say(f"{folder} is finished: {len(settings)} settings")
            return finished
        say(data.describe())
        config["threads"] = threads or run_threads(started, data, data.trainer, len(groups[0]))
        stack.enter_context(use_threads(config["threads"]))
        say(computes_on(data.trainer, config["threads"]))

        # 3. The sweep's folder.
        if folder is None and processes.rank() == 0:
            folder = runs.create("sweep")
            stack.enter_context(runs.used_by_one(folder))
        folder = folder or runs.LOGS  # process 0 tells it to those that torchrun or SLURM started
        stack.enter_context(one_sentence(folder))
        if processes.rank() == 0:
            runs.write_config(folder, config)

        # 4. Training, group after group.
        adapter: list[initialize.Adapter] = []
        states = []
        for number, group in enumerate(groups):
            with seeded(settings[group[0]]["seed"]):
                folder, state = _train(folder, number, groups, data, config, settings, adapter)
                states.append(state)

        # 5. The results, and the winner as a run of its own.
        trained = _trained(states)
        results = _results(data, trained, states)
        best = winner([row["val/accuracy"] for row in trained], [row["val/loss"] for row in trained])
        if best is None:
            raise RunError("all settings diverged: try smaller values of `lr`")
        named = _named(swept, trained)
        with contextlib.redirect_stdout(io.StringIO()):  # what it says of a run would be taken for the sweep's
            run = _take(folder, data, config, best, states)
        results["best"] = {"index": best, "run": str(run.path), **named[best]}
        if processes.rank() == 0:
            if pictures:
                given_rows = [row | _given(row, setting) for row, setting in zip(named, settings, strict=True)]
                _draw(folder, data, trained, given_rows, steps=states[0]["global_step"])
            _write(folder, results, named)
        _say(folder, results, named, run)
        return Sweep(folder, results, named, run)


def find(sweep: str) -> Path:
    """A sweep's folder, or the newest one's for `last`.

    Raises:
        InputError: there is none; the sentence lists the sweeps here.
    """
    here = [folder for folder in runs.all_of("sweep") if (folder / "config.yaml").is_file()]
    folder = here[-1] if sweep == "last" and here else Path(sweep)
    if folder not in here and not ((folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir()):
        names = ", ".join(map(str, here)) or "none yet"
        raise InputError(f"no sweep found at {folder}; sweeps here: {names}")
    return folder


def take(sweep: str, index: int) -> Run:
    """Makes an ordinary run of a setting of a finished sweep, and tests it.

    Args:
        sweep: Its folder, or last.
        index: Of the setting, as `results.csv` has it.

    Raises:
        InputError: there is no such sweep or setting, or it diverged.
    """
    folder = find(sweep)
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(runs.used_by_one(folder))
        if not runs.has_results(folder):
            raise InputError(f"{folder} is not finished; resume it first: {processes.resume_with(folder)}")
        config, rows = runs.read_config(folder), _rows(folder)
        if not 0 <= index < len(rows):
            raise InputError(f"{folder} has the settings 0 to {len(rows) - 1}, not {index}")
        if math.isnan(rows[index]["val/loss"]):
            raise InputError(f"setting {index} of {folder} diverged; take another")
        data = ImageDataModule(**config["data"])
        data.trainer = trainer_of(config, [])
        files = sorted((folder / "checkpoints").glob("group_*.ckpt"), key=lambda file: int(file.stem[6:]))
        states = [checkpoints.read(file) for file in files]
        return _take(folder, data, config, index, states)


def _finished(folder: Path) -> Sweep | None:
    """A finished sweep; None where its winner's run is gone, which is then made again."""
    results = runs.read_results(folder)
    run = Path(results["best"]["run"])
    if not runs.has_results(run):
        return None
    return Sweep(folder, results, _rows(folder), Run(run, runs.read_results(run), LogisticRegression.load(run)))


def _rows(folder: Path) -> list[dict[str, Any]]:
    """What `results.csv` holds, numbers as numbers, without the index."""
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return [{name: _number(text) for name, text in row.items() if name != "index"} for row in csv.DictReader(file)]


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
    found = tuple(dict.fromkeys(_value(name, value) for value in values))
    if not found:
        raise InputError(f"`{name}` has no values")
    return found


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
            return initialize.rounded(chance.uniform(low, high))
        return initialize.rounded(math.exp(chance.uniform(math.log(low), math.log(high))))

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
        say(f"The weights and momentum of {max(map(len, groups))} settings take {size / 1e9:.1f} GB{together}")
    return groups


# Training.


def _train(
    folder: Path,
    number: int,
    groups: list[list[int]],
    data: ImageDataModule,
    config: dict[str, Any],
    settings: list[dict[str, Any]],
    adapter: list[initialize.Adapter],
) -> tuple[Path, dict[str, Any]]:
    """Trains the group of that number, or what is left of it; returns the sweep's folder and the group's last
    checkpoint."""
    group = groups[number]
    name = f"group_{number}.ckpt"
    file = folder / "checkpoints" / name
    state = checkpoints.read(file) if file.is_file() else None
    curve = HeadsCurve()
    saver = HeadsSaver(curve, name)
    saver.folder = folder
    callbacks: list[L.Callback] = [curve, progress(config["val_check_interval"]), saver, StopOnSignal(saver)]
    data.trainer = trainer = trainer_of(config, callbacks)
    if state is not None:
        checkpoints.check_data(file, state, data.fingerprint())
        if "validated" in state:
            return folder, state
    if state is None:
        heads = Heads(_models(data, config, [settings[index] for index in group], adapter))
    else:
        heads = Heads(LogisticRegression(**hyperparameters) for hyperparameters in state["heads"])
    say(
        f"Training {len(group)} setting{'' if len(group) == 1 else 's'} at once"
        + (f", group {number + 1} of {len(groups)}," if len(groups) > 1 else "")
        + f" for {data.plan.run_steps or 0:,} steps of {data.batch_size} images"
    )
    with processes.starting_others(trainer.strategy.launcher, folder, lost(folder)):
        trainer.fit(heads, datamodule=data, ckpt_path=file if state is not None else None, weights_only=True)
        # Once more, now that the temperatures matter, and where max_steps cut the last epoch short.
        trainer.validate(heads, datamodule=data, verbose=False)
    file = saver.folder / "checkpoints" / name
    state = checkpoints.read(file)
    state["state_dict"] |= {k: v.cpu() for k, v in heads.state_dict().items() if k in ("temperature", "diverged")}
    state["validated"] = [heads.val_loss.tolist(), heads.val_accuracy.tolist()]
    state["indices"] = group
    if processes.rank() == 0:
        AtomicCheckpointIO().save_checkpoint(state, file)
    return saver.folder, state


def _models(
    data: ImageDataModule, config: dict[str, Any], settings: list[dict[str, Any]], adapter: list[initialize.Adapter]
) -> list[LogisticRegression]:
    """A model for each setting, with numbers for what was auto; the images are looked at once for all of them."""
    models = []
    for setting in settings:
        own = {name: value for name, value in setting.items() if name != "seed"}
        factors = {name: float(value[:-1]) for name, value in own.items() if str(value).endswith("x")}
        with seeded(setting["seed"]):  # each has the first weights that it would have alone
            model = model_for(data, {**config["model"], **own, **dict.fromkeys(factors, "auto")})
        if model.needs_data:
            adapter[:] = adapter or [initialize.Adapter(model, data.training_images(), data.batch_size)]
            adapter[0].adapt(model)
        for name, factor in factors.items():
            value = initialize.rounded(factor * getattr(model, name))
            setattr(model, name, value)
            initialize.settle(model, **{name: value})
        models.append(model)
    return models


# Results.


def _trained(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each setting, by its index, what it was trained with, and its validation metrics."""
    rows: dict[int, dict[str, Any]] = {}
    for state in states:
        for index, setting, loss, accuracy in zip(state["indices"], state["heads"], *state["validated"], strict=True):
            own = {f"model.{name}": setting[name] for name in SWEPT if name != "seed"}
            seed = state["ImageDataModule"]["seed"]
            rows[index] = {**own, "seed": seed, "val/loss": loss, "val/accuracy": accuracy}
    return [rows[index] for index in sorted(rows)]


def _named(swept: dict[str, tuple[Any, ...] | str], trained: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `results.csv`: what was swept, by its flag's name, and the metrics."""
    names = [name if name == "seed" else f"model.{name}" for name in SWEPT if len(swept[name]) > 1]
    return [{name: row[name] for name in (*names, "val/loss", "val/accuracy")} for row in trained]


def _given(row: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """What was swept, as it was given: a factor of auto, which may be another number for another momentum."""
    return {name: setting[name.removeprefix("model.")] for name in row if not name.startswith("val/")}


def _results(data: ImageDataModule, trained: list[dict[str, Any]], states: list[dict[str, Any]]) -> dict[str, Any]:
    assert data.trainer is not None
    return {
        **what_was_trained(data, data.trainer, states[0]["global_step"]),
        "settings": len(trained),
        "diverged": [index for index, row in enumerate(trained) if math.isnan(row["val/loss"])],
        "fit_seconds": sum(state["callbacks"]["HeadsSaver"]["seconds"] for state in states),
    }


def _draw(
    folder: Path, data: ImageDataModule, trained: list[dict[str, Any]], named: list[dict[str, Any]], steps: int
) -> None:
    """TensorBoard's HParams tab, a row a setting, and a picture of the accuracy."""
    from torch.utils.tensorboard import SummaryWriter

    from logreg_lightning.use import figures

    for index, row in enumerate(trained):
        settings = {name: value for name, value in row.items() if not name.startswith("val/")}
        metrics = {name: value for name, value in row.items() if name.startswith("val/")}
        shown = {"data.dataset": data.dataset, "data.features": data.source.what, **settings}
        curves.write_setting(folder / str(index), shown, metrics, steps)
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
    rows += [[str(n), *(_text(named[n][column]) for column in columns)] for n in order[:SHOWN]]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    say("\n" + "\n".join("  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows))
    if results["diverged"]:
        say(f"\nDiverged: {', '.join(map(str, results['diverged']))}")
    best = results["best"]["index"]
    say(
        f"\nSweep:              {folder}, {len(named)} settings in {results['fit_seconds']:.2f} seconds\n"
        f"Best:               {best}, a run of its own in {run.path}: test/accuracy {run.results['test/accuracy']:.4g}"
    )
    if processes.command_line() is not None:
        say(f"Take another one:   {processes.command_with('--take', 'INDEX', str(folder), name='sweep')}")
    edge = _edge(named, best)
    if edge:
        say(f"\nNote: {edge}")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _edge(named: list[dict[str, Any]], best: int) -> str | None:
    """A sentence where the best value is the largest or the smallest of those tried."""
    found = []
    for name, value in named[best].items():
        tried = {row[name] for row in named}
        if name.startswith("val/") or name == "seed" or isinstance(value, str) or len(tried) < 2:
            continue
        if value == max(tried):
            found.append(f"{name} {value:g} is the largest that was tried: try larger ones")
        elif value == min(tried) and value > 0:
            found.append(f"{name} {value:g} is the smallest that was tried: try smaller ones")
    return "; ".join(found) or None


# A setting as a run of its own.


def _take(
    folder: Path,
    data: ImageDataModule,
    config: dict[str, Any],
    index: int,
    states: list[dict[str, Any]],
) -> Run:
    """Makes an ordinary run of a setting, once, and tests it."""
    group = next(state for state in states if index in state["indices"])
    with isolate_rng():  # of the first weights that a model draws nothing is used
        state = run_checkpoint(group, group["indices"].index(index))
    model = {name: value for name, value in state["hyper_parameters"].items() if name not in FROM_THE_DATA}
    seed = state["ImageDataModule"]["seed"]
    taken = folder / "taken.json"
    noted: dict[str, str] = json.loads(taken.read_text(encoding="utf-8")) if taken.is_file() else {}
    run = noted.get(str(index), "")
    if processes.rank() == 0 and not (run and (Path(run) / "checkpoints" / "last.ckpt").is_file()):
        path = Path(run) if run and Path(run).is_dir() else runs.create()
        run = str(path)
        atomic_write(taken, json.dumps({**noted, str(index): run}).encode())
        settings = {name: value for name, value in config.items() if name != "random"}
        runs.write_config(path, {**settings, "seed": seed, "model": model})
        for name in ("best.ckpt", "last.ckpt"):
            AtomicCheckpointIO().save_checkpoint(state, path / "checkpoints" / name)
    trainer = data.trainer
    assert trainer is not None
    run = trainer.strategy.broadcast(run)
    top = {name: config[name] for name in inspect.signature(fit).parameters if name in config and name != "data"}
    return fit(data, **{**top, "seed": seed, "resume": run}, **model)


# The command line.


def build_parser() -> ArgumentParser:
    """The flags of `sweep.py`."""
    parser = cli.new_parser(
        "sweep", "--model.lr 0.01,0.03,0.1 --model.weight_decay 0,1e-3", "Trains many settings at once."
    )
    parser.add_argument("--config", action="config", help="A YAML file of settings, as --print_config writes it.")
    parser.add_argument(
        "--take", nargs=2, metavar=("INDEX", "SWEEP"), help="Make a run of that setting of a finished sweep, and end."
    )
    swept = {
        name: parameter.default for name, parameter in inspect.signature(sweep).parameters.items() if name in SWEPT
    }
    models = {name: default for name, default in swept.items() if name != "seed"}
    parser.add_argument("--seed", type=Any, default=0, help="Seeds; those of each seed are trained together.")
    parser.add_function_arguments(sweep, skip={"data", *SWEPT, *inspect.signature(LogisticRegression).parameters})
    parser.add_class_arguments(ImageDataModule, "data")
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
        if settings.take is not None:
            index, folder = settings.take
            if not str(index).isdecimal():
                raise InputError(f"--take {index} {folder}: the first word is the setting's index, a number")
            take(folder, int(index))
            return
        if settings.resume is not None:
            settings = cli.settings_of_run(parser, argv, find(settings.resume))
        top = settings.as_dict()
        for name in ("config", "take"):
            top.pop(name, None)
        data, hyperparameters = top.pop("data"), top.pop("model")
        sweep(ImageDataModule(**data), **top, **hyperparameters)

    cli.command("sweep", parser, run, argv)
