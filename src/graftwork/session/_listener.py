"""Listeners: what is told of a search while it runs."""

from typing import Protocol

from graftwork.evolution import Generation, Plan, SearchState
from graftwork.session._outline import Outline
from graftwork.session._setup import Setup


class Listener(Protocol):
    """Hears what happens in a session; the CLI shows it."""

    def on_outline(self, outline: Outline) -> None:
        """Data and sizes are known, and nothing is decoded or measured yet but roughly; not told by a resume."""

    def on_stage(self, stage: str, setup: Setup) -> None:
        """A stage, ``"search"`` or ``"control"``, begins or continues."""

    def on_decoding(self, done: int, total: int) -> None:
        """So many of all images are decoded."""

    def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
        """One update is done."""

    def on_look(self, stage: str, step: int, accuracy: float) -> None:
        """The seed network was scored in the middle of the first round."""

    def on_plan(self, plan: Plan) -> None:
        """The rest of the search was planned again, to keep a budget of time."""

    def on_generation(self, stage: str, generation: Generation) -> None:
        """One round is done."""

    def on_note(self, text: str) -> None:
        """A user should know something."""


class SilentListener:
    """Hears and says nothing."""

    def on_outline(self, outline: Outline) -> None:
        """Say nothing."""

    def on_stage(self, stage: str, setup: Setup) -> None:
        """Say nothing."""

    def on_decoding(self, done: int, total: int) -> None:
        """Say nothing."""

    def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
        """Say nothing."""

    def on_look(self, stage: str, step: int, accuracy: float) -> None:
        """Say nothing."""

    def on_plan(self, plan: Plan) -> None:
        """Say nothing."""

    def on_generation(self, stage: str, generation: Generation) -> None:
        """Say nothing."""

    def on_note(self, text: str) -> None:
        """Say nothing."""
