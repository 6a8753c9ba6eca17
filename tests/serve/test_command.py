"""``graftwork serve`` tells what is missing by the project's form."""

import logging
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

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


def test_handlers_of_logging_that_a_program_has_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    handler, closed = logging.StreamHandler(), []
    monkeypatch.setattr(handler, "close", lambda: closed.append(handler))
    assert "expected a free one" in refused(capsys, str(tmp_path), "--port", "99999")
    assert not closed


@pytest.mark.slow
def test_the_page_opens_by_its_address_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    command = [sys.executable, "-m", "graftwork", "serve", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        assert address.hostname == "127.0.0.1"
        asking = HTTPConnection(address.netloc)
        asking.request("GET", "/")
        refused = asking.getresponse()
        refused.read()
        asking.request("GET", f"/?{address.query}")
        entered = asking.getresponse()
        entered.read()
        asking.request("GET", "/", headers={"cookie": str(entered.headers["set-cookie"]).partition(";")[0]})
        page = asking.getresponse()
        assert (refused.status, entered.status, page.status) == (403, 303, 200)
        assert b"No run is here yet" in page.read()
        asking.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
