"""``graftwork grow``: what it prints, its exit codes, and a kill in the middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftwork.cli import main
from tests.surgery.checkpoints.folders import llama, saved, transformers

pytestmark = pytest.mark.filterwarnings("ignore")


def _run(capsys: Any, *words: object) -> tuple[Any, str, str]:
    """Exit code, output and errors of the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["grow", *map(str, words)])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(llama(num_hidden_layers=1), tmp_path_factory.mktemp("small"))


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small, tmp_path / "old")


def test_a_dry_run_prints_the_plan_and_reads_and_writes_nothing(folder: Path, capsys: Any) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights")
    code, out, err = _run(capsys, folder, "--layers", "+1", "--dry-run", "--out", folder.parent / "new")
    assert (code, err) == (0, "")
    assert "config.num_hidden_layers: 1 → 2" in out
    assert f"{llama(num_hidden_layers=1).num_parameters():,} →" in out
    assert "in memory" in out
    code, out, _ = _run(capsys, folder, "--layers", "+1", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["parameters"][1] == llama(num_hidden_layers=2).num_parameters()
    assert [path.name for path in folder.parent.iterdir()] == ["old"]


def test_a_growth_says_what_it_did(folder: Path, capsys: Any) -> None:
    code, out, err = _run(capsys, folder, "--layers", "+1", "--out", folder.parent / "new")
    assert (code, err) == (0, "")
    assert "largest relative change of the outputs 0.0e+00" in out
    assert transformers.LlamaForCausalLM.from_pretrained(folder.parent / "new").config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--layers", "+1"], "--out: expected a folder"),
        (["--out", "NEW"], "expected something that grows"),
        (["--layers", "+1", "--out", "OLD"], "expected a new folder"),
        (["--layers", "x", "--out", "NEW"], 'expected "+4"'),
        (["--layers", "+1", "--dtype", "int8", "--out", "NEW"], "dtype: expected one of"),
        (["--layers", "+1", "--to", "gguf", "--out", "NEW"], "to: expected one of"),
        (["--layers", "+1", "--weights", "NOWHERE", "--out", "NEW"], "expected a folder with weights"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], text: str, folder: Path, capsys: Any) -> None:
    paths = {"OLD": folder, "NEW": folder.parent / "new", "NOWHERE": folder.parent / "nowhere"}
    code, _, err = _run(capsys, folder, *(paths.get(word, word) for word in words))
    assert code == 2
    assert err.startswith("error: ")
    assert text in err
    assert err.count("\n") == 1
    assert not (folder.parent / "new").exists()


def test_without_transformers_it_says_what_to_install(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = _run(capsys, folder, "--layers", "+1", "--dry-run")
    assert code == 2
    assert "pip install 'graftwork[transformers]'" in err


_KILLED = """
import os, signal, sys
from graftwork.surgery.checkpoints import _grow
_grow.digest_of = lambda tensors: os.kill(os.getpid(), signal.SIGKILL)
from graftwork.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_kill_leaves_nothing_under_the_name_and_the_next_one_clears_up(folder: Path, capsys: Any) -> None:
    words = ["grow", str(folder), "--layers", "+1", "--out", str(folder.parent / "new")]
    ended = subprocess.run([sys.executable, "-c", _KILLED, *words], check=False, env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    left = {path.name for path in folder.parent.iterdir()}
    assert "new" not in left
    assert len(left) == 2  # a folder aside
    assert _run(capsys, *words[1:])[0] == 0
    assert {path.name for path in folder.parent.iterdir()} == {"old", "new"}
