"""More heads of keys and values, and more experts: copies of those that are there."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery._check import Check
from graftwork.surgery._configs import owners
from graftwork.surgery._layout import Ints
from graftwork.surgery.growths._growth import Edit, ModelGrowth, Subject, register_growth
from graftwork.surgery.growths._repeated import Copies, Repeated, Repetition
from graftwork.surgery.growths._wider_stream import rebuild_stream
from graftwork.surgery.layers import config_entries

_KEYS = re.compile(r"(^|\.)(num_(key_value|kv)_heads|n_kv_heads?|kv_n_heads|multi_query_group_num)$")
_QUERIES = re.compile(r"(^|\.)(num_attention_heads|num_heads|n_heads?)$")
_EXPERTS = re.compile(r"(^|\.)(n_routed_experts|(moe_)?num_(local_)?experts)$")
_CHOSEN = re.compile(r"(^|\.)(num_experts_per_tok(en)?|moe_top_?k|moe_k|num_selected_experts)$")
_GROUPS = re.compile(r"(^|\.)(n_group|topk_group)$")
_BALANCE = re.compile(r"(^|\.)router_aux_loss_coef$")


@dataclass(frozen=True, kw_only=True, repr=False)
class _Repeat(ModelGrowth):
    """What both share."""

    def _entries(self, model: nn.Module, pattern: re.Pattern[str], what: str) -> tuple[str, dict[str, Any]]:
        """The module whose config counts something, and all entries of that config."""
        found = [(path, dict(config_entries(module.config))) for path, module in owners(model)]
        for path, entries in found:
            if _counts(entries, pattern):
                return path, entries
        got = f"{type(model).__name__}, whose config has none" if found else f"{type(model).__name__}, without a config"
        raise SurgeryError(f"{self!r}: expected a Hugging Face model whose config counts {what}, got {got}")

    def _check_factor(self, factor: object) -> None:
        if not (type(factor) is int and factor > 1):
            raise self.wrong("factor", "a whole number above 1, as every one gets as many copies")

    def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
        """See `ModelGrowth.rebuild`."""
        rebuild_stream(model, changes)


@register_growth("repeat-key-value-heads")
@dataclass(frozen=True, repr=False)
class RepeatKeyValueHeads(_Repeat):
    """Repeat the heads of keys and values of grouped-query attention, under as many heads of queries as before.

    Each head of keys served several heads of queries; now each of its copies serves a part of them, and they part with
    the first gradient. Old weights stay as they are.

    Attributes:
        factor: How many heads stand for one; it divides the number of heads of queries that share a head of keys.

    Example:
        >>> RepeatKeyValueHeads(2)
        RepeatKeyValueHeads(2)
    """

    factor: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_factor(self.factor)

    def edit(self, subject: Subject) -> Repeated:
        """See `ModelGrowth.edit`."""
        owner, entries = self._entries(subject.model, _KEYS, "heads of keys and values")
        counts = _counts(entries, _KEYS)
        queries = [count for value in _counts(entries, _QUERIES).values() for count in _numbers(value)]
        keys = sorted({count for value in counts.values() for count in _numbers(value)})
        shared = [count // own for count in queries for own in keys if count % own == 0]
        if shared and all(many % self.factor for many in shared):
            raise SurgeryError(
                f"{self!r}: factor: expected a divisor of {min(shared)}, the number of heads of queries that share a "
                f"head of keys, got {self.factor}; Widen(…, axis=0) of the queries grows heads of both together"
            )
        values = {name: _times(value, self.factor) for name, value in counts.items()}
        hint = "The forward probably shares out heads of keys by a rule of its own"
        what = f"repeating heads of keys and values {self.factor} times"
        return Repeated(subject, Repetition(what, owner, values, _blocks(keys, self.factor), hint), thorough=self.check)


@register_growth("repeat-experts")
@dataclass(frozen=True, repr=False)
class RepeatExperts(_Repeat):
    """Repeat the routed experts of every mixture, and choose as many times as many of them.

    Copies have the same rows in the router, so that all copies of what was chosen are chosen, and together weigh what
    it did. That is so where a router divides by the sum over the chosen experts, and where its softmax runs over all of
    them or over the chosen ones. Where the weight of an expert does not depend on the others (a sigmoid that is not
    normalised), what experts write is divided by the factor instead. The last weights of copies differ by random parts
    that add up to zero: experts that are equal in everything would stay equal.

    A number of experts that is no multiple has no exact form: a softmax over more experts, or a place among the chosen,
    takes from the old ones.

    Attributes:
        factor: How many experts stand for one.

    Example:
        >>> RepeatExperts(2)
        RepeatExperts(2)
    """

    factor: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_factor(self.factor)

    def edit(self, subject: Subject) -> Repeated:
        """See `ModelGrowth.edit`."""
        return Repeated(subject, self._repetition(subject), thorough=self.check)

    def alternatives(self, subject: Subject, check: Check, problem: SurgeryError) -> Iterator[Edit]:
        """Yield the growth of a router that gives each expert a weight of its own: each copy writes its part."""
        yield Repeated(subject, replace(self._repetition(subject), share=1.0 / self.factor), thorough=self.check)

    def _repetition(self, subject: Subject) -> Repetition:
        owner, entries = self._entries(subject.model, _EXPERTS, "routed experts")
        chosen = _counts(entries, _CHOSEN)
        if not chosen:
            raise SurgeryError(
                f"{self!r}: expected a config that says how many experts are chosen, got one that does not; copies of "
                "experts need more places"
            )
        if any(value is True for name, value in entries.items() if name.endswith("output_router_logits")):
            raise SurgeryError(
                f"{self!r}: expected config.output_router_logits=False, got True: the loss that balances experts is "
                f"among the outputs and {self.factor} times as large for more experts; set it to False for the growth"
            )
        groups = {name: value for name, value in _counts(entries, _GROUPS).items() if _grouped(entries)}
        values = {n: _times(v, self.factor) for n, v in (_counts(entries, _EXPERTS) | chosen | groups).items()}
        weights = {n: v / self.factor for n, v in entries.items() if _BALANCE.search(n) and type(v) is float}
        hint = (
            "The router probably chooses or weighs experts by a rule of its own, or limits how many tokens each takes"
        )
        what = f"repeating experts {self.factor} times"
        return Repetition(what, owner, values | weights, _rounds(self.factor), hint, parts=True)


def _counts(entries: Mapping[str, Any], pattern: re.Pattern[str]) -> dict[str, Any]:
    """Entries of a config that count something: a number, or one for each layer."""
    return {name: value for name, value in entries.items() if pattern.search(name) and _numbers(value)}


def _numbers(value: Any) -> Sequence[int]:
    found = value if isinstance(value, (list, tuple)) else [value]
    return found if all(type(one) is int and one > 0 for one in found) else []


def _times(value: Any, factor: int) -> Any:
    return type(value)(one * factor for one in value) if isinstance(value, (list, tuple)) else value * factor


def _grouped(entries: Mapping[str, Any]) -> bool:
    """Whether experts are chosen from groups: copies then make groups of their own, in which scores are as before."""
    return any(value > 1 for name, value in entries.items() if name.endswith("n_group") and type(value) is int)


def _rounds(factor: int) -> Copies:
    """Copies behind all old entries: 0 1 2 0 1 2."""
    return lambda old, new: np.tile(np.arange(old), factor) if new == old * factor else None


def _blocks(counts: Sequence[int], factor: int) -> Copies:
    """Copies of heads, each behind its own: of 2 heads × 3 rows, 0 1 2 0 1 2 3 4 5 3 4 5.

    Where one weight makes queries, keys and values, those of keys and values are the last rows.
    """

    def copies(old: int, new: int) -> Ints | None:
        tail, rest = divmod(new - old, factor - 1)
        parts = 1 if tail == old else 2
        for count in counts:
            if not rest and 0 < tail <= old and tail % (parts * count) == 0:
                heads = np.arange(old - tail, old).reshape(parts * count, -1)
                return np.concatenate([np.arange(old - tail), np.repeat(heads, factor, axis=0).ravel()])
        return None

    return copies
