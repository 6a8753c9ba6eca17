"""What a fit leaves: JSON and safetensors, and the networks that are made of them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.ensembles import Combiner, combiner_from, describe_combiner
from graftwork.evolution import SearchState
from graftwork.networks import Member
from graftwork.networks.execution import InputTransform, using_kernels, walk
from graftwork.networks.genome import Genome
from graftwork.runs import pack_state, unpack_state
from graftwork.session import Setup
from graftwork.typing import MemberId

_MOST_PIXELS, _MOST_ROWS = 2**22, 256
_COMBINER = "combiner:"


class Fitted:
    """Networks that classify rows or images.

    Only its data and tensors are pickled: text and bytes, of which the networks are made again.

    Args:
        data: Plain data, as `pack_fit` makes them.
        tensors: Their tensors, in the safetensors format.
    """

    def __init__(self, data: Mapping[str, Any], tensors: bytes) -> None:
        self.data = dict(data)
        self.tensors = tensors
        state = self.state()
        if self.is_table:  # in double precision a row's result does not depend on the rows beside it
            state.population.bank.to(dtype=torch.float64)
        self._members: list[Member] = [state.population[MemberId(name)].eval() for name in self.data["members"]]
        for member in self._members if self.is_table else ():
            member.statistics.update({i: (mean.double(), var.double()) for i, (mean, var) in member.statistics.items()})
        self._combiner: Combiner | None = None
        if self.data["combiner"] is not None:
            stored = self._stored()
            own = {name.removeprefix(_COMBINER): stored[name] for name in stored if name.startswith(_COMBINER)}
            self._combiner = combiner_from(self.data["combiner"], own).double()

    def __getstate__(self) -> dict[str, Any]:
        return {"data": json.dumps(self.data), "tensors": self.tensors}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(json.loads(state["data"]), state["tensors"])  # type: ignore[misc]

    @property
    def is_table(self) -> bool:
        """Whether rows of a table are classified, rather than images."""
        return bool(self.data["table"])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the networks read."""
        channels, height, width = self.data["search"]["lineage"][0]["genome"]["input_shape"]
        return channels, height, width

    @property
    def genomes(self) -> list[Genome]:
        """Architectures of the networks that predict."""
        return [member.genome for member in self._members]

    def state(self) -> SearchState:
        """The search as it was when it ended, to go on from."""
        return unpack_state(self.data["search"], self._stored())

    def _stored(self) -> dict[str, Tensor]:
        return {
            name: tensor if tensor.dim() < 4 else tensor.contiguous(memory_format=torch.channels_last)
            for name, tensor in safetensors.torch.load(self.tensors).items()
        }

    def network_input(self, values: NDArray[Any]) -> Tensor:
        """Normalise rows, float64 [N, 1, 1, C], or images, uint8 or float32 [N, H, W, C]: float [N, C, H, W]."""
        mean, std = self.data["mean"], self.data["std"]
        if self.is_table:
            return torch.from_numpy((values - mean) / std).permute(0, 3, 1, 2)
        return InputTransform(tuple(mean), tuple(std))(torch.from_numpy(np.array(values)))

    @torch.inference_mode()
    def probabilities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Probabilities, float64 [N, classes], of values as `network_input` takes them."""
        _, height, width = self.input_shape
        size = max(1, min(_MOST_ROWS, _MOST_PIXELS // (height * width)))
        with using_kernels(None):
            parts = [self._log_probabilities(values[start : start + size]) for start in range(0, len(values), size)]
        found: NDArray[np.float64] = torch.cat(parts).softmax(1).numpy()
        return found

    def _log_probabilities(self, values: NDArray[Any]) -> Tensor:
        x = self.network_input(values)
        outputs = {index: logits.double() for index, logits in walk(self._members, x, "evaluate")}
        if self._combiner is None:
            return outputs[0]
        together: Tensor = self._combiner(torch.stack([outputs[index] for index in range(len(outputs))], dim=1))
        return together


def pack_fit(
    setup: Setup,
    *,
    members: list[str],
    combiner: Combiner | None,
    mean: list[float],
    std: list[float],
    **more: Any,
) -> Fitted:
    """Keep of a finished search what predicts, and what a warm start goes on from.

    Args:
        setup: The search.
        members: Ids of the members that predict.
        combiner: What makes one prediction of theirs; ``None`` for one member.
        mean: Mean of each channel or feature, as it was taken off.
        std: What it was divided by.
        more: Further plain data.
    """
    search, tensors = pack_state(setup.state, setup.trainer.optimizer, setup.strategy)
    kept = {name: value for name, value in tensors.items() if name.startswith(("bank:", "statistics:"))}
    if combiner is not None:
        kept |= {f"{_COMBINER}{name}": value for name, value in combiner.state_dict().items()}
    search = {name: value for name, value in search.items() if name not in ("optimizer", "strategy")}
    described = None if combiner is None else describe_combiner(combiner)
    data = {"search": search, "members": members, "combiner": described, "mean": mean, "std": std, **more}
    whole = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in kept.items()}
    return Fitted(data, safetensors.torch.save(whole))
