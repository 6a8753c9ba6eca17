"""What notebooks show: small tables and texts, escaped."""

from collections.abc import Iterable, Sequence
from html import escape


def table(title: object, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table below a title; every cell is escaped."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<b>{escape(str(title))}</b><table><tr>{top}</tr>{body}</table>"


def preformatted(lines: object) -> str:
    """A text as it stands, escaped."""
    return f"<pre>{escape(str(lines))}</pre>"
