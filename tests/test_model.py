"""The model against a plain PyTorch loop, in this project's hands and in a stock trainer's."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
from conftest import ALONE, QUIET, Patch, curves, fit, ready, results_of, weights_of
from lightning.pytorch.tuner.tuning import Tuner
from tolerance import EPS, LOSS, assert_trained_alike
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError
from logreg_lightning.model import LogisticRegression, gradient


def trained(run: Path) -> dict[str, Tensor]:
    """The layer's weights, under either name."""
    return {name.partition("linear.")[2]: value for name, value in weights_of(run).items() if "linear." in name}


def plain_loop(
    data: ImageDataModule, linear: nn.Linear, images: Tensor, decay: float, lr: float, weights: Tensor | None = None
) -> None:
    """Two epochs of mini-batches of 8 by torch's own layer, loss and optimizer."""
    parameters: list[dict[str, Any]] = [{"params": [linear.weight], "weight_decay": decay}, {"params": [linear.bias]}]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    loss = nn.CrossEntropyLoss(weights, reduction="mean" if weights is None else "none")
    for epoch in range(2):
        for indices in torch.split(data.train_dataloader().order(epoch), 8):
            targets = data.data.train.labels[indices]
            optimizer.zero_grad()
            loss(linear(images[indices]), targets).mean().backward()
            optimizer.step()


LOOP = ["--data.dataset=mnist", "--data.batch_size=8", "--max_epochs=2", "--seed=3", "--model.schedule=constant"]


@pytest.mark.parametrize("steps_per_execution", [1, 7, 50, 1000])
def test_weights_equal_a_plain_loops(workdir: Path, steps_per_execution: int) -> None:
    run = fit(
        *(*LOOP, "--model.lr=0.1", "--model.momentum=0.9", "--model.weight_decay=1e-4"),
        *("--model.standardize=false", "--model.calibrate=false"),
        f"--data.steps_per_execution={steps_per_execution}",
        f"--threads={torch.get_num_threads()}",  # those of the loop: others may add in another order
    )
    torch.manual_seed(3)
    data = ready(data_module())
    torch.manual_seed(3)
    linear = nn.Linear(784, 10)
    plain_loop(data, linear, data.data.train.pixels.reshape(-1, 784).float() / 255, 1e-4, 0.1)
    for name, value in trained(run).items():
        assert torch.equal(value, linear.state_dict()[name])
    assert set(weights_of(run)) == {"linear.weight", "linear.bias"}
    assert results_of(run)["steps"] == 2 * 68


