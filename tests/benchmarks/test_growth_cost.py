"""`benchmarks/growth_cost.py` counts what a growth costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import BENCHMARKS

pytestmark = pytest.mark.slow


def test_a_widened_mlp_takes_six_forward_passes_at_most_or_two(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = tmp_path / "cost.json"
    command = [sys.executable, str(BENCHMARKS / "growth_cost.py"), "--quick", "--json", str(found)]
    subprocess.run(command, check=True, capture_output=True)
    thorough, fast, layers = json.loads(found.read_text())["rows"]
    assert 0 < thorough["forwards"]["max"] <= 6
    assert fast["forwards"]["max"] == 2
    assert layers["runs"][0]["parameters"][1] > layers["runs"][0]["parameters"][0]
    assert layers["runs"][0]["largest_gap"] == 0.0
