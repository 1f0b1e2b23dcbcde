"""The command line of `scripts/fit.py`: its flags, and the training that they describe."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_only

from logreg_lightning import checkpoints, progress, runs
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError
from logreg_lightning.model import LogisticRegression

_MAY_CHANGE = {"resume", "max_epochs", "max_steps", "accelerator", "devices", "num_nodes", "strategy", "data.root"}


def trainer_settings(
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    strategy: str = "auto",
    precision: str = "32-true",
    max_epochs: int = 10,
    max_steps: int = -1,
    val_check_interval: int | None = None,
    seed: int = 0,
    resume: str | None = None,
) -> None:
    """How to train.

    Args:
        accelerator: What to compute on; auto takes a GPU where there is one.
        devices: How many devices a node, or which ones ("0,1"), or auto for all there are (one process on a CPU).
        num_nodes: How many machines train together.
        strategy: How processes work together, by Lightning's names; auto suits.
        precision: Lightning's names: 32-true, 64-true, bf16-mixed, ...
        max_epochs: Passes over the training images.
        max_steps: Optimiser steps after which to stop in any case; -1 for no such limit.
        val_check_interval: Optimiser steps between two validations; one at each epoch's end when not given.
        seed: Seed of the first weights and of the images' order.
        resume: A run to go on with in its own folder: last, a run's folder, or a .ckpt file.
    """


def build_parser() -> ArgumentParser:
    """The flags: each a parameter of a typed signature, its docstring the help."""
    parser = ArgumentParser(
        prog="fit.py",
        exit_on_error=False,
        description="Example: python scripts/fit.py --data.dataset mnist --max_epochs 5. Trains a linear classifier.",
    )
    parser.add_argument("--config", action="config", help="A YAML file of settings, as --print_config writes it.")
    parser.add_function_arguments(trainer_settings)
    parser.add_class_arguments(ImageDataModule, "data")
    parser.add_class_arguments(LogisticRegression, "model", skip={"inputs", "classes"})
    return parser


def main(argv: list[str] | None = None) -> None:
    """Runs the command; bad input ends it with one sentence and exit status 2."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    try:
        parser = build_parser()
        settings = parser.parse_args(argv)
        folder = checkpoint = None
        if settings.resume is not None:
            folder, checkpoint = runs.find(settings.resume)
            settings = _settings_of_run(parser, parser.parse_args(argv, defaults=False), folder)
        train(parser, settings, folder, checkpoint)
    except (InputError, ArgumentError) as error:
        words = sys.argv[1:] if argv is None else argv
        print(f"fit.py: error: {_sentence(str(error), words)}", file=sys.stderr)
        sys.exit(2)


def _sentence(message: str, words: list[str]) -> str:
    """One line of an error, with flags named as they are typed and the settings file that did not parse."""
    message = re.sub(r'Parser key "([\w.]+)"', r"--\1", " ".join(message.split()))
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    return message.replace("Problems parsing config", f"{' or '.join(files)} is not YAML") if files else message


def _settings_of_run(parser: ArgumentParser, given: Namespace, folder: Path) -> Namespace:
    """The run's own settings; only what may change on resume is taken from the command line."""
    own: Namespace = parser.parse_path(folder / "config.yaml", defaults=True)
    for key, value in vars(given.as_flat()).items():
        if key in _MAY_CHANGE:
            own[key] = value
        elif key != "config" and own.get(key) != value:
            raise InputError(
                f"--{key} {value} contradicts {folder}, which runs with {own.get(key)}; leave the flag out to resume, "
                "or leave --resume out to start a new run"
            )
    return own


def _check(settings: Namespace) -> None:
    for key in ("max_epochs", "num_nodes", "val_check_interval"):
        if settings[key] is not None and settings[key] < 1:
            raise InputError(f"--{key} must be at least 1, not {settings[key]}")
    if settings.max_steps != -1 and settings.max_steps < 1:
        raise InputError(f"--max_steps must be at least 1, or -1 for no limit, not {settings.max_steps}")


