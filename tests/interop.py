"""Tests against the packages of the extra ``interop``, with their outcome as JSON: ``python -m tests.interop``.

No test may be skipped: a package that is missing is a failure here.
"""

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks._outcomes import Outcomes
from graftwork.runs import provenance

PACKAGES = (
    "scikit-learn",
    "skorch",
    "keras",
    "tensorboard",
    "mlflow-skinny",
    "wandb",
    "optuna",
    "ray",
    "nbclient",
    "huggingface-hub",
    "starlette",
    "uvicorn",
    "pandas",
)
TESTS = (
    "tests/sklearn",
    "tests/integrations/test_skorch.py",
    "tests/integrations/test_keras.py",
    "tests/loggers",
    "tests/exporting/test_hub.py",
    "tests/integrations/test_ray.py",
    "tests/test_notebooks.py",
    "tests/serve",
)


def main() -> int:
    """Run the tests, write the JSON, and fail where one did not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("results/interop.json"))
    path = parser.parse_args().json
    os.environ["SCIPY_ARRAY_API"] = "1"  # lets scikit-learn run its checks of array types
    outcomes, origin = Outcomes(), provenance()
    code = pytest.main(["-q", "-m", "slow or not slow", *TESTS], plugins=[outcomes])
    found = {
        "command": "python -m tests.interop --json results/interop.json",
        "provenance": origin,
        "packages": {name: version(name) for name in PACKAGES},
        "passed": sum(outcome == "passed" for outcome in outcomes.found.values()),
        "others": {name: outcome for name, outcome in outcomes.found.items() if outcome != "passed"},
        "tests": sorted(outcomes.found),
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(code) or int(bool(found["others"]))


if __name__ == "__main__":
    sys.exit(main())
