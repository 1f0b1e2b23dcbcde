"""The tutorial's recipe on a GPU; what the GPU's memory and its launches allow; what an optimiser step takes there."""

from functools import partial

import torch

from benchmarks.measure import QUICK, Figures, Measured, fit, in_a_process, in_turns
from benchmarks.recipe import ARTICLE, bare, both_times, stock
from benchmarks.report import median, rows, section, timings
from benchmarks.threads import seconds_a_step, stepper
from logreg_lightning.model import sgd, sgd_steps

KINDS = {"graph": "from a graph", "single": "launched one by one"}
BATCHES = (100, 1_000)


def limits(megabytes: int, replays: int, calls: int) -> Figures:
    """What a GPU allows, and what this project's optimiser steps take there, in calls of at most 50.

    Gigabytes a second that its memory reads and writes while it copies a tensor of so many megabytes, and microseconds
    that a CUDA graph of 50 kernels takes which do next to nothing: the limit that launching sets. Microseconds of a
    step as a graph, and launched one by one.
    """
    wait, tensor, graph = torch.cuda.synchronize, torch.zeros(1, device="cuda"), torch.cuda.CUDAGraph()
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = seconds_a_step(lambda: target.copy_(source), 1, 20, wait)
    tensor.add_(1)  # loads the kernel, which a recording must not
    wait()
    with torch.cuda.graph(graph):
        for _ in range(50):
            tensor.add_(1)
    figures = {
        "bandwidth": 2 * source.nbytes / copy / 1e9,
        "replay": seconds_a_step(graph.replay, 1, replays, wait) * 1e6,
    }
    for batch in BATCHES:
        model, steps = stepper(batch, 784, "cuda")
        optimizer, rates = torch.optim.SGD(model.parameters(), 0.01, 0.9, fused=True), [0.01] * len(steps.sizes)
        kinds = {"graph": partial(sgd(model, model.configure_optimizers(), 1), steps, rates)}
        kinds["single"] = partial(sgd_steps, model, optimizer, steps, rates, 1)
        for kind, run in kinds.items():
            figures[f"{kind} {batch}"] = seconds_a_step(run, len(rates), calls, wait) * 1e6
    return figures


def measure(root: str, repeats: int, quick: bool) -> Measured:
    steps = 20 if quick else 3000
    ours = [*ARTICLE, "--accelerator=gpu", "--devices=1", f"--data.root={root}", *(QUICK if quick else [])]
    sizes = (16, 10, 2) if quick else (1024, 2000, 40)
    runs = {
        "(b) stock Lightning": (in_a_process, stock, root, steps, "gpu"),
        "(c) bare loop, images on the GPU": (in_a_process, bare, root, steps, "cuda"),
        "(d) this project": (fit, *ours),
        "limits": (in_a_process, limits, *sizes),
    }
    return in_turns(runs, repeats)


def table(measured: Measured) -> str:
    *trainings, allowed = measured.items()
    b, c, d = (median(runs, "fit_seconds") for _, runs in trainings)
    kinds = ((f"a step of batch {batch:,}, {KINDS[kind]}", f"{kind} {batch}") for batch in BATCHES for kind in KINDS)
    return section(
        "The tutorial's recipe on a GPU: 3000 steps of batch 100, a test pass every 500",
        both_times(dict(trainings)),
        rows(("ratio", "measured"), ("(b) / (d)", f"**{b / d:.2f}**"), ("(d) / (c)", f"**{d / c:.2f}**")),
        "### What the GPU allows, and what a step takes in a call (784 features, 10 classes)",
        timings(
            ("memory, read and written by a large copy", allowed[1], "bandwidth", "GB/s"),
            ("replay of a CUDA graph of 50 tiny kernels", allowed[1], "replay", "µs"),
            *((label, allowed[1], figure, "µs") for label, figure in kinds),
        ),
    )
