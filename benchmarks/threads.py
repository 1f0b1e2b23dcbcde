"""What more CPU threads gain: of an optimiser step by its size, and of a training, beside busy processes too."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from logreg_lightning.runtime.threads import use_threads  # before anything else loads torch: it sets how threads wait

# isort: split

import torch

from benchmarks.measure import ENVIRONMENT, NO_PICTURES, QUICK, Figures, Measured, cores, fit, in_a_process

from benchmarks.measure import in_turns, mnist  # isort: skip
from benchmarks.report import median, ratios, rows, section, timings
from logreg_lightning import LogisticRegression
from logreg_lightning.data.loader import Steps
from logreg_lightning.model import sgd

BATCHES, FEATURES = (100, 1_000, 10_000), (784, 3_072)
BESIDE = {"idle": 0, "beside two busy processes": 2}
UNSET = "nothing set"


def thread_counts() -> list[int]:
    """1, 2, 4 and so on, and as many threads as there are cores."""
    return sorted({*(2**power for power in range(cores().bit_length()) if 2**power < cores()), cores()})


def stepper(batch: int, features: int, device: str = "cpu") -> tuple[LogisticRegression, Steps]:
    """A model of 10 classes, ready to train, and a call's mini-batches of random images, at most 50 of them."""
    count = max(1, min(50, 5000 // batch))
    torch.manual_seed(0)
    images = torch.randint(0, 256, (count * batch, 1, 1, features), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count * batch,))
    model = LogisticRegression(features, 10, lr=0.01, weight_decay=1e-3, image_shape=(1, 1, features)).to(device)
    return model, Steps(images.to(device), labels.to(device), [batch] * count, [batch] * count)


def seconds_a_step(run: Callable[[], Any], steps: int, calls: int, wait: Callable[[], None] = lambda: None) -> float:
    """Seconds that an optimiser step takes in calls of so many steps, after three calls that do not count."""
    with torch.no_grad():  # as in `training_step`
        for call in range(-3, calls):
            if call == 0:
                wait()
                begun = time.perf_counter()
            run()
        wait()
    return (time.perf_counter() - begun) / (calls * steps)


def steps_by_threads(images: int) -> dict[str, Figures]:
    """Milliseconds an optimiser step for each number of threads, which take turns; each sees so many images."""
    sizes: dict[str, Figures] = {}
    for features in FEATURES:
        for batch in BATCHES:
            model, steps = stepper(batch, features)
            run = partial(sgd(model, model.configure_optimizers(), 1), steps, [0.01] * len(steps.sizes))
            milliseconds = sizes[f"{features:,} features, batch of {batch:,}"] = {}
            for number in thread_counts():
                with use_threads(number):
                    seconds = seconds_a_step(run, len(steps.sizes), max(1, images // len(steps.labels)))
                milliseconds[str(number)] = seconds * 1000
    return sizes


def measure(root: str, repeats: int, quick: bool) -> Measured:
    calls = in_turns({"a step": (in_a_process, steps_by_threads, 100 if quick else 100_000)}, repeats)["a step"]
    steps = {name: [sizes[name] for sizes in calls] for name in calls[0] if name != "whole"}
    unset = {key: value for key, value in ENVIRONMENT.items() if key != "OMP_NUM_THREADS"}
    settings = {f"`OMP_NUM_THREADS={number}`": {"OMP_NUM_THREADS": str(number)} for number in (1, cores())}

    def train(busy: int, setting: dict[str, str]) -> Figures:
        beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            return fit(*mnist(root), *(QUICK if quick else [NO_PICTURES]), env={**unset, **setting})
        finally:
            for process in beside:
                process.kill()
                process.wait()

    runs = {
        f"{name}, {state}": (train, busy, setting)
        for state, busy in BESIDE.items()
        for name, setting in {**settings, UNSET: {}}.items()
        if not (quick and setting)
    }
    return {**steps, **in_turns(runs, min(repeats, 3))}  # a busy machine takes minutes


def table(measured: Measured) -> str:
    trainings = {name: runs for name, runs in measured.items() if "fit_seconds" in runs[0]}
    steps = {name: runs for name, runs in measured.items() if name not in trainings}
    counts = [*next(iter(steps.values()))[0]]
    columns = ("size of a step", *(f"{count} thread{'s' * (count != '1')}" for count in counts))
    lines = ((name, *(f"{median(runs, count):.3g}" for count in counts)) for name, runs in steps.items())
    idle, loaded = (median(trainings[f"{UNSET}, {state}"], "fit_seconds") for state in BESIDE)
    return (
        section("Milliseconds an optimiser step, by CPU threads", rows(columns, *lines))
        + "\n\n"
        + section(
            "The default recipe on MNIST, first batch to last step, by CPU threads",
            timings(*((name, runs, "fit_seconds") for name, runs in trainings.items())),
            ratios(("nothing set: busy / idle", loaded / idle, "at most 4")),
        )
    )
