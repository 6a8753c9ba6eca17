"""Do grown models come back to where they are used? Architectures × growths, with default options.

    python benchmarks/ecosystem.py --json results/ecosystem.json
    python benchmarks/ecosystem.py --growths "model width" outputs --json results/ecosystem.json
    python benchmarks/ecosystem.py --only llama "swin (pairs)" --json build/some.json

Every architecture of `zoo._stacks` is built small, in float64, with scrambled weights, and trained for one step. Then a
copy grows by each growth of `GROWTHS`, and what it is used for is run by this script, not by the library's own check:

* *gap*: the largest relative change of the outputs, at two batch sizes (of those that were there, where new ones
  come);
* *cache*: a prefill and three steps against the full forward of the grown model;
* *padding*: the change of the outputs with the first row padded left, and right;
* *generate*: the same greedy tokens as before;
* *round trip*: ``save_pretrained`` and ``from_pretrained`` give the same names and, in memory of its own, the same
  outputs, bit for bit; ``load_model`` where there are no such methods, or where ``save_pretrained`` refuses because no
  config says what has grown, and `graftwork.save_model` and `load_model` give the same bits;
* *moved*: new tensors, and new parts of grown ones, that three steps of AdamW have moved (rows of tokens that
  the batch does not hold, by weight decay alone);
* *slots*: the optimizer's state of every old parameter, or of its old part, has the same bits.

Norms of transformers compute in float32 in any model. So that the gap of a growth that changes what they see is no
rounding of theirs, all that is compared runs in float64 throughout: a cast to float32 is left out.

A growth is ``exact`` (gap at most 1e-10), ``refused`` with its reason, or ``WRONG``: another function, a crash, or a
refusal that leaves the model changed. Growths of what a model has none of (experts, heads, keys that queries share) are
left out, and the doubled width where any factor is exact. The table stands beside the JSON. A run that was stopped goes
on from its ``.part`` file, at the same commit and with the same command. With ``--growths``, the other columns of the
file stay as they are, and each column keeps its command and commit.
"""

import argparse
import copy
import itertools
import json
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import graftwork as gw
from graftwork._files import as_json
from graftwork.errors import SurgeryError
from graftwork.runs import provenance

sys.path.insert(0, str(Path(__file__).parent))

from zoo._measure import call, gap, same_bits, scrambled, tensors
from zoo._stacks import STACKED, Stacked
from zoo._uses_table import table

EXACT = 1e-10
_STEPS = 3
_INNER = ("*.mlp.*", "*.fc1", "*.lin1", "*.intermediate.*", "*.wi", "*.linear1", "*.pwconv1", "*.output.conv1",
          "*.channels.0", "layer*.conv1", "*.layer.0.convolution", "*.mixer.in_proj", "*.net.1",
          "*.body.conv1.conv")  # fmt: skip
_QUERIES = ("*.q_proj", "*.query", "*.c_attn", "*.qkv_proj", "*.query_key_value", "*.Wqkv", "*.q", "*.q_lin")
"""Names of the projections that make hidden units of an MLP (or a branch), and queries."""
GROWTHS: dict[str, Callable[[Stacked], Any]] = {
    "insert layers": lambda one: gw.InsertLayers(one.stack, after=one.after),
    "insert layers, r2r": lambda one: gw.InsertLayers(one.stack, after=one.after, init="r2r"),
    "model width": lambda _: gw.WidenStream(1.5),
    "model width, doubled": lambda _: gw.WidenStream(2),
    "MLP": lambda _: gw.WidenAll(1.5, only=_INNER),
    "heads": lambda one: gw.WidenAll(1.5, only=_QUERIES, axis=one.axis),
    "heads of keys, doubled": lambda _: gw.RepeatKeyValueHeads(2),
    "experts, doubled": lambda _: gw.RepeatExperts(2),
    # The mean of old logits is never the largest, so that greedy text stays the same.
    "outputs": lambda one: gw.WidenOutputs(None, 3, init="mean"),
}
"""Column of the table → the growth of an architecture."""


def applies(kind: str, model: nn.Module) -> bool:
    """Whether a model has what a growth grows."""
    config = getattr(model, "config", None)
    if kind.startswith("experts"):
        return bool(experts(model))
    if kind.startswith("heads of keys"):
        keys = getattr(config, "num_key_value_heads", None)
        return keys is not None and keys < config.num_attention_heads
    return kind != "heads" or any(fnmatch(name, only) for name, _ in model.named_modules() for only in _QUERIES)


