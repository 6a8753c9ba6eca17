"""RunFolder: one run on disk."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graftwork.errors import RunError
from graftwork.runs._atomic import write_folder, write_json, write_text
from graftwork.runs._records import GenerationRow, Result, Row, check_result, read_records, row_to_line
from graftwork.runs._tensors import load_tensors, save_tensors

KEPT_CHECKPOINTS = 2


class RunFolder:
    """One run on disk (see ``docs/run-folder.md``). Every write is whole or not there.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise `RunError` if a folder is there and not empty: runs are never overwritten."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"{path} is there already; choose another --out, or go on with it: graftwork search --resume {path}"
            )

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make a new run folder.

        Raises:
            RunError: If the folder is there and not empty.
        """
        cls.check_free(path)
        for name in ("checkpoints", "members", "figures", "predictions"):
            (path / name).mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run that is there.

        Raises:
            RunError: If there is no run.
        """
        if not (path / "config.toml").is_file():
            raise RunError(f"{path} is no run folder: it has no config.toml; expected what `graftwork search` leaves")
        return cls(path)

    # Records ---------------------------------------------------------------------------------------------------------

    @property
    def records_path(self) -> Path:
        """Of ``records.jsonl``."""
        return self.path / "records.jsonl"

    def append_records(self, rows: Iterable[Row]) -> None:
        """Append lines and make sure that they are on disk."""
        lines = "".join(map(row_to_line, rows))
        with self.records_path.open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    @property
    def records_offset(self) -> int:
        """Bytes of ``records.jsonl``: what a checkpoint remembers."""
        return self.records_path.stat().st_size if self.records_path.exists() else 0

    def truncate_records(self, offset: int) -> None:
        """Forget what was recorded after a checkpoint.

        Raises:
            RunError: If the file is shorter than that.
        """
        if self.records_offset < offset:
            raise RunError(f"{self.records_path} has {self.records_offset} bytes, the checkpoint expects {offset}")
        if self.records_path.exists():
            with self.records_path.open("r+b") as file:
                file.truncate(offset)
                file.flush()
                os.fsync(file.fileno())

    def records(self) -> list[Row]:
        """Read all complete lines; raises `RunError` where one is no record."""
        return read_records(self.records_path)

    def rounds(self) -> list[GenerationRow]:
        """Read the rows of the search's rounds, in order."""
        return [row for row in self.records() if isinstance(row, GenerationRow)]

    def result(self) -> Result:
        """Read ``result.json``.

        Raises:
            RunError: If the run is not finished, or the file is damaged.
        """
        return check_result(self.read_json("result.json"), self.path / "result.json")

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _checkpoints(self, stage: str) -> list[Path]:
        folder = self.path / "checkpoints"
        return sorted(folder.glob(f"{stage}-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))

    def save_checkpoint(self, stage: str, step: int, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
        """Store a checkpoint of a stage (``"search"``, ``"control"``) and drop all but the last two of it."""

        def fill(folder: Path) -> None:
            save_tensors(folder / "tensors.safetensors", tensors)
            write_json(folder / "state.json", dict(data))

        target = self.path / "checkpoints" / f"{stage}-{step:08d}"
        write_folder(target, fill)
        for old in self._checkpoints(stage)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def has_checkpoint(self, stage: str) -> bool:
        """Whether a stage has begun and left a checkpoint."""
        return bool(self._checkpoints(stage))

    def load_checkpoint(self, stage: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The newest complete checkpoint of a stage, or ``None``.

        Raises:
            RunError: If there are checkpoints but none can be read.
        """
        problems = []
        for folder in reversed(self._checkpoints(stage)):
            try:
                data = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                return data, load_tensors(folder / "tensors.safetensors")
            except (RunError, OSError, ValueError) as error:
                problems.append(f"{folder.name}: {error}")
        if problems:
            raise RunError(f"{self.path}: no checkpoint can be read ({'; '.join(problems)})")
        return None

    # Files -----------------------------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file of the run."""
        write_text(self.path / name, text)

    def write_json(self, name: str, data: Any) -> None:
        """Replace a JSON file of the run."""
        write_json(self.path / name, data)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            RunError: If it is missing or damaged.
        """
        try:
            data = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            hint = "; the run is not finished: graftwork search --resume" if name == "result.json" else ""
            raise RunError(f"{self.path / name} is missing{hint}") from error
        except ValueError as error:
            raise RunError(f"{self.path / name} is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise RunError(f"{self.path / name}: expected a JSON object, got {type(data).__name__}")
        return data

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Replace a safetensors file of the run."""
        save_tensors(self.path / name, tensors)

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file of the run; raises `RunError` where there is none."""
        return load_tensors(self.path / name)

    @property
    def finished(self) -> bool:
        """Whether the outcome has been written."""
        return (self.path / "result.json").is_file()

    def __repr__(self) -> str:
        return f"<RunFolder {self.path}: {'finished' if self.finished else 'unfinished'}>"
