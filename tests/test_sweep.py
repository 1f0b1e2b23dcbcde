"""A sweep trains each setting as a run of its own would, chooses by validation, and survives what a run survives."""

from __future__ import annotations

import contextlib
import csv
import importlib
import itertools
import json
import math
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from conftest import (
    INTERRUPTED,
    Capsys,
    Patch,
    contents,
    documented,
    events_of,
    killed_in,
    newest,
    refused,
    results_of,
    run_script,
    said_by,
    signalled_in,
    state,
    write_features,
    write_pictures,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tolerance import EPS, LOSS, assert_trained_alike
from torch import Tensor

from logreg_lightning import ImageDataModule, LogisticRegression, fit, sweep
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.fit import main as fit_main
from logreg_lightning.runtime.files import locked
from logreg_lightning.runtime.saver import AtomicCheckpointIO, Saver
from logreg_lightning.training import heads
from logreg_lightning.training.experiment import Experiment
from logreg_lightning.use import evaluate, export, figures, predict

sweeps = importlib.import_module("logreg_lightning.sweep")
ROOT = Path(__file__).parents[1]
SHORT: dict[str, Any] = {"max_epochs": 2, "pictures": False}
FLAGS = ["--data.dataset=mnist", "--data.batch_size=4", "--max_epochs=2", "--pictures=false"]  # 135 steps an epoch
GRID = ["--model.lr=0.01,0.02", "--model.momentum=0,0.9"]


def main(*flags: str) -> Path:
    """Runs `sweep.py` with these flags, in this process; returns the newest sweep's folder."""
    sweeps.main(list(flags))
    return Path(sweeps.find("last"))


def small(**settings: Any) -> ImageDataModule:
    return ImageDataModule("mnist", batch_size=4, **settings)


def trained(folder: Path) -> dict[int, tuple[Tensor, Tensor, float]]:
    """Of each setting of a sweep its weights, its bias and its temperature."""
    found = {}
    for file in (folder / "checkpoints").glob("group_*.ckpt"):
        content = torch.load(file, weights_only=True)
        count, weights = len(content["heads"]), content["state_dict"]
        rows, biases = (weights[name].unflatten(0, (-1, count)) for name in ("weight", "bias"))
        for number, index in enumerate(content["indices"]):
            found[index] = rows[:, number], biases[:, number], float(weights["temperature"][number])
    return found


def assert_alike(found: Tensor, expected: Tensor, steps: int = 270) -> None:
    """Weights after so many steps; by itself those of two epochs of the small MNIST."""
    assert_trained_alike({"weight": found.detach()}, {"weight": expected.detach()}, steps)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def outcome(folder: Path, here: Path = Path()) -> dict[str, Any]:
    """All that a sweep, trained in the folder `here`, leaves which has to do with what was trained, exactly."""
    results = results_of(folder)
    run = here / results["best"].pop("run")  # a kill right after it was made leaves it empty, and takes the next number
    for name in ("fit_seconds", "command"):
        results.pop(name)
    of_run = results_of(run)
    tested = {name: value for name, value in of_run.items() if name.startswith(("test/", "val/", "train/"))}
    weights = {index: [str(part.tolist()) for part in parts[:2]] for index, parts in trained(folder).items()}
    return {"results": results, "table": table(folder), "weights": weights, "run": state(run), "tested": tested}


SWEPT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"lr": ["0.3x", "auto"]}, {}),
    ({"momentum": [0.0, 0.5, 0.9]}, {"lr": 0.02}),
    ({"weight_decay": [0.0, 0.01, "10x"]}, {"lr": 0.02}),
    ({"schedule": ["constant", "cosine"]}, {"lr": 0.005}),
    ({"seed": [0, 3]}, {"lr": 0.02}),
    ({"lr": [0.003, 0.02]}, {"standardize": False}),
    ({"weight_decay": [0.0, 0.1]}, {"lr": 0.02, "class_weight": "balanced"}),
    ({"lr": [0.003, 0.02]}, {"precision": "64-true"}),
    ({"momentum": [0.0, 0.9]}, {"lr": 0.02, "max_steps": 100, "val_check_interval": 50}),
    ({"lr": [0.003, 0.02]}, {"calibrate": False}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("swept", "more"), SWEPT)
