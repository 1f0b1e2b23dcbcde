"""What auto becomes: against eigenvalues by LAPACK, against scikit-learn, and the same however it is computed."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from conftest import ALONE, Capsys, Patch, config_of, fit, ready, results_of, state
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression as ScikitLogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from tolerance import DOUBLE, EPS
from torch.utils.data import DataLoader, TensorDataset

from logreg_lightning import ImageDataModule, LogisticRegression
from logreg_lightning import fit as fit_in_python
from logreg_lightning.training import initialize


@pytest.mark.parametrize(("images", "size"), [(1, 8), (72, 8), (401, 9), (1294, 26), (9999, 200), (60_000, 200)])
def test_small_data_get_small_batches(images: int, size: int) -> None:
    assert initialize.batch_size(images) == initialize.batch_size(images, 100) == size


@pytest.mark.parametrize(("images", "classes", "size"), [(60_000, 500, 500), (90_000, 9000, 1000), (9000, 500, 180)])
def test_many_classes_get_large_batches(images: int, classes: int, size: int) -> None:
    assert initialize.batch_size(images, classes) == size


@pytest.mark.parametrize(
    ("steps_per_epoch", "max_steps", "epochs"), [(270, -1, 10), (200, -1, 10), (50, -1, 40), (9, -1, 200), (50, 120, 3)]
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


def rows_of(kind: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features as frozen networks give them: with a common direction, scales of their own, correlated, or few."""
    rng = np.random.default_rng(0)
    classes, count = (12, 600) if kind != "few" else (12, 36)
    labels = np.arange(count) % classes
    rows = 0.5 * rng.normal(size=(classes, 24))[labels] + rng.normal(size=(count, 24))
    if kind == "common":
        rows += 20 * rng.normal(size=24)
    if kind == "scales":
        rows *= 10 ** rng.uniform(-2, 2, 24)
    if kind == "correlated":
        rows = rows * np.arange(1, 25) ** -0.5 @ rng.normal(size=(24, 24))
    return rows.astype(np.float32), labels


@pytest.mark.parametrize("kind", ["plain", "common", "scales", "correlated", "few"])
def test_the_objective_is_that_of_scikit_learn(tmp_path: Path, monkeypatch: Patch, kind: str) -> None:
    """At C = 1 / (weight_decay x rows): both solutions, in the objective of each, and close to its least value."""
    monkeypatch.chdir(tmp_path)
    rows, labels = rows_of(kind)
    for part in ("train", "test"):
        np.save(f"{part}_features.npy", rows)
        np.save(f"{part}_labels.npy", labels)
    decay = 0.05
    data = ImageDataModule(tmp_path, val_size=0, batch_size=len(rows))
    model = fit_in_python(data, weight_decay=decay, max_epochs=200, pictures=False, verbose=False).model
    scaler, c = StandardScaler().fit(rows.astype(float)), 1 / (decay * len(rows))
    x = scaler.transform(rows.astype(float))
    scikit = ScikitLogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x, labels)
    ours = ScikitLogisticRegression(C=c, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.fit(x, labels)
    ours.coef_, ours.intercept_ = (p.detach().double().numpy() for p in model.linear.parameters())
    np.testing.assert_allclose(model.predict_proba(rows).numpy(), ours.predict_proba(x), atol=1e-4)

    def objective(solution: ScikitLogisticRegression) -> float:
        return float(log_loss(labels, solution.predict_proba(x)) + decay / 2 * (solution.coef_**2).sum())

    assert objective(scikit) - 1e-9 <= objective(ours) <= 1.001 * objective(scikit)


def test_penalties_suit_the_features() -> None:
    """Independent features want strong ones, by which scikit-learn's test accuracy is better; correlated ones weak."""
    rng = np.random.default_rng(0)
    centres = 0.25 * rng.normal(size=(10, 64))
    labels = rng.integers(0, 10, 3000)
    rows = centres[labels] + rng.normal(size=(3000, 64))
    spread = np.arange(1, 65) ** -1.0
    mixed = (4 * centres[labels] * spread + rng.normal(size=(3000, 64)) * spread) @ rng.normal(size=(64, 64))
    found = []
    for values in (rows, mixed):
        x = StandardScaler().fit_transform(values)
        features, classes = torch.from_numpy(x[:1000]).float(), torch.from_numpy(labels[:1000])
        variance, _ = initialize.prior_variance(features, classes, torch.ones(10))
        lengths = (x[:1000] ** 2).sum(1).mean()

        def score(variance: float, x: NDArray[np.float64] = x, lengths: float = lengths) -> float:
            model = ScikitLogisticRegression(C=variance / lengths, max_iter=2000)
            return float(model.fit(x[:1000], labels[:1000]).score(x[1000:], labels[1000:]))

        best = max(map(score, 10.0 ** np.arange(-2, 4)))
        assert score(variance) > best - 0.015  # one and a half standard errors of 2,000 rows
        found.append(variance)
    assert found[0] < 3 and found[1] > 30


@pytest.mark.parametrize("of_class", [2, 3])
def test_few_rows_of_a_class_are_judged_by_balanced_ones(of_class: int) -> None:
    """Independent features want a strong penalty; where a class lacks the row held out, a bias speaks against it."""
    rng = np.random.default_rng(0)
    centres, labels = 0.35 * rng.normal(size=(20, 256)), np.arange(4000) % 20
    rows = torch.from_numpy(centres[labels] + rng.normal(size=(4000, 256))).float()
    few, classes = 20 * of_class, torch.from_numpy(labels)
    variance, temperature = initialize.prior_variance(rows[:few], classes[:few], torch.ones(20))
    assert variance <= 1 and temperature < 0.5


def test_of_one_row_a_class_nothing_is_learnt_about_the_penalty() -> None:
    rows = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    assert initialize.prior_variance(rows, torch.arange(20), torch.ones(20)) == (initialize.PRIOR_VARIANCE, 1.0)


def test_where_none_are_held_out_the_temperature_is_that_of_cross_validation(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """8 rows a class: the strong penalty that suits them makes a model that is not sure enough of itself."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    centres = 0.35 * rng.normal(size=(20, 256))
    for part, count in (("train", 160), ("test", 1000)):
        labels = np.arange(count) % 20
        np.save(f"{part}_labels.npy", labels)
        np.save(f"{part}_features.npy", (centres[labels] + rng.normal(size=(count, 256))).astype(np.float32))
    run = fit_in_python(tmp_path, max_epochs=50, pictures=False, verbose=False)
    assert run.results["temperature"] < 0.5
    scikit = ScikitLogisticRegression(C=0.01, max_iter=2000)  # the best of 0.0001 to 1000 by its accuracy
    train, test = (np.load(f"{part}_features.npy") for part in ("train", "test"))
    scikit.fit(StandardScaler().fit_transform(train), np.arange(160) % 20)
    scores = scikit.predict_proba(StandardScaler().fit(train).transform(test))
    assert run.results["test/loss"] < log_loss(np.arange(1000) % 20, scores) / 2
    assert run.results["test/accuracy"] > (scores.argmax(1) == np.arange(1000) % 20).mean() - 0.01
