"""The attacks on folders and tables of images, by name."""

import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.faults._building import DIRECTION, ESCAPES, FORMULA, MARKUP, Attack
from tests.faults._sandbox import Place


def data_attacks() -> dict[str, Attack]:
    """Every attack on a folder of images, or a table, that ``--data`` or ``predict`` is given."""
    return {
        "an image of 10⁵ × 10⁵": lambda place: _image(place, "bomb.png", _png_bomb()),
        "many frames": lambda place: _image(place, "bomb.gif", _gif_bomb()),
        "an image that is cut": lambda place: _image(place, "cut.png", _picture()[:60]),
        "an image that is a pipe": lambda place: os.mkfifo(_class(place) / "pipe.png"),
        "an image that is a device": lambda place: (_class(place) / "zero.png").symlink_to("/dev/zero"),
        "a folder within itself": lambda place: (_class(place) / "again").symlink_to(place.data),
        "names of formulas": lambda place: _image(place, f"{FORMULA.replace('/', '')}.png", _picture()),
        "names of escapes": lambda place: _image(place, f"{ESCAPES}{DIRECTION}.png", _picture()),
        "names of markup": lambda place: _image(place, MARKUP.replace("/", "") + ".png", _picture()),
        "classes of escapes": lambda place: _images(place.data / f"{ESCAPES}{FORMULA.replace('/', '')}"),
        "names that are no text": lambda place: _image(place, os.fsdecode(b"\xff.png"), _picture()),
        "postscript": lambda place: _image(place, "x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "a table that is a pipe": lambda place: os.mkfifo(_only(place) / "x.parquet"),
        "a table of ten million rows without images": lambda place: _table(place, _many_rows()),
        "a table of repeated cells": lambda place: _table(place, _large_cells()),
        "a table of nothing": lambda place: (_only(place) / "x.parquet").write_bytes(b"PAR1PAR1"),
        "a table with paths outside": lambda place: _table(place, _paths("../victim/secret.png")),
        "a table with absolute paths": lambda place: _table(place, _paths("/etc/passwd")),
        "a batch that runs code": lambda place: _batches(place, b"\x80\x04cposix\nsystem\n(S'touch pwned'\ntR."),
        "a batch that takes for ever": lambda place: _batches(place, _tuples()),
        "a batch that takes all memory": lambda place: _batches(place, b"\x80\x02]r\xff\xff\xff\x7f."),
        "an archive of zeros": lambda place: _archive(place, _zeros(2**33)),
        "an archive with a long header": lambda place: _archive(place, _long_header()),
        "an archive that climbs": lambda place: _archive(place, _climbing()),
        "an archive of devices": lambda place: _archive(place, _devices()),
        "a zip that climbs": lambda place: _zip(place, {"../../victim/a/0.png": _picture(), "/etc/b/0.png": b""}),
        "a zip of links": lambda place: _zip(
            place, {**_two_classes(), "a/x.png": b"../victim/secret.png"}, link="a/x.png"
        ),
        "a zip that unpacks to gigabytes": lambda place: _zip(place, {**_two_classes(), "a/x.png": bytes(2**30)}),
        "a zip of many small files": lambda place: _zip(
            place, dict.fromkeys(map("a/{}.png".format, range(50_000)), b"")
        ),
        "a zip of escapes": lambda place: _zip(place, _two_classes(f"{ESCAPES}{DIRECTION}")),
        "a zip in a zip": lambda place: _zip(place, {"a/x.zip": b"PK", "b/x.zip": b"PK"}),
        "a shard that climbs": lambda place: _shard(
            place, {"../../victim/0.png": _picture(), "../../victim/0.cls": b"1"}
        ),
        "a shard of links": lambda place: _shard(place, {**_pairs(), "x.cls": b"1"}, link="x.png"),
        "a shard of labels of escapes": lambda place: _shard(place, _pairs(f"{ESCAPES}{DIRECTION}".encode())),
        "a shard of labels of markup": lambda place: _shard(place, _pairs(MARKUP.encode())),
        "a shard of a label of gigabytes": lambda place: _shard(place, _pairs(), hole=2**29),
        "a shard of labels without end": lambda place: _shard(place, _pairs(b"9" * 10**6)),
        "a shard without images": lambda place: _shard(place, {f"{n}.cls": b"1" for n in range(20_000)}),
        "a shard that is cut": lambda place: os.truncate(_shard(place, _pairs()), 3000),
        "a shard of one name": lambda place: _shard(place, dict.fromkeys(["0.png"], _picture()), times=20_000),
        "a zip of one name": lambda place: _zip(place, {"a/\0.png": _picture(), "b/./../b/0.png": _picture()}),
        "a zip whose index lies": _lying_zip,
        "a list of many rows": lambda place: (_only(place) / "x.csv").write_text("path,label\n" + "0.png,a\n" * 10**5),
        "a list of a quote without end": lambda place: (_only(place) / "x.csv").write_text(
            'path,label\n"' + "a" * 10**7
        ),
        "a list of formulas": lambda place: (_only(place) / "x.tsv").write_text(
            "path\tlabel\n" + f"{FORMULA}\t{FORMULA}\n" * 9
        ),
        "a list of columns without end": lambda place: (_only(place) / "x.csv").write_text("a," * 10**6 + "\n"),
        "a list with paths outside": lambda place: _list(place, "../victim/secret.png"),
        "a list with absolute paths": lambda place: _list(place, str(place.victim / "secret.png")),
        "a list of a device": lambda place: _list(place, "/dev/zero"),
        "a list of a link": _list_of_a_link,
        "a list of escapes": lambda place: _list(place, f"{ESCAPES}{FORMULA}{MARKUP}.png"),
        "arrays of Python objects": lambda place: _arrays(place, np.array([_Deed()] * 8, dtype=object)),
        "arrays that claim a terabyte": lambda place: (_only(place) / "x.npz").write_bytes(_large_array()),
        "ten thousand empty classes": _empty_classes,
    }


def _class(place: Place) -> Path:
    return place.data / "a"


def _only(place: Place) -> Path:
    """The data folder without its images."""
    for path in place.data.iterdir():
        shutil.rmtree(path)
    return place.data


def _picture(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _image(place: Place, name: str, content: bytes) -> None:
    (_class(place) / name).write_bytes(content)


def _images(path: Path) -> None:
    path.mkdir()
    for n in range(8):
        (path / f"{n}.png").write_bytes(_picture(n))


def _png_bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 10**5, 10**5, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(10**7))) + chunk(b"IEND", b"")
    )


