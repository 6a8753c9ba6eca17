"""``graftwork grow``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, tell
from graftwork.errors import InputError


@app.command()
def grow(
    path: Annotated[Path, typer.Argument(help="Folder of a Hugging Face model: config.json and safetensors.")],
    layers: Annotated[
        str | None, typer.Option(metavar="N", help="New layers (+4, +25%) or how many there are afterwards (40).")
    ] = None,
    width: Annotated[float | None, typer.Option(metavar="RATIO", help="Ratio by which the model gets wider.")] = None,
    mlp: Annotated[
        float | None, typer.Option(metavar="RATIO", help="Ratio by which the inner width of layers grows.")
    ] = None,
    vocab: Annotated[int | None, typer.Option(metavar="TOKENS", help="Number of tokens afterwards.")] = None,
    kv_heads: Annotated[
        int | None, typer.Option(metavar="TIMES", help="How many heads of keys and values stand for one.")
    ] = None,
    experts: Annotated[
        int | None,
        typer.Option(metavar="TIMES", help="How many experts stand for one; as many times as many are chosen."),
    ] = None,
    shared_expert: Annotated[
        int | None,
        typer.Option(metavar="SIZE", help="Shared experts, or the width of the one, as the config counts them."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; it must not exist.")] = None,
    optimizer: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="optimizer.pt of Trainer or torch.save, or a torch.distributed.checkpoint."),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Safetensors file of a batch (input_ids, …) to compare on, too.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or float64. \\[default: the checkpoint's]")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Weights, also a torch.distributed.checkpoint. \\[default: PATH]"),
    ] = None,
    to: Annotated[str, typer.Option(help="safetensors or dcp (torch.distributed.checkpoint).")] = "safetensors",
    stack: Annotated[
        str | None, typer.Option(metavar="NAME", help="List of layers that grows. \\[default: the only one]")
    ] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Also grow what changes the outputs, and say by how much.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; no weights are read.")] = False,
    as_json: options.Json = False,
) -> None:
    """Grow a checkpoint: deeper, wider, more tokens; the same function, checked on what was written."""
    from graftwork.surgery.checkpoints import Sizes, grow_checkpoint, plan_checkpoint, refuse_existing

    if out is None and not dry_run:
        raise InputError("--out: expected a folder to write, got none; name one, or look at the plan with --dry-run")
    if out is not None:
        refuse_existing(out)
    sizes = Sizes(
        layers=layers,
        width=width,
        mlp=mlp,
        vocab=vocab,
        kv_heads=kv_heads,
        experts=experts,
        shared_expert=shared_expert,
        stack=stack,
        approximate=approximate,
    )
    plan = plan_checkpoint(path, sizes, dtype=dtype, inputs=inputs)
    if not as_json:
        tell(str(plan))
    if out is None or dry_run:
        _emit(plan.to_dict(), as_json)
        return
    receipt = grow_checkpoint(plan, out, weights=weights, optimizer=optimizer, inputs=inputs, to=to)
    _emit({**plan.to_dict(), **receipt.to_dict()}, as_json)
    if not as_json:
        tell(str(receipt))


def _emit(data: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(data)
