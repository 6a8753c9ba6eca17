"""Pictures of examples, as bytes that a page can hold."""

import base64
import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InputError
from graftwork.reports._read import Split


class ImageSource(Protocol):
    """Gives the images of a run's data set, by their rows in the training or the test file."""

    def __call__(self, split: Split, index: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Return uint8 [example, height, width, channel] for int64 [example] of ``index``."""
        ...


class FileNames(Protocol):
    """Gives the names of the files of a run's images, by their rows in the training or the test file."""

    def __call__(self, split: Split, index: NDArray[np.int64], /) -> Sequence[str]:
        """Return a name for each of int64 [example] of ``index``; none at all where they come from no files."""
        ...


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a URI that loads nothing."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image_uri(pixels: NDArray[np.uint8]) -> str:
    """One image, uint8 [height, width, channel] of 1, 3 or 4 channels, as a PNG."""
    from PIL import Image

    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3, 4):
        raise InputError(
            f"an image has to be uint8 [height, width, 1, 3 or 4 channels], but is {pixels.dtype} {list(pixels.shape)}"
        )
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def sheet_uri(images: NDArray[np.uint8]) -> str:
    """Images side by side in one row, uint8 [example, height, width, channel], as a PNG."""
    return image_uri(np.concatenate(list(images), axis=1))


def slot(place: int, count: int) -> float:
    """Position of a picture in a sheet, in percent as CSS counts it."""
    return round(100 * place / (count - 1), 4) if count > 1 else 0.0
