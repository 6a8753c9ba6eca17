"""Growing inside skorch's ``fit``, against the real package: state carried, resume equal to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery import Deepen, GrowthSchedule, Plateau, Widen

skorch = pytest.importorskip("skorch")
from sklearn.base import clone  # noqa: E402
from skorch.history import History  # noqa: E402

from graftwork.integrations.skorch import GrowthCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def _net(schedule: GrowthSchedule, **given: Any) -> Any:
    callback = GrowthCallback(schedule, example_input=X[:4], check=given.pop("check", True))
    torch.manual_seed(0)
    return skorch.NeuralNetClassifier(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-2,
        batch_size=16,
        train_split=None,
        verbose=0,
        iterator_train__shuffle=False,
        callbacks=[("growth", callback)],
        **{"max_epochs": 4, **given},
    )


def _callback(net: Any) -> GrowthCallback:
    return dict(net.callbacks_)["growth"]


def test_growths_fall_on_their_batches_and_the_optimizer_goes_on() -> None:
    net = _net(GrowthSchedule({3: Widen("0", extra=4), 9: Deepen("1")})).fit(X, Y)
    assert [receipt.kind for receipt in _callback(net).receipts] == ["widen", "deepen"]
    assert net.module_[0].out_features == 12
    moments = net.optimizer_.state[net.module_[0].weight]
    assert moments["exp_avg"].shape == (12, 6)
    assert bool(moments["exp_avg"][8:].any())  # new rows are trained
    held = {id(parameter) for group in net.optimizer_.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in net.module_.parameters()}
    assert net.score(X, Y) > 0.5


def test_partial_fit_counts_on_and_fit_begins_again() -> None:
    net = _net(GrowthSchedule({6: Widen("0", extra=4)}), max_epochs=1).fit(X, Y)
    assert net.module_[0].out_features == 8
    assert net.partial_fit(X, Y).module_[0].out_features == 12
    assert net.partial_fit(X, Y).module_[0].out_features == 12


def test_a_clone_grows_by_a_schedule_of_its_own() -> None:
    net = _net(GrowthSchedule({2: Widen("0", extra=4)}))
    assert clone(net).fit(X, Y).module_[0].out_features == 12
    assert clone(net).fit(X, Y).module_[0].out_features == 12


def test_a_plateau_goes_by_the_losses_of_batches() -> None:
    net = _net(GrowthSchedule({Plateau(2, threshold=0.99): Widen("0", extra=4)})).fit(X, Y)
    assert len(_callback(net).receipts) == 1


def test_a_resume_from_a_checkpoint_gives_the_same_bits(tmp_path: Path) -> None:
    def schedule() -> GrowthSchedule:
        return GrowthSchedule({3: Widen("0", extra=4), 9: Deepen("1")})

    whole = _net(schedule()).fit(X, Y)
    files = {name: str(tmp_path / name) for name in ("f_params", "f_optimizer", "f_history")}
    _net(schedule(), max_epochs=2).fit(X, Y).save_params(**files)

    net = _net(schedule()).initialize()
    history = History.from_file(files["f_history"])
    _callback(net).restore(net, history)
    net.load_params(**files)
    net.set_params(max_epochs=2).partial_fit(X, Y)
    assert [receipt.kind for receipt in _callback(net).receipts] == ["deepen"]
    for name, tensor in whole.module_.state_dict().items():
        assert torch.equal(tensor, net.module_.state_dict()[name]), name


def test_what_can_not_be_grown_is_refused_at_the_start() -> None:
    with pytest.raises(SurgeryError, match="the growth at 100"):
        _net(GrowthSchedule({100: Deepen("nothing")})).fit(X, Y)
    net = _net(GrowthSchedule({1: Deepen("1")})).initialize()
    with pytest.raises(ConfigError, match="history: expected epochs"):
        _callback(net).restore(net, [{}])
    _callback(net).module = "nothing_"
    with pytest.raises(ConfigError, match="module: expected the name"):
        net.partial_fit(X, Y)
