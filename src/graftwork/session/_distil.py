"""One model out of many: a network trained on with an ensemble's soft labels, and without them for the same FLOPs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork._files import parse_json, read_named
from graftwork.ensembles import Ensemble
from graftwork.errors import ConfigError, RunError
from graftwork.evolution import Plan
from graftwork.machine import Machine
from graftwork.metrics import Entry, difference
from graftwork.networks.genome import Genome, forward_flops, num_parameters, training_flops
from graftwork.runs import Result, RunFolder, load_member, record_opening, save_member
from graftwork.session._budget import parse_budget
from graftwork.session._config import SearchConfig
from graftwork.session._ensembles import accuracies, ensemble_costs, load_ensemble, prediction_scores
from graftwork.session._predictions import problem_of
from graftwork.session._problem import Problem
from graftwork.session._setup import Setup, prepare
from graftwork.training import Loss, Precision, in_precision

DEFAULT_SHARE = 0.1
"""Share of the search's FLOPs that is spent where no budget is given."""


@dataclass(frozen=True)
class _Arm:
    """One of the two networks: ``-distilled`` with soft labels, ``-longer`` without them, the control.

    Args:
        name: Name of the member that it becomes.
        setup: A population of one, and what trains it.
        steps: Number of updates.
        cost: FLOPs of an update, with the teacher's forward pass where there is one.
    """

    name: str
    setup: Setup
    steps: int
    cost: float


