"""Expected errors: each message is one sentence that says what was wrong, where, and what to do.

In a message, a parameter stands in backticks, alone or with its value: `lr`, `dataset='digits'`. The command line shows
the flag in its place: --model.lr, --data.dataset digits.
"""

from __future__ import annotations

import signal


class InputError(ValueError):
    """A parameter, a file or a folder that cannot be used. Exit status 2."""


class RunError(Exception):
    """A run that cannot continue: it diverged, a disk is full, a process is gone. Exit status 1."""


class Stopped(Exception):
    """A run that a signal ended after it was saved. Exit status 128 + the signal's number."""

    def __init__(self, signum: int, step: int) -> None:
        self.signum = signum
        super().__init__(f"Stopped by {signal.Signals(signum).name}, saved at step {step}")
