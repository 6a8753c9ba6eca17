"""One finished run for all tests that only read it."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from graftwork.reports import _build, build_report
from graftwork.reports._style import figure_png
from tests.reports.synthetic import make_images, make_run_folder

SIGNATURE = b"\x89PNG"


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with control and ensemble, without a report."""
    return make_run_folder(tmp_path_factory.mktemp("runs"), class_names=("<b>&", "$x$", *"23456789"), ensemble=True)


@pytest.fixture(scope="session")
def run_folder(bare_folder: Path) -> Path:
    """The same run; its report is built with images, and with the pixels of some figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_build, "figure_png", some_pixels)
        build_report(bare_folder, dataset=make_images)
    return bare_folder


def some_pixels(figure: Figure) -> bytes:
    """A figure's PNG where it has a legend, else only its signature: all of them take as long again."""
    return figure_png(figure) if figure.legends else SIGNATURE


@pytest.fixture(scope="session")
def page(run_folder: Path) -> str:
    return (run_folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PNG beside each SVG takes half the time of a report; `run_folder` is made before this, with some of them."""
    monkeypatch.setattr(_build, "figure_png", lambda figure: b"")
