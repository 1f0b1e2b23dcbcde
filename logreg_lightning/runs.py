"""A run's folder, and finding it again."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from logreg_lightning.errors import InputError

LOGS = Path("lightning_logs")


def find(resume: str) -> tuple[Path, Path]:
    """A run's folder and the checkpoint to go on from, of `last`, a run's folder or a `.ckpt` in one.

    Raises:
        InputError: there is none; the sentence lists the runs that there are.
    """
    runs = sorted(LOGS.glob("version_[0-9]*"), key=lambda run: int(run.name.split("_")[1]))
    there = [run for run in runs if (run / "checkpoints/last.ckpt").is_file()]
    if resume == "last":
        checkpoint = (runs[-1] if runs else LOGS / "version_0") / "checkpoints" / "last.ckpt"
    else:
        checkpoint = Path(resume) if resume.endswith(".ckpt") else Path(resume) / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        names = ", ".join(map(str, there)) or "none yet"
        raise InputError(f"--resume {resume}: nothing to resume, {checkpoint} is not there; runs to resume: {names}")
    folder = checkpoint.parent.parent
    if not (folder / "config.yaml").is_file():
        raise InputError(f"--resume {resume}: {folder} is not a run's folder, it has no config.yaml")
    return folder, checkpoint


def has_results(folder: Path) -> bool:
    """Whether the run in `folder` once came to its end."""
    return (folder / "results.json").is_file()


def logger(folder: Path | None, step: int) -> TensorBoardLogger:
    """The TensorBoard logger of a new run, or of the run in `folder`, whose points after `step` are taken back."""
    if folder is None:
        return TensorBoardLogger(".", name=str(LOGS), default_hp_metric=False)
    return TensorBoardLogger(
        folder.parent.parent, folder.parent.name, folder.name, default_hp_metric=False, purge_step=step + 1
    )


@rank_zero_only
def write_hparams(logger: TensorBoardLogger, settings: dict[str, int | float | str]) -> None:
    """Fills TensorBoard's HParams tab: the settings, and the names of the curves to compare runs by."""
    from torch.utils.tensorboard.summary import hparams

    compared = {"test/accuracy": 0.0, "val/accuracy": 0.0}
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
def write_whole(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def results(**values: Any) -> str:
    """The text of `results.json`."""
    return json.dumps({**values, "versions": versions(), "command": sys.argv}, indent=2) + "\n"
