"""Experiments on growths in training frameworks and on scores of sites, in miniature."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.growing import GRIDS, run_grid
from experiments.growing import _families as families
from experiments.growing import _trainer_growth as trainer
from experiments.growing import _where as where
from experiments.growing._aim import aim
from experiments.growing._text import Corpus
from graftwork.numerics import output_gap
from graftwork.surgery import Deepen, Widen, grow

OPTIONS: dict[str, Any] = {"data": "digits", "threads": 1, "precision": "float32", "seeds": [0], "scale": 0.01}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_loss_of_a_llama_is_watched_through_a_growth_in_trainer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    text = torch.arange(3000) % 97
    monkeypatch.setattr(families, "corpus", lambda: Corpus(text, text[:500], "fingerprint", ()))
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
    monkeypatch.setattr(trainer, "SHAPE", {**sizes, "num_hidden_layers": 1})
    for name, value in (("CONTEXT", 8), ("WINDOW", 3), ("AFTER", 2), ("WARMUP", 1)):
        monkeypatch.setattr(trainer, name, value)
    growths = {name: trainer.GROWTHS[name] for name in ("mlp", "vocabulary-zero")}
    monkeypatch.setattr(trainer, "GROWTHS", growths)
    trainer._trunk.cache_clear()
    summary = run_grid(GRIDS["trainer-growth"], tmp_path, note=lambda _: None, **OPTIONS)
    trainer._trunk.cache_clear()
    for name in growths:
        row = json.loads((tmp_path / "cells" / f"{name}-s0.json").read_text())
        before, variants = row["before"]["held_out"], row["variants"]
        assert before[-1] == variants["no growth"]["held_out"][0], "the checkpoint goes on as the training did"
        assert variants["carried"]["held_out"][0] == pytest.approx(before[-1], abs=1e-5)
        assert variants["carried"]["held_out"][1:] != variants["optimizer reset"]["held_out"][1:]
        assert variants["carried"]["parameters"] > variants["no growth"]["parameters"]
    assert summary["growths"]["mlp"]["carried"]["at_the_growth_over_all_tokens"]["mean"] == pytest.approx(0, abs=1e-5)
    assert summary["growths"]["vocabulary-zero"]["carried"]["at_the_growth_over_all_tokens"]["mean"] > 0.01
    assert (tmp_path / "tables.md").read_text().count("## ") == 2


@pytest.mark.slow
def test_scores_and_aimed_weights_are_held_against_gains_of_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(where, "SUBJECTS", {"mlp": where.SUBJECTS["mlp"]})
    monkeypatch.setattr(where, "WIDTHS", (4, 6))
    monkeypatch.setattr(where, "DRAWS", 1)
    summary = run_grid(GRIDS["score-sites"], tmp_path / "scores", note=lambda _: None, **OPTIONS)
    places = json.loads((tmp_path / "scores" / "cells" / "mlp-s0.json").read_text())["places"]
    assert {place["kind"] for place in places} == {"widen", "deepen"}
    assert all(place["score"] >= 0 and place["equal_steps"] == place["equal_steps"] for place in places)
    assert set(summary["subjects"]["mlp"]["correlations"]["both"]) == {"places", *where.PAIRS}
    summary = run_grid(GRIDS["new-weights"], tmp_path / "weights", note=lambda _: None, **OPTIONS)
    assert summary["subjects"]["mlp"]["places"] == 2
    assert summary["subjects"]["mlp"]["difference"]["mean"] != 0.0


def test_aimed_units_have_more_gradient_and_leave_the_function_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    batches = [(torch.randn(40, 6, dtype=torch.float64), torch.randint(4, (40,)))]
    with torch.no_grad():
        before = model(batches[0][0])
    receipt = grow(model, Widen("0", extra=2, method="netmorph"), example_input=batches[0][0])

    def heard() -> float:
        gradient = torch.autograd.grad(F.cross_entropy(model(batches[0][0]), batches[0][1]), model[2].weight)[0]
        return float(gradient[:, 8:].square().sum())

    drawn, lengths = heard(), model[0].weight[8:].norm(dim=1)
    assert aim(model, receipt, batches, F.cross_entropy, rounds=3)
    assert heard() > drawn
    torch.testing.assert_close(model[0].weight[8:].norm(dim=1), lengths)
    with torch.no_grad():
        assert output_gap(before, model(batches[0][0])) <= 1e-10
    loss = F.cross_entropy(model(batches[0][0]), batches[0][1])
    (down,) = torch.autograd.grad(loss, model[2].weight)
    with torch.no_grad():
        model[2].weight[:, 8:] -= 1e-3 * down[:, 8:]  # the first update: a unit goes on as it points, not back
    (turned,) = torch.autograd.grad(F.cross_entropy(model(batches[0][0]), batches[0][1]), model[0].weight)
    assert (F.cosine_similarity(model[0].weight[8:], -turned[8:]) > 0.5).all()
    assert not aim(model, grow(model, Deepen("0"), example_input=batches[0][0]), batches, F.cross_entropy, rounds=1)
