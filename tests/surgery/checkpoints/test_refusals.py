"""What is not a checkpoint, or not this one's, ends in one error before anything is written."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from graftwork.errors import SurgeryError
from graftwork.surgery.checkpoints import CheckpointPlan, Sizes, Source, grow_checkpoint, plan_checkpoint
from tests.surgery.checkpoints.folders import IDS, edit_config, llama, saved, transformers

pytestmark = pytest.mark.filterwarnings("ignore")

DEEPER = Sizes(layers="+1")


def _refused(
    folder: Path, match: str, sizes: Sizes = DEEPER, *, plan: CheckpointPlan | None = None, **options: Any
) -> None:
    """Growing ends in an error of its own, and nothing is there that was not."""
    before = sorted(path.name for path in folder.parent.rglob("*"))
    with pytest.raises(SurgeryError, match=match):
        grow_checkpoint(plan or plan_checkpoint(folder, sizes), folder.parent / "new", **options)
    assert sorted(path.name for path in folder.parent.rglob("*")) == before


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit_config(folder, **changes)


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return apply


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_rename("config.json", "other.json"), "expected a folder with config.json"),
        (_write("config.json", "{"), "is no JSON"),
        (_write("config.json", "[" * 100 + "]" * 100), "nested too deeply"),
        (_write("config.json", "[1]"), "the name of one class under 'architectures'"),
        (_config(architectures=None), "the name of one class"),
        (_config(architectures=["LlamaForCausalML"]), "did you mean 'LlamaForCausalLM'"),
        (_config(architectures=["Trainer"]), "expected an architecture of transformers"),
        (_config(architectures=["MyModel"], auto_map={"AutoModel": "code.MyModel"}), "trust_remote_code"),
        (_config(quantization_config={"bits": 4}), "grow before quantizing"),
        (_config(hidden_size=-3), "config"),
        (_config(num_attention_heads="four"), "config"),
        (_config(dtype="float12"), "dtype: expected one of"),
        (_config(dtype=["float32"]), "dtype: expected one of"),
        (_write("adapter_config.json", "{}"), "with an adapter"),
        (_config(intermediate_size=20), "expected weights of LlamaForCausalLM"),
        (_config(num_hidden_layers=2), "missing ones: model.layers.1"),
    ],
)
def test_a_folder_that_holds_no_such_checkpoint(spoil: Callable[[Path], object], match: str, folder: Path) -> None:
    spoil(folder)
    _refused(folder, match)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_rename("model.safetensors", "pytorch_model.bin"), "pytorch_model.bin, a pickle.*save_pretrained"),
        (_rename("model.safetensors", "weights.safetensors"), "got none; name their folder"),
        (_truncate, "got a damaged one"),
        (_tensors(lambda held: held.pop("model.norm.weight")), "missing ones: model.norm.weight"),
        (_tensors(lambda held: held.update(more=torch.ones(1))), "unexpected ones: more"),
    ],
)
def test_weights_that_are_not_all_there_or_not_only_those(
    spoil: Callable[[Path], object], match: str, folder: Path, deeper_plan: CheckpointPlan
) -> None:
    spoil(folder)
    _refused(folder, match, plan=deeper_plan, weights=folder)


def test_code_beside_an_architecture_of_transformers_is_forgotten(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoModelForCausalLM": "code.Model"})
    assert "auto_map" not in Source.open(folder).config.to_dict()


def test_an_adapter_alone_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "adapter_config.json").write_text("{}")
    _refused(tmp_path / "old", "merge it into its base")
    _refused(tmp_path / "nowhere", "got nothing there")


def test_links_are_followed_into_the_hubs_cache_alone(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (folder / "tokenizer.json").symlink_to(secret)
    _refused(folder, "got a link out of it")
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "0a", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in [folder / "config.json", folder / "model.safetensors"]:
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    grow_checkpoint(plan_checkpoint(snapshot, DEEPER), tmp_path / "new")
    assert transformers.LlamaForCausalLM.from_pretrained(tmp_path / "new").config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("../../secret", "expected an id"),
        ("model-9.safetensors", "got none; it is lost"),
        (3, "expected a weight_map"),
    ],
)
def test_an_index_that_names_other_files(name: Any, match: str, tmp_path: Path, deeper_plan: CheckpointPlan) -> None:
    folder = saved(llama(num_hidden_layers=1), tmp_path / "old", max_shard_size=8000)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    _refused(folder, match, plan=deeper_plan, weights=folder)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        (Sizes(layers="1"), "more than the present 1 layers"),
        (Sizes(layers="+1", stack="model.norm"), "stack: expected the path of a ModuleList"),
        (Sizes(layers="+1", stack="layers"), "stack: expected one of"),
        (Sizes(width=0.5), "factor: expected"),
        (Sizes(width=1.3), "residual stream can't grow"),
        (Sizes(vocab=64), "more than the present 64 tokens"),
    ],
)
def test_sizes_that_are_no_growth(sizes: Sizes, match: str, folder: Path) -> None:
    _refused(folder, match, sizes)


@pytest.mark.parametrize("sizes", [{}, {"layers": "25%"}, {"layers": "many"}, {"width": 1.5, "stack": "model.layers"}])
def test_sizes_that_say_nothing(sizes: dict[str, Any]) -> None:
    with pytest.raises(SurgeryError, match="expected"):
        Sizes(**sizes)


def test_a_folder_that_exists_is_never_written(folder: Path, deeper_plan: CheckpointPlan) -> None:
    (folder.parent / "new").mkdir()
    _refused(folder, "expected a new folder", plan=deeper_plan)


class _Hostile:
    """Makes a file where its pickle is read as one."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return self.mark.touch, ()


