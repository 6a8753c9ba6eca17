"""Every way in which a command reads a stranger's folder."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from graftwork import machine
from graftwork.cli import main
from graftwork.reports import SECTIONS
from graftwork.serve._draw import Drawings, comparison_figures
from graftwork.serve._shelf import Shelf
from graftwork.serve._tell import checkpoints, summary
from tests.faults._building import path_of
from tests.faults._run_attacks import CHECKPOINT, MEMBER
from tests.faults._sandbox import Place
from tests.faults._trunk_attacks import trunk_of

Words = Callable[[Place], list[object]]


@dataclass(frozen=True)
class Reading:
    """One way to let a command read a folder.

    Args:
        words: Its words, for a place.
        every: Of all attacks it is tried with each n-th, beginning with another one for each way: commands that train
            or draw take seconds.
        unfinished: Whether the run lacks its outcome.
        named: File, from the run on, that the command line names, alone or by its folder: that one may be a link.
        start: Run that the attack changes, as `tests.faults.attack` makes them.
        run: What runs the words.
    """

    words: Words
    every: int = 6
    unfinished: bool = False
    named: str = ""
    start: str = "run"
    run: Callable[[list[str]], object] = main


def _serve(words: list[str]) -> None:
    """Draw every section of the page that would be served, in the place of a server that goes on for ever."""
    run = Path(words[1])
    for snapshot in Shelf([run]).snapshots():
        summary(snapshot)
        checkpoints(snapshot)
        drawings = Drawings()
        parts = [drawings.draw(snapshot, section) for section in SECTIONS] + comparison_figures([snapshot])
        (run.parent / "new" / "page.html").write_text("".join(parts), encoding="utf-8")


def _bench(words: list[str]) -> None:
    """Read what is to be measured, and measure nothing: that takes ten seconds whatever a folder holds."""
    machine.measure_peak = lambda precision, **_: machine.Peak(precision, 1e9, 1e9)
    machine.calibrate_speed = lambda *_, **__: 1e9
    main(words)


def readings() -> dict[str, Reading]:
    """Every way to let a command read a run folder, by name."""
    tiny = ("--quiet", "--no-report")
    measured = ("--passes", "torch", "--seconds", "0.01", "--batch-size", "2")
    return {
        "inspect": _of("inspect"),
        "inspect --json": _of("inspect", "--json"),
        "inspect UNFINISHED": Reading(lambda place: ["inspect", place.run], unfinished=True),
        "inspect MEMBER": Reading(lambda place: ["inspect", path_of(place, MEMBER)], named=MEMBER),
        "inspect GENOME": Reading(lambda place: ["inspect", place.run / "seed_genome.json"], named="seed_genome.json"),
        "inspect CHECKPOINT": Reading(lambda place: ["inspect", path_of(place, CHECKPOINT)], named=CHECKPOINT),
        "report": _of("report", every=11),
        "report --with-data": _of("report", "--with-data", every=22),
        "search --resume": Reading(lambda place: ["search", *tiny, "--resume", place.run], every=11, unfinished=True),
        "search --resume --as-new": Reading(
            lambda place: ["search", *tiny, "--resume", place.run, "--as-new", place.new / "run"],
            every=22,
            unfinished=True,
        ),
        "ensemble": _of("ensemble", "--method", "mean", "--method", "greedy", every=11),
        "ensemble --features penultimate": _of("ensemble", "--features", "penultimate", every=22),
        "export": _of("export"),
        "export --ensemble": _of("export", "--ensemble", "mean"),
        "predict": Reading(lambda place: ["predict", "--out", place.new / "x.csv", place.run, place.data]),
        "predict --ensemble": Reading(lambda place: ["predict", "--ensemble", "stacked", place.run, place.data]),
        "evaluate": Reading(lambda place: ["evaluate", place.run, "--data", _digits(place)]),
        "profiles": Reading(lambda place: ["profiles", place.run, place.run, "--by-class"], every=11),
        "distil": Reading(lambda place: ["distil", place.run, "--budget", "0.001GFLOP"], every=11),
        "bench": Reading(lambda place: ["bench", *measured, place.run], every=11, run=_bench),
        "train": Reading(
            lambda place: [
                *("train", *tiny, "--genome", place.run / "seed_genome.json", "--config", place.run / "config.toml"),
                *("--out", place.new / "run"),
            ],
            every=11,
            named="seed_genome.json config.toml",
        ),
        "family": Reading(
            lambda place: [
                *("family", *tiny, "--genome", place.run / "seed_genome.json", "--config", place.run / "config.toml"),
                *("--budget", "4steps", "--sizes", "1", "--out", place.new / "run"),
            ],
            every=11,
            named="seed_genome.json config.toml",
        ),
        "serve": Reading(lambda place: ["serve", place.run], every=11, run=_serve),
        "config": Reading(lambda place: ["config", "--config", place.run / "config.toml"], named="config.toml"),
        "grow": Reading(lambda place: ["grow", place.run, "--layers", "+1", "--out", place.new / "x"], every=11),
        "data": Reading(lambda place: ["data", "--config", place.run / "config.toml"], named="config.toml"),
    }


def _of(*words: object, every: int = 6) -> Reading:
    return Reading(partial(_line, words), every=every)


def _line(words: tuple[object, ...], place: Place) -> list[object]:
    return [*words, place.run]


def data_readings() -> dict[str, Reading]:
    """Every way to let a command read a stranger's images."""
    search = ("search", "--quiet", "--no-report", "--budget", "4steps", "--num-generations", "0")
    return {
        "data IMAGES": Reading(lambda place: ["data", "--data", _source(place)], every=1),
        "data --skip-bad-images IMAGES": Reading(
            lambda place: ["data", "--skip-bad-images", "--data", _source(place)], every=1
        ),
        "search IMAGES": Reading(
            lambda place: [
                *(*search, "--passes", "torch", "--precision", "float32", "--data", _source(place)),
                *("--out", place.new / "run"),
            ],
            every=1,
        ),
        "predict IMAGES": Reading(
            lambda place: ["predict", "--out", place.new / "x.csv", place.run, place.data],
            every=1,
            named="../data/0.png",  # which it takes from the folder itself, and not from the list beside it
        ),
        "evaluate IMAGES": Reading(lambda place: ["evaluate", place.run, "--data", place.data], every=1),
    }


