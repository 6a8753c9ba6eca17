"""What a stranger may have put into a run folder. Each attack changes one; the manifests are then made to agree."""

import json
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from graftwork._files import read_bytes, sha256_of
from graftwork.runs._manifest import Manifest
from graftwork.session import SearchConfig
from tests.faults._sandbox import WITNESS, Place

Attack = Callable[[Place], object]

MARKUP = 'x"><img src=pwn onerror=pwn()>'
SCRIPT = "</text></title></style></script><script>pwn()</script>{{7*7}}pwn"
QUOTE = '\'"""\\");open("WITNESS","w");("'
ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x9b31m\x08\r"
DIRECTION = "abc\u202egnp.\u2066exe\u2028x"
FORMULA = "=cmd|' /C calc'!A0"
TEXTS: dict[str, Any] = {
    "markup": MARKUP,
    "script": SCRIPT,
    "python": QUOTE,
    "escapes": ESCAPES,
    "direction marks": DIRECTION,
    "formula": FORMULA,
    "half a character": "\ud800",
    "a zero byte": "a\0b",
    "a megabyte": "a" * 10**6,
}
NAMES: dict[str, Any] = {
    **TEXTS,
    "outside": "../../victim/m0",
    "absolute": "/etc/passwd",
    "parent": "..",
    "nothing": "",
    "option": "--out",
    "backslash": "..\\..\\victim",
    "number": 7,
    "list": ["a"],
    "null": None,
    "object": {"a": 1},
}
NUMBERS: dict[str, str] = {
    "infinity": "Infinity",
    "nan": "NaN",
    "negative": "-1",
    "huge": "1" + "0" * 30,
    "a million digits": "1" * 10**6,
    "a fraction": "1.5",
    "beyond floats": "1e400",
    "true": "true",
}
DEEP = "[" * 200_000 + "]" * 200_000
BAD_JSON: dict[str, bytes] = {
    "deep": DEEP.encode(),
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "empty": b"",
    "an empty object": b"{}",
    "a list": b"[]",
    "a number": b"1" * 10**6,
    "no UTF-8": b"\xff\xfe\x00",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a mark of order": b"\xef\xbb\xbf{}",
    "cut": b'{"id": "m0", "best": {"id"',
    "many lists": b"[" + b"[]," * (2**22 + 1) + b"[]]",
    "keys twice": b'{"id": "m0", "id": "../../victim/m0", "format": 1, "format": 2}',
}
JSON_FILES = ("result.json", "provenance.json", "seed_genome.json", "members/BEST.json", "ensembles/mean.json")
SIZE = 2**40
"""Bytes of a file that takes no room on the disk."""


# Building blocks -----------------------------------------------------------------------------------------------------


def best(place: Place) -> str:
    """Id of the run's best member."""
    found: str = json.loads((place.root / "best.json").read_text())
    return found


def path_of(place: Place, name: str) -> Path:
    """A file of the run: ``BEST`` stands for the best member's id, ``NEWEST`` for the newest checkpoint."""
    if "NEWEST" in name:
        newest = max(path.name for path in (place.run / "checkpoints").glob("search-*"))
        name = name.replace("NEWEST", newest)
    return place.run / name.replace("BEST", best(place))


def texts(place: Place) -> Iterable[Path]:
    """Every file of JSON of the run."""
    return [p for p in place.run.rglob("*") if p.suffix in (".json", ".jsonl") and p.name != "manifest.json"]


def replaced(old: str | Callable[[Place], str], new: Any, place: Place) -> None:
    """Replace a JSON string wherever it stands."""
    word = json.dumps(old if isinstance(old, str) else old(place))
    text = json.dumps(_armed(new, place))
    changed = 0
    for path in texts(place):
        content = path.read_text()
        changed += content.count(word)
        path.write_text(content.replace(word, text))
    assert changed, f"{word} stands nowhere"


def _armed(value: Any, place: Place) -> Any:
    return value.replace("WITNESS", str(place.victim / WITNESS)) if isinstance(value, str) else value


