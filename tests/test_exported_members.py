"""The front page of every module is true: what it lists exists, is documented, and importing it is cheap."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graftwork

HEAVY = ("datasets", "jinja2", "matplotlib", "onnx", "onnxruntime", "pandas", "pyarrow", "rich", "sklearn", "typer")
ROOT = Path(graftwork.__file__).parent
# Folders at any depth. Modules inside a folder are private, or need an optional package each (integrations).
PACKAGES = sorted(
    ".".join(["graftwork", *path.parent.relative_to(ROOT).parts]) for path in ROOT.glob("**/[a-z]*/__init__.py")
)
PUBLIC = sorted({*PACKAGES, *(f"graftwork.{path.stem}" for path in ROOT.glob("[a-z]*.py"))})


def _order(name: str) -> tuple[int, list[int | str]]:
    """Constants, then classes, then functions, each by name: the order that ruff's RUF022 keeps."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name.lstrip("_")[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def test_the_walk_saw_every_public_module() -> None:
    seen = {f"graftwork.{found.name}" for found in pkgutil.iter_modules(graftwork.__path__)}
    assert {name for name in seen if not name.rpartition(".")[2].startswith("_")} <= set(PUBLIC)
    assert "graftwork.surgery.operations" in PUBLIC
    assert len(PUBLIC) >= 14


@pytest.mark.parametrize("name", PUBLIC)
def test_every_listed_name_exists_once_and_in_order(name: str) -> None:
    module = importlib.import_module(name)
    listed = list(module.__all__)
    assert listed
    assert listed == sorted(set(listed), key=_order)
    assert [entry for entry in listed if not hasattr(module, entry)] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_every_listed_class_and_function_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    own = [getattr(module, entry) for entry in module.__all__]
    described = [thing for thing in own if str(getattr(thing, "__module__", "")).startswith(name)]
    undocumented = [
        thing.__name__
        for thing in described
        if (isinstance(thing, type) or callable(thing))
        and hasattr(thing, "__name__")
        and (not (thing.__doc__ or "").strip() or (thing.__doc__ or "").startswith(f"{thing.__name__}("))
    ]
    assert undocumented == []


@pytest.mark.parametrize("name", PACKAGES)
def test_a_front_page_lists_all_that_it_imports(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(name)
        for alias in node.names
    }
    assert {entry for entry in imported if not entry.startswith("_")} <= set(module.__all__)


def test_importing_graftwork_imports_no_heavy_package() -> None:
    code = "import sys, graftwork; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "graftwork" in loaded
    assert loaded & set(HEAVY) == set()
