"""Any images without tuning: the default command's accuracy against the best of twelve learning rates."""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST

from benchmarks.measure import Figures, Measured, in_a_process, in_turns
from benchmarks.report import mean, ratios, rows, section
from logreg_lightning import ImageDataModule, errors, fit

Sets = dict[str, dict[str, Any]]
RATES = [float(f"{10 ** (4 * number / 11 - 4):.3g}") for number in range(12)]
"""Learning rates from 1e-4 to 1."""
AT = "test/accuracy at "
JPEGS, INVERTED = "MNIST as colour JPEGs of mixed sizes", "MNIST inverted"
TINTS, RARE = "scikit-learn's digits in three tints", "MNIST, the 8 one image in 100"
FEW = "MNIST's 3 and 5, 40 pictures of each"
PENALTIES = [float(f"{10**power:.3g}") for power in np.linspace(-5, 0.5, 12)]
"""Weight decays from 1e-5 to 3, in place of learning rates where features are learnt from."""
COMMON, SCALES = "features with a common direction", "features, each in a unit of its own"
OVERLAPPING, MANY, CORRELATED = "features of 100 classes", "features of 300 classes", "correlated features"
FEW_ROWS = "features, 8 rows a class"


def untuned(sets: Sets, rates: list[float], seed: int, limits: dict[str, Any]) -> dict[str, Figures]:
    """What the default command reaches on each data set, and the test accuracy at each rate, all else default."""

    def results(images: ImageDataModule, **tuned: Any) -> dict[str, Any]:
        try:
            return fit(images, seed=seed, pictures=False, accelerator="cpu", **limits, **tuned).results
        except errors.RunError:  # it diverged
            return {"lr": math.nan, "test/accuracy": 0.0, "test/loss": math.inf, "val/loss": math.inf}

    reached: dict[str, Figures] = {}
    for name, data in sets.items():
        images = ImageDataModule(**data)
        images.prepare_data()
        images.setup()
        default = results(images)
        counts = {"images": len(images.train_indices) + len(images.val_indices), "classes": len(images.data.classes)}
        of_features = len(images.data.image_shape) == 1
        name_of = "weight_decay" if of_features else "lr"
        values = PENALTIES[:: len(PENALTIES) // len(rates)] if of_features else rates
        tuned = {f"{AT}{value}": results(images, **{name_of: value})["test/accuracy"] for value in values}
        reached[name] = {part: default[part] for part in ("lr", "test/accuracy", "test/loss", "val/loss")}
        reached[name] |= counts | tuned
    return reached


def picture_folders(root: str, folder: Path, quick: bool) -> Sets:
    """Settings of data sets that are made here: folders of pictures, of MNIST and of scikit-learn's digits.

    MNIST's training images become `train`, its test images `test`.
    """
    rng = np.random.default_rng(0)

    def save(name: str, pictures: Iterable[Image.Image], labels: Any, kind: str = "png") -> None:
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            file = folder / name / str(label) / f"{number}.{kind}"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)  # a JPEG with PIL's quality, 75

    def tinted(pixels: Any) -> Image.Image:
        side = int(rng.integers(20, 61))
        scaled = np.asarray(Image.fromarray(pixels).resize((side, side)))
        return Image.fromarray((scaled[..., None] * rng.uniform(0.4, 1, 3)).astype(np.uint8))

    for split, count, of_each in (("train", 10_000, 40), ("test", 2_000, 892)):  # MNIST has 892 fives to test on
        count, of_each = (100, 10) if quick else (count, of_each)
        source = MNIST(root, train=split == "train")
        order = rng.permutation(len(source))
        pixels, labels = source.data.numpy()[order], source.targets.numpy()[order]
        save(f"{JPEGS}/{split}", map(tinted, pixels[:count]), labels[:count], "jpg")
        save(f"{INVERTED}/{split}", map(Image.fromarray, 255 - pixels[:count]), labels[:count])
        rare, others = np.flatnonzero(labels == 8)[: count // 100], np.flatnonzero(labels != 8)[: count - count // 100]
        few = [np.flatnonzero(labels == digit)[:of_each] for digit in (3, 5)]
        for name, parts in ((RARE, [rare, others]), (FEW, few)):
            chosen = np.concatenate(parts)
            save(f"{name}/{split}", map(Image.fromarray, pixels[chosen]), labels[chosen])
    small = load_digits()
    tints = np.array([(255, 150, 100), (120, 230, 120), (110, 150, 255)])[rng.integers(0, 3, len(small.target))]
    pixels = (small.images[..., None] / 16 * tints[:, None, None]).astype(np.uint8)
    save(TINTS, map(Image.fromarray, pixels), small.target)
    names = (JPEGS, INVERTED, TINTS, RARE, FEW)
    return {name: {"dataset": str(folder / name), "root": str(folder), "color": name == TINTS} for name in names}


def feature_folders(folder: Path, quick: bool) -> Sets:
    """Settings of data sets that are made here, of features as frozen networks give them: classes that overlap."""
    rng = np.random.default_rng(0)
    sets: Sets = {}

    def save(
        name: str, classes: int, features: int, count: int, apart: float, spectrum: float = 0, shift: float = 0
    ) -> None:
        count = min(count, 10 * classes) if quick else count
        mixing = np.arange(1, features + 1) ** -spectrum * (np.linalg.qr(rng.normal(size=(features, features)))[0].T)
        centres = apart * rng.normal(size=(classes, features))
        units = 10 ** rng.uniform(-1, 1, features) if name == SCALES else 1.0
        direction = shift * rng.normal(size=features)
        place = folder / name
        place.mkdir()
        for part, total in (("train", count), ("test", 200 if quick else 4000)):
            labels = np.arange(total) % classes
            values = (centres[labels] + rng.normal(size=(total, features))) @ mixing.T + direction
            np.save(place / f"{part}_features.npy", (values * units).astype(np.float32))
            np.save(place / f"{part}_labels.npy", labels)
        sets[name] = {"dataset": str(place)}

    save(COMMON, 20, 256, 5000, 0.22, shift=4.5)
    save(SCALES, 20, 256, 5000, 0.22, shift=1.5)
    save(OVERLAPPING, 100, 128, 20_000, 0.25)
    save(MANY, 300, 128, 15_000, 0.3)
    save(CORRELATED, 20, 384, 8000, 0.2, spectrum=0.5)
    save(FEW_ROWS, 20, 256, 160, 0.35)
    return sets


def measure(root: str, repeats: int, quick: bool) -> Measured:
    rates, limits = (RATES[::4], {"max_steps": 20, "val_check_interval": 20}) if quick else (RATES, {})
    with tempfile.TemporaryDirectory() as folder:
        sets: Sets = {name: {"dataset": name, "root": root} for name in ("mnist", "digits")}
        sets |= picture_folders(root, Path(folder), quick) | feature_folders(Path(folder), quick)
        seeds = range(min(repeats, 3))
        runs = {f"seed {seed}": (in_a_process, untuned, sets, rates, seed, limits) for seed in seeds}
        reached = in_turns(runs, 1)
    return {name: [figures[name] for [figures] in reached.values()] for name in sets}


def table(measured: Measured) -> str:
    lines, points, shares = [], [], []
    for name, runs in measured.items():
        tuned = {figure.removeprefix(AT): mean(runs, figure) for figure in runs[0] if figure.startswith(AT)}
        best, classes, accuracy = max(tuned, key=tuned.__getitem__), mean(runs, "classes"), mean(runs, "test/accuracy")
        points.append(100 * (accuracy - tuned[best]))
        shares.append(mean(runs, "val/loss") / math.log(classes))
        default = f"{mean(runs, 'images'):,.0f}", f"{classes:.0f}", f"{accuracy:.4f}", f"{mean(runs, 'test/loss'):.4f}"
        lines.append((name, *default, f"{tuned[best]:.4f}", f"{float(best):g}", f"{points[-1]:+.2f}"))
    columns = "data set", "training images", "classes", "default: test accuracy", "test loss"
    columns_of_best = f"best of {len(tuned)}: test accuracy", "at lr, or penalty of features", "difference in points"
    mnist, digits = (mean(measured[name], "test/accuracy") for name in ("mnist", "digits"))
    return section(
        f"Any images without tuning: the default command, mean over {len(runs)} seeds",
        rows((*columns, *columns_of_best), *lines),
        ratios(
            ("mnist: test accuracy", mnist, "at least 0.924", 4),
            ("digits: test accuracy", digits, "at least 0.965", 4),
            ("worst difference, in points", min(points), "at least -0.5"),
            ("`val/loss` at the end / log(classes), largest", max(shares), "at most 1"),
        ),
    )
