"""From image files of any size and mode to arrays of one shape, by stated rules.

* A camera's orientation is applied; from an animation the first frame is taken.
* Channels: grey where every image is grey (modes 1, L, LA, I, I;16, F), else RGB. Transparency is laid over white.
* Depth: 16-bit grey is scaled from 0 … 65535, floats from 0 … 1; other values are an error.
* Size: each image is scaled so that it fills the frame, and the middle is cut out (see `Survey` for the frame).
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftwork.datasets._walk import Slice
from graftwork.errors import DataError

Picture = Path | Slice | bytes | Image.Image
"""An image: a file, the content of one, or decoded."""

_GREY = {"1", "L", "LA", "La", "I", "F"}
_DEEP = {"I", "F"}
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF")
_OPAQUE = {"1", "L", "RGB", "YCbCr", "CMYK"}
_MOST_BYTES, _MOST_PIXELS = 2**28, 2**27
_BAD_EXIF = (struct.error, SyntaxError, ValueError, KeyError, TypeError, IndexError, OSError)
_ORIENTATION = 0x0112  # EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[number] for number in (5, 6, 7, 8)}


@contextmanager
def no_warnings() -> Iterator[None]:
    """Let Pillow say nothing of bombs, which are refused here, and of damaged EXIF data, which say nothing.

    The setting is the whole process's: of several threads, the one that starts the others makes it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_image(source: Picture, where: str) -> Image.Image:
    """Open an image and decode it fully.

    Raises:
        DataError: If it can't be read; the message names ``where``.
    """
    with no_warnings():
        return _read(source, where)


def read_at(source: Picture, where: str, size: tuple[int, int]) -> Image.Image:
    """Open an image for a frame of this height and width, inside of `no_warnings`.

    A JPEG is decoded at a half, a quarter or an eighth of its size, where that leaves twice the pixels of the frame.

    Raises:
        DataError: As `open_image`.
    """
    return _read(source, where, at_least=2 * max(size))


def _read(source: Picture, where: str, *, at_least: int | None = None) -> Image.Image:
    try:
        image = _opened(source)
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        image.load()
        image = _upright(image)
        if image.mode in _DEEP or image.mode.startswith("I;16"):
            image = _eight_bits(image)
    except Exception as error:  # Pillow's readers raise errors of many kinds
        raise DataError(
            f"{where}: expected an image, got one that can't be read ({error}); repair or remove it, or use "
            "--skip-bad-images"
        ) from error
    return image


@cache
def known_formats() -> tuple[str, ...]:
    """Formats that are read here, of those that Pillow knows: for some others it starts programs, as for PostScript."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _opened(source: Picture) -> Image.Image:
    """An image whose pixels are not decoded yet, of bounded size: transparency takes further copies of them."""
    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, bytes):
        if (size := source.size if isinstance(source, Slice) else source.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"{size:,} bytes, more than {_MOST_BYTES:,}")
        source = source.read_bytes()
    image = Image.open(io.BytesIO(source), formats=known_formats())
    most = _MOST_PIXELS if image.mode in _OPAQUE and "transparency" not in image.info else _MOST_PIXELS // 4
    if image.width * image.height > most:
        raise ValueError(f"{image.width:,}×{image.height:,} pixels, more than {most:,}")
    return image


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How an image is turned, as its camera says; EXIF data are only read, as Pillow can't write all that it reads."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _BAD_EXIF:  # damaged EXIF data say nothing; the pixels are fine
        return None


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def lies_on_its_side(image: Image.Image) -> bool:
    """Whether height and width change places when an image is turned as its camera says."""
    return _turn(image) in _SIDEWAYS


def is_grey(image: Image.Image) -> bool:
    """Whether an image has no colour, by its mode."""
    return image.mode in _GREY or image.mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> Image.Image:
    top = 1 if image.mode == "F" else 65535
    values = np.asarray(image, dtype=np.float64)
    if not (np.isfinite(values).all() and 0 <= values.min() <= values.max() <= top):
        raise ValueError(f"expected values from 0 to {top}, got {values.min():g} to {values.max():g}")
    return Image.fromarray((values / top * 255).round().astype(np.uint8))


def _flat(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, layered)
    return image.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Bring an image to height, width and channels: uint8 [H, W, C]."""
    height, width, channels = shape
    image = _flat(image, channels)
    if image.size != (width, height):
        scale = max(width / image.width, height / image.height)
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def read_image(path: Path, *, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """Read one image file for a network of a given input shape: uint8 [H, W, C].

    Args:
        path: Image file.
        size: Height and width of the network's input.
        channels: Channels of the network's input: 1 or 3.

    Raises:
        DataError: If the file can't be read.
    """
    with no_warnings():
        return fit(read_at(path, str(path), size), (*size, channels))
