"""Scaling: a cost model fitted to this machine, checked against real runs, and followed to many ranks.

    python benchmarks/scaling.py --data PATH-TO-CIFAR10 --json results/scaling/scaling.json
    python benchmarks/scaling.py --data PATH-TO-CIFAR10 --recipe paper --json results/scaling/scaling-paper.json
    python benchmarks/scaling.py --quick --json scaling.json

What is measured: seconds of a training step against its FLOPs, of putting blocks together against their bytes (packing
alone, and with another rank), of scoring against its FLOPs, of mutation against the number of members. What is
checked: the rates of one worker, of two that deal members and average every ``--sync-every`` updates, and of two that
share every batch, none of which took part in the fit. What is simulated: one generation on 2 to 256 machines of one
rank each, in both ways, with the very deals that a search would make, over networks of given bandwidths and a given
latency (assumptions, not measurements). ``docs/scaling.md`` explains the model.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from graftwork._files import as_json
from graftwork.machine import keep_memory
from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import Genome, num_parameters, parameters_per_entry, seed_genome, training_flops
from graftwork.runs import provenance
from graftwork.session import SearchConfig, Setup, mutation_of, prepare
from graftwork.training import most_parts
from graftwork.workers import Group, average, deal, deal_scoring, launch, scoring_flops
from workers import grown, public, spread, timed  # beside this file


class Alone(Group):
    """A rank that sends nothing: what is left is packing."""

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@dataclass
class Model:
    """Seconds as straight lines; see ``docs/scaling.md``."""

    step_seconds: float
    flops_per_second: float
    pack_seconds: float
    pack_bytes_per_second: float
    scoring_flops_per_second: float
    mutation_seconds_per_child: float
    bytes_per_parameter: float

    def stretch(self, ranks: Sequence[Sequence[int]], num_bytes: float, *, bandwidth: float, latency: float) -> float:
        """Of the slowest rank's steps (training FLOPs of each), and of one averaging."""
        slowest = max(len(hand) * self.step_seconds + sum(hand) / self.flops_per_second for hand in ranks)
        return slowest + self.exchange(num_bytes, len(ranks), bandwidth=bandwidth, latency=latency)

    def update(self, flops: int, num_bytes: float, size: int, *, bandwidth: float, latency: float) -> float:
        """Of one that all ranks make together, each on its part of the batch; of its gradients' bytes."""
        own = self.step_seconds + flops / size / self.flops_per_second
        return own + self.exchange(num_bytes, size, bandwidth=bandwidth, latency=latency)

    def exchange(self, num_bytes: float, size: int, *, bandwidth: float, latency: float) -> float:
        """Of packing, and of a ring in which each passes on one of its parts at a time."""
        if size == 1:
            return 0.0
        pack = self.pack_seconds + num_bytes / self.pack_bytes_per_second
        return pack + 2 * (size - 1) * (latency + num_bytes / size / bandwidth)


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept (at least 0) and slope; relative errors count."""
    weights = 1 / np.asarray(y)
    slope, intercept = np.polyfit(np.asarray(x), np.asarray(y), 1, w=weights)
    if intercept < 0:
        return 0.0, float(np.sum(weights**2 * np.asarray(x) * np.asarray(y)) / np.sum((weights * np.asarray(x)) ** 2))
    return float(intercept), float(slope)


def steps_of(setup: Setup, repetitions: int) -> list[tuple[int, float]]:
    """Training FLOPs and seconds of a step of each member."""
    found = []
    batch = setup.trainer.batch_size
    for member in setup.population:
        seconds = []
        for number in range(repetitions + 2):
            start = time.perf_counter()
            setup.trainer.step(member, number, 0.5)
            seconds.append(time.perf_counter() - start)
        found.append((training_flops(member.genome, batch), median(seconds[2:])))
    return found


def averagings(setup: Setup, group: Group, repetitions: int) -> list[tuple[int, float]]:
    """Bytes and seconds of putting together the blocks of one member, of half of all, and of all."""
    ids = list(setup.population.bank)
    choices = [next(iter(setup.population)).genome.ids, ids[: len(ids) // 2], ids]
    found = []
    for chosen in choices:
        counts = [dict.fromkeys(chosen, 1)] * group.size
        num_bytes, seconds = 0, []
        for _ in range(repetitions + 1):
            start = time.perf_counter()
            num_bytes = average(setup.trainer.optimizer, counts, group)
            seconds.append(time.perf_counter() - start)
        found.append((num_bytes, median(seconds[1:])))
    return found


def rank(method: str, options: dict[str, Any], members: int, repetitions: int, out: str) -> None:
    """One of two ranks that do nothing but average."""
    group = Group.join(method=method)
    torch.set_num_threads(1)
    setup = grown(SearchConfig.from_dict(options), members)
    setup.trainer.sync()
    found = averagings(setup, group, repetitions)
    if group.leads:
        Path(out).write_text(json.dumps(found))
    group.leave()


def fitted(options: dict[str, Any], members: int, repetitions: int) -> tuple[Model, dict[str, Any]]:
    setup = grown(SearchConfig.from_dict(options), members)
    setup.trainer.sync()
    steps = steps_of(setup, repetitions)
    packing = averagings(setup, Alone(0, 1), repetitions)
    start = time.perf_counter()
    setup.scorer.evaluate(list(setup.population))
    scoring = setup.scorer.flops(setup.population.genomes) / (time.perf_counter() - start)
    fresh = prepare(SearchConfig.from_dict(options))
    start = time.perf_counter()
    mutation_of(fresh.config)(fresh.population, 2 * members, rng=fresh.state.rng, generation=1)
    mutation = (time.perf_counter() - start) / (2 * members - 1)
    with tempfile.TemporaryDirectory() as folder:
        launch(rank, 2, options, members, repetitions, f"{folder}/bytes.json")
        exchanged = json.loads(Path(f"{folder}/bytes.json").read_text())
    step, per_flop = line(*zip(*steps, strict=True))
    pack, per_byte = line(*zip(*packing, strict=True))
    latency, per_sent = line([b for b, _ in exchanged], [max(1e-9, s - pack - b * per_byte) for b, s in exchanged])
    size = packing[-1][0] / setup.population.bank.num_parameters
    model = Model(step, 1 / per_flop, pack, 1 / per_byte, scoring, mutation, size)
    measured = {"steps": steps, "packing": packing, "exchanged_by_two": exchanged}
    return model, measured | {"loopback_latency": latency / 2, "loopback_bytes_per_second": 1 / per_sent}


def deal_stretch(
    genomes: Sequence[Genome], size: int, sync_every: int, rng: np.random.Generator, *, batch_size: int
) -> tuple[list[list[int]], int]:
    """Training FLOPs of each rank's draws, and parameters that are averaged."""
    rows = [int(row) for row in rng.integers(len(genomes), size=size * sync_every)]
    numbers: dict[int, int] = {}
    costs = [training_flops(genomes[row], batch_size) for row in rows]
    ranks = deal([numbers.setdefault(row, len(numbers)) for row in rows], costs, size)
    hands: list[list[int]] = [[] for _ in range(size)]
    for cost, chosen in zip(costs, ranks, strict=True):
        hands[chosen].append(cost)
    touched: dict[str, int] = {}
    for row in numbers:
        touched |= parameters_per_entry(genomes[row])
    return hands, sum(touched.values())


