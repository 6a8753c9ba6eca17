"""What a stranger hands over, a run folder, a data set, a growth, a library, can't do more than be read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import nn

import graftwork as gw
from graftwork.errors import SurgeryError
from graftwork.surgery._saving import sealed
from tests.cases.commands import graftwork, require
from tests.cases.images import class_folders, png, table


def _call_the_best(run: Path, name: str) -> None:
    """Give the best member of a run another id, wherever it is written."""
    old = json.loads((run / "result.json").read_text())["best"]["id"]
    for path in (run / "result.json", run / "records.jsonl", *(run / "members").glob("*.json")):
        path.write_text(path.read_text().replace(json.dumps(old), json.dumps(name)))


@pytest.mark.parametrize(
    "start", ['x">', *(pytest.param(s, marks=pytest.mark.slow) for s in ("</script>", "]]>", "-->"))]
)
def test_an_id_never_becomes_markup_of_the_report(start: str, run: Path) -> None:
    """A member called `x"><img …>` runs its script in the browser of who looks at the report."""
    _call_the_best(run, f"{start}<img src=x onerror=alert(1)>")
    graftwork("report", run)
    page = run / "report.html"
    assert not page.exists() or "<img src=x onerror" not in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["x/../../../victim/pwn", "../../victim/pwn", "{}/victim/pwn", "..", "x/../../victim/y"]
)
def test_an_id_never_leads_out_of_the_run_folder(name: str, run: Path, tmp_path: Path) -> None:
    """A member called `x/../../../victim/pwn` has its figures written elsewhere."""
    (tmp_path / "victim").mkdir()
    _call_the_best(run, name.format(tmp_path))
    graftwork("report", run)
    assert list((tmp_path / "victim").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\x1b[2J", b"a\nb", b"\xe2\x80\xaegnp", b"=1+1", b"<b>", b"\xff\xfe"])
def test_a_class_folder_whose_name_is_not_utf8_is_no_traceback(name: bytes, tmp_path: Path) -> None:
    """One folder name in Latin-1 bytes."""
    data = class_folders(tmp_path / "data", ("a", os.fsdecode(name)))
    ending = graftwork("data", "--data", data)
    assert ending.code in (0, 2)
    assert "\x1b" not in ending.text


def test_a_table_reads_no_image_outside_of_its_folder(tmp_path: Path) -> None:
    """A cell without bytes may name any file of the machine."""
    (tmp_path / "private").mkdir()
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "private" / "secret.png")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": "../private/secret.png"}] * 20, kind)
    path = table(tmp_path / "data" / "x.parquet", images, [0, 1] * 10)
    assert graftwork("data", "--data", path).code == 2


@pytest.mark.parametrize("metadata", [b"[" * 200_000, b'{"info":' * 100_000, b"\xff", b'{"info": {"features": []}}'])
def test_metadata_of_a_table_that_are_nested_too_deeply_are_no_traceback(metadata: bytes, tmp_path: Path) -> None:
    """200,000 brackets where the names of classes are looked for."""
    path = table(tmp_path / "x.parquet", pa.array([png(0)] * 20), [0, 1] * 10, metadata=metadata)
    assert graftwork("data", "--data", path).code in (0, 2)


BUILD = """
import sys
from pathlib import Path
from graftwork.networks.kernels import build
print(build(Path(sys.argv[1])) is not None)
"""
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")


def _build(cache: Path, **environment: str) -> str:
    command = [sys.executable, "-c", BUILD, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    require("ImportError" not in done.stderr and "ModuleNotFoundError" not in done.stderr, done.stderr)
    return done.stdout.strip()


@needs_gcc
@pytest.mark.slow
def test_a_library_that_others_may_have_put_into_the_cache_is_not_loaded(tmp_path: Path) -> None:
    """Its code runs, with the rights of who searches."""
    cache, witness = tmp_path / "cache", tmp_path / "witness"
    require(_build(cache) == "True", "kernels can be built here")
    (library,) = cache.glob("*.so")
    source = tmp_path / "foreign.c"
    source.write_text(
        '#include <stdlib.h>\n__attribute__((constructor)) void run(void) { system("touch ' + str(witness) + '"); }\n'
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    cache.chmod(0o777)
    if os.getuid() == 0:
        os.chown(library, 12345, 12345)
    _build(cache)
    assert not witness.exists()


@needs_gcc
@pytest.mark.slow
def test_a_compiler_with_arguments_builds_the_kernels(tmp_path: Path) -> None:
    """`CC="gcc -O2"`, the usual form, switches compiled passes off without a word."""
    assert _build(tmp_path / "cache", CC="gcc -O2") == "True"


def _model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


@pytest.mark.parametrize(
    "attribute",
    [["1", "eps", 1e9], ["", "forward", "x"], ["1", "training", 0], ["1", "num_features", "8"], ["1", "missing", 8]],
    ids=lambda one: one[1],
)
def test_a_growth_log_sets_sizes_only(attribute: list[Any], tmp_path: Path) -> None:
    """A stranger's `growth.json` sets any attribute of any module."""
    model = _model()
    gw.widen(model, "0", extra=2, example_input=torch.randn(2, 3, 6, 6))
    gw.save_model(model, tmp_path)
    path = tmp_path / "growth.json"
    log = json.loads(path.read_text())
    gw.load_model(_model, tmp_path)
    log["growths"][0]["changes"]["attributes"].append(attribute)
    path.write_text(json.dumps(sealed(log)))
    with pytest.raises(SurgeryError, match="growth log"):
        gw.load_model(_model, tmp_path)
