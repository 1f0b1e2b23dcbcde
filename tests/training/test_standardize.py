"""Standardisation against NumPy's mean and deviation over all images at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import Patch
from sklearn.preprocessing import StandardScaler
from tolerance import DOUBLE
from torch import Tensor

from logreg_lightning.training import standardize
from logreg_lightning.training.standardize import Scaling, training_statistics


def batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(torch.split(images, size), torch.split(labels, size), strict=True)


@pytest.mark.parametrize("size", [1, 300, 1000])
@pytest.mark.parametrize("floats", [False, True])
def test_mean_and_scale_are_those_of_all_images_at_once(size: int, floats: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 100 if size == 1 else 1000
    images = torch.randint(0, 256, (count, 3, 4, 5), dtype=torch.uint8, generator=generator)
    images[:, 0, 0] = 7  # never varies
    images[:, 1, 0, 0] = 0
    images[3, 1, 0, 0] = 20  # hardly varies
    labels = torch.randint(0, 4, (count,), generator=generator)
    given = images.double() / 255 if floats else images
    found = training_statistics(batches(given, labels, size), 5)
    values = images.numpy().reshape(count, -1).astype(np.float64) / 255
    np.testing.assert_allclose(found.mean.numpy(), values.mean(0), rtol=DOUBLE)
    expected = 1 / np.maximum(values.std(0), 0.3 * np.sqrt(values.var(0).mean()))
    # A variance loses the digits that the mean's square has more than it: at most two, with the deviation's floor.
    np.testing.assert_allclose(found.scale.numpy(), expected, rtol=100 * DOUBLE)
    assert found.scale[0] == found.scale[20] == found.scale.max()
    assert found.count == count and found.class_counts.tolist() == [*labels.bincount(minlength=4).tolist(), 0]


def test_large_means_lose_no_digits() -> None:
    values = torch.randn(5000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e6
    found = training_statistics(batches(values, torch.zeros(5000, dtype=torch.int64), 70), 2)
    # float64 has steps of 1.2e-10 at 1e6.
    np.testing.assert_allclose(1 / found.scale.numpy(), values.numpy().std(0), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_features_are_scaled_as_scikit_learn_does(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    rows = 10.0 ** rng.uniform(-2, 1, 40) * (rng.normal(size=(500, 40)) + rng.uniform(-20, 20, 40))
    rows[:, 0], rows[:, 1] = 0.1, 0
    features = torch.from_numpy(rows).to(dtype)
    features[:, 2] = 0.1
    features[::2, 2] *= 1 + torch.finfo(dtype).eps  # a network's sum in another order
    found = training_statistics(batches(features, torch.zeros(500, dtype=torch.int64), 70), 1, are_pixels=False)
    scaler = StandardScaler().fit(features.double().numpy())
    np.testing.assert_allclose(1 / found.scale.numpy()[3:], scaler.scale_[3:], rtol=1e-9)
    assert found.scale[:3].tolist() == [1, 1, 1]


def test_equal_images_are_left_as_they_are() -> None:
    images = torch.full((4, 1, 2, 2), 9, dtype=torch.uint8)
    assert training_statistics([(images, torch.tensor([0, 1, 0, 1]))], 2).scale.tolist() == [1, 1, 1, 1]


def test_the_sample_is_fair_and_keeps_its_labels(monkeypatch: Patch) -> None:
    monkeypatch.setattr(standardize, "SAMPLE", 500)
    monkeypatch.setattr(standardize, "SAMPLE_VALUES", (0, 2**24))
    numbers = torch.arange(20_000)
    images = torch.stack([numbers % 256, numbers // 256], 1).to(torch.uint8)
    found = training_statistics(batches(images, numbers // 2000, 700), 10)
    chosen = found.sample[:, 0].long() + 256 * found.sample[:, 1].long()
    assert len(set(chosen.tolist())) == 500 and torch.equal(found.sample_labels, chosen // 2000)
    counts = found.sample_labels.bincount(minlength=10)  # the data set is sorted; 50 of each, give or take 3 deviations
    assert counts.min() > 50 - 3 * 6.7 and counts.max() < 50 + 3 * 6.7
    few = training_statistics(batches(images[:300], numbers[:300] // 100, 64), 10)
    assert sorted(few.sample[:, 0].tolist() + few.sample[:, 1].tolist()) == sorted(images[:300].flatten().tolist())


def test_folded_weights_act_on_features_as_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    x, mean, scale = (torch.rand(*shape, dtype=torch.float64, generator=generator) for shape in ((9, 6), (6,), (6,)))
    weight, bias = (torch.rand(*shape, dtype=torch.float64, generator=generator) for shape in ((3, 6), (3,)))
    scaling = Scaling(mean, scale)
    logits = ((x - mean) * scale) @ weight.T + bias
    folded_weight, folded_bias = scaling.fold(weight, bias)
    torch.testing.assert_close(x @ folded_weight.T + folded_bias, logits, atol=DOUBLE, rtol=0)
