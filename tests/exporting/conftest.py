"""Exports that several tests look at, each made once: programs take seconds to make."""

from collections.abc import Callable
from functools import cache

import pytest

from graftwork.exporting import ExportFormat, ExportReport, export_member
from graftwork.networks.genome import Genome
from tests.exporting.cases import NAMES, RICH, ready, transform_for

Made = Callable[..., ExportReport]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Function from a format (and a genome) to the report of its export, whose folder holds nothing else."""

    @cache
    def export(to: ExportFormat, genome: Genome = RICH) -> ExportReport:
        if to == "onnx":
            for package in ("onnx", "onnxscript", "onnxruntime"):
                pytest.importorskip(package)
        folder, names = tmp_path_factory.mktemp(to), NAMES[: genome.num_classes]
        return export_member(ready(genome), folder, to=to, transform=transform_for(genome), class_names=names)

    return export
