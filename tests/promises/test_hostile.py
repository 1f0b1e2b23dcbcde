"""Nothing lost and nothing wrong without a word: kinds of odd input, several of each."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from conftest import ALONE, config_of, contents, ready

from logreg_lightning import ImageDataModule, LogisticRegression, fit, load, sweep
from logreg_lightning.errors import InputError
from logreg_lightning.training.experiment import Run

SHORT: dict[str, Any] = {"max_steps": 20, "pictures": False, "verbose": False}

# What a caller may pass.

GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "numpy": ({"lr": np.float64(0.1), "seed": np.int64(3)}, {"batch_size": np.int32(20), "val_size": np.float32(0.25)}),
    "numpy settings": (
        {"standardize": np.bool_(True), "schedule": np.str_("constant"), "devices": np.int64(1)},
        {"steps_per_execution": np.int16(10), "val_seed": np.uint8(7)},
    ),
    "arrays": ({"lr": np.array(0.1), "threads": np.array(1)}, {"color": np.array(False)}),
    "torch": ({"lr": torch.tensor(0.1), "weight_decay": torch.tensor(0)}, {"val_seed": torch.tensor(4)}),
    "paths": ({"log_dir": Path("logs")}, {"root": Path("files")}),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_what_a_caller_passes_becomes_plain(workdir: Path, kind: str) -> None:
    of_fit, of_data = GIVEN[kind]
    run = fit(ImageDataModule("digits", **of_data), **{**SHORT, **of_fit})
    assert type(run) is Run
    config, classifier = config_of(run.path), load(str(run.path))
    assert torch.equal(classifier.as_linear().weight, run.model.classifier().as_linear().weight)
    written = {**config, **config["data"], **config["model"]}
    for name, value in {**of_fit, **of_data}.items():
        expected = str(value) if isinstance(value, Path) else value.item() if hasattr(value, "item") else value
        assert written[name] == expected and type(written[name]) in (int, float, bool, str)
    longer = fit(ImageDataModule("digits", **of_data), resume=run.path, **{**SHORT, **of_fit, "max_steps": 40})
    assert longer.path == run.path and longer.results["steps"] == 40


@pytest.mark.parametrize("values", [np.logspace(-2, -1, 3), range(1, 4), (np.float32(0.5), np.float64(0.1))], ids=str)
def test_a_sweep_takes_any_sequence(workdir: Path, values: Any) -> None:
    found = sweep("digits", lr=values, seed=range(1), **SHORT)
    assert [row["model.lr"] for row in found.settings] == pytest.approx([float(value) for value in values])
    assert yaml.safe_load((found.path / "config.yaml").read_text("utf-8"))["model"]["lr"] == list(map(float, values))


def test_a_stock_trainer_writes_what_can_be_read(workdir: Path) -> None:
    data = ready(ImageDataModule("digits", root=Path("files"), val_size=np.float64(0.1)))
    names, shape = np.array(list("abcdefghij")), np.array([1, 8, 8])
    given: dict[str, Any] = {"lr": np.float64(0.1), "image_shape": shape, "class_names": names}
    model = LogisticRegression(*np.array([64, 10]), **given)
    trainer = L.Trainer(max_epochs=1, **ALONE)
    trainer.fit(model, data)
    trainer.save_checkpoint("stock.ckpt")
    read = load("stock.ckpt")
    assert read.class_names == tuple("abcdefghij") and read.image_shape == (1, 8, 8)


OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    ({"lr": 1e39}, "`lr` must be auto or a positive number, not 1e"),
    ({"lr": np.array([0.1, 0.2])}, "`lr` must be auto or a positive number, not .0.1, 0.2."),
    ({"weight_decay": 10**400}, "`weight_decay` must be auto, 0 or a positive number"),
    ({"momentum": "much"}, "`momentum` must be from 0 to below 1, not much"),
    ({"seed": 2**70}, "`seed` must be from 0 to 4294967295"),
    ({"seed": -1}, "`seed` must be from 0 to"),
    ({"threads": 10**6}, "`threads` must be from 1 to 1024"),
    ({"max_epochs": 2.5}, "`max_epochs` must be from 1 to .*, a whole number"),
    ({"max_steps": -2}, "`max_steps` must be from 1 to .*, or -1 for no limit"),
    ({"accelerator": "tpu"}, "no TPU found for `accelerator='tpu'`; use `accelerator='cpu'`"),
]


@pytest.mark.parametrize(("given", "message"), OUT_OF_RANGE, ids=str)
def test_a_setting_out_of_range_is_refused(workdir: Path, given: dict[str, Any], message: str) -> None:
    before = contents(workdir)
    with pytest.raises(InputError, match=message):
        fit("digits", **{**SHORT, **given})
    assert contents(workdir) == before


@pytest.mark.parametrize(
    "given", [{"val_seed": 2**70}, {"val_seed": -1}, {"image_size": 10**9}, {"batch_size": 2.5}], ids=str
)
def test_a_setting_of_the_data_out_of_range_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(given))}` must be "):
        ImageDataModule("digits", **given)


def test_a_run_goes_through_pickle(workdir: Path) -> None:
    for run in (fit("digits", **SHORT), sweep("digits", lr=[0.1, 0.2], **SHORT).best):
        other = pickle.loads(pickle.dumps(run))
        assert other.path == run.path and other.results == run.results
        assert all(torch.equal(a, b) for a, b in zip(other.model.parameters(), run.model.parameters(), strict=True))
