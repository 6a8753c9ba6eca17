"""Searches as a job of Ray Train and as trials of Ray Tune, as `docs/how-to/ray.md` writes them, with a local Ray."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).parents[2] / "docs/how-to/ray.md"
TINY = {
    "recipe": "paper",
    "budget": "60steps",
    "num_generations": 2,
    "population_size": 4,
    "num_survivors": 2,
    "num_calibration": 100,
    "precision": "float32",
    "passes": "torch",
    "threads": 1,
    "checkpoint_every": 0.01,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the page defines, while a local Ray runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("GRAFTWORK_CACHE", str(tmp_path_factory.mktemp("cache")))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        names: dict[str, Any] = {"__name__": "__main__"}
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            exec(compile(block, PAGE.name, "exec"), names)
        yield names
        ray.shutdown()


def kill_once(run: Path) -> None:
    """Kill the process that has a run, as soon as there is a checkpoint to go on from."""
    while not list(run.glob("checkpoints/search-*/manifest.json")):
        time.sleep(0.02)
    os.kill(json.loads((run / "owner.json").read_text())["pid"], signal.SIGKILL)


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def test_a_job_goes_on_after_a_lost_worker_to_the_same_bits(page: dict[str, Any], tmp_path: Path) -> None:
    storage = str(tmp_path / "ray")
    page["search_job"]({"out": str(tmp_path / "whole"), "search": TINY}, name="whole", storage=storage)
    run = tmp_path / "killed"
    killer = threading.Thread(target=kill_once, args=(run,), daemon=True)
    killer.start()
    told = page["search_job"]({"out": str(run), "search": TINY}, name="killed", storage=storage)
    assert not killer.is_alive()
    assert told.return_value == result(run)["best"]
    assert result(run)["bank_sha256"] == result(tmp_path / "whole")["bank_sha256"]


def test_trials_report_generations_and_keep_their_runs(page: dict[str, Any], tmp_path: Path) -> None:
    options = {**TINY, "selection": page["tune"].grid_search(["greedy", "pareto"])}
    found = page["trials"](options, name="trials", storage=str(tmp_path))
    assert len(found) == 2
    assert not found.errors
    for each in found:
        assert each.metrics["generation"] == 2
        kept = Path(each.checkpoint.path)
        assert (kept / "config.toml").is_file()
        assert each.config["selection"] in (kept / "config.toml").read_text()


def test_a_lost_trial_goes_on_from_its_checkpoint(page: dict[str, Any], tmp_path: Path) -> None:
    """Its process ends before the second report, and then it finds itself on another machine."""
    plain = page["trial"]

    def fragile(options: dict[str, Any]) -> None:
        from ray import tune

        if tune.get_checkpoint() is None:
            report = tune.report
            tune.report = lambda told, **more: report(told, **more) if told["generation"] == 0 else os._exit(1)
        else:
            shutil.rmtree("run")
        plain(options)

    page["trial"] = fragile
    try:
        found = page["trials"](TINY, name="fragile", storage=str(tmp_path))
    finally:
        page["trial"] = plain
    assert not found.errors
    assert found[0].metrics["generation"] == 2
    kept = [json.loads(line) for line in (Path(found[0].checkpoint.path) / "records.jsonl").read_text().splitlines()]
    assert [row["generation"] for row in kept if row["type"] == "generation"] == [0, 1, 2]