def test_the_default_recipe_leaves_what_a_plain_loop_over_standardised_images_leaves(workdir: Path) -> None:
    """Autograd and torch's SGD; the schedule, and weight decay of the weights alone, by hand."""
    run = fit("--data.dataset=mnist", f"--threads={torch.get_num_threads()}", "--max_epochs=3")
    torch.manual_seed(0)
    data = ready(ImageDataModule("mnist"))
    model, loader = LogisticRegression.load(run), data.train_dataloader()
    assert model.standardizer is not None
    mean, scale = model.standardizer.mean, model.standardizer.scale
    weight, bias = torch.zeros(10, 784, requires_grad=True), torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=1.0, momentum=0.9)
    step, steps = 0, 3 * data.steps_per_epoch
    for epoch in range(3):
        for indices in torch.split(loader.order(epoch), data.batch_size):
            images, labels = data.data.train.pixels[indices].flatten(1).float(), data.data.train.labels[indices]
            optimizer.zero_grad()
            logits = nn.functional.linear((images / 255 - mean) * scale, weight, bias)
            nn.CrossEntropyLoss()(logits, labels).backward()
            assert weight.grad is not None
            weight.grad.add_(weight.detach(), alpha=model.weight_decay)
            optimizer.param_groups[0]["lr"] = model.lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.step()
            step += 1
    assert step == steps
    found = {"weight": model.linear.weight.detach(), "bias": model.linear.bias.detach()}
    assert_trained_alike(found, {"weight": weight.detach(), "bias": bias.detach()}, steps)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_step_is_that_of_a_plain_loop_over_standardised_floats(workdir: Path, class_weight: str | None) -> None:
    weighted = [f"--model.class_weight={class_weight}"] if class_weight else []
    run = fit(*LOOP, "--model.lr=0.01", "--model.weight_decay=1e-2", *weighted)
    torch.manual_seed(3)
    data = ready(data_module())
    floats = data.data.train.pixels.reshape(-1, 784).double() / 255
    images, labels = floats[data.train_indices], data.data.train.labels[data.train_indices]
    scale = 1 / torch.maximum(images.std(0, correction=0), 0.3 * images.var(0, correction=0).mean().sqrt())
    counts = labels.bincount(minlength=10).double()
    weights = len(labels) / (10 * counts) if class_weight else torch.ones(10, dtype=torch.float64)
    linear = nn.Linear(784, 10, dtype=torch.float64)
    nn.init.zeros_(linear.weight), nn.init.zeros_(linear.bias)
    plain_loop(data, linear, (floats - images.mean(0)) * scale, 1e-2, 0.01, weights)
    assert_trained_alike(trained(run), linear.state_dict(), 2 * 68)

    test = (data.data.test.pixels.reshape(-1, 784).double() / 255 - images.mean(0)) * scale
    model = LogisticRegression.load(run)
    expected = (linear(test) / cast(Tensor, model.temperature)).softmax(1)
    # Weights some 1e-6 apart move logits of up to 20 by 2e-5, and a probability by at most half of that.
    torch.testing.assert_close(model.predict_proba(data.data.test.pixels).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_no_precision_sees_how_many_steps_a_call_runs(workdir: Path, precision: str) -> None:
    runs = [
        fit("--data.dataset=mnist", "--data.batch_size=8", "--max_epochs=1", f"--precision={precision}",
            f"--data.steps_per_execution={steps}")
        for steps in (1, 50)
    ]  # fmt: skip
    one, many = (trained(run) for run in runs)
    assert torch.equal(one["weight"], many["weight"]) and torch.equal(one["bias"], many["bias"])
    assert json.loads((runs[0] / "results.json").read_text())["test/accuracy"] > 0.9


def test_the_gradient_is_autograds() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(37, 5, requires_grad=True), torch.randint(5, (37,))
    nn.CrossEntropyLoss()(logits, labels).backward()
    assert logits.grad is not None
    assert torch.equal(gradient(logits.detach().log_softmax(1), labels, 37), logits.grad)
    softmax_minus_one_hot = (logits.softmax(1) - nn.functional.one_hot(labels, 5)) / 37
    # Each is a difference of two values up to 1, of which one was rounded a few times.
    torch.testing.assert_close(logits.grad, softmax_minus_one_hot, rtol=0, atol=4 * EPS / 37)


def test_scales_pixels_as_to_tensor_does() -> None:
    from torchvision.transforms.functional import to_tensor

    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    model = LogisticRegression(256, 2, standardize=False)
    nn.init.eye_(model.linear.weight)
    expected = to_tensor(pixels[0, 0].numpy()).reshape(1, -1)
    assert torch.equal(model(pixels), model.linear(expected))


def test_reports_the_metrics_of_the_saved_weights(workdir: Path) -> None:
    run = fit("--data.dataset", "mnist", "--max_epochs", "3", "--model.standardize=false")
    results = results_of(run)
    data = ready(ImageDataModule("mnist"))
    weights = trained(run)
    logits = data.data.test.pixels.reshape(-1, 784).float() / 255 @ weights["weight"].T + weights["bias"]
    labels = data.data.test.labels
    assert results["test/accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item(), rel=EPS)
    assert results["test/loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), **LOSS)


def data_module(**settings: Any) -> ImageDataModule:
    return ImageDataModule("mnist", batch_size=8, **settings)  # 68 steps an epoch


def test_a_plain_trainer_trains_as_the_command_does(workdir: Path) -> None:
    threads = f"--threads={torch.get_num_threads()}"
    run = fit("--data.dataset=mnist", "--data.batch_size=8", "--max_epochs=3", "--seed=3", threads)
    L.seed_everything(3)
    model, trainer = LogisticRegression(784, 10), L.Trainer(max_epochs=3, default_root_dir="stock", **QUIET)
    trainer.fit(model, datamodule=data_module())
    assert torch.equal(model.linear.weight, trained(run)["weight"])
    expected, found = curves(run), curves(Path(str(trainer.log_dir)))
    for tag in ("train/loss", "train/accuracy", "train/lr", "val/loss", "val/accuracy"):
        assert found[tag] == expected[tag], tag

    results = results_of(run)
    [val], [test] = (ask(model, data_module(), verbose=False) for ask in (trainer.validate, trainer.test))
    # In training the loss was divided by the temperature, which is now in the weights.
    assert val == {"val/loss": pytest.approx(results["val/loss"], **LOSS), "val/accuracy": results["val/accuracy"]}
    names = ("test/loss", "test/accuracy", "test/balanced_accuracy", "test/calibration_error")
    assert test == {name: results[name] for name in names}
    trainer.fit(model, datamodule=data_module())  # nothing left to do
    assert trainer.global_step == 204


@pytest.mark.parametrize(
    ("settings", "steps", "validations"),
    [
        ({"max_steps": 30}, 30, []),
        ({"max_epochs": 2, "limit_train_batches": 20}, 40, [20, 40]),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 68, [34, 68]),
        ({"max_epochs": 2, "val_check_interval": 34}, 136, [34, 68, 102, 136]),
        ({"max_epochs": 2, "val_check_interval": 0.5}, 136, [34, 68, 102, 136]),
        ({"max_epochs": 2, "check_val_every_n_epoch": 2}, 136, [136]),
        ({"max_epochs": 2, "val_check_interval": 40, "check_val_every_n_epoch": None}, 136, [40, 80, 120]),
        ({"fast_dev_run": 3}, 3, [3]),
    ],
)
def test_a_trainers_limits_count_mini_batches(
    workdir: Path, settings: dict[str, Any], steps: int, validations: list[int]
) -> None:
    seen: list[int] = []

    class Note(L.Callback):
        def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            seen.append(trainer.global_step)

    model = LogisticRegression(784, 10)
    trainer = L.Trainer(**settings, **QUIET, logger=False, num_sanity_val_steps=0, callbacks=[Note()])
    trainer.fit(model, datamodule=data_module())
    assert trainer.global_step == steps and seen == validations
    # The last step's rate is that of a cosine over exactly those steps.
    assert model.optimizers(use_pl_optimizer=False).param_groups[0]["lr"] == model.lr_at(steps - 1, steps)  # type: ignore[union-attr]


def test_a_plain_trainers_run_resumes_in_its_own_order(workdir: Path) -> None:
    def train(epochs: int, **more: Any) -> LogisticRegression:
        model = LogisticRegression(784, 10, schedule="constant")
        L.Trainer(max_epochs=epochs, **ALONE).fit(model, data_module(), **more)
        return model

    torch.manual_seed(4)
    whole = train(4)
    torch.manual_seed(4)
    half = train(2)
    half.trainer.save_checkpoint("half.ckpt")
    torch.manual_seed(5)  # another process has another seed
    assert torch.equal(train(4, ckpt_path="half.ckpt").linear.weight, whole.linear.weight)


@pytest.mark.parametrize("floats", [True, False])
def test_a_plain_data_loader_is_one_step_a_batch(workdir: Path, floats: bool) -> None:
    data = ready(data_module())
    pixels, labels = data.data.train.pixels[:100], data.data.train.labels[:100]
    loader = DataLoader(TensorDataset(pixels / 255 if floats else pixels, labels), batch_size=16)
    torch.manual_seed(0)
    model = LogisticRegression(784, 10, lr=0.1, weight_decay=0, schedule="constant", standardize=False)
    trainer = L.Trainer(max_epochs=2, **ALONE)
    trainer.fit(model, loader, loader)
    assert trainer.global_step == 14
    assert trainer.validate(model, loader, verbose=False)[0]["val/accuracy"] > 0

    torch.manual_seed(0)
    linear = nn.Linear(784, 10)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for images, targets in zip(torch.split(pixels, 16), torch.split(labels, 16), strict=True):
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(linear(images.flatten(1) / 255), targets).backward()
            optimizer.step()
    assert torch.equal(model.linear.weight, linear.weight)


def test_forward_leaves_its_input_alone() -> None:
    model = LogisticRegression(784, 10)
    nn.init.uniform_(model.linear.weight, -0.01, 0.01)
    for images in (torch.rand(3, 1, 28, 28), torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)):
        before = images.clone()
        model(images)
        assert torch.equal(images, before)
    # 784 products of at most 0.01, which add up to less than 8.
    torch.testing.assert_close(model(images), model(images / 255), rtol=0, atol=8 * EPS)


def test_a_stock_checkpoint_gives_a_model_that_predicts(workdir: Path) -> None:
    model = LogisticRegression(784, 10, class_names=list("abcdefghij"))
    trainer = L.Trainer(max_epochs=1, logger=False, default_root_dir="stock", **QUIET)
    trainer.fit(model, datamodule=data_module())
    image = torch.randint(0, 256, (28, 28), dtype=torch.uint8)
    path = cast(Any, trainer.checkpoint_callback).best_model_path
    for loaded in (LogisticRegression.load_from_checkpoint(path), LogisticRegression.load(path)):
        assert loaded.predict(image) == model.predict(image) and loaded.predict(image)[0] in "abcdefghij"
    with pytest.raises(InputError, match="not a complete checkpoint"):
        LogisticRegression.load_from_checkpoint(__file__)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"lr": -1}, "`lr` must be auto or a positive number, not -1"),
        ({"momentum": 1}, "`momentum` must be from 0 to below 1, not 1"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be auto, 0 or a positive number, not nan"),
        ({"class_weight": "fair"}, "`class_weight` must be balanced or not given, not fair"),
        ({"schedule": "wavy"}, "`schedule` must be constant or cosine, not wavy"),
        ({"image_shape": (1, 2, 3)}, "`image_shape="),
        ({"class_names": ["a"]}, "`class_names` has 1 names for `num_classes=10`"),
    ],
)
def test_a_value_out_of_range_is_a_value_error_that_names_it(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LogisticRegression(784, 10, **wrong)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        ImageDataModule("digits", batch_size=0)


@pytest.mark.parametrize(("in_features", "shape"), [(784, (1, 28, 28)), (3072, (3, 32, 32)), (45, (1, 1, 45))])
def test_images_are_square_where_nobody_says_otherwise(in_features: int, shape: tuple[int, ...]) -> None:
    assert LogisticRegression(in_features, 2).image_shape == shape


class WithHiddenLayer(LogisticRegression):
    def __init__(self, in_features: int, num_classes: int, **more: Any) -> None:
        super().__init__(in_features, num_classes, **more)
        self.hidden = nn.Linear(in_features, 16)
        self.linear = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.hidden(self.standardized(images)).relu())  # type: ignore[no-any-return]


