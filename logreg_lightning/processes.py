"""The processes of one run: which one this is, how the others learn what to do, and that they end together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities import rank_zero_only

_PARENT = "LOGREG_LIGHTNING_PARENT"


def rank() -> int:
    """This process's number among those of a run, known before they have met."""
    return int(getattr(rank_zero_only, "rank", 0))


@rank_zero_only
def say(text: str) -> None:
    """Prints once, whatever the number of processes."""
    print(text, flush=True)


def prepare_to_start_others(resume: Path, sentence: str) -> None:
    """Makes those that Lightning starts, with this process's command line, go on with what this one has chosen.

    If one of them ends before its time, this one ends too, with that sentence: Lightning would kill it without a word.
    """
    sys.argv[1:] = ["--resume", str(resume)]
    os.environ[_PARENT] = str(os.getpid())

    def watch(child_processes: list[subprocess.Popen[bytes]]) -> None:
        _end_when(lambda: any(child.poll() for child in child_processes), sentence, child_processes)

    subprocess_script._launch_process_observer = watch  # type: ignore[attr-defined]


def end_with_parent(sentence: str) -> None:
    """Ends this process with that sentence once the one that started it is gone, which may be before they have met."""
    if rank() != 0 and _PARENT in os.environ:
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
