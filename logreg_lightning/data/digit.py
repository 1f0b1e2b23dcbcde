"""A photo, scan or drawing of one digit, prepared as MNIST's digits were.

What decides is integers, and steps that JavaScript can say in the same order; a picture is shrunk first, so that a
photo of any size costs the same. `use/page/digit.js` is this file again, function by function, and tests compare the
two for equality: whoever changes one changes both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from logreg_lightning.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MNIST_SHAPE = (1, 28, 28)
NO_DIGIT = "no digit was seen: it needs one digit whose ink stands out from the paper, clear of the picture's edges"

MOST = 400
"""Of the longer side that is looked at, in pixels."""
UNIT = 16
"""Of a grey level: its steps once pixels are averaged."""

Array = npt.NDArray[Any]


def digit_to_pixels(picture: Image) -> Tensor:
    """uint8 (1, 28, 28) of a picture of one digit, in mode L or RGB, made as MNIST was.

    Light on dark, whatever the paper; the ink's box scaled into 20 x 20, its proportions kept; placed by its centre of
    mass in the middle of 28 x 28 (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/), which in MNIST's own images is
    pixel (14, 14) from 0. `ink_of` finds the ink. A picture that is so already stays as it is.

    Raises:
        InputError: no digit is seen.
    """
    grey = np.array(picture.convert("L"))
    if not is_placed(grey):
        ink = ink_of(grey)
        if ink is None:
            raise InputError(NO_DIGIT)
        grey = placed(ink)
    return torch.from_numpy(grey).unsqueeze(0)


def is_placed(grey: Array) -> bool:
    """Whether a picture, uint8 (H, W), is already what `placed` makes, as all but 3 in 10,000 of MNIST's images are."""
    y, x = np.nonzero(grey)
    if grey.shape != MNIST_SHAPE[1:] or not len(y) or max(np.ptp(y), np.ptp(x)) + 1 != 20:
        return False
    weights = grey[y, x].astype(np.int64)
    return all(2 * abs(int((weights * (at - 14)).sum())) <= int(weights.sum()) for at in (y, x))


def paper_of(picture: Image) -> str:
    """White or black, whichever behind a picture in mode RGBA shows what is drawn.

    What is drawn in one tone needs the other one behind it. Of more tones, the transparent parts belong to the paper
    where they are the smaller part, and to the ink's surroundings where they are the larger.
    """
    alpha = np.asarray(picture.getchannel("A"), dtype=np.int64)
    grey = np.asarray(picture.convert("RGB").convert("L"), dtype=np.int64)
    seen = grey[alpha >= 128]
    light = 2 * int((alpha * grey).sum()) >= 255 * int(alpha.sum())
    tones = int(seen.max() - seen.min()) if seen.size else 0
    own = tones >= 64 and 2 * int(alpha.sum()) > 255 * alpha.size
    return "white" if light == own else "black"