class WithOptimizer(LogisticRegression):
    make: Any = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return type(self).make(self.parameters())  # type: ignore[no-any-return]


adam = functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0)
quasi_newton = functools.partial(torch.optim.LBFGS, lr=0.01, max_iter=3)


@pytest.mark.parametrize(
    ("kind", "make", "batch_size"),  # on small batches quasi-Newton steps make rounding grow
    [(WithHiddenLayer, None, 8), (WithOptimizer, adam, 8), (WithOptimizer, quasi_newton, 540)],
    ids=["hidden layer", "AdamW", "LBFGS"],
)
def test_what_a_subclass_overrides_is_trained_as_a_plain_loop_trains_it(
    workdir: Path, monkeypatch: Patch, kind: type[LogisticRegression], make: Any, batch_size: int
) -> None:
    """Its own forward, or any optimizer of torch, whose own learning rate follows the schedule."""
    if make is not None:
        monkeypatch.setattr(WithOptimizer, "make", staticmethod(make))
    settings: dict[str, Any] = {"lr": 0.002, "momentum": 0.5, "weight_decay": 0.01, "class_weight": "balanced"}
    torch.manual_seed(0)
    model = kind(784, 10, **settings)
    torch.manual_seed(0)
    mine = kind(784, 10, **settings)
    trainer = L.Trainer(max_epochs=2, **ALONE)
    torch.manual_seed(3)
    data = ImageDataModule("mnist", batch_size=batch_size)
    trainer.fit(model, datamodule=data)
    mine.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "linear" not in k and "hidden" not in k}, strict=False
    )
    parameters = list(mine.parameters())
    penalised = [{"params": [p], "weight_decay": 0.01 if p.ndim > 1 else 0} for p in parameters]
    optimizer: Any = torch.optim.SGD(penalised, lr=0.002, momentum=0.5) if make is None else make(parameters)
    step, base = 0, 0.002 if make is None else optimizer.defaults["lr"]
    for epoch in range(2):
        for indices in torch.split(data.train_dataloader().order(epoch), batch_size):
            images, labels = data.data.train.pixels[indices], data.data.train.labels[indices]

            def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
                optimizer.zero_grad()
                logits = mine(images) if make is None else mine.linear(mine.standardized(images))
                loss = nn.functional.cross_entropy(logits, labels, mine.class_weights, reduction="sum") / len(labels)
                if make is not None:
                    loss = loss + 0.005 * sum(p.square().sum() for p in parameters if p.ndim > 1)
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            for group in optimizer.param_groups:
                group["lr"] = base * (1 + math.cos(math.pi * step / trainer.global_step)) / 2
            optimizer.step(closure)
            step += 1
    found, expected = dict(model.named_parameters()), dict(mine.named_parameters())
    assert all(value.any() for value in found.values())
    if make is quasi_newton:  # differences of gradients, which lose digits, are divided by each other
        weight, other = found["linear.weight"], expected["linear.weight"]
        assert float((weight - other).norm() / other.norm()) < 1e-2
    else:
        assert_trained_alike(found, expected, step)


