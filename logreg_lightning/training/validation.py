"""What a classifier of images does besides being trained: it is validated, tested, calibrated, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import lightning as L
import torch
from torch import Tensor

from logreg_lightning.runtime import checkpoints
from logreg_lightning.runtime.runs import checkpoint_of
from logreg_lightning.runtime.threads import drawing
from logreg_lightning.training import metrics
from logreg_lightning.use.classifier import Predictor, check_values


class ImageClassifier(Predictor, L.LightningModule):
    """Needs `forward`: logits, float (N, num_classes), of images (N, C, H, W) or features (N, features).

    Args:
        image_shape, class_names, backbone, pixel_range: As `Predictor` has them.
        class_weights: float (num_classes,), what the losses of a class's images are multiplied by.
        calibrate: Whether `temperature`, a buffer, is chosen at each validation; see `Calibration`.
    """

    class_weights: Tensor | None
    temperature: Tensor | None

    def __init__(
        self,
        image_shape: Sequence[int],
        class_names: Sequence[str],
        class_weights: Tensor | None,
        calibrate: bool,
        backbone: Mapping[str, Any] | None,
        pixel_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.image_shape, self.class_names = tuple(image_shape), tuple(class_names)
        self.backbone = None if backbone is None else dict(backbone)
        self.pixel_range = None if pixel_range is None else (pixel_range[0], pixel_range[1])
        self.calibrates = calibrate
        self.register_buffer("class_weights", class_weights)
        self.register_buffer("temperature", torch.ones(()) if calibrate else None)
        self.val_metrics = metrics.val_metrics(len(class_names), calibrate)
        self.test_metrics = metrics.test_metrics(len(class_names))

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._evaluate(self.val_metrics, *batch)

    def on_validation_epoch_end(self) -> None:
        # Not by sync_dist=True, a mean of the processes' means: a torchmetrics state is a sum over all images.
        self.log_dict(metrics.compute(self.val_metrics), prog_bar=True)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._evaluate(self.test_metrics, *batch)

    def on_test_epoch_end(self) -> None:
        self.log_dict(metrics.compute(self.test_metrics))

    def predict_step(self, batch: Sequence[Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Probabilities, float (n, num_classes), of the images of a batch, with their labels or alone."""
        return cast(Tensor, self(batch if isinstance(batch, Tensor) else batch[0])).softmax(1)

    def _evaluate(self, collection: Any, images: Tensor, labels: Tensor) -> None:
        if len(labels):  # none where there are fewer batches than processes
            # Each metric gets only those keyword arguments that its own `update` names.
            collection.update(self(images), labels, class_weights=self.class_weights)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["format"] = checkpoints.FORMAT

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Lightning's, which also compares checksums and refuses other formats; no code in the file is run.

        Raises:
            InputError: it is not a complete checkpoint of this project.
        """
        content = checkpoint_path
        if isinstance(content, str | Path):
            read = checkpoints.read(Path(content))
            check_values(Path(content), read)
            content = checkpoints.as_file(read)
        with drawing:  # weights that are then replaced; another thread may be at those of a training
            return super().load_from_checkpoint(content, *args, **kwargs)  # which takes an open file in place of a path

    @classmethod
    def load(cls, run: str | Path) -> Self:
        """The model of a run, by its folder, or of `last` or `FOLDER/last`, the newest run, or of a `.ckpt` file.

        It is on the CPU and ready to predict.

        Raises:
            InputError: there is none, or it is not a complete checkpoint of this project.
        """
        checkpoint = checkpoint_of(str(run))
        with checkpoints.content_of(checkpoint):
            return cls.load_from_checkpoint(checkpoint, map_location="cpu").eval()


class Calibration(L.Callback):
    """At each validation of a training chooses the model's temperature, by the loss on validation images.

    Logits are divided by it (Guo et al. 2017, On Calibration of Modern Neural Networks,
    https://arxiv.org/abs/1706.04599): few images make a model too sure of itself, a penalty not sure enough. No
    predicted class changes, and the loss, not weighted by class, is never above that of guessing. A test set that is
    watched in place of a validation set chooses nothing.
    """

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model = cast(ImageClassifier, pl_module)
        validates_on_test = getattr(cast(Any, trainer).datamodule, "validates_on_test", False)
        self.on = model.temperature is not None and trainer.state.fn == "fit" and not validates_on_test
        cast(metrics.CrossEntropy, model.val_metrics["loss"]).calibrates = self.on
        if self.on and model.temperature is not None:
            model.temperature.fill_(1)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model = cast(ImageClassifier, pl_module)
        if self.on and model.temperature is not None:
            model.temperature.fill_(cast(metrics.CrossEntropy, model.val_metrics["loss"]).temperature)
