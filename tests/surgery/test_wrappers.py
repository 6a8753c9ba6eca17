"""What people wrap around a model: it works, or the error says what to do, and then that works."""

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from graftwork.errors import SurgeryError
from graftwork.surgery import Widen, deepen, growth_log, plan, replay, unwrapped, widen

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, at import of its wrappers


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def _grow(model: nn.Module, optimizer: Any = None) -> None:
    widen(model, "0", extra=4, example_input=X, optimizer=optimizer)
    deepen(model, "1", example_input=X, optimizer=optimizer)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_compiled_model_is_grown_inside_and_compiles_again() -> None:
    model = _model()
    compiled = torch.compile(model, backend="eager")
    before = compiled(X)
    with pytest.raises(SurgeryError, match="_orig_mod"):
        widen(compiled, "0", extra=4, example_input=X)
    _grow(compiled._orig_mod)
    assert torch.allclose(compiled(X), before, atol=1e-5)
    assert torch.allclose(torch.compile(model, backend="eager")(X), before, atol=1e-5)


def test_a_model_under_ddp_is_unwrapped_grown_and_wrapped_again(one_process: None) -> None:
    model = _model()
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters())
    wrapped(X).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = model(X)
    with pytest.raises(SurgeryError, match="unwrap it, grow, wrap again"):
        widen(wrapped, "module.0", extra=4, example_input=X)
    for inside, site in ((wrapped.module, "0"), (wrapped.module[0], "")):
        with pytest.raises(SurgeryError, match=r"DistributedDataParallel .*unwrap it, grow, wrap again"):
            plan(inside, Widen(site, extra=4), example_input=X)
    model = wrapped.module
    del wrapped
    _grow(model, optimizer)
    again = nn.parallel.DistributedDataParallel(model)
    assert torch.allclose(again(X), before, atol=1e-5)
    again(X).sum().backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters())


def test_a_sharded_model_is_refused(one_process: None) -> None:
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    with pytest.raises(SurgeryError, match="wrapped in FSDP"):
        widen(fully_shard(_model(), mesh=mesh), "0", extra=4, example_input=X)


def test_a_sharded_part_of_a_model_is_refused(one_process: None) -> None:
    from torch.distributed.fsdp import fully_shard

    model = _model()
    fully_shard(model[0], mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
    with pytest.raises(SurgeryError, match=r"wrapped in FSDP.* at '0'; grow inside graftwork.unwrapped"):
        widen(model, "2", extra=4, example_input=X)


@pytest.mark.parametrize("original", [False, True])
def test_a_model_in_the_first_fsdp_is_refused_with_what_works(original: bool, one_process: None) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrapped = FullyShardedDataParallel(_model(), device_id=torch.device("cpu"), use_orig_params=original)
    before = wrapped(X)
    for target in (wrapped, wrapped.module, nn.Sequential(wrapped)):
        with pytest.raises(SurgeryError, match=r"FSDP shards|FullyShardedDataParallel") as caught:
            widen(target, "0", extra=4, example_input=X)
        assert "gather its weights into a plain model (get_model_state_dict" in str(caught.value)
        with pytest.raises(SurgeryError, match="gather its weights"), unwrapped(wrapped, []) as inner:
            widen(inner, "0", extra=4, example_input=X)
    plain = _model()
    plain.load_state_dict(get_model_state_dict(wrapped, options=StateDictOptions(full_state_dict=True)))
    _grow(plain)
    again = FullyShardedDataParallel(plain, device_id=torch.device("cpu"), use_orig_params=original)
    assert torch.allclose(again(X), before, atol=1e-5)


def test_parameters_sharded_without_a_wrapper_are_refused(one_process: None) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = parallelize_module(_model(), dist.device_mesh.init_device_mesh("cpu", (1,)), {"0": ColwiseParallel()})
    with pytest.raises(SurgeryError, match=r"'0\.weight' is a DTensor.*unwrap it, grow, wrap again"):
        widen(model, "0", extra=4, example_input=X)


def test_deep_copies_grow_apart_and_keep_their_optimizers_out_of_it() -> None:
    model = _model()
    _grow(model)
    twin = copy.deepcopy(model)
    widen(twin, "0", extra=2, example_input=X)
    assert (model[0].out_features, twin[0].out_features) == (12, 14)
    assert (len(growth_log(model)), len(growth_log(twin))) == (2, 3)
    assert torch.allclose(model(X), twin(X), atol=1e-5)


def test_a_state_dict_goes_into_a_model_with_the_same_growths() -> None:
    model, again = _model(), _model()
    _grow(model)
    replay(again, growth_log(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(X), model(X))


def test_a_gradient_scaler_goes_on_through_a_growth() -> None:
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(model(X).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        if step == 1:
            _grow(model, optimizer)
    assert scaler.get_scale() == 64.0
    assert int(optimizer.state[model[0].weight]["step"]) == 4


@pytest.mark.slow
def test_a_grown_model_exports_to_onnx() -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = _model().eval()
    _grow(model)
    buffer = io.BytesIO()
    torch.onnx.export(model, (X,), dynamo=True, verbose=False).save(buffer)
    session = runtime.InferenceSession(buffer.getvalue())
    (output,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert torch.allclose(torch.from_numpy(output), model(X), atol=1e-5)
