"""A search on top of a trunk: grows as ever, resumes to the same bits, and runs no code that was not named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import ConfigError, RunError, SearchInterruptedError
from graftwork.exporting import open_export
from graftwork.runs import RunFolder
from graftwork.session import Problem, SearchConfig, Session, open_classifier
from graftwork.trunks import Trunk, open_trunk
from tests.cli.test_cli import call
from tests.cli.test_predict import write_digits
from tests.clock import count_passes
from tests.exporting.cases import as_user
from tests.session.test_session import StopAt, predictions, records, result, tiny


def config(trunk: str, **changes: Any) -> SearchConfig:
    return tiny(
        **{
            "budget": "24steps",
            "blend": 20,
            "num_calibration": 20,
            "control": False,
            "passes": "torch",
            "trunk": trunk,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def run(vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trunks") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graftwork.session._final.time_passes", count_passes)
        Session.start(config(f"hf:{vit}"), path).run()
    return path


@pytest.fixture
def coded(code: Path, tmp_path: Path) -> Path:
    """A run on top of code, stopped after a few steps."""
    box: list[Session] = []
    trunk, path = open_trunk(f"{code}:build", run_code=True), tmp_path / "run"
    box.append(Session.start(config(f"{code}:build"), path, listener=StopAt(box, "search", 7), trunk=trunk))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    return path


def digits(count: int = 20) -> torch.Tensor:
    problem = Problem.load(tiny())
    return problem.shown(np.arange(count))


def test_members_read_features_and_grow(run: Path) -> None:
    found = RunFolder(run)
    genomes = [found.read_json(f"members/{row['id']}.json")["genome"] for row in result(run)["survivors"]]
    assert {tuple(genome["input_shape"]) for genome in genomes} == {(12, 4, 4)}
    assert len({json.dumps(genome) for genome in genomes}) == 2, "one of them at least was grown"
    stored = found.read_json("provenance.json")["data"]
    assert (stored["height"], stored["width"], stored["channels"]) == (8, 8, 1)
    assert stored["trunk"]["features"] == [12, 4, 4]
    assert stored["trunk"]["sha256"] == open_trunk(stored["trunk"]["name"]).sha256
    latency = result(run)["latency"]
    assert set(latency["networks"]) == {row["id"] for row in result(run)["survivors"]}
    assert set(latency["ensembles"]) == {row["method"] for row in result(run)["ensemble"]} >= {"mean"}
    alone = max(row["one"] for row in latency["networks"].values())
    assert all(row["batch"] > row["one"] > 0.1 * alone for row in latency["ensembles"].values())


def test_a_stopped_and_resumed_search_ends_with_the_same_bits(run: Path, vit: Path, tmp_path: Path) -> None:
    box: list[Session] = []
    box.append(Session.start(config(f"hf:{vit}"), tmp_path / "cut", listener=StopAt(box, "search", 9)))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    Session.resume(tmp_path / "cut").run()
    assert result(tmp_path / "cut")["bank_sha256"] == result(run)["bank_sha256"]
    assert records(tmp_path / "cut") == records(run)
    assert predictions(tmp_path / "cut") == predictions(run)


def test_features_are_computed_once(run: Path, vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trunk, "features", lambda *_: pytest.fail("they are in the cache"))
    problem = Problem.load(config(f"hf:{vit}"))
    assert problem.dataset.images.dtype == np.float32
    assert problem.pictures("train", np.arange(2)).shape == (2, 8, 8, 1)


def test_predictions_of_new_images_are_those_that_the_run_stored(run: Path) -> None:
    found = RunFolder(run)
    stored = found.load_tensors("predictions/validation.safetensors")
    problem = Problem.load(SearchConfig.load(found.config_path))
    best = result(run)["best"]["id"]
    said = open_classifier(run).probabilities(problem.shown(stored["index"].numpy()))
    torch.testing.assert_close(said, stored[best].softmax(1), atol=1e-4, rtol=1e-3)


@pytest.mark.slow  # tracing a network of transformers takes long; a small one is exported below
@pytest.mark.parametrize("ensemble", [None, "mean"])
def test_a_program_takes_the_trunk_in(run: Path, tmp_path: Path, ensemble: str | None) -> None:
    words = [] if ensemble is None else ["--ensemble", ensemble]
    assert call("export", str(run), "--to", "pt2", *words, "--out", str(tmp_path / "model")) == 0
    model = open_export(tmp_path / "model")
    assert model.input_shape == (1, 8, 8)
    pixels = as_user(digits())
    expected = open_classifier(run, ensemble=ensemble).probabilities(digits())
    torch.testing.assert_close(model(pixels).softmax(1), expected, atol=1e-4, rtol=1e-3)
    assert model.run(255 * pixels).isnan().any(1).all(), "another scale is marked"


def test_the_images_of_the_run_are_refused_and_others_have_no_brightness(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    assert call("evaluate", str(run), "--data", "digits") == 2
    assert "expected other images" in capsys.readouterr().err
    new = write_digits(tmp_path / "new", {"0": "0", "1": "1"}, count=4)
    assert call("evaluate", str(run), "--data", str(new), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["shift"]["brightness"]) == (8, [])
    assert call("evaluate", str(run), "--data", str(new)) == 0


def test_a_trunk_can_not_be_written_out_as_source(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert call("export", str(run), "--out", str(tmp_path / "model")) == 2
    assert "expected pt2 or onnx" in capsys.readouterr().err


def test_a_trunk_that_changed_is_refused(run: Path, vit: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "vit"
    shutil.copytree(vit, other)
    box: list[Session] = []
    box.append(Session.start(config(f"hf:{other}"), folder, listener=StopAt(box, "search", 7)))
    with pytest.raises(SearchInterruptedError):
        box[0].run()
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(RunError, match="expected the trunk that the run was made with"):
        Session.resume(folder)
    (other / "model.safetensors").write_bytes((vit / "model.safetensors").read_bytes())
    Session.resume(folder).folder.release()


def test_code_of_a_run_is_run_only_when_it_is_named_again(coded: Path, code: Path, capsys: Any) -> None:
    named = ["--trunk", f"{code}:build"]
    text = code.read_text()
    code.write_text(f"import pathlib; pathlib.Path({str(code.with_name('ran'))!r}).touch()\n{text}")
    picture = code.with_name("x.png")
    commands = (["search", "--resume", str(coded)], ["export", str(coded), "--to", "pt2"], ["data", "--config"])
    for command in (*commands[:1], [*commands[2], str(coded / "config.toml")]):
        assert call(*command) == 2
        assert "on the command itself" in capsys.readouterr().err
    assert not code.with_name("ran").exists()
    assert call("search", "--resume", str(coded), *named, "--no-report") == 2
    assert "have changed" in capsys.readouterr().err
    code.write_text(text)
    assert call("search", "--resume", str(coded), "--trunk", "other.py:build") == 2
    assert "name that one" in capsys.readouterr().err
    assert call("search", "--resume", str(coded), *named, "--no-report") == 0
    from PIL import Image

    Image.fromarray(digits(1)[0, :, :, 0].numpy()).save(picture)
    for command in (["predict", str(coded), str(picture)], ["export", str(coded), "--to", "pt2"]):
        assert call(*command) == 2
        assert "on the command itself" in capsys.readouterr().err
        assert call(*command, *named) == 0
    model = open_export(next((coded / "export").iterdir()))
    said = open_classifier(coded, trunk=named[1]).probabilities(digits())
    torch.testing.assert_close(model(as_user(digits())).softmax(1), said, atol=1e-5, rtol=1e-4)


def test_what_would_leave_the_trunk_out_is_refused(vit: Path) -> None:
    with pytest.raises(ConfigError, match="trunk: expected no max_latency"):
        config(f"hf:{vit}", max_latency="5ms")
