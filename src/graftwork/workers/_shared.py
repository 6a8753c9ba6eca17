"""Trainers and a scorer whose work is shared by all ranks; training is shared in either of two ways."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork.errors import ConfigError
from graftwork.networks import Member
from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import Genome
from graftwork.training import Evaluation, Outcome, Scorer, Trainer, Update, most_parts, part_of
from graftwork.typing import BlockId
from graftwork.workers._averaging import add_up, average
from graftwork.workers._deal import Job, deal, deal_scoring, scoring_flops
from graftwork.workers._group import Group


class _Together:
    """What the trainers that share their work have in common."""

    def __init__(self, trainer: Trainer, group: Group) -> None:
        self.trainer = trainer
        self.group = group

    @property
    def batch_size(self) -> int:
        """Number of images in an update."""
        return self.trainer.batch_size

    @property
    def extra_flops(self) -> int:
        """As of the trainer."""
        return self.trainer.extra_flops

    @torch.no_grad()
    def sync(self) -> None:
        """Follow the bank; all ranks take new entries from rank 0, in case machines rounded differently."""
        bank = self.trainer.optimizer.bank
        new = [block_id for block_id in bank if block_id not in self.trainer.optimizer]
        self.trainer.sync()
        for _, parameter, _ in bank.parameters(new):
            values = self.group.spread(parameter.detach().contiguous())
            parameter.copy_(values)


class DataParallelTrainer(_Together):
    """Makes every update on all ranks: each finds the gradients of its part of the batch, and all move by their mean.

    Draws, batches and the number of updates are those of one worker. Results differ from those of one worker by
    rounding and by norms, which take their statistics from a rank's part of the batch (as with
    `torch.nn.parallel.DistributedDataParallel`).

    Args:
        trainer: Trainer of this rank.
        group: The ranks.

    Raises:
        ConfigError: If a batch has not two images for every rank.
    """

    def __init__(self, trainer: Trainer, group: Group) -> None:
        super().__init__(trainer, group)
        self.updates_at_once = 1
        self._part = part_of(trainer.batch_size, group.rank, group.size)

    def run(self, updates: Sequence[Update]) -> Outcome:
        """Make updates one after the other; one is skipped on all ranks where it would be on one."""
        mine, share = 0.0, (self._part.stop - self._part.start) / self.batch_size
        skipped = set[int]()
        for index, update in enumerate(updates):
            loss = self.trainer.gradients(update, self._part)
            bound = {tensor: None for member in update.members for tensor in member.parameters_by_key().values()}
            gradients = [tensor.grad for tensor in bound if tensor.grad is not None]
            add_up(gradients, [share] * len(gradients), self.group)
            if self.trainer.move(update):  # all ranks see the same sum
                mine += loss * share
            else:
                skipped.add(index)
        (total,) = self.group.agree_to_stop(mine)
        return Outcome(total, frozenset(skipped))


class LocalStepsTrainer(_Together):
    """Deals the updates of a stretch to the ranks, then averages the blocks that they touched (see `average`).

    A stretch is ``sync_every`` updates for each rank on average; all ranks draw the same one. Update *n* trains on
    batch *n* on whichever rank it is made, so ranks never repeat each other's batches.

    Where a stretch trains fewer members than there are ranks, as in the first round, several ranks would train the same
    network at once. Then every batch is shared instead (see `DataParallelTrainer`), if it has two images for every
    rank.

    Args:
        trainer: Trainer of this rank.
        group: The ranks.
        sync_every: Number of updates that a rank makes between two averagings, on average.

    Raises:
        ConfigError: If ``sync_every`` is below 1.
    """

    def __init__(self, trainer: Trainer, group: Group, *, sync_every: int) -> None:
        if sync_every < 1:
            raise ConfigError(f"sync_every: expected an integer >= 1, got {sync_every!r}")
        super().__init__(trainer, group)
        self.updates_at_once = sync_every * group.size
        self._sharing = DataParallelTrainer(trainer, group) if group.size <= most_parts(trainer.batch_size) else None

    def run(self, updates: Sequence[Update]) -> Outcome:
        """Make this rank's share of the updates, and combine all shares."""
        trained = {id(member) for update in updates for member in update.members}
        if self._sharing is not None and len(trained) < self.group.size:
            return self._sharing.run(updates)
        hands = self._deal(updates)
        rows = [row for row, rank in enumerate(hands) if rank == self.group.rank]
        mine = self.trainer.run([updates[row] for row in rows])
        failed = {rows[index] for index in mine.skipped}
        loss, *flags = self.group.agree_to_stop(mine.loss, *(float(row in failed) for row in range(len(updates))))
        skipped = frozenset(row for row, flag in enumerate(flags) if flag)
        counts: list[Counter[BlockId]] = [Counter() for _ in range(self.group.size)]
        for row, (update, rank) in enumerate(zip(updates, hands, strict=True)):
            if row not in skipped:
                counts[rank].update({i for member in update.members for i in member.genome.ids})
        average(self.trainer.optimizer, counts, self.group)
        return Outcome(loss, skipped)

    def _deal(self, updates: Sequence[Update]) -> list[int]:
        numbers: dict[int, int] = {}
        keys = [numbers.setdefault(id(update.members[0]), len(numbers)) for update in updates]
        costs = [shared_flops([member.genome for member in update.members]) for update in updates]
        return deal(keys, costs, self.group.size)


