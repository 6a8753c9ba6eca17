"""Exit codes tell bad input from a machine that gave out from an interruption."""

import errno
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest

from graftwork.cli import main
from graftwork.cli._app import plain
from graftwork.errors import ConfigError, ResourceError, SearchInterruptedError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("budget"), 2),
        (ResourceError("disk full"), 1),
        (SearchInterruptedError("stopped"), 130),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
        (OSError(errno.EIO, "Input/output error", "/there"), 1),
        (MemoryError(), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 1),
        (RecursionError(), 2),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), 2),
    ],
)
def test_every_kind_of_end_has_its_exit_code(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("graftwork.cli._search.run_session", fail)
    monkeypatch.setattr("sys.stderr", io.StringIO())  # a broken pipe closes it
    with pytest.raises(SystemExit) as ended:
        main(["search", "--out", str(tmp_path / "run")])
    assert ended.value.code == code


def test_a_mistake_of_our_own_is_one_line_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("graftwork.cli._search.run_session", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["search", "--out", str(tmp_path / "run")])
    assert ended.value.code == 70
    (report,) = tmp_path.glob("graftwork-crash-*.txt")
    said = capsys.readouterr().err
    assert str(report) in said
    assert "Traceback" not in said
    assert "Traceback" in report.read_text()
    assert "KeyError: 'lost'" in report.read_text()


def test_a_message_is_one_line_of_bounded_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ConfigError("data: expected a name, got " + "a\n" * 10**6 + "; take another")

    monkeypatch.setattr("graftwork.cli._search.run_session", fail)
    with pytest.raises(SystemExit):
        main(["search", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 2000
    assert said.startswith("error: data: expected a name, got a a")
    assert said.endswith("; take another\n")


def test_text_from_files_moves_no_cursor_and_sets_no_color() -> None:
    assert plain("a\nb\t ü \x1b[31mred\x07 \x9b2J \u202eevil \udce9") == (
        r"a" "\nb\t ü " r"\x1b[31mred\x07 \x9b2J \u202eevil \udce9"
    )
