"""Real grids are verified byte by byte, and removed only when they may be."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
from conftest import CHECKOUT, Project
from grids import folders, points, set_up
from made_grids import MadeGrid

sys.path.insert(0, str(CHECKOUT / "tests" / "runner"))

from made_runs import make_run
from store_views import gc, let_rest, snapshots

from engram import lease
from engram.filters import Filter
from engram.garbage import Wanted, choose
from engram.grid import record as grids
from engram.paths import GridPaths
from engram.store import Store

DRAWN = [({"lr": 0.1 * index}, f"p{index}") for index in range(4)]


@pytest.fixture
def real(project: Project):
    """A project with a real grid of two points, one of which failed."""
    set_up(project, points('[{}, {"kind": "raise"}]'))
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 1
    return project


def altered(project, *arguments):
    done = project.run("verify", *arguments)
    assert done.returncode == (4 if done.stdout.startswith("    ") else 0), done.stderr
    return [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("    ")]


def test_verify_reads_every_byte_of_a_grid(real: Project):
    (folder,) = folders(real)
    assert altered(real, folder.name) == []
    said = real.run("verify", folder.name).stdout
    assert "every recorded hash holds, of the grid and its 2 runs" in said

    run = next(path for path in folder.glob("*/outputs/result.txt"))
    changed = [folder / name for name in ("grid.py", "points.jsonl", "experiment.toml")]
    changed += [folder / "parameters.toml", folder / "source.pack", run]
    for path in changed:
        kept = path.read_bytes()
        path.chmod(0o644)
        other = path.with_name("other")  # source.pack is a hard link to other runs' packs
        other.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        other.replace(path)
        assert altered(real, folder.name) == [["altered:", path.relative_to(folder).as_posix()]], (
            path
        )
        path.unlink()
        assert altered(real, str(folder)) == [["missing:", path.relative_to(folder).as_posix()]]
        path.write_bytes(kept)
    record = json.loads((folder / "grid.json").read_text())
    (folder / "grid.json").write_text(json.dumps({**record, "seed": 0}))
    assert altered(real, folder.name) == [["altered:", "grid.json"]]


def test_verify_says_when_a_completed_run_is_gone(real: Project):
    (folder,) = folders(real)
    shutil.rmtree(next(folder.glob("*/outputs/result.txt")).parent.parent)
    said = real.run("verify", folder.name)

    assert said.returncode == 0
    assert "only 0 of the completed ones have a run here now" in said.stdout


def test_rm_says_first_what_would_go_then_removes_the_whole_grid(real: Project):
    assert real.run("--grid", "grid.py", "experiment.toml").returncode == 1
    older, newer = folders(real)
    alone = real.run("experiment.toml")
    assert alone.returncode == 0
    kept = {path: path.read_bytes() for path in newer.rglob("*") if path.is_file()}
    before = sorted(real.root.glob("runs/**/*"))
    said = real.run("rm", older.name)
    assert "nothing was deleted: --yes does it" in said.stdout
    assert "grid of 2 points" in said.stdout
    assert [path for path in before if not path.exists()] == []

    done = real.run("rm", "--yes", older.name)
    assert done.returncode == 0, done.stderr
    assert "1 grid and 2 runs removed" in done.stdout
    assert folders(real) == [newer]
    assert not older.exists()
    assert {path: path.read_bytes() for path in kept} == kept
    listed = json.loads(real.run("list", "--json").stdout)
    assert len(listed) == 3
    assert list(real.root.glob("runs/.engram/trash/*")) == []
    assert real.run("show", older.name).returncode == 2


def test_rm_refuses_a_grid_that_must_stay_and_removes_nothing(real: Project):
    (folder,) = folders(real)
    completed = next(folder.glob("*/outputs/result.txt")).parent.parent

    def refused(part):
        before = sorted(folder.rglob("*"))
        done = real.run("rm", "--yes", folder.name)
        assert (done.returncode, sorted(folder.rglob("*"))) == (2, before)
        assert "nothing was removed" in done.stderr
        assert part in done.stderr

    assert real.run("pin", folder.name).returncode == 0
    refused("it is pinned")
    assert real.run("pin", "--remove", folder.name).returncode == 0
    assert real.run("pin", completed.name).returncode == 0
    refused(f"{completed.name}: it is pinned")
    assert real.run("pin", "--remove", completed.name).returncode == 0
    assert real.run("--rerun", completed.name).returncode == 0
    repeated = next(path for path in real.runs() if path.folder.parent != folder)
    refused(f"run {repeated.run_id} repeats it")
    done = real.run("rm", "--yes", folder.name, repeated.run_id)
    assert done.returncode == 0, done.stderr
    assert not folder.exists()


def test_a_live_grid_and_its_points_stay(real: Project):
    (folder,) = folders(real)
    paths = GridPaths(folder)
    run = next(folder.glob("*/metadata.json")).parent
    grids.change(paths, lease=lease.process_identity())
    grids.change(paths, state="running")
    held = lease.Lease.acquire(paths.lease)
    for reference in (folder.name, run.name):
        done = real.run("rm", "--yes", reference)
        assert done.returncode == 2
        assert "is running: wait until it has ended" in done.stderr
    let_rest(real)
    assert "kept" in gc(real, "--state", "failed", "completed", "--yes")
    assert len(list(folder.glob("*/metadata.json"))) == 2
    held.release()


def test_rm_of_a_point_leaves_the_rest_of_its_grid(real: Project):
    (folder,) = folders(real)
    first, second = sorted(path.parent for path in folder.glob("*/metadata.json"))
    assert real.run("rm", "--yes", first.name).returncode == 0

    assert not first.exists()
    assert (folder / "grid.json").exists()
    assert (folder / "points.csv").read_text().count("\n") == 3
    assert real.run("rm", "--yes", second.name).returncode == 0
    assert "no run" not in real.run("rm", "--yes", folder.name).stderr
    assert not folder.exists()


def test_gc_keeps_what_a_grid_needs_to_be_resumed(real: Project):
    let_rest(real)
    kept = snapshots(real)
    gc(real, "--state", "failed", "completed", "--yes")
    let_rest(real)
    gc(real, "--yes")
    (folder,) = folders(real)

    assert list(folder.glob("*/metadata.json")) == []
    assert snapshots(real) == kept != set()
    done = real.run("--grid", "--resume", folder.name)
    assert done.returncode == 1, done.stderr
    assert grids.load(GridPaths(folder))["counts"]["completed"] == 1


def test_gc_leaves_the_points_of_a_pinned_grid(real: Project):
    (folder,) = folders(real)
    assert real.run("pin", folder.name).returncode == 0
    said = gc(real, "--state", "completed", "failed", "--yes")

    assert said.count(f"it is a point of {folder.name}, which is pinned") == 2
    assert len(list(folder.glob("*/metadata.json"))) == 2


def test_keep_last_counts_a_grid_as_one(tmp_path):
    root = tmp_path / "runs"
    make_run(root)
    older = MadeGrid(root, DRAWN)
    for index in range(4):
        older.end(index)
    newer = MadeGrid(root, DRAWN)
    for index in range(4):
        newer.end(index)
    rows = Store.for_root(root).list_runs([Filter("experiment", "=", "digits")])
    assert len(rows) == 9

    def chosen(number):
        found = choose(rows, Wanted(keep_last=number))
        return sorted(row.brief["grid"] or "none" for row in found)

    assert chosen(3) == []
    assert chosen(2) == ["none"]
    assert chosen(1) == [*[older.paths.grid_id] * 4, "none"]


def test_gc_removes_a_grid_that_was_never_born(real: Project):
    stillborn = grids.new_grid_folder(real.root / "runs", "project")
    (stillborn.points).write_text("")
    for path in (stillborn.folder, stillborn.private, stillborn.points):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    assert "1 half-made grid" in gc(real)
    assert stillborn.folder.exists()
    gc(real, "--yes")
    assert not stillborn.folder.exists()
    assert len(folders(real)) == 1


def test_gc_waits_for_a_grid_that_is_just_being_made(real: Project):
    paths = grids.new_grid_folder(real.root / "runs", "project")
    held = lease.Lease.acquire(paths.lease)

    assert f"grid {paths.grid_id} is just being made" in gc(real, "--yes")
    assert paths.folder.exists()
    held.release()


def test_a_finished_grid_is_never_touched_by_later_ones(real: Project):
    (older,) = folders(real)
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in older.rglob("*")
        if path.is_file()
    }
    assert real.run("--grid", "grid.py", "experiment.toml").returncode == 1
    newer = folders(real)[1]
    for arguments in (
        *(("list",), ("list", "--grids"), ("list", "--grid", older.name), ("show", older.name)),
        *(("verify", older.name), ("--grid", "--resume", newer.name)),
        *(("gc", "--yes"), ("rm", "--yes", newer.name)),
    ):
        real.run(*arguments)

    assert folders(real) == [older]
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}
    assert after == before


def test_command_line_lists_grids_and_their_points(real: Project):
    (folder,) = folders(real)
    table = real.run("list", "--grid", "latest", "state=failed")
    found = json.loads(real.run("list", "--json", "--grid", folder.name[-6:]).stdout)

    assert table.returncode == 0, table.stderr
    assert table.stdout.splitlines()[1].split()[:2] == ["point-1", "failed"]
    assert [item["point"] for item in found] == ["point-0", "point-1"]
    assert folder.name in real.run("list", "--grids").stdout
    assert real.run("list", "--grids", "state=failed").returncode == 2
    unknown = real.run("list", "--grid", "nonesuch")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "no grid 'nonesuch'" in unknown.stderr