def test_each_setting_is_trained_as_it_would_be_alone(
    workdir: Path, swept: dict[str, Any], more: dict[str, Any]
) -> None:
    found = sweep(small(), **swept, **more, **SHORT)
    weights, [(name, values)] = trained(found.path), swept.items()
    assert len(found.settings) == len(values) == len(weights)
    for index, row in enumerate(found.settings):
        given = row["seed"] if name == "seed" else row[f"model.{name}"]
        assert values[index] in (given, "auto") or str(values[index]).endswith("x")
        alone = fit(small(), **{name: given}, **more, **SHORT)
        weight, bias, temperature = weights[index]
        for mine, other in ((weight, alone.model.linear.weight), (bias, alone.model.linear.bias)):
            assert_alike(mine, other)
        assert temperature == alone.results["temperature"]
        assert row["val/loss"] == pytest.approx(alone.results["val/loss"], **LOSS)
        assert row["val/accuracy"] == pytest.approx(alone.results["val/accuracy"], rel=EPS)
    if name == "lr" and "auto" in values:
        small_lr, lr = (row["model.lr"] for row in found.settings)
        assert small_lr == pytest.approx(0.3 * lr, rel=5e-3)  # three digits


def test_settings_of_all_kinds_together_are_each_as_alone(workdir: Path) -> None:
    data = ImageDataModule("digits")
    found = sweep(data, lr="1e-3..5e-2", momentum="0..0.95", schedule="constant,cosine", seed="0..3", random=6, **SHORT)
    weights = trained(found.path)
    assert sorted(weights) == list(range(6)) and len({row["seed"] for row in found.settings}) > 1
    for index, row in enumerate(found.settings):
        setting = {name.removeprefix("model."): value for name, value in row.items() if "val/" not in name}
        alone = fit(ImageDataModule("digits"), **setting, **SHORT)
        assert_alike(weights[index][0], alone.model.linear.weight, alone.results["steps"])
        assert row["val/loss"] == pytest.approx(alone.results["val/loss"], **LOSS)


def test_the_winners_config_trains_it_again_alone(workdir: Path) -> None:
    found = sweep(small(), lr=["0.05x", "0.5x"], weight_decay=["2x"], seed=[3], **SHORT)
    fit_main(["--config", str(found.best.path / "config.yaml")])
    again = newest()
    assert again != found.best.path
    assert_alike(found.best.model.linear.weight, LogisticRegression.load(again).linear.weight)


@pytest.mark.parametrize("kind", ["features", pytest.param("pictures", marks=pytest.mark.slow)])
def test_features_are_swept_like_pixels(workdir: Path, kind: str) -> None:
    write_features(Path("mine"))
    write_pictures(Path("pets"), 12)
    more = {} if kind == "features" else {"features": "efficientnet-lite0", "val_size": 0.1}
    data = ImageDataModule("mine" if kind == "features" else "pets", **more)  # type: ignore[arg-type]
    found = sweep(data, lr=["1x", "0.1x"], **SHORT)
    assert found.best.results["test/accuracy"] >= 0.75
    alone = fit(data, lr=found.settings[1]["model.lr"], **SHORT)
    assert_alike(trained(found.path)[1][0], alone.model.linear.weight, alone.results["steps"])


def test_one_that_diverges_is_marked_and_touches_no_other(workdir: Path) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    alone = sweep(small(), lr=[0.01, 0.02], weight_decay=0.1, momentum=0.0, **SHORT)
    assert torch.equal(torch.get_rng_state(), before)  # it draws nothing from the caller's numbers
    found = sweep(small(), lr=[0.01, 1e6, 0.02], weight_decay=0.1, momentum=0.0, **SHORT)
    assert [math.isnan(row["val/loss"]) for row in found.settings] == [False, True, False]
    assert table(found.path)[1]["val/accuracy"] == "nan" and found.results["diverged"] == [1]
    weights, others = trained(found.path), trained(alone.path)
    for mine, other in ((0, 0), (2, 1)):
        assert_alike(weights[mine][0], others[other][0])
    with pytest.raises(RunError, match="all settings diverged"):
        sweep(small(), lr=[1e6, 1e7], weight_decay=0.1, momentum=0.0, **SHORT)


