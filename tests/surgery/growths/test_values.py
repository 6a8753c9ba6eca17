"""A growth is one value: frozen, printed, compared, stored as plain data, and the same wherever it is held."""

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery import (
    AddSharedExpert,
    Deepen,
    GrowthSchedule,
    InsertLayers,
    ModelGrowth,
    RepeatExperts,
    RepeatKeyValueHeads,
    Widen,
    WidenAll,
    WidenInputs,
    WidenOutputs,
    WidenStream,
    deepen,
    grow,
    growth_log,
    plan,
    register_growth,
    replay,
    widen,
    widen_all,
)
from graftwork.surgery.growths import KINDS, Edit, Subject

VALUES = [
    Widen("0", extra=4),
    Widen("0", width=9, method="net2net", approximate=True, scale=0.1, check="fast"),
    Widen("0", factor=1.5, check=False),
    WidenAll(2),
    WidenAll(1.5, only=("0", "*.up"), method="netmorph"),
    Deepen("1"),
    Deepen(("1", "3"), kernel_size=5, hidden=8, norm="none", activation="GELU", scale=0.2),
    Deepen("1", like="blocks.0"),
    InsertLayers("blocks", after=(0, 2)),
    InsertLayers("blocks", every=4, init="copy", train="new", approximate=True, check="fast"),
    WidenAll(1.5, width=2.0),
    WidenStream(1.5),
    WidenStream(to=48, check="fast"),
    AddSharedExpert(1),
    RepeatKeyValueHeads(2),
    RepeatExperts(3, check="fast"),
    WidenOutputs("4", 2),
    WidenOutputs(("embed", "head"), 3, init="mean", check="fast"),
    WidenOutputs(None, 1),
    WidenInputs("0", 1),
    WidenInputs(None, 2, check=False),
]


def _model() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    return nn.Sequential(*layers), torch.randn(4, 4)


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("growth", VALUES, ids=str)
def test_a_value_survives_json_copies_and_its_own_print(growth: ModelGrowth) -> None:
    assert ModelGrowth.from_dict(json.loads(json.dumps(growth.to_dict()))) == growth
    assert pickle.loads(pickle.dumps(growth)) == copy.deepcopy(growth) == growth  # our own bytes, in memory
    assert eval(repr(growth)) == growth
    assert hash(growth) == hash(eval(repr(growth)))
    with pytest.raises(FrozenInstanceError):
        growth.check = False  # type: ignore[misc]


def test_every_kind_has_a_value_above() -> None:
    assert {type(growth) for growth in VALUES} == set(KINDS.values())
    kinds = {"widen", "widen-all", "widen-stream", "deepen", "insert-layers", "widen-outputs", "widen-inputs"}
    kinds |= {"add-shared-expert", "repeat-experts", "repeat-key-value-heads"}
    assert set(KINDS) == kinds


@pytest.mark.parametrize(
    ("one_line", "growth"),
    [
        (lambda m, x: widen(m, "0", extra=4, method="net2net", example_input=x), Widen("0", extra=4, method="net2net")),
        (lambda m, x: widen_all(m, 1.5, only="0", example_input=x), WidenAll(1.5, only="0")),
        (lambda m, x: deepen(m, "1", hidden=4, example_input=x), Deepen("1", hidden=4)),
    ],
)
def test_conveniences_schedules_and_logs_hold_the_same_value(one_line: Callable[..., Any], growth: ModelGrowth) -> None:
    weights = []
    for way in (
        one_line,
        lambda m, x: grow(m, growth, example_input=x),
        lambda m, x: plan(m, growth, example_input=x).apply(),
        lambda m, x: GrowthSchedule({1: growth}).step(m, example_input=x)[0],
    ):
        model, x = _model()
        receipt = way(model, x)
        assert receipt.growth == growth
        assert growth_log(model) == [receipt.log]
        assert ModelGrowth.from_dict(receipt.log["growth"]) == growth
        weights.append(_weights(model))
        again, _ = _model()
        replay(again, json.loads(json.dumps(growth_log(model))))
        assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(torch.equal(weights[0], other) for other in weights)


