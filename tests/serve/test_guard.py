"""Nobody but the person with the token gets in, and nothing leads out of the given folders."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.serve.client import HOST, KNOWN, OWN, TOKEN, ask, get, scope
from tests.serve.conftest import Site

EVIL = "http://evil.example"


def test_a_request_without_the_token_is_refused(site: Site) -> None:
    for address in ("/", "/rows", "/events", "/static/live.js", f"/runs/{site.ids['done']}"):
        assert get(site.app, address, headers={"host": HOST}).status == 403
        wrong = {"host": HOST, "cookie": "graftwork-8420=guess"}
        assert get(site.app, address, headers=wrong).status == 403


def test_the_address_that_is_printed_gives_a_cookie_and_loses_the_token(site: Site) -> None:
    answer = get(site.app, f"/?token={TOKEN}", headers={"host": HOST})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert get(site.app, "/?token=guess", headers=KNOWN).status == 403


def test_the_way_in_leads_to_no_other_server(site: Site) -> None:
    answer = get(site.app, f"//evil.example/?token={TOKEN}", headers={"host": HOST})
    assert answer.headers["location"] == "/evil.example/"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8420", "127.0.0.1.evil.example", "", "[", "192.168.0.1"]
)
def test_a_host_that_is_not_this_machine_is_refused(site: Site, host: str) -> None:
    assert get(site.app, "/", headers={**KNOWN, "host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost:8420", "127.0.0.1:8420", "[::1]:8420"])
def test_every_name_of_this_machine_is_let_in(site: Site, host: str) -> None:
    assert get(site.app, "/", headers={**KNOWN, "host": host}).status == 200


@pytest.mark.parametrize("origin", [None, EVIL, "null", "http://127.0.0.1:9999", f"https://{HOST}"])
def test_an_action_from_another_origin_is_refused(
    site: Site, origin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", None)  # whatever happens, nothing starts
    headers = KNOWN if origin is None else {**KNOWN, "origin": origin}
    assert get(site.app, f"/runs/{site.ids['stopped']}/resume", "POST", headers).status == 403


def test_an_action_needs_the_token_as_well(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    headers = {"host": HOST, "origin": f"http://{HOST}"}
    assert get(site.app, f"/runs/{site.ids['stopped']}/resume", "POST", headers).status == 403
    address = f"/runs/{site.ids['stopped']}/resume?token={TOKEN}"
    assert get(site.app, address, "POST", headers).status == 403


def test_an_action_by_get_and_other_methods_do_nothing(site: Site) -> None:
    assert get(site.app, f"/runs/{site.ids['stopped']}/resume").status == 404
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert get(site.app, "/", method, OWN).status == 405


def test_no_other_origin_may_read_and_no_script_runs_but_ours(site: Site) -> None:
    answer = get(site.app, "/", headers={**KNOWN, "origin": EVIL})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert answer.headers["x-frame-options"] == "DENY"
    for part in ("", "/right", "/errors", "/outcome"):
        html = site.page("done", part)
        assert "<style" not in html
        assert " onclick" not in html
        assert "<script>" not in html


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/%2e%2e%2fpyproject.toml",
        "/static/base.html.jinja",
        "/runs/../../etc/passwd",
        "/runs/..%2f..%2fetc",
        "/runs/done/records.jsonl",
        "/runs/elsewhere",
        "/runs/%2Fetc",
        "//etc/passwd",
    ],
)
def test_no_path_leads_outside(site: Site, path: str) -> None:
    assert get(site.app, path).status == 404


def test_files_of_a_run_are_never_served_as_they_are(site: Site) -> None:
    for name in ("config.toml", "records.jsonl", "report.html", "..", "members"):
        assert get(site.app, f"/runs/{site.ids['done']}/{name}").status == 404


def test_names_and_texts_of_strangers_are_escaped(site: Site) -> None:
    index = get(site.app, "/").text
    assert "a &lt;b&gt;&amp;amp; c" in index
    assert "&lt;script&gt;" in index
    assert "<b>" not in index
    assert "<b>&" not in site.page("done", "/errors")


def test_a_broken_run_is_a_row_with_its_error_and_a_page(site: Site) -> None:
    index = get(site.app, "/")
    assert index.status == 200
    assert "line 1, type: expected one of" in index.text
    for part in ("", "/state", "/outcome", "/errors"):
        assert "read" in site.page("broken", part)


def test_predictions_that_are_damaged_break_their_sections_alone(tmp_path: Path) -> None:
    from tests.reports.synthetic import make_run_folder
    from tests.serve.conftest import make_site

    folder = make_run_folder(tmp_path, num_generations=1, population_size=3)
    (folder / "predictions" / "test.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    member = json.loads((folder / "members" / "m0.json").read_text()) if (folder / "members/m0.json").exists() else {}
    assert isinstance(member, dict)
    site = make_site(tmp_path)
    assert "This can’t be shown" in site.page("demo", "/errors")
    assert "finished" in site.page("demo", "/state")


def _many(site: Site, count: int) -> None:
    async def run() -> list[int]:
        addresses = ["/", "/rows", f"/runs/{site.ids['done']}", "/nothing", f"/runs/{site.ids['broken']}/state"]
        answers = [ask(site.app, addresses[number % len(addresses)]) for number in range(count)]
        return [answer.status for answer in await asyncio.gather(*answers)]

    found = asyncio.run(run())
    assert len(found) == count
    assert set(found) == {200, 404}
    assert found.count(404) == count // 5


def test_many_requests_at_once_are_all_answered(site: Site) -> None:
    _many(site, 100)


@pytest.mark.slow
def test_ten_thousand_requests_at_once_are_all_answered(site: Site) -> None:
    _many(site, 10_000)


def test_other_protocols_are_not_answered(site: Site) -> None:
    async def run() -> list[object]:
        said: list[object] = []

        async def send(message: object) -> None:
            said.append(message)

        await site.app({**scope("/events", "GET", KNOWN), "type": "websocket"}, send, send)
        return said

    assert asyncio.run(run()) == []
