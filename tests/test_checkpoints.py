"""A run that dies right after a save, wherever that was, ends as if it had not died."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from conftest import curves, fit, state

from logreg_lightning.checkpoints import Saver, WholeFiles

EPOCHS = ["--data.dataset=mnist", "--data.batch_size=4", "--max_epochs=2"]  # 135 steps an epoch
INTERVAL = [*EPOCHS, "--data.val_size=0", "--val_check_interval=50"]  # 150 steps an epoch


def die_at_save(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    save, count = Saver._save, 0

    def save_then_die(self: Saver, trainer: object, name: str) -> None:
        nonlocal count
        save(self, trainer, name)  # type: ignore[arg-type]
        count += 1
        if count == number:
            raise SystemExit("killed")

    monkeypatch.setattr(Saver, "_save", save_then_die)


@pytest.mark.parametrize("flags", [EPOCHS, INTERVAL], ids=["epochs", "interval"])
def test_death_after_any_save_leaves_no_trace(workdir: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    whole = fit(*flags)
    expected = curves(whole)
    steps = [step for step, _ in expected["train/loss"]]
    assert steps == sorted(set(steps))
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 50
    saves = 0
    while True:
        saves += 1
        with monkeypatch.context() as patch:
            die_at_save(patch, saves)
            try:
                run = fit(*flags)
            except SystemExit:
                pass
            else:
                break
        run = fit("--resume", "last")
        assert curves(run) == expected, f"died at save {saves}"
        assert state(run) == state(whole), f"died at save {saves}"
        assert state(run, "best.ckpt") == state(whole, "best.ckpt"), f"died at save {saves}"
    assert saves == 8  # seven saves: died after each, and the run that outlived them all


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("--max_epochs=2", "--max_epochs=4"),
        ("--max_steps=100", "--max_steps=350"),
        ("--max_steps=270", "--max_steps=540"),
    ],
)
def test_a_run_that_grew_equals_a_long_one(workdir: Path, first: str, then: str) -> None:
    flags = ["--data.dataset=mnist", "--data.batch_size=4", "--model.schedule=constant"]
    whole = fit(*flags, then)
    fit(*flags, first)
    run = fit("--resume", "last", then)
    assert state(run) == state(whole)
    for tag in ("val/accuracy", "val/loss", "train/loss", "train/accuracy"):
        assert curves(run)[tag] == curves(whole)[tag]


def test_a_failed_write_leaves_the_last_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"step": 1}, target)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        WholeFiles().save_checkpoint({"step": 2}, target)
    assert torch.load(target, weights_only=True)["step"] == 1
    assert list(tmp_path.iterdir()) == [target]
