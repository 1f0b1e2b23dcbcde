"""The optimum of several logistic regressions at once, on rows that are in memory, by L-BFGS."""

from __future__ import annotations

import torch
from torch import Tensor

MEMORY = 10
"""Steps that are remembered."""

STEPS = 100
"""At most, of one `minimize`."""

HALVINGS = 20
"""Of a step, at most."""

SUFFICIENT = 1e-4
"""Of what a step's slope promises, the share that it must reach (Nocedal, Wright 2006, section 3.1)."""


class Optimum:
    """Logistic regressions on the same rows, which differ in what share of the loss each row has.

    Of each, the objective is the sum of share x cross-entropy, plus weight_decay / 2 x the sum of squared weights; the
    bias is not penalised. L-BFGS (Nocedal, Wright 2006, Numerical Optimization, algorithm 7.4) starts each step as if
    every class's Hessian were the rows' second moment, times the mean of p (1 - p), plus the penalty: with p = 1 / K it
    is the bound of Boehning 1992, Multinomial logistic regression algorithm, but for a factor. In the coordinates of
    its eigenvectors that is one number a feature, whatever the penalty. What was learnt of the Hessian at one penalty
    holds at the next.

    Args:
        rows: float (n, features), standardised, their mean 0.
        labels: int64 (n,).
        classes: Number of classes, K.
        shares: float (heads, n), from 0; those of a head add up to 1.

    Attributes:
        weight: float (heads, K, features), in coordinates of its own; zeros at first.
        bias: float (heads, K).
    """

    def __init__(self, rows: Tensor, labels: Tensor, classes: int, shares: Tensor) -> None:
        moment = rows.T @ rows / len(rows)
        try:
            self.moment, self.axes = torch.linalg.eigh(moment)
        except RuntimeError:  # of features that depend on each other; float64, which finds them, takes thrice as long
            self.moment, self.axes = (part.to(rows.dtype) for part in torch.linalg.eigh(moment.double()))
        self.rows, self.shares = rows @ self.axes, shares
        self.index = labels.view(1, -1, 1).expand(len(shares), -1, 1)
        self.weight = rows.new_zeros(len(shares), classes, rows.shape[1])
        self.bias = rows.new_zeros(len(shares), classes)
        self._moves: list[Tensor] = []
        self._bends: list[Tensor] = []  # changes of the gradient, but for the penalty's

    @property
    def weights(self) -> Tensor:
        """float (heads, K, features), of the rows as they were given."""
        return torch.matmul(self.weight, self.axes.T)

    def logits(self, weight: Tensor, bias: Tensor) -> Tensor:
        """float (heads, n, K)."""
        return torch.baddbmm(bias.unsqueeze(1), self.rows.expand(len(weight), -1, -1), weight.transpose(1, 2))

    def minimize(self, weight_decay: float, tol: float) -> Tensor:
        """Goes on to the optimum at that penalty; returns its logits, float (heads, n, K).

        Args:
            tol: Ends where a step promises to lower no objective by more than this share.
        """
        logits, at = self.logits(self.weight, self.bias), _joined(self.weight, self.bias)
        decay = _joined(torch.full_like(self.weight, weight_decay), torch.zeros_like(self.bias))
        objective, log_probs = self._objective(logits, at, decay)
        gradient = self._gradient(log_probs) + decay * at
        in_doubt = float(((1 - log_probs.exp().square().sum(2)) * self.shares).sum(1).mean())
        bend = max(in_doubt, 1e-6) / self.weight.shape[1]
        start = 1 / (bend * torch.cat([self.moment.clamp(min=1e-9), self.moment.new_ones(1)]) + decay[0, 0])
        for _ in range(STEPS):
            direction = -self._newton(gradient, start, decay)
            slope = _dot(gradient, direction).double().flatten()
            if float((-slope / objective).max()) < tol:
                break
            change = self.logits(direction[..., :-1], direction[..., -1])
            length = torch.ones_like(slope)
            for _ in range(HALVINGS):
                lengths = length.to(logits.dtype).view(-1, 1, 1)
                found, log_probs = self._objective(logits + lengths * change, at + lengths * direction, decay)
                is_long = found > objective + SUFFICIENT * length * slope
                if not is_long.any():
                    break
                length = torch.where(is_long, length / 2, length)
            else:
                break  # no step is short enough: rounding is all that is left
            move = lengths * direction
            logits, at = logits + lengths * change, at + move
            following = self._gradient(log_probs) + decay * at
            self._moves = [*self._moves, move][-MEMORY:]
            self._bends = [*self._bends, following - gradient - decay * move][-MEMORY:]
            objective, gradient = found, following
        self.weight, self.bias = at[..., :-1].contiguous(), at[..., -1].contiguous()
        return logits

    def _objective(self, logits: Tensor, at: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = logits.log_softmax(2)
        losses = -log_probs.gather(2, self.index).squeeze(2) * self.shares
        return losses.double().sum(1) + (decay * at.square()).double().sum((1, 2)) / 2, log_probs

    def _gradient(self, log_probs: Tensor) -> Tensor:
        grad = log_probs.exp()
        grad.scatter_add_(2, self.index, grad.new_full((1, 1, 1), -1).expand_as(self.index))
        grad.mul_(self.shares.unsqueeze(2))
        return _joined(grad.transpose(1, 2) @ self.rows, grad.sum(1))

    def _newton(self, gradient: Tensor, start: Tensor, decay: Tensor) -> Tensor:
        """About what the inverse Hessian makes of a gradient: the two loops of L-BFGS."""
        pairs = []
        for move, bend in zip(self._moves, self._bends, strict=True):
            change = bend + decay * move
            pairs.append((move, change, _dot(move, change).clamp(min=1e-30)))
        result, shares = gradient, []
        for move, change, curved in reversed(pairs):
            shares.append(_dot(move, result) / curved)
            result = result - shares[-1] * change
        result = result * start
        if pairs:
            _, change, curved = pairs[-1]
            result = result * curved / _dot(change, start * change).clamp(min=1e-30)
        for (move, change, curved), share in zip(pairs, reversed(shares), strict=True):
            result = result + move * (share - _dot(change, result) / curved)
        return result


def _joined(weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([weight, bias.unsqueeze(2)], 2)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """float (heads, 1, 1)."""
    return (first * second).sum((1, 2), keepdim=True)
