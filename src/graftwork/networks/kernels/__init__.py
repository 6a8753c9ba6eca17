"""Passes in C for channels-last activations on a CPU, compiled at start where there is a compiler.

Between two products PyTorch walks through an activation once for every small operation: statistics, normalisation,
activation, residual, pooling. On processors with fast matrix units these walks cost more than the products. `build`
compiles the package's own C file (a few seconds, then cached) and checks it against PyTorch; `Kernels` runs its
passes over tensors. All of this is optional: without a compiler everything runs by PyTorch's own operations.
"""

from graftwork.networks.kernels._build import build
from graftwork.networks.kernels._kernels import EPSILON, Kernels

__all__ = ["EPSILON", "Kernels", "build"]
