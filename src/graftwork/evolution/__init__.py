"""Evolution: Algorithm 1 of the poster over a population with shared parameters.

`search` is the algorithm as a generator: it yields one `Generation` for each round and keeps all that changes in a
`SearchState`, so that the caller may store, stop and resume it between any two updates. A `Population` holds members
over one bank with their lineage, and a `Plan` says how much work each round gets; `Plans` hold one after the other.
What a search decides is a strategy (`graftwork.evolution.strategies`), made of a selector
(`graftwork.evolution.selection`) and a mutation (`graftwork.evolution.mutation`) of function-preserving transforms
(`graftwork.evolution.transforms`).
"""

from typing import TYPE_CHECKING

from graftwork._lazy import lazy_names

if TYPE_CHECKING:
    from graftwork.evolution._loop import joint_train, search
    from graftwork.evolution._plan import Plan, Plans
    from graftwork.evolution._population import Birth, Population
    from graftwork.evolution._state import Generation, Observer, Round, SearchState

__all__ = [
    "Birth",
    "Generation",
    "Observer",
    "Plan",
    "Plans",
    "Population",
    "Round",
    "SearchState",
    "joint_train",
    "search",
]

_HOMES = {
    "_loop": ("joint_train", "search"),
    "_plan": ("Plan", "Plans"),
    "_population": ("Birth", "Population"),
    "_state": ("Generation", "Observer", "Round", "SearchState"),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, globals())
