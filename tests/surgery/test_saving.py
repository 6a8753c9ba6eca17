"""A grown model is saved as data and built again with the same bits."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery import (
    deepen,
    load_model,
    save_model,
    widen,
    widen_all,
)

from .models import CASES, Case, batch_of, scrambled


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.name == "recurrent" else []) for c in CASES]
)
def test_a_grown_model_comes_back_with_the_same_outputs(case: Case, tmp_path: Path) -> None:
    model, x = scrambled(case), batch_of(case)
    widen(model, case.widenable[0], factor=1.5, example_input=x)
    place = case.widenable[-1] if case.name != "direct" else "shared"
    deepen(model, place, example_input=x)
    widen_all(model, 1.3, example_input=x)
    model.eval()
    save_model(model, tmp_path / "grown")
    again = load_model(lambda: case.build().double(), tmp_path / "grown").eval()
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
    assert sorted(p.name.partition("-")[0] for p in (tmp_path / "grown").iterdir()) == ["growth.json", "model"]
    widen(again, case.widenable[0], factor=1.5, example_input=x)  # and grows on
    save_model(again, tmp_path / "grown")
    assert len(list((tmp_path / "grown").iterdir())) == 2
    assert len(json.loads((tmp_path / "grown" / "growth.json").read_text())["growths"]) == 4


def test_shared_weights_stay_shared(tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        model[2].weight = model[0].weight
        return model

    model = build()
    save_model(model, tmp_path)
    again = load_model(build, tmp_path)
    assert again[0].weight is again[2].weight
    assert torch.equal(again[0].weight, model[0].weight)


def test_a_missing_folder_another_model_and_another_format_are_told_apart(tmp_path: Path) -> None:
    case = CASES[0]
    model, x = scrambled(case), batch_of(case)
    widen(model, "0", extra=2, example_input=x)
    save_model(model, tmp_path)
    with pytest.raises(SurgeryError, match="holds no grown model"):
        load_model(case.build, tmp_path / "nowhere")
    with pytest.raises(SurgeryError, match=r"fit this model|another model"):
        load_model(lambda: nn.Linear(5, 3), tmp_path)
    (tmp_path / "growth.json").write_text('{"format": "other", "version": 1}')
    with pytest.raises(SurgeryError, match="expected graftwork-growth"):
        load_model(case.build, tmp_path)
