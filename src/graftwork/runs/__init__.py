"""A run is a folder: config, records, checkpoints, members, provenance.

`RunFolder` reads and writes it, every write whole or not there; `MemberRow`, `GenerationRow`, `SkippedRow` and `Result`
are what a search records, with one type for writers and readers; `pack_state`, `unpack_state`, `unpack_optimizer` and
`unpack_strategy` turn a search between two updates into data and back; `save_member` and `load_member` do so for one
network (a `StoredMember`); `run_state` tells whether a run is running, and `stop_run` ends it in order; `check_id`
admits only names that are safe in paths and pages; `record_opening` notes that the test split is opened; `provenance`
and `machine` say where results come from. The files are described in ``docs/run-folder.md``.

Names are imported when they are first used: reports read records without torch.
"""

from typing import TYPE_CHECKING

from graftwork._files import check_id, write_bytes, write_folder, write_json, write_text
from graftwork._lazy import lazy_names

if TYPE_CHECKING:
    from graftwork.runs._checkpoint import (
        StatefulOptimizer,
        pack_state,
        unpack_optimizer,
        unpack_state,
        unpack_strategy,
    )
    from graftwork.runs._folder import LATENCIES, RunFolder
    from graftwork.runs._lock import RunState, run_state, stop_run
    from graftwork.runs._members import StoredMember, load_member, save_member
    from graftwork.runs._openings import record_opening
    from graftwork.runs._provenance import machine, now, provenance
    from graftwork.runs._records import (
        Accuracies,
        AncestorEntry,
        BirthRow,
        CascadeResult,
        ClassResult,
        EnsembleResult,
        FinalScores,
        GenerationRow,
        LatencyResult,
        LossRow,
        MajorityResult,
        MemberEntry,
        MemberRow,
        NetworkLatency,
        NetworkResult,
        Opening,
        Result,
        Row,
        SkippedRow,
        check_member,
        check_result,
        parse_records,
        read_records,
    )
    from graftwork.runs._tensors import load_tensors, save_tensors

__all__ = [
    "LATENCIES",
    "Accuracies",
    "AncestorEntry",
    "BirthRow",
    "CascadeResult",
    "ClassResult",
    "EnsembleResult",
    "FinalScores",
    "GenerationRow",
    "LatencyResult",
    "LossRow",
    "MajorityResult",
    "MemberEntry",
    "MemberRow",
    "NetworkLatency",
    "NetworkResult",
    "Opening",
    "Result",
    "Row",
    "RunFolder",
    "RunState",
    "SkippedRow",
    "StatefulOptimizer",
    "StoredMember",
    "check_id",
    "check_member",
    "check_result",
    "load_member",
    "load_tensors",
    "machine",
    "now",
    "pack_state",
    "parse_records",
    "provenance",
    "read_records",
    "record_opening",
    "run_state",
    "save_member",
    "save_tensors",
    "stop_run",
    "unpack_optimizer",
    "unpack_state",
    "unpack_strategy",
    "write_bytes",
    "write_folder",
    "write_json",
    "write_text",
]

_HOMES = {
    "_checkpoint": ("StatefulOptimizer", "pack_state", "unpack_optimizer", "unpack_state", "unpack_strategy"),
    "_folder": ("LATENCIES", "RunFolder"),
    "_lock": ("RunState", "run_state", "stop_run"),
    "_members": ("StoredMember", "load_member", "save_member"),
    "_openings": ("record_opening",),
    "_provenance": ("machine", "now", "provenance"),
    "_records": (
        "Accuracies",
        "AncestorEntry",
        "BirthRow",
        "CascadeResult",
        "ClassResult",
        "EnsembleResult",
        "FinalScores",
        "GenerationRow",
        "LatencyResult",
        "LossRow",
        "MajorityResult",
        "MemberEntry",
        "MemberRow",
        "NetworkLatency",
        "NetworkResult",
        "Opening",
        "Result",
        "Row",
        "SkippedRow",
        "check_member",
        "check_result",
        "parse_records",
        "read_records",
    ),
    "_tensors": ("load_tensors", "save_tensors"),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, globals())
