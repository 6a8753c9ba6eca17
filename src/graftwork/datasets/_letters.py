"""Letters, rendered with the fonts that matplotlib ships: a data set with something to tell apart."""

import string
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from graftwork.datasets._listing import Raw

_FONTS = (
    *(f"DejaVu{kind}{style}" for kind in ("Sans", "SansMono") for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)
_OF_EACH, _SIDE, _CANVAS = 160, 16, 96
_LEAST_CONTRAST = 60
"""Least difference in brightness between letter and ground."""


def read_letters() -> Raw:
    """4,160 colour images of 16×16: the small letters, turned, slanted and blurred, on noisy ground; always the same.

    Some can be told only by guessing, and some are others in the mirror (b and d, p and q).
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(string.ascii_lowercase)), _OF_EACH)
    images = np.stack([_letter(string.ascii_lowercase[label], rng) for label in labels.tolist()])
    return Raw(images, labels, tuple(string.ascii_lowercase))


def _letter(letter: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image, uint8 [16, 16, 3]."""
    ink = _ink(letter, rng)[..., None]
    ground, colour = _colours(rng)
    slope = rng.uniform(-60, 60, (2, 3)) / _SIDE  # the ground grows lighter or darker to the side and downwards
    across, down = np.meshgrid(np.arange(_SIDE) - _SIDE / 2, np.arange(_SIDE) - _SIDE / 2)
    shade = across[..., None] * slope[0] + down[..., None] * slope[1]
    noise = rng.normal(0, rng.uniform(5, 30), (_SIDE, _SIDE, 3))
    pixels = (ground + shade) * (1 - ink) + colour * ink + noise
    image: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return image


def _ink(letter: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """How much of each pixel the letter covers, float64 [16, 16] in [0, 1]."""
    mask = Image.new("L", (_CANVAS, _CANVAS))
    font = _font(_FONTS[rng.integers(len(_FONTS))])
    ImageDraw.Draw(mask).text((_CANVAS / 2, 0.62 * _CANVAS), letter, fill=255, font=font, anchor="ms")
    angle, slant, size = np.deg2rad(rng.uniform(-22, 22)), rng.uniform(-0.3, 0.3), rng.uniform(0.6, 1.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, slant], [0, 1]]) * (_CANVAS / _SIDE) * 0.6 / size
    aside = _SIDE * rng.uniform(-0.09, 0.09, 2)  # from the middle of the image
    middle = np.array([_CANVAS / 2, 0.48 * _CANVAS]) - matrix @ (_SIDE / 2 + aside)
    (a, b), (c, d) = matrix.tolist()
    coefficients = (a, b, middle[0], c, d, middle[1])
    small = mask.transform((_SIDE, _SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float64) / 255


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours of ground and letter, float64 [3] each, that differ in brightness."""
    while True:
        ground, colour = rng.uniform(20, 235, (2, 3))
        if abs(ground.mean() - colour.mean()) >= _LEAST_CONTRAST:
            return ground, colour


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size=60)
