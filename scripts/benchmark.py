"""Measures this project against the tutorial's loop, stock Lightning, a bare loop, scikit-learn and tuning by hand.

python scripts/benchmark.py
python scripts/benchmark.py --only recipe --repeats 9 --json
python scripts/benchmark.py --only images
python scripts/benchmark.py --write docs/performance.md
python scripts/benchmark.py --only gpu --write docs/gpu.md

Every figure is of a fresh process; those that are compared take turns. MNIST must be in --root, as fit.py puts it.
Everything is measured on the CPU, `gpu` alone on a CUDA device.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from logreg_lightning import LogisticRegression
    from logreg_lightning.data.loader import Steps

ROOT = Path(__file__).resolve().parents[1]
FIT = [sys.executable, str(ROOT / "scripts" / "fit.py")]
SWEEP = [sys.executable, str(ROOT / "scripts" / "sweep.py")]
ARTICLE = ["--config", str(ROOT / "configs" / "article.yaml")]
CPU = "--accelerator=cpu"
NO_PICTURES = "--pictures=false"
NO_GPU = "torch finds no CUDA device here, so there is nothing to measure."

Figures = dict[str, float]


# What is compared: each runs in a process of its own, and returns what it measured there.


def plain(root: str, steps: int) -> Figures:
    """The tutorial's own loop."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    train = datasets.MNIST(root, train=True, transform=transforms.ToTensor())
    test = datasets.MNIST(root, train=False, transform=transforms.ToTensor())
    train_loader, test_loader = DataLoader(train, batch_size=100, shuffle=True), DataLoader(test, batch_size=100)
    model = nn.Linear(28 * 28, 10)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    step, begun = 0, time.perf_counter()
    while step < steps:
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(images.view(-1, 28 * 28)), labels)
            loss.backward()
            optimizer.step()
            step += 1
            if step % 500 == 0:
                with torch.no_grad():
                    right = sum((model(x.view(-1, 28 * 28)).argmax(1) == y).sum().item() for x, y in test_loader)
                print(f"Iteration: {step}. Loss: {loss.item()}. Accuracy: {100 * right / len(test)}")
            if step == steps:
                break
    return {"fit": time.perf_counter() - begun}


