"""Models of diffusers: their frozen configs follow a growth, or ``save_pretrained`` is refused."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork.errors import SurgeryError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGE = {"sample": torch.randn(1, 3, 8, 8), "timestep": torch.tensor([3])}
LATENT = {"hidden_states": torch.randn(2, 4, 4, 4), "timestep": torch.tensor([3, 7]), "class_labels": torch.arange(2)}


def _unet() -> Any:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    return diffusers.UNet2DModel(sample_size=8, layers_per_block=1, norm_num_groups=4, **blocks).eval()


def _dit() -> Any:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "num_embeds_ada_norm": 10}
    return diffusers.DiTTransformer2DModel(
        in_channels=4, sample_size=4, patch_size=2, norm_num_groups=4, **heads
    ).eval()


def _output(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]  # type: ignore[no-any-return]


def test_reading_leaves_a_frozen_config_as_it_is() -> None:
    model = _unet()
    config, text, own = model.config, str(model.config), dict(vars(model.config))
    assert gw.growth_sites(model, IMAGE).widenable
    assert model.config is config
    assert (str(config), vars(config)) == (text, own)


@pytest.mark.parametrize(
    ("make", "inputs", "growth", "number"),
    [
        (_unet, IMAGE, gw.WidenOutputs(None, 2, check="fast"), ("out_channels", 5)),
        (_dit, LATENT, gw.InsertLayers("transformer_blocks", count=1, check="fast"), ("num_layers", 3)),
    ],
)
def test_a_growth_that_a_config_can_say_comes_back(
    make: Any, inputs: dict[str, Any], growth: Any, number: tuple[str, int], tmp_path: Path
) -> None:
    model = make()
    config, before = model.config, _output(model, inputs)
    gw.grow(model, growth, example_input=inputs)
    assert model.config[number[0]] == getattr(model.config, number[0]) == number[1] != config[number[0]]
    after = _output(model, inputs)
    torch.testing.assert_close(after[:, : before.shape[1]], before)
    model.save_pretrained(tmp_path)
    # A copy: weights that are read from a file may lie unaligned, and products then round otherwise.
    again = copy.deepcopy(type(model).from_pretrained(tmp_path).eval())
    assert torch.equal(_output(again, inputs), after)


def test_a_growth_that_no_config_can_say_is_not_saved(tmp_path: Path) -> None:
    model = _unet()
    gw.widen(model, "down_blocks.0.resnets.0.conv1", factor=2, example_input=IMAGE, check="fast")
    with pytest.raises(SurgeryError, match="save_pretrained"):
        model.save_pretrained(tmp_path)
