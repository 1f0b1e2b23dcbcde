"""SIGTERM and Ctrl-C: training continues to its next save, at most 50 optimiser steps away, and ends there."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from logreg_lightning.errors import Stopped
from logreg_lightning.runtime.output import print_once
from logreg_lightning.runtime.saver import Saver


class StopOnSignal(L.Callback):
    """Raises `Stopped` once the run is saved. A second signal does what it did before training began.

    Outside the training loop, and in a thread that Python sends no signals to, signals do what they always do: there is
    nothing to save.

    Raises:
        Stopped: from the training loop, in all processes of a run at the same step.
    """

    def __init__(self, saver: Saver) -> None:
        self.saver = saver
        self.signum = 0
        self._previous: dict[int, Any] = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        print_once(f"\n{name}: saving first; once more to stop at once")

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Lightning puts handlers of its own, which save nothing, in place between here and on_train_start.
        if not self._previous and threading.current_thread() is threading.main_thread():
            signums = (signal.SIGTERM, signal.SIGINT)
            self._previous = {signum: signal.getsignal(signum) or signal.SIG_DFL for signum in signums}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.received_sigterm:
            self.signum = signal.SIGTERM
        # Private: `received_sigterm` can be read alone, and Lightning, which saw the signal, would end the run unsaved.
        trainer._signal_connector.received_sigterm = False
        for signum, handler in self._previous.items():
            if handler != signal.SIG_IGN:  # as `nohup` and a shell's background jobs start a process
                signal.signal(signum, self._note)

    def _stop_if_saved(self, trainer: L.Trainer) -> None:
        if self.saver.saved_at != trainer.global_step:
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.signum), all=False):
            # Not KeyboardInterrupt, which Lightning turns into exit(1); it lets any other exception pass.
            raise Stopped(self.signum or signal.SIGTERM, trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._stop_if_saved(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._stop_if_saved(trainer)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._stop_if_saved(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Not called after an exception: then Lightning itself puts back the handlers that it found.
        self._restore()
