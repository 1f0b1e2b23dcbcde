"""Logistic regression on images with PyTorch Lightning."""

import logreg_lightning.runtime.threads  # noqa: F401  before anything loads torch
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError
from logreg_lightning.fit import fit
from logreg_lightning.model import LogisticRegression
from logreg_lightning.sweep import sweep

__all__ = ["ImageDataModule", "InputError", "LogisticRegression", "fit", "sweep"]
