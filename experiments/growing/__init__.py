"""What growth by surgery is worth: experiments on ordinary modules, over a grid of cells.

`GRIDS` holds every `GridExperiment` by name: ``growth`` (a small network grown in mid-training, by
every method and schedule), ``poster-growth`` (the poster's widening and deepening at their own size),
``deep-growth`` (a transformer and a ResNet deepened late, once, against the envelope of networks from scratch),
``envelope`` (byte GPTs of many sizes grown early, by steps, against the best size and rate from scratch),
``carry`` (the loss through a growth, with and without the optimizer's state), ``trainer-growth`` (the same for a Llama
and every growth, inside Hugging Face's `Trainer`), ``score-sites`` (whether scores of sites rank them as training does)
and ``new-weights`` (whether new units gain from the gradient). `run_grid` runs one.
"""

from collections.abc import Mapping

from experiments.growing._carry import CARRY
from experiments.growing._deep_growth import DEEP_GROWTH
from experiments.growing._envelope_runs import ENVELOPE
from experiments.growing._grid import Cell, GridExperiment, Setting, Table, run_grid
from experiments.growing._growth import GROWTH
from experiments.growing._new_weights import NEW_WEIGHTS
from experiments.growing._poster_growth import POSTER_GROWTH
from experiments.growing._trainer_growth import TRAINER_GROWTH
from experiments.growing._where import SCORE_SITES

__all__ = [
    "CARRY",
    "DEEP_GROWTH",
    "ENVELOPE",
    "GRIDS",
    "GROWTH",
    "NEW_WEIGHTS",
    "POSTER_GROWTH",
    "SCORE_SITES",
    "TRAINER_GROWTH",
    "Cell",
    "GridExperiment",
    "Setting",
    "Table",
    "run_grid",
]

GRIDS: Mapping[str, GridExperiment] = {
    e.name: e for e in (GROWTH, POSTER_GROWTH, DEEP_GROWTH, ENVELOPE, CARRY, TRAINER_GROWTH, SCORE_SITES, NEW_WEIGHTS)
}
"""Experiments by the name that ``python -m experiments`` takes."""
