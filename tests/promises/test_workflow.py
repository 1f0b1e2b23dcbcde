"""The workflow for the usual host is valid, and tries every system with the oldest and the newest Python."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"
TEXT = WORKFLOW.read_text(encoding="utf-8")
CONTENT: dict[Any, Any] = yaml.safe_load(TEXT)
[JOB] = CONTENT["jobs"].values()
STEPS: list[dict[str, Any]] = JOB["steps"]


def schema_check(file: Path) -> subprocess.CompletedProcess[str]:
    """The schema comes with check-jsonschema, so nothing is fetched."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def commands(windows: bool) -> list[str]:
    """What the job runs on Windows, or elsewhere."""
    sign = "==" if windows else "!="
    return [
        line
        for step in STEPS
        if "run" in step and step["if"] == f"runner.os {sign} 'Windows'"
        for line in step["run"].splitlines()
    ]


def test_it_is_a_valid_workflow() -> None:
    done = schema_check(WORKFLOW)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_workflow_is_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "test.yml"
    broken.write_text(TEXT.replace("runs-on:", "runs_on:"), encoding="utf-8")
    assert schema_check(broken).returncode == 1


def test_every_system_meets_the_oldest_and_the_newest_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", line) for line in project["classifiers"]]
    minors = sorted(int(found[1]) for found in stated if found)
    assert project["requires-python"] == f">=3.{minors[0]}"
    matrix = JOB["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minors[0]}", f"3.{minors[-1]}"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert not matrix.keys() - {"os", "python"}  # nothing excluded


def test_the_gate_runs_everywhere() -> None:
    assert all(
        step.get("if") in ("runner.os == 'Windows'", "runner.os != 'Windows'") for step in STEPS if "run" in step
    )
    assert commands(windows=False) == ["make test PYTHON=python"]
    windows = "\n".join(commands(windows=True))
    for command in ("-m venv .venv", "-r requirements.txt --require-hashes", "ruff format --check .", "ruff check ."):
        assert command in windows
    assert "-m mypy" in windows and windows.endswith("-m pytest")
    # A shell that goes on after a failed command would hide it.
    assert all(step["shell"] == "bash" for step in STEPS if step.get("if") == "runner.os == 'Windows'")


def test_it_may_read_and_nothing_else() -> None:
    assert CONTENT["permissions"] == {"contents": "read"} and "permissions" not in JOB
    assert "secrets" not in TEXT
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


def test_it_names_no_package_index() -> None:
    assert "://" not in TEXT and "index" not in TEXT.lower()


def test_it_runs_for_pushes_and_pull_requests() -> None:
    assert CONTENT[True] == ["push", "pull_request"]  # YAML 1.1 reads the key `on` as true
