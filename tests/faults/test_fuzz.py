"""Nearly valid inputs: only our own errors come out of the readers. What fuzzing has found stays here."""

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import GenomeError, RunError
from graftwork.networks.genome import Genome
from graftwork.runs import check_member, check_result
from tests.faults._fuzzed import Reader, readers
from tests.faults._mutations import VALUES, mutated
from tests.faults.fuzz import input_of, make_run, outcome_of

NAMES = (
    *("json", "result", "member", "genome", "records", "manifest", "owner", "state", "config (TOML)", "combiner"),
    *("safetensors", "pickle", "PNG", "other images", "parquet", "archive", "sheet", "arrays", "growth log", "cache"),
)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers(make_run(tmp_path_factory.mktemp("fuzzed")))


def test_every_reader_is_fuzzed_and_reads_its_valid_inputs(every: dict[str, Reader], tmp_path: Path) -> None:
    assert set(every) == set(NAMES)
    assert 0.99 < sum(reader.share for reader in every.values()) < 1.01
    for name, reader in every.items():
        for seed in reader.seeds:
            wanted = {"manifest": {"refused"}}.get(name, {"read"})  # of files that are not there
            assert outcome_of(reader, seed, tmp_path) in wanted, name


@pytest.mark.parametrize("name", NAMES)
def test_only_our_own_errors_come_out(name: str, every: dict[str, Reader], tmp_path: Path) -> None:
    reader = every[name]
    for number in range(40):
        how = outcome_of(reader, input_of(reader, name, number, 1), tmp_path)
        assert how in ("read", "refused"), number


def test_mutations_are_made_again_and_differ() -> None:
    seeds = [b'{"a": [1, 2.5, "x"], "b": {"c": null}}', b"[1]"]
    found = [mutated(seeds, "json", random.Random(number)) for number in range(200)]
    assert found == [mutated(seeds, "json", random.Random(number)) for number in range(200)]
    assert len(set(found)) > 150


# Any JSON at all, from Hypothesis ------------------------------------------------------------------------------------

KEYS = (
    "id",
    "best",
    "survivors",
    "genome",
    "format",
    "body",
    "blocks",
    "input_shape",
    "head",
    "stem",
    "kind",
    "ancestors",
)
values = st.recursive(
    st.sampled_from(VALUES) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=8))
def test_any_object_is_a_result_a_member_and_a_genome_or_refused(data: dict[str, Any]) -> None:
    for read in (check_result, check_member, lambda found, _: Genome.from_dict(found)):
        with suppress(RunError, GenomeError):
            read(data, Path("x"))


# What was found ------------------------------------------------------------------------------------------------------


def _json(*keys: Any, value: Any) -> Any:
    """Change of a value that lies deep in a valid input."""

    def change(seed: bytes) -> bytes:
        data = inner = json.loads(seed)
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return json.dumps(data).encode()

    return change


FOUND: dict[str, tuple[str, Any]] = {
    "a layer that is a text": ("genome", _json("body", 0, value="x")),
    "hashes that are a number": ("manifest", _json("files", "config.toml", value=1)),
    "a bank's entry without its role": ("state", _json("search", "bank", "s0", "filter", value=[])),
    "a state that is a text": ("state", _json("search", value="x")),
    "random numbers beyond all integers": ("state", _json("search", "rng", "state", "inc", value=float("inf"))),
    "more members than memory holds": ("combiner", _json("combiner", "num_members", value=2**64)),
    "no growths": ("growth log", _json("growths", value=None)),
    "a block of negative size": ("growth log", _json("growths", 1, "changes", "blocks", 0, 1, "channels", value=-1)),
    "a block of 2³¹ dimensions": (
        "growth log",
        _json("growths", 1, "changes", "blocks", 0, 1, "spatial", value=2**31 - 1),
    ),
    "a block of any class of torch": (
        "growth log",
        _json("growths", 1, "changes", "blocks", 0, 1, "activation", value="Transformer"),
    ),
    "tensors that are a number": ("growth log", _json("growths", 0, "changes", "tensors", value=1)),
    "an array's header that is no Python": ("cache", lambda seed: seed.replace(b"(4, 8", b"(4)) 8")),
    "an array of nothing": ("cache", lambda seed: seed.replace(b"(4, 8, 8, 1)", b"(0, 8, 8, 1)")),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused(name: str, every: dict[str, Reader], tmp_path: Path) -> None:
    kind, change = FOUND[name]
    reader = every[kind]
    changed = [change(seed) for seed in reader.seeds if kind != "combiner" or b'"num_members"' in seed]
    assert {outcome_of(reader, data, tmp_path) for data in changed} <= {"read", "refused"}
