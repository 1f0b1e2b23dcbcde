"""A sweep trains each setting as a run of its own would, chooses by validation, and survives what a run survives."""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import contents, state, write_pictures
from torch import Tensor

from logreg_lightning import ImageDataModule, LogisticRegression, evaluate, figures, fit, heads, sweep
from logreg_lightning.errors import RunError
from logreg_lightning.fit import main as fit_main
from logreg_lightning.heads import HeadsSaver, winner
from logreg_lightning.runtime.checkpoints import Saver

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


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def outcome(folder: Path, here: Path = Path()) -> dict[str, Any]:
    """All that a sweep, trained in the folder `here`, leaves which has to do with what was trained, exactly."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    run = here / results["best"].pop("run")  # a kill right after it was made leaves it empty, and takes the next number
    for name in ("fit_seconds", "command"):
        results.pop(name)
    of_run = json.loads((run / "results.json").read_text(encoding="utf-8"))
    tested = {name: value for name, value in of_run.items() if name.startswith(("test/", "val/", "train/"))}
    weights = {index: [part.tolist() for part in parts[:2]] for index, parts in trained(folder).items()}
    return {"results": results, "table": table(folder), "weights": weights, "run": state(run), "tested": tested}


@pytest.mark.parametrize(
    ("swept", "more"),
    [
        ({"lr": [0.003, 0.02]}, {}),
        ({"lr": ["0.3x", "auto"]}, {}),
        ({"momentum": [0.0, 0.5, 0.9]}, {"lr": 0.02}),
        ({"weight_decay": [0.0, 0.01, "10x"]}, {"lr": 0.02}),
        ({"schedule": ["constant", "cosine"]}, {"lr": 0.005}),
        ({"seed": [0, 3]}, {"lr": 0.02}),
        ({"lr": [0.003, 0.02]}, {"standardize": False}),
        ({"weight_decay": [0.0, 0.1]}, {"lr": 0.02, "class_weight": "balanced"}),
        ({"lr": [0.003, 0.02]}, {"precision": "64-true"}),
        ({"momentum": [0.0, 0.9]}, {"lr": 0.02, "max_steps": 100, "val_check_interval": 50}),
    ],
)
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
            assert float((mine - other).norm() / other.norm()) < 1e-5
        assert temperature == alone.results["temperature"]
        for metric in ("val/loss", "val/accuracy"):
            assert row[metric] == pytest.approx(alone.results[metric], rel=1e-5)
    if name == "lr" and "auto" in values:
        assert found.settings[0]["model.lr"] == pytest.approx(0.3 * found.settings[1]["model.lr"], rel=5e-3)


@pytest.mark.parametrize("kind", ["features", "pictures"])
def test_features_are_swept_like_pixels(workdir: Path, kind: str) -> None:
    if kind == "features":
        rng = np.random.default_rng(0)
        Path("mine").mkdir()
        for split, count in (("train", 80), ("test", 20)):
            labels = np.arange(count) % 2
            np.save(f"mine/{split}_labels.npy", labels)
            values = rng.normal(size=(count, 6)) + 3 * labels[:, None]
            np.save(f"mine/{split}_features.npy", values.astype(np.float16))
        data = ImageDataModule("mine")
    else:
        write_pictures(Path("pets"), 12)
        data = ImageDataModule("pets", features="efficientnet-lite0")
    found = sweep(data, lr=["1x", "0.1x"], **SHORT)
    assert found.best.results["test/accuracy"] >= 0.75
    alone = fit(data, lr=found.settings[1]["model.lr"], **SHORT)
    weight = trained(found.path)[1][0]
    assert float((weight - alone.model.linear.weight).norm() / weight.norm()) < 1e-5


def test_one_that_diverges_is_marked_and_touches_no_other(workdir: Path) -> None:
    alone = sweep(small(), lr=[0.01, 0.02], weight_decay=0.1, momentum=0.0, **SHORT)
    found = sweep(small(), lr=[0.01, 1e6, 0.02], weight_decay=0.1, momentum=0.0, **SHORT)
    assert [math.isnan(row["val/loss"]) for row in found.settings] == [False, True, False]
    assert table(found.path)[1]["val/accuracy"] == "nan" and found.results["diverged"] == [1]
    weights, others = trained(found.path), trained(alone.path)
    for mine, other in ((0, 0), (2, 1)):
        torch.testing.assert_close(weights[mine][0], others[other][0], atol=1e-6, rtol=1e-6)
    with pytest.raises(RunError, match="all settings diverged"):
        sweep(small(), lr=[1e6, 1e7], weight_decay=0.1, momentum=0.0, **SHORT)


def test_the_winner_is_the_most_accurate_then_the_surest_then_the_first() -> None:
    nan = math.nan
    assert winner([0.5, 0.9, 0.9, 0.9], [0.1, 0.3, 0.2, 0.2]) == 2
    assert winner([nan, 0.1], [nan, 5.0]) == 1
    assert winner([nan, nan], [nan, nan]) is None


def test_it_leaves_a_table_and_a_run_that_every_command_takes(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = main(*FLAGS, *GRID, "--model.schedule=constant", "--model.weight_decay=0.001")
    printed = capsys.readouterr().out
    rows = table(folder)
    assert list(rows[0]) == ["index", "model.lr", "model.momentum", "val/loss", "val/accuracy"]
    assert [(row["index"], row["model.lr"], row["model.momentum"]) for row in rows] == [
        ("0", "0.01", "0.0"), ("1", "0.01", "0.9"), ("2", "0.02", "0.0"), ("3", "0.02", "0.9"),
    ]  # fmt: skip
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    best = results["best"]["index"]
    assert best == min(range(4), key=lambda k: (-float(rows[k]["val/accuracy"]), float(rows[k]["val/loss"]), k))
    assert results["settings"] == 4 and results["fit_seconds"] > 0
    assert "test/accuracy" not in str(results) and len(list(Path("lightning_logs").glob("version_*"))) == 1
    run = Path(results["best"]["run"])
    of_run = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert of_run["val/loss"] == pytest.approx(float(rows[best]["val/loss"])) and of_run["test/accuracy"] > 0
    assert f"Best:               {best}, a run of its own in {run}" in printed

    evaluate.main([str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(of_run["test/accuracy"])
    assert LogisticRegression.load(run).predict(torch.zeros(1, 28, 28, dtype=torch.uint8))
    fit_main(["--resume", str(run), "--max_epochs=4"])
    setting: dict[str, Any] = {"lr": float(rows[best]["model.lr"]), "momentum": float(rows[best]["model.momentum"])}
    longer = fit(small(), **setting, schedule="constant", weight_decay=0.001, max_epochs=4, pictures=False)
    mine, other = LogisticRegression.load(run).linear.weight, longer.model.linear.weight
    assert float((mine - other).norm() / other.norm()) < 1e-5


def test_another_setting_is_taken_once(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = main(*FLAGS, *GRID, "--model.weight_decay=0,1")
    best = json.loads((folder / "results.json").read_text(encoding="utf-8"))["best"]["index"]
    other = (best + 3) % 8
    main("--take", str(other), str(folder))
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
        refused(["--take", *words], said, capsys)


def refused(flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(Path())
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        sweeps.main(flags)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0], lines
    assert contents(Path()) == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--model.lr abc", "--model.lr abc must be numbers, auto or a factor of it as in 3x"),
        ("--model.lr 0.1,,0.2", "must be numbers"),
        ("--model.lr=-1,0.1", "--model.lr must be auto or a positive number, not -1"),
        ("--model.momentum 0,1", "--model.momentum must be from 0 to below 1"),
        ("--model.schedule cosine,linear", "--model.schedule must be constant or cosine"),
        ("--seed 0,x", "must be whole numbers"),
        ("--seed -1", "--seed must be from 0"),
        ("--model.lr 0.1..1", "say with --random how many"),
        ("--random 5 --model.lr 1..0.1", "must be a range of two numbers, the smaller one first"),
        ("--random 5 --model.lr 0.1..1,2", "mixes a range with values"),
        ("--random 0 --model.lr 0.1..1", "--random must be at least 1"),
        ("--data.val_size 0", "leaves no validation images, by which a sweep chooses"),
        ("--model.standardze false", "did you mean --model.standardize?"),
        ("--resume last", "no sweep found at last; sweeps here: none yet"),
        ("--data.dataset cats", "--data.dataset cats is not known"),
    ],
)
def test_wrong_values_get_one_sentence(
    workdir: Path, capsys: pytest.CaptureFixture[str], flags: str, named: str
) -> None:
    refused(["--data.dataset=mnist", *shlex.split(flags)], named, capsys)


def test_random_settings_are_drawn_from_their_ranges_the_same_each_time(workdir: Path) -> None:
    flags = [
        *FLAGS,
        "--random=6",
        "--model.lr=1e-3..1e-1",
        "--model.momentum=0..0.9",
        "--model.schedule=cosine,constant",
    ]
    first, second = main(*flags), main(*flags)
    assert first != second and table(first) == table(second)
    drawn = [(float(row["model.lr"]), float(row["model.momentum"])) for row in table(first)]
    assert len(set(drawn)) == 6
    assert all(1e-3 <= lr <= 1e-1 and 0 <= momentum <= 0.9 for lr, momentum in drawn)


def test_a_sweeps_config_repeats_it(workdir: Path) -> None:
    first = main(*FLAGS, *GRID, "--seed=1,2")
    second = main("--config", str(first / "config.yaml"))
    assert first != second and table(first) == table(second)
    assert {row["seed"] for row in table(first)} == {"1", "2"}


def test_the_end_of_a_range_is_said() -> None:
    def rows(*rates: float) -> list[dict[str, Any]]:
        return [{"model.lr": lr, "model.schedule": "cosine", "val/loss": 1.0, "val/accuracy": 0.5} for lr in rates]

    assert sweeps._edge(rows(0.1, 0.2, 0.3), 1) is None
    assert "0.3 is the largest that was tried: try larger ones" in sweeps._edge(rows(0.1, 0.2, 0.3), 2)
    assert "0.1 is the smallest" in sweeps._edge(rows(0.1, 0.2, 0.3), 0)
    assert sweeps._edge(rows(0.0, 0.1), 0) is None  # there is nothing below 0


def test_groups_change_nothing(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = main(*FLAGS, *GRID)
    monkeypatch.setattr(sweeps, "GROUP", 3 * 8 * 7840)
    monkeypatch.setattr(sweeps, "LARGE", 1)
    parts = main(*FLAGS, *GRID)
    assert "settings take 0.0 GB, in 2 groups, one after the other" in capsys.readouterr().out
    assert len(list((parts / "checkpoints").iterdir())) == 2
    expected, found = trained(whole), trained(parts)
    for index in range(4):
        torch.testing.assert_close(found[index][0], expected[index][0], atol=1e-6, rtol=1e-5)


KILLED = [*FLAGS, *GRID, "--seed=0,1"]


@pytest.mark.parametrize("moment", ["first save", "third save", "second group", "before validation", "before the test"])
def test_a_kill_leaves_no_trace(workdir: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setattr(heads, "SAVE_EVERY", 100)
    expected = outcome(main(*KILLED))
    dead = SystemExit("killed")
    with monkeypatch.context() as patch:
        if moment == "before validation":
            patch.setattr(heads.Heads, "on_validation_epoch_end", lambda *_: (_ for _ in ()).throw(dead))
        elif moment == "before the test":
            patch.setattr(sweeps, "fit", lambda *_, **__: (_ for _ in ()).throw(dead))
        else:
            save, left = Saver._save, {"first save": 1, "third save": 3, "second group": 5}[moment]

            def save_then_die(self: HeadsSaver, trainer: Any, name: str) -> None:
                nonlocal left
                save(self, trainer, name)
                left -= 1
                if not left:
                    raise dead

            patch.setattr(Saver, "_save", save_then_die)
        with pytest.raises(SystemExit, match="killed"):
            main(*KILLED)
    folder = main("--resume=last")
    assert folder.name == "sweep_1"
    assert outcome(folder) == expected


def test_a_finished_sweep_is_resumed_to_nothing_and_others_are_refused(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = main(*FLAGS, *GRID)
    before = contents(folder)
    assert main("--resume=last") == folder and contents(folder) == before
    assert f"{folder} is finished: 4 settings" in capsys.readouterr().out
    refused(["--resume=last", "--model.lr=0.5"], "contradicts", capsys)


def test_tensorboard_gets_a_row_a_setting_and_a_picture(workdir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = main(*FLAGS[:-1], "--pictures=true", *GRID)
    for index, row in enumerate(table(folder)):
        events = EventAccumulator(str(folder / str(index)))
        events.Reload()
        assert "_hparams_/session_start_info" in events.Tags()["tensors"] or events.SummaryMetadata(
            "_hparams_/session_start_info"
        )
        assert events.Scalars("val/accuracy")[0].value == pytest.approx(float(row["val/accuracy"]))
    events = EventAccumulator(str(folder))
    events.Reload()
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


def commands() -> list[str]:
    """Every sweep in README.md, docs/tutorial.md, configs/probe.yaml and the script's docstring."""
    files = ("README.md", "docs/tutorial.md", "configs/probe.yaml", "scripts/sweep.py")
    texts = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    found = sorted(set(re.findall(r"^[# ]*python scripts/sweep\.py (.*)$", texts, re.M)))
    assert len(found) >= 6
    return found


