"""The command as a person types it: its help, its settings, its results, and what it says to wrong input."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from conftest import (
    NAMES,
    SCRIPTS,
    Capsys,
    Patch,
    config_of,
    contents,
    documented,
    fit,
    idx,
    not_on_windows,
    outcome,
    refused,
    results_of,
    run_script,
    said_by,
    small_mnist,
    write_pictures,
)
from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

import logreg_lightning
from logreg_lightning.__main__ import COMMANDS
from logreg_lightning.__main__ import main as main_of_all
from logreg_lightning.errors import InputError
from logreg_lightning.fit import build_parser, main
from logreg_lightning.fit import fit as fit_in_python
from logreg_lightning.runtime.checkpoints import read
from logreg_lightning.runtime.files import locked
from logreg_lightning.sweep import main as sweep
from logreg_lightning.use import evaluate, predict

ROOT = Path(__file__).parents[1]
QUICK = ["--data.dataset=digits", "--max_epochs=1"]


@pytest.mark.slow
@pytest.mark.parametrize("command", documented("fit.py"))
def test_documented_commands_run(workdir: Path, command: str, capsys: Capsys) -> None:
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
        Path("my.yaml").write_text("max_epochs: 1\n", encoding="utf-8")
    main(shlex.split(command))
    assert "test/accuracy" in capsys.readouterr().out


@not_on_windows("make and its shell are not there")
def test_make_targets_exist_and_are_listed() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("help", "setup", "fit", "test", "check", "soak", "bench", "docs", "format", "tensorboard"):
        make = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert make.returncode == 0 and re.search(rf"^{target}\b", listed, re.M), make.stderr


def test_print_config_round_trips(capsys: Capsys, tmp_path: Path) -> None:
    text = said_by(main, ["--model.lr=0.5", "--data.dataset=digits", "--print_config"], capsys)
    (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
    assert said_by(main, [f"--config={tmp_path / 'my.yaml'}", "--print_config"], capsys) == text
    assert yaml.safe_load(text)["model"]["lr"] == 0.5


def test_configs_say_how_to_run_them() -> None:
    """And do run, for these are commands of `documented`."""
    for config in set((ROOT / "configs").glob("*.yaml")) - {ROOT / "configs" / "probe.yaml"}:  # which is a sweep's
        example = f"python scripts/fit.py --config configs/{config.name}"
        assert example in config.read_text(encoding="utf-8").partition("\nmax")[0]


def test_help_explains_every_flag(capsys: Capsys) -> None:
    printed = said_by(main, ["--help"], capsys)
    explained = dict(re.findall(r"^  (?:-h, )?(--[\w.]+)(.*\n(?: {4,}.*\n)*)", printed, re.M))
    flags = vars(build_parser().get_defaults().as_flat()).keys() | {"help", "version", "print_config"}
    for flag in flags:
        # What stands between the flag's values and its type, which jsonargparse adds.
        _, *words = explained[f"--{flag}"].partition("(type: ")[0].split()
        assert len(" ".join(words)) > 10, flag


@pytest.fixture
def no_mirror(monkeypatch: Patch) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])


def test_auto_says_that_it_takes_digits(tmp_path: Path, monkeypatch: Patch, no_mirror: None, capsys: Capsys) -> None:
    monkeypatch.chdir(tmp_path)
    run = fit("--max_epochs=1")
    assert "training on scikit-learn's 8x8 digits instead" in capsys.readouterr().out
    assert results_of(run)["dataset"] == "digits"
    with pytest.raises(SystemExit, match="2"):
        main(["--data.dataset=mnist"])
    assert "Put its files" in capsys.readouterr().err


NAMED = """
--model.lr=-1 --model.lr=0 --model.lr=nan --model.lr=inf --model.momentum=1 --model.momentum=-0.1 --model.momentum=nan
--model.weight_decay=-1 --model.weight_decay=nan --data.batch_size=0 --data.batch_size=-5 --data.steps_per_execution=0
--data.val_size=-1 --data.val_size=nan --data.val_size=1.5 --data.val_size=1438 --max_epochs=0 --max_epochs=-1
--max_steps=0 --val_check_interval=0 --seed=-1 --devices=0 --devices=-2 --devices=nan --devices=some --num_nodes=0
--threads=0 --no_such_flag=1
"""
MISTYPED = """
--model.momentum=much --model.weight_decay=none --model.schedule=wavy --data.batch_size=1.5
--data.batch_size=nan --data.steps_per_execution=few --data.val_size=tenth --max_epochs=nan --max_epochs=ten
--accelerator=abacus --strategy=fsdp --precision=3
"""
WRONG_VALUES = [
    *((flag, flag.partition("=")[0]) for flag in NAMED.split()),
    *((flag, re.split(r"--|\.|=", flag)[-2]) for flag in MISTYPED.split()),
    ("--data.dataset=cats", "--data.dataset cats"),
    ("--threads=many", "--threads must be a whole number, not many"),
    ("--model.lr=fast", "--model.lr must be a number or auto, not fast"),
    ("--model.class_weight=fair", "--model.class_weight must be balanced, not fair"),
    ("--model.learning_rate=1", "did you mean --model.lr?"),
    ("--lr=0.1", "did you mean --model.lr?"),
    ("--lr 0.1", "did you mean --model.lr?"),
    ("--LR=0.1", "did you mean --model.lr?"),
    ("--data.lr=0.1", "did you mean --model.lr?"),
    ("--dataset=mnist", "did you mean --data.dataset?"),
    ("--batch-size 8", "did you mean --data.batch_size?"),
    ("--model.max_epochs=8", "did you mean --max_epochs?"),
    ("--root=elsewhere", "did you mean --data.root?"),
    ("--epochs=8", "did you mean --max_epochs?"),
    ("--zzz=1", "--help lists the flags"),
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
def test_wrong_values_get_one_sentence(workdir: Path, capsys: Capsys, flags: str, named: str) -> None:
    Path("broken.yaml").write_text("data: [\n", encoding="utf-8")
    Path("binary.yaml").write_bytes(b"\x80\xff\x00")
    Path("unknown.yaml").write_text("speling: 1\n", encoding="utf-8")
    Path("nested.yaml").write_text("model:\n  momentun: 1\n", encoding="utf-8")
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
    Path("data").write_text("", encoding="utf-8")


def root_is_read_only() -> None:
    shutil.rmtree("data/MNIST")
    Path("data").chmod(0o500)


WRONG_FILES: dict[str, tuple[Callable[[], object], str]] = {
    "gz cut short": (gz(WHOLE[:-100]), "train-images-idx3-ubyte.gz"),
    "gz with a wrong byte": (gz(FLIPPED), "train-images-idx3-ubyte.gz"),
    "gz that is not gzip": (gz(b"<html>not found</html>"), "train-images-idx3-ubyte.gz"),
    "cut short": (raw(lambda content: content[:-1]), "where its header promises"),
    "flat": (raw(lambda content: LABELS.read_bytes()), "does not hold images"),
    "more images than labels": (raw(lambda content: idx(np.zeros(599)), LABELS), "600 images but"),
    "label out of range": (raw(lambda content: idx(np.full(600, 10)), LABELS), "label 10, not one of 0 to 9"),
    "a folder": (images_are_a_folder, "Permission denied" if sys.platform == "win32" else "Is a directory"),
    "root a file": (root_is_a_file, "data"),
}
DENIED_FILES: dict[str, Callable[[], object]] = {
    "not to be read": lambda: IMAGES.chmod(0),
    "root read-only": root_is_read_only,
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files_get_one_sentence(workdir: Path, no_mirror: None, capsys: Capsys, name: str) -> None:
    spoil, named = WRONG_FILES[name]
    spoil()
    refused(["--data.dataset=mnist"], named, capsys)
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize("name", DENIED_FILES)
def test_denied_files_get_one_sentence(
    workdir: Path, no_mirror: None, capsys: Capsys, as_nobody: None, name: str
) -> None:
    DENIED_FILES[name]()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--data.dataset=mnist"])
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "Permission denied" in line and "data" in line and not Path("lightning_logs").exists()


def test_runs_where_nothing_can_be_written(workdir: Path, capsys: Capsys, as_nobody: None) -> None:
    Path().chmod(0o500)
    refused(QUICK, "lightning_logs cannot be written (Permission denied)", capsys)


class Failing(io.StringIO):
    """An output that takes so many lines and then fails as the system does."""

    def __init__(self, lines: int, number: int) -> None:
        super().__init__()
        self.lines, self.number = lines, number

    def flush(self) -> None:
        if self.getvalue().count("\n") > self.lines:
            raise OSError(self.number, os.strerror(self.number))


NOT_WRITABLE = [(errno.EPIPE, 141), (errno.ENOSPC, 1), (errno.EIO, 1)]


@pytest.mark.parametrize(("number", "status"), NOT_WRITABLE)
def test_an_output_that_fails_never_looks_like_success(
    workdir: Path, capsys: Capsys, monkeypatch: Patch, number: int, status: int
) -> None:
    flags = ["--data.dataset=digits", "--max_epochs=3", "--pictures=false"]
    whole = outcome(fit(*flags))
    shutil.rmtree("lightning_logs")
    for words in (["--help"], ["--print_config"], flags):
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match=rf"^{status}$"):
            patch.setattr(sys, "stdout", Failing(0, number))
            main(words)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (status == 1)
        assert all(f"error: the output cannot be used ({os.strerror(number)}); " in line for line in lines)
    assert not Path("lightning_logs").exists()

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match=r"^1$"):
        patch.setattr(sys, "stdout", Failing(4, number))
        main(flags)
    [line] = capsys.readouterr().err.splitlines()
    assert f"the output cannot be written ({os.strerror(number)}); what was saved before is complete" in line
    assert "--resume lightning_logs/version_0" in line.replace(os.sep, "/")
    assert outcome(fit("--resume=last")) == whole

    PIL.Image.new("L", (9, 9)).save("one.png")
    for other, words in ((evaluate.main, ["last", "--json"]), (predict.main, ["last", "one.png"])):
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match=rf"^{status}$"):
            patch.setattr(sys, "stdout", Failing(0, number))
            other(words)


@pytest.mark.slow
@not_on_windows("there is no /dev/full")
def test_a_process_whose_output_fails_never_looks_like_success(workdir: Path) -> None:
    script = shlex.join([sys.executable, str(SCRIPTS / "fit.py"), *QUICK])
    for command, status in ((f"{script} | true", 141), (f"{script} --help > /dev/full", 1)):
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == status and len(done.stderr.splitlines()) == (status == 1), done.stderr


LEFT_OVER = [
    ({"RANK": "1"}, "RANK=1", 1),
    ({"RANK": "1", "WORLD_SIZE": "2"}, "RANK=1", 2),
    ({"RANK": "0"}, "RANK=0", 2),
    ({"LOCAL_RANK": "0"}, "LOCAL_RANK=0", 2),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1", 1),
    ({"SLURM_PROCID": "3"}, "SLURM_PROCID=3", 1),
]


@pytest.mark.parametrize(("variables", "named", "devices"), LEFT_OVER, ids=str)
def test_what_a_launcher_left_in_the_environment_is_refused(
    workdir: Path, capsys: Capsys, monkeypatch: Patch, variables: dict[str, str], named: str, devices: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", _get_rank())  # as Lightning does on import
    for command in (main, sweep):
        refused([*QUICK, f"--devices={devices}", "--accelerator=cpu"], f"error: {named} in the env", capsys, command)
    assert not Path("lightning_logs").exists()


NO_NUMBERS = [("RANK", "x"), ("LOCAL_RANK", "abc"), ("SLURM_PROCID", ""), ("WORLD_SIZE", "-1"), ("WORLD_SIZE", "1.5")]
NO_NUMBERS += [("MASTER_PORT", "abc"), ("MASTER_PORT", "70000"), ("SLURM_NTASKS", "0"), ("LOCAL_WORLD_SIZE", "two")]


@pytest.mark.parametrize(("name", "value"), NO_NUMBERS)
def test_what_is_no_number_of_a_process_is_refused_before_lightning_is_imported(
    workdir: Path, capsys: Capsys, monkeypatch: Patch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    def script(words: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / words[0]), *words[1:]])
        runpy.run_path(sys.argv[0], run_name="__main__")

    def package(words: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["logreg-lightning", *words])
        main_of_all()

    for command, module in zip(COMMANDS, ("fit", "sweep", "use.evaluate", "use.predict", "use.export"), strict=True):
        monkeypatch.setitem(sys.modules, f"logreg_lightning.{module}", None)  # importing it fails
        for start, word in ((script, f"{command}.py"), (package, command)):
            refused([word, "last"], f"error: {name}={value} in the environment must be a whole num", capsys, start)


def test_python_is_told_of_a_number_that_is_none(workdir: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "x")
    for name in ("fit", "sweep", "LogisticRegression"):
        monkeypatch.delitem(vars(logreg_lightning), name, raising=False)
        with pytest.raises(InputError, match="LOCAL_RANK=x in the env"):
            getattr(logreg_lightning, name)
    assert callable(logreg_lightning.load)
    with pytest.raises(InputError, match="LOCAL_RANK=x in the env"):
        fit_in_python("digits")  # imported before the variable was set


@pytest.mark.slow
def test_a_process_says_it_too(workdir: Path) -> None:
    script = [sys.executable, str(SCRIPTS / "fit.py"), *QUICK]
    done = subprocess.run(script, capture_output=True, text=True, check=False, env={**os.environ, "RANK": "x"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "RANK=x in the environment" in done.stderr


CONTRADICTIONS = """--data.batch_size=100 --model.lr=3 --data.val_size=0 --seed=5
--data.steps_per_execution=1 --model.schedule=constant --precision=64-true --config=other.yaml"""


def test_resume_refuses_a_contradiction_by_name_and_says_when_finished(run: Path, capsys: Capsys) -> None:
    Path("other.yaml").write_text("seed: 3\n", encoding="utf-8")
    for flags in CONTRADICTIONS.split():
        named = flags.partition("=")[0].replace("--config", "--seed")
        refused(["--resume=last", flags], f"{named} ", capsys)
    refused(["--resume=last", "--data.dataset=digits"], "cannot be resumed with this data", capsys)
    before = contents(run)
    assert "is finished" in said_by(main, ["--resume", run / "checkpoints/last.ckpt"], capsys)
    assert contents(run) == before
    with locked(run, wait=False):
        refused(["--resume=last", "--max_epochs=3"], "is being trained by another process", capsys)
    assert fit("--resume=last", "--max_epochs=3") == run


def test_a_training_that_diverges_stops(workdir: Path, capsys: Capsys) -> None:
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
    assert f"{run / 'checkpoints/last.ckpt'} is complete" in capsys.readouterr().err
    after = read(run / "checkpoints/last.ckpt")
    assert torch.isfinite(after["state_dict"]["standardized_linear.weight"]).all()
    assert after["global_step"] > 135 and before != (run / "checkpoints/last.ckpt").read_bytes()


PETS = ["--data.image_size=8", "--max_epochs=1", "--accelerator=cpu"]


@pytest.mark.slow
def test_class_names_that_the_output_cannot_show_end_no_command(workdir: Path) -> None:
    write_pictures(Path("pets"), 11)
    for name, other in (("cats", "größe"), ("dogs", "犬")):
        Path("pets", name).rename(Path("pets", other))
    narrow: Any = {"PYTHONIOENCODING": "cp1252", "encoding": "cp1252"}
    printed = run_script("fit", "--data.dataset=pets", *PETS, "--pictures=true", **narrow)
    assert re.search(r"größe \(\d\), \\u72ac \(\d\)", printed)
    assert {"größe", "\\u72ac"} <= set(run_script("evaluate", "last", "--pictures=shown", **narrow).split())
    assert json.loads(run_script("predict", "last", "pets", "--format=json", **narrow))[0]["path"].startswith("pets")


@pytest.fixture
def cp1252_locale(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose locale is German with the encoding cp1252."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef, which makes a locale, is not installed")
    made = tmp_path / "locales" / "de_DE.CP1252"
    made.parent.mkdir()
    subprocess.run(["localedef", "-i", "de_DE", "-f", "CP1252", made], capture_output=True, check=False)
    environment = {"LOCPATH": str(made.parent), "LC_ALL": made.name, "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    asked = [sys.executable, "-c", "import locale; print(locale.getpreferredencoding(False))"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    if found.stdout.strip().lower() != "cp1252":
        pytest.skip("localedef lacks the sources of a German locale with cp1252, or Python does not find it")
    return {**environment, "encoding": "cp1252"}


@pytest.mark.slow
def test_a_run_on_an_umlaut_resumes_where_the_locale_is_not_utf_8(workdir: Path, cp1252_locale: dict[str, str]) -> None:
    umlaut = "größe".encode("cp1252")  # the bytes that this locale spells it with
    write_pictures(Path(os.fsdecode(umlaut)))
    Path(os.fsdecode(umlaut), "cats").rename(Path(os.fsdecode(umlaut), os.fsdecode(umlaut)))
    run_script("fit", b"--data.dataset=" + umlaut, *PETS, "--pictures=false", **cp1252_locale)
    run = Path("lightning_logs/version_0")
    assert config_of(run)["data"]["dataset"] == "größe"
    once = results_of(run)
    assert once["dataset"] == "größe" and once["epochs"] == 1

    run_script("fit", "--config", str(run / "config.yaml"), **cp1252_locale)
    again = results_of(Path("lightning_logs/version_1"))
    assert (again["dataset"], again["test/loss"]) == (once["dataset"], once["test/loss"])

    run_script("fit", "--resume", "last", "--max_epochs", "2", **cp1252_locale)
    longer = results_of(Path("lightning_logs/version_1"))
    assert (longer["dataset"], longer["epochs"]) == ("größe", 2)
    table = run_script("evaluate", str(run), **cp1252_locale)
    assert "größe" in table


@pytest.mark.slow
def test_a_printed_command_can_be_pasted_whatever_spaces_its_paths_have(workdir: Path) -> None:
    Path("my scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "fit.py", "my scripts")
    python = Path(sys.executable)
    if sys.platform != "win32":  # where not everybody may make links
        Path("my venv").symlink_to(sys.prefix, target_is_directory=True)
        python = Path("my venv", python.relative_to(sys.prefix))
    Path("a b").mkdir()

    def train_longer(command: list[str] | str, folder: Path) -> str:
        done = subprocess.run(
            command, cwd=folder, shell=isinstance(command, str), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        [printed] = re.findall(r"Train longer with: +(.*)$", done.stdout, re.M)
        return str(printed)

    flags = ["--data.dataset=digits", "--max_epochs=1", "--accelerator=cpu", "--pictures=false"]
    inside = [str(workdir / python), str(Path("..", "my scripts", "fit.py")), *flags]
    assert "scripts" in train_longer(train_longer(inside, Path("a b")), Path("a b"))
    run = Path("a b", "lightning_logs", "version_0")
    assert results_of(run)["epochs"] == 2

    outside = [str(workdir / python), str(Path("my scripts", "fit.py")), "--resume", str(run), "--max_epochs=3"]
    assert str(run) in train_longer(outside, workdir)
    assert results_of(run)["epochs"] == 3
    assert not Path("lightning_logs").exists()


@pytest.mark.slow
def test_the_tutorial_on_real_mnist(real_mnist: Path, capsys: Capsys) -> None:
    run = fit("--config", "configs/article.yaml")
    results = results_of(run)
    assert 0.81 <= results["test/accuracy"] <= 0.845
    assert (results["steps"], results["epochs"]) == (3000, 5)
    printed = re.findall(r"^Iteration: (\d+)\. Loss: \d\.\d\. Accuracy: (\d\d\.\d)\.$", capsys.readouterr().out, re.M)
    assert [int(step) for step, _ in printed] == [500, 1000, 1500, 2000, 2500, 3000]
    assert float(printed[-1][1]) == round(100 * results["test/accuracy"], 1)


@pytest.mark.slow
def test_the_default_on_real_mnist(real_mnist: Path) -> None:
    results = results_of(fit())
    assert results["dataset"] == "mnist"
    assert results["test/accuracy"] > 0.919  # one seed: three standard deviations of the test set below the mean
