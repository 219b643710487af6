"""Who counts as alive; the locks are held by real processes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from supervision import LIB

from engram import slurm_jobs
from engram.errors import StoreError
from engram.lease import Lease, last_sign_of_life, process_identity, standing

HOLDER = """
import sys
from pathlib import Path
from engram.lease import Lease, process_identity
import json
lease = Lease.acquire(Path(sys.argv[1]))
print(json.dumps(process_identity()), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lease until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lease")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(LIB)},
        text=True,
    )
    process.identity = __import__("json").loads(process.stdout.readline())
    yield process
    process.kill()
    process.communicate()


def end(process):
    process.kill()
    process.wait()


def test_identity_names_this_process():
    identity = process_identity()
    stat = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()

    assert identity["pid"] == os.getpid()
    assert identity["host"] == socket.gethostname()
    assert identity["start_time"] == int(stat[19])
    assert re.fullmatch(r"[0-9a-f-]{36}", identity["boot_id"])
    assert re.fullmatch(r"pid:\[\d+\]", identity["pid_namespace"])
    assert set(identity) >= {"slurm_job", "user"}


def test_a_holder_is_alive_and_dead_once_killed(holder, tmp_path):
    assert standing(tmp_path / "lease", holder.identity) == "alive"
    end(holder)
    assert standing(tmp_path / "lease", holder.identity) == "dead"


def test_a_held_lease_cannot_be_taken(holder, tmp_path):
    with pytest.raises(StoreError, match="held by another process"):
        Lease.acquire(tmp_path / "lease", patience_s=0.0)
    end(holder)
    Lease.acquire(tmp_path / "lease").release()


def test_the_lock_is_not_inherited_by_programs_the_holder_starts(tmp_path):
    with Lease.acquire(tmp_path / "lease"):
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        assert standing(tmp_path / "lease", {**process_identity(), "start_time": 1}) == "dead"
    finally:
        end(child)


def test_looking_does_not_disturb_the_holder(tmp_path):
    identity = {**process_identity(), "start_time": 1}
    with Lease.acquire(tmp_path / "lease"):
        assert [standing(tmp_path / "lease", identity) for _ in range(3)] == ["alive"] * 3
    assert standing(tmp_path / "lease", identity) == "dead"


@pytest.mark.parametrize("key", ["host", "machine", "pid_namespace"])
def test_another_host_or_pid_namespace_is_never_declared_dead(holder, tmp_path, key):
    end(holder)
    identity = {**holder.identity, key: "another"}
    if key == "machine" and holder.identity[key] is None:
        pytest.skip("this system has no /etc/machine-id")

    assert standing(tmp_path / "lease", identity) == "elsewhere"


def test_an_earlier_boot_of_this_host_is_dead(holder, tmp_path):
    identity = {**holder.identity, "boot_id": "earlier", "pid_namespace": "pid:[1]"}
    end(holder)

    assert standing(tmp_path / "lease", identity) == "dead"


def test_a_recycled_pid_is_dead(tmp_path):
    (tmp_path / "lease").touch()

    assert standing(tmp_path / "lease", {**process_identity(), "start_time": 1}) == "dead"


def test_a_living_process_without_its_lease_file_is_alive(tmp_path):
    assert standing(tmp_path / "lease", process_identity()) == "alive"


def test_a_folder_without_identity_is_judged_by_its_lock(holder, tmp_path):
    assert standing(tmp_path / "lease", None) == "alive"
    end(holder)
    assert standing(tmp_path / "lease", None) == "dead"


def test_a_newborn_folder_without_lease_is_given_time(tmp_path):
    folder = tmp_path / "run" / "provenance"
    folder.mkdir(parents=True)
    assert standing(folder / "lease", None) == "alive"
    for path in (folder, folder.parent):
        os.utime(path, (1, 1))
    assert standing(folder / "lease", None) == "dead"


def test_a_read_only_lease_can_be_looked_at(holder, tmp_path):
    (tmp_path / "lease").chmod(0o444)

    assert standing(tmp_path / "lease", holder.identity) == "alive"


def test_last_sign_of_life_is_the_newest_log(tmp_path):
    for path in (tmp_path / "log.out", tmp_path / "metrics.jsonl"):
        path.touch()
    os.utime(tmp_path / "metrics.jsonl", (1, 1))
    os.utime(tmp_path, (1, 1))
    os.utime(tmp_path / "log.out", (12345.5, 12345.5))

    assert last_sign_of_life(tmp_path) == 12345.5


def test_a_job_of_another_cluster_or_without_slurm_is_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue
    there = {"host": "node7", "machine": "m", "slurm_job": "12", "slurm_cluster": "big"}
    assert standing(tmp_path / "lease", {**process_identity(), **there}) == "elsewhere"


@pytest.mark.parametrize(
    ("several", "name", "covered"),
    [
        ("12_[3-5,9%2]", "12_4", True),
        ("12_[3-5,9%2]", "12_9", True),
        ("12_[3-5,9]", "12_6", False),
        ("12_[3-5]", "13_4", False),
        ("12", "12_4", False),
        ("12_4", "12_4", False),
    ],
)
def test_tasks_of_an_array_that_wait_are_named_together(several, name, covered):
    assert slurm_jobs.covers(several, name) is covered
