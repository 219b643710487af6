"""The index follows the folders, whatever happens to either."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_runs import first_record, make_run

from engram import lease, record
from engram.errors import StoreError
from engram.filters import parse
from engram.index import Index
from engram.paths import RootPaths, RunPaths
from engram.reconcile import reconcile, whereabouts

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    return RootPaths(tmp_path / "runs")


def quiet(root):
    """An index that fails the test when it has to say something."""
    return Index(root, say=lambda message: pytest.fail(message))


def ids(root, *filters, **options):
    return [row.run_id for row in quiet(root).rows(map(parse, filters), **options)]


def program(code, *arguments, **options):
    """A Python process with the store at hand."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT / 'lib'}:{Path(__file__).parent}"},
        text=True,
        **options,
    )


RUNNER = """
import sys, time
from pathlib import Path
from engram import lease, record
from made_runs import first_record
root, state = Path(sys.argv[1]), sys.argv[2]
paths = record.new_run_folder(root, "digits")
for folder in (paths.provenance, paths.inputs, paths.outputs):
    folder.mkdir()
held = lease.Lease.acquire(paths.lease)
if state != "unborn":
    paths.parameters.write_text("lr = 0.1\\n")
    record.create(paths, first_record(paths))
if state == "running":
    record.change(paths, state="running")
print(paths.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def runner(root):
    """Starts a process that holds a run, and ends all of them."""
    started = []

    def start(state="running"):
        process = program(RUNNER, root.folder, state, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        return process, RunPaths(Path(process.stdout.readline().rstrip("\n")))

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=300)


def test_noting_a_run_does_not_load_sqlite(root):
    code = (
        "import sys; from pathlib import Path; from engram.index import Index\n"
        "from engram.paths import RootPaths\n"
        "Index(RootPaths(Path(sys.argv[1]))).note(Path(sys.argv[1]) / 'x' / 'y')\n"
        "sys.exit('sqlite3' in sys.modules or '_sqlite3' in sys.modules)\n"
    )

    assert program(code, root.folder).wait(timeout=300) == 0


def test_rows_are_there_newest_first(root):
    older = make_run(root.folder, created="2026-01-01T00:00:00.000000+00:00")
    newest = make_run(root.folder, created="2026-03-01T00:00:00.000000+00:00")
    middle = make_run(root.folder, created="2026-02-01T00:00:00.000000+00:00")

    assert ids(root) == [newest.run_id, middle.run_id, older.run_id]
    assert ids(root, limit=1) == [newest.run_id]


def test_a_run_that_nobody_noted_is_found_by_its_folder(root):
    make_run(root.folder)
    quiet(root).refresh()
    paths = record.new_run_folder(root.folder, "silent")
    paths.provenance.mkdir()
    record.create(paths, first_record(paths, "silent"))

    assert ids(root, "experiment=silent") == [paths.run_id]


def test_50_processes_finishing_at_once_leave_50_rows(root):
    root.folder.mkdir()
    code = (
        "import sys; from pathlib import Path; from made_runs import make_run\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "make_run(Path(sys.argv[1]))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [program(code, root.folder, **pipes) for _ in range(50)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=300)

    assert [process.returncode for process in processes] == [0] * 50
    assert len(ids(root, "state=completed")) == 50
    assert root.pending.read_bytes() == b""


def test_many_readers_at_once_agree(root):
    made = [make_run(root.folder) for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ids(root), range(16)))

    assert {tuple(answer) for answer in answers} == {tuple(answers[0])}
    assert set(answers[0]) == {paths.run_id for paths in made}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"this is no database, but it is long enough to look" * 9),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(path.read_bytes()[:200] + os.urandom(60000)),
    ],
    ids=["deleted", "emptied", "replaced", "truncated", "scrambled"],
)
def test_a_lost_or_damaged_index_gives_the_same_rows(root, damage):
    for number in range(30):
        make_run(root.folder, parameters=f"lr = {number}\n", tags=["a", "b"])
    index = quiet(root)
    before = [row[:5] for row in index.rows([parse("param.lr>3")], sort="param.lr")]
    # Closed first: the last user folds the write-ahead log into the file.
    index.close()
    damage(root.database)
    said = []
    after = Index(root, say=said.append)

    assert [row[:5] for row in after.rows([parse("param.lr>3")], sort="param.lr")] == before
    assert len(before) == 26
    assert all("rebuilt" in message for message in said)
    assert ids(root, "tag=b", limit=None) == ids(root)


def test_rebuild_gives_the_same_rows(root):
    for _ in range(5):
        make_run(root.folder)
    before = ids(root)
    index = quiet(root)
    index.rebuild()

    assert [row.run_id for row in index.rows()] == before


def test_an_index_of_another_version_is_made_anew(root):
    paths = make_run(root.folder)
    quiet(root).refresh()
    with sqlite3.connect(root.database) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()

    assert ids(root) == [paths.run_id]


def test_deleted_and_moved_runs_drop_out(root, tmp_path):
    kept, deleted, moved = (make_run(root.folder) for _ in range(3))
    assert len(ids(root)) == 3
    shutil.rmtree(deleted.folder)
    moved.folder.rename(tmp_path / moved.run_id)

    assert ids(root) == [kept.run_id]
    (tmp_path / moved.run_id).rename(moved.folder)
    assert set(ids(root)) == {kept.run_id, moved.run_id}
    shutil.rmtree(root.folder / "digits")
    assert ids(root) == []


def test_a_run_moved_under_another_name_is_listed_once_where_it_lies(root):
    paths = make_run(root.folder)
    quiet(root).refresh()
    (root.folder / "archive").mkdir()
    paths.folder.rename(root.folder / "archive" / paths.run_id)

    (row,) = quiet(root).rows()
    assert row.paths.folder == root.folder / "archive" / paths.run_id


def test_a_copied_root_needs_no_index(root, tmp_path):
    paths = make_run(root.folder, parameters="lr = 0.5\n")
    other = RootPaths(tmp_path / "elsewhere")
    shutil.copytree(root.folder, other.folder)
    shutil.rmtree(other.store)

    (row,) = quiet(other).rows([parse("param.lr=0.5")])
    assert (row.run_id, row.paths.folder.parents[1]) == (paths.run_id, other.folder)


def test_a_copied_index_speaks_of_the_folders_where_it_lies(root, tmp_path):
    make_run(root.folder)
    quiet(root).refresh()
    shutil.copytree(root.folder, tmp_path / "elsewhere")

    (row,) = quiet(RootPaths(tmp_path / "elsewhere")).rows()
    assert row.paths.folder.is_relative_to(tmp_path / "elsewhere")


def test_a_tag_given_after_the_end_is_seen_at_once(root):
    paths, other = make_run(root.folder), make_run(root.folder)
    assert ids(root, "tag=good") == []
    record.annotate(paths, tags=["good", "better"])

    assert ids(root, "tag=good") == ids(root, "tag=better") == [paths.run_id]
    assert ids(root, "tag!=good") == [other.run_id]
    record.annotate(paths, untag=["good"])
    assert ids(root, "tag=good") == []


def test_a_damaged_line_in_the_journal_is_passed_over(root):
    paths = make_run(root.folder)
    with root.pending.open("ab") as stream:
        stream.write(b'["a"]\nnonsense\n\xff\n["gone", "away"]\n["cut')

    assert ids(root) == [paths.run_id]


def test_an_unreadable_record_is_shown_as_such_and_hides_no_other(root):
    good, bad = make_run(root.folder), make_run(root.folder)
    bad.metadata.write_text("{")

    assert ids(root, "state=unreadable") == [bad.run_id]
    assert ids(root, "state=completed") == [good.run_id]
    shutil.copy(good.metadata, bad.metadata)
    assert ids(root, "state=unreadable") == []


def test_damaged_parameters_hide_no_run(root):
    paths = make_run(root.folder, parameters="lr = \n")

    assert ids(root) == [paths.run_id]


def test_a_living_runner_is_left_alone(root, runner):
    _, paths = runner()

    assert ids(root, "state=running") == [paths.run_id]
    assert record.load(paths)["state"] == "running"


@pytest.mark.parametrize("state", ["created", "running"])
def test_a_runner_killed_without_a_word_is_seen_by_the_next_question(root, runner, state):
    process, paths = runner(state)
    assert ids(root, f"state={state}") == [paths.run_id]
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=300)

    assert ids(root, "state=killed") == [paths.run_id]
    found = record.load(paths)
    assert found["state"] == "killed"
    assert "ended without a word" in found["exit"]["cause"]
    assert found["times"]["created"] <= found["times"]["ended"] <= record.now_utc()
    assert found["record_sha256"] == record.record_sha256(found)
    assert "It was killed" in paths.readme.read_text()


def test_a_folder_without_record_is_being_born_or_was_killed(root, runner):
    process, paths = runner("unborn")
    assert ids(root, "state=created") == [paths.run_id]
    process.kill()
    process.wait(timeout=300)

    (row,) = quiet(root).rows([parse("state=killed")])
    assert row.run_id == paths.run_id
    assert "before its record was born" in row.brief["cause"]
    assert not paths.metadata.exists()


def test_two_who_reconcile_at_once_write_one_end(root, runner):
    process, paths = runner()
    process.kill()
    process.wait(timeout=300)
    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda _: reconcile(paths), range(8)))

    assert {end["state"] for end in ends} == {"killed"}
    assert len({end["times"]["ended"] for end in ends}) == 1


@pytest.mark.parametrize(
    "identity",
    [
        {"host": "another-host", "machine": "other", "boot_id": "other"},
        {"host": "another-host"},
        {"pid_namespace": "pid:[1]"},
    ],
)
def test_a_record_from_elsewhere_is_never_declared_dead(root, identity):
    there = {**lease.process_identity(), "pid": 2**22 - 1, "start_time": 1, **identity}
    paths = make_run(root.folder, state="running", lease=there, host=there["host"])

    assert ids(root, "state=running") == [paths.run_id]
    assert record.load(paths)["state"] == "running"
    said = whereabouts(paths, record.load(paths))
    assert said is not None
    assert said.startswith(f"running on {there['host']}, last sign of life ")


def test_a_reboot_is_named_as_the_cause(root):
    there = {**lease.process_identity(), "pid": 2**22 - 1, "start_time": 1, "boot_id": "earlier"}
    paths = make_run(root.folder, state="running", lease=there)

    assert ids(root, "state=killed") == [paths.run_id]
    assert "restarted" in record.load(paths)["exit"]["cause"]


def make_read_only(folder):
    """A read-only view of a folder; the caller must undo it."""
    bound = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True)
    if bound.returncode:
        pytest.skip("a read-only mount needs root and the right to mount")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_read_only_root_can_be_listed(root, indexed):
    there = {**lease.process_identity(), "pid": 2**22 - 1, "start_time": 1}
    done = make_run(root.folder)
    dead = make_run(root.folder, state="running", lease=there)
    journal = root.pending.read_bytes()
    if indexed:
        # One run known before, one that only the folders tell of.
        shutil.move(dead.folder, root.folder / "away")
        quiet(root).refresh()
        shutil.move(root.folder / "away", dead.folder)
    before = root.database.read_bytes() if indexed else None
    make_read_only(root.folder)
    try:
        assert ids(root, "state=completed") == [done.run_id]
        assert ids(root, "state=killed") == [dead.run_id]
        with pytest.raises(StoreError, match="read-only"):
            Index(root).note(done.folder)
    finally:
        subprocess.run(["umount", "-l", str(root.folder)], check=True)
    assert record.load(dead)["state"] == "running"
    assert (root.database.read_bytes() if indexed else None) == before
    assert (root.pending.read_bytes() == journal) is not indexed


def test_a_full_disk_still_lists(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        root = RootPaths(folder / "runs")
        paths = make_run(root.folder)
        with (folder / "filler").open("wb", buffering=0) as stream:
            for block in (4096, 1):
                try:
                    while True:
                        stream.write(b"x" * block)
                except OSError:
                    continue
        said = []
        assert [row.run_id for row in Index(root, say=said.append).rows()] == [paths.run_id]
        assert len(said) == 1
        with pytest.raises(StoreError, match="disk is full"):
            for _ in range(2000):
                Index(root).note(paths.folder)
        (folder / "filler").unlink()
        assert ids(root) == [paths.run_id]
        lines = root.pending.read_text().splitlines()
        assert all(json.loads(line) for line in lines)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_place_that_never_was_a_root_has_no_rows(root):
    assert ids(root) == []


def test_a_folder_whose_name_is_no_unicode_is_passed_over(root):
    paths = make_run(root.folder)
    shutil.copytree(paths.folder, paths.folder.parent / os.fsdecode(b"caf\xe9"))
    shutil.copytree(paths.folder.parent, root.folder / os.fsdecode(b"\xff"))

    assert ids(root) == [paths.run_id]


def test_a_damage_met_half_way_is_an_error_and_mended_next_time(root):
    for _ in range(40):
        make_run(root.folder, parameters=f"text = {'x' * 4000!r}\n")
    index = quiet(root)
    index.refresh()
    rows = index.each()
    next(rows)
    index.close()
    with pytest.raises(StoreError, match="list again"):
        list(rows)

    assert len(ids(root)) == 40


def test_other_files_in_a_root_are_no_runs(root):
    paths = make_run(root.folder)
    (root.folder / "notes.txt").write_text("mine")
    (root.folder / "digits" / "plots").mkdir()
    (root.folder / "digits" / "todo.md").write_text("mine")

    assert ids(root) == [paths.run_id]
    assert (root.store / ".gitignore").read_text() == "*\n"
