"""What a model's predictions say of each class, and of each two of them that it confuses; as tables, and as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logreg_lightning.runtime.files import atomic_write
from logreg_lightning.runtime.names import csv_line
from logreg_lightning.use.classifier import Predictor

FILES = ("classes.csv", "confusion.csv")


@dataclass(frozen=True)
class ByClass:
    """Counts of images.

    Attributes:
        images, predicted, correct: int64 (classes,): how many a class has, how many were taken for it, how many of
            these rightly.
        mistakes: True class, predicted class, images, int64 (n, 3), the most frequent first.
    """

    images: Tensor
    predicted: Tensor
    correct: Tensor
    mistakes: Tensor

    @classmethod
    def of(cls, labels: Tensor, preds: Tensor, num_classes: int) -> ByClass:
        """Of true and predicted classes, int64 (N,)."""
        pairs, counts = torch.unique(labels * num_classes + preds, return_counts=True)
        table = torch.stack([pairs // num_classes, pairs % num_classes, counts], 1)
        wrong = table[table[:, 0] != table[:, 1]]
        images, predicted, correct = (
            chosen.bincount(minlength=num_classes) for chosen in (labels, preds, labels[labels == preds])
        )
        return cls(images, predicted, correct, wrong[wrong[:, 2].argsort(descending=True, stable=True)])

    @property
    def precision(self) -> Tensor:
        """float64 (classes,), 0 for a class that nothing was taken for."""
        return self.correct / self.predicted.clamp(min=1).double()

    @property
    def recall(self) -> Tensor:
        """float64 (classes,), 0 for a class without images."""
        return self.correct / self.images.clamp(min=1).double()

    @property
    def f1(self) -> Tensor:
        """float64 (classes,), the harmonic mean of the two, 0 where both are 0."""
        return 2 * self.correct / (self.images + self.predicted).clamp(min=1).double()

    def matrix(self, classes: Sequence[int]) -> Tensor:
        """Counts of these true classes, in rows, by these predicted classes, in columns, int64."""
        place = torch.full((len(self.images),), -1)
        place[torch.tensor(classes)] = torch.arange(len(classes))
        counts = self.correct[torch.tensor(classes)].diag()
        row, column = place[self.mistakes[:, 0]], place[self.mistakes[:, 1]]
        inside = (row >= 0) & (column >= 0)
        counts[row[inside], column[inside]] = self.mistakes[inside, 2]
        return counts

    def most_confused(self, most: int) -> list[int]:
        """The classes that the most frequent mistakes are between, so many at most, in their order; of too few the
        first others."""
        in_mistakes = self.mistakes[:, :2].flatten().tolist()
        return sorted([*dict.fromkeys([*in_mistakes, *range(len(self.images))])][:most])

    def write(self, folder: Path, names: Sequence[str]) -> None:
        """Writes `classes.csv`, a class a row, and `confusion.csv`, its mistakes, the most frequent first.

        Raises:
            OSError: the folder cannot be written.
        """
        counts = (column.tolist() for column in (self.images, self.correct, self.predicted))
        shares = (map(_digits, column.tolist()) for column in (self.precision, self.recall, self.f1))
        header = ["class", "images", "correct", "predicted", "precision", "recall", "f1"]
        _write_csv(folder / FILES[0], header, zip(names, *counts, *shares, strict=True))
        mistakes = ((names[true], names[predicted], images) for true, predicted, images in self.mistakes.tolist())
        _write_csv(folder / FILES[1], ["class", "predicted_class", "images"], mistakes)


@torch.inference_mode()
def predicted(model: Predictor, batches: Iterable[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """True and predicted classes, int64 (N,), of batches of images and labels."""
    device = next(model.parameters()).device
    columns = [(labels, model(images.to(device)).argmax(1).cpu()) for images, labels in batches]
    labels, preds = (torch.cat(column) for column in zip(*columns, strict=True))
    return labels, preds


def _digits(share: float) -> str:
    return f"{share:.6g}"


def _write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    atomic_write(file, "".join(map(csv_line, [header, *rows])).encode())
