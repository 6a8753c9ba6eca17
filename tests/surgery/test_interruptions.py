"""Exceptions and SIGINT at any source line of a growth or a save: all is as before, or complete."""

import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.surgery import interface, layers
from graftwork.surgery._guard import Guard
from graftwork.surgery._transaction import Transaction, swap_data
from graftwork.surgery.growths import KINDS
from tests.surgery.interrupted import ACTIONS, GROWTHS, Subject, subject_of
from tests.surgery.interruptions import run

FEW = ("widen", "widen inputs", "insert layers, zero-out")


@pytest.mark.parametrize("action", [*FEW, "remove: widen all", "save"])
def test_an_exception_at_a_random_line_leaves_everything_as_before_or_complete(action: str) -> None:
    """A sample; ``results/faults/surgery.json`` has the counts of the whole."""
    found = run(3, seed=0, actions=[action], steps=False)
    assert found["damages"] == []
    assert sum(found["at_random_lines"][action].values()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("action", ACTIONS)
def test_exceptions_at_many_random_lines_and_every_step_leave_everything_as_before_or_complete(action: str) -> None:
    found = run(120, seed=0, actions=[action])
    assert found["damages"] == []
    assert found["at_random_lines"][action]["before"] > 0
    assert action == "save" or found["at_every_step"][action]["before"] > 0


def test_every_kind_of_growth_and_every_way_to_fill_it_is_interrupted() -> None:
    assert {growth.kind for growth in GROWTHS.values()} == set(KINDS)
    fillings = {(growth.kind, getattr(growth, "init", None)) for growth in GROWTHS.values()}
    assert fillings >= {("insert-layers", init) for init in layers.INITS}
    assert fillings >= {("widen-outputs", init) for init in interface.INITS}


def test_how_modules_make_parameters_is_put_back_and_differs_in_no_other_thread() -> None:
    built, kinds = layers.parameters_on_meta(torch.float64), []

    def make() -> None:
        kinds.append(nn.Linear(1, 1).weight.device.type)

    with suppress(KeyboardInterrupt), Guard(nn.Linear(2, 2)):
        built.__enter__()  # and never left, as after an exception in its last lines
        other = threading.Thread(target=make)
        other.start()
        other.join()
        make()
        raise KeyboardInterrupt
    assert kinds == ["cpu", "meta"]
    weight = nn.Linear(1, 1).weight
    assert (weight.device.type, weight.dtype) == ("cpu", torch.float32)


def test_weights_that_a_trial_has_swapped_are_put_back_without_its_help() -> None:
    layer = nn.Linear(2, 2)
    weight, old = layer.weight, layer.weight.detach().clone()
    with suppress(KeyboardInterrupt), Guard(layer):
        swap_data(weight, torch.zeros(3, 2), None)
        raise KeyboardInterrupt
    assert layer.weight is weight
    assert torch.equal(weight, old)


@pytest.mark.parametrize("action", ["widen", "remove: deepen"])
def test_sigint_waits_while_a_model_is_put_back(action: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject, done = subject_of(action, tmp_path), []
    put_back, heard = Guard._put_back, signal.getsignal(signal.SIGINT)

    def interrupted(self: Guard) -> None:
        signal.raise_signal(signal.SIGINT)
        put_back(self)
        done.append(1)

    def fail(_self: Transaction, name: str) -> None:
        if name == "log":
            raise RuntimeError

    before = subject.values()
    monkeypatch.setattr(Guard, "_put_back", interrupted)
    monkeypatch.setattr(Transaction, "before_step", fail)
    with pytest.raises(KeyboardInterrupt):
        ACTIONS[action](subject)
    assert done == [1]
    assert subject.values() == before
    assert signal.getsignal(signal.SIGINT) == heard


def test_sigint_stops_a_growth_where_nothing_is_put_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject = Subject(tmp_path)
    monkeypatch.setattr(Transaction, "before_step", lambda _self, _name: signal.raise_signal(signal.SIGINT))
    before = subject.values()
    with pytest.raises(KeyboardInterrupt):
        ACTIONS["deepen"](subject)
    assert subject.values() == before


def test_a_model_grows_in_any_thread_and_beside_other_handlers(tmp_path: Path) -> None:
    subject, found, old = Subject(tmp_path), list[Any](), signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: found.append(ACTIONS["widen"](subject)))
    thread.start()
    thread.join()
    assert found
    for other in (signal.SIG_IGN, signal.SIG_DFL, lambda *_: None):
        signal.signal(signal.SIGINT, other)
        try:
            gw.deepen(subject.model, "norm", example_input=subject.x)
            assert signal.getsignal(signal.SIGINT) == other
        finally:
            signal.signal(signal.SIGINT, old)
