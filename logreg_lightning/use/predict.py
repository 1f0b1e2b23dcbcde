"""The classes of pictures: any number of them, of any size and format."""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from logreg_lightning import cli
from logreg_lightning.data.digit import MNIST_SHAPE
from logreg_lightning.data.layout import files_of
from logreg_lightning.data.pictures import edge_mean
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.runtime.names import csv_line, padded, printable, width
from logreg_lightning.runtime.output import say
from logreg_lightning.runtime.plain import json_of
from logreg_lightning.use.classifier import Predictor, load, open_picture
from logreg_lightning.use.page import takes_drawings

BATCH = 100
DRAWN = 10

LIGHT = 128
"""Of the pixels at the edges of an image, the mean from which on its paper is light."""

WIDEST = 80
"""Columns of a terminal for a path; behind a longer one its line is not in line with the others."""


def build_parser() -> ArgumentParser:
    """The flags of predict.py."""
    parser = cli.new_parser("predict", "lightning_logs/version_0 my.png", "Predicts the classes of pictures.")
    parser.add_argument("run", help="A run's folder, last or FOLDER/last for the newest, or a .ckpt file.")
    parser.add_argument("pictures", nargs="+", help="Pictures, or folders of pictures.")
    parser.add_argument(
        "--format",
        choices=["table", "csv", "wide", "json"],
        default="table",
        help="Output format; csv has a row for each class that --top asks for, wide a row for each picture.",
    )
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
    unreadable: list[str] = []
    light, counts_light = 0, not settings.digit and takes_drawings(model)
    predictions = predict(model, paths, settings.digit, unreadable)
    first = list(itertools.islice(predictions, DRAWN))
    if settings.picture and first:
        _draw(model, first, settings.picture)
    try:
        with _printing(settings.format, paths, settings.top) as print_row:
            for path, pixels, probabilities in itertools.chain(first, predictions):
                light += int(counts_light and edge_mean(pixels) > LIGHT)
                top = probabilities.topk(settings.top)
                names = [model.class_names[label] for label in top.indices.tolist()]
                print_row(str(path), list(zip(names, top.values.tolist(), strict=True)))
    finally:
        for sentence in unreadable:
            print(printable(sentence), file=sys.stderr)
    if light:
        print(
            f"{light} of {len(paths)} pictures are light at their edges, where the digits that were learnt are dark: "
            "for photos of digits use --digit",
            file=sys.stderr,
        )
    if unreadable:
        raise RunError(f"skipped {len(unreadable)} of {len(paths)} pictures, which could not be read")


def find_pictures(names: list[str]) -> list[Path]:
    """The files of these names, and those in folders of these names, in order, without hidden ones.

    Raises:
        InputError: one does not exist, or a folder is empty.
    """
    paths: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = files_of(path)
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
            if digit:
                return model.prepare_digit(path)
            picture = open_picture(path)
        except InputError as error:
            return str(error)
        return model.prepare(picture)

    quiet = len(paths) < BATCH or not sys.stderr.isatty() or sys.stdout.isatty()  # where rows show how far it is
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


def _draw(model: Predictor, predictions: Sequence[tuple[Path, Tensor, Tensor]], file: str) -> None:
    from logreg_lightning.use import figures
    from logreg_lightning.use.labels import labels

    names = labels(model.class_names)
    _, pixels, probabilities = zip(*predictions, strict=True)
    lines = [f"{names[int(row.argmax())]}, {row.max():.0%}" for row in probabilities]
    try:
        figures.grid(torch.stack(pixels), lines, "What the model sees").savefig(file)
    except (OSError, ValueError) as error:
        raise InputError(f"--picture {file} cannot be written ({error}); use a .png file") from None


@contextlib.contextmanager
def _printing(
    format_: str, paths: Sequence[Path], top: int
) -> Iterator[Callable[[str, list[tuple[str, float]]], None]]:
    """What prints a picture's path and most probable classes at once: an interrupt keeps what was printed, and closes
    the array of JSON."""
    write = functools.partial(say, end="")
    columns = max(width(printable(str(path))) for path in paths)
    before = ""

    def print_row(path: str, classes: list[tuple[str, float]]) -> None:
        nonlocal before
        if format_ == "json":
            element = {"path": path, "classes": [{"class": name, "probability": value} for name, value in classes]}
            write(f"{before}\n{textwrap.indent(json_of(element), '  ')}")
            before = ","
        elif format_ == "csv":
            write("".join(csv_line([path, name, f"{value:.6f}"]) for name, value in classes))
        elif format_ == "wide":
            write(csv_line([path, *(cell for name, value in classes for cell in (name, f"{value:.6f}"))]))
        else:
            labels = itertools.chain([printable(path)], itertools.repeat(""))
            rows = zip(labels, classes, strict=False)
            lines = (
                f"{padded(label, min(columns, WIDEST))}  {p:>6.1%}  {printable(name)}" for label, (name, p) in rows
            )
            write("\n".join(lines) + "\n")

    if format_ == "json":
        write("[")
    elif format_ == "csv":
        write(csv_line(["path", "class", "probability"]))
    elif format_ == "wide":
        write(
            csv_line(["path", *(f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "probability"))])
        )
    with _interruptible():
        try:
            yield print_row
        finally:
            if format_ == "json":
                write("\n]\n" if before else "]\n")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt, where in a command it would just end the process."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_DFL:  # a notebook's, or somebody else's
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
