"""Time to 92 % test accuracy on MNIST, against scikit-learn's solvers, each at its smallest setting that reaches it."""

import time
from collections.abc import Callable

from sklearn.linear_model import LogisticRegression
from torchvision.datasets import MNIST

from benchmarks.measure import NO_PICTURES, Figures, Measured, fit, in_a_process, in_turns, mnist
from benchmarks.report import median, ratios, section, timings

OURS = "this project, default recipe"


def scikit_learn(root: str, solver: str, iterations: int) -> Figures:
    """scikit-learn's logistic regression, all threads that it takes, stopped after some iterations."""
    train, test = MNIST(root, train=True), MNIST(root, train=False)
    x, test_x = (part.data.flatten(1).numpy().astype("float32") / 255 for part in (train, test))
    begun = time.perf_counter()
    model = LogisticRegression(solver=solver, max_iter=iterations, tol=0, random_state=0).fit(x, train.targets.numpy())
    seconds = time.perf_counter() - begun
    return {"fit_seconds": seconds, "test/accuracy": float(model.score(test_x, test.targets.numpy()))}


def smallest(reaches: Callable[[int], bool], most: int) -> int:
    """The smallest of 1 to `most` that reaches the goal, if larger ones do so too; `most` where none does."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return low


def measure(root: str, repeats: int, quick: bool) -> Measured:
    goal, most = (0.0, 2) if quick else (0.92, 64)

    def at(name: str, setting: int) -> Figures:
        if name == OURS:
            figures = fit(*mnist(root), NO_PICTURES, f"--max_epochs={setting}")
        else:
            figures = in_a_process(scikit_learn, root, name.split(", ")[1], setting)
        return {**figures, "setting": setting}

    runs = {}
    for name in ("scikit-learn, lbfgs", "scikit-learn, saga", OURS):
        enough = smallest(lambda setting, name=name: at(name, setting)["test/accuracy"] >= goal, most)  # type: ignore[misc]
        runs[name] = (at, name, enough)
    return in_turns(runs, repeats)


def table(measured: Measured) -> str:
    def label(name: str, runs: list[Figures]) -> str:
        kind = "epochs" if name == OURS else "iterations"
        return f"{name}: {median(runs, 'setting'):.0f} {kind}, {median(runs, 'test/accuracy'):.4f}"

    *others, ours = (median(runs, "fit_seconds") for runs in measured.values())
    return section(
        "Time to 92 % test accuracy on MNIST, fit alone, each at its smallest setting that reaches it",
        timings(*((label(name, runs), runs, "fit_seconds") for name, runs in measured.items())),
        ratios(("scikit-learn's best / this project", min(others) / ours, "at least 5, target 10")),
    )
