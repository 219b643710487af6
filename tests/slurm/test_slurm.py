"""Runs and grids as jobs of a real Slurm: what is submitted, what ends them, who watches."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import EXPERIMENT, Project

from engram import record
from engram.grid import record as grid_record
from engram.grid.attempts import attempts
from engram.lease import Lease, process_identity, standing
from engram.paths import GridPaths, RunPaths
from engram.reconcile import SILENT, reconcile

if TYPE_CHECKING:
    from cluster import Cluster

    Watch = Callable[..., subprocess.Popen[str]]

pytest_plugins = ["cluster"]
pytestmark = pytest.mark.slurm

ENGINE = """
[engine]
kind = "slurm"
gres = "gpu:1"
time = "10m"
memory = "200M"
"""

WORK = """\
import json, os, pathlib, sys, time, tomllib


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    parameters = tomllib.loads(params_file.read_text())
    began = time.time()
    print("begin", parameters["value"], flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    end = began + parameters["seconds"]
    while time.time() < end and not pathlib.Path(parameters["until"]).exists():
        time.sleep(0.02)
    if parameters["value"] == 13:
        raise ValueError("no luck")
    (output_dir / "result.txt").write_text(str(parameters["value"] * 2))
    gpu = int(os.environ.get("CUDA_VISIBLE_DEVICES", "-1"))
    return {"doubled": parameters["value"] * 2, "gpu": gpu, "began": began, "ended": time.time()}
"""

GRID = """\
import copy


def configurations(base):
    for value in {values}:
        parameters = copy.deepcopy(base)
        parameters["value"] = value
        yield parameters, f"value-{{value}}"
"""

TRAIN = """\
import signal
import time

import torch
from engram import checkpoint

ASKED = []


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    signal.signal(signal.SIGTERM, lambda number, frame: ASKED.append(number))
    saved = checkpoint.Checkpoints(output_dir)
    state = {"model": torch.nn.Linear(1, 1)}
    first = checkpoint.load(resume_from, **state).step if resume_from else 0
    if first == 0:
        print("training", flush=True)
        while not ASKED:
            time.sleep(0.02)
        saved.save(7, **state)
        raise SystemExit(1)
    return {"first": first}
"""

CURVES = """\
import time, tomllib
from engram import metrics


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    x = tomllib.loads(params_file.read_text())["x"]
    with metrics.open(output_dir) as log:
        for step in range(30):
            log(step=step, loss=x**2 + 1 / (step + 1))
            time.sleep(0.2)
    return {"loss": x**2}
"""

SEARCH = """
[grid]
search = "optuna"
metric = "loss"
trials = 5
sampler = "random"
seed = 3
pruner = "median"
pruner_options = {n_startup_trials = 1, n_warmup_steps = 2}

[grid.space]
x = {uniform = [-5, 5]}
"""


@pytest.fixture
def work(slurm: Cluster, tmp_path: Path) -> Project:
    """A repository whose runs are Slurm jobs."""
    made = Project(tmp_path / "project")
    made.write("work.py", WORK)
    made.write("parameters.toml", 'value = 1\nseconds = 0.0\nuntil = "/nonexistent"\n')
    made.write("experiment.toml", EXPERIMENT + ENGINE)
    made.write(".gitignore", "runs\n__pycache__\n")
    made.git("init", "-q", "-b", "main")
    made.commit()
    return made


@pytest.fixture
def watch(work: Project) -> Iterator[Watch]:
    """Start watchers that do not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        started.append(work.start(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def with_grid(project: Project, *values: int) -> Project:
    """Give a repository a grid file."""
    project.write("grid.py", GRID.format(values=list(values)))
    project.commit("grid")
    return project


def grid_of(project: Project) -> GridPaths:
    """The newest grid of a repository."""
    return GridPaths(sorted((project.root / "runs").glob("*-grid-*"))[-1])


def last_runs(grid: GridPaths) -> dict[str, dict[str, Any]]:
    """The record of the last attempt at each point, by the point's name."""
    return {tried[-1].point: tried[-1].record for tried in attempts(grid).values()}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait(slurm: Cluster, ready: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something is so, or fail with what the watcher has to say."""

    def look() -> object:
        assert process.poll() is None, process.communicate()
        return ready()

    slurm.until(look)


def begun(project: Project, number: int = 1, word: str = "begin") -> list[RunPaths]:
    """The runs of single runs and grids whose script has begun, once they are that many."""
    logs = (project.root / "runs").glob("*/*Z-*/log.out")
    runs = [RunPaths(path.parent) for path in logs if word in path.read_text()]
    return runs if len(runs) >= number else []


def test_a_grid_is_one_array_with_the_configured_resources(work: Project) -> None:
    with_grid(work, 0, 1, 2, 3)
    settings = ("throttle=2", "cpus_per_task=2", 'extra={comment="of the lab", nice=5}')
    config = [text for setting in settings for text in ("--config", f"engine.{setting}")]
    done = work.run("--grid", "grid.py", "experiment.toml", "--set", "seconds=0.5", *config)

    assert done.returncode == 0, done.stderr
    grid = grid_of(work)
    [script] = grid.slurm.glob("*_submission.sh")
    asked = set(re.findall(r"#SBATCH --(.*)", script.read_text()))
    wanted = {"array=0-3%2", "gres=gpu:1", "mem=200M", "time=10", "cpus-per-task=2", "nice=5"}
    assert asked >= wanted | {"comment='of the lab'", "requeue", "job-name=project"}
    summaries = [run["summary"] for run in last_runs(grid).values()]
    assert sorted(item["doubled"] for item in summaries) == [0, 2, 4, 6]
    for item in summaries:
        beside = [
            other
            for other in summaries
            if other["began"] < item["ended"] and item["began"] < other["ended"]
        ]
        assert len({other["gpu"] for other in beside}) == len(beside) <= 2
    rows = grid.table.read_text().splitlines()
    assert len(rows) == 5 and all(",completed," in row for row in rows[1:])
    assert grid_record.load(grid)["state"] == "completed"


def test_a_point_leaves_the_same_wherever_it_ran(work: Project) -> None:
    with_grid(work, 3)
    assert work.run("--grid", "grid.py", "experiment.toml", "--seed", "5").returncode == 0
    there = grid_of(work)
    here = ["--config", "engine={}"]
    assert work.run("--grid", "grid.py", "experiment.toml", "--seed", "5", *here).returncode == 0
    local = grid_of(work)

    [(one, there_run)] = [(tried[0].paths, tried[0].record) for tried in attempts(there).values()]
    [(two, local_run)] = [(tried[0].paths, tried[0].record) for tried in attempts(local).values()]
    files = [
        sorted(path.relative_to(run.folder) for path in run.folder.rglob("*")) for run in (one, two)
    ]
    assert files[0] == files[1]
    differ = {key for key in local_run if local_run[key] != there_run[key]}
    where = {"run_id", "argv", "grid", "devices", "lease", "times", "usage", "overrides", "summary"}
    assert differ <= {*where, "record_sha256", "hashes", "processes", "environment"}
    assert there_run["outputs"] == local_run["outputs"]
    assert there_run["lease"]["slurm_job"] and not local_run["lease"]["slurm_job"]
    assert there_run["devices"]["labels"] == [f"gpu {there_run['summary']['gpu']}"]


def test_a_preempted_point_goes_on_from_its_checkpoint_by_itself(
    work: Project, watch: Watch, slurm: Cluster
) -> None:
    work.write("work.py", TRAIN)
    with_grid(work, 1)
    watcher = watch("--grid", "grid.py", "experiment.toml")
    wait(slurm, lambda: begun(work, word="training"), watcher)
    job = lines_of(grid_of(work).slurm_jobs)[0]["job"]
    slurm.call("sbatch", "-p", "urgent", "--gres=gpu:4", "-o", "/dev/null", "--wrap", "sleep 0.1")
    slurm.start_again(job)
    _, said = watcher.communicate(timeout=60)

    assert watcher.returncode == 0, said
    [(first, second)] = attempts(grid_of(work)).values()
    assert first.record["state"] == "interrupted"
    assert first.record["exit"]["cause"] == f"preempted in Slurm (job {job})"
    assert second.record["summary"] == {"first": 7}
    assert second.record["parents"]["resumed_from"]["run"] == first.paths.run_id
    row = grid_of(work).table.read_text().splitlines()[1].split(",")
    assert row[2] == "completed" and row[4] == "2"


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
    out, said = watcher.communicate(timeout=60)

    assert watcher.returncode == 0, said
    assert record.load(first)["exit"]["cause"] == f"preempted in Slurm (job {job})"
    second = record.load(work.latest())
    assert second["state"] == "completed" and second["lease"]["slurm_restart"] == "1"
    assert out == "begin 1\nbegin 1\n" and "requeued and goes on" in said


def test_cancelled_and_timed_out_points_are_told_apart(
    work: Project, watch: Watch, slurm: Cluster
) -> None:
    with_grid(work, 0, 1, 2, 3)
    config = ["--config", "engine.throttle=3", "--set", "seconds=120"]
    watcher = watch("--grid", "grid.py", "experiment.toml", *config)
    wait(slurm, lambda: begun(work, 3), watcher)
    grid = grid_of(work)
    array = lines_of(grid.slurm_jobs)[0]["job"].partition("_")[0]
    slurm.call("scancel", f"{array}_3")  # before it began
    slurm.call("scancel", f"{array}_0")
    [runner] = [run for run in last_runs(grid).values() if run["grid"]["point"] == "value-1"]
    os.kill(runner["lease"]["pid"], signal.SIGKILL)
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 1))
    slurm.call("scontrol", "update", f"JobId={array}_2", f"EndTime={soon}")
    _, said = watcher.communicate(timeout=90)

    assert watcher.returncode == 1, said
    with grid.table.open(newline="") as stream:
        found = {row["name"]: (row["state"], row["cause"]) for row in csv.DictReader(stream)}
    assert found == {
        "value-0": ("interrupted", f"cancelled in Slurm (job {array}_0)"),
        "value-1": ("killed", SILENT),
        "value-2": ("timed_out", f"Slurm time limit (job {array}_2)"),
        "value-3": ("interrupted", f"cancelled in Slurm (job {array}_3), before the run began"),
    }
    assert {run["state"] for run in last_runs(grid).values()} == {
        "interrupted",
        "killed",
        "timed_out",
    }


def test_a_point_goes_on_after_its_node_failed(
    work: Project, watch: Watch, slurm: Cluster, tmp_path: Path
) -> None:
    with_grid(work, 1)
    settings = ["--set", f"until={tmp_path}/go", "--set", "seconds=60"]
    watcher = watch("--grid", "grid.py", "experiment.toml", *settings)
    wait(slurm, lambda: begun(work), watcher)
    job = lines_of(grid_of(work).slurm_jobs)[0]["job"]
    slurm.call("scontrol", "update", f"NodeName={slurm.node}", "State=DOWN", "Reason=test")
    (tmp_path / "go").touch()
    slurm.until(slurm.empty)
    slurm.call("scontrol", "update", f"NodeName={slurm.node}", "State=IDLE")
    slurm.start_again(job)
    _, said = watcher.communicate(timeout=60)

    assert watcher.returncode == 0, said
    [(first, second)] = attempts(grid_of(work)).values()
    assert first.record["state"] in ("interrupted", "killed")
    assert second.completed and second.attempt == 2


def test_who_stops_watching_leaves_the_jobs_and_can_watch_them_again(
    work: Project, watch: Watch, slurm: Cluster, tmp_path: Path
) -> None:
    with_grid(work, 0, 1)
    settings = ["--set", f"until={tmp_path}/go", "--set", "seconds=60"]
    watcher = watch("--grid", "grid.py", "experiment.toml", *settings)
    wait(slurm, lambda: begun(work, 2), watcher)
    grid = grid_of(work)
    watcher.send_signal(signal.SIGINT)
    _, said = watcher.communicate(timeout=20)
    array = lines_of(grid.slurm_jobs)[0]["job"].partition("_")[0]
    assert watcher.returncode == 130
    assert f"--grid --resume {grid.grid_id}" in said and f"scancel {array}" in said
    assert [slurm.state(f"{array}_{task}") for task in (0, 1)] == ["RUNNING", "RUNNING"]

    second = watch("--grid", "--resume", grid.grid_id)
    wait(slurm, lambda: grid_record.load(grid)["state"] == "running", second)
    second.kill()  # a watcher that says no word takes nothing along either
    second.communicate()
    (tmp_path / "go").touch()
    done = work.run("--grid", "--resume", grid.grid_id)

    assert done.returncode == 0, done.stderr
    assert [len(tried) for tried in attempts(grid).values()] == [1, 1]
    assert len([line for line in lines_of(grid.slurm_jobs) if "task" in line]) == 2
    assert grid_record.load(grid)["state"] == "completed"


def test_a_crashed_point_is_tried_again_in_another_job(work: Project) -> None:
    with_grid(work, 13, 2)
    done = work.run("--grid", "grid.py", "experiment.toml", "--retries", "1")

    assert done.returncode == 1, done.stderr
    grid = grid_of(work)
    tried = {items[0].point: items for items in attempts(grid).values()}
    assert [item.record["state"] for item in tried["value-13"]] == ["failed", "failed"]
    assert [item.record["exit"]["cause"] for item in tried["value-13"]] == [
        "ValueError: no luck"
    ] * 2
    assert [item.record["state"] for item in tried["value-2"]] == ["completed"]


def test_a_search_prunes_points_on_other_machines(work: Project) -> None:
    pytest.importorskip("optuna", reason="searches need optuna")
    work.write("work.py", CURVES)
    work.write("parameters.toml", "x = 0.0\n")
    work.write("experiment.toml", EXPERIMENT + ENGINE + "throttle = 2\n" + SEARCH)
    work.commit("search")
    done = work.run("--grid", "experiment.toml")

    assert done.returncode == 0, done.stderr
    runs = last_runs(grid_of(work)).values()
    assert [run["state"] for run in runs] == ["completed"] * 5
    pruned = [run for run in runs if run["pruned"]]
    assert pruned and len(pruned) < 5
    assert all(run["times"]["run_s"] < 6 for run in pruned)
    assert all("pruned by the search" in run["exit"]["cause"] for run in pruned)


def test_fail_fast_takes_back_what_has_not_begun(work: Project) -> None:
    with_grid(work, 13, *range(20, 26))
    settings = ("--fail-fast", "--config", "engine.throttle=1", "--set", "seconds=0.3")
    done = work.run("--grid", "grid.py", "experiment.toml", *settings)

    assert done.returncode == 1, done.stderr
    counts = grid_record.load(grid_of(work))["counts"]
    assert counts["failed"] == 1 and counts["pending"] >= 4


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
    out, said = watcher.communicate(timeout=60)

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
    _, said = watcher.communicate(timeout=20)
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
    from engram import slurm_jobs

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
