"""From what a listener hears to numbers by name, and to several listeners."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Protocol

from graftwork.evolution import Generation, Plan, SearchState
from graftwork.runs import Result
from graftwork.session import Listener, Outline, Setup, SilentListener

_EVERY = 50
"""Updates whose losses are logged as one mean."""


class Sink(Protocol):
    """Where numbers go."""

    def begin(self, options: Mapping[str, Any]) -> None:
        """The options of the search, as plain data; called once, before any number."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name, such as ``search/loss``, after so many updates of their stage; all are finite."""

    def close(self) -> None:
        """Nothing more will come; called also where a search fails."""


class SinkListener(SilentListener):
    """Hands the numbers of a search to a sink.

    ``STAGE/loss`` is the mean over 50 updates. After every generation come ``STAGE/validation/best`` and ``/mean``
    (accuracies), ``STAGE/score`` (by the metric of the search), ``STAGE/members``, ``STAGE/training_flops`` and
    ``STAGE/scoring_flops``; at the end ``test/best`` and ``test/recommended``. STAGE is ``search`` or ``control``, and
    each counts its own updates.

    Args:
        sink: Where numbers go.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._stage = ""
        self._losses: list[float] = []

    def on_stage(self, stage: str, setup: Setup) -> None:
        """Tell the options when the first stage begins."""
        if not self._stage:
            self._sink.begin(setup.config.to_dict())
        self._stage, self._losses = stage, []

    def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
        """Gather losses."""
        if isfinite(loss):
            self._losses.append(loss)
        if len(self._losses) == _EVERY:
            self._write_loss(state.step)

    def on_look(self, stage: str, step: int, accuracy: float) -> None:
        """Write the accuracy of the seed network."""
        self._sink.write(step, {f"{stage}/validation/best": accuracy})

    def on_generation(self, stage: str, generation: Generation) -> None:
        """Write what a round gave."""
        self._write_loss(generation.step)
        accuracies = list(generation.accuracies.values())
        values = {
            "validation/best": generation.best_accuracy,
            "validation/mean": sum(accuracies) / len(accuracies),
            "score": generation.best_score,
            "members": float(len(generation.members)),
            "training_flops": float(generation.training_flops),
            "scoring_flops": float(generation.scoring_flops),
        }
        finite = {f"{stage}/{name}": value for name, value in values.items() if isfinite(value)}
        self._sink.write(generation.step, finite)

    def finish(self, result: Result) -> None:
        """Write how the result does on the test split."""
        values = {"test/best": result["best"]["test_accuracy"], "seconds": result["seconds"]}
        for row in result["ensemble"] or ():
            if row["method"] == result["recommended"]:
                values["test/recommended"] = row["test_accuracy"]
        self._sink.write(result["steps"], values)

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()

    def _write_loss(self, step: int) -> None:
        if self._losses:
            self._sink.write(step, {f"{self._stage}/loss": sum(self._losses) / len(self._losses)})
        self._losses = []


class Listeners:
    """Tells several listeners what happens, in their order.

    Args:
        listeners: Those that hear it.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def on_outline(self, outline: Outline) -> None:
        """Tell all."""
        for one in self._listeners:
            one.on_outline(outline)

    def on_stage(self, stage: str, setup: Setup) -> None:
        """Tell all."""
        for one in self._listeners:
            one.on_stage(stage, setup)

    def on_decoding(self, done: int, total: int) -> None:
        """Tell all."""
        for one in self._listeners:
            one.on_decoding(done, total)

    def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
        """Tell all."""
        for one in self._listeners:
            one.on_step(state, member, loss, progress)

    def on_look(self, stage: str, step: int, accuracy: float) -> None:
        """Tell all."""
        for one in self._listeners:
            one.on_look(stage, step, accuracy)

    def on_plan(self, plan: Plan) -> None:
        """Tell all."""
        for one in self._listeners:
            one.on_plan(plan)

    def on_generation(self, stage: str, generation: Generation) -> None:
        """Tell all."""
        for one in self._listeners:
            one.on_generation(stage, generation)

    def on_note(self, text: str) -> None:
        """Tell all."""
        for one in self._listeners:
            one.on_note(text)
