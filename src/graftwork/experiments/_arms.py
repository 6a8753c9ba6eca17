"""Arms of a comparison: runs that are started, gone on with or left as they are, and controls that follow a search."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork.config import SearchConfig
from graftwork.errors import ConfigError
from graftwork.genome import Genome
from graftwork.runs import RunFolder, write_text
from graftwork.session import Session

__all__ = ["check_ensembles", "make_control", "make_run"]

ALONE: Mapping[str, Any] = {"num_generations": 0, "population_size": 1, "num_survivors": 1}
"""Options that turn a search into the training of one network."""


def check_ensembles(options: Mapping[str, Any]) -> SearchConfig:
    """The config of a search that will end with ensembles; raises `ConfigError` where it would not."""
    config = SearchConfig.from_dict(options)
    if config.recipe.num_survivors < 2 or not config.blend:
        raise ConfigError(
            "ensembles need num_survivors >= 2 and a blend split, got "
            f"num_survivors={config.recipe.num_survivors} and blend={config.blend!r}"
        )
    return config


def make_run(path: Path, options: Mapping[str, Any]) -> None:
    """Bring a run to its end: start it, go on with it, or leave a finished one as it is.

    Args:
        path: Of the run folder.
        options: Of `SearchConfig`.

    Raises:
        ConfigError: If a run with other options lies there.
    """
    config = SearchConfig.from_dict(options)
    if not (path / "config.toml").is_file():
        _clear_stillborn(path)
        Session.start(config, path).run()
        return
    stored, wanted = SearchConfig.load(path / "config.toml").to_dict(), config.to_dict()
    changed = sorted(key for key in wanted if stored[key] != wanted[key])
    if changed:
        raise ConfigError(
            f"{path} holds a run with other options ({', '.join(changed)}); remove it, or choose another --runs folder"
        )
    Session.resume(path).run()


def _clear_stillborn(path: Path) -> None:
    """Remove what a kill in the first moments of a run leaves: folders, and at most the seed network."""
    if path.is_dir() and {file.name for file in path.rglob("*") if file.is_file()} <= {"seed_genome.json"}:
        shutil.rmtree(path)


def make_control(path: Path, options: Mapping[str, Any], source: Path, share: int) -> None:
    """Train the genome of a search's largest survivor from scratch and alone.

    The blend split, which no control needs, goes to training. The FLOPs are those that the search has spent.

    Args:
        path: Of the control's run folder.
        options: Of `SearchConfig`: those of the search, and for another network another ``seed`` beside the search's
            ``split_seed``.
        source: Run folder of the finished search.
        share: The control gets the FLOPs divided by this: 1 for one network, K for each of K networks.
    """
    run = RunFolder.open(source)
    result = run.read_json("result.json")
    largest = max(result["survivors"], key=lambda row: int(row["parameters"]))
    genome = Genome.from_dict(run.read_json(f"members/{largest['id']}.json")["genome"])
    file = path.with_name(f"{path.name}-genome.json")
    write_text(file, genome.to_json(indent=2) + "\n")
    flops = (result["training_flops"] + result["scoring_flops"]) // share
    budget = f"{flops / 1e9!r}GFLOP"
    make_run(path, {**options, **ALONE, "genome": str(file), "budget": budget, "blend": 0, "control": False})
