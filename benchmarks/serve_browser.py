"""The live page in a real browser: every view of a search that runs, how late it is, how heavy, how accessible.

    python benchmarks/serve_browser.py --json results/serve.json --pictures outputs/serve

It drives a headless Chromium by its DevTools, and fetches axe-core by npm for the audit. Delays are seconds from the
time of change of ``records.jsonl`` until the page shows that round: its numbers, and its first figure.
Runs of 100 members, and 20 runs at once, are made by the tests' generator. Clocks are the wall's: other work on the
machine makes every figure larger; the load stands beside them.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from _devtools import Browser
from _resident import processor_seconds
from graftwork.runs import RunFolder, provenance
from tests.reports.synthetic import make_run_folder

DESKTOP, PHONE = (1280, 900), (390, 844)
SEARCH = "--data digits --recipe paper --budget 2000steps --initial-steps 50 --num-generations 20 --population-size 8"
PLAIN = "--threads 1 --precision float32 --passes torch --no-report --quiet"
LOG = """
window.shown = [];
document.addEventListener("part", (event) => {
  const terms = [...document.querySelectorAll(event.detail.endsWith("/state") ? "#state dt" : "#outcome dt")];
  const term = terms.find((one) => one.textContent.startsWith("generation"));
  if (term) shown.push([event.detail.split("/").pop(), Number(term.nextElementSibling.textContent), Date.now() / 1000]);
});
"""
AUDIT = """
axe.run(document, {resultTypes: ["violations"]}).then((found) => found.violations.map((one) => (
  {id: one.id, impact: one.impact, help: one.help, nodes: one.nodes.length, first: one.nodes[0].html.slice(0, 200)})))
