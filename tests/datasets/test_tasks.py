"""Labels of other tasks than one class an image are refused with that reason, and names of classes never are."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from graftwork.datasets import load_dataset
from graftwork.datasets._tasks import check_task
from graftwork.errors import DataError
from tests.cases.images import table
from tests.cli.test_cli import call
from tests.datasets.test_forms import photos, sheet

OTHERS = {
    "numbers": [f"{number / 7:.3f}" for number in range(30)],
    "numbers as exponents": [f"{number}.5e-3" for number in range(30)],
    "names between bars": ["cat", "dog", "cat|dog"],
    "names between commas": ["cat", "dog", "bird", "cat, dog", "dog, bird"],
    "lists": ["[0]", "[0, 2]"],
}
CLASSES = {
    "whole numbers": [str(number) for number in range(200)],
    "whole numbers as floats": [f"{number}.0" for number in range(200)],
    "a few sizes": ["0.5", "1.5", "2.5"],
    "names with commas": ["Smith, John", "Smith, Anna", "Doe, John", "Doe, Anna", "Doe"],
    "two properties": [f"{colour};{shape}" for colour in ("red", "blue", "green") for shape in ("a", "b", "c")],
    "words": ["hot", "dog", "hot dog", "nan", "inf"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_labels_of_other_tasks_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"x: expected .* of yours in its own training loop"):
        check_task(OTHERS[name], "x")


@pytest.mark.parametrize("name", CLASSES)
def test_names_of_classes_are_left_alone(name: str) -> None:
    check_task(CLASSES[name], "x")


def test_a_table_of_several_labels_an_image_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["cat", "dog", "cat;dog", "dog", "cat", "dog", "cat;dog", "cat"]
    path = sheet(tmp_path / "x.csv", [list(row) for row in zip(photos(tmp_path), labels, strict=True)], mark=",")
    for command in ("data", "search"):
        assert call(command, "--data", str(path)) == 2
        said = capsys.readouterr().err
        assert "expected one class an image, got several in the label 'cat;dog'" in said
        assert "graftwork.grow" in said


@pytest.mark.parametrize("labels", [pa.array([0.5, 1.25]), pa.array([[0, 1], [1]])])
def test_columns_of_numbers_or_lists_are_refused_with_the_reason(labels: pa.Array, tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet", pa.array([{"bytes": b"x", "path": None}] * 2), labels)
    with pytest.raises(DataError, match=r"expected integers or texts as labels.*several labels, numbers, boxes"):
        load_dataset(path)


def test_arrays_with_a_column_for_each_class_are_refused_with_the_reason() -> None:
    with pytest.raises(DataError, match=r"as label of each of 4 images.*several labels, numbers, boxes"):
        load_dataset((np.zeros((4, 8, 8), dtype=np.uint8), np.eye(4, dtype=np.int64)))


def test_a_list_in_a_folder_reads_no_file_outside_of_it_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"mine")
    folder = tmp_path / "data"
    rows = [list(row) for row in zip(photos(folder), ["cat", "dog"] * 4, strict=True)]
    sheet(folder / "x.csv", rows)
    assert len(load_dataset(folder).images) == 8
    (folder / rows[0][0]).unlink()
    (folder / rows[0][0]).symlink_to(tmp_path / "secret.png")
    for named in (folder, folder / "x.csv"):
        with pytest.raises(DataError, match="expected the path of a file below"):
            load_dataset(named)
