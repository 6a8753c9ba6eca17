"""Every reader of a stranger's bytes, with valid inputs to start from and the errors that it may raise."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, features
from safetensors.numpy import save
from torch import nn

import graftwork as gw
from graftwork._files import parse_json
from graftwork.datasets._arrays import list_npz
from graftwork.datasets._cache import _open as open_cached
from graftwork.datasets._convert import fit, open_image
from graftwork.datasets._listing import Listing, ReadOptions
from graftwork.datasets._load import _list_archives
from graftwork.datasets._sheets import list_sheets
from graftwork.datasets._sources import _unpickle
from graftwork.datasets._tables import list_parquet
from graftwork.ensembles import combiner_from
from graftwork.networks.genome import Genome, draw, forward_flops, num_parameters, summary
from graftwork.runs import check_member, check_result, load_tensors, read_records, run_state, unpack_state
from graftwork.runs._manifest import Manifest, _digest
from graftwork.session import SearchConfig
from graftwork.surgery import growth_log, replay
from graftwork.surgery._saving import _FORMAT, _VERSION, sealed

Read = Callable[[bytes, Path], object]
"""Function of an input and of a folder of its own."""


@dataclass(frozen=True)
class Reader:
    """One reader.

    Args:
        share: Its part of all inputs.
        kind: Structure that may be changed, as of `tests.faults._mutations.mutated`.
        seeds: Valid inputs.
        read: Reads one; anything but an error of graftwork's is a mistake.
    """

    share: float
    kind: str
    seeds: Sequence[bytes]
    read: Read


def readers(run: Path) -> dict[str, Reader]:
    """All readers, by name.

    Args:
        run: Folder of a finished run, whose files are the valid inputs.
    """
    state, tensors = _checkpoint(run)
    members = [path.read_bytes() for path in sorted((run / "members").glob("*.json"))]
    genome = (run / "seed_genome.json").read_bytes()
    blocks = (run / "ensembles" / "stacked-network.safetensors").read_bytes()
    combiners = [(run / "ensembles" / f"{name}.json").read_bytes() for name in ("stacked-network", "mean")]
    held = [load_tensors(run / "ensembles" / f"{name}.safetensors") for name in ("stacked-network", "mean")]
    safetensors = [blocks, (run / "ensembles" / "mean.safetensors").read_bytes(), _small_tensors()]
    return {
        "json": Reader(0.33, "json", [genome, *members, b"[1, 2.5e3, {}]"], lambda data, _: parse_json(data, "x")),
        "result": Reader(0.04, "json", [(run / "result.json").read_bytes()], _read_result),
        "member": Reader(0.03, "json", members, _read_member),
        "genome": Reader(0.08, "json", [genome, *map(_genome_of, members)], _read_genome),
        "records": Reader(0.04, "lines", [_lines(run)], _read_records),
        "manifest": Reader(0.05, "json", [_small_manifest(run)], _read_manifest),
        "owner": Reader(0.02, "json", [b'{"pid": 1, "host": "a", "since": "2026-11-30T00:00:00+00:00"}'], _read_owner),
        "state": Reader(0.01, "json", [state], lambda data, _: unpack_state(_object(data).get("search"), tensors)),
        "config (TOML)": Reader(0.05, "bytes", _configs(run), _read_config),
        "combiner": Reader(0.03, "json", combiners, lambda data, _: _read_combiner(data, held)),
        "safetensors": Reader(0.09, "bytes", safetensors, _read_tensors),
        "pickle": Reader(0.1, "bytes", _pickles(), lambda data, _: _unpickle(data, "x")),
        "PNG": Reader(0.03, "png", _pictures("PNG"), _read_image),
        "other images": Reader(0.04, "bytes", _pictures(), _read_image),
        "parquet": Reader(0.01, "bytes", _tables(), _read_table),
        "archive": Reader(0.01, "bytes", _archives(), _read_archive),
        "sheet": Reader(0.01, "bytes", [b"path,label\na.png,cat\nb.png,dog\n", b"a.png\tcat\n"], _read_sheet),
        "arrays": Reader(0.01, "bytes", [_npz()], _read_npz),
        "growth log": Reader(0.01, "json", [_growths()], _read_growth),
        "cache": Reader(0.01, "bytes", [_array()], _read_cache),
    }


# Runs ----------------------------------------------------------------------------------------------------------------


def _object(data: bytes) -> dict[str, Any]:
    found = parse_json(data, "x")
    return found if isinstance(found, dict) else {}


def _read_result(data: bytes, folder: Path) -> object:
    return check_result(_object(data), folder)


def _read_member(data: bytes, folder: Path) -> object:
    return Genome.from_dict(check_member(_object(data), folder)["genome"])


def _genome_of(member: bytes) -> bytes:
    return json.dumps(json.loads(member)["genome"]).encode()


def _read_genome(data: bytes, _: Path) -> object:
    genome = Genome.from_dict(parse_json(data, "x"))
    return genome.id, summary(genome), draw(genome), forward_flops(genome), num_parameters(genome)


def _lines(run: Path) -> bytes:
    return b"\n".join((run / "records.jsonl").read_bytes().split(b"\n")[:6]) + b"\n"


def _file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _read_records(data: bytes, folder: Path) -> object:
    return read_records(_file(data, folder, "records.jsonl"))


def _small_manifest(run: Path) -> bytes:
    data = json.loads((run / "manifest.json").read_bytes())
    return json.dumps({**data, "files": dict(list(data["files"].items())[:3])}).encode()


def _read_manifest(data: bytes, folder: Path) -> object:
    """With the hash that fits, as whoever forges one writes it."""
    found = _object(data)
    found.pop("sha256", None)
    _file(json.dumps({**found, "sha256": _digest(found)}).encode(), folder, "manifest.json")
    manifest = Manifest.load(folder)
    if manifest is not None:
        for name in ("records.jsonl", "config.toml"):
            (folder / name).touch()
            manifest.check(name)
    return manifest


def _read_owner(data: bytes, folder: Path) -> object:
    _file(data, folder, "owner.json")
    return run_state(folder)


def _checkpoint(run: Path) -> tuple[bytes, dict[str, torch.Tensor]]:
    newest = max((run / "checkpoints").glob("search-*"))
    return (newest / "state.json").read_bytes(), load_tensors(newest / "tensors.safetensors")


def _configs(run: Path) -> list[bytes]:
    own = b'data = "digits"\nseed = 3\nbudget = "10m"\n[recipe]\nname = "default"\nbatch_size = 16\n'
    return [(run / "config.toml").read_bytes(), own]


def _read_config(data: bytes, folder: Path) -> object:
    return SearchConfig.load(_file(data, folder, "config.toml")).to_toml()


def _read_combiner(data: bytes, held: Sequence[dict[str, torch.Tensor]]) -> object:
    """With the tensors of a mean where it says that it is one, else with those of a stacker."""
    return combiner_from(_object(data).get("combiner", {}), held[b'"mean"' in data])


# Tensors, pickles, images --------------------------------------------------------------------------------------------


def _small_tensors() -> bytes:
    return save({"a": np.zeros((2, 3), np.float32), "b": np.arange(4), "c": np.zeros((1, 2, 2, 2), np.float16)})


def _read_tensors(data: bytes, folder: Path) -> object:
    return load_tensors(_file(data, folder, "x.safetensors"))


def _pickles() -> list[bytes]:
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], b"filenames": [b"a", b"b"]}
    names = {b"label_names": [b"cat", b"dog"], b"num_vis": 3072}
    return [pickle.dumps(batch, 2), pickle.dumps(batch, 4), *(pickle.dumps(names, protocol) for protocol in (0, 2, 4))]


def _pictures(*kinds: str) -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    others = ("JPEG", "GIF", "BMP", "TIFF", "PPM", *(("WEBP",) if features.check("webp") else ()))
    for kind in kinds or (*others, *(("AVIF",) if features.check("avif") else ())):
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            shape = (12, 12, 3) if mode == "RGB" else (12, 12)
            Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(file, kind)
            found.append(file.getvalue())
    if kinds:
        for mode in ("P", "LA", "RGBA", "I;16", "1"):
            file = io.BytesIO()
            Image.new(mode, (12, 12)).save(file, "PNG")
            found.append(file.getvalue())
    return found


def _read_image(data: bytes, _: Path) -> object:
    return fit(open_image(data, "x"), (8, 8, 3))


# Tables, archives, caches, growths -----------------------------------------------------------------------------------


def _tables() -> list[bytes]:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": picture, "path": None} for picture in _pictures("PNG")[:2] * 3]
    table = pa.table({"image": pa.array(cells, kind), "label": [0, 1] * 3})
    hint = b'{"info": {"features": {"label": {"names": ["a", "b"]}}}}'
    found = []
    for packed in ("snappy", "none"):
        file = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({b"huggingface": hint}), file, compression=packed)
        found.append(file.getvalue())
    return found


def _read_table(data: bytes, folder: Path) -> object:
    options = ReadOptions(skip_bad_images=True)
    return list_parquet([_file(data, folder, "x.parquet")], folder, options).read(options)


def _archives() -> list[bytes]:
    batch = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}, 2)
    names = pickle.dumps({b"label_names": [b"a", b"b"]}, 2)
    parts = {**{f"c/data_batch_{n}": batch for n in range(1, 6)}, "c/test_batch": batch, "c/batches.meta": names}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    plain = file.getvalue()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as small:
        for number, picture in enumerate(_pictures("PNG")[:2] * 2):
            small.writestr(f"{'ab'[number % 2]}/{number}.png", picture)
    return [plain, gzip.compress(plain), zipped.getvalue()]


def _read_archive(data: bytes, folder: Path) -> object:
    path = _file(data, folder, "x.zip" if data.startswith(b"PK") else "x.tar")
    found = _list_archives([path], path, ReadOptions(), folder)
    return found.read(ReadOptions(skip_bad_images=True)) if isinstance(found, Listing) else found


def _read_sheet(data: bytes, folder: Path) -> object:
    return list_sheets([_file(data, folder, "x.csv")], ReadOptions())


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, images=np.zeros((4, 8, 8), np.uint8), labels=np.array([0, 1, 0, 1]))
    return file.getvalue()


def _read_npz(data: bytes, folder: Path) -> object:
    return list_npz(_file(data, folder, "x.npz"))


def _build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


def _growths() -> bytes:
    torch.manual_seed(0)
    model, x = _build(), torch.randn(2, 3, 6, 6)
    gw.widen(model, "0", extra=2, example_input=x)
    gw.deepen(model, "2", example_input=x)
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "growths": growth_log(model),
        "aliases": {},
        "tensors": None,
    }
    return json.dumps(sealed(document)).encode()


def _read_growth(data: bytes, folder: Path) -> object:
    with suppress(ValueError, RecursionError):
        document = json.loads(data)
        if isinstance(document, dict):  # a stranger would name the right hash
            data = json.dumps(sealed(document)).encode()
    _file(data, folder, "growth.json")
    model = _build()
    replay(model, folder)
    return model


def _array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((4, 8, 8, 1), np.uint8))
    return file.getvalue()


def _read_cache(data: bytes, folder: Path) -> object:
    target = folder / "cached"
    target.mkdir(exist_ok=True)
    if not (target / "labels.npy").exists():
        np.save(target / "labels.npy", np.array([0, 0, 1, 1]))
        (target / "manifest.json").write_text('{"class_names": ["a", "b"], "fingerprint": "0", "skipped": []}')
    (target / "images.npy").write_bytes(data)
    return open_cached(target, "x")
