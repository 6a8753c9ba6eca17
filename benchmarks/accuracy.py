"""Accuracy at equal FLOPs: searches and their controls over budgets and seeds, and the table of results.

    python benchmarks/accuracy.py --data PATH-TO-CIFAR10 --name cifar10 --budgets 0.05PFLOP 0.1PFLOP --seeds 3 --jobs 2
    python benchmarks/accuracy.py --data digits --name digits --budgets 0.001PFLOP --seeds 5 --jobs 2

Runs that are finished are not run again, broken-off ones are resumed. The small files of every run (config, provenance,
records, outcome) are copied to ``results/NAME/``; weights and figures stay in ``runs/NAME/``. Options of ``graftwork
search`` may follow ``--``.
"""

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev

KEPT = ("config.toml", "provenance.json", "records.jsonl", "result.json")


COMMAND = "python benchmarks/accuracy.py "


def public(data: str) -> str:
    """A path of one machine has no place in results."""
    return f"PATH-TO-{Path(data).name.upper()}" if "/" in data else data


def command(data: str, budget: str, seed: int, run: Path, options: list[str]) -> list[str]:
    base = [sys.executable, "-m", "graftwork", "search", "--quiet"]
    if (run / "config.toml").is_file():
        return [*base, "--resume", str(run)]
    return [*base, "--data", data, "--budget", budget, "--seed", str(seed), "--control", "--out", str(run), *options]


def one(data: str, budget: str, seed: int, runs: Path, results: Path, options: list[str]) -> Path:
    name = f"{budget.lower()}-s{seed}"
    run, target = runs / name, results / name
    if not (run / "result.json").is_file():
        subprocess.run(command(data, budget, seed, run, options), check=True)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in KEPT:
        shutil.copy(run / file, target / file)
    config = (target / "config.toml").read_text()
    (target / "config.toml").write_text(config.replace(f'"{data}"', f'"{public(data)}"'))
    return target


def spread(values: list[float]) -> str:
    return f"{fmean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


def table(results: Path) -> str:
    found: dict[str, list[dict]] = {}
    for path in sorted(results.glob("*/result.json")):
        found.setdefault(path.parent.name.rsplit("-s", 1)[0], []).append(json.loads(path.read_text()))
    lines = [
        "| budget | seeds | best member, test | seed network alone, same FLOPs | parameters of the best | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for budget, rows in found.items():
        best = [row["best"]["test_accuracy"] for row in rows]
        control = [row["seed_network"]["test_accuracy"] for row in rows if row["seed_network"]]
        size = fmean([row["best"]["parameters"] for row in rows])
        seconds = fmean([row["seconds"] for row in rows])
        lines.append(f"| {budget} | {len(rows)} | {spread(best)} | {spread(control)} | {size:,.0f} | {seconds:,.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--budgets", nargs="+", default=["0.05PFLOP", "0.1PFLOP"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="searches at a time, one thread each")
    parser.add_argument("--name", required=True, help="of the folders in runs/ and results/")
    parser.add_argument("options", nargs="*", help="further options of graftwork search, after --")
    given = parser.parse_args()
    options = given.options or ["--threads", "1"]
    results = Path("results") / given.name
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [
            pool.submit(one, given.data, budget, seed, Path("runs") / given.name, results, options)
            for budget in given.budgets
            for seed in range(given.seeds)
        ]
        for job in jobs:
            print(job.result(), flush=True)
            (results / "README.md").write_text(
                f"```\n{COMMAND}{' '.join(sys.argv[1:])}\n```\n\n{table(results)}".replace(
                    given.data + " ", f"{public(given.data)} "
                )
            )


if __name__ == "__main__":
    main()
