"""The README.md of a grid: true, of one length for any number of points, safe with any text."""

from __future__ import annotations

import pytest
from made_grids import MadeGrid, grid_record

from engram.grid import pace
from engram.grid import record as grids
from engram.grid.points import Points
from engram.grid.readme import Readme, render
from engram.paths import GridPaths

DRAWN = [({"lr": 0.1 * i}, f"p{i}") for i in range(4)]


@pytest.fixture
def grid(tmp_path):
    """A grid of four points that runs, two of which are over."""
    made = MadeGrid(tmp_path / "runs", DRAWN)
    made.end(0, summary={"loss": 0.5})
    made.end(1, "failed", "ValueError: it broke")
    return made


def test_readme_tells_state_causes_and_what_to_type(grid):
    grid.end(2, summary={"loss": 0.25})
    grid.close("failed", "2 of 4 points did not complete")
    text = render(grids.load(grid.paths), grid.table.rows)

    assert "4 points: 2 completed, 1 failed, 1 pending." in text
    assert "| p1 | failed | ValueError: it broke |" in text
    assert text.index("| p2 | 0.25 |") < text.index("| p0 | 0.5 |")
    assert f"--grid --resume {grid.paths.grid_id}" in text
    assert "| lr | 0, 0.1, 0.2 |" in text


def test_readme_of_2000_points_is_as_short_as_that_of_50(tmp_path):
    def length(number):
        drawn = [({"lr": i, "kind": f"kind-{i}"}, f"p{i:04}") for i in range(number)]
        points = Points.create(tmp_path / f"{number}.jsonl")
        for parameters, name in drawn:
            points.append(parameters, name)
        rows = [
            {"index": i, "name": name, "state": "failed" if i % 2 else "completed"}
            | {"run_id": "r" * 36, "cause": "x" * 5000, "param.lr": i, "param.kind": f"kind-{i}"}
            | {"summary.loss": 1.0 / (i + 1)}
            for i, name in enumerate(points.names)
        ]
        paths = GridPaths(tmp_path / "grid")
        return len(render(grid_record(paths, points), rows))

    assert length(2000) < length(50) + 200


def test_readme_survives_texts_that_are_markup(grid):
    grid.end(2, "failed", "a | b\n# title\n```", summary=None)
    text = render(grids.load(grid.paths), grid.table.rows)

    assert "a \\| b\\n# title\\n```" in text


def test_readme_says_nothing_of_results_where_there_are_none(tmp_path):
    made = MadeGrid(tmp_path / "runs", DRAWN)
    made.end(0, summary={"note": "no number", "bad": float("nan"), "good": True})
    text = render(grids.load(made.paths), made.table.rows)

    assert "Lowest" not in text
    assert "4 points: 4 pending" in text


def test_readme_follows_the_grid_and_is_not_written_all_the_time(grid, monkeypatch):
    clock, written = [100.0], []
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])
    kept = Readme(grid.paths)

    def keep(state, **options):
        kept.keep({**grids.load(grid.paths), "state": state}, grid.table.rows, **options)
        written.append(f"| state | {state} |" in grid.paths.readme.read_text())

    keep("created")
    keep("running")
    clock[0] += 2.5
    keep("running")
    keep("interrupted", force=True)
    assert written == [True, False, True, True]


def test_readme_that_cannot_be_written_ends_nothing(grid):
    grid.paths.readme.mkdir()
    Readme(grid.paths).keep(grids.load(grid.paths), grid.table.rows)
    assert list(grid.paths.folder.glob(".README*")) == []
