"""Where a model might grow, from data: the first-order gain of every candidate graft.

A graft that adds nothing yet, because the weights that read it are zero, has a gradient on those weights. The squared
norm of that gradient is how fast the loss falls, per unit of rate, when gradient descent starts to move them: the score
of GradMax (Evci et al. 2022), and to first order that of Firefly (Wu et al. 2020) and TINY (Verbockhaven et al. 2024).
Grafts that add nothing don't disturb each other, so one backward pass scores all sites of a kind at once.
"""

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import SurgeryError
from graftwork.surgery._block import R2RBlock
from graftwork.surgery._calls import EVALUATION, TRAINING, Batches, Call, Loss, call_of, loss_of, sandbox, set_mode
from graftwork.surgery._check import Check
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.growths import AddBlocks, Deepen, Edit, Resize, Subject, WidenAll


@dataclass(frozen=True)
class SiteScore:
    """What one graft would bring, to first order.

    Attributes:
        site: Path of the module.
        kind: ``"widen"`` or ``"deepen"``.
        gain: Squared norm of the loss's gradient at the graft's zero weights: decrease of the loss per unit of rate.
        parameters: Parameters that the graft adds.
        flops: FLOPs that it adds to a forward pass of one example; None where they could not be counted.
    """

    site: str
    kind: str
    gain: float
    parameters: int
    flops: float | None

    @property
    def per_parameter(self) -> float:
        """Gain for each new parameter."""
        return self.gain / max(self.parameters, 1)

    @property
    def per_flop(self) -> float | None:
        """Gain for each new FLOP; None where they could not be counted."""
        return self.gain / self.flops if self.flops else None


@dataclass(frozen=True)
class SiteScores:
    """The scores of a model's sites, by gain per parameter; prints as a table and iterates.

    Attributes:
        scores: Best first.
        loss: Mean loss of the model on the batches.
        notes: What could not be scored.
    """

    scores: tuple[SiteScore, ...]
    loss: float
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[SiteScore]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        length = max((len(score.site) for score in self.scores), default=4)
        lines = [
            f"{'site':<{length}}  kind    {'gain':>9} {'parameters':>11} {'FLOPs':>11} {'gain/param':>11} gain/FLOP"
        ]
        for score in self.scores:
            flops = "–" if score.flops is None else f"{score.flops:,.0f}"
            per = "–" if score.per_flop is None else f"{score.per_flop:.1e}"
            lines.append(
                f"{score.site:<{length}}  {score.kind:<6}  {score.gain:>9.2e} {score.parameters:>11,} {flops:>11} "
                f"{score.per_parameter:>11.1e} {per:>9}"
            )
        lines.append(f"loss {self.loss:.4f}; first-order gains say where the loss falls fastest at first, no more")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def score_sites(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    *,
    factor: float = 1.25,
    only: str | tuple[str, ...] | None = None,
    generator: torch.Generator | None = None,
) -> SiteScores:
    """Score every place where a model may grow by the first-order gain of a graft that adds nothing yet.

    Information, and no advice: nothing in graftwork chooses by these scores. The incoming weights of new units are
    drawn at the scale of their neighbors, so scores have the noise of that draw.

    Args:
        model: Any eager ``nn.Module``; left as it was (copies are scored, one at a time).
        batches: Pairs of inputs (as ``example_input`` of `plan`) and targets.
        loss: Function of the model's output and the target; returns a scalar, a mean over the batch.
        factor: Ratio of new to old width of the sites that are widened.
        only: Names of sites, or patterns such as ``"*.mlp.*"``. None scores all.
        generator: CPU generator of new weights. None derives one from the place.

    Returns:
        The scores, by gain per parameter.

    Raises:
        SurgeryError: There is no batch, or the model can't be followed or copied.
    """
    given = iter(batches)
    first = next(given, None)
    if first is None:
        raise SurgeryError("batches: expected pairs of inputs and targets, got none")
    pairs = [(call_of(inputs), target) for inputs, target in chain([first], given)]
    patterns = (only,) if isinstance(only, str) else only
    found: list[SiteScore] = []
    notes: list[str] = []
    mean = _mean_loss(copy.deepcopy(model), pairs, loss)
    for kind, graft in (("widen", _widened), ("deepen", _deepened)):
        try:
            grafts = graft(copy.deepcopy(model), pairs[0][0], factor, patterns, generator)
        except SurgeryError as error:
            notes.append(f"{kind}: {error}")
            continue
        found += _scored(kind, grafts, pairs, loss)
    return SiteScores(tuple(sorted(found, key=lambda score: -score.per_parameter)), mean, tuple(notes))


@dataclass(frozen=True)
class _Grafts:
    """A copy of the model with a graft that adds nothing at every site.

    Attributes:
        model: The copy.
        zeros: Site → masks of its zero weights, by the name of a parameter; None for a parameter that is zero whole.
        parameters: Site → number of new parameters.
        flops: Site → FLOPs that it adds for one example.
    """

    model: nn.Module
    zeros: dict[str, dict[str, Tensor | None]]
    parameters: dict[str, int]
    flops: dict[str, float | None]


