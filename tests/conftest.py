"""Data that every test may use: a small MNIST made here, and the real one where MNIST_FILES names its folder."""

from __future__ import annotations

import contextlib
import functools
import gzip
import importlib
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.fit import main
from logreg_lightning.runtime.checkpoints import read
from logreg_lightning.runtime.files import LOCK

Capsys = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(values: np.ndarray) -> bytes:
    """Unsigned bytes in the IDX format."""
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()


QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
ALONE: dict[str, Any] = {**QUIET, "logger": False, "enable_checkpointing": False}
"""Settings of a stock trainer; alone, it leaves no file."""


@functools.cache
def small_mnist(train: int = 600, test: int = 100) -> dict[str, bytes]:
    """The four files of a data set in MNIST's shape; the label is written into the image, so it can be learnt."""
    rng = np.random.default_rng(0)
    files = {}
    for images, labels, count in ((NAMES[0], NAMES[1], train), (NAMES[2], NAMES[3], test)):
        targets = rng.integers(0, 10, count)
        pixels = rng.integers(0, 100, (count, 28, 28))
        pixels[np.arange(count), targets * 2] = 255
        files[images], files[labels] = idx(pixels), idx(targets)
    return files


def write_idx(folder: Path, packed: bool = False, seed: int = 0) -> None:
    """A data set in MNIST's format with three classes and images of 5 x 9."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for images, targets, count in ((NAMES[0], NAMES[1], 90), (NAMES[2], NAMES[3], 30)):
        content = {images: rng.integers(0, 256, (count, 5, 9)), targets: np.arange(count) % 3}
        for name, values in content.items():
            file = folder / (f"{name}.gz" if packed else name)
            file.write_bytes(gzip.compress(idx(values)) if packed else idx(values))


COLORS = {"cats": (200, 40, 40), "dogs": (40, 40, 200)}


def write_pictures(folder: Path, per_class: int = 30, names: tuple[str, ...] = ("cats", "dogs")) -> None:
    """A folder of pictures for each class, which differ in colour alone, none twice as long as wide."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            size = (int(rng.integers(30, 60)), int(rng.integers(30, 60)), 3)
            pixels = (
                (np.array(COLORS.get(name, (40, 200, 40))) + rng.integers(-30, 30, size)).clip(0, 255).astype(np.uint8)
            )
            PIL.Image.fromarray(pixels).save(folder / name / f"{number}.{'png' if number % 2 else 'jpg'}")


def write_features(folder: Path, train: int = 80, test: int = 20) -> None:
    """A folder of six features of two classes that lie apart, computed by somebody else."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 2
        np.save(folder / f"{split}_labels.npy", labels)
        np.save(folder / f"{split}_features.npy", rng.normal(size=(count, 6)) + 3 * labels[:, None])


def not_on_windows(reason: str) -> pytest.MarkDecorator:
    """Skips a test where what it needs is not to be had."""
    return pytest.mark.skipif(sys.platform == "win32", reason=f"on Windows {reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="how many processes test_kills.py kills")
    parser.addoption(
        "--kill-seed", type=int, default=random.randrange(10**6), help="the moments at which it kills them"
    )
    parser.addoption("--fuzz-seconds", type=float, default=8, help="how long test_fuzz.py tries each kind of file")
    parser.addoption("--fuzz-seed", type=int, default=random.randrange(10**6), help="the damage that it does to them")


def pytest_configure(config: pytest.Config) -> None:
    """Each worker of pytest-xdist computes with its share of the cores: more threads than cores wait for each other."""
    if (workers := getattr(config, "workerinput", {}).get("workercount")) is not None:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What a worker of pytest-xdist prints is not seen; this is."""
    for name in ("kill", "fuzz"):
        seed = config.getoption(f"--{name}-seed")
        terminalreporter.write_line(f"test_{'kills' if name == 'kill' else name}.py: --{name}-seed {seed}")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a small MNIST in data/ and the project's configs/."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in small_mnist().items():
        (raw / name).write_bytes(content)
    shutil.copytree(Path(__file__).parents[1] / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs in the current folder; it is trained once, and each test has a copy."""
    kept, folder = tmp_path_factory.getbasetemp() / "run", Path("lightning_logs/version_0")
    if not kept.exists():
        shutil.copytree(fit("--data.dataset=mnist", "--max_epochs=2"), kept)
    return folder if folder.exists() else Path(shutil.copytree(kept, folder))


@pytest.fixture
def as_nobody(workdir: Path) -> Iterator[None]:
    """Takes root's right to read and write everything from a test that root runs."""
    if sys.platform == "win32":
        pytest.skip("on Windows a file's mode denies nobody to read it")
    if os.geteuid() != 0:
        yield
        return
    for encoding in ("idna", "cp437"):
        "localhost".encode(encoding)  # Python's own files, loaded when first used, may be root's
    for name in ("importlib.readers", "sklearn.datasets"):
        importlib.import_module(name)
    for path in [workdir, *workdir.rglob("*")]:
        os.chown(path, 65534, 65534)
    for path in workdir.parents:
        if "pytest-" in str(path):  # pytest's own are root's: by a whole path nobody would find anything there
            path.chmod(path.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def real_mnist(workdir: Path) -> Path:
    """A current folder with the real MNIST in data/."""
    source = os.environ.get("MNIST_FILES")
    if source is None:
        pytest.skip("MNIST_FILES does not name a folder with the four .gz files of the real MNIST")
    raw = workdir / "data" / "MNIST" / "raw"
    for file in raw.iterdir():
        file.unlink()
    for name in NAMES:
        shutil.copyfile(Path(source) / f"{name}.gz", raw / f"{name}.gz")
    return workdir


def newest() -> Path:
    """The newest run's folder."""
    return max(Path("lightning_logs").glob("version_*"), key=lambda run: int(run.name.split("_")[1]))


def fit(*flags: str) -> Path:
    """Runs `fit.py` with these flags, in this process, without pictures unless told; returns the run's folder."""
    quick = [] if any(flag.startswith("--pictures") for flag in flags) else ["--pictures=false"]
    main([*flags, *quick])
    return newest()


def run_script(name: str, *words: str | bytes, encoding: str = "utf-8", **environment: str) -> str:
    """What a script prints in a process of its own; it must end well."""
    command: list[str | bytes | Path] = [sys.executable, SCRIPTS / f"{name}.py", *words]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})
    printed, errors = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 0 and "Traceback" not in errors, printed + errors
    return printed


