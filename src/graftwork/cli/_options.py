"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str | None,
    typer.Option(
        help="Data set: digits (bundled), CIFAR-10 (parquet folder, cifar-10-batches-py or its .tar.gz), an image "
        "folder with a sub-folder a class, a parquet file, or the name of a Hugging Face data set. [default: digits]",
        envvar="GRAFTWORK_DATA",
    ),
]
Recipe = Annotated[str | None, typer.Option(help="default, or paper (the poster's setting). [default: default]")]
Budget = Annotated[str | None, typer.Option(help="Time (10m), training FLOPs (0.05PFLOP) or steps (20000steps).")]
Seed = Annotated[int | None, typer.Option(help="Of everything random. [default: 0]")]
Out = Annotated[Path | None, typer.Option(help="Run folder. [default: runs/DATA-RECIPE-sSEED, numbered if taken]")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, … [default: cpu]")]
Precision = Annotated[str | None, typer.Option(help="auto (timed at the start), float32 or bfloat16.")]
Passes = Annotated[
    str | None, typer.Option(help="Between products: auto, compiled (needs a C compiler) or torch.", metavar="WAY")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads of torch. [default: timed at the start]")]
Config = Annotated[Path | None, typer.Option(help="TOML file with options; flags win.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the outcome.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines for machines.")]
Run = Annotated[Path, typer.Argument(help="Run folder.")]
ImageSize = Annotated[int | None, typer.Option(help="Resize images to this side, in pixels.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column of a table that holds the images.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of a table that holds the labels.")]
SkipBad = Annotated[
    bool | None, typer.Option("--skip-bad-images", help="Leave out images that can't be read, and record them.")
]
