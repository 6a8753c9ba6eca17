"""A machine is plain data, checked when it is made and when it is read."""

import json
from typing import Any

import pytest
import torch

from graftwork.errors import ConfigError, RunError
from graftwork.machine import Machine, choose_kernels, choose_precision, choose_threads, device_of

CPU = torch.device("cpu")


def untimed(*_: object) -> Any:
    raise AssertionError("a network was timed")


def test_a_machine_survives_json_beside_other_keys() -> None:
    machine = Machine("bfloat16", "compiled", 2, {"threads": "why"}, {"1 thread": 0.5, "2 threads": 0.25}, 10**9)
    data = json.loads(json.dumps({"processor": "any", **machine.to_dict()}))
    assert Machine.from_dict(data) == machine


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threads": 0}, "threads: expected an integer >= 1, got 0"),
        ({"threads": "two"}, "threads: expected an integer >= 1, got 'two'"),
        ({"precision": "float64"}, "precision: expected float32 or bfloat16, got 'float64'"),
        ({"passes": "auto"}, "passes: expected compiled or torch, got 'auto'"),
    ],
)
def test_a_machine_says_what_is_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Machine(**values)
    with pytest.raises(ConfigError, match=message):
        Machine.from_dict({**Machine().to_dict(), **values})


@pytest.mark.parametrize("name", ["precision", "passes", "threads", "reasons", "seconds", "memory"])
def test_a_stored_machine_without_a_key_is_refused(name: str) -> None:
    data = Machine().to_dict()
    del data[name]
    with pytest.raises(RunError, match=f"got no {name}"):
        Machine.from_dict(data)


def test_what_is_asked_for_is_taken_untimed() -> None:
    machine = choose_precision(untimed, precision="bfloat16", passes="torch", kernels=None, timed=untimed)  # type: ignore[arg-type]
    machine = choose_threads(machine, untimed, threads=3, device=CPU, timed=untimed)  # type: ignore[arg-type]
    assert (machine.precision, machine.passes, machine.threads, machine.seconds) == ("bfloat16", "torch", 3, {})
    assert set(machine.reasons.values()) == {"as asked for"}


def test_threads_of_another_device_are_left_as_they_are() -> None:
    machine = choose_threads(Machine(threads=5), untimed, threads=None, device=torch.device("meta"), timed=untimed)  # type: ignore[arg-type]
    assert machine.threads == torch.get_num_threads()
    assert machine.reasons["threads"] == "torch's choice: steps run on meta"


def test_kernels_are_not_built_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.machine._choose.build", untimed)
    assert choose_kernels("torch", CPU) is None
    assert choose_kernels("auto", CPU, followed=Machine(passes="torch")) is None
    assert choose_kernels("auto", torch.device("meta")) is None


def test_kernels_that_were_asked_for_and_can_not_be_had_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.machine._choose.build", lambda folder, **_: None)
    assert choose_kernels("auto", CPU) is None
    with pytest.raises(ConfigError, match="passes: expected a CPU and a C compiler"):
        choose_kernels("compiled", CPU)


def test_an_unknown_device_is_refused() -> None:
    assert device_of("cpu") == CPU
    with pytest.raises(ConfigError, match="device: expected one that works here, got 'abacus'"):
        device_of("abacus")
