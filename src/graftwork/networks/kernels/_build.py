"""Compile kernels.c for this processor, once, into a cache."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from graftwork.networks.kernels._check import agrees
from graftwork.networks.kernels._kernels import Kernels

_log = logging.getLogger(__name__)

_SOURCES = ("kernels.c", "passes.h", "mixing.h")
# without errno and floating-point traps, which nobody reads here: they prevent vector instructions
_FLAGS = ("-O2", "-std=gnu11", "-c", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
_TARGETS = (("-march=native", "-fopenmp"), ("-march=native",), ())
"""Tried in this order until one compiles and loads."""
_LIMIT_SECONDS = 900  # usually a few seconds; a machine may be busy


def _compiler() -> str | None:
    named = os.environ.get("CC")
    for name in (named,) if named else ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return found
    return None


def _processor() -> str:
    """What decides which instructions ``-march=native`` may use, as machines that differ may share a cache."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(features))])


def _source(name: str) -> str:
    return files("graftwork.networks.kernels").joinpath(name).read_text(encoding="utf-8")


def _compile(compiler: str, folder: Path, library: Path) -> bool:
    """Compile aside and rename, so that another process never loads half a file.

    The library is linked without an OpenMP runtime: when it is loaded, its calls are bound to the runtime that PyTorch
    has loaded, so that both deal their work to the same threads. Where that fails, one thread does all the passes.
    """
    aside = folder / f"{library.stem}-{os.getpid()}"
    aside.mkdir(parents=True, exist_ok=True)
    try:
        for name in _SOURCES:
            (aside / name).write_text(_source(name), encoding="utf-8")
        unit, made = aside / "kernels.o", aside / library.name
        for target in _TARGETS:
            compiling = [compiler, *_FLAGS, *target, str(aside / _SOURCES[0]), "-o", str(unit)]
            if _done(compiling) and _done([compiler, "-shared", str(unit), "-o", str(made), "-lm"]) and _loads(made):
                made.replace(library)
                return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return False


def _done(command: Sequence[str]) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)  # noqa: S603
    if done.returncode:
        _log.info("kernels: %s failed: %s", " ".join(command), done.stderr.strip()[:500])
    return done.returncode == 0


def _loads(library: Path) -> bool:
    """Whether the library can be loaded: everything that it calls is there."""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        _log.info("kernels: %s can't be loaded: %s", library, error)
        return False
    return True


def build(folder: Path) -> Kernels | None:
    """Compile the kernels (or take them from the cache), load them, and check them against PyTorch.

    Args:
        folder: Folder of the cache; made if it is missing. The library's name is a hash of source, compiler and
            processor.

    Returns:
        The kernels; ``None`` where there is no compiler (``$CC``, or ``cc``, ``gcc``, ``clang``), it fails, the folder
        can't be written, or the result differs from PyTorch's. The reason is logged, and everything runs without them.
    """
    compiler = _compiler()
    if compiler is None or sys.platform == "win32":
        _log.info("kernels: no C compiler here")
        return None
    key = hashlib.sha256(
        "\n".join([*map(_source, _SOURCES), compiler, *_FLAGS, *map(str, _TARGETS), _processor()]).encode()
    )
    library = folder / f"kernels-{key.hexdigest()[:20]}.so"
    try:
        if not library.is_file() and not _compile(compiler, folder, library):
            return None
        kernels = Kernels(ctypes.CDLL(str(library)))
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.info("kernels: can't be built in %s: %s", folder, error)
        return None
    if not agrees(kernels):
        _log.warning("kernels: %s differs from PyTorch; it is not used", library)
        return None
    return kernels