@pytest.mark.parametrize("command", commands())
def test_documented_sweeps_run(workdir: Path, command: str) -> None:
    write_pictures(Path("pets"), 12)
    if "--resume" in command or "--take" in command:
        lr = ",".join(str(k / 100) for k in range(1, 19))
        main("--data.dataset=mnist", "--max_epochs=1", f"--model.lr={lr}", "--pictures=false")
        main(*shlex.split(command))
        return
    where = [] if "--data.dataset" in command else ["--data.dataset=mnist"]
    folder = main(*shlex.split(command), *where, "--max_epochs=1", "--pictures=false")
    assert (folder / "results.json").is_file()


@pytest.mark.slow
def test_two_processes_sweep_as_one_does(workdir: Path) -> None:
    import subprocess
    import sys

    one = main(*FLAGS, *GRID, "--seed=0,1")
    words = [sys.executable, str(ROOT / "scripts" / "sweep.py"), *FLAGS, *GRID, "--seed=0,1"]
    subprocess.run([*words, "--accelerator=cpu", "--devices=2"], check=True)
    two = sweeps.find("last")
    assert two != one
    expected, found = trained(one), trained(two)
    for index in range(8):
        torch.testing.assert_close(found[index][0], expected[index][0], atol=1e-6, rtol=1e-5)
    for mine, other in zip(table(two), table(one), strict=True):
        assert float(mine["val/loss"]) == pytest.approx(float(other["val/loss"]), rel=1e-5)
    assert len(list(Path("lightning_logs").glob("version_*"))) == 2
