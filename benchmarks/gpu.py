"""A GPU in at most ten minutes: the tests that need one, training speed beside its peak, and what helps.

    python benchmarks/gpu.py --json results/gpu.json

Without a CUDA device it says so in one line and measures nothing. With one, it runs ``pytest -m gpu`` (growth, joint
training, images on the device, resuming to the same bits, ``torch.compile``, CUDA graphs, NCCL with one rank), then
``graftwork bench --device cuda``, then times a grown network's forward pass and a training step of plain PyTorch in
each of: float32 and bfloat16, channels-first and channels-last, eager, compiled and as a CUDA graph. What fails is
written with its error and does not end the script; after ``--seconds`` nothing new begins.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from _outcomes import Outcomes
from graftwork.runs import provenance

BATCH, WIDTH, SIDE = 256, 64, 32
REPETITIONS = 30
TESTS = Path(__file__).parents[1] / "tests/gpu"


def network(*, device: str, channels_last: bool) -> tuple[nn.Module, Tensor]:
    """A residual-free network that was widened and deepened, in evaluation mode, and a batch for it."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * WIDTH)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * WIDTH, 10)).to(device)
    x = torch.randn(BATCH, 3, SIDE, SIDE, device=device)
    gw.widen(model, "3", factor=2, example_input=x[:4])
    gw.deepen(model, after="5", example_input=x[:4])
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return model.eval(), x


def milliseconds(work: Callable[[], object], device: str) -> float:
    """Median of several runs, after three that warm up."""

    def run() -> float:
        began = perf_counter()
        work()
        if device != "cpu":
            torch.accelerator.synchronize()
        return 1000 * (perf_counter() - began)

    return median([run() for _ in range(3 + REPETITIONS)][3:])


def recorded(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """The forward pass as a CUDA graph."""
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        model(x)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x)
    return graph.replay


def trained(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """A step of Adam."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3, fused=x.device.type == "cuda")
    y = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).float(), y).backward()
        optimizer.step()

    return step


def passes(way: str, *, device: str, bfloat16: bool, channels_last: bool) -> dict[str, Any]:
    """Time one way to run the network."""
    model, x = network(device=device, channels_last=channels_last)
    row: dict[str, Any] = {"way": way, "bfloat16": bfloat16, "channels_last": channels_last}
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16, cache_enabled=False):
        if way == "step":
            return row | {"milliseconds": milliseconds(trained(model, x), device)}
        with torch.no_grad():
            plain = model(x)
            run = torch.compile(model) if way == "compiled" else model
            work = recorded(model, x) if way == "graph" else lambda: run(x)
            row["milliseconds"] = milliseconds(work, device)
            row["gap"] = float((run(x) - plain).abs().max())
    torch.compiler.reset()
    return row


def bench(device: str) -> Any:
    """Run ``graftwork bench`` and read what it emits."""
    command = [sys.executable, "-m", "graftwork", "bench", "default", "--device", device, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-2000:]}


def guarded(work: Callable[..., Any], *given: Any, **more: Any) -> Any:
    """What work returns, or its error."""
    try:
        return work(*given, **more)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:2000], **more}


def measure(device: str, *, ways: tuple[str, ...], ends: float) -> list[dict[str, Any]]:
    """Time every way in every setting, until the time is over."""
    settings = [
        (way, {"device": device, "bfloat16": bfloat16, "channels_last": last})
        for way in ways
        for bfloat16 in (False, True)
        for last in (False, True)
    ]
    return [
        guarded(passes, way, **setting) if monotonic() < ends else {"way": way, **setting, "error": "no time left"}
        for way, setting in settings
    ]


def main() -> int:
    """Measure and write; 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("results/gpu.json"))
    parser.add_argument("--seconds", type=float, default=480.0, help="after which nothing new begins")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured")
        return 0
    ends, outcomes, origin = monotonic() + given.seconds, Outcomes(), provenance("cuda")
    code = pytest.main(["-q", "-m", "gpu", "-n", "0", str(TESTS)], plugins=[outcomes])
    found = {
        "command": f"python benchmarks/gpu.py --json {given.json.name}",
        "provenance": origin,
        "memory": torch.cuda.get_device_properties(0).total_memory,
        "tests": outcomes.found,
        "bench": guarded(bench, "cuda"),
        "passes": measure("cuda", ways=("eager", "graph", "step", "compiled"), ends=ends),
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"written: {given.json}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
