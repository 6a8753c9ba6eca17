"""RunFolder: one run on disk."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from graftwork._files import (
    as_json,
    inside,
    make_folder,
    parse_json,
    read_bytes,
    sweep,
    write_bytes,
    write_folder,
    write_pieces,
    write_text,
)
from graftwork.errors import ResourceError, RunError
from graftwork.runs._lock import LOCK, RunLock
from graftwork.runs._manifest import MANIFEST, Manifest, check_format, differences
from graftwork.runs._provenance import now
from graftwork.runs._records import (
    GenerationRow,
    Result,
    Row,
    check_latencies,
    check_result,
    read_records,
    row_to_line,
)
from graftwork.runs._tensors import load_tensors, save_tensors, tensor_pieces
from graftwork.runs._whole import RECORDS, read_checkpoint

KEPT_CHECKPOINTS = 2
LATENCIES = "latency.json"
_FOLDERS = ("checkpoints", "members", "figures", "predictions")


class RunFolder:
    """One run on disk (see ``docs/run-folder.md``). Every write is whole or not there, every read is checked.

    Nothing below the folder is reached through a link. Files that `manifest.json` lists have to be what it says.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest: Manifest | None = None
        self._lock: RunLock | None = None
        self._restored: Path | None = None
        self.passed_over: list[str] = []

    # A run's beginning and its lock ----------------------------------------------------------------------------------

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise `RunError` if something is there that holds a file: runs are never overwritten."""
        if path.is_symlink() or (path.exists() and (not path.is_dir() or any(not p.is_dir() for p in path.rglob("*")))):
            raise RunError(
                f"{path} is there already; choose another --out, or go on with it: graftwork search --resume {path}"
            )

    @classmethod
    def create(
        cls, path: Path, files: Mapping[str, str] | None = None, *, origin: Mapping[str, Any] | None = None
    ) -> "RunFolder":
        """Make a new run folder and lock it. It appears by one rename, with all that a resume needs.

        Args:
            path: The folder; it may be there without any file.
            files: Text by name, to be in it from the first moment.
            origin: What the run is begun with, for `check_origin`.

        Raises:
            RunError: If the folder is there and holds a file.
        """
        cls.check_free(path)
        make_folder(path.parent)
        sweep(path.parent, of=path.name)

        def fill(folder: Path) -> None:
            for name in _FOLDERS:
                make_folder(folder / name)
            hashes = {name: [write_text(inside(folder, name), text)] for name, text in (files or {}).items()}
            write_bytes(folder / LOCK, b"")
            Manifest(folder, hashes, origin).save()

        try:
            write_folder(path, fill, replace=False)
        except ResourceError:
            cls.check_free(path)  # another process was faster
            raise
        run = cls(path)
        run.lock()
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run that is there, to read it.

        Raises:
            RunError: If there is no run, or one of another format.
        """
        if not (path / "config.toml").is_file():
            raise RunError(f"{path} is no run folder: it has no config.toml; expected what `graftwork search` leaves")
        check_format(path)
        return cls(path)

    def check_format(self) -> None:
        """Raise `RunError` if the folder is of another format than this version of graftwork reads."""
        check_format(self.path)

    def lock(self) -> None:
        """Take the right to write, and sweep what dead processes have left aside.

        Raises:
            RunError: If another process has it.
        """
        if self._lock is not None:
            return
        self._lock = RunLock(self.path, since=now())
        sweep(self.path.parent, of=self.path.name)
        for folder, _, _ in os.walk(self.path):  # follows no links
            sweep(Path(folder))

    def release(self) -> None:
        """Give the right to write back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # What it was begun with ------------------------------------------------------------------------------------------

    def remember(self, **origin: Any) -> None:
        """Store what the run was begun with, by name, for `check_origin`."""
        manifest = self._hashes()
        manifest.origin.update(origin)
        manifest.save()

    def check_origin(self, **found: Any) -> None:
        """Compare what the run was begun with to what is there now.

        Raises:
            RunError: If something differs, field by field; or if there is no manifest to compare with.
        """
        manifest = Manifest.load(self.path)
        if manifest is None:
            raise RunError(f"{self.path / MANIFEST} is missing, so nothing can be verified; {self._another()}")
        changed = [
            text
            for name, value in found.items()
            if name in manifest.origin
            for text in differences(manifest.origin[name], value, where=name)
        ]
        if changed:
            more = f" and {len(changed) - 8} more" if len(changed) > 8 else ""
            raise RunError(
                f"{self.path} was begun with other values: {'; '.join(changed[:8])}{more}. Bring the old ones back; "
                f"{self._another()}"
            )

    def _another(self) -> str:
        return f"or begin another run from it: graftwork search --resume {self.path} --as-new NEW"

    def _hashes(self) -> Manifest:
        """The manifest; an empty one where there is none."""
        if self._manifest is None:
            self._manifest = Manifest.load(self.path) or Manifest(self.path)
        return self._manifest

    def verify(self, name: str) -> None:
        """Compare a file with the manifest; where there is none, nothing is known.

        Raises:
            RunError: If it differs.
        """
        manifest = self._manifest or Manifest.load(self.path)
        while manifest is not None:
            try:
                manifest.check(name)
            except RunError:
                listed, manifest = manifest.listed(name), Manifest.load(self.path)
                if manifest is None or manifest.listed(name) == listed:
                    raise
            else:  # above: a process that writes has replaced file and manifest meanwhile
                break

    @property
    def config_path(self) -> Path:
        """Path of ``config.toml``."""
        return inside(self.path, "config.toml")

    # Records ---------------------------------------------------------------------------------------------------------

    @property
    def records_path(self) -> Path:
        """Path of ``records.jsonl``."""
        return inside(self.path, RECORDS)

    def append_records(self, rows: Iterable[Row]) -> None:
        """Append lines: the file is replaced by one that has them, too."""
        self._write(RECORDS, (self._recorded(), "".join(map(row_to_line, rows)).encode()))

    def _recorded(self) -> bytes:
        try:
            return read_bytes(self.records_path)
        except FileNotFoundError:
            return b""

    def records(self) -> list[Row]:
        """Read all lines; none where nothing is recorded.

        Raises:
            RunError: If they are not what the manifest lists, or one is no record.
        """
        if self.has(RECORDS):
            self.verify(RECORDS)
        return read_records(self.records_path)

    def rounds(self) -> list[GenerationRow]:
        """Read the rows of the search's rounds, in order."""
        return [row for row in self.records() if isinstance(row, GenerationRow)]

    def result(self) -> Result:
        """Read ``result.json``.

        Raises:
            RunError: If the run is not finished, or the file is damaged or changed.
        """
        return check_result(self.read_json("result.json"), self.path / "result.json")

    def latencies(self) -> Mapping[str, float]:
        """Read the seconds for one image that the search has measured, by genome; none where it measured none.

        Raises:
            RunError: If the file is damaged or changed.
        """
        if not self.has(LATENCIES):
            return {}
        return check_latencies(self.read_json(LATENCIES), self.path / LATENCIES)

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _checkpoints(self, stage: str) -> list[Path]:
        """Folders of a stage, oldest first; other names, as of copies made by hand, are passed over."""
        folder = inside(self.path, "checkpoints")
        found = [(re.fullmatch(r"[a-z]+-(\d{8,18})", path.name), path) for path in folder.glob(f"{stage}-*")]
        numbered = [(int(match[1]), path) for match, path in found if match and not path.is_symlink()]
        return [path for _, path in sorted(numbered)]

    def save_checkpoint(self, stage: str, step: int, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
        """Store a checkpoint of a stage (``"search"``, ``"control"``) and drop all but the last two of it.

        It holds the records so far, too: it alone is enough to go on from.
        """
        records = self._recorded()

        def fill(folder: Path) -> None:
            hashes = {
                "tensors.safetensors": [save_tensors(folder / "tensors.safetensors", tensors)],
                "state.json": [write_text(folder / "state.json", as_json(dict(data)))],
                RECORDS: [write_bytes(folder / RECORDS, records)],
            }
            Manifest(folder, hashes).save()

        target = inside(self.path, f"checkpoints/{stage}-{step:08d}")
        write_folder(target, fill)
        self._drop_old(stage)
        return target

    def _drop_old(self, stage: str) -> None:
        for old in self._checkpoints(stage)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def has_checkpoint(self, stage: str) -> bool:
        """Whether a stage has begun and left a checkpoint."""
        return bool(self._checkpoints(stage))

    def load_checkpoint(self, stage: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The newest whole checkpoint of a stage, or ``None``; `restore_records` goes with it.

        `passed_over` then says what was wrong with newer ones.

        Raises:
            RunError: If there are checkpoints but all are damaged.
        """
        self.passed_over = []
        for folder in reversed(self._checkpoints(stage)):
            try:
                found = read_checkpoint(folder)
            except (RunError, ResourceError, OSError) as error:
                self.passed_over.append(f"{folder.name}: {error}")
                continue
            self._restored = folder
            if self._lock is not None:
                self._drop_old(stage)  # a kill may have kept the process before from it
            return found
        if self.passed_over:
            problems = "; ".join(self.passed_over)
            raise RunError(f"{self.path}: every checkpoint of the {stage} is damaged ({problems}); {self._another()}")
        return None

    def restore_records(self) -> None:
        """Bring ``records.jsonl`` to what it was at the checkpoint that was loaded."""
        if self._restored is not None:
            self._write(RECORDS, (read_bytes(inside(self._restored, RECORDS)),))

    def clear_records(self) -> None:
        """Forget all records: a search begins."""
        self._write(RECORDS, (b"",))

    # Files -----------------------------------------------------------------------------------------------------------

    def _write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Replace a file that the manifest lists."""
        path, manifest = inside(self.path, name), self._hashes()
        make_folder(path.parent)
        write_pieces(path, pieces, announce=lambda digest: manifest.expect(name, digest))
        manifest.replaced(name)

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file of the run as a whole, in UTF-8; the manifest follows."""
        self._write(name, (text.encode(),))

    def write_json(self, name: str, data: Any) -> None:
        """Replace a JSON file of the run."""
        self._write(name, (as_json(data).encode(),))

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return inside(self.path, name).is_file()

    def names(self, folder: str, suffix: str) -> list[str]:
        """Stems of the files below a folder that have a suffix, sorted; other files than ours are passed over."""
        found = (path.name for path in inside(self.path, folder).glob(f"*{suffix}"))
        return sorted(name.removesuffix(suffix) for name in found if not name.startswith("."))

    def read_json(self, name: str, *, verified: bool = True) -> dict[str, Any]:
        """Read a JSON file of the run.

        Args:
            name: Path below the folder.
            verified: Whether it has to be what the manifest lists.

        Raises:
            RunError: If it is missing, damaged or changed.
        """
        path = inside(self.path, name)
        try:
            data = read_bytes(path)
        except FileNotFoundError as error:
            hint = "; the run is not finished: graftwork search --resume" if name == "result.json" else ""
            raise RunError(f"{path} is missing{hint}") from error
        found = parse_json(data, str(path))
        if not isinstance(found, dict):
            raise RunError(f"{path}: expected a JSON object, got {type(found).__name__}")
        if verified:
            self.verify(name)
        return found

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Replace a safetensors file of the run."""
        self._write(name, tensor_pieces(tensors))

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file of the run; what the manifest says of it has to fit.

        Raises:
            RunError: If it is missing, damaged or changed.
        """
        path = inside(self.path, name)
        if path.is_file():
            self.verify(name)
        return load_tensors(path)

    @property
    def finished(self) -> bool:
        """Whether the result has been written."""
        return (self.path / "result.json").is_file()

    def __repr__(self) -> str:
        return f"<RunFolder {self.path}: {'finished' if self.finished else 'unfinished'}>"
