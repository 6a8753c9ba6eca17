"""Grow one architecture at its listed sites, and compare what it computes before and after.

The comparison owes nothing to the library's own check: this file runs the model, on inputs that the library has not
seen, with other batch sizes, in evaluation and in training mode.
"""

import copy
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import NotPreservedError, SurgeryError, UnsupportedOperationError
from graftwork.surgery import register_optimizer_carry
from zoo._architecture import Architecture

EXACT = 1e-10  # relative, float64
WRONG = 1e-7  # more than any rounding that a network here amplifies
SIZES = (4, 1, 2, 5)
Outputs = dict[str, list[Tensor]]


class Marked(torch.optim.Adam):
    """Adam whose state says, for as long as a growth lasts, which slots of a parameter are old."""


register_optimizer_carry(Marked, lambda state, growth, _group: {"old": growth.place(state["old"])})


def measure(architecture: Architecture, *, sites: int, deadline: float) -> dict[str, Any]:
    """Measure one architecture.

    Args:
        architecture: What to build.
        sites: At most so many sites of each kind, a seeded sample where there are more.
        deadline: ``time.monotonic()`` after which no further site is tried.

    Returns:
        A row of the table, as plain data.
    """
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    model = scrambled(architecture)
    example = architecture.batch(SIZES[0], torch.Generator().manual_seed(1))
    probe = Observer(architecture, model)
    listed, deepenable = architecture.listed(model), architecture.deepenable(model)
    wanted = [path for path, kind in listed.items() if kind == "widen"]
    reported = gw.growth_sites(model, example)
    beyond = [name for name in reported.widenable if listed.get(name) != "widen"]
    pick = random.Random(zlib.crc32(architecture.name.encode()))

    def widened(grown: nn.Module, site: str, optimizer: torch.optim.Optimizer) -> Any:
        return gw.widen(grown, site, factor=1.25, example_input=example, optimizer=optimizer)

    def deepened(grown: nn.Module, site: str, optimizer: torch.optim.Optimizer) -> Any:
        return gw.deepen(grown, site, example_input=example, optimizer=optimizer)

    plans = {"widen": (wanted, widened), "deepen": (deepenable, deepened), "beyond": (beyond, widened)}
    row: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "listed": {"widen": len(wanted), "deepen": len(deepenable), "beyond": len(beyond)},
        "apart": {kind: list(listed.values()).count(kind) for kind in ("norm", "output", "fixed")},
        "modes": probe.modes,
        "notes": list(reported.notes),
    }
    for kind, (names, grow) in plans.items():
        chosen = names if len(names) <= sites else sorted(pick.sample(names, sites), key=names.index)
        row[kind] = []
        for site in chosen:
            if time.monotonic() > deadline:
                row["notes"].append(f"out of time at {kind} {site}")
                break
            row[kind].append({"site": site, **attempt(model, site, grow, example, probe)})
    return row


