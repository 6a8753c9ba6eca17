"""What a stranger's folder brings about: nothing outside, no link followed, no markup, no code, no hang, one line."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from graftwork.cli import app
from tests.faults._commands import data_readings, readings, trunk_readings
from tests.faults._sandbox import Outcome, Place, attempt
from tests.faults.attack import cases, import_all, make_base, make_trunked, tried

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches by inotify, and forks")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked")
    make_base(folder)
    return folder


def test_every_command_is_attacked() -> None:
    """A new command has to be added to the table, or named here as one that reads no folder."""
    tried_ones = {name.split()[0] for name in (*readings(), *data_readings())}
    assert tried_ones == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    tries = Counter(name.split()[0] for name, *_ in cases() if "IMAGES" not in name)
    assert min(tries.values()) >= 50
    assert min(Counter(name for name, *_ in cases() if name.split()[-1] in ("IMAGES", "TRUNK")).values()) >= 50


@pytest.mark.parametrize(("name", "thinned"), [("inspect UNFINISHED", 12), ("predict", 40)])
def test_some_attacks_bring_about_nothing(name: str, thinned: int, base: Path) -> None:
    for _, attack, change, reading in cases([name], thinned=thinned):
        if reading.start == "run":  # one on a trunk takes long to make
            assert tried(base, change, reading)["wrongs"] == {}, attack


@pytest.fixture(scope="module")
def imported(base: Path) -> Path:
    pytest.importorskip("transformers")
    make_trunked(base)
    import_all(base)
    return base


@pytest.mark.slow
@pytest.mark.parametrize("name", [*readings(), *data_readings(), *trunk_readings()])
def test_no_attack_brings_about_anything(name: str, imported: Path) -> None:
    for reader, attack, change, reading in cases([name]):
        if reader == name:
            assert tried(imported, change, reading)["wrongs"] == {}, attack


# The watch itself: what it has to see --------------------------------------------------------------------------------


def _executed(path: Path) -> None:
    exec(compile("1", path, "exec"))


MARKUP = "<img src=pwn onerror=pwn()>"
DEEDS: dict[str, tuple[str, Callable[[Place], Any]]] = {
    "a file outside": ("written", lambda place: (place.victim / "new").write_text("x")),
    "a file beside": ("written", lambda place: (place.root / "new.txt").write_text("x")),
    "a file of the victim that is replaced": ("written", lambda place: (place.run / "x").rename(place.victim / "kept")),
    "a hard link that is written through": ("written", lambda place: (place.run / "hard").write_text("x")),
    "a link that is read": ("followed", lambda place: (place.run / "link").read_text()),
    "a folder that is a link": ("followed", lambda place: (place.run / "folder" / "kept").read_text()),
    "a file outside that is read": ("followed", lambda place: (place.victim / "kept").read_text()),
    "a process": ("code", lambda _: os.system("true")),
    "code of the run": ("code", lambda place: _executed(place.run / "export" / "model.py")),
    "a page with markup": ("markup", lambda place: (place.run / "x.html").write_text(MARKUP)),
    "a drawing with markup": ("markup", lambda place: (place.run / "x.svg").write_text(f"<svg>{MARKUP}</svg>")),
    "control characters": ("raw", lambda _: print("\x1b[2J")),
    "another exit code": ("ending", lambda _: sys.exit(1)),
    "two lines": ("ending", lambda _: (print("a\nb", file=sys.stderr), sys.exit(2))),
    "a traceback": ("traceback", lambda _: 1 / 0),
    "much memory": ("memory", lambda _: bytearray(2**28)),
    "a long wait": ("hung", lambda _: time.sleep(60)),
    "much work": ("hung", lambda _: [None for _ in iter(int, 1)]),
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    (made.victim / "kept").write_text("mine")
    (made.run / "x").write_text("theirs")
    (made.run / "link").symlink_to(made.victim / "kept")
    (made.run / "folder").symlink_to(made.victim)
    os.link(made.victim / "kept", made.run / "hard")
    return made


def _watched(place: Place, deed: Callable[[Place], Any], **limits: Any) -> Outcome:
    return attempt([], place, run=lambda _: deed(place), **limits)


@pytest.mark.parametrize("name", DEEDS)
def test_the_watch_sees(name: str, place: Place) -> None:
    kind, deed = DEEDS[name]
    limits = {"hung": {"seconds": 0.3}, "memory": {"memory": 2**28}}
    found = _watched(place, deed, **limits.get(kind, {}))
    assert kind in found.wrongs, found


def test_the_watch_lets_pass_what_a_command_may_do(place: Place) -> None:
    def deed(place: Place) -> None:
        for folder in ("run", "new", "cache", "tmp", "home"):
            (place.root / folder / "made").write_text("x")
        _executed(place.run / "export" / f".export.{os.getpid()}.tmp" / "model.py")
        (place.run / "x.html").write_text("&lt;img src=pwn&gt; <p title='pwn'>pwn()</p>")
        print("done")

    assert _watched(place, deed).wrongs == {}
