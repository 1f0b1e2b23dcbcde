"""SIGTERM and Ctrl-C: the run goes on to its next save, at most 50 optimiser steps away, and ends there."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import lightning as L

from logreg_lightning.checkpoints import Saver
from logreg_lightning.errors import Stopped
from logreg_lightning.processes import say


class StopOnSignal(L.Callback):
    """Raises `Stopped` once the run is saved; a second signal ends the process at once.

    Must stand after the saver in the trainer's callbacks. Outside the training loop both signals end the process as
    they do any other: there is nothing to save.

    Raises:
        Stopped: from the training loop, in all processes of a run at the same step.
    """

    def __init__(self, saver: Saver) -> None:
        self.saver = saver
        self.signum = 0

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._release()
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        say(f"\n{name}: saving first; once more to stop at once")

    @staticmethod
    def _release() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not before: Lightning sets handlers of its own that save nothing, right before training.
        if trainer.received_sigterm:
            self.signum = signal.SIGTERM
        trainer._signal_connector.received_sigterm = False
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _stop_if_saved(self, trainer: L.Trainer) -> None:
        if self.saver.saved_at != trainer.global_step:
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.signum), all=False):
            raise Stopped(self.signum or signal.SIGTERM, trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._stop_if_saved(trainer)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._stop_if_saved(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._release()
