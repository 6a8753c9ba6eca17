"""Ensembles as one exported model: the same outputs, every shared prefix once, no graftwork needed."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from graftwork.ensembles import describe_combiner, fit_combiner
from graftwork.errors import GraftworkError, InputError
from graftwork.exporting import Joined, export_ensemble, open_export
from graftwork.exporting import _ensemble as module
from graftwork.networks import Member, recalibrate
from graftwork.networks.bank import BlockBank
from graftwork.networks.execution import Output, prefix_tree, walk
from graftwork.networks.genome import Genome, seed_genome
from graftwork.numerics import output_gap
from tests.exporting.cases import NAMES, RICH, SPLIT, as_user, ready, stored_images, transform_for
from tests.exporting.test_source import ALONE
from tests.strategies import family, genomes, grown, scramble, seeds, with_own_top

METHODS = ("mean", "greedy", "stacked", "stacked-network", "cascade", "poster")


def joined(
    members: Sequence[Member], method: str, *, calibrated: bool = False, output: Output = "logits", seed: int = 0
) -> Joined:
    """A combiner fitted on noise: not special in any way. ``poster``: the small network alone, as on the poster."""
    generator = torch.Generator().manual_seed(seed)
    genome = members[0].genome
    features = genome.num_classes if output == "logits" else genome.penultimate_features
    outputs = torch.randn(40, len(members), features, generator=generator)
    labels = torch.arange(40) % genome.num_classes
    options: dict[str, Any] = {"stacked-network": {"max_epochs": 2}, "poster": {"max_epochs": 2, "residual": False}}
    options["cascade"] = {"costs": range(1, len(members) + 1)}
    own = options.get(method, {}) | ({"num_classes": genome.num_classes} if output == "penultimate" else {})
    method = "stacked-network" if method == "poster" else method
    combiner = fit_combiner(method, outputs, labels, generator=generator, calibrated=calibrated, **own).combiner
    return Joined(members, combiner, describe_combiner(combiner), output)


def export(ensemble: Joined, folder: Path, to: Any = "source", **options: Any) -> Any:
    genome = ensemble.members[0].genome
    names = NAMES[: genome.num_classes] if genome.num_classes <= len(NAMES) else list(map(str, range(10)))
    return export_ensemble(ensemble, folder, to=to, transform=transform_for(genome), class_names=names, **options)


def expected(ensemble: Joined, images: Tensor) -> Tensor:
    """Members one by one, each by its own forward pass."""
    x = transform_for(ensemble.members[0].genome)(images)
    with torch.no_grad():
        outputs = [member.eval()(x) for member in ensemble.members]
        result: Tensor = ensemble.combiner(torch.stack(outputs, dim=1))
    return result


def imports(file: Path) -> set[str]:
    """Names of the packages that a source file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in named}


@settings(max_examples=20, deadline=None)
@given(genomes(), seeds, st.sampled_from(METHODS), st.booleans(), st.integers(1, 4))
def test_the_exported_ensemble_of_any_family_gives_its_outputs(
    tmp_path_factory: pytest.TempPathFactory, genome: Genome, seed: int, method: str, calibrated: bool, count: int
) -> None:
    ensemble = joined(family(genome, seed)[:count], method, calibrated=calibrated, seed=seed)
    folder = tmp_path_factory.mktemp("export")
    report = export(ensemble, folder, tolerance=1e-2)
    assert report.exact_gap <= 1e-9
    images = stored_images(genome, 5)
    kept = ensemble.settled(transform_for(genome)(images)) if method == "cascade" else slice(None)
    assert output_gap(expected(ensemble, images)[kept], open_export(folder)(as_user(images))[kept]) <= 1e-2


