"""What is trusted when a checkpoint is read: complete, of today's format, made of tensors and plain types alone."""

from __future__ import annotations

import contextlib
import errno
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from logreg_lightning.errors import InputError
from logreg_lightning.runtime.names import shortened
from logreg_lightning.runtime.plan import Plan

FORMAT = 7
"""Of the checkpoints written here; raised whenever the code here could no longer read older ones correctly."""


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content; no code in the file is run.

    Raises:
        InputError: it is not a complete checkpoint of this project.
    """
    with content_of(path):
        checkpoint = dict(torch.load(_checked(path), map_location="cpu", weights_only=True))
        file_format = checkpoint["format"]
        _check_tensors(checkpoint)
    if file_format != FORMAT:
        raise InputError(
            f"{path} is a checkpoint of format {file_format}, and this version of logreg_lightning reads format "
            f"{FORMAT}; use the version that wrote it, which its run's results.json names, or start a new run"
        )
    return checkpoint


@contextlib.contextmanager
def content_of(path: Path) -> Iterator[None]:
    """Inside, a checkpoint's content is taken for what it should be, and what goes wrong is the file's fault.

    Raises:
        InputError: something went wrong.
    """
    try:
        yield
    except Exception as error:  # zipfile, torch and Lightning raise whatever the bytes make them
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # as a place that the bytes make up is
            raise InputError(f"{path} cannot be read ({error.strerror}); get access to it") from None
        if isinstance(error, InputError) and path.name in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is not a complete checkpoint of this project ({shortened(reason, 160)}); use another file or run"
        ) from None


def _checked(path: Path) -> IO[bytes]:
    """A checkpoint's parts, whose checksums torch.load does not compare, as they are once they were compared.

    torch has a reader of zip archives of its own, which may find other bytes than Python's where an index is damaged.
    """
    checked = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(checked, "w") as copy:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is compressed")  # into what may be more than memory
        for name in archive.namelist():
            try:
                copy.writestr(name, archive.read(name))
            except zipfile.BadZipFile as error:
                raise ValueError(f"its part {name} is damaged: {error}") from None
    checked.seek(0)
    return checked


def _check_tensors(content: Any) -> None:
    """Makes sure that each tensor in there has its numbers in memory, all of them."""
    if isinstance(content, torch.Tensor):
        is_here = content.layout is torch.strided and content.device.type == "cpu"
        # Of a shape and strides that a file may claim, one number can stand for more than memory has.
        if not is_here or content.numel() * content.element_size() > content.untyped_storage().nbytes():
            raise ValueError(f"a tensor of {tuple(content.shape)} has not all of its numbers")
    for value in (
        content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    ):
        _check_tensors(value)


def as_file(checkpoint: dict[str, Any]) -> IO[bytes]:
    """A checkpoint's content as a file, for what reads one itself."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    content.seek(0)
    return content


def check_progress(state: dict[str, Any], steps_per_epoch: int, fresh: dict[str, Any]) -> None:
    """Makes sure that all that counts in a checkpoint's content, to be taken inside `content_of`, agrees.

    Args:
        fresh: State of a `fit_loop` that has not begun.

    Raises:
        ValueError: something counts otherwise; what is missing raises a KeyError.
    """
    step, loops = state["global_step"], state["loops"]["fit_loop"]
    [at] = loops["state_dict"]["combined_loader"]  # which `TrainLoader` writes
    if not _alike({**fresh, "state_dict": {}}, {**loops, "state_dict": {}}) or not _alike({"epoch": 0, "step": 0}, at):
        raise ValueError("its loops are not Lightning's")
    plan = Plan(steps_per_epoch, state["ImageDataModule"]["steps_per_call"])
    calls = [0, *(stop for _, stop in plan.calls)].index(at["step"])
    is_over = calls == len(plan.calls)
    steps = loops["epoch_loop.manual_optimization.optim_step_progress"]["total"]
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]["current"]
    if not (
        {step} == {at["epoch"] * steps_per_epoch + at["step"], *steps.values()}
        and {calls} == {batches["current"][name] for name in ("ready", "started", "processed")}
        and batches["current"]["completed"] in (calls, calls - 1)
        and batches["is_last_batch"] is is_over
        and epochs["ready"] == epochs["started"]
        and epochs["ready"] in (at["epoch"], at["epoch"] + 1)  # one behind once an end at an epoch's was resumed
        and at["epoch"] == state["epoch"] == epochs["completed"]
        and epochs["processed"] in (at["epoch"], at["epoch"] + is_over)
    ):
        raise ValueError("what it counts does not agree")


def _alike(first: Any, second: Any) -> bool:
    """Whether both have the same keys and types, and no number below 0."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_alike(first[name], second[name]) for name in first)
    return type(first) is type(second) and not (isinstance(second, int) and second < 0)
