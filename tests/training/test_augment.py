"""Flips and shifts really do what they say."""

import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.errors import ConfigError
from graftwork.training import Augmentation, Flip, generator_for

HEIGHT, WIDTH = 7, 9


def _images(count: int) -> Tensor:
    """Images whose pixels are all different within an image, [count, 7, 9, 2]."""
    one = torch.randperm(HEIGHT * WIDTH * 2, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return torch.stack([(one + 3 * number).to(torch.uint8).reshape(HEIGHT, WIDTH, 2) for number in range(count)])


def _candidates(image: Tensor, shift: int) -> dict[tuple[bool, int, int], Tensor]:
    """Every flip and shift of one image, by numpy's padding: an independent oracle."""
    found = {}
    for flip in (False, True):
        turned = image.numpy()[:, ::-1] if flip else image.numpy()
        padded = np.pad(turned, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
        for dy in range(2 * shift + 1):
            for dx in range(2 * shift + 1):
                found[flip, dy - shift, dx - shift] = torch.from_numpy(padded[dy : dy + HEIGHT, dx : dx + WIDTH].copy())
    return found


def _run(augmentation: Augmentation, images: Tensor, *, epoch: int = 0, seed: int = 0) -> Tensor:
    return augmentation(images, examples=torch.arange(len(images)), epoch=epoch, generator=generator_for(seed))


def _choices(images: Tensor, out: Tensor, shift: int) -> list[tuple[bool, int, int]]:
    """Which flip and shift each image got; fails where it is none."""
    choices = []
    for image, result in zip(images, out, strict=True):
        matches = [key for key, value in _candidates(image, shift).items() if torch.equal(value, result)]
        assert len(matches) == 1
        choices += matches
    return choices


def test_every_image_is_one_of_its_shifts_and_flips_and_all_of_them_occur() -> None:
    images = _images(300)
    out = _run(Augmentation("random", 1), images)
    assert out.dtype == torch.uint8
    choices = _choices(images, out, 1)
    assert len(set(choices)) == 18
    assert 100 < sum(flip for flip, _, _ in choices) < 200
    assert 60 < sum(dy == 0 for _, dy, _ in choices) < 140


@pytest.mark.parametrize(("flip", "shift"), [("none", 2), ("random", 0), ("alternate", 0)])
def test_each_part_works_alone(flip: Flip, shift: int) -> None:
    images = _images(60)
    choices = _choices(images, _run(Augmentation(flip, shift), images), shift)
    assert {flip for flip, _, _ in choices} == ({False} if flip == "none" else {False, True})
    assert len({dx for _, _, dx in choices}) == 2 * shift + 1


def test_no_augmentation_gives_the_images_back() -> None:
    images = _images(3)
    assert torch.equal(_run(Augmentation(), images), images)


def test_alternate_flips_half_of_the_examples_and_the_other_half_in_the_next_epoch() -> None:
    images = _images(400)
    first, second, third = (_run(Augmentation("alternate"), images, epoch=epoch, seed=epoch) for epoch in range(3))
    flipped = torch.tensor([flip for flip, _, _ in _choices(images, first, 0)])
    assert 150 < int(flipped.sum()) < 250
    assert torch.equal(first.flip(2), second)
    assert torch.equal(first, third)
    runs = int((flipped[1:] != flipped[:-1]).sum())
    assert 150 < runs < 250  # neighbours in the data set are not flipped alike or in turns


def test_alternate_goes_by_the_number_of_the_example_not_by_its_place_in_the_batch() -> None:
    images, examples = _images(20), torch.arange(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation("alternate")
    one = augmentation(images, examples=examples, epoch=0, generator=generator_for(0))
    other = augmentation(images[order], examples=order, epoch=0, generator=generator_for(1))
    assert torch.equal(one[order], other)


def test_same_generator_state_same_result_other_state_other_result() -> None:
    images = _images(20)
    augmentation = Augmentation("random", 2)
    assert torch.equal(_run(augmentation, images, seed=1), _run(augmentation, images, seed=1))
    assert not torch.equal(_run(augmentation, images, seed=1), _run(augmentation, images, seed=2))


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        Augmentation("randon")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="shift"):
        Augmentation("none", -1)
    with pytest.raises(ConfigError, match="less than the images"):
        _run(Augmentation("none", 7), _images(2))


def test_auto_spares_grey_images_the_mirror_and_shifts_by_a_sixteenth() -> None:
    auto = Augmentation("auto", "auto")
    assert auto.resolve((3, 32, 32)) == Augmentation("alternate", 2)
    assert auto.resolve((1, 8, 8)) == Augmentation("none", 1)
    assert Augmentation("random", 3).resolve((1, 64, 32)) == Augmentation("random", 3)
    images = _images(20)  # two channels of 7x9
    assert torch.equal(_run(auto, images), _run(Augmentation("alternate", 1), images))
