"""How long the poster's full protocol takes, ours and naive: a part of it is run and extrapolated.

    python benchmarks/protocol.py --data PATH-TO-CIFAR10 --threads 2 --json results/speed/protocol-2.json
    python benchmarks/protocol.py --data PATH-TO-CIFAR10 --workers 2 --json results/speed/protocol-workers-2.json

The protocol is 5,000 updates of the seed and 15 rounds of 5,000 with M = 10, K = 3, each round scored on the validation
split. A real search makes a tenth of each round's updates (it selects and mutates as it would, so that populations
have the sizes that a search gives them). Five times a round it stops, and the naive way makes one update of every
member of the very population, from its weights; when the round is scored, the naive way scores a tenth of the images.

An update of a round costs what its members cost on average (each is drawn equally often). Training is multiplied up to
5,000 updates a round, naive scoring to all images, and the sixteen rounds are added: once for each of the five stops,
whose spread is the error. `ratio` is naive over ours. Mutation is counted for ours alone; checkpoints and the opening
of the test split for neither.

With ``--workers`` the threads are shared among so many workers, which exchange as those of ``graftwork search`` do;
while the naive way is timed, with all threads, they wait. An update is then the round's seconds by its updates.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import _ratio
import naive
from graftwork.evolution import SearchState, search
from graftwork.evolution.selection import make_selector
from graftwork.evolution.strategies import Neuroevolution
from graftwork.machine import Machine, keep_memory
from graftwork.networks import Member
from graftwork.session import SearchConfig, Setup, mutation_of, prepare, shared_parts
from graftwork.training import Evaluation, Outcome, Update
from graftwork.workers import Group, launch

ROUNDS, UPDATES, STOPS = 15, 5000, 5
GOALS = {"ours_minutes_below": 25, "naive_minutes_above": 75}


class Naive:
    """The present population by `naive.py`, from the weights that it has now."""

    def __init__(self, setup: Setup, *, share: int, updates: int) -> None:
        problem, self.recipe = setup.problem, setup.config.recipe
        rows = problem.splits.train[: 64 * self.recipe.batch_size]
        pictures = naive.pictures(problem, rows)
        self.share, self.updates, self.members = share, updates, list[nn.Module]()
        self.batches = self._endless(pictures)
        self.calibration = self._images(setup, problem.calibration_rows(self.recipe.num_calibration))
        self.validation = self._images(setup, problem.splits.validation)

    def _endless(self, pictures: naive.Pictures) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in count():
            yield from naive.loader(pictures, batch_size=self.recipe.batch_size, seed=epoch)

    def _images(self, setup: Setup, rows: np.ndarray) -> Tensor:
        part = rows[: max(2, len(rows) // self.share)]
        return setup.problem.transform(setup.problem.images(part)).contiguous()

    def rebuild(self, setup: Setup) -> None:
        """Follow the search to its next round."""
        self.members = naive.build(setup.population.genomes, setup.population.bank)
        rule = self.recipe.rules["filter"]
        self.adam = naive.optimizer(self.members, lr=rule.lr, weight_decay=rule.weight_decay)
        self._updates(self.members[:1])  # prepares kernels

    def _updates(self, members: Sequence[nn.Module]) -> float:
        """Seconds an update, reading of images included."""
        began = perf_counter()
        for member in members:
            naive.train_step(member, self.adam, *next(self.batches))
        return (perf_counter() - began) / len(members)

    def update_seconds(self) -> float:
        """One update of every member; of a lone one, some."""
        return self._updates(self.members * max(1, self.updates // len(self.members)))

    def scoring_seconds(self) -> float:
        """Extrapolated to all images."""
        began = perf_counter()
        naive.score(self.members, self.calibration, self.validation)
        return (perf_counter() - began) * self.share


class Timed:
    """Trainer, scorer and mutation of a search, with a clock around each; the naive way is timed in between.

    Args:
        setup: Of the search.
        other: The naive way; ``None``: another rank times it.
        threads: Of the naive way.
        num_updates: Of a round of the short search.
        stops: In each round.
        group: The ranks; ``None``: this process alone.

    Raises:
        ValueError: If a stretch of updates is longer than what lies between two stops.
    """

    def __init__(
        self, setup: Setup, other: Naive | None, *, threads: int, num_updates: int, stops: int, group: Group | None
    ) -> None:
        parts = shared_parts(setup, group)
        self.setup, self.other, self.group, self.threads = setup, other, group, threads
        self.stop_every, self.stops = num_updates // stops, stops
        self.trainer, self.scorer, self.mutate = parts["trainer"], parts["scorer"], mutation_of(setup.config)
        self.batch_size, self.updates_at_once = self.trainer.batch_size, self.trainer.updates_at_once
        if self.updates_at_once > self.stop_every:
            raise ValueError(f"a stop every {self.stop_every} updates, but {self.updates_at_once} are made at once")
        self.rounds: list[dict[str, Any]] = []
        self.mutation = 0.0
        self._spent: dict[Member | None, list[float]] = defaultdict(list)
        self._made = 0

    @property
    def extra_flops(self) -> int:
        """As of the trainer."""
        return self.trainer.extra_flops

    def _beside(self, measure: Callable[[Naive], float | None]) -> float | None:
        """Let the naive way run on all threads, and all other ranks wait for it."""
        found = None
        if self.other is not None:
            own = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            found = measure(self.other)
            torch.set_num_threads(own)
        if self.group is not None:
            self.group.add(torch.zeros(1))
        return found

    def sync(self) -> None:
        """A round begins."""
        self.trainer.sync()
        self._beside(lambda other: other.rebuild(self.setup))
        self.rounds.append({"ours_update": [], "naive_update": [], "mutation": self.mutation})
        self.mutation, self._made = 0.0, 0

    def run(self, updates: Sequence[Update]) -> Outcome:
        began = perf_counter()
        outcome = self.trainer.run(updates)
        each = (perf_counter() - began) / len(updates)
        self._spent[updates[0].members[0] if len(updates) == 1 else None] += [each] * len(updates)
        self._made += len(updates)
        stop = len(self.rounds[-1]["ours_update"]) + 1
        if stop <= self.stops and self._made >= stop * self.stop_every:
            self.rounds[-1]["ours_update"].append(fmean(map(fmean, self._spent.values())))
            self.rounds[-1]["naive_update"].append(self._beside(Naive.update_seconds))
            self._spent.clear()
        return outcome

    def flops(self, genomes: Sequence[Any]) -> int:
        return self.scorer.flops(genomes)

    def evaluate(self, members: Sequence[Member]) -> Evaluation:
        began = perf_counter()
        found = self.scorer.evaluate(members)
        seconds = perf_counter() - began
        times = {"ours_scoring": seconds, "naive_scoring": self._beside(Naive.scoring_seconds)}
        self.rounds[-1] |= {**times, "flops": self.flops([member.genome for member in members])}
        self.rounds[-1]["layers"] = [len(member.genome.layers) for member in members]
        return found

    def mutation_of(self, *arguments: Any, **options: Any) -> Any:
        began = perf_counter()
        report = self.mutate(*arguments, **options)
        self.mutation = perf_counter() - began
        return report


def extrapolated(rounds: Sequence[dict[str, Any]], stop: int) -> tuple[float, float]:
    """Seconds of the whole protocol, ours and naive, by what was measured at one stop of every round."""
    ours = sum(UPDATES * row["ours_update"][stop] + row["ours_scoring"] + row["mutation"] for row in rounds)
    return ours, sum(UPDATES * row["naive_update"][stop] + row["naive_scoring"] for row in rounds)


def measured(
    options: dict[str, Any], *, share: int, stops: int, threads: int, group: Group | None = None
) -> tuple[Setup, list[dict[str, Any]]]:
    """Run the short search; the naive way has ``threads``, the search those that its options give."""
    config = SearchConfig.from_dict(options)
    setup = prepared(config, group)
    leads = group is None or group.leads
    other = Naive(setup, share=share, updates=config.recipe.population_size) if leads else None
    steps = options["initial_steps"]
    timed = Timed(setup, other, threads=threads, num_updates=steps, stops=stops, group=group)
    selector = make_selector(config.selection, **config.selection_options)
    strategy = Neuroevolution(selector=selector, mutate=timed.mutation_of)
    parts = setup.parts | {"trainer": timed, "scorer": timed, "strategy": strategy}
    state: SearchState = setup.state
    for generation in search(state, **parts):
        if leads:
            print(f"round {generation.number}: {generation.step} updates", flush=True)
    return setup, timed.rounds


def prepared(config: SearchConfig, group: Group | None) -> Setup:
    """What rank 0 chooses for this machine, all ranks follow."""
    if group is None:
        return prepare(config)
    if group.leads:
        setup = prepare(config)
        group.send(setup.machine.to_dict())
        return setup
    told, _ = group.receive()
    return prepare(config, machine=Machine.from_dict(told))


def rank(method: str, options: dict[str, Any], how: dict[str, Any], out: str) -> None:
    """One worker of several; rank 0 writes what it measured."""
    keep_memory()
    group = Group.join(method=method)
    try:
        setup, rounds = measured(options, group=group, **how)
        if group.leads:
            Path(out).write_text(json.dumps([setup.machine.to_dict(), rounds]))
    finally:
        group.leave()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="that share the threads")
    parser.add_argument("--sync-every", type=int, default=16, help="as of a search; 0: workers share every batch")
    parser.add_argument("--share", type=int, default=10, help="a part of so many is run, of updates and naive scoring")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="Two rounds, few updates: checks that it runs.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.workers < 1 or given.threads % given.workers:
        parser.error(f"--workers: expected a divisor of the {given.threads} threads, got {given.workers}")
    keep_memory()
    rounds, share, stops = (2, 100, 2) if given.quick else (ROUNDS, given.share, STOPS)
    steps = 20 if given.quick else UPDATES // share
    options = {"data": given.data, "recipe": "paper", "threads": given.threads // given.workers, "seed": given.seed}
    options |= {"sync_every": given.sync_every}
    options |= {"num_generations": rounds, "initial_steps": steps, "steps_per_generation": steps}
    options |= {"validation": 0.02, "num_calibration": 100} if given.quick else {}
    how = {"share": share, "stops": stops, "threads": given.threads}
    if given.workers == 1:
        setup, found = measured(options, **how)
        choice = setup.machine.to_dict()
    else:
        with TemporaryDirectory() as folder:
            launch(rank, given.workers, options, how, f"{folder}/measured.json")
            choice, found = json.loads(Path(f"{folder}/measured.json").read_text())
    totals = [extrapolated(found, stop) for stop in range(stops)]
    ours, other = ([side / 60 for side in sides] for sides in zip(*totals, strict=True))
    _ratio.write(
        given.json,
        {
            "threads": given.threads,
            "workers": given.workers,
            "sync_every": given.sync_every,
            "quick": given.quick,
            "choice": choice,
            "ratio": _ratio.ratio(other, ours),
            "minutes": {"ours": _ratio.spread(ours), "naive": _ratio.spread(other)},
            "goals": GOALS,
            "updates_run_of_each_round": steps,
            "protocol": {"rounds": rounds + 1, "updates_of_each_round": UPDATES},
            "rounds": found,
        },
    )


if __name__ == "__main__":
    main()
