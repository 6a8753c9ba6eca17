"""Run every attack against every command that reads a stranger's folder, and count what it brings about.

    python -m tests.faults.attack --json results/faults/attacks.json

A run, and images, are made once; each attack changes a copy; each command reads it in a forked process that is watched
(`tests.faults._sandbox`). What is tried already is not tried again where the file of rows is there. Linux only.
"""

import argparse
import ctypes
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

import graftwork.exporting
import graftwork.reports  # noqa: F401  (what commands import; each forked process would import it again)
from graftwork._files import as_json
from graftwork._version import __version__
from graftwork.runs import provenance
from tests.cases.commands import graftwork as command
from tests.cases.commands import tiny_search
from tests.cases.images import picture
from tests.faults._building import Attack, forge, path_of
from tests.faults._commands import Reading, data_readings, readings, trunk_readings, with_source
from tests.faults._data_attacks import data_attacks
from tests.faults._run_attacks import attacks
from tests.faults._sandbox import MEMORY, SECONDS, Place, attempt
from tests.faults._trunk_attacks import trunk_attacks

KINDS = {
    "written": "files written, made or removed outside of what the command may write",
    "followed": "links followed, or files outside opened",
    "markup": "elements or scripts of the attack in a page or a drawing",
    "code": "processes, pickled names or code of the attack",
    "network": "connections tried",
    "raw": "control characters in what is told",
    "hung": f"more than {SECONDS} s of processor time, or of waiting for something else",
    "memory": f"more than {MEMORY // 2**30} GiB at the peak",
    "traceback": "tracebacks, or mistakes of our own",
    "ending": "other ends than done, or one line with exit code 2",
}


def make_base(root: Path) -> None:
    """A finished run with control and ensembles, and images, for every attack to start from."""
    _done(*tiny_search(root, "--blend", 50, "--control", "--data", "digits"))
    (root / "run" / "figures").mkdir(exist_ok=True)
    result = json.loads((root / "run" / "result.json").read_text())
    (root / "best.json").write_text(json.dumps(result["best"]["id"]))
    _make_images(root / "data")
    (root / "victim").mkdir()
    for name in ("json", "safetensors"):
        shutil.copy2(root / "run" / "members" / f"{result['best']['id']}.{name}", root / "victim" / f"m0.{name}")
    (root / "victim" / "kept").write_text("mine")
    shutil.copy2(root / "data" / "a" / "0.png", root / "victim" / "secret.png")


def make_trunked(root: Path) -> None:
    """A trunk of transformers, and a run that has trained it."""
    from tests.faults._trunk_attacks import make_trunk

    make_trunk(root / "trunk")
    beside = root / "beside"
    beside.mkdir()
    words = tiny_search(
        beside, "--blend", 50, "--trunk", f"hf:{root / 'trunk'}", "--trunk-rate", 1e-3, shape=(12, 4, 4), width=12
    )
    _done(*words)
    (beside / "run").rename(root / "trunked")


def import_all(base: Path) -> None:
    """Make a report and take it away: each forked process would import again what draws it."""
    _done("report", base / "run")
    for path in (base / "run" / "report.html", *(base / "run" / "figures").iterdir()):
        path.unlink()


def _done(*words: object) -> None:
    ending = command(*words)
    if ending.code:
        sys.exit(ending.text)


def _make_images(folder: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    for colour, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            picture(colour, rng).save(folder / name / f"{number}.png")


def tried(base: Path, attack: Attack, reading: Reading) -> dict[str, Any]:
    """Let a command read a folder that an attack has changed, and whose manifests agree with it."""
    with tempfile.TemporaryDirectory(prefix="attack-", dir=base.parent) as folder:
        place = Place(Path(folder))
        shutil.copytree(base / reading.start, place.run, dirs_exist_ok=True)
        for name in ("data", "victim", *(("trunk",) if reading.start == "trunked" else ())):
            shutil.copytree(base / name, place.root / name, dirs_exist_ok=True)
        config = place.run / "config.toml"
        config.write_text(config.read_text().replace(str(base), str(place.root)))
        shutil.copy2(base / "best.json", place.root / "best.json")
        line = [str(word) for word in reading.words(place)]
        named = [path_of(place, name) for name in reading.named.split()]
        attack(place)
        line = with_source(line, place)
        forge(place)
        _hand_back()  # what the attack took to make would count as the command's, which is forked
        if reading.unfinished:
            outcome = place.run / "result.json"
            if os.path.lexists(outcome):
                (shutil.rmtree if outcome.is_dir() and not outcome.is_symlink() else os.unlink)(outcome)
        found = attempt(line, place, run=reading.run)
        found.forgive(named)
    return {
        "code": found.code,
        "seconds": round(found.seconds, 2),
        "clock": round(found.clock, 2),
        "mib": found.memory >> 20,
        "text": found.text[-300:],
        "wrongs": found.wrongs,
    }


def _hand_back() -> None:
    """Give memory that was freed back to the system."""
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)


