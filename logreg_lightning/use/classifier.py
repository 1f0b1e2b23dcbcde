"""A trained model as it is used: it says what images show, and needs neither Lightning nor what training needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from logreg_lightning.data import digit, pictures
from logreg_lightning.errors import InputError
from logreg_lightning.features import backbones
from logreg_lightning.runtime.checkpoints import content_of, read
from logreg_lightning.runtime.runs import checkpoint_of
from logreg_lightning.training import hyperparameters
from logreg_lightning.training.standardize import STANDARDIZED_LINEAR, Scaling, to_floats

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_CLASSES = 20
"""Of classes, in a picture that shows each."""

SHADED = 0.98
"""Of the weights, how many are within the scale of their picture; those beyond have its darkest colours."""


class Predictor(nn.Module):
    """What can be asked of a model whose `forward` makes logits, float (N, num_classes), of what `prepare` makes.

    Attributes:
        image_shape: Channels, height and width of an image; (features,) where there are no images.
        class_names: A name for each class.
        backbone: What decides an image's features, as `Backbone.about` says it; None where no backbone does.
        pixel_range: Which value of a picture of more than 8 bits becomes 0, and which 255, as in training; None where
            it was trained on none.
    """

    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    backbone: dict[str, Any] | None
    pixel_range: pictures.PixelRange | None

    @property
    def sees_pixels(self) -> bool:
        """Whether it learns from images themselves, not from features of them."""
        return self.backbone is None and len(self.image_shape) == 3

    def prepare(self, picture: Image) -> Tensor:
        """uint8 of `image_shape`: a picture as `upright` returns it, scaled and cropped as the model wants it.

        Raises:
            InputError: the model takes no pictures, or its backbone cannot be had.
        """
        picture = pictures.eight_bits(picture, self.pixel_range)
        if self.backbone is not None:
            return backbones.matching(self.backbone).prepare(picture)
        if len(self.image_shape) == 1:
            raise InputError(
                f"this model takes no pictures: it was trained on {self.image_shape[0]} features that were computed "
                "elsewhere; give such features to its `predict_proba`, from Python"
            )
        return pictures.to_pixels(picture, self.image_shape)

    def prepare_digit(self, picture: Image | str | Path) -> Tensor:
        """uint8 (1, 28, 28): a photo or scan of one digit, or the path of its file, made as MNIST was.

        Raises:
            InputError: no digit is seen, the file is no picture, or the model takes other images.
        """
        if self.image_shape != digit.MNIST_SHAPE or not self.sees_pixels:
            raise InputError(
                f"`digit` makes 1 x 28 x 28 images, but this model was trained on {self.image_shape}; leave it out"
            )
        if isinstance(picture, str | Path):
            opened, where = open_picture(picture, digit.paper_of), f"{picture}: "
        else:
            opened, where = pictures.upright(picture, digit.paper_of), ""
        try:
            return digit.digit_to_pixels(pictures.eight_bits(opened, self.pixel_range))
        except InputError as error:
            raise InputError(f"{where}{error}") from None

    @torch.inference_mode()
    def predict_proba(self, images: Any, digit: bool = False) -> Tensor:
        """Probabilities, float (N, num_classes), of a picture, a list of them, uint8 values, or features.

        A picture is a PIL image or the path of a file. An array or tensor of uint8 has the shape (H, W) or (N, H, W),
        with the channels behind or, as in PyTorch, before height and width where there are three; where the model takes
        features, floats have the shape (features,) or (N, features).

        Args:
            digit: Each picture is a photo or scan of one digit, to be prepared as MNIST was.

        Raises:
            InputError: another type or shape, a file that is no picture, the model's backbone cannot be had, or no
                digit is seen.
        """
        if digit:
            images = torch.stack(
                [self.prepare_digit(one) for one in (images if isinstance(images, list | tuple) else [images])]
            )
        num_features = self.image_shape[0] if len(self.image_shape) == 1 else None
        if self.backbone is not None:
            num_features = self.backbone["num_features"]
        batch = pictures.to_batch(_opened(images), self.image_shape, num_features, self.prepare)
        return cast(Tensor, self(batch.to(next(self.parameters()).device)).softmax(1))

    def predict(self, images: Any, digit: bool = False) -> list[str]:
        """The name of the most probable class of each image; takes what `predict_proba` takes."""
        return [self.class_names[index] for index in self.predict_proba(images, digit).argmax(1).tolist()]


class Classifier(Predictor):
    """A linear layer with all that training learnt folded into it: standardisation and temperature.

    Args:
        weight: float (num_classes, in_features), as it acts on values in [0, 1] or on features.
        bias: float (num_classes,).
        class_names, image_shape, backbone, pixel_range: As `Predictor` has them.
        training_mean: float (in_features,), of the training images, where the model has kept it.
    """

    training_mean: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        class_names: Sequence[str],
        image_shape: Sequence[int],
        backbone: Mapping[str, Any] | None = None,
        training_mean: Tensor | None = None,
        pixel_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.class_names, self.image_shape = tuple(class_names), tuple(image_shape)
        self.backbone = None if backbone is None else dict(backbone)
        self.pixel_range = None if pixel_range is None else (pixel_range[0], pixel_range[1])
        self.register_buffer("training_mean", None if training_mean is None else training_mean.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float (N, num_classes), of images (N, C, H, W), uint8 or float in [0, 1], or of features."""
        return F.linear(features_of(images, self.backbone, self.weight), self.weight, self.bias)

    def as_linear(self) -> nn.Linear:
        """A layer of its own with these weights and bias."""
        # Without drawing weights first, which would change what others draw from torch's one generator.
        features, classes = self.weight.shape[1], self.weight.shape[0]
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, features, classes)  # type: ignore[no-untyped-call]
        layer.load_state_dict({"weight": self.weight, "bias": self.bias})
        return layer

    def weight_images(self) -> tuple[Tensor, float]:
        """The weights of each class as they act on pixels, float (classes, H, W), of colours their mean; and the end of
        a symmetric scale for them."""
        values = self.weight.float().cpu().reshape(-1, *self.image_shape).mean(1)
        # The few largest are at pixels that are seldom lit.
        return values, float(np.quantile(values[:MOST_CLASSES].abs().numpy(), SHADED))


