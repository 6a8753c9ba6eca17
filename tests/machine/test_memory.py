"""What is free: the machine, and every control group around the process."""

from pathlib import Path

import pytest
import torch

from graftwork.errors import ConfigError
from graftwork.machine import free_memory, memory_limit, parse_size

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("512mb", 512 * 10**6),
        ("70000", 70_000),
        ("2k", 2000),
        ("1Ti", 2**40),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == memory_limit(text, CPU) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "4XB", "1e9", "nan", None, "9" * 40, "1" * 25 + "TB"])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="max_memory: expected a size such as 4GB"):
        parse_size(text)


def put(root: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}


def test_the_smallest_room_of_all_groups_counts(tmp_path: Path) -> None:
    group = "sys/fs/cgroup"
    two = {
        "proc/self/cgroup": "0::/outer/inner\n",
        f"{group}/outer/memory.max": "5000000",
        f"{group}/outer/memory.current": "3000000",
        f"{group}/outer/memory.stat": "anon 7\ninactive_file 500000\n",
        f"{group}/outer/inner/memory.max": "max",
        f"{group}/outer/inner/memory.current": "1",
    }
    assert free_memory(CPU, root=put(tmp_path, {**MACHINE, **two})) == 2_500_000


def test_groups_of_version_one_and_a_path_that_a_container_does_not_show(tmp_path: Path) -> None:
    one = {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/unseen\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000",
    }
    assert free_memory(CPU, root=put(tmp_path, {**MACHINE, **one})) == 3_000_000


def test_a_group_without_limits_and_one_that_is_over_its_limit(tmp_path: Path) -> None:
    assert free_memory(CPU, root=put(tmp_path, {**MACHINE, "proc/self/cgroup": "0::/\n"})) == 8000 * 1024
    full = {"sys/fs/cgroup/memory.max": "10", "sys/fs/cgroup/memory.current": "20"}
    assert free_memory(CPU, root=put(tmp_path, full)) == 0


def test_unasked_a_search_takes_a_share_of_what_is_free_divided_among_processes() -> None:
    free = free_memory(CPU)
    assert free is not None
    alone, two = memory_limit(None, CPU), memory_limit(None, CPU, processes=2)
    assert alone is not None
    assert two is not None
    assert 0.3 * free < alone < 0.9 * free
    assert two < 0.7 * alone