def _widened(
    model: nn.Module, call: Call, factor: float, only: tuple[str, ...] | None, generator: torch.Generator | None
) -> _Grafts:
    graph = ChannelGraph.of(model, call)
    subject = Subject(graph, generator=generator)
    growth = WidenAll(factor, only=only, method="netmorph", check="fast")
    costs = _flops(model, call)
    weights = {
        path: sum(p.numel() for p in m.parameters(recurse=False) if p.dim() > 1) for path, m in model.named_modules()
    }
    check = Check(model, graph.probes, thorough="fast")
    edit = _made(growth, subject, check)
    assert isinstance(edit, Resize)  # the stream stays
    zeros: dict[str, dict[str, Tensor | None]] = {}
    parameters, flops = {}, {}
    for site in edit.sites:
        zeros[site] = dict(edit.unheard(site))
        added = edit.added(site)
        parameters[site] = sum(added.values())
        owned = [(name.rpartition(".")[0], n) for name, n in added.items() if graph.trace.tensors[name].dim() > 1]
        known = all(weights.get(path) and path in costs for path, _ in owned)
        flops[site] = sum(n * costs[path] / weights[path] for path, n in owned) if known else None
    return _Grafts(model, zeros, parameters, flops)


def _made(growth: WidenAll, subject: Subject, check: Check) -> Edit:
    """The growth that the model's code can follow, made."""
    first = growth.edit(subject)
    problem = _try(first, check)
    if problem is None:
        return first
    for other in growth.alternatives(subject, check, problem):
        if _try(other, check) is None:
            return other
    raise problem


def _try(edit: Edit, check: Check) -> SurgeryError | None:
    try:
        with Transaction() as transaction:
            edit.make(transaction)
            edit.settle(transaction, check)
    except SurgeryError as error:
        return error
    return None


def _deepened(
    model: nn.Module, call: Call, factor: float, only: tuple[str, ...] | None, generator: torch.Generator | None
) -> _Grafts:
    graph = ChannelGraph.of(model, call)
    subject = Subject(graph, generator=generator)
    check = Check(model, graph.probes, thorough="fast")
    places = [
        path
        for path, (dims, _) in graph.trace.module_outputs.items()
        if path and 2 <= len(dims) <= 5 and path not in graph.trace.varying
        if only is None or any(fnmatchcase(path, pattern) for pattern in only)
    ]
    paths: dict[str, str] = {}
    for place in places:
        with suppress(SurgeryError):  # no block fits behind it, or its forward is not called: growth_sites says why
            edit = Deepen(place, check="fast").edit(subject)
            if isinstance(edit, AddBlocks) and _try(edit, check) is None:
                paths[place] = f"{place}.{edit.names[0]}"
    parameters = {}
    for place, path in paths.items():
        block = model.get_submodule(path)
        assert isinstance(block, R2RBlock)
        with torch.no_grad():
            block.mix.zero_()
        parameters[place] = sum(p.numel() for p in block.parameters())
    zeros: dict[str, dict[str, Tensor | None]] = {place: {f"{path}.mix": None} for place, path in paths.items()}
    costs = _flops(model, call)
    return _Grafts(model, zeros, parameters, {place: costs.get(path) for place, path in paths.items()})


def _flops(model: nn.Module, call: Call) -> dict[str, float]:
    """FLOPs of one example in every module that has any."""
    from torch.utils.flop_counter import FlopCounterMode  # takes long to import, and only scores need it

    rows = next((leaf.shape[0] for leaf in call.leaves() if isinstance(leaf, Tensor) and leaf.dim()), 1)
    with sandbox(model), FlopCounterMode(display=False) as counter:
        set_mode(model, EVALUATION)
        call.run(model)
    found = {}
    for name, counts in counter.get_flop_counts().items():
        found[str(name).partition(".")[2]] = sum(counts.values()) / max(rows, 1)
    return found


def _scored(kind: str, grafts: _Grafts, pairs: list[tuple[Call, Any]], loss: Loss) -> list[SiteScore]:
    named = dict(grafts.model.named_parameters())
    wanted = {name: named[name] for held in grafts.zeros.values() for name in held if name in named}
    for name, parameter in named.items():
        parameter.requires_grad_(name in wanted)
    _mean_loss(grafts.model, pairs, loss, backward=True)
    scores = []
    for site, held in grafts.zeros.items():
        gain = 0.0
        for name, mask in held.items():
            gradient = wanted[name].grad if name in wanted else None
            if gradient is not None:
                part = gradient if mask is None else gradient[mask.to(gradient.device)]
                gain += float(part.double().square().sum())
        scores.append(SiteScore(site, kind, gain, grafts.parameters[site], grafts.flops[site]))
    return scores


def _mean_loss(model: nn.Module, pairs: list[tuple[Call, Any]], loss: Loss, *, backward: bool = False) -> float:
    """The mean over batches, in training mode without dropout; with its gradient where that is asked for."""
    set_mode(model, TRAINING)
    total = 0.0
    for call, target in pairs:
        with torch.set_grad_enabled(backward):
            value = loss_of(model, call, target, loss)
        if backward and value.requires_grad:
            (value / len(pairs)).backward()  # type: ignore[no-untyped-call]
        total += float(value.detach()) / len(pairs)
    return total
