"""Parameter groups of an optimizer: where new parameters join, and rates after a growth."""

import bisect
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn, optim

from graftwork.errors import SurgeryError
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.carry._optimizers import seed_state


def adopt(
    transaction: Transaction,
    optimizers: Sequence[optim.Optimizer],
    model: nn.Module,
    near: nn.Module,
    block: nn.Module,
) -> None:
    """Let new parameters join the groups that train their neighbors, as if they had been there without a gradient.

    Each joins the group that trains its nearest parameter of as many dimensions, in ``near`` if there is one, else in
    the model (the nearest in the model's order, the one before first), else of any number of dimensions: so each
    layer's own rate reaches a block behind a module without parameters. ``torch.optim.Muon`` only takes matrices. A
    group that lists its parameters in the order of the model goes on doing so: an optimizer's ``state_dict()`` knows
    parameters by their position alone, and one that is made for the grown model when training resumes has that order.

    Args:
        transaction: Notes how to undo.
        optimizers: The optimizers of the model; none leaves the parameters without one.
        model: The model, with the new parameters in it.
        near: The module whose parameters are the neighbors.
        block: The module that holds the new parameters.

    Raises:
        SurgeryError: No given optimizer can train a parameter.
    """
    if not optimizers:
        return
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = {key: position for position, key in enumerate(names)}
    new = {id(parameter) for parameter in block.parameters()}
    distances = _distances(names, new)
    pools = [
        sorted((p for p in pool.parameters() if id(p) not in new), key=lambda p: distances.get(id(p), len(names)))
        for pool in (near, model)
    ]
    for parameter in block.parameters():
        optimizer, group = _home(optimizers, pools, parameter)
        spot = _spot(group["params"], parameter, order)
        # Groups made from named parameters list the names beside them.
        lists = {"params": parameter, "param_names": names[id(parameter)]}
        for key, value in [(key, value) for key, value in lists.items() if key in group]:
            held = list(group[key])
            transaction.step(
                f"parameter group: {key}",
                partial(group.__setitem__, key, [*held[:spot], value, *held[spot:]]),
                partial(group.__setitem__, key, held),
            )
        neighbor = _neighbor(optimizer, group, pools, parameter)
        if neighbor is not None:
            seed_state(transaction, optimizer, parameter, neighbor)


def _neighbor(
    optimizer: optim.Optimizer, group: dict[str, Any], pools: list[list[nn.Parameter]], parameter: nn.Parameter
) -> nn.Parameter | None:
    """The nearest old parameter of the group with state: of as many dimensions, if there is one."""
    members = {id(p) for p in group["params"]}
    trained = [p for pool in pools for p in pool if id(p) in members and optimizer.state.get(p)]
    return next((p for p in trained if p.dim() == parameter.dim()), next(iter(trained), None))


def _distances(names: dict[int, str], new: set[int]) -> dict[int, float]:
    """How many modules with parameters old ones stand away from new ones; of two, the one before is nearer."""
    owners: list[str] = []
    before: dict[int, int] = {}
    at = 0
    for key, name in names.items():
        owner = name.rpartition(".")[0]
        if key in new:
            at = len(owners)
            continue
        if owner not in owners[-1:]:
            owners.append(owner)
        before[key] = len(owners)
    return {key: at - place if place <= at else place - at - 0.5 for key, place in before.items()}


def _spot(parameters: Sequence[nn.Parameter], new: nn.Parameter, order: dict[int, int]) -> int:
    """Where a new parameter goes in a group: in the order of the model if the group has it, else at the end."""
    places = [order.get(id(parameter), -1) for parameter in parameters]
    if places != sorted(places):
        return len(places)
    return bisect.bisect(places, order[id(new)])


def _home(
    optimizers: Sequence[optim.Optimizer], pools: list[list[nn.Parameter]], parameter: nn.Parameter
) -> tuple[optim.Optimizer, dict[str, Any]]:
    fitting = [
        (optimizer, group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        if not (isinstance(optimizer, optim.Muon) and parameter.dim() != 2)
    ]
    homes: dict[int, tuple[optim.Optimizer, dict[str, Any]]] = {
        id(p): home for home in reversed(fitting) for p in home[1]["params"]
    }
    for same_rank in (True, False):
        for pool in pools:
            for neighbor in pool:
                if id(neighbor) in homes and (not same_rank or neighbor.dim() == parameter.dim()):
                    return homes[id(neighbor)]
    raise SurgeryError(
        f"optimizer: expected one that can train a new parameter of shape {tuple(parameter.shape)}, got none; pass "
        "every optimizer of the model (Muon takes matrices only)"
    )


def rescale(
    optimizer: optim.Optimizer,
    parameters: tuple[int, int],
    *,
    keys: Sequence[str] = ("lr", "weight_decay"),
    schedulers: Sequence[Any] = (),
) -> float:
    """Scale rates after a growth by the ratio of parameter counts: ``lr ← lr · |θ before| / |θ after|``.

    Nothing does this unasked. It changes the rates of old and new parameters alike.

    Args:
        optimizer: Its groups are changed in place.
        parameters: Parameter counts before and after, a receipt's ``parameters``.
        keys: Entries of the groups to scale; those that a group lacks are passed over. With ``"lr"``, ``"initial_lr"``
            is scaled too.
        schedulers: Learning-rate schedulers whose ``base_lrs`` shall be scaled along.

    Returns:
        The ratio.

    Raises:
        SurgeryError: The counts are not a growth.

    Source: the poster's report, "learning rate and weight decay after a transform".
    """
    before, after = parameters
    if not 0 < before <= after:
        raise SurgeryError(
            f"parameters: expected counts before and after a growth, got {parameters!r}; pass a receipt's parameters"
        )
    ratio = before / after
    names = [*keys, *(["initial_lr"] if "lr" in keys else [])]
    for group in optimizer.param_groups:
        for name in names:
            if name in group:
                group[name] = group[name] * ratio
    if "lr" in keys:
        for scheduler in schedulers:
            scheduler.base_lrs = [rate * ratio for rate in scheduler.base_lrs]
    return ratio