def features_of(images: Tensor, backbone: Mapping[str, Any] | None, weight: Tensor) -> Tensor:
    """Floats (N, in_features), of the weight's type and on its device, of images (N, C, H, W).

    uint8 is divided by 255, as `ToTensor` does, floats are kept. With a backbone, its features of the images. Features
    (N, in_features) are kept.
    """
    if backbone is not None and images.ndim == 4:
        images = backbones.matching(backbone).to(weight.device).features(images)
    return to_floats(images, weight.dtype)


def folded_weights(
    weight: Tensor, bias: Tensor, scaling: Scaling | None, temperature: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weight (num_classes, in_features) and bias as they act on features: scaled first, logits divided last."""
    if scaling is not None:
        weight, bias = scaling.fold(weight, bias)
    return (weight, bias) if temperature is None else (weight / temperature, bias / temperature)


_LINEAR = {"linear.weight", "linear.bias"}
_ON_STANDARDIZED = {f"{STANDARDIZED_LINEAR}.{name}" for name in ("weight", "bias")} | {
    "standardizer.mean",
    "standardizer.scale",
}
_MAY_BE = {"temperature", "class_weights"}
_POSITIVE = {"temperature", "standardizer.scale", "class_weights"}


@torch.no_grad()
def load(run: str | Path) -> Classifier:
    """The model of a run, by its folder, or of `last` or `FOLDER/last`, the newest run, or of a `.ckpt` file.

    It is on the CPU, in float32, and ready to predict. Runs that a stock `lightning.Trainer` left are found too.

    Raises:
        InputError: there is none, or it is not a complete checkpoint of this project's `LogisticRegression`.
    """
    content = read_model(checkpoint_of(str(run)))
    settings, mean = content["hyper_parameters"], content["state_dict"].get("standardizer.mean")
    weight, bias = _folded(content["state_dict"])
    backbone = settings.get("backbone")
    return Classifier(
        weight,
        bias,
        hyperparameters.names_of(len(weight), settings.get("class_names")),
        hyperparameters.shape_of(weight.shape[1], settings.get("image_shape"), backbone),
        backbone,
        None if mean is None else mean.float(),
        settings.get("pixel_range"),
    ).eval()


def _folded(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias, float32, as they act on features, of a `LogisticRegression`'s state."""
    values = {name: value.float() for name, value in state.items()}
    mean, scale = values.get("standardizer.mean"), values.get("standardizer.scale")
    scaling = None if mean is None or scale is None else Scaling(mean, scale)
    linear = "linear" if scaling is None else STANDARDIZED_LINEAR
    return folded_weights(values[f"{linear}.weight"], values[f"{linear}.bias"], scaling, values.get("temperature"))


def read_model(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of a `LogisticRegression`; no code in the file is run.

    Raises:
        InputError: it is not a complete checkpoint of this project, or of another model.
    """
    content = read(path)
    if "heads" in content:
        raise InputError(f"{path} is of a sweep: promote one of its settings, and use that run")
    with content_of(path):
        state, settings = content["state_dict"], content["hyper_parameters"]
        check_values(path, content)
        if state.keys() - _MAY_BE not in (_LINEAR, _ON_STANDARDIZED):
            raise InputError(f"{path} holds no `LogisticRegression`; load it with the class that was trained")
        classes, features = settings["num_classes"], settings["in_features"]
        for name, value in state.items():
            shape = {"weight": (classes, features), "temperature": ()}.get(name.rpartition(".")[2], (classes,))
            if name.startswith("standardizer."):
                shape = (features,)
            if value.shape != shape:
                raise ValueError(f"its {name} must be {shape} finite numbers")
        for name, key in (("standardize", "standardizer.mean"), ("calibrate", "temperature")):
            if settings.get(name, key in state) != (key in state):
                raise ValueError(f"its {name} and its {key} contradict each other")
        if not all(part.isfinite().all() for part in _folded(state)):
            raise ValueError("its weights as they act on pixels or features are beyond float32")
        hyperparameters.names_of(classes, settings.get("class_names"))
        hyperparameters.shape_of(features, settings.get("image_shape"), settings.get("backbone"))
    return content


def check_values(path: Path, content: dict[str, Any]) -> None:
    """Makes sure of what a checkpoint's content says of a model, of `LogisticRegression` or a subclass.

    Raises:
        InputError: a hyperparameter is of no type or value that it could have, or a number is none that was trained.
    """
    with content_of(path):
        hyperparameters.check_saved(content["hyper_parameters"])
        if (backbone := content["hyper_parameters"].get("backbone")) is not None:
            backbones.check_about(backbone)
        for name in content["state_dict"].keys() & (_LINEAR | _ON_STANDARDIZED | _MAY_BE):
            value = content["state_dict"][name]
            if not value.is_floating_point() or not value.isfinite().all():
                raise ValueError(f"its {name} must be {tuple(value.shape)} finite numbers")
            if name in _POSITIVE and not (value > 0).all():
                raise ValueError(f"its {name} must be positive")


def open_picture(path: str | Path, paper: Callable[[Image], str] = pictures.white) -> Image:
    """A picture's file, as `pictures.upright` makes it.

    Raises:
        InputError: it cannot be read or is no picture.
    """
    try:
        return pictures.read_picture(Path(path), paper)
    except OSError as error:
        raise InputError(f"{path} cannot be read as a picture ({pictures.reason_of(error)})") from None


def _opened(images: Any) -> Any:
    """The same with pictures in place of their paths."""
    if isinstance(images, str | Path):
        return open_picture(images)
    return [_opened(image) for image in images] if isinstance(images, list | tuple) else images
