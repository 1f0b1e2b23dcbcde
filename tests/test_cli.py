"""The command as a person types it: its help, its settings, its results, and what it says to wrong input."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import NAMES, fit, idx, refused, small_mnist, write_pictures

from logreg_lightning.fit import build_parser, main
from logreg_lightning.runtime.checkpoints import read
from logreg_lightning.runtime.files import locked

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
            main(shlex.split(command.partition(">")[0]))
        return
    if "--accelerator gpu" in command and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        with pytest.raises(SystemExit, match="2"):
            main(shlex.split(command))
        assert "--accelerator gpu" in capsys.readouterr().err
        return
    if "--data.dataset pets" in command:
        write_pictures(Path("pets"), 20)
    if "--num_nodes" in command:
        pytest.skip("needs several machines; test_processes.py runs torchrun on one")
    if "--devices" in command:
        pytest.skip("starts processes with the command line of pytest; test_processes.py runs it")
    if "--resume" in command:
        run = fit("--data.dataset=mnist", "--max_epochs=1")
        run.rename(run.with_name("version_3"))
    if "my.yaml" in command:
        Path("my.yaml").write_text("max_epochs: 1\n")
    main(shlex.split(command))
    assert "test/accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    "target", ["", "help", "setup", "fit", "test", "check", "soak", "bench", "format", "tensorboard"]
)
def test_make_targets_exist_and_are_listed(target: str) -> None:
    make = subprocess.run(["make", "-n", *target.split()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert make.returncode == 0, make.stderr
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^{target}\b", listed, re.M)


def test_print_config_round_trips(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--model.lr=0.5", "--data.dataset=digits", "--print_config"])
    text = capsys.readouterr().out
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(SystemExit, match="0"):
        main([f"--config={tmp_path / 'my.yaml'}", "--print_config"])
    assert capsys.readouterr().out == text
    assert yaml.safe_load(text)["model"]["lr"] == 0.5


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_configs_fit_the_flags_and_say_how_to_run_them(workdir: Path, config: Path) -> None:
    assert f"python scripts/fit.py --config configs/{config.name}" in config.read_text().partition("\nmax")[0]
    run = fit("--config", str(config), "--max_epochs=1")
    assert json.loads((run / "results.json").read_text())["dataset"] == "mnist"


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for action in build_parser()._actions:
        if action.option_strings and not action.option_strings[-1].endswith(("data", "model")):
            assert action.option_strings[-1] in text
            assert action.help and len(action.help) > 10, action.option_strings


def test_help_imports_nothing_that_it_does_not_use() -> None:
    code = "import sys, runpy; sys.argv = ['fit.py', '--help']\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "finally: print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True, check=True
    )
    imported = set(done.stderr.split())
    assert "lightning" in imported
    # torchmetrics, and so `import lightning`, brings matplotlib and torchvision.
    assert not imported & {"tensorboard", "torch.utils.tensorboard", "sklearn", "onnx", "pandas"}


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
    assert "training on scikit-learn's 8x8 digits instead" in capsys.readouterr().out
    assert json.loads((run / "results.json").read_text())["dataset"] == "digits"
    with pytest.raises(SystemExit, match="2"):
        main(["--data.dataset=mnist"])
    assert "Put its files" in capsys.readouterr().err


def test_resume_refuses_other_settings_and_says_when_finished(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(*QUICK)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit, match="2"):
        main(["--resume", str(run), "--model.lr=3"])
    assert "--model.lr" in capsys.readouterr().err
    main(["--resume", str(run / "checkpoints/last.ckpt")])
    assert "is finished" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


WRONG_VALUES = [
    ("--model.lr=-1", "--model.lr"),
    ("--model.lr=0", "--model.lr"),
    ("--model.lr=nan", "--model.lr"),
    ("--model.lr=inf", "--model.lr"),
    ("--model.lr=fast", "lr"),
    ("--model.momentum=1", "--model.momentum"),
    ("--model.momentum=-0.1", "--model.momentum"),
    ("--model.momentum=nan", "--model.momentum"),
    ("--model.momentum=much", "momentum"),
    ("--model.weight_decay=-1", "--model.weight_decay"),
    ("--model.weight_decay=nan", "--model.weight_decay"),
    ("--model.weight_decay=none", "weight_decay"),
    ("--model.schedule=wavy", "schedule"),
    ("--data.batch_size=0", "--data.batch_size"),
    ("--data.batch_size=-5", "--data.batch_size"),
    ("--data.batch_size=1.5", "batch_size"),
    ("--data.batch_size=nan", "batch_size"),
    ("--data.steps_per_execution=0", "--data.steps_per_execution"),
    ("--data.steps_per_execution=few", "steps_per_execution"),
    ("--data.val_size=-1", "--data.val_size"),
    ("--data.val_size=nan", "--data.val_size"),
    ("--data.val_size=1.5", "--data.val_size"),
    ("--data.val_size=1438", "--data.val_size"),
    ("--data.val_size=tenth", "val_size"),
    ("--data.dataset=cats", "--data.dataset cats"),
    ("--max_epochs=0", "--max_epochs"),
    ("--max_epochs=-1", "--max_epochs"),
    ("--max_epochs=nan", "max_epochs"),
    ("--max_epochs=ten", "max_epochs"),
    ("--max_steps=0", "--max_steps"),
    ("--val_check_interval=0", "--val_check_interval"),
    ("--seed=-1", "--seed"),
    ("--accelerator=abacus", "accelerator"),
    ("--strategy=fsdp", "strategy"),
    ("--precision=3", "precision"),
    ("--devices=0", "--devices"),
    ("--devices=-2", "--devices"),
    ("--devices=nan", "--devices"),
    ("--devices=some", "--devices"),
    ("--num_nodes=0", "--num_nodes"),
    ("--no_such_flag=1", "--no_such_flag"),
    ("--model.learning_rate=1", "did you mean --model.lr?"),
    ("--model.momentun=0.5", "did you mean --model.momentum?"),
    ("--max_epoch=5 extra", "extra"),
    ("--config=nowhere.yaml", "nowhere.yaml"),
    ("--config=broken.yaml", "broken.yaml"),
    ("--config=binary.yaml", "binary.yaml"),
    ("--config=unknown.yaml", "speling"),
    ("--config=nested.yaml", "momentun"),
    ("--resume=last", "no checkpoint found"),
    ("--resume=broken.ckpt", "no checkpoint found"),
    ("--resume=data", "not a run's folder"),
]


@pytest.mark.parametrize(("flags", "named"), WRONG_VALUES)
def test_wrong_values_get_one_sentence(
    workdir: Path, capsys: pytest.CaptureFixture[str], flags: str, named: str
) -> None:
    Path("broken.yaml").write_text("data: [\n")
    Path("binary.yaml").write_bytes(b"\x80\xff\x00")
    Path("unknown.yaml").write_text("speling: 1\n")
    Path("nested.yaml").write_text("model:\n  momentun: 1\n")
    default = [] if "dataset" in flags else ["--data.dataset=digits"]
    refused([*default, *flags.split()], named, capsys)
    assert not Path("lightning_logs").exists()


IMAGES, LABELS = (Path("data/MNIST/raw") / name for name in NAMES[:2])
WHOLE = gzip.compress(small_mnist()[NAMES[0]])
FLIPPED = WHOLE[:1000] + bytes([WHOLE[1000] ^ 1]) + WHOLE[1001:]


def gz(content: bytes) -> Callable[[], None]:
    """Leaves only .gz files, with this in place of the training images."""

    def damage() -> None:
        for file in list(IMAGES.parent.iterdir()):
            file.with_suffix(".gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        IMAGES.with_suffix(".gz").write_bytes(content)

    return damage


def raw(change: Callable[[bytes], bytes], file: Path = IMAGES) -> Callable[[], object]:
    return lambda: file.write_bytes(change(file.read_bytes()))


def images_are_a_folder() -> None:
    IMAGES.unlink()
    IMAGES.mkdir()


def root_is_a_file() -> None:
    shutil.rmtree("data")
    Path("data").write_text("")


def root_is_read_only() -> None:
    shutil.rmtree("data/MNIST")
    Path("data").chmod(0o500)


WRONG_FILES: dict[str, tuple[Callable[[], object], str]] = {
    "gz cut short": (gz(WHOLE[:-100]), "train-images-idx3-ubyte.gz"),
    "gz with a wrong byte": (gz(FLIPPED), "train-images-idx3-ubyte.gz"),
    "gz that is not gzip": (gz(b"<html>not found</html>"), "train-images-idx3-ubyte.gz"),
    "cut short": (raw(lambda content: content[:-1]), "where its header promises"),
    "empty": (raw(lambda content: b""), "not an IDX file"),
    "wrong magic": (raw(lambda content: b"\x01" + content[1:]), "not an IDX file"),
    "wrong type": (raw(lambda content: content[:2] + b"\x0d" + content[3:]), "type 0x0d"),
    "flat": (raw(lambda content: LABELS.read_bytes()), "does not hold images"),
    "more images than labels": (raw(lambda content: idx(np.zeros(599)), LABELS), "600 images but"),
    "label out of range": (raw(lambda content: idx(np.full(600, 10)), LABELS), "label 10, not one of 0 to 9"),
    "not to be read": (lambda: IMAGES.chmod(0), "Permission denied"),
    "a folder": (images_are_a_folder, "Is a directory"),
    "root a file": (root_is_a_file, "data"),
    "root read-only": (root_is_read_only, "Permission denied"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files_get_one_sentence(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_nobody: None, name: str
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    spoil, named = WRONG_FILES[name]
    spoil()
    denied = name == "not to be read"
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--data.dataset=mnist"])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0], lines
    assert denied or "data" in lines[0]
    assert not Path("lightning_logs").exists()


def test_runs_where_nothing_can_be_written(workdir: Path, capsys: pytest.CaptureFixture[str], as_nobody: None) -> None:
    Path().chmod(0o500)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(QUICK)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "lightning_logs cannot be written (Permission denied)" in lines[0]


@pytest.mark.parametrize(
    "flags",
    [
        "--data.batch_size=100",
        "--model.lr=3",
        "--data.dataset=digits",
        "--data.val_size=0",
        "--data.steps_per_execution=1",
        "--model.schedule=constant",
        "--seed=5",
        "--precision=64-true",
        "--config=other.yaml",
    ],
)
def test_resume_refuses_a_contradiction_by_name(workdir: Path, capsys: pytest.CaptureFixture[str], flags: str) -> None:
    Path("other.yaml").write_text("seed: 3\n")
    fit("--data.dataset=mnist", "--max_epochs=1")
    named = flags.partition("=")[0].replace("--config", "--seed")
    refused(["--resume=last", flags], f"{named} ", capsys)


def test_a_run_has_one_user(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(*QUICK)
    with locked(run, wait=False):
        refused(["--resume=last", "--max_epochs=2"], "is being trained by another process", capsys)
    assert fit("--resume=last", "--max_epochs=2") == run


def test_a_training_that_diverges_stops(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data.dataset=mnist", "--data.batch_size=4", "--model.lr=0.01", "--model.schedule=constant"]
    with pytest.raises(SystemExit, match=r"^1$"):
        main([*flags, "--model.lr=1e9"])
    printed = capsys.readouterr()
    assert re.search(
        r"diverged: the loss is .* at step 2; try a smaller --model.lr \(--model.lr is 1e\+09", printed.err
    )
    assert "Epoch" not in printed.out and len(printed.err.splitlines()) == 1
    assert not (Path("lightning_logs/version_0") / "results.json").exists()

    # A weight decay that overshoots grows the weights by a factor each step: this one takes some hundred steps.
    run = fit(*flags, "--max_epochs=1", "--model.weight_decay=201.5", "--model.momentum=0")
    before = (run / "checkpoints/last.ckpt").read_bytes()
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["--resume=last", "--max_epochs=100"])
    assert f"{run}/checkpoints/last.ckpt is complete" in capsys.readouterr().err
    after = read(run / "checkpoints/last.ckpt")
    assert torch.isfinite(after["state_dict"]["linear.weight"]).all()
    assert after["global_step"] > 135 and before != (run / "checkpoints/last.ckpt").read_bytes()


@pytest.mark.slow
def test_the_tutorial_on_real_mnist(real_mnist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--config", "configs/article.yaml")
    results = json.loads((run / "results.json").read_text())
    assert 0.81 <= results["test/accuracy"] <= 0.845
    assert (results["steps"], results["epochs"]) == (3000, 5)
    printed = re.findall(r"^Iteration: (\d+)\. Loss: \d\.\d\. Accuracy: (\d\d\.\d)\.$", capsys.readouterr().out, re.M)
    assert [int(step) for step, _ in printed] == [500, 1000, 1500, 2000, 2500, 3000]
    assert float(printed[-1][1]) == round(100 * results["test/accuracy"], 1)


@pytest.mark.slow
def test_the_default_on_real_mnist(real_mnist: Path) -> None:
    results = json.loads((fit() / "results.json").read_text())
    assert results["dataset"] == "mnist"
    assert results["test/accuracy"] > 0.919  # one seed: three standard deviations of the test set below the mean
