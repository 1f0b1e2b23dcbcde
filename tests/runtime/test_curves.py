"""What TensorBoard makes of what a run and a sweep write."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import Patch, curves, events_of, fit, newest, write_features
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.backend_context import _sort_and_reduce_to_hparams_limit

from logreg_lightning.sweep import main as sweep


def shown(run: Path) -> list[str]:
    """The tab's settings in its order."""
    content = events_of(run).SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    _sort_and_reduce_to_hparams_limit(experiment)
    return [info.name for info in experiment.hparam_infos]


def written(run: Path) -> list[str]:
    content = events_of(run).SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    return [info.name for info in metadata.parse_experiment_plugin_data(content).hparam_infos]


FIRST = ["model.lr", "model.momentum", "model.weight_decay"]


def test_what_was_changed_comes_first(workdir: Path) -> None:
    write_features(Path("six"))
    quick = ["--data.dataset=six", "--max_steps=10"]
    run = fit(*quick)
    assert shown(run)[:3] == FIRST == written(run)[:3] and {"data.batch_size", "data.dataset"} <= set(shown(run)[3:])
    run = fit(*quick, "--model.lr=0.5", "--model.schedule=constant", "--data.batch_size=7")
    assert shown(run)[:4] == sorted([*FIRST, "model.schedule"])
    sweep([*quick, "--model.lr=0.1x,1x", "--seed=0,1", "--pictures=true"])
    for setting in Path("lightning_logs/sweep_0").glob("[0-9]"):
        assert shown(setting)[:4] == sorted([*FIRST, "seed"])
    assert shown(newest())[:3] == FIRST


@pytest.mark.parametrize("clocks", [[86_400, 0, -86_400], [0] * 4], ids=["set back", "one second"])
def test_points_stay_in_order_whatever_the_clock_says(workdir: Path, monkeypatch: Patch, clocks: list[int]) -> None:
    """TensorBoard reads the files of a run in the order of their names, which begin with a time in seconds."""
    began = time.time()
    flags = ["--data.dataset=digits", "--data.batch_size=200", "--model.schedule=constant"]
    for epochs, change in enumerate(clocks, 1):
        monkeypatch.setattr(time, "time", lambda change=change: began + change)
        run = fit(*(flags if epochs == 1 else ["--resume=last"]), f"--max_epochs={epochs}")
    for points in curves(run).values():
        assert points == sorted(points)
    assert len(curves(run)["train/loss"]) == len(clocks)
