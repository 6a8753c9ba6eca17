"""The command that makes the coverage table: it measures, and it notices a wrong growth."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import zoo
    import zoo._measure

    return zoo


@pytest.fixture
def harness(zoo: Any) -> Any:
    spec = importlib.util.spec_from_file_location("coverage_table", BENCHMARKS / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(harness: Any, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr("sys.argv", ["coverage.py", *map(str, arguments)])
    harness.main()


@pytest.mark.slow
def test_the_command_measures_two_architectures_and_goes_on_where_it_stopped(
    harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "coverage.json"
    _run(harness, monkeypatch, "--sites", 2, "--json", out, "--only", "mlp-mixer")
    assert "mlp-mixer: measured" in capsys.readouterr().out
    _run(harness, monkeypatch, "--sites", 2, "--json", out, "--only", "mlp-mixer", "seq2seq")
    assert "mlp-mixer" not in capsys.readouterr().out
    rows = json.loads(out.read_text())["architectures"]
    assert list(rows) == ["mlp-mixer", "seq2seq"]
    for row in rows.values():
        assert [entry["outcome"] for kind in ("widen", "deepen") for entry in row[kind]] == ["exact"] * 4
        assert all(entry["moved"] > 0 for entry in row["widen"] + row["deepen"])
        assert row["modes"] == ["evaluation", "training"]
    table = out.with_suffix(".md").read_text()
    assert "| widen | 15 | 4 | 4 | 100.0 % | 0 | 0 | 0 |" in table


def test_every_row_says_at_which_commit_it_was_measured(
    harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"package": "own", "status": "timed out"}
    monkeypatch.setattr(harness, "measure_apart", lambda *_, **__: dict(measured))
    out = tmp_path / "coverage.json"
    for commit, name in (("aaa", "mlp-mixer"), ("bbb", "seq2seq")):
        base = {"graftwork": "0", "python": "3", "git_commit": commit}
        monkeypatch.setattr(harness, "provenance", lambda base=base: base)
        _run(harness, monkeypatch, "--json", out, "--only", name)
    rows = json.loads(out.read_text())["architectures"]
    assert {name: row["commit"] for name, row in rows.items()} == {"mlp-mixer": "aaa", "seq2seq": "bbb"}
    assert "at commit aaa (but seq2seq at bbb)" in out.with_suffix(".md").read_text()
    _run(harness, monkeypatch, "--json", out, "--again")
    assert "at commit bbb, Python" in out.with_suffix(".md").read_text()


def test_an_unknown_architecture_is_told_and_known_ones_are_offered(
    harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(harness, monkeypatch, "--json", tmp_path / "x.json", "--only", "resnet-1800")
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "resnet-1800" in told
    assert "resnet-18," in told


def test_a_package_that_is_not_installed_is_a_row_of_the_table(harness: Any) -> None:
    row = harness.measure_apart("x", "no-such-package-as-this", sites=1, seconds=1)
    assert row["status"] == "not installed"
    result = {"command": "c", "provenance": {"graftwork": 0, "git_commit": 0, "python": 0}, "architectures": {"x": row}}
    assert "| x | not installed |" in harness.table(result)


def test_a_wrong_growth_without_an_error_is_called_wrong(zoo: Any) -> None:
    measuring = zoo._measure
    architecture = zoo.ARCHITECTURES["mlp-mixer"]
    model = measuring.scrambled(architecture)
    example = architecture.batch(4, torch.Generator().manual_seed(1))
    probe = measuring.Observer(architecture, model)

    def wrong(grown: Any, site: str, optimizer: Any) -> Any:
        return gw.widen(grown, site, extra=2, example_input=example, optimizer=optimizer, method="random-padding")

    assert measuring.attempt(model, "blocks.0.tokens.0", wrong, example, probe)["outcome"] == "WRONG"

    def slight(grown: Any, site: str, optimizer: Any) -> Any:
        receipt = gw.widen(grown, site, extra=2, example_input=example, optimizer=optimizer)
        with torch.no_grad():
            grown.get_parameter("blocks.0.tokens.2.weight")[0, 0] += 1e-4
        return receipt

    assert measuring.attempt(model, "blocks.0.tokens.0", slight, example, probe)["outcome"] == "WRONG"


def test_a_refusal_that_leaves_traces_is_called_dirty(zoo: Any) -> None:
    measuring = zoo._measure
    architecture = zoo.ARCHITECTURES["mlp-mixer"]
    model = measuring.scrambled(architecture)
    example = architecture.batch(4, torch.Generator().manual_seed(1))
    probe = measuring.Observer(architecture, model)

    def careless(grown: Any, site: str, optimizer: Any) -> Any:
        with torch.no_grad():
            grown.get_parameter("fc.bias")[0] += 1e-12
        return gw.widen(grown, site, extra=2, example_input=example, optimizer=optimizer)

    assert measuring.attempt(model, "fc", careless, example, probe)["outcome"] == "DIRTY"


def test_every_own_architecture_has_a_complete_list_of_sites(zoo: Any) -> None:
    own = [a for a in zoo.ARCHITECTURES.values() if a.package == "own"]
    assert len(own) >= 12
    for architecture in own:
        model = architecture.build()
        assert "widen" in architecture.listed(model).values()
        assert architecture.deepenable(model)
    assert sum(a.package != "own" for a in zoo.ARCHITECTURES.values()) >= 25
