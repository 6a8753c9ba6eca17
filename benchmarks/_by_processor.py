"""graftwork's command line by another clock: seconds are processor seconds of this process, on one thread.

    python benchmarks/_by_processor.py search --data letters --budget 30s

So a budget of time buys the same work on a busy machine as on an idle one.
"""

import os
import time

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    time.monotonic = time.perf_counter = time.process_time  # before anything of ours takes them by name

    from graftwork.cli import _app, _clock

    _clock.process_began = _app.process_began = lambda: 0.0
    from graftwork.cli import main

    main()
