"""A session from its start or resume to its end, and how its result is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.cli._app import MEMORY_HINT, emit, is_out_of_memory, plain, say, share, tell
from graftwork.cli._clock import began_at
from graftwork.cli._signals import stopped_by_signals
from graftwork.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from graftwork.runs import Accuracies, EnsembleResult, LatencyResult, NetworkResult, Result
    from graftwork.session import SearchConfig
    from graftwork.workers import Group


def session_to_its_end(
    out: Path,
    config: "SearchConfig | None",
    *,
    report: bool,
    quiet: bool,
    as_json: bool,
    log: str | None = None,
    group: "Group | None" = None,
    trunk: str | None = None,
) -> "Result":
    """Start or resume a run in this process, which is alone or rank 0 of a group."""
    from graftwork.cli._progress import make_listener
    from graftwork.loggers import Listeners, make_logger
    from graftwork.machine import keep_memory
    from graftwork.session import Session
    from graftwork.trunks import located, open_trunk

    keep_memory()
    shown = make_listener(quiet=quiet, as_json=as_json)
    loggers = [make_logger(name.strip(), out) for name in log.split(",")] if log else []
    listener = Listeners([shown, *loggers]) if loggers else shown
    if not quiet and not as_json:
        # looking through very many files takes seconds in which nothing else is said
        say(f"run folder: {out}" + ("" if config is None else f"; looking through {plain(config.data)}"))
    try:
        if config is None:
            session = Session.resume(out, listener=listener, group=group, trunk=trunk)
        else:
            if trunk is not None and (config.trunk is None or located(config.trunk) != located(trunk)):
                raise ConfigError(
                    f"trunk: expected {config.trunk or 'none'}, as the options say, got {trunk}; name that one"
                )
            opened = None if trunk is None else open_trunk(trunk, run_code=True)
            session = Session.start(config, out, listener=listener, group=group, trunk=opened, began=began_at())

        def stop() -> None:
            session.stop_requested = True
            if group is not None:
                group.stop_wanted = True

        with stopped_by_signals(stop), going_on(out):
            result = session.run()
        for logger in loggers:
            logger.finish(result)
    finally:
        for one in (shown, *loggers):
            getattr(one, "close", lambda: None)()
    page = _write_report(session.folder.path, session) if report else None
    if as_json:
        emit({"type": "result", **result, "report": str(page) if page else None})
    else:
        _tell(result, page)
    return result


@contextmanager
def going_on(out: Path) -> Iterator[None]:
    """Tell of a run whose machine gave out how it goes on."""
    try:
        yield
    except (OSError, ResourceError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            text = f"memory gave out; {MEMORY_HINT}, in another run"
        elif isinstance(error, OSError | ResourceError):
            text = str(error)
        else:
            raise
        raise ResourceError(f"{text}; go on from the last checkpoint with: graftwork search --resume {out}") from error


def _write_report(path: Path, session: Any) -> Path:
    from graftwork.cli._report import write_report

    return write_report(path, problem=session.problem)


def _scores(name: str, entry: "Accuracies") -> str:
    return (
        f"  {name:<27} {share(entry['test_accuracy'], entry['test_interval'])} test  "
        f"{entry['balanced_accuracy']:.4f} balanced  "
        f"{share(entry['validation_accuracy'], entry['validation_interval'])} validation"
    )


def _row(name: str, entry: "NetworkResult | EnsembleResult", latency: "LatencyResult | None" = None) -> str:
    row = f"{_scores(name, entry)}  {entry['parameters']:>10,} parameters  {entry['flops'] / 1e6:>9.2f} MFLOPs"
    known = {**latency["networks"], **latency["ensembles"]} if latency else {}
    measured = known.get(str(entry.get("id", entry.get("method"))))
    return f"{row}  {measured['one']:>8.3g} ms" if measured else row


def _tell(result: "Result", page: Path | None) -> None:
    spent = (result["training_flops"] + result["scoring_flops"]) / 1e15
    latency = result["latency"]
    lines = [f"{result['data']}: {result['generations']} generations, {spent:.4g} PFLOP, {result['seconds']:.0f} s"]
    lines += ["accuracy with its 95 % interval, and balanced accuracy (every class counts the same) on test:"]
    lines += [f"ms: one image on {latency['device']}, {latency['threads']} thread(s)"]
    lines += [_row(f"best ({result['best']['id']})", result["best"], latency)]
    lines += [_row(entry["id"], entry, latency) for entry in result["survivors"] if entry["id"] != result["best"]["id"]]
    for ensemble in result["ensemble"] or ():
        chosen = ensemble["method"] == result["recommended"]
        lines += [_row(f"{ensemble['method']} ensemble", ensemble, latency) + ("  (recommended)" if chosen else "")]
    if result["seed_network"]:
        lines += [_row("seed network", result["seed_network"], latency) + "  (control: alone, equal FLOPs)"]
    lines += [_scores(f"always {plain(result['majority']['name'])!r}", result["majority"])]
    if page is not None:
        lines += [f"report: {page}"]
    tell("\n".join(lines))
