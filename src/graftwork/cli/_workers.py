"""A search by several workers: started here, or by torchrun, which has started this process as one of them."""

import sys
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from graftwork.cli._app import guarded
from graftwork.cli._clock import began_at, note_began
from graftwork.cli._run import session_to_its_end
from graftwork.cli._signals import stopped_by_signals
from graftwork.errors import ConfigError, InputError, ResourceError
from graftwork.runs import Result, RunFolder
from graftwork.session import SearchConfig


def wanted_workers(out: Path, config: SearchConfig | None) -> tuple[int, bool]:
    """How many workers there are to be, and whether this process has to start them.

    Raises:
        ConfigError: If torchrun has started another number than ``--workers`` asks for.
        RunError: If there is no run to resume.
    """
    from graftwork.workers import given_size

    given = given_size()
    asked = (config or _stored(out)).workers
    if given is None:
        return asked, asked > 1
    if config is not None and asked not in (1, given):
        raise ConfigError(f"workers: torchrun has started {given} processes, but --workers asks for {asked}")
    return given, False


def _stored(out: Path) -> SearchConfig:
    return SearchConfig.load(RunFolder.open(out).config_path)


def _hint(error: ResourceError, out: Path) -> ResourceError:
    kept = (out / "config.toml").is_file()
    how = f"go on from the last checkpoint with: graftwork search --resume {out}" if kept else "start again"
    return ResourceError(f"{error}; {how}")


def launch_session(size: int, out: Path, config: SearchConfig | None, **how: Any) -> None:
    """Start the workers on this machine and wait for them.

    Args:
        size: How many.
        out: The run folder.
        config: Options; ``None``: resume.
        **how: As of `graftwork.cli._search.run_session`.

    Raises:
        SystemExit: With the exit code of a worker that has said why it ended.
        RunError: If the run folder is taken.
        ResourceError: If a worker was killed; the run can be resumed.
    """
    from graftwork.workers import launch

    if config is not None:
        RunFolder.check_free(out)
    try:
        code = launch(_worker, size, out, config.to_toml() if config is not None else None, how, began_at())
    except ResourceError as error:
        raise _hint(error, out) from error
    if code:
        sys.exit(code)


def _worker(method: str, out: Path, config: str | None, how: dict[str, Any], began: float) -> None:
    """One worker, in a process of its own."""
    note_began(began)  # the clock of one machine is that of all its processes
    given = None if config is None else SearchConfig.from_dict(tomllib.loads(config))
    sys.exit(guarded(lambda: lead(out, given, method=method, **how)))


def lead(out: Path, config: SearchConfig | None, *, method: str = "env://", **how: Any) -> Result | None:
    """Take part in a search: rank 0 leads it and tells its result, the others follow.

    Args:
        out: The run folder, which rank 0 alone touches.
        config: Options; ``None``: resume.
        method: Where the workers meet.
        **how: As of `graftwork.cli._search.run_session`.

    Returns:
        What ``result.json`` holds; ``None`` on a rank that follows.
    """
    from graftwork.workers import Group, restarted

    group = Group.join(method=method)
    try:
        if not group.leads:
            _follow(group)
            return None
        if config is not None:
            config = replace(config, workers=group.size)
            if restarted() and (out / "config.toml").is_file() and _stored(out) == config:
                config = None
        return session_to_its_end(out, config, group=group, trunk=None, **how)
    except InputError:
        from graftwork.session import dismiss

        if group.leads:
            with suppress(ResourceError):  # they may have found the same mistake, and be gone
                dismiss(group)
        raise
    finally:
        group.leave()


def _follow(group: Any) -> None:
    from graftwork.machine import keep_memory
    from graftwork.session import follow

    keep_memory()

    def stop() -> None:
        group.stop_wanted = True

    with stopped_by_signals(stop):
        follow(group)
