"""All commands in one: `logreg-lightning fit`, or `python -m logreg_lightning fit`, does what `scripts/fit.py` does."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version

from logreg_lightning import cli

COMMANDS = {
    "fit": "train, or resume a run",
    "sweep": "train many settings at once",
    "evaluate": "show a trained model's metrics",
    "predict": "predict the classes of pictures",
    "export": "write a trained model as an ONNX file, or as a page to draw a digit on",
}


def run(name: str) -> None:
    """Runs the command of that name with the words after its own; what it needs is imported no earlier."""
    cli.check_variables(name)
    folder = "" if name in ("fit", "sweep") else "use."
    importlib.import_module(f"logreg_lightning.{folder}{name}").main()


def main() -> None:
    """Runs the command that the first word names with the words after it."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.argv[1:] = words
        run(name)
    elif name in ("-h", "--help"):
        lines = (f"  {command:<10}{does}" for command, does in COMMANDS.items())
        print("usage: logreg-lightning COMMAND ...\n", *lines, "\nlogreg-lightning COMMAND --help", sep="\n")
    elif name == "--version":
        print(f"logreg_lightning {version('logreg-lightning')}")
    else:
        print(f"logreg-lightning: error: no command {name}; use one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
