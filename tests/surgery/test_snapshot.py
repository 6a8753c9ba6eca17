"""What a forward writes into its model is put back, at any depth, whatever it is kept in."""

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.surgery import _snapshot, growth_sites, widen
from graftwork.surgery._calls import sandbox
from tests.surgery.test_no_silent_change import Middle

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Notebook:
    """What a forward writes into, held by its module."""

    def __init__(self) -> None:
        self.calls, self.seen = 0, [{"rows": {1}}]
        self.recent: deque[int] = deque(maxlen=2)
        self.average, self.counts = torch.zeros(3), np.zeros(2)


class Frozen(OrderedDict[str, int]):
    """A configuration that forbids changes, as that of diffusers does."""

    def __setitem__(self, key: str, value: int) -> None:
        if key in self:
            raise TypeError(key)
        super().__setitem__(key, value)


class Writing(Middle):
    """Its forward writes into all that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.notes, self.steps, self._config = Notebook(), Counter(["start"]), Frozen(width=8)
        self.nested: list[Any] = [defaultdict(list), ({"last": [0]},)]

    def forward(self, x: Tensor) -> Any:
        notes = self.notes
        notes.calls += 1
        notes.seen[0]["rows"].add(len(x))
        notes.recent.append(len(x))
        notes.average.add_(1)
        notes.counts[0] += random.random() + np.random.rand()  # noqa: NPY002 - as older models draw
        self.steps["run"] += 1
        self.nested[0]["more"].append(x)
        self.nested[1][0]["last"][0] = 7
        self._config.move_to_end(next(iter(self._config)))
        dict.__delitem__(self._config, "width") if len(self._config) > 1 else self._config.update(new=1)
        return super().forward(x)


def test_what_a_forward_writes_is_as_before_at_any_depth() -> None:
    model = Writing().double()
    held = (vars(model.notes), model.steps, model._config, model.nested)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    before, places = copy.deepcopy(held), [id(one) for one in (*held, model.nested[1][0]["last"])]
    widen(model, "up", extra=4, example_input=X)
    after = (vars(model.notes), model.steps, model._config, model.nested)
    assert str(after) == str(before)
    assert random.random() == random.Random(3).random()
    assert np.random.rand() == np.random.RandomState(3).rand()  # noqa: NPY002
    assert [id(one) for one in (*after, model.nested[1][0]["last"])] == places


class FrozenDict(OrderedDict[str, Any]):
    """The configuration of diffusers: attributes beside entries, and every change forbidden once it is made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key, value in self.items():
            setattr(self, key, value)
        self.__frozen = True

    def _forbidden(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{type(self).__name__} can't be changed")

    __delitem__ = setdefault = pop = update = clear = popitem = _forbidden

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, "_FrozenDict__frozen"):
            self._forbidden()
        super().__setattr__(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        if hasattr(self, "_FrozenDict__frozen"):
            self._forbidden()
        super().__setitem__(name, value)


class Slotted:
    """Counts without a dictionary of attributes."""

    __slots__ = ("calls", "last")

    def __init__(self) -> None:
        self.calls = 0


class Diffusing(Middle):
    """Keeps a frozen configuration, as `ConfigMixin` does, and resizes a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self._internal_dict = FrozenDict(width=8, layers=[1, 2], _use_default_values=["layers"])
        self.register_buffer("kept", torch.zeros(2))
        self.slotted = Slotted()

    @property
    def config(self) -> FrozenDict:
        return self._internal_dict

    def forward(self, x: Tensor) -> Any:
        self.kept.data = torch.ones(len(x))
        self.config["layers"].append(len(x))
        self.slotted.calls, self.slotted.last = len(x), x
        return super().forward(x)


def test_a_frozen_configuration_is_neither_emptied_nor_replaced() -> None:
    model = Diffusing().double()
    config, layers, text = model.config, model.config["layers"], str(model.config)
    sites = growth_sites(model, X)
    assert "up" in sites.widenable
    widen(model, "up", extra=4, example_input=X)
    assert model.config is config
    assert config["layers"] is config.layers is layers
    assert str(config) == text
    assert model.kept.tolist() == [0.0, 0.0]
    assert model.slotted.calls == 0
    assert not hasattr(model.slotted, "last")


def test_an_interruption_while_a_model_is_put_back_leaves_it_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, original, calls = Writing().double(), _snapshot._refill, count()

    def interrupted(value: Any, held: Any) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        original(value, held)

    monkeypatch.setattr(_snapshot, "_refill", interrupted)
    before = str((vars(model.notes), model.steps, model.nested))
    random.seed(3)
    with pytest.raises(KeyboardInterrupt), sandbox(model):
        model(X)
    assert str((vars(model.notes), model.steps, model.nested)) == before
    assert random.random() == random.Random(3).random()
