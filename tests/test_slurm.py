"""The job file of `docs/how-to/slurm.md` runs, with stand-ins for Slurm's commands and torchrun."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs/how-to/slurm.md"
STAND_INS = {
    "srun": 'exec "$@"',
    "scontrol": 'echo "scontrol $*" >> "$HOME/log"; [[ $1 == requeue ]] || printf "node1\\nnode2\\n"',
    "torchrun": 'trap "echo stored >> $HOME/log; exit 143" TERM\necho "torchrun $*" >> "$HOME/log"\n'
    'for _ in $(seq "$ROUNDS"); do sleep 0.05; done',
}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = tmp_path / "job.sh"
    path.write_text(block)
    return path


def start(job: Path, *, rounds: int) -> subprocess.Popen[bytes]:
    home = job.parent
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    path = f"{home}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(job)], env={**os.environ, **slurm, "HOME": str(home), "PATH": path, "ROUNDS": str(rounds)}
    )


def told(job: Path) -> list[str]:
    log = job.parent / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_a_job_begins_a_search_on_all_nodes_and_later_resumes_it(job: Path) -> None:
    assert start(job, rounds=0).wait(30) == 0
    _, begun = told(job)
    assert begun.startswith("torchrun --nnodes 2 --nproc-per-node 2 --max-restarts 3 --rdzv-backend c10d")
    assert "--rdzv-endpoint node1:29400 -m graftwork search --data" in begun
    run = job.parent / "runs/photos"
    run.mkdir(parents=True)
    (run / "config.toml").touch()
    assert start(job, rounds=0).wait(30) == 0
    assert told(job)[-1].endswith(f"-m graftwork search --resume {run}")


def test_a_job_whose_time_is_up_stores_the_search_and_queues_again(job: Path) -> None:
    process = start(job, rounds=400)
    while not any(line.startswith("torchrun") for line in told(job)):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert told(job)[-2:] == ["stored", "scontrol requeue 7"]
