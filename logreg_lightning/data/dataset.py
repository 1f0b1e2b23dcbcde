"""What a data set is here: images or features of them, labels, class names, splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Labelled images, or features in their place.

    Attributes:
        pixels: uint8 (N, C, H, W), or features, float (N, features).
        labels: int64, shape (N,), each in [0, number of classes).
        look: Makes the pictures, uint8 (n, C, H, W), that the features at indices (n,) were computed of, scaled to a
            height and width that is the second argument; None where there are no pictures, or where they are the
            pixels.
    """

    pixels: Tensor
    labels: Tensor
    look: Callable[[Tensor, int], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the images or features and labels, int64 (n,), at `indices`, int32 (n,)."""
        return self.pixels.index_select(0, indices), self.labels.index_select(0, indices)

    def pictures(self, indices: Tensor, size: int) -> Tensor | None:
        """uint8 (n, C, H, W), for a person to see, those of features `size` high and wide; None where there are none.

        Args:
            indices: int32 (n,).
            size: Pixels.
        """
        if self.look is not None:
            return self.look(indices, size)
        return self.take(indices)[0] if self.pixels.ndim == 4 else None


@dataclass(frozen=True)
class Dataset:
    """A named data set: its class names, and the images to train on and to test on.

    Attributes:
        train_indices, test_indices: int32 (n,), which of `train` and `test` are meant; None for all of them.
        val_indices: int32 (n,), which of `train` are for validation, where the data set says so itself.
        notes: Sentences that a person who trains on it should read.
        backbone: What decided the features, as `Backbone.about` says it; None where no backbone did.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    train_indices: Tensor | None = None
    test_indices: Tensor | None = None
    val_indices: Tensor | None = None
    notes: tuple[str, ...] = ()
    backbone: dict[str, Any] | None = None

    @property
    def num_test(self) -> int:
        """Images to test on."""
        return len(self.test) if self.test_indices is None else len(self.test_indices)

    @property
    def num_features(self) -> int:
        """Values of an image, or features."""
        return self.train.pixels[0].numel()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of what a model takes, with a backbone what that takes; else (features,)."""
        if self.backbone is not None:
            return 3, self.backbone["image_size"], self.backbone["image_size"]
        return tuple(self.train.pixels.shape[1:])


def hold_out(labels: Tensor, quotas: Sequence[int], seed: int) -> Tensor:
    """Which of the labels (N,) to hold out, bool (N,): so many of each class, drawn at random."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for number, quota in enumerate(quotas):
        of_class = (labels == number).nonzero().flatten()
        held_out[of_class[torch.randperm(len(of_class), generator=generator)[:quota]]] = True
    return held_out


def stratified(labels: Tensor, share: float, seed: int) -> Tensor:
    """Which of the labels (N,) to hold out, bool (N,): that share of each class, drawn at random.

    In all as many as the share makes; at least one of each class that has two.
    """
    counts = labels.bincount()
    quotas = (counts * share).floor().long()
    missing = round(len(labels) * share) - int(quotas.sum())
    quotas[(counts * share - quotas).argsort(descending=True, stable=True)[:missing]] += 1
    quotas = torch.minimum(quotas.clamp(min=1), (counts - 1).clamp(min=0))
    return hold_out(labels, quotas.tolist(), seed)
