"""What growth is used for, from cells of the envelope: a family at one price, stopping at any time, a network there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments._common import Row, mean_and_spread, spread_text
from experiments.growing._envelope import flops_to_reach, loss_at
from experiments.growing._envelope_plan import (
    ANYTIME,
    DECAY,
    FAMILIES,
    LARGEST,
    MOMENTS,
    SUNK,
    TERA,
    Family,
    Run,
    member,
    run_of,
)
from experiments.growing._grid import Table

Line = Sequence[tuple[float, float]]
"""TFLOP and loss, by rising TFLOP."""


class Cells:
    """The cells of one seed.

    Args:
        rows: Stored rows of that seed.
        envelope: The best size and rate from scratch.
    """

    def __init__(self, rows: Sequence[Row], envelope: Line) -> None:
        self._losses = {(str(run_of(row["options"])), row["options"]["budget"]): float(row["loss"]) for row in rows}
        self.envelope = envelope

    def loss(self, run: Run, budget: float) -> float | None:
        """What a run ended with; None where it was not run."""
        return self._losses.get((str(run), budget))

    def line(self, size: str) -> Line:
        """A size from scratch at a rate of 1, over all budgets."""
        name = str(member(size))
        return sorted((budget, loss) for (run, budget), loss in self._losses.items() if run == name)


def price(members: Sequence[tuple[Run, float]]) -> float:
    """TFLOP of networks that share what they can: each stretch of a trunk is paid once, and each one's falling rate.

    A trunk that grows at 1 and serves budgets of 2 (grown) and 0.8 (not grown): the stretch to 1, from there to 1.5,
    and 0.5 + 0.2 in which the rate falls; 2.2, where each alone would take 2.8.
    """
    total = 0.0
    ends: dict[str, tuple[float, float]] = {}
    for run, budget in members:
        lineage, until = run.lineage(0, budget * TERA, large=False), (1 - DECAY) * budget * TERA
        total += DECAY * budget * TERA
        while True:
            start = lineage.moments[-1] if lineage.moments else 0.0
            _, reached = ends.get(str(lineage), (start, start))
            ends[str(lineage)] = start, max(reached, until)
            if not lineage.moments:
                break
            lineage, until = lineage.parent, start
    return (total + sum(end - start for start, end in ends.values())) / TERA


def uses(rows: Sequence[Row], envelope: Mapping[tuple[int, float], Row]) -> dict[str, Any]:
    """All three, as far as their cells were run; ``envelope`` by seed and budget."""
    cells = {}
    for seed in sorted({row["options"]["seed"] for row in rows}):
        line = sorted((budget, float(row["loss"])) for (of, budget), row in envelope.items() if of == seed)
        cells[seed] = Cells([row for row in rows if row["options"]["seed"] == seed], line)
    return {
        "families": [entry for family in FAMILIES if (entry := _family(family, cells))["largest"]],
        "anytime": _anytime(cells),
        "sunk": [found for run, ratios in SUNK.items() for ratio in ratios if (found := _sunk(run, ratio, cells))],
    }


def _family(family: Family, cells: Mapping[int, Cells]) -> dict[str, Any]:
    """Losses of the members against those of their sizes from scratch, each with a training of its own.

    ``reached`` is the share of the FLOPs of all trainings from scratch at which the last member reaches its loss from
    scratch, between the prices that were measured; None where the cheapest or none reaches them all.
    """
    goals = [(member(str(run.sizes[-1])), budget) for run, budget in family.members(LARGEST[0])]
    alone = sum(budget for _, budget in goals)
    by_price: dict[float, dict[int, list[float]]] = {}
    for largest in LARGEST:
        members = family.members(largest)
        for seed, some in cells.items():
            pairs = [(some.loss(*one), some.loss(*goal)) for one, goal in zip(members, goals, strict=True)]
            if all(a is not None and b is not None for a, b in pairs):
                found = [a - b for a, b in pairs if a is not None and b is not None]
                by_price.setdefault(price(members), {})[seed] = found
    seeds = set.intersection(*(set(some) for some in by_price.values())) if by_price else set()
    return {
        "apart": family.title,
        "members": [str(run.sizes[-1]) for run, _ in goals],
        "budgets": [budget for _, budget in goals],
        "alone": alone,
        "largest": [
            {
                "price": paid,
                "share": paid / alone,
                "differences": [mean_and_spread(list(some)) for some in zip(*by_seed.values(), strict=True)],
            }
            for paid, by_seed in sorted(by_price.items())
        ],
        "reached": [_reached({paid: by_seed[seed] for paid, by_seed in by_price.items()}, alone) for seed in seeds],
    }


def _reached(differences: Mapping[float, Sequence[float]], alone: float) -> float | None:
    line = sorted((paid, max(some[1:])) for paid, some in differences.items())  # the first one is its size from scratch
    needed = flops_to_reach(0.0, line)
    return needed / alone if 0 < needed < float("inf") else None


def _anytime(cells: Mapping[int, Cells]) -> dict[str, Any] | None:
    """Loss above the envelope's at every moment: of the growing trunk, of each size, of starting again."""
    ways: dict[str, Callable[[Cells, float], float | None]] = {
        "start again with twice as much": lambda some, budget: dict(some.envelope).get(budget / 2),
    }
    for run in (*ANYTIME, *map(member, ("w48d1", "w48d2", "w48d3", "w48d4"))):
        ways[" → ".join(map(str, run.sizes))] = lambda some, budget, run=run: some.loss(run, budget)  # type: ignore[misc]
    found: dict[str, Any] = {}
    for name, way in ways.items():
        regrets = []
        for some in cells.values():
            envelope = dict(some.envelope)
            pairs = [(way(some, budget), envelope.get(budget)) for budget in MOMENTS]
            if all(a is not None and b is not None for a, b in pairs):
                regrets.append([a - b for a, b in pairs if a is not None and b is not None])
        if regrets:
            found[name] = {
                "mean": mean_and_spread([sum(one) / len(one) for one in regrets]),
                "largest": mean_and_spread([max(one) for one in regrets]),
                "by_moment": [mean_and_spread(list(some)) for some in zip(*regrets, strict=True)],
            }
    return {"moments": list(MOMENTS), "regret": found} if found else None


