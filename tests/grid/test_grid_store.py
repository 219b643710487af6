"""Grids in the store: found by any name, listed, shown, annotated, completed."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT, Project
from grids import folders, set_up
from made_grids import MadeGrid

sys.path.insert(0, str(CHECKOUT / "tests" / "runner"))

from made_runs import make_run

from engram import completion, doctor_store, recorded, store
from engram import record as runs
from engram.doctor import Place
from engram.errors import ConfigError, RunNotFoundError
from engram.filters import Filter
from engram.grid import find, listing
from engram.grid import record as grids
from engram.grid.find import find_either, find_grid
from engram.index import Index
from engram.paths import CachePaths, GridPaths, RootPaths, RunPaths
from engram.store import Store

DRAWN = [
    ({"lr": 0.1, "net": {"width": 8}}, "slow-narrow"),
    ({"lr": 0.9, "net": {"width": 8}}, "fast-narrow"),
    ({"lr": 0.1, "net": {"width": 64}}, "slow-wide"),
    ({"lr": 0.9, "net": {"width": 64}}, "fast-wide"),
]
ACCURACY = (0.5, math.nan, 0.75, 0.25)


@pytest.fixture
def root(tmp_path):
    """A run root with one run that is no point."""
    folder = tmp_path / "runs"
    make_run(folder)
    return folder


@pytest.fixture
def grid(root):
    """A finished grid; its second point ended with nan."""
    made = MadeGrid(root, DRAWN)
    for index, accuracy in enumerate(ACCURACY):
        made.end(index, summary={"accuracy": accuracy, "epochs": index + 1})
    made.close()
    return made


def lines(root, reference, *filters, **options):
    return "\n".join(listing.grid_lines(root, reference, filters, **options)).splitlines()


def names(root, reference, *filters, **options):
    """The points that are listed, in order."""
    text = "\n".join(listing.grid_lines(root, reference, filters, as_json=True, **options))
    return [item["point"] for item in json.loads(text)]


def equal(key, value):
    return Filter(key, "=", value)


# Finding.


def test_a_grid_answers_to_every_name_of_it(grid, root, monkeypatch):
    grid_id = grid.paths.grid_id
    own = grid.paths.folder
    for reference in (
        *(grid_id, grid_id[:25], grid_id[-6:], f"grid-{grid_id[-6:]}", "latest", "latest:digits"),
        *(str(own), f"{own}/", str(grid.paths.record)),
    ):
        assert find_grid(root, reference) == grid.paths, reference
    monkeypatch.chdir(own)
    assert find_grid(Path.cwd(), ".") == grid.paths
    assert find_grid(own, grid_id[-6:]) == grid.paths


def test_latest_is_the_newest_of_its_experiment(grid, root):
    other = MadeGrid(root, DRAWN[:1], experiment="letters").paths

    assert find_grid(root, "latest") == other
    assert find_grid(root, "latest:digits") == grid.paths
    with pytest.raises(
        RunNotFoundError, match=r"no grid of an experiment 'x'.*'digits', 'letters'"
    ):
        find_grid(root, "latest:x")


def test_an_unknown_grid_is_told_with_what_is_near(grid, root, tmp_path):
    nearly = grid.paths.grid_id[:-1] + "x"
    with pytest.raises(RunNotFoundError, match=f"did you mean {grid.paths.grid_id}"):
        find_grid(root, nearly)
    with pytest.raises(RunNotFoundError, match=r"`list --grids` shows"):
        find_grid(root, "nonesuch")
    with pytest.raises(RunNotFoundError, match=r"not a grid's folder: it holds no grid\.json"):
        find_grid(root, str(tmp_path))
    with pytest.raises(RunNotFoundError, match="there is no folder"):
        find_grid(root, str(tmp_path / "nowhere"))
    with pytest.raises(RunNotFoundError, match="no run root is known here"):
        find_grid(tmp_path, "latest")


def test_several_grids_are_told_apart(grid, root):
    other = MadeGrid(root, DRAWN[:1]).paths

    with pytest.raises(RunNotFoundError) as caught:
        find_grid(root, grid.paths.grid_id[:2])
    assert {grid.paths.grid_id, other.grid_id} <= set(str(caught.value).split())


def test_a_grid_is_no_run_and_says_so(grid, root):
    there = Store.for_root(root)
    for reference in (grid.paths.grid_id, str(grid.paths.folder)):
        with pytest.raises(RunNotFoundError, match="is a grid, not a run: `list --grid"):
            there.find(reference)
    unborn = grids.new_grid_folder(root, "digits")
    with pytest.raises(RunNotFoundError, match="is a grid, not a run"):
        there.find(str(unborn.folder))


def test_one_name_never_stands_for_a_run_and_a_grid(grid, root):
    run = Store.for_root(root).list_runs([equal("point", "slow-wide")])[0].paths

    assert find_either(root, run.run_id) == run
    assert find_either(root, str(run.folder)) == run
    assert find_either(root, grid.paths.grid_id) == grid.paths
    assert find_either(root, str(grid.paths.folder)) == grid.paths
    assert find_either(root, grid.paths.grid_id[-6:]) == grid.paths
    assert isinstance(find_either(root, "latest"), RunPaths)
    with pytest.raises(RunNotFoundError, match="stands for 6 of them"):
        find_either(root, grid.paths.grid_id[:2])
    with pytest.raises(RunNotFoundError, match="no run 'nonesuch'"):
        find_either(root, "nonesuch")


def test_points_are_found_as_all_runs_are(grid, root):
    rows = Store.for_root(root).list_runs([equal("grid", grid.paths.grid_id)], sort="index")
    brief = rows[2].brief

    assert [row.brief["point"] for row in rows] == [name for _, name in DRAWN]
    assert rows[2].paths.folder.parent == grid.paths.folder
    assert (brief["index"], brief["attempt"], brief["devices"]) == (2, 1, ["gpu 0"])
    assert (brief["pruned"], brief["experiment"]) == (False, "digits")
    everything = Store.for_root(root).list_runs()
    assert len(everything) == 5
    assert len(Store.for_root(root).list_runs([equal("device", "gpu 0")])) == 4


def test_a_point_without_a_record_still_belongs_to_its_grid(grid, root):
    paths = runs.new_run_folder(root, grid.paths.grid_id, title="slow-narrow")
    (row,) = Store.for_root(root).list_runs([equal("id", paths.run_id)])

    assert row.brief["state"] == "created"
    assert (row.brief["grid"], row.brief["experiment"]) == (grid.paths.grid_id, "digits")


def test_a_new_run_from_a_point_goes_to_the_run_root(grid, root):
    run = next(grid.paths.folder.glob("*/metadata.json")).parent
    Index(RootPaths(root)).refresh()

    assert recorded.run_root(RunPaths(run), {"repository": {"root": "/nowhere"}}) == root


# list --grid.


def test_list_shows_points_with_what_varies_and_what_came_out(grid, root):
    table = lines(root, "latest")
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table]

    assert cells[0] == [
        *("POINT", "STATE", "lr", "net.width", "accuracy", "epochs", "TOOK", "DEVICE")
    ]
    assert cells[1] == ["slow-narrow", "completed", "0.1", "8", "0.5", "1", "1.50 s", "gpu 0"]
    assert [line[0] for line in cells[1:5]] == [name for _, name in DRAWN]
    assert table[5:] == ["completed; 4 points: 4 completed"]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("summary.accuracy", [3, 0, 2, 1]),
        ("-summary.accuracy", [2, 0, 3, 1]),
        ("-param.net.width", [3, 2, 1, 0]),
        (None, [0, 1, 2, 3]),
    ],
)
def test_nan_sorts_last_both_ways(grid, root, sort, order):
    assert names(root, "latest", sort=sort) == [DRAWN[index][1] for index in order]


def test_filters_work_as_for_runs(grid, root):
    assert names(root, "latest", "point~wide", "summary.accuracy>0.5") == ["slow-wide"]
    assert names(root, "latest", "param.lr=0.9", "index<2") == ["fast-narrow"]
    assert names(root, "latest", "state=failed") == []
    assert "1 of 4 points that have a run match" in lines(root, "latest", "index=3")
    assert "none matches" in lines(root, "latest", "state=failed")
    assert names(root, "latest", limit=2) == ["slow-narrow", "fast-narrow"]
    assert "2 of 4 are shown; --limit 0 shows all" in lines(root, "latest", limit=2)
    with pytest.raises(ConfigError, match="did you mean 'point'"):
        lines(root, "latest", "pont=x")
    with pytest.raises(ConfigError, match="-1 is negative"):
        lines(root, "latest", limit=-1)


def test_a_point_is_listed_once_by_its_last_attempt(root):
    made = MadeGrid(root, DRAWN)
    made.end(0, "failed")
    made.end(0, "killed", attempt=2)
    made.end(1, "failed")
    made.end(1, "completed", attempt=2)
    made.end(2, "completed")
    rows = [line.split("  ")[0:2] for line in lines(root, made.paths.grid_id)]

    assert lines(root, "latest")[1].startswith("slow-narrow  killed (attempt 2)")
    assert lines(root, "latest")[2].startswith("fast-narrow  completed (attempt 2)")
    assert lines(root, "latest")[-1] == "running; 4 points: 4 pending"
    assert len(rows) == 5
    assert names(root, "latest", "state=failed") == []
    assert len(Store.for_root(root).list_runs([equal("grid", made.paths.grid_id)])) == 5


def test_a_pruned_point_is_marked_and_can_be_filtered(root):
    made = MadeGrid(root, DRAWN)
    made.end(0, summary={"accuracy": 0.5})
    made.end(1, summary={"accuracy": 0.1}, pruned=True)

    assert lines(root, "latest")[2].startswith("fast-narrow  completed (pruned)")
    assert names(root, "latest", "pruned=true") == ["fast-narrow"]
    assert names(root, "latest", "pruned=false") == ["slow-narrow"]


def test_other_grids_and_runs_are_not_listed(grid, root):
    other = MadeGrid(root, DRAWN)
    other.end(3)

    assert names(root, other.paths.grid_id) == ["fast-wide"]
    assert len(names(root, grid.paths.grid_id)) == 4
    copy = root / "copy-of-it"
    shutil.copytree(grid.paths.folder, copy)
    assert len(names(root, grid.paths.grid_id)) == 4
    assert len(names(root, str(copy))) == 4


def test_a_grid_in_no_run_root_is_listed_and_nothing_is_made(grid, root, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "somebody-elses").mkdir()
    moved = Path(shutil.move(grid.paths.folder, archive))
    before = sorted(path for path in archive.rglob("*"))

    assert names(tmp_path, str(moved), sort="-summary.accuracy")[0] == "slow-wide"
    assert "completed; 4 points: 4 completed" in lines(tmp_path, str(moved))
    assert sorted(path for path in archive.rglob("*")) == before


def test_damaged_points_file_still_gives_a_list(grid, root):
    whole = lines(root, "latest")
    grid.paths.points.write_text("{")

    assert lines(root, "latest") == whole


def test_list_of_grids_is_newest_first(grid, root):
    other = MadeGrid(root, DRAWN[:1], experiment="letters")
    grids.annotate(other.paths, tags=["try"], pinned=True)
    table = "\n".join(listing.grids_lines(root)).splitlines()

    assert [line.split()[0] for line in table[1:]] == [other.paths.grid_id, grid.paths.grid_id]
    assert "letters" in table[1]
    assert "try pinned" in table[1]
    assert table[2].endswith("4 points: 4 completed")
    (found,) = json.loads("\n".join(listing.grids_lines(root, limit=1, as_json=True)))
    assert found == {"folder": str(other.paths.folder), **grids.load(other.paths)}


def test_a_grid_whose_record_is_damaged_hides_no_other(grid, root):
    other = MadeGrid(root, DRAWN[:1]).paths
    other.record.write_text("{")

    assert [known.paths for known in find.known_grids(root)] == [grid.paths]
    assert find_grid(root, other.grid_id) == other


# show, tag, note, pin.


def test_show_has_a_grid_on_one_screen(grid, root):
    grids.annotate(grid.paths, tags=["final"], note="good enough", pinned=True)
    text = store.show_command(root, grid.paths.grid_id)
    shown = json.loads(store.show_command(root, grid.paths.grid_id, as_json=True))

    assert f"grid        {grid.paths.grid_id}" in text
    assert "points      4 points: 4 completed; from grid.py" in text
    assert "tags        final, pinned" in text
    assert "notes       good enough" in text
    assert f"--grid --rerun {grid.paths.grid_id}" in text
    assert shown == {"folder": str(grid.paths.folder), **grids.load(grid.paths)}


def test_show_names_the_failures_of_a_grid(root):
    made = MadeGrid(root, DRAWN)
    made.end(0, "failed", "ValueError: odd")
    made.end(1, "failed", "first")
    made.end(1, "completed", attempt=2)
    made.close("failed", "1 of 4")
    text = store.show_command(root, made.paths.grid_id)

    assert "state       failed: 1 of 4" in text
    assert "failures    slow-narrow: failed: ValueError: odd" in text
    assert "first" not in text
    assert f"--grid --resume {made.paths.grid_id}" in text


def test_show_of_a_run_names_its_grid_and_point(project: Project):
    set_up(project, number=1)
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 0
    (folder,) = folders(project)
    text = project.run("show", "latest").stdout

    assert f"grid        {folder.name}" in text
    assert "point       value-0" in text
    assert f"| grid | {folder.name} |" in (project.latest().folder / "README.md").read_text()


def test_people_add_words_to_a_grid_as_to_a_run(grid, project: Project):
    shutil.copytree(grid.paths.folder.parent, project.root / "runs")
    name = grid.paths.grid_id
    for arguments in (("tag", name, "good"), ("note", name, "looks", "right"), ("pin", name)):
        done = project.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
    record = grids.load(GridPaths(project.root / "runs" / name))

    assert (record["tags"], record["pinned"]) == (["good"], True)
    assert record["notes"][0]["text"] == "looks right"
    assert project.run("tag", name, "--remove", "bad").returncode == 2


# The command line.


def test_completion_knows_grids(grid, root):
    name = grid.paths.grid_id

    assert name in completion.candidates(root, ["list", "--grid", ""])
    assert completion.candidates(root, ["list", "--grid", "latest:"]) == ["latest:digits"]
    assert completion.candidates(root, ["show", name[:-3]]) == [name]
    assert completion.candidates(root, ["rm", name[:-3]]) == [name]
    assert completion.candidates(root, ["--grid", "--resume", name[:-3]]) == [name]
    assert completion.candidates(root, ["--gr"]) == ["--grid"]
    assert completion.candidates(root, ["--grid", "--retr"]) == ["--retries"]
    assert completion.candidates(root, ["list", "poi"]) == ["point="]
    assert completion.candidates(root, ["show", "latest:"]) == ["latest:digits"]


def test_completion_offers_grid_files_where_a_grid_is_asked_for(tmp_path):
    for name in ("grid.py", "experiment.toml", "notes.txt"):
        (tmp_path / name).touch()

    assert completion.candidates(tmp_path, ["--grid", ""]) == ["experiment.toml", "grid.py"]
    assert "grid.py" not in completion.candidates(tmp_path, [""])


def test_doctor_names_killed_grids(grid, root):
    place = Place(None, CachePaths(root / "cache"), Store.for_root(root), None)

    def said():
        return [(check.level, check.said, check.advice) for check in doctor_store.grids(place)]

    assert said() == [("ok", "1 grid, none killed", "")]
    grids.change(grid.paths, state="running")
    grids.change(grid.paths, state="killed", cause="a power cut")
    ((level, text, advice),) = said()
    assert (level, text) == ("warn", "1 grid killed")
    assert f"--grid --resume {grid.paths.grid_id}" in advice
    grid.paths.record.write_text("{")
    assert "grid.json" in said()[0][1]
