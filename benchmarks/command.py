"""The whole command, its help, a wrong flag and a prediction, against Python that only imports what each needs."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import ENVIRONMENT, FIT, QUICK, ROOT, Measured, in_turns, mnist, seconds_of
from benchmarks.report import median, ratios, section, timings

PREDICT = [sys.executable, str(ROOT / "scripts" / "predict.py")]
PICTURE = str(ROOT / "docs" / "pictures" / "my.png")


def measure(root: str, repeats: int, quick: bool) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*FIT, *mnist(root), *QUICK], cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
        run = str(Path(folder) / "lightning_logs" / "version_0")
        commands = {
            'python -c "import lightning, torchvision"': [sys.executable, "-c", "import lightning, torchvision"],
            'python -c "import lightning"': [sys.executable, "-c", "import lightning"],
            'python -c "import torch"': [sys.executable, "-c", "import torch"],
            "scripts/fit.py": [*FIT, *mnist(root)],
            "scripts/fit.py --help": [*FIT, "--help"],
            "scripts/fit.py --no_such_flag 1": [*FIT, "--no_such_flag", "1"],
            "scripts/predict.py last my.png --digit": [*PREDICT, run, PICTURE, "--digit"],
        }
        return in_turns({name: (seconds_of, *command) for name, command in commands.items()}, repeats)


def table(measured: Measured) -> str:
    both, lightning, torch, whole, help_, wrong, predict = (median(runs, "whole") for runs in measured.values())
    return section(
        "The whole command on MNIST",
        timings(*((f"`{name}`", runs, "whole") for name, runs in measured.items())),
        ratios(
            ("command / imports", whole / both, "at most 2.0, target 1.5"),
            ("`--help` / `import lightning`", help_ / lightning, "at most 1.2"),
            ("wrong flag / `import lightning`", wrong / lightning, "at most 1.2"),
            ("prediction, but for half a second / `import torch`", (predict - 0.5) / torch, "at most 1.4"),
        ),
    )
