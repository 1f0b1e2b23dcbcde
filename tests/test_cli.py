"""The command as a person types it: its help, its settings, its results, and what it says to wrong input."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import fit

from logreg_lightning import cli

ROOT = Path(__file__).parents[1]
QUICK = ["--data.dataset=digits", "--max_epochs=1"]


def documented() -> list[str]:
    """Every `python scripts/fit.py` command in README.md and in the script's docstring."""
    text = (ROOT / "README.md").read_text() + (ROOT / "scripts/fit.py").read_text()
    commands = re.findall(r"^ *python scripts/fit\.py(.*?)(?:#.*)?$", text, re.M)
    assert len(commands) > 8
    return sorted({command.strip() for command in commands})


@pytest.mark.parametrize("command", documented())
def test_documented_commands_run(workdir: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if "--print_config" in command or "--help" in command:
        with pytest.raises(SystemExit, match="0"):
            cli.main(shlex.split(command.partition(">")[0]))
        return
    if "--accelerator gpu" in command and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        with pytest.raises(SystemExit, match="2"):
            cli.main(shlex.split(command))
        assert "--accelerator gpu" in capsys.readouterr().err
        return
    if "--resume" in command:
        run = fit("--data.dataset=mnist", "--max_epochs=1")
        run.rename(run.with_name("version_3"))
    if "my.yaml" in command:
        Path("my.yaml").write_text("max_epochs: 1\n")
    cli.main(shlex.split(command))
    assert "test/accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["", "help", "setup", "fit", "test", "format", "tensorboard"])
def test_make_targets_exist_and_are_listed(target: str) -> None:
    make = subprocess.run(["make", "-n", *target.split()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert make.returncode == 0, make.stderr
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^{target}\b", listed, re.M)


def test_print_config_round_trips(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--model.lr=0.5", "--data.dataset=digits", "--print_config"])
    text = capsys.readouterr().out
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(SystemExit, match="0"):
        cli.main([f"--config={tmp_path / 'my.yaml'}", "--print_config"])
    assert capsys.readouterr().out == text
    assert yaml.safe_load(text)["model"]["lr"] == 0.5


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_configs_fit_the_flags_and_say_how_to_run_them(workdir: Path, config: Path) -> None:
    assert f"python scripts/fit.py --config configs/{config.name}" in config.read_text().partition("\nmax")[0]
    run = fit("--config", str(config), "--max_epochs=1")
    assert json.loads((run / "results.json").read_text())["dataset"] == "mnist"


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for action in cli.build_parser()._actions:
        if action.option_strings and not action.option_strings[-1].endswith(("data", "model")):
            assert action.option_strings[-1] in text
            assert action.help and len(action.help) > 10, action.option_strings


def test_a_runs_config_repeats_it(workdir: Path) -> None:
    first = fit(*QUICK, "--model.lr=0.05", "--seed=7")
    second = fit("--config", str(first / "config.yaml"))
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    keys = ("test/loss", "test/accuracy", "val/loss", "seed", "steps", "dataset")
    one, two = (json.loads((run / "results.json").read_text()) for run in (first, second))
    assert {key: one[key] for key in keys} == {key: two[key] for key in keys}
    assert yaml.safe_load((first / "hparams.yaml").read_text())["lr"] == 0.05


def test_auto_says_that_it_takes_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    run = fit("--max_epochs=1")
    assert "TRAINING ON THE 8x8 DIGITS" in capsys.readouterr().out
    assert json.loads((run / "results.json").read_text())["dataset"] == "digits"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["--data.dataset=mnist"])
    assert "Put its files" in capsys.readouterr().err


def test_resume_refuses_other_settings_and_says_when_finished(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(*QUICK)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit, match="2"):
        cli.main(["--resume", str(run), "--model.lr=3"])
    assert "--model.lr" in capsys.readouterr().err
    cli.main(["--resume", str(run / "checkpoints/last.ckpt")])
    assert "is finished" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--model.lr=-1", "--model.lr"),
        ("--model.lr=nan", "--model.lr"),
        ("--model.lr=fast", "lr"),
        ("--model.momentum=1", "--model.momentum"),
        ("--model.weight_decay=-1", "--model.weight_decay"),
        ("--model.schedule=wavy", "schedule"),
        ("--data.batch_size=0", "--data.batch_size"),
        ("--data.steps_per_execution=0", "--data.steps_per_execution"),
        ("--data.val_size=-1", "--data.val_size"),
        ("--data.val_size=1.5", "--data.val_size"),
        ("--data.val_size=1438", "--data.val_size"),
        ("--data.dataset=cats", "--data.dataset cats"),
        ("--max_epochs=0", "--max_epochs"),
        ("--max_steps=0", "--max_steps"),
        ("--val_check_interval=0", "--val_check_interval"),
        ("--accelerator=abacus", "accelerator"),
        ("--precision=3", "precision"),
        ("--devices=0", "--devices"),
        ("--no_such_flag=1", "--no_such_flag"),
        ("--config=nowhere.yaml", "nowhere.yaml"),
        ("--config=broken.yaml", "broken.yaml"),
        ("--config=unknown.yaml", "speling"),
        ("--resume=last", "nothing to resume"),
        ("--resume=broken.ckpt", "nothing to resume"),
    ],
)
def test_wrong_input_gets_one_sentence(
    workdir: Path, capsys: pytest.CaptureFixture[str], flags: str, named: str
) -> None:
    Path("broken.yaml").write_text("data: [\n")
    Path("unknown.yaml").write_text("speling: 1\n")
    default = [] if "dataset" in flags else ["--data.dataset=digits"]
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main([*default, *flags.split()])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]
    assert not Path("lightning_logs").exists()


def test_the_tutorial_on_real_mnist(real_mnist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--config", "configs/article.yaml")
    results = json.loads((run / "results.json").read_text())
    assert 0.81 <= results["test/accuracy"] <= 0.845
    assert (results["steps"], results["epochs"]) == (3000, 5)
    printed = re.findall(r"^Iteration: (\d+)\. Loss: \d\.\d\. Accuracy: (\d\d\.\d)\.$", capsys.readouterr().out, re.M)
    assert [int(step) for step, _ in printed] == [500, 1000, 1500, 2000, 2500, 3000]
    assert float(printed[-1][1]) == round(100 * results["test/accuracy"], 1)


def test_the_default_on_real_mnist(real_mnist: Path) -> None:
    results = json.loads((fit() / "results.json").read_text())
    assert results["dataset"] == "mnist"
    assert results["test/accuracy"] > 0.919  # one seed: three standard deviations of the test set below the mean
