"""ImageDataModule: download, split, loaders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from logreg_lightning import datasets, folders
from logreg_lightning.batches import LOG_EVERY, EvalLoader, TrainLoader
from logreg_lightning.datasets import Dataset, Images
from logreg_lightning.errors import InputError


class ImageDataModule(L.LightningDataModule):
    """Owns the images: fetches them, splits them once, and hands out batches.

    Args:
        dataset: auto (MNIST where it is on disk or can be downloaded, else digits), mnist, fashion-mnist, kmnist,
            qmnist, digits (the 1,797 8x8 digits inside scikit-learn, no network), or a folder of one's own: with a
            folder of pictures for each class (or train, and val or test, with those in them), or with the four files of
            MNIST's format, raw or .gz, of any number of classes and any image size.
        root: Folder that the data sets' files are in or are downloaded to.
        batch_size: Images in one optimiser step, over all processes together.
        val_size: Images held out of the training set for validation: a share below 1, a number from 1 on.
            0 trains on all of them and watches the test set instead, as the tutorial does.
        val_seed: Seed of that split; the training seed does not touch it.
        steps_per_execution: Optimiser steps that one call of training_step runs: it changes speed, never a result. A
            call ends at every 50th step of an epoch in any case, where curves are drawn and the run is saved.
        image_size: Height and width that the pictures of a folder with a folder for each class are scaled to.
        color: Whether those pictures keep their colours.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        dataset: str = "auto",
        root: str = "data",
        batch_size: int = 200,
        val_size: float = 0.1,
        val_seed: int = 0,
        steps_per_execution: int = 50,
        image_size: int = 28,
        color: bool = False,
    ) -> None:
        super().__init__()
        if dataset != "auto" and dataset not in datasets.NAMES and not datasets.is_folder(dataset):
            names = ", ".join(datasets.NAMES)
            raise InputError(f"--data.dataset {dataset} is not known; it is one of auto, {names}, or a folder's path")
        for name, value in (
            ("batch_size", batch_size),
            ("steps_per_execution", steps_per_execution),
            ("image_size", image_size),
        ):
            if value < 1:
                raise InputError(f"--data.{name} must be at least 1, not {value}")
        if not (math.isfinite(val_size) and val_size >= 0 and (val_size < 1 or val_size == int(val_size))):
            raise InputError(f"--data.val_size must be a share below 1 or a whole number of images, not {val_size}")
        self.save_hyperparameters()
        self.dataset, self.root = dataset, Path(root)
        self.batch_size, self.val_size, self.val_seed = batch_size, val_size, val_seed
        self.steps_per_execution, self.image_size, self.color = steps_per_execution, image_size, color
        self.seed = 0
        self.max_epochs, self.max_steps, self.val_check_interval = 1, -1, None
        self._loaded: Dataset | None = None
        self._train_images: Images | None = None  # where they are while training

    def prepare_data(self) -> None:
        """Fetches the files, once a node. Which data set `auto` became is in `dataset` afterwards."""
        if self.dataset == "auto":
            try:
                datasets.prepare("mnist", self.root)
                self.dataset = "mnist"
            except InputError as error:
                rank_zero_only(print)(
                    f"\n*** MNIST IS NOT TO BE HAD HERE: TRAINING ON THE 8x8 DIGITS OF SCIKIT-LEARN ***\n({error})\n"
                )
                self.dataset = "digits"
        own = self._own_folder()
        if own:
            folders.prepare(own, self.root, self.image_size, self.color)
        else:
            datasets.prepare(self.dataset, self.root)

    def setup(self, stage: str | None = None) -> None:
        """Loads the images and cuts the validation set; the second call does nothing."""
        if self._loaded is not None:
            return
        own = self._own_folder()
        data = folders.load(own, self.root) if own else datasets.load(self.dataset, self.root)
        every = data.train_indices if data.train_indices is not None else torch.arange(len(data.train)).int()
        is_held_out = torch.zeros(len(every), dtype=torch.bool)
        if data.val_indices is not None:
            is_held_out = torch.isin(every, data.val_indices)
        else:
            held_out = round(len(every) * self.val_size) if self.val_size < 1 else int(self.val_size)
            if held_out >= len(every):
                raise InputError(
                    f"--data.val_size {self.val_size} leaves none of the {len(every)} training images to train on"
                )
            order = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.val_seed))
            is_held_out[order[:held_out]] = True
        self.val_indices, self.train_indices = every[is_held_out], every[~is_held_out]
        self._loaded = data

    def _own_folder(self) -> Path | None:
        """The folder with a folder for each class, where that is the data set."""
        path = Path(self.dataset)
        return path if datasets.is_folder(self.dataset) and not datasets.is_idx_folder(path) else None

    @property
    def data(self) -> Dataset:
        """The loaded data set; `setup` must have been called."""
        assert self._loaded is not None, "call prepare_data() and setup() first"
        return self._loaded

    def describe(self) -> str:
        """Name and sizes, and what else should be read, a line each."""
        watched = (
            f"{len(self.val_indices):,} validation"
            if len(self.val_indices)
            else "no validation images: the test set is watched during training, so its figures are not unseen"
        )
        counts = f"{len(self.train_indices):,} training, {self.data.test_count:,} test, {watched}"
        return "\n".join([f"{self.dataset}: {counts}", *(f"  {note}" for note in self.data.notes)])

    def test_labels(self) -> Tensor:
        """int64 (n,)."""
        labels, indices = self.data.test.labels, self.data.test_indices
        return labels if indices is None else labels[indices]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return math.ceil(len(self.train_indices) / self.batch_size)

    @property
    def run_steps(self) -> int:
        """Optimiser steps in a whole run."""
        steps = self.max_epochs * self.steps_per_epoch
        return steps if self.max_steps == -1 else min(steps, self.max_steps)

    @property
    def steps_per_call(self) -> int:
        """Optimiser steps a call: the largest that reaches every step at which something is due."""
        stops = [n for n in (self.val_check_interval, self.max_steps) if n is not None and n != -1]
        if not stops:
            return min(self.steps_per_execution, LOG_EVERY)
        common = math.gcd(LOG_EVERY, self.steps_per_epoch, *stops)
        return max(n for n in range(1, common + 1) if common % n == 0 and n <= self.steps_per_execution)

    def identity(self) -> dict[str, Any]:
        """What must be the same when a run goes on, in plain types."""
        return {
            "dataset": self.dataset,
            "classes": list(self.data.classes),
            "image_shape": list(self.data.image_shape),
            "images": [len(self.train_indices), len(self.val_indices), self.data.test_count],
        }

    def state_dict(self) -> dict[str, Any]:
        """Also the length of a call: Lightning counts calls, so a run goes on only with calls of the same length."""
        return {"steps_per_call": self.steps_per_call, **self.identity()}

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _resident(self, images: Images) -> Images:
        """The images on the GPU that trains, where there is one and they fit into four fifths of what is free there."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if device.type != "cuda" or images.pixels.nbytes > 0.8 * torch.cuda.mem_get_info(device)[0]:
            return images
        return Images(images.pixels.to(device), images.labels.to(device))

    def train_dataloader(self) -> TrainLoader:
        self._train_images = self._resident(self.data.train)
        return TrainLoader(
            self._train_images, self.train_indices, self.batch_size, self.steps_per_call, self.seed, *self._place()
        )

    def val_dataloader(self) -> EvalLoader:
        if not len(self.val_indices):
            return self.test_dataloader()
        return EvalLoader(self._train_images or self.data.train, self.val_indices, *self._place())

    def test_dataloader(self) -> EvalLoader:
        return EvalLoader(self._resident(self.data.test), self.data.test_indices, *self._place())
