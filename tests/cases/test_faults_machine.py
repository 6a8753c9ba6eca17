"""A machine that gives out: one line, the exit code of the documentation, and nothing lost that was complete."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import graftwork as gw
from tests.cases.commands import RESUME, ending_of, graftwork, own_process, require, started, tiny_search, wait_until
from tests.cases.images import class_folders

linux = pytest.mark.skipif(sys.platform != "linux", reason="the fault is put in by way of /proc")


class PutInError(OSError):
    """What a case lets the operating system report."""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], list[str]]:
    """Let every `fsync` of files with a word in their path fail; the list that is returned fills with their paths."""

    def install(number: int, word: str) -> list[str]:
        hit: list[str] = []
        real = os.fsync

        def fsync(descriptor: int) -> None:
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            if word in path:
                hit.append(path)
                raise PutInError(number, os.strerror(number))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        return hit

    return install


def test_two_classes_of_thirty_images_are_searched_to_the_end(tmp_path: Path) -> None:
    """The search spends its budget and fails; every resume repeats it."""
    data, run = class_folders(tmp_path / "data", ("a", "b"), images=30), tmp_path / "run"
    graftwork(*tiny_search(tmp_path, data=data, shape=(3, 12, 12), classes=2))
    if not (run / "result.json").exists():
        graftwork(*RESUME, run)
    assert (run / "result.json").exists()


@linux
def test_an_error_of_writing_is_one_line(tmp_path: Path, failing: Callable[[int, str], list[str]]) -> None:
    """An I/O error while a run is written is a traceback."""
    hit = failing(errno.EIO, "provenance")
    ending = graftwork(*tiny_search(tmp_path))
    require(hit, "the provenance is written and synced")
    assert ending.code == 1


@linux
@pytest.mark.parametrize("word", ["records.jsonl", "figures", pytest.param("report.html", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line(word: str, unfinished: Path, failing: Callable[[int, str], list[str]]) -> None:
    """Where the records, a figure or the page don't fit, there is a traceback."""
    hit = failing(errno.ENOSPC, word)
    ending = graftwork("search", "--resume", unfinished, "--quiet")
    require(hit, f"{word} is written and synced")
    assert ending.code == 1


@linux
@pytest.mark.slow
def test_a_network_that_does_not_fit_into_memory_is_one_line(tmp_path: Path) -> None:
    """The allocator's RuntimeError is a traceback, without a word on how to go on."""
    search = own_process(*tiny_search(tmp_path, width=60_000))
    with started(["bash", "-c", 'ulimit -v 8000000; exec "$@"', "limited", *search]) as process:
        ending = ending_of(process)
    require(ending.code != 0 and "memory" in ending.text, ending.text)
    assert not ending.crashed


def test_a_save_that_is_interrupted_leaves_the_model_that_was_saved_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its two files there are new tensors with the old log, and nothing can be loaded."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))

    model, real, allowed = build(), os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise KeyboardInterrupt
        real(descriptor)

    gw.widen(model, "0", extra=4, example_input=torch.randn(2, 3, 8, 8))
    gw.save_model(model, tmp_path / "old")
    gw.widen(model, "0", extra=4, example_input=torch.randn(2, 3, 8, 8))
    monkeypatch.setattr(os, "fsync", fsync)
    for moment in range(100):
        shutil.copytree(tmp_path / "old", tmp_path / str(moment))
        allowed = moment
        try:
            gw.save_model(model, tmp_path / str(moment))
        except KeyboardInterrupt:
            gw.load_model(build, tmp_path / str(moment))
        else:
            break
    require(moment > 0, "a save syncs its files")


@linux
@pytest.mark.slow
def test_a_search_that_is_asked_to_terminate_stores_a_checkpoint(tmp_path: Path) -> None:
    """SIGTERM, as batch systems and containers send it, loses all work since the last checkpoint."""
    run = tmp_path / "run"
    search = tiny_search(tmp_path, "--initial-steps", 20_000, "--checkpoint-every", 1000)
    with started(own_process(*search)) as process:
        wait_until(lambda: process.poll() is not None or (run / "provenance.json").exists(), "the start of the search")
        with contextlib.suppress(subprocess.TimeoutExpired):  # it trains for a while
            process.wait(1.5)
        require(process.poll() is None, "it still searches")
        process.terminate()
        ending_of(process)
    assert list((run / "checkpoints").glob("search-*")) != []
