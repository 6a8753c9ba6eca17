"""Operations that graftwork has never heard of take part once they are registered."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftwork as gw
from graftwork.errors import SurgeryError, UnsupportedOperationError
from graftwork.surgery.operations import OPERATIONS, Info, Trace
from graftwork.surgery.operations._registry import register_operation


@torch.library.custom_op("graftwork_tests::sq", mutates_args=())
def squared(x: Tensor) -> Tensor:
    """The square of every number."""
    return x * x


@torch.library.custom_op("graftwork_tests::rows", mutates_args=())
def rows(x: Tensor) -> Tensor:
    """Sums over the channels, in a column."""
    return x.sum(-1, keepdim=True)


@torch.library.custom_op("graftwork_tests::flipped", mutates_args=())
def flipped(x: Tensor) -> Tensor:
    """The batch in reverse."""
    return x.flip(0)


class Middle(nn.Module):
    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.middle(self.up(x)))


def _setup(middle: Callable[[Tensor], Tensor]) -> tuple[Middle, Tensor]:
    torch.manual_seed(0)
    return Middle(middle).double(), torch.randn(5, 4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    known = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(known)


def test_a_custom_operation_is_refused_by_name_until_it_is_registered_like_a_known_one() -> None:
    model, x = _setup(torch.ops.graftwork_tests.sq)
    before = model(x).detach()
    with pytest.raises(UnsupportedOperationError, match=r"graftwork_tests\.sq"):
        gw.widen(model, "up", extra=2, example_input=x)
    gw.register_operation("graftwork_tests::sq", like="pointwise")
    assert gw.widen(model, "up", extra=2, example_input=x).largest_gap < 1e-12
    assert model.up.out_features == 8
    torch.testing.assert_close(model(x), before)


def test_an_operation_may_have_a_handler_of_its_own() -> None:
    def handler(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        info = trace.info(args[0])
        trace.freeze(info.dims[0], "a dimension in reverse")
        trace.put(result, Info(list(info.dims)))

    model, x = _setup(torch.ops.graftwork_tests.flipped)
    register_operation("graftwork_tests::flipped", handler)
    assert gw.widen(model, "up", extra=2, example_input=x).largest_gap < 1e-12
    assert model.up.out_features == 8


def test_a_wrong_rule_is_caught_by_the_check() -> None:
    model, x = _setup(lambda h: h / (1 + torch.ops.graftwork_tests.rows(h).square()))
    register_operation("graftwork_tests::rows", lambda trace, f, a, k, result: trace.put(result, trace.info(x[:, :1])))
    with pytest.raises(gw.errors.NotPreservedError):
        gw.widen(model, "up", extra=3, method="netmorph", example_input=x)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sq", {"like": "pointwise"}, "expected a namespace and a name"),
        ("lib::sq", {}, "exactly one of handler and like, got none"),
        ("lib::sq", {"like": "pointwise", "handler": print}, "got both"),
        ("lib::sq", {"like": "pontwise"}, r"'pontwise'; did you mean 'pointwise'\?"),
    ],
)
def test_a_registration_that_makes_no_sense_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SurgeryError, match=words):
        register_operation(name, **options)