def measure(one: Stacked, kinds: list[str]) -> dict[str, Any]:
    """Return the row of an architecture."""
    model = scrambled(one).eval()  # type: ignore[arg-type]
    batches = [one.batch(size, torch.Generator().manual_seed(size)) for size in (2, 3)]
    row: dict[str, Any] = {"stack": one.stack, "parameters": count(model), "growths": {}}
    for kind in (kind for kind in kinds if applies(kind, model)):
        if kind == "model width, doubled" and row["growths"].get("model width", {}).get("outcome") == "exact":
            continue  # by any factor
        began = time.monotonic()
        entry = attempt(copy.deepcopy(model), one, GROWTHS[kind](one), batches)
        row["growths"][kind] = {**entry, "seconds": round(time.monotonic() - began, 1)}
    return row


def attempt(model: nn.Module, one: Stacked, growth: Any, batches: list[Any]) -> dict[str, Any]:
    """Grow a model and use it; returns what came of it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step(model, optimizer, batches[0])
    model.eval()
    ungrown, before = copy.deepcopy(model), uses(model, one, batches)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    slots = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()}
    try:
        receipt = gw.grow(model, growth, example_input=batches[0], optimizer=optimizer)
    except SurgeryError as error:
        now = uses(model, one, batches)["outputs"][0]
        clean = same_bits(state, model.state_dict()) and gap(before["outputs"][0], now) == 0.0
        return {
            "outcome": "refused" if clean else "WRONG",
            "reason": str(error) + first_site(model, growth, batches[0]),
        }
    except Exception as error:
        return {"outcome": "WRONG", "reason": f"{type(error).__name__}: {error}"[:300]}
    found = judged(model, one, batches, before, receipt, optimizer, slots)
    if found["round trip"] not in ("load_model", "same bits"):
        first = round_trip(ungrown, one, batches[0])
        if first == found["round trip"]:  # a constant that the model makes anew in another precision
            found["round trip"] = f"{first}, ungrown too"
    return {**found, "outcome": "exact" if good(found, before) else "WRONG"}


def judged(model: nn.Module, one: Stacked, batches: list[Any], before: dict[str, Any], receipt: Any,
           optimizer: torch.optim.Optimizer, slots: dict[nn.Parameter, Any]) -> dict[str, Any]:  # fmt: skip
    """Use a grown model, and compare."""
    after = uses(model, one, batches)
    worst = max(gap(old, old_part(old, new)) for old, new in zip(before["outputs"], after["outputs"], strict=True))
    found: dict[str, Any] = {"outcome": "", "gap": worst}
    found["cache"] = after["cache"]
    sides = [gap(old, old_part(old, after["padding"].get(side))) for side, old in before["padding"].items()]
    found["padding"] = max(sides) if sides else None
    found["generate"] = None if before["tokens"] is None else bool(torch.equal(before["tokens"], after["tokens"]))
    found["round trip"] = round_trip(model, one, batches[0])
    found["slots"] = all(
        within(value, optimizer.state[parameter][name])
        for parameter, held in slots.items()
        for name, value in held.items()
    )
    changes = {change.name: change for change in receipt.tensors}
    grown = {name: p for name, p in model.named_parameters() if name in changes}
    new = {name: mask for name, p in grown.items() if (mask := fresh(changes[name], optimizer.state[p])) is not None}
    began = {name: grown[name].detach().clone() for name in new}
    for _ in range(_STEPS):
        step(model, optimizer, batches[0])
    now = dict(model.named_parameters())
    still = [name for name, mask in new.items() if torch.equal(began[name][mask], now[name].detach()[mask])]
    return found | {"moved": f"{len(new) - len(still)} of {len(new)}", "still": still, "notes": list(receipt.notes)}


def old_part(old: list[Tensor], new: list[Tensor] | None) -> list[Tensor] | None:
    """The part of longer tensors that was there: new entries stand behind it."""
    if new is None or len(old) != len(new):
        return new
    found = []
    for before, after in zip(old, new, strict=True):
        fits = before.dim() == after.dim() and all(m <= n for m, n in zip(before.shape, after.shape, strict=True))
        found.append(after[tuple(slice(n) for n in before.shape)] if fits else after)
    return found


def fresh(change: Any, state: dict[str, Tensor]) -> Tensor | None:
    """Mask of new entries: those behind the old ones and without a first moment; None where nothing trains them."""
    mask = torch.ones(change.new_shape, dtype=torch.bool)
    if change.old_shape is None:
        return mask
    if "exp_avg" not in state:
        return None
    mask[tuple(slice(n) for n in change.old_shape)] = False
    return mask & (state["exp_avg"] == 0)


def within(old: Tensor, new: Tensor) -> bool:
    """Whether a tensor holds every number of an old one, as often, bit for bit."""
    if old.shape == new.shape:
        return bool(torch.equal(old, new))
    have = Counter(new.flatten().tolist())
    return all(have[value] >= count for value, count in Counter(old.flatten().tolist()).items())


def good(found: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a grown model does what it did, everywhere."""
    limit = max(EXACT, 10 * (before["cache"] or 0.0))  # some norms and scans run in float32
    return (
        found["gap"] <= EXACT
        and (found["cache"] or 0.0) <= limit
        and (found["padding"] or 0.0) <= EXACT
        and found["generate"] is not False
        and (found["round trip"] in ("load_model", "same bits") or found["round trip"].endswith("ungrown too"))
        and found["slots"]
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    """Take one step on a random goal, without dropout modules."""
    model.train()
    torch.manual_seed(5)
    optimizer.zero_grad()
    outputs = [t for t in tensors(call(model, batch)) if t.requires_grad]
    torch.stack([(t - torch.randn_like(t)).square().mean() for t in outputs]).sum().backward()
    optimizer.step()


class _Double(TorchDispatchMode):
    """Keeps in float64 what the forward would cast to float32."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        if func is torch.ops.aten._to_copy.default and keywords.get("dtype") is torch.float32:  # noqa: SLF001
            keywords["dtype"] = torch.float64 if args[0].dtype is torch.float64 else torch.float32
        return func(*args, **keywords)


def first_site(model: nn.Module, growth: Any, batch: Any) -> str:
    """The first site that a growth of many does not find able to grow, and why."""
    if not isinstance(growth, gw.WidenAll):
        return ""
    sites = (s for s in gw.growth_sites(model, batch) if any(fnmatch(s.name, only) for only in growth.only))
    return next((f"; {site.refusal}" for site in sites if site.refusal), "")


def uses(model: nn.Module, one: Stacked, batches: list[Any]) -> dict[str, Any]:
    """What a model gives where it is used."""
    model.eval()
    with torch.no_grad(), warnings.catch_warnings(), _Double():
        warnings.simplefilter("ignore")
        outputs = [outputs_of(model, batch) for batch in batches]
        first = batches[0]
        named = isinstance(first, dict)
        ids = first.get("decoder_input_ids", first.get("input_ids")) if named else None
        cached = cache_gap(model, first, ids) if ids is not None and one.generates else None
        padded = padding(model, first) if named and "input_ids" in first else {}
        made = None
        if one.generates:
            source = {"input_ids": first["input_ids"]}
            made = model.generate(**source, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)  # type: ignore[operator]
    return {"outputs": outputs, "cache": cached, "padding": padded, "tokens": made}


def outputs_of(model: nn.Module, batch: Any) -> list[Tensor]:
    """The floating-point outputs in evaluation mode."""
    with torch.no_grad():
        return [t.clone() for t in tensors(call(model.eval(), batch))]


def cache_gap(model: nn.Module, batch: dict[str, Tensor], ids: Tensor) -> float:
    """Relative difference between steps with the cache and the full forward."""
    key = "decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"
    rest = {k: v for k, v in batch.items() if k != key}
    full = model(**batch, use_cache=False).logits
    length = ids.shape[1] - _STEPS
    parts, state = [], {}
    for start, end in [(0, length), *((i, i + 1) for i in range(length, ids.shape[1]))]:
        output = model(**rest, **{key: ids[:, start:end]}, **state, use_cache=True)
        name = next(n for n in ("cache", "past_key_values", "cache_params") if n in output)
        state = {name: output[name]}
        parts.append(output.logits)
    return gap([full], [torch.cat(parts, 1)])


def padding(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """Outputs with the first row padded on either side."""
    found = {}
    for side, place in (("left", slice(0, 2)), ("right", slice(-2, None))):
        mask = torch.ones_like(batch["input_ids"])
        mask[0, place] = 0
        with torch.no_grad():
            found[side] = [torch.nan_to_num(t).clone() for t in tensors(model(**batch, attention_mask=mask))]
    return found


def round_trip(model: nn.Module, one: Stacked, batch: Any) -> str:
    """Whether a model that is saved and loaded is the same: by its own methods or, where those refuse, ours."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)  # type: ignore[operator]
            again = type(model).from_pretrained(folder, dtype=torch.float64, **experts(model)).eval()  # type: ignore[attr-defined]
            name = "same bits"
        except (AttributeError, SurgeryError):
            gw.save_model(model, folder)
            again, name = gw.load_model(lambda: one.build().double(), folder).eval(), "load_model"
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:200]
    if list(again.state_dict()) != list(model.state_dict()):
        return "other names"
    # A copy: weights that are read from a file may lie unaligned, and products then round otherwise.
    found = outputs_of(copy.deepcopy(again), batch)
    return name if all(map(torch.equal, outputs_of(model, batch), found)) else "other outputs"


