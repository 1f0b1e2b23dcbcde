"""The tutorial's recipe: its own loop, stock Lightning, a bare loop and this project."""

import time
from collections.abc import Iterable
from itertools import chain, count, islice, repeat
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.measure import QUICK, ROOT, Figures, Measured, fit, in_a_process, in_turns
from benchmarks.report import median, ratios, section, timings

ARTICLE = ["--config", str(ROOT / "configs" / "article.yaml")]


def loaders(root: str) -> tuple[DataLoader[Any], DataLoader[Any]]:
    train, test = (MNIST(root, train=train, transform=ToTensor()) for train in (True, False))
    return DataLoader(train, batch_size=100, shuffle=True), DataLoader(test, batch_size=100)


def loop(batches: Iterable[Any], test: Iterable[Any], steps: int, device: str = "cpu") -> Figures:
    """Forward, backward and step, and the accuracy over all test batches every 500 steps, as the tutorial writes it."""
    model, criterion = nn.Linear(28 * 28, 10, device=device), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    begun = time.perf_counter()
    for step, (images, labels) in enumerate(islice(batches, steps), 1):
        optimizer.zero_grad()
        loss = criterion(model(images.view(-1, 28 * 28)), labels)
        loss.backward()
        optimizer.step()
        if step % 500 == 0:
            with torch.no_grad():
                right = torch.cat([model(x.view(-1, 28 * 28)).argmax(1) == y for x, y in test])
            print(f"Iteration: {step}. Loss: {loss.item()}. Accuracy: {100 * right.float().mean().item()}")
    if device == "cuda":
        torch.cuda.synchronize()
    return {"fit_seconds": time.perf_counter() - begun}


def plain(root: str, steps: int) -> Figures:
    """The tutorial's loop over its loaders."""
    train, test = loaders(root)
    return loop(chain.from_iterable(repeat(train)), test, steps)


def bare(root: str, steps: int, device: str = "cpu") -> Figures:
    """The same loop over float tensors in the device's memory."""
    (x, y), test = (
        (part.data.to(device).view(-1, 784).float() / 255, part.targets.to(device))
        for part in (MNIST(root, train=True), MNIST(root, train=False))
    )
    orders = (torch.randperm(len(x), device=device) for _ in count())
    return loop(((x[batch], y[batch]) for order in orders for batch in torch.split(order, 100)), [test], steps, device)


def stock(root: str, steps: int, accelerator: str = "cpu") -> Figures:
    """Lightning as its documentation writes it: the same loaders, a step a call, default logger and checkpoints."""
    import lightning as L  # here, for the others do without it

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

        def on_train_start(self) -> None:
            self.begun = time.perf_counter()

        def on_train_end(self) -> None:
            self.seconds = time.perf_counter() - self.begun

    validation: dict[str, Any] = {"val_check_interval": min(500, steps), "check_val_every_n_epoch": None}
    model = Model()
    L.Trainer(accelerator=accelerator, devices=1, max_steps=steps, **validation).fit(model, *loaders(root))
    return {"fit_seconds": model.seconds}


def measure(root: str, repeats: int, quick: bool) -> Measured:
    steps = 20 if quick else 3000
    ours = [*ARTICLE, f"--data.root={root}", "--accelerator=cpu", *(QUICK if quick else [])]
    runs = {
        "(a) the tutorial's loop": (in_a_process, plain, root, steps),
        "(b) stock Lightning": (in_a_process, stock, root, steps),
        "(c) bare loop": (in_a_process, bare, root, steps),
        "(d) this project": (fit, *ours),
    }
    return in_turns(runs, repeats)


def both_times(measured: Measured) -> str:
    """The time of each one's training, and of its process."""
    parts = (("fit_seconds", "first batch to last step"), ("whole", "whole process"))
    return timings(*((f"{name}, {label}", runs, part) for part, label in parts for name, runs in measured.items()))


def table(measured: Measured) -> str:
    a, b, c, d = (median(runs, "fit_seconds") for runs in measured.values())
    return section(
        "The tutorial's recipe: 3000 steps of batch 100, a test pass every 500",
        both_times(measured),
        ratios(
            ("(a) / (d)", a / d, "at least 10, target 16"),
            ("(b) / (d)", b / d, "at least 14, target 24"),
            ("(d) / (c)", d / c, "at most 1.3, target 1.0"),
        ),
    )
