"""An optimiser step of features of few and many classes: this project's, autograd's, and its two matrix products."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import Figures, Measured, in_a_process, in_turns
from benchmarks.report import median, ratios, rows, section
from benchmarks.threads import seconds_a_step
from logreg_lightning import LogisticRegression
from logreg_lightning.data.loader import Steps
from logreg_lightning.model import sgd
from logreg_lightning.runtime.threads import use_threads

SIZES = [(784, 10, 200), (512, 1000, 200), (1280, 1000, 200), (512, 1000, 1000), (1280, 1000, 1000)]
"""Features, classes, and images in a batch: 200 to compare, 1,000 as `auto` has it for a thousand classes."""
Batches = list[tuple[Tensor, Tensor]]
OURS, PLAIN, PRODUCTS = "this project", "autograd and SGD", "two matrix products"


def name_of(features: int, classes: int, batch: int) -> str:
    return f"{features:,} x {classes:,}, batch of {batch:,}"


def autograd(layer: nn.Linear, optimizer: torch.optim.SGD, batches: Batches) -> None:
    for x, y in batches:
        with torch.enable_grad():
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(layer(x), y))
        optimizer.step()


def products(weight: Tensor, batches: Batches) -> None:
    for x, _ in batches:
        (x @ weight.T).T @ x


def milliseconds(turns: int) -> dict[str, Figures]:
    """Of each size, each one's median time of so many that take turns, on one thread."""
    found: dict[str, Figures] = {}
    for features, classes, batch in SIZES:
        torch.manual_seed(0)
        images, labels = torch.randn(4 * batch, features), torch.randint(0, classes, (4 * batch,))
        model = LogisticRegression(features, classes, lr=0.01, weight_decay=1e-3, image_shape=(features,))
        steps = Steps(images, labels, [batch] * 4, [batch] * 4)
        plain = nn.Linear(features, classes)
        optimizer = torch.optim.SGD(plain.parameters(), 0.01, 0.9, weight_decay=1e-3)
        batches = list(zip(torch.split(images, batch), torch.split(labels, batch), strict=True))
        runs: dict[str, Callable[[], Any]] = {
            OURS: partial(sgd(model, model.configure_optimizers(), 1), steps, [0.01] * 4),
            PLAIN: partial(autograd, plain, optimizer, batches),
            PRODUCTS: partial(products, plain.weight.data, batches),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        with use_threads(1):
            for _ in range(turns):
                for name, run in runs.items():
                    times[name].append(1000 * seconds_a_step(run, 4, 5))
        medians = {name: statistics.median(of_run) for name, of_run in times.items()}
        found[name_of(features, classes, batch)] = medians
    return found


def measure(root: str, repeats: int, quick: bool) -> Measured:
    calls = in_turns({"a step": (in_a_process, milliseconds, 1 if quick else 3)}, repeats)["a step"]
    return {name: [sizes[name] for sizes in calls] for name in calls[0] if name != "whole"}


def table(measured: Measured) -> str:
    columns = (
        "features x classes",
        *(f"{name}, ms" for name in (OURS, PLAIN, PRODUCTS)),
        "of autograd",
        "of the products",
    )
    lines, of_plain, of_products = [], [], []
    for name, runs in measured.items():
        ours, plain, products = (median(runs, part) for part in (OURS, PLAIN, PRODUCTS))
        of_plain.append(ours / plain)
        of_products.append(ours / products)
        times = (f"{value:.3g}" for value in (ours, plain, products))
        lines.append((name, *times, f"{of_plain[-1]:.2f}", f"{of_products[-1]:.2f}"))
    return section(
        "An optimiser step of features, on one thread",
        rows(columns, *lines),
        ratios(
            ("this project / autograd, largest", max(of_plain), "at most 0.8"),
            ("this project / products, 1,000 classes, largest", max(of_products[1:]), "at most 1.3"),
        ),
    )
