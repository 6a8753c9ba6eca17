"""A checkpoint on disk, every file of which its manifest vouches for."""

from pathlib import Path
from typing import Any

from torch import Tensor

from graftwork._files import inside, parse_json, read_bytes
from graftwork.errors import RunError
from graftwork.runs._manifest import MANIFEST, Manifest
from graftwork.runs._tensors import load_tensors

RECORDS = "records.jsonl"


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint, every file of which is as its manifest says.

    Raises:
        RunError: If one is not.
        ResourceError: If one can't be read.
    """
    manifest = Manifest.load(folder)
    if manifest is None:
        raise RunError(f"{folder / MANIFEST} is missing")
    for name in ("state.json", "tensors.safetensors", RECORDS):
        manifest.check(name)
    path = inside(folder, "state.json")
    return parse_json(read_bytes(path), str(path)), load_tensors(inside(folder, "tensors.safetensors"))
