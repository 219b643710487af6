"""grid.json: its life, what it refuses, and the true end of a grid whose dispatcher died."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from conftest import CHECKOUT, Project
from grids import folders, points, set_up, wait_for
from made_grids import MadeGrid, grid_record, run_record

from engram import lease, open_runs
from engram import record as runs
from engram.errors import RunNotFoundError, StoreError
from engram.grid import record as grids
from engram.grid.points import Points
from engram.paths import GridPaths, RootPaths, RunPaths

DRAWN = [({"lr": 0.1 * i}, f"p{i}") for i in range(4)]
DISPATCHER = """
import os, sys
from pathlib import Path
from engram import lease, open_runs
from engram.grid import record as grids
from engram.paths import GridPaths, RootPaths
paths = GridPaths(Path(sys.argv[1]))
held = lease.Lease.acquire(paths.lease)
open_runs.grid_opened(RootPaths(paths.folder.parent), paths)
if paths.record.exists():
    grids.change(paths, lease=lease.process_identity())
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def grid(tmp_path):
    """A grid of four points that runs, two of which are over."""
    begun = {"argv": ["--grid"], "began": runs.now_utc(), "ended": None, "cause": None}
    made = MadeGrid(tmp_path / "runs", DRAWN, sessions=[begun], lease=lease.process_identity())
    made.end(0, summary={"loss": 0.5})
    made.end(1, "failed", "ValueError: it broke")
    return made


@pytest.fixture
def dispatch():
    """Starts a process that holds a grid as a dispatcher does, and ends all of them."""
    started = []

    def start(paths):
        process = subprocess.Popen(
            [sys.executable, "-c", DISPATCHER, str(paths.folder)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        kill(process)


def kill(process):
    process.kill()
    process.communicate(timeout=300)


def marks(root):
    return sorted(path.name for path in RootPaths(root).open_runs.iterdir())


def new(root, **changes):
    """A grid in the state created."""
    paths = grids.new_grid_folder(root, "digits")
    points = Points.create(paths.points)
    grids.create(paths, grid_record(paths, points, **changes))
    return paths


def test_grid_id_ends_in_grid_and_sorts_by_time(tmp_path):
    first = grids.new_grid_folder(tmp_path / "runs", "Spiking Digits (größer)")
    other = grids.new_grid_folder(tmp_path / "runs", "x" * 200)

    assert re.fullmatch(
        r"20\d{6}T\d{6}\.\d{3}Z-spiking-digits-groer-grid-[0-9a-f]{6}", first.grid_id
    )
    assert re.fullmatch(r".{20}-x{35}-grid-[0-9a-f]{6}", other.grid_id)
    assert runs.RUN_ID.fullmatch(other.grid_id)
    assert [path.name for path in first.folder.iterdir()] == [".grid"]


def test_20_grids_at_once_get_20_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.time, "time_ns", lambda: 1_800_000_000_123_000_000)
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda _: grids.new_grid_folder(tmp_path, "x"), range(20)))

    assert len({paths.folder for paths in made}) == 20


def test_a_root_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "runs").write_text("a file")

    with pytest.raises(StoreError, match="a part of this path is a file"):
        grids.new_grid_folder(tmp_path / "runs", "digits")


def test_a_full_life_is_recorded_with_its_times(tmp_path):
    paths = new(tmp_path)
    grids.change(paths, state="running")
    grids.change(paths, counts={"completed": 1, "pending": 0})
    ended = grids.change(paths, state="failed", cause="1 of 2", run_s=2.5)

    assert grids.load(paths) == ended
    times = ended["times"]
    moments = [datetime.fromisoformat(times[key]) for key in ("created", "started", "ended")]
    assert moments == sorted(moments)
    assert all(moment.utcoffset() == timedelta(0) for moment in moments)
    assert (ended["cause"], times["run_s"]) == ("1 of 2", 2.5)
    assert ended["counts"] == {"completed": 1, "pending": 0}


