"""The machine: everything that is timed or found out about it.

A `Machine` says how training steps run here (precision, passes, threads) and what was measured for it. It is made by
`choose_precision` and `choose_threads`, as asked for or by `measure_precision` and `measure_threads`; `choose_kernels`
builds the compiled passes and `device_of` finds the device. `calibrate_speed` turns a budget of time into FLOPs by
timing a `TimedNetwork`, `measure_peak` says what the processor does at best, and `keep_memory` spares page faults.
`memory_limit` says how much memory a search may take, and
`Latencies` how long networks take to classify.
"""

from graftwork.machine._allocator import keep_memory
from graftwork.machine._choose import choose_kernels, choose_precision, choose_threads, device_of
from graftwork.machine._latency import LATENCY_BATCH, Latencies, noise_images, parse_latency, time_passes
from graftwork.machine._machine import Machine
from graftwork.machine._memory import free_memory, memory_limit, parse_size
from graftwork.machine._peaks import Peak, measure_peak
from graftwork.machine._precision import measure_precision
from graftwork.machine._speed import TimedNetwork, calibrate_speed
from graftwork.machine._threads import candidate_threads, measure_threads

__all__ = [
    "LATENCY_BATCH",
    "Latencies",
    "Machine",
    "Peak",
    "TimedNetwork",
    "calibrate_speed",
    "candidate_threads",
    "choose_kernels",
    "choose_precision",
    "choose_threads",
    "device_of",
    "free_memory",
    "keep_memory",
    "measure_peak",
    "measure_precision",
    "measure_threads",
    "memory_limit",
    "noise_images",
    "parse_latency",
    "parse_size",
    "time_passes",
]
