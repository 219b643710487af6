"""Grids as arrays of a real Slurm: what is submitted, what ends it, who watches."""

from __future__ import annotations

import csv
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import EXPERIMENT, Project
from submitting import ENGINE, begun, grid_of, last_runs, lines_of, wait, with_grid

from engram.grid import record as grid_record
from engram.grid.attempts import attempts
from engram.reconcile import SILENT

if TYPE_CHECKING:
    from cluster import Cluster, Watch

pytest_plugins = ["cluster"]
pytestmark = pytest.mark.slurm

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
    _, said = watcher.communicate(timeout=300)

    assert watcher.returncode == 0, said
    [(first, second)] = attempts(grid_of(work)).values()
    assert first.record["state"] == "interrupted"
    assert first.record["exit"]["cause"] == f"preempted in Slurm (job {job})"
    assert second.record["summary"] == {"first": 7}
    assert second.record["parents"]["resumed_from"]["run"] == first.paths.run_id
    row = grid_of(work).table.read_text().splitlines()[1].split(",")
    assert row[2] == "completed" and row[4] == "2"


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
    _, said = watcher.communicate(timeout=300)

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
    _, said = watcher.communicate(timeout=300)

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
    _, said = watcher.communicate(timeout=300)
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
