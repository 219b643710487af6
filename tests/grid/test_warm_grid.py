"""A point of a warm interpreter leaves what one of its own interpreter leaves."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from grids import by_point, folders, grid_record, set_up, wait_for

SCRIPT = """\
import collections.abc
import json
import os
import pathlib
import random
import subprocess
import sys
import tomllib
import warnings

import numpy

import helper


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    parameters = tomllib.loads(params_file.read_text())
    kind = parameters["kind"]
    outside = pathlib.Path(os.environ["OUTSIDE"]).read_text()
    seen = {
        "random": random.random(),
        "numpy": numpy.random.rand(3).tolist(),
        "hash": list({"a", "b", "c", "d"}),
        "argv": [pathlib.Path(word).name for word in sys.argv],
        "path": sys.path,
        "cwd": pathlib.Path.cwd().name,
        "main": sorted(vars(sys.modules["__main__"])),
        "flags": str(sys.flags),
        "tty": [stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "environ": sorted(os.environ),
        "helper": helper.VALUE,
        "outside": outside,
        "modules": sorted(name for name in sys.modules if "engram" in name),
        "child": subprocess.check_output([sys.executable, "-c", "print(1)"]).decode(),
    }
    (output_dir / "seen.json").write_text(json.dumps(seen))
    print("printed", kind)
    print("to stderr", file=sys.stderr)
    if kind == "raise":
        raise ValueError("no luck")
    if kind == "exit":
        sys.exit("said at exit")
    if kind == "os_exit":
        os._exit(3)
    if kind == "segfault":
        import ctypes

        ctypes.string_at(0)
    if kind == "killed":
        os.kill(os.getpid(), 9)
    return {"value": seen["random"], "nan": float("nan")}
"""

HELPER = """\
import os
import pathlib
import sys

print("helper is imported")
print("and complains", file=sys.stderr)
VALUE = pathlib.Path(os.environ["OUTSIDE"]).read_text()
"""

KINDS = ("ok", "raise", "exit", "os_exit", "segfault", "killed")
# Times, process ids and names that are made for each run.
MADE = re.compile(
    r"\d{8}T\d{6}\.\d{3}Z-[a-z0-9-]+|engram-[0-9a-f]{6}-[0-9a-f]{6}|"
    r'"pid": \d+|pid \d+|thread 0x[0-9a-f]+|\[pid\]'
)


def set_up_both(project: Project, tmp_path: Path, extra: str = "") -> dict[str, str]:
    kinds = "\n".join(f"    yield {{**base, 'kind': {kind!r}}}, {kind!r}" for kind in KINDS)
    set_up(project, f"def configurations(base):\n{kinds}\n", extra=extra)
    project.write("work.py", SCRIPT)
    project.write("helper.py", HELPER)
    project.write("parameters.toml", "value = 1\nkind = 'ok'\nseed = 7\n")
    project.commit()
    outside = tmp_path / "outside.txt"
    outside.write_text("seen")
    return {"OUTSIDE": str(outside)}


def plain(text: str) -> Any:
    """Without what is made for each run."""
    return MADE.sub("*", text)


def comparable(folder: Path, item: dict[str, Any]) -> dict[str, Any]:
    """Everything that a point left, but times, ids and measured use."""
    run = folder / item["run_id"]
    dropped = ("run_id", "times", "usage", "lease", "argv", "record_sha256", "hashes", "logs")
    kept = {key: value for key, value in item.items() if key not in dropped}
    left = {"record": plain(json.dumps(kept, sort_keys=True))}
    for name in ("log.out", "log.err", "parameters.toml", "experiment.toml", "outputs/seen.json"):
        left[name] = plain((run / name).read_text())
    for name in ("imports.json", "files.json", "environment.json", "outputs.json"):
        left[name] = plain((run / "provenance" / name).read_text())
    left["files"] = sorted(p.relative_to(run).as_posix() for p in run.rglob("*"))
    return left


@pytest.mark.parametrize("preload", [(), ("numpy",), ("numpy", "helper")])
def test_records_of_warm_and_cold_points_differ_in_times_and_ids_only(
    project: Project, tmp_path: Path, preload: tuple[str, ...]
) -> None:
    pytest.importorskip("numpy")
    env = set_up_both(project, tmp_path, f"\nPRELOAD = {list(preload)}\n")
    project.run("--grid", "grid.py", "experiment.toml", env=env)
    project.run("--grid", "grid.py", "experiment.toml", "--cold", env=env)
    warm, cold = folders(project)
    assert grid_record(warm)["warm"] == {"used": True, "why_not": None}
    assert grid_record(cold)["warm"]["used"] is False
    found, expected = by_point(warm), by_point(cold)
    states = [expected[kind]["state"] for kind in KINDS]
    assert states == ["completed", "failed", "failed", "failed", "killed", "killed"]
    for kind in KINDS:
        one, other = comparable(warm, found[kind]), comparable(cold, expected[kind])
        for name in other:
            assert one[name] == other[name], (kind, name)


def test_an_unsafe_preload_makes_points_cold_and_says_why(project: Project, tmp_path: Path) -> None:
    env = set_up_both(project, tmp_path, "\nPRELOAD = ['threads']\n")
    project.write(
        "threads.py",
        "import threading, time\n\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
    )
    project.commit()
    done = project.run("--grid", "grid.py", "experiment.toml", env=env)
    (folder,) = folders(project)
    why = grid_record(folder)["warm"]
    assert why["used"] is False
    assert "thread" in why["why_not"]
    assert why["why_not"] in done.stderr
    assert by_point(folder)["ok"]["state"] == "completed"


def test_a_preload_that_is_not_there_is_refused(project: Project, tmp_path: Path) -> None:
    env = set_up_both(project, tmp_path, "\nPRELOAD = ['nothing_of_the_kind']\n")
    done = project.run("--grid", "grid.py", "experiment.toml", env=env)
    assert done.returncode == 2
    assert "nothing_of_the_kind" in done.stderr
    assert folders(project) == []


def test_points_go_on_cold_when_the_warm_interpreter_is_killed(project: Project) -> None:
    set_up(project, number=40, extra="\nSLOTS_PER_DEVICE = 1\n")
    process = project.start("--grid", "grid.py", "experiment.toml")
    wait_for(lambda: list(project.root.glob("runs/*/*/log.out")))
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = stat.read_bytes().split(b"\0")
            parent = int((stat.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"zygote" in words and parent == process.pid:
            os.kill(int(stat.parent.name), signal.SIGKILL)
            break
    else:
        pytest.fail("no warm interpreter found")
    _, err = process.communicate(timeout=300)
    (folder,) = folders(project)
    states = [item["state"] for item in by_point(folder).values()]
    assert states.count("completed") >= 39, err  # the one that was just being forked may be lost
    assert "cold from here on" in err