@pytest.mark.parametrize("genome", [RICH, pytest.param(SPLIT, marks=pytest.mark.slow)], ids=["batch", "layer"])
@pytest.mark.parametrize("output", ["logits", pytest.param("penultimate", marks=pytest.mark.slow)])
@pytest.mark.parametrize("to", ["source", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pt2", "onnx"))])
def test_every_format_gives_the_outputs_at_any_batch_size(
    tmp_path: Path, to: str, output: Output, genome: Genome
) -> None:
    if to == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    ensemble = joined(family(genome, 0), "stacked", calibrated=True, output=output)
    report = export(ensemble, tmp_path, to)
    assert report.max_gap is not None
    model = open_export(tmp_path)
    assert model.class_names == NAMES[: genome.num_classes]
    assert to != "source" or "graftwork" not in imports(model.path)
    for number in (1, 2, 5):
        images = stored_images(genome, number)
        with torch.no_grad():
            x = transform_for(genome)(images)
            outputs = dict(walk(ensemble.members, x, "evaluate", output=output))
            wanted = ensemble.combiner(torch.stack([outputs[i] for i in range(4)], dim=1))
        assert output_gap(wanted, model(as_user(images))) <= report.tolerance


@pytest.mark.parametrize("to", ["source", pytest.param("pt2", marks=pytest.mark.slow)])
def test_a_cascade_is_exported_and_runs_members_only_on_what_is_open(tmp_path: Path, to: str) -> None:
    genome = seed_genome("poster", (1, 8, 8), 10)
    ensemble = joined(family(genome, 0)[:3], "cascade")
    images = stored_images(genome, 40)
    x = transform_for(genome)(images)
    with torch.no_grad():
        sure = ensemble.combiner.confidences(torch.stack([member(x) for member in ensemble.members], dim=1))[:, :-1]
    order = sure.amax(dim=1).sort().values
    ensemble.combiner.threshold.copy_((order[9] + order[10]) / 2)
    export(ensemble, tmp_path, to)
    model = open_export(tmp_path)
    kept = ensemble.settled(x)
    assert output_gap(expected(ensemble, images)[kept], model(as_user(images))[kept]) <= 1e-4
    if to == "source":
        seen: list[int] = []
        for head in model.run.heads:  # type: ignore[union-attr]
            head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        model(as_user(images))
        assert seen[0] == 40 >= seen[1] >= seen[2]
        assert seen[2] == 10


def test_what_members_share_is_in_the_file_once(tmp_path: Path) -> None:
    genome = seed_genome("poster", (1, 8, 8), 10)
    members = family(genome, 0)
    alone, together = tmp_path / "alone", tmp_path / "together"
    export(joined(members[:1], "mean"), alone)
    export(joined([members[0], members[3]], "mean"), together)
    sizes = [sum(t.numel() for t in load_file(p / "model.safetensors").values()) for p in (alone, together)]
    head = sum(tensor.numel() for tensor in members[0].weights[genome.head.id].values())
    assert sizes[1] == sizes[0] + head + 1  # a head and a weight; the rest is shared
    assert len(prefix_tree([members[0], members[3]])) == 1


@pytest.mark.slow
def test_the_file_needs_no_graftwork(tmp_path: Path) -> None:
    ensemble = joined(family(RICH, 0), "stacked-network", calibrated=True)
    export(ensemble, tmp_path / "model")
    images = stored_images(RICH, 4)
    save_file({"images": as_user(images)}, tmp_path / "images.safetensors")
    arguments = [str(tmp_path / name) for name in ("model", "images.safetensors", "out.safetensors")]
    picture = tmp_path / "kiwi.png"
    from PIL import Image

    Image.fromarray(images[0].numpy()).save(picture)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments, str(picture)], capture_output=True, text=True, check=True
    )
    found = load_file(tmp_path / "out.safetensors")["logits"]
    assert output_gap(expected(ensemble, images), found) <= 1e-4
    assert done.stdout.split("\t")[1] in NAMES
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4))


def test_an_export_that_differs_is_never_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = joined(family(RICH, 0), "mean")
    right = module.segment_tensors

    def wrong(*args: Any, **options: Any) -> dict[str, Tensor]:
        tensors = right(*args, **options)
        name = next(name for name in tensors if name.startswith("heads.1.") and name.endswith("weight"))
        return {**tensors, name: tensors[name] * 1.001}

    monkeypatch.setattr(module, "segment_tensors", wrong)
    with pytest.raises(GraftworkError, match="differs from the ensemble"):
        export(ensemble, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_members_that_can_not_stand_together_are_named(tmp_path: Path) -> None:
    one, other = ready(RICH), ready(SPLIT)
    with pytest.raises(InputError, match="members that agree on"):
        export(Joined([one, other], torch.nn.Identity(), {}), tmp_path)
    nobody, transform = Joined([], torch.nn.Identity(), {}), transform_for(RICH)
    with pytest.raises(InputError, match="at least one member"):
        export_ensemble(nobody, tmp_path, to="source", transform=transform, class_names=NAMES[:4])
    export(joined([one], "mean"), tmp_path)
    with pytest.raises(InputError, match="choose another folder or overwrite"):
        export(joined([one], "mean"), tmp_path)


def test_members_may_have_upper_layers_and_heads_of_their_own(tmp_path: Path) -> None:
    genome, generator = seed_genome("poster", (3, 16, 16), 3), torch.Generator().manual_seed(0)
    bank = BlockBank()
    members = [grown(with_own_top(genome, 1, suffix)[0], generator, bank=bank)[1] for suffix in ("-one", "-other")]
    scramble(bank, members, generator)
    recalibrate(members, torch.randn(8, *genome.input_shape, generator=generator))
    ensemble = joined([member.eval() for member in members], "stacked")
    export(ensemble, tmp_path)
    assert len(prefix_tree(members)) == 3
    images = stored_images(genome, 5)
    found = open_export(tmp_path)(as_user(images))
    torch.testing.assert_close(found, expected(ensemble, images), rtol=1e-4, atol=1e-4)
    assert not torch.equal(*(member(transform_for(genome)(images)) for member in members))