def stock(root: str, steps: int, accelerator: str = "cpu") -> Figures:
    """Lightning as its documentation writes it: the same loader, a step a call, default logger and checkpoints."""
    import lightning as L
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(28 * 28, 10)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = F.cross_entropy(self.linear(batch[0].flatten(1)), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("accuracy", (self.linear(batch[0].flatten(1)).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.001)

    class Clock(L.Callback):
        def on_train_start(self, *_: Any) -> None:
            self.begun = time.perf_counter()

        def on_train_end(self, *_: Any) -> None:
            self.seconds = time.perf_counter() - self.begun

    train = datasets.MNIST(root, train=True, transform=transforms.ToTensor())
    test = datasets.MNIST(root, train=False, transform=transforms.ToTensor())
    clock = Clock()
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=steps,
        val_check_interval=min(500, steps),
        check_val_every_n_epoch=None,
        callbacks=[clock],
    )
    trainer.fit(Model(), DataLoader(train, batch_size=100, shuffle=True), DataLoader(test, batch_size=100))
    return {"fit": clock.seconds}


def bare(root: str, steps: int, device: str = "cpu") -> Figures:
    """Nothing but forward, backward and step, over float tensors in the device's memory."""
    import torch
    from torch import nn
    from torchvision.datasets import MNIST

    train, test = MNIST(root, train=True), MNIST(root, train=False)
    x, y = train.data.to(device).view(-1, 784).float() / 255, train.targets.to(device)
    test_x, test_y = test.data.to(device).view(-1, 784).float() / 255, test.targets.to(device)
    model = nn.Linear(784, 10, device=device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    step, begun = 0, time.perf_counter()
    while step < steps:
        for batch in torch.split(torch.randperm(len(x), device=device), 100):
            optimizer.zero_grad()
            criterion(model(x[batch]), y[batch]).backward()
            optimizer.step()
            step += 1
            if step % 500 == 0:
                with torch.no_grad():
                    print((model(test_x).argmax(1) == test_y).float().mean().item())
            if step == steps:
                break
    if device == "cuda":
        torch.cuda.synchronize()
    return {"fit": time.perf_counter() - begun}


def measured(command: list[str], written: str, *flags: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What a command of this project writes down, everything on, with its time as `whole` and its memory as `bytes`."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        memory = peak_of(*command, *flags, folder=folder, env=env)
        whole = time.perf_counter() - begun
        results = json.loads((Path(folder) / "lightning_logs" / written).read_text(encoding="utf-8"))
    return {**results, "whole": whole, "bytes": memory}


def fit(*flags: str, env: dict[str, str] | None = None) -> Figures:
    """This project's command with these flags."""
    found = measured(FIT, "version_0/results.json", *flags, env=env)
    kept = {name: found[name] for name in ("steps", "whole", "bytes")}
    return {"fit": found["fit_seconds"], "accuracy": found["test/accuracy"], **kept}


def scikit_learn(root: str, solver: str, iterations: int) -> Figures:
    """scikit-learn's logistic regression, all threads that it takes, stopped after some iterations."""
    import warnings

    from sklearn.linear_model import LogisticRegression
    from torchvision.datasets import MNIST

    warnings.filterwarnings("ignore")
    train, test = MNIST(root, train=True), MNIST(root, train=False)
    x, y = train.data.reshape(len(train), -1).numpy().astype("float32") / 255, train.targets.numpy()
    begun = time.perf_counter()
    model = LogisticRegression(solver=solver, max_iter=iterations, tol=0, random_state=0).fit(x, y)
    seconds = time.perf_counter() - begun
    accuracy = model.score(test.data.reshape(len(test), -1).numpy().astype("float32") / 255, test.targets.numpy())
    return {"fit": seconds, "accuracy": float(accuracy)}


def fit_features(folder: str) -> Figures:
    """This project's default command on a folder of features."""
    results = measured(FIT, "version_0/results.json", f"--data.dataset={folder}", CPU)
    seconds, images = results["fit_seconds"], results["steps"] * results["batch_size"]
    figures = {"loss": results["val/loss"], "accuracy": results["test/accuracy"], "epochs": results["epochs"]}
    return {"fit": seconds, "rate": images / seconds, **figures}


def scikit_learn_features(folder: str, iterations: int) -> Figures:
    """scikit-learn's logistic regression with what this project has: the same training rows, standardised, and penalty.

    Only its own work is timed; what it reaches is measured on the same validation and test rows.
    """
    import warnings

    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    from logreg_lightning import ImageDataModule  # after scikit-learn: its threads wait as they do by themselves
    from logreg_lightning import LogisticRegression as Ours
    from logreg_lightning.training import initialize

    warnings.filterwarnings("ignore")
    data = ImageDataModule(folder)
    data.setup()
    train, test = data.data.train, data.data.test
    ours = Ours(data.data.num_features, len(data.data.classes), image_shape=data.data.image_shape)
    initialize.adapt(ours, data.training_images(), data.batch_size)
    assert ours.standardizer is not None and ours.weight_decay != "auto"
    mean, scale = ours.standardizer.scaling()

    def rows(values: Any, labels: Any) -> tuple[Any, Any]:
        return ((ours.features(values) - mean) * scale).numpy(), labels.numpy()

    x, y = rows(*train.take(data.train_indices))
    c = 1 / (ours.weight_decay * len(x))
    begun = time.perf_counter()
    model = LogisticRegression(C=c, max_iter=iterations, tol=0).fit(x, y)
    seconds = time.perf_counter() - begun
    val_x, val_y = rows(*train.take(data.val_indices))
    loss, accuracy = log_loss(val_y, model.predict_proba(val_x)), model.score(*rows(test.pixels, test.labels))
    return {"fit": seconds, "loss": float(loss), "accuracy": float(accuracy), "C": c}


FACTORS = {
    1: (("1x",), ("1x",)),
    8: (("0.3x", "1x", "2x", "3x"), ("0.1x", "1x")),
    64: tuple([tuple(f"{k / 10:g}x" for k in (1, 2, 3, 5, 7, 10, 20, 30))] * 2),
    256: tuple([tuple(f"{k / 10:g}x" for k in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30))] * 2),
}
"""Of `auto`, the learning rates and the weight decays of so many settings."""


def sweep_flags(root: Path, count: int, quick: bool) -> list[str]:
    lrs, decays = (",".join(factors) for factors in FACTORS[count])
    flags = ["--data.dataset=mnist", f"--data.root={root}", CPU, f"--model.lr={lrs}", f"--model.weight_decay={decays}"]
    return [*flags, *(["--max_steps=20", "--val_check_interval=20", NO_PICTURES] if quick else [])]


def swept(*flags: str) -> Figures:
    """This project's sweep, with the best validation accuracy."""
    found = measured(SWEEP, "sweep_0/results.json", *flags)
    kept = {name: found[name] for name in ("whole", "bytes")}
    return {"fit": found["fit_seconds"], "accuracy": found["best"]["val/accuracy"], **kept}


def grid_search(root: str, strengths: list[float], iterations: int) -> Figures:
    """scikit-learn's GridSearchCV over C, on this project's training and validation images, standardised."""
    import warnings

    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from logreg_lightning import ImageDataModule  # after scikit-learn: its threads wait as they do by themselves

    warnings.filterwarnings("ignore")
    data = ImageDataModule("mnist", root=root)
    data.setup()
    x = data.data.train.pixels.flatten(1).numpy().astype("float32") / 255
    y = data.data.train.labels.numpy()
    fold = np.full(len(y), -1)
    fold[data.val_indices.numpy()] = 0
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=iterations))
    search = GridSearchCV(
        model, {"logisticregression__C": strengths}, cv=PredefinedSplit(fold), refit=False, n_jobs=cores()
    )
    begun = time.perf_counter()
    search.fit(x, y)
    return {"fit": time.perf_counter() - begun, "accuracy": float(search.best_score_)}


BACKBONES = (
    "efficientnet-lite0",
    "torchvision/resnet18",
    "torchvision/resnet50",
    "torchvision/vit_b_16",
    "timm/convnext_tiny",
    "timm/vit_small_patch14_dinov2",
)


def extraction(name: str, blocks: int) -> Figures:
    """A backbone's size, and the milliseconds that a picture takes where each core has so many blocks of pictures.

    The weights of torchvision's and timm's networks are random here, for they would have to be downloaded.
    """
    import timm
    import torch
    from torchvision import models

    from logreg_lightning.data.arrays import ArrayPictures
    from logreg_lightning.features import backbones
    from logreg_lightning.features.cache import Cache
    from logreg_lightning.features.extract import extract

    torchvision_model, timm_model = models.get_model, timm.create_model
    models.get_model = lambda name, weights: torchvision_model(name, weights=None)
    timm.create_model = lambda name, pretrained, **settings: timm_model(name, pretrained=False, **settings)
    torch.manual_seed(0)
    backbone = backbones.load(name)
    pixels = torch.randint(0, 256, ((1 + blocks) * cores() * backbones.BATCH, 3, 375, 500), dtype=torch.uint8)
    warm_up = cores() * backbones.BATCH
    with tempfile.TemporaryDirectory() as folder:
        for part, chosen in (("warm-up", pixels[:warm_up]), ("timed", pixels[warm_up:])):
            pictures = ArrayPictures(chosen)
            begun = time.perf_counter()
            extract(Cache(Path(folder), part, backbone), pictures, backbone, [torch.device("cpu")], cores())
            seconds = time.perf_counter() - begun
    return {
        "parameters": sum(weight.numel() for weight in backbone.network.parameters()) / 1e6,
        "bytes": sum(value.nbytes for value in backbone.network.state_dict().values()),
        "features": backbone.num_features,
        "size": backbone.image_shape[-1],
        "milliseconds": 1000 * seconds / len(chosen),
    }


