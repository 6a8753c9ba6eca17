"""Keeping a budget of time: the rest of a search is planned again where the machine is slower or faster than it was."""

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise

from graftwork._files import damaged
from graftwork.evolution import Plan, SearchState
from graftwork.networks.genome import training_flops
from graftwork.runs import RunFolder
from graftwork.session._setup import Setup
from graftwork.session._timing import Timing

_CHECKS = 40
"""Times that a budget is looked at; but not more often than twice a second."""
_TOLERANCE = 0.02
"""Share of the whole work by which a plan may be off before another one is made."""
_PLANS = "plans.json"


class Replanner:
    """Compares a search with the clock, now and then.

    Args:
        timing: The budget.
        clock: Seconds since the start of the command, without the time between a kill and its resume.
    """

    def __init__(self, timing: Timing, *, clock: Callable[[], float]) -> None:
        self._timing, self._clock = timing, clock
        self._began = self._planned_at = self._looked_at = clock()
        self._planned_flops: int | None = None

    def again(
        self, state: SearchState, plan: Plan, *, scoring_flops: Callable[[], int], update_flops: int
    ) -> Plan | None:
        """Return another plan for the rest of the search; ``None`` where it is not time to look, or the plan holds.

        Args:
            state: The search between two updates.
            plan: The plan in force.
            scoring_flops: Tells what scoring the population once takes.
            update_flops: FLOPs of an update.
        """
        now = self._clock()
        if self._planned_flops is None:  # the first update here, or the first after those of a resume's plans
            self._planned_flops, self._planned_at, self._looked_at = state.spent_flops, now, now
        if now - self._looked_at < max(0.5, self._timing.seconds / _CHECKS):
            return None
        self._looked_at = now
        speed, border = self._timing.speed, plan.small_share * (plan.flops or 0)
        usual = speed.seconds(self._planned_flops, state.spent_flops, border)
        slowness = (now - self._planned_at) / usual if usual > 0 else 1.0
        ending = self._timing.ending(plan.num_generations, slowness=slowness)
        seconds = self._timing.left(now, now - self._began, ending=ending) / slowness
        total = speed.reach(state.spent_flops, seconds, plan.small_share if plan.small_size else 0.0)
        found = plan_again(
            plan,
            generation=state.generation,
            spent=state.spent_flops,
            total=int(total),
            round_flops=scoring_flops() + update_flops,
        )
        if found is not None:
            self._planned_flops, self._planned_at = state.spent_flops, now
        return found


def store_plans(run: RunFolder, setup: Setup) -> None:
    """Store the plans that were made after the first: before they are followed, so that a resume replays them."""
    if setup.timing is not None:
        rows = [{"step": step, "plan": asdict(plan)} for step, plan in setup.plans.later.items()]
        run.write_json(_PLANS, {"plans": rows})


def restore_plans(run: RunFolder, setup: Setup) -> None:
    """Read what `store_plans` wrote.

    Raises:
        RunError: If it is missing or damaged, or was changed.
    """
    if setup.timing is not None:
        with damaged(str(run.path / _PLANS)):
            for entry in run.read_json(_PLANS)["plans"]:
                setup.plans.add(entry["step"], Plan(**entry["plan"]))


def keep_time(
    run: RunFolder, setup: Setup, *, clock: Callable[[], float], tell: Callable[[Plan], None]
) -> Callable[[SearchState], None]:
    """Return a function that, between two updates, plans the rest of a search again where that takes it.

    Up to the last plan that is stored nothing is planned: a search that was stopped replays what it did.

    Args:
        run: Where plans are stored.
        setup: The search, with a `Timing`.
        clock: Seconds since the start of the command.
        tell: Hears of a new plan.
    """
    if setup.timing is None:
        return lambda state: None
    replanner, scorer = Replanner(setup.timing, clock=clock), setup.scorer
    update = training_flops(setup.seed_network, setup.trainer.batch_size)

    def replan(state: SearchState) -> None:
        if state.step <= setup.plans.latest_step:
            return
        genomes = state.population.genomes
        plan = replanner.again(
            state, setup.plans.latest, scoring_flops=lambda: scorer.flops(genomes), update_flops=update
        )
        if plan is not None:
            setup.plans.add(state.step, plan)
            store_plans(run, setup)
            tell(plan)

    return replan


def plan_again(plan: Plan, *, generation: int, spent: int, total: int, round_flops: int) -> Plan | None:
    """Divide what is left among the rounds as the plan in force does, and leave out rounds that are left too little.

    Args:
        plan: The plan in force, in FLOPs.
        generation: Number of the present round.
        spent: FLOPs that are spent.
        total: FLOPs that the whole search may spend now.
        round_flops: FLOPs of scoring a population and one update: a later round needs so much.

    Returns:
        The new plan; ``None`` where it would hardly differ.
    """
    total = max(total, spent)
    if plan.flops is None or abs(total - plan.flops) <= _TOLERANCE * plan.flops:
        return None
    old = [max(0.0, plan.flops_until(number) - spent) for number in range(generation, plan.num_generations + 1)]
    for kept in range(len(old), 0, -1):
        scale = (total - spent) / old[kept - 1] if old[kept - 1] else 0.0
        ends = [spent + int(end * scale) for end in old[: kept - 1]] + [total]
        if all(after - before >= round_flops for before, after in pairwise(ends)):
            break
    before = [min(int(plan.flops_until(number)), spent) for number in range(generation)]
    return replace(plan, num_generations=generation + kept - 1, flops=total, ends=(*before, *ends))
