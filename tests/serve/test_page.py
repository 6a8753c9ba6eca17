"""The page shows what is known of a run in each state, and stays light."""

import asyncio
import gzip
from pathlib import Path

import numpy as np
import pytest

from graftwork.reports import SECTIONS
from tests.reports.synthetic import make_images, make_run_folder
from tests.serve.client import KNOWN, get
from tests.serve.conftest import Site, make_site

ASSETS = ("report.css", "report.js", "live.css", "live.js", "icon.svg")


def test_the_index_has_a_row_for_every_run(site: Site) -> None:
    page = get(site.app, "/").text
    for name, number in site.ids.items():
        assert f"/runs/{number}" in page
        assert name == "a <b>&amp; c" or f">{name}</a>" in page
    for state in ("running", "finished", "dead", "stopped", "broken"):
        assert f'<span class="state {state}"' in page


def test_a_running_run_offers_stop_and_a_stopped_or_dead_one_resume(site: Site) -> None:
    pages = {name: site.page(name, "/state") for name in ("running", "stopped", "dead", "done", "broken")}
    assert {name for name, page in pages.items() if "Stop the search" in page} == {"running"}
    assert {name for name, page in pages.items() if "Resume the search" in page} == {"stopped", "dead"}


def test_a_run_shows_its_checkpoints(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, finished=False, num_generations=1)
    for name in ("search-00000400", "control-00000007", "by hand"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "state.json").write_text("{}" * 600)
    page = make_site(tmp_path).page("demo", "/state")
    assert "2 checkpoints" in page
    assert '<td class="text">search</td><td>400</td><td>1.2 kB</td>' in page
    assert "by hand" not in page


def test_views_that_need_the_end_say_so_while_a_run_goes_on(site: Site) -> None:
    for name in ("grafts", "right", "errors"):
        assert "when the run is finished" in site.page("running", f"/{name}")
    for name in ("tree", "outcome"):
        assert "<svg" in site.page("running", f"/{name}")


def test_every_view_of_a_run_that_has_only_just_begun_says_what_is_missing(site: Site) -> None:
    for name in SECTIONS:
        page = site.page("a <b>&amp; c", f"/{name}")
        assert f'id="{name}"' in page
        assert "can’t be shown" not in page


def test_a_finished_run_shows_every_view(site: Site) -> None:
    found = {name: site.page("done", f"/{name}") for name in ("right", "errors", "way")}
    assert 'id="profile-data"' in found["right"]
    for text in ('id="matrix"', "Class by class", "Most confident mistakes", "--with-data"):
        assert text in found["errors"]
    assert 'id="accuracy_seconds"' in found["way"]


def test_mistakes_are_images_where_the_data_may_be_opened(folders: Path) -> None:
    site = make_site(folders, open_data=lambda path: (make_images, lambda split, index: [f"{i}.png" for i in index]))
    page = site.page("done", "/errors")
    assert "--sheet: url(data:image/png;base64," in page
    assert ".png" in page
    assert "--with-data" not in page


def test_images_that_the_data_do_not_have_break_their_section_alone(folders: Path) -> None:
    def other(split: str, index: object) -> object:
        raise IndexError("index 2000 is out of bounds")

    site = make_site(folders, open_data=lambda path: (other, lambda split, index: []))
    assert "This can’t be shown" in site.page("done", "/errors")


def test_data_that_can_not_be_opened_are_told_beside_what_is_known(folders: Path) -> None:
    from graftwork.errors import DataError

    def gone(path: Path) -> object:
        raise DataError("<data> are gone")

    page = make_site(folders, open_data=gone).page("done", "/errors")
    assert "No images: &lt;data&gt; are gone" in page
    assert 'id="matrix"' in page


def test_a_section_is_drawn_once_for_each_state_of_its_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from graftwork.serve import _draw

    drawn: list[str] = []
    monkeypatch.setattr(_draw, "render_section", lambda run, name, **_: drawn.append(name) or "<p>drawn</p>")
    for _ in range(3):
        assert site.page("running", "/tree") == "<p>drawn</p>"
    assert drawn == ["tree"]


def test_runs_are_compared_side_by_side(site: Site) -> None:
    chosen = "&".join(f"run={site.ids[name]}" for name in ("done", "running", "broken"))
    page = get(site.app, f"/compare?{chosen}").text
    for name in ("done", "running", "broken"):
        assert f">{name}</a>" in page
    part = get(site.app, f"/compare/part?{chosen}").text
    assert part.count("<svg") == 3
    assert get(site.app, "/compare?run=nothing").status == 400


def test_runs_on_different_data_are_marked(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = make_run_folder(tmp_path, name=name, finished=False, num_generations=1)
    text = (folder / "provenance.json").read_text()
    (folder / "provenance.json").write_text(text.replace("4f5c", "0000"))
    site = make_site(tmp_path)
    chosen = "&".join(f"run={number}" for number in site.ids.values())
    assert "on different data" in get(site.app, f"/compare?{chosen}").text


@pytest.mark.slow
def test_a_page_of_a_hundred_members_weighs_less_than_400_kilobytes(tmp_path: Path) -> None:
    make_run_folder(tmp_path, num_generations=16, population_size=10, num_survivors=4, num_examples=5000, ensemble=True)
    site = make_site(tmp_path, open_data=lambda path: (_photos, lambda split, index: []))
    run = f"/runs/{site.ids['demo']}"
    addresses = [run, f"{run}/state", *(f"{run}/{name}" for name in SECTIONS), *(f"/static/{name}" for name in ASSETS)]
    answers = [get(site.app, one, headers={**KNOWN, "accept-encoding": "gzip"}) for one in addresses]
    assert {answer.status for answer in answers} == {200}
    (snapshot,) = site.shelf.snapshots()
    assert snapshot.run is not None
    assert len(snapshot.run.births) == 100
    assert sum(len(answer.sent) for answer in answers) < 400_000


def _photos(
    split: str, index: "np.ndarray[tuple[int], np.dtype[np.int64]]"
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Noise of CIFAR's size, which no PNG makes smaller."""
    return np.random.default_rng(0).integers(0, 256, (len(index), 32, 32, 3)).astype(np.uint8)


def test_answers_are_compressed_and_events_are_not(site: Site) -> None:
    from tests.serve.client import listening

    answer = get(site.app, "/static/report.css", headers={**KNOWN, "accept-encoding": "gzip"})
    assert len(gzip.decompress(answer.sent)) > 2 * len(answer.sent)

    async def head() -> dict[bytes, bytes]:
        async with listening(site.app, "/events") as messages:
            return dict((await messages.get())["headers"])

    assert b"content-encoding" not in asyncio.run(head())
