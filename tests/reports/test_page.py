import html
import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from graftwork.errors import RunError
from graftwork.reports import _build, build_report, figure_svg, read_run, report_data, worst_mistakes
from graftwork.reports._build import run_figures
from graftwork.reports._format import interval_text
from graftwork.reports._matrix import confusion_order
from graftwork.reports._mistakes import mirror_note
from graftwork.reports._page import render_page
from tests.reports.conftest import SIGNATURE, some_pixels
from tests.reports.synthetic import make_images, make_run_folder

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Checker(HTMLParser):
    """Collects what a browser would load, ids, text, and tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}:
                self.loads.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def numbers(value: object) -> list[float | int]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    checker = check(page)
    assert checker.tags["svg"] >= 12
    assert all(load.startswith(("#", "data:")) for load in checker.loads)
    # Names of XML namespaces are no addresses that a browser opens.
    rest = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page).replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in rest
    assert "https://" not in rest
    assert "@import" not in rest
    assert all(target.startswith(("data:", "#")) for target in re.findall(r"url\(([^)]*)\)", rest))


def test_ids_on_the_page_are_unique_and_references_within_figures_resolve(page: str) -> None:
    checker = check(page)
    assert [name for name, count in Counter(checker.ids).items() if count > 1] == []
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert len(targets) > 20
    assert targets <= set(checker.ids)


def test_page_holds_every_number_of_the_result(run_folder: Path, page: str) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    text = check(page).text
    found = numbers(result)
    assert len(found) > 25
    assert [number for number in found if json.dumps(number) not in text] == []


def test_every_survivor_appears_with_its_accuracies(run_folder: Path, page: str) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    table = page[page.index('<table id="survivors">') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)[1:]
    entries = [*result["survivors"], *result["ensemble"], result["seed_network"], result["majority"]]
    assert len(rows) == len(entries)
    for row, entry in zip(rows, entries, strict=True):
        assert html.escape(entry.get("id") or entry.get("method") or entry["name"]).replace("_", " ") in row
        assert f"{100 * entry['test_accuracy']:.2f}\u00a0%" in row
        assert f"{entry['parameters']:,}" in row if "parameters" in entry else "–" in row


def test_class_names_are_escaped_and_no_formulas(run_folder: Path, page: str) -> None:
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "$x$" in (run_folder / "figures" / "confusion.svg").read_text()


def test_hover_data_agree_with_the_predictions(run_folder: Path, page: str) -> None:
    match = re.search(r'id="profile-data">(.*?)</script>', page, flags=re.DOTALL)
    assert match is not None
    data = json.loads(match[1])
    predictions = read_run(run_folder).predictions["validation"]
    at = {int(index): place for place, index in enumerate(predictions.index)}
    checked = 0
    for row in data["rows"]:
        if not row["member"]:
            continue
        right = predictions.predicted(row["name"]) == predictions.labels
        inside = {position for start, stop in row["runs"] for position in range(start, stop)}
        for position, index in enumerate(data["index"]):
            assert (position in inside) == right[at[index]]
            checked += 1
    assert checked == 3 * len(predictions.labels)


def test_same_run_gives_the_same_bytes(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = shutil.copytree(run_folder, tmp_path / run_folder.name)
    monkeypatch.setattr(_build, "figure_png", some_pixels)
    build_report(again, dataset=make_images)
    paths = [again / "report.html", *(again / "figures").iterdir()]
    pixels = [path for path in paths if path.suffix == ".png" and path.read_bytes() != SIGNATURE]
    assert len(paths) > 25
    assert len(pixels) > 3
    for path in paths:
        assert path.read_bytes() == (run_folder / path.relative_to(again)).read_bytes()


def test_figures_are_svg_and_png_and_nothing_is_left_aside(run_folder: Path) -> None:
    names = sorted(path.name for path in (run_folder / "figures").iterdir())
    stems = report_data(read_run(run_folder))["figures"]
    assert names == sorted(f"{stem}.{kind}" for stem in stems for kind in ("svg", "png"))
    for stem in stems:
        ET.fromstring((run_folder / "figures" / f"{stem}.svg").read_text())
        assert (run_folder / "figures" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")


def test_unfinished_run_is_shown_and_said_to_be_unfinished(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, finished=False)
    page = build_report(folder).read_text(encoding="utf-8")
    checker = check(page)
    assert "This run is unfinished" in checker.text
    assert "test accuracy" not in checker.text
    for survivor in read_run(folder).survivors:
        assert survivor in checker.text
    assert (folder / "figures" / "lineage.svg").is_file()
    assert not (folder / "figures" / "confusion.svg").exists()


def test_run_that_has_just_begun_still_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text('{"precision": "float32"}')
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / ".lineage.svg.999999999.tmp").write_text("what a killed process left")
    text = check(build_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Nothing has been scored yet" in text
    assert "float32" in text
    assert list((tmp_path / "figures").iterdir()) == []


def test_two_classes_one_survivor_no_control_no_images(tmp_path: Path) -> None:
    folder = make_run_folder(
        tmp_path, num_generations=2, num_survivors=1, control=False, class_names=("no", "yes"), num_examples=60
    )
    text = check(build_report(folder).read_text(encoding="utf-8")).text
    assert "no control" in text
    assert "seed network, alone" not in text
    assert "taken for" in text


def plain(markup: str) -> str:
    """The text of a piece of a page."""
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


def section(page: str, start: str, end: str) -> str:
    """What stands between two texts."""
    rest = page[page.index(start) :]
    return rest[: rest.index(end)]


def test_hundred_classes_are_named_in_a_matrix_that_is_folded_up_and_leaves_out_what_is_never_confused(
    tmp_path: Path,
) -> None:
    names = tuple(f"class {number}" for number in range(100))
    folder = make_run_folder(tmp_path, num_generations=1, class_names=names, num_examples=300)
    run = read_run(folder)
    figure = dict(run_figures(run))["confusion"]
    assert figure_svg(figure()).count("class ") == 0
    page = render_page(run, {})
    check(page)
    matrix = section(page, 'id="matrix"', "</figure>")
    assert "<details><summary>Confusion matrix of 100 classes" in matrix
    test = run.predictions["test"]
    predicted = test.predicted(str(run.best))
    wrong = predicted != test.labels
    confused = {*predicted[wrong].tolist(), *test.labels[wrong].tolist()}
    assert matrix.count('class="name"') == 2 * len(confused)
    assert f"{100 - len(confused)} classes without a confusion are left out" in matrix
    counts = Counter(zip(test.labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    for (true, taken), count in counts.items():
        assert f"<title>{names[true]} taken for {names[taken]}: {count} of " in matrix
    assert "<details><summary>100 classes" in section(page, 'id="data"', "</section>")


def test_classes_that_are_confused_stand_side_by_side() -> None:
    confusion = np.diag([9, 9, 9, 9, 9])
    confusion[0, 3] = confusion[3, 0] = 4
    confusion[3, 1] = 2
    order = confusion_order(confusion)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order[:3] == [3, 0, 1] or order[:3] == [0, 3, 1]
    assert np.array_equal(np.diag(confusion), [9] * 5)


def test_every_section_is_in_the_contents_and_every_figure_has_a_name(page: str) -> None:
    contents = re.findall(r'<a href="#(\w+)">([^<]+)</a>', section(page, "<nav", "</nav>"))
    sections = re.findall(r'<section[^>]* id="(\w+)">', page)
    assert [name for name, _ in contents] == sections
    assert len(sections) == 10
    svgs = re.findall(r"<svg[^>]*>", page)
    names = [match[1] for match in (re.search(r'aria-label="([^"]+)"', svg) for svg in svgs) if match]
    assert len(names) == len(svgs) == len(set(names))


def test_the_smallest_text_of_every_figure_has_nine_pixels_on_a_phone(page: str) -> None:
    sizes = 0
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        width = float(re.search(r'viewBox="\S+ \S+ (\S+) ', svg)[1])  # type: ignore[index]
        least = re.search(r"min-width: (\d+)px", svg)
        texts = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
        assert least is not None
        assert all(size * float(least[1]) / width > 8.9 for size in texts)
        sizes += len(texts)
    assert sizes > 100


def test_images_per_split_and_class_and_what_was_decided_are_told(page: str) -> None:
    data = plain(section(page, '<section id="data">', "</section>"))
    assert data.split().count("40") == 40
    assert data.split().count("400") == 4
    assert "Training images are not mirrored: they flip." in data
    assert "They are shifted by up to 2 pixels, partly erased (0.25)." in data


def test_confusions_of_classes_that_flip_into_each_other_are_pointed_out(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, num_generations=1, class_names=("b", "d"))
    assert "they flip into each other" in render_page(read_run(folder), {})
    provenance = json.loads((folder / "provenance.json").read_text())
    del provenance["race"]
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "mirror_pairs": []}))
    provenance["training"]["augmentation"]["flip"] = "random"
    (folder / "provenance.json").write_text(json.dumps(provenance))
    run = read_run(folder)
    half = np.array([[5, 5], [5, 5]])
    assert "--flip none" in mirror_note(run, half, 0, 1)
    assert mirror_note(run, np.array([[9, 1], [5, 5]]), 0, 1) == ""


def test_mistakes_bear_the_names_of_their_files(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, num_generations=1)
    run = read_run(folder)
    page = render_page(run, {}, file_names=lambda split, index: [f"{split}/<{number}>.png" for number in index])
    worst = worst_mistakes(run.predictions["test"], str(run.best), count=1)[0]
    assert f"test/&lt;{worst.index}&gt;.png" in page


def test_the_page_says_what_to_do_next(page: str, tmp_path: Path) -> None:
    said = plain(section(page, '<section id="next">', "</section>"))
    assert "graftwork predict demo IMAGES --out predictions.csv" in said
    assert "graftwork export demo --to onnx" in said
    folder = make_run_folder(tmp_path, name="my run", finished=False)
    assert "graftwork search --resume &#39;my run&#39;" in render_page(read_run(folder), {})


def test_without_predictions_accuracies_have_intervals_and_their_difference_has_none(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, num_generations=1, predictions=False)
    run = read_run(folder)
    assert not {"profile", "confusion"} & dict(run_figures(run)).keys()
    text = check(render_page(run, {})).text
    assert "no predictions are stored" in text
    low, high = json.loads((folder / "result.json").read_text())["best"]["test_interval"]
    assert f"95 % interval {interval_text(low, high)}" in text
    assert "same examples" not in text


def test_the_recommended_ensemble_the_most_frequent_class_and_every_class_are_told(page: str) -> None:
    assert "The recommended ensemble (mean, chosen on the blend split) reaches" in page
    assert "ensemble: mean, recommended" in page
    assert "Always saying “&lt;b&gt;&amp;”, the most frequent class, would reach an accuracy of 25.00" in page
    table = page[page.index('id="classes"') :]
    assert table[: table.index("</table>")].count("<tr>") == 11
    assert "<details><summary>10 classes" not in page


def test_the_report_never_picks_an_ensemble_by_its_test_accuracy(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, num_generations=1, ensemble=True)
    result = json.loads((folder / "result.json").read_text())
    (mean,) = result["ensemble"]
    result["ensemble"] = [mean, {**mean, "method": "lucky", "test_accuracy": 1.0, "held_out_nll": 9.0}]
    (folder / "result.json").write_text(json.dumps(result))
    text = check(render_page(read_run(folder), {})).text
    assert "recommended ensemble (mean" in text
    assert "lucky, recommended" not in text
    assert "best ensemble" not in text


def test_what_is_doubtful_about_the_data_stands_on_top(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, num_generations=1)
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["data"]["warnings"] = ["classes are uneven: <i>"]
    (folder / "provenance.json").write_text(json.dumps(provenance))
    page = render_page(read_run(folder), {})
    assert "classes are uneven: &lt;i&gt;" in page[: page.index("<main>")]


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"records\.jsonl"):
        build_report(tmp_path)


def test_damaged_record_in_the_middle_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('\n{"type"\n{"type": "member"}\n')
    with pytest.raises(RunError, match="line 2"):
        read_run(tmp_path)


def test_importing_the_package_draws_in_no_plotting_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, graftwork.reports; "
        "print([name for name in ('torch', 'matplotlib', 'jinja2', 'PIL') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