def distil(
    path: Path,
    *,
    genome: str | None = None,
    ensemble: str | None = None,
    budget: str | None = None,
    rate: float = 0.2,
    trunk: str | None = None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Train one genome on with the soft labels of an ensemble, and once more without them.

    Both arms start from the weights that the survivors share, see the same batches in the same order, follow the run's
    recipe, and get the same FLOPs, the teacher's forward passes included: so the control makes more updates. The
    teacher sees each batch as the student does, augmented (Beyer et al. 2022), and its probabilities take the place of
    the labels. The test split is opened once for both, and the opening is recorded.

    Args:
        path: Folder of a finished run. Both networks become members of it, ``NAME-distilled`` and ``NAME-longer``;
            predictions and result go to ``distil/NAME/``.
        genome: Id of a stored member, or the file of a genome, whose blocks are new where no survivor has them;
            ``None``: the best member.
        ensemble: Name of one of the run's ensembles; ``None``: the recommended one.
        budget: FLOPs of each arm; ``None``: a tenth of those that the search spent.
        rate: Factor on the recipe's learning rates, which then follow the recipe's schedule.
        trunk: The run's trunk, named by the user again, without which no code of one is run. It is frozen here.
        note: Called with a line of text on progress.

    Returns:
        What ``distil/NAME/result.json`` holds.

    Raises:
        RunError: If the run is not finished, or lacks what is named.
        ConfigError: If the budget is none in FLOPs, or too small for one update.
    """
    with RunFolder.open(path) as run:
        return _distil(run, genome=genome, ensemble=ensemble, budget=budget, rate=rate, trunk=trunk, note=note)


def _distil(
    run: RunFolder,
    *,
    genome: str | None,
    ensemble: str | None,
    budget: str | None,
    rate: float,
    trunk: str | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    result = run.result()
    teacher_name = ensemble or _recommended(run, result)
    teacher, _, _ = load_ensemble(run, teacher_name)
    name, student = _student(run, genome or result["best"]["id"])
    config = replace(SearchConfig.load(run.config_path), trunk_rate=0.0)
    problem = problem_of(run, trunk=trunk)
    if not rate > 0:
        raise ConfigError(f"rate: expected a factor > 0, got {rate!r}; 0.2 is the default")
    flops = _flops(budget, result)
    costs = _step_costs(student, teacher, min(config.recipe.batch_size, len(problem.splits.train)))
    if flops < max(costs.values()):
        needed = max(costs.values()) / 1e9
        raise ConfigError(f"budget: expected at least one update, {needed:.4g} GFLOP, got {flops / 1e9:.4g}; give more")
    weights, arms = _shared_weights(run, result), list[_Arm]()
    for kind, cost in costs.items():
        arm = _Arm(f"{name}-{kind}", _set_up(run, config, problem, student), int(flops // cost), cost)
        note(f"{arm.name}: {arm.steps} updates, {arm.steps * cost / 1e12:.3g} TFLOP")
        _load(arm.setup, weights)
        _train(arm, first=result["steps"], rate=rate, teacher=teacher if kind == "distilled" else None)
        arms.append(arm)
    setting = {"student": name, "ensemble": teacher_name, "rate": rate, "budget_flops": flops}
    return _finish(run, arms, setting)


def _recommended(run: RunFolder, result: Result) -> str:
    if result["recommended"] is None:
        raise RunError(f"{run.path}: expected an ensemble to learn from, got none; graftwork ensemble makes them")
    return result["recommended"]


def _student(run: RunFolder, wanted: str) -> tuple[str, Genome]:
    """Name for files, and genome, of a member or a genome's file."""
    if wanted in run.names("members", ".json"):
        return wanted, Genome.from_dict(run.read_json(f"members/{wanted}.json")["genome"])
    file = Path(wanted)
    if not file.is_file():
        raise RunError(
            f"genome: expected a member of {run.path} or the JSON file of a genome, got {wanted!r}; graftwork "
            "inspect lists members"
        )
    return re.sub(r"[^\w-]", "-", file.stem, flags=re.ASCII), Genome.from_dict(parse_json(read_named(file), wanted))


def _flops(budget: str | None, result: Result) -> float:
    if budget is None:
        return DEFAULT_SHARE * (result["training_flops"] + result["scoring_flops"])
    parsed = parse_budget(budget)
    if parsed.kind != "flops":
        raise ConfigError(f"budget: expected FLOPs, at which both are compared, got {budget!r}; give 0.01PFLOP or so")
    return parsed.amount


def _step_costs(student: Genome, teacher: Ensemble, batch_size: int) -> dict[str, float]:
    """FLOPs of an update of each arm."""
    _, forward = ensemble_costs([member.genome for member in teacher.members], teacher.combiner)  # type: ignore[misc]
    update = training_flops(student, batch_size)
    return {"distilled": update + forward * batch_size, "longer": update}


def _shared_weights(run: RunFolder, result: Result) -> dict[str, Tensor]:
    """Every tensor of the survivors, shared ones once, by ``block/name``."""
    found: dict[str, Tensor] = {}
    for row in result["survivors"]:
        found.update(load_member(run, row["id"])[0].parameters_by_key())
    return found


def _set_up(run: RunFolder, config: SearchConfig, problem: Problem, genome: Genome) -> Setup:
    """One network and the means to train it, as the run trained its own."""
    stored = run.read_json("provenance.json")
    machine, flip = Machine.from_dict(stored["machine"]), stored["training"]["augmentation"]["flip"]
    config = replace(config, recipe=config.recipe.mirrored(flip))
    return prepare(config, problem=problem, seed_network=genome, plan=Plan(0, 1, 0), machine=machine)


def _load(setup: Setup, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for key, parameter in setup.population.bank.state().items():
            if key in weights:
                parameter.copy_(weights[key])


def _train(arm: _Arm, *, first: int, rate: float, teacher: Ensemble | None) -> None:
    """Train on from batch ``first``: those before it belong to the search."""
    trainer, schedule = arm.setup.trainer, arm.setup.trainer.schedule
    trainer.schedule = lambda progress: rate * schedule(progress)
    if teacher is not None:
        trainer.loss = _soft_loss(teacher.to(arm.setup.config.device), trainer.precision)
    trainer.sync()
    member = next(iter(arm.setup.population))
    for number in range(arm.steps):
        trainer.step(member, first + number, number / arm.steps)


def _soft_loss(teacher: Ensemble, precision: Precision) -> Loss:
    """Cross-entropy to the teacher's probabilities; its gradient is that of the divergence from them."""

    def loss(x: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
        with in_precision(precision, x.device):
            soft = teacher.predict_probabilities(x)
        return F.cross_entropy(logits, soft.float())

    return loss


def _finish(run: RunFolder, arms: Sequence[_Arm], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Open the test split once for both arms, and store members, predictions and result."""
    problem = arms[0].setup.problem
    openings = record_opening(run, by="distil", members=[arm.name for arm in arms])
    images, labels, index = problem.test()
    held = problem.splits.validation
    test: dict[str, Tensor] = {"labels": labels, "index": index}
    validation: dict[str, Tensor] = {"labels": problem.labels(held), "index": torch.from_numpy(held.copy())}
    rows: list[dict[str, Any]] = []
    for arm in arms:
        members = list(arm.setup.population)
        validation[arm.name] = arm.setup.scorer.logits(members)[0]
        test[arm.name] = arm.setup.scorer.logits(members, images)[0]
        rows.append(_row(arm, validation, test))
        _save(run, arm, rows[-1], setting)
    correct = [Entry((test[arm.name].argmax(1) == labels).numpy()) for arm in arms]
    name = setting["student"]
    found = {
        **setting,
        "before": next((row for row in run.result()["survivors"] if row["id"] == name), None),
        "rows": rows,
        "difference": difference(*correct),
        "test_opened_at": openings[-1]["at"],
    }
    run.save_tensors(f"distil/{name}/validation.safetensors", validation)
    run.save_tensors(f"distil/{name}/test.safetensors", test)
    run.write_json(f"distil/{name}/result.json", found)
    return found


def _row(arm: _Arm, validation: Mapping[str, Tensor], test: Mapping[str, Tensor]) -> dict[str, Any]:
    outputs = {"validation": validation[arm.name], "test": test[arm.name]}
    labels = {"validation": validation["labels"], "test": test["labels"]}
    scores = prediction_scores(outputs["test"].log_softmax(1), labels["test"])
    genome = arm.setup.population.genomes[0]
    return {
        "id": arm.name,
        "steps": arm.steps,
        "flops_spent": arm.steps * arm.cost,
        **accuracies(outputs, labels),
        "ece": scores["ece"],
        "nll": scores["nll"],
        "parameters": num_parameters(genome),
        "flops": forward_flops(genome),
    }


def _save(run: RunFolder, arm: _Arm, row: Mapping[str, Any], setting: Mapping[str, Any]) -> None:
    """Store the network as a member of the run, with its origin as the lineage."""
    population, problem = arm.setup.population, arm.setup.problem
    soft = arm.name.endswith("-distilled")
    labels = f"the soft labels of the {setting['ensemble']} ensemble" if soft else "the labels alone"
    origin = f"{setting['student']}, trained on with {labels}"
    birth = population.lineage[0]
    population.lineage[0] = replace(birth, transform=origin)
    save_member(
        run,
        population,
        birth.id,
        name=arm.name,
        transform=problem.transform,
        class_names=problem.dataset.class_names,
        scores={key: row[key] for key in ("validation_accuracy", "test_accuracy")},
    )