def trunk_readings() -> dict[str, Reading]:
    """Every way to let a command read a stranger's trunk, or a run that has trained one."""
    search = ("search", "--quiet", "--no-report", "--budget", "4steps", "--num-generations", "0", "--data", "digits")
    known: dict[str, Words] = {
        "search TRUNK": lambda place: [
            *(*search, "--passes", "torch", "--precision", "float32", "--trunk", f"hf:{trunk_of(place)}"),
            *("--out", place.new / "run"),
        ],
        "predict TRUNK": lambda place: ["predict", place.run, place.data / "a"],
        "evaluate TRUNK": lambda place: ["evaluate", place.run, "--data", _digits(place)],
        "distil TRUNK": lambda place: ["distil", place.run, "--budget", "0.01GFLOP"],
    }
    return {name: Reading(words, every=1, start="trunked") for name, words in known.items()}


def _digits(place: Place) -> Path:
    """The images, in folders that are named as the run's classes are."""
    for name, digit in (("a", "3"), ("b", "7")):
        shutil.copytree(place.data / name, place.new / "digits" / digit, dirs_exist_ok=True)
    return place.new / "digits"


def _source(place: Place) -> Path:
    """Stands for what an attack leaves, which is not known before; see `with_source`."""
    return place.data / "SOURCE"


def with_source(line: list[str], place: Place) -> list[str]:
    """A command line that names the archive or table that an attack has left among the data, else their folder."""
    named = [
        path
        for name in ("x.tar.gz", "x.tar", "x.zip", "x.csv", "x.tsv", "x.npz")
        if (path := place.data / name).exists()
    ]
    return [str(named[0] if named else place.data) if word == str(_source(place)) else word for word in line]
