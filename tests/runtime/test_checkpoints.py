"""A run that dies right after a save, wherever that was, ends as if it had not died."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import PIL.Image
import pytest
import torch
from conftest import (
    SCRIPTS,
    Capsys,
    Patch,
    contents,
    curves,
    fit,
    killed_in,
    newest,
    not_on_windows,
    outcome,
    refused,
    results_of,
    signalled_in,
    state,
    typed,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import tensorboard

from logreg_lightning.errors import InputError
from logreg_lightning.fit import main
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime import curves as curves_module
from logreg_lightning.runtime import runs
from logreg_lightning.runtime.checkpoints import FORMAT, read
from logreg_lightning.runtime.saver import AtomicCheckpointIO, Saver
from logreg_lightning.sweep import sweep
from logreg_lightning.use import evaluate, export, predict

EPOCHS = ["--data.dataset=mnist", "--data.batch_size=4", "--max_epochs=2"]  # 135 steps an epoch
INTERVAL = [*EPOCHS, "--data.val_size=0", "--val_check_interval=50"]  # 150 steps an epoch
CUT = [*INTERVAL, "--max_steps=250"]


def fit_until(save: int, *flags: str) -> bool:
    """Trains until right after that save; tells whether there was one."""
    with killed_in(Saver, "save", Saver.save, save):
        fit(*flags)
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("flags", [EPOCHS, INTERVAL, CUT], ids=["epochs", "interval", "cut"])
def test_death_after_any_save_leaves_no_trace(workdir: Path, flags: list[str]) -> None:
    whole = fit(*flags)
    expected = curves(whole)
    steps = [step for step, _ in expected["train/loss"]]
    assert steps == sorted(set(steps))
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 50
    saves = 1
    while fit_until(saves, *flags):
        assert outcome(fit("--resume", "last")) == outcome(whole), f"died at save {saves}"
        saves += 1
    assert saves == (7 if flags is CUT else 8)  # died after each, and the one that outlived them all


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        "--val_check_interval=60",  # neither curve points nor epochs end at each validation
        "--val_check_interval=60 --max_steps=450",
        "--val_check_interval=15 --data.steps_per_execution=3 --max_epochs=2",
        "--val_check_interval=200",
    ],
)
def test_a_second_death_leaves_no_trace_either(workdir: Path, more: str) -> None:
    flags = ["--data.dataset=mnist", "--data.batch_size=4", "--data.val_size=0", "--max_epochs=4", *more.split()]
    expected = outcome(fit(*flags))
    for first, second in ((3, 2), (3, 3), (4, 3)):
        assert fit_until(first, *flags) and fit_until(second, "--resume=last")
        assert outcome(fit("--resume=last")) == expected, f"died at save {first}, then at save {second}"


@pytest.mark.slow
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


def test_an_end_is_saved_where_an_epoch_ends_and_no_validation_is_due(workdir: Path) -> None:
    flags = ["--data.dataset=mnist", "--data.batch_size=4", "--model.schedule=constant", "--val_check_interval=60"]
    whole = state(fit(*flags, "--max_steps=675"))
    run = fit(*flags, "--max_steps=405")
    for steps in (405, 540, 675):
        run = fit("--resume", "last", f"--max_steps={steps}")
        assert read(run / "checkpoints" / "last.ckpt")["global_step"] == results_of(run)["steps"] == steps
    assert {**state(run), "loops": ""} == {**whole, "loops": ""}  # in which Lightning counts otherwise


def test_a_longer_cosine_is_entered_where_the_run_is(workdir: Path, capsys: Capsys) -> None:
    flags = ["--data.dataset=mnist", "--data.batch_size=4", "--model.lr=0.2"]
    long = curves(fit(*flags, "--max_epochs=4"))
    fit(*flags, "--max_epochs=2")
    capsys.readouterr()
    run = fit("--resume=last", "--max_epochs=4")
    assert "now ends at step 540: the learning rate continues at 0.1, after" in capsys.readouterr().out
    assert curves(run)["train/lr"][6:] == long["train/lr"][6:]  # the first two epochs' points are the short run's
    assert [step for step, _ in curves(run)["train/lr"]] == [step for step, _ in long["train/lr"]]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("flags", [EPOCHS, INTERVAL, [*EPOCHS, "--data.steps_per_execution=3"]])
def test_a_signal_at_any_call_saves_first(
    workdir: Path, monkeypatch: Patch, capsys: Capsys, flags: list[str], signum: int
) -> None:
    monkeypatch.setenv("PATH", str(workdir))  # where Python is not found by its name
    expected = outcome(fit(*flags))
    for call in (0, 1, 2):  # the third call ends an epoch, or a stretch between two validations
        with signalled_in(LogisticRegression, call, signum), pytest.raises(SystemExit, match=str(128 + signum)):
            fit(*flags)
        run = newest()
        resume = typed([sys.executable, "-m", "logreg_lightning", "fit", "--resume", str(run)])
        assert f"Resume with: {resume}" in capsys.readouterr().out
        assert not (run / "results.json").exists()
        fit("--resume=last")
        assert outcome(run) == expected


KILLED: dict[str, list[tuple[object, str, Callable[..., object] | None]]] = {
    "before its first save": [(Saver, "save", None)],
    "while hparams.yaml is written": [
        (module, "save_hparams_to_yaml", lambda file, _: Path(str(file)).write_text("batch_si", encoding="utf-8"))
        for module in (tensorboard, curves_module)
    ],
    "before its results": [(runs, "write_results", None)],
}


@pytest.mark.parametrize("when", KILLED)
def test_a_run_killed_early_or_late_goes_on(workdir: Path, when: str) -> None:
    expected = outcome(fit(*EPOCHS))
    with contextlib.ExitStack() as stack:
        for owner, name, first in KILLED[when]:
            stack.enter_context(killed_in(owner, name, first))
        fit(*EPOCHS)
    run = newest()
    assert not (run / "results.json").exists()
    assert (run / "checkpoints").exists() == (when == "before its results")
    fit("--resume=last")
    assert outcome(run) == expected
    assert len(curves(run)["test/accuracy"]) == 1 and not list(run.glob("*.partial"))


def test_going_on_from_an_older_checkpoint_survives_a_kill(workdir: Path) -> None:
    run = fit(*EPOCHS)
    assert fit_until(2, *EPOCHS)
    older = run / "checkpoints" / "older.ckpt"
    (newest() / "checkpoints" / "last.ckpt").rename(older)
    expected, whole = outcome(run), curves(run)
    with killed_in(Saver, "save"):
        fit("--resume", str(older))
    assert not (run / "results.json").exists()
    fit("--resume", str(run))
    # What came before, at step 100, is in the files of the run that wrote the older checkpoint.
    after = {tag: [point for point in points if point[0] > 100] for tag, points in whole.items()}
    assert {**outcome(run), "curves": after} == {**expected, "curves": after}
    assert curves(run) == after


@pytest.mark.slow
def test_same_seed_same_run(workdir: Path) -> None:
    first, second = outcome(fit(*EPOCHS, "--seed=4")), outcome(fit(*EPOCHS, "--seed=4"))
    assert first == second
    versions = cast(dict[str, Any], first["results"])["versions"]
    assert versions["torch"] == torch.__version__.partition("+")[0]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", versions["git_commit"])
    assert first != outcome(fit(*EPOCHS, "--seed=5"))


@pytest.mark.slow
@not_on_windows("no limit makes a file too large")
@pytest.mark.parametrize("kilobytes", [4, 40])  # the curves do not fit, a checkpoint does not fit
def test_a_full_disk_leaves_the_last_good_checkpoint(workdir: Path, kilobytes: int) -> None:
    flags = [*EPOCHS, "--model.schedule=constant"]
    run = fit(*flags)
    before = {file: file.read_bytes() for file in (run / "checkpoints").iterdir()}
    script = [sys.executable, str(SCRIPTS / "fit.py"), "--resume=last", "--max_epochs=4"]
    elsewhere = {"TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else {}  # on another file system
    limited = subprocess.run(
        ["sh", "-c", f'ulimit -f {kilobytes}; exec "$@"', "sh", *script],
        capture_output=True, text=True, check=False, env={**os.environ, **elsewhere},
    )  # fmt: skip
    assert limited.returncode == 1
    lines = limited.stderr.splitlines()
    assert len(lines) == 1 and "cannot be written (File too large)" in lines[0] and "--resume" in lines[0]
    assert {file: file.read_bytes() for file in (run / "checkpoints").iterdir()} == before
    fit("--resume=last")
    assert state(run) == state(fit(*flags, "--max_epochs=4"))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("the payload ran",)


def rewritten(**changes: Any) -> Callable[[Path], object]:
    """A whole checkpoint with other content."""

    def write(file: Path) -> None:
        content = torch.load(file, weights_only=True)
        for path, value in changes.items():
            *parents, key = path.split("__")
            place = content
            for parent in parents:
                place = place[parent]
            place[key] = value
        torch.save(content, file)

    return write


def zipped(file: Path, parts: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def becomes_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


BIAS = "standardized_linear.bias"
GROUP = [{"lr": 0.1, "params": [0, 1]}]

BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "not a complete checkpoint"),
    "text": (lambda file: file.write_text("hello", encoding="utf-8"), "not a complete checkpoint"),
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "not a complete checkpoint"),
    "a wrong byte": (
        lambda file: file.write_bytes(file.read_bytes().replace(b"linear", b"Linear", 1)),
        "not a complete",
    ),
    "another program's": (lambda file: torch.save({"state_dict": {}}, file), "not a complete checkpoint"),
    "a pickle": (lambda file: file.write_bytes(pickle.dumps(Malicious())), "not a complete checkpoint"),
    "a malicious pickle": (lambda file: torch.save({"format": 1, "x": Malicious()}, file), "not a complete checkpoint"),
    "a future format": (rewritten(format=FORMAT + 1), f"format {FORMAT + 1}, and this version"),
    "a past format": (rewritten(format=FORMAT - 1), f"reads format {FORMAT}; use the version that wrote it"),
    "another data set": (rewritten(ImageDataModule__contents="1f"), "its images or labels are not those"),
    "other classes": (rewritten(ImageDataModule__classes=["a", "b"]), "its classes is"),
    "another image size": (rewritten(ImageDataModule__image_shape=[1, 8, 8]), "its image_shape is [1, 28, 28] and was"),
    "a directory": (becomes_a_folder, "no checkpoint found at"),
    "a zip of something else": (lambda file: zipped(file, {"a.txt": b"hello"}), "not a complete checkpoint"),
    "a zip of much": (lambda file: zipped(file, {"data.pkl": bytes(10**7)}), "it is compressed"),
    "other shapes": (rewritten(**{f"state_dict__{BIAS}": torch.zeros(3)}), "must be (10,) finite numbers"),
    "another momentum": (
        rewritten(optimizer_states=[{"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": GROUP}]),
        "its momentum_buffer has the shape (3,)",
    ),
    "no curve": (rewritten(callbacks={}), "not a complete checkpoint"),
    "a plain loader's": (rewritten(ImageDataModule=None), "not a complete checkpoint"),
    "more images": (rewritten(ImageDataModule__images=[1, 2, 3]), "its images is"),
    "another step": (rewritten(global_step=50), "what it counts does not agree"),
    "another epoch": (
        rewritten(loops__fit_loop__epoch_progress__current__completed=0),
        "what it counts does not agree",
    ),
    "a loop less": (rewritten(loops__fit_loop={"state_dict": {}}), "not a complete checkpoint"),
    "another order": (rewritten(ImageDataModule__seed=1), "its seed is 0 in one place and 1 in another"),
    "another rate": (rewritten(hyper_parameters__lr=0.5), "in one place and 0.5 in another"),
    "no momentum": (
        rewritten(optimizer_states=[{"state": {}, "param_groups": GROUP}]),
        "not a complete checkpoint",
    ),
    "a best that is none": (rewritten(callbacks__Saver__best=float("nan")), "the best accuracy was nan"),
    "sizes below 0": (rewritten(callbacks__Saver__events={"events": -1}), "is below 0"),
    "sizes that are none": (rewritten(callbacks__Saver__events={"events": "much"}), "its numbers are"),
}


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_refused(run: Path, capsys: Capsys, name: str) -> None:
    spoil, named = BAD_CHECKPOINTS[name]
    spoil(run / "checkpoints" / "last.ckpt")
    refused(["--resume", str(run), "--max_epochs=3"], named, capsys)
    assert not Path("the payload ran").exists()
    torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)


MISSING = object()
ODD = [MISSING, "much", [], {"a": 1}]


def places(content: dict[str, Any], depth: int) -> Iterator[tuple[str, ...]]:
    for key, value in content.items():
        yield (key,)
        if depth > 1 and isinstance(value, dict):
            yield from ((key, *below) for below in places(value, depth - 1))


def spoilt(content: dict[str, Any], place: Sequence[str], value: Any) -> dict[str, Any]:
    other = copy.deepcopy(content)
    inside = functools.reduce(lambda part, key: part[key], place[:-1], other)
    inside.pop(place[-1]) if value is MISSING else inside.update({place[-1]: value})
    return other


@pytest.mark.slow
@pytest.mark.parametrize("value", ODD, ids=lambda value: "missing" if value is MISSING else repr(value)[:9])
def test_whatever_a_checkpoint_holds_is_used_or_refused(run: Path, capsys: Capsys, value: Any) -> None:
    file = run / "checkpoints" / "last.ckpt"
    whole, before = torch.load(file, weights_only=True), contents(run)
    PIL.Image.new("L", (28, 28)).save("one.png")
    commands = [
        (main, ["--resume", str(run), "--max_epochs=3", "--pictures=false"]),
        (evaluate.main, [str(run), "--json"]),
        (predict.main, [str(run), "one.png"]),
        (export.main, [str(run), "page.html"]),
    ]
    failures: list[Any] = []
    for place in random.Random(repr(value)).sample(list(places(whole, 2)), 12):
        content = spoilt(whole, place, value)
        torch.save(content, file)
        spoiled = contents(run)
        for command, words in commands:
            try:
                command(words)
            except SystemExit as ended:
                error = capsys.readouterr().err
                assert ended.code == 2 and len(error.splitlines()) == 1, (place, error)
                assert contents(run) == spoiled
            except Exception as error:
                failures.append((place, command.__module__, repr(error)))
            else:
                if command is main:
                    shutil.rmtree(run)
                    for path, old in before.items():
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(old)
                    torch.save(content, file)
    assert not failures


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "other shapes": (rewritten(**{f"state_dict__{BIAS}": torch.zeros(1)}), f"its {BIAS} must be (10,) finite numbers"),
    "NaN": (rewritten(**{f"state_dict__{BIAS}": torch.full((10,), torch.nan)}), "finite numbers"),
    "other parameters": (rewritten(state_dict__more=torch.zeros(1)), "holds no"),
    "other names": (rewritten(hyper_parameters__class_names=["a"]), "has 1 names for"),
    "no settings": (rewritten(hyper_parameters={}), "not a complete checkpoint"),
    "temperature 0": (rewritten(state_dict__temperature=torch.tensor(0.0)), "its temperature must be positive"),
    "temperature below 0": (rewritten(state_dict__temperature=torch.tensor(-2.0)), "its temperature must be positive"),
    "scale 0": (rewritten(**{"state_dict__standardizer.scale": torch.zeros(784)}), "scale must be positive"),
    "a text": (rewritten(**{f"state_dict__{BIAS}": "much"}), "not a complete checkpoint"),
    "huge weights": (
        rewritten(**{"state_dict__standardized_linear.weight": torch.full((10, 784), 3e38)}),
        "beyond float32",
    ),
    "a shape that is no memory's": (
        rewritten(**{f"state_dict__{BIAS}": torch.zeros(()).expand(10**6, 10**6)}),
        "has not all of its numbers",
    ),
    "another backbone": (rewritten(hyper_parameters__backbone={"name": "nope", "num_features": 784}), "'nope'"),
    "half a backbone": (rewritten(hyper_parameters__backbone={"name": "timm/a", "num_features": 784}), "last.ckpt is"),
    "names of another type": (rewritten(hyper_parameters__class_names=[1] * 10), "its class_names is no"),
    "two dimensions": (rewritten(hyper_parameters__image_shape=[28, 28]), "channels, height and width"),
    "a range without width": (rewritten(hyper_parameters__pixel_range=[3, 3]), "its pixel_range is no"),
    "no temperature": (rewritten(hyper_parameters__calibrate=False), "contradict each other"),
    "a directory": (becomes_a_folder, "no checkpoint found at"),
    "a zip of much": (lambda file: zipped(file, {"data.pkl": bytes(10**7)}), "it is compressed"),
    "a sweep's": (rewritten(heads=[]), "is of a sweep: promote"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_refused_by_all_that_use_it(run: Path, capsys: Capsys, name: str) -> None:
    spoil, named = BAD_MODELS[name]
    spoil(run / "checkpoints" / "last.ckpt")
    PIL.Image.new("L", (28, 28)).save("one.png")
    for command, words in (
        (evaluate.main, ["last"]),
        (predict.main, ["last", "one.png"]),
        (export.main, ["last", "page.html"]),
        (export.main, ["last", "model.onnx"]),
    ):
        refused(words, named, capsys, command)


def test_a_groups_checkpoint_is_no_runs(workdir: Path, capsys: Capsys) -> None:
    group = sweep("digits", lr=[0.1, 0.2], max_epochs=1, pictures=False).path / "checkpoints" / "group_0.ckpt"
    refused([f"--resume={group}"], f"{group} is of a sweep: resume the sweep", capsys)
    refused([str(group)], f"{group} is of a sweep: promote", capsys, evaluate.main)


RIGHT = torch.arange(12.0).reshape(3, 4)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file, weights = tmp_path_factory.mktemp("checkpoint") / "last.ckpt", {"linear.weight": RIGHT}
    AtomicCheckpointIO().save_checkpoint({"format": FORMAT, "state_dict": weights}, file)
    return file.read_bytes()


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_right_checkpoint_or_refused(
    tmp_path: Path, small_checkpoint: bytes, data: st.DataObject
) -> None:
    file, content = tmp_path / "any.ckpt", bytearray(small_checkpoint)
    kind = data.draw(st.sampled_from(["random", "changed", "cut"]))
    if kind == "random":
        content = bytearray(data.draw(st.binary(max_size=300)))
    elif kind == "changed":
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    file.write_bytes(content)
    try:
        found = read(file)
    except InputError as error:
        assert str(file) in str(error) and "\n" not in str(error)
    else:
        assert torch.equal(found["state_dict"]["linear.weight"], RIGHT)


def test_an_index_that_is_damaged_leads_to_no_other_numbers(tmp_path: Path, small_checkpoint: bytes) -> None:
    """torch and Python each have a reader of zip archives, which need not find the same bytes."""
    file = tmp_path / "any.ckpt"
    for position in range(small_checkpoint.index(b"PK\x01\x02"), len(small_checkpoint)):
        content = bytearray(small_checkpoint)
        content[position] = 16
        file.write_bytes(content)
        with contextlib.suppress(InputError):
            assert torch.equal(read(file)["state_dict"]["linear.weight"], RIGHT), position
