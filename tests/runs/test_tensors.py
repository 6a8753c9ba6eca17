"""Tensors come back from a file as they were, and go there one after the other."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftwork.errors import RunError
from graftwork.runs import load_tensors, save_tensors


def every_kind() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    found = {str(t): (10 * torch.randn(3, 5, generator=generator)).to(t) for t in (*types, torch.int8)}
    found |= {"bytes": torch.arange(7, dtype=torch.uint8), "bools": torch.tensor([True, False, True])}
    found |= {"one number, named in ümlauts": torch.tensor(2.5), "nothing": torch.zeros(0, 3)}
    filters = torch.randn(4, 3, 3, 3, generator=generator)
    found |= {"channels last": filters.contiguous(memory_format=torch.channels_last), "seen": filters[:, 1]}
    return found | {"seen transposed": filters[0, 0].t(), "trained": torch.nn.Parameter(filters)}


def test_every_kind_of_tensor_comes_back_as_the_safetensors_package_reads_and_writes_it(tmp_path: Path) -> None:
    tensors, mine, theirs = every_kind(), tmp_path / "mine.safetensors", tmp_path / "theirs.safetensors"
    save_tensors(mine, tensors)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, theirs)
    found, expected = load_file(mine), load_file(theirs)
    assert set(found) == set(expected) == set(tensors)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)
        assert torch.equal(load_tensors(mine)[name], tensors[name])
    assert mine.stat().st_size == pytest.approx(theirs.stat().st_size, abs=8)


def test_no_tensors_are_a_file_too(tmp_path: Path) -> None:
    save_tensors(tmp_path / "none.safetensors", {})
    assert load_tensors(tmp_path / "none.safetensors") == {}


def test_an_unknown_type_is_an_error_and_the_old_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(2)})
    with pytest.raises(RunError, match=r"expected types F64.*complex64"):
        save_tensors(path, {"a": torch.ones(2, dtype=torch.complex64)})
    assert torch.equal(load_tensors(path)["a"], torch.ones(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
