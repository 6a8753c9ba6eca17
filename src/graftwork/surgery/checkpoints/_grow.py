"""Grow a checkpoint in a folder into another folder, which holds a whole grown checkpoint or does not exist."""

import gc
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from graftwork._files import gave_out, sha256_of, sweep, write_folder, write_json
from graftwork._version import __version__
from graftwork.errors import NotPreservedError, SurgeryError
from graftwork.surgery._agreement import digest_of
from graftwork.surgery._grow import grow
from graftwork.surgery._saving import growth_log, log_document
from graftwork.surgery.checkpoints._examples import examples
from graftwork.surgery.checkpoints._library import library
from graftwork.surgery.checkpoints._optimizer import StoredOptimizer
from graftwork.surgery.checkpoints._plan import CheckpointPlan
from graftwork.surgery.checkpoints._proof import Proof
from graftwork.surgery.checkpoints._source import CONFIG, Source
from graftwork.surgery.checkpoints._weights import FORMATS, Weights, load, save

_RECEIPT = "growth.json"
_ALONG = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model",
          "sentencepiece*", "*.tiktoken", "*.jinja", "*processor*.json", "preprocessor_config.json",
          "feature_extractor*.json", "LICENSE*", "NOTICE*")  # fmt: skip
"""Files that belong to a checkpoint of any size: those of its tokenizer, its image processor, its license."""


@dataclass(frozen=True)
class CheckpointReceipt:
    """What growing a checkpoint has done.

    Attributes:
        out: The folder of the grown checkpoint.
        gaps: What was run → largest relative change of the outputs, of the checkpoint as it was read back.
        parameters: Number of parameters before and after.
        optimizer_state: Number of parameters for which the optimizer has state, as it was written.
    """

    out: Path
    gaps: dict[str, float]
    parameters: tuple[int, int]
    optimizer_state: int = 0

    @property
    def largest_gap(self) -> float:
        """The largest relative change of the outputs."""
        return max(self.gaps.values(), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"out": str(self.out), "gaps": self.gaps, "optimizer_state": self.optimizer_state}

    def __str__(self) -> str:
        before, after = self.parameters
        carried = f", with the optimizer's state of {self.optimizer_state:,} tensors" if self.optimizer_state else ""
        return (
            f"{self.out}: {before:,} → {after:,} parameters{carried}; largest relative change of the outputs "
            f"{self.largest_gap:.1e} ({', '.join(f'{name} {gap:.1e}' for name, gap in self.gaps.items())})"
        )


@dataclass
class _Work:
    """What is in memory while a checkpoint grows, and the hashes of the files that it was read from."""

    model: nn.Module | None
    optimizer: StoredOptimizer | None
    proof: Proof
    read: dict[str, str]
    carried: int = 0
    gaps: dict[str, float] = field(default_factory=dict)


def grow_checkpoint(
    plan: CheckpointPlan,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    optimizer: str | Path | None = None,
    inputs: str | Path | None = None,
    to: str = "safetensors",
) -> CheckpointReceipt:
    """Make a planned growth of a checkpoint, and write the grown one, with all that belongs to it.

    What is written is read back and compared: every bit with the grown model, and its outputs with those of the old
    one, on random and on given inputs, with a cache and with padding where the model has them. The folder appears under
    its name when all of it is there and right, or not at all.

    Args:
        plan: What `plan_checkpoint` has returned.
        out: Folder to write; there must be nothing.
        weights: Folder of the weights. None: they stand beside the config.
        optimizer: An optimizer's state: a file, as Trainer writes it, or a folder of ``torch.distributed.checkpoint``
            with what ``get_optimizer_state_dict`` returns. It is written beside the weights in their form, as
            ``optimizer.pt`` or in the same parts, and what Trainer keeps of its progress is copied. None for none.
        inputs: Safetensors file with one batch of the model's arguments, compared beside random inputs.
        to: Form of the grown weights: ``"safetensors"`` (in several files where they were, or above 5 GB) or ``"dcp"``
            (``torch.distributed.checkpoint``).

    Returns:
        What was done; ``growth.json`` in the folder holds it too.

    Raises:
        SurgeryError: A file is missing, damaged or of another model, or the model can't grow like that.
        NotPreservedError: The grown checkpoint computes something else; nothing was written.
        ResourceError: The machine can't write it; nothing is left behind.
    """
    target = Path(out)
    if to not in FORMATS:
        raise SurgeryError(f"to: expected one of {list(FORMATS)}, got {to!r}")
    refuse_existing(target)
    found = Weights.find(plan.source.folder if weights is None else Path(weights))
    batches = partial(examples, dtype=plan.source.dtype, inputs=None if inputs is None else Path(inputs))
    work = _grown(plan, found, None if optimizer is None else Path(optimizer), batches)
    _refuse_change(work, approximate=plan.approximate)
    sweep(target.parent, of=target.name)
    fill = partial(_write, plan=plan, found=found, work=work, to=to)
    try:
        write_folder(target, fill, replace=False)
    except SafetensorError as error:  # how safetensors says that the disk is full
        raise gave_out(target, OSError(str(error))) from error
    return CheckpointReceipt(target, work.gaps, plan.parameters, work.carried)


