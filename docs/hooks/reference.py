"""MkDocs hook: the navigation follows the folders, and every public module of graftwork gets a reference page.

A new page under ``tutorials/`` or ``how-to/``, or a new public package, needs no entry anywhere.
"""

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

WAYS = ("which-command.md", "troubleshooting.md", "glossary.md", "gallery.md", "comparison.md")
FIRST = ("architecture.md", "surgery.md", "scaling.md", "results.md", "history.md")


def _exports(source: Path) -> tuple[str, list[str]]:
    """Read a module's docstring and ``__all__`` without importing it."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            names = ast.literal_eval(node.value)
    return ast.get_docstring(tree) or "", names


def _modules(package: Path) -> dict[str, Path]:
    """Dotted names below the package, each with its file: folders, and files that no underscore hides."""
    found = [*package.rglob("[a-z]*.py"), *(page for page in package.rglob("__init__.py") if page.parent != package)]
    names = {path: (path.parent if path.name == "__init__.py" else path.with_suffix("")) for path in found}
    return dict(sorted((".".join(name.relative_to(package).parts), path) for path, name in names.items()))


def _page(name: str, source: Path) -> str:
    _, names = _exports(source)
    members = "".join(f"        - {entry}\n" for entry in names) or "        []\n"
    return f"# graftwork.{name}\n\n::: graftwork.{name}\n    options:\n      members:\n{members}"


def _pages(docs: Path, folder: str) -> list[str]:
    return sorted(path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md"))


def _package(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent / "src" / "graftwork"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write the navigation: the folders of docs/, and one reference page a public module."""
    docs = Path(config.docs_dir)
    top = [page for page in _pages(docs, ".") if page not in {"index.md", *WAYS}]
    top.sort(key=lambda page: (FIRST.index(page) if page in FIRST else len(FIRST), page))
    sections: list[tuple[str, list[Any]]] = [
        ("Tutorials", _pages(docs, "tutorials")),
        ("Find your way", list(WAYS)),
        ("How-to", _pages(docs, "how-to")),
        ("Explanation", list(top)),
        ("Reference", [{name: f"reference/{name}.md"} for name in _modules(_package(config))]),
    ]
    config.nav = ["index.md", *({title: pages} for title, pages in sections if pages)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages, which exist only in the site."""
    for name, source in _modules(_package(config)).items():
        files.append(File.generated(config, f"reference/{name}.md", content=_page(name, source)))
    return files
