"""Random numbers that depend on nothing but the names that they are asked for by."""

import hashlib

import torch
from torch import Tensor


def generator_for(*names: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on ``names`` alone: equal in every process and on every machine."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    # 63 bits: manual_seed takes a signed 64-bit number
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def example_bits(examples: Tensor) -> Tensor:
    """A pseudo-random bit [B] for each example's number, set for half of them (a multiplicative hash)."""
    mixed = (examples.to(torch.int64) + 1) * 0x9E3779B1 & 0xFFFFFFFF
    mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA77 & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 13)) & 1).bool()
