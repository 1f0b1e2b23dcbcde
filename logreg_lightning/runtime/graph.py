"""A function of tensors as a CUDA graph: recorded once, then replayed, which launches hundreds of kernels as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Graph:
    """Records `run` at the second call of one kind, in a row or not, and replays it at every later call of that kind.

    Calls of other kinds run as they are. So does the very first one: it makes what a recording must find, such as
    the optimiser's buffers. A graph holds on to the tensors that it was recorded with: make one a training.

    Args:
        run: Called with a kind and tensors; returns a tensor. It must not wait for the device, nor depend on a value.
    """

    def __init__(self, run: Callable[..., Tensor]) -> None:
        self.run = run
        self.seen: list[Any] = []
        self.kind: Any = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, kind: object, *tensors: Tensor) -> Tensor:
        """What `run(kind, *tensors)` returns.

        Args:
            kind: What calls must share, beside the tensors' shapes and types, to be replayed.
        """
        if kind != self.kind and (self.graph is not None or kind not in self.seen):
            if self.graph is None:
                self.seen.append(kind)
            return self.run(kind, *tensors)
        if self.graph is None:
            self.kind, self.inputs = kind, [tensor.clone() for tensor in tensors]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.output = self.run(kind, *self.inputs)
        # A graph reads and writes the memory that it was recorded with.
        for static, tensor in zip(self.inputs, tensors, strict=True):
            static.copy_(tensor)
        self.graph.replay()
        return self.output.clone()
