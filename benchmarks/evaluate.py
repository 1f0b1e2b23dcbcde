"""Images a second of Lightning's `validate` with this project's metrics, and of plain prediction."""

import time

import lightning as L
import torch

from benchmarks.measure import Figures, Measured, in_a_process, in_turns
from benchmarks.report import section, timings
from benchmarks.size import many_images
from logreg_lightning import ImageDataModule, LogisticRegression
from logreg_lightning.data.loader import EvalLoader


def evaluation(folder: str) -> Figures:
    data = ImageDataModule(folder, val_size=0)
    data.prepare_data()
    data.setup()
    images, model = data.data.train, LogisticRegression(28 * 28, 10)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", **off)  # type: ignore[arg-type]
    begun = time.perf_counter()
    trainer.validate(model, EvalLoader(images, None), verbose=False)
    validated = time.perf_counter()
    with torch.inference_mode():
        for batch, _ in EvalLoader(images, None):
            model(batch).softmax(1)
    predicted = time.perf_counter()
    return {"evaluated": len(images) / (validated - begun), "predicted": len(images) / (predicted - validated)}


def measure(root: str, repeats: int, quick: bool) -> Measured:
    folder = many_images(root, 1200 if quick else 600_000)
    return in_turns({"this project": (in_a_process, evaluation, str(folder))}, repeats)


def table(measured: Measured) -> str:
    runs = measured["this project"]
    return section(
        "Evaluation and prediction, images a second",
        timings(
            ("evaluation: loss and accuracy by torchmetrics, in Lightning", runs, "evaluated", "a second"),
            ("prediction: probabilities", runs, "predicted", "a second"),
        ),
    )