def shrunk(grey: Array) -> Array:
    """int64, in `UNIT`s: the means of square blocks, as large as brings the longer side to at most `MOST` pixels.

    What is left over at the right and below is cut off.
    """
    height, width = grey.shape
    side = -(-max(height, width) // MOST)
    height, width = max(height // side, 1), max(width // side, 1)
    part = grey[: height * side, : width * side]
    rows = part.reshape(height, -1, part.shape[1]).sum(1, dtype=np.int64)
    count = part.size // (height * width)
    means: Array = (rows.reshape(height, width, -1).sum(2) * UNIT + count // 2) // count
    return means


def blurred(values: Array, radius: int) -> Array:
    """The mean over (2 radius + 1)^2 pixels, rounded down; at the edges over those that there are."""
    for axis in (0, 1):
        size = values.shape[axis]
        sums = np.insert(values.cumsum(axis), 0, 0, axis)
        first, last = np.maximum(np.arange(size) - radius, 0), np.minimum(np.arange(size) + radius + 1, size)
        counts = (last - first).reshape((-1, 1) if axis == 0 else (1, -1))
        values = (sums.take(last, axis) - sums.take(first, axis)) // counts
    return values


def greatest(values: Array, length: int, axis: int) -> Array:
    """The maximum of each `length` neighbours along an axis, of those that lie whole inside."""
    done = 1
    while done < length:
        step = min(done, length - done)
        size = values.shape[axis] - step
        values = np.maximum(values.take(range(size), axis), values.take(range(step, size + step), axis))
        done += step
    return values


def closed(values: Array, length: int, outside: int) -> Array:
    """What dark strokes are drawn on: (H, W), at least the values.

    The larger of the morphological closings by a row and by a column of `length` pixels. So light that falls off,
    shadows and the edges of things wider than `length` stay as they are, and what is narrower in one direction is
    filled with what lies beside it. Beyond the picture all is `outside`: with -1 what touches its edge is not filled.
    """
    found = []
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (length - 1, length - 1)
        wide = greatest(np.pad(values, pad, constant_values=outside), length, axis)
        found.append(-greatest(-wide, length, axis))
    return np.maximum(*found)


def dilated(values: Array, radius: int) -> Array:
    """The maximum over (2 radius + 1)^2 pixels of a mask or of values, with 0 beyond the picture."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius, radius)
        values = greatest(np.pad(values, pad), 2 * radius + 1, axis)
    return values


def components(mask: Array) -> tuple[Array, int]:
    """For each pixel the number of its part, from 1 in the order of their first pixels, 0 outside; and how many."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    row, begin = np.nonzero(change == 1)
    end = np.nonzero(change == -1)[1]
    count = len(row)
    if not count:
        return np.zeros(mask.shape, dtype=np.int64), 0
    # Runs of one row are neighbours of those in the next whose columns touch theirs, corners included.
    stride = width + 2
    start_key, end_key = row * stride + begin, row * stride + end
    low = np.searchsorted(end_key, start_key + stride, "left")
    high = np.searchsorted(start_key, end_key + stride, "right")
    lengths = np.maximum(high - low, 0)
    above = np.repeat(np.arange(count), lengths)
    below = np.arange(len(above)) - np.repeat(lengths.cumsum() - lengths, lengths) + np.repeat(low, lengths)
    root = np.arange(count)
    while True:
        a, b = root[above], root[below]
        least = np.minimum(a, b)
        before = root.copy()
        np.minimum.at(root, np.maximum(a, b), least)
        while not np.array_equal(root, root[root]):
            root = root[root]
        if np.array_equal(root, before):
            break
    firsts, number = np.unique(root, return_inverse=True)
    labels = np.zeros((height, stride), dtype=np.int64)
    np.add.at(labels, (row, begin), number + 1)
    np.subtract.at(labels, (row, end), number + 1)
    return labels.cumsum(1)[:, :width], len(firsts)


class Parts:
    """The parts of a mask: of each, from 0, its pixels, those at its outline, ink, greatest ink, and box."""

    def __init__(self, mask: Array, ink: Array) -> None:
        self.labels, self.count = components(mask)
        height, width = mask.shape
        y, x = np.nonzero(self.labels)
        number = self.labels[y, x] - 1
        self.area = np.bincount(number, minlength=self.count)
        self.mass = np.zeros(self.count, dtype=np.int64)
        np.add.at(self.mass, number, ink[y, x])
        self.peak = np.zeros(self.count, dtype=np.int64)
        np.maximum.at(self.peak, number, ink[y, x])
        self.box = np.tile(np.array([width, height, -1, -1]), (self.count, 1))  # left, top, right, bottom
        np.minimum.at(self.box[:, 0], number, x)
        np.minimum.at(self.box[:, 1], number, y)
        np.maximum.at(self.box[:, 2], number, x)
        np.maximum.at(self.box[:, 3], number, y)
        left, top, right, bottom = self.box.T
        self.width, self.height = right - left + 1, bottom - top + 1
        self.size = np.maximum(self.width, self.height)
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        self.outline = np.bincount(number[~inner[y, x]], minlength=self.count)
        # Of the picture's edges.
        self.touching = (left == 0) | (right == width - 1) | (top == 0) | (bottom == height - 1)
        self.across = (self.width == width) | (self.height == height)


def flat_border(values: Array) -> int | None:
    """The paper's level, where the picture's edge shows little else: nine tenths of it within a tenth of the range."""
    edge = np.sort(np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]]))
    middle = int(edge[len(edge) // 2])
    near = np.abs(edge - middle) * 10 <= int(values.max() - values.min())
    return middle if int(near.sum()) * 10 >= 9 * len(edge) else None


FULL = 4096
"""Of ink: what differs from the paper by all that there can be."""
BEYOND = -(10**6)


def ink_of(grey: Array) -> Array | None:
    """uint8: the digit's ink in its box, from 0 to 255, of a picture uint8 (H, W); None where no digit is seen."""
    values = shrunk(grey)
    smooth = blurred(values, (max(values.shape) + 100) // 200)
    border = flat_border(smooth)
    best = None
    for sign in (1, -1):  # dark on light, light on dark
        found = _candidate(sign * values, sign * smooth, None if border is None else sign * border)
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    return None if best is None else best[1]


def _candidate(values: Array, smooth: Array, border: int | None) -> tuple[int, Array] | None:
    """How far a digit's dark ink stands out from what is around it, and that ink as `ink_of` returns it."""
    side = max(values.shape)
    paper = closed(smooth, max(side // 2, 3), BEYOND if border is None else border)
    # A shadow dims paper and ink alike: what counts is their ratio. Light ink, whose values are negative, adds light.
    divisor = np.where(paper > 0, paper, 255 * UNIT) + 16 * UNIT
    rise = (paper - smooth) * FULL // divisor
    noise = int(np.sort(rise, axis=None)[rise.size // 2])
    mask = rise > 3 * noise + 96
    parts = Parts(mask, rise)
    # Faint lines hang on to a digit only by what is far below its own ink.
    parts = Parts(mask & (rise * 5 > 2 * np.append(0, parts.peak)[parts.labels]), rise)
    chosen = _digit(parts, side, border is not None)
    if chosen is None:
        return None
    core = np.append(False, chosen)[parts.labels]
    y, x = np.nonzero(core)
    size = int(max(np.ptp(y), np.ptp(x))) + 1
    skirt = -(-size // 20)
    grown = dilated(core, skirt)
    ink = np.maximum(blurred((paper - values) * FULL // divisor, size // 60), 0) * grown
    levels = np.sort(ink[core])
    level = max(int(levels[(len(levels) - 1) * 98 // 100]), 1)
    ring = dilated(core, 3 * skirt) & ~grown
    around = int(rise[ring].sum()) // max(int(ring.sum()), 1)
    deviation = np.maximum(blurred(smooth, side // 4) - smooth, 0) * FULL // divisor
    contrast = int(np.minimum(rise, deviation)[core].sum()) // len(y)
    if level < 10 * around or contrast * 10 < 3 * level:
        return None
    ink = np.minimum(ink * 255 // level, 255)
    ink[ink < 26] = 0
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        return None
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # Strokes of a thin pen grow to a ninth of the digit, nearly as wide as MNIST's.
    width = 2 * len(y) // int(parts.outline[chosen].sum())
    grow = max((size // 9 - width + 1) // 2, 0)
    return contrast, dilated(np.pad(ink, grow), grow).astype(np.uint8)


def _digit(parts: Parts, side: int, flat: bool) -> Array | None:
    """Which parts are the digit's, bool; None where none is.

    The part with the most ink that is made of strokes, at most a third as wide as it is long, and is not cut off by the
    picture's edge, with what lies near and is of the same pen. A stroke is twice as many pixels as there are at its
    outline, divided by its length, wide.
    """
    free = ~parts.across if flat else ~parts.touching
    allowed = free & (parts.size * 16 >= side) & (parts.size >= 5) & (parts.width <= 3 * parts.height)
    allowed &= 6 * parts.area <= parts.outline * parts.size
    if not allowed.any():
        return None
    chosen = np.arange(parts.count) == int(np.where(allowed, parts.mass, 0).argmax())
    while True:
        boxes = parts.box[chosen]
        (left, top), (right, bottom) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
        size = max(right - left, bottom - top) + 1
        gap_x = np.maximum(parts.box[:, 0] - right, left - parts.box[:, 2])
        gap_y = np.maximum(parts.box[:, 1] - bottom, top - parts.box[:, 3])
        area, outline, mass = (int(of[chosen].sum()) for of in (parts.area, parts.outline, parts.mass))
        more = free & ~chosen & (np.maximum(gap_x, gap_y) * 5 <= size)
        more &= (parts.mass * 20 >= mass) & (parts.size * 8 >= size)
        more &= parts.area * outline <= 2 * parts.outline * area
        if not more.any():
            others = int(parts.mass[~chosen & ~parts.touching].sum())
            return chosen if others <= mass else None
        chosen |= more


def placed(ink: Array) -> Array:
    """uint8 (28, 28) of ink, uint8: scaled into 20 x 20, placed by its centre of mass."""
    import PIL.Image

    box = PIL.Image.fromarray(ink)
    scale = 20 / max(box.size)
    size = (max(1, round(box.width * scale)), max(1, round(box.height * scale)))
    small = np.asarray(box.resize(size, PIL.Image.Resampling.LANCZOS))
    total = max(float(small.sum()), 1.0)
    middle = [float((small.sum(1 - axis) * np.arange(small.shape[axis])).sum()) / total for axis in (0, 1)]
    top, left = (min(max(round(14 - middle[axis]), 0), 28 - small.shape[axis]) for axis in (0, 1))
    result = np.zeros((28, 28), dtype=np.uint8)
    result[top : top + small.shape[0], left : left + small.shape[1]] = small
    return result
