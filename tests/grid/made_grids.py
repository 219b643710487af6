"""Grid folders made directly, so that readers of grids are tested without running any."""

from __future__ import annotations

import json

from engram import record as runs
from engram.grid import record as grids
from engram.grid.points import Points
from engram.grid.points_table import PointsTable, row_of


def run_record(paths, **changes):
    """The record of a run that was just made, as far as readers of grids look at it."""
    made = {
        "schema_version": runs.SCHEMA_VERSION,
        "run_id": paths.run_id,
        "experiment": "digits",
        "state": "created",
        "exit": None,
        "seed": 0,
        "lease": None,
        "times": dict.fromkeys(("created", "started", "ended", "run_s", "total_s")),
        "comparison": None,
        "summary": None,
        "devices": {"visible": "0", "labels": ["gpu 0"], "keys": ["GPU-1"], "environ": {}},
        "processes": 1,
    }
    return {**made, **changes}


def grid_record(paths, points, **changes):
    """The record of a grid that was just made."""
    made = {
        "schema_version": runs.SCHEMA_VERSION,
        "engram": {"version": "0.1.0"},
        "grid_id": paths.folder.name,
        "experiment": "digits",
        "description": "",
        "state": "created",
        "cause": None,
        "argv": ["--grid", "grid.py"],
        "script": {"path": "work.py", "blob": "b" * 40},
        "code": {"commit": "c" * 40, "branch": "main", "dirty": False, "live": False},
        "repository": {"root": "/nowhere"},
        "source": {"kind": "file", "path": "grid.py", "sha256": "d" * 64},
        "hashes": {"grid_file": None, "experiment": None, "parameters": None, "points": None},
        "varying": list(points.varying),
        "points": len(points),
        "counts": {"pending": len(points)},
        "seed": 0,
        "devices": ["gpu 0", "gpu 1"],
        "slots": 2,
        "options": {},
        "warm": {"used": False, "why_not": None},
        "host": "here",
        "user": "me",
        "lease": None,
        "times": {"created": runs.now_utc(), "started": None, "ended": None, "run_s": None},
        "sessions": [],
        "parents": {"rerun_of": None},
        "best": None,
        "reruns": [],
        "tags": [],
        "notes": [],
        "pinned": False,
    }
    return {**made, **changes}


class MadeGrid:
    """A grid in a folder, whose points end as a test says."""

    def __init__(self, root, drawn, **changes):
        """Draw points; `drawn` holds (parameters, name), `changes` are keys of the record."""
        self.paths = grids.new_grid_folder(root, "digits")
        self.points = Points.create(self.paths.points)
        for parameters, name in drawn:
            self.points.append(parameters, name)
        self.paths.parameters.write_text("")
        grids.create(self.paths, grid_record(self.paths, self.points, **changes))
        grids.change(self.paths, state="running")
        self.table = PointsTable(self.paths, self.points.varying)

    def end(self, index, state="completed", cause=None, *, summary=None, attempt=1, **more):
        """Give a point a run that ended; `more`: metrics, err, out, and keys of the record."""
        paths = runs.new_run_folder(self.paths.folder.parent, self.paths.grid_id, title="digits")
        paths.provenance.mkdir()
        paths.outputs.mkdir()
        paths.parameters.write_bytes(self.points.parameters(index))
        paths.log_out.write_bytes(more.pop("out", b""))
        paths.log_err.write_bytes(more.pop("err", b""))
        paths.readme.write_text("# digits\n")
        if metrics := more.pop("metrics", None):
            paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in metrics))
        name = self.points.names[index]
        place = {"id": self.paths.grid_id, "point": name, "index": index, "attempt": attempt}
        run_s = more.pop("run_s", 1.5)
        runs.create(paths, run_record(paths, grid=place, **more))
        runs.change(paths, state="running")
        cause = cause or ("main returned" if state == "completed" else "ValueError: it broke")
        ending = {"code": 0, "signal": None, "cause": cause, "exception": None}
        record = runs.change(paths, state=state, exit=ending, run_s=run_s, summary=summary)
        columns = self.points.columns(index)
        self.table.put(row_of(index, name, columns, record, attempt, "gpu 0"))
        return paths

    def close(self, state="completed", cause=None):
        """End the grid."""
        self.table.finish()
        counts = self.table.counts()
        counts["pending"] = len(self.points) - sum(counts.values())
        grids.change(self.paths, state=state, cause=cause, counts=counts, run_s=12.5)
        return self.paths