def _optimizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return write


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda path: path.unlink(), "got no file"),
        (lambda path: path.write_bytes(b"junk"), "expected plain tensors"),
        (lambda path: torch.save(_Hostile(path.with_name("mark")), path), "expected plain tensors"),
        (lambda path: torch.save([1], path), "expected state and param_groups"),
        (lambda path: torch.save({"state": {}, "param_groups": [1]}, path), "expected state and param_groups"),
        (_optimizer(lambda found: found["param_groups"].pop()), "expected groups of"),
        (_optimizer(lambda found: found["param_groups"][0]["params"].pop()), "expected groups of"),
        (_optimizer(lambda found: found["state"][0].update(exp_avg=torch.ones(3, 3))), "exp_avg of 'model.embed_tok"),
        (_optimizer(lambda found: found["state"][0].update(exp_avg=[1])), "can't be carried|expected"),
    ],
)
def test_an_optimizer_of_another_model_or_none(
    write: Callable[[Path], object], match: str, folder: Path, deeper_plan: CheckpointPlan
) -> None:
    write(folder / "optimizer.pt")
    _refused(folder, match, plan=deeper_plan, optimizer=folder / "optimizer.pt")


@pytest.mark.parametrize(
    ("tensors", "match"),
    [({}, "an empty file"), ({"ids": IDS}, "given inputs: expected a batch"), (None, "expected a safetensors file")],
)
def test_inputs_that_the_model_does_not_take(
    tensors: Any, match: str, folder: Path, deeper_plan: CheckpointPlan
) -> None:
    path = folder.parent / "batch.safetensors"
    save_file(tensors, path) if tensors is not None else path.write_text("no")
    _refused(folder, match, plan=deeper_plan, inputs=path)


@pytest.mark.parametrize("damage", ["names", "shapes", "part"])
def test_a_distributed_checkpoint_that_is_damaged_or_of_another_model(
    damage: str, folder: Path, deeper_plan: CheckpointPlan
) -> None:
    parts, model = folder.parent / "parts", llama(num_hidden_layers=1)
    state = dict(model.state_dict())
    if damage == "shapes":
        state["model.norm.weight"] = torch.ones(3)
    if damage == "names":
        state.pop("model.norm.weight")
    torch.distributed.checkpoint.save(state, checkpoint_id=parts, no_dist=True)
    if damage == "part":
        part = next(parts.glob("*.distcp"))
        part.write_bytes(part.read_bytes()[:300])
    found = {"names": "got none named 'model.norm", "shapes": "expected the shape", "part": "expected whole files"}
    _refused(folder, found[damage], plan=deeper_plan, weights=parts)


def _reaching(name: str, mark: Path) -> bytes:
    """A pickle that asks for a name with dots, through the module of an admitted one."""
    return f"\x80\x04ctorch.distributed.checkpoint.{name}\n(V{mark}\ntR.".encode("latin-1")


def _elsewhere(mark: Path) -> bytes:
    place = filesystem._StorageInfo(str(mark), 0, 1)
    return pickle.dumps(Metadata({}, storage_data={MetadataIndex("model.norm.weight"): place}))


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        (lambda mark: b"junk", "expected what torch.distributed"),
        (lambda mark: pickle.dumps([1]), "expected what torch.distributed"),
        (lambda mark: pickle.dumps(_Hostile(mark)), "getattr; nothing of it was executed"),
        (lambda mark: _reaching("filesystem\nos.mkdir", mark), "os.mkdir; nothing of it was executed"),
        (_elsewhere, "expected an id"),
    ],
)
def test_metadata_of_a_distributed_checkpoint_runs_nothing_and_leads_nowhere(
    metadata: Callable[[Path], bytes], match: str, folder: Path, deeper_plan: CheckpointPlan
) -> None:
    parts = folder.parent / "parts"
    parts.mkdir()
    (parts / ".metadata").write_bytes(metadata(folder.parent / "mark"))
    _refused(folder, match, plan=deeper_plan, weights=parts)
