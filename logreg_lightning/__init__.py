"""Logistic regression on images with PyTorch Lightning.

Read `logreg_lightning.datamodule`, `logreg_lightning.model` and `logreg_lightning.fit` first, then
`logreg_lightning.sweep`. Below them are `logreg_lightning.training`, `logreg_lightning.use`,
`logreg_lightning.features`, `logreg_lightning.data` and `logreg_lightning.runtime`; every command needs
`logreg_lightning.cli` and `logreg_lightning.errors`.

What is public here is loaded when it is first used: a trained model predicts without Lightning.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import logreg_lightning.runtime.threads  # noqa: F401  before anything loads torch

if TYPE_CHECKING:
    from logreg_lightning.datamodule import ImageDataModule
    from logreg_lightning.errors import InputError
    from logreg_lightning.fit import fit
    from logreg_lightning.model import LogisticRegression
    from logreg_lightning.sweep import sweep
    from logreg_lightning.use.classifier import Classifier, load

__all__ = ["Classifier", "ImageDataModule", "InputError", "LogisticRegression", "fit", "load", "sweep"]

_HOMES = {
    "Classifier": "use.classifier",
    "ImageDataModule": "datamodule",
    "InputError": "errors",
    "LogisticRegression": "model",
    "fit": "fit",
    "load": "use.classifier",
    "sweep": "sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] not in ("errors", "use.classifier"):  # which need no Lightning
        importlib.import_module(f"{__name__}.runtime.processes").check_variables()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Stands in for this package's: `fit` and `sweep` are functions, also once the modules of that name are imported.

    Python sets a module that is imported as an attribute of its package.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        shadows = name in ("fit", "sweep") and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if shadows else value)


sys.modules[__name__].__class__ = _Package
