"""Grow a random Llama in a folder by the command, and measure its peak memory and time.

    python benchmarks/grow_checkpoint.py --json results/speed/grow_checkpoint.json

A checkpoint of 300 M parameters (``--size`` chooses another) is written twice: in one file, and in several with the
state of AdamW beside it, grouped as Trainer does. ``graftwork grow`` runs in a process of its own. `peak` is that
process's own memory at most, sampled every 20 ms, without the pages of files that it has mapped; `resident` is what the
kernel counts, those pages too; `idle` is what a process holds that has done the same to a tiny checkpoint; `held` is
what the plan says of weights and state. Afterwards both folders are read by ``from_pretrained`` and logits compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

import _ratio
from _resident import resident
from graftwork.numerics import output_gap

SIZES = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 256},
    "30M": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 6,
            "num_key_value_heads": 6, "vocab_size": 8000},
    "300M": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 18, "num_attention_heads": 16,
             "num_key_value_heads": 16, "vocab_size": 32000},
}  # fmt: skip
GROWTHS = {
    "layers +4": ["--layers", "+4"],
    "width 1.25": ["--width", "1.25"],
    "layers +4, width 1.25, mlp 1.5, vocabulary +1000": [
        "--layers", "+4", "--width", "1.25", "--mlp", "1.5", "--vocab", "+1000"],
}  # fmt: skip


def make(folder: Path, size: str, *, shards: int) -> dict[str, int]:
    """Write a random checkpoint, of several files with an optimizer's state; returns its bytes."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES[size], bos_token_id=1, eos_token_id=2))
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=-(-weights // shards) if shards > 1 else "50GB")
    if shards == 1:
        return {"parameters": model.num_parameters(), "weights": weights, "optimizer": 0}
    decaying = set(Trainer.get_decay_parameter_names(None, model))
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if n in decaying], "weight_decay": 0.1},
        {"params": [p for n, p in named if n not in decaying], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return {"parameters": model.num_parameters(), "weights": weights, "optimizer": 2 * weights}


def run(source: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Grow in a process of its own; returns seconds, peaks and what it says."""
    command = [sys.executable, "-m", "graftwork", "grow", str(source), "--out", str(out), "--json", *options]
    began, peaks = time.perf_counter(), {"RssAnon": 0, "VmHWM": 0}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said)
        while process.poll() is None:
            peaks = {field: max(peak, resident(field, process.pid)) for field, peak in peaks.items()}
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        said.seek(0)
        if process.returncode:
            sys.exit(f"{command}: ended with {process.returncode}")
        receipt = json.loads(said.read())
    kept = {key: receipt[key] for key in ("parameters", "bytes", "memory", "gaps", "optimizer_state")}
    return {"seconds": seconds, "peak": peaks["RssAnon"], "resident": peaks["VmHWM"], **kept}


def logits_gap(before: Path, after: Path) -> float:
    """The largest relative difference of logits of two checkpoints; of a longer vocabulary the old part counts."""
    ids = torch.randint(200, (2, 32), generator=torch.Generator().manual_seed(1))
    found = []
    for folder in (before, after):
        with torch.no_grad():
            found.append(LlamaForCausalLM.from_pretrained(folder)(input_ids=ids).logits)
    return output_gap(found[0], found[1][..., : found[0].shape[-1]])


def measure(size: str, folder: Path, only: list[str]) -> list[dict[str, Any]]:
    """All growths of both checkpoints."""
    rows = []
    for shards in (1, 4):
        source = folder / f"source-{shards}"
        sizes = make(source, size, shards=shards)
        for name, words in GROWTHS.items():
            if only and name not in only:
                continue
            options = [str(SIZES[size]["vocab_size"] + 1000) if word == "+1000" else word for word in words]
            if shards > 1:
                options += ["--optimizer", str(source / "optimizer.pt")]
            out = folder / "out"
            found = run(source, out, options)
            held = found["memory"] * (3 if shards > 1 else 1)
            gap = logits_gap(source, out)
            rows.append({"growth": name, "files": shards, "source": sizes, **found, "held": held, "logits_gap": gap})
            print(rows[-1], file=sys.stderr)
            for path in sorted(out.iterdir()):
                path.unlink()
            out.rmdir()
    return rows


def main() -> None:
    """Measure, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="300M")
    parser.add_argument("--only", nargs="+", choices=GROWTHS, default=[], help="Growths; all if none is named.")
    parser.add_argument("--json", type=Path, help="File for the results.")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "tiny", "tiny", shards=1)
        idle = run(folder / "tiny", folder / "tiny-out", ["--layers", "+4"])
        rows = measure(options.size, folder, options.only)
    _ratio.write(options.json, {"size": options.size, "idle": idle["peak"], "rows": rows})


if __name__ == "__main__":
    main()
