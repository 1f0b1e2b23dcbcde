"""What every command shares: its parser, and what it says when something goes wrong."""

from __future__ import annotations

import ast
import contextlib
import difflib
import errno
import importlib.metadata
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from logreg_lightning.errors import InputError, RunError
from logreg_lightning.runtime import processes, runs
from logreg_lightning.runtime.files import DENIED, FULL
from logreg_lightning.runtime.names import printable, shortened
from logreg_lightning.runtime.output import quiet, say
from logreg_lightning.runtime.processes import quoted, rank, started_by

LONGEST = 1000
"""Characters of a sentence at most: of what is longer, a list of thousands of classes say, the middle is left out."""

SIGPIPE = 13
"""Its number, which Python does not know on Windows."""


class Parser(ArgumentParser):
    """jsonargparse's, which reads settings as UTF-8 whatever the locale; a section without any has its defaults."""

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        content = Path(path).read_text("utf-8")
        with contextlib.suppress(yaml.YAMLError, AttributeError):  # which are told of below
            for name in yaml.safe_load(content).keys() - runs.without_empty(yaml.safe_load(content)).keys():
                content = re.sub(rf"^{name}:.*$", f"{name}: {{}}", content, flags=re.M)
        return cast(Namespace, self.parse_string(content, os.fspath(path), *args, **kwargs))


def new_parser(name: str, example: str, purpose: str) -> ArgumentParser:
    """The parser of the command of that name: its help starts with an example."""
    words = started_with(name)
    script = len(words) == 2 and words[1].endswith(".py")
    typed = f"python scripts/{name}.py" if script else f"logreg-lightning {name}"
    return Parser(
        prog=f"{name}.py" if script else typed,
        exit_on_error=False,
        allow_abbrev=False,
        version=f"logreg_lightning {importlib.metadata.version('logreg-lightning')}",
        description=f"Example: {typed} {example}. {purpose}",
    )


def started_with(name: str) -> list[str]:
    """The words before the flags that start the command of that name as this process was started."""
    program = Path(sys.argv[0])
    if program.name == f"{name}.py":
        return [sys.executable, sys.argv[0]]
    if program.stem == "logreg-lightning":
        return [sys.argv[0], name]
    return [sys.executable, "-m", "logreg_lightning", name]


def command(name: str, parser: ArgumentParser, run: Callable[[Namespace], None], argv: list[str] | None) -> None:
    """Runs the command of that name; an expected error ends it with one sentence and its exit status."""
    if argv is None:
        argv = sys.argv[1:]
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show must not end a run
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # what the starter ignores stays ignored
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside the training loop, which saves first, Ctrl-C ends
        # TensorBoard's thread hands its error, say a full disk, to the training, which says it; once is enough.
        threading.excepthook = _quiet_about_files
    try:
        try:
            with quiet(), started_by(started_with(name), argv):
                run(parser.parse_args(argv))
        except SystemExit:
            say("", end="")  # --help must be out too
            raise
    except InputError as error:
        _end(parser, 2, _with_flags(parser, str(error)))
    except (ArgumentError, UnicodeDecodeError) as error:
        _end(parser, 2, _sentence(parser, str(error), argv))
    except RunError as error:
        _end(parser, 1, _with_flags(parser, str(error)))
    except KeyboardInterrupt:
        # The others of a run stop with process 0, which tells how: to Lightning their failure would be a crash.
        sys.exit(128 + signal.SIGINT if rank() == 0 else 0)
    except BrokenPipeError:  # the reader, say `head`, has seen enough: as other commands end then
        _let_go()
        sys.exit(128 + SIGPIPE)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # which Python's questions about a path raise too
            _end(parser, 2, f"{error.filename}: no file system takes so long a name; use a shorter one")
        if error.errno not in DENIED | FULL or error.filename is None:
            raise
        status, remedy = (1, "make room, or use another place") if error.errno in FULL else (2, "get access to it")
        _end(parser, status, f"{error.filename} cannot be used ({error.strerror}); {remedy}")


