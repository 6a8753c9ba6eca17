"""What was tried on a training step and did not pay, or hardly: it is kept here so that the next one need not guess.

    python benchmarks/alternatives.py --threads 1 --json results/speed/alternatives.json

* ``filters``: gradients of 3×3 filters, at the sizes of the default recipe's network: oneDNN's, by nine products of
  shifted images, and by one product with unfolded images (im2col).
* ``batches``: forward and backward over the recipe's batch at once, or in parts.
* ``padding``: layers of the evolved population (``population.json``) whose blocks have several kernel sizes, at the
  poster's batch: a convolution for each size, forth and back, or one of all filters, padded with zeros to the largest.
* ``mixing``: 1×1 convolutions forth and back at sizes of both recipes, as convolutions (ours), or as matrix products.
* ``muon``: orthogonalizing a filter by its Gram matrix (ours), or by the iteration as it is written.
* ``settings``: whole steps in processes of their own: memory given back to the kernel after each tensor (without
  `keep_memory`), one arena of malloc, huge pages, and kernels compiled with ``-O3`` and 512-bit vectors.

Everything takes turns. Each ``ratio`` is the time of what we do over that of the alternative: above 1 it would pay.
`ratio` is that of huge pages.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import _ratio
import population
from graftwork.datasets import cache_folder
from graftwork.machine import keep_memory
from graftwork.networks import bind
from graftwork.networks.bank import BlockBank, grow_bank
from graftwork.networks.execution import set_kernels
from graftwork.networks.genome import Layer, Pool, seed_genome
from graftwork.networks.kernels import build
from graftwork.training import RECIPES, in_precision, orthogonalize
from hot_paths import step

DEFAULT = RECIPES["default"]
SIZES = ((24, 32, 31), (32, 128, 15), (128, 128, 7), (128, 128, 3))
"""Input channels, output channels and side of each convolution."""
COMPILER = '#!/bin/sh\nexec ${GRAFTWORK_CC:-cc} "$@" -O3 -mprefer-vector-width=512\n'


def library(gradient: Tensor, x: Tensor, filters: Tensor) -> Tensor:
    """oneDNN's gradient [out, in, 3, 3] of 3×3 filters, from [B, out, S, S] and [B, in, S, S]."""
    wanted = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False])
    return torch.ops.aten.convolution_backward(gradient, x, filters, None, *wanted)[1]


def shifted(gradient: Tensor, x: Tensor, filters: Tensor) -> Tensor:
    """Nine products: a column and a row of zeros behind each image keep a shift from reaching into the next one."""
    rows = [F.pad(t.permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 1)) for t in (gradient, x)]
    breadth = rows[0].shape[2]
    g, flat = (t.reshape(-1, t.shape[-1]) for t in rows)
    taps = []
    for offset in (breadth * down + right for down in (-1, 0, 1) for right in (-1, 0, 1)):
        one, other = (g[: len(g) - offset], flat[offset:]) if offset >= 0 else (g[-offset:], flat[:offset])
        taps.append(one.t() @ other)
    return torch.stack(taps, 2).view_as(filters)


def unfolded(gradient: Tensor, x: Tensor, filters: Tensor) -> Tensor:
    """One product with all 3×3 patches."""
    patches = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
    g = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])
    return (g.t() @ patches.reshape(len(g), -1)).view_as(filters)


WAYS = {"oneDNN": library, "nine products": shifted, "im2col": unfolded}


