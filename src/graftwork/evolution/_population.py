"""Population: members over one bank, with lineage."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork._html import table
from graftwork.errors import InputError
from graftwork.evolution.transforms import Growth
from graftwork.networks import Member, bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import Form
from graftwork.networks.genome import Genome, num_parameters
from graftwork.typing import BlockId, Initialisation, MemberId


@dataclass(frozen=True, slots=True)
class Birth:
    """One entry of the lineage.

    Args:
        id: Id of the member, given for life in order of birth.
        parent: Id of the member that it was grown from; ``None`` for a seed.
        transform: What was done to the parent, as a phrase; ``"seed"`` for a seed.
        generation: Number of the round in which it was born; 0 for a seed.
        genome: Genome of the member.
    """

    id: MemberId
    parent: MemberId | None
    transform: str
    generation: int
    genome: Genome


class Population:
    """Members over one bank, in order of birth; blocks that no member names any more are dropped.

    Args:
        bank: Owner of all weights; ``None``: a new, empty one.
        form: Form of every member's forward pass (see `bind`).

    Attributes:
        held: Blocks that stay though no member names them, as of a strategy that samples genomes over them.
    """

    def __init__(self, bank: BlockBank | None = None, *, form: Form = "fused") -> None:
        self.bank = BlockBank() if bank is None else bank
        self.form: Form = form
        self.lineage: list[Birth] = []
        self.held: tuple[BlockId, ...] = ()
        self._members: dict[MemberId, Member] = {}

    @property
    def members(self) -> Mapping[MemberId, Member]:
        """The living members, in order of birth."""
        return self._members

    @property
    def genomes(self) -> list[Genome]:
        """Genomes of the living members, in order of birth."""
        return [member.genome for member in self]

    def __getitem__(self, member_id: MemberId) -> Member:
        if member_id not in self._members:
            alive = ", ".join(self._members)
            raise InputError(f"population: expected a living member ({alive}), got {member_id!r}")
        return self._members[member_id]

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def birth(self, member_id: MemberId) -> Birth:
        """The lineage's entry for a member, alive or dead.

        Raises:
            InputError: If there was no such member.
        """
        for entry in self.lineage:
            if entry.id == member_id:
                return entry
        raise InputError(
            f"population: expected one of the {len(self.lineage)} members that were born, got {member_id!r}"
        )

    def _bear(self, genome: Genome, parent: MemberId | None, transform: str, generation: int) -> MemberId:
        member_id = MemberId(f"m{len(self.lineage)}")
        self.lineage.append(Birth(member_id, parent, transform, generation, genome))
        self._members[member_id] = bind(genome, self.bank, form=self.form)
        return member_id

    def add_seed(
        self,
        genome: Genome,
        *,
        generator: torch.Generator,
        initialisation: Initialisation = "twin",
        images: Tensor | None = None,
    ) -> MemberId:
        """Add a member that has no parent.

        Args:
            genome: Genome of the member; entries that the bank holds are shared, the others are added.
            generator: Source of the new weights.
            initialisation: How the seed's blocks begin (see `grow_bank`).
            images: Normalised images [N, C, H, W], for a new whitening stem; ``None`` for other stems.

        Returns:
            The id of the new member.
        """
        grow_bank(self.bank, genome, generator=generator, initialisation=initialisation, images=images)
        return self._bear(genome, None, "seed", 0)

    def graft(self, parent: MemberId, growth: Growth, *, generator: torch.Generator, generation: int = 0) -> MemberId:
        """Add a child. It shares every block of its parent and, until calibrated, its statistics.

        Args:
            parent: Id of a living member.
            growth: Growth of the parent's genome.
            generator: Source of the new weights.
            generation: Number of the round, for the lineage.

        Returns:
            The id of the child.

        Raises:
            InputError: If the growth does not start from this parent's genome.
        """
        source = self[parent]
        if growth.parent != source.genome:
            raise InputError(
                f"population: expected a growth of {parent}, {source.genome!r}, got one of {growth.parent!r}"
            )
        growth.graft(self.bank, generator=generator)
        child = self._bear(growth.child, parent, growth.transform, generation)
        self._members[child].share_statistics(source)
        return child

    def adopt(self, genome: Genome, *, parent: MemberId | None, transform: str, generation: int = 0) -> MemberId:
        """Add a member over blocks that the bank holds.

        Args:
            genome: Genome of the member.
            parent: Id of a member, alive or dead, that it comes from; ``None``: from none.
            transform: How it came about, as a phrase for the lineage.
            generation: Number of the round, for the lineage.

        Returns:
            The id of the new member.

        Raises:
            BankError: If the bank lacks one of its blocks.
        """
        return self._bear(genome, parent, transform, generation)

    def keep(self, member_ids: Iterable[MemberId]) -> tuple[BlockId, ...]:
        """Drop all other members, and the blocks that only they named.

        Args:
            member_ids: Members to keep, at least one.

        Returns:
            Ids of the dropped blocks.

        Raises:
            InputError: If one of the ids is not alive, or none is given.
        """
        wanted = {member_id: self[member_id] for member_id in member_ids}
        if not wanted:
            raise InputError("population: expected at least one member to keep, got none")
        self._members = {member_id: m for member_id, m in self._members.items() if member_id in wanted}
        used = {block_id for member in self for block_id in member.genome.ids} | set(self.held)
        dropped = tuple(block_id for block_id in self.bank if block_id not in used)
        self.bank.forget(dropped)
        return dropped

    def to(self, device: torch.device | str) -> "Population":
        """Move weights and statistics, in place; returns the population."""
        self.bank.to(device)
        for member in self:
            member.to(device)
        return self

    def ancestors(self, member_id: MemberId) -> Sequence[Birth]:
        """Lineage from the seed to a member, both included."""
        line = [self.birth(member_id)]
        while (parent := line[-1].parent) is not None:
            line.append(self.birth(parent))
        return line[::-1]

    @classmethod
    def restore(
        cls,
        bank: BlockBank,
        lineage: Iterable[Birth],
        statistics: Mapping[MemberId, Mapping[BlockId, tuple[Tensor, Tensor]]],
        *,
        form: Form = "fused",
    ) -> "Population":
        """Build the population that a checkpoint describes.

        Args:
            bank: Owner of all weights.
            lineage: All births, in order.
            statistics: Statistics of each living member by block (maybe none); all other members are dead.
            form: Form of every member's forward pass.
        """
        population = cls(bank, form=form)
        population.lineage = list(lineage)
        for member_id, values in statistics.items():
            member = bind(population.birth(member_id).genome, bank, form=form)
            member.statistics.update(values)
            population._members[member_id] = member
        return population

    def __repr__(self) -> str:
        return f"<Population: {len(self)} members, {self.bank!r}>"

    def _repr_html_(self) -> str:
        births = [self.birth(member_id) for member_id in self._members]
        rows = [(one.id, one.parent or "", one.transform, f"{num_parameters(one.genome):,}") for one in births]
        return table(repr(self), ("member", "parent", "transform", "parameters"), rows)