def experts(model: nn.Module) -> dict[str, str]:
    """The implementation of experts that runs in float64."""
    return {"experts_implementation": "eager"} if any("Experts" in type(m).__name__ for m in model.modules()) else {}


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


# -- the table
# ----------------------------------------------------------------------------------------------------------------


def earlier(given: argparse.Namespace) -> dict[str, Any]:
    """What the file holds already: a run of some columns or architectures leaves the others."""
    if not ((given.only or given.growths) and given.json.exists()):
        return {"columns": {}, "architectures": {}}
    result: dict[str, Any] = json.loads(given.json.read_text())
    return result


def begun(part: Path, made: dict[str, Any]) -> dict[str, Any] | None:
    """A run that was stopped, if it is the same."""
    if not part.exists():
        return None
    state: dict[str, Any] = json.loads(part.read_text())
    old, new = state["made"], made
    same = old["command"] == new["command"] and old["provenance"]["git_commit"] == new["provenance"]["git_commit"]
    return state if same else None


def rows(names: list[str], kinds: list[str], jobs: int) -> Iterator[dict[str, Any] | str]:
    """Yield the row of each architecture, or which package it lacks."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(measured, names, itertools.repeat(kinds))


def measured(name: str, kinds: list[str]) -> dict[str, Any] | str:
    """The row of an architecture, in a process of its own."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    try:
        return measure(STACKED[name], kinds)
    except ModuleNotFoundError as error:
        return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures; all without it")
    parser.add_argument("--growths", nargs="+", choices=list(GROWTHS), help="columns; all without it")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    names = given.only or list(STACKED)
    if unknown := set(names) - set(STACKED):
        parser.error(f"no architecture {sorted(unknown)}: pick from {', '.join(STACKED)}")
    chosen = "".join(
        f" --{name} {shlex.join(values)}" for name in ("only", "growths") if (values := getattr(given, name))
    )
    command = f"python benchmarks/ecosystem.py{chosen} --json {given.json}"
    made = {"command": command, "provenance": provenance()}
    part = given.json.with_suffix(".part")
    state = begun(part, made) or {"made": made, "done": [], "result": earlier(given)}
    result = state["result"]
    left = [name for name in names if name not in state["done"]]
    for name, row in zip(left, rows(left, given.growths or list(GROWTHS), given.jobs), strict=True):
        if isinstance(row, str):
            print(f"{name}: {row}", flush=True)
            continue
        kept = result["architectures"].get(name, {"growths": {}})
        result["architectures"][name] = {**row, "growths": {**kept["growths"], **row["growths"]}}
        result["columns"] |= dict.fromkeys(row["growths"], made)
        outcomes = {kind: entry["outcome"] for kind, entry in row["growths"].items()}
        print(f"{name}: {outcomes}", flush=True)
        state["done"].append(name)
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(as_json(state))
    given.json.write_text(as_json(result))
    given.json.with_suffix(".md").write_text(table(result))
    part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
