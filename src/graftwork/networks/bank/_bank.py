"""BlockBank: the one owner of every shared parameter."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from graftwork.errors import BankError
from graftwork.typing import BlockId, Role


def tensor_key(block_id: BlockId, name: str) -> str:
    """The key of one tensor in checkpoints and optimizers: ``"<block id>/<tensor name>"``."""
    return f"{block_id}/{name}"


def _canonical(tensor: Tensor) -> Tensor:
    """A copy, with channels-last strides if it is 4-D: the kernels, and so the bits, depend on strides."""
    if tensor.dim() != 4:
        return tensor.detach().clone()
    return torch.empty_like(tensor, memory_format=torch.channels_last, requires_grad=False).copy_(tensor.detach())


class BlockBank:
    """Owner of all parameters of a population, by `BlockId`.

    Entries are added and forgotten, never edited in place. A shape never changes, so every member that shares a block
    can keep it.
    """

    def __init__(self) -> None:
        self._entries: dict[BlockId, Mapping[str, nn.Parameter]] = {}
        self._roles: dict[BlockId, Mapping[str, Role]] = {}

    def add(self, block_id: BlockId, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> None:
        """Take ownership of a new entry.

        Args:
            block_id: A name that the bank does not hold.
            tensors: Name → initial value. A tensor of the role ``"stem"`` named ``"filter"`` whose
                ``requires_grad`` is off and stays off is a fixed one (see `freeze`).
            roles: Name → role, for the same names.

        Raises:
            BankError: If the id is there already, or names and roles do not match.
        """
        if block_id in self._entries:
            raise BankError(f"bank: expected a new id, got {block_id!r}, which is taken; entries are never replaced")
        if set(tensors) != set(roles):
            raise BankError(
                f"bank: block {block_id!r}: expected a role for each of {sorted(tensors)}, "
                f"got roles for {sorted(roles)}"
            )
        entry = {name: nn.Parameter(_canonical(tensor)) for name, tensor in tensors.items()}
        self._entries[block_id] = MappingProxyType(entry)
        self._roles[block_id] = MappingProxyType(dict(roles))

    def copy(self, source: BlockId, block_id: BlockId) -> None:
        """Add an entry that begins as a copy of another one, to the bit; tensors that are fixed there are fixed here.

        Raises:
            BankError: If the bank does not hold ``source``, or holds ``block_id``.
        """
        entry = self[source]
        self.add(block_id, entry, self.roles(source))
        for name, parameter in entry.items():
            self[block_id][name].requires_grad_(parameter.requires_grad)

    def freeze(self, block_id: BlockId, name: str) -> None:
        """Declare one tensor fixed: it is never trained (the filters of a whitening stem)."""
        self[block_id][name].requires_grad_(False)

    def forget(self, block_ids: Iterable[BlockId]) -> None:
        """Drop entries.

        Raises:
            BankError: If the bank does not hold one of them; nothing is dropped then.
        """
        doomed = list(block_ids)
        for block_id in doomed:
            self._require(block_id)
        for block_id in doomed:
            del self._entries[block_id], self._roles[block_id]

    def _require(self, block_id: BlockId) -> None:
        if block_id not in self._entries:
            raise BankError(
                f"bank: expected one of its {len(self._entries)} blocks, got {block_id!r}; "
                "add the blocks of a genome with grow_bank(bank, genome, generator=...)"
            )

    def __getitem__(self, block_id: BlockId) -> Mapping[str, nn.Parameter]:
        self._require(block_id)
        return self._entries[block_id]

    def roles(self, block_id: BlockId) -> Mapping[str, Role]:
        """Name → role of the tensors of one entry."""
        self._require(block_id)
        return self._roles[block_id]

    def __contains__(self, block_id: object) -> bool:
        return block_id in self._entries

    def __iter__(self) -> Iterator[BlockId]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def parameters(self, block_ids: Iterable[BlockId] | None = None) -> Iterator[tuple[str, nn.Parameter, Role]]:
        """Key, parameter and role of every tensor (of the given entries; ``None``: of all)."""
        for block_id in self._entries if block_ids is None else block_ids:
            roles = self.roles(block_id)
            for name, parameter in self[block_id].items():
                yield tensor_key(block_id, name), parameter, roles[name]

    @property
    def num_parameters(self) -> int:
        """Number of weights that the bank owns."""
        return sum(parameter.numel() for _, parameter, _ in self.parameters())

    def to(self, device: torch.device | str | None = None, *, dtype: torch.dtype | None = None) -> "BlockBank":
        """Move and convert every parameter, in place; ``None`` leaves device or type as it is. Returns the bank."""
        for _, parameter, _ in self.parameters():
            parameter.data = parameter.data.to(device=device, dtype=dtype)
        return self

    def state(self) -> dict[str, Tensor]:
        """Key → tensor of all entries, detached: what a checkpoint stores."""
        return {key: parameter.detach() for key, parameter, _ in self.parameters()}

    def layout(self) -> dict[str, dict[str, list[str]]]:
        """Entry → tensor → [role, "trained" or "fixed"], as plain data: the other half of a checkpoint."""
        return {
            block_id: {
                name: [self._roles[block_id][name], "trained" if parameter.requires_grad else "fixed"]
                for name, parameter in entry.items()
            }
            for block_id, entry in self._entries.items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], layout: Mapping[str, Mapping[str, list[str]]]) -> "BlockBank":
        """Build the bank that `state` and `layout` describe.

        Raises:
            BankError: If the two do not name the same tensors.
        """
        bank = cls()
        expected = {tensor_key(BlockId(block_id), name) for block_id, names in layout.items() for name in names}
        if expected != set(state):
            wrong = sorted(expected.symmetric_difference(state))[:3]
            raise BankError(
                f"bank: expected exactly the tensors that the layout names, got a difference in {wrong}; "
                "the checkpoint is damaged"
            )
        for text, names in layout.items():
            block_id = BlockId(text)
            tensors = {name: state[tensor_key(block_id, name)] for name in names}
            bank.add(block_id, tensors, {name: entry[0] for name, entry in names.items()})  # type: ignore[misc]
            for name, entry in names.items():
                if entry[1] == "fixed":
                    bank.freeze(block_id, name)
        return bank

    def digest(self) -> str:
        """SHA-256 over keys, types, shapes and bytes, in order of keys: equal exactly for equal banks."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.state().items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"<BlockBank: {len(self)} blocks, {self.num_parameters:,} parameters>"
