"""Step 7 of the tutorial: train the model. `fit` from Python, `fit.py` on the command line."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities import rank_zero_only

from logreg_lightning import cli
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime import checkpoints, curves, processes, runs
from logreg_lightning.runtime.curves import TrainingCurve
from logreg_lightning.runtime.files import atomic_write
from logreg_lightning.runtime.output import quiet, say
from logreg_lightning.runtime.progress import progress
from logreg_lightning.runtime.saver import Saver
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
from logreg_lightning.training.hyperparameters import check
from logreg_lightning.training.initialize import Adaptation
from logreg_lightning.training.validation import Calibration
from logreg_lightning.use.advice import advice


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: Its folder.
        results: What `results.json` holds.
        model: The trained model, on the CPU, ready to predict.
    """

    path: Path
    results: dict[str, Any]
    model: LogisticRegression


def fit(
    data: ImageDataModule,
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
    resume: str | None = None,
    **hyperparameters: Any,
) -> Run:
    """Trains a linear classifier of images, tests it, and leaves a run's folder in `lightning_logs`.

    A first Ctrl-C saves the run before it ends it.

    Args:
        data: The images.
        accelerator: What to compute on; auto takes a CUDA GPU if there is one, else the CPU.
        devices: How many devices a node, or which ones ("0,1"), or auto for all there are (one process on a CPU).
        num_nodes: How many machines train together.
        strategy: How processes work together, by Lightning's names; auto is ddp where there are several.
        precision: Lightning's names for the numbers to compute with.
        threads: CPU threads to compute with. Chosen by the size of an optimiser step when not given, unless the
            environment sets OMP_NUM_THREADS. Another number changes results by rounding.
        max_epochs: Passes over the training images; auto is 10, or as many as make 2,000 optimiser steps, or
            `max_steps`.
        max_steps: Optimiser steps after which to stop in any case; -1 for no such limit.
        val_check_interval: Optimiser steps between two validations; one at each epoch's end when not given.
        seed: Seed of the first weights and of the images' order.
        pictures: Draw figures for TensorBoard: weights, mistakes, confidence, data.
        resume: A run to resume in its own folder, with its own settings: last, a run's folder, or a .ckpt file.
        hyperparameters: Of `LogisticRegression`: lr, momentum, weight_decay, schedule, standardize, class_weight,
            calibrate.

    Returns:
        The run: its folder, its results, its model.

    Raises:
        InputError: a parameter cannot be used; nothing was written.
        RunError: training diverged, a file could not be written, or another process of the run ended.
        KeyboardInterrupt: Ctrl-C ended it, after it was saved.
    """
    given = {name: value for name, value in locals().items() if name not in ("data", "hyperparameters")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())

        # 1. Refuse what can be refused before anything is written.
        check_given(given)
        check(**hyperparameters)
        folder, checkpoint = runs.find(resume) if resume is not None else (None, None)
        processes.end_with_parent(lost(folder))
        started: dict[str, Any] = {}
        if folder is not None:
            stack.enter_context(runs.used_by_one(folder))
            started = runs.read_config(folder)
        config = as_started(config_of(data, given, hyperparameters), started)
        data.dataset, data.batch_size = config["data"]["dataset"], config["data"]["batch_size"]
        if folder is not None:
            runs.check_config(folder, started, config)
        state = checkpoints.read(checkpoint) if checkpoint is not None else None
        curve = TrainingCurve()
        saver = Saver(curve)
        trainer = trainer_of(config, _callbacks(curve, saver, val_check_interval, pictures))

        # 2. The data.
        stack.enter_context(use_threads(threads))
        data.trainer = trainer
        data.prepare_data()
        data.setup()
        config["data"] |= {"dataset": data.dataset, "batch_size": data.batch_size}
        if config["max_epochs"] == "auto":
            trainer.fit_loop.max_epochs = initialize.epochs(data.steps_per_epoch, max_steps)
            if max_steps == -1:  # else it stays auto: a resumed run may be given more steps
                config["max_epochs"] = trainer.max_epochs
        if folder is not None and checkpoint is not None and state is not None:
            checkpoints.check_data(checkpoint, state, data.fingerprint())
            if _is_finished(folder, data, config, state):
                return Run(folder, runs.read_results(folder), LogisticRegression.load(checkpoint))
        say(data.describe())
        config["threads"] = threads or run_threads(started, data, trainer)
        stack.enter_context(use_threads(config["threads"]))
        say(computes_on(trainer, config["threads"]))

        # 3. The model, with the same first weights whatever was drawn before.
        stack.enter_context(seeded(seed))
        net = model_for(data, config["model"])
        if state is None:
            initialize.adapt(net, data.training_images(), data.batch_size)
            config["model"] |= {"lr": net.lr, "weight_decay": net.weight_decay}
        else:
            _say_new_schedule(net, data, state)
        say(_chosen(config, data))

        # 4. The run's folder.
        if folder is None and processes.rank() == 0:
            folder = runs.create()
            stack.enter_context(runs.used_by_one(folder))
        folder = folder or runs.LOGS  # process 0 tells it to those that torchrun or SLURM started
        saver.folder = folder
        trainer.logger = curves.logger(folder, state["global_step"] if state else 0)
        launcher = trainer.strategy.launcher
        stack.enter_context(processes.starting_others(launcher, checkpoint or folder, lost(folder)))
        stack.enter_context(one_sentence(folder))
        _begin(folder, config, checkpoint, state)
        if state is None or not state["callbacks"]["Saver"]["events"]:  # none of a sweep's winner
            curves.write_hparams(trainer.logger, _hparams(data, config))

        # 5. Training, then the final weights on the test set.
        trainer.fit(net, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        trainer.test(net, datamodule=data, verbose=False)
        if pictures and processes.rank() == 0:
            from logreg_lightning.use import figures

            figures.draw(trainer.logger.experiment, net, data, trainer.global_step)
        trainer.logger.experiment.flush()

        # 6. The results.
        results = _results(trainer, data, saver, config, net)
        runs.write_results(saver.folder, results)
        num_test = data.data.num_test
        remark = advice(results, saver.earlier, net.schedule, len(data.val_indices) or num_test, num_test)
        _say_results(saver.folder, data, results, config, remark)
        return Run(saver.folder, results, net.cpu().eval())


def _callbacks(curve: TrainingCurve, saver: Saver, val_check_interval: int | None, pictures: bool) -> list[L.Callback]:
    """In the order in which Lightning calls them: a save knows all that was logged and drawn up to its step, and
    nothing of a later one; and a run stops only where it was just saved."""
    drawn: list[L.Callback] = []
    if pictures:
        from logreg_lightning.use.figures import WeightFigures

        drawn = [WeightFigures(saver)]
    shown = progress(val_check_interval)
    return [curve, Adaptation(), Calibration(), shown, *drawn, saver, StopOnSignal(saver)]


def _chosen(config: dict[str, Any], data: ImageDataModule) -> str:
    """What training will do, chosen or given."""
    steps, model = data.plan.run_steps or 0, config["model"]
    epochs = steps / data.steps_per_epoch
    return (
        f"Training for {steps:,} steps of {data.batch_size} images, {epochs:.3g} epoch{'' if epochs == 1 else 's'}, "
        f"with lr {model['lr']:g}, weight_decay {model['weight_decay']:g}"
    )


def _is_finished(folder: Path, data: ImageDataModule, config: dict[str, Any], state: dict[str, Any]) -> bool:
    """Whether the run has nothing left to do; says so."""
    steps, run_steps = state["global_step"], data.plan.run_steps
    if run_steps is not None and steps >= run_steps and runs.has_results(folder):
        say(f"{folder} is finished: {steps} steps. Train longer with: {_train_longer(folder, config, steps)}")
        return True
    before = state["ImageDataModule"]["steps_per_call"]
    if data.plan.steps_per_call != before:
        raise InputError(f"`max_steps={config['max_steps']}` does not fit {folder}; use a multiple of {before}")
    return False


@rank_zero_only
def _begin(folder: Path, config: dict[str, Any], checkpoint: Path | None, state: dict[str, Any] | None) -> None:
    """Makes the folder ready: its settings written, nothing in it that training will write again."""
    runs.write_config(folder, config)
    last = folder / "checkpoints" / "last.ckpt"
    if checkpoint is not None and checkpoint.resolve() != last.resolve():
        # A kill from now on must not lead back to what is the future of this checkpoint.
        atomic_write(last, checkpoint.read_bytes())
    (folder / "results.json").unlink(missing_ok=True)
    curves.truncate_event_files(folder, state["callbacks"]["Saver"]["events"] if state is not None else {})


def _hparams(data: ImageDataModule, config: dict[str, Any]) -> dict[str, Any]:
    """What TensorBoard's HParams tab compares runs by."""
    shown = {name: config[name] for name in ("max_epochs", "seed")}
    shown |= {f"data.{name}": config["data"][name] for name in ("batch_size", "val_size")}
    return {
        "data.dataset": data.dataset,
        "data.features": data.source.what,
        **shown,
        **{f"model.{name}": value for name, value in config["model"].items()},
    }


def _results(
    trainer: L.Trainer, data: ImageDataModule, saver: Saver, config: dict[str, Any], net: LogisticRegression
) -> dict[str, Any]:
    return {
        **what_was_trained(data, trainer, trainer.global_step),
        "checkpoint": "checkpoints/last.ckpt",
        "lr": config["model"]["lr"],
        "weight_decay": config["model"]["weight_decay"],
        "temperature": 1.0 if net.temperature is None else float(net.temperature),
        "fit_seconds": saver.fit_seconds,
        **saver.validated,
        **{name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")},
        "majority_class_accuracy": data.test_labels().bincount().max().item() / data.data.num_test,
        "seed": config["seed"],
    }


def _say_results(
    folder: Path, data: ImageDataModule, results: dict[str, Any], config: dict[str, Any], remark: str | None
) -> None:
    majority = data.data.classes[int(data.test_labels().bincount().argmax())]
    shown = {
        **{name: value for name, value in results.items() if name.startswith("test/")},
        f"  always predicting {majority}": results["majority_class_accuracy"],
        "steps": results["steps"],
        "fit_seconds": round(results["fit_seconds"], 2),
    }
    numbers = {label: f"{value:,}" if isinstance(value, int) else f"{value:.4g}" for label, value in shown.items()}
    say("\n" + "\n".join(f"  {label:<34}{number:>10}" for label, number in numbers.items()))
    say(
        f"\nRun:                {folder}\n"
        f"Curves:             {processes.this_python()} -m tensorboard.main --logdir {folder.parent}\n"
        f"Train longer with:  {_train_longer(folder, config, results['steps'])}"
        + (f"\n\nNote: {remark}" if remark else "")
    )


def _train_longer(folder: Path, config: dict[str, Any], steps: int) -> str:
    """What resumes a finished run: it lifts the limit that ended it."""
    limit = "max_steps" if 0 < config["max_steps"] <= steps else "max_epochs"
    return processes.resume_with(folder, **{limit: 2 * config[limit]})


def _say_new_schedule(net: LogisticRegression, data: ImageDataModule, state: dict[str, Any]) -> None:
    step, before, run_steps = (
        state["global_step"],
        state["optimizer_states"][0]["param_groups"][0]["lr"],
        data.plan.run_steps,
    )
    if net.lr_at(step - 1, run_steps) != before:
        say(
            f"The {net.schedule} schedule now ends at step {run_steps}: the learning rate continues at "
            f"{net.lr_at(step, run_steps):.3g}, after {before:.3g}"
        )


# The command line: every flag is a parameter of a typed signature above, its docstring the help.


def build_parser() -> ArgumentParser:
    """The flags of `fit.py`."""
    parser = cli.new_parser("fit", "--data.dataset mnist --max_epochs 5", "Trains a linear classifier of images.")
    parser.add_argument("--config", action="config", help="A YAML file of settings, as --print_config writes it.")
    parser.add_function_arguments(fit, skip={"data", *inspect.signature(LogisticRegression).parameters})
    parser.add_class_arguments(ImageDataModule, "data")
    parser.add_class_arguments(LogisticRegression, "model", skip=set(FROM_THE_DATA))
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command `fit.py`."""
    parser = build_parser()

    def run(settings: Namespace) -> None:
        if settings.resume is not None:
            settings = cli.settings_of_run(parser, argv, runs.find(settings.resume)[0])
        top = settings.as_dict()
        top.pop("config", None)
        data, hyperparameters = top.pop("data"), top.pop("model")
        fit(ImageDataModule(**data), **top, **hyperparameters)

    cli.command("fit", parser, run, argv)