def _gif_bomb() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("P", (12, 12), n % 250) for n in range(3000)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def _table(place: Place, table: Any) -> None:
    pq.write_table(table, _only(place) / "x.parquet", compression="zstd")


def _many_rows() -> Any:
    rows = 10**7
    return pa.table({"image": pa.nulls(rows, pa.binary()), "label": pa.array(np.zeros(rows, np.int64))})


def _large_cells() -> Any:
    """A megabyte, named four thousand times: the file has the size of one."""
    values = pa.array([bytes(2**20)], pa.binary())
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4000, np.int32)), values)
    return pa.table({"image": cells, "label": pa.array([0, 1] * 2000)})


def _paths(path: str) -> Any:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"image": pa.array([{"bytes": None, "path": path}] * 20, kind), "label": [0, 1] * 10})


def _tuples() -> bytes:
    tuples = b"\x80\x02" + b")q\x00" + b"".join(b"h%c" % n * 3 + b"\x87q%c" % (n + 1) for n in range(60))
    return tuples + b"}" + b"h\x3ch\x3cs."


def _batches(place: Place, content: bytes) -> None:
    root = _only(place)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"):
        (root / name).write_bytes(content)


def _archive(place: Place, content: bytes) -> None:
    (_only(place) / "x.tar.gz").write_bytes(content)


