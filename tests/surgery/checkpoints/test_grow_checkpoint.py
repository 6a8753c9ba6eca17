"""Checkpoints grow on disk: the same function, the ecosystem's own files, all or nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint import FileSystemReader

import graftwork as gw
from graftwork._files import sha256_of
from graftwork.errors import NotPreservedError, ResourceError, SurgeryError
from graftwork.numerics import output_gap
from graftwork.surgery.checkpoints import CheckpointPlan, CheckpointReceipt, Sizes, grow_checkpoint, plan_checkpoint
from graftwork.surgery.checkpoints import _grow as growing
from tests.surgery.checkpoints.folders import (
    IDS,
    TOKENS,
    gpt2,
    grown,
    llama,
    outputs,
    saved,
    sparse,
    transformers,
    vit,
)

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGES = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize(
    ("build", "inputs", "sizes"),
    [
        (gpt2, TOKENS, Sizes(layers="3", vocab=70)),
        (vit, IMAGES, Sizes(mlp=1.5)),
        pytest.param(sparse, TOKENS, Sizes(kv_heads=2, experts=2, shared_expert=8), marks=pytest.mark.slow),
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
    model = llama(num_hidden_layers=1)
    source = saved(model, tmp_path / "old", max_shard_size=8000)
    assert len(list(source.glob("model-*.safetensors"))) > 2
    grown(source, tmp_path / "new", Sizes(layers="+1"))
    shards = list((tmp_path / "new").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert (tmp_path / "new" / "model.safetensors.index.json").is_file()
    assert max(path.stat().st_size for path in shards) < 12000
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "new")
    assert torch.equal(outputs(model, TOKENS), outputs(again, TOKENS))


def test_precision_is_the_checkpoints_own(tmp_path: Path) -> None:
    source = saved(llama(num_hidden_layers=1).to(torch.bfloat16), tmp_path / "old")
    grown(source, tmp_path / "new", Sizes(layers="+1"))
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "new", dtype="auto")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}


def test_a_plan_reads_no_weights_and_tells_what_will_be(tmp_path: Path) -> None:
    source = saved(llama(), tmp_path / "old")
    for path in source.glob("*.safetensors"):
        path.unlink()
    plan = plan_checkpoint(source, Sizes(layers="+34%", mlp=1.5))
    old, grown = llama(), llama(num_hidden_layers=4, intermediate_size=36)
    assert plan.parameters == (old.num_parameters(), grown.num_parameters())
    assert plan.bytes == tuple(sum(t.nbytes for t in [*m.parameters(), *m.buffers()]) for m in (old, grown))
    assert plan.bytes[1] <= plan.memory < sum(plan.bytes)
    assert "config.intermediate_size: 24 → 36" in str(plan)
    assert "(×3)" in str(plan)


def test_weights_of_torch_distributed_are_read(tmp_path: Path) -> None:
    model = gpt2(n_layer=1)  # one tensor under two names
    model.generation_config.max_new_tokens = 7
    source = saved(model, tmp_path / "old")
    state = model.state_dict()
    state.pop("lm_head.weight")
    torch.distributed.checkpoint.save({"module": state}, checkpoint_id=source, no_dist=True)
    (source / "model.safetensors").unlink()
    grown(source, tmp_path / "new", Sizes(layers="+1"))
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "new")
    assert len(again.transformer.h) == 2
    assert again.generation_config.max_new_tokens == 7
    assert torch.equal(outputs(model, TOKENS), outputs(again, TOKENS))


def test_weights_may_lie_in_another_folder_and_become_parts_of_another_precision(tmp_path: Path) -> None:
    model = gpt2(n_layer=1)
    source = saved(model, tmp_path / "old")
    torch.distributed.checkpoint.save(model.state_dict(), checkpoint_id=tmp_path / "weights", no_dist=True)
    (source / "model.safetensors").unlink()
    receipt = grown(
        source, tmp_path / "new", Sizes(layers="+1"), weights=tmp_path / "weights", to="dcp", dtype="bfloat16"
    )
    assert receipt.largest_gap == 0.0
    assert json.loads((tmp_path / "new" / "config.json").read_text())["dtype"] == "bfloat16"
    assert not list((tmp_path / "new").glob("*.safetensors"))
    held = FileSystemReader(tmp_path / "new").read_metadata().state_dict_metadata
    assert held["model.transformer.h.1.attn.c_proj.weight"].properties.dtype == torch.bfloat16


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


def test_a_changed_function_is_refused_and_nothing_is_written(
    deeper_plan: CheckpointPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow = growing.grow

    def spoilt(model: Any, growth: Any, **options: Any) -> Any:
        receipt = grow(model, growth, **options)
        with torch.no_grad():
            model.model.norm.weight.mul_(1.5)
        return receipt

    monkeypatch.setattr(growing, "grow", spoilt)
    with pytest.raises(NotPreservedError, match="nothing was written"):
        grow_checkpoint(deeper_plan, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_failure_at_the_last_step_leaves_nothing(
    deeper_plan: CheckpointPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, *_: Any) -> None:
        assert {"model.safetensors", "optimizer.pt"} <= {file.name for file in path.parent.iterdir()}
        raise KeyboardInterrupt

    monkeypatch.setattr(growing, "write_json", broken)
    with pytest.raises(KeyboardInterrupt):
        grow_checkpoint(deeper_plan, tmp_path / "new", optimizer=deeper_plan.source.folder / "optimizer.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("torch.save", RuntimeError("PytorchStreamWriter failed writing file data/0")),
        ("transformers.modeling_utils.safe_save_file", SafetensorError("No space left on device")),
        ("pathlib.Path.mkdir", NotADirectoryError(20, "No space left on device")),
    ],
)
def test_a_disk_that_takes_no_more_is_the_machines_fault(
    place: str, error: Exception, deeper_plan: CheckpointPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, full)
    with pytest.raises(ResourceError, match=r"can't write .*(No space|failed writing)"):
        grow_checkpoint(deeper_plan, tmp_path / "new", optimizer=deeper_plan.source.folder / "optimizer.pt")
    assert not list(tmp_path.iterdir())


def test_files_that_read_back_as_another_model_are_refused(
    deeper_plan: CheckpointPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = growing.save

    def damaged(model: Any, folder: Path, **options: Any) -> None:
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-7
        save(model, folder, **options)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] -= 1e-3

    monkeypatch.setattr(growing, "save", damaged)
    with pytest.raises(SurgeryError, match="to give the grown model back"):
        grow_checkpoint(deeper_plan, tmp_path / "new")
    assert not list(tmp_path.iterdir())
