"""Widen every site that can be widened, in one growth."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._check import Check
from graftwork.surgery._methods import method_named
from graftwork.surgery._transaction import Transaction
from graftwork.surgery.growths._choice import choices
from graftwork.surgery.growths._growth import Edit, Subject, register_growth
from graftwork.surgery.growths._resize import Resize, Sites
from graftwork.surgery.growths._widen import Widening, check_factor
from graftwork.surgery.growths._widen_stream import larger
from graftwork.surgery.growths._wider_stream import WiderStream, rebuild_stream
from graftwork.surgery.streams import Tape, Wish, streams


@register_growth("widen-all")
@dataclass(frozen=True, repr=False)
class WidenAll(Widening):
    """Widen every site that can be widened by one factor.

    Sites whose code can't follow (a number that depends on the width), alone or beside the others, are left out and
    named in the receipt's notes, each with the reason.

    Attributes:
        factor: Ratio of new to old width (> 1); every volume is rounded up to what it allows.
        only: Names of sites to widen, or patterns such as ``"*.mlp.c_fc"``. None takes all.
        width: Ratio by which the residual stream grows too, as by `WidenStream`, so that one call makes a model of the
            next size: heads and inner widths by ``factor``, as the config can describe it. None leaves it as it is.

    Example:
        >>> WidenAll(1.5, only=("*.mlp.*",))
        WidenAll(1.5, only=('*.mlp.*',))
    """

    factor: float
    _: KW_ONLY
    only: str | tuple[str, ...] | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor is None:
            raise self.wrong("factor", "a number above 1")
        check_factor(self, self.factor)
        check_factor(self, self.width, "width")
        if self.width is not None and self.approximate:
            raise self.wrong("width", "None beside approximate=True: a wider stream is exact")
        if self.width is not None and self.axis is not None:
            raise self.wrong("axis", "None beside width: what grows along is read off the config")
        if isinstance(self.only, (str, list)):
            object.__setattr__(self, "only", (self.only,) if isinstance(self.only, str) else tuple(self.only))
        if self.only is not None and not all(isinstance(name, str) for name in self.only):
            raise self.wrong("only", 'names of sites or patterns such as "*.conv1"')

    def edit(self, subject: Subject) -> Edit:
        """See `ModelGrowth.edit`."""
        return self._resize(subject, None) if self.width is None else self._next_size(subject, self.width)

    def _next_size(self, subject: Subject, width: float) -> WiderStream:
        tape = Tape.of(subject.graph, subject.graph.probes[0].call)
        found = streams(tape)
        added = larger(found, width)
        if added is None:
            raise self.wrong("width", f"one by which streams of {[var.size for var in found]} channels grow alike")
        others = {var: more for growth in self._sites(subject).values() for var, more in growth.items()}
        wish = Wish(added, self.factor, {v: n for v, n in others.items() if v not in added}, self.method)
        return WiderStream(subject, tape, wish, thorough=self.check)

    def alternatives(self, subject: Subject, check: Check, problem: SurgeryError) -> Iterator[Edit]:
        """Yield the growth of as many sites as can grow together, found by halves."""
        if self.width is not None:
            return
        quiet = Subject(subject.graph)  # a trial leaves the optimizers, mirrors and generator alone
        kept: list[str] = []
        left_out: dict[str, SurgeryError] = {}

        def add(sites: list[str]) -> None:
            error = self._problem(quiet, [*kept, *sites], check)
            if error is None:
                kept.extend(sites)
            else:
                split(sites, error)

        def split(sites: list[str], problem: SurgeryError) -> None:
            """Keep what can grow of sites that can't all grow beside those that are kept."""
            if len(sites) == 1:
                left_out[sites[0]] = problem
                return
            first, second, before = sites[: len(sites) // 2], sites[len(sites) // 2 :], len(kept)
            add(first)
            if len(kept) == before + len(first):
                split(second, problem)  # all of the first half stays, and the whole has failed
            else:
                add(second)

        split(list(self._sites(self.allowed(subject))), problem)
        if kept:
            edit = self._resize(subject, kept)
            edit.notes = (*edit.notes, *(f"left out {site}: {error}" for site, error in left_out.items()))
            yield edit

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        if self.width is None:
            super().rebuild(model, changes)
        else:
            rebuild_stream(model, changes)

    def _problem(self, subject: Subject, sites: list[str], check: Check) -> SurgeryError | None:
        """Why some sites can't grow together, None where they can."""
        try:
            with Transaction() as transaction:
                edit = self._resize(subject, sites)
                edit.make(transaction)
                edit.settle(transaction, check)
                transaction.undo()
        except SurgeryError as error:
            return error
        return None

    def _resize(self, subject: Subject, names: list[str] | None) -> Resize:
        subject = self.allowed(subject)
        sites = self._sites(subject, names)
        if not sites:
            raise SurgeryError(
                f"{self!r}: expected a site that can be widened, got none; graftwork.growth_sites says why"
            )
        return Resize(subject, sites, method_named(self.method), scale=self.scale)

    def _sites(self, subject: Subject, names: list[str] | None = None) -> Sites:
        """The sites that grow: those that can, once for every volume."""
        sites: Sites = {}
        taken: set[int] = set()
        for site in subject.graph.producers():
            if not (self._wanted(site) if names is None else site in names):
                continue
            with suppress(SurgeryError):  # this site can't be widened: growth_sites says why
                growth = next(
                    choices(subject.graph, site, method_named(self.method), factor=self.factor, axis=self.axis)
                )
                if any(id(var) in taken for var in growth):
                    continue  # coupled with a site that grows already
                taken |= {id(var) for var in growth}
                sites[site] = growth
        return sites

    def _wanted(self, site: str) -> bool:
        return self.only is None or any(fnmatchcase(site, pattern) for pattern in self.only)
