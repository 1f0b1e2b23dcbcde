"""A run's folder, and finding it again."""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from logreg_lightning.errors import InputError
from logreg_lightning.files import locked, write_whole
from logreg_lightning.processes import rank

LOGS = Path("lightning_logs")


def create() -> Path:
    """The folder of a new run, empty, with the first free number: no two processes get the same.

    Raises:
        InputError: it cannot be made.
    """
    try:
        LOGS.mkdir(exist_ok=True)
        for number in itertools.count(max(map(_number, _all()), default=-1) + 1):
            with contextlib.suppress(FileExistsError):
                folder = LOGS / f"version_{number}"
                folder.mkdir()
                return folder
    except OSError as error:
        raise InputError(f"{LOGS} cannot be written ({error.strerror}); go to a folder that you may write to") from None
    raise AssertionError("unreachable")


def _number(run: Path) -> int:
    return int(run.name.removeprefix("version_"))


def _all() -> list[Path]:
    """The folders in the order they were made."""
    found = [run for run in LOGS.glob("version_*") if run.name.removeprefix("version_").isdecimal()]
    return sorted(found, key=_number)


def find(resume: str) -> tuple[Path, Path | None]:
    """A run's folder and the checkpoint to go on from, of `last`, a run's folder or a `.ckpt` in one.

    There is no checkpoint where the run was killed before it was first saved: it begins again.

    Raises:
        InputError: there is nothing to resume; the sentence lists the runs that there are.
    """
    runs = [run for run in _all() if (run / "config.yaml").is_file()]
    given = (runs[-1] if runs else LOGS / "version_0") if resume == "last" else Path(resume)
    folder = given.parent.parent if resume.endswith(".ckpt") else given
    checkpoint = given if resume.endswith(".ckpt") else folder / "checkpoints" / "last.ckpt"
    there = checkpoint.is_file()
    if not there and (resume.endswith(".ckpt") or not folder.is_dir() or has_results(folder)):
        names = ", ".join(map(str, runs)) or "none yet"
        raise InputError(f"--resume {resume}: nothing to resume, {checkpoint} is not there; runs to resume: {names}")
    if not (folder / "config.yaml").is_file():
        raise InputError(f"--resume {resume}: {folder} is not a run's folder, it has no config.yaml")
    return folder, checkpoint if there else None


def checkpoint_of(run: str) -> Path:
    """The checkpoint of a trained model: `last.ckpt` of a run's folder, or of the newest run for `last`, or a `.ckpt`.

    Raises:
        InputError: there is none; the sentence lists the runs that there are.
    """
    trained = [folder for folder in _all() if (folder / "checkpoints" / "last.ckpt").is_file()]
    folder = str(trained[-1]) if run == "last" and trained else run
    checkpoint = Path(folder) if folder.endswith(".ckpt") else Path(folder) / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        names = ", ".join(map(str, trained)) or "none yet"
        raise InputError(f"{run} is no trained run, {checkpoint} is not there; runs with a checkpoint here: {names}")
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
                f"{folder} is being trained by another process; wait for its end, or stop it with Ctrl-C, then resume"
            ) from None
        yield


def has_results(folder: Path) -> bool:
    """Whether the run in `folder` once came to its end."""
    return (folder / "results.json").is_file()


def logger(folder: Path, step: int) -> TensorBoardLogger:
    """The TensorBoard logger of the run in `folder`; a TensorBoard that is open takes back its points after `step`."""
    purge_step = step + 1 if step else None
    return TensorBoardLogger(
        folder.parent.parent, folder.parent.name, folder.name, default_hp_metric=False, purge_step=purge_step
    )


@rank_zero_only
def write_hparams(logger: TensorBoardLogger, settings: dict[str, int | float | str]) -> None:
    """Fills TensorBoard's HParams tab: the settings, and the names of the curves to compare runs by."""
    from torch.utils.tensorboard.summary import hparams

    compared = dict.fromkeys(("test/accuracy", "test/loss", "test/calibration_error", "val/accuracy"), 0.0)
    for summary in hparams(settings, compared):  # type: ignore[no-untyped-call]
        logger.experiment.file_writer.add_summary(summary)


def versions() -> dict[str, str | None]:
    """What made a result: versions, and the git commit of this code where it is in a checkout."""
    here = Path(__file__).resolve().parent
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
        commit = git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    packages = ("logreg-lightning", "torch", "torchvision", "lightning", "torchmetrics")
    found: dict[str, str | None] = {name: version(name) for name in packages}
    return {"git_commit": commit, "python": platform.python_version(), **found}


@rank_zero_only
def write_results(folder: Path, **values: Any) -> None:
    """Writes `results.json`: what came out, and what made it."""
    text = json.dumps({**values, "versions": versions()}, indent=2) + "\n"
    write_whole(folder / "results.json", text.encode())