def _tar(fill: Callable[[tarfile.TarFile], object]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        fill(archive)
    return file.getvalue()


@cache
def _zeros(size: int) -> bytes:
    """A member that claims so many zero bytes, of which 768 MiB are there; xz makes little of it."""
    packer, block = lzma.LZMACompressor(preset=0), bytes(2**24)
    entry = tarfile.TarInfo("cifar/readme")
    entry.size = size
    parts = [packer.compress(entry.tobuf()), *(packer.compress(block) for _ in range(3 * 2**28 // len(block)))]
    return b"".join([*parts, packer.flush()])


@cache
def _long_header() -> bytes:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 2**31
    return gzip.compress(entry.tobuf() + bytes(3 * 2**28), 1)


def _climbing() -> bytes:
    def fill(archive: tarfile.TarFile) -> None:
        for name in ("../../victim/data_batch_1", "/etc/data_batch_2"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"pwn!"))

    return gzip.compress(_tar(fill))


def _devices() -> bytes:
    def fill(archive: tarfile.TarFile) -> None:
        for name, kind in (("data_batch_1", tarfile.CHRTYPE), ("data_batch_2", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.devmajor, entry.devminor = kind, "/etc/passwd", 1, 5
            archive.addfile(entry)

    return gzip.compress(_tar(fill))


def _two_classes(more: str = "") -> dict[str, bytes]:
    return {f"{name}{more}/{number}.png": _picture(number) for name in "ab" for number in range(8)}


def _zip(place: Place, files: dict[str, bytes], *, link: str | None = None) -> None:
    with zipfile.ZipFile(_only(place) / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o120777 if name == link else 0o100644) << 16
            archive.writestr(entry, content)


def _list(place: Place, path: str) -> None:
    (_only(place) / "x.csv").write_text("path,label\n" + "".join(f'"{path}",{"ab"[row % 2]}\n' for row in range(16)))


def _list_of_a_link(place: Place) -> None:
    _list(place, "0.png")
    target = (place.victim / "secret.png").rename(place.victim / "moved-0.png")
    (place.data / "0.png").symlink_to(target)


def _pairs(label: bytes = b"") -> dict[str, bytes]:
    found = {f"{number}.png": _picture(number) for number in range(8)}
    return found | {f"{number}.cls": label or b"%d" % (number % 2) for number in range(8)}


def _shard(place: Place, files: dict[str, bytes], *, link: str = "", hole: int = 0, times: int = 1) -> Path:
    """A tar of these files; a link, and a last file that claims so many bytes, of which none is there."""

    def fill(archive: tarfile.TarFile) -> None:
        for name, content in [*files.items()] * times:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "../victim/secret.png"
            archive.addfile(entry)

    path, content = _only(place) / "x.tar", _tar(fill)
    if hole:
        entry = tarfile.TarInfo("9.cls")
        entry.size = hole
        content = content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512) + entry.tobuf()
    path.write_bytes(content)
    if hole:
        os.truncate(path, len(content) + hole)
    return path


def _lying_zip(place: Place) -> None:
    """A zip whose index claims that each picture unpacks to four gigabytes."""
    _zip(place, _two_classes())
    path = place.data / "x.zip"
    content, at = bytearray(path.read_bytes()), 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + 24 : at + 28] = b"\xff" * 4
        at += 4
    path.write_bytes(content)


class _Deed:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


def _arrays(place: Place, labels: Any) -> None:
    np.savez(_only(place) / "x.npz", images=np.zeros((8, 8, 8), np.uint8), labels=labels)


def _large_array() -> bytes:
    file = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(64))
        archive.writestr("labels.npy", header.getvalue())
    return file.getvalue()


def _empty_classes(place: Place) -> None:
    for n in range(10**4):
        (place.data / f"c{n}").mkdir()
