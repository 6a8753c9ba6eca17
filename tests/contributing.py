"""The recipes of ``CONTRIBUTING.md`` that the tests run as they stand there."""

import re
import textwrap
from pathlib import Path

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def blocks(heading: str) -> list[str]:
    """The indented blocks of Python under a heading of the third level, in order."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### {re.escape(heading)}$(.*?)(?=^### |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    inside = re.findall(r"^    ```python\n(.*?)^    ```$", found[1], re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in inside]


def run(block: str) -> dict[str, object]:
    """Run a block; returns the names that it defines."""
    namespace: dict[str, object] = {"__name__": "contributing"}
    exec(compile(block, PAGE.name, "exec"), namespace)
    return namespace


def registered(heading: str) -> tuple[str, str]:
    """Name and class in the line for the registry that a recipe gives."""
    page = PAGE.read_text(encoding="utf-8")
    section = page[page.index(f"### {heading}") :]
    found = re.search(r'`"([\w-]+)": (\w+)`', section)
    assert found is not None, heading
    return found[1], found[2]
