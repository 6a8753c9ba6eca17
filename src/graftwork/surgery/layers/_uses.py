"""What language models are used for, as runs that a growth must not change: a cache, padding, `use_cache` on and off.

A layer that keeps the number of another one's cache slot computes the right full forward and the wrong next token; so
the full forward alone proves nothing.
"""

import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.numerics import output_gap, tolerance_for
from graftwork.surgery._calls import Call, sandbox
from graftwork.surgery._check import Interface
from graftwork.surgery._trace import output_tensors

_TOKENS = ("decoder_input_ids", "input_ids")
_WHOLE, _BY_STEPS = "use_cache=False", "prefill and steps with the cache"
_CACHES = ("cache", "past_key_values", "cache_params")
_STEPS = 3
_DRIFT = 100.0
_PADDED = 2
_MOST_ROWS = 2


@dataclass(frozen=True)
class CachedCall(Call):
    """A prefill and some single steps with the cache that the model returns.

    Attributes:
        tokens: Name of the argument that is fed step by step, ids of shape [rows, length].
        cache: Name of the argument that takes the cache.
    """

    tokens: str = ""
    cache: str = ""

    def run(self, model: nn.Module) -> list[Tensor]:
        """Return the logits of the prefill and of every step."""
        call = self.copied()
        ids = call.keywords.pop(self.tokens)
        masks = {k: v for k, v in call.keywords.items() if isinstance(v, Tensor) and k == "attention_mask"}
        own_mask = self.tokens == "input_ids" and any(mask.shape == ids.shape for mask in masks.values())
        length = ids.shape[1] - min(_STEPS, ids.shape[1] - 1)
        found: list[Tensor] = []
        state: dict[str, Any] = {}
        with torch.no_grad():
            for start, end in [(0, length), *((i, i + 1) for i in range(length, ids.shape[1]))]:
                keywords = dict(call.keywords)
                if own_mask:
                    keywords["attention_mask"] = keywords["attention_mask"][:, :end]
                output = model(**{self.tokens: ids[:, start:end]}, **keywords, **state, use_cache=True)
                state = {self.cache: getattr(output, self.cache)}
                found.append(next(leaf for leaf in output_tensors(output) if leaf.is_floating_point()).clone())
        return found


@dataclass
class Uses:
    """The runs, and what came out before the growth.

    Attributes:
        runs: Name → call and the tensors that came out.
        gaps: Name → relative change, after `compare`.
        after: Name → what came out after the growth.
    """

    runs: dict[str, tuple[Call, list[Tensor]]]
    gaps: dict[str, float] = field(default_factory=dict)
    after: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def before(cls, model: nn.Module, call: Call) -> "Uses":
        """Run the model in every way that its forward has arguments for; what it can't do is left out."""
        runs: dict[str, tuple[Call, list[Tensor]]] = {}
        for name, use in _uses(model, call).items():
            try:
                runs[name] = use, _run(model, use)
            except Exception:  # noqa: S112 - the model can't be used like that, whatever it raises
                continue
        return cls(runs)

    def compare(self, model: nn.Module, interface: Interface | None = None) -> tuple[float, str]:
        """Run the grown model; returns the largest gap in units of what rounding allows, and where.

        Args:
            model: The grown model.
            interface: How it is called, and which part of its outputs is compared. None for as before.

        Raises:
            Exception: Whatever the model's forward raises; its note names the use.
        """
        worst, where = 0.0, ""
        interface = interface or Interface()
        for name, (use, output) in self.runs.items():
            try:
                after = _run(model, interface.call(use))
            except Exception as error:
                error.add_note(name)
                raise
            self.after[name] = interface.output(output, after)
            self.gaps[name] = gap = output_gap(output, self.after[name])
            allowed = gap / _tolerance(output)
            if allowed > worst or math.isnan(allowed):
                worst, where = allowed, name
        return worst, where

    def keeps_cache(self) -> bool:
        """Whether steps with the cache still give what the full forward gives, where they did before the growth."""
        before = _drift({name: output for name, (_, output) in self.runs.items()})
        after = _drift(self.after)
        return after <= max(_DRIFT * before, _DRIFT * _tolerance(self.after.get(_WHOLE, [])))


def _drift(outputs: dict[str, list[Tensor]]) -> float:
    if _WHOLE not in outputs or _BY_STEPS not in outputs:
        return 0.0
    steps = torch.cat(outputs[_BY_STEPS], dim=1)
    return next((output_gap(whole, steps) for whole in outputs[_WHOLE] if whole.shape == steps.shape), 0.0)


def _tolerance(output: list[Tensor]) -> float:
    kinds = [tensor.dtype for tensor in output if tensor.is_floating_point()]
    return tolerance_for(max(kinds, key=tolerance_for) if kinds else torch.float32)


def _run(model: nn.Module, call: Call) -> list[Tensor]:
    with sandbox(model):
        model.eval()
        return [tensor.detach().clone() for tensor in output_tensors(call.run(model))]


def _uses(model: nn.Module, call: Call) -> dict[str, Call]:
    arguments = inspect.signature(model.forward).parameters
    named = _by_name(call, list(arguments))
    if named is None:
        return {}
    found: dict[str, Call] = {}
    ids = next((name for name in _TOKENS if isinstance(named.get(name), Tensor)), None)
    cache = next((name for name in _CACHES if name in arguments), None)
    few = {k: v[:_MOST_ROWS] if isinstance(v, Tensor) and v.dim() else v for k, v in named.items()}
    if ids is not None and cache is not None and "use_cache" in arguments:
        rest = {k: v for k, v in few.items() if k != "use_cache"}
        for state in (True, False):
            found[f"use_cache={state}"] = Call((), {**rest, "use_cache": state})
        found[_BY_STEPS] = CachedCall((), rest, ids, cache)
    if "attention_mask" in arguments and isinstance(named.get("input_ids"), Tensor):
        ones = torch.ones_like(few["input_ids"])
        for side, mask in _padded(ones, 0).items():
            found[f"{side} padding"] = Call((), {**few, "attention_mask": mask})
    if any(isinstance(module, nn.TransformerEncoder) for module in model.modules()):
        found["the fast path"] = Call((), few)  # packs padded rows, whoever makes the mask
    if "src_key_padding_mask" in arguments:
        source = next((v for v in few.values() if isinstance(v, Tensor)), None)
        if source is not None and source.dim() == 3:
            first = any(getattr(module, "batch_first", False) for module in model.modules())
            zeros = torch.zeros(source.shape[:2] if first else source.shape[:2][::-1], dtype=torch.bool)
            for side, mask in _padded(zeros.to(source.device), True).items():
                found[f"{side} padding"] = Call((), {**few, "src_key_padding_mask": mask})
    return found


def _by_name(call: Call, names: list[str]) -> dict[str, Any] | None:
    if len(call.arguments) > len(names):
        return None
    return {**dict(zip(names, call.arguments, strict=False)), **call.keywords}


def _padded(mask: Tensor, value: float) -> dict[str, Tensor]:
    """The mask with its first row padded on either side."""
    if mask.dim() != 2 or mask.shape[1] <= _PADDED:
        return {}
    left, right = mask.clone(), mask.clone()
    left[0, :_PADDED] = value
    right[0, -_PADDED:] = value
    return {"left": left, "right": right}
