"""``python -m experiments.leak RUN``: stackers fitted on training data beside those fitted on the blend split."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli import emit, run_app

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def leak(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished search with an ensemble.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Fit stackers on the members' own training images and on the blend split, and compare them on the test split."""
    from experiments import leak_test

    found = leak_test(run)
    if as_json:
        emit(found)
        return
    for row in found["rows"]:
        typer.echo(
            f"{row['method']:<8} fitted on {found['num_examples']} {row['fitted_on']:<8} images: "
            f"{row['fitted_accuracy']:.4f} there  {row['test_accuracy']:.4f} test  NLL {row['nll']:.4f}"
        )
    for name, gap in found["differences"].items():
        low, high = gap["interval"]
        typer.echo(f"{name}: {100 * gap['value']:+.2f} points of test [{100 * low:+.2f}, {100 * high:+.2f}]")


if __name__ == "__main__":
    run_app(app, "python -m experiments.leak")
