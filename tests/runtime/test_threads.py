"""How many threads compute follows from the size of a step, and from whoever says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Capsys, Patch, config_of, fit, newest, results_of, state

from logreg_lightning import ImageDataModule
from logreg_lightning import fit as fit_from_python
from logreg_lightning.runtime import threads
from logreg_lightning.runtime.threads import threads_for, use_threads


@pytest.fixture
def eight_threads(monkeypatch: Patch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)


@pytest.mark.usefixtures("eight_threads")
@pytest.mark.parametrize(
    ("features", "batch_size", "classes", "expected"),
    [(64, 200, 10, 1), (784, 100, 10, 2), (784, 200, 10, 4), (784, 10_000, 10, 8), (3072, 1000, 1000, 8)],
)
def test_a_larger_step_gets_more_threads(features: int, batch_size: int, classes: int, expected: int) -> None:
    assert threads_for(features * batch_size * classes) == expected


@pytest.mark.usefixtures("eight_threads")
def test_the_environment_overrules_the_choice(monkeypatch: Patch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads_for(1) == 8


def test_leaves_the_number_as_it_was() -> None:
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    with use_threads(3):
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before


def test_a_run_says_and_keeps_its_number(workdir: Path, capsys: Capsys) -> None:
    flags = ["--data.dataset=mnist", "--data.batch_size=50", "--model.schedule=constant"]
    long = fit(*flags, "--threads=1", "--max_epochs=2")
    run = fit(*flags, "--threads=1", "--max_epochs=1")
    assert "Computing on the CPU with 1 thread\n" in capsys.readouterr().out
    fit("--resume=last", "--max_epochs=2")
    assert "Computing on the CPU with 1 thread\n" in capsys.readouterr().out
    assert state(run) == state(long)
    assert config_of(run)["threads"] == 1
    data = ImageDataModule("mnist", batch_size=50)
    fit_from_python(data, resume=str(newest()), schedule="constant", max_epochs=3, threads=2)
    assert "Computing on the CPU with 2 threads\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}])
def test_waiting_is_short_unless_the_environment_says_otherwise(given: dict[str, str]) -> None:
    """What libgomp read when torch loaded it, which OMP_DISPLAY_ENV makes it print."""
    if sys.platform != "linux":
        pytest.skip("torch computes with libgomp on Linux alone")
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, logreg_lightning; print(os.environ.get('GOMP_SPINCOUNT'))"
    env = {**kept, **given, "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    expected = {"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": None}.get(next(iter(given), ""), threads.SPIN)
    assert done.stdout.strip() == str(given.get("GOMP_SPINCOUNT"))  # nobody else's processes inherit it
    if expected is not None:
        assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr


def test_results_do_not_depend_on_who_chose_it(workdir: Path) -> None:
    flags = ["--data.dataset=mnist", "--max_epochs=1"]
    chosen = fit(*flags)
    results = [results_of(run) for run in (chosen, fit(*flags, f"--threads={config_of(chosen)['threads']}"))]
    assert results[0]["test/loss"] == results[1]["test/loss"]
