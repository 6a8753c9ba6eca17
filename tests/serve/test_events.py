"""Events tell what is new, to a limited number of readers, of which a slow one holds up nobody."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.reports.synthetic import make_run_folder
from tests.serve.client import ask, listening
from tests.serve.conftest import Site, make_site
from tests.serve.test_shelf import append


async def next_run(messages: "asyncio.Queue[Any]") -> dict[str, Any]:
    """The next event about a run."""
    while True:
        message = await asyncio.wait_for(messages.get(), 20)
        text = message.get("body", b"").decode()
        if text.startswith("event: run"):
            found = json.loads(text.partition("data: ")[2])
            assert isinstance(found, dict)
            return found


@pytest.fixture
def small(tmp_path: Path) -> Site:
    make_run_folder(tmp_path, finished=False, num_generations=1)
    return make_site(tmp_path, most_streams=2)


def test_an_event_follows_a_record(small: Site) -> None:
    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        async with listening(small.app, f"/events?run={small.ids['demo']}") as messages:
            first = await next_run(messages)
            append(small.folder / "demo")
            return first, await next_run(messages)

    first, second = asyncio.run(run())
    assert first["state"] == "stopped"
    assert (first["generation"], second["generation"]) == (1, 2)
    assert second["revision"] > first["revision"]


def test_a_stream_tells_nothing_of_other_runs(site: Site) -> None:
    async def run() -> dict[str, Any]:
        async with listening(site.app, f"/events?run={site.ids['done']}") as messages:
            found = await next_run(messages)
            await asyncio.sleep(0.4)
            assert messages.empty()
            return found

    assert asyncio.run(run())["id"] == site.ids["done"]


def test_readers_beyond_the_limit_are_sent_away_until_one_leaves(small: Site) -> None:
    async def run() -> tuple[int, dict[str, Any]]:
        async with listening(small.app, "/events") as one:
            await next_run(one)
            async with listening(small.app, "/events") as two:
                await next_run(two)
                refused = await asyncio.wait_for(ask(small.app, "/events"), 20)
        async with listening(small.app, "/events") as third:
            return refused.status, await next_run(third)

    status, event = asyncio.run(run())
    assert status == 503
    assert event["id"] == small.ids["demo"]


def test_a_reader_that_takes_nothing_holds_up_nobody_and_is_let_go(
    small: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftwork.serve import _events

    monkeypatch.setattr(_events, "_PATIENCE", 0.3)

    async def run() -> int:
        async with listening(small.app, "/events", stuck=True), listening(small.app, "/events") as quick:
            await next_run(quick)
            append(small.folder / "demo")
            assert (await next_run(quick))["generation"] == 2
            assert (await ask(small.app, "/")).status == 200
            await asyncio.sleep(0.4)
            async with listening(small.app, "/events") as next_one:  # in the place of the stuck one
                return int((await next_run(next_one))["generation"])

    assert asyncio.run(run()) == 2
