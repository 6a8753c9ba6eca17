"""The channel graph of a model: its volumes, who makes them, who reads them, and what can grow."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from torch import nn

from graftwork.errors import SurgeryError, UnsupportedOperationError, did_you_mean
from graftwork.surgery._adapters import adapter_calls, freeze_adapters, refuse_merged
from graftwork.surgery._calls import EVALUATION, TRAINING, Call, random_state, sandbox, set_mode
from graftwork.surgery._check import Probe, plain
from graftwork.surgery._layout import Layout, UnitMap, free_units, layout_of
from graftwork.surgery._parametrized import PARAMETRIZED, REMOVE, computed_by, spectral_norms
from graftwork.surgery._space import Expr, Reason, Var, atoms, size_of
from graftwork.surgery._trace import INPUT, OUTPUT, Trace
from graftwork.surgery._wrappers import refuse_wrappers, views
from graftwork.surgery.operations import OPERATIONS


@dataclass
class ChannelGraph:
    """What the trace of a model has shown; asked as often as needed, traced once.

    Attributes:
        model: The traced model.
        trace: Index spaces, uses, ties.
        notes: What could not be traced (for example training mode with a batch of one).
        probes: What the model computed when it was traced.
        approximate: Whether volumes may grow whose mean and variance a norm takes.
        views: Parameter or buffer → another tensor in its storage.
    """

    model: nn.Module
    trace: Trace
    notes: list[str] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    approximate: bool = False
    views: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, call: Call, *, training: bool = True) -> "ChannelGraph":
        """Trace a model in evaluation mode and in training mode; the model is left as it was.

        Args:
            model: Any module that ``torch`` can run eagerly.
            call: One forward call.
            training: Whether to trace training mode too.

        Raises:
            SurgeryError: The model can't be grown in place (compiled, distributed, …) or fails on the
                example.
        """
        refuse_wrappers(model)
        refuse_merged(model)
        graph = cls(model, Trace(model, OPERATIONS), views=views(model))
        graph._run(call, EVALUATION)
        for way in adapter_calls(model, call):
            graph._run(way, EVALUATION, way.name)
        if training:
            graph._trace_training(call)
        else:
            graph._note_what_did_not_run()
        graph._trace_branches(call, training=training)
        freeze_adapters(model, graph.trace.spaces)
        graph._freeze_conflicts()
        graph._freeze_stock_attention()
        graph._freeze_spectral_norms()
        return graph

    def _run(self, call: Call, mode: str, batch: str = "example") -> None:
        with sandbox(self.model):
            set_mode(self.model, mode)
            state = random_state()
            try:
                result = self.trace.run(call)
            except Exception as error:
                raise SurgeryError(
                    f"example_input: expected a batch as the model's forward takes it, got {type(error).__name__} in "
                    f"{mode} mode ({error}); the model fails on example_input, so pass another"
                ) from error
            drew = any(not before.equal(after) for before, after in zip(state, random_state(), strict=True))
        output = plain(result)
        if not output:
            raise SurgeryError(
                f"the model returns no tensor ({type(result).__name__}), so whether a growth keeps its function could "
                "not be checked; grow a module that returns tensors, alone or in tuples, mappings or objects"
            )
        self.probes.append(Probe(mode, batch, call, output, random=drew))

    def _trace_training(self, call: Call) -> None:
        """Some branches run in training only (auxiliary heads)."""
        try:
            self._run(call, TRAINING)
        except SurgeryError as error:
            self.notes.append(f"training mode was not traced: {error}")

    def _note_what_did_not_run(self) -> None:
        idle = [n for n, t in self.trace.tensors.items() if isinstance(t, nn.Parameter) and not self.trace.uses[n]]
        if idle:
            self.notes.append(f"training mode was not traced, and evaluation does not use {', '.join(_some(idle))}")

    def _trace_branches(self, call: Call, *, training: bool) -> None:
        """Where Python reads values, the forward may take another way with other numbers: follow some of those too."""
        if not self.trace.reads:
            return
        for batch, variant in call.other_values():
            for mode in (EVALUATION, TRAINING)[: 1 + training]:
                with suppress(SurgeryError):
                    self._run(variant, mode, batch)
        self.notes.append(
            f"the forward reads values that depend on activations ({', '.join(list(self.trace.reads)[:3])}): ways that "
            "neither the example nor the same inputs negated, enlarged or zero take were neither followed nor checked"
        )

    # -- conditions
    # ----------------------------------------------------------------------------------------------

    def _freeze_conflicts(self) -> None:
        """Twins need one sign: a dimension can't both make channels and sum over them."""
        for name in self.trace.tensors:
            for dim in range(len(self.trace.spaces[name])):
                made = {id(var) for use in self._uses(name, dim, consumed=False) for var in atoms(use)}
                for use in self._uses(name, dim, consumed=True):
                    for var in atoms(use):
                        if id(var) in made:
                            text = f"{name!r} both makes these channels and sums over them (transposed tying)"
                            var.reasons = (*var.reasons, Reason(text))

    def _freeze_stock_attention(self) -> None:
        for path, module in self.model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                names = [f"{path}.{leaf}".lstrip(".") for leaf in ("in_proj_weight", "q_proj_weight")]
                for name in names:
                    for var in [v for e in self.trace.spaces.get(name, [])[:1] for v in atoms(e)]:
                        text = f"torch.nn.MultiheadAttention at {path!r} ties its heads to embed_dim"
                        var.reasons = (*var.reasons, Reason(text))

    def _freeze_spectral_norms(self) -> None:
        """A spectral norm divides by the largest singular value, which new rows and columns change."""
        for path, name in spectral_norms(self.model):
            reason = Reason(f"spectral normalization divides {name!r} by its largest singular value: {REMOVE}")
            for var in [var for expr in self.trace.spaces.get(name, []) for var in atoms(expr)]:
                var.reasons = (reason, *var.reasons)  # first: it says what to do
            if name in self.trace.spaces:
                self.trace.outputs.setdefault((name, 0), path)

    def _uses(self, name: str, dim: int, *, consumed: bool) -> list[Expr]:
        return [use.expr for use in self.trace.uses[name] if use.dim == dim and use.consumed == consumed]

    # -- questions
    # -----------------------------------------------------------------------------------------------

    def producers(self) -> dict[str, list[tuple[str, int]]]:
        """Return site → its (tensor, dimension) pairs that make channels, in order of use.

        A site is the path of a module that holds a ``weight`` (or is PyTorch's own), else the name of the
        parameter.
        """
        found: dict[str, list[tuple[str, int]]] = {}
        for name, dim in self.trace.outputs:
            path, _, leaf = name.rpartition(".")
            path, leaf = (path.removesuffix(PARAMETRIZED), "weight") if path.endswith(PARAMETRIZED) else (path, leaf)
            own = leaf == "weight" or type(self.model.get_submodule(path)).__module__.startswith("torch.nn")
            found.setdefault(path if own else name, []).append((name, dim))
        return found

    def find(self, site: str) -> tuple[str, int]:
        """Return the tensor and dimension that a site names: a module's path or a parameter's.

        Raises:
            SurgeryError: Nothing there makes channels; the message offers near names.
        """
        producers = self.producers()
        if site in producers:
            return producers[site][0]
        for name, dim in self.trace.outputs:
            if site in {name, name.rpartition(".")[0], self.trace.outputs[name, dim]}:
                return name, dim
        if site in dict(self.model.named_modules()) or site in self.trace.tensors:
            raise self.not_followed(site) or SurgeryError(
                f"site: expected one of {_some(producers)}, got {site!r}, which makes no channels that can be widened: "
                "it has no linear map, convolution or embedding that the example input runs"
            )
        raise SurgeryError(
            f"site: expected one of {_some(producers)}, got {site!r}; the model has no module or parameter {site!r}"
            f"{did_you_mean(site, producers)}"
        )

    def not_followed(self, site: str) -> SurgeryError | None:
        """Return the error for a place whose weights run in a way that can't be followed, None for any other place."""
        path = site.rpartition(".")[0] if site in self.trace.tensors else site
        how = computed_by(self.model.get_submodule(path))
        if how or path in self.trace.computed:
            how = how or "from parameters: widen what it is computed from"
            return SurgeryError(f"{site!r} can't be widened: its weight is computed {how}")
        own = [name for name in self.trace.tensors if name.rpartition(".")[0].removesuffix(PARAMETRIZED) == path]
        for var in [var for name in own for expr in self.trace.spaces[name] for var in atoms(expr)]:
            for reason in var.reasons:
                if reason.unsupported:
                    return UnsupportedOperationError(f"{site!r} can't be widened: {reason.text}")
        return None

    def width(self, site: str) -> int:
        """Return the width of a site: channels, features, or hidden units of a recurrent layer."""
        name, dim = self.find(site)
        return self._hidden_size(name) or size_of(self.trace.spaces[name][dim])

    def candidates(self, site: str, axis: int | None = None) -> list[Var]:
        """Return the volumes that can widen a site, outermost first; with an axis, that one of all its volumes.

        Raises:
            SurgeryError: The site has no such axis.
        """
        name, dim = self.find(site)
        volumes = atoms(self.trace.spaces[name][dim])
        if axis is not None:
            if axis >= len(volumes):
                sizes = " × ".join(str(var.size) for var in volumes)
                raise SurgeryError(f"{site!r}: expected an axis below {len(volumes)}, got {axis}; its width is {sizes}")
            volumes = [volumes[axis]]
        return [var for var in volumes if self.can_grow(var)]

    def can_grow(self, var: Var) -> bool:
        """Whether nothing forbids a volume to grow: exactly, or (with ``approximate``) with a gap."""
        return not var.reasons or (self.approximate and _approximable(var))

    def approximable(self, site: str) -> bool:
        """Whether only norms stand in the way of some volume of a site."""
        name, dim = self.find(site)
        return any(_approximable(var) for var in atoms(self.trace.spaces[name][dim]))

    def added(self, site: str, growth: dict[Var, int]) -> int:
        """Return how much wider a growth makes a site: channels, or hidden units of a recurrent layer."""
        name, dim = self.find(site)
        expr = self.trace.spaces[name][dim]
        rows = _added(expr, growth)
        # The rows of a recurrent layer are gates times hidden units.
        hidden = self._hidden_size(name)
        return rows * hidden // size_of(expr) if hidden else rows

    def refusal(self, site: str) -> SurgeryError:
        """Return the error that says why no volume of a site can grow."""
        name, dim = self.find(site)
        volumes = atoms(self.trace.spaces[name][dim])
        if not volumes:
            return SurgeryError(f"{site!r} can't be widened: its width of 1 broadcasts")
        # The first volume is what a person would widen; the reasons of finer ones only add to it.
        reasons = [reason for var in volumes[-1:] + volumes for reason in var.reasons]
        worst = next((r for r in reasons if not r.unsupported), reasons[0])
        if worst.unsupported:
            return UnsupportedOperationError(f"{site!r} can't be widened: {worst.text}")
        offer = ""
        if worst.text in {INPUT, OUTPUT}:
            offer = f"; graftwork.Widen{'Inputs' if worst.text == INPUT else 'Outputs'} keeps the part that is there"
        if self.approximable(site):
            offer = "; approximate=True grows it all the same and states how much the outputs change"
        return SurgeryError(f"{site!r} can't be widened without changing the function: {worst.text}{offer}")

    def close(self, growth: dict[Var, int], *, step: int) -> dict[Var, int]:
        """Let the pieces of every ``chunk`` grow alike.

        Args:
            growth: Volume → new units.
            step: New units come in multiples of this (2 for twins).

        Raises:
            SurgeryError: A piece can't follow.
        """
        for _ in range(64):
            changed = False
            for pieces in self.trace.ties:
                added = [_added(piece, growth) for piece in pieces]
                most = max(added)
                for piece, own in zip(pieces, added, strict=True):
                    if own < most:
                        self._follow(piece, most - own, growth, step)
                        changed = True
                        break
            if not changed:
                return growth
        raise SurgeryError("can't be widened: a dimension is split into pieces that can't grow alike")

    def _follow(self, piece: Expr, missing: int, growth: dict[Var, int], step: int) -> None:
        for var in atoms(piece):
            rows = _added(piece, {var: 1})
            if self.can_grow(var) and var not in growth and missing % (rows * step) == 0:
                growth[var] = missing // rows
                return
        reasons = [reason.text for var in atoms(piece) for reason in var.reasons] or ["its width doesn't divide"]
        raise SurgeryError(
            f"can't be widened: a dimension is split into equal pieces, and one can't grow along: {reasons[0]}"
        )

    def layouts(self, name: str, growth: dict[Var, UnitMap]) -> list[Layout]:
        """Return the layout of every dimension of a tensor; factors only where a volume is summed over."""
        result = []
        for dim, expr in enumerate(self.trace.spaces[name]):
            consumed = {id(v) for use in self._uses(name, dim, consumed=True) for v in atoms(use)}
            maps = {var: m if id(var) in consumed else m.unweighted() for var, m in growth.items()}
            result.append(layout_of(expr, maps))
        return result

    def shapes_after(self, layouts: Mapping[str, Sequence[Layout]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all tensors after a growth, under every name that a tensor has."""
        names = {id(tensor): name for name, tensor in self.trace.tensors.items()}
        every = [
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        ]
        grown = {name: tuple(layout.new_size for layout in own) for name, own in layouts.items()}
        return {alias: grown.get(names[id(tensor)], tuple(tensor.shape)) for alias, tensor in every}

    def touched(self, growth: Iterable[Var]) -> list[str]:
        """Return the tensors that hold one of the volumes."""
        ids = {id(var) for var in growth}
        return [
            name
            for name, dims in self.trace.spaces.items()
            if any(id(var) in ids for expr in dims for var in atoms(expr))
        ]

    def refuse_left_behind(self, growth: Iterable[Var]) -> None:
        """Refuse a growth that some module would not follow, and say which.

        Raises:
            SurgeryError: The model holds a view of a tensor that grows; or a tensor did not run whose like in a sibling
                (of a ``ModuleList`` or ``ModuleDict``) grows, and the forward reads values, so that another batch may
                run it.
        """
        names = self.touched(growth)
        self.refuse_views(names)
        if not self.trace.reads:
            return
        for name in names:
            steps = name.split(".")
            for at in range(1, len(steps) - 1):
                path, child, leaf = ".".join(steps[:at]), steps[at], ".".join(steps[at + 1 :])
                holder = self.model.get_submodule(path)
                own = all(other.startswith(f"{path}.{child}.") for other in names)
                if own or not isinstance(holder, (nn.ModuleList, nn.ModuleDict)):
                    continue
                for other in dict(holder.named_children()):
                    like = f"{path}.{other}.{leaf}"
                    if like in self.trace.tensors and not self.trace.uses[like]:
                        raise SurgeryError(
                            f"{name!r} can't grow: {like!r} did not run on the example input, and the forward reads "
                            f"values ({next(iter(self.trace.reads))}); pass a batch that runs all of {path!r}"
                        )

    def refuse_views(self, names: Iterable[str]) -> None:
        """Refuse a growth of tensors of which the model holds views.

        Raises:
            SurgeryError: It holds one.
        """
        for name in names:
            if name in self.views:
                raise SurgeryError(
                    f"{name!r} can't grow: {self.views[name]!r} is a view of it and would stay behind; use {name!r} "
                    "itself, or copy it"
                )

    def cost(self, growth: dict[Var, int]) -> int:
        """Return how many parameters (not buffers) a growth adds."""
        added = 0
        for name in self.touched(growth):
            if isinstance(self.trace.tensors[name], nn.Parameter):
                dims = self.trace.spaces[name]
                after = math.prod(size_of(expr) + _added(expr, growth) for expr in dims)
                added += after - self.trace.tensors[name].numel()
        return added

    def _hidden_size(self, name: str) -> int:
        """Hidden units of the recurrent layer that holds a tensor, 0 for other layers."""
        path, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(path)
        if leaf.startswith("weight_hr"):  # the projection of an LSTM, whose rows are no gates
            return 0
        return module.hidden_size if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) else 0


def _approximable(var: Var) -> bool:
    return bool(var.reasons) and all(reason.approximable for reason in var.reasons)


def _added(expr: Expr, growth: dict[Var, int]) -> int:
    maps = {var: free_units(var.size, count) for var, count in growth.items()}
    return layout_of(expr, maps).new_size - size_of(expr)


def _some(names: Iterable[str]) -> list[str]:
    names = list(names)
    return names[:8] + (["…"] if len(names) > 8 else [])
