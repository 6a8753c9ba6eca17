"""Muon: momentum whose update is made orthogonal, for filters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from graftwork.training._rules import MuonVariant

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al. 2024): steep at zero, so that few iterations are enough;
singular values end in [0.7, 1.2]."""


def orthogonalize(matrix: Tensor, *, num_iterations: int = 5, eps: float = 1e-7) -> Tensor:
    """Approximate the orthogonal factor ``U Vᵀ`` of ``matrix = U S Vᵀ`` by a Newton–Schulz iteration.

    Computed in the dtype of ``matrix`` (usually float32): bfloat16, which others use, is hundreds of times slower on
    processors without it. A matrix more than twice as long as wide is multiplied only twice, at the beginning and at
    the end: all that happens in between is a polynomial in its Gram matrix.

    Args:
        matrix: Matrix [rows, columns].
        num_iterations: Number of iterations; 5 bring all singular values near 1, 3 are enough for training small
            networks.
        eps: Smallest norm to divide by, so that zero stays zero.

    Returns:
        A matrix [rows, columns] with singular values in about [0.7, 1.2].
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    out = matrix.mT if tall else matrix
    out = out / out.norm().clamp(min=eps)
    if out.shape[1] > 2 * out.shape[0]:
        out = torch.mm(_product_of_factors(torch.mm(out, out.mT), num_iterations), out)
        num_iterations = 0  # all of them are done
    for _ in range(num_iterations):
        gram = out @ out.mT
        out = torch.addmm(out, torch.addmm(gram, gram, gram, beta=b, alpha=c), out, beta=a)
    return out.mT if tall else out


def _product_of_factors(gram: Tensor, num_iterations: int) -> Tensor:
    """The matrix that all iterations together multiply by, from the first Gram matrix ``G``.

    An iteration is ``X ← P X`` with ``P = a I + b G + c G²``, after which the Gram matrix is ``P G P``. Everything here
    is a polynomial in the first ``G``, so all factors are symmetric and commute.
    """
    a, b, c = _COEFFICIENTS
    product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for number in range(num_iterations):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product if number else factor
        if number < num_iterations - 1:
            gram = factor @ (gram @ factor)
    return product


class Muon(torch.optim.Optimizer):
    """Optimizer by orthogonalized momentum, over tensors read as matrices [first dimension, all others].

    There are two ways to apply the update O (Jordan 2024; airbench):

    * ``"scaled"``: ``w ← (1 − lr · weight_decay) w − lr · √max(1, rows / columns) · O``, as `torch.optim.Muon`.
    * ``"norm-reset"``: ``w ← w · √rows / ‖w‖ − lr · O``; weights keep their norm, so the rate alone sets how fast they
      turn. Use it only for weights before a norm, whose scale does not matter.

    Args:
        params: Tensors of two or more dimensions, or parameter groups.
        lr: Learning rate.
        weight_decay: Decoupled weight decay; only for ``"scaled"``.
        momentum: Decay of the running mean of gradients.
        nesterov: Whether the update looks one step ahead.
        variant: ``"scaled"`` or ``"norm-reset"``.
        num_iterations: Number of iterations (see `orthogonalize`).
        eps: Smallest norm to divide by (see `orthogonalize`).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        variant: MuonVariant = "scaled",
        num_iterations: int = 5,
        eps: float = 1e-7,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "variant": variant,
            "num_iterations": num_iterations,
            "eps": eps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every tensor that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        momentum, buffer = group["momentum"], state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        rows = len(parameter)
        matrix = update.reshape(rows, -1)
        update = orthogonalize(matrix, num_iterations=group["num_iterations"], eps=group["eps"]).reshape(update.shape)
        lr = group["lr"]
        if group["variant"] == "norm-reset":
            # the norm is taken over the matrix, as its bits must not depend on the tensor's layout in memory
            parameter.mul_(rows**0.5 / parameter.reshape(rows, -1).norm().clamp(min=group["eps"]))
            parameter.add_(update, alpha=-lr)
            return
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.add_(update, alpha=-lr * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)
