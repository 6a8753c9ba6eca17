"""Hub folders: loaded in a fresh process without graftwork, by the source alone and by ``from_pretrained``."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from graftwork.cli import main
from graftwork.exporting import HUB_FILES
from graftwork.exporting._card import escaped
from graftwork.runs import RunFolder
from graftwork.session import SearchConfig, Session, open_classifier

LOAD = """
import sys
sys.modules["graftwork"] = None
sys.path.insert(0, sys.argv[1])
import torch
from modeling import load, read_image
images = torch.cat([read_image(path) for path in sys.argv[2:]])
network = load()
with torch.inference_mode():
    found = network(images).softmax(1)
try:
    from modeling import HubNetwork
except ImportError:
    again = found
else:
    hub = HubNetwork.from_pretrained(sys.argv[1])
    assert not hub.training
    with torch.inference_mode():
        again = hub(images).softmax(1)
assert torch.allclose(found, again, atol=1e-6)
print(found.tolist())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "run"
    recipe = {"name": "paper", "num_generations": 1, "population_size": 2, "num_survivors": 2}
    options = {"recipe": recipe, "budget": "16steps", "precision": "float32", "passes": "torch", "threads": 1}
    options["blend"] = 20  # suffices for the mean alone
    Session.start(SearchConfig.from_dict(options), path).run()
    return path


def export(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["export", *arguments, "--to", "hub"])
    return int(end.value.code or 0)


def load(folder: Path, images: list[Path]) -> torch.Tensor:
    command = [sys.executable, "-I", "-c", LOAD, str(folder), *map(str, images)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent)
    assert outcome.returncode == 0, outcome.stderr
    return torch.tensor(json.loads(outcome.stdout.splitlines()[-1]))


def test_a_hub_folder_loads_without_graftwork_and_says_the_same(run: Path, tmp_path: Path) -> None:
    folder, pixels = tmp_path / "model", (load_digits().images[:3] * 15.9).astype(np.uint8)
    assert export(str(run), "--out", str(folder), "--license", "apache-2.0") == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(HUB_FILES)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    expected = open_classifier(run).probabilities(torch.from_numpy(pixels)[..., None])
    torch.testing.assert_close(load(folder, files), expected, atol=1e-5, rtol=1e-4)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"]["3"] == "3"
    assert config["image_size"] == [8, 8]
    assert list(config["genomes"]) == [RunFolder.open(run).result()["best"]["id"]]


def test_an_ensemble_has_a_folder_of_its_own(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mean"
    assert export(str(run), "--ensemble", "mean", "--out", str(folder)) == 0
    card = (folder / "README.md").read_text()
    assert "an ensemble (mean) of 2 networks" in card
    latency = RunFolder.open(run).result()["latency"]["ensembles"]["mean"]["one"]
    assert f", {latency:.3g} ms on " in card
    assert len(json.loads((folder / "config.json").read_text())["genomes"]) == 2


def test_the_card_holds_the_numbers_of_the_run(run: Path, tmp_path: Path) -> None:
    assert export(str(run), "--out", str(tmp_path), "--license", "mit") == 0
    card, result = (tmp_path / "README.md").read_text(), RunFolder.open(run).result()
    best = result["best"]
    low, high = best["test_interval"]
    assert f"| test | {best['test_accuracy']:.4f} | {low:.4f} to {high:.4f} |" in card
    assert f"{best['parameters']:,} parameters" in card
    for entry in result["per_class"]:
        row = f"{entry['precision']:.4f} | {entry['recall']:.4f} | {entry['support']}"
        assert f"| {entry['name']} | {row} |" in card
    assert "opened 1 time |" in card
    assert all(escaped(text) in card for text in RunFolder.open(run).read_json("provenance.json")["data"]["warnings"])


def test_the_hub_reads_the_card(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    assert export(str(run), "--out", str(tmp_path), "--license", "mit") == 0
    data = hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.pipeline_tag) == ("mit", "image-classification")
    (found,) = data.eval_results
    assert found.metric_value == RunFolder.open(run).result()["best"]["test_accuracy"]


def test_what_is_there_is_not_replaced_unless_asked(run: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert export(str(run), "--out", str(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "notes.txt").write_text("mine, too")
    assert export(str(run), "--out", str(tmp_path), "--overwrite") == 0
    assert {path.name for path in tmp_path.iterdir()} == {*HUB_FILES, "notes.txt"}


def test_a_network_without_numbers_and_a_licence_elsewhere_are_refused(run: Path, tmp_path: Path) -> None:
    assert export(str(run), "--member", "m99", "--out", str(tmp_path / "a")) == 2
    with pytest.raises(SystemExit) as end:
        main(["export", str(run), "--to", "source", "--license", "mit", "--out", str(tmp_path / "b")])
    assert end.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_text_of_a_run_can_not_mark_up_the_card() -> None:
    assert escaped("<b>a</b>|`x`\n[y](z)") == r"\<b\>a\</b\>\|\`x\` \[y\]\(z\)"
