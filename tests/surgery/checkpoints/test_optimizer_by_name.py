"""An optimizer's state by names: in folders of ``torch.distributed.checkpoint``, and in files of such states."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import graftwork as gw
from graftwork.errors import SurgeryError
from graftwork.surgery.checkpoints import CheckpointPlan, grow_checkpoint
from graftwork.surgery.checkpoints._optimizer import StoredOptimizer
from tests.surgery.checkpoints.folders import TOKENS, llama, optimizer_of, transformers

pytestmark = pytest.mark.filterwarnings("ignore")


def _parts(model: Any, optimizer: torch.optim.Optimizer, folder: Path, *, flat: bool = False) -> None:
    """Save a training as those of many processes do."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    state = {"optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.save({"model": get_model_state_dict(model), **state}, checkpoint_id=folder, no_dist=True)


def _fresh(model: Any) -> torch.optim.AdamW:
    decaying = set(transformers.Trainer.get_decay_parameter_names(None, model))
    named = list(model.named_parameters())
    groups = [[p for n, p in named if (n in decaying) is decays] for decays in (True, False)]
    decays = zip(groups, (0.1, 0.0), strict=True)
    return torch.optim.AdamW([{"params": group, "weight_decay": decay} for group, decay in decays], lr=1e-3)


def _loaded(model: Any, folder: Path, *, flat: bool = False) -> torch.optim.AdamW:
    """The optimizer of a model as a training makes it and loads its state."""
    optimizer, options = _fresh(model), StateDictOptions(flatten_optimizer_state_dict=flat)
    state = {"optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
    return optimizer


def _refuse_unequal(found: torch.optim.Optimizer, wanted: torch.optim.Optimizer) -> None:
    """Compare all state, parameter by parameter in the order of the groups."""
    for own, theirs in zip(found.param_groups, wanted.param_groups, strict=True):
        assert own["weight_decay"] == theirs["weight_decay"]
        for one, other in zip(own["params"], theirs["params"], strict=True):
            assert found.state[one].keys() == wanted.state[other].keys()
            for key, value in wanted.state[other].items():
                assert torch.equal(found.state[one][key], value), key
                assert found.state[one][key].dtype == value.dtype


def test_a_training_of_many_processes_goes_on_from_the_grown_parts(
    small: Path, deeper_plan: CheckpointPlan, tmp_path: Path
) -> None:
    model = llama(num_hidden_layers=1)
    optimizer = optimizer_of(model, TOKENS)
    _parts(model, optimizer, tmp_path / "optimizer_0")
    (tmp_path / "trainer_state.json").write_text('{"global_step": 2}')
    receipt = grow_checkpoint(deeper_plan, tmp_path / "new", optimizer=tmp_path / "optimizer_0", to="dcp")
    assert (tmp_path / "new" / "trainer_state.json").is_file()
    assert '".metadata"' in (tmp_path / "new" / "growth.json").read_text()  # its hash, among the inputs
    again = transformers.LlamaForCausalLM(deeper_plan.config)
    resumed = _loaded(again, tmp_path / "new")
    gw.grow(model, deeper_plan.growths[0], example_input=TOKENS, optimizer=optimizer)
    assert receipt.optimizer_state == len(optimizer.state) == len(list(again.parameters()))
    _refuse_unequal(resumed, optimizer)


@pytest.mark.parametrize(("dtype", "flat"), [(torch.float32, True), (torch.bfloat16, False)])
def test_state_is_read_and_written_as_it_was_stored(dtype: torch.dtype, flat: bool, tmp_path: Path) -> None:
    model = llama(num_hidden_layers=1).to(dtype)
    optimizer = optimizer_of(model, TOKENS)
    _parts(model, optimizer, tmp_path / "old", flat=flat)
    stored = StoredOptimizer(tmp_path / "old", model)
    _refuse_unequal(stored.optimizer, optimizer)
    dcp.save({"optimizer": stored.entries(model)}, checkpoint_id=tmp_path / "new", no_dist=True)
    _refuse_unequal(_loaded(model, tmp_path / "new", flat=flat), optimizer)


def test_a_file_holds_names_where_parts_did_and_becomes_parts(small: Path, tmp_path: Path) -> None:
    model = llama(num_hidden_layers=1)
    optimizer = optimizer_of(model, TOKENS)
    _parts(model, optimizer, tmp_path / "parts", flat=True)
    StoredOptimizer(tmp_path / "parts", model).save(model, tmp_path)
    held, resumed = torch.load(tmp_path / "optimizer.pt", weights_only=True), _fresh(model)
    set_optimizer_state_dict(model, resumed, held)
    _refuse_unequal(resumed, optimizer)
    for name, file in (("by_name", tmp_path / "optimizer.pt"), ("by_place", small / "optimizer.pt")):
        entries = StoredOptimizer(file, model).entries(model)
        dcp.save({"optimizer": entries}, checkpoint_id=tmp_path / name, no_dist=True)
        _refuse_unequal(_loaded(model, tmp_path / name), optimizer)


class _Touching:
    """Makes a file where its pickle is read as one."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return self.mark.touch, ()


def _with(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any], Path], None]:
    def write(state: dict[str, Any], folder: Path) -> None:
        change(state)
        dcp.save({"optimizer": state}, checkpoint_id=folder, no_dist=True)

    return write


def _with_metadata(change: Callable[[Metadata], object]) -> Callable[[dict[str, Any], Path], None]:
    def write(state: dict[str, Any], folder: Path) -> None:
        dcp.save({"optimizer": state}, checkpoint_id=folder, no_dist=True)
        metadata = dcp.FileSystemReader(folder).read_metadata()
        change(metadata)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return write


def _huge(metadata: Metadata) -> None:
    """A tensor of 8 TB, by its metadata."""
    held = metadata.state_dict_metadata
    key = "optimizer.state.model.norm.weight.exp_avg"
    size = torch.Size([2**41])
    held[key] = replace(held[key], size=size, chunks=[replace(held[key].chunks[0], sizes=size)])


def _halved(metadata: Metadata) -> None:
    metadata.state_dict_metadata["optimizer.state.model.norm.weight.exp_avg"].chunks.clear()


_NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda state, folder: dcp.save({"a": torch.ones(1)}, checkpoint_id=folder, no_dist=True), "got none"),
        (_with(lambda s: s["state"].update({"x.weight": s["state"].pop(_NORM)})), "'x.weight', which is none"),
        (_with(lambda s: s["state"][_NORM].update(exp_avg=torch.ones(3))), "exp_avg of 'model.norm"),
        (_with(lambda s: s["state"][_NORM].update(shape=[1, 2])), "shape of 'model.norm.weight'.*a list"),
        (_with(lambda s: s["param_groups"][1]["params"].append("model.embed_tokens.weight")), "is in two groups"),
        (_with(lambda s: s["param_groups"][1]["params"].remove(_NORM)), "is in no group"),
        (_with(lambda s: s["param_groups"][0].pop("params")), "expected groups of parameters"),
        (_with(lambda s: s["param_groups"][0].update(lr=torch.ones(3))), "expected one number"),
        (_with(lambda s: s["param_groups"][0].update(lr=_Touching(Path("mark")))), "expected whole files of tensors"),
        (_with_metadata(_huge), "expected the shape"),
        (_with_metadata(_halved), "with 0 of 16 numbers"),
    ],
)
def test_parts_of_another_optimizer_or_with_more_than_plain_data(
    write: Callable[[dict[str, Any], Path], None],
    match: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = llama(num_hidden_layers=1)
    optimizer = _fresh(model)
    optimizer.load_state_dict(torch.load(small / "optimizer.pt", weights_only=True))
    write(get_optimizer_state_dict(model, optimizer), tmp_path / "parts")
    with pytest.raises(SurgeryError, match=match):
        StoredOptimizer(tmp_path / "parts", model)
    assert not (tmp_path / "mark").exists()
