"""Growing inside DistributedDataParallel, fully_shard (two gloo ranks) and torch.compile."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.multiprocessing.spawn import start_processes

from graftwork.errors import SurgeryError
from graftwork.surgery import Deepen, GrowthSchedule, Plateau, Widen, grow, unwrapped
from tests.surgery import ranks
from tests.surgery.ranks import X, build, growths, train

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler's own

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What the two ranks have found, in all scenarios of one start."""
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(ranks.run, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def _alone() -> tuple[nn.Module, list[float]]:
    """The same training by one process."""
    model = build()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    losses = train(model, optimizer, 3)
    growths(model, optimizer)
    return model, losses + train(model, optimizer, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parallel", "sharded"])
def test_the_loss_of_two_ranks_is_that_of_one_process_through_the_growth(name: str, found: Found) -> None:
    model, losses = _alone()
    for rank in found:
        assert rank[name]["losses"] == pytest.approx(losses, rel=1e-10)
        own = rank[name]["weights"]
        assert list(own) == list(model.state_dict())
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(own[key], tensor, rtol=1e-6, atol=1e-8)
    unlike = train(build(), optim.SGD(build().parameters(), lr=1e-2), 7)
    assert unlike != pytest.approx(losses, rel=1e-3)  # the control


@pytest.mark.slow
def test_ranks_hold_the_same_bits_after_the_growth_and_training(found: Found) -> None:
    first, second = found
    for name in ("parallel", "scheduled"):
        assert first[name]["print"] == second[name]["print"]
    assert all(torch.equal(t, second["sharded"]["weights"][k]) for k, t in first["sharded"]["weights"].items())


@pytest.mark.slow
def test_settings_and_hooks_of_the_wrapper_are_kept(found: Found) -> None:
    for rank in found:
        assert rank["hooked"] == {"coarse": [True, True], "static": True, "hooks": 1}


@pytest.mark.slow
def test_a_schedule_opens_the_wrapper_by_itself(found: Found) -> None:
    assert all(rank["scheduled"]["made"] == ["widen", "deepen"] for rank in found)


@pytest.mark.slow
def test_a_growth_can_be_removed_on_all_ranks(found: Found) -> None:
    assert all(rank["removed"]["same"] for rank in found)
    assert found[0]["removed"]["losses"] == found[1]["removed"]["losses"] != []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("other_seeds", "expected the same weights", "expected the same weights"),
        ("one_refused", "rank 1 of 2 has failed, .* the model fails on example_input", "^SurgeryError: example_input"),
        ("one_breaks_later", "rank 1 of 2 has failed, .*NotPreservedError", "^NotPreservedError"),
        ("one_interrupted", "rank 1 of 2 has failed, .*of the user's own", "^ValueError"),
    ],
)
def test_what_fails_on_one_rank_fails_on_all_and_they_train_on_as_before(
    name: str, first: str, second: str, found: Found
) -> None:
    for rank, words in zip(found, (first, second), strict=True):
        assert rank[name]["same"]
        with pytest.raises(RuntimeError, match=words):
            raise RuntimeError(rank[name]["told"])
    assert found[0][name]["losses"] == found[1][name]["losses"]


@pytest.mark.slow
def test_ranks_that_differ_before_a_growth_are_told(found: Found) -> None:
    assert all("expected the same weights" in rank["apart"]["told"] for rank in found)


@pytest.mark.slow
def test_a_sharded_model_is_gathered_grown_and_sharded_again_with_its_optimizer(found: Found) -> None:
    for rank in found:
        assert rank["sharded"]["sharded"]
        assert len(rank["sharded"]["kept"]) == 8
        assert all(rank["sharded"]["kept"].values())


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.compiler.reset()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "scenario",
    [
        ranks.parallel,
        ranks.sharded,
        pytest.param(ranks.hooked, marks=pytest.mark.slow),
        pytest.param(ranks.scheduled, marks=pytest.mark.slow),
    ],
)
def test_one_rank_grows_inside_its_wrapper(scenario: Callable[[int], Any], one_process: None) -> None:
    """What two ranks do above, fast."""
    found = scenario(0)
    if "losses" in found:
        assert found["losses"] == pytest.approx(_alone()[1], rel=1e-10)
    assert found.get("coarse", [True, True]) == [True, True]
    assert found.get("sharded", True)


