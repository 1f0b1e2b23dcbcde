"""`fit` called from Python does what the command does, and leaves the caller's process as it was."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Capsys, Patch, newest, outcome, results_of
from conftest import fit as command

from logreg_lightning import ImageDataModule, InputError, LogisticRegression, fit
from logreg_lightning.fit import main

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


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_first_and_the_same_call_resumes(
    workdir: Path, monkeypatch: Patch, capsys: Capsys, signum: signal.Signals
) -> None:
    expected = outcome(fit(small(), **SHORT).path)
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    step = LogisticRegression.training_step

    def step_then_signal(self: LogisticRegression, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            signal.raise_signal(signum)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LogisticRegression, "training_step", step_then_signal)
        with pytest.raises(KeyboardInterrupt if signum == signal.SIGINT else SystemExit):
            fit(small(), **SHORT)
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before
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


def test_a_module_of_data_serves_several_runs(workdir: Path) -> None:
    data = small()
    for seed in (1, 2):
        run = fit(data, seed=seed, **SHORT)
        same = command("--data.dataset=mnist", "--data.batch_size=4", "--max_epochs=2", f"--seed={seed}")
        assert outcome(run.path) == outcome(same)


def test_trains_outside_the_main_thread(workdir: Path) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(fit(small(), **SHORT)))
    thread.start()
    thread.join()
    assert found[0].results["epochs"] == 2


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"lr": -1}, "`lr` must be auto or a positive number, not -1"),
        ({"schedule": "wavy"}, "`schedule` must be constant or cosine"),
        ({"max_epochs": 0}, "`max_epochs` must be at least 1, not 0"),
        ({"resume": "last"}, "no checkpoint found"),
        ({"accelerator": "abacus"}, "`accelerator='abacus'`.* are not available"),
    ],
)
def test_an_error_names_the_parameter(workdir: Path, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        fit(small(), **{**SHORT, **wrong})
    assert "--" not in str(caught.value).partition(";")[0]
    assert not Path("lightning_logs").exists()


def test_a_parameter_that_nothing_has_is_a_type_error(workdir: Path) -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        fit(small(), learning_rate=0.1)
    assert not Path("lightning_logs").exists()


def test_the_command_line_is_made_of_the_signature(capsys: Capsys) -> None:
    import inspect

    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name in inspect.signature(fit).parameters:
        assert (f"  --{name} " in text) == (name not in {"callbacks", "logger", "verbose", "hyperparameters"}), name
    for name in ("lr", "momentum", "weight_decay", "schedule"):
        assert f"  --model.{name} " in text and f"  --{name} " not in text
