"""What the documentation shows runs, as it stands there: `make docs` runs what is quick of it.

A fenced block runs if the line above it is ``<!-- test -->``. The blocks of one file run in order, in one namespace
and one empty folder. In a ``shell`` block every line that starts with ``$ graftwork`` runs as a command.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("tutorials/*.md")),
    *sorted((ROOT / "docs").glob("how-to/*.md")),
]
BLOCK = re.compile(r"^<!-- test -->\n+```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

# How many blocks run, so that a check never silently loses its subject. A new page gets a line here.
EXPECTED = {
    "README.md": 2,
    "docs/how-to/augmentation.md": 1,
    "docs/how-to/deploy.md": 4,
    "docs/how-to/ensembles.md": 2,
    "docs/how-to/family.md": 1,
    "docs/how-to/few-and-uneven.md": 2,
    "docs/how-to/grow-a-checkpoint.md": 10,
    "docs/how-to/hub.md": 1,
    "docs/how-to/loggers.md": 2,
    "docs/how-to/photos.md": 2,
    "docs/how-to/pretrained-trunk.md": 2,
    "docs/how-to/scikit-learn.md": 3,
    "docs/how-to/strategies.md": 1,
    "docs/how-to/training-loops.md": 7,
    "docs/how-to/your-own-files.md": 3,
    "docs/tutorials/add-classes.md": 5,
    "docs/tutorials/first-search.md": 3,
    "docs/tutorials/grow-your-model.md": 8,
    "docs/tutorials/make-a-checkpoint-deeper.md": 6,
    "docs/tutorials/make-it-wider.md": 6,
    "docs/tutorials/where-should-it-grow.md": 5,
}

SLOW = {
    "docs/how-to/augmentation.md",
    "docs/how-to/deploy.md",
    "docs/how-to/ensembles.md",
    "docs/how-to/family.md",
    "docs/how-to/few-and-uneven.md",
    "docs/how-to/grow-a-checkpoint.md",
    "docs/how-to/hub.md",
    "docs/how-to/loggers.md",
    "docs/how-to/photos.md",
    "docs/how-to/pretrained-trunk.md",
    "docs/how-to/scikit-learn.md",
    "docs/how-to/your-own-files.md",
    "docs/tutorials/first-search.md",
}
"""Pages that take more than a few seconds; README runs what the first of them begins with."""


@dataclass(frozen=True)
class _Block:
    kind: str
    text: str
    line: int


def _blocks(path: Path) -> Iterator[_Block]:
    page = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(page):
        yield _Block(match["kind"], match["text"], page.count("\n", 0, match.start("text")))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _exit_code(arguments: list[str]) -> int | str | None:
    from graftwork.cli import main

    try:
        main(arguments)
    except SystemExit as end:
        return end.code
    return 0


def test_every_marked_block_is_seen() -> None:
    found = {_name(path): len(list(_blocks(path))) for path in FILES}
    assert {name: count for name, count in found.items() if count} == EXPECTED
    marks = {_name(path): path.read_text(encoding="utf-8").count("<!-- test -->") for path in FILES}
    assert marks == found


@pytest.mark.docs
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in EXPECTED]
)
def test_the_blocks_of_a_page_run_in_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in _blocks(ROOT / name):
        if block.kind == "python":
            # Blank lines in front, so that a traceback names the line of the page.
            exec(compile("\n" * block.line + block.text, name, "exec"), namespace)
        else:
            commands = [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ graftwork")]
            assert commands, f"{name}:{block.line}: a marked {block.kind} block has no line '$ graftwork …'"
            for line in commands:
                assert _exit_code(shlex.split(line, comments=True)[1:]) in (None, 0), f"{name}: {line}"


def test_every_message_of_the_troubleshooting_page_stands_in_the_source() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^```text\n(.*)\n```$", page, re.MULTILINE)
    assert len(quoted) == page.count("\n### ") >= 25
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\n\s*f?"', "", source)  # a text over several lines
    for message in quoted:
        pattern = ".*".join(re.escape(part) for part in message.split("…") if part.strip())
        assert re.search(pattern, source), message
