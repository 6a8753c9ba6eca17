"""Every change of the images really does what it says."""

import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.errors import ConfigError
from graftwork.training import AUGMENTATIONS, Augmentation, Flip, generator_for
from graftwork.training._augment import mixed

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


@pytest.mark.parametrize(("flip", "shift"), [("none", 2), ("random", 0)])
def test_each_part_works_alone(flip: Flip, shift: int) -> None:
    images = _images(60)
    choices = _choices(images, _run(Augmentation(flip, shift), images), shift)
    assert {flip for flip, _, _ in choices} == ({False} if flip == "none" else {False, True})
    assert len({dx for _, _, dx in choices}) == 2 * shift + 1


def test_no_augmentation_gives_the_images_back() -> None:
    images = _images(3)
    assert torch.equal(_run(Augmentation(), images), images)


def test_random_flips_half_of_the_examples_and_the_other_half_in_the_next_epoch() -> None:
    images = _images(400)
    first, second, third = (_run(Augmentation("random"), images, epoch=epoch, seed=epoch) for epoch in range(3))
    flipped = torch.tensor([flip for flip, _, _ in _choices(images, first, 0)])
    assert 150 < int(flipped.sum()) < 250
    assert torch.equal(first.flip(2), second)
    assert torch.equal(first, third)
    runs = int((flipped[1:] != flipped[:-1]).sum())
    assert 150 < runs < 250  # neighbours in the data set are not flipped alike or in turns


def test_a_flip_goes_by_the_number_of_the_example_not_by_its_place_in_the_batch() -> None:
    images, examples = _images(20), torch.arange(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation("random")
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
    with pytest.raises(ConfigError, match="erase: expected a number >= 0 and <= 1"):
        Augmentation(erase=2)
    with pytest.raises(ConfigError, match="did you mean 'strong'"):
        Augmentation().at("stron")
    with pytest.raises(ConfigError, match="less than the images"):
        _run(Augmentation("none", 7), _images(2))


def test_auto_spares_grey_images_the_mirror_and_shifts_by_a_sixteenth() -> None:
    auto = Augmentation("auto", "auto")
    assert auto.resolve((3, 32, 32)) == Augmentation("random", 2)
    assert auto.resolve((1, 8, 8)) == Augmentation("none", 1)
    assert Augmentation("random", 3).resolve((1, 64, 32)) == Augmentation("random", 3)
    images = _images(20)  # two channels of 7x9
    assert torch.equal(_run(auto, images), _run(Augmentation("random", 1), images))


@pytest.mark.parametrize("level", AUGMENTATIONS)
def test_a_level_keeps_the_mirror_and_gives_equal_images_for_equal_draws(level: str) -> None:
    images = torch.randint(0, 256, (40, 16, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augmentation = Augmentation("random").at(level)
    assert augmentation.flip == "random"
    before, out = images.clone(), _run(augmentation, images, seed=1)
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert torch.equal(out, _run(augmentation, images, seed=1))
    assert torch.equal(out, _run(augmentation, images, seed=2)) == (level == "none")  # flips draw nothing


def test_scaling_stretches_about_the_middle_by_factors_within_its_bound() -> None:
    ramp = (8 * torch.arange(31)).to(torch.uint8).reshape(1, 1, 31, 1).expand(60, 31, 31, 1)
    out = _run(Augmentation(scale=0.5), ramp).float()
    assert torch.equal(out[:, :, 15, 0], torch.full((60, 31), 120.0))
    slopes = (out[:, 15, 19, 0] - out[:, 15, 11, 0]) / 64
    assert 1 / 1.5 - 0.02 < slopes.min() < 0.75
    assert 1.3 < slopes.max() < 1.52
    assert torch.allclose(out, _run(Augmentation(scale=0.5), ramp.transpose(1, 2)).float().transpose(1, 2))


def test_recolouring_keeps_black_black_and_grey_grey_and_every_image_gets_its_own() -> None:
    images = torch.zeros(30, 4, 4, 3, dtype=torch.uint8)
    images[:, :2] = 100
    out = _run(Augmentation(colour=0.4), images)
    assert torch.equal(out[..., 0], out[..., 1])
    assert len(out[:, 0, 0, 0].unique()) > 10
    contrast = out[:, 0, 0, 0].float() - out[:, 3, 0, 0].float()
    assert contrast.min() > 100 * 0.6**2 - 2
    assert contrast.max() < 100 * 1.4**2 + 2
    red = torch.tensor([200, 20, 20], dtype=torch.uint8).expand(30, 4, 4, 3)
    vivid = _run(Augmentation(colour=0.4), red)
    assert bool((vivid[..., 0] > vivid[..., 1]).all())
    assert not torch.equal(_run(Augmentation(colour=0.4), torch.zeros_like(images)), out)


def test_erasing_paints_a_rectangle_of_at_most_half_the_sides_with_the_mean() -> None:
    images = torch.arange(16 * 24).remainder(2).mul(200).to(torch.uint8).reshape(1, 16, 24, 1).expand(80, 16, 24, 1)
    changed = (_run(Augmentation(erase=1.0), images) != images)[..., 0]
    areas = []
    for one in changed:
        rows, columns = one.any(1).nonzero().flatten(), one.any(0).nonzero().flatten()
        height, width = (int(at[-1] - at[0]) + 1 for at in (rows, columns))
        assert int(one.sum()) == height * width
        assert height <= 9
        assert width <= 13
        areas.append((height, width))
    assert len(set(areas)) > 20
    untouched = ~(_run(Augmentation(erase=0.5), images) != images).flatten(1).any(1)
    assert 20 < int(untouched.sum()) < 60


def test_mixing_blends_or_pastes_and_labels_have_the_shares_of_the_pixels() -> None:
    images = (50 * torch.arange(4)).to(torch.uint8).reshape(4, 1, 1, 1).expand(4, 20, 20, 1)
    kinds = set()
    for seed in range(12):
        out, shares = mixed(images, torch.arange(4), num_classes=5, generator=generator_for(seed))
        assert torch.allclose(shares.sum(1), torch.ones(4))
        # The mean pixel is that of the classes in their shares, within the rounding of a blend.
        mean = (shares @ torch.tensor([0.0, 50, 100, 150, 0])).reshape(4)
        assert torch.allclose(out.float().mean((1, 2, 3)), mean, atol=0.51)
        kinds.add(bool((out.flatten(1) == out[:, :1, 0, 0]).all()))
    assert kinds == {True, False}
