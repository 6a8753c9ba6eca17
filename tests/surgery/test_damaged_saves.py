"""A saved model that was cut, flipped or made by a stranger: an error that names the file, or the same model."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.errors import SurgeryError
from graftwork.surgery._saving import sealed


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Content of the two files of a save."""
    folder = tmp_path_factory.mktemp("save")
    model = build()
    gw.widen(model, "0", extra=2, example_input=torch.randn(2, 3, 4, 4))
    gw.deepen(model, "2", example_input=torch.randn(2, 3, 4, 4))
    gw.save_model(model, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def put(save: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in save.items():
        (folder / name).write_bytes(content)
    return folder


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_flipped_bit_or_a_cut_is_noticed_or_harmless(save: dict[str, bytes], tmp_path: Path) -> None:
    whole, rng, noticed = gw.load_model(build, put(save, tmp_path / "whole")), random.Random(0), 0
    for name, content in save.items():
        for number in range(60):
            place = rng.randrange(len(content))
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.randrange(8)
            folder = put({**save, name: bytes(damaged) if number % 3 else content[:place]}, tmp_path / "damaged")
            try:
                found = gw.load_model(build, folder)
            except SurgeryError as error:
                noticed += name in str(error)
            else:
                assert same(found, whole)  # a blank became another blank
    assert noticed > 110


@pytest.mark.parametrize("name", ["growth.json", "model"])
def test_a_lost_file_is_named(name: str, save: dict[str, bytes], tmp_path: Path) -> None:
    lost = next(one for one in save if one.startswith(name))
    folder = put({one: content for one, content in save.items() if one != lost}, tmp_path)
    with pytest.raises(SurgeryError, match=lost):
        gw.load_model(build, folder)


def test_links_as_a_hubs_cache_has_them_are_read_and_pipes_are_not_waited_for(
    save: dict[str, bytes], tmp_path: Path
) -> None:
    blobs, folder = put(save, tmp_path / "blobs"), tmp_path / "snapshot"
    folder.mkdir()
    for name in save:
        (folder / name).symlink_to(blobs / name)
    assert same(gw.load_model(build, folder), gw.load_model(build, blobs))
    for name in save:
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(SurgeryError, match=name):
            gw.load_model(build, folder)
        (folder / name).unlink()
        (folder / name).symlink_to(blobs / name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("growths", {}),
        ("growths", [1]),
        ("growths", [{"growth": {"kind": "widen", "site": "0", "extra": 2}, "changes": {"tensors": 5}}]),
        (
            "growths",
            [{"growth": {"kind": "widen", "site": "0", "extra": 2}, "changes": {"tensors": {"0.bias": [2**39]}}}],
        ),
        ("growths", [{"growth": {"kind": "widen", "site": "0", "extra": 2}, "changes": {"tensors": {"0.bias": [-4]}}}]),
        (
            "growths",
            [{"growth": {"kind": "widen", "site": "0", "extra": 2}, "changes": {"tensors": {"0.bias": ["9"]}}}],
        ),
        ("growths", [{"growth": {"kind": "none"}, "changes": {}}]),
        ("aliases", []),
        ("aliases", {"0.weight": "missing"}),
        ("aliases", {"0.weight": {}}),
        ("tensors", []),
        ("tensors", {"file": "../model.safetensors", "sha256": "0"}),
        ("tensors", {"file": None, "sha256": None}),
        ("version", 1),
        ("format", None),
    ],
)
def test_a_strangers_log_is_refused_by_name(key: str, value: Any, save: dict[str, bytes], tmp_path: Path) -> None:
    folder = put(save, tmp_path)
    log = json.loads(save["growth.json"])
    (folder / "growth.json").write_text(json.dumps(sealed({**log, key: value})))
    with pytest.raises(SurgeryError, match=r"growth\.json|build_model"):
        gw.load_model(build, folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"format": NaN}', "\ud800"])
def test_what_is_no_log_is_refused(text: str, save: dict[str, bytes], tmp_path: Path) -> None:
    folder = put(save, tmp_path)
    (folder / "growth.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SurgeryError, match=r"growth\.json"):
        gw.load_model(build, folder)
    with pytest.raises(SurgeryError, match=r"growth\.json"):
        gw.surgery.replay(build(), folder)
