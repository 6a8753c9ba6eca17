"""What holds on any device: most bodies run on the CPU by default, and all on CUDA by ``pytest -m gpu``."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.errors import SearchInterruptedError
from graftwork.evolution import SearchState
from graftwork.networks import bind
from graftwork.session import SearchConfig, Session, SilentListener
from graftwork.training import BankOptimizer, BatchStream, Trainer, constant, resident
from graftwork.workers import Group
from tests.training.small import LEFT, RIGHT, RULES, TRANSFORM, bank_of, images, stream


def network(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).to(device)


def batch(device: torch.device) -> torch.Tensor:
    return torch.randn(4, 3, 6, 6, device=device)


def losses(device: torch.device, *, precision: Any = "float32", steps: int = 6) -> list[float]:
    """Of two members on one bank, trained in turn."""
    bank = bank_of(LEFT, RIGHT)
    bank.to(device=device)
    data, labels = images(96)
    batches = BatchStream(
        resident(data, device), labels, torch.arange(96), batch_size=16, seed=0, transform=TRANSFORM, device=device
    )
    optimizer = BankOptimizer(bank, RULES["adam"])
    trainer = Trainer(optimizer, batches=batches, schedule=constant(), precision=precision)
    members = [bind(genome, bank) for genome in (LEFT, RIGHT)]
    return [trainer.step(members[number % 2], number, 0.0) for number in range(steps)]


def test_a_growth_is_exact_and_carries_the_optimizer(device: torch.device) -> None:
    model, x = network(device), batch(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=device.type == "cuda")
    model(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = model.eval()(x)
    receipt = gw.widen(model, "0", extra=8, example_input=x, optimizer=optimizer)
    assert torch.allclose(model.eval()(x), before, atol=1e-5)
    assert "optimizer state carried" in str(receipt)
    assert {parameter.device.type for parameter in model.parameters()} == {device.type}
    model.train()(x).sum().backward()
    optimizer.step()


def test_joint_training_gives_the_losses_of_the_cpu(device: torch.device) -> None:
    assert losses(device) == pytest.approx(losses(torch.device("cpu")), rel=1e-3)


def test_bfloat16_trains_beside_float32(device: torch.device) -> None:
    assert losses(device, precision="bfloat16") == pytest.approx(losses(device), rel=0.05)


def test_images_that_lie_on_the_device_give_the_same_batches(device: torch.device) -> None:
    data, labels = images(96)
    held = resident(data, device)
    assert isinstance(held, torch.Tensor)
    assert held.device.type == device.type
    kept = BatchStream(
        held, labels, torch.arange(96), batch_size=16, seed=0, augmentation=stream().augmentation, transform=TRANSFORM
    )
    for number in (0, 5, 9):
        (x, y), (mine, classes) = stream().batch(number), kept.batch(number)
        assert mine.device == held.device
        assert torch.allclose(mine.cpu(), x)
        assert torch.equal(classes.cpu(), y)
        assert mine.is_contiguous(memory_format=torch.channels_last)


def test_a_grown_model_is_compiled(device: torch.device) -> None:
    model, x = network(device), batch(device)
    gw.widen(model, "0", extra=8, example_input=x)
    compiled = torch.compile(model.eval(), backend="inductor" if device.type == "cuda" else "eager")
    with torch.no_grad():
        assert torch.allclose(compiled(x), model(x), atol=1e-4)
    torch.compiler.reset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@torch.no_grad()
def test_a_grown_model_runs_as_a_cuda_graph() -> None:
    model, x = network(torch.device("cuda")), batch(torch.device("cuda"))
    gw.widen(model, "0", extra=8, example_input=x)
    model.eval()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        model(x)  # prepares kernels, aside
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = model(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.allclose(recorded, model(x), atol=1e-5)


@pytest.mark.slow  # on the CPU, where tests/session holds the same law
def test_a_search_resumes_to_the_same_bits(device: torch.device, tmp_path: Path) -> None:
    class StopAt(SilentListener):
        session: Session

        def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
            self.session.stop_requested = state.step == 5

    config = SearchConfig.from_dict(
        {
            "recipe": "paper",
            "budget": "8steps",
            "num_generations": 1,
            "population_size": 3,
            "num_survivors": 2,
            "num_calibration": 100,
            "precision": "float32",
            "passes": "torch",
            "threads": 1,
            "device": device.type,
        }
    )
    whole = Session.start(config, tmp_path / "whole", listener=SilentListener()).run()
    listener = StopAt()
    listener.session = Session.start(config, tmp_path / "run", listener=listener)
    with pytest.raises(SearchInterruptedError):
        listener.session.run()
    found = Session.resume(tmp_path / "run", listener=SilentListener()).run()
    assert found["bank_sha256"] == whole["bank_sha256"]
    assert found["best"]["test_accuracy"] == whole["best"]["test_accuracy"]
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert device.type == "cpu" or provenance["machine"]["device"] == torch.cuda.get_device_name()


def test_one_rank_exchanges_tensors_of_the_device(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over gloo on the CPU, over NCCL on CUDA."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    threads = torch.get_num_threads()
    group = Group.join()
    try:
        there = torch.device(group.device(device.type))
        assert group.add(torch.arange(3.0, device=there)).tolist() == [0.0, 1.0, 2.0]
        assert group.spread(torch.ones(2, device=there)).device == there
        assert ("nccl" in group.describe()["backend"]) == torch.cuda.is_available()
    finally:
        group.leave()
        torch.set_num_threads(threads)
    assert not torch.distributed.is_initialized()