def _sunk(run: Run, ratio: float, cells: Mapping[int, Cells]) -> dict[str, Any] | None:
    """Growth of what is there, less each other way to spend the same new FLOPs."""
    there, new = run.at[-1], ratio * run.at[-1]
    found: dict[str, list[float]] = {}
    for some in cells.values():
        grown = some.loss(run, there + new)
        if grown is None:
            continue
        others = {
            "continued": loss_at(there + new, some.line(str(run.sizes[-2]))),
            "the larger size from scratch": loss_at(new, some.line(str(run.sizes[-1]))),
            "the best size from scratch": loss_at(new, some.envelope),
        }
        for name, loss in others.items():
            if loss is not None:
                found.setdefault(name, []).append(grown - loss)
    if not found:
        return None
    differences = {name: mean_and_spread(values) for name, values in found.items()}
    return {"sizes": list(map(str, run.sizes)), "there": there, "ratio": ratio, "differences": differences}


def use_tables(title: str, part: Mapping[str, Any]) -> list[Table]:
    """A table a use."""
    found = []
    for family in part["families"]:
        names = [f"{size} ({budget:g})" for size, budget in zip(family["members"], family["budgets"], strict=True)]
        lines = [
            [f"{e['price']:.2f}", f"{e['share']:.3f}", *(spread_text(d, "+.4f") for d in e["differences"])]
            for e in family["largest"]
        ]
        shares = ", ".join("–" if share is None else f"{share:.3f}" for share in family["reached"])
        lines.append(["all as good, by seed", shares, *[""] * len(names)])
        heading = f"{title}: a family from one trunk, budgets {family['apart']} apart, loss minus that from scratch"
        found.append(Table(heading, ["TFLOP in all", f"share of {family['alone']:g}", *names], lines))
    if part["anytime"]:
        moments = [f"{moment:g} TFLOP" for moment in part["anytime"]["moments"]]
        lines = [
            [name, *(spread_text(e[key], "+.4f") for key in ("mean", "largest")), *_texts(e["by_moment"])]
            for name, e in part["anytime"]["regret"].items()
        ]
        found.append(Table(f"{title}: stopped at any time", ["way", "mean regret", "largest", *moments], lines))
    if part["sunk"]:
        ways = list(part["sunk"][0]["differences"])
        lines = [
            [" → ".join(e["sizes"]), f"{e['there']:g}", f"{e['ratio']:g}"]
            + [spread_text(e["differences"][way], "+.4f") if way in e["differences"] else "" for way in ways]
            for e in part["sunk"]
        ]
        columns = ["growth", "TFLOP spent before", "new FLOPs over these", *(f"minus {way}" for way in ways)]
        found.append(Table(f"{title}: growth of a network that is there", columns, lines))
    return found


def _texts(values: Sequence[Mapping[str, Any]]) -> list[str]:
    return [spread_text(value, "+.4f") for value in values]