"""


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[str, int]]:
    """A server over a folder; gives the address that opens it, and the number of its process."""
    command = [sys.executable, "-m", "graftwork", "serve", str(folder), "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


def axe(given: Path | None, folder: Path) -> str:
    """Source of axe-core: of a file, or fetched by npm."""
    if given is not None:
        return given.read_text(encoding="utf-8")
    subprocess.run(["npm", "pack", "--silent", "axe-core"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def unfold(browser: Browser) -> None:
    """Bring every part of a page into view, and wait until all are there."""
    scroll = """(async () => { for (const one of document.querySelectorAll("[data-part]")) {
      one.scrollIntoView(); await new Promise((next) => setTimeout(next, 150)); } scrollTo(0, 0); })()"""
    for _ in range(100):
        browser.run(scroll)
        if not browser.run("[...document.querySelectorAll('.part .pending')].some((one) => one.textContent === '…')"):
            return
    raise TimeoutError("parts of the page did not come")


def first_paint(browser: Browser, address: str, times: int = 5) -> dict[str, float]:
    """Milliseconds until something stands on the page, each time in a page that is loaded again."""
    found = []
    for _ in range(times):
        browser.open("about:blank")
        browser.open(address)
        entry = "performance.getEntriesByName('first-contentful-paint')[0]"
        browser.until(entry)
        found.append(browser.run(f"{entry}.startTime"))
    return {"median_ms": round(median(found)), "largest_ms": round(max(found))}


def audit(browser: Browser, source: str, name: str) -> list[dict[str, Any]]:
    """What axe-core finds on a page: on a desktop in light and dark, and on a phone."""
    found = []
    for view, size, dark in (("light", DESKTOP, False), ("dark", DESKTOP, True), ("phone", PHONE, False)):
        browser.screen(*size, dark=dark)
        browser.run(source)
        found += [{"page": name, "view": view, **one} for one in browser.run(AUDIT)]
        wide = browser.run("document.documentElement.scrollWidth")
        if wide > size[0]:
            found.append(
                {"page": name, "view": view, "id": "wider-than-the-screen", "impact": "serious", "nodes": wide}
            )
    browser.screen(*DESKTOP)
    return found


def keys(browser: Browser) -> dict[str, bool]:
    """Whether a keyboard reads the confusion matrix and the profile."""
    found = {}
    for name, selector in (("matrix", "#matrix svg"), ("profile", "#profile svg")):
        before = browser.run(f"document.querySelector('#{name} .readout').textContent")
        browser.run(f"document.querySelector('{selector}').focus()")
        browser.press("ArrowRight")
        found[name] = browser.run(f"document.querySelector('#{name} .readout').textContent") != before
    return found


class Rounds:
    """When each round of a search was recorded: the time of change of its file."""

    def __init__(self, folder: Path) -> None:
        self.at: dict[int, float] = {}
        self._path, self._ended = folder / "records.jsonl", threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            try:
                with self._path.open() as file:
                    changed = os.fstat(file.fileno()).st_mtime
                    found = [json.loads(line) for line in file if line.startswith('{"type": "generation"')]
            except (OSError, ValueError):
                continue
            for one in found:
                self.at.setdefault(one["generation"], changed)

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()


def delays(browser: Browser, at: dict[int, float]) -> dict[str, Any]:
    """How late the page showed each round that was recorded while it was open."""
    shown, told = browser.run("shown"), {}
    for part, name in (("state", "numbers"), ("outcome", "figure")):
        own = [(number, when) for found, number, when in shown if found == part]
        late = {
            number: min(when - began for seen, when in own if seen >= number)
            for number, began in at.items()
            if own and own[0][0] <= number <= own[-1][0] and began > own[0][1]
        }
        seconds = [round(value, 3) for value in late.values()]
        told[name] = {"rounds": len(seconds), "median_s": median(seconds), "largest_s": max(seconds)} if seconds else {}
    return told


def running(browser: Browser, pictures: Path, source: str) -> dict[str, Any]:
    """A search that runs while its page is open: every view, stop, resume, and every view when it is finished."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place) / "digits"
        command = [sys.executable, "-m", "graftwork", "search", *SEARCH.split(), *PLAIN.split(), "--out", str(folder)]
        with (
            serving(Path(place), "--with-data") as (address, _),
            subprocess.Popen(command, stdout=subprocess.DEVNULL) as search,
        ):
            rounds = Rounds(folder)
            browser.open(address)
            browser.until("document.querySelector('.runs a')", seconds=120)
            page = browser.run("document.querySelector('.runs a').href")
            browser.open(page)
            browser.run(LOG)
            browser.press("Tab")
            told: dict[str, Any] = {"skip_link": browser.run("document.activeElement.className === 'skip'")}
            browser.until(
                "new Set(shown.filter(([part]) => part === 'outcome').map(([, at]) => at)).size > 4", seconds=240
            )
            told["delay"] = delays(browser, rounds.at)
            unfold(browser)
            told["views_while_it_runs"] = views(browser)
            browser.picture(pictures / "running.png")
            told["findings"] = audit(browser, source, "running")
            told["stop_and_resume"] = stop_and_resume(browser, search)
            browser.until("document.querySelector('#state .finished')", seconds=900)
            while not (folder / "report.html").exists():  # the resumed process draws it at the end
                time.sleep(1)
            unfold(browser)
            told["views_when_finished"] = views(browser)
            rounds.end()
            told["keys"] = keys(browser)
            told["findings"] += audit(browser, source, "finished")
            shots(browser, pictures, "finished")
            browser.open("about:blank")
    return told