def test_a_model_without_wrappers_is_yielded_as_it_is() -> None:
    model = build()
    with unwrapped(model) as inner:
        assert inner is model
    with unwrapped(nn.DataParallel(model)) as inner:
        assert inner is model


@pytest.mark.filterwarnings("ignore:`torch.jit")  # at the import of torch's own
def test_an_optimizer_that_keeps_its_state_on_other_ranks_is_refused_by_name(one_process: None) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = build()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=optim.AdamW, lr=1e-2)
    with pytest.raises(SurgeryError, match="each rank keeps the state of its share"):
        grow(model, Deepen("embed"), example_input=X, optimizer=optimizer)


def _count(graphs: list[torch.fx.GraphModule]) -> Any:
    def backend(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend


@pytest.mark.parametrize(
    "way", ["function", pytest.param("method", marks=pytest.mark.slow), pytest.param("part", marks=pytest.mark.slow)]
)
def test_a_compiled_model_is_compiled_again_after_a_growth(way: str) -> None:
    model, plain = build(), build()
    graphs: list[torch.fx.GraphModule] = []
    compiled: nn.Module = model
    if way == "function":
        compiled = torch.compile(model, backend=_count(graphs))
    else:
        (model if way == "method" else model.blocks[0]).compile(backend=_count(graphs))
    optimizer, other = (optim.AdamW(one.parameters(), lr=1e-2) for one in (model, plain))
    losses, expected = train(compiled, optimizer, 2), train(plain, other, 2)
    before = len(graphs)
    assert before > 0
    with unwrapped(compiled, optimizer) as inner:
        assert inner is model
        growths(inner, optimizer)
    growths(plain, other)
    losses, expected = losses + train(compiled, optimizer, 3), expected + train(plain, other, 3)
    assert losses == pytest.approx(expected, rel=1e-12)
    assert len(graphs) > before
    torch.compiler.reset()


def test_a_compiled_model_grows_at_a_plateau_by_its_schedule() -> None:
    model = build()
    compiled = torch.compile(model, backend="eager")
    schedule = GrowthSchedule({Plateau(2): Widen("blocks.0.up", extra=2)})
    schedule.check(compiled, example_input=X)
    for _ in range(4):
        compiled(X)
        schedule.observe(torch.tensor(1.0, requires_grad=True))
        schedule.step(compiled, example_input=X)
    assert len(schedule.receipts) == 1
    assert compiled(X).shape == (8, 3)
    torch.compiler.reset()


def test_a_wrapper_is_on_again_after_a_refusal(one_process: None) -> None:
    wrapper = nn.parallel.DistributedDataParallel(build())
    compiled = torch.compile(wrapper, backend="eager")
    with pytest.raises(SurgeryError, match="nowhere"), unwrapped(compiled) as inner:
        grow(inner, Widen("nowhere", extra=2), example_input=X)
    wrapper(X).sum().backward()
    assert all(parameter.grad is not None for parameter in wrapper.parameters())
    with unwrapped(compiled) as inner:
        grow(inner, Deepen("embed"), example_input=X)
    assert wrapper.module is inner
    assert compiled(X).shape == (8, 3)
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power

    wrapper.register_comm_hook(power.PowerSGDState(None), power.powerSGD_hook)
    with pytest.raises(SurgeryError, match="a communication hook with state of its own"), unwrapped(wrapper):
        pass
    sharded: Any = build()
    torch.distributed.fsdp.fully_shard(sharded, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    with pytest.raises(SurgeryError, match="optimizer: expected those of a sharded model"), unwrapped(sharded):
        pass
    with pytest.raises(SurgeryError, match="shard: expected the function"), unwrapped(sharded, []):
        pass
