"""Image data sets: read, decoded once, memory-mapped, split.

`load_dataset` takes what ``--data`` takes and returns an `ImageDataset`; `split` makes stratified `Splits` from a seed;
`describe` says what was found. How images are converted: grey where all are grey, else RGB, transparency over white;
one size is kept, mixed sizes are scaled and cut from the middle (`read_image` does the same to a single file whose name
ends in one of `IMAGE_SUFFIXES`; `image_files` finds them below a folder). `cache_folder` is where decoded images lie.
"""

from graftwork.datasets._cache import cache_folder
from graftwork.datasets._convert import read_image
from graftwork.datasets._dataset import ImageDataset
from graftwork.datasets._load import load_dataset
from graftwork.datasets._splits import Splits, describe, split
from graftwork.datasets._walk import IMAGE_SUFFIXES, image_files

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageDataset",
    "Splits",
    "cache_folder",
    "describe",
    "image_files",
    "load_dataset",
    "read_image",
    "split",
]