@pytest.mark.parametrize("wild", [{"lr": 1e6, "weight_decay": 1.0}, {"lr": 0.02, "weight_decay": 1e3}])
def test_what_diverges_alone_diverges_in_a_sweep(workdir: Path, wild: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="training diverged"):
        fit(small(), **wild, **SHORT)
    values: dict[str, Any] = {"lr": [wild["lr"]], "weight_decay": [wild["weight_decay"]]}
    swept = "lr" if wild["lr"] > 1 else "weight_decay"
    values[swept] = [values[swept][0], 0.001]
    found = sweep(small(), **values, **SHORT)
    assert found.results["diverged"] == [0] and found.results["best"]["index"] == 1
    assert math.isnan(found.settings[0]["val/loss"]) and math.isnan(found.settings[0]["val/accuracy"])
    with pytest.raises(InputError, match=r"setting 0 of .* diverged; promote another"):
        sweeps.promote(str(found.path), 0)


def test_it_leaves_a_table_and_a_run_that_every_command_takes(workdir: Path, capsys: Capsys) -> None:
    folder = main(*FLAGS, *GRID, "--model.schedule=constant", "--model.weight_decay=0.001")
    printed = capsys.readouterr().out
    rows = table(folder)
    assert list(rows[0]) == ["index", "model.lr", "model.momentum", "val/loss", "val/accuracy"]
    assert [(row["index"], row["model.lr"], row["model.momentum"]) for row in rows] == [
        ("0", "0.01", "0.0"), ("1", "0.01", "0.9"), ("2", "0.02", "0.0"), ("3", "0.02", "0.9"),
    ]  # fmt: skip
    results = results_of(folder)
    best = results["best"]["index"]
    assert best == min(range(4), key=lambda k: (-float(rows[k]["val/accuracy"]), float(rows[k]["val/loss"]), k))
    assert results["settings"] == 4 and results["fit_seconds"] > 0
    assert "test/accuracy" not in str(results) and len(list(Path("lightning_logs").glob("version_*"))) == 1
    run = Path(results["best"]["run"])
    of_run = results_of(run)
    assert of_run["val/loss"] == float(rows[best]["val/loss"]) and of_run["test/accuracy"] > 0
    assert f"Best:               {best}, a run of its own in {run}" in printed

    again = json.loads(said_by(evaluate.main, [run, "--json"], capsys))
    assert again["accuracy"] == pytest.approx(of_run["test/accuracy"], rel=EPS)
    picture = torch.arange(28 * 28).view(28, 28).remainder(256).to(torch.uint8)
    named = LogisticRegression.load(run).predict(picture.unsqueeze(0))
    PIL.Image.fromarray(picture.numpy()).save("mine.png")
    assert f",{named[0]}," in said_by(predict.main, [run, "mine.png", "--format", "csv"], capsys).replace("\n", ",")
    assert "mine.onnx" in said_by(export.main, [run, "mine.onnx"], capsys)
    assert Path("mine.onnx").stat().st_size > 4 * 7850
    fit_main(["--resume", str(run), "--max_epochs=4"])
    setting: dict[str, Any] = {"lr": float(rows[best]["model.lr"]), "momentum": float(rows[best]["model.momentum"])}
    longer = fit(small(), **setting, schedule="constant", weight_decay=0.001, max_epochs=4, pictures=False)
    assert_alike(LogisticRegression.load(run).linear.weight, longer.model.linear.weight, 540)