def test_a_grid_that_ended_runs_again_when_it_is_resumed(tmp_path):
    paths = new(tmp_path)
    first = grids.change(paths, state="running")["times"]["started"]
    for state in sorted(grids.ENDED):
        grids.change(paths, state=state)
        grids.change(paths, sessions=[{"argv": ["--resume"]}], cause=None)
        again = grids.change(paths, state="running")
        assert (again["times"]["started"], again["times"]["ended"]) == (first, None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("created", "created"),
        ("running", "created"),
        ("running", "running"),
        ("running", "timed_out"),
        ("failed", "completed"),
        ("completed", "killed"),
    ],
)
def test_no_other_step_is_taken(tmp_path, before, after):
    paths = new(tmp_path)
    for state in ("running", before) if before not in ("created", "running") else (before,):
        if state != "created":
            grids.change(paths, state=state)
    written = paths.record.read_bytes()

    with pytest.raises(ValueError, match=f"cannot go from '{before}' to '{after}'"):
        grids.change(paths, state=after)
    assert paths.record.read_bytes() == written


@pytest.mark.parametrize("field", ["nonesuch", "grid_id", "tags", "record_sha256"])
def test_unknown_and_fixed_keys_are_refused(tmp_path, field):
    paths = new(tmp_path)

    with pytest.raises(ValueError, match=field):
        grids.change(paths, **{field: "x"})


def test_a_grid_has_one_record_and_it_is_born_as_created(tmp_path):
    paths = new(tmp_path)
    record = grids.load(paths)

    with pytest.raises(StoreError, match="exists already"):
        grids.create(paths, record)
    with pytest.raises(ValueError, match="born in the state 'created'"):
        grids.create(paths, {**record, "state": "running"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "not a grid's record"),
        ('{"schema_version": 1}', "lacks one of"),
    ],
)
def test_a_damaged_record_is_told(tmp_path, text, said):
    paths = new(tmp_path)
    paths.record.write_text(text)

    with pytest.raises(StoreError, match=said):
        grids.load(paths)


def test_a_record_from_the_future_is_told(tmp_path):
    paths = new(tmp_path)
    paths.record.write_text(json.dumps({**grids.load(paths), "schema_version": 99}))

    with pytest.raises(StoreError, match="schema_version 99.*newer engram"):
        grids.load(paths)


def test_a_missing_record_is_told(tmp_path):
    paths = grids.new_grid_folder(tmp_path, "digits")

    with pytest.raises(RunNotFoundError, match=r"holds no grid\.json"):
        grids.load(paths)
    with pytest.raises(RunNotFoundError, match="there is no grid folder"):
        grids.load(GridPaths(tmp_path / "nowhere"))
    with pytest.raises(RunNotFoundError, match="there is no grid folder"):
        grids.change(GridPaths(tmp_path / "nowhere"), cause="x")


def test_the_hash_covers_all_but_what_people_add(tmp_path):
    paths = new(tmp_path)
    before = grids.load(paths)["record_sha256"]
    noted = grids.annotate(paths, tags=["a", "b"], untag=["a"], note="seen", pinned=True)

    assert noted["record_sha256"] == before == grids.record_sha256(noted)
    assert (noted["tags"], noted["pinned"], noted["notes"][0]["text"]) == (["b"], True, "seen")
    assert grids.change(paths, counts={"pending": 1})["record_sha256"] != before


def test_changes_at_once_lose_nothing(tmp_path):
    paths = new(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: grids.annotate(paths, note=str(i)), range(16)))
        list(pool.map(lambda i: grids.change(paths, counts={"pending": i}), range(16)))

    assert sorted(int(note["text"]) for note in grids.load(paths)["notes"]) == list(range(16))


# A dispatcher that died.


def test_a_live_grid_is_left_alone(grid, dispatch):
    dispatch(grid.paths)
    before = grid.paths.record.read_bytes()

    assert grids.reconcile(grid.paths)["state"] == "running"
    open_runs.reconcile_others(RootPaths(grid.paths.folder.parent))
    assert grid.paths.record.read_bytes() == before
    assert marks(grid.paths.folder.parent) == [f"{grid.paths.grid_id}:"]


