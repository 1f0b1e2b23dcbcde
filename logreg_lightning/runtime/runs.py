"""A run's folder: making it, finding it again, and what it holds besides checkpoints and curves."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import platform
import re
import subprocess
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from logreg_lightning.errors import InputError
from logreg_lightning.runtime.files import atomic_write, locked
from logreg_lightning.runtime.plain import json_of
from logreg_lightning.runtime.processes import rank

LOGS = Path("lightning_logs")

MAY_CHANGE = frozenset(
    {"resume", "log_dir", "max_epochs", "max_steps", "accelerator", "devices", "num_nodes", "strategy"}
    | {"threads", "pictures", "data.dataset", "data.root"}
)
"""Settings that a resumed run may be given anew."""


def create(kind: str = "version", logs: Path = LOGS) -> Path:
    """The folder of a new run, or sweep, in `logs`, empty, with the first free number; no two processes get the same.

    Raises:
        InputError: it cannot be made.
    """
    try:
        logs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(max(map(_number, all_of(kind, logs)), default=-1) + 1):
            with contextlib.suppress(FileExistsError):
                folder = logs / f"{kind}_{number}"
                folder.mkdir()
                return folder
    except OSError as error:
        raise InputError(f"{logs} cannot be written ({error.strerror}); set another folder as `log_dir`") from None
    raise AssertionError("unreachable")


def _number(run: Path) -> int:
    return int(run.name.rpartition("_")[2])


def logs_of(run: str, logs: Path = LOGS) -> tuple[bool, Path]:
    """Whether the newest run is meant, by `last` or by `FOLDER/last`; and where it, and others, would be."""
    path = Path(run)
    if path.name != "last" or (len(path.parts) > 1 and path.is_dir()):  # a run may be called that
        return False, logs
    return True, logs if len(path.parts) == 1 else path.parent


def all_of(kind: str, logs: Path = LOGS) -> list[Path]:
    """The folders in `logs` of all runs, `version`, or sweeps, `sweep`, oldest first."""
    # Not `glob`, to which a folder that may not be read is an empty one.
    there = logs.iterdir() if logs.is_dir() else ()
    folders = [
        run for run in there if run.name.startswith(f"{kind}_") and run.name.removeprefix(f"{kind}_").isdecimal()
    ]
    return sorted(folders, key=_number)


def find(resume: str, logs: Path = LOGS) -> tuple[Path, Path | None]:
    """A run's folder and the checkpoint to resume, of `last`, the newest in `logs`, `FOLDER/last`, the newest in that
    folder, a run's folder, or a `.ckpt` in one.

    There is no checkpoint where the run was killed before its first save: it starts again in its folder.

    Raises:
        InputError: there is nothing to resume; the sentence lists the runs here.
    """
    is_last, logs = logs_of(resume, logs)
    runs = [run for run in all_of("version", logs) if (run / "config.yaml").is_file()]
    given = (runs[-1] if runs else logs / "version_0") if is_last else Path(resume)
    folder = given.parent.parent if resume.endswith(".ckpt") else given
    checkpoint = given if resume.endswith(".ckpt") else folder / "checkpoints" / "last.ckpt"
    if checkpoint.name.startswith("group_"):
        raise InputError(f"{checkpoint} is of a sweep: resume the sweep {folder}, or promote one of its settings")
    is_saved = checkpoint.is_file()
    if not is_saved and (resume.endswith(".ckpt") or not folder.is_dir() or has_results(folder)):
        raise InputError(f"`resume={resume!r}`: no checkpoint found at {checkpoint}; runs here: {_names(runs)}")
    if not (folder / "config.yaml").is_file():
        raise InputError(f"`resume={resume!r}`: {folder} is not a run's folder, it has no config.yaml")
    return folder, checkpoint if is_saved else None


def _names(runs: list[Path]) -> str:
    return ", ".join(map(str, runs)) or "none yet"


def checkpoint_of(run: str) -> Path:
    """The checkpoint of a trained model: a run's last one, the newest run's for `last`, in the default folder, or
    `FOLDER/last`, in that one, or a `.ckpt` itself.

    Raises:
        InputError: there is none; the sentence lists the runs here.
    """
    is_last, logs = logs_of(run)
    trained = [folder for folder in all_of("version", logs) if _last_checkpoint(folder).is_file()]
    folder = trained[-1] if is_last and trained else Path(run)
    checkpoint = folder if folder.suffix == ".ckpt" else _last_checkpoint(folder)
    if not checkpoint.is_file():
        raise InputError(f"no checkpoint found at {checkpoint}; trained runs here: {_names(trained)}")
    return checkpoint


def _last_checkpoint(folder: Path) -> Path:
    """`last.ckpt`, or, where a stock trainer trained, what it wrote at the last step: `epoch=4-step=3000.ckpt`."""
    last = folder / "checkpoints" / "last.ckpt"
    steps = {file: re.search(r"step=(\d+)", file.name) for file in last.parent.glob("*.ckpt")}
    by_step = sorted((int(step[1]), file) for file, step in steps.items() if step)
    return by_step[-1][1] if by_step and not last.is_file() else last


@contextlib.contextmanager
def used_by_one(folder: Path) -> Iterator[None]:
    """Holds a run's folder for this process and those that it starts.

    Raises:
        InputError: another process holds it.
    """
    if rank() != 0:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, wait=False))
        except BlockingIOError:
            raise InputError(
                f"{folder} is being trained by another process; wait until it ends, or stop it with Ctrl-C, then resume"
            ) from None
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); get write access to it") from None
        yield


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes `config.yaml`: the settings that would repeat the run."""
    atomic_write(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """A run's settings.

    Raises:
        InputError: `config.yaml` cannot be read.
    """
    file = folder / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{file} does not hold a run's settings ({reason}); fix it") from None
    if isinstance(config, dict):
        config = without_empty(config)
        if all(isinstance(config.get(name, {}), dict) for name in SECTIONS):
            return config
    raise InputError(f"{file} does not hold a run's settings; fix it")


SECTIONS = ("data", "model")
"""Settings that have settings of their own."""


def without_empty(config: dict[str, Any]) -> dict[str, Any]:
    """The settings without sections all of whose lines are comments, which YAML reads as nothing."""
    return {name: value for name, value in config.items() if value is not None or name not in SECTIONS}


def write_trained_on(folder: Path, keys: dict[str, Any]) -> None:
    """Writes `trained_on.npz`, arrays by their names, and an `id` that no other run has, unless it is there."""
    if not (folder / "trained_on.npz").exists():
        file = io.BytesIO()
        np.savez(file, **keys, id=np.array(uuid.uuid4().hex))
        atomic_write(folder / "trained_on.npz", file.getvalue())


def read_trained_on(folder: Path) -> dict[str, Any] | None:
    """What `write_trained_on` wrote; None where it was not called, as by a stock trainer.

    Raises:
        InputError: the file is damaged.
    """
    file = folder / "trained_on.npz"
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # np.load raises whatever the bytes make it
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"{file} is damaged ({' '.join(str(error).split())}); copy it again") from None


