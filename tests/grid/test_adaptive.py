"""Grid files that choose points by what has finished, through the real command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import Project
from grids import by_point, folders, grid_record, records, set_up, wait_for, witnessed

ONE, TWO = "\nSLOTS_PER_DEVICE = 1\n", "\nSLOTS_PER_DEVICE = 2\n"
# Looks for the value whose double is nearest to 50, in 0..99.
HALVING = """\
def configurations(base, finished):
    low, high = 0, 99
    while low < high:
        middle = (low + high) // 2
        yield {**base, "value": middle}, f"value-{middle}"
        result = {item["name"]: item["summary"]["doubled"] for item in finished}
        low, high = (middle + 1, high) if result[f"value-{middle}"] < 50 else (low, middle)
"""

INTERRUPT = """\
    if kind == "interrupt":
        raise KeyboardInterrupt
    time.sleep(seconds)"""


def halving() -> list[str]:
    """The names that HALVING must yield, by the same rule and without engram."""
    low, high, names = 0, 99, []
    while low < high:
        middle = (low + high) // 2
        names.append(f"value-{middle}")
        low, high = (middle + 1, high) if middle * 2 < 50 else (low, middle)
    return names


def drawn(folder: Path) -> list[str]:
    """The names in a grid's points.jsonl, in order."""
    return [json.loads(line)["name"] for line in (folder / "points.jsonl").read_text().splitlines()]


def test_points_are_chosen_by_what_has_finished(project: Project) -> None:
    set_up(project, HALVING, extra=ONE)
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 0, done.stderr
    (folder,) = folders(project)
    assert drawn(folder) == halving()
    made = grid_record(folder)
    assert (made["state"], made["points"], made["varying"]) == (
        "completed",
        len(halving()),
        ["value"],
    )
    assert {item["state"] for item in by_point(folder).values()} == {"completed"}
    assert project.run("verify", folder.name).returncode == 0


def test_finished_says_of_each_point_what_its_record_says(project: Project) -> None:
    grid = """\
import json, os


def configurations(base, finished):
    yield {**base, "value": 3}, "three"
    yield {**base, "kind": "raise"}, "wrong"
    json.dump(finished, open(os.environ["SEEN"], "w"))
"""
    set_up(project, grid, extra=ONE)
    seen = project.root / "runs" / "seen.json"
    seen.parent.mkdir()
    project.run("--grid", "grid.py", "experiment.toml", env={"SEEN": str(seen)})
    made = by_point(folders(project)[0])
    base = {"value": 1, "kind": "ok", "seconds": 0.0}
    assert json.loads(seen.read_text()) == [
        {
            "name": "three",
            "parameters": {**base, "value": 3},
            "state": "completed",
            "summary": {"doubled": 6},
            "seed": made["three"]["seed"],
            "run_s": made["three"]["times"]["run_s"],
        },
        {
            "name": "wrong",
            "parameters": {**base, "kind": "raise"},
            "state": "failed",
            "summary": {},
            "seed": made["wrong"]["seed"],
            "run_s": made["wrong"]["times"]["run_s"],
        },
    ]


def test_none_waits_until_another_point_has_finished(project: Project, tmp_path: Path) -> None:
    grid = """\
def configurations(base, finished):
    yield {**base, "value": 1, "seconds": 0.6}, "slow"
    yield {**base, "value": 2, "seconds": 0.2}, "fast"
    while len(finished) < 2:
        yield None
    yield {**base, "value": 3}, "last"
"""
    set_up(project, grid, extra="\nSLOTS_PER_DEVICE = 3\n")
    witness = tmp_path / "witness"
    done = project.run("--grid", "grid.py", "experiment.toml", env={"WITNESS": str(witness)})
    assert done.returncode == 0, done.stderr
    seen = {item["value"]: item for item in witnessed(witness)}
    assert seen[2]["began"] < seen[1]["ended"]  # beside each other
    assert seen[3]["began"] > max(seen[1]["ended"], seen[2]["ended"])


def test_waiting_for_nothing_is_an_error(project: Project) -> None:
    text = (
        "def configurations(base, finished):\n    yield base, 'a'\n    while True:\n        yield\n"
    )
    set_up(project, text)
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 1
    assert "yielded None while no point ran" in done.stderr
    (folder,) = folders(project)
    assert grid_record(folder)["state"] == "failed"
    assert "yielded None" in grid_record(folder)["cause"]


