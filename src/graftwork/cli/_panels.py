"""Help in panels: what most runs need by ``--help``, everything by ``--help-all``, names from the registries."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import typer
from typer.core import TyperCommand

Panel = Literal["Data", "Budget", "Population", "Training", "Machine", "Output"]


def _selectors() -> Iterable[str]:
    from graftwork.evolution.selection import SELECTORS

    return SELECTORS


def _strategies() -> Iterable[str]:
    from graftwork.evolution.strategies import STRATEGIES

    return STRATEGIES


def _recipes() -> Iterable[str]:
    from graftwork.training import RECIPES

    return RECIPES


def _seeds() -> Iterable[str]:
    from graftwork.networks.genome import SEEDS

    return SEEDS


REGISTRIES: Mapping[str, Callable[[], Iterable[str]]] = {
    "{selectors}": _selectors,
    "{strategies}": _strategies,
    "{recipes}": _recipes,
    "{seeds}": _seeds,
}
"""Marks in help texts, each with the names that take its place when help is shown (only then are they imported)."""


def option(panel: Panel, help: str, *names: str, rare: bool = False, **settings: Any) -> Any:  # noqa: A002
    """An option of a command that is a `PanelCommand`.

    Args:
        panel: Heading that it stands under.
        help: Its text; may hold the marks of `REGISTRIES`.
        *names: How it is written; none: by its parameter.
        rare: Whether only ``--help-all`` shows it.
        **settings: Further arguments of `typer.Option`.
    """
    text = help.replace("[default", r"\[default")  # what rich would read as markup
    return typer.Option(*names, help=text, rich_help_panel=panel, hidden=rare, **settings)


class PanelCommand(TyperCommand):
    """A command whose help is filled from the registries."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with registered names in place of marks."""
        for parameter in self.params:
            for mark, names in REGISTRIES.items():
                text = getattr(parameter, "help", None)
                if text and mark in text:
                    parameter.help = text.replace(mark, ", ".join(names()))  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def show_all(ctx: typer.Context, wanted: bool) -> None:
    """Print the help with the rare options in it, and end."""
    if wanted:
        for parameter in ctx.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(ctx.get_help())
        raise typer.Exit
