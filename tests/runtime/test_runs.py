"""What happens to a run's folder between two commands: edited, damaged, deleted, moved, or not to be read."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import math
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml
from conftest import (
    Capsys,
    Patch,
    config_of,
    contents,
    fit,
    killed_in,
    newest,
    outcome,
    refused,
    results_of,
    said_by,
    signalled_in,
)

import logreg_lightning
from logreg_lightning import InputError, LogisticRegression
from logreg_lightning.fit import main
from logreg_lightning.runtime import runs
from logreg_lightning.runtime.saver import Saver
from logreg_lightning.sweep import main as sweep
from logreg_lightning.use import evaluate, export, predict

QUICK = ["--data.dataset=digits", "--max_epochs=1", "--pictures=false"]


def edited(run: Path, name: str, value: object) -> None:
    config = config_of(run)
    *section, key = name.split(".")
    (config[section[0]] if section else config)[key] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


EDITED: dict[str, object] = {
    "model.lr": 0.01,
    "model.momentum": 0.5,
    "model.standardize": False,
    "model.class_weight": "balanced",
    "seed": 3,
    "precision": "64-true",
    "val_check_interval": 50,
    "data.batch_size": 7,
    "data.val_seed": 3,
    "data.features": "efficientnet-lite0",
}


def test_a_setting_that_was_edited_is_refused_by_name(run: Path, capsys: Capsys) -> None:
    """Not what is written there is trained on, but what the checkpoint holds."""
    whole = (run / "config.yaml").read_bytes()
    for name, value in EDITED.items():
        before = runs.flat(config_of(run))[name]
        edited(run, name, value)
        says = f"--{name} is {value!r} in {run / 'config.yaml'}, and last.ckpt was trained with {before!r}"
        refused(["--resume=last", "--max_epochs=3"], says, capsys)
        with pytest.raises(InputError, match=f"`{name.rpartition('.')[2]}` is .*a resumed run goes on as it was begun"):
            logreg_lightning.fit("mnist", resume="last", max_epochs=3)
        (run / "config.yaml").write_bytes(whole)
    edited(run, "max_epochs", 3)  # which is how to train longer
    assert fit("--resume=last") == run and outcome(run)["results"]["epochs"] == 3  # type: ignore[index]


def test_settings_edited_before_the_first_save_are_those_of_the_run(workdir: Path) -> None:
    expected = outcome(fit(*QUICK, "--model.lr=0.3", "--model.weight_decay=0"))
    with killed_in(Saver, "save"):
        fit(*QUICK, "--model.lr=0.01", "--model.weight_decay=0")
    run = Path("lightning_logs/version_1")
    edited(run, "model.lr", 0.3)
    fit("--resume=last")
    assert outcome(run) == expected


def test_a_sweeps_settings_that_were_edited_are_refused(workdir: Path, capsys: Capsys) -> None:
    with killed_in(Saver, "save", Saver.save, 2):
        sweep([*QUICK, "--model.lr=0.1,0.2", "--seed=0,1"])
    folder = Path("lightning_logs/sweep_0")
    whole = (folder / "config.yaml").read_bytes()
    for name, value in (("model.lr", [0.1, 0.3]), ("model.momentum", [0.5]), ("seed", [1, 2]), ("data.val_size", 0.2)):
        edited(folder, name, value)
        refused(["--resume=last"], f"--{name} is {value!r} in {folder / 'config.yaml'}, and group_0", capsys, sweep)
        (folder / "config.yaml").write_bytes(whole)
    sweep(["--resume=last"])


@pytest.mark.parametrize(
    "section", ["model:\n  # lr: 0.1\n\n  # momentum: 0.5", "model: # none", "model: null", "model: {}"]
)
def test_a_section_without_settings_has_the_defaults(workdir: Path, section: str) -> None:
    Path("my.yaml").write_text(f"{section}\nmax_epochs: 1\ndata:\n  dataset: digits\n", encoding="utf-8")
    run = fit("--config=my.yaml")
    assert outcome(run) == outcome(fit(*QUICK))
    config = re.sub(r"^model:\n(  .*\n)+", section + "\n", (run / "config.yaml").read_text("utf-8"), flags=re.M)
    (run / "config.yaml").write_text(config, encoding="utf-8")
    assert "lr" not in (yaml.safe_load(config)["model"] or {})
    fit("--resume", str(run), "--max_epochs=2")
    assert outcome(run)["results"]["epochs"] == 2  # type: ignore[index]


def test_an_interrupt_that_the_starter_ignores_stays_ignored(workdir: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit.py", *QUICK])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and a shell's background jobs do
    try:
        with signalled_in(LogisticRegression, 0, signal.SIGINT):
            main()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert (Path("lightning_logs/version_0") / "results.json").is_file()


@pytest.mark.parametrize("taken_by", ["nothing", "a run", "an empty folder", "a run without an id"])
def test_a_winner_that_was_deleted_is_not_the_run_that_took_its_number(
    workdir: Path, capsys: Capsys, taken_by: str
) -> None:
    settings: dict[str, Any] = {"lr": [0.1, 1e-5], "max_epochs": 1, "pictures": False}
    first = logreg_lightning.sweep("digits", **settings)
    expected = outcome(first.best.path)
    shutil.rmtree(first.best.path)
    if taken_by == "an empty folder":
        first.best.path.mkdir()
    elif taken_by != "nothing":
        other = fit(*QUICK, "--model.lr=1e-6")
        assert other == first.best.path
        if taken_by == "a run without an id":
            (other / "trained_on.npz").unlink()
    capsys.readouterr()
    again = logreg_lightning.sweep("digits", resume=str(first.path), **settings)
    assert "The run that setting 0 had become is gone: it is made again" in capsys.readouterr().out
    assert again.results["best"]["run"] == str(again.best.path)
    assert (again.best.path == first.best.path) == (taken_by == "nothing")
    assert outcome(again.best.path) == expected
    third = logreg_lightning.sweep("digits", resume=str(first.path), **settings)
    assert third.best.path == again.best.path and "is finished: 2 settings" in capsys.readouterr().out


def test_a_sweep_that_was_moved_with_its_runs_finds_its_winner(workdir: Path) -> None:
    sweep([*QUICK, "--model.lr=0.1,0.2", "--log_dir=here"])
    Path("here").rename("there")
    before = contents(workdir)
    again = logreg_lightning.sweep("digits", lr=[0.1, 0.2], max_epochs=1, pictures=False, resume="there/last")
    assert again.best.path == Path("there/version_0") and again.results["best"]["run"] == str(again.best.path)
    assert contents(workdir) == before


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "no UTF-8": lambda content: b"\xff\xfe" + content,
    "another type": lambda content: b"[1, 2]",
    "a text": lambda content: b"hello: [",
    "nested": lambda content: b"[" * 100_000,
    "nothing": lambda content: b"null",
}


def results_and_weights(run: Path) -> list[object]:
    found = outcome(run)
    return [found["results"], found["last.ckpt"]]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_results_are_made_again(workdir: Path, capsys: Capsys, damage: str) -> None:
    found = logreg_lightning.sweep("digits", lr=[0.1, 0.2], max_epochs=1, pictures=False)
    of_run, of_sweep = found.best.path / "results.json", found.path / "results.json"
    table, noted = found.path / "results.csv", found.path / "promoted.json"
    expected, rows = results_and_weights(found.best.path), table.read_bytes()
    for file in (of_run, of_sweep, table):
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
        if file is of_run:
            fit("--resume", str(found.best.path))
        else:
            refused(["--promote", "1", str(found.path)], "", capsys, sweep)
            sweep(["--resume", str(found.path)])
        assert results_and_weights(found.best.path) == expected and table.read_bytes() == rows
        assert results_of(found.path)["best"]["run"] == str(found.best.path)
    noted.write_bytes(DAMAGE[damage](noted.read_bytes()))
    printed = said_by(sweep, ["--resume", found.path], capsys)
    assert f"{noted} is damaged: which run setting {results_of(found.path)['best']['index']} had become" in printed
    assert "is damaged" not in said_by(sweep, ["--resume", found.path], capsys)
    assert results_and_weights(newest()) == expected


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_settings_get_one_sentence(run: Path, capsys: Capsys, damage: str) -> None:
    for name in ("config.yaml", "trained_on.npz"):
        file = run / name
        whole = file.read_bytes()
        file.write_bytes(DAMAGE[damage](whole))
        if (name, damage) != ("config.yaml", "nothing"):
            refused(["--resume=last", "--max_epochs=3"], name, capsys)
        if name == "config.yaml":
            with pytest.raises(InputError, match=r"config\.yaml"):
                logreg_lightning.fit("mnist", resume="last", max_epochs=3)
        refused(["last"], name, capsys, evaluate.main)
        file.write_bytes(whole)


ODD: list[Any] = [None, True, "much", [1], {"a": 1}, -1, 1e300, math.nan, "2026-01-01", datetime.date(2026, 1, 1)]


@pytest.mark.slow
def test_settings_of_odd_types_get_one_sentence(run: Path, capsys: Capsys) -> None:
    config = config_of(run)
    for name, (number, value) in itertools.product(runs.flat(config), enumerate(ODD)):
        edited(run, name, value)
        with contextlib.suppress(InputError, SystemExit):
            if number % 2:
                main(["--resume=last"])
            else:
                logreg_lightning.fit("mnist", resume="last", max_epochs=2)
        assert "Traceback" not in capsys.readouterr().err
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def test_json_has_no_nan(tmp_path: Path) -> None:
    values = {"a": math.nan, "b": [math.inf, 1.5, (-math.inf, "NaN")], "c": {"d": np.float64("nan")}}
    runs.write_results(tmp_path, {**values, "steps": 1})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads((tmp_path / "results.json").read_text("utf-8"), parse_constant=refuse)
    assert found == {"a": None, "b": [None, 1.5, [None, "NaN"]], "c": {"d": None}, "steps": 1}


DENIED: dict[str, tuple[str, int]] = {
    "the parent folder": (".", 0),
    "the parent folder's list": (".", 0o300),
    "the run": ("version_0", 0),
    "its checkpoints": ("version_0/checkpoints", 0),
    "its checkpoint": ("version_0/checkpoints/last.ckpt", 0),
    "its settings": ("version_0/config.yaml", 0),
    "its results": ("version_0/results.json", 0),
    "what it was trained on": ("version_0/trained_on.npz", 0),
    "the run, to be written": ("version_0", 0o500),
    "its checkpoints, to be written": ("version_0/checkpoints", 0o500),
}
USES: list[tuple[Callable[[list[str]], None], list[str]]] = [
    (main, ["--resume=lightning_logs/last"]),
    (main, ["--resume=lightning_logs/version_0", "--max_epochs=3"]),
    (main, ["--data.dataset=mnist", "--max_epochs=1"]),
    (sweep, ["--resume=lightning_logs/last"]),
    (evaluate.main, ["lightning_logs/version_0"]),
    (predict.main, ["lightning_logs/last", "one.png"]),
    (export.main, ["lightning_logs/version_0", "lightning_logs/version_0/page.html"]),
    (export.main, ["lightning_logs/version_0/checkpoints/last.ckpt", "model.onnx"]),
]


@pytest.mark.parametrize("denied", DENIED)
def test_what_may_not_be_read_or_written_is_named(
    run: Path, capsys: Capsys, request: pytest.FixtureRequest, denied: str
) -> None:
    PIL.Image.new("L", (28, 28)).save("one.png")
    request.getfixturevalue("as_nobody")
    name, mode = DENIED[denied]
    place = run.parent / name
    before, refusals = place.stat().st_mode, 0
    for command, words in USES:
        place.chmod(mode)
        try:
            command(words)
        except SystemExit as ended:
            [line] = capsys.readouterr().err.splitlines()
            assert ended.code in (1, 2) and ("Permission denied" in line or "no sweep found" in line), (words, line)
            refusals += "Permission denied" in line
        finally:
            place.chmod(before)
    assert refusals
    assert not list(run.rglob("*.partial"))
