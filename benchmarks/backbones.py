"""Milliseconds that a picture takes through each frozen backbone, on all cores."""

import tempfile
import time
from pathlib import Path

import timm
import torch
from torchvision import models

from benchmarks.measure import Figures, Measured, cores, in_a_process, in_turns
from benchmarks.report import rows, section, spread
from logreg_lightning.data.arrays import ArrayPictures
from logreg_lightning.features import backbones
from logreg_lightning.features.cache import Cache
from logreg_lightning.features.extract import extract

BACKBONES = (
    "efficientnet-lite0",
    "torchvision/resnet18",
    "torchvision/resnet50",
    "torchvision/vit_b_16",
    "timm/convnext_tiny",
    "timm/vit_small_patch14_dinov2",
)


def extraction(name: str, blocks: int) -> Figures:
    """A backbone's size, and the milliseconds that a picture takes where each core has so many blocks of pictures.

    The weights of torchvision's and timm's networks are random here, for they would have to be downloaded.
    """
    torchvision_model, timm_model = models.get_model, timm.create_model
    models.get_model = lambda name, weights: torchvision_model(name, weights=None)
    timm.create_model = lambda name, pretrained, **settings: timm_model(name, pretrained=False, **settings)
    torch.manual_seed(0)
    backbone = backbones.load(name)
    warm_up = cores() * backbones.BATCH
    pixels = torch.randint(0, 256, ((1 + blocks) * warm_up, 3, 375, 500), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for part, chosen in (("warm-up", pixels[:warm_up]), ("timed", pixels[warm_up:])):
            begun = time.perf_counter()
            cache = Cache(Path(folder), part, backbone)
            extract(cache, ArrayPictures(chosen), backbone, [torch.device("cpu")], cores())
            seconds = time.perf_counter() - begun
    return {
        "parameters": sum(weight.numel() for weight in backbone.network.parameters()),
        "bytes": sum(value.nbytes for value in backbone.network.state_dict().values()),
        "features": backbone.num_features,
        "size": backbone.image_shape[-1],
        "milliseconds": 1000 * seconds / len(chosen),
        "cores": cores(),
    }


def measure(root: str, repeats: int, quick: bool) -> Measured:
    names, blocks = (BACKBONES[:2], 1) if quick else (BACKBONES, 2)
    return in_turns({name: (in_a_process, extraction, name, blocks) for name in names}, repeats)


def table(measured: Measured) -> str:
    lines = []
    for name, runs in measured.items():
        about = runs[0]
        weights = f"{about['parameters'] / 1e6:.1f} million", f"{about['bytes'] / 1e6:.0f} MB"
        features = f"{about['features']:,}", f"{about['size']} x {about['size']}"
        lines.append((name, *weights, *features, *spread(runs, "milliseconds", "ms")))
    columns = "backbone", "parameters", "float32 weights", "features", "input", "a picture takes", "from, to"
    return section(
        f"Backbones: milliseconds a picture on all cores, {about['cores']} here",
        rows(columns, *lines),
        "The last layer, which names classes, is left out. All weights but those of efficientnet-lite0 were\n"
        "random, for want of a download: a picture takes as long with any others.",
    )
