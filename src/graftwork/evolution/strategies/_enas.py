"""Efficient neural architecture search (Pham et al. 2018): a controller samples networks over one bank of blocks."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.strategies._common import DRAWING, NOTHING, SELECTING, best_members, generator_from
from graftwork.evolution.strategies._controller import (
    ALONE,
    adam,
    made,
    picked,
    restored,
    spread,
    stored,
    weights_flops,
)
from graftwork.evolution.strategies._space import Space
from graftwork.evolution.transforms import Growth
from graftwork.networks import bind
from graftwork.networks.bank import grow_bank
from graftwork.networks.execution import shared_flops
from graftwork.networks.genome import Genome
from graftwork.training import Evaluation
from graftwork.typing import Initialisation, MemberId

_AGAIN = 16
"""Samples at a time where the first ones broke a limit."""


class Controller(nn.Module):
    """One LSTM of 64 units that chooses an option at each slot, told the one before.

    Args:
        num_options: Number of options at every slot.
    """

    def __init__(self, num_options: int, units: int = 64) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1, units))
        self.embedding = nn.Parameter(torch.zeros(num_options, units))
        self.cell = nn.LSTMCell(units, units, bias=False)
        self.out = nn.Parameter(torch.zeros(units, num_options))

    def logits(self, x: Tensor, state: tuple[Tensor, Tensor] | None, allowed: Tensor) -> tuple[Tensor, Any]:
        """Logits [n, options] at one slot, within ±1.5, and the cell's state."""
        hidden, memory = self.cell(x, state)
        logits = 1.5 * torch.tanh(hidden @ self.out)
        return logits.masked_fill(~allowed, float("-inf")), (hidden, memory)

    @torch.no_grad()
    def sample(self, allowed: Tensor, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Sample options, int64 [count, slots]; ``allowed`` is bool [slots, options]."""
        x, state, found = self.first.expand(count, -1), None, []
        for slot in allowed:
            logits, state = self.logits(x, state, slot)
            found.append(picked(logits, rng))
            x = self.embedding[torch.from_numpy(found[-1])]
        return np.stack(found, axis=1)

    def judged(self, allowed: Tensor, choices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Log-probability of each sample [n], and the entropy of the distributions that it came from [n]."""
        options = torch.from_numpy(choices)
        x, state = self.first.expand(len(options), -1), None
        total, entropy = torch.zeros(len(options)), torch.zeros(len(options))
        for slot, chosen in zip(allowed, options.T, strict=True):
            logits, state = self.logits(x, state, slot)
            logs = torch.log_softmax(logits, dim=1)
            total = total + logs.gather(1, chosen[:, None])[:, 0]
            entropy = entropy - (logs.exp() * logs.masked_fill(~slot, 0)).sum(1)
            x = self.embedding[chosen]
        return total, entropy


class Enas:
    """ENAS on the bank (Pham et al. 2018, arXiv 1802.03268).

    The bank holds every block of a `Space`; each update trains one network that the controller samples. Between rounds
    the controller learns by REINFORCE: the reward is the accuracy on one validation batch, by the batch's own
    statistics, and 1e-4 of the entropy; the baseline is a moving mean. The population is a sample, scored at the end of
    a round, of which the best survive. When a third of the rounds is left, the best network of the survivors and a last
    sample is final, and trains on alone.

    Args:
        mutate: The limits that networks keep.
        initialisation: How blocks begin.
        num_updates: Updates of the controller before a round, at most.
        num_samples: Networks in each of them.
        batch_size: Validation images that they are tried on.
        most_share: Share of a round's FLOPs that the controller may take.
    """

    recipe: ClassVar[Mapping[str, Any]] = {"num_generations": 5, "initial_fraction": 0.17}
    alone: ClassVar[str] = ALONE
    ignores: ClassVar[frozenset[str]] = (
        SELECTING | DRAWING | {"random_padding", "min_shared_fraction", "hidden_multiple"}
    )

    def __init__(
        self,
        *,
        mutate: R2RMutation,
        initialisation: Initialisation = "random",
        num_updates: int = 50,
        num_samples: int = 20,
        batch_size: int = 128,
        most_share: float = 1 / 3,
    ) -> None:
        self.mutate = mutate
        self.initialisation: Initialisation = initialisation
        self.num_updates, self.num_samples, self.batch_size = num_updates, num_samples, batch_size
        self.most_share = most_share
        self.controller = made(lambda: Controller(Space.num_options))
        self.optimizer = adam(self.controller, lr=1e-3, betas=(0.0, 0.999), eps=1e-3)
        self._known: Space | None = None
        self._baseline: float | None = None
        self._final: MemberId | None = None
        self._owed = 0  # FLOPs of samples that were drawn and are not paid for yet
        self._seen = 0  # training FLOPs of the search when the controller learned last

    def draw(self, state: SearchState, count: int) -> Sequence[MemberId | Genome]:
        """Sample a network for each update; the final one when it is found."""
        if self._final is not None:
            return [self._final] * count
        return [genome for _, genome in self._samples(state, count)]

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Keep the best samples."""
        return best_members(state, evaluation, count)

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Build the bank first; later teach the controller, and sample members, or settle on the final network."""
        if self._final is not None:
            return NOTHING
        population = state.population
        if state.generation == 0:
            self._begin(state)
        else:
            self._learn(state, now)
        taken, born = set(population.genomes) if state.generation else set[Genome](), list[MemberId]()
        for _ in range(now.size + _AGAIN):
            if len(taken) == now.size:
                break
            ((_, genome),) = self._samples(state, 1)
            if now.flops is not None and 4 * now.scorer.flops([*taken, genome]) > now.flops:
                if taken:
                    break  # most of the round is for training
                continue
            if genome not in taken:
                born.append(self._adopt(state, genome))
                taken.add(genome)
        if not taken:
            born.append(self._adopt(state, self._space(state).smallest[1]))
        state.scoring_flops, self._owed = state.scoring_flops + self._owed, 0
        if state.generation == 0:
            population.keep(born)  # the seed's own layers are no part of the space
        elif 3 * (now.rounds_after + 1) <= state.generation + now.rounds_after + 1 or now.rounds_after == 0:
            self._settle(state, now)
        return MutationReport(tuple(born), {}, saturated=len(population) < now.size)

    def _adopt(self, state: SearchState, genome: Genome) -> MemberId:
        text = "sampled by the controller"
        return state.population.adopt(genome, parent=None, transform=text, generation=state.generation)

    def _begin(self, state: SearchState) -> None:
        spread(dict(self.controller.named_parameters()), {"": 0.1}, generator=generator_from(state.rng))
        whole, generator = self._space(state).whole, generator_from(state.rng)
        grow_bank(state.population.bank, whole, generator=generator, initialisation=self.initialisation)
        state.population.held = whole.ids

    def _space(self, state: SearchState) -> Space:
        seed = state.population.lineage[0].genome
        if self._known is None or self._known.seed is not seed:
            self._known = Space(seed)
        return self._known

    def _samples(self, state: SearchState, count: int) -> list[tuple[NDArray[np.int64], Genome]]:
        """Sample networks that keep all limits: their options [slots], and what they make."""
        space, held = self._space(state), state.population.bank.num_parameters if self.mutate.memory else 0
        found, tries = list[tuple[NDArray[np.int64], Genome]](), 0
        while len(found) < count and tries < self.mutate.max_rejections:
            wanted = count - len(found) if tries == 0 else max(_AGAIN, count - len(found))
            self._owed += weights_flops(self.controller, steps=wanted * len(space.allowed), training=False)
            for choices in self.controller.sample(space.allowed, wanted, state.rng):
                genome = space.genome(choices)
                if self.mutate.broken_limit(Growth(space.seed, genome, ""), held, new=True) is None:
                    found.append((choices, genome))
            tries += wanted
        return [*found, *[space.smallest] * (count - len(found))][:count]

    def _learn(self, state: SearchState, now: Round) -> None:
        """REINFORCE, for as many updates as their share of the round's FLOPs allows."""
        space, spent = self._space(state), self._owed
        usual = state.training_flops - self._seen if now.flops is None else now.flops
        batch = min(self.batch_size, now.scorer.num_images)
        own = weights_flops(self.controller, steps=self.num_samples * len(space.allowed), training=True)
        for _ in range(self.num_updates):
            self._owed = 0
            choices, genomes = zip(*self._samples(state, self.num_samples), strict=True)
            tried = list(dict.fromkeys(genomes))
            cost = self._owed + own + shared_flops(tried) * batch
            if spent + cost > self.most_share * usual:
                spent += self._owed
                break
            rows = np.sort(state.rng.choice(now.scorer.num_images, batch, replace=False)).astype(np.int64)
            right = now.scorer.glance([bind(genome, state.population.bank) for genome in tried], rows).mean(axis=1)
            accuracy = dict(zip(tried, right.tolist(), strict=True))
            self._update(space.allowed, np.stack(choices), [accuracy[genome] for genome in genomes])
            spent += cost
        state.scoring_flops += spent
        self._owed, self._seen = 0, state.training_flops

    def _update(self, allowed: Tensor, choices: NDArray[np.int64], accuracies: list[float]) -> None:
        logs, entropy = self.controller.judged(allowed, choices)
        rewards = torch.tensor(accuracies) + 1e-4 * entropy.detach()
        if self._baseline is None:
            self._baseline = float(rewards.mean())
        leads = []
        for reward in rewards.tolist():  # the baseline is moved first, as in the published code
            self._baseline += 0.01 * (reward - self._baseline)
            leads.append(reward - self._baseline)
        self.optimizer.zero_grad()
        torch.autograd.backward([-(logs * torch.tensor(leads)).mean()])
        self.optimizer.step()

    def _settle(self, state: SearchState, now: Round) -> None:
        """Make the best member the final network: scored for it, unless that took a quarter of the round."""
        population = state.population
        known = [member for member in population.members if member in state.accuracies]
        if now.flops is None or 4 * now.scorer.flops(population.genomes) < now.flops or not known:
            evaluation = now.scorer.evaluate(list(population))
            state.scoring_flops += evaluation.flops
            (self._final,) = best_members(state, evaluation, 1)
        else:
            self._final = max(known, key=state.accuracies.__getitem__)
        population.held = ()
        population.keep([self._final])

    def state_dict(self) -> dict[str, Any]:
        """Keep the controller, its baseline, what it owes, and the final network."""
        own = {"baseline": self._baseline, "final": self._final, "owed": self._owed, "seen": self._seen}
        return {**stored(self.controller, self.optimizer), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the same controller."""
        restored(self.controller, self.optimizer, state)
        self._baseline = None if state["baseline"] is None else float(state["baseline"])
        self._final = None if state["final"] is None else MemberId(state["final"])
        self._owed, self._seen = int(state["owed"]), int(state["seen"])
