"""Many members as one model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from graftwork.ensembles._combiners import Combiner
from graftwork.errors import InputError


class Ensemble(nn.Module):
    """Members and a combiner, as one module that predicts.

    Members are frozen: they always run in evaluation mode and without gradients. Only the combiner follows
    ``train()`` and ``requires_grad_()``.

    Args:
        members: K callables from images [B, C, H, W] to outputs [B, features]; modules among them are registered, so
            that ``to`` and ``state_dict`` reach them.
        combiner: Combiner from outputs [B, K, features] to log-probabilities [B, classes].
        run_all: Function that computes what the members compute, [B, C, H, W] to [B, K, features], with shared work
            done once. None: members run one after the other.

    Raises:
        InputError: If there are no members.
    """

    def __init__(
        self,
        members: Sequence[Callable[[Tensor], Tensor]],
        combiner: Combiner,
        *,
        run_all: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not members:
            raise InputError("members: expected at least one member, got none")
        self._calls = tuple(members)
        self._run_all = run_all
        self.members = nn.ModuleList([member for member in members if isinstance(member, nn.Module)])
        self.combiner = combiner
        self.eval()

    @property
    def num_members(self) -> int:
        """K."""
        return len(self._calls)

    def train(self, mode: bool = True) -> "Ensemble":
        """Set the combiner's mode; members stay in evaluation mode."""
        super().train(mode)
        self.members.eval()
        return self

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Tensor:
        """Run the members on [B, C, H, W]; returns [B, K, features]."""
        if self._run_all is not None:
            return self._run_all(images)
        return torch.stack([call(images) for call in self._calls], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities [B, classes] of images [B, C, H, W]."""
        result: Tensor = self.combiner(self.outputs(images))
        return result

    @torch.no_grad()
    def predict_probabilities(self, images: Tensor) -> Tensor:
        """Return probabilities [B, classes] of images [B, C, H, W]."""
        log_probabilities: Tensor = self(images)
        return log_probabilities.exp()
