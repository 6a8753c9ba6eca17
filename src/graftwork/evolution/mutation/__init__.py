"""Population → population: the random choice of a transform and its site.

`R2RMutation` is the report's, with limits that reject a child before it is built. `Mutator` is the interface, and
`MutationReport` says what a round of mutation did.
"""

from graftwork.evolution.mutation._r2r import MutationReport, Mutator, R2RMutation

__all__ = ["MutationReport", "Mutator", "R2RMutation"]
