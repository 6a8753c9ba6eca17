"""One rule for sizes, equal or mixed; decoding on all cores changes nothing."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftwork.datasets import Survey, _decode, _survey, is_decoded, load_dataset, read_image, survey, telling
from graftwork.datasets._survey import survey_images
from graftwork.errors import DataError
from tests.datasets.test_sources import pixels, write_folder, write_parquet


def photo(height: int, width: int, *, kind: str = "PNG", mode: str = "RGB", turned: bool = False) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    if turned:
        exif[0x0112] = 6
    values = np.add.outer(np.arange(height), np.arange(width)) * 255 // (height + width)
    Image.fromarray(values.astype(np.uint8)).convert(mode).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("sizes", "frame"),
    [
        ([(20, 20)] * 4, (20, 20)),
        ([(20, 30)] * 4, (20, 30)),
        ([(224, 224)] * 4, (64, 64)),
        ([(480, 640)] * 4, (55, 74)),  # as many pixels as 64×64
        ([(480, 640), (960, 1280), (240, 320)], (55, 74)),
        ([(480, 640), (640, 480)] * 2, (64, 64)),
        ([(12, 40), (30, 16), (20, 20)], (16, 16)),
        ([(8, 4000)] * 3, (8, 4000)),  # the shorter side is kept
    ],
)
def test_equal_and_mixed_sizes_get_their_frame_by_one_rule(
    sizes: list[tuple[int, int]], frame: tuple[int, int]
) -> None:
    assert survey_images([photo(*size) for size in sizes]).frame(64) == frame


def test_a_frame_is_never_enlarged_and_never_below_eight_pixels() -> None:
    assert Survey(1, 20, 30, grey=False).frame(128) == (20, 30)
    assert Survey(1, 100, 1000, grey=False).frame(16) == (8, 80)


def test_a_survey_sees_images_as_they_are_shown_and_whether_they_have_colour() -> None:
    found = survey_images([photo(20, 40, kind="JPEG", mode="L", turned=True)] * 3 + [b"no image"])
    assert (found.height, found.width, found.grey, found.num_images) == (40, 20, True, 4)
    assert not survey_images([photo(20, 40), photo(20, 40, mode="L")]).grey
    assert survey_images([b""]) == Survey(1, 8, 8, grey=False)


def test_a_source_is_surveyed_before_it_is_decoded(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", pixels(4, side=70), [0, 0, 1, 1])
    table = write_parquet(tmp_path / "a.parquet", pixels(6, side=40), [0, 1] * 3)
    assert survey(folder) == Survey(4, 70, 70, grey=False)
    assert survey(table) == Survey(6, 40, 40, grey=False)
    assert survey("digits") is None
    assert load_dataset(folder, cache_dir=tmp_path / "cache").shape == (64, 64, 3)


def sources(count: int) -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    return [(str(n), photo(*rng.integers(20, 60, 2).tolist(), kind="PNG" if n % 2 else "JPEG")) for n in range(count)]


def test_many_images_are_decoded_as_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, heard = [*sources(7), ("bad", b"no image"), *sources(3)], list[tuple[int, int]]()
    monkeypatch.setattr(_decode, "_AT_ONCE", 4)
    options = {"image_size": (16, 24), "skip_bad_images": True, "where": "here"}
    with telling(lambda *so_far: heard.append(so_far)):
        images, kept, skipped = _decode.decode(given, **options)  # type: ignore[arg-type]
    assert heard == [(4, 11), (8, 11), (11, 11)]
    assert (kept, [name for name, _ in skipped]) == ([*range(7), 8, 9, 10], ["bad"])
    for row, index in enumerate(kept):
        (tmp_path / "x").write_bytes(given[index][1])
        assert np.array_equal(images[row], read_image(tmp_path / "x", size=(16, 24), channels=3))
    monkeypatch.setattr(_decode, "_IN_MEMORY", 0)
    monkeypatch.setenv("GRAFTWORK_CACHE", str(tmp_path / "cache"))
    in_file, *_ = _decode.decode(given, **options)  # type: ignore[arg-type]
    assert isinstance(in_file, np.memmap)
    assert np.array_equal(in_file, images)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(DataError, match="bad: expected an image"):
        _decode.decode(given, image_size=16, skip_bad_images=False, where="here")


def test_colour_that_a_survey_has_missed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_survey, "_SAMPLE", 1)
    given = [("0", photo(16, 16, mode="L")), ("1", photo(16, 16, mode="L")), ("2", photo(16, 16))]
    images, *_ = _decode.decode(given, image_size=None, skip_bad_images=False, where="here")
    assert images.shape == (3, 16, 16, 3)
    grey, *_ = _decode.decode(given[:2], image_size=None, skip_bad_images=False, where="here")
    assert grey.shape == (2, 16, 16, 1)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    for name, kind in (("whole.png", "PNG"), ("small.jpg", "JPEG")):
        (tmp_path / name).write_bytes(photo(400, 600, kind=kind))
    whole, small = (read_image(tmp_path / n, size=(32, 32), channels=3).astype(int) for n in ("whole.png", "small.jpg"))
    assert np.abs(whole - small).max() <= 8


def test_what_was_decoded_is_known_by_the_survey_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTWORK_CACHE", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "d", pixels(4, side=70), [0, 0, 1, 1])
    found = survey(folder)
    assert found is not None
    assert not is_decoded(found, image_size=16)
    load_dataset(folder, image_size=16)
    again = survey(folder)  # from the cache
    assert again is not None
    assert is_decoded(again, image_size=16)
    assert not is_decoded(again, image_size=24)
    assert not is_decoded(again, image_size=16, skip_bad_images=True)
    os.utime(next(folder.rglob("*.png")), ns=(0, 0))  # of the same size, and changed at another time
    changed = survey(folder)
    assert changed is not None
    assert not is_decoded(changed, image_size=16)
