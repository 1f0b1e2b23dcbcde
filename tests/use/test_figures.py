"""The pictures are there, of a size to be read, and say what the numbers say."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Patch, events_of, fit
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from logreg_lightning.model import LogisticRegression
from logreg_lightning.use import figures
from logreg_lightning.use.labels import labels

TAGS = {
    "model/weights",
    "mistakes/confusion_matrix",
    "mistakes/most_confident",
    "mistakes/least_confident_hits",
    "confidence/reliability",
    "confidence/precision_recall",
    "data/training_images",
    "data/class_counts",
}


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["--data.val_size=0.1", "--data.val_size=0"])
def test_a_run_draws_them_once_and_the_graph(workdir: Path, flags: str) -> None:
    run = fit("--data.dataset=mnist", "--data.batch_size=200", "--max_epochs=2", "--pictures=true", flags)
    fit("--resume=last", "--max_epochs=3", "--pictures=true")
    found = events_of(run)
    assert set(found.Tags()["images"]) == TAGS and found.Tags()["graph"]
    for tag in TAGS:
        [image] = found.Images(tag)
        picture = PIL.Image.open(io.BytesIO(image.encoded_image_string))
        assert picture.width >= 300 and image.step == 9
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


@pytest.mark.slow
def test_weights_are_drawn_as_they_grow_where_that_is_cheap(workdir: Path, monkeypatch: Patch) -> None:
    flags = ["--data.dataset=mnist", "--data.batch_size=200", "--max_epochs=3", "--pictures=true"]
    assert len(events_of(fit(*flags)).Images("model/weights")) == 1  # an epoch here takes less than a picture
    monkeypatch.setattr(figures.WeightFigures, "SHARE", float("inf"))
    assert events_of(fit(*flags[:-1])).Tags()["images"] == []  # none are drawn where they are not wanted
    steps = [image.step for image in events_of(fit(*flags)).Images("model/weights")]
    assert steps == [3, 6, 9, 9]


def test_weights_share_one_symmetric_scale_as_they_act_on_pixels() -> None:
    model = LogisticRegression(16, 3)
    assert model.standardizer is not None and model.temperature is not None
    torch.nn.init.normal_(model.linear.weight)
    model.standardizer.scale.copy_(torch.rand(16) + 0.5)
    model.temperature.fill_(4)
    figure = figures.weights(model, ("a", "b", "c"))
    [drawn] = figure.axes[0].images
    weights = (model.linear.weight.detach() * model.standardizer.scale / 4).abs().flatten()
    limit = float(np.percentile(weights.numpy(), 98))
    assert drawn.get_clim() == pytest.approx((-limit, limit)) and limit < weights.max()
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b", "c"]


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
    "names", [CIFAR, ("GOLDEN_RETRIEVER", "a" * 200), tuple(f"class number {k}" for k in range(20))]
)
def test_names_are_inside_the_figure_and_side_by_side(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    probabilities, targets = torch.rand(60, len(names)).softmax(1), torch.randint(len(names), (60,))
    shown = labels(names)
    lines = [f"{name}\ntaken for {name}, 100%" for name in shown[:10]]
    drawn = {
        "weights": figures.weights(LogisticRegression(784, len(names)), names),
        "confusion": figures.confusion_matrix(probabilities, targets, names, "test"),
        "curves": figures.precision_recall(probabilities, targets, names, "test"),
        "grid": figures.grid(torch.zeros(len(lines), 1, 28, 28).byte(), lines, "Mistakes"),
    }
    for kind, figure in drawn.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        box, axes = figure.bbox.padded(1), figure.axes[0]
        texts = [text for text in figure.findobj(Text) if any(name in text.get_text() for name in shown)]
        assert len(texts) >= len(lines)
        for text in texts:
            extent = text.get_window_extent()
            assert all(box.contains(x, y) for x, y in extent.get_points()), (kind, text)
        above = [text.get_window_extent() for text in axes.texts] if kind in ("weights", "grid") else []
        assert not any(one.overlaps(other) for one, other in itertools.combinations(above, 2)), kind


def test_the_reliability_diagram_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    torch.manual_seed(0)
    probabilities, labels = torch.randn(500, 4).softmax(1), torch.randint(4, (500,))
    confidence, preds = probabilities.max(1)
    expected = multiclass_calibration_error(probabilities, labels, 4, n_bins=15, norm="l1")
    title = figures.reliability(confidence, preds == labels, "test").get_suptitle()
    assert f"calibration error {expected:.4f}" in title


def test_the_confusion_matrix_counts_and_names() -> None:
    probabilities = torch.eye(3)[[0, 0, 1, 2, 2, 2]]
    figure = figures.confusion_matrix(probabilities, torch.tensor([0, 1, 1, 2, 2, 0]), ("x", "y", "z"), "test")
    counts = [int(text.get_text()) for text in figure.axes[0].texts]
    assert sorted(counts) == sorted([1, 0, 1, 1, 1, 0, 0, 0, 2])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "y", "z"]


@pytest.mark.parametrize(("last", "angle", "side"), [("z", 0, "center"), ("zebra", 45, "right")])
def test_long_names_below_a_figure_are_aslant(last: str, angle: int, side: str) -> None:
    figure = figures.confusion_matrix(torch.eye(3), torch.arange(3), ("x", "y", last), "test")
    below = figure.axes[0].get_xticklabels()
    assert [text.get_text() for text in below] == ["x", "y", last]
    assert {(text.get_rotation(), text.get_horizontalalignment()) for text in below} == {(angle, side)}
