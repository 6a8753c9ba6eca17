"""Growing inside Lightning's loop, against the real package: state carried, resume equal to the bit."""

import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery import Deepen, GrowthSchedule, Plateau, Widen, replay

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch")
    from graftwork.integrations.lightning import GrowthCallback

pytestmark = pytest.mark.filterwarnings("ignore")

# Eight times the same batch: a resume within an epoch can't find its place in the data, with or without growth.
ROWS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(ROWS.repeat(8, 1), (torch.arange(8) % 3).repeat(8))
EXAMPLE = DATA.tensors[0][:4]


class Lit(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _index: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _schedule() -> GrowthSchedule:
    return GrowthSchedule({5: Widen("0", factor=1.5), "50%": Deepen("1")}, total_steps=24)


def _fit(lit: Any, folder: Path, steps: int, *, module: str | None = "net", check: bool = False, **given: Any) -> Any:
    schedule, along = given.pop("schedule", None) or _schedule(), {"mirrors": given.pop("mirrors", ())}
    callback = GrowthCallback(schedule, example_input=EXAMPLE, module=module, check=check, **along)
    beside = given.pop("beside", [])
    path = given.pop("ckpt_path", None)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_steps=steps,
        default_root_dir=folder,
        enable_checkpointing=False,
        callbacks=[callback, *beside],
        **options,
        **given,
    )
    trainer.fit(lit, DataLoader(DATA, batch_size=8), ckpt_path=path)
    return trainer, callback


def test_it_grows_on_schedule_and_carries_the_optimizer(tmp_path: Path) -> None:
    lit = Lit()
    trainer, callback = _fit(lit, tmp_path, 16)
    assert [receipt.kind for receipt in callback.receipts] == ["widen", "deepen"]
    assert all(receipt.optimizer_state for receipt in callback.receipts[:1])
    assert max(receipt.largest_gap for receipt in callback.receipts) < 2e-5
    (optimizer,) = trainer.optimizers
    assert optimizer.state[lit.net[0].weight]["exp_avg"].shape == (12, 6)
    assert int(optimizer.state[lit.net[0].weight]["step"]) == 16
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in lit.parameters()}
    assert "on_load_checkpoint" not in vars(lit)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Lit:
    """A module that was trained through both growths without interruption."""
    lit = Lit()
    _fit(lit, tmp_path_factory.mktemp("straight"), 24)
    return lit