def stop_and_resume(browser: Browser, search: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """Stop the search by the page's button, and resume it by the other."""
    browser.run("document.querySelector('#state form button').click()")
    code = search.wait(120)
    browser.until("document.querySelector('#state .stopped')", seconds=60)
    unfold(browser)
    browser.run("document.querySelector('#state form button').click()")
    browser.until("document.querySelector('#state .running')", seconds=120)
    return {"exit_code": code, "resumed": True}


def views(browser: Browser) -> dict[str, str]:
    """Each section of a run's page: whether it is drawn, or says why not."""
    script = """Object.fromEntries([...document.querySelectorAll('.part > section')].map((one) => [one.id,
      one.querySelector('.pending')?.textContent || `${one.querySelectorAll('svg').length} figures, `
      + `${one.querySelectorAll('table').length} tables, ${one.querySelectorAll('.thumb').length} images`]))"""
    return dict(browser.run(script))


def shots(browser: Browser, pictures: Path, name: str) -> None:
    """Pictures of the whole page on a desktop, light and dark, and on a phone."""
    for view, size, dark in (("light", DESKTOP, False), ("dark", DESKTOP, True), ("phone", PHONE, False)):
        browser.screen(*size, dark=dark)
        browser.picture(pictures / f"{name}-{view}.png")
    browser.screen(*DESKTOP)


def many(browser: Browser, pictures: Path, source: str) -> dict[str, Any]:
    """Twenty runs, two of them of 100 members, one of which goes on."""
    hundred: dict[str, Any] = {"num_generations": 16, "population_size": 10, "num_survivors": 4, "num_examples": 5000}
    with tempfile.TemporaryDirectory() as place:
        for number in range(18):
            make_run_folder(
                Path(place), name=f"run-{number:02d}", seed=number, finished=number % 2 == 0, num_generations=4
            )
        make_run_folder(Path(place), name="hundred", ensemble=True, **hundred)
        going = make_run_folder(Path(place), name="hundred-going", finished=False, **hundred)
        with serving(Path(place)) as (address, server), RunFolder(going):
            browser.open(address)
            told: dict[str, Any] = {"index": first_paint(browser, address.partition("?")[0])}
            told["rows"] = browser.run("document.querySelectorAll('.runs tbody tr').length")
            told["findings"] = audit(browser, source, "index")
            shots(browser, pictures, "index")
            links = dict(
                browser.run("[...document.querySelectorAll('.runs a')].map((one) => [one.textContent, one.href])")
            )
            told["run"] = first_paint(browser, links["hundred"])
            browser.open("about:blank")
            browser.transferred = 0
            browser.open(links["hundred"])
            unfold(browser)
            told["page_bytes"] = browser.transferred
            told["findings"] += audit(browser, source, "hundred")
            shots(browser, pictures, "hundred")
            told["delay"] = appended(browser, links["hundred-going"], going, server)
            chosen = "&".join(f"run={link.rpartition('/')[2]}" for link in links.values())
            browser.open(f"{address.partition('?')[0]}compare?{chosen}")
            browser.until("document.querySelectorAll('figure svg').length === 3", seconds=60)
            told["findings"] += audit(browser, source, "compare")
            shots(browser, pictures, "compare")
            browser.open("about:blank")
    return told


def appended(browser: Browser, page: str, folder: Path, server: int) -> dict[str, Any]:
    """Delays behind rounds that are recorded for a run of 100 members, and what one costs the server."""
    browser.open(page)
    browser.run(LOG)
    browser.until("document.querySelector('#accuracy_flops svg')")
    time.sleep(3)
    rounds, path = Rounds(folder), folder / "records.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the generator leaves half a line at the end
    last = json.loads([line for line in lines if line.startswith('{"type": "generation"')][-1])
    before = processor_seconds(server)
    for more in range(1, 7):
        lines.append(json.dumps({**last, "generation": last["generation"] + more, "births": []}))
        aside = path.with_name("records.aside")
        aside.write_text("\n".join([*lines, ""]), encoding="utf-8")
        aside.replace(path)
        time.sleep(5)
    rounds.end()
    spent = (processor_seconds(server) - before) / 6
    return {**delays(browser, rounds.at), "processor_seconds_a_round": round(spent, 2)}


def main() -> None:
    """Drive the browser and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, default=Path("outputs/serve"))
    parser.add_argument("--axe", type=Path, help="axe.min.js; fetched by npm without")
    parser.add_argument("--chromium", default="chromium")
    given = parser.parse_args()
    origin = provenance()
    given.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Browser(given.chromium) as browser:
        source = axe(given.axe, Path(place))
        browser.screen(*DESKTOP)
        found = {"many": many(browser, given.pictures, source), "running": running(browser, given.pictures, source)}
        version = browser.call("Browser.getVersion")["product"]
        browser.run(source)
        rules = browser.run("axe.version")
        problems = browser.problems
    findings = found["many"].pop("findings") + found["running"].pop("findings")
    serious = [one for one in findings if one["impact"] in ("serious", "critical")]
    told = {
        "command": f"python benchmarks/serve_browser.py --json {given.json}",
        "provenance": origin,
        "browser": version,
        "axe_core": rules,
        "load_average": list(os.getloadavg()),
        "search": f"graftwork search {SEARCH} {PLAIN}",
        **found,
        "accessibility": {"serious": serious, "others": [one for one in findings if one not in serious]},
        "problems_in_the_console": problems,
    }
    given.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        json.dumps(
            {name: told[name] for name in ("many", "running", "accessibility", "problems_in_the_console")}, indent=1
        )
    )


if __name__ == "__main__":
    main()
