"""New units whose incoming weights are aimed at where the loss falls fastest once they are heard."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from graftwork.surgery import SurgeryReceipt


def aim(
    model: nn.Module,
    receipt: SurgeryReceipt,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    rounds: int,
) -> bool:
    """Turn the incoming weights of new units so that the gradient at their outgoing ones, which are zero, is largest.

    A power iteration on the mixed second derivative of the loss: the outgoing weights take a step down their gradient,
    the incoming ones the direction of theirs, and the outgoing ones are zero again. Where what stands between both is
    linear, this finds the leading singular vectors that GradMax (Evci et al. 2022) takes. Units are kept orthogonal to
    each other, and as long as they were drawn.

    Args:
        model: Model whose site was just widened by ``netmorph``; the new units' incoming weights change in place, its
            function does not.
        receipt: What the growth has returned.
        batches: Pairs of inputs and targets.
        loss: Function of the model's output and the target.
        rounds: Number of iterations; 0 leaves everything as it is.

    Returns:
        Whether the growth has the form that this is for: one weight with new rows, and others with new columns.
    """
    named = dict(model.named_parameters())
    grown = [(named[c.name], c.old_shape) for c in receipt.tensors if c.old_shape and len(c.new_shape) > 1]
    into = [(weight, old[0]) for weight, old in grown if old[0] < len(weight)]
    readers = [(weight, old[1]) for weight, old in grown if old[1] < weight.shape[1]]
    if len(into) != 1 or not readers or any(weight is into[0][0] for weight, _ in readers):
        return False
    weight, first = into[0]
    for _ in range(rounds):
        gradients = _gradients(model, [reader for reader, _ in readers], batches, loss)
        size = sum(float(g[:, start:].square().sum()) for g, (_, start) in zip(gradients, readers, strict=True)) ** 0.5
        with torch.no_grad():
            for gradient, (reader, start) in zip(gradients, readers, strict=True):
                reader[:, start:] = -1e-3 * gradient[:, start:] / max(size, 1e-12)
        direction = -_gradients(model, [weight], batches, loss)[0][first:]
        with torch.no_grad():
            for reader, start in readers:
                reader[:, start:] = 0.0
            weight[first:] = _turned(weight[first:], direction)
    return True


def _turned(rows: Tensor, direction: Tensor) -> Tensor:
    """Rows of their old lengths along new directions, orthogonal to each other where there is room."""
    old, new = rows.flatten(1), direction.flatten(1)
    if len(new) <= new.shape[1]:
        q, r = torch.linalg.qr(new.T)
        new = q.T * r.diagonal().sign()[:, None]  # a unit that is turned around may never be active again
    lengths = new.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, new * old.norm(dim=1, keepdim=True) / lengths.clamp_min(1e-12), old).view_as(rows)


def _gradients(
    model: nn.Module,
    parameters: Sequence[Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> list[Tensor]:
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for x, y in batches:
        parts = torch.autograd.grad(loss(model(x), y) / len(batches), parameters)
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
    for buffer, before in statistics:  # running statistics of norms
        buffer.copy_(before)
    return sums
