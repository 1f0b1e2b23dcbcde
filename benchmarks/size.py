"""What an image costs, in time and memory, as a data set grows from 60,000 to 8,100,000."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from torchvision.datasets import MNIST
from tqdm import tqdm

from benchmarks.measure import NO_PICTURES, Figures, Measured, fit, in_turns, mnist, peak_of
from benchmarks.report import median, ratios, rows, section

IMPORTS = "import lightning, torchvision, torchmetrics, jsonargparse, torch.utils.tensorboard"
BATCH = 200


def many_images(root: str, count: int) -> Path:
    """A data set of `count` training images in MNIST's format: MNIST's, each shifted by up to two pixels, made once."""
    place = Path(root) / "benchmark" / f"shifted-{count}"
    if (place / "done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)

    def header(*shape: int) -> bytes:
        return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()

    for part, total in (("train", count), ("t10k", 10_000)):
        source = MNIST(root, train=part == "train")
        chosen, labels = np.arange(total) % len(source), source.targets.numpy().astype(np.uint8)
        (place / f"{part}-labels-idx1-ubyte").write_bytes(header(total) + labels[chosen].tobytes())
        with (place / f"{part}-images-idx3-ubyte").open("wb") as images:
            images.write(header(total, 28, 28))
            for some in tqdm(np.split(chosen, range(10_000, total, 10_000)), desc=str(images.name), disable=None):
                images.write(np.roll(source.data.numpy()[some], rng.integers(-2, 3, 2), axis=(1, 2)).tobytes())
    (place / "done").touch()
    return place


def measure(root: str, repeats: int, quick: bool) -> Measured:
    counts, steps = ((600, 1200), 100) if quick else ((60_000, 600_000, 8_100_000), 40_500)
    limits = [f"--max_steps={steps}", f"--val_check_interval={steps}", "--max_epochs=1000", "--data.val_size=0"]
    with tempfile.TemporaryDirectory() as folder:
        imports = peak_of(sys.executable, "-c", IMPORTS, folder=folder)

    def train(folder: Path) -> Figures:
        figures = fit(*mnist(root), f"--data.dataset={folder}", *limits, NO_PICTURES)
        return {**figures, "bytes": figures["bytes"] - imports}

    return in_turns({str(count): (train, many_images(root, count)) for count in counts}, repeats)


def table(measured: Measured) -> str:
    columns = ("images", "images a second", "microseconds an image", "memory beyond the imports")
    costs = [median(runs, "fit_seconds") / (median(runs, "steps") * BATCH) for runs in measured.values()]
    memory = [median(runs, "bytes") / 1e9 for runs in measured.values()]
    lines = [
        (f"{int(name):,}", f"{1 / cost:,.0f}", f"{1e6 * cost:.3g}", f"{gigabytes:.2f} GB")
        for name, cost, gigabytes in zip(measured, costs, memory, strict=True)
    ]
    return section(
        f"Size: batches of {BATCH}, as many steps as make one epoch of the largest",
        rows(columns, *lines),
        ratios(
            ("cost of an image, largest / smallest", costs[-1] / costs[0], "at most 1.3, target 1.0"),
            ("memory at the largest, GB", memory[-1], "at most 1, target 0.3"),
        ),
    )
