"""A model as one HTML page that asks for nothing else: draw a digit, or choose a picture, and see what decides."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from string import Template

from logreg_lightning.data.digit import MNIST_SHAPE, NO_DIGIT
from logreg_lightning.data.pictures import edge_mean
from logreg_lightning.errors import InputError
from logreg_lightning.use.classifier import Classifier


def page(model: Classifier) -> str:
    """The page's HTML, with the model's weights, all scripts and styles, and a policy that lets it load nothing.

    Its script offers `logreg.prepare`, `deepPng`, `predict` and `evidence`, as logreg.js describes them.

    Raises:
        InputError: the model learnt from features, which a page cannot compute.
    """
    if not model.sees_pixels:
        origin = f"of {model.backbone['name']}" if model.backbone is not None else "that were computed elsewhere"
        raise InputError(f"this model learnt from features {origin}, which a page cannot compute; export an .onnx file")
    weight, bias = (value.float().cpu().numpy() for value in (model.weight, model.bias))
    channels, height, width = model.image_shape
    draws = takes_drawings(model)
    about = {
        "classes": model.class_names,
        "shape": model.image_shape,
        "draws": draws,
        "no_digit": NO_DIGIT,
        "range": model.pixel_range,
        "bias": bias.tolist(),
        "limit": model.weight_images()[1],
        "weight": base64.b64encode(weight.astype("<f4").tobytes()).decode(),
    }
    style, script = _text("page.css"), _text("logreg.js") + _text("digit.js") + _text("page.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_text("page.html")).substitute(
        policy=policy,
        title="Draw a digit" if draws else "Classify a picture",
        size=f"{height} x {width}" + (" in colour" if channels == 3 else ""),
        style=style,
        script=script,
        model=json.dumps(about, allow_nan=False).replace("<", "\\u003c"),  # no name ends the element it stands in
    )


def _text(name: str) -> str:
    """Of the file of that name beside this one."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy: the one inline script or style that is this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def takes_drawings(model: Classifier) -> bool:
    """Whether a model knows digits as MNIST has them: the classes 0 to 9, 28 x 28, grey, light on dark.

    Where it has not kept its training images' mean, light on dark is taken for granted.
    """
    if model.image_shape != MNIST_SHAPE or model.class_names != tuple("0123456789"):
        return False
    if model.training_mean is None:
        return True
    return edge_mean(model.training_mean.reshape(MNIST_SHAPE)) < 0.5
