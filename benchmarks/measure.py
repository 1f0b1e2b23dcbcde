"""Fresh processes that take turns: how long they take, how much memory, and what they say they did."""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIT = [sys.executable, str(ROOT / "scripts" / "fit.py")]
NO_PICTURES = "--pictures=false"
QUICK = ["--max_steps=20", "--val_check_interval=10", NO_PICTURES]
PYTHONPATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH}

Figures = dict[str, float]
Measured = dict[str, list[Figures]]
"""Of each name, the figures of each time that it was measured."""


def in_turns(runs: Mapping[str, Sequence[Any]], repeats: int) -> dict[str, list[Any]]:
    """What each function returns for its arguments, one after the other, and that again."""
    from tqdm import tqdm

    measured: dict[str, list[Any]] = {name: [] for name in runs}
    for name in (bar := tqdm([*runs] * repeats, disable=None)):
        bar.set_description(name)
        function, *arguments = runs[name]
        measured[name].append(function(*arguments))
    return measured


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process, with the seconds of the whole process as `whole`."""
    name = function.__name__
    call = f"from {function.__module__} import {name}; found = {name}(*json.loads(sys.argv[1]))"
    code = f"import json, sys; {call}; print('\\n' + json.dumps(found))"
    # Some machines set these against faults of older OpenBLAS builds; they would slow scikit-learn down.
    env = {key: value for key, value in ENVIRONMENT.items() if not key.startswith("OPENBLAS_")}
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(arguments)]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, check=False)
        whole = time.perf_counter() - begun
    if done.returncode != 0:
        sys.exit(f"{done.stderr}{name} failed.")
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": whole}


def seconds_of(*command: str) -> Figures:
    """The seconds that a command takes, whatever its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, check=False)
        return {"whole": time.perf_counter() - begun}


def peak_of(*command: str, folder: str, env: dict[str, str] = ENVIRONMENT) -> float:
    """Bytes of memory that a process has of its own at the most: not files mapped, not the page cache."""
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL)
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None and status.exists():
        kilobytes = re.search(r"RssAnon:\s*(\d+)", status.read_text(encoding="utf-8"))
        peak = max(peak, int(kilobytes[1]) if kilobytes else 0)
        time.sleep(0.01)
    if process.wait() != 0:
        sys.exit(f"{' '.join(command)} failed.")
    return peak * 1024


def results_of(command: list[str], written: str, env: dict[str, str] = ENVIRONMENT) -> dict[str, Any]:
    """What a command of this project writes down, everything on, with its time as `whole` and its memory as `bytes`."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        memory = peak_of(*command, folder=folder, env=env)
        whole = time.perf_counter() - begun
        results = json.loads((Path(folder) / "lightning_logs" / written).read_text(encoding="utf-8"))
    return {**results, "whole": whole, "bytes": memory}


def fit(*flags: str, env: dict[str, str] = ENVIRONMENT) -> Figures:
    """The numbers among what scripts/fit.py writes down with these flags."""
    results = results_of([*FIT, *flags], "version_0/results.json", env)
    return {name: value for name, value in results.items() if isinstance(value, int | float)}


def mnist(root: str) -> list[str]:
    """Flags that train on MNIST on the CPU."""
    return ["--data.dataset=mnist", f"--data.root={root}", "--accelerator=cpu"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def machine() -> str:
    """What all this was measured on."""
    import torch

    from logreg_lightning.runtime.runs import versions

    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8") if info.exists() else "")
    processor = model[1] if model else platform.processor() or platform.machine()
    packages = ", ".join(f"{name} {number}" for name, number in versions().items() if number and name != "git_commit")
    device = f"; {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if torch.cuda.is_available() else ""
    count = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{processor}, {count}{device}; {packages}; commit {versions()['git_commit']}."
