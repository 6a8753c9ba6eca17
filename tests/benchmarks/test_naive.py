"""The good form of the yardstick does what the plain one does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch


def test_the_good_form_has_the_losses_and_classes_of_the_plain_one(benchmark: Callable[[str], Any]) -> None:
    naive, population = benchmark("naive"), benchmark("population")
    genomes = population.load()[:2]
    plain, good = (naive.build(genomes, population.grow(genomes)) for _ in range(2))
    good = naive.channels_last(good)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4)
    fast = x.contiguous(memory_format=torch.channels_last)
    slow_adam = naive.optimizer(plain, lr=1e-4, weight_decay=0.0)
    fast_adam = naive.optimizer(good, lr=1e-4, weight_decay=0.0, fused=True)
    for number in (0, 1, 0):
        one = naive.train_step(plain[number], slow_adam, x, y)
        other = naive.train_step(good[number], fast_adam, fast, y, "float32")
        assert other == pytest.approx(one, rel=1e-4)
    assert torch.equal(naive.score(plain, x, x), naive.score(good, fast, fast, precision="float32"))


@pytest.mark.parametrize("shift", [0, 2])
def test_batches_of_tensors_hold_shifted_images_with_their_labels(benchmark: Callable[[str], Any], shift: int) -> None:
    naive = benchmark("naive")
    images = np.stack([np.full((6, 6, 3), 10 * (number + 1), np.uint8) for number in range(5)])
    pictures = naive.Pictures(images, np.arange(5), mean=(0.0,) * 3, std=(1.0,) * 3, shift=shift, flip=True, seed=0)
    batches = iter(naive.TensorBatches(pictures, batch_size=2, seed=0))
    seen: list[int] = []
    for _ in range(2):
        x, y = next(batches)
        assert x.shape == (2, 3, 6, 6)
        assert torch.allclose(x.amax((1, 2, 3)) * 255, 10.0 * (y + 1))
        seen += y.tolist()
    assert len(set(seen)) == 4