def scrambled(architecture: Architecture) -> nn.Module:
    """Build in float64 with perturbed parameters and statistics, without dropout.

    A fresh network hides a wrong growth: zero-initialized layers, equal statistics.
    """
    torch.manual_seed(0)
    model = architecture.build().double()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.std().item() if parameter.numel() > 1 else 0.0
            parameter.add_((0.1 * scale + 0.02) * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
            elif name.endswith("running_mean"):
                buffer.copy_(0.2 * torch.randn_like(buffer))
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001 - the base of all dropouts
            module.p = 0.0
    return model


class Observer:
    """What a model computes, at several batch sizes and in both modes; and how far another one is from it."""

    def __init__(self, architecture: Architecture, model: nn.Module) -> None:
        self.batches = {size: architecture.batch(size, torch.Generator().manual_seed(100 + size)) for size in SIZES}
        first = self._outputs(model, seed=3)
        again = self._outputs(model, seed=4)
        # A mode that draws random numbers has no function to keep.
        self.before = {key: value for key, value in first.items() if gap(value, again.get(key)) == 0.0}
        self.modes = sorted({key.split()[0] for key in self.before})

    def worst(self, model: nn.Module) -> tuple[float, str]:
        """Return the largest relative gap, and the run it was found in."""
        after = self._outputs(model, seed=3)
        gaps = {key: gap(value, after.get(key)) for key, value in self.before.items()}
        key = max(gaps, key=lambda name: gaps[name])
        return gaps[key], key

    def _outputs(self, model: nn.Module, seed: int) -> Outputs:
        found: Outputs = {}
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        training = [(module, module.training) for module in model.modules()]
        for mode in ("evaluation", "training"):
            for size, batch in self.batches.items():
                model.train(mode == "training")
                torch.manual_seed(seed)
                try:
                    with torch.no_grad():
                        found[f"{mode} {size}"] = [t.clone() for t in tensors(call(model, batch))]
                except (ValueError, RuntimeError):
                    pass  # batch norm over one value: not for this mode; a run lost by growing counts as wrong
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, flag in training:
            module.training = flag
        return found


def gap(before: list[Tensor], after: list[Tensor] | None) -> float:
    """Return the largest difference relative to the largest number of the same output; infinite if incomparable."""
    if after is None or len(before) != len(after):
        return float("inf")
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        if old.shape != new.shape or not bool(torch.isfinite(old).all() and torch.isfinite(new).all()):
            return float("inf")
        if old.numel():
            worst = max(worst, float((old - new).abs().max() / old.abs().max().clamp_min(1e-300)))
    return worst


def attempt(model: nn.Module, site: str, grow: Callable[..., Any], example: Any, probe: Observer) -> dict[str, Any]:
    """Grow a copy at one site; returns the outcome, the gap, and what three steps have moved."""
    grown = copy.deepcopy(model)
    optimizer = Marked(grown.parameters(), lr=1e-3)
    for parameter in grown.parameters():
        optimizer.state[parameter]["old"] = torch.ones_like(parameter)
    began = {name: tensor.clone() for name, tensor in grown.state_dict().items()}
    try:
        receipt = grow(grown, site, optimizer)
    except SurgeryError as error:
        clean = same_bits(began, grown.state_dict()) and probe.worst(grown)[0] == 0.0
        kind = "refused" if clean else "DIRTY"
        return {"outcome": kind, "reason": reason(error), "error": type(error).__name__, "message": str(error)}
    except Exception as error:
        return {"outcome": "CRASH", "reason": f"{type(error).__name__}: {error}"[:300]}
    worst, where = probe.worst(grown)
    outcome = "exact" if worst <= EXACT else "WRONG" if worst > WRONG else "inexact"
    moved, still = steps(grown, optimizer, receipt, example)
    return {
        "outcome": outcome, "gap": worst, "where": where, "own_gap": receipt.largest_gap,
        "parameters": list(receipt.parameters), "moved": moved, "still": still,
    }  # fmt: skip


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, receipt: Any, example: Any) -> tuple[int, dict[str, str]]:
    """Take three steps; returns how many grown parameters moved in a new slot, and why the others did not."""
    parameters = dict(model.named_parameters())
    fresh = {}
    for change in receipt.tensors:
        if change.name in parameters:
            old = optimizer.state[parameters[change.name]].get("old")
            mask = torch.ones(change.new_shape, dtype=torch.bool) if change.old_shape is None else old == 0
            fresh[change.name] = mask
    optimizer.state.clear()
    began = {name: parameters[name].detach().clone() for name in fresh}
    largest = dict.fromkeys(fresh, 0.0)
    model.train()
    torch.manual_seed(5)
    goals: list[Tensor] = []
    for _ in range(3):
        optimizer.zero_grad()
        outputs = [t for t in tensors(call(model, example)) if t.requires_grad]
        goals = goals or [torch.randn_like(t) for t in outputs]
        torch.stack([(t - goal).square().mean() for t, goal in zip(outputs, goals, strict=True)]).sum().backward()
        for name, mask in fresh.items():
            grad = parameters[name].grad
            if grad is not None:
                largest[name] = max(largest[name], float((grad.abs() * mask).max()))
        optimizer.step()
    still = {}
    for name, mask in fresh.items():
        if not bool(((parameters[name].detach() != began[name]) & mask).any()):
            still[name] = "no gradient" if largest[name] == 0.0 else f"gradient {largest[name]:.1e}"
    return len(fresh) - len(still), still


def call(model: nn.Module, batch: Any) -> Any:
    """Call a model with a batch of its architecture; inputs are cloned."""
    if isinstance(batch, Mapping):
        return model(**{key: value.clone() for key, value in batch.items()})
    return model(*(value.clone() for value in batch)) if isinstance(batch, tuple) else model(batch.clone())


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of an output."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts hold the same bits under the same names."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def reason(error: SurgeryError) -> str:
    """Return why something was refused, without the names of this model."""
    text = re.sub(r"'[^']*' can't be \w+( without changing the function)?: ", "", str(error))
    text = re.sub(r" \([\w.]+:\d+\)", "", text)
    text = re.sub(r"( (in|at|after))? '[^']*'", "", text)
    text = re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", text)
    if isinstance(error, NotPreservedError):
        return "the library's check found another function and put everything back"
    kind = "not understood: " if isinstance(error, UnsupportedOperationError) else ""
    return f"{kind}{text.strip()}"[:160]
