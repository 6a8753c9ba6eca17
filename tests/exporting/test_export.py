"""An export is checked, and all or nothing; the member is left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import GraftworkError, InputError, ResourceError
from graftwork.exporting import _export as implementation
from graftwork.exporting import export_member, open_export
from graftwork.networks.execution import InputTransform
from tests.exporting.cases import NAMES, RICH, ready, transform_for

OPTIONS: dict[str, Any] = {"to": "source", "transform": transform_for(RICH), "class_names": NAMES[:4]}


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_export_leaves_the_member_alone(tmp_path: Path) -> None:
    member = ready(RICH)
    tensors = {**member.parameters_by_key(), **dict(member.named_buffers())}
    before = {key: (tensor, tensor.detach().clone(), tensor.stride()) for key, tensor in tensors.items()}
    export_member(member, tmp_path / "new" / "folder", **OPTIONS)
    assert member.training
    after = {**member.parameters_by_key(), **dict(member.named_buffers())}
    assert before.keys() == after.keys()
    for key, (tensor, value, stride) in before.items():
        assert after[key] is tensor
        assert torch.equal(tensor, value)
        assert tensor.stride() == stride


def test_report_tells_paths_and_gaps(tmp_path: Path) -> None:
    report = export_member(ready(RICH), tmp_path, **OPTIONS)
    assert [path.name for path in report.paths] == ["model.py", "model.safetensors"]
    assert sorted(_contents(tmp_path)) == ["model.py", "model.safetensors"]
    assert report.exact_gap < 1e-12
    assert report.max_gap is not None
    assert report.max_gap < 1e-5
    assert report.tolerance == 1e-4
    assert "model.py" in str(report)


def test_equal_members_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        export_member(ready(RICH), tmp_path / name, **OPTIONS)
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


def test_files_are_replaced_only_when_asked(tmp_path: Path) -> None:
    export_member(ready(RICH, 1), tmp_path, **OPTIONS)
    first = _contents(tmp_path)
    with pytest.raises(InputError, match=r"model\.py and model\.safetensors exist"):
        export_member(ready(RICH, 2), tmp_path, **OPTIONS)
    assert _contents(tmp_path) == first
    export_member(ready(RICH, 2), tmp_path, **OPTIONS, overwrite=True)
    second = _contents(tmp_path)
    assert second.keys() == first.keys()
    assert second["model.safetensors"] != first["model.safetensors"]


def test_what_a_killed_export_left_aside_is_swept_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".export.999999999.tmp").mkdir()
    export_member(ready(RICH), tmp_path, **OPTIONS)
    assert sorted(_contents(tmp_path)) == ["model.py", "model.safetensors"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_wrong_network_is_found_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    if overwrite:
        export_member(ready(RICH), tmp_path, **OPTIONS)
    before = _contents(tmp_path)
    right = implementation.plain_tensors
    monkeypatch.setattr(
        implementation, "plain_tensors", lambda member: {n: t * (1 + 1e-7) for n, t in right(member).items()}
    )
    with pytest.raises(GraftworkError, match=r"differs from the member by .* in float64.*nothing was written"):
        export_member(ready(RICH), tmp_path, **OPTIONS, overwrite=overwrite)
    assert _contents(tmp_path) == before


def test_a_file_that_gives_other_outputs_is_found_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = implementation.write_files

    def damage(to: Any, folder: Path, **parts: Any) -> tuple[Path, ...]:
        parts["tensors"] = {n: t * 1.01 for n, t in parts["tensors"].items()}
        return right(to, folder, **parts)

    monkeypatch.setattr(implementation, "write_files", damage)
    with pytest.raises(GraftworkError, match=r"differs from the member by .* in float32"):
        export_member(ready(RICH), tmp_path, **OPTIONS)
    assert _contents(tmp_path) == {}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_fails_between_two_files_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    if overwrite:
        export_member(ready(RICH, 1), tmp_path, **OPTIONS)
    before = _contents(tmp_path)
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ResourceError, match=r"No space left on device; nothing was replaced"):
        export_member(ready(RICH, 2), tmp_path, **OPTIONS, overwrite=overwrite)
    assert _contents(tmp_path) == before


def test_a_folder_that_is_a_file_is_an_error_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match="can't write to"):
        export_member(ready(RICH), tmp_path / "file", **OPTIONS)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"to": "tflite"}, r"to: expected one of source, pt2, onnx, got 'tflite'"),
        ({"class_names": ("a", "b")}, r"expected 4 class names, got \('a', 'b'\)"),
        ({"class_names": "abcd"}, r"expected 4 class names, got 'abcd'"),
        ({"transform": InputTransform((0.5,), (0.5,))}, r"expected 3 finite values of mean"),
        ({"transform": InputTransform((0.5,) * 3, (0.5, 0.0, 0.5))}, r"std: expected numbers > 0"),
        ({"transform": InputTransform((0.5,) * 3, (0.5, float("nan"), 0.5))}, r"expected 3 finite values of std"),
    ],
)
def test_arguments_that_do_not_fit_the_member_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_member(ready(RICH), tmp_path / "out", **(OPTIONS | change))
    assert not (tmp_path / "out").exists()


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected an exported model \(model\.py, model\.pt2, model\.onnx\)"):
        open_export(tmp_path)
    (tmp_path / "other.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=r"was not exported by graftwork"):
        open_export(tmp_path / "other.py")
