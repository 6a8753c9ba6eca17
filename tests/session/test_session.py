"""Law 7: a search that is stopped, or killed at any moment, ends with the same bits as one that is not."""

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import RunError, SearchInterruptedError
from graftwork.evolution import Generation, SearchState
from graftwork.session import SearchConfig, Session, SilentListener, options_of

TINY = {
    "data": "digits",
    "recipe": "paper",
    "budget": "60steps",
    "num_generations": 2,
    "population_size": 4,
    "num_survivors": 2,
    "control": True,
    "precision": "float32",
    "threads": 1,
    "num_calibration": 100,
    "batch_size": 16,
}


def tiny(**changes: Any) -> SearchConfig:
    return SearchConfig.from_dict({**TINY, **changes})


def records(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def predictions(path: Path) -> bytes:
    return (path / "predictions" / "test.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    Session.start(tiny(), path).run()
    return path


def result(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "result.json").read_text())
    return found


def test_outcome_holds_what_is_promised(whole: Path) -> None:
    found = result(whole)
    entry = {f"{split}_{part}" for split in ("validation", "test") for part in ("accuracy", "interval")}
    entry |= {"id", "balanced_accuracy", "macro_f1", "validation_score", "parameters", "flops"}
    assert set(found["best"]) == set(found["seed_network"]) == entry
    assert len(found["survivors"]) == 2
    assert found["best"]["id"] in {row["id"] for row in found["survivors"]}
    assert len(found["test_openings"]) == 1
    for name in ("training_flops", "seconds", "generations", "seed", "bank_sha256", "test_opened_at"):
        assert found[name] is not None
    for name in ("config.toml", "provenance.json", "records.jsonl", "members/seed_network.safetensors"):
        assert (whole / name).is_file()


def test_control_spends_the_flops_of_the_whole_search(whole: Path) -> None:
    found = result(whole)
    spent = found["training_flops"] + found["scoring_flops"]
    last = [row for row in records(whole) if row["type"] == "control"][-1]
    step = 3 * 16 * last["flops"]
    scoring = 3 * (100 + 153) * last["flops"]
    assert spent - 3 * step - scoring <= last["training_flops"] <= spent


class StopAt(SilentListener):
    """Asks the session to stop at a step of a stage."""

    def __init__(self, session_box: list[Session], stage: str, step: int) -> None:
        self.box, self.wanted, self.step, self.stage = session_box, stage, step, ""

    def on_stage(self, stage: str, setup: Any) -> None:
        self.stage = stage

    def on_step(self, state: SearchState, member: str, loss: float, progress: float) -> None:
        if self.stage == self.wanted and state.step == self.step:
            self.box[0].stop_requested = True


@pytest.mark.parametrize(("stage", "step"), [("search", 7), ("control", 5)])
def test_a_stopped_and_resumed_search_ends_with_the_same_bits(
    whole: Path, tmp_path: Path, stage: str, step: int
) -> None:
    box: list[Session] = []
    path = tmp_path / "run"
    box.append(Session.start(tiny(), path, listener=StopAt(box, stage, step)))
    with pytest.raises(SearchInterruptedError, match="--resume"):
        box[0].run()
    with (path / "records.jsonl").open("a") as file:
        file.write('{"type": "ghost"}\n')  # what was recorded after the checkpoint is forgotten
    Session.resume(path).run()
    assert result(path)["bank_sha256"] == result(whole)["bank_sha256"]
    assert records(path) == records(whole)
    assert predictions(path) == predictions(whole)


def test_what_a_search_held_is_given_back_at_its_end_and_a_member_at_its_death(tmp_path: Path) -> None:
    """By the count of references alone: Python looks for circles of them rarely, and they would hold whole banks."""
    held: list[weakref.ref[Any]] = []

    class Watch(SilentListener):
        def on_stage(self, stage: str, setup: Any) -> None:
            held.extend(weakref.ref(one) for one in (setup.trainer, setup.trainer.optimizer, setup.population.bank))
            self.state = setup.state

        def on_generation(self, stage: str, generation: Generation) -> None:
            held.extend(weakref.ref(member) for member in self.state.population.members.values())

    torch.optim.SGD([torch.zeros(1)])  # the first one draws in a part of torch that keeps what calls it
    gc.collect()
    gc.disable()
    try:
        Session.start(
            tiny(budget="12steps", control=False, passes="torch", blend=0.0), tmp_path / "run", listener=Watch()
        ).run()
        assert len(held) >= 3 + 1 + 4 + 4
        assert [one() for one in held if one() is not None] == []
    finally:
        gc.enable()


def check_resume(config: SearchConfig, folder: Path, step: int) -> Path:
    """Cut a search after a step and go on with it: all is as without the cut. Returns the uncut run's folder."""
    whole, cut = folder / "whole", folder / "cut"
    Session.start(config, whole).run()
    box: list[Session] = []
    box.append(Session.start(config, cut, listener=StopAt(box, "search", step)))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    Session.resume(cut).run()
    assert result(cut)["bank_sha256"] == result(whole)["bank_sha256"]
    assert records(cut) == records(whole)
    assert predictions(cut) == predictions(whole)
    return whole


def test_another_seed_gives_another_bank(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        path = tmp_path / str(number)
        Session.start(tiny(seed=seed, control=False, budget="6steps", blend=0.0), path).run()
        found.append(result(path)["bank_sha256"])
    assert found[0] == found[1] != found[2]


@pytest.mark.slow
def test_checkpointing_often_changes_nothing(whole: Path, tmp_path: Path) -> None:
    Session.start(tiny(checkpoint_every=1e-9), tmp_path / "run").run()
    assert result(tmp_path / "run")["bank_sha256"] == result(whole)["bank_sha256"]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 4  # two of the search, two of the control


def test_a_run_folder_is_never_overwritten(whole: Path) -> None:
    with pytest.raises(RunError, match="--resume"):
        Session.start(tiny(), whole)


def test_other_data_can_not_be_resumed(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / "result.json").unlink()
    stored = json.loads((path / "provenance.json").read_text())
    stored["data"]["fingerprint"] = "0" * 64
    (path / "provenance.json").write_text(json.dumps(stored))
    with pytest.raises(RunError, match="data"):
        Session.resume(path).run()


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(whole: Path, tmp_path: Path) -> None:
    box: list[Session] = []
    path = tmp_path / "run"
    box.append(Session.start(tiny(control=False, checkpoint_every=1e-9), path, listener=StopAt(box, "search", 41)))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    newest = sorted((path / "checkpoints").iterdir())[-1]
    (newest / "tensors.safetensors").write_bytes(b"cut off")
    Session.resume(path).run()
    assert result(path)["bank_sha256"] == result(whole)["bank_sha256"]


class Watch(SilentListener):
    def __init__(self) -> None:
        self.seen: list[Generation] = []

    def on_generation(self, stage: str, generation: Generation) -> None:
        self.seen.append(generation)


def test_the_listener_hears_of_every_generation(tmp_path: Path) -> None:
    watch = Watch()
    Session.start(tiny(control=False, budget="12steps", blend=0.0), tmp_path / "run", listener=watch).run()
    assert [generation.number for generation in watch.seen] == [0, 1, 2]
    assert watch.seen[-1].last
    assert len(watch.seen[-1].members) == 4


def kill_and_resume(path: Path, delays: list[float]) -> int:
    """Run in processes of its own, SIGKILLed after each delay, then to the end; returns how many kills hit."""
    config = path.with_suffix(".toml")
    config.write_text(tiny(checkpoint_every=0.2).to_toml())
    command = [sys.executable, "-m", "graftwork", "search", "--quiet", "--no-report"]
    hits = 0
    for delay in [*delays, None]:
        started = (path / "config.toml").is_file()
        how = ["--resume", str(path)] if started else ["--config", str(config), "--out", str(path)]
        assert started or not path.exists()  # a run appears with its config in it
        with subprocess.Popen([*command, *how], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                _, problems = process.communicate(timeout=delay)
                assert process.returncode == 0, problems.decode()
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                hits += 1
    return hits


@pytest.mark.slow
def test_a_search_killed_at_random_moments_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    kill_and_resume(tmp_path / "timed", [])
    seconds = time.monotonic() - start
    for attempt in range(6):  # where other work has gone since, a run is over before its kill: then sooner
        path = tmp_path / f"run-{attempt}"
        delays = [random.Random(i).uniform(0.3, 0.9) * seconds / 2**attempt for i in range(2)]
        hits = kill_and_resume(path, delays)
        if hits:
            break
    assert hits >= 1
    assert result(path)["bank_sha256"] == result(whole)["bank_sha256"]
    assert records(path) == records(whole)
    assert predictions(path) == predictions(whole)


def test_a_run_that_was_edited_is_refused_field_by_field_and_begins_another_as_it_stands(
    whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    (path / "result.json").unlink()
    config = (path / "config.toml").read_text()
    (path / "config.toml").write_text(
        config.replace("seed = 0", "seed = 4").replace("control = true", "control = false")
    )
    with pytest.raises(RunError, match=r"config\.control: was true, is false; config\.seed: was 0, is 4.*--as-new NEW"):
        Session.resume(path)
    assert options_of(path) == tiny(seed=4, control=False)
    genome = json.loads((path / "seed_genome.json").read_text())
    genome["activation"] = "tanh"
    (path / "config.toml").write_text(config)
    (path / "seed_genome.json").write_text(json.dumps(genome))
    with pytest.raises(RunError, match=r"seed_genome\.activation: was \"relu\", is \"tanh\""):
        Session.resume(path)
    assert options_of(path).genome == str(path / "seed_genome.json")
