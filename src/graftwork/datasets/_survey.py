"""What is known of images before they are decoded: how many there are, and how large."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import median

from PIL import Image

from graftwork.datasets._convert import Picture, is_grey, known_formats, lies_on_its_side, no_warnings
from graftwork.datasets._walk import Slice
from graftwork.errors import DataError

SMALLEST = 8
LARGEST_UNASKED = 64
"""Pixels that images are reduced to where nobody says what they may cost."""

_SAMPLE = 500
"""Images that are looked at, evenly spread over all."""
_ONE_SHAPE = 1.1
"""Images have one shape where the ratio of their sides differs by no more than this factor, a twentieth at each end
left out."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of images before they are decoded.

    The frame is what an image is cut to. It has the shape of the images where they share one, and is a square
    otherwise; its shorter side is the median of theirs. Equal and mixed sizes are so treated alike.

    Args:
        num_images: Number of images, the test split of the source included.
        height: Height of the frame.
        width: Width of the frame.
        grey: Whether no image that was looked at has colour.
        num_classes: Number of classes; 0: unknown.
        decoding_seconds: About how long decoding all takes on all cores.
        state: Hash of the files, by which what was decoded of them is found in the cache.
    """

    num_images: int
    height: int
    width: int
    grey: bool
    num_classes: int = field(default=0, compare=False)
    decoding_seconds: float = field(default=0.0, compare=False)
    state: str = field(default="", compare=False)

    def frame(self, most: int) -> tuple[int, int]:
        """Height and width of the frame, reduced to the pixels of a square of this side where it has more.

        Its shorter side is not reduced below 8 pixels.
        """
        scale = max(most / sqrt(self.height * self.width), SMALLEST / min(self.height, self.width))
        return (self.height, self.width) if scale >= 1 else (round(self.height * scale), round(self.width * scale))


def survey_images(sources: Sequence[Picture], *, num_images: int | None = None) -> Survey:
    """Look at the headers of some images; those that can't be read are passed over here, and named when all are read.

    Args:
        sources: The images.
        num_images: Number of images, of which these are some; ``None``: these are all.
    """
    count = len(sources) if num_images is None else num_images
    step = max(1, len(sources) // _SAMPLE)
    with no_warnings():
        found = [header for source in sources[::step] if (header := _header(source)) is not None]
    if not found:
        return Survey(count, SMALLEST, SMALLEST, grey=False)
    ratios = sorted(height / width for height, width, _ in found)
    edge = len(ratios) // 20
    one_shape = ratios[-1 - edge] <= _ONE_SHAPE * ratios[edge]
    ratio = median(ratios) if one_shape else 1.0
    short = int(median(min(height, width) for height, width, _ in found))
    height, width = round(short * max(1.0, ratio)), round(short * max(1.0, 1 / ratio))
    return Survey(count, height, width, grey=all(grey for _, _, grey in found))


def _header(source: Picture) -> tuple[int, int, bool] | None:
    """Height and width as it is shown, and whether it is grey; ``None`` where that can't be read."""
    try:
        if isinstance(source, Image.Image):
            return _facts(source)
        if isinstance(source, Slice):
            source = source.read_bytes()
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=known_formats()) as image:
            return _facts(image)
    except Exception:  # Pillow's readers raise errors of many kinds
        return None


def _facts(image: Image.Image) -> tuple[int, int, bool]:
    width, height = reversed(image.size) if lies_on_its_side(image) else image.size
    return height, width, is_grey(image)


def frame_of(sources: Sequence[Picture], image_size: int | tuple[int, int] | None, where: str) -> Survey:
    """The survey of images, with the frame that they are brought to.

    Args:
        sources: The images.
        image_size: Side, or height and width, that was asked for; ``None``: at most as many pixels as 64×64.
        where: The source, as messages name it.

    Raises:
        DataError: If a side would be below 8 pixels.
    """
    found = survey_images(sources)
    size = found.frame(LARGEST_UNASKED) if image_size is None else size_of(image_size)
    return Survey(found.num_images, *check_size(size, where), grey=found.grey)


def size_of(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a side, or of height and width."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def check_size(size: tuple[int, int], where: str) -> tuple[int, int]:
    """Return height and width.

    Raises:
        DataError: If one of them is below 8 pixels.
    """
    if min(size) < SMALLEST:
        raise DataError(
            f"{where}: expected images of at least {SMALLEST}×{SMALLEST} pixels, got {size[0]}×{size[1]}; scale them up"
        )
    return size