def test_a_dead_dispatcher_ends_its_grid_at_the_next_command(grid, dispatch):
    kill(dispatch(grid.paths))
    grid.paths.table.unlink()
    open_runs.reconcile_others(RootPaths(grid.paths.folder.parent))

    record = grids.load(grid.paths)
    assert record["state"] == "killed"
    assert "kill -9" in record["cause"]
    assert record["counts"] == {"completed": 1, "failed": 1, "pending": 2}
    assert record["times"]["ended"] >= record["times"]["started"]
    assert record["times"]["run_s"] > 0
    (session,) = record["sessions"]
    assert session["ended"] == record["times"]["ended"]
    assert session["cause"] == record["cause"]
    assert record["record_sha256"] == grids.record_sha256(record)
    assert len(grid.paths.table.read_text().splitlines()) == 3
    assert "It was killed: the runner ended without a word" in grid.paths.readme.read_text()
    assert marks(grid.paths.folder.parent) == []


def test_the_end_is_the_last_sign_of_life_and_not_when_it_was_noticed(grid, dispatch):
    kill(dispatch(grid.paths))
    past = 1_800_000_000
    for path in grid.paths.folder.rglob("*"):
        os.utime(path, (past, past))
    for run in grid.paths.folder.glob("*/metadata.json"):
        found = json.loads(run.read_text())
        found["times"]["ended"] = runs.iso_utc(past - 5)
        run.write_text(json.dumps(found))
        os.utime(run, (past, past))
    os.utime(grid.paths.private, (past, past))

    assert grids.reconcile(grid.paths)["times"]["ended"] == runs.iso_utc(past)


def running(grid, number, identity):
    """A run of a point that has not ended, by its record."""
    paths = runs.new_run_folder(grid.paths.folder.parent, grid.paths.grid_id)
    paths.provenance.mkdir()
    place = {"id": grid.paths.grid_id, "point": f"p{number}", "index": number, "attempt": 1}
    runs.create(paths, run_record(paths, grid=place, lease=identity))
    runs.change(paths, state="running")
    return paths


def test_a_grid_has_not_ended_while_one_of_its_runs_goes_on(grid, dispatch):
    kill(dispatch(grid.paths))
    alive = running(grid, 2, lease.process_identity())
    root = RootPaths(grid.paths.folder.parent)
    open_runs.reconcile_others(root)
    assert grids.load(grid.paths)["state"] == "running"
    assert marks(root.folder) == [f"{grid.paths.grid_id}:"]

    runs.change(alive, state="interrupted")
    open_runs.reconcile_others(root)
    record = grids.load(grid.paths)
    assert record["state"] == "killed"
    assert record["counts"] == {"completed": 1, "failed": 1, "interrupted": 1, "pending": 1}


def test_runs_that_died_with_the_dispatcher_are_ended_first(grid, dispatch):
    process = dispatch(grid.paths)
    identity = {**grids.load(grid.paths)["lease"], "guard": None, "tmp": None}
    running(grid, 3, identity)
    kill(process)

    record = grids.reconcile(grid.paths)
    assert record["counts"] == {"completed": 1, "failed": 1, "killed": 1, "pending": 1}


def test_a_dispatcher_elsewhere_is_never_declared_dead(grid):
    elsewhere = {**lease.process_identity(), "host": "another", "machine": "0" * 32}
    grids.change(grid.paths, lease=elsewhere)
    open_runs.grid_opened(RootPaths(grid.paths.folder.parent), grid.paths)
    open_runs.reconcile_others(RootPaths(grid.paths.folder.parent))

    record = grids.load(grid.paths)
    assert record["state"] == "running"
    said = grids.whereabouts(grid.paths, record)
    assert re.fullmatch(r"running on another, last sign of life \d+ s ago", said)
    assert marks(grid.paths.folder.parent) == [f"{grid.paths.grid_id}:"]


def test_the_last_attempt_counts_unless_an_earlier_one_completed(grid, dispatch):
    kill(dispatch(grid.paths))
    grid.end(1, "failed", attempt=2)
    grid.end(2, "completed", attempt=1)
    grid.end(2, "failed", attempt=2)

    assert grids.reconcile(grid.paths)["counts"] == {"completed": 2, "failed": 1, "pending": 1}


