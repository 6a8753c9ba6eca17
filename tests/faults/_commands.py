"""Every way in which a command reads a stranger's folder."""

from collections.abc import Callable
from pathlib import Path

from tests.faults._building import path_of
from tests.faults._run_attacks import CHECKPOINT, MEMBER
from tests.faults._sandbox import Place

Words = Callable[[Place], list[object]]


def readers() -> dict[str, tuple[Words, bool]]:
    """Every way to let a command read a run folder: its words, and whether the run has to be unfinished."""
    tiny = ("--quiet", "--no-report")

    def run(*words: object, unfinished: bool = False, after: tuple[object, ...] = ()) -> tuple[Words, bool]:
        return lambda place: [*words, place.run, *after], unfinished

    return {
        "inspect": run("inspect"),
        "inspect --json": run("inspect", "--json"),
        "inspect, unfinished": run("inspect", unfinished=True),
        "inspect MEMBER": (lambda place: ["inspect", path_of(place, MEMBER)], False),
        "inspect GENOME": (lambda place: ["inspect", place.run / "seed_genome.json"], False),
        "inspect CHECKPOINT": (lambda place: ["inspect", path_of(place, CHECKPOINT)], False),
        "report": run("report"),
        "report --with-data": run("report", "--with-data"),
        "search --resume": run("search", *tiny, "--resume", unfinished=True),
        "search --resume --as-new": (
            lambda place: ["search", *tiny, "--resume", place.run, "--as-new", place.new / "run"],
            True,
        ),
        "ensemble": run("ensemble"),
        "ensemble --features penultimate": run("ensemble", "--features", "penultimate"),
        "export": run("export"),
        "export --ensemble": run("export", "--ensemble", "mean"),
        "predict": (lambda place: ["predict", "--out", place.new / "x.csv", place.run, place.data], False),
        "predict --ensemble": (lambda place: ["predict", "--ensemble", "stacked", place.run, place.data], False),
        "profiles": (lambda place: ["profiles", place.run, place.run, "--by-class"], False),
        "distil": run("distil", after=("--budget", "0.001GFLOP")),
        "bench": run("bench", "--passes", "torch", "--seconds", "0.01", "--batch-size", "2"),
        "train": (
            lambda place: [
                *("train", *tiny, "--genome", place.run / "seed_genome.json", "--config", place.run / "config.toml"),
                *("--out", place.new / "run"),
            ],
            False,
        ),
        "config": (lambda place: ["config", "--config", place.run / "config.toml"], False),
        "data": (lambda place: ["data", "--config", place.run / "config.toml"], False),
    }


def data_readers() -> dict[str, Words]:
    """Every way to let a command read a stranger's images."""
    return {
        "data": lambda place: ["data", "--data", _source(place)],
        "data --skip-bad-images": lambda place: ["data", "--skip-bad-images", "--data", _source(place)],
        "search": lambda place: [
            *("search", "--quiet", "--no-report", "--data", _source(place), "--out", place.new / "run"),
            *("--budget", "4steps", "--num-generations", "0", "--passes", "torch", "--precision", "float32"),
        ],
        "predict": lambda place: ["predict", "--out", place.new / "x.csv", place.run, place.data],
    }


def _source(place: Place) -> Path:
    archive = place.data / "x.tar.gz"
    return archive if archive.exists() else place.data
