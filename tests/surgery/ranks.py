"""What each of two ranks does in the tests of distributed training; the tests read what it has written down."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from graftwork.surgery import Deepen, GrowthSchedule, InsertLayers, SurgeryReceipt, Widen, grow, remove, unwrapped
from graftwork.surgery._agreement import fingerprint

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).tanh())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks, self.head = nn.Linear(4, 6), nn.ModuleList([Block(), Block()]), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def build() -> nn.Module:
    torch.manual_seed(7)
    return Net().double()


def train(model: nn.Module, optimizer: optim.Optimizer, steps: int, rank: int = 0) -> list[float]:
    """Train on a rank's share of the batch; returns the losses over the whole of it."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(X[rank::size]) - Y[rank::size]).square().mean()
        loss.backward()
        optimizer.step()
        shared = loss.detach().clone()
        if size > 1:
            dist.all_reduce(shared)
        losses.append(float(shared) / size)
    return losses


def growths(model: nn.Module, optimizer: optim.Optimizer, example: Tensor = X) -> list[SurgeryReceipt]:
    values = [Widen("blocks.0.up", extra=4), InsertLayers("blocks", after=(0,)), Deepen("embed")]
    return [grow(model, value, example_input=example, optimizer=optimizer) for value in values]


def _wrapped(rank: int, **options: Any) -> tuple[DistributedDataParallel, optim.Optimizer]:
    model = build()
    torch.manual_seed(100 + rank)  # nothing may hang on it
    return DistributedDataParallel(model, **options), optim.AdamW(model.parameters(), lr=1e-2)


def parallel(rank: int) -> Any:
    wrapper, optimizer = _wrapped(rank)
    inside, losses = wrapper.module, train(wrapper, optimizer, 3, rank)
    with unwrapped(wrapper, optimizer) as model:
        assert model is inside
        growths(model, optimizer)
    assert wrapper.module is inside
    losses += train(wrapper, optimizer, 4, rank)
    return {"losses": losses, "print": fingerprint(inside), "weights": copy.deepcopy(inside.state_dict())}


def hooked(rank: int) -> Any:
    """Settings of the wrapper are kept: gradients travel in half precision, graphs are static."""
    wrapper, optimizer = _wrapped(rank, static_graph=True, gradient_as_bucket_view=True)
    wrapper.register_comm_hook(None, default_hooks.fp16_compress_hook)

    def coarse() -> bool:
        train(wrapper, optimizer, 2, rank)
        gradient = wrapper.module.head.weight.grad
        return torch.equal(gradient.half().double(), gradient)

    before = coarse()
    with unwrapped(wrapper, optimizer) as model:
        grow(model, Widen("blocks.0.up", extra=4), example_input=X, optimizer=optimizer)
    return {"coarse": [before, coarse()], "static": wrapper.static_graph, "hooks": len(wrapper._comm_hooks)}


def scheduled(rank: int) -> Any:
    wrapper, optimizer = _wrapped(rank)
    schedule, losses = GrowthSchedule({2: Widen("blocks.0.up", extra=4), 3: Deepen("embed")}), []
    schedule.check(wrapper, example_input=X, optimizer=optimizer)
    for _ in range(4):
        losses += train(wrapper, optimizer, 1, rank)
        schedule.step(wrapper, example_input=X, optimizer=optimizer)
    return {"made": [receipt.kind for receipt in schedule.receipts], "print": fingerprint(wrapper.module)}


def removed(rank: int) -> Any:
    wrapper, optimizer = _wrapped(rank)
    train(wrapper, optimizer, 2, rank)
    before = fingerprint(wrapper.module)
    with unwrapped(wrapper, optimizer) as model:
        receipt = grow(model, Widen("blocks.0.up", extra=4), example_input=X, optimizer=optimizer)
        remove(model, receipt, example_input=X, optimizer=optimizer)
    return {"same": before == fingerprint(wrapper.module), "losses": train(wrapper, optimizer, 1, rank)}


