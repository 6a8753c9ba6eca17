"""Using a result: what predict and evaluate tell of images that the run has never seen."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from PIL import Image
from sklearn.datasets import load_digits

from tests.cli.test_cli import call
from tests.clock import count_passes

TINY = ["--recipe", "paper", "--budget", "40steps", "--num-generations", "1", "--population-size", "2"]
TINY += ["--num-survivors", "1", "--threads", "1", "--precision", "float32", "--passes", "torch"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("using") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graftwork.session._final.time_passes", count_passes)
        assert call("search", *TINY, "--out", str(path), "--quiet", "--no-report") == 0
    return path


def write_digits(folder: Path, classes: dict[str, str], *, count: int = 12, inverted: bool = False) -> Path:
    """PNG files of digits: ``classes`` is the digit of each folder's images by the folder's name."""
    found = load_digits()
    for name, digit in classes.items():
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(found.images[found.target == int(digit)][:count]):
            pixels = (16 - image if inverted else image) * (255 / 16)
            Image.fromarray(pixels.round().astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "new", {digit: digit for digit in "0123"})


def rows_of(capsys: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_top_k_tells_the_likeliest_classes_in_order_and_all_probabilities_sum_to_one(
    run: Path, digits: Path, tmp_path: Path, capsys: Any
) -> None:
    assert call("predict", str(run), str(digits), "--top-k", "3", "--probabilities", "--json") == 0
    rows = rows_of(capsys)
    assert len(rows) == 48
    for row in rows:
        every = row["probabilities"]
        assert sum(every.values()) == pytest.approx(1, abs=1e-5)
        told = [(row[f"class{end}"], row[f"probability{end}"]) for end in ("", "_2", "_3")]
        assert told == sorted(every.items(), key=lambda pair: -pair[1])[:3]
    assert (
        call("predict", str(run), str(digits), "--top-k", "3", "--probabilities", "--out", str(tmp_path / "p.csv")) == 0
    )
    table = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert [row["class_2"] for row in table] == [row["class_2"] for row in rows]
    assert float(table[0]["probability of 7"]) == rows[0]["probabilities"]["7"]


@pytest.mark.parametrize("size", ["1", "7", "1000"])
def test_the_size_of_a_pass_changes_no_class(run: Path, digits: Path, capsys: Any, size: str) -> None:
    assert call("predict", str(run), str(digits), "--json") == 0
    expected = rows_of(capsys)
    assert call("predict", str(run), str(digits), "--json", "--batch-size", size, "--device", "cpu") == 0
    assert [row["class"] for row in rows_of(capsys)] == [row["class"] for row in expected]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--top-k", "11"], "top_k: expected a number from 1 to 10"),
        (["--top-k", "0"], "top_k: expected a number from 1 to 10"),
        (["--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["--device", "abacus"], "device: expected one that works here, got 'abacus'"),
    ],
)
def test_options_out_of_range_are_refused(run: Path, digits: Path, capsys: Any, words: list[str], said: str) -> None:
    assert call("predict", str(run), str(digits), *words) == 2
    assert said in capsys.readouterr().err


def test_bad_images_are_an_error_or_left_out_and_named(run: Path, digits: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.png").write_text("no image")
    good = digits / "0" / "00.png"
    assert call("predict", str(run), str(good), str(tmp_path)) == 2
    capsys.readouterr()
    assert call("predict", str(run), str(tmp_path), str(good), "--skip-bad-images", "--json") == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["file"] for line in captured.out.splitlines()] == [str(good)]
    assert "bad.png" in captured.err
    assert "1 of 2 images were left out" in captured.err
    assert call("predict", str(run), str(tmp_path), "--skip-bad-images") == 2
    assert "none can be read" in capsys.readouterr().err


def test_evaluate_agrees_with_scikit_learn_on_what_predict_says(run: Path, digits: Path, capsys: Any) -> None:
    assert call("predict", str(run), str(digits), "--json") == 0
    predicted = [row["class"] for row in rows_of(capsys)]
    truth = [str(path.parent.name) for path in sorted(digits.rglob("*.png"))]
    assert call("evaluate", str(run), "--data", str(digits), "--json") == 0
    (found,) = rows_of(capsys)
    assert found["images"] == 48
    assert found["accuracy"] == sklearn.metrics.accuracy_score(truth, predicted)
    low, high = found["interval"]
    assert low <= found["accuracy"] <= high
    recalls = {row["name"]: row["recall"] for row in found["per_class"] if row["support"]}
    expected = sklearn.metrics.recall_score(truth, predicted, labels=list("0123"), average=None, zero_division=0)
    assert recalls == pytest.approx(dict(zip("0123", expected, strict=True)))
    assert sum(row["images"] for row in found["calibration"]) == 48
    assert found["majority"]["accuracy"] == 0.25


def test_mirrored_views_are_averaged_where_training_has_mirrored_images(
    run: Path, digits: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.session._final.time_passes", count_passes)
    turned = tmp_path / "turned"
    for path in digits.rglob("*.png"):
        target = turned / path.relative_to(digits)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(target)
    mirroring = tmp_path / "mirroring"
    words = [*TINY, "--flip", "random", "--out", str(mirroring), "--quiet", "--no-report"]
    assert call("search", *words) == 0

    def told(images: Path, *more: str) -> np.ndarray:
        capsys.readouterr()
        assert call("predict", str(mirroring), str(images), "--probabilities", "--json", *more) == 0
        return np.array([list(row["probabilities"].values()) for row in rows_of(capsys)])

    plain, other, both = told(digits), told(turned), told(digits, "--mirrored")
    assert np.abs(plain - other).max() > 0.01
    assert np.allclose(both, (plain + other) / 2, atol=2e-6)
    assert call("evaluate", str(mirroring), "--data", str(digits), "--mirrored", "--json") == 0
    (found,) = rows_of(capsys)
    labels = np.repeat(np.arange(4), 12)
    assert found["accuracy"] == pytest.approx((both.argmax(1) == labels).mean())
    assert found["shift"] is None, "the run has stored no mirrored predictions to compare with"
    assert call("predict", str(run), str(digits), "--mirrored") == 2
    assert "flip is 'none' in" in capsys.readouterr().err


def test_evaluate_tells_images_of_another_kind_from_those_of_the_run(
    run: Path, digits: Path, tmp_path: Path, capsys: Any
) -> None:
    ten = {digit: digit for digit in "0123456789"}
    alike, other = (write_digits(tmp_path / str(kind), ten, inverted=kind) for kind in (False, True))
    shifts = {}
    for folder in (digits, alike, other):
        assert call("evaluate", str(run), "--data", str(folder), "--json") == 0
        shifts[folder] = rows_of(capsys)[0]["shift"]
    assert shifts[digits]["class_distance"] == pytest.approx(0.6, abs=0.05)
    assert shifts[alike]["class_distance"] < 0.05
    assert abs(shifts[alike]["brightness"][0]) < 0.1
    assert shifts[other]["brightness"][0] > 0.5
    assert shifts[alike]["p_value"] > 0.01 > shifts[other]["p_value"]
    assert call("evaluate", str(run), "--data", str(other)) == 0
    assert "they differ" in capsys.readouterr().out


def test_evaluate_matches_classes_by_name_and_refuses_unknown_ones(run: Path, tmp_path: Path, capsys: Any) -> None:
    folder = write_digits(tmp_path / "odd", {"7": "7", "zebra": "3"})
    assert call("evaluate", str(run), "--data", str(folder)) == 2
    assert "got also zebra" in capsys.readouterr().err


def test_evaluate_refuses_the_data_of_the_run(run: Path, capsys: Any) -> None:
    assert call("evaluate", str(run), "--data", "digits") == 2
    assert "expected other images" in capsys.readouterr().err


def test_an_exported_model_is_evaluated_without_its_run(run: Path, digits: Path, tmp_path: Path, capsys: Any) -> None:
    assert call("export", str(run), "--out", str(tmp_path / "model")) == 0
    capsys.readouterr()
    found = []
    for model in (run, tmp_path / "model"):
        assert call("evaluate", str(model), "--data", str(digits), "--json") == 0
        found += rows_of(capsys)
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert found[0]["nll"] == pytest.approx(found[1]["nll"], abs=1e-4)
    assert found[1]["shift"] is None


def test_colours_are_weighed_as_predict_weighs_them(run: Path, digits: Path, tmp_path: Path, capsys: Any) -> None:
    tinted = tmp_path / "tinted"
    for path in digits.rglob("*.png"):
        grey = np.asarray(Image.open(path))
        (tinted / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([grey, grey // 2, grey // 3], axis=2)).save(tinted / path.parent.name / path.name)
    assert call("predict", str(run), str(tinted), "--json") == 0
    predicted = [row["class"] for row in rows_of(capsys)]
    truth = [path.parent.name for path in sorted(tinted.rglob("*.png"))]
    assert call("evaluate", str(run), "--data", str(tinted), "--json") == 0
    assert rows_of(capsys)[0]["accuracy"] == sklearn.metrics.accuracy_score(truth, predicted)


def test_the_outcome_tells_measured_times_of_every_network(run: Path) -> None:
    found = json.loads((run / "result.json").read_text())
    latency = found["latency"]
    assert set(latency["networks"]) == {row["id"] for row in found["survivors"]}
    assert set(latency["ensembles"]) == {row["method"] for row in found["ensemble"] or ()}
    timed = [*latency["networks"].values(), *latency["ensembles"].values()]
    assert all(0 < row["one"] < row["batch"] < 10_000 for row in timed)


def test_predict_reads_what_data_reads_and_tells_what_both_pass_over(run: Path, tmp_path: Path, capsys: Any) -> None:
    folder = write_digits(tmp_path / "new", {"0": "0", "1": "1"}, count=6)
    (folder / "0" / "phone.heic").write_bytes(b"")
    (folder / "1" / "notes.txt").write_text("x")
    (folder / "1" / "gone.png").symlink_to(folder / "nowhere.png")
    assert call("data", "--data", str(folder), "--json") == 0
    (found,) = rows_of(capsys)
    assert call("predict", str(run), str(folder), "--json") == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == found["images"] == 12
    assert [line.removeprefix("passed over: ") for line in told.err.splitlines()] == [
        f"{name}: {reason}" for name, reason in found["skipped"]
    ]
    assert len(found["skipped"]) == 3
