"""A library is built where there is a compiler, kept for this user alone, and used only if it does what torch does."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from graftwork.networks.kernels import Kernels, build
from graftwork.networks.kernels import _build as module
from graftwork.networks.kernels._check import agrees


def test_a_library_that_differs_from_torch_is_not_used(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(kernels)
    honest = kernels.add
    monkeypatch.setattr(kernels, "add", lambda out, x: honest(out, x * 1.01))
    assert not agrees(kernels)


def test_without_a_compiler_there_are_no_kernels_and_it_is_said_once_what_they_give(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    module._tell_what_a_compiler_gives.cache_clear()
    assert build(tmp_path) is None
    assert build(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert len(caplog.messages) == 1
    assert "times as fast" in caplog.messages[0]


@pytest.mark.slow
def test_without_an_openmp_runtime_one_thread_does_the_same(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    can = module._loads
    tried: list[Path] = []

    def loads(library: Path) -> bool:
        tried.append(library)
        return len(tried) > 1 and can(library)  # as where nothing provides what the first one calls

    monkeypatch.setattr(module, "_loads", loads)
    alone = build(tmp_path)
    assert alone is not None
    assert len(tried) == 2
    x = torch.randn(8, 33, 24, 24).contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = alone.normaliser(x, torch.ones(33), torch.zeros(33))
    finally:
        torch.set_num_threads(1)
        expected = kernels.normaliser(x, torch.ones(33), torch.zeros(33))
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
def test_rounding_without_the_processors_instruction_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernels: Kernels
) -> None:
    monkeypatch.setattr(module, "_TARGETS", ((),))  # for any processor: nothing but what all of them have
    plain = build(tmp_path)
    assert plain is not None
    for width in (3, 16, 20):
        out, x = (
            torch.randn(2, width, 5, 5).bfloat16().contiguous(memory_format=torch.channels_last) for _ in range(2)
        )
        expected = out + x
        for way in (plain, kernels):
            found = out.clone()
            way.add(found, x)
            assert torch.equal(found, expected)


def test_a_compiler_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_source", lambda name: "this is no C")
    assert build(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cache(kernels: Kernels, tmp_path: Path, _own_cache: Path) -> Path:
    """A cache of its own with a library in it."""
    folder = tmp_path / "cache"
    shutil.copytree(_own_cache / "graftwork", folder, ignore=lambda _, names: {n for n in names if "kernels-" not in n})
    return folder


def test_only_the_library_that_was_built_here_is_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (library,) = cache.glob("*.so")
    built = library.read_bytes()
    compiled: list[Path] = []
    monkeypatch.setattr(module, "_compile", lambda compiler, folder, made: bool(compiled.append(made)))
    assert build(cache) is not None
    assert compiled == []  # whole: taken from the cache
    cache.chmod(0o777)
    assert build(cache) is not None
    assert cache.stat().st_mode & 0o022 == 0
    digest = library.with_suffix(".sha256")
    kept = digest.read_text()
    for damage in ("cut", "flipped", "open to others", "without its hash", "a link"):
        library.unlink(missing_ok=True)  # never in place: this process has it mapped
        changed = {"cut": built[:-100], "flipped": bytes([*built[:-1], built[-1] ^ 1])}
        library.write_bytes(changed.get(damage, built))
        library.chmod(0o666 if damage == "open to others" else 0o600)
        digest.write_text(kept)
        digest.chmod(0o600)
        if damage == "without its hash":
            digest.unlink()
        if damage == "a link":
            library.symlink_to(library.rename(cache / "elsewhere"))
        assert build(cache) is None
        assert compiled.pop() == library  # built again
        assert not library.exists()


def test_a_compiler_may_be_a_command_with_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(module, "_done", lambda command: bool(asked.append(list(command))))
    monkeypatch.setenv("CC", f"{sys.executable} -O2 'a b'")
    assert build(tmp_path) is None
    assert asked[0][:3] == [sys.executable, "-O2", "a b"]
    assert "kernels: off, since they can't be compiled by" in caplog.text