def test_a_cosine_without_an_end_and_a_scheduler_beside_the_schedule_are_refused(workdir: Path) -> None:
    with pytest.raises(InputError, match="give the trainer `max_epochs` or `max_steps`"):
        L.Trainer(max_epochs=-1, **ALONE).fit(LogisticRegression(784, 10), datamodule=data_module())

    class WithScheduler(LogisticRegression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    with pytest.raises(InputError, match="must return one optimizer alone"):
        L.Trainer(max_epochs=1, **ALONE).fit(WithScheduler(784, 10), datamodule=data_module())


@pytest.mark.parametrize("tune", [Tuner.lr_find, Tuner.scale_batch_size])
def test_lightnings_tuner_is_refused_before_it_changes_anything(workdir: Path, tune: Callable[..., Any]) -> None:
    trainer, model, data = L.Trainer(max_epochs=1, **ALONE), LogisticRegression(784, 10), data_module()
    with pytest.raises(InputError, match="`lr='auto'` and `batch_size='auto'` choose by the data, `sweep` compares"):
        tune(Tuner(trainer), model, datamodule=data)
    assert (model.hparams["lr"], data.batch_size, data.hparams["batch_size"]) == ("auto", 8, 8)
    assert model.needs_data and not any(parameter.any() for parameter in model.parameters())
    assert not list(Path().rglob("*.ckpt"))


def test_a_stock_trainer_predicts_the_test_images(workdir: Path) -> None:
    data = ready(data_module())
    model = LogisticRegression(784, 10, standardize=False)
    batches = L.Trainer(**ALONE).predict(model, datamodule=data)
    assert batches is not None
    found, pixels = torch.cat(cast(Any, batches)), data.data.test.pixels
    logits = pixels.flatten(1).double() / 255 @ model.linear.weight.double().T + model.linear.bias.double()
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert found.shape == (100, 10)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    alone = L.Trainer(**ALONE).predict(model, DataLoader(cast(Any, pixels), 100))
    assert torch.equal(cast(Any, alone)[0], found)
