"""Rows and results survive the file, and what is wrong in a file is told with its line and key."""

import json
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import RunError
from graftwork.runs import BirthRow, GenerationRow, MemberRow, RunFolder, check_result, read_records
from graftwork.typing import MemberId


def member(name: str = "m1", **changes: Any) -> MemberRow:
    values: dict[str, Any] = {"type": "member", "generation": 1, "id": MemberId(name), "validation_accuracy": 0.5}
    values |= {"parameters": 10, "flops": 20, "step": 3, "training_flops": 40, "seconds": 1.5}
    return MemberRow(**{**values, **changes})


def generation(**changes: Any) -> GenerationRow:
    ids = (MemberId("m0"), MemberId("m1"))
    values: dict[str, Any] = {"type": "generation", "generation": 1, "members": ids, "survivors": ids[:1]}
    values |= {"births": (BirthRow(ids[1], ids[0], "widen"),), "best": ids[0], "step": 3, "training_flops": 40}
    values |= {"scoring_flops": 5, "mean_loss": 0.25, "rejected": {"max_flops": 2}, "saturated": False}
    values |= {"diversity": {"disagreement": 0.1, "q_statistic": None}, "bank_blocks": 4, "bank_parameters": 50}
    return GenerationRow(**{**values, "seconds": 2.0, **changes})


ACCURACIES: dict[str, Any] = {"validation_accuracy": 0.5, "validation_interval": [0.4, 0.6], "test_accuracy": 0.25}
ACCURACIES |= {"test_interval": [0.2, 0.3], "balanced_accuracy": 0.25, "macro_f1": 0.125}


def network(name: str = "m0") -> dict[str, Any]:
    return {"id": name, **ACCURACIES, "validation_score": 0.5, "parameters": 10, "flops": 20}


def result(**changes: Any) -> dict[str, Any]:
    ensemble = {"method": "mean", **ACCURACIES, "ece": 0.1, "nll": 1, "flops": 2}
    values: dict[str, Any] = {"best": network(), "seed_network": None, "survivors": [network(), network("m1")]}
    values |= {"ensemble": [{**ensemble, "held_out_nll": 1, "parameters": 1, "num_members": 1, "members": ["m0"]}]}
    values |= {
        "recommended": "mean",
        "cascade": None,
        "metric": "accuracy",
        "majority": {"name": "a cat", **ACCURACIES},
    }
    values |= {"mirror_pairs": [["b", "d"]]}
    values |= {"per_class": [{"name": "a cat", "precision": 0.5, "recall": 0.5, "support": 4}]}
    values |= {"test_opened_at": "now", "test_openings": [{"at": "now", "by": "search", "members": ["m0"]}]}
    values |= {"training_flops": 1, "scoring_flops": 2, "seconds": 3, "generations": 1, "steps": 2, "seed": 0}
    values |= {
        "latency": {
            "device": "cpu",
            "threads": 1,
            "batch_size": 32,
            "networks": {"m0": {"one": 1, "batch": 9.5}},
            "ensembles": {},
        }
    }
    values |= {"bank_sha256": "ab", "data": "digits", "classes": 10, "recipe": "paper"}
    values |= {"strategy": "race", "selection": "greedy"}
    return {**values, **changes}


def stored(run: RunFolder, line: dict[str, Any]) -> None:
    with run.records_path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def test_rows_survive_the_file(run: RunFolder) -> None:
    rows = [member(), member("seed_network", type="control"), generation(), generation(diversity=None)]
    run.append_records(rows)
    assert run.records() == rows
    assert run.rounds() == rows[2:]
    assert rows[2].measures == {"disagreement": 0.1}


@pytest.mark.parametrize("row", [member(), generation()])
def test_a_row_without_a_key_is_an_error_that_names_file_line_and_key(run: RunFolder, row: Any) -> None:
    run.append_records([member(), row])
    data = json.loads(run.records_path.read_text().splitlines()[1])
    for key in set(data) - {"type"}:
        run.clear_records()
        run.append_records([member()])
        stored(run, {name: value for name, value in data.items() if name != key})
        with pytest.raises(RunError, match=rf"records\.jsonl, line 2: expected a key '{key}', got"):
            read_records(run.records_path)


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        (member(), {"validation_accuracy": "high"}, "validation_accuracy: expected a number, got 'high'"),
        (member(), {"validation_accuracy": True}, "validation_accuracy: expected a number, got True"),
        (member(), {"parameters": 1.5}, "parameters: expected an integer, got 1.5"),
        (member(), {"id": None}, "id: expected a text, got None"),
        (member(), {"id": "../x"}, r"id: expected an id of .* got '\.\./x'"),
        (member(), {"validation_accuracy": 1.5}, "validation_accuracy: expected a number from 0 to 1, got 1.5"),
        (
            member(),
            {"validation_accuracy": float("nan")},
            "validation_accuracy: expected a number from 0 to 1, got nan",
        ),
        (member(), {"flops": -1}, "flops: expected an integer >= 0, got -1"),
        (member(), {"flops": 10**30}, "flops: expected a smaller number, got 1"),
        (
            generation(),
            {"births": [{"id": "m1", "parent": "<b>", "transform": "widen"}]},
            r"births\[0\], parent: expected an id",
        ),
        (generation(), {"rejected": {"<b>": 1}}, "rejected: key: expected an id"),
        (generation(), {"members": "m0"}, "members: expected a list, got 'm0'"),
        (generation(), {"survivors": [1]}, r"survivors\[0\]: expected a text, got 1"),
        (generation(), {"births": [{"id": "m1"}]}, r"births\[0\]: expected a key 'parent', got id"),
        (generation(), {"rejected": []}, "rejected: expected an object"),
        (generation(), {"diversity": {"disagreement": "no"}}, r"diversity\.disagreement: expected a number, got 'no'"),
        (generation(), {"saturated": 0}, "saturated: expected true or false, got 0"),
        (
            generation(),
            {"type": "epoch"},
            "type: expected one of member, control, generation, skipped, loss, got 'epoch'",
        ),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_line_and_key(
    run: RunFolder, row: Any, changes: dict[str, Any], words: str
) -> None:
    run.append_records([row])
    data = json.loads(run.records_path.read_text())
    run.clear_records()
    stored(run, {**data, **changes})
    with pytest.raises(RunError, match=f"line 1, {words}"):
        read_records(run.records_path)


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff\xfe", b"3"])
def test_a_line_that_is_no_object_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(RunError, match=r"records\.jsonl, line 1"):
        read_records(path)
    path.write_bytes(line)  # not complete
    assert read_records(path) == []


def test_a_result_is_checked_to_the_last_key(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert check_result(result(), path) == result()
    assert check_result(result(ensemble=None, seed_network=network()), path)["seed_network"] == network()
    for key in result():
        with pytest.raises(RunError, match=rf"result\.json: expected a key '{key}'"):
            check_result({name: value for name, value in result().items() if name != key}, path)
    with pytest.raises(RunError, match=r"result\.json, best: expected an object, got 'm0'"):
        check_result(result(best="m0"), path)
    with pytest.raises(RunError, match="survivors: expected 1 to 1000, got none"):
        check_result(result(survivors=[]), path)
    with pytest.raises(RunError, match=r"survivors\[0\]: expected a key 'validation_accuracy'"):
        check_result(result(survivors=[{}]), path)
    with pytest.raises(RunError, match=r"ensemble\[0\]: expected a key 'validation_accuracy'"):
        check_result(result(ensemble=[{"name": "mean"}]), path)
