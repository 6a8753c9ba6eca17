"""Parts of a run folder that a stranger may have put there: refused before anything is done with them."""

import os
from pathlib import Path

import pytest

from graftwork import _files
from graftwork._files import damaged, read_named, sha256_of
from graftwork.errors import GenomeError, RunError
from graftwork.runs import RunFolder, load_tensors
from graftwork.runs._plain import checked
from graftwork.runs._records import Opening


def test_a_lock_never_empties_a_file_of_somebody_else(tmp_path: Path) -> None:
    """Taking a lock makes its file empty, and a hard link leads to any file of the same disk."""
    (tmp_path / "run").mkdir()
    (tmp_path / "kept").write_text("mine")
    os.link(tmp_path / "kept", tmp_path / "run" / "lock")
    with pytest.raises(RunError, match="lock: expected an empty file"):
        RunFolder(tmp_path / "run").lock()
    assert (tmp_path / "kept").read_text() == "mine"


@pytest.mark.parametrize("name", ["lock", "owner.json"])
def test_a_folder_in_the_place_of_the_lock_or_its_note_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=f"{name}: expected"):
        RunFolder(tmp_path).lock()


def test_a_file_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"")
    os.truncate(path, 2**43)  # as large as ext4 lets it be
    for read in (sha256_of, load_tensors):
        with pytest.raises(RunError, match="expected at most half of this machine's"):
            read(path)


def test_the_memory_of_a_machine_that_does_not_tell_is_taken_for_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert _files._memory() == 2**40


def test_a_file_that_is_named_may_be_a_link_but_not_to_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    assert read_named(tmp_path / "link") == b"x"
    with pytest.raises(RunError, match="expected a file, got a link"):
        read_named(tmp_path / "loop")


def test_a_list_without_end_is_refused() -> None:
    with pytest.raises(RunError, match="members: expected at most 100,000 entries"):
        checked(Opening, {"at": "", "by": "", "members": ["m0"] * 100_001}, "x")


@pytest.mark.parametrize(
    "error", [KeyError("a"), ValueError("\x1b"), OverflowError(), RuntimeError("size"), IndexError()]
)
def test_what_goes_wrong_with_damaged_data_is_one_error(error: Exception) -> None:
    with (
        pytest.raises(GenomeError, match=r"^genome: expected what graftwork writes") as raised,
        damaged("genome", error=GenomeError),
    ):
        raise error
    assert "\x1b" not in str(raised.value)


def test_our_own_errors_and_the_end_of_memory_pass_as_they_are() -> None:
    for error in (GenomeError("ours"), RuntimeError("not enough memory"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, damaged("x"):
            raise error
        assert raised.value is error
