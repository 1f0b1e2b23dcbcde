"""`fit` called from Python does what the command does, and leaves the caller's process as it was."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import INTERRUPTED, Capsys, Patch, config_of, newest, outcome, results_of, said_by, signalled_in
from conftest import fit as command
from lightning.pytorch.loggers import CSVLogger

from logreg_lightning import ImageDataModule, InputError, LogisticRegression, fit, load, sweep
from logreg_lightning.fit import main
from logreg_lightning.sweep import promote
from logreg_lightning.use import evaluate

SHORT: dict[str, Any] = {"max_epochs": 2, "pictures": False}


def small() -> ImageDataModule:
    return ImageDataModule("mnist", batch_size=4)


def test_trains_exactly_as_the_command_does(workdir: Path) -> None:
    run = fit(ImageDataModule("mnist"), lr=0.1, max_epochs=3, pictures=False)
    same = command("--data.dataset=mnist", "--model.lr=0.1", "--max_epochs=3")
    assert run.path != same and outcome(run.path) == outcome(same)
    assert run.results == results_of(run.path)
    assert run.results["command"] is None and "fit" in results_of(same)["command"]
    images = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    assert torch.equal(run.model.predict_proba(images), LogisticRegression.load(same).predict_proba(images))


def test_leaves_the_process_as_it_was(workdir: Path, monkeypatch: Patch) -> None:
    def seen() -> list[Any]:
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        numbers = torch.get_rng_state().tolist(), random.getstate()
        return [handlers, numbers, sys.argv.copy(), threading.excepthook, dict(os.environ), Path.cwd()]

    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "connection.json"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    fit(small(), **SHORT)  # Lightning sets some environment variables the first time
    torch.manual_seed(123)
    random.seed(123)
    before = seen()
    run = fit(small(), **SHORT)
    with pytest.raises(InputError):
        fit(small(), devices=0)
    assert seen() == before
    assert run.results["command"] is None


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_saves_first_and_the_same_call_resumes(
    workdir: Path, monkeypatch: Patch, capsys: Capsys, signum: signal.Signals
) -> None:
    expected = outcome(fit(small(), **SHORT).path)
    with signalled_in(LogisticRegression, 1, signum), pytest.raises(INTERRUPTED[signum]):
        fit(small(), **SHORT)
    folder = newest()
    assert f"Resume with: fit(data, resume={str(folder)!r})" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"`lr=0.3` contradicts .*, which was started with 0.0"):
        fit(small(), resume="last", lr=0.3, **SHORT)
    run = fit(small(), resume="last", **SHORT)
    assert run.path == folder and outcome(folder) == expected


def test_a_finished_run_is_returned_and_grows(workdir: Path) -> None:
    run = fit(small(), schedule="constant", **SHORT)
    same = fit(small(), schedule="constant", resume=str(run.path), **SHORT)
    assert (same.path, same.results) == (run.path, run.results)
    assert torch.equal(same.model.linear.weight, run.model.linear.weight)
    grown = fit(small(), schedule="constant", resume="last", max_epochs=4, pictures=False)
    assert grown.path == run.path and grown.results["epochs"] == 4


@pytest.mark.slow
def test_takes_a_name_and_callbacks_and_loggers_and_can_be_silent(workdir: Path, capsys: Capsys) -> None:
    seen: list[int] = []

    class Note(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            seen.append(trainer.global_step)

    settings: dict[str, Any] = {"max_epochs": 40, "pictures": False, "verbose": False}  # of 50 steps of 540 images
    run = fit("mnist", callbacks=[Note()], logger=CSVLogger("csv"), **settings)
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
    assert seen == [*range(50, 2001, 50)]
    rows = Path("csv/lightning_logs/version_0/metrics.csv").read_text(encoding="utf-8").splitlines()
    assert "train/loss" in rows[0] and len(rows) > 40
    assert outcome(run.path) == outcome(fit(ImageDataModule("mnist"), max_epochs=40, pictures=False).path)
    assert fit(Path("data/MNIST/raw"), **settings).results["dataset"] == "data/MNIST/raw"


def test_the_callers_data_module_is_left_as_it_was(workdir: Path) -> None:
    data = ImageDataModule("auto")
    before = {name: repr(value) for name, value in vars(data).items()}
    fit(data, **SHORT)
    sweep(data, lr=[0.01, 0.02], **SHORT)
    assert {name: repr(value) for name, value in vars(data).items()} == before


@pytest.mark.slow
def test_a_module_of_data_serves_several_runs_one_of_them_outside_the_main_thread(workdir: Path) -> None:
    data = small()
    first = fit(data, seed=1, **SHORT)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(fit, data, seed=2, **SHORT).result()
    for seed, run in ((1, first), (2, second)):
        same = command("--data.dataset=mnist", "--data.batch_size=4", "--max_epochs=2", f"--seed={seed}")
        assert outcome(run.path) == outcome(same)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"lr": -1}, "`lr` must be auto or a positive number, not -1"),
        ({"max_epochs": 0}, "`max_epochs` must be at least 1, not 0"),
        ({"resume": "last"}, "no checkpoint found"),
        ({"accelerator": "abacus"}, "`accelerator='abacus'`.* are not available"),
    ],
)
def test_an_error_names_the_parameter(workdir: Path, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        fit(small(), **{**SHORT, **wrong})
    assert "--" not in str(caught.value).partition(";")[0]
    with pytest.raises(TypeError, match="learning_rate"):
        fit(small(), learning_rate=0.1)
    assert not Path("lightning_logs").exists()


def test_runs_land_where_log_dir_says_and_are_found_there(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory, capsys: Capsys
) -> None:
    """Nothing is written into the current folder, which may be read-only."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    logs, root = elsewhere / "a" / "logs", str(Path("data").rename(elsewhere / "data"))
    before = sorted(workdir.rglob("*"))
    expected = [fit(ImageDataModule("mnist", root), log_dir=logs, schedule="constant", **SHORT)]
    flags = [f"--data.root={root}", "--data.dataset=mnist", "--pictures=false", "--model.schedule=constant"]
    main([*flags, f"--log_dir={logs}", "--max_epochs=1"])
    runs = [logs / "version_0", logs / "version_1"]
    assert expected[0].path == runs[0] and sorted(logs.iterdir()) == runs
    assert config_of(runs[1])["log_dir"] == str(logs)
    with pytest.raises(InputError, match="no checkpoint found"):
        load("last")
    weight = load(runs[1]).weight
    assert torch.equal(load(logs / "last").weight, weight) and not torch.equal(load(runs[0]).weight, weight)
    said = json.loads(said_by(evaluate.main, [logs / "last", "--json"], capsys))
    assert said["run"] == str(logs / "last")

    main(["--resume=last", f"--log_dir={logs}", "--max_epochs=2"])
    assert results_of(runs[1])["test/loss"] == expected[0].results["test/loss"]
    main([f"--resume={logs / 'last'}", "--max_epochs=3"])
    assert (
        fit(ImageDataModule("mnist", root), resume=logs / "last", schedule="constant", pictures=False).path == runs[1]
    )
    assert results_of(runs[1])["epochs"] == 3 and config_of(runs[1])["log_dir"] == str(logs)
    with pytest.raises(InputError, match=str(runs[0])):
        fit(log_dir=logs, resume="nowhere")

    found = sweep(ImageDataModule("mnist", root), lr=[0.1, 0.2], log_dir=logs, **SHORT)
    assert (found.path, found.best.path) == (logs / "sweep_0", logs / "version_2")
    assert promote(str(logs / "last"), 1 - found.results["best"]["index"]).path == logs / "version_3"
    assert sorted(workdir.rglob("*")) == before


def test_the_command_line_is_made_of_the_signature(capsys: Capsys) -> None:
    import inspect

    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name in inspect.signature(fit).parameters:
        assert (f"  --{name} " in text) == (name not in {"callbacks", "logger", "verbose", "hyperparameters"}), name
    for name in ("lr", "momentum", "weight_decay", "schedule"):
        assert f"  --model.{name} " in text and f"  --{name} " not in text