def test_an_exception_ends_the_asking_and_what_runs_finishes(project: Project) -> None:
    grid = """\
def configurations(base, finished):
    yield {**base, "value": 4, "seconds": 1.0}, "slow"
    raise LookupError("no idea left")
"""
    set_up(project, grid, extra=TWO)
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 1
    assert "nothing more is started" in done.stderr
    (folder,) = folders(project)
    (run,) = records(folder)
    assert (run["state"], run["summary"]) == ("completed", {"doubled": 8})
    made = grid_record(folder)
    assert made["state"] == "failed"
    assert "LookupError: no idea left" in made["cause"]
    assert 'grid.py", line 3' in made["cause"]
    assert "proposer.py" not in made["cause"]  # the user's frames alone
    assert made["counts"] == {"completed": 1, "pending": 0}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{**base, 'value': 2}, 'ONE'", "'one' and 'ONE'"),
        ("{**base, 'value': {1, 2}}, 'two'", "'value' is {1, 2}, of type set"),
        ("{**base, 'value': 2}, '../two'", "holds a slash"),
        ("{**base, 'value': 2}, 2", "names are text"),
        ("'two'", "(parameters, name)"),
    ],
)
def test_a_point_that_is_not_fit_ends_the_asking(
    project: Project, second: str, message: str
) -> None:
    text = f"def configurations(base, finished):\n    yield base, 'one'\n    yield {second}\n"
    set_up(project, text, extra=ONE)
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 1
    assert message in done.stderr
    (folder,) = folders(project)
    assert drawn(folder) == ["one"]
    assert by_point(folder)["one"]["state"] == "completed"
    assert message in grid_record(folder)["cause"]


def test_a_generator_that_takes_its_process_along_is_named(project: Project) -> None:
    grid = """\
import os, signal


def configurations(base, finished):
    yield {**base, "value": 5, "seconds": 0.5}, "one"
    os.kill(os.getpid(), signal.SIGKILL)
"""
    set_up(project, grid, extra=TWO)
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 1
    assert "the process that chooses points ended by signal 9" in done.stderr
    (folder,) = folders(project)
    assert by_point(folder)["one"]["summary"] == {"doubled": 10}
    assert grid_record(folder)["state"] == "failed"


def test_a_script_that_interrupts_itself_has_finished_too(project: Project) -> None:
    grid = """\
def configurations(base, finished):
    yield {**base, "kind": "interrupt"}, "one"
    while not finished:
        yield None
    yield {**base, "kind": "ok"}, finished[0]["state"]
"""
    set_up(project, grid)
    work = (project.root / "work.py").read_text()
    project.write("work.py", work.replace("    time.sleep(seconds)", INTERRUPT, 1))
    project.commit()
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 1
    made = by_point(folders(project)[0])
    assert {name: item["state"] for name, item in made.items()} == {
        "one": "interrupted",
        "interrupted": "completed",
    }


def test_a_generator_without_end_is_capped(project: Project) -> None:
    endless = """\
import itertools

MAX_POINTS = 3


def configurations(base, finished):
    for number in itertools.count():
        yield {**base, "value": number}, f"value-{number}"
"""
    set_up(project, endless)
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 1
    assert "more than 3 points" in done.stderr
    (folder,) = folders(project)
    assert len(records(folder)) == 3


def test_no_point_at_all_is_an_error(project: Project) -> None:
    set_up(project, "def configurations(base, finished):\n    return []\n")
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 1
    assert "there is no point" in done.stderr


def test_the_generator_lives_in_a_process_that_dies_with_the_dispatcher(project: Project) -> None:
    grid = """\
import json, os, pathlib


def configurations(base, finished):
    told = {"me": os.getpid(), "parent": os.getppid()}
    pathlib.Path(os.environ["TOLD"]).write_text(json.dumps(told))
    yield {**base, "kind": "hang"}, "hang"
    yield None
"""
    set_up(project, grid)
    told = project.root / "runs" / "told.json"
    told.parent.mkdir()
    process = project.start("--grid", "grid.py", "experiment.toml", env={"TOLD": str(told)})
    wait_for(lambda: list(project.root.glob("runs/*/*/log.out")))
    said = json.loads(told.read_text())
    assert said["parent"] == process.pid
    process.kill()
    process.communicate(timeout=300)
    wait_for(lambda: not Path(f"/proc/{said['me']}").exists(), 10)


