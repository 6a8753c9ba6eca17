"""Arms of a comparison: runs that are started, continued or left as they are, and controls that follow a search.

Searches that differ only in what comes after their first round may share this round: it is trained once
(`make_beginning`), and every arm continues from there (`make_branch`), to the bits that it would have reached alone.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from graftwork.errors import ConfigError, SearchInterruptedError
from graftwork.evolution import Plan, SearchState
from graftwork.networks.genome import Genome
from graftwork.runs import RunFolder, write_folder, write_text
from graftwork.session import Listener, SearchConfig, Session, Setup, SilentListener

ALONE: Mapping[str, Any] = {"num_generations": 0, "population_size": 1, "num_survivors": 1}
"""Options that turn a search into the training of one network."""
LATER = frozenset({"selection"})
"""Options that act only after the first round: searches that differ in nothing else may share it."""
PAUSE = 0.97
"""Share of the first round after which the arms take over: before its end, where selection acts for the first time."""


def check_ensembles(options: Mapping[str, Any]) -> SearchConfig:
    """The config of a search that will end with ensembles; raises `ConfigError` where it would not."""
    config = SearchConfig.from_dict(options)
    if config.recipe.num_survivors < 2 or not config.blend:
        raise ConfigError(
            "search: ensembles need num_survivors >= 2 and a blend split, got "
            f"num_survivors={config.recipe.num_survivors} and blend={config.blend!r}"
        )
    return config


def make_run(path: Path, options: Mapping[str, Any]) -> None:
    """Bring a run to its end: start it, continue it, or leave a finished one as it is.

    Args:
        path: Run folder.
        options: Options of `SearchConfig`.

    Raises:
        ConfigError: If a run with other options lies there.
    """
    _open(path, options, SilentListener()).run()


def _open(path: Path, options: Mapping[str, Any], listener: Listener) -> Session:
    """Start a new session, or open the one that is stored.

    Raises:
        ConfigError: If a run with other options lies there.
    """
    config = SearchConfig.from_dict(options)
    if not (path / "config.toml").is_file():
        _clear_stillborn(path)
        return Session.start(config, path, listener=listener)
    stored, wanted = SearchConfig.load(path / "config.toml").to_dict(), config.to_dict()
    changed = sorted(key for key in wanted if stored[key] != wanted[key])
    if changed:
        raise ConfigError(
            f"{path}: expected a run with the same options, got one with others ({', '.join(changed)}); remove it, or "
            "choose another --runs folder"
        )
    return Session.resume(path, listener=listener)


class _Pause(SilentListener):
    """Has a session stop, with a checkpoint, when its first round is nearly over."""

    session: Session
    _setup: Setup

    def on_stage(self, stage: str, setup: Setup) -> None:
        """Remember the plan."""
        self._setup = setup

    def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
        """Stop in time; a round too short to be stopped has run over, which `make_branch` finds."""
        if _nearly_over(self._setup.plan, state.step, state.spent_flops):
            self.session.stop_requested = True


def _nearly_over(plan: Plan, step: int, spent: int) -> bool:
    """Whether the first round is, after so many updates and FLOPs, so far that arms can go on from here."""
    return plan.share(step, spent) >= PAUSE * plan.first_fraction


def make_beginning(path: Path, options: Mapping[str, Any]) -> None:
    """Train most of the first round of a search and leave it there, for `make_branch`; continue an interrupted one.

    Args:
        path: Run folder.
        options: Options of `SearchConfig`, those of any of the arms.

    Raises:
        ConfigError: If a run with other options lies there.
    """
    if (path / "config.toml").is_file() and _is_paused(path):
        return
    listener = _Pause()
    listener.session = _open(path, options, listener)
    with suppress(SearchInterruptedError):
        listener.session.run()


def _is_paused(path: Path) -> bool:
    """Whether a beginning has come to where it is left; one whose first round is over has missed it."""
    run = RunFolder.open(path)
    found = run.load_checkpoint("search")
    if found is None:
        return False
    state, plan = found[0]["search"], Plan(**run.read_json("provenance.json")["plan"])
    spent = state["training_flops"] + state["scoring_flops"]
    return state["generation"] == 0 and _nearly_over(plan, state["step"], spent)


def make_branch(path: Path, options: Mapping[str, Any], beginning: Path) -> None:
    """Bring a run to its end that continues a beginning which it shares with others.

    Args:
        path: Run folder.
        options: Options of `SearchConfig`; only ``selection`` may differ from the beginning's.
        beginning: Run folder that `make_beginning` has left. Where the first round was too short to be stopped in it,
            the run starts on its own.

    Raises:
        ConfigError: If other options differ, or a run with other options lies there.
    """
    config = SearchConfig.from_dict(options)
    if not (path / "config.toml").is_file():
        stored, wanted = SearchConfig.load(beginning / "config.toml").to_dict(), config.to_dict()
        changed = sorted(key for key in wanted if stored[key] != wanted[key] and key not in LATER)
        if changed:
            raise ConfigError(f"{beginning} began with other options ({', '.join(changed)}) than {path} has")
        _clear_stillborn(path)
        if _is_paused(beginning):

            def fill(folder: Path) -> None:
                shutil.copytree(beginning, folder, dirs_exist_ok=True)
                branch = RunFolder(folder)
                branch.write_text("config.toml", config.to_toml())
                branch.remember(config=config.to_dict())

            write_folder(path, fill)
    make_run(path, options)


def _clear_stillborn(path: Path) -> None:
    """Remove what a kill in the first moments of a run leaves: folders, and at most the seed network."""
    if path.is_dir() and {file.name for file in path.rglob("*") if file.is_file()} <= {"seed_genome.json"}:
        shutil.rmtree(path)


def make_control(path: Path, options: Mapping[str, Any], source: Path, share: int, with_scoring: bool = True) -> None:
    """Train the genome of a search's largest survivor from scratch and alone.

    The blend split, which no control needs, goes to training. The FLOPs are those that the search has spent.

    Args:
        path: Run folder of the control.
        options: Options of `SearchConfig`: those of the search, with another ``seed`` for another network beside the
            search's ``split_seed``.
        source: Run folder of the finished search.
        share: Number that the FLOPs are divided by: 1 for one network, K for each of K networks.
        with_scoring: Whether the FLOPs that the search spent on scoring are among them.
    """
    run = RunFolder.open(source)
    result = run.result()
    largest = max(result["survivors"], key=lambda row: int(row["parameters"]))
    genome = Genome.from_dict(run.read_json(f"members/{largest['id']}.json")["genome"])
    file = path.with_name(f"{path.name}-genome.json")
    write_text(file, genome.to_json(indent=2) + "\n")
    flops = (result["training_flops"] + (result["scoring_flops"] if with_scoring else 0)) // share
    budget = f"{flops / 1e9!r}GFLOP"
    make_run(path, {**options, **ALONE, "genome": str(file), "budget": budget, "blend": 0, "control": False})
