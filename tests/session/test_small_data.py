"""Every small data set ends in a result, or in one clear refusal before the first step."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from graftwork.errors import GraftworkError
from graftwork.session import SearchConfig, Session, SilentListener
from tests.cases.images import table

MODES = ("L", "RGB", "RGBA", "P", "1", "I;16")
QUICK = {"precision": "float32", "passes": "torch", "threads": 1}


class Steps(SilentListener):
    """Counts updates, and keeps what is said."""

    def __init__(self) -> None:
        self.count, self.notes = 0, list[str]()

    def on_step(self, *args: Any) -> None:
        self.count += 1

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def png(rng: np.random.Generator, mode: str, width: int, height: int) -> bytes:
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 2**16, (height, width), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA").convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def small_data(path: Path, rng: np.random.Generator, classes: int) -> Path:
    """A table of so many classes of 2 to 50 images each: as even as it happens, of one mode and size or of several."""
    most = log_uniform(rng, 2, 50)
    least = most if rng.random() < 0.7 else log_uniform(rng, 2, most)
    labels = np.repeat(np.arange(classes), rng.integers(least, most + 1, classes))
    modes = MODES if rng.random() < 0.3 else [rng.choice(MODES)]
    least_side = 1 if rng.random() < 0.1 else 8
    sides, one_size = rng.integers(least_side, 24, 2), rng.random() < 0.7
    pictures = [
        png(rng, str(rng.choice(modes)), *(sides if one_size else rng.integers(least_side, 24, 2)).tolist())
        for _ in range(40)
    ]
    images = pa.array([{"bytes": pictures[rng.integers(len(pictures))], "path": None} for _ in labels])
    return table(path, images, labels)


def options(rng: np.random.Generator) -> dict[str, Any]:
    budgets = ("1steps", "4steps", "9steps", "0.1GFLOP", "3GFLOP", "20GFLOP")
    found: dict[str, Any] = {"recipe": str(rng.choice(["paper", "default"])), "budget": str(rng.choice(budgets))}
    found |= {"population_size": 3, "num_survivors": int(rng.integers(1, 4)), "num_generations": int(rng.integers(3))}
    return found | {"control": bool(rng.random() < 0.3), "blend": float(rng.choice([0, 0.05, 0.2])), **QUICK}


def ends_well(folder: Path, seed: int, most_classes: int) -> None:
    """Search one random data set."""
    rng = np.random.default_rng(seed)
    data = small_data(folder / "data.parquet", rng, log_uniform(rng, 2, most_classes))
    given, run, steps = options(rng), folder / "run", Steps()
    refused: GraftworkError | None = None
    try:
        Session.start(SearchConfig.from_dict({"data": str(data), **given}), run, listener=steps).run()
    except GraftworkError as error:
        refused = error
    if refused is not None:
        assert steps.count == 0, f"seed {seed}: refused after {steps.count} steps: {refused}"
        assert "expected" in str(refused), f"seed {seed}: {refused}"
        return
    assert steps.count > 0, seed
    result = json.loads((run / "result.json").read_text())
    assert (result["recommended"] is None) == (result["ensemble"] is None)
    for row in (result["best"], result["majority"], *(result["ensemble"] or ())):
        for split in ("validation", "test"):
            low, high = row[f"{split}_interval"]
            assert low <= row[f"{split}_accuracy"] <= high


@pytest.mark.parametrize("seed", range(5))
def test_a_small_data_set_ends_in_a_result_or_in_a_refusal_before_the_first_step(seed: int, tmp_path: Path) -> None:
    ends_well(tmp_path, seed, 30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 205))
def test_two_hundred_small_data_sets_end_so(seed: int, tmp_path: Path) -> None:
    ends_well(tmp_path, seed, 1000)
