"""A place to run a command against a stranger's files, in a forked process that is watched.

What is watched: every file that Python opens, makes, renames or removes, every process, connection, pickle and piece of
code (an audit hook); every access to the files around, also by compiled libraries (inotify, and their content before
and after); time, memory, exit code, and what is told. Linux only.
"""

import ctypes
import math
import os
import re
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

from graftwork.cli import main

SECONDS = 10
"""Processor time that a command may take, and time that it may wait for anything but a processor."""
MEMORY = 2**31
"""Peak of resident memory that is allowed, in bytes, with the libraries themselves."""
WITNESS = "pwned"
"""Name of a file that code of an attack would make."""
_ROOM = 4 * 2**30
_FREE = ("new", "cache", "tmp", "home")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = re.compile(
    r"os\.(rename|remove|mkdir|rmdir|symlink|link|truncate|chmod|chown|utime|mknod|mkfifo)|shutil\..*"
)
_CALLS = re.compile(r"subprocess\.Popen|os\.(system|exec|posix_spawn|spawn)|ctypes\.dlopen")
_EXPORT = re.compile(r"/\.export\.\d+\.tmp/model\.py$")
"""An export that is not in place yet: it is run to be checked."""
_OWN = ("git", "uname")
"""Programs that graftwork asks for its own version and for the name of the processor."""


class Place:
    """The folders of one attack, all below one root.

    Attributes:
        run: The stranger's run.
        data: The stranger's images.
        victim: What no command may touch.
        new: Free for what a command makes; as are ``cache``, ``tmp`` and ``home``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.run, self.data, self.victim, self.new = (self.root / name for name in ("run", "data", "victim", "new"))
        for name in ("run", "data", "victim", *_FREE):
            (self.root / name).mkdir(parents=True, exist_ok=True)


@dataclass
class Outcome:
    """What a command did.

    Args:
        code: Exit code; negative for a signal.
        seconds: Processor time.
        clock: Time by the clock, in seconds.
        memory: Peak of resident memory, in bytes.
        text: What it told, both streams.
        wrongs: Kind → what it did that it should not have done.
    """

    code: int
    seconds: float
    clock: float
    memory: int
    text: str
    wrongs: dict[str, list[str]] = field(default_factory=dict)

    def wrong(self, kind: str, what: str) -> None:
        self.wrongs.setdefault(kind, []).append(what[:300])

    def forgive(self, named: Sequence[Path]) -> None:
        """Take back that links were followed which the command line itself names."""
        kept = [
            what
            for what in self.wrongs.pop("followed", [])
            if not any(what in (str(path), f"victim/moved-{path.name}") for path in named)
        ]
        if kept:
            self.wrongs["followed"] = kept


def attempt(
    words: Sequence[str],
    place: Place,
    *,
    run: Callable[[list[str]], object] = main,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Outcome:
    """Run a command in a process of its own and say what it did wrong.

    Args:
        words: Words of the command line.
        place: Folders of the attack.
        run: What runs the command.
        seconds: Processor time that it may take, and time that it may wait for anything else.
        memory: Bytes that it may have resident at its peak.
    """
    before, eyes, began = _content(place), _Inotify(place.victim), time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: of forks beside threads
        pid = os.fork()
    if pid == 0:
        _child(lambda: run([*words]), place, seconds)
    status, usage, hung = _wait(pid, seconds)
    out = (place.root / "out").read_bytes().decode("utf-8", "backslashreplace")
    error = (place.root / "err").read_bytes().decode("utf-8", "backslashreplace")
    code = os.waitstatus_to_exitcode(status)
    spent, clock = usage.ru_utime + usage.ru_stime, time.monotonic() - began
    found = Outcome(code, spent, clock, usage.ru_maxrss * 1024, out + error)
    for line in (place.root / "seen").read_text(errors="replace").splitlines():
        found.wrong(*line.split("\t", 1))  # type: ignore[arg-type]
    for name in eyes.close():
        found.wrong("followed", f"victim/{name}")
    if hung or spent > seconds or code == -signal.SIGXCPU:
        found.wrong("hung", f"{spent:.1f} s, {clock:.1f} s by the clock")
    if found.memory > memory:
        found.wrong("memory", f"{found.memory / 2**30:.2f} GiB")
    _judge_ending(found, error)
    _judge_text(found)
    for path, kind in _changed(before, _content(place)):
        found.wrong("written", f"{kind} {path}")
    _judge_pages(found, place)
    return found


def _wait(pid: int, seconds: float) -> tuple[int, Any, bool]:
    """Wait for a process; one that has done nothing for so long, and does not even wait for a processor, is ended."""
    idle, before, hung = time.monotonic(), "", False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage, hung
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, spent = fields[0], f"{fields[11]} {fields[12]}"
        if state == "R" or spent != before:
            idle, before = time.monotonic(), spent
        if time.monotonic() - idle > seconds and not hung:
            hung = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _judge_ending(found: Outcome, error: str) -> None:
    """Done, or one line and exit code 2."""
    if "Traceback (most recent call last)" in found.text or found.code == 70 or "mistake of graftwork" in error:
        found.wrong("traceback", error[-300:])
    elif found.code not in (0, 2):
        found.wrong("ending", f"exit code {found.code}: {error[-300:]}")
    lines = [line for line in error.splitlines() if not line.startswith(("note:", "ensembles:"))]
    if found.code == 2 and len(lines) != 1:
        found.wrong("ending", f"{len(lines)} lines: {error[:300]}")
    if found.code == 2 and len(error) > 2000:
        found.wrong("ending", f"a message of {len(error)} characters")


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _judge_text(found: Outcome) -> None:
    if (control := _CONTROL.search(found.text)) is not None:
        found.wrong("raw", f"{control[0]!r} in what is told")


class _Markup(HTMLParser):
    """Elements and attributes that an attack has brought into a page or drawing."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = " ".join(f"{name}={value}" for name, value in attrs)
        if any(name.startswith("on") and "pwn" in (value or "") for name, value in attrs) or (
            tag in ("img", "a", "iframe", "image", "use", "link", "base", "meta", "object") and "pwn" in values
        ):
            self.found.append(f"<{tag} {values[:100]}>")
        self._script = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if getattr(self, "_script", False) and re.search(r"(^|[>;}])\s*pwn\(", data):
            self.found.append(f"script: {data[:100]}")
        if "49pwn" in data:
            self.found.append("a template's expression was worked out")