def check_variables(name: str) -> None:
    """Ends the command of that name in a sentence where Lightning's import would be a traceback."""
    try:
        processes.check_variables()
    except InputError as error:
        _end(new_parser(name, "", ""), 2, str(error))


def settings_of_run(parser: ArgumentParser, argv: list[str] | None, folder: Path) -> Namespace:
    """The run's own settings under those on the command line; `fit` refuses what contradicts the run."""
    try:
        settings: Namespace = parser.parse_object(runs.read_config(folder), defaults=True)
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / 'config.yaml'} does not hold a run's settings ({reason}); fix it") from None
    settings.threads = None  # `fit` takes the run's where the run goes on in one process
    return settings.update(parser.parse_args(argv, defaults=False))


def _end(parser: ArgumentParser, status: int, sentence: str) -> None:
    with contextlib.suppress(OSError):
        print(f"{parser.prog}: error: {shortened(printable(sentence), LONGEST)}", file=sys.stderr)
    _let_go()
    sys.exit(status)


def _let_go() -> None:
    """Python would try once more at its end to write what an output did not take, and say so."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(io.UnsupportedOperation):  # it is no file
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _quiet_about_files(caught: threading.ExceptHookArgs) -> None:
    if not isinstance(caught.exc_value, OSError):
        threading.__excepthook__(caught)


def _flags(parser: ArgumentParser) -> list[str]:
    return re.findall(r"^ +(?:-h, )?(--[\w.]+)", parser.format_help(), re.M)  # argparse has no public list of them


def _with_flags(parser: ArgumentParser, message: str) -> str:
    """The message with `lr` and `dataset='digits'` as --model.lr and --data.dataset digits."""
    by_parameter = {re.split(r"[-.]", flag)[-1]: flag for flag in _flags(parser)}

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in by_parameter:
            return match[0]
        if value is not None and value[:1] in ("'", '"'):
            value = quoted([ast.literal_eval(value)])
        return by_parameter[name] + (f" {value}" if value is not None else "")

    return re.sub(r"`(\w+)(?:=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^`]*))?`", flag, message)


def _alternatives(types: str) -> str:
    """`<class 'float'>, typing.Literal['auto']` as `a number or auto`."""
    named = {"float": "a number", "int": "a whole number", "str": "a text"}
    kinds = [named.get(kind, words) for kind, words in re.findall(r"<class '(\w+)'>|Literal\[([^\]]*)\]", types)]
    return " or ".join(words.replace("'", "") for words in kinds if words)


def _meant(typed: str, flags: list[str]) -> list[str]:
    """The flags of the same last word, `--lr` for --model.lr; else of its initials; else the one spelt most like it."""
    last = typed.split(".")[-1].replace("-", "_").casefold()
    initials = "".join(word[:1] for word in last.split("_"))  # learning_rate is lr
    for name in (last, initials):
        if same := [flag for flag in flags if re.split(r"--|\.", flag)[-1] == name]:
            return same
    return difflib.get_close_matches(f"--{typed}", flags, n=1)


def _sentence(parser: ArgumentParser, message: str, words: list[str]) -> str:
    """One line, with flags as they are typed, the settings file that did not parse, the flag that was meant."""
    message = re.sub(r'Parser key "([\w.]+)"', r"--\1", " ".join(_with_flags(parser, message).split()))
    message = re.sub(
        r"(--[\w.]+): Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors:.* value: (.*)",
        lambda match: f"{match[1]} must be {_alternatives(match[2])}, not {match[3]}",
        message,
    )
    if files := [word.removeprefix("--config=") for word in words if word.endswith((".yaml", ".yml"))]:
        broken = f"{' or '.join(files)} is not YAML: \\g<0>"
        message = re.sub(r"Problems parsing config|^'utf-8' codec", broken, message)
    unknown = re.search(r"--?([\w.-]+)", message) if message.lower().startswith("unrecognized arguments") else None
    if unknown:
        near = _meant(unknown[1], _flags(parser))
        message += f"; did you mean {' or '.join(near)}?" if near else "; --help lists the flags"
    return message
