"""How many CPU threads compute, and how long they wait for each other; which of a process's own threads may train.

To be imported before torch.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

SPIN = "30000"
"""Turns for which a thread waits for another before it lets go of its core. By itself libgomp, which torch has on
Linux, waits ten times as long: on two cores MNIST's default recipe took 1.49 s with that and 1.45 s with this on an
idle machine, 8.7 s and 4.3 s beside two busy processes."""

WORK_PER_THREAD = 400_000
"""Multiplications in an optimiser step (batch size x features x classes) that are worth a thread."""

# libgomp reads this once, when torch loads it; what the environment says otherwise comes first.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = SPIN
    import torch

    del os.environ["GOMP_SPINCOUNT"]
else:
    import torch


_one_of = threading.RLock()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Entered by one of a process's own threads at a time; the next one waits until that one leaves.

    A training needs what a process has one of: torch's seed and number of threads, the environment, warnings, what is
    put in place of Lightning's functions. A wait in the main thread ends with Ctrl-C.
    """
    with _one_of:
        yield


drawing = threading.RLock()
"""Held while a model draws its first weights from the one generator that torch has, by any thread."""


def threads_for(work: int) -> int:
    """As many threads as an optimiser step of so many multiplications is worth, at most those that torch has.

    Where the environment sets OMP_NUM_THREADS, those that torch has.
    """
    available = torch.get_num_threads()
    return available if "OMP_NUM_THREADS" in os.environ else max(1, min(available, round(work / WORK_PER_THREAD)))


@contextlib.contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Computes with so many threads, in this process and, by their environment, in those that it starts.

    None changes nothing; a number is set by one thread of this process at a time, see `alone`.
    """
    if threads is None:
        yield
        return
    with alone():
        before, environment = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            os.environ.pop("OMP_NUM_THREADS")
            if environment is not None:
                os.environ["OMP_NUM_THREADS"] = environment
