"""What a person is told when something goes wrong that is no bug: one sentence, never a traceback."""

from __future__ import annotations

import signal


class InputError(Exception):
    """Something given from outside cannot be used: its message says what, where, and what to do. Exit status 2."""


class RunError(Exception):
    """A run that cannot go on: its message says why and what to try. Exit status 1."""


class Stopped(Exception):
    """A run that a signal ended after it was saved. Exit status 128 + the signal's number."""

    def __init__(self, signum: int, step: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name} and saved at step {step}")
