"""Exit codes tell bad input from a machine that gave out from an interruption."""

import io
from pathlib import Path
from typing import Any

import pytest

from graftwork.cli import main
from graftwork.errors import ConfigError, ResourceError, SearchInterruptedError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("budget"), 2),
        (ResourceError("disk full"), 1),
        (SearchInterruptedError("stopped"), 130),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
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
