"""A cascade: its ends are its smallest and its largest member, and what it runs is what it says that it costs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from graftwork.ensembles import (
    NEVER,
    CascadeCombiner,
    Ensemble,
    cascade_curve,
    combiner_from,
    describe_combiner,
    fit_cascade,
)
from graftwork.errors import ConfigError
from graftwork.networks import Member
from graftwork.networks.execution import shared_flops, staged_outputs, walk
from graftwork.networks.genome import seed_genome
from tests.strategies import family

GENOME = seed_genome("poster", (1, 8, 8), 3)
TEMPERATURES = [0.5, 2.0, 1.0]


@pytest.fixture(scope="module")
def members() -> list[Member]:
    return family(GENOME, 0)[:3]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def logits(members: list[Member], images: Tensor) -> Tensor:
    with torch.no_grad():
        found = dict(walk(members, images, "evaluate"))
    return torch.stack([found[index] for index in range(3)], dim=1)


def middle(logits: Tensor) -> CascadeCombiner:
    """A cascade of which every member settles some images."""
    sure = CascadeCombiner(TEMPERATURES, 0.0).confidences(logits)[:, :-1].amax(dim=1).sort().values
    found = CascadeCombiner(TEMPERATURES, float((sure[19] + sure[20]) / 2))
    assert torch.bincount(found.stages(logits), minlength=3).min() > 0
    return found


def noise(count: int = 300) -> tuple[Tensor, Tensor]:
    """Logits of three members, each more often right than the one before, and classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (count,), generator=generator)
    outputs = torch.randn(count, 3, 5, generator=generator)
    outputs[torch.arange(count), :, labels] += torch.tensor([1.0, 1.5, 3.0])
    return outputs, labels


@pytest.mark.parametrize(("threshold", "member"), [(0.0, 0), (NEVER, 2), (float("inf"), 2)])
def test_the_ends_are_the_smallest_and_the_largest_member_alone(
    threshold: float, member: int, members: list[Member], images: Tensor, logits: Tensor
) -> None:
    cascade = CascadeCombiner(TEMPERATURES, threshold)
    alone = (logits[:, member] / TEMPERATURES[member]).log_softmax(1)
    assert torch.equal(cascade(logits), alone)
    run = staged_outputs(members, images, cascade.settles)
    torch.testing.assert_close(cascade(run), alone)
    assert torch.equal(cascade(run).argmax(1), alone.argmax(1))


def test_running_member_by_member_gives_what_all_outputs_give(
    members: list[Member], images: Tensor, logits: Tensor
) -> None:
    cascade = middle(logits)
    run = staged_outputs(members, images, cascade.settles)
    assert torch.equal(cascade.stages(run), cascade.stages(logits))
    torch.testing.assert_close(cascade(run), cascade(logits))
    stages = cascade.stages(logits)
    for row in range(len(images)):  # behind the member that settles an image stand copies
        assert all(torch.equal(run[row, later], run[row, stages[row]]) for later in range(stages[row], 3))


def test_a_batch_is_predicted_as_its_images_one_by_one(members: list[Member], images: Tensor, logits: Tensor) -> None:
    cascade = middle(logits)
    model = Ensemble(members, cascade, run_all=lambda x: staged_outputs(members, x, cascade.settles))
    one_by_one = torch.cat([model(images[row : row + 1]) for row in range(len(images))])
    torch.testing.assert_close(model(images), one_by_one)
    assert torch.equal(model(images).argmax(1), one_by_one.argmax(1))


def test_flops_that_are_told_are_those_that_are_run(members: list[Member], images: Tensor, logits: Tensor) -> None:
    costs = [shared_flops([member.genome for member in members[: count + 1]]) for count in range(3)]
    for cascade in (middle(logits), CascadeCombiner(TEMPERATURES, 0.0), CascadeCombiner(TEMPERATURES, NEVER)):
        with FlopCounterMode(display=False) as counter:
            staged_outputs(members, images, cascade.settles)
        (point,) = cascade_curve(
            cascade, logits, torch.zeros(60).long(), costs=costs, thresholds=[float(cascade.threshold)]
        )
        assert counter.get_total_flops() == pytest.approx(point.cost * len(images), rel=1e-12)


def test_the_threshold_costs_least_of_all_that_tell_as_well_as_the_last_member() -> None:
    outputs, labels = noise()
    cascade = fit_cascade(outputs, labels, costs=[1, 3, 10])
    curve = cascade_curve(cascade, outputs, labels, costs=[1, 3, 10])
    (chosen,) = cascade_curve(cascade, outputs, labels, costs=[1, 3, 10], thresholds=[float(cascade.threshold)])
    assert chosen.accuracy >= curve[-1].accuracy == float((outputs[:, 2].argmax(1) == labels).double().mean())
    assert chosen.cost == min(point.cost for point in curve if point.accuracy >= curve[-1].accuracy) < 10
    assert (curve[0].cost, curve[-1].cost) == (1, 10)
    assert [point.cost for point in curve] == sorted(point.cost for point in curve)


def test_a_class_that_weighs_nothing_has_no_say() -> None:
    outputs, labels = noise()
    weights = torch.tensor([1.0, 1, 1, 1, 0])
    kept = labels < 4
    found = fit_cascade(outputs, labels, costs=[1, 3, 10], class_weights=weights)
    only = fit_cascade(outputs[kept], labels[kept], costs=[1, 3, 10])
    torch.testing.assert_close(found.temperatures, only.temperatures)


def test_one_member_is_a_cascade_that_is_that_member() -> None:
    outputs, labels = noise()
    cascade = fit_cascade(outputs[:, :1], labels, costs=[7])
    assert torch.equal(cascade(outputs[:, :1]).argmax(1), outputs[:, 0].argmax(1))


def test_it_is_stored_and_read_again() -> None:
    outputs, labels = noise()
    cascade = fit_cascade(outputs, labels, costs=[1, 3, 10])
    again = combiner_from(describe_combiner(cascade), cascade.state_dict())
    assert torch.equal(again(outputs), cascade(outputs))


@pytest.mark.parametrize(
    "make",
    [
        lambda: fit_cascade(*noise(), costs=[1, 2]),
        lambda: fit_cascade(*noise(), costs=[1, 1, 2]),
        lambda: CascadeCombiner([1.0, 0.0], 0.5),
        lambda: CascadeCombiner([], 0.5),
    ],
)
def test_what_is_no_cascade_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="cascade: expected"):
        make()
