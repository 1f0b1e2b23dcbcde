"""The benchmarks run, and say what they measured; how fast anything is, is not tested."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Capsys, Patch, contents, said_by

from benchmarks import images, measure, report, step, threads
from benchmarks import run as command
from logreg_lightning.data.pictures import read_picture
from logreg_lightning.fit import main as fit
from logreg_lightning.sweep import main as sweep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARTS = {
    "recipe": {"(a) the tutorial's loop", "(b) stock Lightning", "(c) bare loop", "(d) this project"},
    "size": {"600", "1200"},
    "evaluate": {"this project"},
    "step": {step.name_of(*size) for size in step.SIZES},
    "images": {
        *("mnist", "digits", images.JPEGS, images.INVERTED, images.TINTS, images.RARE, images.FEW),
        *(images.COMMON, images.SCALES, images.OVERLAPPING, images.MANY, images.CORRELATED, images.FEW_ROWS),
    },
    "features": {"this project", "lbfgs"},
    "backbones": {"efficientnet-lite0", "torchvision/resnet18"},
    "sweep": {"`fit.py`", "8", "grid"},
}


@pytest.fixture
def here(monkeypatch: Patch) -> Iterator[None]:
    """Runs in this process, which has imported everything, what is measured in a fresh one."""

    def in_this_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        return {**function(*json.loads(json.dumps(arguments))), "whole": 1.0}

    def peak_of(*words: str, folder: str, **_: Any) -> float:
        if words[1].endswith(".py"):
            with contextlib.chdir(folder):
                {"fit.py": fit, "sweep.py": sweep}[Path(words[1]).name](list(words[2:]))
        return 0.0

    count = torch.get_num_threads()
    for module in (measure, *(importlib.import_module(f"benchmarks.{name}") for name in command.ON_CPU)):
        monkeypatch.setattr(module, "in_a_process", in_this_process, raising=False)
        monkeypatch.setattr(module, "peak_of", peak_of, raising=False)
    yield
    torch.set_num_threads(count)


def test_what_is_measured_has_a_process_of_its_own(workdir: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--quick", "--json_=true", "--only=evaluate"]
    measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert measured["evaluate"]["this project"][0]["whole"] > 1 and "torch" in measured["machine"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("part", PARTS)
def test_a_quick_run_measures_everyone_and_makes_a_table(workdir: Path, part: str) -> None:
    module = importlib.import_module(f"benchmarks.{part}")
    measured = json.loads(json.dumps(module.measure(str(Path("data").resolve()), 1, True)))
    assert set(measured) == PARTS[part]
    for figures in measured.values():
        assert len(figures) == 1 and all(value >= 0 for value in figures[0].values())
    assert module.table(measured).startswith("### ")


@pytest.mark.usefixtures("here")
def test_a_quick_run_tries_every_number_of_threads(workdir: Path) -> None:
    measured = threads.measure(str(Path("data").resolve()), 1, True)
    counts = threads.thread_counts()
    assert counts[0] == 1 and counts[-1] == measure.cores()
    steps = [runs for runs in measured.values() if "fit_seconds" not in runs[0]]
    assert len(steps) == len(threads.BATCHES) * len(threads.FEATURES)
    assert all([*map(int, figures)] == counts and min(figures.values()) > 0 for [figures] in steps)
    trained = {name for name, [figures] in measured.items() if figures.get("steps") == 20}
    assert trained == {"nothing set, idle", "nothing set, beside two busy processes"}
    assert "| nothing set: busy / idle | **" in threads.table(measured)


def test_the_best_rate_is_that_of_the_best_mean() -> None:
    """With made-up figures: the second rate is best for seed 1 alone, the third on the whole."""
    accuracies = {0.01: [0.5, 0.5, 0.5], 0.1: [0.6, 0.99, 0.6], 1.0: [0.94, 0.93, 0.92]}
    rest = {"images": 1234, "classes": 10, "test/loss": 0.25, "val/loss": 1.0}
    runs = [
        {**rest, "test/accuracy": 0.925 + seed / 1000}
        | {f"{images.AT}{rate}": values[seed] for rate, values in accuracies.items()}
        for seed in range(3)
    ]
    lines = images.table({"mnist": runs, "digits": runs}).splitlines()
    assert "| mnist | 1,234 | 10 | 0.9260 | 0.2500 | 0.9300 | 1 | -0.40 |" in lines
    assert "| mnist: test accuracy | **0.9260** | at least 0.924 |" in lines
    assert "| worst difference, in points | **-0.40** | at least -0.5 |" in lines
    assert "| `val/loss` at the end / log(classes), largest | **0.43** | at most 1 |" in lines


def test_a_rate_at_which_training_diverges_counts_as_0(workdir: Path) -> None:
    limits = {"max_steps": 50, "val_check_interval": 50}
    reached = images.untuned({"digits": {"dataset": "digits"}}, [0.01, 1e30], 0, limits)["digits"]
    assert reached["test/accuracy at 1e+30"] == 0
    assert min(reached["test/accuracy"], reached["test/accuracy at 0.01"]) > 0.5
    assert (reached["images"], reached["classes"]) == (1438, 10)


def test_pictures_are_what_their_names_say_and_the_same_each_time(workdir: Path) -> None:
    first, again = (images.picture_folders("data", Path(name), True) for name in ("first", "again"))
    assert first.keys() == again.keys()
    made, same = (
        {file.relative_to(name): content for file, content in contents(Path(name)).items()}
        for name in ("first", "again")
    )
    assert made == same
    counts = Counter((*file.parts[:-2], file.parent.name == "8") for file in made)
    for split in ("train", "test"):
        assert counts[images.JPEGS, split, False] + counts[images.JPEGS, split, True] == 100
    assert (counts[images.RARE, "train", False], counts[images.RARE, "train", True]) == (99, 1)
    assert [len(list(Path("first", images.FEW, "train", digit).iterdir())) for digit in "35"] == [10, 10]
    assert counts[images.TINTS, False] + counts[images.TINTS, True] == 1797
    jpegs = [read_picture(file) for file in Path("first", images.JPEGS).rglob("*.jpg")]
    assert {picture.mode for picture in jpegs} == {"RGB"}
    assert len({picture.size for picture in jpegs}) > 20 and all(20 <= picture.width <= 60 for picture in jpegs)


@pytest.mark.parametrize("flags", [["--only=nothing"], ["--repeats=0"], ["--write=nowhere.md"], ["--quick=maybe"]])
def test_bad_input_is_one_sentence(workdir: Path, flags: list[str], capsys: Capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(flags)
    assert ended.value.code == 2 and flags[0].partition("=")[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, capsys: Capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text(report.begin() + "as before\n" + report.END, encoding="utf-8")
    printed = said_by(command.main, ["--only=gpu", f"--write={page}"], capsys)
    assert printed == f"{command.NO_GPU}\n" and "as before" in page.read_text(encoding="utf-8")


def test_a_gpus_figures_fill_its_page(tmp_path: Path, monkeypatch: Patch) -> None:
    """With made-up figures, for only a GPU can show others; by default it is measured last where there is one."""
    page = tmp_path / "gpu.md"
    shutil.copyfile(ROOT / "docs" / "gpu.md", page)
    steps = {f"{kind} {batch}": 3.0 for kind in ("graph", "single") for batch in (100, 1_000)}
    figures = {"fit_seconds": 1.0, "whole": 2.0, "bandwidth": 1234.0, "replay": 56.0, **steps}
    gpu = importlib.import_module("benchmarks.gpu")
    for name in ("in_a_process", "fit"):
        monkeypatch.setattr(gpu, name, lambda *_: figures)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "MNIST", lambda *_, **__: None)
    monkeypatch.setattr(command, "machine", lambda: "a machine with a GPU")
    monkeypatch.setattr(command, "ON_CPU", [])
    command.main([f"--write={page}"])
    text = page.read_text(encoding="utf-8")
    assert text.count(report.begin()) == text.count(report.END) == 1
    tables = text.partition(report.begin())[2].partition(report.END)[0]
    assert tables.startswith("a machine with a GPU\n\n### ") and "1,230 GB/s" in tables and "56 µs" in tables


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("given", [[], ["BIN=/elsewhere/bin"]])
def test_make_gpu_takes_the_interpreter_it_is_given(given: list[str]) -> None:
    """One that has torch is not asked for a .venv beside it."""
    make = ["make", "--no-print-directory", "--always-make", "--dry-run", "gpu", *given]
    env = {name: value for name, value in os.environ.items() if name not in ("VENV", "BIN") and "MAKE" not in name}
    done = subprocess.run(make, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert ("-m venv" in done.stdout) is (not given)
    interpreter = f"{given[0].removeprefix('BIN=')}/python" if given else ".venv/bin/python"
    ours = [
        line for line in done.stdout.splitlines() if "tests/promises/test_gpu.py" in line or "benchmarks/run.py" in line
    ]
    assert ours and all(interpreter in line for line in ours)


def test_a_table_with_a_place_of_its_own_goes_there() -> None:
    page = "".join(["before\n", *(f"{report.begin(part)}old\n{report.END}after\n" for part in (None, "threads"))])
    both = report.paste(page, "a machine", {"recipe": "new recipe", "threads": "new threads"})
    assert "old" not in both and both.index("new recipe") < both.index(report.begin("threads"))
    assert both.index("new threads") > both.index(report.begin("threads"))
    alone = report.paste(page, "a machine", {"threads": "new threads"})
    assert alone.count("old") == 1 and alone.index("old") < alone.index("new threads")
    assert both.count("after") == alone.count("after") == 2 and both.startswith("before\n")
    assert report.paste(both, "a machine", {"recipe": "new recipe", "threads": "new threads"}) == both
