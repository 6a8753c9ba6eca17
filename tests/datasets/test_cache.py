"""The cache holds whole data sets or none, whoever else writes, and whatever the disk does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.datasets import load_dataset
from graftwork.errors import DataError, ResourceError
from tests.datasets.test_sources import pixels, write_parquet

LOAD = "import sys; from pathlib import Path; from graftwork.datasets import load_dataset; "


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "a.parquet", pixels(64, side=32), [0, 1] * 32)


def run(code: str, *arguments: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", LOAD + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_a_hit_equals_a_cold_decode(table: Path, tmp_path: Path) -> None:
    cold = load_dataset(table, cache_dir=tmp_path / "one")
    hit, elsewhere = load_dataset(table, cache_dir=tmp_path / "one"), load_dataset(table, cache_dir=tmp_path / "two")
    for other in (hit, elsewhere):
        assert np.array_equal(other.images, cold.images)
        assert np.array_equal(other.labels, cold.labels)
        assert (other.fingerprint, other.class_names) == (cold.fingerprint, cold.class_names)


def test_two_processes_decode_once_and_agree(table: Path, tmp_path: Path) -> None:
    code = (
        "import graftwork.datasets._cache as c; fill = c._fill; c._fill = lambda *a: (print('filled'), fill(*a));"
        "print(load_dataset(sys.argv[1], cache_dir=Path(sys.argv[2])).fingerprint)"
    )
    running = [run(code, table, tmp_path / "cache") for _ in range(2)]
    lines = [line for process in running for line in process.communicate(timeout=120)[0].split()]
    assert lines.count("filled") == 1
    assert len(lines) == 3
    assert len(set(lines)) == 2
    assert len(entries(tmp_path / "cache")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_write_that_fails_halfway_is_a_resource_error_and_leaves_nothing(table: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal; from graftwork.errors import ResourceError;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: load_dataset(sys.argv[1], cache_dir=Path(sys.argv[2]))\n"
        "except ResourceError as error: print(error)"
    )
    out, problem = run(code, table, tmp_path / "cache").communicate(timeout=120)
    assert "full disk" in out, problem
    assert entries(tmp_path / "cache") == []
    assert len(load_dataset(table, cache_dir=tmp_path / "cache").images) == 64


def test_a_cache_that_cannot_be_made_says_what_to_set(table: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="GRAFTWORK_CACHE"):
        load_dataset(table, cache_dir=tmp_path / "file")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "copies.npy", "manifest.json"])
def test_a_damaged_entry_is_decoded_anew(table: Path, tmp_path: Path, name: str) -> None:
    fresh = load_dataset(table, cache_dir=tmp_path / "cache")
    expected = np.array(fresh.images)
    (entry,) = entries(tmp_path / "cache")
    os.truncate(entry / name, 100)
    again = load_dataset(table, cache_dir=tmp_path / "cache")
    assert np.array_equal(again.images, expected)
    assert again.fingerprint == fresh.fingerprint


def test_leftovers_of_a_killed_process_are_removed(table: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_dataset(table, cache_dir=cache)
    (entry,) = entries(cache)
    entry.rename(cache / f".{entry.name}.99999999.tmp")
    load_dataset(table, cache_dir=cache)
    assert entries(cache) == [entry]


def test_a_source_that_changes_while_it_is_read_is_refused(table: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import graftwork.datasets._load as module

    listing = module._list_parquet

    def list_and_change(files: list[Path], where: Path, options: Any) -> Any:
        os.utime(files[0], ns=(1, 1))
        return listing(files, where, options)

    monkeypatch.setattr(module, "_list_parquet", list_and_change)
    with pytest.raises(DataError, match="changed"):
        load_dataset(table, cache_dir=tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_a_flipped_bit_in_the_cache_is_noticed_and_decoded_again(tmp_path: Path) -> None:
    first = load_dataset("digits", cache_dir=tmp_path)
    images = tmp_path / "digits" / "images.npy"
    whole = images.read_bytes()
    images.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    again = load_dataset("digits", cache_dir=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert images.read_bytes() == whole
