"""What TensorBoard shows besides curves: the weights, the mistakes, how far probabilities can be trusted, the data."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from logreg_lightning.data.dataset import Images
from logreg_lightning.data.loader import EvalLoader
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime.names import printable, width
from logreg_lightning.runtime.saver import Saver
from logreg_lightning.use.by_class import ByClass
from logreg_lightning.use.classifier import MOST_CLASSES
from logreg_lightning.use.labels import Drawing, labels

SHOWN = 10
"""Images in a picture of mistakes or hits."""

LINE = 12
"""Letters above a picture that are written in one line."""

LETTER, CAPITAL = 0.62, 0.75
"""Widths of most letters of DejaVu Sans at most, of the height of the font."""

PICTURE = 128
"""Height and width at which the pictures of features are shown."""

POINTS, THUMBNAIL, COMPONENTS = 2000, 32, 50
"""Validation features in TensorBoard's projector, height and width of their pictures, and what is kept of them: their
first principal components, to which the projector itself reduces features before t-SNE."""

THRESHOLDS = torch.linspace(0, 1, 100)
"""Of the curves of precision and recall."""

BINS = 15
"""Of the reliability diagram, as many as the calibration error has."""


@torch.inference_mode()
def draw(writer: SummaryWriter, model: LogisticRegression, data: ImageDataModule, step: int) -> None:
    """Draws all pictures of a trained model into TensorBoard at that step, and the model's graph."""
    for tag, figure in figures(model, data).items():
        writer.add_figure(tag, figure, step)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        linear = model.classifier().as_linear()
        graph = torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.Softmax(1))
        warnings.simplefilter("ignore")  # TensorBoard traces in a way that torch means to end
        shape = model.image_shape if model.sees_pixels else (model.linear.in_features,)
        writer.add_graph(graph, linear.weight.new_zeros(1, *shape))
    if not model.sees_pixels:
        embed(writer, model, data)


class WeightFigures(L.Callback):
    """Draws the weights after a validation, as long as all that takes less than a twentieth of the training's time.

    Comes before the saver: what a checkpoint knows of, a resumed run does not draw again.
    """

    SHARE = 0.05

    def __init__(self, saver: Saver) -> None:
        self.saver = saver
        self.seconds = 0.3  # what the first figure is likely to take

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or self.seconds > self.SHARE * self.saver.fit_seconds:
            return
        model = cast(LogisticRegression, pl_module)
        if not model.sees_pixels:
            return
        begun = time.perf_counter()
        figure = weights(model, model.class_names)
        # `self.log` takes scalars only.
        cast(Any, trainer.logger).experiment.add_figure("model/weights", figure, trainer.global_step)
        self.seconds += time.perf_counter() - begun


@torch.inference_mode()
def figures(model: LogisticRegression, data: ImageDataModule) -> dict[str, Figure]:
    """All pictures of a trained model by their TensorBoard tags, on the validation set, or on the test set where
    there is none."""
    model = model.eval().cpu()
    names = data.data.classes
    shown = labels(names)
    images, indices, split = _validated(data)
    parts = [(model(pixels).float().softmax(1), targets) for pixels, targets in EvalLoader(images, indices)]
    probabilities, targets = (torch.cat(column) for column in zip(*parts, strict=True))

    def show(chosen: Tensor, title: str) -> Figure | None:
        thumbnails = images.thumbnails(indices[chosen], PICTURE)
        lines = []
        for row in chosen.tolist():
            mistake = "" if preds[row] == targets[row] else f" taken for {shown[preds[row]]}"
            line = f"{shown[targets[row]]}{mistake}, {confidence[row]:.0%}"
            lines.append(line if len(line) <= LINE else line.replace(" taken for", "\ntaken for"))
        return None if thumbnails is None else grid(thumbnails, lines, f"{title} ({split})")

    confidence, preds = probabilities.max(1)
    mistakes, hits = (preds != targets).nonzero().flatten(), (preds == targets).nonzero().flatten()
    worst = mistakes[confidence[mistakes].argsort(descending=True)[:SHOWN]]
    narrow = hits[confidence[hits].argsort()[:SHOWN]]
    drawn = {
        "model/weights": weights(model, names) if model.sees_pixels else None,
        "mistakes/confusion_matrix": confusion_matrix(probabilities, targets, names, split),
        "mistakes/most_confident": show(worst, "Most confident mistakes"),
        "mistakes/least_confident_hits": show(narrow, "Least confident hits"),
        "confidence/reliability": reliability(confidence, preds == targets, split),
        "confidence/precision_recall": precision_recall(probabilities, targets, names, split),
        "data/training_images": training_images(data),
        "data/class_counts": class_counts(data),
    }
    return {tag: figure for tag, figure in drawn.items() if figure is not None}