def test_ctrl_c_ends_a_generator_that_thinks_for_ever(project: Project) -> None:
    grid = """\
import time


def configurations(base, finished):
    yield {**base, "kind": "hang"}, "hang"
    time.sleep(600)
"""
    set_up(project, grid, extra=TWO)
    process = project.start("--grid", "grid.py", "experiment.toml")
    wait_for(lambda: [p for p in project.root.glob("runs/*/*/log.out") if p.stat().st_size])
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    (folder,) = folders(project)
    assert [item["state"] for item in records(folder)] == ["interrupted"]


def test_resume_after_a_kill_goes_on_and_repeats_nothing(project: Project) -> None:
    slow = HALVING.replace('"value": middle}', '"value": middle, "seconds": 0.3}')
    set_up(project, slow, extra=ONE)
    process = project.start("--grid", "grid.py", "experiment.toml")
    wait_for(lambda: len(list(project.root.glob("runs/*/*/outputs/result.txt"))) == 2)
    process.kill()
    process.communicate(timeout=300)
    (folder,) = folders(project)
    wait_for(lambda: project.run("--grid", "--resume", "latest").returncode == 0)
    assert drawn(folder) == halving()
    completed = [item for item in records(folder) if item["state"] == "completed"]
    assert sorted(item["grid"]["point"] for item in completed) == sorted(halving())
    made = grid_record(folder)
    assert (made["state"], made["counts"]["completed"]) == ("completed", len(halving()))
    assert project.run("verify", folder.name).returncode == 0


def test_a_known_name_with_other_parameters_is_refused_at_resume(project: Project) -> None:
    grid = """\
import os


def configurations(base, finished):
    yield {**base, "value": int(os.environ["VALUE"])}, "one"
    yield {**base, "kind": os.environ["KIND"], "value": 7}, "two"
"""
    set_up(project, grid, extra=ONE)
    env = {"VALUE": "1", "KIND": "raise"}
    assert project.run("--grid", "grid.py", "experiment.toml", env=env).returncode == 1
    done = project.run("--grid", "--resume", "latest", env={**env, "VALUE": "2"})
    assert done.returncode == 1
    assert "'one' is in this grid already, with value = 1 and not 2" in done.stderr


def test_resume_runs_what_failed_and_asks_for_the_rest(project: Project) -> None:
    grid = """\
import os


def configurations(base, finished):
    yield {**base, "kind": "raise"}, "one"
    if "MORE" in os.environ:
        yield {**base, "value": len(finished)}, "two"
"""
    set_up(project, grid, extra=ONE)
    work = (project.root / "work.py").read_text()
    fixable = work.replace('kind == "raise":', 'kind == "raise" and "MORE" not in os.environ:')
    project.write("work.py", fixable)
    project.commit()
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 1
    done = project.run("--grid", "--resume", "latest", env={"MORE": "1"})
    assert done.returncode == 0, done.stderr
    (folder,) = folders(project)
    made = by_point(folder)
    assert {name: item["grid"]["attempt"] for name, item in made.items()} == {"one": 2, "two": 1}
    assert made["two"]["summary"] == {"doubled": 2}  # one point had finished by then


def test_a_varied_seed_is_the_points_seed_from_the_first_point_on(project: Project) -> None:
    grid = """\
def configurations(base, finished):
    for seed in (11, 12):
        yield {**base, "seed": seed}, f"seed-{seed}"
"""
    set_up(project, grid)
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 0
    made = by_point(folders(project)[0])
    assert {name: item["seed"] for name, item in made.items()} == {"seed-11": 11, "seed-12": 12}


def test_the_plan_of_an_adaptive_grid_asks_for_nothing(project: Project) -> None:
    set_up(project, HALVING)
    done = project.run("--grid", "grid.py", "experiment.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "chosen while others run" in done.stdout
    assert not (project.root / "runs").exists()
