"""Single runs as jobs of a real Slurm, and what Slurm says of runs on other machines."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Project
from submitting import GRID, begun, wait

from engram import record, slurm_jobs
from engram.lease import Lease, process_identity, standing
from engram.reconcile import reconcile

if TYPE_CHECKING:
    from cluster import Cluster, Watch

pytest_plugins = ["cluster"]
pytestmark = pytest.mark.slurm


def test_a_job_that_is_signaled_to_make_room_starts_again_later(
    work: Project, watch: Watch, slurm: Cluster, tmp_path: Path
) -> None:
    watcher = watch("experiment.toml", "--set", f"until={tmp_path}/go", "--set", "seconds=60")
    wait(slurm, lambda: begun(work), watcher)
    [first] = begun(work)
    job = record.load(first)["lease"]["slurm_job"]
    slurm.call("scancel", "--signal=USR2", job)
    (tmp_path / "go").touch()
    slurm.start_again(job)
    out, said = watcher.communicate(timeout=300)

    assert watcher.returncode == 0, said
    assert record.load(first)["exit"]["cause"] == f"preempted in Slurm (job {job})"
    second = record.load(work.latest())
    assert second["state"] == "completed" and second["lease"]["slurm_restart"] == "1"
    assert out == "begin 1\nbegin 1\n" and "requeued and goes on" in said


def test_a_single_run_looks_as_if_it_ran_here(work: Project) -> None:
    there = work.run("experiment.toml", "--seed", "3")
    one = work.latest()
    here = work.run("experiment.toml", "--seed", "3", "--config", "engine={}")
    two = work.latest()

    assert there.returncode == here.returncode == 0, there.stderr
    assert there.stdout == here.stdout == "begin 1\n"
    assert "to stderr\n" in there.stderr and one.run_id in there.stderr
    assert one.log_out.read_bytes() == two.log_out.read_bytes()
    listed = [
        sorted(path.relative_to(run.folder) for path in run.folder.rglob("*")) for run in (one, two)
    ]
    assert listed[0] == listed[1] and one.folder.parent == two.folder.parent
    assert record.load(one)["lease"]["slurm_job"] and not record.load(two)["lease"]["slurm_job"]
    assert not list((work.root / "runs" / ".engram" / "slurm").iterdir())


def test_a_submitted_run_runs_what_was_submitted(
    work: Project, watch: Watch, slurm: Cluster
) -> None:
    busy = slurm.call(
        "sbatch", "--parsable", "--gres=gpu:4", "-o", "/dev/null", "--wrap", "sleep 60"
    )
    slurm.until(lambda: slurm.state(busy) == "RUNNING")
    commit = work.git("rev-parse", "HEAD")
    watcher = watch("experiment.toml")
    submissions = work.root / "runs" / ".engram" / "slurm"
    wait(slurm, lambda: list(submissions.glob("*/job.json")), watcher)
    work.write("work.py", "def main(**rest): raise RuntimeError('edited later')\n")
    work.write("parameters.toml", "other = 1\n")
    work.write("experiment.toml", "script = 'nothing.py'\n")
    slurm.call("scancel", busy)
    out, said = watcher.communicate(timeout=300)

    assert (watcher.returncode, out) == (0, "begin 1\n"), said
    assert record.load(work.latest())["code"]["commit"] == commit


def test_a_single_run_has_the_exit_code_of_the_run(work: Project) -> None:
    failed = work.run("experiment.toml", "--set", "value=13")
    refused = work.run("experiment.toml", "--config", "engine.partition=nowhere")

    assert failed.returncode == 1 and "ValueError: no luck" in failed.stderr
    assert refused.returncode == 2 and "nowhere" in refused.stderr
    assert len(work.runs()) == 1


def test_who_stops_watching_a_single_run_can_attach_again(
    work: Project, watch: Watch, slurm: Cluster, tmp_path: Path
) -> None:
    watcher = watch("experiment.toml", "--set", f"until={tmp_path}/go", "--set", "seconds=60")
    wait(slurm, lambda: begun(work), watcher)
    watcher.send_signal(signal.SIGINT)
    _, said = watcher.communicate(timeout=300)
    assert watcher.returncode == 130
    job = re.search(r"--attach (\d+); end it: scancel \1\n", said)
    assert job and slurm.state(job[1]) == "RUNNING"
    (tmp_path / "go").touch()
    done = work.run("--attach", job[1])

    assert (done.returncode, done.stdout) == (0, "begin 1\n"), done.stderr
    assert work.run("--attach", job[1]).returncode != 0


def test_slurm_says_which_runs_on_other_machines_are_dead(slurm: Cluster, tmp_path: Path) -> None:
    lease = tmp_path / "lease"
    here = process_identity()
    job = slurm.call("sbatch", "--parsable", "--requeue", "-o", "/dev/null", "--wrap", "sleep 60")
    there = {**here, "host": "node7", "machine": "m", "boot_id": "b", "slurm_job": job}
    there |= {"slurm_cluster": "engram", "slurm_restart": None, "start_time": 1}

    assert standing(lease, {**there, "slurm_job": None}) == "elsewhere"
    assert standing(lease, {**there, "slurm_job": "4000000"}) == "elsewhere"
    assert standing(lease, {**there, "slurm_cluster": "another"}) == "elsewhere"
    assert standing(lease, there) == "alive"  # it waits
    slurm.until(lambda: slurm.state(job) == "RUNNING")
    assert judged(lease, there) == "alive"
    slurm.call("scontrol", "requeue", job)
    slurm.until(lambda: slurm.state(job) == "PENDING")
    assert judged(lease, there) == "dead"  # what comes is another run
    again = {**there, "slurm_restart": "1"}
    assert judged(lease, again) == "alive"
    slurm.call("scancel", job)
    assert judged(lease, again) == "dead"
    with Lease.acquire(lease):
        assert judged(lease, again) == "alive"  # somebody writes, whatever Slurm says


def judged(lease: Path, identity: dict[str, Any]) -> str:
    """The standing, asked of Slurm anew."""
    slurm_jobs.forget()
    return standing(lease, identity)


def test_the_record_of_a_run_whose_node_vanished_says_what_slurm_knows(
    work: Project, slurm: Cluster
) -> None:
    assert work.run("experiment.toml", "--config", "engine={}").returncode == 0
    run = work.latest()
    job = slurm.call("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "sleep 60")
    known = json.loads(run.metadata.read_text())
    gone = {**known["lease"], "host": "node7", "machine": "m", "boot_id": "b", "slurm_job": job}
    known |= {"state": "running", "exit": None, "lease": {**gone, "slurm_cluster": "engram"}}
    known["times"]["ended"] = None
    known["record_sha256"] = record.record_sha256(known)
    run.metadata.write_text(json.dumps(known))

    assert reconcile(run)["state"] == "running"
    slurm.call("scancel", job)
    slurm.until(lambda: slurm.state(job) == "CANCELLED")
    judged(run.lease, known["lease"])
    ended = reconcile(run)
    assert (ended["state"], ended["exit"]["cause"]) == (
        "interrupted",
        f"cancelled in Slurm (job {job})",
    )


def test_without_slurm_nothing_is_made(project: Project, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("git",):
        (tools / name).symlink_to(Path("/usr/bin") / name)
    config = ["--config", "engine.kind=slurm"]
    done = project.run("experiment.toml", *config, env={"PATH": str(tools)})
    project.write("grid.py", GRID.format(values=[1]))
    project.commit()
    grid = project.run("--grid", "grid.py", "experiment.toml", *config, env={"PATH": str(tools)})

    for call in (done, grid):
        assert call.returncode == 2, call.stderr
        assert "no sbatch, srun, squeue on PATH" in call.stderr
    assert not list((project.root / "runs").glob("[!.]*"))


def test_what_the_engine_sets_itself_cannot_be_set_otherwise(work: Project) -> None:
    done = work.run("experiment.toml", "--config", 'engine.extra={array="0-3"}')
    assert done.returncode == 2 and "'array'" in done.stderr
    assert os.environ["SLURM_CONF"]
