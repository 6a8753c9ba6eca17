"""One source read with other options is another data set."""

from pathlib import Path

import numpy as np
from PIL import Image

from graftwork.datasets import load_dataset


def test_other_options_of_reading_never_get_the_cache_of_the_first_ones(tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / "images" / f"c{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 12), 60 * number, np.uint8)).save(folder / f"{number}.png")
    cache = tmp_path / "cache"
    shapes = [
        load_dataset(tmp_path / "images", cache_dir=cache, image_size=size).images.shape[1:3] for size in (12, 8, 12)
    ]
    assert shapes == [(12, 12), (8, 8), (12, 12)]
