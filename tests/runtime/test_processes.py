"""Several processes train and evaluate as one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SCRIPTS, fit, newest, not_on_windows, results_of, run_script, small_mnist, weights_of
from tolerance import LOSS, assert_trained_alike

pytestmark = pytest.mark.slow

FIT = str(SCRIPTS / "fit.py")
FLAGS = ["--data.dataset=mnist", "--data.batch_size=7", "--max_epochs=2", "--accelerator=cpu", "--pictures=false"]
FLAGS += ["--model.schedule=constant"]
# 540 images are 77 x 7 + 1


def run(*flags: str, **environment: str) -> Path:
    assert run_script("fit", *flags, **environment).count("\nRun: ") == 1
    return newest()


@pytest.fixture
def ten_thousand_test_images(workdir: Path) -> None:
    for name, content in small_mnist(600, 10_000).items():
        (workdir / "data" / "MNIST" / "raw" / name).write_bytes(content)


@pytest.mark.usefixtures("ten_thousand_test_images")
def test_two_processes_equal_one_and_three_count_every_image_once() -> None:
    one = fit(*FLAGS)
    two = run(*FLAGS, "--devices=2", PL_GLOBAL_SEED="5")  # which another's run left behind
    assert_trained_alike(weights_of(two), weights_of(one), 2 * 78)
    results = [results_of(folder) for folder in (one, two)]
    assert [found["devices"] for found in results] == [1, 2]
    assert results[0]["steps"] == results[1]["steps"] == 2 * 78

    # The same weights, tested by three: 10,000 images do not divide by 3. No batch is divided, so all is equal.
    (one / "results.json").unlink()
    run("--resume", str(one), "--devices=3")
    by_three = results_of(one)
    assert by_three["devices"] == 3
    for name in ("test/accuracy", "test/loss", "test/calibration_error"):
        assert by_three[name] == results[0][name], name

    # One continues what two began, and the other way round.
    long = fit(*FLAGS, "--max_epochs=4")
    run("--resume", str(one), "--max_epochs=4", "--devices=2")
    fit("--resume", str(two), "--max_epochs=4", "--devices=1")
    for short in (one, two):
        assert_trained_alike(weights_of(short), weights_of(long), 4 * 78)


def test_two_processes_with_fewer_test_images_than_batches(workdir: Path) -> None:
    flags = ["--data.dataset=digits", "--max_epochs=1", "--accelerator=cpu", "--pictures=false"]
    one, two = fit(*flags), run(*flags, "--devices=2")
    found = [results_of(folder) for folder in (one, two)]
    assert found[0]["test/accuracy"] == found[1]["test/accuracy"]
    assert found[0]["test/loss"] == pytest.approx(found[1]["test/loss"], **LOSS)


def test_torchrun_starts_them_too(workdir: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", FIT]
    flags = ["--max_epochs=1", "--devices=2", "--data.batch_size=7", "--accelerator=cpu", "--pictures=false"]
    subprocess.run([*torchrun, *flags], capture_output=True, check=True)
    assert [folder.name for folder in Path("lightning_logs").iterdir()] == ["version_0"]
    results = results_of(Path("lightning_logs/version_0"))
    assert (results["steps"], results["devices"]) == (78, 2)


KILLER = """
import os, runpy, signal, subprocess, sys
script, victim = sys.argv[1:3]
if os.environ.get("LOCAL_RANK") == "1":
    os.kill(os.getpid() if victim == "started" else os.getppid(), signal.SIGKILL)
popen = subprocess.Popen
def start(command, *args, **kwargs):
    again = [sys.executable, "killer.py", script, victim, *command[2:]] if command[1] == script else command
    return popen(again, *args, **kwargs)
subprocess.Popen = start
sys.argv[:3] = [script]
runpy.run_path(script, run_name="__main__")
"""


@not_on_windows("a process does not notice that the one that started it has ended")
@pytest.mark.parametrize("victim", ["started", "starter"])
def test_one_that_is_killed_early_ends_the_other(workdir: Path, victim: str) -> None:
    """Before they have met, where nothing but a watch over each other can notice."""
    Path("killer.py").write_text(KILLER, encoding="utf-8")
    command = [sys.executable, "killer.py", FIT, victim, *FLAGS, "--devices=2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == (1 if victim == "started" else -9)
    assert "another process of this run has ended; resume with" in ended.stderr
    assert "Traceback" not in ended.stderr
