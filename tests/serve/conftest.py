"""Run folders in every state, and the application over them."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graftwork.runs import RunFolder
from graftwork.serve import Shelf
from tests.reports.synthetic import make_run_folder
from tests.serve.client import TOKEN, get


@dataclass(frozen=True)
class Site:
    """An application, with the ids of its runs by name."""

    app: Any
    shelf: Shelf
    ids: dict[str, str]
    folder: Path

    def page(self, name: str, part: str = "") -> str:
        answer = get(self.app, f"/runs/{self.ids[name]}{part}")
        assert answer.status == 200, answer.text
        return answer.text


def make_site(folder: Path, **options: Any) -> Site:
    pytest.importorskip("starlette")
    from graftwork.serve._app import make_app

    shelf = Shelf([folder])
    ids = {one.name: one.id for one in shelf.snapshots()}
    return Site(make_app(shelf, token=TOKEN, **options), shelf, ids, folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs that are done, running, stopped, dead, broken and hostile; tests only read them."""
    folder = tmp_path_factory.mktemp("runs")
    make_run_folder(folder, name="done", ensemble=True, class_names=("<b>&", *"123456789"))
    for name in ("running", "stopped", "dead"):
        make_run_folder(folder, name=name, finished=False, num_generations=2)
    owner = {"pid": 2**22 + 1, "host": socket.gethostname(), "since": "then"}
    (folder / "dead" / "owner.json").write_text(json.dumps(owner))
    make_run_folder(folder, name="broken", finished=False, num_generations=1)
    (folder / "broken" / "records.jsonl").write_text('{"type": "<script>"}\n')
    (folder / "a <b>&amp; c").mkdir()
    (folder / "a <b>&amp; c" / "config.toml").write_text("")
    (folder / "elsewhere").symlink_to(make_run_folder(tmp_path_factory.mktemp("other"), num_generations=1))
    with RunFolder(folder / "running"):
        yield folder


@pytest.fixture
def site(folders: Path) -> Site:
    return make_site(folders)
