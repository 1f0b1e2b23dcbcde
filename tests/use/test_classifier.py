"""A trained model without Lightning: it computes what the trained one does, and is found wherever a run lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import QUIET, Capsys, fit, ready, refused, said_by, weights_of
from torch import Tensor, nn

from logreg_lightning import ImageDataModule, InputError, LogisticRegression, load
from logreg_lightning.runtime.checkpoints import read
from logreg_lightning.runtime.saver import AtomicCheckpointIO
from logreg_lightning.use import evaluate, export, predict
from logreg_lightning.use.classifier import Predictor


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Gives a checkpoint another state."""
    content = read(file)
    change(content["state_dict"])
    AtomicCheckpointIO().save_checkpoint(content, file)


@pytest.mark.parametrize("flag", ["--model.standardize=true", "--model.standardize=false", "--precision=64-true"])
@pytest.mark.parametrize("temperature", [None, 3.0])
def test_computes_what_its_model_does_to_the_bit(workdir: Path, flag: str, temperature: float | None) -> None:
    run = fit("--data.dataset=mnist", "--max_epochs=1", f"--model.calibrate={temperature is not None}".lower(), flag)
    if temperature is not None:
        rewrite(run / "checkpoints" / "last.ckpt", lambda state: state["temperature"].fill_(temperature))
    model = LogisticRegression.load(run)
    expected = model.predict_proba(images(20))
    for classifier in (load(run), load("last"), model.classifier()):
        assert torch.equal(classifier.predict_proba(images(20)), expected)
        assert torch.equal(classifier.as_linear()(images(20).flatten(1) / 255), classifier(images(20)))
        assert (classifier.class_names, classifier.image_shape) == (model.class_names, model.image_shape)
        assert classifier.predict(images(3)) == model.predict(images(3)) and classifier.sees_pixels
        assert not classifier.training and not any(value.requires_grad for value in classifier.parameters())


@pytest.mark.parametrize("loaded", [load, LogisticRegression.load])
def test_takes_arrays_tensors_pictures_and_paths(run: Path, loaded: Callable[[Path], Predictor]) -> None:
    model, tensor = loaded(run), images(3)
    expected = model.predict_proba(tensor)
    drawn = [PIL.Image.fromarray(image[0].numpy()) for image in tensor]
    drawn[0].save("digit.png")
    same = [tensor[:, 0], tensor.numpy(), tensor.permute(0, 2, 3, 1), tensor[:, 0].numpy(), drawn]
    for given in (*same, ["digit.png", drawn[1], tensor[2]], [Path("digit.png"), tensor[1:]]):
        assert torch.equal(model.predict_proba(given), expected)
    assert torch.equal(model.predict_proba("digit.png"), model.predict_proba(tensor[:1]))
    shown = [str(int(expected[0].argmax()))]
    assert model.predict("digit.png") == model.predict(Path("digit.png")) == model.predict(drawn[0]) == shown
    assert model.predict(tensor) == [str(index) for index in expected.argmax(1).tolist()]
    for wrong in (tensor.float(), tensor[..., :27], np.zeros((2, 3), np.uint8)):
        with pytest.raises(InputError, match="not what this model takes"):
            model.predict_proba(wrong)
    Path("notes.txt").write_text("hello", encoding="utf-8")
    for name in ("notes.txt", "nowhere.png"):
        with pytest.raises(InputError, match=rf"^{name} cannot be read as a picture \("):
            model.predict(name)


def stock_run(epochs: int, **data: Any) -> LogisticRegression:
    """Trains with Lightning's own trainer, which leaves a run of its own kind."""
    model = LogisticRegression(784, 10)
    L.Trainer(max_epochs=epochs, **QUIET).fit(model, **data)
    return model


def test_a_saved_layer_is_called_linear_only_where_it_acts_on_pixels(workdir: Path) -> None:
    """Whatever a checkpoint calls `linear` is an `nn.Linear` for pixels in [0, 1]."""
    images = torch.randint(0, 256, (9, 784), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for standardize in (True, False):
        run = fit(
            "--data.dataset=mnist",
            "--max_epochs=1",
            f"--model.standardize={standardize}".lower(),
            "--model.calibrate=false",
        )
        linear = {n.removeprefix("linear."): v for n, v in weights_of(run).items() if n.startswith("linear.")}
        assert set(linear) == (set() if standardize else {"weight", "bias"})
        layer = load(run).as_linear()
        if not standardize:
            assert all(torch.equal(linear[name], value) for name, value in layer.state_dict().items())
        expected = LogisticRegression.load(run)(images.view(-1, 1, 28, 28))
        assert torch.allclose(layer(images / 255), expected, atol=1e-6)
        again = LogisticRegression(784, 10, standardize=standardize, calibrate=False)
        again.load_state_dict(LogisticRegression.load(run).state_dict())
        assert torch.equal(again(images.view(-1, 1, 28, 28)), expected)


def test_runs_of_a_stock_trainer_are_found(workdir: Path, capsys: Capsys) -> None:
    model = stock_run(2, datamodule=ImageDataModule("mnist", batch_size=8))
    [file] = Path("lightning_logs/version_0/checkpoints").iterdir()
    assert file.name == "epoch=1-step=136.ckpt"
    shutil.copy(file, file.with_name("epoch=0-step=68.ckpt"))
    rewrite(
        file.with_name("epoch=0-step=68.ckpt"), lambda state: state["standardized_linear.weight"].zero_()
    )  # an older one
    for run in ("last", file.parents[1], file):
        assert torch.equal(load(run).predict_proba(images(5)), model.eval().predict_proba(images(5)))
    PIL.Image.new("L", (28, 28)).save("one.png")
    assert json.loads(said_by(evaluate.main, ["last", "--json"], capsys))["accuracy"] > 0.9
    predict.main(["last", "one.png"])
    export.main(["last", "page.html"])
    assert Path("page.html").is_file()


def test_a_run_on_other_loaders_is_evaluated_on_what_is_named(workdir: Path, capsys: Capsys) -> None:
    data = ready(ImageDataModule("mnist"))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data.data.train.take(data.train_indices)), 32)
    stock_run(1, train_dataloaders=loader, val_dataloaders=loader)
    said = "does not say which images it was trained on; name them with --data.dataset"
    refused(["last"], said, capsys, evaluate.main)
    assert json.loads(said_by(evaluate.main, ["last", "--data.dataset=mnist", "--json"], capsys))["dataset"] == "mnist"


def test_another_model_is_refused_not_misread(run: Path, capsys: Capsys) -> None:
    class Deep(LogisticRegression):
        def forward(self, images: Tensor) -> Tensor:
            return -super().forward(images)

    model = Deep(784, 10)
    nn.init.normal_(model.linear.weight)
    assert torch.equal(model.predict_proba(images(2)), (-LogisticRegression.forward(model, images(2))).softmax(1))
    with pytest.raises(InputError, match="Deep has a `forward` of its own"):
        model.classifier()
    rewrite(run / "checkpoints" / "last.ckpt", lambda state: state.update({"hidden.weight": torch.zeros(2, 2)}))
    with pytest.raises(InputError, match="holds no `LogisticRegression`"):
        load(run)
    refused([str(run)], "holds no `LogisticRegression`", capsys, evaluate.main)
