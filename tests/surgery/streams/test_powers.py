"""Powers of a ratio as unknowns."""

import pytest

from graftwork.surgery.streams._powers import ContradictionError, Powers, constant, plus, times


def test_equations_are_solved_as_they_come_and_the_rest_stays() -> None:
    powers = Powers(first={"gain"})
    stream, read = {"embed": 1.0}, plus({"gain": 1.0}, {"query": 1.0}, constant(1.0))
    powers.equal(times(stream, 2.0), constant(2.0))  # a mean square that must not change
    powers.equal(stream, {"down": 1.0})
    powers.equal(read, {})
    assert powers.value("embed") == powers.value("down") == 1.0
    assert powers.value("gain") == -1.0
    assert powers.value("query") == powers.value("other") == 0.0


def test_gains_give_way_before_weights() -> None:
    powers = Powers(first={"gain"})
    powers.equal(plus({"weight": 1.0}, {"gain": 2.0}), constant(-1.0))
    assert (powers.value("weight"), powers.value("gain")) == (0.0, -0.5)


def test_a_tied_embedding_is_one_unknown() -> None:
    powers = Powers(first={"gain"})
    powers.equal({"embed": 2.0}, constant(2.0))
    powers.equal(plus({"gain": 1.0}, {"embed": 1.0}, constant(1.0)), {})
    assert powers.value("gain") == -2.0


def test_a_contradiction_is_found() -> None:
    powers = Powers()
    powers.equal({"a": 1.0}, {"b": 1.0})
    powers.equal({"b": 1.0}, constant(1.0))
    with pytest.raises(ContradictionError):
        powers.equal({"a": 1.0}, {})
