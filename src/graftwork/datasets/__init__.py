"""Image data sets: read, decoded once, memory-mapped, split.

`load_dataset` takes what ``--data`` takes, or frames, arrays and data sets that a program holds, and returns an
`ImageDataset`; `split` makes stratified `Splits` from a seed, in which copies and groups stay together; `describe` says
what was found, with `warnings_about` uneven classes and small splits. How images are converted: grey
where all are grey, else RGB, transparency over white; one size is kept, mixed sizes are scaled and cut from the middle
(`read_image` does the same to a single file whose name ends in one of `IMAGE_SUFFIXES`; `image_files` finds them below
a folder). `cache_folder` is where decoded images lie. `with_features` puts features in the place of images.
"""

from graftwork.datasets._balance import UNEVEN, are_uneven, balanced_weights, class_counts, warnings_about
from graftwork.datasets._cache import cache_folder
from graftwork.datasets._convert import read_image
from graftwork.datasets._dataset import ImageDataset
from graftwork.datasets._describe import describe
from graftwork.datasets._features import with_features
from graftwork.datasets._load import load_dataset
from graftwork.datasets._splits import Splits, split
from graftwork.datasets._walk import IMAGE_SUFFIXES, image_files

__all__ = [
    "IMAGE_SUFFIXES",
    "UNEVEN",
    "ImageDataset",
    "Splits",
    "are_uneven",
    "balanced_weights",
    "cache_folder",
    "class_counts",
    "describe",
    "image_files",
    "load_dataset",
    "read_image",
    "split",
    "warnings_about",
    "with_features",
]
