"""Stop and resume: asked in order, refused with a reason."""

import sys
from pathlib import Path

import pytest

from graftwork.runs import RunFolder
from graftwork.serve._actions import Actions
from tests.reports.synthetic import make_run_folder
from tests.serve.client import OWN, get
from tests.serve.conftest import Site, make_site


@pytest.fixture
def stopped(tmp_path: Path) -> Site:
    make_run_folder(tmp_path, finished=False, num_generations=1)
    return make_site(tmp_path)


def act(site: Site, action: str) -> str:
    """Press a button, and follow to the page."""
    answer = get(site.app, f"/runs/{site.ids['demo']}/{action}", "POST", OWN)
    assert (answer.status, answer.headers["location"]) == (303, f"/runs/{site.ids['demo']}")
    return site.page("demo", "/state")


def test_stop_asks_the_process_of_the_run(stopped: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("graftwork.serve._actions.stop_run", asked.append)
    with RunFolder(stopped.folder / "demo"):
        assert "Asked to stop" in act(stopped, "stop")
    assert [path.name for path in asked] == ["demo"]


def test_what_can_not_be_stopped_is_told(stopped: Site) -> None:
    assert "expected a run that is running, got one that is stopped" in act(stopped, "stop")


def test_resume_starts_a_process_of_its_own_and_tells_its_failure(
    stopped: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = stopped.folder / "python"
    script.write_text('#!/bin/sh\necho "error: <nothing> to resume: $*" >&2\nexit 2\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    page = act(stopped, "resume")
    while "is starting" in page:
        page = stopped.page("demo", "/state")
    assert "exit code 2: error: &lt;nothing&gt; to resume: -m graftwork search --quiet --resume" in page
    assert str(stopped.folder / "demo") in page


def test_a_run_is_resumed_once_at_a_time(stopped: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    script = stopped.folder / "python"
    script.write_text(f"#!/bin/sh\necho x >> {stopped.folder}/count\nread nothing < {stopped.folder}/gate\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    import os

    os.mkfifo(stopped.folder / "gate")
    act(stopped, "resume")
    assert "is starting" in act(stopped, "resume")
    (stopped.folder / "gate").write_text("go\n")
    while "is starting" in stopped.page("demo", "/state"):
        pass
    assert (stopped.folder / "count").read_text() == "x\n"


def test_a_finished_run_is_not_resumed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(folders)
    monkeypatch.setattr("subprocess.Popen", None)
    get(site.app, f"/runs/{site.ids['done']}/resume", "POST", OWN)
    assert "expected a run that is dead or stopped, got one that is finished" in site.page("done", "/state")


def test_other_actions_are_not_known(stopped: Site) -> None:
    assert get(stopped.app, f"/runs/{stopped.ids['demo']}/delete", "POST", OWN).status == 404


def test_a_resumed_run_that_is_finished_is_not_said_to_start(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(folders)
    snapshots = {one.name: one for one in site.shelf.snapshots()}
    actions = Actions()
    monkeypatch.setattr(actions, "_is_starting", lambda name: True)  # it writes its report still
    assert actions.note(snapshots["done"]) == ""
    assert "is starting" in actions.note(snapshots["stopped"])
