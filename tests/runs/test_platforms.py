"""A platform that lacks what Unix has: it is asked for, not assumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

HIDE = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL"):
    delattr(signal, name)
for name in ("fork", "forkpty", "getuid", "geteuid", "getppid", "sysconf", "mkfifo", "sched_getaffinity"):
    delattr(os, name)
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC"):
    delattr(os, name)
os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks = set(), set(), set()
from graftwork.cli import main
main(sys.argv[1:])
"""


def run(folder: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-c", HIDE, *map(str, words)]
    environment = {**os.environ, "GRAFTWORK_CACHE": str(folder / "cache")}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


def test_a_search_and_its_end_without_locks_signals_users_and_forks_of_unix(tmp_path: Path) -> None:
    path = tmp_path / "run"
    small = ("--budget", "9steps", "--num-generations", 1, "--population-size", 2, "--num-survivors", 1)
    plain = ("--recipe", "paper", "--passes", "torch", "--precision", "float32", "--threads", 1, "--no-report")
    found = run(tmp_path, "search", *small, *plain, "--quiet", "--out", path)
    assert (found.returncode, found.stderr) == (0, ""), found.stderr
    assert json.loads((path / "result.json").read_text())["steps"] > 0
    assert not (path / "lock.held").exists()
