"""The front page of every module is true: what it lists exists, is documented, and importing it is cheap."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graftwork

HEAVY = ("datasets", "jinja2", "matplotlib", "onnx", "onnxruntime", "pandas", "pyarrow", "rich", "sklearn", "typer")
SOURCE = Path(graftwork.__file__).parent


def _name(path: Path) -> str:
    """Dotted name of a folder or a file of the package."""
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)


FOLDERS = sorted(_name(page.parent) for page in SOURCE.rglob("__init__.py"))
PUBLIC = sorted([*FOLDERS, *(_name(path) for path in SOURCE.glob("[!_]*.py"))])
PRIVATE = list(SOURCE.rglob("_[!_]*.py"))


def _has_a_list(path: Path) -> bool:
    return re.search(r"^__all__\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _order(name: str) -> tuple[int, list[int | str]]:
    """Constants, then classes, then functions, each by name: the order that ruff's RUF022 keeps."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name.lstrip("_")[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def test_the_walk_saw_every_public_module() -> None:
    assert {"graftwork", "graftwork.errors", "graftwork.evolution.selection", "graftwork.networks.genome"} <= set(
        PUBLIC
    )
    assert not any(part.startswith("_") for name in PUBLIC for part in name.split("."))
    assert len(PUBLIC) >= 14
    assert len(PRIVATE) >= 100


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


@pytest.mark.parametrize("name", FOLDERS)
def test_a_front_page_lists_all_that_it_imports(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("graftwork")
        and node.module != "graftwork._lazy"
        for alias in node.names
    }
    assert {entry for entry in imported if not entry.startswith("_")} <= set(module.__all__)


@pytest.mark.parametrize("name", ["graftwork", "graftwork.evolution", "graftwork.networks"])
def test_names_of_a_lazy_front_page_have_a_home_that_defines_them(name: str) -> None:
    page = importlib.import_module(name)
    homes = {entry: home for home, entries in page._HOMES.items() for entry in entries}
    assert sorted(homes) == sorted(entry for entry in page.__all__ if entry != "__version__")
    for entry, home in homes.items():
        module = importlib.import_module(f"{name}.{home}")
        assert hasattr(module, entry)
        assert home.rpartition(".")[2].startswith("_") or entry in module.__all__


def test_private_files_have_no_list_of_their_own() -> None:
    assert _has_a_list(SOURCE / "errors.py")
    assert [_name(path) for path in PRIVATE if _has_a_list(path)] == []


def test_importing_graftwork_imports_no_heavy_package() -> None:
    code = "import sys, graftwork; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "graftwork" in loaded
    assert loaded & set(HEAVY) == set()
