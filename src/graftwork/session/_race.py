"""The race over mirroring: one network trains on images as they are, one on mirrored ones, and validation decides."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from math import sqrt
from time import monotonic
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graftwork.metrics import confusion_matrix
from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank
from graftwork.session._planning import race_flops
from graftwork.session._setup import Setup
from graftwork.training import BankOptimizer, Update

_MOST_TURNED = 2000
"""Validation images that are looked at in the mirror, at most."""

_ARMS: tuple[Literal["none", "random"], ...] = ("none", "random")
_RULE = {"none": "grey images are not mirrored then", "random": "colour images are mirrored then"}
_LEAST_OF_CLASS = 3
"""Images in the mirror from which on a class is said to flip into another."""
_LOST_IN_MIRROR = 0.25
"""Share of what a network has learned that may be lost in the mirror, where images are said to be like their mirror
images: of letters and digits it loses more than half, of photographs hardly any."""


class Turned(NamedTuple):
    """What a network without mirrored training images tells of some validation images.

    Args:
        predicted: Classes of the images as they are, int64 [N].
        mirrored: Classes in the mirror, int64 [N].
        labels: True classes, int64 [N].
    """

    predicted: NDArray[np.int64]
    mirrored: NDArray[np.int64]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Race:
    """What the race came to; kept in ``provenance.json``, and followed by a resume.

    Args:
        flip: Whether images are mirrored.
        reason: Why, in words.
        steps: Updates of each of the two networks; 0: there was no race.
        plain: Accuracy on validation after training on images as they are.
        mirrored: The same after training on mirrored ones.
        pairs: Names of classes that flip into each other, two by two.
        flops: FLOPs that the race took, scoring included; they are part of the budget.
        seconds: Seconds that it took.
    """

    flip: Literal["none", "random"]
    reason: str
    steps: int = 0
    plain: float | None = None
    mirrored: float | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    flops: int = 0
    seconds: float = 0.0


def race(setup: Setup, *, check: Callable[[], None] = lambda: None) -> Race:
    """Train the seed network twice from the same weights, with and without mirroring, and compare.

    Nothing of the search changes: the networks are copies. Where the plan has no steps for a race, nothing is mirrored:
    on photos that costs little, and on letters it would cost much.

    Args:
        setup: A search that has not begun.
        check: Called before every update; it may raise to stop.
    """
    begun, steps = monotonic(), setup.plan.race_steps
    default: Literal["none", "random"] = "none" if setup.problem.input_shape[0] == 1 else "random"
    if not steps:
        return Race("none", "the budget is too small for a race, which alone could tell that it does no harm")
    plain, mirrored = (_trained(setup, flip, check) for flip in _ARMS)
    found = setup.scorer.evaluate([plain])
    right, other = found.correct[0], setup.scorer.evaluate([mirrored]).correct[0]
    turned = _turned(setup, plain, found.predicted[0])
    pairs = _named(setup, turned)
    flip, why = decide(right, other, pairs, turned=turned, default=default)
    accuracies = float(right.mean()), float(other.mean())
    reason = (
        f"after {steps} updates {accuracies[0]:.1%} of {len(right):,} validation images are right without mirroring "
        f"and {accuracies[1]:.1%} with it; {why}"
    )
    flops = race_flops(setup.population.genomes[0], setup.plan, setup.trainer.batch_size, found.flops)
    return Race(flip, reason, steps, *accuracies, pairs, flops, round(monotonic() - begun, 3))


def _trained(setup: Setup, flip: Literal["none", "random"], check: Callable[[], None]) -> Member:
    """Train a copy of the seed network, by the recipe's schedule in small."""
    steps, original, trainer = setup.plan.race_steps, setup.population.bank, copy(setup.trainer)
    bank = BlockBank.from_state({key: tensor.clone() for key, tensor in original.state().items()}, original.layout())
    member = bind(setup.population.genomes[0], bank)
    trainer.optimizer = BankOptimizer(bank, setup.recipe.rules)
    trainer.batches = copy(setup.trainer.batches)
    trainer.batches.augmentation = replace(setup.recipe.augmentation, flip=flip)
    trainer.sync()
    for number in range(steps):
        check()
        trainer.run([Update((member,), number, number / steps, setup.plan.small_size)])
    return member


