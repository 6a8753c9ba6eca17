"""BankOptimizer: one optimizer over everything that the bank owns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftwork._eager import eager
from graftwork.errors import BankError, RunError
from graftwork.networks.bank import BlockBank, tensor_key
from graftwork.training._muon import Muon
from graftwork.training._rules import ROLES, Rule, Rules, check_rules
from graftwork.typing import BlockId

_SLOTS: Mapping[str, frozenset[str]] = {
    "adam": frozenset({"step", "exp_avg", "exp_avg_sq"}),
    "sgd": frozenset({"momentum_buffer"}),
    "muon": frozenset({"momentum_buffer"}),
}


def _build(rule: Rule) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": []}]
    if rule.optimizer == "adam":
        return eager(torch.optim.Adam)(
            groups,
            lr=rule.lr,
            betas=rule.betas,
            eps=rule.eps,
            weight_decay=rule.weight_decay,
            decoupled_weight_decay=rule.decoupled,
            fused=True,
        )
    if rule.optimizer == "sgd":
        return eager(torch.optim.SGD)(
            groups,
            lr=rule.lr,
            momentum=rule.momentum,
            nesterov=rule.nesterov and rule.momentum > 0,
            weight_decay=0.0 if rule.decoupled else rule.weight_decay,
            fused=True,
        )
    return eager(Muon)(
        groups,
        rule.lr,
        weight_decay=rule.weight_decay,
        momentum=rule.momentum,
        nesterov=rule.nesterov,
        variant=rule.variant,
        num_iterations=rule.num_iterations,
        eps=rule.eps,
    )


def _prepare_sgd(optimizer: torch.optim.Optimizer, decoupled_decay: float) -> None:
    """Make up for two things that torch's fused SGD lacks: decoupled decay, and tensors that join later.

    Fused SGD makes momentum buffers for all tensors or for none; a buffer of zeros gives the same first step as none.
    """
    group = optimizer.param_groups[0]
    moved = [parameter for parameter in group["params"] if parameter.grad is not None]
    if group["momentum"]:
        for parameter in moved:
            if parameter not in optimizer.state:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    if decoupled_decay and moved:
        group["weight_decay"] = 0.0
        torch._foreach_mul_(moved, 1 - group["lr"] * decoupled_decay)


@dataclass(frozen=True, slots=True)
class Beside:
    """Tensors that no bank owns and every update moves: those of a trunk that all members read.

    Args:
        name: Name of them all, which no block has.
        tensors: The tensors by name.
        rule: How they are moved.
    """

    name: str
    tensors: Mapping[str, nn.Parameter]
    rule: Rule


_WEIGHT = "weight"
"""Slot of a checkpoint that holds a tensor beside the bank itself."""


class BankOptimizer:
    """One optimizer over a bank: every shared tensor has exactly one set of moments, whichever member trains it.

    A step moves only the tensors that have a gradient; all others, and their moments, stay bit-identical. Roles with
    equal rules run as one parameter group. Tensors that need no gradient when they are added are never moved.

    Args:
        bank: Owner of the tensors; its present entries are added, later ones by `add` or `sync`.
        rules: Rule for every role.
        beside: Tensors that are moved, too, and stored with the moments; ``None``: none.

    Raises:
        ConfigError: If a role has no rule, or one that can't move its tensors.
    """

    def __init__(self, bank: BlockBank, rules: Rules, *, beside: Beside | None = None) -> None:
        check_rules(rules)
        self.bank = bank
        self.rules: Rules = dict(rules)
        self.beside = beside
        self._optimizers: dict[Rule, torch.optim.Optimizer] = {}
        for rule in [*(rules[role] for role in ROLES), *((beside.rule,) if beside else ())]:
            if rule not in self._optimizers:
                self._optimizers[rule] = _build(rule)
        self._entries: dict[BlockId, dict[str, tuple[nn.Parameter, Rule]]] = {}
        self.add(bank)
        if beside is not None:
            self._entries[BlockId(beside.name)] = {name: (one, beside.rule) for name, one in beside.tensors.items()}
            self._optimizers[beside.rule].param_groups[0]["params"].extend(beside.tensors.values())

    def add(self, block_ids: Iterable[BlockId]) -> None:
        """Add new entries of the bank, with fresh state; nothing else changes.

        Raises:
            BankError: If the bank has no such entry, or it was added before.
        """
        new = list(block_ids)
        for block_id in new:
            if block_id in self._entries:
                raise BankError(f"optimizer: expected a new block, got {block_id!r}; an entry has one set of moments")
            roles = self.bank.roles(block_id)
            self._entries[block_id] = {
                name: (parameter, self.rules[roles[name]])
                for name, parameter in self.bank[block_id].items()
                if parameter.requires_grad
            }
            for parameter, rule in self._entries[block_id].values():
                self._optimizers[rule].param_groups[0]["params"].append(parameter)

    def forget(self, block_ids: Iterable[BlockId]) -> None:
        """Drop entries and their state; works before and after the bank has forgotten them.

        Raises:
            BankError: If the optimizer does not hold an entry; nothing is dropped then.
        """
        doomed = list(block_ids)
        for block_id in doomed:
            if block_id not in self._entries:
                raise BankError(f"optimizer: expected one of its {len(self)} blocks to forget, got {block_id!r}")
        gone: set[int] = set()
        for block_id in doomed:
            for parameter, rule in self._entries.pop(block_id).values():
                self._optimizers[rule].state.pop(parameter, None)
                gone.add(id(parameter))
        for optimizer in self._optimizers.values():
            group = optimizer.param_groups[0]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]

    def copy_block(self, source: BlockId, block_id: BlockId) -> None:
        """Add a copy of an entry to the bank and to the optimizer: the same bits and the same moments.

        From then on the two are trained independently.

        Args:
            source: Id of the entry to copy. If it has no moments yet, the copy has none either.
            block_id: Id of the copy.

        Raises:
            BankError: If the optimizer does not hold ``source``, or the bank holds ``block_id``; nothing is changed.
        """
        if source not in self._entries:
            raise BankError(
                f"optimizer: expected one of its {len(self)} blocks to copy, got {source!r}; sync() adds what is "
                "new in the bank"
            )
        self.bank.copy(source, block_id)
        self.add([block_id])
        for name, (parameter, rule) in self._entries[block_id].items():
            states = self._optimizers[rule].state
            given = states.get(self._entries[source][name][0], {})
            if given:
                states[parameter] = {slot: value.detach().clone() for slot, value in given.items()}

    def sync(self) -> None:
        """Follow the bank: forget what it has forgotten, add what it has added (in its order)."""
        self.forget([block_id for block_id in self._entries if not self._current(block_id)])
        self.add([block_id for block_id in self.bank if block_id not in self._entries])

    def _current(self, block_id: BlockId) -> bool:
        """Whether the bank still holds these same tensors, not others under the same name."""
        if self.beside is not None and block_id == self.beside.name:
            return True
        if block_id not in self.bank:
            return False
        held = self.bank[block_id]
        return all(held.get(name) is parameter for name, (parameter, _) in self._entries[block_id].items())

    def __contains__(self, block_id: object) -> bool:
        return block_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def zero_grad(self) -> None:
        """Set every gradient to ``None``, so that a step moves only what has been used since."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def has_finite_gradients(self) -> bool:
        """Whether no gradient holds NaN or infinity; one pass over them, which changes none."""
        found: dict[torch.device, list[Tensor]] = {}
        for optimizer in self._optimizers.values():
            for parameter in optimizer.param_groups[0]["params"]:
                if parameter.grad is not None:
                    found.setdefault(parameter.device, []).append(parameter.grad)
        for device, gradients in found.items():
            bad, factor = torch.zeros((), device=device), torch.ones((), device=device)
            # what `torch.amp.GradScaler` calls; it also multiplies, here by one
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, bad, factor)
            if bad.item():
                return False
        return True

    @torch.no_grad()
    def step(self, lr_factor: float = 1.0, weight_decay_factor: float = 1.0) -> None:
        """Move every tensor that has a gradient.

        Args:
            lr_factor: Multiplies every rule's learning rate in this step.
            weight_decay_factor: Multiplies every rule's weight decay in this step.
        """
        for rule, optimizer in self._optimizers.items():
            group, decay = optimizer.param_groups[0], rule.weight_decay * weight_decay_factor
            group["lr"] = rule.lr * lr_factor
            group["weight_decay"] = decay
            if rule.optimizer == "sgd":
                _prepare_sgd(optimizer, decay if rule.decoupled else 0.0)
            optimizer.step()

    def slots(self, block_id: BlockId) -> list[Tensor]:
        """The trained tensors of an entry, each followed by its state, in a fixed order: what workers average.

        State that a tensor does not have yet is created as zeros, as a first step would.

        Raises:
            BankError: If the optimizer does not hold the entry.
        """
        if block_id not in self._entries:
            raise BankError(f"optimizer: expected one of its {len(self)} blocks, got {block_id!r}")
        found: list[Tensor] = []
        for parameter, rule in self._entries[block_id].values():
            state = self._optimizers[rule].state[parameter]
            names = sorted(_SLOTS[rule.optimizer]) if rule.optimizer != "sgd" or rule.momentum else []
            for name in names:
                if name not in state:
                    one = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    state[name] = one if name == "step" else torch.zeros_like(parameter).detach()
            found += [parameter, *(state[name] for name in names)]
        return found

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint stores.

        Returns:
            State tensors by ``"<block id>/<tensor name>/<slot>"``, for all tensors that have been moved (not copies: a
            later step changes them); and the rest as plain data for JSON.
        """
        tensors: dict[str, Tensor] = {}
        for block_id, entry in self._entries.items():
            for name, (parameter, rule) in entry.items():
                for slot, value in self._optimizers[rule].state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        tensors[f"{tensor_key(block_id, name)}/{slot}"] = value.detach()
        if self.beside is not None:
            stem = BlockId(self.beside.name)
            own = {f"{tensor_key(stem, name)}/{_WEIGHT}": one.detach() for name, one in self.beside.tensors.items()}
            tensors |= own
        return tensors, {"rules": {role: rule.to_dict() for role, rule in self.rules.items()}}

    def load_state(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
        """Continue from what `state` gave, bit for bit; the bank must hold the same entries.

        Args:
            tensors: State tensors by key.
            scalars: The rest, as plain data.

        Raises:
            RunError: If the state belongs to other rules or to tensors that are not here; nothing is changed.
        """
        rules = {role: rule.to_dict() for role, rule in self.rules.items()}
        if scalars.get("rules") != rules:
            raise RunError(
                "optimizer: expected a checkpoint made under the same rules, got one under other rules; "
                "resume with the recipe of the run"
            )
        found: dict[nn.Parameter, dict[str, Tensor]] = {}
        owner: dict[nn.Parameter, Rule] = {}
        weights: dict[nn.Parameter, Tensor] = {}
        for key, value in tensors.items():
            parameter, rule, slot = self._locate(key, value)
            if slot == _WEIGHT:
                weights[parameter] = value
                continue
            owner[parameter] = rule
            # memory layout must be the parameter's: the fused kernels walk memory, not indices
            copy = torch.empty_like(parameter, dtype=value.dtype) if slot != "step" else torch.empty_like(value)
            found.setdefault(parameter, {})[slot] = copy.copy_(value).detach()
        if self.beside is not None and len(weights) < len(self.beside.tensors):
            raise RunError(f"optimizer: expected the weights of {self.beside.name}, got some; it is damaged")
        with torch.no_grad():
            for parameter, value in weights.items():
                parameter.copy_(value)
        for optimizer in self._optimizers.values():
            optimizer.state.clear()
        for parameter, slots in found.items():
            self._optimizers[owner[parameter]].state[parameter] = slots

    def _locate(self, key: str, value: Tensor) -> tuple[nn.Parameter, Rule, str]:
        block_id, _, rest = key.partition("/")
        name, _, slot = rest.rpartition("/")
        entry = self._entries.get(BlockId(block_id), {})
        if name not in entry:
            raise RunError(f"optimizer: expected the state of a trained tensor of the bank, got {key!r}")
        parameter, rule = entry[name]
        good = value.dim() == 0 if slot == "step" else value.shape == parameter.shape
        beside = self.beside is not None and block_id == self.beside.name
        if (slot not in _SLOTS[rule.optimizer] and not (beside and slot == _WEIGHT)) or not good:
            raise RunError(
                f"optimizer: expected a state of {rule.optimizer} over a tensor of shape {list(parameter.shape)}, got "
                f"{key!r} of shape {list(value.shape)}; the checkpoint is damaged"
            )
        return parameter, rule, slot

    def __repr__(self) -> str:
        kinds = ", ".join(
            f"{rule.optimizer} lr={rule.lr:g} over {len(optimizer.param_groups[0]['params'])} tensors"
            for rule, optimizer in self._optimizers.items()
        )
        return f"<BankOptimizer: {len(self)} blocks; {kinds}>"
