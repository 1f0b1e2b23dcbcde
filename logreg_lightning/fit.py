"""Step 7 of the tutorial: train the model. `fit` from Python, `fit.py` on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.loggers import Logger

from logreg_lightning import cli
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime import processes, runs
from logreg_lightning.runtime.curves import TrainingCurve
from logreg_lightning.runtime.names import printable, shortened
from logreg_lightning.runtime.output import print_once
from logreg_lightning.runtime.plain import plain
from logreg_lightning.runtime.saver import Saver
from logreg_lightning.runtime.threads import alone
from logreg_lightning.training import hyperparameters as ranges
from logreg_lightning.training.experiment import FROM_THE_DATA, Experiment, Run, check_given, seeded
from logreg_lightning.training.initialize import Initialization, initialize
from logreg_lightning.training.validation import Calibration

IN_PYTHON_ONLY = {"data", "callbacks", "logger", "verbose"}
"""Parameters of `fit` that are neither flags nor settings."""

NO_SETTINGS = IN_PYTHON_ONLY | {"hyperparameters"}


@alone()
def fit(
    data: ImageDataModule | str | Path = "auto",
    *,
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp"] = "auto",
    precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true"] = "32-true",
    threads: int | None = None,
    max_epochs: int | Literal["auto"] = "auto",
    max_steps: int = -1,
    val_check_interval: int | None = None,
    seed: int = 0,
    pictures: bool = True,
    log_dir: str | Path = "lightning_logs",
    resume: str | Path | None = None,
    callbacks: Sequence[L.Callback] = (),
    logger: Logger | Sequence[Logger] = (),
    verbose: bool = True,
    **hyperparameters: Any,
) -> Run:
    """Trains a linear classifier of images, tests it, and leaves a run's folder in `log_dir`.

    A first Ctrl-C saves the run before it ends it. Of several threads of a process that call `fit` or `sweep` one
    trains at a time, and the others wait, without a word; predicting does not wait.

    Args:
        data: The images: a data module, or what it takes as `dataset`, a name or a folder.
        accelerator: What to compute on; auto takes a CUDA GPU if there is one, else the CPU.
        devices: How many devices a node, or which ones ("0,1"), or auto for all there are (one process on a CPU).
        num_nodes: How many machines train together.
        strategy: How processes work together, by Lightning's names; auto is ddp where there are several.
        precision: Lightning's names for the numbers to compute with.
        threads: CPU threads to compute with. Chosen by the size of an optimiser step when not given, unless the
            environment sets OMP_NUM_THREADS. Another number, or another kind of processor, changes results by rounding.
        max_epochs: Passes over the training images; auto is 10, or as many as make 2,000 optimiser steps, or
            `max_steps`.
        max_steps: Optimiser steps after which to stop in any case; -1 for no such limit.
        val_check_interval: Optimiser steps between two validations; one at each epoch's end when not given.
        seed: Seed of the first weights and of the images' order.
        pictures: Draw figures for TensorBoard: weights, mistakes, confidence, data.
        log_dir: Folder that runs land in, each in a folder of its own; where `last` is looked for.
        resume: A run to resume in its own folder, with its own settings: last, FOLDER/last for the newest in
            another folder, a run's folder, or a .ckpt file.
        callbacks: Of Lightning, called beside this project's own.
        logger: Of Lightning, one or several, which get the curves too.
        verbose: Whether to say anything.
        hyperparameters: Of `LogisticRegression`: lr, momentum, weight_decay, schedule, standardize, class_weight,
            calibrate.

    Returns:
        The run: its folder, its results, its model.

    Raises:
        InputError: a parameter cannot be used; nothing was written.
        RunError: training diverged, a file could not be written, or another process of the run ended.
        KeyboardInterrupt: Ctrl-C ended it, after it was saved.
    """
    given, hyperparameters = plain(
        ({name: value for name, value in locals().items() if name not in NO_SETTINGS}, hyperparameters)
    )
    check_given(given)
    ranges.check(**hyperparameters)
    resumed = runs.find(str(resume), Path(log_dir)) if resume is not None else (None, None)
    with Experiment("version", data, given, hyperparameters, resumed, verbose=verbose) as experiment:
        # 1. The data.
        images, settings, state = experiment.prepare_data(), experiment.settings, experiment.state
        if (finished := _finished(experiment)) is not None:
            return finished
        experiment.describe()

        # 2. The model, with the same first weights whatever was drawn before.
        with seeded(seed):
            model = experiment.new_model()
            if state is None:
                initialize(model, images.training_images(), images.batch_size)
                settings["model"] |= {"lr": model.lr, "weight_decay": model.weight_decay}

            # 3. The trainer.
            curve = TrainingCurve()
            saver = Saver(curve, settings)
            ours = [curve, Initialization(), Calibration(), *_figures(saver, pictures)]
            experiment.check_loads(model, saver)
            trainer = experiment.make_trainer([*ours, *callbacks], saver)
            _say_plan(experiment, model)

            # 4. Training, then the final weights on the test set.
            saver.folder = experiment.open_folder()
            experiment.start_logging(
                trainer, saver.folder, settings, [logger] if isinstance(logger, Logger) else logger
            )
            experiment.train(trainer, model, experiment.checkpoint)
            run = experiment.end(trainer, model, saver, settings)
        _say_results(run, experiment)
        return run


def _figures(saver: Saver, pictures: bool) -> list[L.Callback]:
    if not pictures:
        return []
    from logreg_lightning.use.figures import WeightFigures

    return [WeightFigures(saver)]


def _finished(experiment: Experiment) -> Run | None:
    """The run, where it has nothing left to do; says so."""
    folder, checkpoint, state = experiment.folder, experiment.checkpoint, experiment.state
    if folder is None or checkpoint is None or state is None or experiment.run_steps is None:
        return None
    # Lightning would train nothing, and leave no metrics to report.
    results = runs.read_results(folder)
    if state["global_step"] < experiment.run_steps or results is None:
        return None
    longer = _train_longer(folder, experiment.settings, state["global_step"])
    print_once(f"{printable(str(folder))} is finished: {state['global_step']} steps. Train longer with: {longer}")
    return Run(folder, results, LogisticRegression.load(checkpoint))


def _say_plan(experiment: Experiment, model: LogisticRegression) -> None:
    """Says what training will do, chosen or given.

    Raises:
        InputError: a resumed run cannot be continued exactly like that.
    """
    data, state, plan = experiment.data, experiment.state, experiment.data.plan
    if state is not None:
        before = state["ImageDataModule"]["steps_per_call"]
        if plan.steps_per_call != before:
            wanted = f"`max_steps={experiment.settings['max_steps']}` does not fit {experiment.folder}"
            raise InputError(f"{wanted}; use a multiple of {before}")
        step, rate = state["global_step"], state["optimizer_states"][0]["param_groups"][0]["lr"]
        if model.lr_at(step - 1, plan.run_steps) != rate:
            print_once(
                f"The {model.hparams['schedule']} schedule now ends at step {plan.run_steps}: the learning rate "
                f"continues at {model.lr_at(step, plan.run_steps):.3g}, after {rate:.3g}"
            )
    steps = plan.run_steps or 0
    epochs = steps / data.steps_per_epoch
    print_once(
        f"Training for {steps:,} steps of {data.batch_size} images, {epochs:.3g} epoch{'' if epochs == 1 else 's'}, "
        f"with lr {model.lr:g}, weight_decay {model.weight_decay:g}"
    )


def _say_results(run: Run, experiment: Experiment) -> None:
    data, results = experiment.data, run.results
    majority = data.data.classes[int(data.test_labels().bincount().argmax())]
    shown = {
        **{name: value for name, value in results.items() if name.startswith("test/")},
        f"  always predicting {shortened(printable(majority), 16)}": results["majority_class_accuracy"],
        "steps": results["steps"],
        "fit_seconds": round(results["fit_seconds"], 2),
    }
    if run.model.class_weights is not None:
        shown = {
            "test/loss, weighted by class" if name == "test/loss" else name: value for name, value in shown.items()
        }
    numbers = {label: f"{value:,}" if isinstance(value, int) else f"{value:.4g}" for label, value in shown.items()}
    print_once("\n" + "\n".join(f"  {label:<34}{number:>10}" for label, number in numbers.items()))
    curves = f"{processes.this_python()} -m tensorboard.main --logdir {processes.quoted([str(run.path.parent)])}"
    print_once(
        f"\nRun:                {printable(str(run.path))}\n"
        f"Curves:             {curves}\n"
        f"Train longer with:  {_train_longer(run.path, experiment.settings, results['steps'])}"
        + (f"\n\nNote: {run.remark}" if run.remark else "")
    )


def _train_longer(folder: Path, settings: dict[str, Any], steps: int) -> str:
    """What resumes a finished run: it lifts the limit that ended it."""
    limit = "max_steps" if 0 < settings["max_steps"] <= steps else "max_epochs"
    return processes.resume_with(folder, **{limit: 2 * settings[limit]})


# The command line: every flag is a parameter of a typed signature above, its docstring the help.


def build_parser() -> ArgumentParser:
    """The flags of `fit.py`."""
    parser = cli.new_parser("fit", "--data.dataset mnist --max_epochs 5", "Trains a linear classifier of images.")
    parser.add_argument("--config", action="config", help="A YAML file of settings, as --print_config writes it.")
    parser.add_function_arguments(fit, skip={*IN_PYTHON_ONLY, *inspect.signature(LogisticRegression).parameters})
    parser.add_class_arguments(ImageDataModule, "data", skip={"transform"})
    parser.add_class_arguments(LogisticRegression, "model", skip=set(FROM_THE_DATA))
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command `fit.py`."""
    parser = build_parser()

    def run(settings: Namespace) -> None:
        if settings.resume is not None:
            settings = cli.settings_of_run(parser, argv, runs.find(settings.resume, Path(settings.log_dir))[0])
        top = settings.as_dict()
        top.pop("config", None)
        data, hyperparameters = top.pop("data"), top.pop("model")
        fit(ImageDataModule(**data), **top, **hyperparameters)

    cli.command("fit", parser, run, argv)