@pytest.mark.parametrize("stop", [7, 13, 14])
def test_a_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(
    stop: int, straight: Lit, tmp_path: Path
) -> None:
    """Also where it checks the growths that are to come, and the other one has not."""
    trainer, _ = _fit(Lit(), tmp_path, stop)
    trainer.save_checkpoint(tmp_path / "stop.ckpt")
    resumed = Lit()
    _, callback = _fit(resumed, tmp_path, 24, ckpt_path=tmp_path / "stop.ckpt", check=True)
    assert len(callback.receipts) == (1 if stop == 7 else 0)
    ours, theirs = resumed.state_dict(), straight.state_dict()
    assert list(ours) == list(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert resumed.losses == straight.losses[stop:]


@pytest.mark.parametrize("stop", [8, 13])
def test_a_training_resumes_between_the_windows_of_a_plateau(stop: int, tmp_path: Path) -> None:
    def schedule() -> GrowthSchedule:
        return GrowthSchedule({Plateau(3): Widen("0", factor=1.5), Plateau(2, threshold=0.0): Deepen("1")})

    straight = Lit()
    _, callback = _fit(straight, tmp_path, 24, schedule=schedule())
    assert callback.receipts[0].kind == "widen"
    trainer, before = _fit(Lit(), tmp_path, stop, schedule=schedule())
    trainer.save_checkpoint(tmp_path / "stop.ckpt")
    resumed = Lit()
    _, after = _fit(resumed, tmp_path, 24, ckpt_path=tmp_path / "stop.ckpt", schedule=schedule())
    assert [r.log for r in [*before.receipts, *after.receipts]] == [r.log for r in callback.receipts]
    assert resumed.losses == straight.losses[stop:]


def test_a_growth_that_will_be_refused_is_told_before_the_first_step(tmp_path: Path) -> None:
    lit = Lit()
    with pytest.raises(SurgeryError, match=r"at '50%', .* will be refused"):
        _fit(lit, tmp_path, 24, schedule=GrowthSchedule({"50%": Widen("9", extra=2)}, total_steps=24), check=True)
    assert lit.losses == []


@pytest.fixture
def processes() -> Iterator[None]:
    """Of the group of processes that Lightning opens, nothing stays for later tests."""
    before = dict(os.environ)
    yield
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("processes")
def test_it_grows_under_ddp_as_on_one_device(tmp_path: Path) -> None:
    def fit(folder: Path, **given: Any) -> tuple[Any, Any]:
        schedule, lit = GrowthSchedule({Plateau(2, 0.5): Widen("0", factor=1.5), 9: Deepen("1")}), Lit()
        _, callback = _fit(lit, folder, 12, schedule=schedule, **given)
        return lit, callback

    alone, callback = fit(tmp_path / "alone")
    ddp, again = fit(tmp_path / "ddp", strategy="ddp", devices=1, use_distributed_sampler=False, check=True)
    assert [r.log for r in again.receipts] == [r.log for r in callback.receipts]
    assert len(again.receipts) == 2
    assert ddp.losses == alone.losses
    assert all(torch.equal(p, q) for p, q in zip(ddp.parameters(), alone.parameters(), strict=True))


def _rank(rank: int, folder: str, port: int) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    os.environ.update({name: str(value) for name, value in (names | told).items()})
    torch.set_num_threads(1)
    lit = Lit()
    schedule = GrowthSchedule({Plateau(2, 0.5): Widen("0", factor=1.5), 9: Deepen("1")})
    _, callback = _fit(lit, Path(folder), 12, schedule=schedule, strategy="ddp", devices=2, check=True)
    kinds = [receipt.kind for receipt in callback.receipts]
    torch.save({"state": lit.state_dict(), "losses": lit.losses, "kinds": kinds}, Path(folder) / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_grow_at_the_same_plateau_and_hold_the_same_bits(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_rank, (str(tmp_path), port), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["kinds"] == second["kinds"] == ["widen", "deepen"]
    assert first["losses"] != second["losses"]  # each of its own share of the data
    assert all(torch.equal(tensor, second["state"][name]) for name, tensor in first["state"].items())


def test_a_checkpoint_of_a_grown_module_can_be_tested_and_replayed(tmp_path: Path) -> None:
    trained = Lit()
    trainer, callback = _fit(trained, tmp_path, 16)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)
    bare = Lit()
    replay(bare.net, stored["callbacks"][callback.state_key]["growths"])
    bare.load_state_dict(stored["state_dict"])
    assert torch.equal(bare(EXAMPLE), trained(EXAMPLE))


def test_accumulated_batches_do_not_count_as_steps(tmp_path: Path) -> None:
    lit = Lit()
    schedule = GrowthSchedule({3: Widen("0", factor=1.5)})
    _fit(lit, tmp_path, 2, accumulate_grad_batches=2, schedule=schedule)
    assert lit.net[0].out_features == 8
    assert len(lit.losses) == 4


def test_the_whole_module_may_grow_and_a_wrong_path_is_named(tmp_path: Path) -> None:
    lit = Lit()
    _fit(lit, tmp_path, 4, module=None, schedule=GrowthSchedule({2: Widen("net.0", factor=1.5)}))
    assert lit.net[0].out_features == 12
    with pytest.raises(ConfigError, match="'nowhere'"):
        _fit(Lit(), tmp_path, 4, module="nowhere")


class Averaging(lightning.Callback):
    """An average of one's own, updated after every batch."""

    def __init__(self, averaged: AveragedModel) -> None:
        self.averaged = averaged

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.averaged.update_parameters(pl_module.net)


@pytest.mark.parametrize("kind", ["StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging"])
def test_callbacks_that_average_weights_are_refused_before_the_first_step(kind: str, tmp_path: Path) -> None:
    options = {"swa_lrs": 1e-2} if kind.startswith("Stochastic") else {}
    lit, average = Lit(), getattr(lightning.callbacks, kind)(**options)
    with pytest.raises(ConfigError, match=f"{kind}.*would not grow"):
        _fit(lit, tmp_path, 16, beside=[average])
    assert lit.losses == []


def test_an_average_of_ones_own_grows_along_as_a_mirror_and_is_refused_otherwise(tmp_path: Path) -> None:
    lit = Lit()
    averaged = AveragedModel(lit.net)
    _fit(lit, tmp_path, 16, beside=[Averaging(averaged)], mirrors=[averaged.module])
    assert averaged.module[0].weight.shape == lit.net[0].weight.shape == (12, 6)
    assert list(averaged.module.state_dict()) == list(lit.net.state_dict())
    lit = Lit()
    with pytest.raises(ConfigError, match=r"Averaging.*mirrors"):
        _fit(lit, tmp_path, 16, beside=[Averaging(AveragedModel(lit.net))])


def test_distributed_strategies_and_strange_checkpoints_are_refused(tmp_path: Path) -> None:
    callback = GrowthCallback(_schedule(), example_input=EXAMPLE, module="net")

    class Sharded:
        callbacks, strategy, world_size = [callback], type("FSDPStrategy", (), {})(), 2

    with pytest.raises(ConfigError, match='one device or strategy="ddp", got FSDPStrategy with 2 processes'):
        callback.setup(Sharded(), Lit(), "fit")
    trainer, _ = _fit(Lit(), tmp_path, 7)
    trainer.save_checkpoint(tmp_path / "stop.ckpt")
    other = Lit()
    from graftwork.surgery import widen

    widen(other.net, "2", extra=4, example_input=EXAMPLE)
    with pytest.raises(ConfigError, match="freshly built"):
        _fit(other, tmp_path, 16, ckpt_path=tmp_path / "stop.ckpt")
