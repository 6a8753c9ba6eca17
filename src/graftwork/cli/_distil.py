"""``graftwork distil``."""

from typing import Annotated

import typer

from graftwork.cli import _options as options
from graftwork.cli._app import app, emit, say, share, tell


@app.command()
def distil(
    run: options.Run,
    genome: Annotated[
        str | None,
        typer.Option(help="Id of a member of the run, or a genome's JSON file. \\[default: the best]"),
    ] = None,
    ensemble: Annotated[
        str | None, typer.Option(help="Ensemble of the run that teaches. \\[default: the recommended one]")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="FLOPs of each arm (0.01PFLOP). \\[default: a tenth of what the search spent]")
    ] = None,
    rate: Annotated[float, typer.Option(help="Factor on the learning rates of the run's recipe.")] = 0.2,
    trunk: options.TrunkOf = None,
    as_json: options.Json = False,
) -> None:
    """Train one network on with an ensemble's soft labels, beside the same FLOPs without them; both become members."""
    from graftwork.machine import keep_memory
    from graftwork.session import distil as distil_run

    keep_memory()
    found = distil_run(run, genome=genome, ensemble=ensemble, budget=budget, rate=rate, trunk=trunk, note=say)
    if as_json:
        emit(found)
        return
    rows = [{"id": found["student"], **found["before"]}] if found["before"] else []
    for row in [*rows, *found["rows"]]:
        line = (
            f"{row['id']:<20} {share(row['test_accuracy'], row['test_interval'])} test  "
            f"{share(row['validation_accuracy'], row['validation_interval'])} validation"
        )
        if "steps" in row:
            line += f"  NLL {row['nll']:.4f}  {row['steps']} updates, {row['flops_spent'] / 1e12:.4g} TFLOP"
        tell(line)
    gap, (low, high) = found["difference"]["value"], found["difference"]["interval"]
    points = f"{100 * gap:+.2f} points of test [{100 * low:+.2f}, {100 * high:+.2f}]"
    tell(f"distilled by {found['ensemble']} − longer: {points}")
