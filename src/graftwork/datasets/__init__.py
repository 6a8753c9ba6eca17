"""Image data sets: read, decoded once, memory-mapped, split.

`load_dataset` takes what ``--data`` takes, or frames, arrays and data sets that a program holds, and returns an
`ImageDataset`; `survey` looks at images before they are decoded, and `telling` says how far decoding is; `split` makes
stratified `Splits` from a seed, in which copies and groups stay together; `describe` says what was found, with
`warnings_about` uneven classes and small splits. How images are converted: grey where all are grey, else RGB,
transparency over white; scaled to fill one frame (see `Survey`) and cut from the middle. `read_image` does the same to
a single file whose name ends in one of `IMAGE_SUFFIXES`; `image_files` finds them below a folder. `cache_folder` is
where decoded images lie. `with_features` puts features in the place of images.
"""

from graftwork.datasets._balance import UNEVEN, are_uneven, balanced_weights, class_counts, warnings_about
from graftwork.datasets._convert import read_image
from graftwork.datasets._dataset import ImageDataset
from graftwork.datasets._decode import Progress, telling
from graftwork.datasets._describe import describe
from graftwork.datasets._features import with_features
from graftwork.datasets._load import is_decoded, load_dataset, survey
from graftwork.datasets._places import cache_folder
from graftwork.datasets._splits import Splits, groups_of, split
from graftwork.datasets._survey import LARGEST_UNASKED, Survey
from graftwork.datasets._walk import IMAGE_SUFFIXES, image_files

__all__ = [
    "IMAGE_SUFFIXES",
    "LARGEST_UNASKED",
    "UNEVEN",
    "ImageDataset",
    "Progress",
    "Splits",
    "Survey",
    "are_uneven",
    "balanced_weights",
    "cache_folder",
    "class_counts",
    "describe",
    "groups_of",
    "image_files",
    "is_decoded",
    "load_dataset",
    "read_image",
    "split",
    "survey",
    "telling",
    "warnings_about",
    "with_features",
]
