"""What a model's hyperparameters may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from logreg_lightning.data.pictures import square_shape
from logreg_lightning.errors import InputError

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda lr: lr == "auto" or 0 < lr < math.inf, "auto or a positive number"),
    "momentum": (lambda momentum: 0 <= momentum < 1, "from 0 to below 1"),
    "weight_decay": (lambda decay: decay == "auto" or 0 <= decay < math.inf, "auto, 0 or a positive number"),
    "schedule": (lambda schedule: schedule in ("constant", "cosine"), "constant or cosine"),
    "class_weight": (lambda weight: weight in (None, "balanced"), "balanced or not given"),
}


def check(**hyperparameters: Any) -> None:
    """Makes sure that each of these is in its range.

    Raises:
        InputError: one is not.
    """
    for name, value in hyperparameters.items():
        if name in _RANGES and not _RANGES[name][0](value):
            raise InputError(f"`{name}` must be {_RANGES[name][1]}, not {value}")


def shape_of(in_features: int, image_shape: Sequence[int] | None, backbone: Mapping[str, Any] | None) -> list[int]:
    """An image's shape as it is given, or of a square image, grey or in three colours.

    Raises:
        InputError: an image of that shape, or the backbone, has another number of values.
    """
    shape = list(image_shape or square_shape(in_features))
    if backbone is not None and backbone["num_features"] != in_features:
        raise InputError(f"{backbone['name']} has {backbone['num_features']} features, not `in_features={in_features}`")
    if backbone is None and math.prod(shape) != in_features:
        raise InputError(f"`image_shape={shape}` has {math.prod(shape)} values, not `in_features={in_features}`")
    return shape


def names_of(num_classes: int, class_names: Sequence[str] | None) -> list[str]:
    """The classes' names as they are given, or their numbers.

    Raises:
        InputError: there are more or fewer names than classes.
    """
    names = list(class_names or map(str, range(num_classes)))
    if len(names) != num_classes:
        raise InputError(f"`class_names` has {len(names)} names for `num_classes={num_classes}`")
    return names
