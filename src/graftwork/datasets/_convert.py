"""From image files of any size and mode to arrays of one shape, by stated rules.

* A camera's orientation is applied; from an animation the first frame is taken.
* Channels: grey where every image is grey (modes 1, L, LA, I, I;16, F), else RGB. Transparency is laid over white.
* Depth: 16-bit grey is scaled from 0 … 65535, floats from 0 … 1; other values are an error.
* Size: where all images have one size it is kept; otherwise, or with ``image_size``, each image is scaled so that its
  shorter side fits, and the middle is cut out. The size is ``image_size``, or else the median of the shorter sides,
  at most 64.
"""

import io
import struct
import warnings
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftwork.datasets._walk import Slice
from graftwork.errors import DataError

Picture = Path | Slice | bytes | Image.Image
"""An image: a file, the content of one, or decoded."""

SMALLEST = 8
LARGEST_BY_DEFAULT = 64
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


def open_image(source: Picture, where: str) -> Image.Image:
    """Open an image and decode it fully.

    Raises:
        DataError: If it can't be read; the message names ``where``.
    """
    try:
        image = _opened(source)
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
def _formats() -> tuple[str, ...]:
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
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of bombs, which are refused below, and of damaged EXIF data, which say nothing
        image = Image.open(io.BytesIO(source), formats=_formats())
    most = _MOST_PIXELS if image.mode in _OPAQUE and "transparency" not in image.info else _MOST_PIXELS // 4
    if image.width * image.height > most:
        raise ValueError(f"{image.width:,}×{image.height:,} pixels, more than {most:,}")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its camera says; EXIF data are only read, as Pillow can't write all that it reads."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _BAD_EXIF:  # damaged EXIF data say nothing; the pixels are fine
        return image
    return image if turn is None else image.transpose(turn)


def is_grey(image: Image.Image) -> bool:
    """Whether an image has no colour, by its mode."""
    return image.mode in _GREY or image.mode.startswith("I;16")


def common_shape(
    sizes: list[tuple[int, int]], *, grey: bool, image_size: int | tuple[int, int] | None, where: str
) -> tuple[int, int, int]:
    """Height, width and channels that all images are brought to.

    Args:
        sizes: Width and height of every image.
        grey: Whether all images are grey.
        image_size: Side, or height and width, that the user asked for; ``None``: by the rules above.
        where: The source, as messages name it.

    Raises:
        DataError: If a side would be below 8 pixels.
    """
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    elif len(set(sizes)) == 1:
        width, height = sizes[0]
    else:
        side = min(LARGEST_BY_DEFAULT, int(median(min(size) for size in sizes)))
        height = width = side
    if min(height, width) < SMALLEST:
        raise DataError(f"{where}: expected images of at least {SMALLEST}×{SMALLEST} pixels, got {height}×{width}")
    return height, width, 1 if grey else 3


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
    return fit(open_image(path, str(path)), (*size, channels))


def decode(
    sources: list[tuple[str, Picture]],
    *,
    image_size: int | tuple[int, int] | None,
    skip_bad_images: bool,
    where: str,
) -> tuple[NDArray[np.uint8], list[int], list[tuple[str, str]]]:
    """Decode many images to one shape.

    Args:
        sources: Name and file (or bytes) of each image.
        image_size: Side, or height and width, that the user asked for (see `common_shape`).
        skip_bad_images: Whether images that can't be read are left out; otherwise they are an error.
        where: The source, as messages name it.

    Returns:
        The images, uint8 [n, H, W, C]; the index in ``sources`` of each; name and reason of those left out.
    """
    sizes: list[tuple[int, int]] = []
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    grey = True
    ready: list[NDArray[np.uint8]] | None = []  # decoded as they are, while all images have one size and mode
    for index, (name, source) in enumerate(sources):
        try:
            image = open_image(source, name)
        except DataError as error:
            if not skip_bad_images:
                raise
            skipped.append((name, str(error)))
            continue
        plain = image.mode in ("L", "RGB") and "transparency" not in image.info
        same = not kept or (image.size == sizes[0] and is_grey(image) == grey)
        if ready is not None and plain and same:
            ready.append(np.asarray(image))
        else:
            ready = None
        sizes.append(image.size)
        kept.append(index)
        grey = grey and is_grey(image)
    if not kept:
        raise DataError(f"{where}: expected images, got {len(sources)} of which none can be read")
    shape = common_shape(sizes, grey=grey, image_size=image_size, where=where)
    out = np.empty((len(kept), *shape), dtype=np.uint8)
    if ready is not None and (shape[1], shape[0]) == sizes[0]:
        for row, pixels in enumerate(ready):
            out[row] = pixels.reshape(shape)
        return out, kept, skipped
    for row, index in enumerate(kept):
        out[row] = fit(open_image(sources[index][1], sources[index][0]), shape)
    return out, kept, skipped
