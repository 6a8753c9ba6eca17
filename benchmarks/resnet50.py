"""Seconds and memory of widening a ResNet-50 by a quarter: plan, apply and check of `widen_all(1.25)`.

    python benchmarks/resnet50.py --json results/resnet50.json          # about a minute on two idle cores
    python benchmarks/resnet50.py --quick --json build/resnet50.json     # a ResNet-50 of a quarter of the width

Every repetition is a fresh process that builds the network (random weights, float32, channels first) and an SGD
optimizer without state, runs the network once on the example (2 × 3 × 224 × 224), as any training loop would have, and
only then looks at its resident set: the *baseline*, which holds the interpreter, torch and what an optimizer makes it
import, the kernels' work space and the model. Then it plans (two traces), applies and checks (the network runs on one,
two and three images, before and after), and reads the largest resident set that the system saw since.

`peak` is (largest resident set − baseline) / model, `model` being the bytes of parameters and buffers before the
growth. It counts all that the growth needed at its worst moment beside the model it was given: the grown weights
(`grown` models, which stay), activations of the check, temporary tensors, compiled kernels for new shapes, and what the
allocator keeps. `peak_with_model` adds 1 for the model itself.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

from _resident import reset_peak, resident

FACTOR = 1.25


def _network(base: int):
    import torch.nn.functional as F
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, width_in: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(4 * width)
            self.downsample = None
            if stride != 1 or width_in != 4 * width:
                convolution = nn.Conv2d(width_in, 4 * width, 1, stride=stride, bias=False)
                self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * width))

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)))
            y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
            return F.relu(y + (x if self.downsample is None else self.downsample(x)))

    stem = [nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(base), nn.ReLU()]
    layers: list[nn.Module] = [*stem, nn.MaxPool2d(3, 2, 1)]
    width_in = base
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = base * 2**stage
        for number in range(blocks):
            layers.append(Bottleneck(width_in, width, 2 if stage and not number else 1))
            width_in = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width_in, 1000))


def worker(base: int, side: int) -> None:
    """One repetition, in a process of its own; prints one line of JSON."""
    import torch

    from graftwork.surgery import WidenAll
    from graftwork.surgery import plan as plan_growth

    torch.manual_seed(0)
    model = _network(base).eval()
    x = torch.randn(2, 3, side, side)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    torch.optim.SGD(model.parameters(), lr=0.1).zero_grad()
    with torch.no_grad():
        model(x)
    gc.collect()
    reset_peak()
    baseline = resident("VmRSS")
    began = time.perf_counter()
    plan = plan_growth(model, WidenAll(FACTOR), example_input=x)
    planned = time.perf_counter()
    receipt = plan.apply()
    done = time.perf_counter()
    peak = resident("VmHWM")
    after = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    result = {
        "plan_seconds": planned - began,
        "apply_and_check_seconds": done - planned,
        "seconds": done - began,
        "model_bytes": size,
        "grown": after / size,
        "baseline_bytes": baseline,
        "peak_bytes": peak,
        "peak": (peak - baseline) / size,
        "peak_with_model": (peak - baseline + size) / size,
        "parameters": list(receipt.parameters),
        "sites": len(plan.sites),
        "tensors": len(receipt.tensors),
        "largest_gap": receipt.largest_gap,
        "runs_compared": len(receipt.gaps),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the width, small images, one repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the result; standard output if left out")
    parser.add_argument("--worker", nargs=2, type=int, metavar=("BASE", "SIDE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(*given.worker)
        return
    if given.repetitions < 1:
        parser.error("--repetitions must be 1 or more")
    import _ratio  # not in the worker: it would stand in its baseline

    base, side = (16, 64) if given.quick else (64, 224)
    runs = []
    for _ in range(1 if given.quick else given.repetitions):
        command = [sys.executable, __file__, "--worker", str(base), str(side)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(run.stdout.splitlines()[-1]))
    result = {
        "what": f"plan, apply and check of widen_all({FACTOR}) on a ResNet-50 of base width {base}, 2×3×{side}×{side}",
        "seconds": _ratio.spread([run["seconds"] for run in runs]),
        "peak": _ratio.spread([run["peak"] for run in runs]),
        "peak_with_model": _ratio.spread([run["peak_with_model"] for run in runs]),
        "goals": {"seconds": 10.0, "peak": 3.0},
        "runs": runs,
    }
    _ratio.write(given.json, result)


if __name__ == "__main__":
    main()
