"""Population → population: the random choice of a transform and its site.

`R2RMutation` is the report's, with limits that reject a child before it is built; `Mutator` is the interface and
`MutationReport` what a round tells. `part` makes lines that share no more than a trunk, a `Parting`.
"""

from graftwork.mutation._lines import Parting, part
from graftwork.mutation._r2r import MutationReport, Mutator, R2RMutation

__all__ = ["MutationReport", "Mutator", "Parting", "R2RMutation", "part"]
