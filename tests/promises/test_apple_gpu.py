"""Everything works on a device without float64, and gives what the CPU gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from conftest import curves, fit, results_of
from tolerance import assert_trained_alike

from logreg_lightning.runtime.checkpoints import read

pytestmark = pytest.mark.slow


@pytest.mark.skipif(shutil.which("g++") is None, reason="the pretended Apple GPU is compiled with g++")
def test_a_device_that_refuses_float64_trains_as_the_cpu_does(workdir: Path) -> None:
    PIL.Image.new("L", (40, 40), 200).save("picture.png")
    command = [sys.executable, str(Path(__file__).with_name("fake_apple_gpu.py")), str(workdir)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "`precision" not in done.stderr and "an Apple GPU has no float64; use --accelerator cpu" in done.stderr
    assert "Traceback" not in done.stderr
    run = Path("lightning_logs/version_1")
    same = fit(
        "--data.dataset=mnist", "--max_epochs=3", "--model.schedule=constant", "--accelerator=cpu", "--threads=2"
    )
    found, expected = (read(r / "checkpoints/last.ckpt") for r in (run, same))
    assert_trained_alike(found["state_dict"], expected["state_dict"], expected["global_step"])
    assert [step for step, _ in curves(run)["train/loss"]] == [step for step, _ in curves(same)["train/loss"]]
    results = results_of(run)
    assert results["accelerator"] == "mps" and results["epochs"] == 3
    for file in ("shown/weights.png", "seen.png", "model.onnx"):
        assert Path(file).is_file()
