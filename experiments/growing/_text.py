"""Text that every machine has: sources of Python's standard library, as bytes."""

import hashlib
import sysconfig
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes to measure on, from different files.

    Args:
        train: int64 [n].
        validation: int64 [m].
        fingerprint: SHA-256 of names and contents: equal where the text is equal.
        missing: Files that this Python does not have.
    """

    train: Tensor
    validation: Tensor
    fingerprint: str
    missing: tuple[str, ...]

    def describe(self) -> dict[str, object]:
        """Plain data, ready for JSON."""
        return {
            "text": "sources of the Python standard library",
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
    return torch.frombuffer(bytearray(b"\n".join(parts)), dtype=torch.uint8).to(torch.int64)
