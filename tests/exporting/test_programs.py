"""``--to pt2`` and ``--to onnx``: programs for other runtimes, checked against the member."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import pytest

from graftwork.errors import InputError
from graftwork.exporting import export_member, open_export
from graftwork.networks.genome import Genome
from graftwork.numerics import output_gap
from tests.exporting.cases import NAMES, RICH, SPLIT, as_user, logits, ready, stored_images, transform_for
from tests.exporting.conftest import Made


@pytest.mark.parametrize("genome", [RICH, pytest.param(SPLIT, marks=pytest.mark.slow)], ids=["batch", "layer"])
@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_a_program_gives_the_outputs_of_the_member_at_any_batch_size(
    made: Made, to: Literal["pt2", "onnx"], genome: Genome
) -> None:
    report, names = made(to, genome), NAMES[: genome.num_classes]
    folder = report.paths[0].parent
    assert sorted(path.name for path in folder.iterdir()) == [f"model.{to}", "preprocess.py"]
    assert report.max_gap is not None
    assert report.max_gap <= 1e-5
    model, member = open_export(folder), ready(genome)
    assert model.input_shape == genome.input_shape
    assert model.class_names == names
    for count in (1, 2, 5):
        images = stored_images(genome, count)
        assert output_gap(logits(member, images), model(as_user(images))) <= 1e-5


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    options: dict[str, Any] = {"transform": transform_for(RICH), "class_names": NAMES[:4]}
    with pytest.raises(InputError, match=rf"onnx needs {missing}, which is not installed; .*graftwork\[onnx\]"):
        export_member(ready(RICH), tmp_path, to="onnx", **options)
    assert list(tmp_path.iterdir()) == []
