"""The machine: everything that is timed or found out about it, and nothing that trains.

`measure_precision` and `measure_threads` choose how training steps run here, `calibrate_speed` turns a budget of time
into FLOPs by timing a `Throwaway` network, `measure_peak` says what the processor does at best, and `keep_memory`
spares page faults.
"""

from graftwork.machine._allocator import keep_memory
from graftwork.machine._peaks import Peak, measure_peak
from graftwork.machine._precision import PrecisionChoice, measure_precision
from graftwork.machine._speed import Throwaway, calibrate_speed
from graftwork.machine._threads import ThreadsChoice, candidate_threads, measure_threads

__all__ = [
    "Peak",
    "PrecisionChoice",
    "ThreadsChoice",
    "Throwaway",
    "calibrate_speed",
    "candidate_threads",
    "keep_memory",
    "measure_peak",
    "measure_precision",
    "measure_threads",
]
