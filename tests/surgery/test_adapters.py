"""Every adapter of a model follows a growth, and so does the model without any: with a layer like PEFT's, and PEFT."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import SurgeryError
from tests.surgery.growths.hugging import IDS, TEXT, build, logits, transformers

pytestmark = pytest.mark.filterwarnings("ignore")

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Low(nn.Module):
    """A linear map with adapters of low rank, with the names that PEFT gives to everything."""

    adapter_layer_names = ("lora_A", "lora_B")
    merged_adapters: tuple[str, ...] = ()

    def __init__(self, base: nn.Linear, **ranks: int) -> None:
        super().__init__()
        self.base_layer, self.in_features, self.out_features = base, base.in_features, base.out_features
        self.lora_A = nn.ModuleDict({n: nn.Linear(base.in_features, r, bias=False) for n, r in ranks.items()})
        self.lora_B = nn.ModuleDict({n: nn.Linear(r, base.out_features, bias=False) for n, r in ranks.items()})
        self._active_adapter, self._disable_adapters = next(iter(ranks)), False

    @property
    def disable_adapters(self) -> bool:
        return self._disable_adapters

    @property
    def active_adapters(self) -> list[str]:
        return [self._active_adapter] if isinstance(self._active_adapter, str) else self._active_adapter

    def forward(self, x: Tensor) -> Any:
        result = self.base_layer(x)
        for name in () if self._disable_adapters else self.active_adapters:
            result = result + 0.5 * self.lora_B[name](self.lora_A[name](x))
        return result


def _adapted() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Low(nn.Linear(6, 8), a=2, b=3), nn.GELU(), Low(nn.Linear(8, 4), a=2, b=3)).double()


def _ways(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for way in ("a", "b", ""):
        for layer in model.modules():
            if isinstance(layer, Low):
                layer._disable_adapters, layer._active_adapter = not way, way or "a"
        found[way] = model(X).detach()
    for layer in model.modules():
        if isinstance(layer, Low):
            layer._disable_adapters = False
    return found


def test_adapters_that_are_not_active_follow_and_layers_keep_their_sizes() -> None:
    model = _adapted()
    before = _ways(model)
    receipt = gw.widen(model, "0.base_layer", extra=4, example_input=X)
    for way, after in _ways(model).items():
        torch.testing.assert_close(after, before[way], rtol=0, atol=1e-12)
    assert model[0].out_features == model[2].in_features == model[2].lora_A["b"].in_features == 12
    assert {"evaluation, adapter 'b'", "evaluation, adapters disabled"} <= receipt.gaps.keys()
    assert vars(model[0])["_active_adapter"] == "a"


def test_ranks_stay_and_merged_adapters_are_refused() -> None:
    model = _adapted()
    with pytest.raises(SurgeryError, match="inside an adapter alone, whose config holds it"):
        gw.widen(model, "0.lora_A.a", extra=2, example_input=X)
    receipt = gw.widen_all(model, 2.0, example_input=X)
    assert {change.new_shape for change in receipt.tensors if "lora_A.b" in change.name} == {(3, 16)}
    model[0].merged_adapters = ("a",)
    with pytest.raises(SurgeryError, match=r"merged into those of '0'.*unmerge_adapter"):
        gw.widen(model, "0.base_layer", extra=4, example_input=X)


class Copied(nn.Module):
    """A module of which an adapter trains a copy, as PEFT's `modules_to_save` does."""

    adapter_layer_names = ("modules_to_save",)
    merged_adapters: tuple[str, ...] = ()
    disable_adapters, active_adapters = Low.disable_adapters, Low.active_adapters

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original_module = original
        self.modules_to_save = nn.ModuleDict({"a": copy.deepcopy(original)})
        self._active_adapter, self._disable_adapters = ["a"], False

    def forward(self, x: Tensor) -> Any:
        return (self.original_module if self._disable_adapters else self.modules_to_save["a"])(x)


def test_a_copy_that_an_adapter_trains_whole_does_not_part_from_its_original() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), Copied(head)).double()
    for growth in (
        gw.WidenOutputs(None, 2),
        gw.Widen("2.original_module.0", extra=4),
        gw.Widen("2.modules_to_save.a.0", extra=4),
    ):
        with pytest.raises(SurgeryError, match="an adapter trains a copy of it beside the original"):
            gw.plan(model, growth, example_input=X)
    gw.widen(model, "0", extra=4, example_input=X)
    assert model[2].original_module[0].in_features == model[2].modules_to_save["a"][0].in_features == 12


LAYERS = "base_model.model.model.layers"
TARGETS = ["q_proj", "up_proj", "down_proj", "o_proj"]


def _peft() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("peft")


def _lora(*, merge: bool = False) -> Any:
    """A Llama with two adapters, whose weights are all random."""
    peft = _peft()
    options = {**TEXT, "num_hidden_layers": 1}
    model = peft.get_peft_model(
        build("LlamaForCausalLM", "LlamaConfig", options), peft.LoraConfig(r=4, target_modules=TARGETS)
    )
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=TARGETS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    if merge:
        model.merge_adapter()
    return model.eval()


def _all_logits(model: Any) -> list[Tensor]:
    found = [logits(model)]
    with model.disable_adapter():
        found.append(logits(model))
    model.set_adapter("second")
    found.append(logits(model))
    model.set_adapter("default")
    return found


@pytest.mark.parametrize(
    "growth",
    [
        gw.WidenAll(1.5, only=("*.mlp.*",), check="fast"),
        gw.InsertLayers(LAYERS, count=1, check="fast"),
        gw.WidenOutputs(None, 3, check="fast"),
    ],
)
def test_peft_goes_on_after_a_growth(growth: Any, tmp_path: Path) -> None:
    peft, model = _peft(), _lora()
    before = _all_logits(model)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    gw.grow(model, growth, example_input={"input_ids": IDS})
    for old, new in zip(before, _all_logits(model), strict=True):
        torch.testing.assert_close(new[..., : old.shape[-1]], old, rtol=0, atol=1e-12)
    assert all(flags.get(name, parameter.requires_grad) == parameter.requires_grad
               for name, parameter in model.named_parameters())  # fmt: skip
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.Linear):
            assert (layer.out_features, layer.in_features) == tuple(layer.base_layer.weight.shape)
    model.save_pretrained(tmp_path / "adapters")
    copy.deepcopy(model).unload().save_pretrained(tmp_path / "base")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float64)
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-12)
    model.add_adapter("third", peft.LoraConfig(r=2, target_modules=TARGETS))
    model.set_adapter("third")
    assert logits(model).isfinite().all()


@pytest.mark.parametrize(
    ("merge", "growth", "match"),
    [
        (True, gw.WidenAll(1.5), "unmerge_adapter"),
        (False, gw.WidenStream(1.5), r"a wider stream: expected a model without adapters, got \['default', 'second'\]"),
    ],
)
def test_what_would_spoil_adapters_of_peft_is_refused(
    merge: bool, growth: Any, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SurgeryError, match=match):
        gw.plan(_lora(merge=merge), growth, example_input={"input_ids": IDS})
