"""A run's folder: making it, finding it again, and what it holds besides checkpoints and curves."""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from logreg_lightning.errors import InputError
from logreg_lightning.runtime.checkpoints import BEFORE_FORMAT_3
from logreg_lightning.runtime.curves import StepLogger
from logreg_lightning.runtime.files import atomic_write, locked
from logreg_lightning.runtime.processes import rank

LOGS = Path("lightning_logs")

MAY_CHANGE = frozenset(
    (
        *(
            "resume",
            "max_epochs",
            "max_steps",
            "accelerator",
            "devices",
            "num_nodes",
            "strategy",
            "threads",
            "pictures",
        ),
        "data.root",
    )
)
"""Settings that a resumed run may be given anew."""


def create(kind: str = "version") -> Path:
    """The folder of a new run, or sweep, empty, with the first free number; no two processes get the same.

    Raises:
        InputError: it cannot be made.
    """
    try:
        LOGS.mkdir(exist_ok=True)
        for number in itertools.count(max(map(_number, all_of(kind)), default=-1) + 1):
            with contextlib.suppress(FileExistsError):
                folder = LOGS / f"{kind}_{number}"
                folder.mkdir()
                return folder
    except OSError as error:
        raise InputError(f"{LOGS} cannot be written ({error.strerror}); work in a folder you can write to") from None
    raise AssertionError("unreachable")


def _number(run: Path) -> int:
    return int(run.name.rpartition("_")[2])


def all_of(kind: str) -> list[Path]:
    """The folders of all runs, `version`, or sweeps, `sweep`, oldest first."""
    found = [run for run in LOGS.glob(f"{kind}_*") if run.name.removeprefix(f"{kind}_").isdecimal()]
    return sorted(found, key=_number)


def find(resume: str) -> tuple[Path, Path | None]:
    """A run's folder and the checkpoint to resume, of `last`, a run's folder or a `.ckpt` in one.

    There is no checkpoint where the run was killed before its first save: it starts again in its folder.

    Raises:
        InputError: there is nothing to resume; the sentence lists the runs here.
    """
    runs = [run for run in all_of("version") if (run / "config.yaml").is_file()]
    given = (runs[-1] if runs else LOGS / "version_0") if resume == "last" else Path(resume)
    folder = given.parent.parent if resume.endswith(".ckpt") else given
    checkpoint = given if resume.endswith(".ckpt") else folder / "checkpoints" / "last.ckpt"
    there = checkpoint.is_file()
    if not there and (resume.endswith(".ckpt") or not folder.is_dir() or has_results(folder)):
        raise InputError(f"`resume={resume!r}`: no checkpoint found at {checkpoint}; runs here: {_names(runs)}")
    if not (folder / "config.yaml").is_file():
        raise InputError(f"`resume={resume!r}`: {folder} is not a run's folder, it has no config.yaml")
    return folder, checkpoint if there else None


def _names(runs: list[Path]) -> str:
    return ", ".join(map(str, runs)) or "none yet"


def checkpoint_of(run: str) -> Path:
    """The checkpoint of a trained model: `last.ckpt` of a run's folder, or of the newest run for `last`, or a `.ckpt`.

    Raises:
        InputError: there is none; the sentence lists the runs here.
    """
    trained = [folder for folder in all_of("version") if (folder / "checkpoints" / "last.ckpt").is_file()]
    folder = str(trained[-1]) if run == "last" and trained else run
    checkpoint = Path(folder) if folder.endswith(".ckpt") else Path(folder) / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        raise InputError(f"no checkpoint found at {checkpoint}; trained runs here: {_names(trained)}")
    return checkpoint


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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} does not hold a run's settings ({' '.join(str(error).split())}); fix it") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} does not hold a run's settings; fix it")
    if isinstance(config.get("model"), dict):  # an older run's knows no such settings
        config["model"] = BEFORE_FORMAT_3 | config["model"]
    return config


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
    before = flat(started)
    for key, value in flat(config).items():
        if key not in may_change and key in before and before[key] != value:
            raise InputError(
                f"`{key.rpartition('.')[2]}={value!r}` contradicts {folder}, which was started with {before[key]!r}; "
                "leave it out to resume, or start a new run without `resume`"
            )


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"data": {"root": "data"}}` as `{"data.root": "data"}`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def has_results(folder: Path) -> bool:
    """Whether the run in `folder` has finished."""
    return (folder / "results.json").is_file()


def logger(folder: Path, step: int) -> TensorBoardLogger:
    """The TensorBoard logger of the run in `folder`; an open TensorBoard drops the points after `step`."""
    purge_step = step + 1 if step else None
    return StepLogger(
        folder.parent.parent, folder.parent.name, folder.name, default_hp_metric=False, purge_step=purge_step
    )


@rank_zero_only
def write_hparams(logger: TensorBoardLogger, settings: dict[str, int | float | str]) -> None:
    """Fills TensorBoard's HParams tab: the settings, and the names of the curves to compare runs by."""
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(settings, dict.fromkeys(COMPARED, 0.0)):  # type: ignore[no-untyped-call]
        logger.experiment.file_writer.add_summary(summary)


COMPARED = ("test/accuracy", "test/loss", "test/calibration_error", "val/accuracy", "val/loss")
"""Curves that TensorBoard's HParams tab compares runs by."""


def write_setting(folder: Path, settings: dict[str, int | float | str], metrics: dict[str, float], step: int) -> None:
    """Makes a row of TensorBoard's HParams tab that is no run: its settings, and its metrics at a step."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import hparams, scalar

    shutil.rmtree(folder, ignore_errors=True)  # of a sweep that was killed while it wrote
    folder.mkdir()
    summaries = [*hparams(settings, dict.fromkeys(COMPARED, 0.0))]  # type: ignore[no-untyped-call]
    summaries += [scalar(name, value) for name, value in metrics.items()]  # type: ignore[no-untyped-call]
    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2")]
    events += [Event(wall_time=now, step=step, summary=summary) for summary in summaries]
    with (folder / "events.out.tfevents.0").open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
        writer.flush()


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
    found: dict[str, str | None] = {name: version(name) for name in packages}
    return {"git_commit": commit, "python": platform.python_version(), **found}


@rank_zero_only
def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Writes `results.json`."""
    atomic_write(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())


def read_results(folder: Path) -> dict[str, Any]:
    """What `results.json` holds."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results
