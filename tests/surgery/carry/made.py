"""Optimizers of many kinds, and a model that they have trained."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn, optim

from tests.surgery.models import CASES, batch_of, scrambled

LR = 1e-3
Make = Callable[[Any], optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: optim.SGD(p, lr=LR, momentum=0.9, nesterov=True),
    "plain-sgd": lambda p: optim.SGD(p, lr=LR),
    "adam": lambda p: optim.Adam(p, lr=LR, weight_decay=0.1),
    "amsgrad": lambda p: optim.Adam(p, lr=LR, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=LR, weight_decay=0.0),
    "nadam": lambda p: optim.NAdam(p, lr=LR),
    "radam": lambda p: optim.RAdam(p, lr=LR),
    "adagrad": lambda p: optim.Adagrad(p, lr=LR),
    "rmsprop": lambda p: optim.RMSprop(p, lr=LR, centered=True, momentum=0.9),
    "adamax": lambda p: optim.Adamax(p, lr=LR),
    "adafactor": lambda p: optim.Adafactor(p, lr=LR),
    "adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "rprop": lambda p: optim.Rprop(p, lr=LR),
    "asgd": lambda p: optim.ASGD(p, lr=LR, t0=2),
}


def train(model: nn.Module, optimizer: optim.Optimizer, x: Tensor, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def trained(name: str, steps: int) -> tuple[nn.Module, Tensor, optim.Optimizer]:
    model, x = scrambled(CASES[1]).eval(), batch_of(CASES[1])
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, x, steps)
    return model, x, optimizer
