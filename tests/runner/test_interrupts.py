"""Signals whose handlers raise come between any two lines: nothing is left locked or half ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import Project
from made_runs import make_run

from engram import record

# Changes of one record, each interrupted at another moment. Whether the lock is free is asked while
# the exception is alive, since it is inside of `except` that a runner ends its record.
CHANGES = """\
import fcntl, json, random, signal, sys
from pathlib import Path
from engram import record
from engram.paths import RunPaths


def stop(number, frame):
    raise KeyboardInterrupt


def is_locked(path):
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


signal.signal(signal.SIGALRM, stop)
paths, moments = RunPaths(Path(sys.argv[1])), random.Random(20261121)
interrupts = locked = 0
for number in range(2000):
    try:
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-6, 8e-4))
        record.change(paths, seed=number)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupts += 1
        locked += is_locked(paths.metadata)
print(json.dumps({"interrupts": interrupts, "locked": locked}))
"""
# The runner, which gets a SIGTERM as soon as it has the lock under which its record is changed: at
# the first call of a function, which is where Python looks for signals.
LOCKED = """\
import os, signal, sys
from engram import cli

found = []


def callers(frame):
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def look(frame, event, value):
    if not found and event == "return" and frame.f_code.co_name == "locked":
        if {"change", "run_script"} <= set(callers(frame)):
            found.append(frame.f_code.co_name)
    elif found and event == "call":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)


sys.setprofile(look)
sys.exit(cli.main(sys.argv[1:]))
"""
# The runner, which is interrupted when its last record is on the disk and nobody knows of it yet.
RUNNER = """\
import sys
from engram import cli, record

change = record.change


def interrupted(paths, *, state=None, **fields):
    made = change(paths, state=state, **fields)
    if state == "completed":
        raise KeyboardInterrupt
    return made


record.change = interrupted
sys.exit(cli.main(sys.argv[1:]))
"""


def python(project: Project, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run some lines in an interpreter that finds engram."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=project.root,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(project.tool / "lib")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_interrupt_at_any_moment_leaves_no_lock_of_a_record_behind(
    project: Project, tmp_path: Path
) -> None:
    paths = make_run(tmp_path / "runs", state="running")
    done = python(project, CHANGES, str(paths.folder))
    found = json.loads(done.stdout)
    assert found["interrupts"] > 200
    assert found["locked"] == 0


def test_a_runner_that_is_ended_while_it_holds_the_lock_of_its_record_ends(
    project: Project,
) -> None:
    done = python(project, LOCKED, "experiment.toml")
    assert done.returncode == 143, done.stderr
    assert record.load(project.latest())["state"] == "interrupted"


def test_a_run_that_is_interrupted_behind_its_last_record_keeps_it(project: Project) -> None:
    done = python(project, RUNNER, "experiment.toml")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    paths = project.latest()
    assert record.load(paths)["state"] == "completed"
    assert "completed" in paths.readme.read_text()
    (line,) = (project.root / "runs/log.jsonl").read_text().splitlines()
    assert json.loads(line)["state"] == "completed"
    assert list((project.root / "runs/.engram/open").iterdir()) == []