def test_a_read_only_archive_shows_the_true_state(grid, dispatch, monkeypatch):
    kill(dispatch(grid.paths))
    written = grid.paths.record.read_bytes()

    def refuse(path, value, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(grids, "write_json", refuse)
    record = grids.reconcile(grid.paths)
    assert record["state"] == "killed"
    assert record["counts"]["pending"] == 2
    assert record["times"]["ended"] is not None
    assert grid.paths.record.read_bytes() == written


def test_a_moved_grid_is_ended_where_it_lies_now(grid, dispatch, tmp_path):
    kill(dispatch(grid.paths))
    moved = tmp_path / "archive" / grid.paths.grid_id
    moved.parent.mkdir()
    shutil.move(grid.paths.folder, moved)

    assert grids.reconcile(GridPaths(moved))["state"] == "killed"
    assert GridPaths(moved).readme.exists()


def test_a_grid_that_was_never_born_keeps_no_mark(tmp_path, dispatch):
    paths = grids.new_grid_folder(tmp_path / "runs", "digits")
    process = dispatch(paths)
    root = RootPaths(tmp_path / "runs")
    open_runs.reconcile_others(root)
    assert marks(root.folder) == [f"{paths.grid_id}:"]
    kill(process)
    open_runs.reconcile_others(root)
    assert marks(root.folder) == []


def test_the_mark_of_a_grid_does_not_stop_a_run_from_being_reconciled(grid, dispatch):
    dispatch(grid.paths)
    root = RootPaths(grid.paths.folder.parent)
    dead = {**lease.process_identity(), "pid": 2**22 + 1, "start_time": 1}
    paths = running(grid, 2, dead)
    open_runs.opened(root, paths)
    open_runs.reconcile_others(root)

    assert runs.load(paths)["state"] == "killed"
    assert marks(root.folder) == [f"{grid.paths.grid_id}:"]


def test_two_that_reconcile_at_once_write_one_end(grid, dispatch):
    kill(dispatch(grid.paths))
    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda _: grids.reconcile(grid.paths), range(8)))

    assert {record["times"]["ended"] for record in ends} == {ends[0]["times"]["ended"]}


# What the documentation says.


def documented(title):
    """What the first column of a table in the section on grids names."""
    page = (CHECKOUT / "docs" / "record.md").read_text()
    section = page.split("\n## A grid\n")[1].split("\n## ")[0]
    (text,) = re.findall(rf"^\| {title} \|.*?\n\n", section, re.MULTILINE | re.DOTALL)
    cells = [line.split("|")[1] for line in text.strip().splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_documented_keys_and_files_are_those_of_a_grid(project: Project):
    set_up(project, number=2)
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 0
    (folder,) = folders(project)
    own = {path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name[:2] != "20"}
    files = documented("file")

    assert documented("keys of grid.json") == set(json.loads((folder / "grid.json").read_text()))
    assert own <= files
    properties = {
        value.fget(GridPaths(Path("/grid"))).name
        for name, value in vars(GridPaths).items()
        if isinstance(value, property) and name != "grid_id"
    }
    assert {name.rstrip("/") for name in files} <= properties


def test_a_killed_dispatcher_is_found_by_the_real_command_line(project: Project):
    set_up(project, points('[{}, {"kind": "hang"}, {}]'), extra="\nSLOTS_PER_DEVICE = 1\n")
    process = project.start("--grid", "grid.py", "experiment.toml")
    wait_for(lambda: folders(project))
    table = folders(project)[0] / "points.csv"
    wait_for(lambda: table.exists() and table.read_text().count("\n") >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    (folder,) = folders(project)

    def ended():
        project.run("list")
        return grids.load(GridPaths(folder))["state"] == "killed"

    wait_for(ended)
    record = grids.load(GridPaths(folder))
    assert record["counts"]["completed"] >= 1
    assert sum(record["counts"].values()) == 3
    assert not list(RootPaths(project.root / "runs").open_runs.iterdir())
    assert "killed" in project.run("list", "--grids").stdout
    assert all(
        runs.load(RunPaths(path.parent))["state"] in runs.ENDED
        for path in folder.glob("*/metadata.json")
    )
