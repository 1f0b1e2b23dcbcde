"""Logistic regression on images with PyTorch Lightning."""

from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError
from logreg_lightning.fit import fit
from logreg_lightning.model import LogisticRegression

__all__ = ["ImageDataModule", "InputError", "LogisticRegression", "fit"]
