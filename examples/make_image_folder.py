"""Build an image folder for classification from photographs that scikit-image ships.

    pip install scikit-image
    python examples/make_image_folder.py textures

One class a texture; patches are cut at random from the left half of a photograph for training and from the right half
for test, so that no pixel is in both.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

TEXTURES = {"brick": data.brick, "grass": data.grass, "gravel": data.gravel, "camera": data.camera, "coins": data.coins}
SIDE, TRAIN, TEST = 32, 300, 100


def patches(photograph: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    height, width = photograph.shape[0] - SIDE, photograph.shape[1] - SIDE
    corners = zip(rng.integers(height + 1, size=count), rng.integers(width + 1, size=count), strict=True)
    return [photograph[y : y + SIDE, x : x + SIDE] for y, x in corners]


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, load in TEXTURES.items():
        photograph = load()
        middle = photograph.shape[1] // 2
        halves = {"train": (photograph[:, :middle], TRAIN), "test": (photograph[:, middle:], TEST)}
        for split, (half, count) in halves.items():
            target = folder / split / name
            target.mkdir(parents=True, exist_ok=True)
            for number, patch in enumerate(patches(half, count, rng)):
                Image.fromarray(patch).save(target / f"{number:03}.png")
    print(f"{folder}: {len(TEXTURES)} classes, {TRAIN} training and {TEST} test images each")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "textures"))
