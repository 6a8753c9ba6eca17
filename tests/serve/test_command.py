"""``graftwork serve`` tells what is missing by the project's form."""

import socket
import sys
from pathlib import Path

import pytest

from graftwork.cli import main


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["serve", *words])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "found none; pip install 'graftwork[serve]'" in refused(capsys, str(tmp_path))


def test_a_folder_that_is_none_and_a_port_that_is_taken_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    assert "expected a run folder, or a folder of them, got none" in refused(capsys, str(tmp_path / "nothing"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port}: expected a free one" in refused(capsys, str(tmp_path), "--port", port)
    assert "port 99999: expected a free one" in refused(capsys, str(tmp_path), "--port", "99999")
