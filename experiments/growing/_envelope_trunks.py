"""Byte GPTs that train at a stable rate, grow on the way, and are kept at every moment that a run branches from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn, optim
from torch.utils.flop_counter import FlopCounterMode

from experiments.growing import _families as families
from experiments.growing._grid import Setting
from experiments.growing._learner import Learner, seeded
from experiments.growing._models import ByteGPT
from experiments.growing._tasks import TextTask
from experiments.growing._text import Corpus, package_sources
from graftwork.errors import ConfigError
from graftwork.surgery import InsertLayers, ModelGrowth, WidenAll, WidenStream, grow
from graftwork.surgery.families._files import FamilyFiles
from graftwork.training import Muon, Precision, generator_for
from graftwork.training._muon import orthogonalize

CONTEXT, BATCH_SIZE, HEAD, WINDOWS = 128, 8, 16, 1024
"""Bytes in a window, windows in a batch, channels of a head, validation windows."""
MUON_RATE, ADAM_RATE, ITERATIONS = 0.02, 3e-3, 3
"""Rates on the matrices of blocks and on all else; Muon's iterations."""
WARMUP = 50
"""Updates over which the rate rises, at the beginning and for what a growth has added."""
METHODS = {"zero-out": "netmorph", "r2r": "r2r", "copy": "net2net"}
"""How new layers start → how new channels do."""


