"""A trained model's metrics on a split: those that training logs, and more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace

from logreg_lightning import cli
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.checkpoints import content_of
from logreg_lightning.runtime.names import padded, printable, shortened, width
from logreg_lightning.runtime.output import say
from logreg_lightning.runtime.plain import json_of
from logreg_lightning.runtime.runs import checkpoint_of, read_trained_on, threads_of
from logreg_lightning.runtime.threads import use_threads
from logreg_lightning.use.by_class import ByClass
from logreg_lightning.use.classifier import read_model

if TYPE_CHECKING:
    from logreg_lightning.datamodule import ImageDataModule
    from logreg_lightning.model import LogisticRegression


LISTED = 30
"""Of classes, those in the table at most, and of pairs of classes."""

LONGEST, CELL = 40, 12
"""Letters of a class's name at most, in front of a row and above a column."""

DENSE = 100
"""Of classes, up to which the confusion matrix in the JSON has a list for each."""


def build_parser() -> ArgumentParser:
    """The flags of evaluate.py."""
    parser = cli.new_parser("evaluate", "lightning_logs/version_0", "Shows a trained model's metrics.")
    parser.add_argument("run", help="A run's folder, last or FOLDER/last for the newest, or a .ckpt file.")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="The images to evaluate on.")
    parser.add_argument("--data.dataset", type=str, help="Another data set with the same classes and image size.")
    parser.add_argument("--data.root", type=str, help="Folder that the data set's files are in.")
    parser.add_argument("--pictures", type=str, help="A folder to write the figures that TensorBoard shows to, as PNG.")
    parser.add_argument(
        "--csv",
        type=str,
        help="A folder to write classes.csv and confusion.csv to: every class, and every two confused.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command `evaluate.py`."""
    cli.command("evaluate", build_parser(), _run, argv)


def _run(settings: Namespace) -> None:
    checkpoint = checkpoint_of(settings.run)
    content = read_model(checkpoint)
    from logreg_lightning.datamodule import ImageDataModule  # Lightning, which no help and no refusal waits for
    from logreg_lightning.model import LogisticRegression

    model = LogisticRegression.load(checkpoint)
    changes = {name: value for name, value in vars(settings.data).items() if value is not None}
    if "ImageDataModule" in content:
        with content_of(checkpoint):
            ImageDataModule.of_checkpoint(content, dataset="auto")  # its own may lie elsewhere by now
            own = content["ImageDataModule"]["dataset"]
            _, is_own = Path(own), changes.get("dataset") in (None, own)
        data = ImageDataModule.of_checkpoint(content, **changes)
    elif settings.data.dataset is not None:
        data, is_own = ImageDataModule(**changes), False
    else:
        raise InputError(f"{checkpoint} does not say which images it was trained on; name them with --data.dataset")
    if not is_own:
        data.known = model.class_names
        if settings.split == "val":
            raise InputError("--split val: other data than the run's own has only test images; leave it out")
    data.pixel_range = model.pixel_range
    data.prepare_data()
    data.setup()
    data.relabel(model.class_names)
    check_data(checkpoint, model, data)
    if settings.split == "val" and data.validates_on_test:
        raise InputError("--split val: this run has no validation images; use --split test")
    of_run, left_out = read_trained_on(checkpoint.resolve().parent.parent), 0
    if of_run is not None:
        seen = [of_run[part] for part in (("train", "val") if settings.split == "test" else ("train",))]
        left_out = data.leave_out(np.concatenate(seen), settings.split)
    with use_threads(threads_of(checkpoint)):
        results, by_class = evaluate(model, data, settings.split)
    if settings.pictures:
        write_figures(model, data, Path(settings.pictures))
    if settings.csv:
        with _writing(Path(settings.csv)) as folder:
            by_class.write(folder, model.class_names)
    if settings.json:
        about = {"run": str(settings.run), "dataset": data.dataset, "split": settings.split, "left_out": left_out}
        say(json_of({**about, **results}))
    else:
        trained = "trained on" if settings.split == "val" else "trained or validated on"
        about_data = [f"{data.dataset}, {settings.split} split", *data.data.notes]
        say("\n  ".join(shortened(printable(line), 180) for line in about_data))
        if left_out:
            say(f"  {left_out:,} images that the model was {trained} are left out")
        say(table(model.class_names, results, by_class, settings.split, model.class_weights is not None))


def check_data(path: Path, model: LogisticRegression, data: ImageDataModule) -> None:
    """Makes sure that a model can be evaluated on this data.

    Raises:
        InputError: it was trained on another image size or with another backbone.
    """
    for name, trained_on, here in (
        ("image size", model.image_shape, data.data.image_shape),
        ("backbone", model.backbone, data.data.backbone),
    ):
        if trained_on != here:
            raise InputError(
                f"{path} was trained on other data: its {name} {trained_on} are not {here}; use data with the same "
                "image size"
            )


def write_figures(model: LogisticRegression, data: ImageDataModule, folder: Path) -> None:
    """Writes each figure as a PNG file into the folder.

    Raises:
        InputError: the folder cannot be written.
    """
    from logreg_lightning.use import figures

    with _writing(folder):
        for tag, figure in figures.figures(model, data).items():
            figure.savefig(folder / f"{tag.partition('/')[2]}.png")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); use another folder") from None