def evaluation(folder: str) -> Figures:
    """Images a second of Lightning's validate with this project's metrics, and of plain prediction."""
    import lightning as L
    import torch

    from logreg_lightning import ImageDataModule, LogisticRegression
    from logreg_lightning.data.loader import EvalLoader

    data = ImageDataModule(folder, val_size=0)
    data.prepare_data()
    data.setup()
    model = LogisticRegression(data.data.train.pixels[0].numel(), len(data.data.classes))
    images = data.data.train
    trainer = L.Trainer(**QUIET, enable_progress_bar=False, enable_model_summary=False)
    begun = time.perf_counter()
    trainer.validate(model, EvalLoader(images, None), verbose=False)
    validated = time.perf_counter() - begun
    begun = time.perf_counter()
    with torch.inference_mode():
        for batch, _ in EvalLoader(images, None):
            model(batch).softmax(1)
    return {"evaluated": len(images) / validated, "predicted": len(images) / (time.perf_counter() - begun)}


RATES = [float(f"{10 ** (4 * number / 11 - 4):.3g}") for number in range(12)]
"""Learning rates from 1e-4 to 1."""


def untuned(sets: dict[str, dict[str, Any]], rates: list[float], seed: int, limits: dict[str, Any]) -> Figures:
    """What the default command reaches on each data set, and the test accuracy at each rate, all else default."""
    from logreg_lightning import ImageDataModule, errors
    from logreg_lightning import fit as fit_here

    def results(images: ImageDataModule, **lr: Any) -> dict[str, Any]:
        try:
            return fit_here(images, seed=seed, pictures=False, accelerator="cpu", **limits, **lr).results
        except errors.RunError:  # it diverged
            return {"lr": math.nan, "test/accuracy": 0.0, "test/loss": math.inf, "val/loss": math.inf}

    found: Figures = {}
    for name, data in sets.items():
        images = ImageDataModule(**data)
        default = results(images)
        found |= {f"{name}: {figure}": default[figure] for figure in ("lr", "test/accuracy", "test/loss", "val/loss")}
        found[f"{name}: images"] = len(images.train_indices) + len(images.val_indices)
        found[f"{name}: classes"] = len(images.data.classes)
        for rate in rates:
            found[f"{name}: test/accuracy at {rate}"] = results(ImageDataModule(**data), lr=rate)["test/accuracy"]
    return found


QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}


