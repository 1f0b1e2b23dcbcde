"""Where a data set's images come from: what is refused, and which pictures stand for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import COLORS, write_features, write_pictures

from logreg_lightning.data.named import load
from logreg_lightning.errors import InputError
from logreg_lightning.features.backbones import EMBEDDED
from logreg_lightning.features.view import View

ROOT = Path("data")


def source(dataset: str, features: str = "pixels") -> View:
    return View(dataset, ROOT, "auto", False, features)


@pytest.mark.parametrize("features", ["pixels", EMBEDDED])
def test_a_data_set_that_is_not_known(workdir: Path, features: str) -> None:
    with pytest.raises(InputError, match=r"^`dataset='mnits'` is not known; use auto, mnist, .* or a folder's path$"):
        source("mnits", features)
    Path("mnits.zip").touch()
    for dataset, why in (("mnits.zip", "is no folder"), ("./mnits", "does not exist"), ("a/mnist", "does not exist")):
        with pytest.raises(InputError, match=f"^`dataset='{dataset}'` {why}; use a folder that holds a data set$"):
            source(dataset, features)
    with pytest.raises(InputError, match="`features='pixel'` is not known; use pixels"):
        source("mnist", "pixel")


def test_what_is_learnt_from_and_how_it_is_split(workdir: Path) -> None:
    write_pictures(Path("pets"), 2)
    write_features(Path("mine"))
    for dataset, is_stratified in (("mnist", False), ("pets", True)):
        for features in ("pixels", EMBEDDED):
            view = source(dataset, features)
            assert (view.what, view.source.is_stratified) == (features, is_stratified)
    assert (source("mine").what, source("mine").source.is_stratified) == ("npy", True)
    with pytest.raises(InputError, match=f"`dataset='mine'` holds features already; leave `features='{EMBEDDED}'` out"):
        source("mine", EMBEDDED)


@pytest.mark.parametrize("features", ["pixels", EMBEDDED])
def test_examples_are_spread_over_a_folder_and_readable(workdir: Path, features: str) -> None:
    write_pictures(Path("pets"), 10)
    pictures = source("pets", features).source.examples(4)
    assert len(pictures) == 4
    for picture, color in zip(pictures, [COLORS["cats"]] * 2 + [COLORS["dogs"]] * 2, strict=True):
        assert np.abs(np.asarray(picture).mean((0, 1)) - color).max() < 20
    for path in Path("pets/dogs").iterdir():
        path.write_bytes(b"no picture")
    assert len(source("pets", features).source.examples(4)) == 2


def test_examples_of_images_are_the_first_and_of_features_none(workdir: Path) -> None:
    write_features(Path("mine"))
    assert source("mine").source.examples(3) == []
    pixels = load("mnist", ROOT).train.pixels
    pictures = source("mnist", EMBEDDED).source.examples(3)
    assert torch.equal(torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])), pixels[:3, 0])
    assert all(isinstance(picture, PIL.Image.Image) for picture in pictures)
