"""Architecture search by network transformation (Cai et al. 2018): a policy learns how to widen and to deepen."""

from collections.abc import Mapping, Sequence
from math import pi, sqrt, tan
from typing import Any, ClassVar

import numpy as np
import torch

from graftwork.evolution._state import Round, SearchState
from graftwork.evolution.mutation import MutationReport, R2RMutation
from graftwork.evolution.strategies._actors import Kind, Policy, tokens_of, transforms_of
from graftwork.evolution.strategies._common import (
    DRAWING,
    NOTHING,
    SELECTING,
    best_members,
    drawn_evenly,
    generator_from,
)
from graftwork.evolution.strategies._controller import ALONE, adam, made, restored, spread, stored, weights_flops
from graftwork.evolution.transforms import Growth, compose
from graftwork.networks.genome import Genome, Layer
from graftwork.training import Evaluation
from graftwork.typing import MemberId

_MOST_ACCURATE = 0.995
"""Accuracy above which the reward, whose tangent has no bound, grows no further."""

Action = tuple[list[int], Kind, list[int]]
"""Tokens of a network, the actor, and what it chose."""


class TransformationRL:
    """Reinforcement learning of growth (EAS, Cai et al. 2018, arXiv 1707.04873), by R2RWiden and R2RDeepen.

    A round is an episode: the policy grows the best network so far into children, each by ``wider_steps`` actions of
    the wider actor and then ``deeper_steps`` of the deeper one. Children share the parent's blocks, members train
    jointly, and the best survive. The reward is tan(accuracy · π/2) minus the moving mean of earlier rounds.

    Args:
        mutate: The limits that children keep.
        wider_steps: Actions of the wider actor for each child; each may widen several layers.
        deeper_steps: Actions of the deeper actor for each child, one new layer each.
    """

    alone: ClassVar[str] = ALONE
    ignores: ClassVar[frozenset[str]] = SELECTING | DRAWING | {"random_padding", "hidden_multiple"}

    def __init__(self, *, mutate: R2RMutation, wider_steps: int = 1, deeper_steps: int = 1) -> None:
        self.mutate = mutate
        steps: Mapping[Kind, int] = {"wider": wider_steps, "deeper": deeper_steps}
        self.kinds = [kind for kind, count in steps.items() for _ in range(count)]
        self.policy = made(Policy)
        self.optimizer = adam(self.policy, lr=2e-3)
        self._baseline: float | None = None
        self._episode: list[tuple[MemberId, list[Action]]] = []

    def draw(self, state: SearchState, count: int) -> Sequence[MemberId]:
        """Draw members uniformly, with replacement."""
        return drawn_evenly(state, count)

    def survivors(self, state: SearchState, evaluation: Evaluation, count: int) -> tuple[MemberId, ...]:
        """Keep the best."""
        return best_members(state, evaluation, count)

    def propose(self, state: SearchState, now: Round) -> MutationReport:
        """Learn from the round before, then grow the best member; the first round trains the seed."""
        population = state.population
        if state.generation == 0:
            limits = {"embedding": sqrt(3), "told": sqrt(3), "encoder": 1 / sqrt(50), "": 0.1}
            spread(dict(self.policy.named_parameters()), limits, generator=generator_from(state.rng))
            return NOTHING
        most = None if now.flops is None else state.scoring_flops + now.flops / 4
        self._learn(state, most)
        start, born, rejected, in_a_row = state.survivors[0], list[MemberId](), dict[str, int](), 0
        known = {_shape(member.genome): name for name, member in population.members.items()}
        places = now.size - len(population)
        while places > 0 and in_a_row < self.mutate.max_rejections:
            if most is not None and state.scoring_flops + self._cost(population[start].genome) > most:
                break
            growth, actions = self._grown(state, population[start].genome)
            name = known.get(shape := _shape(growth.child))
            if name is None:
                if broken := self.mutate.broken_limit(growth, population.bank.num_parameters):
                    rejected[broken], in_a_row = rejected.get(broken, 0) + 1, in_a_row + 1
                    continue
                generator = generator_from(state.rng)
                name = population.graft(start, growth, generator=generator, generation=state.generation)
                born.append(name)
                known[shape] = name
            self._episode.append((name, actions))  # the same network again takes the score of the first
            places, in_a_row = places - 1, 0
        return MutationReport(tuple(born), rejected, saturated=places > 0)

    def _cost(self, genome: Genome) -> int:
        """FLOPs of sampling a child, at most: each action may add a token."""
        steps = len(self.kinds) * (len(genome.body) + 1 + len(self.kinds))
        return weights_flops(self.policy, steps=steps, training=False)

    @torch.no_grad()
    def _grown(self, state: SearchState, start: Genome) -> tuple[Growth, list[Action]]:
        growth, actions = Growth(start, start, "nothing"), list[Action]()
        for kind in self.kinds:
            tokens = tokens_of(growth.child)
            choices, _, _ = self.policy.act(tokens, kind, rng=state.rng)
            state.scoring_flops += weights_flops(self.policy, steps=len(tokens), training=False)
            actions.append((tokens, kind, choices))
            if transforms := transforms_of(growth.child, kind, choices):
                step = compose(*transforms)(growth.child, rng=state.rng)
                before = "" if growth.child == start else f"{growth.transform}; "
                growth = Growth(start, step.child, before + step.transform, noise=self.mutate.noise)
        return growth, actions

    def _learn(self, state: SearchState, most: float | None) -> None:
        """One REINFORCE update from the actions of the round before, if there are FLOPs for it up to ``most``."""
        seen = [(state.accuracies[name], actions) for name, actions in self._episode if name in state.accuracies]
        self._episode = []
        steps = sum(len(tokens) for _, actions in seen for tokens, _, _ in actions)
        cost = weights_flops(self.policy, steps=steps, training=True)
        if not seen or (most is not None and state.scoring_flops + cost > most):
            return
        state.scoring_flops += cost
        rewards = [tan(min(accuracy, _MOST_ACCURATE) * pi / 2) for accuracy, _ in seen]
        baseline = float(np.mean(rewards)) if self._baseline is None else self._baseline
        self.optimizer.zero_grad()
        for reward, (_, actions) in zip(rewards, seen, strict=True):
            for tokens, kind, choices in actions:
                _, log, entropy = self.policy.act(tokens, kind, choices=choices)
                torch.autograd.backward([-(log * (reward - baseline) + 1e-5 * entropy) / len(seen)])
        self.optimizer.step()
        self._baseline = 0.95 * baseline + 0.05 * float(np.mean(rewards))

    def state_dict(self) -> dict[str, Any]:
        """Keep the policy, its baseline, and the actions that wait for their reward."""
        episode = [[name, [list(action) for action in actions]] for name, actions in self._episode]
        return {**stored(self.policy, self.optimizer), "baseline": self._baseline, "episode": episode}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the same policy."""
        restored(self.policy, self.optimizer, state)
        self._baseline = None if state["baseline"] is None else float(state["baseline"])
        self._episode = [
            (MemberId(name), [(list(tokens), kind, list(choices)) for tokens, kind, choices in actions])
            for name, actions in state["episode"]
        ]


def _shape(genome: Genome) -> tuple[object, ...]:
    """What a network is, whatever its blocks are called."""
    return tuple(
        (item.out_channels, *sorted((b.kernel_size, b.hidden_channels, b.start, b.stop) for b in item.blocks))
        if isinstance(item, Layer)
        else item
        for item in genome.body
    )
