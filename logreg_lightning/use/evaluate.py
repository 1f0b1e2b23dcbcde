"""A trained model's metrics on a split: those that training logs, and more."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace

from logreg_lightning import cli
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.runs import checkpoint_of, read_trained_on, threads_of
from logreg_lightning.runtime.threads import use_threads
from logreg_lightning.use.classifier import read_model

if TYPE_CHECKING:
    from logreg_lightning.datamodule import ImageDataModule
    from logreg_lightning.model import LogisticRegression


def build_parser() -> ArgumentParser:
    """The flags of evaluate.py."""
    parser = cli.new_parser("evaluate", "lightning_logs/version_0", "Shows a trained model's metrics.")
    parser.add_argument("run", help="A run's folder, last or FOLDER/last for the newest, or a .ckpt file.")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="The images to evaluate on.")
    parser.add_argument("--data.dataset", type=str, help="Another data set with the same classes and image size.")
    parser.add_argument("--data.root", type=str, help="Folder that the data set's files are in.")
    parser.add_argument("--pictures", type=str, help="A folder to write the figures that TensorBoard shows to, as PNG.")
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
        data = ImageDataModule.of_checkpoint(content, **changes)
        is_own = changes.get("dataset") in (None, content["ImageDataModule"]["dataset"])
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
    seen = read_trained_on(checkpoint.resolve().parent.parent) or {"train": [], "val": []}
    of_run = [*seen["train"], *(seen["val"] if settings.split == "test" else ())]
    left_out = data.leave_out(np.array(of_run, dtype=np.uint64), settings.split)
    with use_threads(threads_of(checkpoint)):
        results = evaluate(model, data, settings.split)
    if settings.pictures:
        write_figures(model, data, Path(settings.pictures))
    if settings.json:
        about = {"run": str(settings.run), "dataset": data.dataset, "split": settings.split, "left_out": left_out}
        print(json.dumps({**about, **results}, indent=2))
    else:
        trained = "trained on" if settings.split == "val" else "trained or validated on"
        print("\n  ".join([f"{data.dataset}, {settings.split} split", *data.data.notes]))
        if left_out:
            print(f"  {left_out:,} images that the model was {trained} are left out")
        print(table(model.class_names, results, settings.split))


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

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for tag, figure in figures.figures(model, data).items():
            figure.savefig(folder / f"{tag.partition('/')[2]}.png")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); use another folder") from None


@torch.inference_mode()
def evaluate(model: LogisticRegression, data: ImageDataModule, split: str) -> dict[str, Any]:
    """A split's metrics by name: those that training logs, top-3 accuracy, the confusion matrix, and each class's."""
    from torchmetrics import MetricCollection, classification

    from logreg_lightning.training.metrics import compute

    classes = len(model.class_names)
    kwargs: dict[str, Any] = {"num_classes": classes, "validate_args": False}
    more = MetricCollection(
        {
            "top3_accuracy": classification.MulticlassAccuracy(top_k=min(3, classes), average="micro", **kwargs),
            "precision": classification.MulticlassPrecision(average=None, **kwargs),
            "recall": classification.MulticlassRecall(average=None, **kwargs),
            "f1": classification.MulticlassF1Score(average=None, **kwargs),
            "confusion": classification.MulticlassConfusionMatrix(**kwargs),
        },
        compute_groups=False,
    )
    logged = model.test_metrics.clone()
    count = 0
    for images, labels in data.val_dataloader() if split == "val" else data.test_dataloader():
        logits = model(images)
        logged.update(logits, labels, class_weights=model.class_weights)
        more.update(logits, labels)
        count += len(labels)
    values = {name.removeprefix("test/"): value for name, value in compute(logged).items()}
    confusion = more["confusion"].compute()
    by_class = {name: more[name].compute().tolist() for name in ("precision", "recall", "f1")}
    return {
        "images": count,
        **values,
        "top3_accuracy": more["top3_accuracy"].compute().item(),
        "majority_class_accuracy": confusion.sum(1).max().item() / count,
        "classes": {
            name: {metric: column[label] for metric, column in by_class.items()}
            | {"images": int(confusion[label].sum())}
            for label, name in enumerate(model.class_names)
        },
        "confusion_matrix": confusion.tolist(),
    }


def table(names: tuple[str, ...], results: dict[str, Any], split: str) -> str:
    """What `evaluate` returns as text for a terminal."""
    width = max(5, *map(len, names))
    labels = {
        "images": "images",
        "accuracy": "accuracy",
        "majority_class_accuracy": "  always predicting the most frequent class",
        "balanced_accuracy": "balanced accuracy",
        "top3_accuracy": "top-3 accuracy",
        "loss": "loss (cross-entropy)",
        "calibration_error": "expected calibration error",
    }
    lines = [f"{split} split", *(f"  {label:<44}{results[key]:>10.5g}" for key, label in labels.items()), ""]
    lines.append(f"  {'class':<{width}}  images  precision  recall      f1")
    for name, row in results["classes"].items():
        lines.append(
            f"  {name:<{width}}  {row['images']:>6}  {row['precision']:>9.4f}  {row['recall']:>6.4f}  {row['f1']:>6.4f}"
        )
    counts = itertools.chain.from_iterable(results["confusion_matrix"])
    cell = 1 + max(4, *map(len, names), *(len(str(count)) for count in counts))
    lines += ["", "  confusion matrix: a row is a true class, a column a predicted class"]
    lines.append(" " * (width + 2) + "".join(f"{name:>{cell}}" for name in names))
    for name, row in zip(names, results["confusion_matrix"], strict=True):
        lines.append(f"  {name:<{width}}" + "".join(f"{count:>{cell}}" for count in row))
    return "\n".join(lines)