def _validated(data: ImageDataModule) -> tuple[Images, Tensor, str]:
    """What training validates on: images, which of them, int32 (n,), and the name of their split."""
    if not data.validates_on_test:
        return data.data.train, data.val_indices, "validation"
    images, indices = data.data.test, data.data.test_indices
    return images, torch.arange(len(images)).int() if indices is None else indices, "test"


@torch.inference_mode()
def embed(writer: SummaryWriter, model: LogisticRegression, data: ImageDataModule) -> None:
    """Fills TensorBoard's projector with validation features, their pictures, classes and predicted classes."""
    images, indices, split = _validated(data)
    # Spread over all of them: those of a folder are in the order of their classes.
    chosen = indices[torch.linspace(0, len(indices) - 1, min(len(indices), POINTS)).long()]
    values, targets = images.take(chosen)
    names = [printable(name) for name in model.class_names]
    pairs = [[names[k] for k in pair] for pair in zip(targets.tolist(), model(values).argmax(1).tolist(), strict=True)]
    centred = values.float() - values.float().mean(0)
    kept = min(COMPONENTS, *centred.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, scale, _ = torch.pca_lowrank(centred, kept, center=False)
    thumbnails = images.thumbnails(chosen, THUMBNAIL)
    # The folder that TensorBoard makes for step 0, here of a run that was resumed.
    shutil.rmtree(Path(cast(Any, writer).get_logdir()) / "00000", ignore_errors=True)
    writer.add_embedding(
        left * scale,
        pairs,
        None if thumbnails is None else thumbnails.float() / 255,
        tag=f"{split} features",
        metadata_header=["class", "predicted class"],
    )


def _figure(title: str, width: float = 5, height: float = 4) -> Drawing:
    """Small in inches, so that text stays readable on TensorBoard's cards, 300 pixels wide."""
    figure = Drawing(figsize=(width, height), dpi=150)
    figure.suptitle(title, fontsize=11)
    return figure


def _fitting(lines: Sequence[str], inches: float, most: float) -> float:
    """The size of a font, in points, at which the longest of these lines is so wide at most."""
    parts = [part for line in lines for part in line.split("\n") if part]
    longest = max(
        (LETTER * width(part) + (CAPITAL - LETTER) * sum(map(str.isupper, part)) for part in parts), default=1
    )
    return min(most, 72 * inches / longest)


def _name_below(axes: Axes, names: Sequence[str], **style: Any) -> None:
    """Writes a name below each place from 0 on, aslant where one is long."""
    is_long = max(map(len, names)) > 3
    axes.set_xticks(
        range(len(names)), names, rotation=45 if is_long else 0, ha="right" if is_long else "center", **style
    )


def _tiles(
    axes: Axes,
    images: Tensor,
    lines: Sequence[str],
    columns: int,
    limits: tuple[float, float] = (0, 255),
    cmap: str = "gray",
) -> Any:
    """One picture of images (N, C, H, W), side by side in columns, a line above each; limits are the colours' ends."""
    images = images[:, 0] if images.shape[1] == 1 else images.movedim(1, -1)
    count, height, width = images.shape[:3]
    rows, gap = max(1, -(-count // columns)), max(1, round(0.4 * height))
    blank = float("nan") if images.is_floating_point() else 255
    sheet = torch.full((rows * (height + gap), columns * (width + 2), *images.shape[3:]), blank, dtype=images.dtype)
    box = axes.get_window_extent()
    dots = min(box.width / sheet.shape[1], box.height / sheet.shape[0])  # of a pixel: `imshow` keeps these square
    size = _fitting(lines, width * dots / cast(Figure, axes.figure).dpi, 9)
    for index, (image, line) in enumerate(zip(images, lines, strict=True)):
        top, left = index // columns * (height + gap) + gap, index % columns * (width + 2) + 1
        sheet[top : top + height, left : left + width] = image
        axes.text(left + width / 2, top - gap / 4, line, ha="center", va="bottom", fontsize=size)
    axes.set_axis_off()
    return axes.imshow(sheet.numpy(), cmap=cmap, vmin=limits[0], vmax=limits[1])


def weights(model: LogisticRegression, names: tuple[str, ...]) -> Figure:
    """The weight images on one symmetric scale."""
    values, limit = model.classifier().weight_images()
    figure = _figure("Weights: red for the class, blue against", 5, 2.8)
    axes = figure.add_axes((0.02, 0.02, 0.77, 0.9))
    drawn = _tiles(axes, values[:MOST_CLASSES, None], labels(names)[:MOST_CLASSES], 5, (-limit, limit), "RdBu_r")
    figure.colorbar(drawn, cax=figure.add_axes((0.81, 0.15, 0.03, 0.66)), label="weight", extend="both")
    return figure


def confusion_matrix(probabilities: Tensor, targets: Tensor, names: tuple[str, ...], split: str) -> Figure:
    """Counts of true classes, in rows, by predicted classes, in columns: of many classes those most confused."""
    by_class = ByClass.of(targets, probabilities.argmax(1), len(names))
    classes = by_class.most_confused(MOST_CLASSES)
    counts = by_class.matrix(classes)
    figure = _figure(f"Confusion matrix ({split})", 5, 4.6)
    shown = labels(names)
    ticks = [shown[label] for label in classes]
    most, count_size = (10, 8) if len(classes) <= 10 else (7, 6)
    tick_size = _fitting(ticks, 0.9, most)
    axes = figure.add_axes((0.27, 0.25, 0.65, 0.64) if max(map(len, ticks)) > 3 else (0.17, 0.17, 0.71, 0.72))
    if len(classes) < len(names):
        axes.set_title(f"the {len(classes)} most confused of {len(names):,} classes", fontsize=9)
    drawn = axes.imshow(counts.numpy(), cmap="Blues")
    _name_below(axes, ticks, fontsize=tick_size)
    axes.set_yticks(range(len(classes)), ticks, fontsize=tick_size)
    axes.set_xlabel("Predicted class", fontsize=10)
    axes.set_ylabel("True class", fontsize=10)
    dark = counts.max() / 2
    for (row, column), count in np.ndenumerate(counts.numpy()):
        color = "white" if count > dark else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=count_size)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="images")
    return figure


def grid(images: Tensor, lines: list[str], title: str) -> Figure:
    """Images, uint8 (N, C, H, W), with a line each."""
    columns = min(5, max(1, len(lines)))
    width = max(2.5, 1.0 * columns)
    height = 0.4 + 1.4 * max(1, -(-len(lines) // columns)) * width / columns
    figure = _figure(title if lines else f"{title}: none", width, height)
    _tiles(figure.add_axes((0.01, 0.01, 0.98, 1 - 0.35 / height)), images, lines, columns)
    return figure


def reliability(confidence: Tensor, correct: Tensor, split: str) -> Figure:
    """Accuracy by confidence, with the expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    count = torch.bincount(bins, minlength=BINS).double()
    accuracy = torch.bincount(bins, correct.double(), BINS) / count
    mean = torch.bincount(bins, confidence.double(), BINS) / count
    error = float(((accuracy - mean).abs() * count).nan_to_num().sum() / count.sum())
    figure = _figure(f"Reliability ({split}), calibration error {error:.4f}", 5, 4.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    middles = ((torch.arange(BINS) + 0.5) / BINS).tolist()
    above.bar(middles, accuracy.nan_to_num().tolist(), 0.9 / BINS, label="accuracy in the bin")
    above.plot([0, 1], [0, 1], "--", color="black", label="accuracy = confidence")
    above.set_ylabel("accuracy")
    above.legend(loc="upper left")
    below.bar(middles, count.tolist(), 0.9 / BINS, color="grey")
    below.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    return figure


def precision_recall(probabilities: Tensor, targets: Tensor, names: tuple[str, ...], split: str) -> Figure:
    """Precision by recall of each class against all others; of many classes one curve, of all of them together."""
    figure = _figure(f"Precision and recall ({split})")
    axes = figure.add_axes((0.12, 0.13, 0.67, 0.77))
    of_truth = probabilities.gather(1, targets[:, None]).flatten()
    if len(names) > MOST_CLASSES:
        axes.plot(*precision_recall_curve(probabilities, of_truth))
        axes.set_title(f"all {len(names):,} classes together (micro-average)", fontsize=9)
    else:
        for label in range(len(names)):
            curve = precision_recall_curve(probabilities[:, label].contiguous(), of_truth[targets == label])
            axes.plot(*curve, "-" if label < 10 else "--", color=f"C{label % 10}")
        shown = labels(names)
        size = min(_fitting(shown, 0.6, 10), 200 / len(shown))
        axes.legend(
            axes.lines,
            shown,
            title="class",
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            fontsize=size,
            handlelength=1,
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    return figure


def precision_recall_curve(probabilities: Tensor, of_truth: Tensor) -> tuple[list[float], list[float]]:
    """Recall and precision at each threshold that a probability reaches.

    Args:
        probabilities: Of what may be so, of any shape.
        of_truth: Those among them of what is so.
    """

    def reaching(values: Tensor) -> Tensor:
        # In parts: of many classes, what is made of all values at once takes twice their memory.
        parts = (torch.bucketize(part, THRESHOLDS, right=True).flatten() for part in torch.split(values, 1000))
        inside = torch.stack([part.bincount(minlength=len(THRESHOLDS) + 1) for part in parts]).sum(0)
        return inside.flip(0).cumsum(0).flip(0)[1:].double()

    found, right = reaching(probabilities), reaching(of_truth)
    any_found = found > 0
    recall, precision = right / max(1, len(of_truth)), right / found.clamp(min=1)
    return recall[any_found].tolist(), precision[any_found].tolist()


def training_images(data: ImageDataModule, rows: int = 5) -> Figure | None:
    """The first training images of each class that has so many, a class a column; None where there are no images."""
    first = data.train_indices[:20_000]
    targets = data.data.train.labels[first]
    of_classes = {
        name: first[(targets == label).nonzero().flatten()[:rows]]
        for label, name in enumerate(labels(data.data.classes)[:MOST_CLASSES])
    }
    chosen = {name: indices for name, indices in of_classes.items() if len(indices) == rows}
    thumbnails = None
    if chosen:
        thumbnails = data.data.train.thumbnails(torch.stack([*chosen.values()]).T.flatten(), PICTURE)
        if thumbnails is None:
            return None
    columns = max(1, len(chosen))
    figure = _figure("Training images by class", 5, max(2.5, 0.5 + 1.4 * rows * 5 / max(8, columns)))
    if thumbnails is not None:
        lines = [*chosen, *[""] * (columns * (rows - 1))]
        _tiles(figure.add_axes((0.01, 0.01, 0.98, 0.88)), thumbnails, lines, columns)
    return figure


def class_counts(data: ImageDataModule) -> Figure:
    """How many training images each class has."""
    names = data.data.classes
    counts = torch.bincount(data.data.train.labels[data.train_indices], minlength=len(names))
    figure = _figure(f"Training images: {int(counts.sum()):,}", 5, 3.6)
    axes = figure.add_axes((0.17, 0.3, 0.8, 0.59))
    if len(names) <= MOST_CLASSES:
        bars = axes.bar(range(len(names)), counts.tolist())
        shown = labels(names)
        _name_below(axes, shown, fontsize=_fitting(shown, 0.8, 10))
        axes.bar_label(bars, fmt="{:.0f}", fontsize=7)
        axes.set_xlabel("class")
    else:
        axes.stairs(counts.sort(descending=True).values.tolist(), fill=True)
        axes.set_xlabel(f"{len(names):,} classes, the most frequent first")
    axes.set_ylabel("images")
    return figure


def swept(rows: Sequence[dict[str, Any]]) -> Figure | None:
    """Validation accuracy over the two settings that mattered most, each at its best over all others.

    A setting matters by how far the mean accuracy at its best value is above that at its worst. None where one alone or
    no setting was swept over more than one value.

    Args:
        rows: Of each setting what was swept, as it was given, and `val/accuracy`.
    """
    good = [row for row in rows if row["val/accuracy"] == row["val/accuracy"]]  # the others diverged
    values = {name: sorted({row[name] for row in rows}, key=_order) for name in rows[0] if not name.startswith("val/")}
    values = {name: swept_over for name, swept_over in values.items() if len(swept_over) > 1}
    if not good or not values:
        return None

    def matters(name: str) -> float:
        of_each = ([row["val/accuracy"] for row in good if row[name] == value] for value in values[name])
        means = [sum(accuracies) / len(accuracies) for accuracies in of_each if accuracies]
        return float(max(means) - min(means))

    first, *others = sorted(values, key=matters, reverse=True)
    figure = _figure("Best validation accuracy by setting", 5, 4)
    axes = figure.add_axes((0.17, 0.2, 0.75, 0.7))
    across = values[first]
    many = len(across) > MOST_CLASSES
    if not others or many:
        best = [max((row["val/accuracy"] for row in good if row[first] == value), default=np.nan) for value in across]
        places: Any = across if many else range(len(across))
        axes.plot(places, best, "." if many else "o-")
        axes.set_ylabel("val/accuracy")
        if many and _order(min(across, key=_order)) > (0, 0):
            axes.set_xscale("log")
    else:
        down = values[others[0]]
        table = np.full((len(down), len(across)), np.nan)
        for row in good:
            cell = down.index(row[others[0]]), across.index(row[first])
            table[cell] = np.nanmax([table[cell], row["val/accuracy"]])
        drawn = axes.imshow(table, cmap="viridis", aspect="auto", origin="lower")
        figure.colorbar(drawn, ax=axes, label="val/accuracy")
        axes.set_yticks(range(len(down)), [_short(value) for value in down], fontsize=8)
        axes.set_ylabel(others[0])
        middle = (np.nanmin(table) + np.nanmax(table)) / 2
        for (y, x), accuracy in np.ndenumerate(table):
            if accuracy == accuracy and table.size <= 10 * MOST_CLASSES:
                color = "black" if accuracy > middle else "white"
                axes.text(x, y, f"{accuracy:.3f}", ha="center", va="center", fontsize=6, color=color)
    if not many:
        axes.set_xticks(range(len(across)), [_short(value) for value in across], rotation=45, fontsize=8)
    axes.set_xlabel(first)
    return figure


def _order(value: Any) -> tuple[int, Any]:
    """Numbers, then what auto is multiplied by, then names."""
    if isinstance(value, int | float):
        return 0, value
    return (1, float("1" if value == "auto" else value[:-1])) if value == "auto" or value[0].isdigit() else (2, value)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