def test_another_setting_is_promoted_once(workdir: Path, capsys: Capsys) -> None:
    folder = main(*FLAGS, *GRID, "--model.weight_decay=0,1")
    best = results_of(folder)["best"]["index"]
    other = (best + 3) % 8
    main("--promote", str(other), str(folder))
    runs = sorted(Path("lightning_logs").glob("version_*"))
    assert len(runs) == 2
    weight = LogisticRegression.load(runs[1]).linear.weight
    assert torch.equal(weight, trained(folder)[other][0])
    main("--take", str(other), str(folder))
    assert sorted(Path("lightning_logs").glob("version_*")) == runs
    for words, said in (
        (["8", str(folder)], "has the settings 0 to 7, not 8"),
        (["x", str(folder)], "the setting's index, a number"),
        (["0", "nowhere"], "no sweep found at nowhere"),
    ):
        refused(["--promote", *words], said, capsys, sweeps.main)


WRONG_VALUES = [
    ("--model.lr abc", "--model.lr abc must be numbers, auto or a factor of it as in 3x"),
    ("--model.lr 0.1,,0.2", "must be numbers"),
    ("--model.lr ''", "must be numbers"),
    ("--model.lr []", "--model.lr has no values"),
    ("--model.lr 0.1,nan", "--model.lr must be auto or a positive number, not nan"),
    ("--model.lr 1x,0x", "--model.lr 0x must be numbers, auto or a factor"),
    ("--model.momentum auto", "--model.momentum auto must be numbers, several with commas"),
    ("--model.weight_decay 0,-1", "--model.weight_decay must be"),
    ("--seed 1.5", "must be whole numbers"),
    ("--max_epochs 0", "--max_epochs must be at least 1"),
    ("--model.lr=-1,0.1", "--model.lr must be auto or a positive number, not -1"),
    ("--model.momentum 0,1", "--model.momentum must be from 0 to below 1"),
    ("--model.schedule cosine,linear", "--model.schedule must be constant or cosine"),
    ("--seed 0,x", "must be whole numbers"),
    ("--seed -1", "--seed must be from 0"),
    ("--model.lr 0.1..1", "say with --random how many"),
    ("--random 5 --model.lr 1..0.1", "must be a range of two numbers from 0 on, the smaller one first"),
    ("--random 5 --model.lr 0.1..1,2", "mixes a range with values"),
    ("--random 5 --model.lr 0.1..0.1", "must be a range of two numbers from 0 on, the smaller one first"),
    ("--random 5 --model.lr 0.1x..1x", "must be a range of two numbers"),
    ("--random 5 --model.lr ..1", "mixes a range with values"),
    ("--random 5 --model.lr 1..inf", "--model.lr must be auto or a positive number"),
    ("--random 9 --model.momentum 0.9..2", "--model.momentum must be from 0 to below 1"),
    ("--random 5 --model.lr=-1..1", "--model.lr"),
    ("--random 5 --model.weight_decay=-2..-1", "--model.weight_decay"),
    ("--random 0 --model.lr 0.1..1", "--random must be at least 1"),
    ("--data.val_size 0", "leaves no validation images, by which a sweep chooses"),
    ("--model.standardze false", "did you mean --model.standardize?"),
    ("--resume last", "no sweep found at last; sweeps here: none yet"),
    ("--data.dataset cats", "--data.dataset cats is not known"),
]


@pytest.mark.parametrize(("flags", "named"), WRONG_VALUES)
def test_wrong_values_get_one_sentence(workdir: Path, capsys: Capsys, flags: str, named: str) -> None:
    refused(["--data.dataset=mnist", *shlex.split(flags)], named, capsys, sweeps.main)


def test_random_settings_are_drawn_from_their_ranges_the_same_each_time(workdir: Path) -> None:
    ranges = ["--model.lr=1e-3..1e-1", "--model.momentum=0..0.9", "--model.schedule=cosine,constant"]
    first, second = (main(*FLAGS, "--random=6", *ranges) for _ in range(2))
    assert first != second and table(first) == table(second)
    drawn = [(float(row["model.lr"]), float(row["model.momentum"])) for row in table(first)]
    assert len(set(drawn)) == 6
    assert all(1e-3 <= lr <= 1e-1 and 0 <= momentum <= 0.9 for lr, momentum in drawn)
    assert {row["model.schedule"] for row in table(first)} <= {"cosine", "constant"}


