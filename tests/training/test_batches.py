"""Batches by number: coverage, repeatability, memory maps."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.errors import ConfigError, DataError
from graftwork.training import Augmentation, BatchStream
from tests.training.small import TRANSFORM, images


def _stream(
    *, count: int = 20, batch_size: int = 5, seed: int = 0, augmentation: Augmentation | None = None, first: int = 0
) -> BatchStream:
    data, labels = images(count)
    return BatchStream(
        data,
        labels,
        torch.arange(first, count),
        batch_size=batch_size,
        seed=seed,
        transform=TRANSFORM,
        augmentation=augmentation,
    )


def _equal(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_each_example_comes_exactly_once_an_epoch_in_another_order_each_time() -> None:
    stream = _stream(first=4, batch_size=4)  # examples 4 to 19: four batches
    epochs = [[stream.examples(4 * epoch + number) for number in range(4)] for epoch in range(3)]
    orders = [torch.cat(batches).tolist() for batches in epochs]
    assert all(sorted(order) == list(range(4, 20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_what_is_left_after_the_last_full_batch_is_dropped_and_differs_by_epoch() -> None:
    stream = _stream(batch_size=6)
    assert stream.batches_per_epoch == 3
    used = [frozenset(torch.cat([stream.examples(3 * e + n) for n in range(3)]).tolist()) for e in range(8)]
    assert all(len(epoch) == 18 for epoch in used)
    assert len(set(used)) > 4


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    stream = _stream(count=7, batch_size=64)
    assert (stream.batch_size, stream.batches_per_epoch) == (7, 1)
    x, y = stream.batch(3)
    assert (x.shape, y.shape) == ((7, 3, 8, 8), (7,))


@pytest.mark.parametrize("augmentation", [None, Augmentation("random", 2), Augmentation("random", 1, mix=0.5)])
def test_any_batch_can_be_made_at_any_time_in_any_order(augmentation: Augmentation | None) -> None:
    straight = _stream(augmentation=augmentation)
    batches = [straight.batch(number) for number in range(12)]
    jumping = _stream(augmentation=augmentation)
    for number in (11, 0, 7, 7, 3, 10):
        assert _equal(jumping.batch(number), batches[number])
        parts = [jumping.batch(number, part) for part in (slice(0, 2), slice(2, 5))]
        assert _equal((torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])), batches[number])


def test_other_seed_other_order_and_other_augmentation() -> None:
    assert not torch.equal(_stream(seed=0).examples(0), _stream(seed=1).examples(0))
    data = images(1)[0].expand(20, -1, -1, -1)  # equal images: batches differ by augmentation alone
    one, other = (
        BatchStream(
            data,
            torch.zeros(20),
            torch.arange(20),
            batch_size=20,
            seed=seed,
            transform=TRANSFORM,
            augmentation=Augmentation("random", 2),
        )
        for seed in (0, 1)
    )
    assert not _equal(one.batch(0), other.batch(0))
    assert not _equal(one.batch(0), one.batch(1))


def test_labels_are_shares_of_classes_where_images_are_mixed() -> None:
    stream = _stream(batch_size=20, augmentation=Augmentation(mix=0.5))
    labels = [stream.batch(number)[1] for number in range(20)]
    mixed = [one for one in labels if one.is_floating_point()]
    assert 4 < len(mixed) < 16
    counts = torch.bincount(next(one for one in labels if not one.is_floating_point()))
    for one in mixed:
        torch.testing.assert_close(one.sum(0), counts.float())


def test_mirroring_shows_every_example_both_ways_in_two_epochs() -> None:
    stream = _stream(batch_size=20, augmentation=Augmentation("random"))
    one, other = (stream.batch(epoch)[0][stream.examples(epoch).argsort()] for epoch in (0, 1))
    assert torch.equal(one.flip(3), other)


def test_images_and_labels_belong_together_and_are_transformed_channels_last() -> None:
    data, labels = images(20)
    stream = _stream()
    examples = stream.examples(2)
    x, y = stream.batch(2)
    assert torch.equal(y, labels[examples])
    torch.testing.assert_close(x, (data[examples].float() / 255 - 0.5).permute(0, 3, 1, 2) / 0.25)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_a_read_only_memory_map_gives_the_same_batches_as_a_tensor(tmp_path: Path) -> None:
    data, labels = images(20)
    np.save(tmp_path / "images.npy", data.numpy())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    indices = np.arange(20)
    stream = BatchStream(mapped, labels.numpy(), indices, batch_size=5, seed=0, transform=TRANSFORM)
    assert all(_equal(stream.batch(number), _stream().batch(number)) for number in (0, 3, 9))


PROGRAM = """
import torch
from tests.training.small import stream
print(float(stream(7).batch(11)[0].double().sum()), stream(7).examples(11).tolist())
"""


def test_a_fresh_process_makes_the_same_batch() -> None:
    from tests.training.small import stream

    root = Path(__file__).parents[2]
    path = [*sys.path, str(root)]
    out = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}\n{PROGRAM}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    assert out.stdout.strip() == f"{float(stream(7).batch(11)[0].double().sum())} {stream(7).examples(11).tolist()}"


def test_wrong_data_are_refused() -> None:
    data, labels = images(10)
    with pytest.raises(DataError, match="label for each of 10 images, got 9"):
        BatchStream(data, labels[:9], torch.arange(10), batch_size=2, seed=0, transform=TRANSFORM)
    with pytest.raises(DataError, match="at least one example"):
        BatchStream(data, labels, torch.arange(0), batch_size=2, seed=0, transform=TRANSFORM)
    with pytest.raises(ConfigError, match="batch_size"):
        BatchStream(data, labels, torch.arange(10), batch_size=0, seed=0, transform=TRANSFORM)
