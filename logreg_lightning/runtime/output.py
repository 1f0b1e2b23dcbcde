"""What is printed: each sentence once, on a line that no name breaks, and nothing of Lightning's between them."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import warnings
from collections.abc import Iterator

from logreg_lightning.runtime.names import printable
from logreg_lightning.runtime.processes import rank

_muted = contextvars.ContextVar("_muted", default=False)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """As long as it is entered, `print_once` says nothing."""
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)


def print_once(text: str) -> None:
    """Prints once, whatever the number of processes and whatever characters the output can show."""
    if rank() != 0 or _muted.get():
        return
    text = "\n".join(map(printable, text.split("\n")))
    try:
        say(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        say(text.encode(encoding, "backslashreplace").decode(encoding))


OUTPUT = "the output"
"""Name of what `say` writes to, in errors."""


def say(text: str, end: str = "\n") -> None:
    """Prints at once.

    Raises:
        OSError: the output cannot be written, BrokenPipeError if nobody reads it any more; `filename` is `OUTPUT`.
    """
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's and Pillow's own remarks from between the lines; their errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "PIL")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*|torchmetrics.*|PIL.*")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL if logger.name == "PIL" else logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
