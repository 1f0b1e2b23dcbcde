"""A model as one file: in ONNX, with its backbone inside, or as a page to draw a digit on."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace

from logreg_lightning import cli
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.features.backbones import matching
from logreg_lightning.runtime.checkpoints import read
from logreg_lightning.runtime.files import atomic_write
from logreg_lightning.runtime.names import printable
from logreg_lightning.runtime.output import say
from logreg_lightning.runtime.runs import checkpoint_of
from logreg_lightning.use import page
from logreg_lightning.use.classifier import Classifier, load

if TYPE_CHECKING:
    from PIL.Image import Image

TOLERANCE = 1e-5
"""Largest difference of a probability between the file, run by onnxruntime, and the model."""

TOLERANCE_WITH_BACKBONE = 1e-4
"""The same where a backbone's many layers each round in another order."""

COMPARED = 7
"""Pictures on which the two are compared, as many random images as that too."""


def build_parser() -> ArgumentParser:
    """The flags of export.py."""
    parser = cli.new_parser(
        "export", "lightning_logs/version_0 page.html", "Writes a model as an ONNX file, or as a page."
    )
    parser.add_argument("run", help="A run's folder, last or FOLDER/last for the newest, or a .ckpt file.")
    parser.add_argument("file", help="The file to write: .onnx, or .html for a page to draw a digit on.")
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command `export.py`."""
    cli.command("export", build_parser(), _run, argv)


def _run(settings: Namespace) -> None:
    file = Path(settings.file)
    kinds = {".onnx": _as_onnx, ".html": _as_page}
    if file.suffix.lower() not in kinds:
        raise InputError(f"{file} must end in .onnx, for an ONNX file, or in .html, for a page")
    content, said = kinds[file.suffix.lower()](checkpoint_of(settings.run))
    try:
        atomic_write(file, content)
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); use another file") from None
    say(f"{printable(str(file))}: {said}")


def _as_page(checkpoint: Path) -> tuple[bytes, str]:
    """A page's content, and what is said of it."""
    model = load(checkpoint)
    content = page.page(model).encode()
    how = "draw a digit" if page.takes_drawings(model) else "choose a picture"
    return content, f"open it in a browser and {how}; {len(content) / 1000:.0f} kB, it loads nothing else"


def _as_onnx(checkpoint: Path) -> tuple[bytes, str]:
    """An ONNX file's content, compared with the model, and what is said of it."""
    model = load(checkpoint)
    content = export(model)
    pictures = _training_pictures(read(checkpoint)) if model.backbone is not None else []
    difference = compare(model, content, pictures)
    if not difference <= (TOLERANCE if model.backbone is None else TOLERANCE_WITH_BACKBONE):
        raise RunError(f"the exported model's probabilities differ by {difference:.3g}; nothing was written")
    kind = "features float" if len(model.image_shape) == 1 else "images uint8"
    return content, (
        f"{kind} (N, {', '.join(map(str, model.image_shape))}) to probabilities float "
        f"(N, {len(model.class_names)}); in onnxruntime it differs from the model by at most {difference:.1g}"
        + (f", on {len(pictures)} of its training pictures too" if pictures else "")
    )


def _training_pictures(state: dict[str, Any]) -> list[Image]:
    """Some of the pictures that a model was trained on, of a checkpoint's content; none where they are gone."""
    from logreg_lightning.datamodule import ImageDataModule

    if "ImageDataModule" not in state:
        return []
    try:
        return ImageDataModule.of_checkpoint(state).source.source.examples(COMPARED)
    except InputError:
        return []


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"export needs {name}; install it with: pip install 'logreg-lightning[onnx]'") from None


def export(model: Classifier) -> bytes:
    """The ONNX file's content; class names and preprocessing are in its metadata.

    It holds all that the model does to what it takes: of a backbone its layers too, and what it normalises pictures by.

    Raises:
        InputError: the package onnx or onnxscript is not installed, or the model's backbone cannot be had.
    """
    onnx = _package("onnx")
    exported = _linear(onnx, model) if model.backbone is None else _with_backbone(model)
    if len(model.image_shape) == 1:
        preprocessing = f"float, N x {model.image_shape[0]} features, as they were trained on"
    else:
        channels, height, width = model.image_shape
        how = "the middle of the picture, scaled bicubically, or all of one more than twice as long as wide"
        if model.backbone is not None:
            how = f"{model.backbone['transform']}; mean and std are applied inside"
        preprocessing = (
            f"uint8, {'grey' if channels == 1 else 'RGB'}, N x {channels} x {height} x {width}: {how}; "
            "values 0 to 255 are divided by 255 inside"
        )
        if model.pixel_range is not None:
            low, high = model.pixel_range
            preprocessing += (
                f"; of pictures of more than 8 bits, {low:.9g} becomes 0 and {high:.9g} becomes 255, linearly"
            )
    about = {"classes": json.dumps(model.class_names), "preprocessing": preprocessing}
    if model.backbone is not None:
        about["backbone"] = json.dumps(model.backbone)
    onnx.helper.set_model_props(exported, about)
    onnx.checker.check_model(exported)
    return bytes(exported.SerializeToString())


def _linear(onnx: Any, model: Classifier) -> Any:
    helper, types = onnx.helper, onnx.TensorProto
    constants = {"weight": model.weight.float().cpu().numpy(), "bias": model.bias.float().cpu().numpy()}
    nodes = []
    name, kind = "features", types.FLOAT
    if model.sees_pixels:
        name, kind = "images", types.UINT8
        constants["255"] = np.array(255, dtype=np.float32)
        nodes = [
            helper.make_node("Cast", ["images"], ["floats"], to=types.FLOAT),
            helper.make_node("Div", ["floats", "255"], ["scaled"]),
            helper.make_node("Flatten", ["scaled"], ["features"], axis=1),
        ]
    nodes += [
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "logistic_regression",
        [helper.make_tensor_value_info(name, kind, ["N", *model.image_shape])],
        [helper.make_tensor_value_info("probabilities", types.FLOAT, ["N", len(model.class_names)])],
        [onnx.numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _with_backbone(model: Classifier) -> Any:
    _package("onnxscript")
    assert model.backbone is not None
    program = torch.onnx.export(
        torch.nn.Sequential(matching(model.backbone).cpu(), model.as_linear(), torch.nn.Softmax(1)).eval(),
        (torch.zeros(2, *model.image_shape, dtype=torch.uint8),),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def compare(model: Classifier, content: bytes, pictures: Sequence[Image] = ()) -> float:
    """Largest difference of a probability on random images or features and on pictures, one alone and all together."""
    session = _package("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    if len(model.image_shape) == 1:
        images = torch.randn(COMPARED, *model.image_shape, generator=generator)
    else:
        images = torch.randint(0, 256, (COMPARED, *model.image_shape), dtype=torch.uint8, generator=generator)
    images = torch.cat([images, *(model.prepare(picture).unsqueeze(0) for picture in pictures)])
    expected = model.predict_proba(images).numpy()
    name = session.get_inputs()[0].name
    parts = ((images[:1], expected[:1]), (images, expected))
    return float(max(np.abs(session.run(None, {name: part.numpy()})[0] - wanted).max() for part, wanted in parts))
