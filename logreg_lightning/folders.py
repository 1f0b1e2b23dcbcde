"""A folder with a folder of pictures for each class: decoded once, in parallel, into a cache that is memory-mapped."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logreg_lightning import preprocess
from logreg_lightning.datasets import Dataset, Images, map_read_only, own_name
from logreg_lightning.errors import InputError
from logreg_lightning.files import locked, write_whole

TEST_SHARE = 0.2
"""Of each class's pictures, what is cut off as the test set where there is no folder of one."""


@dataclass(frozen=True)
class Layout:
    """The pictures of a folder.

    Attributes:
        classes: Names of the classes' folders, sorted.
        splits: Of train, val and test those that there are, or the one split `all`.
        files: Path, split's number and class's number of each file, sorted.
        hidden: Files whose name starts with a dot, which are no pictures of anybody's.
    """

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    files: tuple[tuple[Path, int, int], ...]
    hidden: tuple[Path, ...]


def layout(folder: Path) -> Layout:
    """What is in the folder, by its names alone.

    Raises:
        InputError: there are not two folders of classes in it.
    """

    def folders(inside: Path) -> list[Path]:
        return sorted(path for path in inside.iterdir() if path.is_dir() and not path.name.startswith("."))

    inside = {path.name: path for path in folders(folder)}
    splits = ("train", *(name for name in ("val", "test") if name in inside)) if "train" in inside else ("all",)
    if splits == ("train",):
        splits = ("all",)
    tops = [inside["train"] if name == "all" and "train" in inside else inside.get(name, folder) for name in splits]
    classes = tuple(path.name for path in folders(tops[0]))
    files: list[tuple[Path, int, int]] = []
    hidden: list[Path] = []
    for number, top in enumerate(tops):
        for path in folders(top):
            if path.name not in classes:
                raise InputError(f"{path}: there is no class {path.name} in {tops[0]}; move or remove that folder")
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                if file.name.startswith("."):
                    hidden.append(file)
                else:
                    files.append((file, number, classes.index(path.name)))
    if len(classes) < 2:
        raise InputError(
            f"--data.dataset {folder}: a data set of your own is a folder with a folder of pictures for each class, "
            "two at least, or one with the four files of MNIST's format"
        )
    return Layout(classes, splits, tuple(files), tuple(hidden))


def _cache(folder: Path, root: Path) -> Path:
    return root / "decoded" / own_name(folder)


def _key(folder: Path, found: Layout, image_size: int, color: bool) -> str:
    """Changes when a picture, or what is made of it, does."""
    listed = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns, split, number)
        for path, split, number in found.files
    ]
    return hashlib.sha256(json.dumps([image_size, color, found.splits, found.classes, listed]).encode()).hexdigest()


def prepare(folder: Path, root: Path, image_size: int, color: bool) -> None:
    """Decodes the pictures into the cache under `root`, where they are not there already as they are now.

    Raises:
        InputError: the folder is no data set, or none of its pictures can be read.
    """
    found = layout(folder)
    cache, key = _cache(folder, root), _key(folder, found, image_size, color)
    if _is_fresh(cache, key):
        return
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache.parent, wait=True):
            if not _is_fresh(cache, key):
                for left_by_a_kill in cache.parent.glob(f".{cache.name}-*"):
                    shutil.rmtree(left_by_a_kill, ignore_errors=True)
                staging = Path(tempfile.mkdtemp(prefix=f".{cache.name}-", dir=cache.parent))
                try:
                    _decode(folder, found, staging, key, image_size, color)
                    shutil.rmtree(cache, ignore_errors=True)
                    staging.replace(cache)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{error.filename or cache} cannot be written ({error.strerror}); name another folder with --data.root"
        ) from None


def _is_fresh(cache: Path, key: str) -> bool:
    try:
        return bool(json.loads((cache / "about.json").read_text())["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def _decode(folder: Path, found: Layout, place: Path, key: str, image_size: int, color: bool) -> None:
    from tqdm import tqdm

    shape = (3 if color else 1, image_size, image_size)

    def load(file: tuple[Path, int, int]) -> Tensor | None:
        try:
            return preprocess.to_pixels(preprocess.read_picture(file[0]), shape)
        except OSError:
            return None

    pixels = np.lib.format.open_memmap(place / "pixels.npy", "w+", np.uint8, (len(found.files), *shape))
    kept: list[tuple[int, int]] = []
    strange = [str(path.relative_to(folder)) for path in found.hidden]
    with ThreadPoolExecutor() as pool:
        loaded = pool.map(load, found.files)
        bar = tqdm(loaded, total=len(found.files), unit=" pictures", disable=not sys.stderr.isatty(), leave=False)
        for (path, split, number), values in zip(found.files, bar, strict=True):
            if values is None:
                strange.append(str(path.relative_to(folder)))
            else:
                pixels[len(kept)] = values.numpy()
                kept.append((split, number))
    if not kept:
        raise InputError(
            f"{folder}: none of its {len(found.files)} files is a picture that can be read; name another folder"
        )
    pixels.flush()
    np.save(place / "labels.npy", np.array(kept, dtype=np.int64).reshape(-1, 2))
    about = {"key": key, "classes": found.classes, "splits": found.splits, "strange": strange}
    write_whole(place / "about.json", json.dumps(about).encode())


def load(folder: Path, root: Path) -> Dataset:
    """The data set in the cache; `prepare` must have been called."""
    cache = _cache(folder, root)
    about: dict[str, Any] = json.loads((cache / "about.json").read_text())
    splits, labels = (torch.from_numpy(column.copy()) for column in np.load(cache / "labels.npy").T)
    pixels = map_read_only(np.load(cache / "pixels.npy", mmap_mode="r"))[: len(labels)]
    classes = tuple(about["classes"])
    if about["splits"] == ["all"]:
        is_test = torch.zeros(len(labels), dtype=torch.bool)
        generator = torch.Generator().manual_seed(0)
        for number in range(len(classes)):
            of_class = (labels == number).nonzero().flatten()
            count = round(len(of_class) * TEST_SHARE)
            is_test[of_class[torch.randperm(len(of_class), generator=generator)[:count]]] = True
        is_val = torch.zeros_like(is_test)
    else:
        is_test = splits == len(about["splits"]) - 1
        is_val = (splits == 1) & ~is_test
    images = Images(pixels, labels)
    train, test = (mask.nonzero().flatten().int() for mask in (~is_test, is_test))
    notes = [_strange(about["strange"])] if about["strange"] else []
    if about["splits"] == ["all"]:
        notes.append(f"no test split: a fifth of each class, {len(test):,} pictures, is cut off as one")
    for name, mask in (("training", ~is_test & ~is_val), ("test", is_test)):
        counts = torch.bincount(labels[mask], minlength=len(classes))
        rare = [f"{classes[n]} ({counts[n]})" for n in range(len(classes)) if counts[n] < 10]
        notes += [f"few or no pictures of a class in the {name} split: {', '.join(rare)}"] if rare else []
    if not len(test) or not bool((~is_test & ~is_val).any()):
        raise InputError(f"{folder} has no pictures to train on, or none to test on; add some")
    return Dataset(
        str(folder),
        classes,
        images,
        images,
        train_indices=train,
        test_indices=test,
        val_indices=is_val.nonzero().flatten().int() if bool(is_val.any()) else None,
        notes=tuple(notes),
    )


def _strange(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} files that are hidden, broken or no pictures are left out: {shown}"
