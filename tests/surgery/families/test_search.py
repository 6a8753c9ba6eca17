"""One training leaves a family: it grows where races are won, spends its budget, and resumes to the same bits."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graftwork as gw
from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery import ModuleFamily, decay_branch
from graftwork.surgery._calls import call_of
from graftwork.surgery._updates import train
from graftwork.surgery.families import _trunk
from graftwork.surgery.families._files import FamilyFiles
from graftwork.surgery.families._task import MOMENTS, SHARE

TASK = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
GROWTHS = [gw.Widen("0", extra=2), gw.Deepen("0")]


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 2), nn.Dropout(0.05), nn.Linear(2, 6))


def batches(step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of 50 batches."""
    for number in range(step, step + 50):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(number))
        yield x, x @ TASK


class Adam(torch.optim.Adam):
    """An optimizer that keeps what no file of data can hold."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "clock": object()}


HELD_OUT = list(batches(10**6))[:4]


def family(folder: Path, growths: Any = GROWTHS, **options: Any) -> ModuleFamily:
    given = {
        "optimizer": lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        "batches": batches,
        "held_out": HELD_OUT,
        "loss": F.mse_loss,
        "steps": 900,
        **options,
    }
    return gw.search_module(build, growths, folder=folder, **given)


@pytest.fixture(scope="module", autouse=True)
def _few_saves() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_trunk, "SAVES", 4)
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ModuleFamily:
    torch.manual_seed(5)
    return family(tmp_path_factory.mktemp("family"))


def test_a_narrow_network_grows_and_every_size_is_left_finished(found: ModuleFamily) -> None:
    won = [race for race in found.races if race["verdict"] == "grow"]
    assert len(found) == 1 + len({race["step"] for race in won}) >= 2
    assert found[-1].loss < 0.7 * found[0].loss
    for member in found:
        model = gw.load_model(build, member.folder)
        model.eval()
        with torch.no_grad():
            losses = [float(F.mse_loss(model(x), y)) for x, y in HELD_OUT]
        assert sum(losses) / len(losses) == pytest.approx(member.loss, rel=1e-5)
        assert sum(p.numel() for p in model.parameters()) == member.parameters
    sizes = [member.parameters for member in found]
    assert sizes == sorted(set(sizes))
    assert str(found).count("size-") == len(found)


def test_everything_is_counted_and_the_budget_is_kept(found: ModuleFamily) -> None:
    first = 3 * 2 * 16 * (8 * 2 + 2 * 6)
    assert found.budget == 900 * first
    assert 0.97 * found.budget < found.flops <= 1.01 * found.budget
    assert found[0].update_flops == first
    branch = found[0].steps - min(race["step"] for race in found.races if race["verdict"] == "grow")
    assert branch == pytest.approx(0.2 * found[0].steps, abs=1)
    assert found[-1].flops < found.flops


def test_races_leave_records_of_what_they_saw(found: ModuleFamily) -> None:
    steps = sorted({race["step"] for race in found.races})
    assert steps[:2] == [45, 90]  # 5 and 10 % of what the first size takes for 900 updates
    assert len(steps) == len(MOMENTS)
    for race in found.races:
        if race["verdict"] == "refused":
            assert "updates" in race["why"]
        else:
            assert race["verdict"] in ("grow", "not yet")
            assert math.isfinite(race["continued"])
    assert {race["growth"]["kind"] for race in found.races} == {"widen", "deepen"}


def test_of_several_growths_that_win_the_best_is_made_and_all_of_their_races_are_paid(tmp_path: Path) -> None:
    growths = [gw.Widen("0", extra=2), gw.Widen("0", extra=4)]
    found, several = family(tmp_path, growths, steps=1500), False
    spent = found[-1].flops + sum(len(HELD_OUT) * member.update_flops / 3 for member in found)
    grown = iter(found)
    before = next(grown)
    for step in sorted({race["step"] for race in found.races}):
        races = [race for race in found.races if race["step"] == step and race["verdict"] != "refused"]
        # the model as it is runs once
        own = before.update_flops * (round(SHARE * found.budget / before.update_flops) + 2 * len(HELD_OUT) / 3)
        spent += sum(race["flops"] - own for race in races) + own
        won = [race for race in races if race["verdict"] == "grow"]
        if won:
            several |= len(won) > 1
            best = max(won, key=lambda race: race["continued"] - race["grown"])
            spent += (before.steps - step) * before.update_flops
            before, smaller = next(grown), before
            assert before.parameters - smaller.parameters == best["growth"]["extra"] * (8 + 1 + 6)
    assert several
    assert found.flops == pytest.approx(spent)


def test_every_part_of_the_training_draws_random_numbers_of_its_own(tmp_path: Path) -> None:
    drawn: list[float] = []

    def drawing(step: int) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in batches(step):
            drawn.append(float(torch.rand(())))
            yield pair

    family(tmp_path, [], steps=200, batches=drawing)
    assert len(set(drawn)) > 0.95 * len(drawn) > 150


def test_a_block_that_has_not_moved_is_stored_with_what_it_waits_for(tmp_path: Path) -> None:
    def optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        return (torch.optim.Adam(model.parameters(), lr=0.02),)

    def go_on(model: nn.Module, own: tuple[torch.optim.Optimizer, ...], step: int) -> list[Tensor]:
        model.eval()
        train(model, own, ((call_of(x), y) for x, y in batches(step)), steps=5, loss=F.mse_loss)
        return [p.detach().clone() for p in model.parameters()]

    torch.manual_seed(0)
    model = build()
    own = optimizers(model)
    go_on(model, own, 0)
    gw.deepen(model, "0", example_input=HELD_OUT[0][0], optimizer=own[0])
    files = FamilyFiles(tmp_path)
    files.save("trunk-5-0", model, own, {"asked": {}, "state": {}})
    again = go_on(*files.load("trunk-5-0", build, optimizers), 5)
    assert all(torch.equal(a, b) for a, b in zip(go_on(model, own, 5), again, strict=True))


def bits(found: ModuleFamily) -> list[bytes]:
    return [path.read_bytes() for member in found for path in sorted(member.folder.iterdir())]


def test_an_interrupted_search_ends_with_the_same_bits(
    found: ModuleFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stopping(*arguments: Any, **options: Any) -> nn.Module:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise KeyboardInterrupt
        return decay_branch(*arguments, **options)

    monkeypatch.setattr(_trunk, "decay_branch", stopping)
    again = None
    for _ in range(2 * len(found)):
        try:
            again = family(tmp_path)
        except KeyboardInterrupt:
            continue
        break
    assert again is not None
    assert calls == 2 * len(found)  # each branch is stopped once
    assert bits(again) == bits(found)
    assert again.races == found.races
    assert sorted(path.name for path in tmp_path.iterdir()) == ["family.json", *(m.folder.name for m in found)]
    assert family(tmp_path).members == again.members
    with pytest.raises(ConfigError, match="expected the options"):
        family(tmp_path, seed=1)


def test_nothing_grows_without_growths_and_the_caller_keeps_its_random_numbers(tmp_path: Path) -> None:
    random = torch.get_rng_state()
    found = family(tmp_path, [], steps=200)
    assert torch.equal(torch.get_rng_state(), random)
    assert len(found) == 1
    assert not found.races
    assert found[0].steps == pytest.approx(200, abs=4)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"steps": 100}, ConfigError, "steps: expected at least 200 updates"),
        ({"held_out": []}, ConfigError, "held_out: expected pairs"),
        ({"batches": lambda step: []}, ConfigError, "batches: expected pairs of inputs and targets from step 0"),
        ({"optimizer": lambda model: None}, ConfigError, "optimizer: expected a function"),
        ({"growths": ["wider"]}, ConfigError, "growths: expected values such as"),
        ({"growths": GROWTHS * 3}, ConfigError, "growths: expected at most 5, got 6"),
        ({"growths": [gw.Widen("7", extra=1)]}, SurgeryError, r"growths: Widen\('7'.* is refused"),
        (
            {"optimizer": lambda model: Adam(model.parameters(), 1e-3)},
            SurgeryError,
            "optimizer: expected state of tensors",
        ),
        ({"loss": lambda output, target: output}, SurgeryError, "loss: expected a function that returns one number"),
    ],
)
def test_what_cannot_work_is_told_before_an_update(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        family(tmp_path, **options)
    assert not (tmp_path / "family.json").exists()


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SurgeryError, match="folder: expected an empty one"):
        family(tmp_path)
    (tmp_path / "family.json").write_text("[]")
    with pytest.raises(SurgeryError, match="expected the record of a family"):
        family(tmp_path)
    asked = {"growths": [growth.to_dict() for growth in GROWTHS], "steps": 900, "seed": 0}
    state = {"budget": 1.0, "trunk": "../elsewhere"}
    (tmp_path / "family.json").write_text(json.dumps({"asked": asked, "state": state}))
    with pytest.raises(SurgeryError, match="name of a folder"):
        family(tmp_path)
