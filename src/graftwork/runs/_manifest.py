"""Manifest: what a run, or a checkpoint, is made of, by hash."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork._files import damaged, inside, parse_json, read_bytes, sha256_of, write_json
from graftwork._version import __version__
from graftwork.errors import RunError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
"""Version of what a run folder holds (``docs/run-folder.md`` has the rule by which it changes)."""


class Manifest:
    """Hashes of the files of a folder, and what a run was begun with.

    A file's new hash is stored *before* the file gets its name, beside the old one: so a kill between the two leaves
    a file that fits.

    Args:
        folder: Folder that it describes.
        files: Hex SHA-256 by path below the folder: the present one, and where a file is being replaced the one before.
        origin: What the run was begun with, by name: config, seed genome, plan, data.
    """

    def __init__(
        self, folder: Path, files: Mapping[str, list[str]] | None = None, origin: Mapping[str, Any] | None = None
    ) -> None:
        self._folder = folder
        self._files = {name: list(hashes) for name, hashes in (files or {}).items()}
        self.origin = dict(origin or {})

    @classmethod
    def load(cls, folder: Path) -> "Manifest | None":
        """Read what `save` wrote; ``None`` where there is none.

        Raises:
            RunError: If it is damaged.
        """
        path = inside(folder, MANIFEST)
        try:
            data = parse_json(read_bytes(path), str(path))
        except FileNotFoundError:
            return None
        _check_version(data, folder)
        if not isinstance(data, dict) or data.pop("sha256", None) != _digest(data):
            raise RunError(f"{path} is damaged; its own hash does not fit")
        with damaged(str(path)):
            return cls(
                folder, {str(name): list(map(str, found)) for name, found in data["files"].items()}, data["origin"]
            )

    def save(self) -> None:
        """Write it, as a whole."""
        data = {"version": FORMAT_VERSION, "files": self._files, "origin": self.origin}
        write_json(inside(self._folder, MANIFEST), {**data, "sha256": _digest(data)})

    def expect(self, name: str, digest: str) -> None:
        """Store that a file is about to be replaced by content of this hash."""
        self._files[name] = [digest, *(one for one in self._files.get(name, [])[:1] if one != digest)]
        self.save()

    def replaced(self, name: str) -> None:
        """Forget the hash before; stored with the next `expect`."""
        del self._files[name][1:]

    def listed(self, name: str) -> list[str]:
        """Hashes that a file may have; none where it is not listed."""
        return self._files.get(name, [])

    def check(self, name: str) -> None:
        """Compare a file with its hash.

        Raises:
            FileNotFoundError: If it is not there.
            RunError: If it differs, or is not listed.
        """
        path = inside(self._folder, name)
        if sha256_of(path) not in self.listed(name):
            raise RunError(
                f"{path} is damaged or was changed: it is not what {MANIFEST} lists; bring it back from a copy, or "
                "take the run's other files"
            )


def check_format(folder: Path) -> None:
    """Raise `RunError` if a folder is of another format; a manifest that can't be read is told where it is used."""
    try:
        data = parse_json(read_bytes(inside(folder, MANIFEST)), MANIFEST)
    except (FileNotFoundError, RunError):
        return
    _check_version(data, folder)


def _check_version(data: Any, folder: Path) -> None:
    found = data.get("version") if isinstance(data, dict) else None
    if found == FORMAT_VERSION or type(found) is not int:
        return
    age = "a newer" if found > FORMAT_VERSION else "an older"
    raise RunError(
        f"{folder}: expected format {FORMAT_VERSION} of run folders, which graftwork {__version__} reads, got {found}, "
        f"of {age} graftwork; read it with that one (provenance.json names it), or search again by its options: "
        f"graftwork search --config {folder / 'config.toml'}"
    )


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def differences(before: Any, now: Any, *, where: str = "") -> list[str]:
    """Each value that differs between two pieces of plain data, as ``where: was …, is …``."""
    before, now = (json.loads(json.dumps(one)) for one in (before, now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{where}: was {_short(before)}, is {_short(now)}"]
    found: list[str] = []
    for key in sorted({*before, *now}):
        name = f"{where}.{key}" if where else key
        found += differences(before.get(key), now.get(key), where=name)
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