def pairs_of(setup: Setup, member: Member, predicted: NDArray[np.int64]) -> tuple[tuple[str, str], ...]:
    """Name the classes that flip into each other, as a member tells validation images in the mirror.

    Args:
        setup: The search that the member is of.
        member: A network without mirrored training images.
        predicted: Classes that it tells of the validation images, int64 [N].
    """
    return _named(setup, _turned(setup, member, predicted))


def _turned(setup: Setup, member: Member, predicted: NDArray[np.int64]) -> Turned:
    rows = setup.problem.splits.validation
    some = np.sort(np.random.default_rng(0).permutation(len(rows))[:_MOST_TURNED])
    images = setup.problem.images(rows[some]).flip(2)
    seen = setup.scorer.logits([member], images)[0].argmax(1).numpy()
    return Turned(predicted[some], seen, setup.problem.labels(rows[some]).numpy())


def _named(setup: Setup, turned: Turned) -> tuple[tuple[str, str], ...]:
    names = setup.problem.dataset.class_names
    return tuple((names[one], names[two]) for one, two in mirror_pairs(turned, len(names)))


def mirror_pairs(turned: Turned, num_classes: int) -> list[tuple[int, int]]:
    """Find classes that flip into each other, as b and d do.

    Most images of each of the two are told right, and in the mirror are taken for the other.

    Args:
        turned: What a network tells of images, and of them in the mirror.
        num_classes: Number of classes.

    Returns:
        Pairs of classes, the smaller number first.
    """
    predicted, mirrored, labels = turned
    half = np.bincount(labels, minlength=num_classes) / 2
    known = (confusion_matrix(predicted, labels, num_classes).diagonal() > half) & (2 * half >= _LEAST_OF_CLASS)
    into = (confusion_matrix(mirrored, labels, num_classes) > half[:, None]) & known[:, None]
    return [(int(one), int(two)) for one, two in np.argwhere(np.triu(into & into.T, 1))]


def decide(
    plain: NDArray[np.bool_],
    mirrored: NDArray[np.bool_],
    pairs: tuple[tuple[str, str], ...],
    *,
    turned: Turned,
    default: Literal["none", "random"],
) -> tuple[Literal["none", "random"], str]:
    """Choose by validation, where it says more than its noise.

    A second look can only speak against mirroring: whether the network that has seen no mirrored images tells them in
    the mirror about as well. Letters that are mirrored cost much, photographs that are not cost little, so a network
    that has learned too little to say mirrors nothing.

    Args:
        plain: Which validation images are told right without mirroring [N].
        mirrored: Which are told right with it [N].
        pairs: Names of classes that flip into each other.
        turned: What the network without mirrored images tells of them in the mirror.
        default: What is taken where images are like their mirror images, and the difference is within two standard
            deviations.

    Returns:
        Whether to mirror, and why.
    """
    if pairs:
        return "none", f"{', '.join(f'{one} and {two}' for one, two in pairs)} flip into each other"
    lost, noise = _lost(plain, mirrored)
    if lost > noise:
        return "none", "mirroring harms"
    right = turned.predicted == turned.labels
    gone, doubt = _lost(right, turned.mirrored == turned.labels)
    learned = np.count_nonzero(right) - np.bincount(turned.labels).max()  # beyond always saying one class
    if max(gone, 0) + doubt >= _LOST_IN_MIRROR * learned:  # a mirror makes nothing easier
        return "none", "images may not be like their mirror images"
    if -lost > noise:
        return "random", "mirroring helps"
    return default, f"that is within the noise, images are like their mirror images, and {_RULE[default]}"


def _lost(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[int, float]:
    """How many right answers are lost on the whole, and two standard deviations of it."""
    lost, won = int(np.count_nonzero(right & ~other)), int(np.count_nonzero(~right & other))
    return lost - won, 2 * sqrt(lost + won)
