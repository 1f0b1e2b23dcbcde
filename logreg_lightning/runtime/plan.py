"""What is due at which optimiser step of a run: curve points, saves, validations, the end of a call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L

LOG_EVERY = 50
"""Optimiser steps between two points of a training curve and between two saves; a call never crosses one."""


@dataclass(frozen=True)
class Plan:
    """A run in optimiser steps.

    Attributes:
        steps_per_epoch: Mini-batches in an epoch.
        steps_per_execution: Most optimiser steps in one call of `training_step`.
        max_epochs, max_steps: Where the run ends; -1 for no such limit.
        val_interval: Optimiser steps between two validations, counted over epochs; None for one at each epoch's end.
    """

    steps_per_epoch: int
    steps_per_execution: int = LOG_EVERY
    max_epochs: int = -1
    max_steps: int = -1
    val_interval: int | None = None

    @classmethod
    def of(cls, trainer: L.Trainer, steps_per_epoch: int, steps_per_execution: int) -> Plan:
        """What a trainer asks for.

        Where it counts mini-batches inside an epoch, say `Trainer(limit_train_batches=10)`, a call is one mini-batch.
        """
        over_epochs = trainer.check_val_every_n_epoch is None and isinstance(trainer.val_check_interval, int)
        counts_batches = trainer.limit_train_batches != 1.0 or (trainer.val_check_interval != 1.0 and not over_epochs)
        return cls(
            steps_per_epoch,
            1 if counts_batches else steps_per_execution,
            -1 if trainer.max_epochs is None else trainer.max_epochs,
            trainer.max_steps,
            int(trainer.val_check_interval) if over_epochs else None,
        )

    @classmethod
    def in_training(cls, trainer: L.Trainer) -> Plan:
        """The plan that a trainer follows, with this project's loader or with any other, whose batch is one step."""
        planned = getattr(trainer.train_dataloader, "plan", None)
        if isinstance(planned, Plan) and planned.steps_per_call > 1:
            return planned
        batches = trainer.num_training_batches
        return cls.of(trainer, int(batches) if math.isfinite(batches) else 0, 1)

    @property
    def run_steps(self) -> int | None:
        """Optimiser steps in the whole run; None where nothing limits them."""
        limits = [self.max_epochs * self.steps_per_epoch, self.max_steps]
        return min((limit for limit in limits if limit > 0), default=None)

    @property
    def steps_per_call(self) -> int:
        """Optimiser steps in a call: as many as reach every step at which a validation or the end is due."""
        # Lightning compares `max_steps` after a call only, so a call must end there.
        stops = [stop for stop in (self.val_interval, self.max_steps) if stop is not None and stop > 0]
        if not stops:
            return min(self.steps_per_execution, LOG_EVERY)
        common = math.gcd(LOG_EVERY, self.steps_per_epoch, *stops)
        return max(n for n in range(1, common + 1) if common % n == 0 and n <= self.steps_per_execution)

    @property
    def calls(self) -> list[tuple[int, int]]:
        """Of each call in an epoch, its first step and the one after its last, counted from the epoch's start."""
        starts = [
            start
            for point in range(0, self.steps_per_epoch, LOG_EVERY)
            for start in range(point, min(point + LOG_EVERY, self.steps_per_epoch), self.steps_per_call)
        ]
        return list(zip(starts, [*starts[1:], self.steps_per_epoch], strict=True))

    def is_point(self, step: int) -> bool:
        """Whether a point of the training curve is due after `step` optimiser steps.

        Also at a validation: its save must find no window of the curve half full.
        """
        in_epoch = step % self.steps_per_epoch if self.steps_per_epoch else step
        return in_epoch % LOG_EVERY == 0 or step == self.max_steps or self.is_validation(step)

    def is_save(self, step: int) -> bool:
        """Whether the run is saved right after the batch that ends with `step`.

        Where a validation follows, it is saved at that one's end, and at an epoch's end see `is_epoch_end_save`.
        """
        # Resumed from here, Lightning would skip a validation or an epoch's end that follows this batch.
        at_end = step == self.max_steps  # of the whole training, whose last epoch's end is nothing more
        return self.is_point(step) and not self.is_validation(step) and (at_end or not self.is_epoch_end(step))

    def is_epoch_end_save(self, step: int) -> bool:
        """Whether the run is saved when the epoch that ends with `step` is over."""
        # With `max_steps` Lightning would restart an epoch that is over, and count it twice.
        return self.is_epoch_end(step) and not self.is_validation(step) and self.max_steps == -1

    def is_epoch_end(self, step: int) -> bool:
        """Whether an epoch ends after `step` optimiser steps."""
        return self.steps_per_epoch > 0 and step % self.steps_per_epoch == 0

    def is_validation(self, step: int) -> bool:
        """Whether a validation follows after `step` optimiser steps."""
        interval = self.val_interval or self.steps_per_epoch
        return bool(interval) and step % interval == 0
