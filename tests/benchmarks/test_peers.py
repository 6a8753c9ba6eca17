"""What `benchmarks/peers.py` compares: equal FLOPs, counted the same way, and the best by validation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graftwork.networks.genome import forward_flops, seed_genome

pytestmark = pytest.mark.slow


@pytest.fixture
def peers(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("peers")


def test_plain_modules_are_counted_as_genomes_are(peers: Any, benchmark: Callable[[str], Any]) -> None:
    genome = seed_genome("poster", (3, 8, 8), 3)
    (network,) = benchmark("naive").build([genome], benchmark("population").grow([genome]))
    assert peers.counted(network, (3, 8, 8)) == forward_flops(genome)


def test_a_path_through_a_supernet_costs_and_computes_what_its_cells_do(peers: Any) -> None:
    torch.manual_seed(0)
    network, path = peers.Cells(peers.KERNELS, (3, 8, 8), 3).eval(), (1, 0, 3, 5, 1, 0)
    chosen = peers.OnePath(network, path)
    assert chosen(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    alone = peers.Cells([(kernel,) for kernel in path], (3, 8, 8), 3)
    assert peers.counted(chosen, (3, 8, 8)) == peers.counted(alone, (3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    first = chosen(x)
    with torch.no_grad():
        for parameter in network.cells[0].ways["5"].parameters():
            parameter.add_(1.0)
        assert torch.equal(chosen(x), first)  # not on the path
        next(network.cells[0].ways["1"].parameters()).add_(1.0)
        assert not torch.equal(chosen(x), first)


def test_training_ends_before_the_budget_is_passed(peers: Any) -> None:
    class Job:
        def batches(self) -> Any:
            while True:
                yield torch.randn(64, 2), torch.zeros(64, dtype=torch.int64)

    network = nn.Linear(2, 2)
    assert peers.train(Job(), network, 1000.0, lambda: 1.0) == 5 * 3 * 64


def test_every_way_spends_the_budget_and_finished_seeds_are_not_run_again(
    peers: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "peers.json"
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    arguments = ["peers.py", "--quick", "--threads", "1", "--budget", "0.01TFLOP"]
    monkeypatch.setattr("sys.argv", [*arguments, "--data", str(pictures), "--json", str(out)])
    peers.main()
    found = json.loads(out.read_text())
    rows = found["seeds"]["0"]
    assert list(rows) == ["shared", "alone", "supernet", "neps"]
    assert "missing" in rows["neps"]
    for row in list(rows.values())[:3]:
        assert 0.7 * 1e10 < row["flops"] <= 1e10
        assert 0 <= row["held_out"] <= 1
        assert row["seconds"] > 0
    assert found["ratio"] == found["against_shared"]["alone"]["seconds_ratio"]
    assert np.isclose(found["ratio"]["median"], rows["alone"]["seconds"] / rows["shared"]["seconds"])
    monkeypatch.setattr(peers, "compared", lambda *arguments: pytest.fail("ran again"))
    peers.main()
    assert json.loads(out.read_text())["seeds"] == found["seeds"]