@dataclass(frozen=True)
class Size:
    """A byte GPT.

    Args:
        width: Width of the residual stream.
        depth: Number of blocks.
    """

    width: int
    depth: int

    def __str__(self) -> str:
        return f"w{self.width}d{self.depth}"

    def build(self, seed: int) -> nn.Module:
        """A fresh network whose blocks add nothing yet: their last projections are zero."""

        def make() -> nn.Module:
            heads = max(1, self.width // HEAD)
            model = ByteGPT(self.depth, width=self.width, num_heads=heads, context=CONTEXT)
            for block in model.blocks:
                nn.init.zeros_(block.merge.weight)  # type: ignore[union-attr, arg-type]
                nn.init.zeros_(block.down.weight)  # type: ignore[union-attr, arg-type]
            return model

        return seeded(make, seed)


@dataclass(frozen=True)
class Lineage:
    """A network that trains at one stable rate, and through which sizes it has grown.

    Args:
        seed: Seed of first weights, batches and new weights.
        rate: Factor on both rates.
        large: Whether it reads the larger corpus.
        sizes: Sizes so far.
        moments: FLOPs at which each size but the first began.
        init: How new layers and channels start: a key of `METHODS`.
        rewarmed: Whether what is new begins without moments and warms up; else moments are carried by the growth.
    """

    seed: int
    rate: float
    large: bool
    sizes: tuple[Size, ...]
    moments: tuple[float, ...] = ()
    init: str = "zero-out"
    rewarmed: bool = True

    def __str__(self) -> str:
        text = f"s{self.seed}-x{self.rate:g}{'-large' * self.large}-{self.sizes[0]}"
        if not self.moments:
            return text
        grown = "".join(f"-{size}@{at:.4g}" for size, at in zip(self.sizes[1:], self.moments, strict=True))
        return f"{text}{grown}-{self.init}-{'rewarmed' if self.rewarmed else 'carried'}"

    @property
    def parent(self) -> "Lineage":
        """What it was before its last growth."""
        return replace(self, sizes=self.sizes[:-1], moments=self.moments[:-1])


@cache
def text_of(seed: int, *, large: bool) -> Corpus:
    """The corpus of a seed: the screen (seed 0) is measured on half of the held-out text, claims on the other half."""
    corpus = package_sources() if large else families.corpus()
    half = len(corpus.validation) // 2
    return replace(corpus, validation=corpus.validation[:half] if seed == 0 else corpus.validation[half:])


@cache
def orthogonal_flops(rows: int, columns: int) -> float:
    """FLOPs of the products that make one of Muon's updates orthogonal."""
    with FlopCounterMode(display=False) as counter:
        orthogonalize(torch.ones(rows, columns), num_iterations=ITERATIONS)
    return float(counter.get_total_flops())


class MuonLearner(Learner):
    """A byte GPT under Muon on the matrices of its blocks and AdamW on all else.

    Args:
        model: Model to train, in place.
        task: Batches, loss and measure.
        rate: Factor on both rates.
        precision: Precision of the products.
    """

    def __init__(self, model: nn.Module, task: TextTask, *, rate: float, precision: Precision) -> None:
        self._rate = rate
        self._new: dict[str, Tensor] = {}
        self._born = 0
        super().__init__(model, task, precision=precision)

    def renew_optimizer(self) -> None:
        """Replace both by fresh ones."""
        self.muon, self.optimizer = optimizers_of(self.model, self._rate)

    @property
    def optimizers(self) -> tuple[optim.Optimizer, ...]:
        """Muon, AdamW."""
        return (self.muon, self.optimizer)

    def recount(self) -> None:
        """Count forward and backward passes, and Muon's products."""
        super().recount()
        matrices = (p.shape for group in self.muon.param_groups for p in group["params"])
        self.step_flops += sum(orthogonal_flops(*shape) for shape in matrices)

    @property
    def warming(self) -> bool:
        """Whether what was added last has not reached its full rate."""
        return bool(self._new) and self.steps < self._born + WARMUP

    def warm_up(self, new: dict[str, Tensor]) -> None:
        """Let the rate of some entries rise from now on: name of a parameter → mask of its new entries."""
        self._new, self._born = new, self.steps

    def step(self, factor: float) -> float:
        """See `Learner.step`. Entries that warm up are taken back by the share of their rate that they lack."""
        if not self.warming:
            return super().step(factor)
        share = (self.steps - self._born + 1) / WARMUP
        held = {name: self.model.get_parameter(name).detach().clone() for name in self._new}
        loss = super().step(factor)
        with torch.no_grad():
            for name, before in held.items():
                parameter = self.model.get_parameter(name)
                parameter.copy_(torch.where(self._new[name], torch.lerp(before, parameter, share), parameter))
        return loss


def optimizers_of(model: nn.Module, rate: float) -> tuple[Muon, optim.AdamW]:
    """Muon on the matrices of blocks, AdamW on embeddings, head, norms and biases."""
    matrices, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in model.named_parameters():
        (matrices if name.startswith("blocks.") and parameter.dim() == 2 else others).append(parameter)
    muon = Muon(matrices, MUON_RATE * rate, num_iterations=ITERATIONS)
    adam = optim.AdamW(others, lr=ADAM_RATE * rate, betas=(0.9, 0.95), weight_decay=0.01)
    for group in (*muon.param_groups, *adam.param_groups):
        group["initial_lr"] = group["lr"]
    return muon, adam


def begin(lineage: Lineage, setting: Setting) -> MuonLearner:
    """A fresh network of the first size."""
    return _learner(lineage, setting, lineage.sizes[0].build(lineage.seed))


def _learner(lineage: Lineage, setting: Setting, model: nn.Module) -> MuonLearner:
    corpus = text_of(lineage.seed, large=lineage.large)
    task = TextTask(corpus, lineage.seed, CONTEXT, BATCH_SIZE, ADAM_RATE, windows=WINDOWS)
    return MuonLearner(model, task, rate=lineage.rate, precision=setting.precision)


def _growths(old: Size, new: Size, init: str) -> Iterator[ModelGrowth]:
    """Copies of the last blocks, each behind its original; then heads and inner widths, and the stream."""
    if new.depth > old.depth:
        places = tuple(range(2 * old.depth - new.depth, old.depth))
        yield InsertLayers("blocks", after=places, init=init, approximate=init == "copy", check="fast")
    if new.width > old.width:
        factor = new.width / old.width
        yield WidenAll(factor, method=METHODS[init], check="fast")
        yield WidenStream(factor, check="fast")


def grow_last(learner: MuonLearner, lineage: Lineage) -> None:
    """Grow to the last size of a lineage.

    Args:
        learner: Network of the size before, in place.
        lineage: What it becomes.
    """
    marker = optim.SGD(learner.model.parameters(), lr=0.0, momentum=0.9)
    # a growth leaves zeros in the new entries of momentum, and new tensors have none
    for parameter in learner.model.parameters():
        marker.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    generator = generator_for("envelope", lineage.seed, len(lineage.sizes))
    for growth in _growths(lineage.sizes[-2], lineage.sizes[-1], lineage.init):
        grow(
            learner.model,
            growth,
            example_input=learner.example(2),
            optimizer=[*learner.optimizers, marker],
            generator=generator,
        )
    learner.recount()
    if lineage.rewarmed:
        masks = {name: _new_entries(marker, parameter) for name, parameter in learner.model.named_parameters()}
        learner.warm_up({name: mask for name, mask in masks.items() if mask.any()})
        for name, parameter in learner.model.named_parameters():
            if masks[name].all():
                learner.optimizer.state.pop(parameter, None)


def _new_entries(marker: optim.Optimizer, parameter: nn.Parameter) -> Tensor:
    if parameter not in marker.state:
        return torch.ones_like(parameter, dtype=torch.bool)
    mask: Tensor = marker.state[parameter]["momentum_buffer"] == 0
    return mask


def stable(learner: Learner) -> float:
    """The share of the rate that is reached."""
    return min(1.0, (learner.steps + 1) / WARMUP)


class Trunks:
    """Trainings at the stable rate on disk, each kept at every moment at which it was stopped.

    Args:
        setting: Holds the folder of the results.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting, self._folder = setting, Path(setting.folder) / "trunks"

    def moments(self, lineage: Lineage) -> list[float]:
        """FLOPs at which it is kept, rising."""
        folder = self._folder / str(lineage)
        return sorted(float(path.parent.name) for path in folder.glob("*/family.json"))

    def reach(self, lineage: Lineage, until: float) -> tuple[MuonLearner, float]:
        """Train to a moment, from the last one before it that is kept.

        Returns:
            The learner, and the FLOPs that were spent.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / f"s{lineage.seed}-x{lineage.rate:g}-{lineage.sizes[0]}.lock"):
            return self._reach(lineage, until)

    def _reach(self, lineage: Lineage, until: float) -> tuple[MuonLearner, float]:
        kept = [at for at in self.moments(lineage) if at <= until]
        if kept:
            learner, spent = self._load(lineage, kept[-1]), 0.0
        elif lineage.moments:
            learner, spent = self._reach(lineage.parent, lineage.moments[-1])
            grow_last(learner, lineage)
        else:
            learner, spent = begin(lineage, self._setting), 0.0
        before = learner.flops
        learner.spend(until, stable)
        if learner.steps == 0:
            raise ConfigError(f"{lineage}: {until:.3g} FLOPs are less than one update; give a larger --scale")
        if not learner.warming:
            self._keep(learner, lineage, until)
        return learner, spent + learner.flops - before

    def _files(self, lineage: Lineage, until: float) -> FamilyFiles:
        return FamilyFiles(self._folder / str(lineage) / repr(until))

    def _keep(self, learner: MuonLearner, lineage: Lineage, until: float) -> None:
        state = {"steps": learner.steps, "flops": learner.flops, "seconds": learner.seconds}
        self._files(lineage, until).save("trunk-0", learner.model, learner.optimizers, {"state": state})

    def _load(self, lineage: Lineage, until: float) -> MuonLearner:
        files = self._files(lineage, until)
        record = files.record()
        model, (muon, adam) = files.load(
            "trunk-0", lambda: lineage.sizes[0].build(lineage.seed), lambda m: optimizers_of(m, lineage.rate)
        )
        learner = _learner(lineage, self._setting, model)
        learner.muon, learner.optimizer = muon, adam  # type: ignore[assignment]
        state = record["state"]  # type: ignore[index]
        learner.steps, learner.flops, learner.seconds = state["steps"], state["flops"], state["seconds"]
        return learner
