"""Many settings at once: what one of them costs, against one alone and against scikit-learn's GridSearchCV."""

import sys
import time
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.datasets import MNIST

from benchmarks.measure import QUICK, ROOT, Figures, Measured, cores, fit, in_a_process, in_turns, mnist, results_of
from benchmarks.report import digits, median, ratios, rows, section, timings
from logreg_lightning import ImageDataModule  # after scikit-learn: its threads wait as they do by themselves

SWEEP = [sys.executable, str(ROOT / "scripts" / "sweep.py")]
FACTORS: dict[int, tuple[list[float], ...]] = {
    1: ([1], [1]),
    8: ([0.3, 1, 2, 3], [0.1, 1]),
    64: ([0.1, 0.2, 0.3, 0.5, 0.7, 1, 2, 3],) * 2,
    256: ([0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.5, 2, 2.5, 3],) * 2,
}
"""Of `auto`, the learning rates and the weight decays of so many settings."""


def sweep(*flags: str) -> Figures:
    """What scripts/sweep.py took, with the best validation accuracy."""
    results = results_of([*SWEEP, *flags], "sweep_0/results.json")
    kept = {name: results[name] for name in ("fit_seconds", "whole", "bytes")}
    return {**kept, "val/accuracy": results["best"]["val/accuracy"]}


def grid_search(root: str, strengths: list[float], iterations: int) -> Figures:
    """scikit-learn's GridSearchCV over C, on this project's training and validation images, standardised."""
    data, train = ImageDataModule("mnist", root=root), MNIST(root)
    data.setup()
    x, y = train.data.flatten(1).numpy().astype("float32") / 255, train.targets.numpy()
    fold = np.full(len(y), -1)
    fold[data.val_indices.numpy()] = 0
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=iterations))
    grid = {"logisticregression__C": strengths}
    search = GridSearchCV(model, grid, cv=PredefinedSplit(fold), refit=False, n_jobs=cores())
    begun = time.perf_counter()
    search.fit(x, y)
    seconds, accuracy = time.perf_counter() - begun, float(search.best_score_)
    return {"fit_seconds": seconds, "val/accuracy": accuracy, "values": len(strengths), "iterations": iterations}


def measure(root: str, repeats: int, quick: bool) -> Measured:
    flags = [*mnist(root), *(QUICK if quick else [])]
    runs: dict[str, tuple[Any, ...]] = {"`fit.py`": (fit, *flags)}
    for count in [8] if quick else FACTORS:
        rates, decays = (",".join(f"{factor}x" for factor in factors) for factors in FACTORS[count])
        runs[str(count)] = (sweep, *flags, f"--model.lr={rates}", f"--model.weight_decay={decays}")
    strengths, iterations = ([1e-3, 1e-2], 2) if quick else ([1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0], 100)
    grid = {"grid": (in_a_process, grid_search, root, strengths, iterations)}
    return {**in_turns(runs, repeats), **in_turns(grid, 1)}


def table(measured: Measured) -> str:
    *trained, grid = measured.values()
    seconds, whole = ([median(runs, name) for runs in trained] for name in ("fit_seconds", "whole"))
    memory = [f"{median(runs, 'bytes') / 1e9:.2f} GB" for runs in trained]
    alone, *counts = [*measured][:-1]
    lines, shares = [(alone, f"{digits(seconds[0])} s", "", "1", f"{digits(whole[0])} s", "1", memory[0], "")], {}
    for number, name in enumerate(counts, 1):
        one, one_whole = seconds[number] / int(name), whole[number] / int(name)
        shares[name] = one / seconds[0]
        cells = (
            name,
            f"{digits(seconds[number])} s",
            f"{digits(one)} s",
            f"{shares[name]:.3f}",
            f"{digits(one_whole)} s",
        )
        best = f"{median(measured[name], 'val/accuracy'):.4f}"
        lines.append((*cells, f"{one_whole / whole[0]:.3f}", memory[number], best))
    columns = "settings", "first batch to last step", "a setting", "of one alone", "whole command, a setting"
    search = f"{grid[0]['values']} values of C, {grid[0]['iterations']} iterations of lbfgs, once"
    best, ours = (f"{median(measured[name], 'val/accuracy'):.4f}" for name in ("grid", "8"))
    return section(
        "Many settings at once: MNIST, learning rate and weight decay, the default recipe else",
        rows((*columns, "of one alone", "memory", "best `val/accuracy`"), *lines),
        timings(
            (f"scikit-learn's GridSearchCV, {search}: best validation accuracy {best}", grid, "fit_seconds"),
            (f"this project, 8 settings: {ours}", measured["8"], "fit_seconds"),
        ),
        ratios(("64 settings: one of them / one alone", shares.get("64", shares["8"]), "at most 0.2, target 0.1", 3)),
    )
