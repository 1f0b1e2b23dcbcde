"""A model as one ONNX file: uint8 pictures in, probabilities out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace

from logreg_lightning import cli
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime.files import atomic_write
from logreg_lightning.runtime.runs import checkpoint_of

TOLERANCE = 1e-5
"""Largest difference of a probability between the file, run by onnxruntime, and the model."""


def build_parser() -> ArgumentParser:
    """The flags of export.py."""
    parser = cli.new_parser("export", "lightning_logs/version_0 model.onnx", "Writes a model as an ONNX file.")
    parser.add_argument("run", help="A run's folder, last for the newest, or a .ckpt file.")
    parser.add_argument("file", help="The file to write.")
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command `export.py`."""
    cli.command("export", build_parser(), _run, argv)


def _run(settings: Namespace) -> None:
    model = LogisticRegression.load(checkpoint_of(settings.run))
    content = export(model)
    difference = compare(model, content)
    if not difference <= TOLERANCE:
        raise RunError(
            f"the exported model's probabilities differ by {difference:.3g}; {settings.file} was not written"
        )
    try:
        atomic_write(Path(settings.file), content)
    except OSError as error:
        raise InputError(f"{settings.file} cannot be written ({error.strerror}); use another file") from None
    print(
        f"{settings.file}: images uint8 (N, {', '.join(map(str, model.image_shape))}) to probabilities float "
        f"(N, {len(model.class_names)}); in onnxruntime it differs from the model by at most {difference:.1g}"
    )


def _onnx(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"export needs {name}; install it with: pip install 'logreg-lightning[onnx]'") from None


def export(model: LogisticRegression) -> bytes:
    """The ONNX file's content; class names and preprocessing are in its metadata.

    Raises:
        InputError: the package onnx is not installed.
    """
    onnx = _onnx("onnx")
    helper, numpy_helper, types = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    weight, bias = (value.detach().float().cpu().numpy() for value in model.on_pixels())
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=types.FLOAT),
        helper.make_node("Div", ["floats", "255"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["features"], axis=1),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "logistic_regression",
        [helper.make_tensor_value_info("images", types.UINT8, ["N", *model.image_shape])],
        [helper.make_tensor_value_info("probabilities", types.FLOAT, ["N", len(model.class_names)])],
        [
            numpy_helper.from_array(np.float32(255).reshape(()), "255"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    channels, height, width = model.image_shape
    preprocessing = (
        f"uint8, {'grey' if channels == 1 else 'RGB'}, N x {channels} x {height} x {width}: the middle of the picture, "
        "scaled bicubically; values 0 to 255 are divided by 255 inside"
    )
    helper.set_model_props(made, {"classes": json.dumps(model.class_names), "preprocessing": preprocessing})
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def compare(model: LogisticRegression, content: bytes) -> float:
    """Largest difference of a probability on random images, for batches of one and of seven."""
    session = _onnx("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    images = torch.randint(
        0, 256, (7, *model.image_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = model.predict_proba(images).numpy()
    return float(
        max(
            np.abs(session.run(None, {"images": part.numpy()})[0] - wanted).max()
            for part, wanted in ((images[:1], expected[:1]), (images, expected))
        )
    )