def tensors(size: tuple[int, int, int], batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Noise: gradient, input and filters, channels-last."""
    inputs, outputs, side = size
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, outputs, side, side), (batch, inputs, side, side), (outputs, inputs, 3, 3))
    made = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    gradient, x, filters = (tensor.contiguous(memory_format=torch.channels_last) for tensor in made)
    return gradient, x, filters


@torch.no_grad()
def filter_gradients(sizes: Sequence[tuple[int, int, int]], batch: int, repetitions: int) -> dict[str, Any]:
    found = {}
    for size in sizes:
        given = tensors(size, batch, torch.bfloat16)
        ways = {name: (lambda way=way, given=given: way(*given)) for name, way in WAYS.items()}
        seconds = _ratio.times(ways, repetitions)
        rows = {name: {"milliseconds": 1e3 * median(values)} for name, values in seconds.items()}
        for name in list(rows)[1:]:
            rows[name]["ratio"] = _ratio.ratio(seconds["oneDNN"], seconds[name])
        found["{} to {} channels, {} pixels".format(*size)] = rows
    return found


def parted(batch: int, size: int) -> Callable[[], None]:
    """Forward and backward over a batch of noise of the default recipe's network, ``size`` images at a time."""
    genome, generator = seed_genome(DEFAULT.seed_genome, (3, 32, 32), 10), torch.Generator().manual_seed(0)
    bank = BlockBank()
    x = torch.randn(batch, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    grow_bank(bank, genome, generator=generator, images=x)
    member, labels = bind(genome, bank), torch.zeros(batch, dtype=torch.int64)
    parameters = [p for p in member.parameters_by_key().values() if p.requires_grad]

    def run() -> None:
        for images, classes in zip(x.split(size), labels.split(size), strict=True):
            with in_precision("bfloat16", x.device):
                logits = member(images)
            torch.autograd.grad(F.cross_entropy(logits.float(), classes), parameters)

    return run


def batches(batch: int, repetitions: int) -> dict[str, Any]:
    sizes = (batch, batch // 2, batch // 5)
    seconds = _ratio.times({str(size): parted(batch, size) for size in sizes}, repetitions)
    whole = seconds[str(batch)]
    return {
        f"{name} at a time": {"seconds": median(values), "ratio": _ratio.ratio(whole, values)}
        for name, values in seconds.items()
    }


Mixture = tuple[int, int, tuple[tuple[int, int], ...]]
"""Input channels and side of a layer, and its kernel sizes with their hidden channels."""


def mixed_layers() -> list[Mixture]:
    """Those of the evolved population that have several kernel sizes, each kind once."""
    found: list[Mixture] = []
    for genome in population.load():
        channels, side = genome.input_shape[:2]
        for item in genome.body:
            if isinstance(item, Pool):
                side //= item.size
            if isinstance(item, Layer):
                hidden: dict[int, int] = defaultdict(int)
                for block in item.blocks:
                    hidden[block.kernel_size] += block.hidden_channels
                if len(hidden) > 1:
                    found.append((channels, side, tuple(sorted(hidden.items()))))
                channels = item.out_channels
    return sorted(set(found))


def for_each_size(x: Tensor, filters: Sequence[Tensor]) -> list[Tensor]:
    """What we do: a convolution for each kernel size."""
    return [F.conv2d(x, one, padding=one.shape[-1] // 2) for one in filters]


def padded(x: Tensor, filters: Sequence[Tensor]) -> list[Tensor]:
    """One convolution of all filters, padded with zeros to the largest."""
    largest = max(one.shape[-1] for one in filters)
    whole = torch.cat([F.pad(one, [(largest - one.shape[-1]) // 2] * 4) for one in filters])
    return [F.conv2d(x, whole, padding=largest // 2)]


def convolved(mixture: Mixture, batch: int) -> dict[str, Callable[[], None]]:
    """Both ways over noise, forth and back to it and to the filters."""
    channels, side, hidden = mixture
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, channels, side, side), *((n, channels, k, k) for k, n in hidden))
    made = (torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes)
    inputs = [tensor.contiguous(memory_format=torch.channels_last).requires_grad_() for tensor in made]

    def run(way: Callable[[Tensor, Sequence[Tensor]], list[Tensor]]) -> None:
        volumes = way(inputs[0], inputs[1:])
        torch.autograd.grad(volumes, inputs, [torch.ones_like(volume) for volume in volumes])

    return {name: (lambda way=way: run(way)) for name, way in (("each size", for_each_size), ("padded", padded))}


def told(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Of two ways: milliseconds of each, and what the first takes over what the second takes."""
    rows = {name: {"milliseconds": 1e3 * median(values)} for name, values in seconds.items()}
    return {**rows, "ratio": _ratio.ratio(*seconds.values())}


def padding(batch: int, repetitions: int) -> dict[str, Any]:
    rows = {}
    for mixture in mixed_layers():
        seconds = _ratio.times(convolved(mixture, batch), repetitions)
        blocks = " + ".join(f"{kernel}×{kernel}·{hidden}" for kernel, hidden in mixture[2])
        rows["{} on {} channels, {} pixels".format(blocks, *mixture)] = told(seconds)
    return rows


MIXED = (
    (64, 48, 16, 32),
    (64, 96, 32, 8),
    (250, 64, 32, 31),
    (250, 256, 128, 15),
    (250, 256, 128, 7),
    (250, 256, 192, 3),
)
"""Images, input channels, output channels and side of 1×1 convolutions."""

Volumes = tuple[Tensor, Tensor, Tensor, Tensor]
"""Input [B, in, S, S], filters [out, in, 1, 1], bias [out] and the gradient of the output."""


def as_convolution(x: Tensor, filters: Tensor, bias: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output, and gradients of input, filters and bias."""
    rest = ([len(filters)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True] * 3)
    return [F.conv2d(x, filters, bias), *torch.ops.aten.convolution_backward(gradient, x, filters, *rest)]


def as_products(x: Tensor, filters: Tensor, bias: Tensor, gradient: Tensor) -> list[Tensor]:
    """The same by products of matrices: channels-last volumes are matrices already."""
    rows, g = (t.permute(0, 2, 3, 1).reshape(-1, t.shape[1]) for t in (x, gradient))
    matrix = filters.flatten(1)
    images, _, side, _ = x.shape

    def volume(found: Tensor) -> Tensor:
        return found.view(images, side, side, -1).permute(0, 3, 1, 2)

    return [volume(torch.addmm(bias, rows, matrix.t())), volume(g @ matrix), (g.t() @ rows).view_as(filters), g.sum(0)]


def mixing(size: tuple[int, int, int, int], dtype: torch.dtype) -> Volumes:
    """Noise, channels-last."""
    images, inputs, outputs, side = size
    generator = torch.Generator().manual_seed(0)
    shapes = ((images, inputs, side, side), (outputs, inputs, 1, 1), (outputs,), (images, outputs, side, side))
    x, filters, bias, gradient = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    x, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
    return x, filters, bias, gradient


@torch.no_grad()
def mixings(sizes: Sequence[tuple[int, int, int, int]], repetitions: int) -> dict[str, Any]:
    rows = {}
    for size in sizes:
        given = mixing(size, torch.bfloat16)
        ways: dict[str, Callable[[], object]] = {
            "convolution": lambda given=given: as_convolution(*given),
            "products": lambda given=given: as_products(*given),
        }
        seconds = _ratio.times(ways, repetitions)
        rows["{} images, {} to {} channels, {} pixels".format(*size)] = told(seconds)
    return rows


MATRICES = ((192, 1728), (128, 1152), (32, 288), (32, 216))
"""Of filters of the default recipe's networks."""


def iterated(matrix: Tensor, iterations: int) -> Tensor:
    """The Newton–Schulz iteration on the whole matrix, which is longer than wide."""
    out = matrix / matrix.norm()
    for _ in range(iterations):
        gram = out @ out.mT
        out = torch.addmm(out, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), out, beta=3.4445)
    return out


def muon(repetitions: int) -> dict[str, Any]:
    found, iterations = {}, DEFAULT.rules["filter"].num_iterations
    for shape in MATRICES:
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        ours, plain = orthogonalize(matrix, num_iterations=iterations), iterated(matrix, iterations)
        ways: dict[str, Callable[[], object]] = {
            "by the Gram matrix": lambda matrix=matrix: orthogonalize(matrix, num_iterations=iterations),
            "as written": lambda matrix=matrix: iterated(matrix, iterations),
        }
        seconds = _ratio.times(ways, repetitions)
        gap = float((ours - plain).abs().max() / plain.abs().max())
        found["{}x{}".format(*shape)] = told(seconds) | {"largest_difference": gap}
    return found


def settings(folder: Path) -> dict[str, dict[str, str]]:
    """Environments of a process that makes steps."""
    compiler = folder / "cc"
    compiler.write_text(COMPILER, encoding="ascii")
    compiler.chmod(0o755)
    return {
        "as it is": {},
        "memory given back": {"GRAFTWORK_GIVE_BACK": "1"},
        "one arena": {"MALLOC_ARENA_MAX": "1"},
        "huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        "-O3, 512 bits": {"CC": str(compiler)},
    }


def child(recipe: str, steps: int) -> None:
    """Say the median seconds of a step."""
    if "GRAFTWORK_GIVE_BACK" not in os.environ:
        keep_memory()
    with tempfile.TemporaryDirectory() as place:  # with another compiler the cache is not the user's
        set_kernels(build(Path(place) if "CC" in os.environ else cache_folder()))
        run, seconds = step(recipe, "bfloat16"), []
        for number in range(steps + 3):
            began = perf_counter()
            run()
            if number >= 3:
                seconds.append(perf_counter() - began)
    print(json.dumps(median(seconds)))


def processes(threads: int, recipe: str, steps: int, repetitions: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    command = [sys.executable, __file__, "--threads", str(threads), "--child", recipe, str(steps)]
    with tempfile.TemporaryDirectory() as place:
        for number in range(repetitions):
            ways = list(settings(Path(place)).items())
            for name, changed in ways if number % 2 else ways[::-1]:
                environment = {**os.environ, **changed}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                found.setdefault(name, []).append(float(json.loads(done.stdout)))
    usual = found["as it is"]
    return {name: {"seconds": median(v), "ratio": _ratio.ratio(usual, v)} for name, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="Small and once: checks that it runs, measures nothing.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child is not None:
        child(given.child[0], int(given.child[1]))
        return
    keep_memory()
    set_kernels(build(cache_folder()))
    batch, repetitions = (10, 1) if given.quick else (DEFAULT.batch_size, 15)
    recipe, steps, starts = ("paper", 2, 1) if given.quick else ("default", 20, 5)
    found: dict[str, Any] = {"threads": given.threads, "quick": given.quick}
    found["filters"] = filter_gradients(SIZES[-1:] if given.quick else SIZES, batch, repetitions)
    found["batches"] = batches(batch, repetitions)
    found["padding"] = padding(2 if given.quick else RECIPES["paper"].batch_size, repetitions)
    found["mixing"] = mixings([(2, 6, 4, 3)] if given.quick else MIXED, repetitions)
    found["muon"] = muon(repetitions)
    found["settings"] = processes(given.threads, recipe, steps, starts)
    _ratio.write(given.json, {"ratio": found["settings"]["huge pages"]["ratio"], **found})


if __name__ == "__main__":
    main()