def _fails(rank: int, body: Callable[[nn.Module, optim.Optimizer], Any]) -> Any:
    """Whether both ranks are as before and train on, and what each has been told."""
    wrapper, optimizer = _wrapped(rank)
    train(wrapper, optimizer, 2, rank)
    before, told = fingerprint(wrapper.module), ""
    try:
        with unwrapped(wrapper, optimizer) as model:
            body(model, optimizer)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    same = before == fingerprint(wrapper.module)
    return {"told": told, "same": same, "losses": train(wrapper, optimizer, 1, rank)}


def other_seeds(rank: int) -> Any:
    def body(model: nn.Module, optimizer: optim.Optimizer) -> None:
        generator, value = torch.Generator().manual_seed(rank), Widen("blocks.0.up", extra=4)
        grow(model, value, example_input=X, optimizer=optimizer, generator=generator)

    return _fails(rank, body)


def one_refused(rank: int) -> Any:
    return _fails(rank, lambda model, optimizer: growths(model, optimizer, example=X[:, : 4 - rank]))


def one_breaks_later(rank: int) -> Any:
    """A rank that fails after the plan: its forward runs for the trace, and not for the comparison afterwards."""

    def body(model: nn.Module, optimizer: optim.Optimizer) -> None:
        def hook(_module: nn.Module, _given: object, out: Tensor) -> Tensor:
            return out * (1 + rank * (model.blocks[0].up.out_features - 8))

        handle = model.register_forward_hook(hook)
        try:
            grow(model, Widen("blocks.0.up", extra=4), example_input=X, optimizer=optimizer)
        finally:
            handle.remove()

    return _fails(rank, body)


def one_interrupted(rank: int) -> Any:
    def body(model: nn.Module, optimizer: optim.Optimizer) -> None:
        if rank == 1:
            raise ValueError("of the user's own")
        growths(model, optimizer)

    return _fails(rank, body)


def apart(rank: int) -> Any:
    """Ranks whose weights differ before any growth."""

    def body(_model: nn.Module, _optimizer: optim.Optimizer) -> None:
        raise AssertionError("not reached")

    wrapper, _ = _wrapped(rank)
    with torch.no_grad():
        wrapper.module.head.bias.add_(rank)
    told = ""
    try:
        with unwrapped(wrapper):
            body(wrapper, None)  # type: ignore[arg-type]
    except Exception as error:
        told = str(error)
    return {"told": told}


def _shard(model: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def sharded(rank: int) -> Any:
    model = build()
    torch.manual_seed(100 + rank)
    _shard(model)
    kinds = [type(module) for module in model.modules()]
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    losses = train(model, optimizer, 3, rank)
    with unwrapped(model, optimizer, shard=_shard) as inner:
        assert inner is model
        assert type(inner) is Net
        held = {name: optimizer.state[p]["exp_avg"].clone() for name, p in inner.named_parameters()}
        growths(inner, optimizer)
    kept = {
        name: torch.equal(optimizer.state[p]["exp_avg"].full_tensor()[tuple(map(slice, held[name].shape))], held[name])
        for name, p in model.named_parameters()
        if name in held and not name.startswith("blocks.1")
    }
    sharded_all = all(type(p.data).__name__ == "DTensor" for p in model.parameters())
    losses += train(model, optimizer, 4, rank)
    weights = {name: tensor.full_tensor() for name, tensor in model.state_dict().items()}
    again = [type(module) for module in model.modules()]
    return {
        "losses": losses,
        "weights": weights,
        "kept": kept,
        "sharded": sharded_all and set(kinds) <= set(again),
    }


SCENARIOS = [
    parallel,
    hooked,
    scheduled,
    removed,
    other_seeds,
    one_refused,
    one_breaks_later,
    one_interrupted,
    apart,
    sharded,
]


def run(rank: int, folder: str) -> None:
    """One rank, from start to end."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=(Path(folder) / "store").as_uri(), rank=rank, world_size=2)
    found = {scenario.__name__: scenario(rank) for scenario in SCENARIOS}
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()
