"""What a person is told when the input is wrong: one sentence and exit status 2, never a traceback."""

from __future__ import annotations


class InputError(Exception):
    """Something given from outside cannot be used: its message says what, where, and what to do."""