def _trainer(settings: Namespace, **parts: Any) -> L.Trainer:
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs", "max_steps")
    try:
        return L.Trainer(
            **{name: settings[name] for name in names},
            **parts,
            enable_progress_bar=any(isinstance(part, ProgressBar) for part in parts.get("callbacks", ())),
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InputError(
            f"--accelerator {settings.accelerator} --devices {settings.devices} --strategy {settings.strategy} "
            f"--precision {settings.precision} cannot be had on this machine: {error} Try --accelerator cpu or auto"
        ) from None


def train(parser: ArgumentParser, settings: Namespace, folder: Path | None, checkpoint: Path | None) -> None:
    """Trains, or goes on with the run in `folder` from `checkpoint`, tests, and writes what came out.

    Raises:
        InputError: a setting cannot be used.
    """
    _check(settings)
    # 1. Everything that can be refused is refused before anything is written.
    data = ImageDataModule(**settings.data)
    L.seed_everything(settings.seed, verbose=False)
    LogisticRegression(1, 2, **settings.model)
    state = checkpoints.read(checkpoint) if checkpoint is not None else None
    _trainer(settings, logger=False)
    data.prepare_data()
    data.setup()
    interval = settings.val_check_interval
    data.seed = settings.seed
    data.stops = tuple(n for n in (interval, settings.max_steps) if n is not None and n != -1)
    channels, height, width = data.data.image_shape
    inputs, classes = channels * height * width, len(data.data.classes)
    if state is not None:
        shape = tuple(state["state_dict"]["linear.weight"].shape)
        if shape != (classes, inputs):
            raise InputError(f"{checkpoint} was trained on other data: {shape} weights, not {(classes, inputs)}")
        steps, limit = state["global_step"], settings.max_epochs * data.steps_per_epoch
        done = steps >= (limit if settings.max_steps == -1 else min(limit, settings.max_steps))
        if folder is not None and done and runs.has_results(folder):
            say(f"{folder} is finished: {steps} steps. To train on: {_train_on(folder, settings, steps)}")
            return
        before = state["ImageDataModule"]["steps_per_call"]
        if data.steps_per_call != before:
            raise InputError(
                f"--max_steps {settings.max_steps} cannot be met by {folder}: choose a multiple of {before}"
            )
    say(data.describe())

    # 2. The run's folder, and in it what would repeat the run.
    logger = runs.logger(folder, state["global_step"] if state else 0)
    run = Path(logger.log_dir)
    settings = settings.clone()
    settings.resume, settings.data.dataset = None, data.dataset
    runs.write_whole(run / "config.yaml", str(parser.dump(settings)))

    # 3. Training.
    L.seed_everything(settings.seed, verbose=False)
    model = LogisticRegression(inputs, classes, **settings.model)
    saver = checkpoints.Saver(run)
    every = {"check_val_every_n_epoch": None, "val_check_interval": interval // data.steps_per_call} if interval else {}
    trainer = _trainer(
        settings,
        logger=logger,
        callbacks=[*progress.callbacks(interval), saver],
        plugins=[checkpoints.WholeFiles()],
        **every,
    )
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
    validated = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    trainer.test(model, datamodule=data, verbose=False)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    steps = trainer.fit_loop.epoch_loop.global_step
    text = runs.results(
        dataset=data.dataset,
        epochs=trainer.current_epoch,
        steps=steps,
        fit_seconds=saver.fit_seconds,
        accelerator=type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
        devices=trainer.num_devices,
        **validated,
        **metrics,
        seed=settings.seed,
    )
    runs.write_whole(run / "results.json", text)
    shown = {**metrics, "steps": steps, "fit_seconds": round(saver.fit_seconds, 2)}
    say("\n" + "\n".join(f"  {name:<24}{value:>10.4g}" for name, value in shown.items()))
    say(
        f"\nRun:          {run}\nCurves:       {_python()} -m tensorboard.main --logdir {run.parent}\n"
        f"Train on:     {_train_on(run, settings, steps)}"
    )


def _python() -> str:
    """This interpreter as a person in this folder would type it."""
    here = Path(sys.prefix).parent == Path.cwd()
    return str(Path(sys.executable).relative_to(Path.cwd())) if here else sys.executable


def _train_on(run: Path, settings: Namespace, steps: int) -> str:
    """The command that goes on with a finished run: it lifts the limit that ended it."""
    flag = "max_steps" if 0 < settings.max_steps <= steps else "max_epochs"
    return f"{_python()} {sys.argv[0]} --resume {run} --{flag} {2 * settings[flag]}"


@rank_zero_only
def say(text: str) -> None:
    """Prints once, whatever the number of processes."""
    print(text, flush=True)
