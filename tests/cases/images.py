"""Small data sets in the forms that people have them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(colour: int, rng: np.random.Generator) -> Image.Image:
    """12 × 12 pixels of noise, bright in one of three colours: a network learns to tell them at once."""
    pixels = rng.integers(0, 40, (12, 12, 3))
    pixels[..., colour % 3] += 200
    return Image.fromarray(pixels.astype(np.uint8))


def class_folders(folder: Path, names: Sequence[str], *, images: int = 8, ending: str = "png") -> Path:
    """A folder with a sub-folder of so many images for each class."""
    rng = np.random.default_rng(0)
    for colour, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            picture(colour, rng).save(folder / name / f"{number}.{ending}")
    return folder


def png(shade: int) -> bytes:
    """The file of an image of one shade of grey."""
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def table(path: Path, images: Any, labels: Any, *, metadata: bytes | None = None) -> Path:
    """A parquet file of images and labels, with Hugging Face's metadata if given."""
    content = pa.table({"image": images, "label": labels})
    if metadata is not None:
        content = content.replace_schema_metadata({b"huggingface": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)
    return path