def refuse_existing(out: Path) -> None:
    """Refuse a folder that is there.

    Raises:
        SurgeryError: Something has that name.
    """
    if out.exists() or out.is_symlink():
        raise SurgeryError(f"out: expected a new folder, got {out}, which exists; choose another name")


def _grown(plan: CheckpointPlan, found: Weights, optimizer: Path | None, batches: Any) -> _Work:
    model = load(plan.source, found)
    stored = None if optimizer is None else StoredOptimizer(optimizer, model)
    held = None if stored is None else stored.optimizer
    work = _Work(model, stored, Proof(model, batches(model)), _hashes(plan.source, found, stored))
    for growth in plan.growths:
        example = next(iter(batches(model).values()))
        grow(model, growth, example_input=example, optimizer=held)
        gc.collect()  # the old weights, which a growth keeps for undoing it
    work.carried = 0 if held is None else len(held.state)
    work.gaps = work.proof.gaps(model)
    return work


def _hashes(source: Source, found: Weights, optimizer: StoredOptimizer | None) -> dict[str, str]:
    hashes = {path.name: sha256_of(path.resolve()) for path in (source.folder / CONFIG, *found.files)}
    more = [path for path in (() if optimizer is None else optimizer.files) if path not in found.files]
    # A folder of its own may hold files of the same names.
    names = [f"{path.parent.name}/{path.name}" if path.name in hashes else path.name for path in more]
    return hashes | {name: sha256_of(path.resolve()) for name, path in zip(names, more, strict=True)}


def _refuse_change(work: _Work, *, approximate: bool) -> None:
    worst = max(work.gaps, key=lambda name: work.gaps[name])
    if not approximate and not work.gaps[worst] <= work.proof.tolerance:
        raise NotPreservedError(
            f"expected the same outputs within rounding ({work.proof.tolerance:.0e}), got a relative change of "
            f"{work.gaps[worst]:.2e} in {worst}; nothing was written"
        )


def _write(aside: Path, *, plan: CheckpointPlan, found: Weights, work: _Work, to: str) -> None:
    model = work.model
    assert model is not None
    save(model, aside, to=to, shard_size=found.shard_size, optimizer=work.optimizer)
    for path in _companions(plan.source.folder):
        if not (aside / path.name).exists():
            shutil.copyfile(path, aside / path.name)
    growths, bits = growth_log(model), digest_of(model.state_dict().items())
    del model
    work.model = work.optimizer = None  # makes room for what is read back
    gc.collect()
    _read_back(aside, plan, work, bits)
    more = {k: v for k, v in plan.to_dict().items() if k != "growths"}
    more |= {"gaps": work.gaps, "inputs": work.read}
    more |= {"versions": {"graftwork": __version__, "transformers": library().__version__}}
    write_json(aside / _RECEIPT, log_document(growths, **more))


def _companions(folder: Path) -> list[Path]:
    return sorted({path for pattern in _ALONG for path in folder.glob(pattern) if path.is_file()})


def _read_back(aside: Path, plan: CheckpointPlan, work: _Work, bits: str) -> None:
    try:
        again = Source.open(aside, plan.source.precision)
        model = load(again, Weights.find(aside))
        same = digest_of(model.state_dict().items()) == bits
        gaps = work.proof.gaps(model) if same else {}
    except SurgeryError as error:
        same, why = False, f" ({str(error).replace(f'{aside}: ', '')})"
    else:
        why = ""
    if not same or not max(gaps.values()) <= max(work.gaps.values()) + work.proof.tolerance:
        raise SurgeryError(
            f"expected {plan.source.kind.__name__}.from_pretrained to give the grown model back, got another one{why}; "
            "nothing was written. Grow the model by graftwork.grow and keep it by graftwork.save_model"
        )
    work.gaps = gaps