def id_of(folder: Path) -> str | None:
    """What tells a run from another one of the same name; None where it has none."""
    about = read_trained_on(folder)
    return str(about["id"]) if about is not None and "id" in about else None


def threads_of(checkpoint: Path) -> int | None:
    """CPU threads that a checkpoint's run computed with, where it is known: another number rounds otherwise."""
    folder = checkpoint.resolve().parent.parent
    threads: int | None = read_config(folder).get("threads") if (folder / "config.yaml").is_file() else None
    return threads


def check_config(
    folder: Path, started: dict[str, Any], config: dict[str, Any], may_change: frozenset[str] = MAY_CHANGE
) -> None:
    """Makes sure that a run, started with some settings, can be resumed with these.

    Raises:
        InputError: one contradicts those that the run started with.
    """
    for name, value, before in _changed(started, config, may_change):
        raise InputError(
            f"`{name}={value!r}` contradicts {folder}, which was started with {before!r}; "
            "leave it out to resume, or start a new run without `resume`"
        )


def check_edited(
    checkpoint: Path, began: dict[str, Any], config: dict[str, Any], may_change: frozenset[str] = MAY_CHANGE
) -> None:
    """Makes sure that the settings in `config.yaml` are still those that a checkpoint of the run was trained with.

    Raises:
        InputError: one was edited.
    """
    for name, value, before in _changed(began, config, may_change):
        raise InputError(
            f"`{name}` is {value!r} in {checkpoint.parent.parent / 'config.yaml'}, and {checkpoint.name} was trained "
            f"with {before!r}: a resumed run goes on as it was begun; write {before!r} there again, or start a new "
            "run, without `resume`"
        )


def _changed(before: dict[str, Any], now: dict[str, Any], may_change: frozenset[str]) -> Iterator[tuple[str, Any, Any]]:
    """Of each setting that has changed and may not: its name, its value now, and that before."""
    values = flat(before)
    for key, value in flat(now).items():
        if key not in may_change and key in values and values[key] != value:
            yield key.rpartition(".")[2], value, values[key]


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"data": {"root": "data"}}` as `{"data.root": "data"}`."""
    flattened: dict[str, Any] = {}
    for key, value in config.items():
        flattened |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flattened


def has_results(folder: Path) -> bool:
    """Whether the run in `folder` has finished, and its results can be read: else they are made again."""
    return read_results(folder) is not None


def versions() -> dict[str, str | None]:
    """What made a result: versions, and the git commit of this code if it is in a checkout."""
    here = Path(__file__).resolve().parent
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, encoding="utf-8", check=True,
        )  # fmt: skip
        commit = git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    packages = ("logreg-lightning", "torch", "torchvision", "lightning", "torchmetrics")
    return {"git_commit": commit, "python": platform.python_version(), **{name: version(name) for name in packages}}


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Writes `results.json`, in the process of rank 0."""
    if rank() == 0:
        atomic_write(folder / "results.json", (json_of(results) + "\n").encode())


def read_results(folder: Path) -> dict[str, Any] | None:
    """What `results.json` holds; None where it is not there or is damaged."""
    results = read_json(folder / "results.json")
    return results if isinstance(results, dict) and isinstance(results.get("steps"), int) else None


def read_json(file: Path) -> Any:
    """What a file of JSON holds; None where it is not there or is damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