def test_one_growth_may_deepen_several_places_all_or_nothing() -> None:
    model, x = _model()
    before = model(x)
    receipt = grow(model, Deepen(("1", "3")), example_input=x)
    assert torch.equal(before, model(x))
    assert [name for name in model.state_dict() if name.endswith("graft0.mix")] == ["1.graft0.mix", "3.graft0.mix"]
    assert receipt.site == "1, 3"
    names = list(model.state_dict())
    with pytest.raises(SurgeryError, match="'nowhere'"):
        grow(model, Deepen(("1", "nowhere")), example_input=x)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Widen("0", extra=2, chekc=False), r"Widen: .*'chekc'; did you mean 'check'\?"),  # type: ignore[call-arg]
        (lambda: WidenAll(2, methd="r2r"), r"WidenAll: .*'methd'; did you mean 'method'\?"),  # type: ignore[call-arg]
        (lambda: Deepen("0", kernel=3), r"Deepen: .*'kernel'; did you mean 'kernel_size'\?"),  # type: ignore[call-arg]
        (lambda: Widen("0", extra=2, optimizer=None), r"'optimizer'; give it to graftwork\.grow"),  # type: ignore[call-arg]
        (lambda: Widen("0"), "exactly one of extra, width and factor, got none"),
        (lambda: Widen("0", extra=2, width=9), "got extra and width"),
        (lambda: Widen("0", extra=0), "extra: expected a number of channels above 0, got 0"),
        (lambda: Widen("0", extra=True), "extra: expected"),
        (lambda: Widen("0", factor=float("nan")), "factor: expected a number above 1"),
        (lambda: WidenAll("2"), "factor: expected a number above 1, got '2'"),  # type: ignore[arg-type]
        (lambda: WidenAll(2, only=(3,)), "only: expected"),  # type: ignore[arg-type]
        (lambda: Widen("0", extra=2, method="r2"), r"method: .*'r2'; did you mean 'r2r'\?"),
        (lambda: Widen("0", extra=2, check="quick"), "check: expected True, False or"),  # type: ignore[arg-type]
        (lambda: Widen("0", extra=2, scale=-1), "scale: expected"),
        (lambda: Deepen(()), "after: expected"),
        (lambda: Deepen(("0", "0")), "after: expected"),
        (lambda: Deepen("0", norm="bach"), r"norm: .*'bach'; did you mean 'batch'\?"),
        (lambda: Deepen("0", activation="Relu"), r"activation: .*did you mean 'ReLU'\?"),
        (lambda: Deepen("0", like="1", hidden=4), r"like: .*\['hidden'\]"),
        (lambda: ModelGrowth.from_dict({"kind": "widne"}), r"kind: .*did you mean 'widen'\?"),
        (lambda: ModelGrowth.from_dict({"kind": "widen"}), r"widen: expected the options \['site'\]"),
        (lambda: ModelGrowth.from_dict({"kind": ["widen"]}), "kind: expected one of"),
        (lambda: ModelGrowth.from_dict(["widen"]), "expected a mapping"),  # type: ignore[arg-type]
        (lambda: ModelGrowth.from_dict({"kind": "widen", "site": "0", "extr": 2}), r"did you mean 'extra'\?"),
    ],
)
def test_what_is_wrong_is_told_at_once_and_what_was_meant(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(SurgeryError, match=words) as caught:
        make()
    assert " _" not in str(caught.value)


def test_an_unknown_option_of_a_convenience_is_told_without_a_private_name() -> None:
    model, x = _model()
    for call in (widen, widen_all, deepen):
        with pytest.raises(SurgeryError, match=r"did you mean 'check'\?"):
            call(model, 2.0 if call is widen_all else "0", example_input=x, chekc=False)
    with pytest.raises(SurgeryError, match="expected a value such as Widen"):
        grow(model, "widen", example_input=x)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a value such as WidenAll"):
        GrowthSchedule({3: "widen"})  # type: ignore[dict-item]


def test_the_method_is_r2r_by_default() -> None:
    grown = []
    for options in ({}, {"method": "r2r"}, {"method": "net2net"}):
        model, x = _model()
        widen(model, "0", extra=2, example_input=x, **options)
        grown.append(_weights(model))
    assert torch.equal(grown[0], grown[1])
    assert not torch.equal(grown[0], grown[2])


@pytest.fixture
def kind() -> Iterator[type[ModelGrowth]]:
    @register_growth("rename")
    @dataclass(frozen=True, repr=False)
    class Rename(ModelGrowth):
        """A kind of growth from outside, which notes a number on the model and grows nothing."""

        number: int

        def edit(self, subject: Subject) -> Edit:
            return _Note(subject, self.number)

        def rebuild(self, model: nn.Module, changes: Mapping[str, Any]) -> None:
            model.number = changes["number"]

    yield Rename
    del KINDS["rename"]


class _Note(Edit):
    method, sites, label, tensors = "by hand", (), "the model", ()

    def __init__(self, subject: Subject, number: int) -> None:
        self.subject, self.number = subject, number

    def make(self, transaction: Any) -> list[str]:
        model, old = self.subject.model, getattr(self.subject.model, "number", None)
        transaction.step("note", lambda: setattr(model, "number", self.number), lambda: setattr(model, "number", old))
        return []

    def settle(self, transaction: Any, check: Any) -> tuple[Any, ...]:
        assert check.compare(transaction) == 0.0
        return ()

    def changes(self, attributes: Any) -> dict[str, Any]:
        return {"number": self.number}


def test_a_new_kind_is_one_class_and_a_registration(kind: type[ModelGrowth]) -> None:
    model, x = _model()
    growth = kind(number=7)  # type: ignore[call-arg]
    assert ModelGrowth.from_dict(growth.to_dict()) == growth
    receipt = GrowthSchedule({1: growth}).step(model, example_input=x)[0]
    assert (receipt.kind, model.number) == ("rename", 7)
    again, _ = _model()
    replay(again, growth_log(model))
    assert again.number == 7
    with pytest.raises(SurgeryError, match=r"'numbr'; did you mean 'number'\?"):
        kind(numbr=7)  # type: ignore[call-arg]
    with pytest.raises(SurgeryError, match="taken"):
        register_growth("rename")(kind)
