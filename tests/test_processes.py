"""Several processes train and evaluate as one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import outcome, small_mnist

from logreg_lightning.checkpoints import read

FIT = Path(__file__).parents[1] / "scripts" / "fit.py"
FLAGS = ["--data.dataset=mnist", "--data.batch_size=7", "--max_epochs=2", "--accelerator=cpu"]  # 540 = 77 x 7 + 1


def run(*flags: str) -> Path:
    done = subprocess.run([sys.executable, FIT, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nRun: ") == 1
    return max(Path("lightning_logs").iterdir(), key=lambda run: int(run.name.split("_")[1]))


def weights(run: Path) -> torch.Tensor:
    return torch.cat([value.flatten() for value in read(run / "checkpoints/last.ckpt")["state_dict"].values()])


@pytest.fixture
def ten_thousand_test_images(workdir: Path) -> None:
    for name, content in small_mnist(600, 10_000).items():
        (workdir / "data" / "MNIST" / "raw" / name).write_bytes(content)


@pytest.mark.usefixtures("ten_thousand_test_images")
def test_two_processes_equal_one_and_three_count_every_image_once() -> None:
    one = run(*FLAGS)
    two, again = run(*FLAGS, "--devices=2"), run(*FLAGS, "--devices=2")
    assert outcome(two) == outcome(again)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-6, rtol=0)
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    assert [found["devices"] for found in results] == [1, 2]
    assert results[0]["steps"] == results[1]["steps"] == 2 * 78

    # The same weights, tested by three: 10,000 images do not divide by 3.
    (one / "results.json").unlink()
    run("--resume", str(one), "--devices=3")
    by_three = json.loads((one / "results.json").read_text())
    assert by_three["devices"] == 3
    for name in ("test/accuracy", "test/loss", "test/calibration_error"):
        assert by_three[name] == results[0][name], name

    # One goes on where two began, and the other way round.
    long = run(*FLAGS, "--max_epochs=4", "--model.schedule=constant")
    for first, then in ((1, 2), (2, 1)):
        short = run(*FLAGS, "--model.schedule=constant", f"--devices={first}")
        run("--resume", str(short), "--max_epochs=4", f"--devices={then}")
        torch.testing.assert_close(weights(short), weights(long), atol=1e-6, rtol=0)


def test_two_processes_with_fewer_test_images_than_batches(workdir: Path) -> None:
    one, two = (run("--data.dataset=digits", "--max_epochs=1", "--accelerator=cpu", f"--devices={n}") for n in (1, 2))
    found = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    assert found[0]["test/accuracy"] == found[1]["test/accuracy"]
    assert found[0]["test/loss"] == pytest.approx(found[1]["test/loss"], rel=1e-5)
