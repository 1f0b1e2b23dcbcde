"""Real processes, stopped at random moments and resumed, end as if nobody had stopped them.

make soak N=100 stops a hundred; `pytest tests/promises/test_kills.py --kill-seed 123` repeats a run's moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import SCRIPTS, Capsys, outcome
from test_sweep import outcome as sweep_outcome

pytestmark = pytest.mark.slow

BASE = ["--data.dataset=mnist", "--data.batch_size=4", "--max_epochs=8", "--accelerator=cpu"]  # 135 steps an epoch
RUNS = {
    "default": BASE,
    "one step a call": [*BASE, "--pictures=false", "--data.steps_per_execution=1", "--model.weight_decay=0.001"],
    "seven steps a call": [*BASE, "--pictures=false", "--data.steps_per_execution=7", "--model.schedule=constant"],
    "sweep": [*BASE, "--pictures=false", "--model.lr=0.001,0.01,0.02", "--model.momentum=0,0.9", "--seed=0,1"],
    "interval": [*BASE, "--pictures=false", "--data.val_size=0", "--val_check_interval=60", "--max_steps=1000"],
}
if sys.platform == "win32":  # one way to end a process, which none can catch, and of which no other is told
    KILL, SIGNALS = signal.SIGTERM, [signal.SIGTERM]
    EXPECTED_STATUS = {KILL: 15}
else:
    KILL, SIGNALS = signal.SIGKILL, [*[signal.SIGKILL] * 4, signal.SIGTERM, signal.SIGINT]
    EXPECTED_STATUS = {KILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    RUNS["two processes"] = [*BASE, "--pictures=false", "--devices=2", "--max_epochs=4"]


@dataclass
class Stop:
    """When, counted in seconds from the first line that the process prints or from its start, and how."""

    signum: signal.Signals
    share: float  # of the time that the whole run takes
    from_start: bool
    child: bool  # of two processes, kill the one that the other started


@dataclass
class Trial:
    """A run that is stopped again and again, then let go to its end."""

    name: str
    stops: list[Stop]
    folder: Path
    log: list[str] = field(default_factory=list)
    landed: int = 0


def start(script: str, flags: list[str], folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script), *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def command(trial: Trial, data: Path) -> tuple[str, list[str]]:
    """The script and its flags."""
    begun = (left_by(trial) / "config.yaml").is_file()
    script = "sweep.py" if trial.name == "sweep" else "fit.py"
    return script, ["--resume=last"] if begun else [*RUNS[trial.name], f"--data.root={data}"]


def left_by(trial: Trial) -> Path:
    return trial.folder / "lightning_logs" / ("sweep_0" if trial.name == "sweep" else "version_0")


def outcome_of(trial: Trial) -> dict[str, object]:
    return sweep_outcome(left_by(trial), trial.folder) if trial.name == "sweep" else outcome(left_by(trial))


def started_by(process: subprocess.Popen[str]) -> list[int]:
    """Other processes of the run."""
    if sys.platform == "darwin":
        command = ["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "args="]
        listed = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
        found = [line.split(None, 2) for line in listed if b"fit.py" in line]
        return [int(pid) for pid, parent, _ in found if int(parent) == process.pid]
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        return [int(pid) for pid in children if b"fit.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:
        return []


def stop(trial: Trial, stop: Stop, data: Path, seconds: float) -> None:
    process = start(*command(trial, data), trial.folder)
    assert process.stdout is not None
    first = "" if stop.from_start else process.stdout.readline()
    done = threading.Event()
    done.wait(stop.share * (4.0 if stop.from_start else seconds))  # the random moment; nothing ever sets it
    there = process.poll() is None
    children = started_by(process) if stop.child else []
    if there:
        os.kill(children[0] if children else process.pid, stop.signum)
    output = first + process.stdout.read()  # ends when the last process of the run has ended
    status = process.wait()
    trial.log.append(f"{stop}: {status}\n{output}")
    trial.landed += there and status != 0
    assert "Traceback" not in output, output
    if not there or status == 0:
        return  # it was quicker
    # Outside the training loop a signal just ends the process.
    if children:
        assert status == 1 and "another process of this run has ended; resume with" in output, output
    else:
        assert status in (EXPECTED_STATUS[stop.signum], -stop.signum), output
    if status in (130, 143):
        resume = left_by(trial).relative_to(trial.folder)
        assert f"{'sweep' if trial.name == 'sweep' else 'fit'}.py --resume {resume}" in output


def finish(trial: Trial, data: Path) -> dict[str, object]:
    process = start(*command(trial, data), trial.folder)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return outcome_of(trial)


def differences(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    return [
        f"{key}: {json.dumps(expected[key])[:300]} became {json.dumps(found[key])[:300]}"
        for key in expected
        if expected[key] != found[key]
    ]


def test_stopped_runs_end_as_if_they_had_not_been(workdir: Path, pytestconfig: pytest.Config, capsys: Capsys) -> None:
    count, seed = pytestconfig.getoption("--kills"), pytestconfig.getoption("--kill-seed")
    with capsys.disabled():
        print(f"\n{count} stops at the moments of --kill-seed {seed}")
    chance = random.Random(seed)
    data = workdir / "data"
    expected, seconds = {}, {}
    trials: list[Trial] = []
    names = list(RUNS)
    while sum(len(trial.stops) for trial in trials) < count:
        name = names[len(trials) % len(names)]
        stops = [
            Stop(
                signum=chance.choice(SIGNALS),
                share=chance.random(),
                from_start=chance.random() < 0.1,
                child=name == "two processes" and chance.random() < 0.5,
            )
            for _ in range(min(chance.randint(1, 3), count - sum(len(trial.stops) for trial in trials)))
        ]
        for one in stops:
            one.signum = KILL if one.child else one.signum
        trials.append(Trial(name, stops, workdir / f"trial{len(trials)}"))

    for name in {trial.name: None for trial in trials}:  # alone, so that the time it takes is its own
        whole = Trial(name, [], workdir / name.replace(" ", "_"))
        process = start(*command(whole, data), whole.folder)
        assert process.stdout is not None
        first, begun = process.stdout.readline(), time.monotonic()
        output = first + process.stdout.read()
        assert process.wait() == 0, output
        seconds[name], expected[name] = time.monotonic() - begun, outcome_of(whole)

    def attempt(trial: Trial) -> list[str]:
        for one in trial.stops:
            stop(trial, one, data, seconds[trial.name])
        return differences(expected[trial.name], finish(trial, data))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(attempt, trials))
    landed = sum(trial.landed for trial in trials)
    different = [trial.folder.name for trial, differing in zip(trials, found, strict=True) if differing]
    with capsys.disabled():
        kinds = Counter(one.signum.name for trial in trials for one in trial.stops)
        print(
            f"{len(trials)} runs, {sum(kinds.values())} stops ({', '.join(f'{n} {k}' for k, n in kinds.items())}), "
            f"{landed} before the run was over: {len(different)} differences"
        )
    for trial, differing in zip(trials, found, strict=True):
        assert not differing, f"{trial.name}, --kill-seed {seed}: {differing}\n" + "\n".join(trial.log)
