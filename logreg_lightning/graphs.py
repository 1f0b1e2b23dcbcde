"""The optimiser steps of one call as one CUDA graph: one launch where there were a thousand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from logreg_lightning.batches import Steps


class GraphedSteps:
    """Records `run` the second time it is called with mini-batches of the same sizes, and replays it from then on.

    Calls of other sizes, such as an epoch's last, run as they are. The very first call does too: it makes the momentum
    buffers, which a recording must find. Several processes are not recorded: their gradients meet in each step.

    Args:
        run: What to record: returns logits (N, classes), and changes the weights, for the mini-batches and the learning
            rate of each.
    """

    def __init__(self, run: Callable[[Steps, Sequence[float | Tensor]], Tensor]) -> None:
        self.run = run
        self.sizes: list[int] = []
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, steps: Steps, rates: list[float]) -> Tensor:
        device = steps.images.device
        on_device = torch.tensor(rates, device=device)
        if steps.sizes != steps.global_sizes or steps.sizes != self.sizes:
            if self.graph is None:
                self.sizes = steps.sizes
            return self.run(steps, on_device.unbind())
        if self.graph is None:
            self.images, self.labels, self.rates = steps.images.clone(), steps.labels.clone(), on_device.clone()
            self.graph = torch.cuda.CUDAGraph()
            static = Steps(self.images, self.labels, steps.sizes, steps.global_sizes)
            with torch.cuda.graph(self.graph):
                self.logits = self.run(static, self.rates.unbind())
        self.images.copy_(steps.images)
        self.labels.copy_(steps.labels)
        self.rates.copy_(on_device)
        self.graph.replay()
        return self.logits.clone()
