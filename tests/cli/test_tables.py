"""Tables that predict writes can be opened in a spreadsheet: no cell of a stranger's is a formula."""

import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graftwork.cli import main
from graftwork.cli._predict import as_text
from graftwork.session import Classifier

FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", "\nx", " =1+1", "=cmd|' /C calc'!A0", "＝1+1")


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_takes_for_a_formula_is_written_as_text(text: str) -> None:
    table = as_text([{"file": f"{text}.png", "class": text, "probability": 0.5}], as_json=False)
    (row,) = csv.DictReader(io.StringIO(table, newline=""))
    assert row == {"file": f"'{text}.png", "class": f"'{text}", "probability": "0.5"}


def test_a_line_end_of_another_system_begins_no_row() -> None:
    table = as_text([{"file": "a\r=1+1.png", "class": "\r=1+1", "probability": 0.5}], as_json=False)
    assert table.splitlines()[1:] == [r"a\r=1+1.png,\r=1+1,0.5"]


@pytest.mark.parametrize("text", ["cat", "7", "-1", "+2.5", "-1e-5", "a=b", "ünïcode", "'quoted'", 'a"b', "a,b", ""])
def test_other_text_and_numbers_stay_as_they_are(text: str) -> None:
    table = as_text([{"file": "/a/b.png", "class": text, "probability": -0.25}], as_json=False)
    assert next(csv.DictReader(io.StringIO(table))) == {"file": "/a/b.png", "class": text, "probability": "-0.25"}


def test_file_names_of_strangers_are_written_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def classifier(*_: Any, **__: Any) -> Classifier:
        return Classifier(lambda x: torch.zeros(len(x), 2), (3, 8, 8), ("@a", "b"))

    names = ["=1+1.png", "-a.png", *([os.fsdecode(b"\xe9.png")] if sys.platform == "linux" else [])]
    (tmp_path / "images").mkdir()
    for name in names:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / name)
    monkeypatch.chdir(tmp_path / "images")
    monkeypatch.setattr("graftwork.session.open_classifier", classifier)
    for words in (["--out", "out.csv"], []):
        with pytest.raises(SystemExit) as ended:
            main(["predict", *words, "run", *names[2:], "--", *names[:2]])
        assert ended.value.code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "images" / "out.csv").read_text())))
    assert capsys.readouterr().out.count("'=1+1.png") == 1
    assert [row["file"] for row in rows] == ["\\udce9.png"] * (len(names) - 2) + ["'=1+1.png", "'-a.png"]
    assert {row["class"] for row in rows} == {"'@a"}
