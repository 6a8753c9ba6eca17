"""Trunk: a pretrained network from images to feature maps."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graftwork.errors import ConfigError, RunError
from graftwork.typing import Shape


class Trunk(nn.Module):
    """A pretrained network from images to feature maps, always in evaluation mode; frozen until `unfreeze`.

    Args:
        name: What ``--trunk`` said.
        module: Network from images to maps [B, C, h, w], tokens [B, n, C] (those in front of the largest square are
            left out) or vectors [B, C].
        origin: What the network was made from beside its weights, for the hash: a config, or source text.
        mean: Mean of each channel by which images are normalised, of values in [0, 1]; none for a module that does it.
        std: Deviation of each channel, likewise.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        origin: bytes,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.module = module
        self.register_buffer("mean", torch.tensor(mean or [0.0]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or [1.0]).view(-1, 1, 1), persistent=False)
        self._origin, self._numbers = origin, [*mean, *std]
        self._free = [name for name, weight in module.named_parameters() if weight.requires_grad]
        self.sha256 = _digest(module, origin, self._numbers)
        self.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "Trunk":
        """Stay in evaluation mode: dropout is off, and norms keep their statistics, also where weights are trained."""
        super().train(mode=False)
        return self

    def weights(self) -> dict[str, nn.Parameter]:
        """Weights by name that training may move: all but those that the module itself holds fixed."""
        return {name: self.module.get_parameter(name) for name in self._free}

    def unfreeze(self) -> None:
        """Let training move the weights.

        Raises:
            ConfigError: If there are none.
        """
        if not self._free:
            raise ConfigError(
                f"trunk: expected weights to train in {self.name}, got none that needs a gradient; take it frozen, "
                "without --trunk-rate"
            )
        for weight in self.weights().values():
            weight.requires_grad_(True)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights that training left; the hash follows.

        Raises:
            RunError: If they are not this trunk's.
        """
        own = self.weights()
        fits = own.keys() == weights.keys() and all(own[name].shape == value.shape for name, value in weights.items())
        if not fits or not all(bool(value.isfinite().all()) for value in weights.values()):
            raise RunError(f"trunk: expected finite weights of {self.name}, got others; bring the file back")
        for name, value in weights.items():
            own[name].copy_(value)
        self.sha256 = _digest(self.module, self._origin, self._numbers)

    def flops(self, shape: Shape) -> int:
        """FLOPs for one image of so many channels, height and width, as PyTorch's own counter counts them."""
        device = self.get_buffer("mean").device
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self(torch.zeros(1, *shape, device=device))
        return int(counter.get_total_flops())

    def memory(self, shape: Shape, batch_size: int) -> int:
        """Estimate of the bytes that training takes: gradients, two moments, and what a batch keeps for the way back.

        Args:
            shape: Channels, height and width of an image.
            batch_size: Images in an update.
        """
        kept, own = dict[int, int](), {weight.data_ptr() for weight in self.module.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self(torch.zeros(1, *shape, device=self.get_buffer("mean").device))
        held = sum(weight.numel() * weight.element_size() for weight in self.weights().values())
        return 3 * held + sum(kept.values()) * batch_size

    @property
    def num_parameters(self) -> int:
        """Number of its weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps [B, C', h, w] of images [B, C, H, W] with values in [0, 1]; grey ones are repeated."""
        channels = len(self.get_buffer("mean"))
        if images.shape[1] == 1 and channels > 1:
            images = images.expand(-1, channels, -1, -1)
        found: Any = self.module((images - self.get_buffer("mean")) / self.get_buffer("std"))
        return _maps(found, channels_last=getattr(self.module, "output_fmt", "NCHW") == "NHWC")

    def features(self, images: Tensor) -> Tensor:
        """Features, float32 [B, h, w, C'], of stored images, uint8 [B, H, W, C]; with a graph where it is trained.

        Raises:
            ConfigError: If the network can't take images of this shape.
        """
        pixels = (images.permute(0, 3, 1, 2).float() / 255).contiguous()
        try:
            found: Tensor = self(pixels)
        except (RuntimeError, ValueError, TypeError) as error:
            height, width, channels = images.shape[1:]
            raise ConfigError(
                f"trunk: expected {self.name} to take images of {height}×{width} pixels and {channels} channels, got "
                f"its error: {error}; give the size that it was made for with --image-size"
            ) from error
        return found.float().permute(0, 2, 3, 1).contiguous()


def _maps(found: Any, *, channels_last: bool) -> Tensor:
    """Feature maps [B, C, h, w] of whatever a network gave."""
    maps: Any = getattr(found, "last_hidden_state", found)
    if isinstance(maps, tuple | list):
        maps = maps[-1]
    if not isinstance(maps, Tensor) or maps.ndim not in (2, 3, 4):
        raise TypeError(f"expected a tensor of 2, 3 or 4 axes, got {type(maps).__name__}")
    found_maps: Tensor = maps
    if found_maps.ndim == 2:
        return found_maps[:, :, None, None]
    if found_maps.ndim == 4:
        return found_maps.permute(0, 3, 1, 2) if channels_last else found_maps
    batch, count, channels = found_maps.shape
    side = math.isqrt(count)
    return found_maps[:, -(side**2) :].transpose(1, 2).reshape(batch, channels, side, side)


def _digest(module: nn.Module, origin: bytes, numbers: Sequence[float]) -> str:
    """SHA-256 over origin, normalisation, and the name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(origin + repr([float(number) for number in numbers]).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
