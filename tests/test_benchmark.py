"""The benchmark runs, and says what it measured; how fast anything is, is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = str(Path(__file__).parents[1] / "scripts" / "benchmark.py")


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("recipe", {"(a) the tutorial's loop", "(b) stock Lightning", "(c) bare loop", "(d) this project"}),
        ("size", {"600", "1200"}),
        ("evaluate", {"this project"}),
    ],
)
def test_quick_benchmark_measures_everyone(workdir: Path, part: str, names: set[str]) -> None:
    command = [sys.executable, BENCHMARK, "--quick=true", "--json_=true", f"--only={part}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "torch" in found["machine"]
    assert set(found[part]) == names
    for figures in found[part].values():
        assert len(figures) == 1 and all(value >= 0 for value in figures[0].values())


def test_tables_are_pasted_between_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(BENCHMARK).parent))
    import benchmark

    monkeypatch.setattr(benchmark, "PARTS", {"recipe": lambda *_: ("| a table |", {})})
    page = tmp_path / "page.md"
    begin, end = "<!-- benchmark: written by scripts/benchmark.py --write -->", "<!-- /benchmark -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    for _ in range(2):
        benchmark.main(write=str(page))
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "| a table |" in lines and "old" not in lines and lines.count("| a table |") == 1
