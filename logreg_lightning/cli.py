"""The command lines: the flags of `scripts/fit.py`, and what every script says when something is wrong."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from logreg_lightning import runs
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError, RunError, Stopped
from logreg_lightning.model import LogisticRegression
from logreg_lightning.processes import rank

_MAY_CHANGE = {"resume", "max_epochs", "max_steps", "accelerator", "devices", "num_nodes", "strategy", "pictures"}
_MAY_CHANGE |= {"data.root"}


def trainer_settings(
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp"] = "auto",
    precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true"] = "32-true",
    max_epochs: int = 10,
    max_steps: int = -1,
    val_check_interval: int | None = None,
    seed: int = 0,
    pictures: bool = True,
    resume: str | None = None,
) -> None:
    """How to train.

    Args:
        accelerator: What to compute on; auto takes a GPU where there is one.
        devices: How many devices a node, or which ones ("0,1"), or auto for all there are (one process on a CPU).
        num_nodes: How many machines train together.
        strategy: How processes work together, by Lightning's names; auto is ddp where there are several.
        precision: Lightning's names for the numbers to compute with.
        max_epochs: Passes over the training images.
        max_steps: Optimiser steps after which to stop in any case; -1 for no such limit.
        val_check_interval: Optimiser steps between two validations; one at each epoch's end when not given.
        pictures: Draw pictures for TensorBoard when done: weights, mistakes, confidence, data.
        seed: Seed of the first weights and of the images' order.
        resume: A run to go on with in its own folder: last, a run's folder, or a .ckpt file.
    """


def new_parser(script: str, example: str, purpose: str) -> ArgumentParser:
    """A script's parser: its help starts with an example."""
    number = f"logreg_lightning {importlib.metadata.version('logreg-lightning')}"
    description = f"Example: python scripts/{script} {example}. {purpose}"
    return ArgumentParser(prog=script, exit_on_error=False, allow_abbrev=False, version=number, description=description)


def build_parser() -> ArgumentParser:
    """The flags of fit.py: each a parameter of a typed signature, its docstring the help."""
    parser = new_parser("fit.py", "--data.dataset mnist --max_epochs 5", "Trains a linear classifier of images.")
    parser.add_argument("--config", action="config", help="A YAML file of settings, as --print_config writes it.")
    parser.add_function_arguments(trainer_settings)
    parser.add_class_arguments(ImageDataModule, "data")
    parser.add_class_arguments(LogisticRegression, "model", skip={"inputs", "classes"})
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command `fit.py`."""
    if argv is None:
        # TensorBoard's thread hands its error, say a full disk, to the training, which says it; once is enough.
        threading.excepthook = _quiet_about_files
    parser = build_parser()

    def run(settings: Namespace) -> None:
        from logreg_lightning.fit import fit

        folder = checkpoint = None
        if settings.resume is not None:
            folder, checkpoint = runs.find(settings.resume)
            settings = _settings_of_run(parser, parser.parse_args(argv, defaults=False), folder)
        fit(parser, settings, folder, checkpoint)

    command(parser, run, argv)


def command(parser: ArgumentParser, run: Callable[[Namespace], None], argv: list[str] | None) -> None:
    """Runs a script; what goes wrong and is no bug ends it with one sentence and a telling exit status."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*|torchmetrics.*")
    try:
        run(parser.parse_args(argv))
    except (InputError, ArgumentError, UnicodeDecodeError) as error:
        words = sys.argv[1:] if argv is None else argv
        _end(parser, 2, _sentence(parser, str(error), words))
    except RunError as error:
        _end(parser, 1, str(error))
    except Stopped as stop:
        # The others of a run stop with process 0, which tells how: to Lightning their failure would be a crash.
        sys.exit(128 + stop.signum if rank() == 0 else 0)
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(parser: ArgumentParser, status: int, sentence: str) -> None:
    print(f"{parser.prog}: error: {sentence}", file=sys.stderr)
    sys.exit(status)


def _quiet_about_files(caught: threading.ExceptHookArgs) -> None:
    if not isinstance(caught.exc_value, OSError):
        threading.__excepthook__(caught)


def _sentence(parser: ArgumentParser, message: str, words: list[str]) -> str:
    """One line, with flags as they are typed, the settings file that did not parse, the flag that was meant."""
    message = re.sub(r'Parser key "([\w.]+)"', r"--\1", " ".join(message.split()))
    files = [word.removeprefix("--config=") for word in words if word.endswith((".yaml", ".yml"))]
    if files:
        message = re.sub(
            r"Problems parsing config|^'utf-8' codec", f"{' or '.join(files)} is not YAML: \\g<0>", message
        )
    unknown = re.search(r"--?([\w.-]+)", message) if message.lower().startswith("unrecognized arguments") else None
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(f"--{unknown[1]}", flags, n=1)
        message += f"; did you mean {near[0]}?" if near else "; --help lists the flags"
    return message


def _settings_of_run(parser: ArgumentParser, given: Namespace, folder: Path) -> Namespace:
    """The run's own settings; only what may change on resume is taken from the command line."""
    try:
        own: Namespace = parser.parse_path(folder / "config.yaml", defaults=True)
    except (ArgumentError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder / 'config.yaml'} does not hold a run's settings ({' '.join(str(error).split())}); mend it"
        ) from None
    for key, value in vars(given.as_flat()).items():
        if key in _MAY_CHANGE:
            own[key] = value
        elif key != "config" and own.get(key) != value:
            raise InputError(
                f"--{key} {value} contradicts {folder}, which runs with {own.get(key)}; leave the flag out to resume, "
                "or leave --resume out to start a new run"
            )
    return own
