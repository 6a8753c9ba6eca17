"""A search as a trial of Optuna."""

from typing import TYPE_CHECKING

from graftwork.evolution import Generation
from graftwork.session import SilentListener

if TYPE_CHECKING:
    from optuna import Trial


class OptunaListener(SilentListener):
    """Reports the score of every generation to a trial, and ends the search where the study's pruner says so.

    Scores are by the metric of the search; more is better, so the study's direction is ``"maximize"``. The run folder
    of a search that was ended stays, and can be resumed. ``docs/how-to/loggers.md`` shows an objective.

    Args:
        trial: The trial of the objective that runs the search.
    """

    def __init__(self, trial: "Trial") -> None:
        self._trial = trial

    def on_generation(self, stage: str, generation: Generation) -> None:
        """Report the best score; the trial is pruned by `optuna.TrialPruned`.

        Raises:
            TrialPruned: If the pruner gives the trial up.
        """
        if stage != "search":
            return
        from optuna import TrialPruned

        self._trial.report(generation.best_score, generation.number)
        if not generation.last and self._trial.should_prune():
            raise TrialPruned(f"pruned after generation {generation.number}")
