"""Joining ranks that something else, such as Ray, has connected."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from graftwork.workers import Group


def test_ranks_that_are_connected_already_stay_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    threads = torch.get_num_threads()
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        group = Group.join()
        assert group.leads
        assert group.add(torch.ones(2)).tolist() == [1.0, 1.0]
        group.leave()
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)
