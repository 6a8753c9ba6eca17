"""Model width: what forbids it is refused by name."""

from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery import WidenAll, WidenStream, grow, plan
from tests.surgery import streams_models as models
from tests.surgery.growths.test_widen_stream import Changed
from tests.surgery.streams_models import Shape, build

_REFUSED = {
    "a rectifier over means": ("layer", torch.relu, "relu acts on the stream"),
    "a norm over the sum": ("layer", nn.LayerNorm(8).double(), "another norm has made them"),
    "no gain to undo a tied head": ("rms-bare-tied", lambda x: x, "read from the stream would change"),
    "softmax over channels": ("rms", lambda x: x + x.softmax(-1), "_softmax mixes"),
    "a constant for zeros": ("rms", lambda x: x + 1.0, "a norm by the root|mean runs"),
    "the largest channel": ("rms", lambda x: x / (1 + x.amax(-1, keepdim=True)), "amax"),
    "a number that no power describes": ("layer", lambda x: x * (1 + 1 / x.shape[-1]), "takes the number 1.125"),
    "half of the channels": ("rms", lambda x: torch.cat([x[..., :3], x[..., 3:] * 2], -1), "stream"),
    "a group norm": ("layer", lambda x: x + nn.functional.group_norm(x.mT, 1).mT, "group norm|mix"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_what_forbids_an_exact_growth_is_refused_by_name(case: str) -> None:
    kind, change, reason = _REFUSED[case]
    model = Changed(kind, change)
    x = torch.randint(models.VOCABULARY, (3, models.LENGTH))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SurgeryError, match=reason):
        grow(model, WidenStream(1.5), example_input=x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_stream_that_the_caller_makes_is_refused() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, dropout=0.0)
    with pytest.raises(SurgeryError, match="so that the caller makes its channels"):
        grow(layer, WidenStream(2.0), example_input=torch.randn(2, 3, 8))
    with pytest.raises(SurgeryError, match="no residual stream"):
        grow(
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), WidenStream(2.0), example_input=torch.ones(2, 3)
        )


@pytest.mark.parametrize(
    ("options", "problem"),
    [({}, "exactly one"), ({"factor": 2.0, "to": 9}, "both"), ({"factor": 1.0}, "above 1"), ({"to": 0}, "above 0")],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(SurgeryError, match=problem):
        WidenStream(**options)


def test_widths_of_widen_all_are_checked() -> None:
    for options in ({"width": 1.0}, {"width": 1.5, "approximate": True}):
        with pytest.raises(SurgeryError, match="width: expected"):
            WidenAll(2.0, **options)  # type: ignore[arg-type]


def test_a_width_that_is_not_larger_is_refused() -> None:
    model, x = build(Shape())
    with pytest.raises(SurgeryError, match="more channels than the present 8"):
        plan(model, WidenStream(to=8), example_input=x)
