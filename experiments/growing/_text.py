"""Text that every machine has: sources of Python's standard library and of packages, as bytes."""

import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from graftwork.errors import DataError

_NAMES = """
_pydecimal _pyio argparse ast asyncio/base_events asyncio/events asyncio/locks asyncio/queues asyncio/sslproto
asyncio/streams asyncio/tasks asyncio/unix_events base64 bdb bz2 calendar cmd codecs codeop collections/__init__
concurrent/futures/_base concurrent/futures/process configparser contextlib copy csv ctypes/__init__ curses/textpad
dataclasses datetime dbm/dumb difflib dis doctest email/_header_value_parser email/_policybase email/feedparser
email/generator email/header email/headerregistry email/message email/utils enum filecmp fileinput fnmatch fractions
ftplib functools getopt gettext glob graphlib gzip hashlib heapq hmac html/entities html/parser http/client
http/cookiejar http/cookies http/server idlelib/autocomplete idlelib/configdialog idlelib/editor idlelib/pyshell
imaplib importlib/_bootstrap importlib/_bootstrap_external importlib/abc importlib/util inspect ipaddress
json/decoder json/encoder linecache locale logging/__init__ logging/config logging/handlers lzma mailbox mimetypes
modulefinder multiprocessing/connection multiprocessing/context multiprocessing/managers multiprocessing/pool
multiprocessing/queues multiprocessing/shared_memory netrc nturl2path numbers opcode operator optparse os pdb pickle
pickletools pkgutil platform plistlib poplib posixpath pprint profile pstats pty py_compile pyclbr pydoc queue
quopri random reprlib rlcompleter runpy sched selectors shelve shlex shutil signal site smtplib socket socketserver
sqlite3/dump ssl stat statistics string stringprep subprocess symtable tabnanny tarfile tempfile textwrap threading
timeit tkinter/__init__ tkinter/ttk tokenize trace traceback tracemalloc turtle types typing unittest/async_case
unittest/case unittest/loader unittest/main unittest/mock unittest/runner unittest/suite urllib/error urllib/parse
urllib/request urllib/response urllib/robotparser uuid venv/__init__ warnings wave weakref webbrowser
wsgiref/handlers wsgiref/headers wsgiref/simple_server xml/dom/expatbuilder xml/dom/minidom xml/dom/pulldom
xml/etree/ElementTree xml/sax/expatreader xml/sax/handler xml/sax/saxutils xmlrpc/client xmlrpc/server zipapp
zipimport
"""
FILES = tuple(f"{name}.py" for name in _NAMES.split())
"""Which files, in this order; every tenth is held out for validation. One that a Python lacks is left out."""
PACKAGES = ("torch", "sympy", "networkx")
"""Of the larger corpus: torch, and what it requires, so that they are there wherever graftwork is."""
LEAST_BYTES = 60_000_000
"""Training text below which the larger corpus is none."""


@dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes to measure on, from different files.

    Args:
        train: uint8 [n].
        validation: uint8 [m].
        fingerprint: SHA-256 of names and contents: equal where the text is equal.
        missing: Files that this Python does not have.
        text: What it is.
    """

    train: Tensor
    validation: Tensor
    fingerprint: str
    missing: tuple[str, ...]
    text: str = "sources of the Python standard library"

    def describe(self) -> dict[str, object]:
        """Plain data, ready for JSON."""
        return {
            "text": self.text,
            "train_bytes": len(self.train),
            "validation_bytes": len(self.validation),
            "fingerprint": self.fingerprint,
            "missing": list(self.missing),
        }


def standard_library(folder: Path | None = None) -> Corpus:
    """Read the corpus from the running Python.

    Args:
        folder: Where the standard library lies. None asks ``sysconfig``.

    Raises:
        DataError: If fewer than half of the files are there (a frozen or stripped Python).
    """
    folder = folder if folder is not None else Path(sysconfig.get_path("stdlib"))
    found = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if len(found) < len(FILES) / 2:
        raise DataError(
            f"text: expected the sources of the standard library in {folder}, found {len(found)} of {len(FILES)} "
            "files; run a Python that comes with its sources"
        )
    digest = hashlib.sha256()
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    for number, name in enumerate(FILES):
        if name in found:
            digest.update(name.encode() + b"\0" + found[name])
            parts[number % 10 == 9].append(found[name])
    missing = tuple(name for name in FILES if name not in found)
    return Corpus(_bytes(parts[False]), _bytes(parts[True]), digest.hexdigest(), missing)


def _bytes(parts: list[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"\n".join(parts)), dtype=torch.uint8)


def package_sources(packages: Sequence[str] = PACKAGES, *, least: int = LEAST_BYTES) -> Corpus:
    """Read a larger corpus from what is installed: all Python files of some packages, every tenth held out.

    Args:
        packages: Names of packages; their files are taken in the order of their paths.
        least: Fewest bytes of training text that will do.

    Raises:
        DataError: If a package is not there, or all of them together have too little text.
    """
    digest = hashlib.sha256()
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    for number, (name, path) in enumerate(_sources(packages)):
        content = path.read_bytes()
        digest.update(name.encode() + b"\0" + content)
        parts[number % 10 == 9].append(content)
    text = f"Python sources of {', '.join(packages)}"
    found = sum(map(len, parts[False]))
    if found < least:
        raise DataError(
            f"text: expected at least {least:,} bytes of {text} for training, found {found:,}; install the "
            "packages with their sources"
        )
    return Corpus(_bytes(parts[False]), _bytes(parts[True]), digest.hexdigest(), (), text)


def _sources(packages: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Names and paths of the Python files of packages, which are not imported."""
    for package in packages:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DataError(f"text: expected the package {package} to be installed, found none; pip install {package}")
        root = Path(next(iter(spec.submodule_search_locations)))
        for name in sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py")):
            yield f"{package}/{name}", root / name