def test_draws_are_even_on_their_scale() -> None:
    given = {"lr": "1e-4..1", "momentum": "0..0.8", "weight_decay": "0..2", "schedule": ("constant",), "seed": "3..5"}
    drawn = sweeps._drawn(given, 4000)
    assert drawn[:10] == sweeps._drawn(given, 10)
    lowest = {"lr": 1e-3, "momentum": 0.2, "weight_decay": 0.5}  # a quarter of each range lies below
    for name, quarter in lowest.items():
        assert 0.22 < sum(setting[name] < quarter for setting in drawn) / 4000 < 0.28, name
    assert {setting["seed"] for setting in drawn} == {3, 4, 5} and {s["schedule"] for s in drawn} == {"constant"}


@pytest.mark.slow
def test_a_sweeps_config_repeats_it(workdir: Path) -> None:
    first = main(*FLAGS, *GRID, "--seed=1,2")
    second = main("--config", str(first / "config.yaml"))
    assert first != second and table(first) == table(second)
    assert {row["seed"] for row in table(first)} == {"1", "2"}


@pytest.mark.slow
def test_lists_in_a_config_are_the_flags_commas(workdir: Path) -> None:
    settings = {"lr": [0.01, "0.3x"], "momentum": [0, 0.9], "schedule": ["cosine", "constant"]}
    Path("my.yaml").write_text(yaml.safe_dump({"model": settings, "seed": [1, 2]}), encoding="utf-8")
    words = ["--model.lr=0.01,0.3x", "--model.momentum=0, 0.9", "--model.schedule=cosine,constant", "--seed=1,2"]
    flags = main(*FLAGS, *words)
    config = main("--config=my.yaml", *FLAGS)
    lists = main(*FLAGS, *words[:1], "--model.momentum=[0,0.9]", *words[2:3], "--seed=[1,2]")
    assert len({flags, config, lists}) == 3 and len(table(flags)) == 16
    assert table(config) == table(flags) == table(lists)


def test_the_end_of_a_range_is_said() -> None:
    def rows(*rates: float) -> list[dict[str, Any]]:
        return [{"model.lr": lr, "model.schedule": "cosine", "val/loss": 1.0, "val/accuracy": 0.5} for lr in rates]

    assert sweeps._edge(rows(0.1, 0.2, 0.3), 1) is None
    assert "0.3 is the largest that was tried: try larger ones" in sweeps._edge(rows(0.1, 0.2, 0.3), 2)
    assert "0.1 is the smallest" in sweeps._edge(rows(0.1, 0.2, 0.3), 0)
    assert sweeps._edge(rows(0.0, 0.1), 0) is None  # there is nothing below 0
    assert sweeps._edge(rows(0.1, 0.1), 0) is None  # one value is no range


def test_groups_change_nothing(workdir: Path, monkeypatch: Patch, capsys: Capsys) -> None:
    whole = main(*FLAGS, *GRID)
    monkeypatch.setattr(sweeps, "GROUP", 3 * 8 * 7840)
    monkeypatch.setattr(sweeps, "LARGE", 1)
    parts = main(*FLAGS, *GRID)
    assert "settings take 0.0 GB, in 2 groups, one after the other" in capsys.readouterr().out
    assert len(list((parts / "checkpoints").iterdir())) == 2
    expected, found = trained(whole), trained(parts)
    for index in range(4):
        assert_alike(found[index][0], expected[index][0])


KILLED = [*FLAGS, *GRID, "--seed=0,1"]


