"""Real processes over gloo: one is killed, the run goes on from its checkpoint, to the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from graftwork.runs import run_state
from graftwork.workers import Group, launch
from tests.session.test_session import result, tiny
from tests.workers.test_shared_search import SHARED, assert_equal_runs, shared_run

GRAFTWORK = ["-m", "graftwork", "search", "--quiet", "--no-report"]


def config_file(folder: Path, **changes: object) -> Path:
    path = folder / "config.toml"
    path.write_text(tiny(**{**SHARED, "checkpoint_every": 0.05, **changes}).to_toml())
    return path


def ranks_of(process: subprocess.Popen[bytes], word: str) -> list[int]:
    """Process ids of the ranks that a process has started, in their order."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            line = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
        except OSError:
            continue
        if parent == process.pid and word in line:
            found.append(int(folder.name))
    return sorted(found)


def wait_for_checkpoint(run: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not list(run.glob("checkpoints/search-*/state.json")):
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("sync_every", [0, 2])
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds processes in /proc")
def test_a_killed_worker_ends_in_a_run_that_resumes_to_the_same_bits(tmp_path: Path, sync_every: int) -> None:
    run, command = tmp_path / "run", [sys.executable, *GRAFTWORK]
    start = [*command, "--config", str(config_file(tmp_path, sync_every=sync_every)), "--out", str(run)]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for_checkpoint(run, process)
        os.kill(ranks_of(process, "spawn_main")[1], signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 1, said.decode()
    assert "worker 1 of 2 was lost (SIGKILL)" in said.decode()
    assert f"graftwork search --resume {run}" in said.decode()
    assert "Traceback" not in said.decode()
    done = subprocess.run([*command, "--resume", str(run)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    shared_run(tmp_path / "threads", sync_every=sync_every)
    assert_equal_runs(run, tmp_path / "threads")


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds processes in /proc")
def test_workers_end_with_the_process_that_started_them_and_write_nothing_more(tmp_path: Path) -> None:
    run, config = tmp_path / "run", config_file(tmp_path, budget="4000steps")
    start = [sys.executable, *GRAFTWORK, "--config", str(config), "--out", str(run)]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for_checkpoint(run, process)
        ranks = ranks_of(process, "spawn_main")
        os.kill(process.pid, signal.SIGKILL)
    assert len(ranks) == 2
    until = time.monotonic() + 60  # a second where the machine is not busy
    while any(_runs(rank) for rank in ranks) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(_runs(rank) for rank in ranks)
    assert run_state(run)[0] == "dead"  # none of them has ended in order


def _runs(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _train_and_leave(method: str, out: str) -> None:
    group = Group.join(method=method)
    network = torch.nn.Linear(3, 3)
    optimizer = torch.optim.Adam(network.parameters())
    network(group.add(torch.ones(2, 3))).sum().backward()
    optimizer.step()
    joined = _names_of_threads()
    group.leave()
    Path(f"{out}.{group.rank}").write_text(json.dumps([joined, _names_of_threads()]))


def _names_of_threads() -> list[str]:
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds threads in /proc")
def test_leaving_ends_the_threads_of_the_backend(tmp_path: Path) -> None:
    # one that outlives Python's end may abort the process: "terminate called without an active exception"
    assert launch(_train_and_leave, 2, str(tmp_path / "threads")) == 0
    for rank in range(2):
        joined, left = json.loads((tmp_path / f"threads.{rank}").read_text())
        assert any("gloo" in name for name in joined)
        assert not any("gloo" in name for name in left)


@pytest.mark.slow
def test_torchrun_starts_a_search_again_from_its_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    start = [*torchrun, *GRAFTWORK, "--config", str(config_file(tmp_path)), "--out", str(run)]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for_checkpoint(run, process)
        os.kill(ranks_of(process, "graftwork")[1], signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    assert len(result(run)["test_openings"]) == 1
    shared_run(tmp_path / "threads")
    assert_equal_runs(run, tmp_path / "threads")


@pytest.mark.slow
def test_bad_input_is_said_once_with_exit_code_2(tmp_path: Path) -> None:
    config = config_file(tmp_path, data=str(tmp_path / "missing"))
    command = [sys.executable, *GRAFTWORK, "--config", str(config), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr.decode()
    assert done.stderr.decode().count("error:") == 1
    assert not (tmp_path / "run").exists()
