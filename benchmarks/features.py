"""The default command on 100,000 rows of features, against scikit-learn to the same validation loss."""

import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from benchmarks.measure import Figures, Measured, fit, in_a_process, in_turns
from benchmarks.report import median, ratios, section, timings
from benchmarks.to_92 import smallest
from logreg_lightning import ImageDataModule  # after scikit-learn: its threads wait as they do by themselves


def many_features(root: str, count: int) -> Path:
    """A data set of `count` training rows of 1,280 float16 features and a tenth of that to test on, made once.

    Ten classes overlap so that nine rows in ten can be told. As of a network's features, the variance is large in few
    directions and falls as 1 / k, and the classes differ most where it is large.
    """
    place = Path(root) / "benchmark" / f"features-{count}"
    if (place / "done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    rng, size = np.random.default_rng(0), 1280
    spread = np.arange(1, size + 1) ** -0.5
    centres = (1.12 * rng.normal(size=(10, size)) * spread).astype(np.float32)
    directions = (10 * spread[:, None] * np.linalg.qr(rng.normal(size=(size, size)))[0]).astype(np.float32)
    for part, total in (("train", count), ("test", count // 10)):
        labels = rng.integers(0, 10, total)
        np.save(place / f"{part}_labels.npy", labels)
        rows = (centres[labels] + rng.standard_normal((total, size), dtype=np.float32)) @ directions
        np.save(place / f"{part}_features.npy", rows.astype(np.float16))
    (place / "done").touch()
    return place


def ours(folder: str) -> Figures:
    figures = fit(f"--data.dataset={folder}", "--accelerator=cpu")
    return {**figures, "rate": figures["steps"] * figures["batch_size"] / figures["fit_seconds"]}


def scikit_learn(folder: str, weight_decay: float, iterations: int) -> Figures:
    """scikit-learn's logistic regression with what this project has: the same training rows, standardised, and penalty.

    Only its own work is timed; what it reaches is measured on the same validation and test rows.
    """
    data = ImageDataModule(folder)
    data.setup()
    rows, test_rows = (np.load(f"{folder}/{part}_features.npy").astype("float32") for part in ("train", "test"))
    labels, test_labels = (np.load(f"{folder}/{part}_labels.npy") for part in ("train", "test"))
    training, validation = data.train_indices.numpy(), data.val_indices.numpy()
    scaler = StandardScaler()
    x, y = scaler.fit_transform(rows[training]), labels[training]
    begun = time.perf_counter()
    model = LogisticRegression(C=1 / (weight_decay * len(x)), max_iter=iterations, tol=0).fit(x, y)
    seconds = time.perf_counter() - begun
    loss = log_loss(labels[validation], model.predict_proba(scaler.transform(rows[validation])))
    accuracy = model.score(scaler.transform(test_rows), test_labels)
    reached = {"val/loss": float(loss), "test/accuracy": float(accuracy)}
    return {"fit_seconds": seconds, **reached, "C": model.C, "iterations": iterations, "rows": len(rows)}


def measure(root: str, repeats: int, quick: bool) -> Measured:
    count, most = (1_000, 2) if quick else (100_000, 256)
    folder = str(many_features(root, count))
    first = ours(folder)

    def solve(iterations: int) -> Figures:
        return {**in_a_process(scikit_learn, folder, first["weight_decay"], iterations)}

    iterations = smallest(lambda number: solve(number)["val/loss"] <= first["val/loss"], most)
    return in_turns({"this project": (ours, folder), "lbfgs": (solve, iterations)}, repeats)


def table(measured: Measured) -> str:
    def label(name: str, number: str, runs: list[Figures]) -> str:
        loss, accuracy = median(runs, "val/loss"), median(runs, "test/accuracy")
        return f"{name}: {median(runs, number):.0f} {number}, validation loss {loss:.4f}, test accuracy {accuracy:.4f}"

    ours, lbfgs = measured.values()
    solver = f"scikit-learn, lbfgs, C = {median(lbfgs, 'C'):.3g}"
    reaches = median(lbfgs, "val/loss") <= median(ours, "val/loss")
    bound = "nothing" if reaches else "nothing; scikit-learn never reaches that loss"
    return section(
        f"{lbfgs[0]['rows']:,} rows of 1,280 float16 features: fit alone, to the same validation loss",
        timings(
            (label("this project, default command", "epochs", ours), ours, "fit_seconds"),
            (label(solver, "iterations", lbfgs), lbfgs, "fit_seconds"),
            ("this project, training rows a second", ours, "rate", "a second"),
        ),
        ratios(("scikit-learn / this project", median(lbfgs, "fit_seconds") / median(ours, "fit_seconds"), bound)),
    )
