"""Kill a search at random moments and resume it: it must end with the bits of one that nothing disturbs.

    python benchmarks/kill.py --kills 20 --json results/kill/kill.json

Each trial is one run that is killed by SIGKILL once or more at random moments (start-up, training, scoring, mutation,
checkpointing, the opening of the test split), resumed, and taken to its end; then bank, records (times apart) and test
predictions are compared.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from graftwork._files import as_json
from graftwork.runs import machine

OPTIONS = ["--data", "digits", "--budget", "40steps", "--num-generations", "3", "--control"]
OPTIONS += ["--threads", "1", "--precision", "float32"]
COMMAND = [sys.executable, "-m", "graftwork", "search", "--quiet", "--no-report"]


def start(run: Path) -> subprocess.Popen:
    if (run / "config.toml").is_file():
        return subprocess.Popen([*COMMAND, "--resume", str(run)], stdout=subprocess.DEVNULL)
    shutil.rmtree(run, ignore_errors=True)  # killed before it was a run
    options = [*OPTIONS, "--checkpoint-every", "0.3", "--out", str(run)]
    return subprocess.Popen([*COMMAND, *options], stdout=subprocess.DEVNULL)


def finish(run: Path) -> None:
    if start(run).wait() != 0:
        sys.exit(f"the resume of {run} failed")


def digests(run: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    records = json.dumps([{key: value for key, value in line.items() if key != "seconds"} for line in lines])
    return {
        "bank_sha256": json.loads((run / "result.json").read_text())["bank_sha256"],
        "records": hashlib.sha256(records.encode()).hexdigest(),
        "test_predictions": hashlib.sha256((run / "predictions/test.safetensors").read_bytes()).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        finish(Path(folder) / "whole")
        seconds = time.monotonic() - began
        expected = digests(Path(folder) / "whole")
        trials, kills = [], 0
        while kills < given.kills:
            run, moments = Path(folder) / f"run-{len(trials)}", []
            for _ in range(draw.randint(1, 3)):
                process, delay = start(run), draw.uniform(0.05, 1.0) * seconds
                try:
                    process.wait(delay)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    moments.append(round(delay, 2))
            finish(run)
            kills += len(moments)
            trials.append({"kills_after_seconds": moments, "equal": digests(run) == expected})
            print(f"{kills} kills, {sum(t['equal'] for t in trials)} of {len(trials)} runs equal", flush=True)
            shutil.rmtree(run)
    found = {
        "command": "python benchmarks/kill.py",
        "kills": kills,
        "runs": len(trials),
        "equal": sum(trial["equal"] for trial in trials),
        "expected": expected,
        "trials": trials,
        "machine": machine(),
    }
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(as_json(found))
    sys.exit(found["equal"] != len(trials))


if __name__ == "__main__":
    main()
