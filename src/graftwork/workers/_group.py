"""Group: the ranks of one search, and how they talk to each other."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # see `Group.leave`
from safetensors.torch import load, save
from torch import Tensor

from graftwork.errors import ConfigError, ResourceError

_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for a silent one. A process that dies is noticed at once, unless its machine dies, too."""


def given_size() -> int | None:
    """Ranks that ``torchrun`` (or `launch`) has started this process as one of; ``None`` if it was started alone.

    Raises:
        ConfigError: If ``WORLD_SIZE`` is set without what a launcher sets beside it.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal():
        raise ConfigError(f"WORLD_SIZE: expected a number of processes, as torchrun sets it, got {text!r}; unset it")
    if int(text) <= 1:
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE: expected {', '.join(missing)} beside it, as torchrun sets them, got {text} alone; unset "
            "WORLD_SIZE, or start with torchrun"
        )
    return int(text)


def restarted() -> bool:
    """Whether ``torchrun`` has started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _losses_told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of the backend: a connection that was closed, or a time-out
        detail = str(error).splitlines()[0]
        raise ResourceError(f"workers: the connection to another worker was lost ({detail})") from error


class Group:
    """The ranks of one search. Made by `join`.

    Rank 0 leads: it alone reads and writes the run folder and talks to the user, and it tells the others what they
    need. Bytes that are exchanged are JSON and safetensors, never pickles.

    Args:
        rank: Number of this process, from 0.
        size: Number of ranks.
        local_rank: Number of this process among the ranks of its machine, from 0.
        local_size: Number of ranks on this machine.
    """

    def __init__(self, rank: int, size: int, *, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.local_size = local_size
        self.stop_wanted = False
        self.stopping = False
        self._leaves = True

    @classmethod
    def join(cls, *, method: str = "env://") -> "Group":
        """Connect to the other ranks that the environment names, and share this machine's cores among its ranks.

        Tensors in a processor's memory are exchanged over gloo, those on CUDA devices over NCCL. Ranks that are
        connected already, as Ray does it, stay so.

        Args:
            method: Where to meet, as in `torch.distributed.init_process_group`.

        Raises:
            ResourceError: If the others can't be reached.
        """
        environment = {name: int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        connected = dist.is_initialized()
        if not connected:
            with _losses_told():
                dist.init_process_group(
                    backend, init_method=method, rank=rank, world_size=environment["WORLD_SIZE"], timeout=_TIMEOUT
                )
        local_size = environment["LOCAL_WORLD_SIZE"]
        torch.set_num_threads(max(1, num_cores() // local_size))
        group = cls(rank, environment["WORLD_SIZE"], local_rank=local_rank, local_size=local_size)
        group._leaves = not connected
        return group

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this rank: ``cuda`` becomes that of its local number."""
        return f"cuda:{self.local_rank}" if name == "cuda" else name

    def leave(self) -> None:
        """Disconnect from the other ranks, which may have ended already; not where `join` found them connected.

        The threads of the backend end here. If they lived until the end of the process, they might still hold a tensor
        when Python is gone, and abort it. They live as long as anything holds the process group. A module of torch
        would do so for ever, in its default arguments, if it were first imported between `join` and `leave` (by an
        optimizer's first step, for instance): that is why this file imports it.
        """
        if self._leaves and dist.is_initialized():
            dist.destroy_process_group()

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, in place; every rank gets the same bits."""
        with _losses_told():
            dist.all_reduce(tensor)
        return tensor

    def spread(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by that of rank 0, in place."""
        with _losses_told():
            dist.broadcast(tensor, 0)
        return tensor

    def sum_at_once(self, measure: Callable[[], float]) -> float:
        """Measure on all ranks at the same time, and sum what they found."""
        self.add(torch.zeros(1))  # no rank begins before all are ready
        return float(self.add(torch.tensor([measure()], dtype=torch.float64)))

    def agree_to_stop(self, *numbers: float) -> list[float]:
        """Sum numbers over all ranks, and set `stopping` on all of them if any has `stop_wanted`."""
        told = self.add(torch.tensor([*numbers, float(self.stop_wanted)], dtype=torch.float64))
        self.stopping = self.stopping or bool(told[-1] > 0)
        return told[:-1].tolist()

    def send(self, data: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Send plain data and tensors from rank 0 to all others, which call `receive`."""
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in (tensors or {}).items()}
        for content in (json.dumps(data).encode(), save(plain)):
            self.spread(torch.tensor([len(content)]))
            self.spread(torch.frombuffer(bytearray(content), dtype=torch.uint8))

    def receive(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Receive, on every other rank, what rank 0 gave to `send`."""
        contents = []
        for _ in range(2):
            length = int(self.spread(torch.zeros(1, dtype=torch.int64)))
            contents.append(bytes(self.spread(torch.zeros(length, dtype=torch.uint8)).numpy()))
        return json.loads(contents[0]), load(contents[1])

    def describe(self) -> dict[str, Any]:
        """Number of ranks, backend and threads of each, for provenance."""
        return {"size": self.size, "backend": dist.get_backend(), "threads_each": torch.get_num_threads()}

    def __repr__(self) -> str:
        return f"<Group: rank {self.rank} of {self.size}>"
