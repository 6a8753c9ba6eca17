"""The zoo of the coverage table: architectures, each with a written list of the sites that a person would grow.

`ARCHITECTURES` holds our own implementations of well-known networks and networks of packages that others wrote, in
configurations small enough for a laptop. The packages are the optional extra ``zoo``.
"""

from zoo._architecture import KINDS, Architecture
from zoo._others import OTHERS
from zoo._own import OWN
from zoo._pytorchcv import PYTORCHCV
from zoo._transformers import TRANSFORMERS

__all__ = ["ARCHITECTURES", "KINDS", "Architecture"]

ARCHITECTURES: dict[str, Architecture] = {a.name: a for a in (*OWN, *TRANSFORMERS, *PYTORCHCV, *OTHERS)}
