"""A genome is data: it goes through JSON, and its hash is the same everywhere."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from graftwork.errors import GenomeError
from graftwork.networks.genome import FORMAT_VERSION, SEEDS, Genome, Layer, seed_genome
from tests.exporting.cases import RICH
from tests.strategies import genomes

SEEDED = [seed_genome(name, (3, 32, 32), 10) for name in SEEDS]


def _samples(count: int) -> list[Genome]:
    found: list[Genome] = []

    @settings(max_examples=count, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(genomes())
    def collect(genome: Genome) -> None:
        found.append(genome)

    collect()
    return [*SEEDED, *found]


@given(genomes())
def test_json_gives_an_equal_genome_back(genome: Genome) -> None:
    text = genome.to_json()
    again = Genome.from_json(text)
    assert again == genome
    assert hash(again) == hash(genome)
    assert again.id == genome.id
    assert again.to_json() == text
    assert Genome.from_json(genome.to_json(indent=2)) == genome
    assert json.loads(text)["format"] == FORMAT_VERSION


def test_hash_is_the_same_in_a_fresh_process() -> None:
    samples = _samples(20)
    program = (
        "import json, sys\n"
        "from graftwork.networks.genome import Genome\n"
        "assert 'torch' not in sys.modules, 'genomes need no torch'\n"
        "print(json.dumps([Genome.from_json(text).id for text in json.load(sys.stdin)]))\n"
    )
    ids = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps([genome.to_json() for genome in samples]),
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        ids.append(json.loads(done.stdout))
    assert ids[0] == ids[1] == [genome.id for genome in samples]
    assert len(ids[0]) > 10


def test_different_genomes_have_different_ids() -> None:
    samples = set(_samples(100))
    assert len(samples) > 50
    assert len({genome.id for genome in samples}) == len(samples)


def test_every_change_of_a_genome_changes_its_id() -> None:
    genome = SEEDED[0]
    changes: list[dict[str, Any]] = [
        {"num_classes": 11},
        {"activation": "gelu"},
        {"norm": "none"},
        {"body": genome.body[:-1]},
        {"input_shape": (3, 32, 40)},
    ]
    ids = {genome.id, *(genome.replace(**change).id for change in changes)}
    assert len(ids) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, r"expected format 1, got 99"),
        ({"norm": "group"}, r"norm: expected one of"),
        ({"body": [{"type": "convolution"}]}, r"a layer or a pool, got 'convolution'"),
        ({"body": [{"type": "pool", "size": 2, "stride": 3}]}, r"expected what graftwork writes.*stride"),
        ({"stem": {"kind": "none", "colour": 1}}, r"expected what graftwork writes.*colour"),
        ({"head": None}, r"expected what graftwork writes"),
    ],
)
def test_json_of_no_genome_is_refused(change: dict[str, Any], message: str) -> None:
    data = SEEDED[0].to_dict() | change
    with pytest.raises(GenomeError, match=message):
        Genome.from_json(json.dumps(data))


@pytest.mark.parametrize("key", sorted(SEEDED[0].to_dict()))
def test_json_with_a_missing_field_is_refused(key: str) -> None:
    data = SEEDED[0].to_dict()
    del data[key]
    with pytest.raises(GenomeError, match=r"genome: "):
        Genome.from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"genome"', "{}"])
def test_text_that_is_no_genome_is_refused(text: str) -> None:
    with pytest.raises(GenomeError, match=r"genome: expected (JSON|format)"):
        Genome.from_json(text)


@given(genomes())
def test_shapes_follow_from_step_to_step(genome: Genome) -> None:
    shape = genome.stem_shape
    for step in genome.steps():
        assert step.in_shape == shape
        assert genome.body[step.position] is step.item
        if isinstance(step.item, Layer):
            assert step.out_shape == (step.item.out_channels, *shape[1:])
        shape = step.out_shape
    assert genome.features_shape == shape
    assert len(set(genome.ids)) == len(genome.ids)


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 48), (4, 9, 31)])
def test_seed_genomes_fit_any_image(name: str, shape: tuple[int, int, int]) -> None:
    genome = seed_genome(name, shape, 7)
    assert genome.input_shape == shape
    assert genome.num_classes == 7
    assert min(genome.features_shape[1:]) >= 1


@pytest.mark.parametrize(("side", "after"), [(8, 8), (32, 31), (48, 47), (49, 25), (96, 48), (97, 25), (224, 56)])
def test_the_default_seed_reduces_images_above_48_pixels(side: int, after: int) -> None:
    assert seed_genome("default", (3, side, side), 10).stem_shape[1:] == (after, after)


def test_unknown_seed_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GenomeError, match=r"expected one of poster, .*got 'resnet'"):
        seed_genome("resnet", (3, 8, 8), 2)


def test_hash_of_a_known_genome_never_changes() -> None:
    assert RICH.id == "209444962b9a00a5", (
        "ids name members and files of old runs; raise FORMAT_VERSION if they must move"
    )
