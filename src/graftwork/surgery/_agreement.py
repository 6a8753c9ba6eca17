"""Processes of one training that grow alike, or not at all."""

import hashlib
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from graftwork.errors import SurgeryError

_joined: Any = weakref.WeakKeyDictionary()  # model → its ranks


class Ranks:
    """The processes that train copies of one model.

    Whatever one of them comes to (a plan, a growth, an error) it tells the others, and hears from them. So an error on
    one is an error on all, and none waits for another.

    Args:
        group: Their process group; None for all processes.
    """

    def __init__(self, group: "dist.ProcessGroup | None") -> None:
        self._group = group
        self.told: BaseException | None = None

    def tell(self, error: BaseException | None, print_of: str = "") -> None:
        """Exchange how it went, and compare.

        Args:
            error: What has failed here; None where nothing has.
            print_of: Text that has to be the same on all ranks.

        Raises:
            SurgeryError: Another rank has failed, or holds something else.
        """
        self.told = error
        mine = (None if error is None else f"{type(error).__name__}: {error}", print_of)
        said: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(said, mine, group=self._group)
        if error is not None:
            return
        for rank, (failed, _) in enumerate(said):
            if failed is not None:
                self.told = SurgeryError(f"rank {rank} of {len(said)} has failed, so no rank goes on: {failed}")
                raise self.told
        if len({text for _, text in said}) > 1:
            self.told = SurgeryError(
                "ranks: expected the same weights and growths on all, got different ones; give every rank the same "
                "growth, and a generator with the same seed or none"
            )
            raise self.told


@contextmanager
def joined(model: nn.Module, group: "dist.ProcessGroup | None") -> Iterator[None]:
    """Let all growths of a model inside be agreed upon by the processes that train it.

    Args:
        model: The model, without wrappers; the same on all ranks.
        group: Their process group; None for all processes.

    Raises:
        SurgeryError: The model is not the same on all ranks, before or afterwards, or another rank has failed.
    """
    ranks = Ranks(group)
    ranks.tell(None, fingerprint(model))
    _joined[model] = ranks
    try:
        yield
    except BaseException as error:
        if error is not ranks.told:
            ranks.tell(error)
        raise
    else:
        ranks.tell(None, fingerprint(model))
    finally:
        del _joined[model]


@contextmanager
def agreed(model: nn.Module, *, weights: bool) -> Iterator[None]:
    """Make an error inside an error on all ranks that train the model; nothing where it is trained by one process.

    Args:
        model: The model, or a part of it.
        weights: Whether the weights have to be the same on all ranks at the end.

    Raises:
        SurgeryError: Another rank has failed, or has made other weights.
    """
    ranks = [ranks for whole, ranks in _joined.items() if any(part is model for part in whole.modules())]
    try:
        yield
    except BaseException as error:
        for one in ranks:
            one.tell(error)
        raise
    for one in ranks:
        one.tell(None, fingerprint(model) if weights else "")


def digest_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hash of the names, shapes, types and bits of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the parameters alone: running statistics differ between ranks until the next forward."""
    return digest_of(model.named_parameters())
