"""Forward passes, seconds and memory of a growth: one MLP of a GPT-2 wider, four layers more in a Llama.

    python benchmarks/growth_cost.py --json results/speed/growth_cost.json           # minutes, on an idle machine
    python benchmarks/growth_cost.py --quick --json build/growth_cost.json           # tiny models

Every case is a fresh process that grows a tiny model first, which imports and prepares all that is needed, and looks
at its resident set: the baseline. Then it builds the model (random weights, float32) and an AdamW whose moments are
filled, grows it and reads the largest resident set that the system saw on the way. *Seconds* are those of plan, apply
and check, told beside those of one forward pass on the example. *Forwards* are calls of the model: single steps with a
cache count as whole ones. *Peak* is (largest resident set − baseline) / (the grown model and its optimizer's state, in
bytes): 1 is what has to be there in any case.
"""

import argparse
import functools
import gc
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from _resident import reset_peak, resident

GPT2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
LLAMA = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 16000,
}
QUICK = {"n_embd": 48, "n_layer": 3, "n_head": 4, "vocab_size": 100, "hidden_size": 48, "intermediate_size": 64}
QUICK |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
CASES: dict[str, dict[str, Any]] = {
    "widen one MLP of GPT-2 124M": {"model": "gpt2", "length": 128, "goals": {"forwards": 6, "peak": 1.3}},
    'the same, check="fast"': {
        "model": "gpt2",
        "length": 128,
        "check": "fast",
        "goals": {"forwards": 2, "peak": 1.3},
    },
    "insert 4 layers into a Llama of 300 M": {"model": "llama", "length": 64, "goals": {"seconds": 60.0}},
}


def _build(case: dict[str, Any], quick: bool) -> tuple[Any, Any]:
    """The model and its growth."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from graftwork.surgery import InsertLayers, Widen

    kinds: Any = (GPT2Config, GPT2LMHeadModel) if case["model"] == "gpt2" else (LlamaConfig, LlamaForCausalLM)
    sizes = GPT2 if case["model"] == "gpt2" else LLAMA
    sizes = {name: QUICK.get(name, value) if quick else value for name, value in sizes.items()}
    model = kinds[1](kinds[0](bos_token_id=0, eos_token_id=0, **sizes))
    check = case.get("check", True)
    if case["model"] == "gpt2":
        return model, Widen("transformer.h.1.mlp.c_fc", factor=1.25, check=check)
    return model, InsertLayers("model.layers", count=4, check=check)


def _count(model: Any) -> list[int]:
    """A list that gets one entry for every call of the model from now on."""
    calls: list[int] = []
    original = type(model).forward

    @functools.wraps(original)  # which arguments it takes is asked
    def forward(self: Any, *arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        return original(self, *arguments, **keywords)

    type(model).forward = forward
    return calls


def _ready(case: dict[str, Any], quick: bool) -> tuple[Any, Any, dict[str, Any], Any]:
    """Model, growth, example and optimizer."""
    import torch

    model, growth = _build(case, quick)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        moments = {key: torch.rand_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(1.0), **moments}
    example = {"input_ids": torch.randint(model.config.vocab_size, (2, case["length"]))}
    return model, growth, example, optimizer


def worker(case: dict[str, Any], quick: bool) -> dict[str, Any]:
    """One growth, in a process of its own."""
    import torch

    from graftwork.surgery import plan as plan_growth

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model, growth, example, optimizer = _ready(case, quick=True)
    plan_growth(model, growth, example_input=example, optimizer=optimizer).apply()
    del model, optimizer
    gc.collect()
    baseline = resident("VmRSS")
    model, growth, example, optimizer = _ready(case, quick)
    with torch.no_grad():
        model(**example)
        began = time.perf_counter()
        model(**example)
    forward_seconds, calls = time.perf_counter() - began, _count(model)
    gc.collect()
    reset_peak()
    before, began = resident("VmRSS"), time.perf_counter()
    plan = plan_growth(model, growth, example_input=example, optimizer=optimizer)
    planned = time.perf_counter()
    receipt = plan.apply()
    done, peak = time.perf_counter(), resident("VmHWM")
    states = [t for state in optimizer.state.values() for t in state.values()]
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers(), *states])
    return {
        "growth": repr(growth),
        "tokens": list(example["input_ids"].shape),
        "parameters": list(receipt.parameters),
        "forwards": len(calls),
        "forward_seconds": forward_seconds,
        "plan_seconds": planned - began,
        "seconds": done - began,
        "grown_bytes": size,
        "before": (before - baseline) / size,
        "peak": (peak - baseline) / size,
        "largest_gap": receipt.largest_gap,
        "runs_compared": list(receipt.gaps),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure every case in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, once each")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(worker(CASES[given.worker], given.quick)))
        return
    import _ratio  # not in the worker: it would stand in its baseline

    rows = []
    for name, case in CASES.items():
        command = [sys.executable, __file__, "--worker", name, *(["--quick"] if given.quick else [])]
        runs = []
        for _ in range(1 if given.quick else given.repetitions):
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(run.stdout.splitlines()[-1]))
        spreads = {key: _ratio.spread([run[key] for run in runs]) for key in ("forwards", "seconds", "peak")}
        rows.append({"case": name, "goals": case["goals"], **spreads, "runs": runs})
    _ratio.write(given.json, {"rows": rows})


if __name__ == "__main__":
    main()
