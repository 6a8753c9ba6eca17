"""Growing inside Keras's ``fit`` on the torch backend, against the real package."""

import os
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery import Deepen, GrowthSchedule, Plateau, Widen

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend", allow_module_level=True)
from graftwork.integrations.keras import GrowthCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)).numpy()
Y = (X.sum(1) > 0).astype("int64")


def _model(optimizer: Any = None) -> tuple[Any, nn.Sequential]:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    wrapped = keras.layers.TorchModuleWrapper(net, output_shape=(None, 4), name="net")
    model = keras.Sequential([keras.Input((6,)), wrapped, keras.layers.Dense(2, name="last")])
    optimizer = optimizer or keras.optimizers.Adam(1e-2)
    model.compile(optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, net


def _fit(model: Any, schedule: GrowthSchedule, epochs: int = 3, **given: Any) -> GrowthCallback:
    callback = GrowthCallback(schedule, example_input=torch.from_numpy(X[:4]), **given)
    model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback])
    return callback


def test_a_growth_keeps_the_function_and_carries_the_moments() -> None:
    (grown, net), (plain, _) = _model(), _model()
    _fit(grown, GrowthSchedule({4: Widen("0", extra=4)}), epochs=1)
    plain.fit(X, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    assert net[0].out_features == 12
    assert torch.allclose(
        torch.tensor(grown.predict(X, verbose=0)), torch.tensor(plain.predict(X, verbose=0)), atol=1e-5
    )
    assert int(grown.optimizer.iterations) == 4
    slots = {tuple(slot.shape): slot.value for slot in grown.optimizer._velocities}
    before = {tuple(slot.shape): slot.value for slot in plain.optimizer._velocities}
    assert torch.equal(slots[12, 6][:8], before[8, 6])  # of old rows
    assert torch.equal(slots[4, 2], before[4, 2])  # of the layer beside it
    assert bool((slots[12, 6][8:] > 0).all())  # first updates of new rows are no larger than the rate


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_what_is_new_trains_and_the_optimizer_goes_on(name: str) -> None:
    options = {"momentum": 0.9} if name == "SGD" else {}
    model, net = _model(getattr(keras.optimizers, name)(1e-2, **options))
    callback = _fit(model, GrowthSchedule({3: Widen("0", extra=4), 6: Deepen("1")}))
    assert [receipt.kind for receipt in callback.receipts] == ["widen", "deepen"]
    assert int(model.optimizer.iterations) == 12
    assert type(model.optimizer).__name__ == name
    tracked = {id(variable.value) for variable in model.trainable_variables}
    assert {id(parameter) for parameter in net.parameters()} <= tracked
    weights = [parameter.detach().clone() for parameter in net.parameters()]
    model.fit(X, Y, batch_size=16, epochs=1, verbose=0)
    assert all(not torch.equal(old, new) for old, new in zip(weights, net.parameters(), strict=True))


def test_a_second_fit_counts_on() -> None:
    model, net = _model()
    callback = _fit(model, GrowthSchedule({6: Widen("0", extra=4)}), epochs=1)
    assert net[0].out_features == 8
    model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    assert net[0].out_features == 12


def test_what_can_not_be_followed_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="expected moments by steps"):
        GrowthCallback(GrowthSchedule({Plateau(2): Widen("0", extra=4)}), example_input=X[:2])
    with pytest.raises(ConfigError, match="name one of net"):
        _fit(_model()[0], GrowthSchedule({1: Deepen("1")}), layer="other")
    for optimizer in (keras.optimizers.RMSprop(), keras.optimizers.Adam(amsgrad=True)):
        with pytest.raises(ConfigError, match="optimizer: expected Adam, AdamW or SGD"):
            _fit(_model(optimizer)[0], GrowthSchedule({1: Deepen("1")}))
    with pytest.raises(SurgeryError, match="the growth at 100"):
        _fit(_model()[0], GrowthSchedule({100: Deepen("nothing")}))
