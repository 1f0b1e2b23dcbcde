"""Which pictures are held out: a picture's side follows from what it is, not from its place among the others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Keys = npt.NDArray[np.uint64]
"""Of each picture 64 bits that tell it from others, wherever it lies: copies have the same."""

CHUNK = 2**22
"""Bytes that are looked at together."""


def keys_of_contents(contents: Sequence[str]) -> Keys:
    """The first 64 bits of each content, a hexadecimal hash; 0 where it is empty."""
    return np.array([int(content[:16] or "0", 16) for content in contents], dtype=np.uint64)


def keys_of_rows(values: Tensor) -> Keys:
    """A hash of each row's values (N, ...), floats as float32: rows with the same values have the same."""
    rows = values.reshape(len(values), -1)
    width = rows.shape[1] * (4 if rows.is_floating_point() else rows.element_size())
    factors = _mixed(np.arange(1, -(-width // 4) + 1, dtype=np.uint64)) | np.uint64(1)
    step = max(1, CHUNK // width)
    keys = np.empty(len(rows), dtype=np.uint64)
    for begin in range(0, len(rows), step):
        chunk = rows[begin : begin + step]
        data = np.ascontiguousarray((chunk.float() if chunk.is_floating_point() else chunk).numpy()).view(np.uint8)
        if width % 4:
            data = np.pad(data, ((0, 0), (0, -width % 4)))
        # A sum of 32-bit words times random odd 64-bit numbers (multilinear hashing, Carter and Wegman 1979).
        keys[begin : begin + step] = data.view(np.uint32).astype(np.uint64) @ factors
    return _mixed(keys)


def _mixed(values: Keys) -> Keys:
    """Each number as a random one: splitmix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


Part = tuple[Keys, Keys, Tensor]
"""Of the images of a split, their keys, the same as a model sees them, and labels (N,)."""


class Copies:
    """Images that are in a data set more than once: the same file, or the same to the model.

    Attributes:
        in_test: bool (N,), which images to test on are there to train or validate on as well.
        notes: A sentence that counts them, if there are any.
        digest: A hash of all images, labels and splits, in their order.
        trained_on, validated_on: Keys of both kinds, sorted.
    """

    def __init__(self, train: Part, val: Part, test: Part) -> None:
        self.trained_on, self.validated_on = (np.unique(np.concatenate(part[:2])) for part in (train, val))
        self.in_test = among(test, np.concatenate([self.trained_on, self.validated_on]))
        counts = [
            f"{int(is_copy.sum()):,} of {len(is_copy):,} {name} images are in {where} too"
            for name, where, is_copy in (
                ("test", "training or validation", self.in_test),
                ("validation", "training", among(val, self.trained_on)),
            )
            if is_copy.any()
        ]
        seen = np.concatenate([part[1] for part in (train, val, test)])
        labels = np.concatenate([part[2].numpy() for part in (train, val, test)])
        order = np.lexsort((labels, seen))
        same = seen[order][1:] == seen[order][:-1]
        contradictions = int((same & (labels[order][1:] != labels[order][:-1])).sum())
        if contradictions:
            counts.append(f"{contradictions:,} {'is' if contradictions == 1 else 'are'} there under two classes")
        self.notes = [f"the same image more than once: {'; '.join(counts)}"] if counts else []
        digest = hashlib.sha256()
        for keys, _, targets in (train, val, test):
            digest.update(keys.tobytes() + targets.numpy().tobytes() + b"|")
        self.digest = digest.hexdigest()[:32]


def among(part: Part, keys: Keys) -> npt.NDArray[np.bool_]:
    """Which of its images, bool (N,), these keys tell of."""
    return np.isin(part[0], keys) | np.isin(part[1], keys)


def held_out(keys: Keys, labels: Tensor, size: float, seed: int) -> Tensor:
    """Which pictures to hold out, bool (N,): each by its key and the seed alone, as long as a class has both sides.

    Adding pictures moves none of the others but where a class had nothing held out, or nothing left. Copies stay
    together, under whichever classes they are.

    Args:
        labels: int64 (N,).
        size: A share below 1: about so much of each class. A number from 1 on: so many in all, the same share of each
            class, those with the lowest draws.
    """
    draws = _mixed(keys ^ _mixed(np.array([seed % 2**64], dtype=np.uint64)))
    chosen = np.zeros(len(draws), dtype=bool)
    if size < 1:
        chosen = draws < np.uint64(int(size * 2**64))
    of_classes = [np.flatnonzero(labels.numpy() == label) for label in np.unique(labels.numpy())]
    if size >= 1:
        for rows, quota in zip(of_classes, _quotas([len(rows) for rows in of_classes], int(size)), strict=True):
            if quota:
                chosen[rows] = draws[rows] <= np.sort(draws[rows])[quota - 1]
        chosen = np.isin(draws, draws[chosen])
    for rows in of_classes:
        lowest, highest = draws[rows].min(), draws[rows].max()
        if lowest < highest and not chosen[rows].any():
            chosen |= draws == lowest
        if chosen[rows].all():
            chosen &= draws != highest
    return torch.from_numpy(chosen)


def _quotas(counts: list[int], total: int) -> list[int]:
    """So many in all, the same share of each count, rounded by the largest remainders."""
    shares = np.array(counts) * (total / sum(counts))
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: total - int(quotas.sum())]] += 1
    return [int(quota) for quota in quotas]
