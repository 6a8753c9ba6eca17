"""Heads under autocast."""

import pytest
import torch
from torch.nn import functional as F

from graftwork.networks import bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import walk
from graftwork.networks.genome import Head, seed_genome


@pytest.mark.parametrize("kind", ["linear", "mlp", "r2r"])
@pytest.mark.parametrize("form", ["fused", "reference"])
def test_logits_are_not_rounded_under_autocast(kind: str, form: str) -> None:
    head = Head(kind, hidden_features=0 if kind == "linear" else 16)  # type: ignore[arg-type]
    genome = seed_genome("poster", (3, 16, 16), 10).replace(head=head)
    bank = BlockBank()
    generator = torch.Generator().manual_seed(0)
    grow_bank(bank, genome, generator=generator)
    member = bind(genome, bank, form=form)  # type: ignore[arg-type]
    for parameter in member.parameters_by_key().values():  # a fresh R2R head gives zero
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    x = torch.randn(4, 3, 16, 16, generator=generator)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = member.train()(x)
        ((_, features),) = walk([member], x, "train", output="penultimate")
    entry = member.weights[genome.head.id]
    exact = F.linear(features.double(), entry["weight"].double(), entry["bias"].double())
    torch.testing.assert_close(logits.double(), exact, atol=1e-5, rtol=1e-5)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
