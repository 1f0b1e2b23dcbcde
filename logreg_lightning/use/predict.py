"""The classes of pictures: any number of them, of any size and format."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from logreg_lightning import cli
from logreg_lightning.data.digit import MNIST_SHAPE, on_paper
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.use.classifier import Predictor, load, open_picture
from logreg_lightning.use.page import takes_drawings

BATCH = 500
DRAWN = 10

LIGHT = 128
"""Of the pixels at the edges of an image, the mean from which on its paper is light."""


def build_parser() -> ArgumentParser:
    """The flags of predict.py."""
    parser = cli.new_parser("predict", "lightning_logs/version_0 my.png", "Predicts the classes of pictures.")
    parser.add_argument("run", help="A run's folder, last or FOLDER/last for the newest, or a .ckpt file.")
    parser.add_argument("pictures", nargs="+", help="Pictures, or folders of pictures.")
    parser.add_argument("--format", choices=["table", "csv", "json"], default="table", help="Output format.")
    parser.add_argument("--top", type=int, default=1, help="How many classes to print, the most probable first.")
    parser.add_argument("--picture", type=str, help="A PNG file to write: the first pictures as the model sees them.")
    parser.add_argument(
        "--digit",
        action="store_true",
        help="Each picture is a photo or scan of one digit: prepare it as MNIST was made (light on dark, cropped, "
        "scaled into 20x20, centred by mass in 28x28).",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command `predict.py`."""
    cli.command("predict", build_parser(), _run, argv)


def _run(settings: Namespace) -> None:
    model = load(settings.run)
    if not 1 <= settings.top <= len(model.class_names):
        raise InputError(f"--top must be from 1 to the {len(model.class_names)} classes, not {settings.top}")
    if settings.digit and model.image_shape != MNIST_SHAPE:
        raise InputError(f"--digit makes 1 x 28 x 28 images, but {settings.run} was trained on {model.image_shape}")
    paths = find_pictures(settings.pictures)
    rows = []
    drawn: list[tuple[Tensor, str]] = []
    unreadable: list[str] = []
    light = 0
    for path, pixels, probabilities in predict(model, paths, settings.digit, unreadable):
        top = probabilities.topk(settings.top)
        names = [model.class_names[label] for label in top.indices.tolist()]
        rows.append((str(path), list(zip(names, top.values.tolist(), strict=True))))
        light += int(pixels.ndim == 3 and _border_of(pixels) > LIGHT)
        drawn += [(pixels, f"{names[0]}, {top.values[0]:.0%}")] if len(drawn) < DRAWN else []
    if settings.picture and drawn:
        _draw(drawn, settings.picture)
    _print(rows, settings.format)
    if light and not settings.digit and takes_drawings(model):
        print(
            f"{light} of {len(paths)} pictures are light at their edges, where the digits that were learnt are dark: "
            "for photos of digits use --digit",
            file=sys.stderr,
        )
    for sentence in unreadable:
        print(sentence, file=sys.stderr)
    if unreadable:
        raise RunError(f"skipped {len(unreadable)} of {len(paths)} pictures, which could not be read")


def _border_of(pixels: Tensor) -> float:
    """The mean of the pixels at the edges of an image, uint8 (C, H, W)."""
    edge = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
    return float(edge.float().mean())


def find_pictures(names: list[str]) -> list[Path]:
    """The files of these names, and those in folders of these names, in order, without hidden ones.

    Raises:
        InputError: one does not exist, or a folder is empty.
    """
    paths: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            if not inside:
                raise InputError(f"{path} holds no pictures; use a picture or a folder of pictures")
            paths += inside
        elif path.exists():
            paths.append(path)
        else:
            raise InputError(f"{path} does not exist; use a picture or a folder of pictures")
    return paths


def predict(
    model: Predictor, paths: list[Path], digit: bool, unreadable: list[str]
) -> Iterator[tuple[Path, Tensor, Tensor]]:
    """Each picture's pixels, uint8 (C, H, W), and probabilities, float (classes,).

    A sentence about each that cannot be read is added to `unreadable`.
    """
    from tqdm import tqdm

    def prepared(path: Path) -> Tensor | str:
        try:
            picture = open_picture(path, on_paper if digit else None)
        except InputError as error:
            return str(error)
        if not digit:
            return model.prepare(picture)
        try:
            return model.prepare_digit(picture)
        except InputError as error:
            return f"{path}: {error}"

    quiet = len(paths) < BATCH or not sys.stderr.isatty()
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), unit=" pictures", disable=quiet) as bar:
        for begin in range(0, len(paths), BATCH):
            batch = paths[begin : begin + BATCH]
            loaded = list(pool.map(prepared, batch))
            unreadable += [pixels for pixels in loaded if isinstance(pixels, str)]
            read = [(path, pixels) for path, pixels in zip(batch, loaded, strict=True) if isinstance(pixels, Tensor)]
            if read:
                pixels = torch.stack([pixels for _, pixels in read])
                for (path, one), probabilities in zip(read, model.predict_proba(pixels), strict=True):
                    yield path, one, probabilities
            bar.update(len(batch))


def _draw(drawn: list[tuple[Tensor, str]], file: str) -> None:
    from logreg_lightning.use import figures

    pixels, lines = zip(*drawn, strict=True)
    try:
        figures.grid(torch.stack(pixels), list(lines), "What the model sees").savefig(file)
    except (OSError, ValueError) as error:
        raise InputError(f"--picture {file} cannot be written ({error}); use a .png file") from None


def _print(rows: list[tuple[str, list[tuple[str, float]]]], format_: str) -> None:
    if format_ == "json":
        predictions: list[dict[str, Any]] = [
            {"path": path, "classes": [{"class": name, "probability": value} for name, value in top]}
            for path, top in rows
        ]
        print(json.dumps(predictions, indent=2))
    elif format_ == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "class", "probability"])
        for path, top in rows:
            writer.writerows([path, name, f"{value:.6f}"] for name, value in top)
    else:
        width = max((len(path) for path, _ in rows), default=0)
        for path, top in rows:
            for label, (name, value) in zip(itertools.chain([path], itertools.repeat("")), top, strict=False):
                print(f"{label:<{width}}  {value:>6.1%}  {name}")