def documented(script: str) -> list[str]:
    """What follows the script's name in each of its commands in README.md, docs/, configs/ and its docstring."""
    root = Path(__file__).parents[1]
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "configs").glob("*.yaml")]
    texts = [page.read_text(encoding="utf-8") for page in (*pages, root / "scripts" / script)]
    found = re.findall(rf"^[# ]*(?:\S*/)?python scripts/{re.escape(script)}(.*?)(?: #.*)?$", "\n".join(texts), re.M)
    assert len(found) > 3
    return sorted({flags.strip() for flags in found})


def typed(words: Sequence[str]) -> str:
    """The words of a command as this machine's shell takes them."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below the folder with what it holds, but for locks, which hold nothing and come and go."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != LOCK}


def refused(flags: Sequence[str], named: str, capsys: Capsys, main: Callable[[list[str]], None] = main) -> None:
    """The command ends with exit status 2 and one sentence that has `named` in it; no file is written or changed."""
    before = contents(Path())
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(list(flags))
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0], printed.err
    assert "Traceback" not in printed.out
    assert contents(Path()) == before


@contextlib.contextmanager
def killed_in(owner: object, name: str, first: Callable[..., object] | None = None, call: int = 1) -> Iterator[None]:
    """What runs inside dies at that call of a function, after it did what `first` does."""
    count = itertools.count(1)

    def die(*args: Any, **kwargs: Any) -> Any:
        done = first and first(*args, **kwargs)
        if next(count) == call:
            raise SystemExit("killed")
        return done

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(owner, name, die)
        yield


INTERRUPTED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}
"""What a signal that interrupts a training ends as, in Python."""


@contextlib.contextmanager
def signalled_in(model: Any, number: int, signum: int) -> Iterator[None]:
    """The first step or call of that number is interrupted by a signal; the handlers stay what they were."""
    step, left, before = model.training_step, [1], {one: signal.getsignal(one) for one in signal.valid_signals()}

    def step_then_signal(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == number and left:
            left.clear()
            signal.raise_signal(signum)
            assert signal.getsignal(signum) == before[signal.Signals(signum)]  # a second one does what it always did
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "training_step", step_then_signal)
        yield
    assert {one: signal.getsignal(one) for one in signal.valid_signals()} == before


def ready(data: ImageDataModule) -> ImageDataModule:
    """The same, with its images there."""
    data.prepare_data()
    data.setup()
    return data


def results_of(run: Path) -> dict[str, Any]:
    """What a run's or a sweep's results.json says."""
    return dict(json.loads((run / "results.json").read_text(encoding="utf-8")))


def config_of(run: Path) -> dict[str, Any]:
    """What a run's config.yaml says."""
    return dict(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """The state of the model in a run's last checkpoint."""
    return dict(read(run / "checkpoints/last.ckpt")["state_dict"])


def events_of(run: Path) -> EventAccumulator:
    """All that TensorBoard reads of a run."""
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def said_by(main: Callable[[list[str]], None], words: Sequence[object], capsys: Capsys) -> str:
    """What a command prints, which ends well."""
    capsys.readouterr()
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        assert not ended.code
    return capsys.readouterr().out


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point of every curve of a run, as TensorBoard reads it."""
    events = events_of(run)
    return {tag: [(p.step, p.value) for p in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def state(run: Path, name: str = "last.ckpt") -> dict[str, str]:
    """What a checkpoint holds of a run, as text: exact, and readable where it differs."""
    content = torch.load(run / "checkpoints" / name, weights_only=True)
    kept = {key: content[key] for key in ("epoch", "global_step", "state_dict", "optimizer_states", "loops")}
    saver = content["callbacks"]["Saver"]
    kept |= {"best": saver["best"], "validated": saver["validated"]}
    torch.set_printoptions(threshold=10**9, precision=12)  # type: ignore[no-untyped-call]
    return {key: str(value) for key, value in kept.items()}


def outcome(run: Path) -> dict[str, object]:
    """All that a run leaves which has to do with what was trained, not with when."""
    results = results_of(run)
    for key in ("fit_seconds", "command"):
        del results[key]
    texts = {name: (run / name).read_text(encoding="utf-8") for name in ("config.yaml", "hparams.yaml")}
    checkpoints = {name: state(run, name) for name in ("last.ckpt", "best.ckpt")}
    return {"results": results, "curves": curves(run), **texts, **checkpoints}
