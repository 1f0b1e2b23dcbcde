"""The benchmark runs, and says what it measured; how fast anything is, is not tested."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import contents

from logreg_lightning.data.pictures import read_picture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BENCHMARK = str(ROOT / "scripts" / "benchmark.py")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark

    return benchmark


@pytest.fixture
def here(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has what is measured in a fresh process run in this one, which has imported everything."""

    def in_this_process(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            return {**function(*json.loads(json.dumps(arguments))), "whole": 1.0}

    threads = torch.get_num_threads()
    monkeypatch.setattr(benchmark, "in_a_process", in_this_process)
    yield
    torch.set_num_threads(threads)


def run(*flags: str) -> str:
    """What the script prints, in a process of its own."""
    done = subprocess.run([sys.executable, BENCHMARK, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_it_measures_has_a_process_of_its_own(workdir: Path) -> None:
    found = json.loads(run("--quick=true", "--json_=true", "--only=evaluate"))
    assert found["evaluate"]["this project"][0]["whole"] > 1 and "torch" in found["machine"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("recipe", {"(a) the tutorial's loop", "(b) stock Lightning", "(c) bare loop", "(d) this project"}),
        ("size", {"600", "1200"}),
        ("evaluate", {"this project"}),
        ("images", {"seed 0"}),
        ("features", {"this project", "lbfgs"}),
        ("backbones", {"efficientnet-lite0", "torchvision/resnet18"}),
        ("sweep", {"fit.py", "8", "grid"}),
    ],
)
def test_quick_benchmark_measures_everyone(
    workdir: Path, benchmark: ModuleType, capsys: pytest.CaptureFixture[str], part: str, names: set[str]
) -> None:
    benchmark.main(only=part, quick=True, json_=True)
    found = json.loads(capsys.readouterr().out)
    assert "torch" in found["machine"]
    assert set(found[part]) == names
    for figures in found[part].values():
        assert len(figures) == 1 and all(value >= 0 for value in figures[0].values())


@pytest.mark.usefixtures("here")
def test_quick_benchmark_tries_every_number_of_threads(
    workdir: Path, benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(only="threads", quick=True, json_=True)
    found = json.loads(capsys.readouterr().out)["threads"]
    [steps] = found.pop("a step")
    del steps["whole"]
    counts = benchmark.thread_counts()
    assert counts[0] == 1 and counts[-1] == benchmark.cores()
    assert len(steps) == len(counts) * len(benchmark.BATCHES) * len(benchmark.FEATURES)
    assert all(value > 0 for value in steps.values())
    settings = {"`OMP_NUM_THREADS=1`", f"`OMP_NUM_THREADS={benchmark.cores()}`", "nothing set"}
    assert set(found) == {*(f"{name}, idle" for name in settings), "nothing set, beside two busy processes"}
    for figures in found.values():
        assert len(figures) == 1 and figures[0]["steps"] == 20


def test_the_best_rate_is_that_of_the_best_mean(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up figures: the second rate is best for seed 1 alone, the third on the whole."""
    monkeypatch.setattr(benchmark, "RATES", [0.01, 0.1, 1.0])
    monkeypatch.setattr(benchmark, "picture_folders", lambda *_: {})
    accuracies = {0.01: [0.5, 0.5, 0.5], 0.1: [0.6, 0.99, 0.6], 1.0: [0.94, 0.93, 0.92]}

    def made_up(_: object, sets: dict[str, object], rates: list[float], seed: int, limits: object) -> dict[str, float]:
        found = {"images": 1234, "classes": 10, "test/accuracy": 0.925 + seed / 1000, "test/loss": 0.25, "val/loss": 1}
        found |= {f"test/accuracy at {rate}": accuracies[rate][seed] for rate in rates}
        return {f"{name}: {figure}": value for name in sets for figure, value in found.items()}

    monkeypatch.setattr(benchmark, "in_a_process", made_up)
    table, found = benchmark.images(Path("data"), 5, False)
    assert set(found) == {"seed 0", "seed 1", "seed 2"}
    assert "| mnist | 1,234 | 10 | 0.9260 | 0.2500 | 0.9300 | 1 | -0.40 |" in table.splitlines()
    assert "| mnist: test accuracy | **0.9260** | at least 0.924 |" in table.splitlines()
    assert "| worst difference, in points | **-0.40** | at least -0.5 |" in table.splitlines()
    assert "| `val/loss` at the end / log(classes), largest | **0.43** | at most 1 |" in table.splitlines()


def test_a_rate_at_which_training_diverges_counts_as_0(workdir: Path, benchmark: ModuleType) -> None:
    limits = {"max_steps": 50, "val_check_interval": 50}
    found = benchmark.untuned({"digits": {"dataset": "digits"}}, [0.01, 1e30], 0, limits)
    assert found["digits: test/accuracy at 1e+30"] == 0
    assert min(found["digits: test/accuracy"], found["digits: test/accuracy at 0.01"]) > 0.5
    assert (found["digits: images"], found["digits: classes"]) == (1438, 10)


def test_pictures_are_what_their_names_say_and_the_same_each_time(workdir: Path, benchmark: ModuleType) -> None:
    first, again = (benchmark.picture_folders(Path("data"), Path(name), True) for name in ("first", "again"))
    assert first.keys() == again.keys()
    made = contents(Path("first"))
    assert {file.relative_to("first"): content for file, content in made.items()} == {
        file.relative_to("again"): content for file, content in contents(Path("again")).items()
    }
    counts = Counter((*file.parts[1:-2], file.parent.name == "8") for file in made)
    for split in ("train", "test"):
        assert counts["jpegs", split, False] + counts["jpegs", split, True] == 100
    assert (counts["rare", "train", False], counts["rare", "train", True]) == (99, 1)
    assert [len(list(Path("first/few/train", digit).iterdir())) for digit in "35"] == [10, 10]
    assert counts["tints", False] + counts["tints", True] == 1797
    jpegs = [read_picture(file) for file in Path("first/jpegs").rglob("*.jpg")]
    assert {picture.mode for picture in jpegs} == {"RGB"}
    assert len({picture.size for picture in jpegs}) > 20 and all(20 <= picture.width <= 60 for picture in jpegs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_writes_nothing(workdir: Path, benchmark: ModuleType) -> None:
    page = Path("page.md")
    page.write_text(benchmark.begin() + "not measured yet\n" + benchmark.END, encoding="utf-8")
    assert run("--only=gpu", f"--write={page}") == f"{benchmark.NO_GPU}\n"
    assert "not measured yet" in page.read_text(encoding="utf-8")


def test_the_default_set_has_the_gpu_where_there_is_one(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "PARTS", {name: lambda *_: ("a table", {}) for name in ("recipe", "gpu")})
    for there in (False, True):
        monkeypatch.setattr(benchmark, "has_gpu", lambda there=there: there)
        monkeypatch.setattr(benchmark, "machine", lambda: "a machine")
        benchmark.main(json_=True)
        assert ("gpu" in json.loads(capsys.readouterr().out)) is there


def test_a_gpus_figures_fill_its_page(tmp_path: Path, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up figures: where they come from, only a GPU can show."""
    page = tmp_path / "gpu.md"
    shutil.copyfile(ROOT / "docs" / "gpu.md", page)
    steps = {f"{kind} {batch}": 3.0 for kind in ("graph", "single") for batch in (100, 1_000)}
    figures = {"fit": 1.0, "whole": 2.0, "bandwidth": 1234.0, "replay": 56.0, **steps}
    monkeypatch.setattr(benchmark, "has_gpu", lambda: True)
    monkeypatch.setattr(benchmark, "machine", lambda: "a machine with a GPU")
    for name in ("in_a_process", "fit"):
        monkeypatch.setattr(benchmark, name, lambda *_, **__: figures)
    benchmark.main(only="gpu", write=str(page))
    text = page.read_text(encoding="utf-8")
    assert text.count(benchmark.begin()) == text.count(benchmark.END) == 1
    tables = text.partition(benchmark.begin())[2].partition(benchmark.END)[0]
    assert tables.startswith("a machine with a GPU\n\n### ")
    assert "not measured yet" not in text.lower() and "1,230 GB/s" in tables and "56 µs" in tables


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("given", [[], ["BIN=/elsewhere/bin"]])
def test_make_gpu_takes_the_interpreter_it_is_given(given: list[str]) -> None:
    """One that has torch is not asked for a .venv beside it."""
    make = ["make", "--no-print-directory", "--always-make", "--dry-run", "gpu", *given]
    env = {name: value for name, value in os.environ.items() if name not in ("VENV", "BIN") and "MAKE" not in name}
    done = subprocess.run(make, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert ("-m venv" in done.stdout) is (not given)
    interpreter = f"{given[0].removeprefix('BIN=')}/python" if given else ".venv/bin/python"
    ours = [line for line in done.stdout.splitlines() if "tests/promises/test_gpu.py" in line or "benchmark.py" in line]
    assert ours and all(interpreter in line for line in ours)


def test_a_part_with_a_place_of_its_own_goes_there(benchmark: ModuleType) -> None:
    page = "".join(["before\n", *(f"{benchmark.begin(part)}old\n{benchmark.END}after\n" for part in (None, "threads"))])
    both = benchmark.paste(page, "a machine", {"recipe": "new recipe", "threads": "new threads"})
    assert "old" not in both and both.index("new recipe") < both.index(benchmark.begin("threads"))
    assert both.index("new threads") > both.index(benchmark.begin("threads"))
    alone = benchmark.paste(page, "a machine", {"threads": "new threads"})
    assert alone.count("old") == 1 and alone.index("old") < alone.index("new threads")
    assert both.count("after") == alone.count("after") == 2 and both.startswith("before\n")


def test_tables_are_pasted_between_their_marks(
    tmp_path: Path, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "PARTS", {"recipe": lambda *_: ("| a table |", {})})
    page = tmp_path / "page.md"
    begin, end = "<!-- benchmark: written by scripts/benchmark.py --write -->", "<!-- /benchmark -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    for _ in range(2):
        benchmark.main(write=str(page))
    lines = page.read_text(encoding="utf-8").splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "| a table |" in lines and "old" not in lines and lines.count("| a table |") == 1
