"""The package as people get it: a wheel in a fresh environment, its commands typed in a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import results_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's folder of commands; only what this project depends on is lent from the one that tests."""
    folder = tmp_path_factory.mktemp("wheel env")  # with a space, as people have them
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    scripts = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder), "platbase": str(folder)}))
    library = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (library / "lent.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in tracked.stdout.decode().split("\n"):
        if name.startswith(("logreg_lightning/", "pyproject.toml", "README.md", "LICENSE")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", "--no-build-isolation", "--no-index", source], check=True)
    return scripts


def shell(environment: Path, command: str) -> str:
    """What a command prints that is typed with the environment activated."""
    env = {**os.environ, "PATH": f"{environment}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", ["logreg-lightning", "python -m logreg_lightning"])
def test_its_commands_do_what_the_scripts_do(workdir: Path, environment: Path, program: str) -> None:
    flags = "--data.dataset=mnist --accelerator=cpu --devices=2 --pictures=false --max_epochs=1"
    printed = shell(environment, f"{program} fit {flags}")
    longer = re.search(r"Train longer with: +(.*)$", printed, re.M)
    assert longer is not None and longer[1].startswith(f"{program} fit --resume"), printed
    assert [path.name for path in Path("lightning_logs").iterdir()] == ["version_0"]
    results = results_of(Path("lightning_logs/version_0"))
    assert (results["epochs"], results["devices"]) == (1, 2)
    assert results["versions"]["git_commit"] is None  # it ran from the wheel, not from this checkout
    if program == "logreg-lightning":
        shell(environment, f"{longer[1]} --devices=1")
        results = results_of(Path("lightning_logs/version_0"))
        assert (results["epochs"], results["devices"]) == (2, 1)
        assert json.loads(shell(environment, f"{program} evaluate last --json"))["accuracy"] == results["test/accuracy"]
        picture = ROOT / "docs" / "pictures" / "my.png"
        assert shell(environment, f'{program} predict last "{picture}" --digit --format csv').startswith("path,class")
        shell(environment, f"{program} export last page.html")
        assert "logreg.predict" in Path("page.html").read_text(encoding="utf-8")


def test_it_says_which_commands_there_are(environment: Path) -> None:
    printed = shell(environment, "logreg-lightning --help")
    assert all(f"\n  {name} " in printed for name in ("fit", "sweep", "evaluate", "predict", "export"))
    assert "usage: logreg-lightning fit" in shell(environment, "logreg-lightning fit --help")
    wrong = subprocess.run([environment / "logreg-lightning", "fti"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr == (
        "logreg-lightning: error: no command fti; use one of fit, sweep, evaluate, predict, export\n"
    )
