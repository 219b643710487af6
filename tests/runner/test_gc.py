"""Garbage collection on real runs: what goes, what never goes, and that a crash loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import CHECKOUT, Project
from made_runs import make_run
from store_views import (
    DAY_S,
    aged,
    cache,
    gc,
    hidden_refs,
    ids,
    let_rest,
    packs,
    ran,
    snapshots,
)

from engram import garbage, lease, record
from engram.errors import ConfigError
from engram.garbage import Wanted, choose, out_of_reach
from engram.index import Index
from engram.paths import RootPaths, RunPaths

FAIL = """\
def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    raise ValueError("as asked")
"""
WAIT = """\
import time


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    print("up", flush=True)
    time.sleep(60)
"""


def test_gc_without_conditions_takes_no_run(project: Project) -> None:
    paths = ran(project)
    let_rest(project)
    assert "nothing to do" in gc(project)
    assert "nothing to do" in gc(project, "--yes")
    assert paths.metadata.exists()
    assert snapshots(project) == packs(project) == hidden_refs(project) != set()


def test_gc_says_what_would_go_first_and_deletes_nothing(project: Project) -> None:
    old = aged(project, 40)
    said = gc(project, "--older-than", "30d")
    assert old.run_id in said
    assert "nothing was deleted: --yes" in said
    assert old.metadata.exists()


def test_gc_older_than_takes_old_runs_only(project: Project) -> None:
    old, young = aged(project, 40), aged(project, 20)
    said = gc(project, "--older-than", "30d", "--yes")
    assert old.run_id in said
    assert young.run_id not in said
    assert ids(project) == {young.run_id}


def test_gc_state_takes_runs_that_ended_so(project: Project) -> None:
    good = ran(project)
    project.write("work.py", FAIL)
    project.commit()
    bad = ran(project)
    assert record.load(bad)["state"] == "failed"
    gc(project, "--state", "failed", "killed", "--yes")
    assert ids(project) == {good.run_id}


def test_gc_keep_last_keeps_the_newest_of_each_experiment(project: Project) -> None:
    runs = [aged(project, days) for days in (5, 4, 3, 2)]
    other = make_run(project.root / "runs", name="other")
    gc(project, "--keep-last", "2", "--yes")
    assert ids(project) == {runs[2].run_id, runs[3].run_id, other.run_id}


def test_gc_conditions_must_all_hold(project: Project) -> None:
    old_bad = aged(project, 40, state="failed")
    kept = [aged(project, 40), aged(project, 20, state="failed")]
    gc(project, "--older-than", "30d", "--state", "failed", "--yes")
    assert not old_bad.folder.exists()
    assert ids(project) == {paths.run_id for paths in kept}


def test_gc_keep_last_counts_young_runs_too(project: Project) -> None:
    old = [aged(project, 50), aged(project, 40)]
    young = [aged(project, 2), aged(project, 1)]
    gc(project, "--older-than", "30d", "--keep-last", "3", "--yes")
    assert ids(project) == {paths.run_id for paths in (old[1], *young)}


def test_gc_never_takes_a_pinned_run(project: Project) -> None:
    old = aged(project, 40)
    assert project.run("pin", old.run_id).returncode == 0
    said = gc(project, "--older-than", "1d", "--yes")
    assert f"kept {old.run_id}: it is pinned" in said
    assert old.metadata.exists()


def test_gc_never_takes_a_run_that_one_which_stays_refers_to(project: Project) -> None:
    first = aged(project, 60)
    second = aged(project, 50, parents={"resumed_from": None, "rerun_of": {"run": first.run_id}})
    edge = {"run": second.run_id, "checkpoint": "step-1", "sha256": "0" * 64}
    third = aged(project, 40, parents={"resumed_from": edge, "rerun_of": None})
    assert project.run("pin", third.run_id).returncode == 0
    said = gc(project, "--older-than", "1d", "--yes")
    assert f"kept {second.run_id}: run {third.run_id} continues it" in said
    assert f"kept {first.run_id}: run {second.run_id} repeats it" in said
    assert ids(project) == {first.run_id, second.run_id, third.run_id}


def test_gc_takes_runs_that_refer_to_each_other_together(project: Project) -> None:
    ran(project)
    assert project.run("--rerun", "latest").returncode == 0
    gc(project, "--keep-last", "0", "--yes")
    assert ids(project) == set()


def test_gc_finds_referrers_in_other_run_roots(project: Project, tmp_path: Path) -> None:
    first = ran(project)
    table = f'[[data.inputs]]\nrun = "{first.run_id}"\n'
    project.write("experiment.toml", (project.root / "experiment.toml").read_text() + table)
    project.commit()
    elsewhere = tmp_path / "elsewhere"
    done = project.run("experiment.toml", "--config", f"output_dir={elsewhere}")
    assert done.returncode == 0, done.stderr
    said = gc(project, "--state", "completed", "--keep-last", "1", "--yes")
    assert "as input" in said
    assert first.metadata.exists()


def test_gc_takes_neither_a_live_run_nor_its_snapshot(project: Project) -> None:
    project.write("work.py", WAIT)
    commit = project.commit()
    started = project.start("experiment.toml")
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        let_rest(project)
        gc(project, "--keep-last", "0", "--yes")
        assert project.latest().metadata.exists()
        assert snapshots(project) == packs(project) == hidden_refs(project) == {commit}
    finally:
        started.terminate()
        started.communicate(timeout=300)
    assert record.load(project.latest())["state"] == "interrupted"
    gc(project, "--keep-last", "0", "--yes")
    assert snapshots(project) == packs(project) == hidden_refs(project) == set()


def test_gc_collects_what_belonged_to_removed_runs_and_nothing_else(project: Project) -> None:
    first = project.commit("first")
    gone = ran(project)
    project.write("other.py", "x = 1\n")
    second = project.commit("second")
    ran(project)
    (cache(project) / "scratch" / first).mkdir(parents=True, exist_ok=True)
    (cache(project) / "scratch" / second).mkdir(exist_ok=True)
    assert snapshots(project) == {first, second}
    assert project.run("rm", gone.run_id, "--yes").returncode == 0
    let_rest(project)
    said = gc(project)
    assert "1 snapshot" in said
    assert "1 source pack" in said
    assert "1 hidden ref" in said
    assert snapshots(project) == {first, second}
    gc(project, "--yes")
    assert snapshots(project) == packs(project) == hidden_refs(project) == {second}
    assert {path.name for path in (cache(project) / "scratch").iterdir()} == {second}
    assert project.run("--rerun", "latest").returncode == 0
    assert "nothing to do" in gc(project)


def test_code_compiled_long_ago_goes_and_young_code_stays(project):
    project.run()
    folder = cache(project) / "compiled" / "library"
    folder.mkdir(parents=True)
    for name, days in (("old.so", 31), ("young.so", 29)):
        (folder / name).write_bytes(b"x")
        when = time.time() - days * 86400
        os.utime(folder / name, (when, when))
    done = project.run("gc", "--yes")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["young.so"]


def test_gc_collects_the_bytecode_of_snapshots_that_are_gone(project: Project) -> None:
    project.write("lib/helping.py", "VALUE = 1\n")
    project.write("work.py", "import helping\n" + (project.root / "work.py").read_text())
    first = project.commit()
    ran(project)
    below = Path(f"{cache(project) / 'bytecode'}{cache(project) / 'snapshots'}")
    assert list((below / first).rglob("*.pyc"))
    elsewhere = cache(project) / "bytecode" / "where/it/was/before"
    elsewhere.mkdir(parents=True)
    gc(project, "--yes")
    assert list((below / first).rglob("*.pyc"))
    assert not (cache(project) / "bytecode" / "where").exists()
    assert project.run("rm", "latest", "--yes").returncode == 0
    let_rest(project)
    gc(project, "--yes")
    assert not (below / first).exists()


def test_gc_keeps_the_commit_of_dirty_work_until_its_run_goes(project: Project) -> None:
    project.write("work.py", (project.root / "work.py").read_text() + "# dirty\n")
    paths = ran(project, "experiment.toml", "--allow-dirty")
    commit = record.load(paths)["code"]["snapshot_commit"]
    assert commit != project.git("rev-parse", "HEAD")
    let_rest(project)
    gc(project, "--yes")
    assert hidden_refs(project) == packs(project) == snapshots(project) == {commit}
    gc(project, "--keep-last", "0", "--yes")
    let_rest(project)
    gc(project, "--yes")
    assert hidden_refs(project) == packs(project) == snapshots(project) == set()


def test_gc_drops_the_snapshot_of_runs_long_over_but_never_what_repeats_them(
    project: Project,
) -> None:
    paths = ran(project)
    commit = project.git("rev-parse", "HEAD")
    found = json.loads(paths.metadata.read_text())
    past = record.iso_utc(time.time() - 40 * DAY_S)
    found["times"].update(created=past, started=past, ended=past)
    found["record_sha256"] = record.record_sha256(found)
    paths.metadata.write_text(json.dumps(found))
    let_rest(project)
    gc(project, "--yes")
    assert snapshots(project) == set()
    assert packs(project) == hidden_refs(project) == {commit}
    assert project.run("--rerun", paths.run_id).returncode == 0


def test_gc_leaves_what_was_made_a_moment_ago(project: Project) -> None:
    ran(project)
    assert project.run("rm", "latest", "--yes").returncode == 0
    commit = project.git("rev-parse", "HEAD")
    assert "nothing to do" in gc(project, "--yes")
    assert snapshots(project) == packs(project) == hidden_refs(project) == {commit}


def test_gc_keeps_everything_while_a_run_is_being_made(project: Project) -> None:
    paths = ran(project)
    let_rest(project)
    kept = paths.metadata.read_bytes()
    paths.metadata.unlink()
    with lease.Lease.acquire(paths.lease):
        said = gc(project, "--keep-last", "0", "--yes")
    assert "just being made" in said
    assert len(snapshots(project)) == 1
    paths.metadata.write_bytes(kept)


def test_gc_keeps_everything_while_a_record_cannot_be_read(project: Project) -> None:
    old, damaged = aged(project, 40), ran(project)
    let_rest(project)
    damaged.metadata.write_text("{")
    Index(RootPaths(project.root / "runs")).note(damaged.folder)
    said = gc(project, "--older-than", "1d", "--yes")
    assert f"the record of {damaged.run_id} cannot be read" in said
    assert old.metadata.exists()
    assert len(snapshots(project)) == 1


def test_a_run_root_on_a_disk_that_is_not_there_keeps_everything(
    project: Project, tmp_path: Path
) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    assert project.run("experiment.toml", "--config", f"output_dir={mount}/r").returncode == 0
    shutil.move(mount / "r", tmp_path / "away")
    let_rest(project)
    said = gc(project, "--yes")
    assert "out of reach" in said
    assert len(snapshots(project)) == len(hidden_refs(project)) == 1
    shutil.move(tmp_path / "away", mount / "r")
    assert "nothing to do" in gc(project)


def test_a_deleted_run_root_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/file").touch()
    (tmp_path / "disk").mkdir()
    listed = tmp_path / "roots"
    listed.write_text(f"{tmp_path}/project/runs\n{tmp_path}/disk/runs\n{tmp_path}/project\n")
    assert out_of_reach(listed) == [f"{tmp_path}/disk/runs"]


def test_killed_removal_is_finished_by_the_next_gc(project: Project) -> None:
    paths = ran(project)
    (paths.outputs / "many").mkdir()
    for i in range(200):
        (paths.outputs / "many" / str(i)).write_text("x")
    # The process dies as it erases, right after the run was put aside.
    code = (
        "import os, signal, sys; from pathlib import Path; from engram import removal, trash\n"
        "removal.erase = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "removal.rm_command(Path.cwd(), ['latest'], yes=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not paths.folder.exists()
    assert len(list((project.root / "runs/.engram/trash").iterdir())) == 1
    assert ids(project) == set()
    assert "1 half-removed run" in gc(project)
    gc(project, "--yes")
    assert list((project.root / "runs/.engram/trash").iterdir()) == []


def test_gc_killed_at_any_moment_leaves_every_run_whole_or_gone(project: Project) -> None:
    moments = random.Random(20261121)
    made: dict[str, int] = {}
    for _ in range(8):
        for _ in range(3):
            paths = make_run(project.root / "runs", name="project")
            for i in range(300):
                (paths.outputs / str(i)).write_text("x")
            made[paths.run_id] = sum(1 for _ in paths.folder.rglob("*"))
        started = project.start("gc", "--keep-last", "0", "--yes")
        time.sleep(moments.uniform(0.05, 0.3))
        started.kill()
        started.communicate()
        for run_id in ids(project):
            (paths,) = (paths for paths in project.runs() if paths.run_id == run_id)
            assert sum(1 for _ in paths.folder.rglob("*")) == made[run_id]
    gc(project, "--keep-last", "0", "--yes")
    assert ids(project) == set()
    assert list((project.root / "runs/.engram/trash").iterdir()) == []


def test_a_run_that_could_not_be_removed_keeps_what_it_needs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(project)
    let_rest(project)

    def fail(paths: RunPaths, root: RootPaths) -> None:
        msg = f"{paths.run_id}: pinned meanwhile"
        raise ConfigError(msg)

    monkeypatch.setattr(garbage, "remove", fail)
    text, code = garbage.gc_command(project.root, Wanted(keep_last=0), yes=True)
    assert code == 1
    assert "pinned meanwhile" in text
    assert len(snapshots(project)) == len(packs(project)) == len(hidden_refs(project)) == 1


def test_gc_reports_the_bytes_it_frees(project: Project) -> None:
    paths = ran(project)
    (paths.outputs / "large.bin").write_bytes(os.urandom(30_000_000))
    assert "30 MB would be freed" in gc(project, "--keep-last", "0")
    before = disk_use(project.root)
    assert "30 MB freed" in gc(project, "--keep-last", "0", "--yes")
    assert before - disk_use(project.root) == pytest.approx(30_000_000, rel=0.02)


def disk_use(folder: Path) -> int:
    """The bytes of everything below a folder, as du counts them."""
    command = ["du", "-sb", str(folder)]
    return int(subprocess.run(command, capture_output=True, check=True).stdout.split()[0])


def environment(project: Project, name: str, days: float) -> Path:
    """A recreated environment that was last used some days ago."""
    folder = cache(project) / "environments" / name
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text("#!/bin/sh\n")
    (folder / "engram.ready").touch()
    folder.with_name(f"{name}.lock").touch()
    past = time.time() - days * DAY_S
    os.utime(folder / "engram.ready", (past, past))
    return folder


def test_gc_collects_environments_that_nobody_used_for_a_month(project: Project) -> None:
    old, young = environment(project, "old", 40), environment(project, "young", 20)
    used = environment(project, "used", 40)
    python = str(used / ".venv/bin/python")
    made = {"python": "3.11.7", "torch": None, "gpus": [], "packages": 3, "executable": python}
    aged(project, 10, environment=made)
    said = gc(project, "--yes")
    assert "1 recreated environment" in said
    assert not old.exists()
    assert young.exists()
    assert used.exists()


def test_gc_leaves_an_environment_that_is_being_made(project: Project) -> None:
    folder = environment(project, "growing", 40)
    with lease.Lease.acquire(folder.with_name("growing.lock")):
        gc(project, "--yes")
    assert folder.exists()


def test_gc_collects_packs_that_a_killed_runner_left_unfinished(project: Project) -> None:
    ran(project)
    left = [cache(project) / "packs/abc.pack", project.root / "runs/.engram/sources/.x.pack.9.tmp"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"PACK")
    assert "nothing to do" in gc(project, "--yes")
    for path in left:
        os.utime(path, (0, 0))
    assert "2 unfinished files" in gc(project, "--yes")
    assert not any(path.exists() for path in left)
    assert "nothing to do" in gc(project)


def test_gc_outside_of_everything_is_refused(project: Project, tmp_path: Path) -> None:
    (tmp_path / "nowhere").mkdir()
    done = project.run("gc", cwd=tmp_path / "nowhere")
    assert done.returncode == 2
    assert "neither in a git repository nor in a run root" in done.stderr


def test_gc_works_in_a_run_root_whose_repository_is_gone(project: Project, tmp_path: Path) -> None:
    ran(project)
    shutil.move(project.root / "runs", tmp_path / "archive")
    shutil.rmtree(project.root)
    project.root = tmp_path / "archive"
    done = project.run("gc", "--keep-last", "0", "--yes")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "archive/project").iterdir()) == []


@pytest.mark.parametrize("arguments", [("--older-than", "soon"), ("--keep-last", "-1")])
def test_gc_with_a_wrong_value_is_refused(project: Project, arguments: tuple[str, str]) -> None:
    aged(project, 40)
    assert project.run("gc", *arguments, "--yes").returncode == 2
    assert len(project.runs()) == 1


def test_unended_states_cannot_be_asked_for(project: Project) -> None:
    paths = aged(project, 40, state="running")
    assert project.run("gc", "--state", "running", "--yes").returncode == 2
    rows = Index(RootPaths(project.root / "runs")).rows()
    assert choose(rows, Wanted(states=("running",))) == []
    assert paths.metadata.exists()


def test_gc_collects_the_hidden_refs_of_submodules(project: Project, tmp_path: Path) -> None:
    inner = Project(tmp_path / "inner")
    inner.write("value.py", "VALUE = 1\n")
    inner.git("init", "-q", "-b", "main")
    commit = inner.commit()
    allow = ("-c", "protocol.file.allow=always")
    project.git(*allow, "submodule", "add", "-q", str(inner.root), "sub")
    project.commit()
    ran(project)
    modules = project.root / ".git/modules/sub"
    listed = ["git", "--git-dir", str(modules), "for-each-ref", "--format=%(objectname)"]

    def kept() -> list[str]:
        done = subprocess.run([*listed, "refs/engram/"], capture_output=True, check=True)
        return done.stdout.decode().split()

    for path in (modules / "refs/engram").iterdir():
        os.utime(path, (0, 0))
    let_rest(project)
    gc(project, "--yes")
    assert kept() == [commit]
    gc(project, "--keep-last", "0", "--yes")
    assert kept() == []
