"""Numbers as a person reads them."""

import re

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def compact(value: float, *, digits: int = 3) -> str:
    """``1234567`` as ``1.23 M``; below a thousand as it is."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor * (1 - 0.5 * 10**-digits):
            return f"{value / factor:.{digits}g} {prefix}"
    return f"{value:.{digits}g}"


def flops_text(value: float) -> str:
    """``12345678`` as ``12.3 MFLOP``."""
    text = compact(value)
    return f"{text}FLOP" if " " in text else f"{text} FLOP"


def percent(share: float | None, *, digits: int = 2) -> str:
    """``0.91234`` as ``91.23 %``, held together; None as a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def interval_text(low: float, high: float) -> str:
    """Two shares as ``90.65–91.78 %``."""
    return f"{100 * low:.2f}–{100 * high:.2f}\u00a0%"


def short_transform(transform: str, *, limit: int = 34) -> str:
    """A transform's phrase, short enough for a label."""
    text = transform.replace("widen layer ", "widen L").replace("deepen at ", "deepen L").replace(" by ", " ")
    text = re.sub(r" writing \[(\d+), (\d+)\)", r" → \1:\2", text.replace(" (random padding)", " (random)"))
    return text if len(text) <= limit else text[: limit - 1] + "…"
