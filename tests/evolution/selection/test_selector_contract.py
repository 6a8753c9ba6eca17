"""What every selector promises. A new one is tested here merely by being registered.

So is the one that ``CONTRIBUTING.md`` shows, as it stands there.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from graftwork.errors import ConfigError, InputError
from graftwork.evolution.selection import SELECTORS, Selector, make_selector
from tests.contributing import blocks, registered, run

Scores = tuple[NDArray[np.bool_], NDArray[np.float64]]
DETERMINISTIC = {"greedy", "coevolution", "pareto", "thrifty"}


def the_one_of_contributing() -> Mapping[str, Callable[..., Selector]]:
    """Name and class of the selector in ``CONTRIBUTING.md``."""
    name, kind = registered("A selector")
    (block,) = blocks("A selector")
    found = run(block)[kind]
    assert isinstance(found, type)
    return {name: found}


KNOWN: Mapping[str, Callable[..., Selector]] = {**SELECTORS, **the_one_of_contributing()}

every_selector = pytest.mark.parametrize("name", sorted(KNOWN))


@st.composite
def scores(draw: st.DrawFn, max_members: int = 9, max_examples: int = 40) -> Scores:
    """Random correctness and costs; few examples and few prices make many ties."""
    seed = draw(st.integers(0, 2**32 - 1))
    num_members = draw(st.integers(0, max_members))
    num_examples = draw(st.integers(1, max_examples))
    rng = np.random.default_rng(seed)
    correct = rng.random((num_members, num_examples)) < rng.random((num_members, 1))
    return correct, rng.integers(1, draw(st.integers(2, 1000)), num_members).astype(np.float64)


def choose(selector: Selector, given_scores: Scores, num_survivors: int, seed: int = 0) -> list[int]:
    return selector.select(*given_scores, num_survivors, np.random.default_rng(seed)).tolist()


@every_selector
@given(scores(), st.integers(1, 12))
def test_every_selector_returns_distinct_rows_as_many_as_asked_or_as_there_are(
    name: str, given_scores: Scores, num_survivors: int
) -> None:
    correct, costs = given_scores
    chosen = KNOWN[name]().select(correct, costs, num_survivors, np.random.default_rng(0))
    assert chosen.dtype == np.int64
    assert chosen.shape == (min(num_survivors, len(correct)),)
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(chosen.tolist()) <= set(range(len(correct)))


@every_selector
@given(scores(), st.integers(1, 12), st.integers(0, 99))
def test_every_selector_repeats_itself_and_leaves_its_arguments_alone(
    name: str, given_scores: Scores, num_survivors: int, seed: int
) -> None:
    before = [array.copy() for array in given_scores]
    for array in given_scores:
        array.flags.writeable = False
    selector = KNOWN[name]()
    first = choose(selector, given_scores, num_survivors, seed)
    assert choose(selector, given_scores, num_survivors, seed) == first
    assert choose(KNOWN[name](), given_scores, num_survivors, seed) == first
    assert all(np.array_equal(old, new) for old, new in zip(before, given_scores, strict=True))


@every_selector
@given(scores(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_order_of_examples_does_not_matter_to_any_selector(
    name: str, given_scores: Scores, num_survivors: int, random: Callable[[], float]
) -> None:
    correct, costs = given_scores
    order = list(range(correct.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    selector = KNOWN[name]()
    assert choose(selector, (correct[:, order], costs), num_survivors) == choose(selector, given_scores, num_survivors)


@every_selector
@given(scores(), st.integers(1, 9))
def test_fewer_survivors_are_the_first_of_more(name: str, given_scores: Scores, num_survivors: int) -> None:
    if name == "age":  # may retire fewer where more have to survive
        num_survivors = min(num_survivors, len(given_scores[0]) - 2)
        assume(num_survivors >= 1)
    selector = KNOWN[name]()
    more = choose(selector, given_scores, num_survivors + 1)
    assert choose(selector, given_scores, num_survivors) == more[:num_survivors]


@every_selector
def test_a_selector_draws_from_its_generator_exactly_when_it_is_a_random_one(name: str) -> None:
    correct = np.random.default_rng(0).random((8, 50)) < 0.7
    orders = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        state = rng.bit_generator.state
        orders.add(tuple(KNOWN[name]().select(correct, np.ones(8), 4, rng).tolist()))
        assert (rng.bit_generator.state == state) == (name in DETERMINISTIC)
    assert (len(orders) == 1) == (name in DETERMINISTIC)


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
@given(st.integers(0, 2**32 - 1), st.permutations(range(7)), st.integers(1, 7))
def test_members_whose_scores_differ_are_chosen_wherever_they_stand(
    name: str, seed: int, order: list[int], num_survivors: int
) -> None:
    rng = np.random.default_rng(seed)
    correct = rng.random((7, 997)) < rng.random((7, 1))
    costs = rng.permutation(7).astype(np.float64) ** 2 + rng.random(7)
    assume(len(set(correct.sum(axis=1).tolist())) == 7)
    chosen = choose(KNOWN[name](), (correct, costs), num_survivors)
    permuted = choose(KNOWN[name](), (correct[order], costs[order]), num_survivors)
    assert [order[row] for row in permuted] == chosen


@every_selector
@pytest.mark.parametrize(
    ("correct", "costs", "num_survivors", "message"),
    [
        (np.ones((2, 3)), np.ones(2), 1, "bool .member, example."),
        (np.ones(3, bool), np.ones(3), 1, "bool .member, example."),
        (np.ones((2, 0), bool), np.ones(2), 1, "at least one example"),
        (np.ones((2, 3), bool), np.ones(3), 1, "one number for each member"),
        (np.ones((2, 3), bool), np.array([1, np.nan]), 1, "row 1"),
        (np.ones((2, 3), bool), np.ones(2), 0, ">= 1, got 0"),
    ],
)
def test_every_selector_refuses_arrays_that_mean_nothing(
    name: str, correct: NDArray[np.bool_], costs: NDArray[np.float64], num_survivors: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        KNOWN[name]().select(correct, costs, num_survivors, np.random.default_rng(0))


@every_selector
def test_every_selector_is_a_selector_with_a_docstring_and_a_plain_repr(name: str) -> None:
    selector = KNOWN[name]()
    assert isinstance(selector, Selector)
    assert type(selector).__doc__
    assert repr(selector).startswith(type(selector).__name__ + "(")
    assert selector == KNOWN[name]()


def test_an_unknown_selector_is_an_error_that_suggests_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="got 'coevolutoin'; did you mean 'coevolution'"):
        make_selector("coevolutoin")


def test_an_unknown_option_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match="pwoer"):
        make_selector("coevolution", pwoer=1)
