"""The processes of one run: which one this is, how it was started, and that they all end together."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_only  # which Lightning re-exports, without loading Lightning

from logreg_lightning.errors import InputError
from logreg_lightning.runtime.names import printable

if TYPE_CHECKING:
    import lightning as L

_PARENT = "LOGREG_LIGHTNING_PARENT"
_command: Sequence[str] | None = None  # the words that started this process, without its flags
_flags: Sequence[str] = ()


def rank() -> int:
    """This process's number among those of a run, known before they have met; 0 as long as Lightning is not loaded."""
    return int(getattr(rank_zero_only, "rank", 0))  # which Lightning reads from the environment on import


def check_launched(rank: int, trainer: L.Trainer) -> None:
    """Makes sure that a process whose environment numbers it was started by what numbers processes.

    Args:
        rank: What `rank` was before there was a trainer, which may number processes anew.

    Raises:
        InputError: variables are left of something that ended, or were set by hand.
    """
    are_several = trainer.world_size > 1 and "MASTER_ADDR" not in os.environ  # which whatever starts them sets
    left_over = are_several and os.environ.keys() & {"RANK", "LOCAL_RANK"}
    if (rank == 0 or trainer.global_rank != 0) and not left_over:
        return
    named = [f"{name}={os.environ[name]}" for name in RANK_VARIABLES if name in os.environ]
    raise InputError(
        f"{' and '.join(named)} in the environment says that this process is one of several, but nothing has started "
        "them: unset it, or start all of them with torchrun or srun, and say with `devices` and `num_nodes` how many"
    )


RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Of the environment, in the order in which Lightning reads a process's number from them."""

_NUMBERS = {
    **dict.fromkeys((*RANK_VARIABLES, "GROUP_RANK", "NODE_RANK", "SLURM_LOCALID", "SLURM_NODEID"), 0),
    **dict.fromkeys(("JSM_NAMESPACE_LOCAL_RANK", "SLURM_JOB_ID", "LSB_JOBID", "MASTER_PORT", _PARENT), 0),
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "JSM_NAMESPACE_SIZE"), 1),
    **dict.fromkeys(("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"), 1),
}
"""Variables that are read as whole numbers, the first of them when Lightning is imported, and the least of each."""


def check_variables() -> None:
    """Makes sure that Lightning can read how many processes there are, and which one this is, from the environment.

    Raises:
        InputError: a variable is no such number.
    """
    for name in _NUMBERS.keys() & os.environ.keys():
        value, least = os.environ[name], _NUMBERS[name]
        try:
            is_right = int(value) >= least and (name != "MASTER_PORT" or int(value) < 2**16)
        except ValueError:
            is_right = False
        if not is_right:
            most = "to 65535" if name == "MASTER_PORT" else "on"
            raise InputError(
                f"{name}={value} in the environment must be a whole number from {least} {most}, as torchrun or srun "
                "sets it; unset it, or correct it"
            )


@contextlib.contextmanager
def started_by(command: Sequence[str], flags: Sequence[str]) -> Iterator[None]:
    """Notes the words and the flags that started this process, as long as that command runs."""
    global _command, _flags
    _command, _flags = command, flags
    try:
        yield
    finally:
        _command, _flags = None, ()


def command_line() -> list[str] | None:
    """The command of this project that started this process; None where somebody's Python code did."""
    return None if _command is None else [*_command, *_flags]


def resume_with(run: Path, **changes: object) -> str:
    """What resumes a run, as a person would type it: a command, or from Python a call."""
    if _command is None:
        arguments = ["data", f"resume={str(run)!r}", *(f"{name}={value!r}" for name, value in changes.items())]
        return f"{'sweep' if run.name.startswith('sweep') else 'fit'}({', '.join(arguments)})"
    flags = (word for name, value in changes.items() for word in (f"--{name}", str(value)))
    name = "sweep" if run.name.startswith("sweep") else "fit"
    return command_with("--resume", str(run), *flags, name=name)


def command_with(*flags: str, name: str) -> str:
    """The command of that name, as this process was started, with these flags; only where a command started it."""
    assert _command is not None
    *before, last = _command[1:]
    return quoted([_as_typed(_command[0]), *before, re.sub(r"\w+(?=(\.py)?$)", name, last, count=1), *flags])


def quoted(words: Sequence[str]) -> str:
    """The words as this system's shell takes them, on one line: `$'a\\nb'` with a newline inside, as `ls` does."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    escaped = word.replace("\\", r"\\").replace("'", r"\'")
    return f"$'{printable(escaped)}'"


def this_python() -> str:
    """This interpreter as a person in this folder would type it."""
    return _as_typed(sys.executable)


def _as_typed(executable: str) -> str:
    """Its name where the shell finds it by that, a relative path where it lies below the current folder."""
    path = Path(executable)
    on_path = shutil.which(path.name)
    if on_path is not None and _without_exe(on_path) == _without_exe(executable):
        return path.name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else executable


def _without_exe(executable: str) -> str:
    return os.path.normcase(executable).removesuffix(".exe")


@contextlib.contextmanager
def starting_others(launcher: object, resume: Path, sentence: str) -> Iterator[None]:
    """Makes the processes that this launcher of Lightning's starts, if any, resume what this one has chosen, and this
    one end when they do.

    Code of somebody else's that called `fit` is started again as Lightning does it, and calls `fit` again.
    """
    from lightning.pytorch.strategies.launchers import subprocess_script

    # Private, all three, for want of anything public: Lightning offers no launcher to derive from, and neither the
    # command that it starts processes with nor what watches over them can be set.
    lightnings: Any = subprocess_script
    if not isinstance(launcher, lightnings._SubprocessScriptLauncher):
        yield
        return
    before = lightnings._basic_subprocess_cmd, lightnings._launch_process_observer
    os.environ[_PARENT] = str(os.getpid())
    if _command is not None:
        # Lightning's command repeats sys.argv: each process would start a run of its own.
        is_python = _command[0] == sys.executable
        start = [_command[0]] if is_python else [sys.executable, "-m", __name__.partition(".")[0]]
        command = [*start, *_command[1:], "--resume", str(resume)]
        lightnings._basic_subprocess_cmd = lambda: command

    def watch(child_processes: list[subprocess.Popen[bytes]]) -> None:
        # Lightning's own watch would kill this process without a word.
        _end_when(lambda: any(child.poll() for child in child_processes), sentence, child_processes)

    lightnings._launch_process_observer = watch
    try:
        yield
    finally:
        lightnings._basic_subprocess_cmd, lightnings._launch_process_observer = before
        del os.environ[_PARENT]


def end_with_parent(sentence: str) -> None:
    """Ends this process with that sentence once the one that started it is gone, which may be before they have met."""
    # On Windows a process keeps the number of a parent that is gone, and in a virtual environment has another one.
    if rank() != 0 and _PARENT in os.environ and sys.platform != "win32":
        parent = int(os.environ[_PARENT])
        _end_when(lambda: os.getppid() != parent, sentence, [])


def _end_when(ended: Callable[[], bool], sentence: str, children: list[subprocess.Popen[bytes]]) -> None:
    def watch() -> None:
        while not ended():
            time.sleep(0.5)
        time.sleep(2)  # where processes talk to each other, the main thread notices, and says it, by itself
        print(sentence, file=sys.stderr, flush=True)
        for child in children:
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
