"""Data sets from somebody else can be read, within bounds, and can do nothing more."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graftwork.datasets import load_dataset
from graftwork.datasets._convert import open_image
from graftwork.datasets._unpickle import UnsafePickleError, read_arrays
from graftwork.errors import DataError
from tests.datasets.test_sources import encoded, pixels


@pytest.mark.parametrize("path", ["../private/secret.png", "link.png", "/dev/zero", "folder", "a\0b", "x" * 5000])
def test_a_table_reads_no_file_outside_of_its_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "private" / "secret.png")
    (tmp_path / "data" / "folder").mkdir(parents=True)
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "private" / "secret.png")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": path}] * 20, kind)
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 10}), tmp_path / "data" / "x.parquet")
    with pytest.raises(DataError, match=r"row 0: expected the path of a file below"):
        load_dataset(tmp_path / "data" / "x.parquet", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("metadata", [b"[" * 200_000, b"\xff", b"{}", b'{"info": 3}', b"9" * 10**6])
def test_metadata_of_a_table_that_say_nothing_are_passed_over(metadata: bytes, tmp_path: Path) -> None:
    picture = encoded(pixels(1, 16)[0])
    table = pa.table({"image": pa.array([picture] * 20, pa.binary()), "label": [0, 1] * 10})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "x.parquet")
    assert load_dataset(tmp_path / "x.parquet", cache_dir=tmp_path / "cache").class_names == ("0", "1")


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xc5\xd0\xd3\xc6" + bytes(40)]
)
def test_an_image_starts_no_program(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript, whatever the file is called, to Ghostscript."""
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", started.append)
    with pytest.raises(DataError, match=r"x\.png: expected an image.*cannot identify"):
        open_image(start, "x.png")
    assert started == []


@pytest.mark.parametrize(("mode", "size"), [("1", (12_000, 12_000)), ("LA", (2**13, 2**13))])
def test_an_image_of_more_pixels_than_memory_bears_is_refused_before_it_is_decoded(
    mode: str, size: tuple[int, int]
) -> None:
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, "PNG")
    small = file.getvalue()
    header = small[:16] + struct.pack(">II", *size) + small[24:29]
    large = header + struct.pack(">I", zlib.crc32(header[12:])) + small[33:]
    with pytest.raises(DataError, match=r"pixels, more than"):
        open_image(large, "x.png")


def archives() -> dict[str, bytes]:
    """Small archives that unpack to far more than CIFAR has."""
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.XHDTYPE, 2**31
    large = tarfile.TarInfo("data_batch_1")
    large.size = 2**40
    first = tarfile.TarInfo("a")
    return {
        "a header of 2 GiB": long.tobuf(),
        "a batch of a terabyte": large.tobuf(),
        "a header of 2 GiB behind a file": first.tobuf() + long.tobuf(),
    }


@pytest.mark.parametrize("name", archives())
def test_an_archive_is_read_within_bounds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.datasets._archive._ROOM", 2**20)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(archives()[name] + bytes(2**23), 1))
    with pytest.raises(DataError, match="expected at most"):
        load_dataset(tmp_path / "x.tar.gz", cache_dir=tmp_path / "cache")


def test_a_table_holds_no_more_than_its_size_suggests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.datasets._tables._ROOM", 2**20)
    value = pa.array([bytes(2**16)], pa.binary())
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(500, np.int32)), value)
    pq.write_table(pa.table({"image": cells, "label": [0, 1] * 250}), tmp_path / "x.parquet", compression="zstd")
    with pytest.raises(DataError, match="expected cells that fit"):
        load_dataset(tmp_path / "x.parquet", cache_dir=tmp_path / "cache")
    many = pa.table({"image": pa.nulls(2**18, pa.binary()), "label": pa.array(np.zeros(2**18, np.int64))})
    pq.write_table(many, tmp_path / "y.parquet", compression="zstd")
    with pytest.raises(DataError, match="expected at most 131,072 images"):
        load_dataset(tmp_path / "y.parquet", cache_dir=tmp_path / "cache")


@pytest.mark.skipif(os.name == "nt", reason="makes a pipe")
def test_a_table_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="pipe or device"):
        load_dataset(tmp_path, cache_dir=tmp_path / "cache")


def bombs() -> dict[str, bytes]:
    """Small pickles that take long, or much memory, where nothing stops them."""
    tuples = b"\x80\x02" + b")q\x00" + b"".join(b"h%c" % n * 3 + b"\x87q%c" % (n + 1) for n in range(60))
    return {
        "a slot of the memo far out": b"\x80\x02]r\xff\xff\xff\x7f.",
        "a key that takes exponential time": tuples + b"}" + b"h\x3ch\x3cs.",
        "copies of the top": b"\x80\x02]" + b"2a" * 40 + b".",
        "lists of lists": pickle.dumps({b"data": [[1], [2]]}, protocol=2),
    }


@pytest.mark.parametrize("bomb", bombs())
def test_a_pickle_takes_no_more_than_its_size_suggests(bomb: str) -> None:
    began = time.process_time()
    with pytest.raises((UnsafePickleError, ValueError)):
        read_arrays(bombs()[bomb])
    assert time.process_time() - began < 5