def _judge_pages(found: Outcome, place: Place) -> None:
    for top in (place.run, place.new):
        for folder, _, names in os.walk(top):
            for name in names:
                path = Path(folder) / name
                if path.suffix in (".html", ".svg") and path.is_file() and not path.is_symlink():
                    for markup in _markup(path.read_text(encoding="utf-8", errors="replace")):
                        found.wrong("markup", f"{name}: {markup}")


def _markup(page: str) -> list[str]:
    if "pwn" not in page:  # which every attack on pages holds
        return []
    parser = _Markup()
    parser.feed(page)
    return parser.found


# What lies around ----------------------------------------------------------------------------------------------------


def _content(place: Place) -> dict[str, tuple[object, ...]]:
    """State of everything below the root that no command may change, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for top in (place.victim, place.data):
        for folder, folders, names in os.walk(top):
            for name in (*folders, *names):
                path = Path(folder) / name
                state = path.lstat()
                plain = path.is_file() and not path.is_symlink() and state.st_size < 2**26
                digest = sha256(path.read_bytes()).hexdigest() if plain else ""
                found[str(path.relative_to(place.root))] = (state.st_mode, state.st_size, state.st_mtime_ns, digest)
    for path in place.root.iterdir():
        found.setdefault(path.name, (path.is_dir(),))
    for name in ("out", "err", "seen"):
        found.pop(name, None)
    return found


def _changed(before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]) -> list[tuple[str, str]]:
    return [
        (path, "changed" if path in before and path in after else "removed" if path in before else "made")
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    ]


class _Inotify:
    """Names of the files of a folder that are opened, whoever opens them and however."""

    _EVENTS = 0x1 | 0x2 | 0x20 | 0x100 | 0x200 | 0x40 | 0x80  # access, modify, open, create, delete, move from and to

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for path in (folder, *(p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink())):
            if self._libc.inotify_add_watch(self._fd, os.fsencode(path), self._EVENTS) < 0:
                raise OSError(ctypes.get_errno(), "inotify")

    def close(self) -> list[str]:
        names: dict[str, None] = {}
        while select.select([self._fd], [], [], 0)[0]:
            data, at = os.read(self._fd, 2**16), 0
            while at < len(data):
                _, mask, _, length = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode(errors="replace")
                if not mask & 0x40000000 or name:  # listing the folder itself is no access to a file
                    names[name] = None
                at += 16 + length
        os.close(self._fd)
        return list(names)


# The watched process -------------------------------------------------------------------------------------------------


def _child(run: Callable[[], object], place: Place, seconds: float) -> NoReturn:
    code = 99
    try:
        limit = _virtual_size() + _ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds) + 1, math.ceil(seconds) + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name, descriptor in (("out", 1), ("err", 2)):
            os.dup2(os.open(place.root / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", errors="strict", closefd=False) for n in (1, 2))  # noqa: SIM115
        environment = {"GRAFTWORK_CACHE": "cache", "TMPDIR": "tmp", "HOME": "home"}
        os.environ.update({name: str(place.root / folder) for name, folder in environment.items()})
        tempfile.tempdir = None
        os.chdir(place.root / "home")
        sys.dont_write_bytecode = True
        sys.addaudithook(_Hook(place))
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, UnicodeError):
                code = 98
        os._exit(code)


def _virtual_size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


class _Hook:
    """Notes what a process does beyond its folders; one line a deed, kind and what."""

    def __init__(self, place: Place) -> None:
        self._root, self._run = os.fspath(place.root), os.fspath(place.run)
        self._free = tuple(f"{place.root / name}" for name in ("run", *_FREE))
        self._file = os.open(place.root / "seen", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._busy = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            self._look(event, args)
        finally:
            self._busy = False

    def _note(self, kind: str, what: object) -> None:
        os.write(self._file, f"{kind}\t{ascii(str(what))[1:-1][:250]}\n".encode())

    def _look(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(path, int):
                self._opened(path, flags if isinstance(flags, int) else 0)
        elif _CHANGES.fullmatch(event):
            for path in args:
                if isinstance(path, str | bytes):
                    self._written(event, path)
        elif _CALLS.match(event):
            program = args[1] if event == "subprocess.Popen" else args[0]
            first = program[0] if isinstance(program, list | tuple) else program
            if os.path.basename(str(first)) not in _OWN and self._foreign(event, first):  # noqa: PTH119
                self._note("code", f"{event} {program}")
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            self._note("network", f"{event} {args[1:]}")
            raise ConnectionError("no network here")
        elif event == "pickle.find_class":
            self._note("code", f"pickle {args}")
        elif event == "exec":
            name = str(getattr(args[0], "co_filename", ""))
            if name.startswith(self._root) and not _EXPORT.search(name):
                self._note("code", f"exec {name}")

    def _foreign(self, event: str, name: object) -> bool:
        """Whether a process, or a library below the root, is begun; libraries of the system are loaded late."""
        return event != "ctypes.dlopen" or str(name).startswith(self._root)

    def _opened(self, path: Any, flags: int) -> None:
        if flags & _WRITES:
            self._written("open", path)
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if full.startswith(f"{self._run}/"):
            folder = os.path.dirname(full)  # noqa: PTH120
            final = os.path.islink(full) and not flags & os.O_NOFOLLOW  # noqa: PTH114
            if os.path.realpath(folder) != folder or final:
                self._note("followed", full)

    def _written(self, event: str, path: Any) -> None:
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        real = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))  # noqa: PTH118, PTH119, PTH120
        if real != "/dev/null" and not any(real == top or real.startswith(f"{top}/") for top in self._free):
            self._note("written", f"{event} {real}")