@torch.inference_mode()
def evaluate(model: LogisticRegression, data: ImageDataModule, split: str) -> tuple[dict[str, Any], ByClass]:
    """A split's metrics by name: those that training logs, top-3 accuracy, each class's, and the confusion matrix; and
    the counts that these are of.

    Of more than 100 classes the matrix is sparse: `rows`, `columns` and `counts`, as `scipy.sparse.coo_array` takes
    them, of what is not 0.
    """
    from logreg_lightning.training.metrics import compute

    num_classes = len(model.class_names)
    logged = model.test_metrics.clone()
    in_top3, all_labels, all_preds = 0, [], []
    for images, labels in data.val_dataloader() if split == "val" else data.test_dataloader():
        logits = model(images)
        logged.update(logits, labels, class_weights=model.class_weights)
        in_top3 += int((logits.topk(min(3, num_classes)).indices == labels[:, None]).sum())
        all_labels.append(labels.cpu())
        all_preds.append(logits.argmax(1).cpu())
    by_class = ByClass.of(torch.cat(all_labels), torch.cat(all_preds), num_classes)
    count = int(by_class.images.sum())
    values = {name.removeprefix("test/"): value for name, value in compute(logged).items()}
    columns = [column.tolist() for column in (by_class.precision, by_class.recall, by_class.f1, by_class.images)]
    results = {
        "images": count,
        **values,
        "top3_accuracy": in_top3 / count,
        "majority_class_accuracy": by_class.images.max().item() / count,
        "classes": {
            name: dict(zip(("precision", "recall", "f1", "images"), row, strict=True))
            for name, *row in zip(model.class_names, *columns, strict=True)
        },
        "confusion_matrix": _sparse(by_class) if num_classes > DENSE else by_class.matrix(range(num_classes)).tolist(),
    }
    return results, by_class


def _sparse(by_class: ByClass) -> dict[str, list[int]]:
    right = by_class.correct.nonzero().flatten()
    entries = torch.cat([torch.stack([right, right, by_class.correct[right]], 1), by_class.mistakes])
    rows, columns, counts = entries.T.tolist()
    return {"rows": rows, "columns": columns, "counts": counts}


def table(names: tuple[str, ...], results: dict[str, Any], by_class: ByClass, split: str, weighted: bool) -> str:
    """What `evaluate` returns as text for a terminal: of many classes those with the lowest F1, and the most frequent
    mistakes in place of the confusion matrix; `weighted` says whether the loss is, by class."""
    labels = {
        "images": "images",
        "accuracy": "accuracy",
        "majority_class_accuracy": "  always predicting the most frequent class",
        "balanced_accuracy": "balanced accuracy",
        "top3_accuracy": "top-3 accuracy",
        "loss": "loss (cross-entropy" + (", weighted by class)" if weighted else ")"),
        "calibration_error": "expected calibration error",
    }
    lines = [f"{split} split", *(f"  {label:<44}{results[key]:>10.5g}" for key, label in labels.items()), ""]
    classes = list(range(len(names)))
    if many := len(names) > LISTED:
        with_images = by_class.images.nonzero().flatten()
        classes = with_images[by_class.f1[with_images].argsort(stable=True)][:LISTED].tolist()
    shown = [shortened(printable(name), LONGEST) for name in names]
    columns = max(5, *(width(shown[label]) for label in classes))
    lines.append(f"  {padded('class', columns)}  images  precision  recall      f1")
    for label in classes:
        precision, recall, f1 = (float(column[label]) for column in (by_class.precision, by_class.recall, by_class.f1))
        count = by_class.images[label]
        lines.append(f"  {padded(shown[label], columns)}  {count:>6}  {precision:>9.4f}  {recall:>6.4f}  {f1:>6.4f}")
    return "\n".join([*lines, *(_mistakes(shown, len(classes), by_class) if many else _matrix(shown, by_class))])


def _matrix(names: list[str], by_class: ByClass) -> list[str]:
    counts = by_class.matrix(range(len(names))).tolist()
    above = [shortened(name, CELL) for name in names]
    columns, cell = max(5, *map(width, names)), 1 + max(4, *map(width, above), *(len(str(max(row))) for row in counts))
    lines = ["", "  confusion matrix: a row is a true class, a column a predicted class"]
    lines.append(" " * (columns + 2) + "".join(" " * (cell - width(name)) + name for name in above))
    return lines + [
        f"  {padded(name, columns)}" + "".join(f"{count:>{cell}}" for count in row)
        for name, row in zip(names, counts, strict=True)
    ]


def _mistakes(names: list[str], listed: int, by_class: ByClass) -> list[str]:
    """The line that says how many classes are not listed, and the most frequent mistakes."""
    lines = [f"  ... these {listed} have the lowest f1 of {len(names):,} classes; --csv FOLDER writes all of them"]
    mistakes = [
        (names[true], names[predicted], count) for true, predicted, count in by_class.mistakes[:LISTED].tolist()
    ]
    if mistakes:
        columns = [
            max(map(width, column))
            for column in zip(("class", "predicted"), *(row[:2] for row in mistakes), strict=True)
        ]
        lines += ["", f"  {padded('class', columns[0])}  {padded('predicted', columns[1])}  images"]
        lines += [f"  {padded(a, columns[0])}  {padded(b, columns[1])}  {count:>6}" for a, b, count in mistakes]
    if (more := len(by_class.mistakes) - len(mistakes)) > 0:
        lines.append(f"  ... and {more:,} more pairs of classes, less often; --csv FOLDER writes all of them")
    return lines
