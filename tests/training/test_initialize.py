"""What auto becomes: against eigenvalues by LAPACK, against scikit-learn, and the same however it is computed."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from conftest import ALONE, Capsys, Patch, config_of, fit, ready, results_of, state
from sklearn.linear_model import LogisticRegression as ScikitLogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from tolerance import DOUBLE, EPS
from torch.utils.data import DataLoader, TensorDataset

from logreg_lightning import ImageDataModule, LogisticRegression
from logreg_lightning import fit as fit_in_python
from logreg_lightning.training import initialize


@pytest.mark.parametrize(("images", "size"), [(1, 8), (72, 8), (401, 9), (1294, 26), (9999, 200), (60_000, 200)])
def test_small_data_get_small_batches(images: int, size: int) -> None:
    assert initialize.batch_size(images) == size


@pytest.mark.parametrize(
    ("steps_per_epoch", "max_steps", "epochs"), [(270, -1, 10), (200, -1, 10), (50, -1, 40), (9, -1, 223), (50, 120, 3)]
)
def test_epochs_make_two_thousand_steps(steps_per_epoch: int, max_steps: int, epochs: int) -> None:
    assert initialize.epochs(steps_per_epoch, max_steps) == epochs


def test_the_learning_rate_is_a_share_of_the_stability_limit() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 30)) @ rng.normal(size=(30, 30))
    with_ones = np.concatenate([features, np.ones((400, 1))], 1)
    largest = np.linalg.eigvalsh(with_ones.T @ with_ones / 400)[-1]
    length = (with_ones**2).sum(1).mean()
    for batch_size, momentum in ((200, 0.9), (8, 0.0), (1, 0.5)):
        curvature = (largest + (length - largest) / batch_size) / 2
        expected = 0.5 * 2 * (1 + momentum) / curvature
        bend = initialize.curvature(torch.from_numpy(features), torch.ones(400).double(), batch_size)
        found = initialize.learning_rate(bend, momentum)
        assert found == pytest.approx(expected, rel=5e-3)  # three digits
        assert found == float(f"{found:.3g}")
    decay = initialize.weight_decay(torch.from_numpy(features), 1000)
    assert decay == pytest.approx((features**2).sum(1).mean() / 10_000, rel=5e-3)  # three digits


def test_rare_classes_that_weigh_more_make_the_steps_smaller() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(900, generator=generator) < 0.02).long()
    images = torch.rand(900, 1, 4, 4, generator=generator) * (1 + 4 * labels.view(-1, 1, 1, 1))
    model = LogisticRegression(16, 2, class_weight="balanced")
    initialize.initialize(model, [(images, labels)], 50)
    weights = 900 / (2 * labels.bincount())[labels].double().numpy()
    values = images.flatten(1).double().numpy()
    standardised = (values - values.mean(0)) / np.maximum(values.std(0), 0.3 * np.sqrt(values.var(0).mean()))
    with_ones = np.concatenate([standardised, np.ones((900, 1))], 1)
    weighted = with_ones * weights[:, None]
    largest = np.linalg.eigvalsh(weighted.T @ with_ones / 900)[-1]
    curvature = (largest + ((weighted**2).sum(1).mean() - largest) / 50) / 2
    assert model.lr == pytest.approx(0.5 * 2 * 1.9 / (curvature + model.weight_decay), rel=5e-3)  # three digits


def test_class_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0, 0, 0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(initialize.balanced(torch.from_numpy(labels).bincount()).numpy(), expected, rtol=DOUBLE)


def test_a_run_says_what_was_chosen_and_resumes_with_it(workdir: Path, capsys: Capsys) -> None:
    run = fit("--data.dataset=mnist", "--seed=7")
    config = config_of(run)
    lr, decay = config["model"]["lr"], config["model"]["weight_decay"]
    assert config["data"]["batch_size"] == 11 and config["max_epochs"] == 40
    chosen = f"Training for 2,000 steps of 11 images, 40 epochs, with lr {lr:g}, weight_decay {decay:g}"
    assert chosen in capsys.readouterr().out
    results = results_of(run)
    assert (results["lr"], results["weight_decay"], results["batch_size"]) == (lr, decay, 11)
    told = yaml.safe_load((run / "hparams.yaml").read_text(encoding="utf-8"))
    assert (told["lr"], told["weight_decay"], told["batch_size"]) == (lr, decay, 11)
    again = fit(f"--config={run}/config.yaml")
    assert state(again) == state(run) and config_of(again) == config
    fit("--resume=last", "--max_epochs=41")
    assert config_of(again)["model"] == config["model"]
    resumed = fit_in_python(ImageDataModule("auto"), resume=str(run), seed=7, pictures=False)
    assert resumed.results == results  # it is finished: auto is what it was


def test_a_number_overrules_and_a_resumed_run_looks_at_no_image_again(workdir: Path, monkeypatch: Patch) -> None:
    run = fit("--data.dataset=mnist", "--model.lr=0.02", "--model.weight_decay=0.5", "--max_epochs=1")
    model = LogisticRegression.load(run)
    assert (model.lr, model.weight_decay) == (0.02, 0.5)
    monkeypatch.setattr(initialize, "training_statistics", lambda *_: pytest.fail("the checkpoint has all it needs"))
    fit("--resume=last", "--max_epochs=2")


def test_a_run_that_was_too_short_says_so(workdir: Path, capsys: Capsys) -> None:
    slow = ["--model.lr=1e-4", "--model.schedule=constant", "--model.calibrate=false"]
    fit("--data.dataset=mnist", *slow, "--max_epochs=8")
    assert "Note: val/loss was still falling" in capsys.readouterr().out


def test_max_steps_ends_a_run_of_as_many_epochs_as_it_takes(workdir: Path) -> None:
    run = fit("--data.dataset=mnist", "--max_steps=2500")
    assert (results_of(run)["steps"], results_of(run)["epochs"]) == (2500, 50)


def test_a_stock_trainer_initializes_from_any_loader(workdir: Path) -> None:
    data = ready(ImageDataModule("mnist", batch_size=8))
    indices = data.train_indices
    images, labels = data.data.train.pixels[indices], data.data.train.labels[indices]
    ours, theirs = (LogisticRegression(784, 10, class_weight="balanced") for _ in range(2))
    L.Trainer(max_epochs=1, **ALONE).fit(ours, datamodule=data)
    loader = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
    torch.manual_seed(0)
    L.Trainer(max_epochs=1, **ALONE).fit(theirs, loader)
    assert (theirs.lr, theirs.weight_decay) == (ours.lr, ours.weight_decay) and theirs.lr > 0
    assert ours.standardizer is not None and theirs.standardizer is not None
    # Of float64 sums in another order, rounded to float32.
    torch.testing.assert_close(theirs.standardizer.scale, ours.standardizer.scale, rtol=EPS, atol=0)
    assert theirs.class_weights is not None and ours.class_weights is not None
    assert torch.equal(theirs.class_weights, ours.class_weights)
    assert theirs.hparams["lr"] == ours.lr
    again = LogisticRegression(784, 10, theirs.lr, weight_decay=theirs.weight_decay, class_weight="balanced")
    torch.manual_seed(0)  # the pass over the images has drawn nothing from the training's numbers
    again.needs_data = False
    again.standardizer.load_state_dict(theirs.standardizer.state_dict())  # type: ignore[union-attr]
    again.class_weights = theirs.class_weights
    L.Trainer(max_epochs=1, **ALONE).fit(again, loader)
    assert torch.equal(again.linear.weight, theirs.linear.weight)


def test_the_optimum_is_that_of_scikit_learn(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    data = ready(ImageDataModule("digits"))
    decay = 1 / len(data.train_indices)  # scikit-learn's C = 1
    run = fit_in_python(data, weight_decay=decay, calibrate=False, max_epochs=120, pictures=False)
    pixels, labels = data.data.train.pixels[data.train_indices], data.data.train.labels[data.train_indices]
    scikit = make_pipeline(StandardScaler(), ScikitLogisticRegression(max_iter=1000))
    scikit.fit(pixels.flatten(1).numpy(), labels.numpy())
    test = data.data.test.pixels
    expected = scikit.predict(test.flatten(1).numpy())
    found = run.model.predict_proba(test).argmax(1).numpy()
    assert (found == expected).mean() >= 0.99
    images = pixels.flatten(1).numpy()
    penalised = [
        -np.log(p[np.arange(len(labels)), labels.numpy()]).mean()
        for p in (run.model.predict_proba(pixels).numpy().astype(float), scikit.predict_proba(images))
    ]
    # No two ways of one computation: one ends after 120 epochs, and lets a pixel that hardly varies weigh less.
    assert penalised[0] == pytest.approx(penalised[1], rel=0.15)