MOMENTS: dict[str, tuple[object, str, Callable[..., object] | None, int]] = {
    "first save": (Saver, "save", Saver.save, 1),
    "third save": (Saver, "save", Saver.save, 3),
    "second group": (Saver, "save", Saver.save, 5),
    "before validation": (heads.Heads, "on_validation_epoch_end", None, 1),
    "before the test": (Experiment, "end", None, 1),
    "before results": (sweeps, "_write", None, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_no_trace(workdir: Path, monkeypatch: Patch, moment: str) -> None:
    monkeypatch.setattr(sweeps, "SAVE_EVERY", 100)
    expected = outcome(main(*KILLED))
    owner, name, first, call = MOMENTS[moment]
    with killed_in(owner, name, first, call):
        pytest.fail(f"outlived it: {main(*KILLED)}")
    folder = main("--resume=last")
    assert folder.name == "sweep_1"
    assert outcome(folder) == expected


@pytest.mark.slow
def test_death_after_any_save_leaves_no_trace(workdir: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(sweeps, "SAVE_EVERY", 100)
    monkeypatch.setattr(sweeps, "GROUP", 4 * 8 * 7840)  # two groups
    expected = outcome(main(*KILLED))
    for deaths in itertools.count():
        finished = False
        with killed_in(AtomicCheckpointIO, "save_checkpoint", AtomicCheckpointIO.save_checkpoint, deaths + 1):
            main(*KILLED)
            finished = True
        if finished:
            break
        assert outcome(main("--resume=last")) == expected, f"died at save {deaths + 1}"
    assert deaths >= 2 * 4  # at least three saves and that of the results, of each group


@pytest.mark.slow
@pytest.mark.parametrize("signum", INTERRUPTED)
def test_an_interrupt_saves_first_and_the_same_call_resumes(
    workdir: Path, monkeypatch: Patch, capsys: Capsys, signum: signal.Signals
) -> None:
    monkeypatch.setattr(sweeps, "SAVE_EVERY", 50)
    swept: dict[str, Any] = {"lr": [0.003, 1e6, "0.5x"], "seed": [0, 1]}
    expected = outcome(sweep(small(), **swept, **SHORT).path)
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    with signalled_in(heads.Heads, 1, signum), pytest.raises(INTERRUPTED[signum]):
        sweep(small(), **swept, **SHORT)
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before
    folder = sweeps.find("last")
    state = torch.load(folder / "checkpoints" / "group_0.ckpt", weights_only=True)
    assert 50 <= state["global_step"] < 270 and not (folder / "results.json").exists()
    assert f"Resume with: sweep(data, resume={str(folder)!r})" in capsys.readouterr().out
    with pytest.raises(InputError, match="is not finished; resume it first"):
        sweeps.promote("last", 0)
    found = sweep(small(), **swept, resume="last", **SHORT)
    assert found.path == folder and outcome(folder) == expected
    same = sweep(small(), **swept, resume=str(folder), **SHORT)
    assert str(same.settings) == str(found.settings) and same.results == found.results  # as text: NaN is not NaN
    assert torch.equal(same.best.model.linear.weight, found.best.model.linear.weight)


def test_all_groups_of_a_resumed_sweep_are_equally_long_or_it_is_refused(workdir: Path, monkeypatch: Patch) -> None:
    with killed_in(sweeps._Trainings, "train", sweeps._Trainings.train):
        pytest.fail(f"outlived it: {main(*KILLED)}")
    with contextlib.suppress(SystemExit):
        main("--resume=last", "--max_epochs=4")
    files = (sweeps.find("last") / "checkpoints").glob("group_*.ckpt")
    assert len({torch.load(file, weights_only=True)["global_step"] for file in files}) == 1


def test_a_finished_sweep_is_resumed_to_nothing_and_others_are_refused(workdir: Path, capsys: Capsys) -> None:
    folder = main(*FLAGS, *GRID)
    before = contents(folder)
    assert main("--resume=last") == folder and contents(folder) == before
    assert f"{folder} is finished: 4 settings" in capsys.readouterr().out
    refused(["--resume=last", "--model.lr=0.5"], "contradicts", capsys, sweeps.main)
    if sys.platform != "win32":  # where the lock is another one
        with locked(folder, wait=False):
            refused(["--resume=last"], "is being trained by another process", capsys, sweeps.main)
            refused(["--promote", "0", str(folder)], "is being trained by another process", capsys, sweeps.main)
    shutil.rmtree(newest())
    with contextlib.suppress(SystemExit):  # or a sentence
        assert main("--resume=last") == folder


def test_tensorboard_gets_a_row_a_setting_and_a_picture(workdir: Path) -> None:
    folder = main(*FLAGS[:-1], "--pictures=true", *GRID)
    for index, row in enumerate(table(folder)):
        events = events_of(folder / str(index))
        plugin = events.PluginTagToContent("hparams")
        start = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info
        shown = {name: value.number_value for name, value in start.hparams.items()}
        assert {name: shown[name] for name in ("model.lr", "model.momentum")} == {
            name: float(row[name]) for name in ("model.lr", "model.momentum")
        }
        for metric in ("val/accuracy", "val/loss"):
            [point] = events.Scalars(metric)
            assert point.step == 270 and point.value == pytest.approx(float(row[metric]), rel=EPS)
    events = events_of(folder)
    assert events.Tags()["images"] == ["sweep/accuracy"]


def test_the_picture_shows_what_mattered_most() -> None:
    rows = [
        {"model.lr": lr, "model.momentum": m, "seed": s, "val/loss": 1.0, "val/accuracy": 0.5 + lr + m / 100}
        for lr in (0.1, 0.2, 0.3)
        for m in (0.0, 0.9)
        for s in (0, 1)
    ]
    figure = figures.swept(rows)
    assert figure is not None
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("model.lr", "model.momentum")
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert shown == {f"{row['val/accuracy']:.3f}" for row in rows}
    curve = figures.swept([{**row, "model.momentum": 0.0, "seed": 0} for row in rows])
    assert curve is not None and curve.axes[0].get_ylabel() == "val/accuracy"
    assert figures.swept([{"val/loss": 1.0, "val/accuracy": 0.5}]) is None
    assert figures.swept([{**row, "val/accuracy": math.nan} for row in rows]) is None


def test_the_picture_of_random_values_has_a_point_for_each() -> None:
    rows = [{"model.lr": 1e-3 * 1.1**k, "val/loss": 1.0, "val/accuracy": k / 100} for k in range(60)]
    rows[3]["val/accuracy"] = math.nan
    figure = figures.swept(rows)
    assert figure is not None and figure.axes[0].get_xscale() == "log"
    [line] = figure.axes[0].lines
    x, y = (np.asarray(values) for values in line.get_data())
    assert x == pytest.approx([row["model.lr"] for row in rows])
    assert y == pytest.approx([row["val/accuracy"] for row in rows], nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", documented("sweep.py"))
def test_documented_sweeps_run(workdir: Path, command: str) -> None:
    write_pictures(Path("pets"), 12)
    if "--resume" in command or "--promote" in command:
        lr = ",".join(str(k / 100) for k in range(1, 19))
        main("--data.dataset=mnist", "--max_epochs=1", f"--model.lr={lr}", "--pictures=false")
        main(*shlex.split(command))
        return
    where = [] if "--data.dataset" in command else ["--data.dataset=mnist"]
    folder = main(*shlex.split(command), *where, "--max_epochs=1", "--pictures=false")
    assert (folder / "results.json").is_file()


@pytest.mark.slow
def test_two_processes_sweep_as_one_does(workdir: Path) -> None:
    one = main(*FLAGS, *GRID, "--seed=0,1", "--accelerator=cpu")
    run_script("sweep", *FLAGS, *GRID, "--seed=0,1", "--accelerator=cpu", "--devices=2")
    two = sweeps.find("last")
    assert two != one
    expected, found = trained(one), trained(two)
    for index in range(8):
        assert_alike(found[index][0], expected[index][0])
    for mine, other in zip(table(two), table(one), strict=True):
        assert float(mine["val/loss"]) == pytest.approx(float(other["val/loss"]), **LOSS)
    assert len(list(Path("lightning_logs").glob("version_*"))) == 2
