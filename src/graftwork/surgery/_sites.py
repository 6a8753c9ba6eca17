"""What can be grown in a model, and where not, why not."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from graftwork.errors import SurgeryError, UnsupportedOperationError, did_you_mean
from graftwork.surgery._calls import ExampleInput, call_of
from graftwork.surgery._graph import ChannelGraph
from graftwork.surgery._guard import Guard, plain_numbers
from graftwork.surgery._methods import method_named


@dataclass(frozen=True)
class GrowthSite:
    """One place where a model may grow.

    Attributes:
        name: Path of the module.
        kind: Class of the module.
        width: Present channels (hidden units for recurrent layers); None where it makes none.
        step: `widen` grows it by multiples of this many channels; None where it can't.
        refusal: Why it can't be widened, None where it can.
        unsupported: True where the refusal is an operation that is not understood.
        coupled: Tensors that grow along.
        parameters_per_step: New parameters for one step.
        deepen: Whether a block can be grafted after it.
        approximate: Whether `widen` would grow it with ``approximate=True`` although it can't be exact.
    """

    name: str
    kind: str
    width: int | None
    step: int | None
    refusal: str | None
    unsupported: bool
    coupled: tuple[str, ...]
    parameters_per_step: int
    deepen: bool
    approximate: bool = False

    @property
    def widen(self) -> bool:
        """Whether its channels can be widened."""
        return self.step is not None


@dataclass(frozen=True)
class GrowthSites:
    """The sites of a model; prints as a table, iterates and indexes by name.

    Attributes:
        sites: Every module that makes channels or whose output is a tensor.
        notes: What could not be traced.
        source: How the model was followed.
    """

    sites: tuple[GrowthSite, ...]
    notes: tuple[str, ...] = ()
    source: str = "ATen operations below autograd (dispatch-level trace)"

    def __iter__(self) -> Iterator[GrowthSite]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, name: str) -> GrowthSite:
        for site in self.sites:
            if site.name == name:
                return site
        names = [site.name for site in self.sites]
        raise SurgeryError(f"site: expected one of {names[:8]}, got {name!r}{did_you_mean(name, names)}")

    @property
    def widenable(self) -> list[str]:
        """Names of the sites that can be widened."""
        return [site.name for site in self.sites if site.widen]

    @property
    def deepenable(self) -> list[str]:
        """Names of the sites after which a block can be grafted."""
        return [site.name for site in self.sites if site.deepen]

    def __str__(self) -> str:
        length = max((len(site.name) for site in self.sites), default=4)
        lines = [f"{'site':<{length}}  {'width':>6} {'step':>5} {'cost':>10}  deepen  why not wider"]
        for site in self.sites:
            width = "" if site.width is None else site.width
            step = "" if site.step is None else site.step
            cost = f"{site.parameters_per_step:,}" if site.step else ""
            deepen = "yes" if site.deepen else "no"
            why = site.refusal or ""
            lines.append(f"{site.name:<{length}}  {width:>6} {step:>5} {cost:>10}  {deepen:<6}  {why}".rstrip())
        return "\n".join([*lines, f"followed by: {self.source}", *(f"note: {note}" for note in self.notes)])


@plain_numbers()
def growth_sites(model: nn.Module, example_input: ExampleInput, *, method: str = "r2r") -> GrowthSites:
    """List what can be widened or deepened, with width, cost and, where not, why not.

    Args:
        model: Any eager ``nn.Module``; left as it was.
        example_input: One batch as the model's forward takes it.
        method: Method whose steps and costs are listed.

    Raises:
        SurgeryError: The model can't be grown in place, or fails on the example.
    """
    with Guard(model):
        graph = ChannelGraph.of(model, call_of(example_input))
    step = method_named(method).step
    producers = graph.producers()
    names = dict.fromkeys([*producers, *(name for name in graph.trace.module_outputs if name)])
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    sites = [_site(graph, name, step, makes=name in producers) for name in names]
    return GrowthSites(tuple(sorted(sites, key=lambda site: order.get(site.name, -1))), tuple(graph.notes))


def _site(graph: ChannelGraph, name: str, step: int, *, makes: bool) -> GrowthSite:
    tensor = graph.trace.tensors.get(name)
    kind = type(graph.model.get_submodule(name) if tensor is None else tensor).__name__
    dims = graph.trace.module_outputs.get(name)
    fits = dims is not None and 2 <= len(dims[0]) <= 5
    deep = bool(name) and fits and name not in graph.trace.varying
    if not makes:
        problem = graph.not_followed(name)
        unsupported = isinstance(problem, UnsupportedOperationError)
        text = str(problem or "makes no channels of its own")
        return GrowthSite(name, kind, None, None, text, unsupported, (), 0, deep)
    width = graph.width(name)
    problem = None
    for var in graph.candidates(name):
        try:
            growth = graph.close({var: step}, step=step)
            graph.refuse_left_behind(growth)
        except SurgeryError as error:
            problem = problem or error
            continue
        coupled = tuple(graph.touched(growth))
        return GrowthSite(name, kind, width, graph.added(name, growth), None, False, coupled, graph.cost(growth), deep)
    problem = problem or graph.refusal(name)
    unsupported = isinstance(problem, UnsupportedOperationError)
    inexact = graph.approximable(name)
    return GrowthSite(name, kind, width, None, str(problem), unsupported, (), 0, deep, inexact)
