"""Where a run comes from: versions, machine, precision, threads, commit, data."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from graftwork._version import __version__

PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "scikit-learn", "safetensors")


def now() -> str:
    """The present time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Commit of the source tree that runs, if it is one; marked where it has changes."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What this machine is, in words that tell results apart: processor, instruction set, cores, device."""
    found = torch.device(device)
    return {
        "processor": _processor(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(found) if found.type == "cuda" else str(found),
        "system": f"{platform.system()} {platform.machine()}",
    }


def provenance(device: torch.device | str = "cpu", **more: Any) -> dict[str, Any]:
    """What ``provenance.json`` holds.

    Args:
        device: That the run uses.
        more: Further entries: data fingerprint, precision and how it was measured, the plan.
    """
    return {
        "graftwork": __version__,
        "git_commit": _commit(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": machine(device),
        **more,
    }
