"""Steps 1 and 2 of the tutorial: the data set, split once, and loaders to iterate over it."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import lightning as L
import torch
from torch import Tensor

from logreg_lightning.data.dataset import Dataset, Images
from logreg_lightning.data.loader import EvalLoader, TrainLoader
from logreg_lightning.data.named import NAMES, spelt
from logreg_lightning.data.sources import source_of
from logreg_lightning.data.split import Copies, Keys, Part, among, held_out
from logreg_lightning.errors import InputError
from logreg_lightning.features.backbones import EMBEDDED, Pixels
from logreg_lightning.features.extract import extraction_devices
from logreg_lightning.features.view import View
from logreg_lightning.runtime.names import printable, shortened
from logreg_lightning.runtime.output import print_once
from logreg_lightning.runtime.plain import plain
from logreg_lightning.runtime.plan import Plan
from logreg_lightning.training import initialize
from logreg_lightning.training.hyperparameters import check_whole

VAL_SHARE = 0.1
"""Of the training images, what is held out by default."""

LONGEST_NOTE = 500
"""Characters of a sentence about the data at most: one that names thousands of classes is cut."""


class ImageDataModule(L.LightningDataModule):
    """Downloads the images, splits them once, and loads batches.

    The order of the training images follows from torch's seed, as a `DataLoader`'s does: `L.seed_everything(0)`.

    Args:
        dataset: auto (MNIST if it is on disk or can be downloaded, else digits), mnist, fashion-mnist, kmnist, qmnist,
            digits (the 1,797 8x8 digits inside scikit-learn, no network), or a folder of your own: with a folder of
            pictures for each class (or train, and val or test, with those inside), with the four files of MNIST's
            format, raw or .gz, of any number of classes and any image size, or with features that you have computed:
            train_features.npy, train_labels.npy, test_features.npy, test_labels.npy, and classes.txt if you like.
            A name counts in any case, with or without its hyphen (MNIST, FashionMNIST), even where a folder is called
            so: ./MNIST, or a Path, is the folder.
        root: Folder that the data sets' files are in or are downloaded to.
        batch_size: Images in one optimiser step, over all processes together; auto is a fiftieth of the training
            images, from 8 to 200, or to an image a class up to 1,000.
        val_size: Images held out of the training set for validation: a share below 1, a number from 1 on; auto is a
            tenth, and none where that is less than an image a class, for each is then worth more in training.
            0 trains on all of them and watches the test set instead, as the tutorial does. Of a folder of pictures or
            of features, the same share of each class is held out.
        val_seed: Seed of that split; the training seed does not affect it.
        steps_per_execution: Optimiser steps that one call of training_step runs: it changes speed, never a result. A
            call always ends at every 50th step of an epoch, where curves are logged and the run is saved.
        image_size: Height and width that the pictures of a folder with a folder for each class are scaled to, or any
            pictures for a backbone; auto is 28, or the backbone's own.
        color: Whether those pictures keep their colours; a backbone always sees them.
        features: What is learnt from: pixels, or the features of pictures by a frozen backbone, computed once:
            efficientnet-lite0 (its weights come with the extra `features`, no network), torchvision/NAME or timm/NAME
            (their weights are downloaded).
        transform: Refused, as torchvision's data sets have it: a model would not prepare new pictures so.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        dataset: str | Path = "auto",
        root: str | Path = "data",
        batch_size: int | Literal["auto"] = "auto",
        val_size: float | Literal["auto"] = "auto",
        val_seed: int = 0,
        steps_per_execution: int = 50,
        image_size: int | Literal["auto"] = "auto",
        color: bool = False,
        features: str = "pixels",
        transform: None = None,
    ) -> None:
        super().__init__()
        if transform is not None:
            raise InputError(
                "`transform` is not taken, a model has to prepare new pictures as it did those that it learnt from; "
                "use `color`, `image_size` or `features`, or train `LogisticRegression` with a Lightning trainer on a "
                "LightningDataModule of your own"
            )
        # Each checkpoint holds these, so they are plain types: `weights_only` refuses a Path.
        name, root, features, image_size, color = plain((str(dataset), root, features, image_size, color))
        batch_size, val_size, val_seed, steps_per_execution = plain(
            (batch_size, val_size, val_seed, steps_per_execution)
        )
        for setting, value, least, most in (
            ("batch_size", batch_size, 1, 10**9),
            ("steps_per_execution", steps_per_execution, 1, 10**9),
            ("image_size", image_size, 1, 4096),
            ("val_seed", val_seed, 0, 2**63 - 1),
        ):
            check_whole(setting, value, least, most)
        if val_size != "auto" and not (
            math.isfinite(val_size) and val_size >= 0 and (val_size < 1 or val_size == int(val_size))
        ):
            raise InputError(f"`val_size` must be auto, a share below 1 or a whole number of images, not {val_size}")
        name = spelt(name, ("auto", *NAMES))
        if isinstance(dataset, Path) and name in ("auto", *NAMES):  # a folder that is called so
            name = f".{os.sep}{dataset}"
        dataset = name
        features = spelt(features, (Pixels.name, EMBEDDED))
        self.save_hyperparameters(ignore="transform")
        self.dataset, self.root = dataset, Path(root)
        self.val_size: Any = val_size  # auto becomes a number in `setup`, here and of the batch
        self.batch_size: Any = batch_size
        self.val_seed, self.has_few_images = val_seed, False
        self.steps_per_execution = steps_per_execution
        View("digits" if dataset == "auto" else dataset, self.root, image_size, color, features)
        self.image_size, self.color, self.features = image_size, color, features
        self.known: tuple[str, ...] | None = None  # classes of a model that is to be tested on this data
        self.pixel_range: Any = "auto"  # or that of a trained model, see `View`
        self._source: View | None = None
        self._copies: Copies | None = None
        self._loaded: Dataset | None = None
        self._split = "random"
        self._on_gpu: list[tuple[Images, Images]] = []  # images in memory, and the same on the GPU that trains
        self._seed: int | None = None  # of the training images' order

    @classmethod
    def of_checkpoint(cls, state: dict[str, Any], **changes: Any) -> ImageDataModule:
        """The data that a checkpoint of this content was trained on, with other settings where some are given."""
        settings = {**state["datamodule_hyper_parameters"], "dataset": state["ImageDataModule"]["dataset"]}
        return cls(**{**settings, **changes})

    def copy(self) -> Self:
        """Another one with the same settings, and the same images if they are loaded, to be changed by a training."""
        other = copy.copy(self)
        for name in ("_hparams", "_hparams_initial"):  # private: nothing public replaces what a copy would share
            setattr(other, name, copy.deepcopy(getattr(self, name)))
        other.trainer = None
        return other

    # Step 1: load the data set.

    def prepare_data(self) -> None:
        """Fetches the files, once a node. Which data set `auto` became is in `dataset` afterwards."""
        if self.dataset == "auto":
            try:
                source_of("mnist", self.root).prepare()
                self.dataset = "mnist"
            except InputError as error:
                print_once(
                    f"\n*** MNIST is not available; training on scikit-learn's 8x8 digits instead ***\n({error})\n"
                )
                self.dataset = "digits"
        self._source = None
        self.source.prepare(*extraction_devices(self.trainer))

    def setup(self, stage: str | None = None) -> None:
        """Loads the images and splits off the validation set, both once."""
        if stage != "validate" and stage != "test":
            self._seed = None  # each training draws its own
        if self._loaded is not None:  # Lightning calls this for each `fit` and `test`
            return
        data = self.source.load()
        indices = data.train_indices if data.train_indices is not None else torch.arange(len(data.train)).int()
        is_val = torch.zeros(len(indices), dtype=torch.bool)
        if data.val_indices is not None:
            is_val = torch.isin(indices, data.val_indices)
        elif self.known is None:
            if self.val_size == "auto":
                self.has_few_images = len(indices) * VAL_SHARE < len(data.classes)
                self.val_size = 0.0 if self.has_few_images else VAL_SHARE
            num_val = round(len(indices) * self.val_size) if self.val_size < 1 else int(self.val_size)
            if num_val >= len(indices):
                raise InputError(f"`val_size={self.val_size}` leaves none of {len(indices)} images to train on")
            if self.source.source.is_stratified and self.val_size:
                keys, labels = data.train.keys[indices.numpy()], data.train.labels[indices]
                is_val = held_out(keys, labels, self.val_size, self.val_seed)
                self._split = "stratified"
            else:
                order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(self.val_seed))
                is_val[order[:num_val]] = True
        self.val_indices, self.train_indices = indices[is_val], indices[~is_val]
        if self.batch_size == "auto":
            self.batch_size = initialize.batch_size(len(self.train_indices), len(data.classes))
        initialize.settle(self, batch_size=self.batch_size, val_size=self.val_size)
        self._loaded, self._copies = data, None

    @property
    def source(self) -> View:
        """Where the images come from; the same one, which knows its pictures, until they are prepared again."""
        now = View(self.dataset, self.root, self.image_size, self.color, self.features, self.pixel_range, self.known)
        if now != self._source:
            self._source = now
        return self._source

    @property
    def data(self) -> Dataset:
        """The loaded data set; `setup` must have been called."""
        assert self._loaded is not None, "call prepare_data() and setup() first"
        return self._loaded

    @property
    def validates_on_test(self) -> bool:
        """Whether there is no validation set, so that the test set takes its place during training."""
        return not len(self.val_indices)

    def describe(self) -> str:
        """Name and sizes, and what else should be read, a line each."""
        val = (
            f"{len(self.val_indices):,} validation"
            if not self.validates_on_test
            else "no validation images: the test set is watched during training, so it is not unseen"
        )
        if self.has_few_images:
            val = f"{val} (a tenth of so few is less than an image a class; --data.val_size {VAL_SHARE} holds some out)"
        counts = f"{len(self.train_indices):,} training, {self.data.num_test:,} test, {val}"
        name = self.dataset if self.features == "pixels" else f"{self.dataset}, features of {self.features}"
        all_notes = (*self.data.notes, *self.copies.notes)
        notes = (f"  {shortened(printable(note), LONGEST_NOTE)}" for note in all_notes)
        return "\n".join([f"{printable(name)}: {counts}", *notes])

    @property
    def copies(self) -> Copies:
        """Which images are there more than once."""
        if self._copies is None:
            train, test = self.data.train, self.data.test
            parts = (train, self.train_indices), (train, self.val_indices), (test, self._test_indices())
            self._copies = Copies(*(part_of(images, at) for images, at in parts))
        return self._copies

    def _test_indices(self) -> Tensor:
        indices = self.data.test_indices
        return torch.arange(len(self.data.test)).int() if indices is None else indices

    # Step 2: make it iterable.

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch; the last mini-batch may be smaller, as with `DataLoader`."""
        return -(-len(self.train_indices) // int(self.batch_size))

    @property
    def plan(self) -> Plan:
        """What the trainer that trains wants at which optimiser step."""
        if self.trainer is None:
            return Plan(self.steps_per_epoch, self.steps_per_execution)
        return Plan.of(self.trainer, self.steps_per_epoch, self.steps_per_execution if self._gives_steps else 1)

    @property
    def _gives_steps(self) -> bool:
        """Whether what is trained takes several mini-batches a call; a module of somebody else's takes one."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        return module is None or getattr(module, "takes_steps", False)

    def train_dataloader(self) -> TrainLoader:
        images = self._resident(self.data.train)
        if self._seed is None:
            seed = torch.initial_seed()
            self._seed = seed if self.trainer is None else self.trainer.strategy.broadcast(seed)
        return TrainLoader(
            images,
            self.train_indices,
            self.batch_size,
            self.plan,
            self._seed,
            *self._rank_and_world_size(),
            plain=not self._gives_steps,
        )

    def training_images(self) -> EvalLoader:
        """Each training image once, from memory, in the data set's order."""
        return EvalLoader(self.data.train, self.train_indices)

    def val_dataloader(self) -> EvalLoader:
        if self.validates_on_test:
            return self.test_dataloader()
        return EvalLoader(self._resident(self.data.train), self.val_indices, *self._rank_and_world_size())

    def test_dataloader(self) -> EvalLoader:
        return EvalLoader(self._resident(self.data.test), self.data.test_indices, *self._rank_and_world_size())

    def predict_dataloader(self) -> EvalLoader:
        """The test images, in the data set's order; each process has its share."""
        return self.test_dataloader()

    def test_images(self) -> EvalLoader:
        """Each test image once, from memory, in the data set's order."""
        return EvalLoader(self.data.test, self.data.test_indices)

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _resident(self, images: Images) -> Images:
        """The images on the GPU that trains, if there is one and they fit into four fifths of its free memory.

        They are copied once: training, validation and, where it is the same tensor, the test share them.
        """
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if device.type != "cuda":
            return images
        for original, copied in self._on_gpu:
            if original is images and copied.pixels.device == device:
                return copied
        if images.pixels.nbytes > 0.8 * torch.cuda.mem_get_info(device)[0]:
            return images
        copied = Images(images.pixels.to(device), images.labels.to(device))
        self._on_gpu.append((images, copied))
        return copied

    def teardown(self, stage: str) -> None:
        """Lets go of what is on a GPU after training or testing."""
        self._on_gpu = []

    # What a checkpoint holds of the data.

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same when a run is resumed, in plain types."""
        return {
            "classes": list(self.data.classes),
            "image_shape": list(self.data.image_shape),
            "images": [len(self.train_indices), len(self.val_indices), self.data.num_test],
            "split": self._split,
            "backbone": self.data.backbone,
            "contents": self.copies.digest,  # not where they lie
            "pixel_range": self.data.pixel_range and list(self.data.pixel_range),
        }

    def check_resumable(self, path: Path, state: dict[str, Any]) -> None:
        """Makes sure that the data is what a checkpoint of this content, at `path`, was trained on.

        Raises:
            InputError: it is not; the sentence says what differs.
        """
        then = state["ImageDataModule"]  # Lightning names the state of a data module or a callback after its class
        for name, value in self.fingerprint().items():
            if then[name] != value and name == "contents":
                raise InputError(
                    f"{path} cannot be resumed with this data: its images or labels are not those that it was trained "
                    "on; name those as `dataset`, or start a new run"
                )
            if then[name] != value:
                raise InputError(
                    f"{path} cannot be resumed with this data: its {name} is {value} and was {then[name]}; put the "
                    "files that it was trained on under `root`, or start a new run"
                )

    def state_dict(self) -> dict[str, Any]:
        """Also the length of a call: Lightning counts calls, so a run is resumed only with calls of the same length."""
        about = {"steps_per_call": self.plan.steps_per_call, "seed": self._seed, "dataset": self.dataset}
        return {**about, **self.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seed = state.get("seed")  # Lightning loads it after `setup`, before it asks for a loader

    def relabel(self, classes: Sequence[str]) -> None:
        """Numbers the classes as a model does that is to be tested, by their names.

        Raises:
            InputError: there are images of a class that is not among these.
        """
        self._loaded, self._copies = self.data.relabelled(classes), None

    def leave_out(self, seen: Keys, split: str) -> int:
        """Takes images, by their keys, out of the split, val or test; returns how many these are.

        Raises:
            InputError: none are left.
        """
        is_val = split == "val"
        images, indices = (self.data.train, self.val_indices) if is_val else (self.data.test, self._test_indices())
        is_seen = among(part_of(images, indices), seen)
        left = indices[torch.from_numpy(~is_seen)]
        if not len(left):
            raise InputError(
                f"all {len(is_seen):,} images of {self.dataset}, {split} split, were trained on; use other images"
            )
        if is_val:
            self.val_indices = left
        elif is_seen.any():
            self._loaded = dataclasses.replace(self.data, test_indices=left)
        self._copies = None
        return int(is_seen.sum())

    def test_labels(self) -> Tensor:
        """int64 (N,)."""
        return self.data.test.labels[self._test_indices()]


def part_of(images: Images, indices: Tensor) -> Part:
    """What tells these images from others."""
    return images.keys[indices], images.keys_as_seen[indices], images.labels[indices]
