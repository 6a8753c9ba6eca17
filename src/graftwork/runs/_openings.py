"""Openings of the test split: each is recorded before it happens."""

from collections.abc import Sequence

from graftwork.runs._folder import RunFolder
from graftwork.runs._provenance import now
from graftwork.runs._records import Opening


def record_opening(run: RunFolder, *, by: str, members: Sequence[str]) -> list[Opening]:
    """Record that the test split is about to be opened.

    Args:
        run: The folder; ``predictions/openings.json`` is written, and ``test_openings`` of a finished run's outcome.
        by: The command that opens it.
        members: Whom it scores.

    Returns:
        All openings, this one last.
    """
    name = "predictions/openings.json"
    earlier = run.read_json(name)["openings"] if run.has(name) else []
    openings: list[Opening] = [*earlier, {"at": now(), "by": by, "members": list(members)}]
    run.write_json(name, {"openings": openings})
    if run.finished:
        run.write_json("result.json", {**run.read_json("result.json"), "test_openings": openings})
    return openings
