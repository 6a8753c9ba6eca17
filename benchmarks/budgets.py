r"""What budgets of time really take, on an idle machine and on one that other work keeps half busy.

    python benchmarks/budgets.py --budgets 10s 1m 5m --json results/budgets/budgets.json
    python benchmarks/budgets.py --budgets none --loads idle --json results/budgets/photos.json
    python benchmarks/budgets.py --budgets 0.3TFLOP --loads idle --images 100000 --side 96 \
        --json results/budgets/many.json

Each case is a whole command, without a report, in a process of its own: from its start to the moment at which
``result.json`` is written. *Half busy*: as many processes as half of the cores do nothing but count, from before the
start to after the end; *now and then*: they count for a fifth of the budget and rest for the next. Without ``--data``,
photos are generated: 2,000 JPEGs of 224×224 pixels in ten classes. Each case decodes them again. ``none`` is a search
by all defaults, which is stopped as soon as it has told the accuracy of its seed network.
"""

import argparse
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import _ratio
from _resident import processor_seconds
from graftwork.session import parse_budget

LOADS = ("idle", "half busy", "now and then")


def make_photos(folder: Path, *, images: int = 2000, classes: int = 10, side: int = 224) -> Path:
    """JPEGs whose classes differ in the direction and width of stripes, under changing light and noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    for number in range(images):
        label = number % classes
        angle, width = np.pi * label / classes, 6 + 2 * (label % 3)
        stripes = np.sin((rows * np.cos(angle) + columns * np.sin(angle)) / width + rng.uniform(0, 6))
        light = (
            rng.uniform(60, 190, 3) + stripes[..., None] * rng.uniform(20, 60, 3) + rng.normal(0, 25, (side, side, 1))
        )
        target = folder / f"class{label}"
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(target / f"{number:04}.jpg", quality=88)
    return folder


def _count(work: float, rest: float) -> None:
    while True:
        until = time.monotonic() + work
        while time.monotonic() < until:
            pass
        time.sleep(rest)


@contextmanager
def loaded(load: str, seconds: float) -> Iterator[None]:
    """Keep half of the cores busy as the case says."""
    work, rest = (1.0, 0.0) if load == "half busy" else (seconds / 5, seconds / 5)
    count = 0 if load == "idle" else max(1, (os.cpu_count() or 1) // 2)
    processes = [multiprocessing.Process(target=_count, args=(work, rest), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def measure(data: str, budget: str, load: str) -> dict[str, Any]:
    """Run one search; returns seconds to its result, what was told on the way, and the peak of its memory."""
    known = None if budget == "none" else parse_budget(budget)
    seconds = known.amount if known is not None and known.kind == "seconds" else None
    used = _processor_seconds()
    with tempfile.TemporaryDirectory() as place, loaded(load, seconds or 60.0):
        run = Path(place) / "run"
        command = [sys.executable, "-m", "graftwork", "search", "--data", data]
        command += [] if known is None else ["--budget", budget]
        command += ["--json", "--no-report", "--out", str(run)]
        began = time.time()
        first: dict[str, float] = {}
        spent = None
        environment = {**os.environ, "GRAFTWORK_CACHE": place}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            lines = []
            for line in process.stdout or ():
                lines.append(json.loads(line))
                kind = lines[-1]["type"]
                if kind == "outline":
                    spent = processor_seconds(process.pid)
                first.setdefault("accuracy" if kind in ("look", "generation") else kind, time.time() - began)
                if known is None and kind == "look":
                    process.send_signal(signal.SIGTERM)
        if process.returncode != (0 if known else 143):
            sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
        ended = (run / "result.json").stat().st_mtime - began if known else None
        result = json.loads((run / "result.json").read_text()) if known else {}
    stage = next(line for line in lines if line["type"] == "stage")
    return {
        "budget": budget,
        "load": load,
        "seconds": ended and round(ended, 2),
        "kept": abs(ended - seconds) <= max(3.0, 0.1 * seconds) if ended and seconds else None,
        "processor_seconds": round(_processor_seconds() - used, 1) if load == "idle" else None,
        "first_line_seconds": round(first["outline"], 2),
        "first_line_processor_seconds": spent,
        "first_accuracy_seconds": round(first["accuracy"], 2),
        "plans": sum(line["type"] == "plan" for line in lines),
        "size": stage["size"],
        "generations": result.get("generations"),
        "steps": result.get("steps"),
        "test_accuracy": result["best"]["test_accuracy"] if result else None,
        "peak_bytes_so_far": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }


def _processor_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Data set; generated photos where it is left out.")
    parser.add_argument("--images", type=int, default=2000, help="Number of generated photos.")
    parser.add_argument("--side", type=int, default=224, help="Their pixels a side.")
    parser.add_argument("--budgets", nargs="+", default=["10s", "1m", "5m"])
    parser.add_argument("--loads", nargs="+", default=list(LOADS), choices=LOADS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or str(make_photos(Path(folder) / "photos", images=options.images, side=options.side))
        rows = []
        for budget in options.budgets:
            for load in options.loads:
                rows.append(measure(data, budget, load))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    _ratio.write(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
