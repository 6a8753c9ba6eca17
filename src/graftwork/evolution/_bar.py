"""A bar that moves while a search runs: in a notebook, or in a terminal by rich."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from math import isfinite
from time import monotonic
from typing import Any, Protocol

from graftwork.evolution._state import Observer, SearchState

_EVERY = 0.2
"""Seconds between two looks of the bar."""


class _Bar(Protocol):
    def show(self, share: float, text: str) -> None:
        """Draw so much of the bar, and a text beside it."""

    def close(self) -> None:
        """Leave the bar as it is."""


@contextmanager
def watched(observer: Observer | None, shown: bool | None) -> Iterator[Observer | None]:
    """An observer that also moves a bar, for as long as the context lasts.

    Args:
        observer: What is called in any case; ``None``: nothing.
        shown: Whether there is a bar; ``None``: in a notebook only.

    Yields:
        The observer to use.
    """
    in_notebook = _in_notebook()
    if not (in_notebook if shown is None else shown):
        yield observer
        return
    bar: _Bar = _NotebookBar() if in_notebook else _TerminalBar()
    drawn, seen = -_EVERY, None

    def observe(state: SearchState, member: str, loss: float, progress: float) -> None:
        nonlocal drawn, seen
        seen = (state, loss, progress)
        if monotonic() - drawn >= _EVERY:
            bar.show(progress, _text(state, loss))
            drawn = monotonic()
        if observer is not None:
            observer(state, member, loss, progress)

    try:
        yield observe
    finally:
        if seen is not None:
            state, loss, progress = seen
            bar.show(1.0 if state.finished else progress, _text(state, loss))
        bar.close()


def _text(state: SearchState, loss: float) -> str:
    rounds = f"{state.generation} rounds" if state.finished else f"round {state.generation + 1}"
    parts = [rounds, f"update {state.step:,}", f"{len(state.population)} members"]
    if isfinite(loss):
        parts.append(f"loss {loss:.3f}")
    if state.accuracies:
        parts.append(f"best {max(state.accuracies.values()):.4f}")
    return ", ".join(parts)


def _in_notebook() -> bool:
    """Whether outputs are those of a cell. IPython is never imported: a notebook has done so."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class _NotebookBar:
    """One output of the cell, drawn again and again; plain HTML, so that no widgets are needed."""

    def __init__(self) -> None:
        self._display = sys.modules["IPython"].display.display
        self._handle: Any = None

    def show(self, share: float, text: str) -> None:
        page = f'<progress value="{share:.3f}" max="1"></progress> {share:.0%}, {escape(text)}'
        data = {"text/html": page, "text/plain": f"{share:.0%}, {text}"}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def close(self) -> None:
        """Nothing to do: the last look stays."""


class _TerminalBar:
    """A line of a terminal, on the error stream."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %  {task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("", total=1.0)
        self._bar.start()

    def show(self, share: float, text: str) -> None:
        self._bar.update(self._task, completed=share, description=text)

    def close(self) -> None:
        self._bar.stop()
