"""The trunk of a run: opened again, and the same as it was."""

from graftwork._files import check_id, damaged
from graftwork.errors import RunError
from graftwork.exporting import Front
from graftwork.runs import RunFolder
from graftwork.session._config import SearchConfig
from graftwork.session._learned import load_trained
from graftwork.trunks import Trunk, located, open_trunk


def trunk_of(run: RunFolder, named: str | None = None, *, trained: bool = True) -> Trunk | None:
    """Open the trunk of a run; ``None`` where it has none.

    Args:
        run: The run.
        named: Trunk that the user has named on this command, which alone lets a Python file be run.
        trained: Whether to give it the weights that a finished search with a rate for it has left.

    Raises:
        ConfigError: If it can't be opened, or is code that the user has not named.
        RunError: If it is another one than the run was made with.
    """
    stored = SearchConfig.load(run.config_path).trunk
    if named is not None and (stored is None or located(named) != stored):
        raise RunError(f"trunk: expected {stored or 'none'}, as {run.path} was made with, got {named}; name that one")
    if stored is None:
        return None
    trunk = open_trunk(stored, run_code=named is not None)
    check_trunk(run, trunk)
    if trained:
        load_trained(run, trunk)
    return trunk


def front_of(run: RunFolder, named: str | None = None) -> Front | None:
    """The trunk of a run with the shape of its images, as exports take it; arguments and errors as `trunk_of`."""
    trunk = trunk_of(run, named)
    if trunk is None:
        return None
    with damaged(f"{run.path / 'provenance.json'}"):
        data = run.read_json("provenance.json")["data"]
        return Front(trunk, (int(data["channels"]), int(data["height"]), int(data["width"])))


def check_trunk(run: RunFolder, trunk: Trunk) -> None:
    """Raise `RunError` if a trunk's code, config or weights are not those that a run was made with."""
    if not run.has("provenance.json"):
        return  # nothing was trained yet
    with damaged(f"{run.path / 'provenance.json'}"):
        expected = run.read_json("provenance.json")["data"]["trunk"]["sha256"]
        check_id(expected, "sha256 of the trunk")
    if trunk.sha256 != expected:
        raise RunError(
            f"{run.path}: expected the trunk that the run was made with ({expected[:12]}) in {trunk.name}, got "
            f"{trunk.sha256[:12]}: its code, config or weights have changed; bring the old ones back"
        )
