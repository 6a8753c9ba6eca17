"""Data sets from somebody else can be read, within bounds, and can do nothing more."""

import pickle
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graftwork.datasets import load_dataset
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
