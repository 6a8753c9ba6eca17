"""Ranks as threads of one process, so that laws about many of them are quick to test."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from graftwork.errors import SearchInterruptedError
from graftwork.workers import Group

T = TypeVar("T")


class Meeting:
    """Where ranks meet."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=120)
        self.places: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """What every rank has brought."""
        self.places[rank] = value
        self.barrier.wait()
        found = list(self.places)
        self.barrier.wait()
        return found


class ThreadGroup(Group):
    """A `Group` whose ranks are threads: the same words, exchanged in memory."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        super().__init__(rank, meeting.size)
        self.meeting = meeting
        self.exchanged: list[int] = []

    def add(self, tensor: Tensor) -> Tensor:
        parts = self.meeting.exchange(self.rank, tensor.clone())
        self.exchanged.append(tensor.numel())
        return tensor.copy_(sum(parts[1:], parts[0]))

    def spread(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self.meeting.exchange(self.rank, tensor.clone())[0])

    def send(self, data: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        copies = {name: tensor.detach().clone() for name, tensor in (tensors or {}).items()}
        self.meeting.exchange(self.rank, (json.dumps(data), copies))

    def receive(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        text, tensors = self.meeting.exchange(self.rank, None)[0]
        return json.loads(text), {name: tensor.clone() for name, tensor in tensors.items()}

    def describe(self) -> dict[str, Any]:
        return {"size": self.size, "backend": "threads", "threads_each": torch.get_num_threads()}


def together(size: int, work: Callable[[ThreadGroup], T]) -> list[T]:
    """Run ``work`` on every rank; returns what each gave, or raises the first error of the lowest rank."""
    meeting, results = Meeting(size), [None] * size
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadGroup(rank, meeting))
        except SearchInterruptedError as error:  # all ranks stop, each when it comes to it
            errors[rank] = error
        except BaseException as error:
            errors[rank] = error
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = {r: e for r, e in errors.items() if not isinstance(e, threading.BrokenBarrierError)} or errors
    if real:
        raise real[min(real)]
    return results  # type: ignore[return-value]
