"""A hold-out that never moves, and copies that are counted."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from logreg_lightning.data.split import Copies, Keys, held_out, keys_of_contents, keys_of_rows


def keys(count: int, first: int = 0) -> Keys:
    return keys_of_contents(
        [hashlib.sha256(bytes([k % 256, k // 256])).hexdigest() for k in range(first, first + count)]
    )


def test_adding_pictures_moves_none(seed: int = 0) -> None:
    old, new = keys(500), keys(520)
    labels = torch.arange(520) % 10
    before, after = held_out(old, labels[:500], 0.2, seed), held_out(new, labels, 0.2, seed)
    assert torch.equal(before, after[:500])
    order = torch.randperm(520, generator=torch.Generator().manual_seed(0))
    assert torch.equal(held_out(new[order.numpy()], labels[order], 0.2, seed), after[order])
    assert 0.15 < after.float().mean() < 0.25
    assert not torch.equal(after, held_out(new, labels, 0.2, seed + 1))


@pytest.mark.parametrize("counts", [(1, 1), (2, 2), (3, 40), (1, 100)])
@pytest.mark.parametrize("size", [0.01, 0.1, 0.9, 1, 2])
def test_a_class_of_two_has_both_sides(counts: tuple[int, int], size: float) -> None:
    labels = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
    left = labels[~held_out(keys(len(labels)), labels, size, 0)].bincount(minlength=2)
    assert left.min() >= 1
    assert all(number == 1 or number > kept for number, kept in zip(counts, left.tolist(), strict=True))


@pytest.mark.parametrize(("size", "quotas"), [(14, [10, 3, 1]), (70, [48, 15, 7])])
def test_a_number_of_pictures_is_met(size: int, quotas: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([60, 19, 9]))
    assert labels[held_out(keys(88), labels, size, 0)].bincount().tolist() == quotas


@pytest.mark.parametrize("size", [0.3, 20])
def test_copies_stay_together(size: float) -> None:
    of_file = keys(30)[np.arange(90) % 30]  # each thrice, under three classes
    chosen = held_out(of_file, torch.arange(90) // 30, size, 0)
    assert torch.equal(chosen[:30], chosen[30:60]) and torch.equal(chosen[:30], chosen[60:])
    assert 0 < chosen.sum() < 90


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 7, 64])
def test_rows_have_the_same_key_only_where_they_are_equal(dtype: torch.dtype, width: int) -> None:
    values = torch.randint(0, 256, (2000, width), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = keys_of_rows(values)
    assert len(np.unique(found)) == len(np.unique(values.numpy(), axis=0))
    assert np.array_equal(found[::3], keys_of_rows(values[::3]))
    other = values[:1].clone()
    other[0, -1] = (other[0, -1].double() + 1) % 256
    assert keys_of_rows(other)[0] != found[0]


def test_rows_are_the_same_in_any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(50, 5)
    whole = keys_of_rows(values)
    monkeypatch.setattr("logreg_lightning.data.split.CHUNK", 33)
    assert np.array_equal(keys_of_rows(values), whole)


def test_copies_are_counted() -> None:
    files, seen = keys(12), keys(12, 100)
    seen[10] = seen[0]  # the model sees what it was trained on
    files[11] = files[5]  # a file that it was validated on
    labels = torch.zeros(12, dtype=torch.long)
    labels[10] = 1
    parts = [(files[part], seen[part], labels[part]) for part in (slice(0, 4), slice(4, 8), slice(8, 12))]
    copies = Copies(*parts)
    assert copies.in_test.tolist() == [False, False, True, True]
    note = "2 of 4 test images are in training or validation too; 1 is there under two classes"
    assert copies.notes == [f"the same image more than once: {note}"]
    assert set(copies.trained_on) == {*files[:4], *seen[:4]}
    changed = Copies(parts[0], parts[1], (*parts[2][:2], 1 - parts[2][2]))
    assert copies.digest == Copies(*parts).digest != changed.digest
