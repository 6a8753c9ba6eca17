"""What strategies with a controller share: sampling, its state in checkpoints, its FLOPs."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftwork._eager import eager

M = TypeVar("M", bound=nn.Module)

ALONE = "its controller samples by probabilities that other machines may round differently"
"""Why several workers can't share a search with a controller."""


def adam(module: nn.Module, **options: Any) -> torch.optim.Adam:
    """Adam over a module's weights; options are those of `torch.optim.Adam`."""
    return eager(torch.optim.Adam)(module.parameters(), **options)


def made(kind: Callable[[], M]) -> M:
    """Make a module without touching the global source of randomness; its weights are to be set then."""
    with torch.random.fork_rng(devices=[]):
        return kind()


@torch.no_grad()
def spread(tensors: Mapping[str, Tensor], limits: Mapping[str, float], *, generator: torch.Generator) -> None:
    """Set each tensor to uniform numbers in ±limit; the limit is that of the longest prefix of its name."""
    for name, tensor in tensors.items():
        limit = limits[max((prefix for prefix in limits if name.startswith(prefix)), key=len)]
        tensor.uniform_(-limit, limit, generator=generator)


def picked(logits: Tensor, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample one option from each row of logits [n, options], int64 [n]; those at -inf are never taken."""
    chances = torch.softmax(logits.detach().double(), dim=1).numpy().cumsum(axis=1)
    marks = rng.random(len(chances)) * chances[:, -1]
    return np.asarray((chances > marks[:, None]).argmax(axis=1), dtype=np.int64)


def weights_flops(module: nn.Module, *, steps: int, training: bool) -> int:
    """FLOPs of so many steps through all weights of a module: two for each, six where they are trained."""
    return (6 if training else 2) * steps * sum(parameter.numel() for parameter in module.parameters())


def stored(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights and moments by name."""
    moments = {
        f"moments/{name}/{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return {f"weights/{name}": value for name, value in module.state_dict().items()} | moments


def restored(module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Continue from what `stored` gave."""
    weights = {name.removeprefix("weights/"): value for name, value in state.items() if name.startswith("weights/")}
    module.load_state_dict(weights)
    for name, parameter in module.named_parameters():
        start = f"moments/{name}/"
        found = {key.removeprefix(start): value.clone() for key, value in state.items() if key.startswith(start)}
        if found:
            optimizer.state[parameter] = found
