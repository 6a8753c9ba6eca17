"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli._panels import option, show_all

Data = Annotated[
    str | None,
    option(
        "Data",
        "Data set: digits (bundled), letters (rendered), a folder (or zip) with a sub-folder a class, a table of paths "
        "and labels (.csv, .tsv), parquet, .npz, WebDataset, CIFAR, or the name of a Hugging Face data set. "
        "[default: digits]",
        envvar="GRAFTWORK_DATA",
    ),
]
ImageSize = Annotated[
    str | None,
    option(
        "Data", "Side in pixels that images are brought to, 48x64, or auto: by data, budget, memory. [default: auto]"
    ),
]
SkipBad = Annotated[
    bool | None, option("Data", "Leave out images that can't be read, and record them.", "--skip-bad-images")
]
ImageColumn = Annotated[str | None, option("Data", "Column of a table that holds images or their paths.", rare=True)]
GroupColumn = Annotated[
    str | None,
    option("Data", "Column of a table, such as patient, of which no value is in two splits.", rare=True),
]
ImageRoot = Annotated[
    str | None, option("Data", "Folder that the paths in a table begin from. [default: the table's]", rare=True)
]
LabelColumn = Annotated[str | None, option("Data", "Column of a table that holds the labels.", rare=True)]

Budget = Annotated[
    str | None, option("Budget", "Time of the command (10m), training FLOPs (0.05PFLOP) or steps (20000steps).")
]
Seed = Annotated[int | None, option("Budget", "Seed of every random choice. [default: 0]")]

Recipe = Annotated[
    str | None,
    option(
        "Training",
        "Networks, optimizers and schedule: {recipes} (paper is the poster's setting). [default: default]",
    ),
]
Flip = Annotated[
    str | None,
    option(
        "Training",
        "Mirror images left to right: none, random, or auto (a short race on validation decides). [default: the "
        "recipe's: auto, paper none]",
    ),
]
Augment = Annotated[
    str | None,
    option("Training", "Change images: none, light, standard or strong. [default: the recipe's: light, paper none]"),
]

Device = Annotated[str | None, option("Machine", "cpu, cuda, mps, … [default: cpu]")]
Precision = Annotated[
    str | None, option("Machine", "auto (timed at the start), float32 or bfloat16. [default: auto]", rare=True)
]
Passes = Annotated[
    str | None,
    option(
        "Machine",
        "What runs between products: auto, compiled (needs a C compiler) or torch. [default: auto]",
        metavar="WAY",
        rare=True,
    ),
]
Threads = Annotated[int | None, option("Machine", "CPU threads of torch. [default: timed at the start]", rare=True)]

Out = Annotated[Path | None, option("Output", "Run folder. [default: runs/DATA-RECIPE-sSEED, numbered if taken]")]
Config = Annotated[Path | None, option("Output", "TOML file with options; flags win.")]
Report = Annotated[bool, option("Output", "Write the report at the end.", "--report/--no-report")]
Log = Annotated[
    str | None, option("Output", "Log numbers elsewhere, too: csv, tensorboard, mlflow, wandb; several with commas.")
]
Quiet = Annotated[bool, option("Output", "Print only the outcome.", "--quiet", "-q")]
Json = Annotated[bool, option("Output", "Print JSON lines for machines.", "--json")]
HelpAll = Annotated[
    bool, typer.Option("--help-all", is_eager=True, callback=show_all, help="Show every option, and exit.")
]
Run = Annotated[Path, typer.Argument(help="Run folder.")]
Model = Annotated[Path, typer.Argument(help="Run folder, or an exported model (that you trust).")]
Member = Annotated[str | None, typer.Option(help="Id of a member of the run. \\[default: the best]")]
EnsembleOf = Annotated[str | None, typer.Option("--ensemble", help="Ensemble of the run: mean, greedy, stacked, …")]
Place = Annotated[str, typer.Option("--device", help="cpu, cuda, mps, …")]
Pass = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images in a pass. \\[default: 256, fewer of large images]")
]
Mirrored = Annotated[
    bool,
    typer.Option(
        "--mirrored",
        help="Average each image with its mirror image, at twice the cost, where training has mirrored them.",
    ),
]
TrunkOf = Annotated[
    str | None,
    typer.Option("--trunk", help="The run's trunk FILE.py:FUNCTION again, whose code is not run unless it is named."),
]
