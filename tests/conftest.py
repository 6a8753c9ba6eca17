"""What all tests share: one thread, fixed seeds, deterministic Hypothesis, no screen, nothing written at home."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["MPLBACKEND"] = "Agg"

import torch

from graftwork.machine import _latency
from graftwork.networks.execution import set_kernels

gc.disable()  # until all tests are imported

# Tests run in several processes, and one thread gives the same sums on every machine.
torch.set_num_threads(1)

# Derandomized: the gate never fails by chance. No deadline and no health check by the clock: machines differ.
_shared = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("gate", derandomize=True, max_examples=40, **_shared)
settings.register_profile("explore", max_examples=1000, **_shared)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


def pytest_collection_finish() -> None:
    """What was imported by now is never garbage: don't look through it again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    """Tests that draw from torch's global generator don't depend on the tests before them."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` notes its whole call stack for each kind of device
    yield
    torch.set_rng_state(before)


@pytest.fixture(autouse=True)
def _passes_of_torch() -> Iterator[None]:
    """What one test chose for the whole process does not reach the next."""
    set_kernels(None)
    yield
    set_kernels(None)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting() -> Iterator[None]:
    """Files need not outlive a loss of power, and latencies need not be exact: seven passes are timed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(_latency, "SECONDS", 0.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Path]:
    """Caches of the whole test run lie in its own temporary folder; only compiled kernels are kept for the next run."""
    folder, kept = tmp_path_factory.mktemp("cache"), pytestconfig.rootpath / ".pytest_cache" / "kernels"
    _copy_kernels(kept, folder / "graftwork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
    _copy_kernels(folder / "graftwork", kept)


def _copy_kernels(source: Path, target: Path) -> None:
    """Copy what is not there yet; their names say what they were made of."""
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o700)
    for file in source.glob("kernels-*"):
        if file.is_file() and not (target / file.name).exists():
            aside = target / f"{file.name}.{os.getpid()}"
            shutil.copy2(file, aside)
            aside.replace(target / file.name)
