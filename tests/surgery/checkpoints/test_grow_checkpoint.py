"""Checkpoints grow on disk: the same function, the ecosystem's own files, all or nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import graftwork as gw
from graftwork._files import sha256_of
from graftwork.errors import NotPreservedError, ResourceError, SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery.checkpoints import CheckpointReceipt, Sizes, plan_checkpoint
from graftwork.surgery.checkpoints import _grow as growing
from tests.surgery.checkpoints.folders import (
    IDS,
    TOKENS,
    gpt2,
    grown,
    llama,
    optimizer_of,
    outputs,
    saved,
    transformers,
    vit,
)

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGES = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize(
    ("build", "inputs", "sizes"),
    [
        (llama, TOKENS, Sizes(layers="+34%", vocab=70)),
        (gpt2, TOKENS, Sizes(layers="3", vocab=70)),
        (vit, IMAGES, Sizes(mlp=1.5)),
        pytest.param(llama, TOKENS, Sizes(layers="+1", width=1.5, mlp=1.5, vocab=70), marks=pytest.mark.slow),
        pytest.param(gpt2, TOKENS, Sizes(layers="+1", width=1.5, mlp=1.5, vocab=70), marks=pytest.mark.slow),
        pytest.param(vit, IMAGES, Sizes(layers="+1", width=1.5, mlp=1.5), marks=pytest.mark.slow),
    ],
)
def test_the_grown_checkpoint_computes_what_the_old_one_did(
    build: Any, inputs: Any, sizes: Sizes, tmp_path: Path
) -> None:
    model = build()
    source = saved(model, tmp_path / "old")
    receipt = grown(source, tmp_path / "new", sizes)
    again = type(model).from_pretrained(tmp_path / "new")
    before, after = outputs(model, inputs), outputs(again, inputs)
    assert output_gap(before, after[..., : before.shape[-1]]) < 2e-6
    assert again.num_parameters() == receipt.parameters[1] > receipt.parameters[0] == model.num_parameters()
    assert receipt.largest_gap < 2e-6
    assert "random inputs" in receipt.gaps
    assert (tmp_path / "new" / "tokenizer_config.json").read_text() == '{"model_max_length": 32}'


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, CheckpointReceipt]:
    """A Llama, the folder beside ``old`` in which it has two more layers, and the receipt."""
    folder, model = tmp_path_factory.mktemp("deeper"), llama()
    source = saved(model, folder / "old")
    save_file({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, folder / "batch.safetensors")
    receipt = grown(source, folder / "new", Sizes(layers="+2"), inputs=folder / "batch.safetensors")
    return model, folder / "new", receipt


def test_new_layers_change_no_bit_of_the_logits_and_generate_as_before(deeper: Any) -> None:
    model, folder, receipt = deeper
    again = transformers.LlamaForCausalLM.from_pretrained(folder)
    assert again.config.num_hidden_layers == len(again.model.layers) == 5
    assert torch.equal(outputs(model, TOKENS), outputs(again, TOKENS))
    assert torch.equal(model.generate(IDS, max_new_tokens=4), again.generate(IDS, max_new_tokens=4))
    uses = {"given inputs", "prefill and steps with the cache", "left padding", "right padding"}
    assert uses <= set(receipt.gaps)
    assert receipt.largest_gap == 0.0


def test_the_receipt_says_what_was_done_and_from_what(deeper: Any) -> None:
    _, folder, receipt = deeper
    found = json.loads((folder / "growth.json").read_text())
    assert [entry["growth"]["kind"] for entry in found["growths"]] == ["insert-layers"]
    assert found["inputs"]["model.safetensors"] == sha256_of(folder.parent / "old" / "model.safetensors")
    assert found["parameters"] == list(receipt.parameters)
    assert found["gaps"]["random inputs"] == 0.0
    rebuilt = llama()
    gw.surgery.replay(rebuilt, folder)  # the same file is the log that graftwork replays
    assert rebuilt.config.num_hidden_layers == len(rebuilt.model.layers) == 5


def test_a_wider_file_equals_a_model_that_grew_in_memory_bit_for_bit(tmp_path: Path) -> None:
    model = llama(num_hidden_layers=1)
    source = saved(model, tmp_path / "old")
    grown(source, tmp_path / "new", Sizes(width=1.5))
    gw.grow(model, gw.WidenStream(1.5, check="fast"), example_input=TOKENS)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "new").state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_shards_become_shards_of_that_size(tmp_path: Path) -> None:
    model = llama()
    source = saved(model, tmp_path / "old", max_shard_size=8000)
    assert len(list(source.glob("model-*.safetensors"))) > 2
    grown(source, tmp_path / "new", Sizes(layers="+1"))
    shards = list((tmp_path / "new").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert (tmp_path / "new" / "model.safetensors.index.json").is_file()
    assert max(path.stat().st_size for path in shards) < 12000
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "new")
    assert torch.equal(outputs(model, TOKENS), outputs(again, TOKENS))


def test_precision_is_the_checkpoints_or_what_was_asked_for(tmp_path: Path) -> None:
    source = saved(llama(num_hidden_layers=1).to(torch.bfloat16), tmp_path / "old")
    grown(source, tmp_path / "same", Sizes(layers="+1"))
    grown(source, tmp_path / "double", Sizes(layers="+1"), dtype="float64")
    kinds = [
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / name, dtype="auto").dtype
        for name in ("same", "double")
    ]
    assert kinds == [torch.bfloat16, torch.float64]


def test_a_plan_reads_no_weights_and_tells_what_will_be(tmp_path: Path) -> None:
    source = saved(llama(), tmp_path / "old")
    for path in source.glob("*.safetensors"):
        path.unlink()
    plan = plan_checkpoint(source, Sizes(layers="+1", mlp=1.5))
    old, grown = llama(), llama(num_hidden_layers=4, intermediate_size=36)
    assert plan.parameters == (old.num_parameters(), grown.num_parameters())
    assert plan.bytes == tuple(sum(t.nbytes for t in [*m.parameters(), *m.buffers()]) for m in (old, grown))
    assert plan.bytes[1] <= plan.memory < sum(plan.bytes)
    assert "config.intermediate_size: 24 → 36" in str(plan)
    assert "(×3)" in str(plan)


def test_weights_of_torch_distributed_are_read_and_written(tmp_path: Path) -> None:
    model = gpt2()  # one tensor under two names
    model.generation_config.max_new_tokens = 7
    source = saved(model, tmp_path / "old")
    grown(source, tmp_path / "parts", Sizes(layers="+1"), to="dcp")
    assert (tmp_path / "parts" / ".metadata").is_file()
    assert not list((tmp_path / "parts").glob("*.safetensors"))
    grown(tmp_path / "parts", tmp_path / "back", Sizes(layers="+1"))
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "back")
    assert len(again.transformer.h) == 4
    assert again.generation_config.max_new_tokens == 7
    assert torch.equal(outputs(model, TOKENS), outputs(again, TOKENS))


def test_weights_may_lie_beside_a_config_in_another_folder(tmp_path: Path) -> None:
    model = llama(num_hidden_layers=1)
    source = saved(model, tmp_path / "old")
    torch.distributed.checkpoint.save({"module": model.state_dict()}, checkpoint_id=tmp_path / "weights", no_dist=True)
    (source / "model.safetensors").unlink()
    receipt = grown(
        source, tmp_path / "new", Sizes(layers="+1"), weights=tmp_path / "weights", to="dcp", dtype="bfloat16"
    )
    assert receipt.largest_gap == 0.0
    assert json.loads((tmp_path / "new" / "config.json").read_text())["dtype"] == "bfloat16"


def test_what_is_not_exact_needs_leave_and_states_its_gap(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=4, vocab_size=64
    )
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    with torch.no_grad():  # two norms in a row are one where gains are all 1
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    source = saved(model, tmp_path / "old")
    with pytest.raises(SurgeryError, match="approximate"):
        plan_checkpoint(source, Sizes(layers="+1"))
    receipt = grown(source, tmp_path / "new", Sizes(layers="+1", approximate=True))
    assert receipt.largest_gap > 1e-3


def test_a_changed_function_is_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(llama(num_hidden_layers=1), tmp_path / "old")
    grow = growing.grow

    def spoilt(model: Any, growth: Any, **options: Any) -> Any:
        receipt = grow(model, growth, **options)
        with torch.no_grad():
            model.model.norm.weight.mul_(1.5)
        return receipt

    monkeypatch.setattr(growing, "grow", spoilt)
    with pytest.raises(NotPreservedError, match="nothing was written"):
        grown(source, tmp_path / "new", Sizes(layers="+1"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("place", ["save", "save_optimizer", "digest_of", "write_json"])
def test_a_failure_at_any_step_leaves_nothing(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(num_hidden_layers=1)
    source = saved(model, tmp_path / "old")
    torch.save(optimizer_of(model, TOKENS).state_dict(), source / "optimizer.pt")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    step = getattr(growing, place)

    def broken(*arguments: Any, **options: Any) -> Any:
        step(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(growing, place, broken)
    with pytest.raises(KeyboardInterrupt):
        grown(source, tmp_path / "new", Sizes(layers="+1"), optimizer=source / "optimizer.pt")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("torch.save", RuntimeError("PytorchStreamWriter failed writing file data/0")),
        ("safetensors.torch.save_file", SafetensorError("No space left on device")),
        ("shutil.copyfile", OSError(28, "No space left on device")),
    ],
)
def test_a_full_disk_is_the_machines_fault_and_leaves_nothing(
    place: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama(num_hidden_layers=1)
    source = saved(model, tmp_path / "old")
    torch.save(optimizer_of(model, TOKENS).state_dict(), source / "optimizer.pt")

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, full)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full if "safetensors" in place else save_file)
    with pytest.raises(ResourceError, match=r"can't write .*(No space|failed writing)"):
        grown(source, tmp_path / "new", Sizes(layers="+1"), optimizer=source / "optimizer.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_files_that_read_back_as_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(llama(num_hidden_layers=1), tmp_path / "old")
    save = growing.save

    def damaged(model: Any, folder: Path, **options: Any) -> None:
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-7
        save(model, folder, **options)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] -= 1e-3

    monkeypatch.setattr(growing, "save", damaged)
    with pytest.raises(SurgeryError, match="to give the grown model back"):
        grown(source, tmp_path / "new", Sizes(layers="+1"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
