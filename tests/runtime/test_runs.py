"""What happens to a run's folder between two commands: edited, damaged, deleted, moved, or not to be read."""

from __future__ import annotations

import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import yaml
from conftest import Capsys, Patch, config_of, fit, killed_in, outcome, refused, signalled_in

import logreg_lightning
from logreg_lightning import InputError, LogisticRegression
from logreg_lightning.fit import main
from logreg_lightning.runtime import runs
from logreg_lightning.runtime.saver import Saver
from logreg_lightning.sweep import main as sweep

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