def stepper(batch: int, features: int, device: str = "cpu") -> tuple[LogisticRegression, Steps]:
    """A model of 10 classes, ready to train, and a call's mini-batches of random images, at most 50 of them."""
    import lightning as L
    import torch

    from logreg_lightning import LogisticRegression
    from logreg_lightning.data.loader import Steps

    count = max(1, min(50, 5000 // batch))
    torch.manual_seed(0)
    images = torch.randint(0, 256, (count * batch, 1, 1, features), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count * batch,))
    model = LogisticRegression(features, 10, lr=0.01, weight_decay=1e-3, image_shape=(1, 1, features)).to(device)
    model.trainer = L.Trainer(**QUIET)  # not in a trainer's hands: it only says that there is one process
    model.configure_optimizers()
    return model, Steps(images.to(device), labels.to(device), [batch] * count, [batch] * count)


def seconds_a_step(run: Callable[[], Any], steps: int, calls: int, wait: Callable[[], None] = lambda: None) -> float:
    """Seconds that an optimiser step takes in calls of so many steps, after three calls that do not count."""
    import torch

    with torch.no_grad():  # as in `training_step`
        for _ in range(3):
            run()
        wait()
        begun = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
    return (time.perf_counter() - begun) / (calls * steps)


BATCHES, FEATURES = (100, 1_000, 10_000), (784, 3_072)


def cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts() -> list[int]:
    """1, 2, 4 and so on, and as many threads as there are cores."""
    return sorted({*(2**power for power in range(cores().bit_length()) if 2**power < cores()), cores()})


def step_with(number: int, batch: int, features: int) -> str:
    return f"{features} features, batch {batch}, threads {number}"


def steps_by_threads(images: int) -> Figures:
    """Milliseconds an optimiser step for each number of threads, which take turns; each sees so many images."""
    from logreg_lightning.runtime.threads import use_threads  # before anything else loads torch

    found = {}
    for features in FEATURES:
        for batch in BATCHES:
            model, steps = stepper(batch, features)
            run = functools.partial(model.optimizer_steps, steps, [0.01] * len(steps.sizes))
            for number in thread_counts():
                with use_threads(number):
                    seconds = seconds_a_step(run, len(steps.sizes), max(1, images // len(steps.labels)))
                found[step_with(number, batch, features)] = seconds * 1000
    return found


def gpu_limits(megabytes: int, replays: int, calls: int) -> Figures:
    """What a GPU's memory and its launches allow, and the microseconds of this project's optimiser steps there."""
    return {"bandwidth": bandwidth(megabytes), "replay": replay(replays), **gpu_steps(calls)}


def bandwidth(megabytes: int) -> float:
    """Gigabytes a second that a GPU's memory reads and writes while it copies a tensor of this size."""
    import torch

    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = seconds_a_step(lambda: target.copy_(source), 1, 20, torch.cuda.synchronize)
    return 2 * source.nbytes / seconds / 1e9


def replay(replays: int) -> float:
    """Microseconds that a CUDA graph of 50 kernels takes which do next to nothing: the limit that launching sets."""
    import torch

    tensor = torch.zeros(1, device="cuda")
    tensor.add_(1)  # loads the kernel, which a recording must not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(50):
            tensor.add_(1)
    return seconds_a_step(graph.replay, 1, replays, torch.cuda.synchronize) * 1e6


def gpu_steps(calls: int) -> Figures:
    """Microseconds an optimiser step of this project on a GPU, in calls of at most 50: as a graph, and one by one."""
    import torch

    from logreg_lightning.runtime.steps import optimizer_steps

    found = {}
    for batch in (100, 1_000):
        model, steps = stepper(batch, 784, "cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
        rates = [0.01] * len(steps.sizes)
        kinds: dict[str, Callable[[], Any]] = {
            "graph": functools.partial(model.optimizer_steps, steps, rates),
            "single": functools.partial(optimizer_steps, model, optimizer, steps, rates),
        }
        for kind, run in kinds.items():
            found[f"{kind} {batch}"] = seconds_a_step(run, len(rates), calls, torch.cuda.synchronize) * 1e6
    return found


# How they are run, and the tables.


def in_a_process(function: Callable[..., Figures], *arguments: Any) -> Figures:
    """What the function returns in a fresh process, with the seconds that the process took in all as `whole`."""
    code = (
        f"import json, sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import benchmark; "
        f"found = benchmark.{function.__name__}(*json.loads(sys.argv[1])); print('\\n' + json.dumps(found))"
    )
    # Some machines set these against faults of older OpenBLAS builds; they would slow scikit-learn down.
    env = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(arguments)],
            cwd=folder, env=env, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.perf_counter() - begun}


def seconds_of(*command: str) -> Figures:
    """The seconds that a command takes."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return {"whole": time.perf_counter() - begun}


def environment(threads: int | None) -> dict[str, str]:
    """This process's environment with so many threads asked for, or none."""
    kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return kept if threads is None else {**kept, "OMP_NUM_THREADS": str(threads)}


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Beside so many processes that each keep a core busy."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def peak_of(*command: str, folder: str | None = None, env: dict[str, str] | None = None) -> float:
    """Bytes of memory that a process has of its own at the most: not files mapped, not the page cache."""
    with tempfile.TemporaryDirectory() as other:
        process = subprocess.Popen(command, cwd=folder or other, env=env, stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            except OSError:
                break
            peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
            time.sleep(0.01)
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
    return peak * 1024


def in_turns(runs: dict[str, Callable[[], Figures]], repeats: int) -> dict[str, list[Figures]]:
    """What each measured, one after the other, and that again."""
    from tqdm import tqdm

    found: dict[str, list[Figures]] = {name: [] for name in runs}
    with tqdm(total=repeats * len(runs), disable=not sys.stderr.isatty()) as bar:
        for _ in range(repeats):
            for name, run in runs.items():
                bar.set_description(name)
                found[name].append(run())
                bar.update()
    return found


def many_images(root: Path, count: int, folder: Path) -> Path:
    """A data set of `count` training images in MNIST's format: MNIST's, each shifted by up to two pixels, made once."""
    import numpy as np
    from torchvision.datasets import MNIST
    from tqdm import tqdm

    place = folder / f"shifted-{count}"
    if (place / "done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)

    def header(*shape: int) -> bytes:
        return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()

    for part, total in (("train", count), ("t10k", 10_000)):
        source = MNIST(root, train=part == "train")
        pixels, labels = source.data.numpy(), source.targets.numpy().astype(np.uint8)
        with (
            (place / f"{part}-images-idx3-ubyte").open("wb") as images,
            (place / f"{part}-labels-idx1-ubyte").open("wb") as targets,
            tqdm(total=total, unit=" images", desc=str(place), disable=not sys.stderr.isatty()) as bar,
        ):
            images.write(header(total, *pixels.shape[1:]))
            targets.write(header(total))
            for begin in range(0, total, 10_000):
                chosen = np.arange(begin, min(begin + 10_000, total)) % len(pixels)
                images.write(np.roll(pixels[chosen], rng.integers(-2, 3, 2), axis=(1, 2)).tobytes())
                targets.write(labels[chosen].tobytes())
                bar.update(len(chosen))
    (place / "done").touch()
    return place


def many_features(count: int, folder: Path) -> Path:
    """A data set of `count` training rows of 1,280 float16 features and a tenth of that to test on, made once.

    Ten classes overlap so that nine rows in ten can be told. As of a network's features, the variance is large in few
    directions and falls as 1 / k, and the classes differ most where it is large.
    """
    import numpy as np

    place = folder / f"features-{count}"
    if (place / "done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    rng, size = np.random.default_rng(0), 1280
    spread = np.arange(1, size + 1) ** -0.5
    centres = (1.12 * rng.normal(size=(10, size)) * spread).astype(np.float32)
    directions = (10 * spread[:, None] * np.linalg.qr(rng.normal(size=(size, size)))[0]).astype(np.float32)
    for part, total in (("train", count), ("test", count // 10)):
        labels = rng.integers(0, 10, total)
        np.save(place / f"{part}_labels.npy", labels)
        rows = np.lib.format.open_memmap(place / f"{part}_features.npy", "w+", np.float16, (total, size))
        for begin in range(0, total, 10_000):
            chosen = labels[begin : begin + 10_000]
            noise = rng.standard_normal((len(chosen), size), dtype=np.float32)
            rows[begin : begin + 10_000] = (centres[chosen] + noise) @ directions
        rows.flush()
    (place / "done").touch()
    return place


def picture_folders(root: Path, folder: Path, quick: bool) -> dict[str, dict[str, Any]]:
    """Settings of data sets that are made here: folders of pictures, of MNIST and of scikit-learn's digits.

    MNIST's training images become `train`, its test images `test`.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits
    from torchvision.datasets import MNIST

    rng = np.random.default_rng(0)

    def save(name: str, pictures: Iterable[Image.Image], labels: Any, kind: str = "png") -> None:
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            file = folder / name / str(label) / f"{number}.{kind}"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)  # a JPEG with PIL's quality, 75

    def tinted(pixels: Any) -> Image.Image:
        side = int(rng.integers(20, 61))
        scaled = np.asarray(Image.fromarray(pixels).resize((side, side)))
        return Image.fromarray((scaled[..., None] * rng.uniform(0.4, 1, 3)).astype(np.uint8))

    for split, count, of_each in (("train", 10_000, 40), ("test", 2_000, 892)):  # MNIST has 892 fives to test on
        count, of_each = (100, 10) if quick else (count, of_each)
        source = MNIST(root, train=split == "train")
        order = rng.permutation(len(source))
        pixels, labels = source.data.numpy()[order], source.targets.numpy()[order]
        save(f"jpegs/{split}", map(tinted, pixels[:count]), labels[:count], "jpg")
        save(f"inverted/{split}", map(Image.fromarray, 255 - pixels[:count]), labels[:count])
        rare, others = np.flatnonzero(labels == 8)[: count // 100], np.flatnonzero(labels != 8)[: count - count // 100]
        few = [np.flatnonzero(labels == digit)[:of_each] for digit in (3, 5)]
        for name, parts in (("rare", [rare, others]), ("few", few)):
            chosen = np.concatenate(parts)
            save(f"{name}/{split}", map(Image.fromarray, pixels[chosen]), labels[chosen])
    small = load_digits()
    tints = np.array([(255, 150, 100), (120, 230, 120), (110, 150, 255)])[rng.integers(0, 3, len(small.target))]
    pixels = (small.images[..., None] / 16 * tints[:, None, None]).astype(np.uint8)
    save("tints", map(Image.fromarray, pixels), small.target)
    names = {
        "MNIST as colour JPEGs of mixed sizes": "jpegs",
        "MNIST inverted": "inverted",
        "scikit-learn's digits in three tints": "tints",
        "MNIST, the 8 one image in 100": "rare",
        "MNIST's 3 and 5, 40 pictures of each": "few",
    }
    return {
        label: {"dataset": str(folder / name), "root": str(folder), "color": name == "tints"}
        for label, name in names.items()
    }


def median(found: list[Figures], name: str) -> float:
    return statistics.median(figures[name] for figures in found)


def mean(found: list[Figures], name: str) -> float:
    return statistics.mean(figures[name] for figures in found)


def row(label: str, found: list[Figures], name: str, unit: str = "s") -> str:
    values = [figures[name] for figures in found]
    return f"| {label} | {digits(statistics.median(values))} {unit} | {digits(min(values))} to {digits(max(values))} |"


def digits(value: float) -> str:
    """Its first three digits: 3,210 rather than 3.21e+03."""
    return f"{float(f'{value:.3g}'):,g}"


def ratio(label: str, value: float, bound: str, places: int = 2) -> str:
    return f"| {label} | **{value:.{places}f}** | {bound} |"


TABLE = "| what | median | from, to |\n|---|---|---|"
RATIOS = "| ratio | measured | asked for |\n|---|---|---|"


def recipe(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    steps = 20 if quick else 3000
    ours = [
        *ARTICLE,
        CPU,
        f"--data.root={root}",
        *(["--max_steps=20", "--val_check_interval=10", NO_PICTURES] if quick else []),
    ]
    runs: dict[str, Callable[[], Figures]] = {
        "(a) the tutorial's loop": lambda: in_a_process(plain, str(root), steps),
        "(b) stock Lightning": lambda: in_a_process(stock, str(root), steps),
        "(c) bare loop": lambda: in_a_process(bare, str(root), steps),
        "(d) this project": lambda: fit(*ours),
    }
    found = in_turns(runs, repeats)
    lines = ["### The tutorial's recipe: 3000 steps of batch 100, a test pass every 500", "", TABLE]
    for part, label in (("fit", "first batch to last step"), ("whole", "whole process")):
        lines += [row(f"{name}, {label}", figures, part) for name, figures in found.items()]
    a, b, c, d = (median(figures, "fit") for figures in found.values())
    lines += ["", RATIOS, ratio("(a) / (d)", a / d, "10, aim 16"), ratio("(b) / (d)", b / d, "14, aim 24")]
    return "\n".join([*lines, ratio("(d) / (c)", d / c, "at most 1.3, aim 1.0")]), found


def smallest(reaches: Callable[[int], bool], settings: range) -> int:
    """The smallest setting that reaches the goal, if larger ones do so too; the largest where none does."""
    low, high = settings.start, settings.stop - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return low


def to_92(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    goal = 0.0 if quick else 0.92

    def enough(run: Callable[[int], Figures]) -> int:
        return smallest(lambda setting: run(setting)["accuracy"] >= goal, range(1, 3 if quick else 65))

    def solve(solver: str) -> Callable[[int], Figures]:
        return lambda iterations: in_a_process(scikit_learn, str(root), solver, iterations)

    def ours(epochs: int) -> Figures:
        return fit("--data.dataset=mnist", CPU, f"--data.root={root}", f"--max_epochs={epochs}", NO_PICTURES)

    contestants = {"lbfgs": solve("lbfgs"), "saga": solve("saga"), "this project, default recipe": ours}
    settings = {name: enough(run) for name, run in contestants.items()}
    runs = {name: (lambda run=run, name=name: run(settings[name])) for name, run in contestants.items()}
    found = in_turns(runs, repeats)  # type: ignore[arg-type]
    lines = [
        "### Time to 92 % test accuracy on MNIST, fit alone, each at its smallest setting that reaches it",
        "",
        TABLE,
    ]
    for name, figures in found.items():
        kind = "epochs" if name.startswith("this") else "iterations"
        label = name if name.startswith("this") else f"scikit-learn, {name}"
        lines.append(row(f"{label}: {settings[name]} {kind}, {median(figures, 'accuracy'):.4f}", figures, "fit"))
    best = min(median(found[name], "fit") for name in ("lbfgs", "saga"))
    speed = best / median(found["this project, default recipe"], "fit")
    return "\n".join([*lines, "", RATIOS, ratio("scikit-learn's best / this project", speed, "5, aim 10")]), found


def command(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    flags = ["--data.dataset=mnist", CPU, f"--data.root={root}"]
    imports = 'python -c "import lightning, torchvision"'
    runs: dict[str, Callable[[], Figures]] = {
        imports: lambda: seconds_of(sys.executable, "-c", "import lightning, torchvision"),
        'python -c "import lightning"': lambda: seconds_of(sys.executable, "-c", "import lightning"),
        "scripts/fit.py": lambda: seconds_of(*FIT, *flags),
        "scripts/fit.py --help": lambda: seconds_of(*FIT, "--help"),
        "scripts/fit.py --no_such_flag 1": lambda: seconds_of(*FIT, "--no_such_flag", "1"),
    }
    found = in_turns(runs, repeats)
    both, one, whole, asked, wrong = (median(figures, "whole") for figures in found.values())
    lines = ["### The whole command on MNIST", "", TABLE]
    lines += [row(f"`{name}`", figures, "whole") for name, figures in found.items()]
    lines += ["", RATIOS, ratio("command / imports", whole / both, "at most 2.0, aim 1.5")]
    lines.append(ratio("`--help` / `import lightning`", asked / one, "at most 1.2"))
    return "\n".join([*lines, ratio("wrong flag / `import lightning`", wrong / one, "at most 1.2")]), found


def size(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    counts = (600, 1200) if quick else (60_000, 600_000, 8_100_000)
    steps = 100 if quick else 40_500
    folders = {count: many_images(root, count, root / "benchmark") for count in counts}

    def flags(count: int, steps: int) -> list[str]:
        limits = [f"--max_steps={steps}", f"--val_check_interval={steps}", "--max_epochs=1000"]
        return [
            f"--data.dataset={folders[count]}",
            CPU,
            f"--data.root={root}",
            "--data.val_size=0",
            NO_PICTURES,
            *limits,
        ]

    runs = {str(count): (lambda count=count: fit(*flags(count, steps))) for count in counts}
    found = in_turns(runs, repeats)  # type: ignore[arg-type]
    imports = "import lightning, torchvision, torchmetrics, jsonargparse, torch.utils.tensorboard"
    base = peak_of(sys.executable, "-c", imports)
    lines = ["### Size: batches of 200, as many steps as make one epoch of the largest", ""]
    lines += ["| images | images a second | microseconds an image | memory beyond the imports |", "|---|---|---|---|"]
    costs = {}
    for count in counts:
        figures = found[str(count)]
        costs[count] = median(figures, "fit") / (median(figures, "steps") * 200) * 1e6
        for one in figures:
            one["bytes"] -= base
        memory = median(figures, "bytes")
        lines.append(f"| {count:,} | {1e6 / costs[count]:,.0f} | {costs[count]:.3g} | {memory / 1e9:.2f} GB |")
    growth = costs[counts[-1]] / costs[counts[0]]
    lines += ["", RATIOS, ratio("cost of an image, largest / smallest", growth, "at most 1.3, aim 1.0")]
    memory = median(found[str(counts[-1])], "bytes") / 1e9
    return "\n".join([*lines, ratio("memory at the largest, GB", memory, "at most 1, aim 0.3")]), found


def evaluate(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    folder = many_images(root, 1200 if quick else 600_000, root / "benchmark")
    found = in_turns({"this project": lambda: in_a_process(evaluation, str(folder))}, repeats)
    figures = found["this project"]
    lines = ["### Evaluation and prediction, images a second", "", TABLE]
    lines.append(row("evaluation: loss and accuracy by torchmetrics, in Lightning", figures, "evaluated", "a second"))
    return "\n".join([*lines, row("prediction: probabilities", figures, "predicted", "a second")]), found


def threads(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    steps = in_turns({"a step": lambda: in_a_process(steps_by_threads, 100 if quick else 100_000)}, repeats)
    flags = ["--data.dataset=mnist", CPU, f"--data.root={root}", NO_PICTURES]
    flags += ["--max_steps=20"] if quick else []
    beside = {"idle": 0, "beside two busy processes": 2}
    settings = {"`OMP_NUM_THREADS=1`": 1, f"`OMP_NUM_THREADS={cores()}`": cores(), "nothing set": None}

    def run(processes: int, number: int | None) -> Figures:
        with busy(processes):
            return fit(*flags, env=environment(number))

    runs: dict[str, Callable[[], Figures]] = {
        f"{name}, {state}": functools.partial(run, processes, number)
        for state, processes in beside.items()
        for name, number in settings.items()
        if not (quick and processes and number)  # the busy processes are in the way of everything else
    }
    fits = in_turns(runs, min(repeats, 3))  # a busy machine takes minutes
    counts = thread_counts()
    lines = ["### Milliseconds an optimiser step, by CPU threads", ""]
    lines.append("| features | batch |" + "".join(f" {number} thread{'s' * (number > 1)} |" for number in counts))
    lines.append("|---|---|" + "---|" * len(counts))
    for features in FEATURES:
        for batch in BATCHES:
            cells = [median(steps["a step"], step_with(number, batch, features)) for number in counts]
            lines.append(f"| {features:,} | {batch:,} |" + "".join(f" {cell:.3g} |" for cell in cells))
    lines += ["", "### The default recipe on MNIST, first batch to last step, by CPU threads", "", TABLE]
    lines += [row(name, figures, "fit") for name, figures in fits.items()]
    idle, loaded = (median(fits[f"nothing set, {state}"], "fit") for state in beside)
    lines += ["", RATIOS, ratio("nothing set: busy / idle", loaded / idle, "at most 4")]
    return "\n".join(lines), {**steps, **fits}


def images(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    rates, limits = (RATES[::4], {"max_steps": 20, "val_check_interval": 20}) if quick else (RATES, {})
    with tempfile.TemporaryDirectory() as folder:
        sets = {name: {"dataset": name, "root": str(root)} for name in ("mnist", "digits")}
        sets |= picture_folders(root, Path(folder), quick)
        runs: dict[str, Callable[[], Figures]] = {
            f"seed {seed}": functools.partial(in_a_process, untuned, sets, rates, seed, limits)
            for seed in range(min(repeats, 3))
        }
        found = in_turns(runs, 1)
    figures = [figures for [figures] in found.values()]
    lines = [f"### Any images without tuning: the default command, mean over {', '.join(found)}", ""]
    lines.append(
        "| data set | training images | classes | default: test accuracy | test loss "
        f"| best of {len(rates)} rates: test accuracy | at lr | difference in points |"
    )
    lines.append("|---" * 8 + "|")
    points, shares = [], []
    for name in sets:
        count, classes, accuracy, loss, val_loss = (
            mean(figures, f"{name}: {figure}")
            for figure in ("images", "classes", "test/accuracy", "test/loss", "val/loss")
        )
        tuned = {rate: mean(figures, f"{name}: test/accuracy at {rate}") for rate in rates}
        best = max(tuned, key=tuned.__getitem__)
        points.append(100 * (accuracy - tuned[best]))
        shares.append(val_loss / math.log(classes))
        cells = f"{accuracy:.4f} | {loss:.4f} | {tuned[best]:.4f} | {best:g} | {points[-1]:+.2f}"
        lines.append(f"| {name} | {count:,.0f} | {classes:.0f} | {cells} |")
    lines += ["", RATIOS]
    for name, least in (("mnist", 0.924), ("digits", 0.965)):
        lines.append(ratio(f"{name}: test accuracy", mean(figures, f"{name}: test/accuracy"), f"at least {least}", 4))
    lines.append(ratio("worst difference, in points", min(points), "at least -0.5"))
    worst = ratio("`val/loss` at the end / log(classes), largest", max(shares), "at most 1")
    return "\n".join([*lines, worst]), found


def features(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    count, most = (1_000, 2) if quick else (100_000, 256)
    folder = str(many_features(count, root / "benchmark"))
    goal = fit_features(folder)["loss"]

    def solve(iterations: int) -> Figures:
        return in_a_process(scikit_learn_features, folder, iterations)

    iterations = smallest(lambda number: solve(number)["loss"] <= goal, range(1, most + 1))
    found = in_turns({"this project": lambda: fit_features(folder), "lbfgs": lambda: solve(iterations)}, repeats)
    ours, lbfgs = found.values()
    there = median(lbfgs, "loss") <= goal
    lines = [f"### {count:,} rows of 1,280 float16 features: fit alone, to the same validation loss", "", TABLE]
    for name, figures in (
        (f"this project, default command: {median(ours, 'epochs'):.0f} epochs", ours),
        (f"scikit-learn, lbfgs, C = {median(lbfgs, 'C'):.3g}: {iterations} iterations", lbfgs),
    ):
        reached = f"validation loss {median(figures, 'loss'):.4f}, test accuracy {median(figures, 'accuracy'):.4f}"
        lines.append(row(f"{name}, {reached}", figures, "fit"))
    lines.append(row("this project, training rows a second", ours, "rate", "a second"))
    speed = median(lbfgs, "fit") / median(ours, "fit")
    bound = "the figure" if there else "the figure, but scikit-learn never reaches that loss"
    return "\n".join([*lines, "", RATIOS, ratio("scikit-learn / this project", speed, bound)]), found


def backbones(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    names, blocks = (BACKBONES[:2], 1) if quick else (BACKBONES, 2)
    runs: dict[str, Callable[[], Figures]] = {
        name: functools.partial(in_a_process, extraction, name, blocks) for name in names
    }
    found = in_turns(runs, repeats)
    lines = [f"### Backbones: milliseconds a picture on all cores, {cores()} here", ""]
    lines.append("| backbone | parameters | float32 weights | features | input | a picture takes | from, to |")
    lines.append("|---" * 7 + "|")
    for name, figures in found.items():
        parameters, weights, number, pixels = (
            median(figures, part) for part in ("parameters", "bytes", "features", "size")
        )
        size = f"{parameters:.1f} million | {weights / 1e6:.0f} MB | {number:,.0f} | {pixels:.0f} x {pixels:.0f}"
        lines.append(row(f"{name} | {size}", figures, "milliseconds", "ms"))
    lines += ["", "The last layer, which names classes, is left out. All weights but those of efficientnet-lite0 were"]
    lines.append("random, for want of a download: a picture takes as long with any others.")
    return "\n".join(lines), found


def sweep(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    counts = [8] if quick else list(FACTORS)
    one = ["--data.dataset=mnist", CPU, f"--data.root={root}", *(["--max_steps=20", NO_PICTURES] if quick else [])]
    runs: dict[str, Callable[[], Figures]] = {"fit.py": lambda: fit(*one)}
    runs |= {str(count): functools.partial(swept, *sweep_flags(root, count, quick)) for count in counts}
    found = in_turns(runs, repeats)
    alone, alone_whole = median(found["fit.py"], "fit"), median(found["fit.py"], "whole")
    lines = ["### Many settings at once: MNIST, learning rate and weight decay, the default recipe else", ""]
    lines.append(
        "| settings | first batch to last step | a setting | of one alone | whole command, a setting "
        "| of one alone | memory | best `val/accuracy` |"
    )
    lines.append("|---" * 8 + "|")
    memory = median(found["fit.py"], "bytes") / 1e9
    lines.append(f"| `fit.py` | {digits(alone)} s | | 1 | {digits(alone_whole)} s | 1 | {memory:.2f} GB | |")
    for count in counts:
        figures = found[str(count)]
        fitted, whole = (median(figures, name) / count for name in ("fit", "whole"))
        memory = median(figures, "bytes") / 1e9
        lines.append(
            f"| {count} | {digits(fitted * count)} s | {digits(fitted)} s | {fitted / alone:.3f} | {digits(whole)} s "
            f"| {whole / alone_whole:.3f} | {memory:.2f} GB | {median(figures, 'accuracy'):.4f} |"
        )
    strengths, iterations = ([1e-3, 1e-2], 2) if quick else ([1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0], 100)
    grid = in_turns({"grid": lambda: in_a_process(grid_search, str(root), strengths, iterations)}, 1)["grid"]
    lines += ["", TABLE]
    name = f"scikit-learn's GridSearchCV, {len(strengths)} values of C, {iterations} iterations of lbfgs, once: "
    lines.append(row(f"{name}best validation accuracy {median(grid, 'accuracy'):.4f}", grid, "fit"))
    lines.append(row(f"this project, 8 settings: {median(found['8'], 'accuracy'):.4f}", found["8"], "fit"))
    share = median(found[str(counts[-1] if quick else 64)], "fit") / (counts[-1] if quick else 64) / alone
    lines += ["", RATIOS, ratio("64 settings: one of them / one alone", share, "at most 0.2, aim 0.1", 3)]
    return "\n".join(lines), {**found, "grid": grid}


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def gpu(root: Path, repeats: int, quick: bool) -> tuple[str, Any]:
    steps = 20 if quick else 3000
    ours = [*ARTICLE, "--accelerator=gpu", "--devices=1", f"--data.root={root}"]
    ours += ["--max_steps=20", "--val_check_interval=10"] if quick else []
    fit("--data.dataset=mnist", CPU, f"--data.root={root}", "--max_steps=1", NO_PICTURES)  # unpacks MNIST
    runs: dict[str, Callable[[], Figures]] = {
        "(b) stock Lightning": lambda: in_a_process(stock, str(root), steps, "gpu"),
        "(c) bare loop, images on the GPU": lambda: in_a_process(bare, str(root), steps, "cuda"),
        "(d) this project": lambda: fit(*ours),
    }
    found = in_turns(runs, repeats)
    size = (16, 10, 2) if quick else (1024, 2000, 40)
    limits = in_turns({"limits": lambda: in_a_process(gpu_limits, *size)}, repeats)
    lines = ["### The tutorial's recipe on a GPU: 3000 steps of batch 100, a test pass every 500", "", TABLE]
    for part, label in (("fit", "first batch to last step"), ("whole", "whole process")):
        lines += [row(f"{name}, {label}", figures, part) for name, figures in found.items()]
    b, c, d = (median(figures, "fit") for figures in found.values())
    lines += ["", "| ratio | measured |", "|---|---|"]
    lines += [f"| (b) / (d) | **{b / d:.2f}** |", f"| (d) / (c) | **{d / c:.2f}** |"]
    lines += ["", "### What the GPU allows, and what a step takes in a call (784 features, 10 classes)", "", TABLE]
    lines.append(row("memory, read and written by a large copy", limits["limits"], "bandwidth", "GB/s"))
    lines.append(row("replay of a CUDA graph of 50 tiny kernels", limits["limits"], "replay", "µs"))
    for batch in (100, 1_000):
        for kind, label in (("graph", "from a graph"), ("single", "launched one by one")):
            lines.append(row(f"a step of batch {batch:,}, {label}", limits["limits"], f"{kind} {batch}", "µs"))
    return "\n".join(lines), {**found, **limits}


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> str:
    """What all this was measured on."""
    import torch

    from logreg_lightning.runtime.runs import versions

    names = ", ".join(f"{name} {number}" for name, number in versions().items() if number and name != "git_commit")
    count = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    device = f"; {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if has_gpu() else ""
    return f"{processor()}, {count}{device}; {names}; commit {versions()['git_commit']}."


Part = Literal[
    "recipe", "to_92", "command", "size", "evaluate", "threads", "images", "features", "backbones", "sweep", "gpu"
]  # fmt: skip
PARTS: dict[str, Callable[[Path, int, bool], tuple[str, Any]]] = {
    "recipe": recipe,
    "to_92": to_92,
    "command": command,
    "size": size,
    "evaluate": evaluate,
    "threads": threads,
    "images": images,
    "features": features,
    "backbones": backbones,
    "sweep": sweep,
    "gpu": gpu,
}


END = "<!-- /benchmark -->\n"


def begin(part: str | None = None) -> str:
    """The line before a page's tables, or before those of one part that has a place of its own."""
    return f"<!-- {part or 'benchmark'}: written by scripts/benchmark.py --write -->\n"


def paste(page: str, heading: str, tables: dict[str, str]) -> str:
    """The page with each part's tables in the part's own place; the others go to the common one, all together."""
    own = {name: table for name, table in tables.items() if begin(name) in page}
    common = "\n\n".join(table for name, table in tables.items() if name not in own)
    for line, text in [*((begin(name), table) for name, table in own.items()), (begin(), common)]:
        if text:
            before, _, rest = page.partition(line)
            page = before + line + f"{heading}\n\n{text}\n" + END + rest.partition(END)[2]
    return page


def main(
    root: str = "data",
    only: Part | None = None,
    repeats: int = 5,
    quick: bool = False,
    json_: bool = False,
    write: str | None = None,
) -> None:
    """What to measure.

    Args:
        root: Folder with MNIST, as --data.root of fit.py; the large data sets are made in it, 7 GB, once.
        only: One part of it. All of them where none is named, gpu only where there is one.
        repeats: How often each is measured; images at most three times, each with a seed of its own.
        quick: A few steps of everything, once: to see that it works, not how fast.
        json_: Print all figures for programs.
        write: A Markdown file to put the tables into, between its two lines with "benchmark" or with a part's name.
    """
    place = Path(root).resolve()
    names = [only] if only else [name for name in PARTS if name != "gpu" or has_gpu()]
    if only == "gpu" and not has_gpu():
        print(NO_GPU)
        return
    done = {name: PARTS[name](place, 1 if quick else repeats, quick) for name in names}
    if json_:
        print(json.dumps({"machine": machine(), **{name: figures for name, (_, figures) in done.items()}}, indent=2))
        return
    heading, tables = machine(), {name: table for name, (table, _) in done.items()}
    print("\n\n".join([heading, *tables.values()]))
    if write is not None:
        page = Path(write)
        page.write_text(paste(page.read_text(encoding="utf-8"), heading, tables), encoding="utf-8")


if __name__ == "__main__":
    from logreg_lightning import cli

    parser = cli.new_parser(
        "benchmark", "--only recipe", "Measures speed, and accuracy untuned, in fresh processes that take turns."
    )
    parser.add_function_arguments(main)
    cli.command("benchmark", parser, lambda settings: main(**settings), None)