def train_together(trainer: Trainer, group: Group, sync_every: int) -> DataParallelTrainer | LocalStepsTrainer:
    """Make a trainer that does its rank's share of the work.

    Args:
        trainer: Trainer of this rank.
        group: The ranks.
        sync_every: Number of updates that a rank makes between two averagings; 0: every batch is shared.

    Raises:
        ConfigError: If a batch is too small to be shared, or ``sync_every`` is below 0.
    """
    if sync_every == 0:
        return DataParallelTrainer(trainer, group)
    return LocalStepsTrainer(trainer, group, sync_every=sync_every)


class SharedScorer:
    """Scores on all ranks, split by member and by batches of images; equal to the bit to scoring on one rank.

    Running statistics are made by the ranks that need them and stay there, as every scoring makes them again.

    Args:
        scorer: Scorer of this rank.
        group: The ranks.
    """

    def __init__(self, scorer: Scorer, group: Group) -> None:
        self.scorer = scorer
        self.group = group

    def _jobs(self, genomes: Sequence[Genome]) -> list[list[Job]]:
        scorer = self.scorer
        return deal_scoring(genomes, num_images=scorer.num_images, batch_size=scorer.batch_size, size=self.group.size)

    def evaluate(self, members: Sequence[Member]) -> Evaluation:
        """What each member says about every example, on all ranks (see `Scorer.evaluate`)."""
        genomes = [member.genome for member in members]
        shape = len(members), self.scorer.num_images
        predicted = torch.zeros(shape, dtype=torch.int64)
        likelihoods = torch.zeros(shape)
        for job in self._jobs(genomes)[self.group.rank]:
            part = slice(job.start, job.stop)
            found = self.scorer.shard(part).evaluate([members[row] for row in job.rows])
            predicted[list(job.rows), part] = torch.from_numpy(found.predicted)
            likelihoods[list(job.rows), part] = torch.as_tensor(found.log_likelihoods)
        self.group.add(predicted)
        said = self.group.add(likelihoods).numpy()
        return Evaluation(predicted.numpy(), self.scorer.labels, self.flops(genomes), self.scorer.metric, said)

    @property
    def num_images(self) -> int:
        """Number of images to score on."""
        return self.scorer.num_images

    def glance(self, members: Sequence[Member], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """What members get right of a few examples (see `Scorer.glance`); every rank looks itself."""
        return self.scorer.glance(members, rows)

    def flops(self, genomes: Sequence[Genome]) -> int:
        """FLOPs of all ranks together; what two ranks both compute counts twice."""
        return scoring_flops(genomes, self._jobs(genomes), num_calibration=self.scorer.num_calibration)
