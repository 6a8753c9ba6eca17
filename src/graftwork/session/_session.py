"""Session: a search from config to finished run folder, with checkpoints and a control."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from graftwork._files import damaged
from graftwork.datasets import telling
from graftwork.errors import RunError, SearchInterruptedError
from graftwork.evolution import Generation, Observer, Plan, SearchState, search
from graftwork.machine import Machine
from graftwork.networks.genome import Genome
from graftwork.runs import LATENCIES, Result, Row, RunFolder, now, pack_state, provenance
from graftwork.session._config import SearchConfig
from graftwork.session._data import load_data
from graftwork.session._final import FinalScoring
from graftwork.session._following import announce, dismiss, prepare_together, restore, shared_parts
from graftwork.session._learned import save_trunk
from graftwork.session._listener import Listener, SilentListener
from graftwork.session._looks import Looks
from graftwork.session._losses import LossLog
from graftwork.session._notes import plan_notes, resume_notes
from graftwork.session._problem import Problem
from graftwork.session._race import race
from graftwork.session._replanning import keep_time, restore_plans, store_plans
from graftwork.session._rows import rows_of, skipped_notes
from graftwork.session._setup import Setup, prepare
from graftwork.session._sizing import rough_speed
from graftwork.session._timing import Timing
from graftwork.session._trunk import trunk_of
from graftwork.trunks import Trunk
from graftwork.workers import Group


class Session:
    """A search on disk.

    Made by `start` or `resume`; `run` takes it to the end. After a kill at any moment `resume` continues from the last
    complete checkpoint, to the same bits as without the interruption.

    Args:
        run: Folder of the run.
        config: All options.
        listener: Hears what happens; ``None``: nobody does, but a notebook shows a bar.
        group: The ranks that search together, of which this is rank 0; ``None``: this process alone.
        began: Moment, by `time.monotonic`, from which the run's time counts; ``None``: now.
    """

    def __init__(
        self,
        run: RunFolder,
        config: SearchConfig,
        *,
        listener: Listener | None = None,
        group: Group | None = None,
        began: float | None = None,
    ) -> None:
        self.folder = run
        self.config = config
        self.group = group
        self.listener: Listener = listener or SilentListener()
        self._bar = None if listener is None else False
        self.stop_requested = False
        self._stored: dict[str, Any] | None = None
        self._elapsed = 0.0
        self._began = monotonic() if began is None else began
        self._saved = monotonic()

    @classmethod
    def start(
        cls,
        config: SearchConfig,
        out: Path,
        *,
        listener: Listener | None = None,
        group: Group | None = None,
        trunk: Trunk | None = None,
        began: float | None = None,
    ) -> "Session":
        """Begin a new run in a folder that is not there yet (or is empty).

        Args:
            config: All options.
            out: Folder of the run.
            listener: Hears what happens; ``None``: nobody does, but a notebook shows a bar.
            group: The ranks that search together; ``None``: this process alone.
            trunk: The config's trunk, opened; ``None``: it is opened here, unless that would run code.
            began: Moment, by `time.monotonic`, at which the command began, from which a budget of time counts;
                ``None``: now.
        """
        began = monotonic() if began is None else began
        RunFolder.check_free(out)
        size, processes = (1, 1) if group is None else (group.size, group.local_size)
        hears = listener or SilentListener()
        # first: a mistake in any option must not leave a folder behind
        config, speed = replace(config.located(), workers=max(size, config.workers)), None
        if config.budget is None or config.budget.kind == "seconds":
            alone = rough_speed(config)
            speed = alone and alone * size
        known: dict[str, Any] = {"speed": speed, "processes": processes}
        with telling(hears.on_decoding):
            config, problem, notes = load_data(config, **known, trunk=trunk, tell=hears.on_outline)
        setup = prepare_together(config, group, problem=problem, began=began, race=True, speed=speed)
        setup.notes += notes
        genome = setup.population.genomes[0]
        files = {"config.toml": config.to_toml(), "seed_genome.json": genome.to_json(indent=2) + "\n"}
        folder = RunFolder.create(out, files, origin={"config": config.to_dict(), "seed_genome": genome.to_dict()})
        session = cls(folder, config, listener=listener, group=group, began=began)
        session._problem, session._fresh = setup.problem, setup
        return session

    @classmethod
    def resume(
        cls,
        out: Path,
        *,
        listener: Listener | None = None,
        group: Group | None = None,
        trunk: str | None = None,
    ) -> "Session":
        """Continue a run.

        Args:
            out: Folder of the run.
            listener: Hears what happens; ``None``: nobody does, but a notebook shows a bar.
            group: The ranks that search together; ``None``: this process alone.
            trunk: The run's trunk, named by the user again, without which no code of one is run.

        Raises:
            RunError: If there is no run, another process has it, it can't be read, or it was begun with other options.
        """
        run = RunFolder.open(out)
        run.lock()
        try:
            session = cls(run, SearchConfig.load(run.config_path), listener=listener, group=group)
            found: dict[str, Any] = {
                "config": session.config.to_dict(),
                "seed_genome": run.read_json("seed_genome.json", verified=False),
            }
            if run.has("provenance.json"):
                session._stored = stored = run.read_json("provenance.json", verified=False)
                with damaged(str(run.path / "provenance.json")):
                    found |= {"plan": stored.get("plan"), "data": (stored.get("data") or {}).get("fingerprint")}
            run.check_origin(**found)
            if session._stored is not None:
                run.verify("provenance.json")  # what is measured is followed, too
            session._trunk = trunk_of(run, trunk, trained=False)
        except BaseException:
            run.release()
            raise
        return session

    _problem: Problem | None = None
    _trunk: Trunk | None = None
    _fresh: Setup | None = None
    _losses: LossLog | None = None

    @property
    def problem(self) -> Problem | None:
        """The data, once they are loaded."""
        return self._problem

    # Stages ----------------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Search, train the control if asked to, open the test split, write the result.

        Returns:
            What ``result.json`` holds.

        Raises:
            SearchInterruptedError: If `stop_requested` was set; the run can be resumed.
        """
        try:
            return self._run()
        finally:
            self.folder.release()

    def _run(self) -> Result:
        if self.folder.finished:
            dismiss(self.group)
            return self.folder.result()
        setup = self._prepare()
        for text in plan_notes(setup, asked=self.config):
            self.listener.on_note(text)
        setup = self._race(setup)
        restore_plans(self.folder, setup)
        recipe = self.config.recipe
        numbers = {"num_survivors": recipe.num_survivors, "population_size": recipe.population_size}
        searched = self._stage("search", setup, numbers)
        digest = searched.population.bank.digest()
        control = self._control(setup, searched) if self.config.control else None
        dismiss(self.group)
        return self._finish(setup, searched, control, digest)

    def _prepare(self) -> Setup:
        with telling(self.listener.on_decoding):
            self._problem = problem = self._problem or Problem.load(self.config, trunk=self._trunk)
        if self._stored is None:
            setup = self._fresh or prepare_together(
                self.config,
                self.group,
                problem=problem,
                seed_network=self._seed_network(),
                began=self._began,
                race=True,
            )
            self._keep_latencies(setup)
            self._stored = provenance(
                self.config.device,
                data=problem.describe(),
                plan=asdict(setup.plan),
                training=setup.decided,
                timing=None if setup.timing is None else asdict(setup.timing),
                workers=self._workers(),
                started_at=now(),
            )
            self._stored["machine"] |= setup.machine.to_dict()
            self.folder.remember(plan=self._stored["plan"], data=problem.dataset.fingerprint)
            store_plans(self.folder, setup)
            self.folder.write_json("provenance.json", self._stored)
            return setup
        with damaged(str(self.folder.path / "provenance.json")):
            self._compare(problem)
            plan, machine = Plan(**self._stored["plan"]), Machine.from_dict(self._stored["machine"])
        setup = self._setup(problem, plan, machine)
        self._keep_latencies(setup)
        return setup

    def _race(self, setup: Setup) -> Setup:
        """Let a race decide, once, whether images are mirrored; return the setup that follows it."""
        if self.config.recipe.augmentation.flip != "auto" or setup.problem.trunk is not None:
            return setup  # features of a trunk can't be mirrored
        stored = self._stored or {}
        if "race" not in stored:
            if steps := setup.plan.race_steps:
                self.listener.on_note(f"flip: two networks race, {steps} updates each, one of them on mirrored images")
            stored["race"] = asdict(race(setup, check=self._check_stop))
            setup = self._setup(setup.problem, setup.plan, setup.machine)
            stored["training"] = setup.decided
            self.folder.write_json("provenance.json", stored)
        mirrored = "mirrored" if setup.recipe.augmentation.flip == "random" else "not mirrored"
        self.listener.on_note(f"flip: images are {mirrored}: {stored['race']['reason']}")
        return setup

    def _check_stop(self) -> None:
        if self.stop_requested:
            path = self.folder.path
            raise SearchInterruptedError(f"stopped in the race; continue with: graftwork search --resume {path}")

    def _workers(self) -> dict[str, Any]:
        alone = {"size": 1, "backend": None, "threads_each": torch.get_num_threads()}
        return {**(self.group.describe() if self.group else alone), "sync_every": self.config.sync_every}

    def _keep_latencies(self, setup: Setup) -> None:
        """Store measurements that decide before they do, so that a resume decides the same."""
        if setup.latencies is not None:
            setup.latencies.store = lambda known: self.folder.write_json(LATENCIES, {"seconds": dict(known)})
            setup.latencies.store(setup.latencies.known)

    def _seed_network(self) -> Genome:
        """Read the seed network from the folder: the file that the config names may have changed."""
        return Genome.from_dict(self.folder.read_json("seed_genome.json"))

    def _setup(self, problem: Problem, plan: Plan, machine: Machine, *, strategy: str | None = None) -> Setup:
        genome, found = self._seed_network(), (self._stored or {}).get("race")
        config = replace(self.config, strategy=strategy or self.config.strategy)
        if found is not None:
            with damaged(f"{self.folder.path}: the race in provenance.json"):
                config = replace(config, recipe=config.recipe.mirrored(found["flip"]))
        setup = prepare(
            config, problem=problem, seed_network=genome, plan=plan, machine=machine, latencies=self.folder.latencies()
        )
        if timing := (self._stored or {}).get("timing"):
            with damaged(f"{self.folder.path}: the timing in provenance.json"):
                setup.timing = Timing.from_dict(timing)
        return setup

    def _compare(self, problem: Problem) -> None:
        """Refuse other data; note another machine or number of workers, which may give other bits."""
        stored = self._stored or {}
        found, expected = problem.dataset.fingerprint, stored.get("data", {}).get("fingerprint")
        if found != expected:
            raise RunError(
                f"{self.folder.path}: expected the data that the run was made on ({str(expected)[:12]}) in "
                f"{self.config.data!r}, got {found[:12]}; bring the old data back, or begin another run from it: "
                f"graftwork search --resume {self.folder.path} --as-new NEW"
            )
        here = {**provenance(self.config.device), "workers": self._workers()}
        for text in resume_notes(stored, here):
            self.listener.on_note(text)

    def _stage(self, stage: str, setup: Setup, numbers: dict[str, int]) -> SearchState:
        """Run one search (the control is one of a population of one) from its newest checkpoint to its end."""
        state = setup.state
        found = self.folder.load_checkpoint(stage)
        for problem in self.folder.passed_over:
            self.listener.on_note(f"a damaged checkpoint is passed over, the one before it is taken: {problem}")
        if found is not None:
            data, tensors = found
            with damaged(f"{self.folder.path}: checkpoint"):
                state = restore(setup, data["search"], tensors)
                self._elapsed, self._began = float(data["seconds"]), monotonic()
            if not state.finished or stage == "control" or not self.folder.has_checkpoint("control"):
                self.folder.restore_records()
        elif stage == "search":
            self.folder.clear_records()
        self.listener.on_stage(stage, setup)
        self._losses = LossLog("search" if stage == "search" else "control", setup.trainer.schedule, state.step)
        observe = self._observer(stage, setup)
        if self.group is not None:
            announce(self.group, setup, self._seed_network(), **numbers)
        parts = {**shared_parts(setup, self.group), **numbers, "progress": self._bar}
        for generation in search(state, observer=observe, **parts):
            self._record(stage, state, generation)
            self._checkpoint(stage, setup)
            self.listener.on_generation(stage, generation)
        return state

    def _observer(self, stage: str, setup: Setup) -> Observer:
        plan_again, looks = self._planner(stage, setup), Looks(setup, lambda: self.seconds)

        def observe(state: SearchState, member: str, loss: float, progress: float) -> None:
            self.listener.on_step(state, member, loss, progress)
            if plan_again is not None:
                plan_again(state)
            if (accuracy := looks.accuracy(state)) is not None:
                self.listener.on_look(stage, state.step, accuracy)
            if self._losses is not None:
                self._losses.add(state, loss, progress)
            stopping = self.stop_requested if self.group is None else self.group.stopping
            if stopping or monotonic() - self._saved > self.config.checkpoint_every:
                self._checkpoint(stage, setup)
            if stopping:
                path = self.folder.path
                raise SearchInterruptedError(
                    f"stopped after step {state.step}; continue with: graftwork search --resume {path}"
                )

        return observe

    def _planner(self, stage: str, setup: Setup) -> Callable[[SearchState], None] | None:
        """What keeps the search to a budget of time; ``None`` for other budgets, the control, and several workers."""
        if setup.timing is None or stage != "search" or self.group is not None:
            return None
        return keep_time(self.folder, setup, clock=lambda: self.seconds, tell=self.listener.on_plan)

    def _control(self, setup: Setup, searched: SearchState) -> Setup:
        """Train the seed network alone, by the same recipe, with the FLOPs of the whole search."""
        plan = setup.plans.latest.alone(searched.spent_flops)
        alone = self._setup(setup.problem, plan, setup.machine, strategy="neuroevolution")  # of one member: no search
        self._stage("control", alone, {"num_survivors": 1, "population_size": 1})
        return alone

    # What is stored --------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Seconds since the start, without the time between a kill and its resume."""
        return self._elapsed + monotonic() - self._began

    def _checkpoint(self, stage: str, setup: Setup) -> None:
        data, tensors = pack_state(setup.state, setup.trainer.optimizer, setup.strategy)
        if self._losses is not None and (rows := self._losses.take()):
            self.folder.append_records(rows)
        self.folder.save_checkpoint(stage, setup.state.step, {"search": data, "seconds": self.seconds}, tensors)
        self._saved = monotonic()

    def _record(self, stage: str, state: SearchState, generation: Generation) -> None:
        for text in skipped_notes(stage, generation):
            self.listener.on_note(text)
        rows: list[Row] = [*(self._losses.take() if self._losses else ())]
        self.folder.append_records([*rows, *rows_of(stage, state, generation, seconds=round(self.seconds, 3))])

    def _finish(self, setup: Setup, searched: SearchState, control: Setup | None, digest: str) -> Result:
        """Open the test split once, and write members, predictions and the result."""
        if setup.problem.learned is not None:
            save_trunk(self.folder, setup.problem.learned)
        result: Result = {
            **FinalScoring(self.folder, setup, control).write(),
            "training_flops": searched.training_flops,
            "scoring_flops": searched.scoring_flops,
            "seconds": round(self.seconds, 3),
            "generations": setup.plans.latest.num_generations,
            "steps": searched.step,
            "seed": self.config.seed,
            "bank_sha256": digest,
            "data": setup.problem.dataset.name,
            "classes": len(setup.problem.dataset.class_names),
            "recipe": self.config.recipe.name,
            "strategy": self.config.strategy,
            "selection": self.config.selection,
            "metric": self.config.metric,
        }
        self.folder.write_json("result.json", result)
        return result
