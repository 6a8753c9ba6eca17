"""``--to source``: one readable file of plain PyTorch that gives the member's outputs without graftwork."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from graftwork.datasets import read_image
from graftwork.exporting import export_member, open_export
from graftwork.exporting._source import load_source, plain_network, render_source
from graftwork.exporting._tensors import plain_tensors
from graftwork.networks import Member
from graftwork.networks.execution import InputTransform
from graftwork.networks.genome import Genome
from graftwork.numerics import output_gap
from tests.exporting.cases import NAMES, RICH, SPLIT, as_user, logits, ready, stored_images, transform_for
from tests.strategies import genomes, seeds

ALONE = """
import sys
sys.modules["graftwork"] = None  # importing it is an error from here on
import importlib.util
from safetensors.torch import load_file, save_file
folder, images, out, *paths = sys.argv[1:]
spec = importlib.util.spec_from_file_location("model", folder + "/model.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
save_file({"logits": module.load()(load_file(images)["images"]).detach()}, out)
module.main(paths)
"""


def _export(member: Member, folder: Path) -> Path:
    names = NAMES[: member.genome.num_classes]
    transform = transform_for(member.genome)
    return export_member(member, folder, to="source", transform=transform, class_names=names).paths[0]


@settings(max_examples=60, deadline=None)
@given(genomes(), seeds)
def test_plain_network_gives_the_outputs_of_any_member_in_float64(genome: Genome, seed: int) -> None:
    member = ready(genome, seed)
    source = render_source(genome, transform_for(genome), NAMES[: genome.num_classes], version="0")
    weights = {key: {n: t.detach().double() for n, t in entry.items()} for key, entry in member.weights.items()}
    exact = Member(genome, weights, form="reference")
    for block_id, (mean, variance) in member.statistics.items():
        exact.statistics[block_id] = (mean.double(), variance.double())
    network = plain_network(source, plain_tensors(exact), dtype=torch.float64)
    pixels = as_user(stored_images(genome, 5)).double()
    normalised = (pixels - network.get_buffer("mean")) / network.get_buffer("std")
    with torch.no_grad():
        assert output_gap(exact.eval()(normalised), network(pixels)) <= 1e-10
        assert output_gap(exact.train()(normalised), network.train()(pixels)) <= 1e-8, "batch statistics"


@settings(max_examples=25, deadline=None)
@given(genomes(), seeds)
def test_files_give_the_outputs_of_any_member_in_float32(
    tmp_path_factory: pytest.TempPathFactory, genome: Genome, seed: int
) -> None:
    member = ready(genome, seed)
    path = _export(member, tmp_path_factory.mktemp("export"))
    images = stored_images(genome, 5)
    bound = 1e-2 if genome.norm in ("instance", "layer") else 1e-4  # single images magnify rounding
    assert output_gap(logits(member, images), open_export(path)(as_user(images))) <= bound


def test_exported_files_run_without_graftwork_and_classify_image_files(tmp_path: Path) -> None:
    member = ready(RICH)
    _export(member, tmp_path)
    images = stored_images(RICH, 3)
    save_file({"images": as_user(images)}, tmp_path / "images.st")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.numpy()).save(path)
    command = [sys.executable, "-I", "-W", "error", "-c", ALONE]
    files = [str(tmp_path), str(tmp_path / "images.st"), str(tmp_path / "out.st"), *map(str, paths)]
    done = subprocess.run(
        [*command, *files], check=False, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    expected = logits(member, images)
    assert output_gap(expected, load_file(tmp_path / "out.st")["logits"]) <= 1e-5
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    assert [row[1] for row in rows] == [NAMES[index] for index in expected.argmax(1)]
    assert [float(row[2]) for row in rows] == pytest.approx(expected.softmax(1).amax(1).tolist(), abs=2e-4)


@pytest.mark.parametrize("genome", [RICH, SPLIT], ids=["colour", "grey"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("size", [(10, 12), (9, 9), (40, 25), (25, 70), (5, 6), (200, 190)])
def test_image_files_are_read_as_graftwork_reads_them(
    tmp_path: Path, genome: Genome, mode: str, size: tuple[int, int]
) -> None:
    source = render_source(genome, transform_for(genome), NAMES[: genome.num_classes], version="0")
    pixels = torch.randint(0, 256, (size[1], size[0], 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    path = tmp_path / "image.tiff"
    Image.fromarray(pixels.numpy()).convert(mode).save(path)
    channels, height, width = genome.input_shape
    expected = torch.from_numpy(read_image(path, size=(height, width), channels=channels).copy())
    assert torch.equal(load_source(source).read_image(path), as_user(expected[None]))


def test_source_imports_only_torch_and_safetensors_and_pillow(tmp_path: Path) -> None:
    tree = ast.parse(_export(ready(RICH), tmp_path).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {"sys", "pathlib", "torch", "safetensors.torch", "torch.nn", "PIL"}


def test_source_is_formatted_and_clean_as_this_project_is(tmp_path: Path) -> None:
    ruff = pytest.importorskip("ruff").find_ruff_bin()
    plain = Genome((5, 8, 8), 12, SPLIT.body, norm="none")  # five channels: no image files; no stem, no norm
    instance = Genome((3, 8, 8), 4, SPLIT.body, norm="instance", activation="silu")
    for number, genome in enumerate((RICH, SPLIT, plain, instance)):
        names = [f"class number {index}" for index in range(genome.num_classes)]
        channels = genome.input_shape[0]
        text = render_source(genome, InputTransform((0.5,) * channels, (0.1,) * channels), names, version="1.2.3")
        (tmp_path / f"model_{number}.py").write_text(text, encoding="utf-8")
    options = ["--isolated", "--line-length", "120", str(tmp_path)]
    formatted = subprocess.run([ruff, "format", "--diff", *options], check=False, capture_output=True, text=True)
    assert formatted.returncode == 0, formatted.stdout
    rules = "A,B,C4,E,F,I,N,PIE,PL,PTH,RET,SIM,UP,W"
    options += ["--select", rules, "--ignore", "N812,PLC0415"]
    checked = subprocess.run([ruff, "check", *options], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "All checks passed" in checked.stdout


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=4, max_size=4))
def test_class_names_of_any_text_arrive_as_they_are(names: list[str]) -> None:
    text = render_source(RICH, transform_for(RICH), names, version="0")
    assert list(load_source(text.encode().decode()).CLASSES) == names


def test_source_trains_on_with_fixed_stem_filters(tmp_path: Path) -> None:
    network = open_export(_export(ready(RICH), tmp_path)).run
    assert isinstance(network, torch.nn.Module)
    network.train()
    fixed = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert fixed == ["stem.0.weight"]
    network(as_user(stored_images(RICH, 4))).square().sum().backward()
    moved = [name for name, parameter in network.named_parameters() if parameter.grad is not None]
    assert len(moved) == len(list(network.parameters())) - 1


def test_a_wrong_tensor_in_the_file_shows(tmp_path: Path) -> None:
    member = ready(RICH)
    path = _export(member, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    images = stored_images(RICH, 4)
    wrong = 0
    for name, tensor in tensors.items():
        if not name.endswith("num_batches_tracked"):
            save_file(tensors | {name: tensor * 1.1}, tmp_path / "model.safetensors")
            wrong += output_gap(logits(member, images), open_export(path)(as_user(images))) > 1e-4
    assert wrong == len(tensors) - 3, "every tensor but the three counters matters"
