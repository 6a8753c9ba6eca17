"""Compile kernels.c for this processor, once, into a cache."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from graftwork._files import is_own, read_bytes, sha256_of, write_text
from graftwork.errors import ResourceError
from graftwork.networks.kernels._check import agrees
from graftwork.networks.kernels._kernels import Kernels

_log = logging.getLogger(__name__)

_SOURCES = ("kernels.c", "passes.h", "mixing.h")
# without errno and floating-point traps, which nobody reads here: they prevent vector instructions
_FLAGS = ("-O2", "-std=gnu11", "-c", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
_TARGETS = (("-march=native", "-fopenmp"), ("-march=native",), ())
"""Tried in this order until one compiles and loads."""
_LIMIT_SECONDS = 900  # usually a few seconds; a machine may be busy


def _compiler() -> list[str]:
    """Words of the compiler's command, of which ``$CC`` may hold several (``ccache gcc``); empty: there is none."""
    named = os.environ.get("CC")
    for words in [shlex.split(named)] if named else [["cc"], ["gcc"], ["clang"]]:
        found = shutil.which(words[0]) if words else None
        if found:
            return [found, *words[1:]]
    return []


def _processor() -> str:
    """What decides which instructions ``-march=native`` may use, as machines that differ may share a cache."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(features))])


def _source(name: str) -> str:
    return files("graftwork.networks.kernels").joinpath(name).read_text(encoding="utf-8")


def _compile(compiler: Sequence[str], folder: Path, library: Path) -> bool:
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
            compiling = [*compiler, *_FLAGS, *target, str(aside / _SOURCES[0]), "-o", str(unit)]
            linking = [*compiler, "-shared", str(unit), "-o", str(made), "-lm"]
            if _done(compiling) and _done(linking) and _loads(made):
                write_text(_hash_of(library), sha256_of(made))
                for mine in (made, _hash_of(library)):
                    mine.chmod(0o600)
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
    """Whether the library can be loaded, tried in a process of its own: a bad library may end it."""
    probe = "import ctypes, sys, torch; ctypes.CDLL(sys.argv[1])"  # torch brings the calls of OpenMP
    return _done([sys.executable, "-c", probe, str(library)])


def _hash_of(library: Path) -> Path:
    """Where the hash of a library stands that was built here and has passed its probe."""
    return library.with_suffix(".sha256")


def _own(path: Path) -> bool:
    """Whether a file or folder is this user's, and nobody else may change it; a link is not."""
    found = path.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return is_own(found) and not stat.S_ISLNK(found.st_mode) and not found.st_mode & others


def _make_own(folder: Path) -> None:
    """Make the cache, or take from others the right to change it.

    Raises:
        PermissionError: If it is another user's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_own(folder.stat()):
        raise PermissionError(f"{folder} belongs to another user, whose code would run; set GRAFTWORK_CACHE")
    if not _own(folder):
        folder.chmod(folder.stat().st_mode & ~(stat.S_IWGRP | stat.S_IWOTH))


def _is_whole(library: Path) -> bool:
    """Whether the library in the cache is the one that was built here."""
    try:
        return (
            _own(library) and _own(_hash_of(library)) and read_bytes(_hash_of(library)).decode() == sha256_of(library)
        )
    except (OSError, ValueError, ResourceError):
        return False


@cache
def _tell_what_a_compiler_gives() -> None:
    """Say it once in a process, as a search with a control looks for one several times."""
    _log.warning(
        "kernels: off, since there is no C compiler (CC, cc, gcc, clang); PyTorch does their work. With one, training "
        "was measured to be 1.17 (default recipe) to 1.61 (paper) times as fast; see docs/performance.md"
    )


def build(folder: Path, *, compiling: bool = True) -> Kernels | None:
    """Compile the kernels (or take them from the cache), load them, and check them against PyTorch.

    Args:
        folder: Folder of the cache; made if it is missing. The library's name is a hash of source, compiler and
            processor.
        compiling: Whether to compile what is not in the cache.

    Returns:
        The kernels; ``None`` where there is no compiler (``$CC``, or ``cc``, ``gcc``, ``clang``), it fails, the folder
        can't be written, or the result differs from PyTorch's. The reason is logged, and everything runs without them.
    """
    compiler = _compiler()
    if not compiler or sys.platform == "win32":
        _tell_what_a_compiler_gives()
        return None
    command = shlex.join(compiler)
    key = hashlib.sha256(
        "\n".join([*map(_source, _SOURCES), command, *_FLAGS, *map(str, _TARGETS), _processor()]).encode()
    )
    library = folder / f"kernels-{key.hexdigest()[:20]}.so"
    try:
        _make_own(folder)
        if not _is_whole(library):
            if not compiling:
                return None
            library.unlink(missing_ok=True)
            if not _compile(compiler, folder, library):
                _log.warning("kernels: off, since they can't be compiled by %s; PyTorch does their work", command)
                return None
        kernels = Kernels(ctypes.CDLL(str(library)))
    except (OSError, ResourceError, subprocess.TimeoutExpired) as error:
        _log.warning("kernels: off, since they can't be built in %s: %s; PyTorch does their work", folder, error)
        return None
    if not agrees(kernels):
        _log.warning("kernels: off, since %s differs from PyTorch, which does their work", library)
        return None
    return kernels
