"""An exported model refuses, or marks, what it was not trained on; and brings what makes files into its input."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from graftwork.datasets import read_image
from graftwork.errors import InputError
from graftwork.exporting import Exported, ExportFormat, open_export, quantize_export
from graftwork.exporting._int8 import INT8
from graftwork.networks.genome import Genome
from graftwork.session import open_classifier
from tests.exporting.cases import NAMES, RICH, SPLIT, as_user, stored_images
from tests.exporting.conftest import Made

FORMATS: tuple[ExportFormat, ...] = ("source", "pt2", "onnx")


@pytest.fixture(params=FORMATS)
def model(request: pytest.FixtureRequest, made: Made) -> Exported:
    return open_export(made(request.param).paths[0])


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "bytes": lambda x: (255 * x).to(torch.uint8),
    "float64": lambda x: x.double(),
    "one channel": lambda x: x[:, :1],
    "another size": lambda x: x[..., :-1],
    "a single image": lambda x: x[0],
    "0 to 255": lambda x: 255 * x,
    "-1 to 1": lambda x: 2 * x - 1,
    "not a number": lambda x: x.masked_fill(x > 0.9, torch.nan),
}


@pytest.mark.parametrize("kind", WRONG)
def test_input_of_another_kind_is_refused(model: Exported, kind: str) -> None:
    images = WRONG[kind](as_user(stored_images(RICH, 3)))
    with pytest.raises(InputError, match="images: expected"):
        model(images)


@pytest.mark.parametrize("kind", WRONG)
def test_a_model_that_is_run_without_graftwork_never_gives_numbers_for_it(model: Exported, kind: str) -> None:
    images = WRONG[kind](as_user(stored_images(RICH, 3)))
    try:
        outputs = model.run(images)
    except Exception:  # each runtime has errors of its own
        return
    assert outputs.isnan().all(), "marked, where a graph can't refuse"


def test_only_the_image_on_another_scale_is_marked(model: Exported) -> None:
    if model.path.suffix == ".py":
        pytest.skip("plain PyTorch refuses the whole batch")
    images = as_user(stored_images(RICH, 3))
    expected = model(images)
    images[1] *= 255
    found = model.run(images)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]].detach(), expected[[0, 2]])


def test_values_a_little_beyond_the_scale_are_taken(model: Exported) -> None:
    images = as_user(stored_images(RICH, 3))
    assert model(1.4 * images - 0.2).isfinite().all()


@pytest.mark.parametrize("genome", [RICH, SPLIT], ids=["colour", "grey"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_programs_bring_what_reads_files_as_graftwork_does(tmp_path: Path, genome: Genome, mode: str) -> None:
    from graftwork.exporting._source import render_preprocessing

    text = render_preprocessing(genome.input_shape, NAMES[: genome.num_classes], version="0")
    assert text is not None
    (tmp_path / "preprocess.py").write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("preprocess", tmp_path / "preprocess.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pixels = torch.randint(0, 256, (31, 20, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).convert(mode).save(tmp_path / "image.png")
    channels, height, width = genome.input_shape
    expected = torch.from_numpy(read_image(tmp_path / "image.png", size=(height, width), channels=channels).copy())
    assert torch.equal(torch.from_numpy(module.read_image(tmp_path / "image.png")), as_user(expected[None]))
    assert list(module.CLASSES) == list(NAMES[: genome.num_classes])


def test_sixteen_bits_are_refused_where_they_would_be_cut_off(made: Made, tmp_path: Path) -> None:
    file = made("source").paths[0]
    spec = importlib.util.spec_from_file_location("model", file)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="expected 8 bits a channel"):
        module.read_image(tmp_path / "deep.png")


def test_a_program_says_how_images_are_made_ready(made: Made) -> None:
    file = made("pt2").paths[0]
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.pt2", "preprocess.py"]
    extra: dict[str, Any] = {"graftwork.json": ""}
    torch.export.load(file, extra_files=extra)
    stored = json.loads(extra["graftwork.json"])["preprocessing"]
    assert (stored["dtype"], stored["layout"], stored["values"], stored["mode"]) == ("float32", "BCHW", [0, 1], "RGB")


def test_a_program_runs_where_it_was_made_for(made: Made) -> None:
    with pytest.raises(InputError, match="expected device cpu"):
        open_classifier(made("pt2").paths[0], device="meta")


def test_eight_bits_are_measured_against_float(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    shutil.copy2(made("onnx").paths[0], file)
    images = stored_images(RICH, 64, seed=3)
    labels = open_export(file)(as_user(images)).argmax(1)
    report = quantize_export(file, calibration=stored_images(RICH, 48), images=images, labels=labels)
    assert report.path == tmp_path / INT8
    found = open_export(report.path)
    assert found.class_names == NAMES[:4]
    said = found(as_user(images)).argmax(1)
    assert report.accuracy == report.agreement == float((said == labels).double().mean())
    assert report.float_accuracy == 1
    assert report.accuracy > 0.7, "other weights would agree on a quarter"
    assert report.num_images == 64
    assert b"QuantizeLinear" in report.path.read_bytes()
    assert b'"float_accuracy": 1.0' in report.path.read_bytes(), "the file says what it costs"
    with pytest.raises(InputError, match="exists"):
        quantize_export(file, calibration=images, images=images, labels=labels)
