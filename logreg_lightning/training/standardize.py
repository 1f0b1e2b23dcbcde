"""Standardisation: mean and scale of each feature, from one pass over the training images, folded into the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

SAMPLE, SAMPLE_OF_CLASS = 4000, 20
"""Images that are kept for what needs them all at once; of many classes, so many of each in the mean."""

SAMPLE_VALUES = 2**21, 2**24
"""Values of images that are kept at least, and at most: of small images more are, of very large ones fewer."""

CHUNK = 256
"""Images that are looked at together: float32 adds up so many squares of 0 to 255 without rounding."""

FLOOR = 0.3
"""A pixel that varies less than this share of what a typical one does is scaled as if it varied so much: one that is
all but constant in training must not become huge where it is not. A tenth was worse on ten data sets of fourteen."""

ROUNDING = 2
"""Units in the last place: a feature that varies by no more is constant."""

STANDARDIZED_LINEAR = "standardized_linear"
"""What a linear layer that acts on standardised values is called in a state dict.

As `linear` it would invite to be put into an `nn.Linear` for pixels; `Classifier.as_linear` makes that one."""


class Scaling(NamedTuple):
    """What a feature is made of: (feature - mean) x scale.

    A trained model has it in its weights: ((x - m) s) W' + b = x (W s)' + (b - (W s) m).

    Attributes:
        mean: float (features,).
        scale: float (features,).
    """

    mean: Tensor
    scale: Tensor

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (classes, features) and bias (classes,) that do to features what these do to scaled ones."""
        weight = weight * self.scale
        shift = (weight * self.mean).sum(1)  # as a matrix product it would depend on the number of threads
        return weight, bias - shift


class Standardizer(nn.Module):
    """Keeps mean and scale, float (features,), of values in [0, 1]; new, it changes nothing."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, features: Tensor) -> Tensor:
        """Standardised features, float (N, features)."""
        return (features - self.mean) * self.scale

    def scaling(self) -> Scaling:
        """For values in [0, 1], or features."""
        return Scaling(self.mean, self.scale)

    def prepared_for(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        """What makes standardised features, float (N, features), of images (N, ...) of the type of these, in one pass.

        Of uint8 it divides by 255 too.
        """
        unit = 1 if images.is_floating_point() else 255
        scale = self.scale / unit
        shift = -(self.mean * unit) * scale
        return lambda values: torch.addcmul(shift, values.flatten(1).to(shift.dtype), scale)


@dataclass(frozen=True)
class TrainingStatistics:
    """What is known after one pass over the training images.

    Attributes:
        count: Number of images.
        class_counts: int64 (classes,), images of each class.
        mean: float64 (features,).
        scale: float64 (features,), what a feature is multiplied by once its mean is subtracted.
        sample: uint8 or float (n, features), 4,000 of the images, 20 a class or as many as have 2 million values,
            whichever is most, but at most 17 million values; each as likely as any other.
        sample_labels: int64 (n,).
    """

    count: int
    class_counts: Tensor
    mean: Tensor
    scale: Tensor
    sample: Tensor
    sample_labels: Tensor


def to_floats(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats (N, features) of images (N, ...): uint8 divided by 255, as `ToTensor` does, floats kept."""
    floats = images.flatten(1).to(dtype)
    return floats if images.is_floating_point() else floats.div_(255)


@torch.no_grad()
def training_statistics(
    batches: Iterable[Sequence[Tensor]], num_classes: int, are_pixels: bool = True
) -> TrainingStatistics:
    """Looks once at each batch of images (N, ...), uint8 or float in [0, 1], or features, and labels (N,).

    Pixels share a unit, so there is a `FLOOR` below their deviations. Features do not: each is scaled by its own, as
    scikit-learn's `StandardScaler` does it. Sums are float64, merged batch by batch (Chan, Golub, LeVeque 1983,
    Algorithms for Computing the Sample Variance).
    """
    count, class_counts = 0, torch.zeros(num_classes, dtype=torch.int64)
    mean = squares = torch.zeros(())  # the sum of squared deviations from the mean
    sample, sample_labels, keys = torch.empty(0), torch.empty(0), torch.empty(0)
    generator = torch.Generator().manual_seed(0)
    for images, labels in batches:
        images, labels = images.flatten(1).cpu(), labels.cpu()
        class_counts += torch.bincount(labels, minlength=num_classes)
        for chunk in torch.split(images, CHUNK):
            chunk_mean, variance = _moments(chunk)
            share = len(chunk) / (count + len(chunk))
            squares = squares + len(chunk) * variance + count * share * (chunk_mean - mean).square()
            mean = mean + share * (chunk_mean - mean)
            count += len(chunk)
        # The images with the smallest of random numbers are a fair sample of a stream of any length.
        drawn = torch.rand(len(images), dtype=torch.float64, generator=generator)
        least, limit = (values // images.shape[1] for values in SAMPLE_VALUES)
        most = max(1, min(max(SAMPLE, SAMPLE_OF_CLASS * num_classes, least), limit))
        near = drawn < keys.max() if len(keys) == most else torch.ones_like(drawn, dtype=torch.bool)
        if near.any():
            keys = torch.cat([keys, drawn[near]])
            keys, kept = keys.topk(min(most, len(keys)), largest=False)
            sample = torch.cat([sample.to(images.dtype).reshape(-1, images.shape[1]), images[near]])[kept]
            sample_labels = torch.cat([sample_labels.to(labels.dtype), labels[near]])[kept]
    variance = squares / count
    deviation = variance.sqrt()
    constant = torch.zeros_like(mean)
    if are_pixels:
        deviation = torch.maximum(deviation, FLOOR * variance.mean().sqrt())
    elif sample.is_floating_point():
        constant = ROUNDING * torch.finfo(sample.dtype).eps * mean.abs()
    scale = torch.where(deviation > constant, 1 / deviation, 1.0)  # what is constant has nothing to scale
    return TrainingStatistics(count, class_counts, mean, scale, sample, sample_labels)


def _moments(chunk: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each feature, float64 (features,); of uint8 in less than half the time."""
    if chunk.is_floating_point():
        variance, mean = torch.var_mean(chunk.double(), 0, correction=0)
        return mean, variance
    values = chunk.float()
    mean, mean_square = (part.sum(0).double() / len(chunk) for part in (values, values.square()))
    return mean / 255, (mean_square - mean.square()) / 255**2