def edited(name: str, change: Callable[[Any], object], place: Place) -> None:
    """Change what a JSON file says."""
    path = path_of(place, name)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def put(keys: tuple[Any, ...], value: Any, data: Any) -> None:
    """Set a value that lies deep in plain data."""
    for key in keys[:-1]:
        data = data[key]
    data[keys[-1]] = value


def number(name: str, keys: tuple[Any, ...], literal: str, place: Place) -> None:
    """Put a number, as it is written, into a JSON file."""
    edited(name, partial(put, keys, "NUMBER"), place)
    path = path_of(place, name)
    path.write_text(path.read_text().replace('"NUMBER"', literal))


def written(name: str, content: bytes, place: Place) -> None:
    """Write a file instead of another."""
    path_of(place, name).write_bytes(content)


def appended(name: str, content: bytes, place: Place) -> None:
    """Write on at the end of a file."""
    with path_of(place, name).open("ab") as file:
        file.write(content)


def grown(name: str, place: Place) -> None:
    """Let a file claim a terabyte."""
    os.truncate(path_of(place, name), SIZE)


def away(place: Place, name: str) -> Path:
    """Move a file or folder of the run to the victim, so that it would do where a link to it is followed."""
    path = path_of(place, name)
    target = place.victim / f"moved-{path.name}"
    if path.exists():
        path.rename(target)
    else:
        target.write_text("mine")
    return path


def link(name: str, place: Place) -> None:
    path = away(place, name)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(place.victim / f"moved-{path.name}")


def hard_link(name: str, place: Place) -> None:
    path = away(place, name)
    os.link(place.victim / f"moved-{path.name}", path)


def dangling(name: str, place: Place) -> None:
    path = away(place, name)
    path.symlink_to(place.victim / WITNESS)


def loop(name: str, place: Place) -> None:
    path = away(place, name)
    path.symlink_to(path.name)


def pipe(name: str, place: Place) -> None:
    os.mkfifo(away(place, name))


def a_socket(name: str, place: Place) -> None:
    path = away(place, name)
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def device(name: str, place: Place) -> None:
    path = away(place, name)
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # as /dev/zero
    except PermissionError:
        path.symlink_to("/dev/zero")


def folder(name: str, place: Place) -> None:
    away(place, name).mkdir()


def tensors(name: str, change: Callable[[dict[str, Any]], dict[str, Any]], place: Place) -> None:
    """Change the tensors of a file."""
    path = path_of(place, name)
    save_file({key: np.ascontiguousarray(value) for key, value in change(load_file(path)).items()}, path)


def header(name: str, change: Callable[[dict[str, Any]], object], place: Place) -> None:
    """Change what the header of a file of tensors says, without its data."""
    path = path_of(place, name)
    content = path.read_bytes()
    stop = 8 + int.from_bytes(content[:8], "little")
    found = json.loads(content[8:stop])
    text = json.dumps(change(found) or found).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[stop:])


def config(place: Place, **options: str) -> None:
    """Set options of the run, each as TOML."""
    path = place.run / "config.toml"
    lines = [line for line in path.read_text().splitlines() if line.split(" =")[0] not in options]
    path.write_text("\n".join([*(f"{name} = {value}" for name, value in options.items()), *lines]))


def forge(place: Place) -> None:
    """Make every manifest agree with what is there, as whoever can write to a folder can."""
    for path in [place.run, *(place.run / "checkpoints").glob("*")]:
        with suppress(Exception):  # what can't be read can't be forged
            manifest = Manifest.load(path)
            if manifest is not None:
                names = [name for name in manifest._files if _plain(path / name)]
                Manifest(path, {name: [sha256_of(path / name)] for name in names}, _origin(path, manifest)).save()


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 2**28


def _origin(run: Path, manifest: Manifest) -> dict[str, Any]:
    found = dict(manifest.origin)
    if found:
        with suppress(Exception):
            found["config"] = SearchConfig.load(run / "config.toml").to_dict()
        with suppress(Exception):
            found["seed_genome"] = json.loads(read_bytes(run / "seed_genome.json"))
            stored = json.loads(read_bytes(run / "provenance.json"))
            found |= {"plan": stored["plan"], "data": stored["data"]["fingerprint"]}
    return found
