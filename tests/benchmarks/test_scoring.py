"""What `benchmarks/scoring.py` says about answers and ratios."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graftwork.networks import bind
from graftwork.networks.execution import InputTransform
from graftwork.training import Scorer

TRANSFORM = InputTransform((0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def data() -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (9, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return images[:5], torch.arange(5), images[5:], TRANSFORM


def test_all_ways_score_the_same_images_alike_and_the_ratio_is_held_against_what_is_possible(
    benchmark: Callable[[str], Any], data: tuple[Any, ...]
) -> None:
    scoring, genomes = benchmark("scoring"), benchmark("population").load()
    found = scoring.compare("evolved", genomes[:3], data, "float32", 2)
    assert found["equal_to_one_by_one"]
    assert found["same_classes_float32"] == 1
    assert (found["members"], found["images"], found["calibration_images"]) == (3, 5, 4)
    seconds = found["seconds"]
    assert {len(values) for values in seconds.values()} == {2}
    shares = [
        one / both / found["flops_ratio"] for one, both in zip(seconds["one_by_one"], seconds["shared"], strict=True)
    ]
    assert sorted([found["of_possible"]["min"], found["of_possible"]["max"]]) == pytest.approx(sorted(shares))


def test_answers_that_differ_in_one_logit_are_told_apart(
    benchmark: Callable[[str], Any], data: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring, population = benchmark("scoring"), benchmark("population")
    genomes = population.load()[:2]
    bank = population.grow(genomes)
    scorer = Scorer(*data[:2], transform=TRANSFORM, calibration=data[2])
    members = [bind(genome, bank) for genome in genomes]
    assert scoring._equal(scorer, members)
    true = scorer.logits(members)
    true[1, 3, 0] += 1e-3
    exact = scorer.logits
    monkeypatch.setattr(scorer, "logits", lambda asked: true if len(asked) == 2 else exact(asked))
    assert not scoring._equal(scorer, members)