def cases(only: Sequence[str] = (), *, thinned: int = 1) -> Iterator[tuple[str, str, Attack, Reading]]:
    """Way to read, name of the attack, attack, and how to try it.

    Args:
        only: Commands, or ways to read; empty for all.
        thinned: Factor on the steps in which attacks are taken.
    """
    on_trunks = {**trunk_attacks(), **{name: attack for name, attack in attacks().items() if "trunk" in name}}
    kinds = ((readings(), attacks()), (data_readings(), data_attacks()), (trunk_readings(), on_trunks))
    for place, (name, reading, known) in enumerate((n, r, k) for ways, k in kinds for n, r in ways.items()):
        if not only or name in only or name.split()[0] in only:
            step = reading.every * thinned
            for attack in list(known)[place % step :: step]:
                yield name, attack, known[attack], reading


def summary(rows: Sequence[dict[str, Any]], arguments: Sequence[str]) -> dict[str, Any]:
    """Counts of all rows, and what every wrong was."""
    counts = Counter(kind for row in rows for kind in row["wrongs"])
    return {
        "command": f"python -m tests.faults.attack {' '.join(arguments)}",
        "commits": sorted({row["commit"] for row in rows}),
        "graftwork": __version__,
        "attacks on runs": len({row["attack"] for row in rows if row["reader"].split()[-1] not in ("IMAGES", "TRUNK")}),
        "attacks on images": len({row["attack"] for row in rows if row["reader"].endswith("IMAGES")}),
        "attacks on trunks": len({row["attack"] for row in rows if row["reader"].endswith("TRUNK")}),
        "tries of each way to read": dict(Counter(row["reader"] for row in rows)),
        "tries": len(rows),
        "refused": sum(row["code"] == 2 for row in rows),
        "read": sum(row["code"] == 0 for row in rows),
        "most seconds of processor time": max((row["seconds"] for row in rows), default=0),
        "most seconds by the clock": max((row["clock"] for row in rows), default=0),
        "most MiB": max((row["mib"] for row in rows), default=0),
        "wrong": {kind: {"count": counts[kind], "what": what} for kind, what in KINDS.items()},
        "found": [{key: row[key] for key in ("reader", "attack", "wrongs")} for row in rows if row["wrongs"]],
    }


def _named(arguments: Sequence[str]) -> list[str]:
    """What a result says of its command line: all but the place of its rows, which is of no use elsewhere."""
    at = [place for place, word in enumerate(arguments) if word == "--rows"]
    return [shlex.quote(word) for place, word in enumerate(arguments) if place not in at and place - 1 not in at]


def main() -> None:
    """Try what is asked for, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file of the counts")
    parser.add_argument("--rows", type=Path, help="file of what was tried, a line each, to continue from")
    parser.add_argument("--only", nargs="*", help="commands, or ways to read")
    parser.add_argument("--attack", help="attacks whose name holds this")
    parser.add_argument("--thinned", type=int, default=1, help="try fewer attacks, by this factor")
    options = parser.parse_args()
    text = options.rows.read_text() if options.rows and options.rows.exists() else ""
    done = [json.loads(line) for line in text.splitlines()]
    known, now = {(row["reader"], row["attack"]) for row in done}, provenance()["git_commit"]
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
        base = Path(folder).resolve() / "base"
        base.mkdir()
        make_base(base)
        make_trunked(base)
        import_all(base)
        for reader, name, attack, reading in cases(options.only or (), thinned=options.thinned):
            if (reader, name) in known or (options.attack or "") not in name:
                continue
            row = {"reader": reader, "attack": name, "commit": now, **tried(base, attack, reading)}
            done.append(row)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(as_json(summary(done, _named(sys.argv[1:]))), encoding="utf-8")
    print(json.dumps({kind: entry["count"] for kind, entry in summary(done, [])["wrong"].items()}))


if __name__ == "__main__":
    main()
