"""The whole command, its help and a wrong flag, against Python that only imports what the command needs."""

import sys

from benchmarks.measure import FIT, Measured, in_turns, mnist, seconds_of
from benchmarks.report import median, ratios, section, timings


def measure(root: str, repeats: int, quick: bool) -> Measured:
    commands = {
        'python -c "import lightning, torchvision"': [sys.executable, "-c", "import lightning, torchvision"],
        'python -c "import lightning"': [sys.executable, "-c", "import lightning"],
        "scripts/fit.py": [*FIT, *mnist(root)],
        "scripts/fit.py --help": [*FIT, "--help"],
        "scripts/fit.py --no_such_flag 1": [*FIT, "--no_such_flag", "1"],
    }
    return in_turns({name: (seconds_of, *command) for name, command in commands.items()}, repeats)


def table(measured: Measured) -> str:
    both, lightning, whole, asked, wrong = (median(runs, "whole") for runs in measured.values())
    return section(
        "The whole command on MNIST",
        timings(*((f"`{name}`", runs, "whole") for name, runs in measured.items())),
        ratios(
            ("command / imports", whole / both, "at most 2.0, aim 1.5"),
            ("`--help` / `import lightning`", asked / lightning, "at most 1.2"),
            ("wrong flag / `import lightning`", wrong / lightning, "at most 1.2"),
        ),
    )
