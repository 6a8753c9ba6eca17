"""One finished run for all tests that only read it."""

from pathlib import Path

import pytest

from graftwork.reports import _build, build_report
from tests.reports.synthetic import make_images, make_run_folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with control and ensemble; its report is built with images."""
    folder = make_run_folder(tmp_path_factory.mktemp("runs"), class_names=("<b>&", "$x$", *"23456789"), ensemble=True)
    build_report(folder, dataset=make_images)
    return folder


@pytest.fixture(scope="session")
def page(run_folder: Path) -> str:
    return (run_folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PNG beside each SVG takes half the time of a report; `run_folder` is made before this, with all of them."""
    monkeypatch.setattr(_build, "figure_png", lambda figure: b"")