def lineage(config: SearchConfig, count: int, shape: tuple[int, int, int], rng: np.random.Generator) -> list[Genome]:
    """Genomes of a population, grown from the seed as mutation grows them; no weights."""
    mutation = mutation_of(config)
    seed = seed_genome(config.recipe.seed_genome, shape, 10)
    found = [seed]
    while len(found) < count:
        parent = found[int(rng.integers(len(found)))]
        if len(list(parent.blocks())) > 3 * len(list(seed.blocks())):
            continue  # a search keeps few survivors, so members stay within some growths of each other
        found.append(mutation.draw(parent, rng=rng)(parent, rng=rng).child)
    return found


def simulate(model: Model, genomes: Sequence[Genome], size: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One generation (mutation on every rank, stretches, scoring), over each of the assumed networks."""
    rng = np.random.default_rng(0)
    dealt = [deal_stretch(genomes, size, given.sync_every, rng, batch_size=given.batch_size) for _ in range(3)]
    jobs = deal_scoring(genomes, num_images=given.validation, batch_size=500, size=size)
    each = [scoring_flops(genomes, [hand], num_calibration=given.calibration) for hand in jobs]
    answers = 8 * len(genomes) * given.validation
    updates = given.updates_per_member * len(genomes)
    mutation = model.mutation_seconds_per_child * len(genomes)
    alike = {
        "averaged_megabytes": fmean(n for _, n in dealt) * model.bytes_per_parameter / 1e6,
        "slowest_rank_over_mean": fmean(max(map(sum, h)) * size / sum(map(sum, h)) for h, _ in dealt),
        "scoring_flops_over_trie": sum(each) / (shared_flops(genomes) * (given.validation + given.calibration)),
    }
    rows = []
    for bandwidth in given.bandwidth:
        network = {"bandwidth": bandwidth, "latency": given.latency}
        stretches = [model.stretch(hands, n * model.bytes_per_parameter, **network) for hands, n in dealt]
        training = fmean(stretches) * updates / (size * given.sync_every)
        sharing = None  # where a rank would have less than two images
        if size <= most_parts(given.batch_size):
            sharing = updates * shared_update(model, genomes, size, batch_size=given.batch_size, **network)
        scoring = max(each) / model.scoring_flops_per_second
        if size > 1:
            scoring += 2 * (size - 1) * (given.latency + answers / size / bandwidth)
        times = {"training_seconds": training, "scoring_seconds": scoring, "mutation_seconds": mutation}
        known = {"bandwidth": bandwidth, "ranks": size, "members": len(genomes)}
        whole = {"seconds": training + scoring + mutation}
        whole |= {"seconds_sharing": None if sharing is None else sharing + scoring + mutation}
        rows.append({**known, **times, "sharing_seconds": sharing, **whole, **alike})
    return rows


def shared_update(model: Model, genomes: Sequence[Genome], size: int, *, batch_size: int, **network: float) -> float:
    """Mean seconds of an update whose batch all ranks share."""
    return fmean(
        model.update(training_flops(genome, batch_size), 4 * num_parameters(genome), size, **network)
        for genome in genomes
    )


def checked(model: Model, network: dict[str, float], given: argparse.Namespace, options: dict) -> dict[str, Any]:
    """Predicted and real member-steps a second of one and of two workers, on the population of the fit."""
    setup = grown(SearchConfig.from_dict(options), given.members)
    genomes, rng, batch_size = setup.population.genomes, np.random.default_rng(1), setup.trainer.batch_size
    dealt = [deal_stretch(genomes, 2, given.sync_every, rng, batch_size=batch_size) for _ in range(200)]
    stretches = [model.stretch(hands, n * model.bytes_per_parameter, **network) for hands, n in dealt]
    one, shared = (shared_update(model, genomes, size, batch_size=batch_size, **network) for size in (1, 2))
    predicted = {"1 workers": 1 / one, "2 workers": 2 * given.sync_every / fmean(stretches)}
    predicted["2 workers, sharing batches"] = 1 / shared
    real: dict[str, list[float]] = {name: [] for name in predicted}
    for _ in range(given.repetitions):
        for name, values in real.items():
            how = options | {"sync_every": 0 if "sharing" in name else given.sync_every}
            values.append(timed(how, given.members, given.steps, size=int(name[0])))
    return {
        name: {
            "predicted": predicted[name],
            "real": spread(values),
            "ratio": spread([value / predicted[name] for value in values]),
        }
        for name, values in real.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--members", type=int, default=10, help="of the population that is measured")
    parser.add_argument("--populations", type=int, nargs="+", default=[10, 100, 1000, 10000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--sync-every", type=int, default=16)
    parser.add_argument("--updates-per-member", type=int, default=500)
    parser.add_argument(
        "--bandwidth", type=float, nargs="+", default=[1.25e9, 1.25e8], help="assumed, bytes a second (10 and 1 Gbit/s)"
    )
    parser.add_argument("--latency", type=float, default=5e-5, help="assumed, seconds a message")
    parser.add_argument("--validation", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=96, help="updates of each real run of the check")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="digits, the poster's small network, few ranks")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    if given.quick:
        given.data, given.recipe, given.members, given.populations, given.ranks = "digits", "paper", 4, [10], [1, 2, 16]
        given.steps, given.repetitions = 16, 1
    keep_memory()
    options = {"data": given.data, "recipe": given.recipe, "precision": "float32", "threads": 1}
    config = SearchConfig.from_dict(options)
    given.batch_size, given.calibration = config.recipe.batch_size, config.recipe.num_calibration
    model, measured = fitted(options, given.members, 2 * given.repetitions)
    network = {"bandwidth": measured["loopback_bytes_per_second"], "latency": measured["loopback_latency"]}
    found: dict[str, Any] = {"command": f"python benchmarks/scaling.py {public(sys.argv[1:], given.data)}"}
    found |= {"provenance": provenance(), "model": asdict(model), "measured": measured}
    found |= {"check": checked(model, network, given, options)}
    found["ratio"] = found["check"]["2 workers"]["ratio"]
    found["assumed"] = {name: getattr(given, name) for name in ("bandwidth", "latency", "sync_every", "validation")}
    print(json.dumps(found["check"], indent=2), flush=True)
    found["simulation"] = []
    shape = (1, 8, 8) if given.data == "digits" else (3, 32, 32)
    for count in given.populations:
        genomes = lineage(config, count, shape, np.random.default_rng(0))
        base = 0.0  # of one rank, which sends nothing
        for size in given.ranks:
            for row in simulate(model, genomes, size, given):
                base = base or row["seconds"] * size
                row |= {"speedup": base / row["seconds"], "efficiency": base / row["seconds"] / size}
                shared = row["seconds_sharing"]
                row |= {"speedup_sharing": None if shared is None else base / shared}
                found["simulation"].append(row)
                where = f"{count} members, {size} ranks, {row['bandwidth']:.3g} bytes/s"
                told = "too many to share batches" if shared is None else f"{base / shared:.1f} sharing batches"
                print(f"{where}: {row['speedup']:.1f} times as fast by averaging, {told}", flush=True)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(as_json(found))


if __name__ == "__main__":
    main()
