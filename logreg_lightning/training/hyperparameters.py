"""What a model's hyperparameters may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from logreg_lightning.data.pictures import square_shape
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.plain import plain

LARGEST = 1e38
"""Of float32, about."""

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda lr: lr == "auto" or 0 < lr < LARGEST, "auto or a positive number"),
    "momentum": (lambda momentum: 0 <= momentum < 1, "from 0 to below 1"),
    "weight_decay": (lambda decay: decay == "auto" or 0 <= decay < LARGEST, "auto, 0 or a positive number"),
    "schedule": (lambda schedule: schedule in ("constant", "cosine"), "constant or cosine"),
    "class_weight": (lambda weight: weight in (None, "balanced"), "balanced or not given"),
}


def check(**hyperparameters: Any) -> None:
    """Makes sure that each of these is in its range.

    Raises:
        InputError: one is not.
    """
    for name, value in hyperparameters.items():
        if name not in _RANGES:
            continue
        is_in_range, wanted = _RANGES[name]
        try:
            is_right = is_in_range(plain(value))
        except TypeError:  # a list, say
            is_right = False
        if not is_right:
            raise InputError(f"`{name}` must be {wanted}, not {plain(value)}")


def check_whole(name: str, value: Any, least: int, most: int, otherwise: str = "") -> None:
    """Makes sure that a setting is a whole number in a range, auto, or not given.

    Raises:
        InputError: it is not.
    """
    if value in (None, "auto") or (isinstance(value, int) and least <= value <= most):
        return
    wanted = "at least 1" if value == 0 == least - 1 else f"from {least} to {most}, a whole number"
    raise InputError(f"`{name}` must be {wanted}{otherwise}, not {value!r}")


def check_saved(settings: Mapping[str, Any]) -> None:
    """Makes sure that hyperparameters that a checkpoint holds are of the types and in the ranges that a model has them.

    Raises:
        ValueError: one is not.
    """
    check(**settings)
    for name, is_right in _SAVED.items():
        if settings.get(name) is not None and not is_right(settings[name]):
            raise ValueError(f"its {name} is no model's: {settings[name]!r}")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


_SAVED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("in_features", "num_classes"), _is_size),
    **dict.fromkeys(("lr", "momentum", "weight_decay"), lambda value: type(value) in (int, float) or value == "auto"),
    **dict.fromkeys(("standardize", "calibrate"), lambda value: type(value) is bool),
    "class_names": lambda names: isinstance(names, list | tuple) and all(isinstance(name, str) for name in names),
    "image_shape": lambda shape: isinstance(shape, list | tuple) and all(map(_is_size, shape)),
    "pixel_range": lambda ends: math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1],
}


def shape_of(in_features: int, image_shape: Sequence[int] | None, backbone: Mapping[str, Any] | None) -> list[int]:
    """An image's shape as it is given, or of a square image, grey or in three colours.

    Raises:
        InputError: an image of that shape, or the backbone, has another number of values.
    """
    shape = plain(image_shape) or list(square_shape(in_features))
    if len(shape) not in (1, 3):
        raise InputError(f"`image_shape={shape}` must be channels, height and width, or a number of features")
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
    names = list(map(str, plain(class_names) or range(num_classes)))
    if len(names) != num_classes:
        raise InputError(f"`class_names` has {len(names)} names for `num_classes={num_classes}`")
    return names
