"""Points that a search ends early, by what they log while they run."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Project
from grids import by_point, folders, records
from searches import PARAMETERS, TWO, WORK, prepare, searched, study_of

from engram import paths
from engram.grid.curves import Tail


def test_bad_points_are_pruned_early(project: Project) -> None:
    """Learning curves that differ by what is drawn at random, from the first step on."""
    pruner = 'pruner = "median"\npruner_options = {n_startup_trials = 2, n_warmup_steps = 2}\n'
    prepare(project, f'trials = 8\nsampler = "random"\nseed = 3\n{pruner}', engine=TWO)
    slow = PARAMETERS.replace("steps = 3", "steps = 24").replace("seconds = 0.0", "seconds = 0.05")
    project.write("parameters.toml", slow)
    project.commit()
    folder = searched(project)
    made = by_point(folder)
    pruned = {name: item for name, item in made.items() if item["pruned"]}
    whole = {name: item for name, item in made.items() if not item["pruned"]}
    assert pruned
    assert whole
    losses = [item["summary"]["loss"] for item in whole.values()]
    for item in pruned.values():
        assert item["state"] == "completed"
        assert item["summary"] is None
        assert item["times"]["run_s"] < min(run["times"]["run_s"] for run in whole.values())
        run = paths.RunPaths(folder / item["run_id"])
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(len(lines)))
        assert 0 < len(lines) < 24
        assert lines[-1]["loss"] > min(losses)
    trials = {trial.user_attrs["point"]: trial for trial in study_of(folder).trials}
    for name, item in pruned.items():
        trial = trials[name]
        assert trial.state.name == "PRUNED"
        step = trial.last_step
        assert item["exit"]["cause"].startswith(f"pruned by the search at step {step}, where loss")
        run = paths.RunPaths(folder / item["run_id"])
        logged = json.loads(run.metrics.read_text().splitlines()[step])
        assert trial.value == logged["loss"]
    assert all(trials[name].state.name == "COMPLETE" for name in whole)
    assert project.run("verify", folder.name).returncode == 0

    before = {item["run_id"] for item in records(folder)}
    assert project.run("--grid", "--resume", folder.name).returncode == 0
    assert {item["run_id"] for item in records(folder)} == before  # pruned is completed
    again = project.run("--grid", "--rerun", folder.name)
    assert again.returncode == 0, again.stderr
    assert f"{len(pruned)} points were pruned by the search" in again.stderr
    assert set(by_point(folders(project)[-1])) == set(whole)


def test_a_point_that_ends_by_itself_just_then_is_simply_completed(project: Project) -> None:
    """Main has returned, but its process lingers while the search wants it pruned."""
    prepare(
        project,
        'trials = 2\nsampler = "random"\npruner = "asha"\n'
        "pruner_options = {min_resource = 1, bootstrap_count = 5}\n",
    )
    lingering = WORK.replace("import math,", "import atexit, math,").replace(
        "    p = tomllib", "    atexit.register(time.sleep, 1.5)\n    p = tomllib"
    )
    project.write("work.py", lingering)
    project.commit()
    folder = searched(project, "--cold")
    for item in records(folder):
        assert (item["state"], item["pruned"]) == ("completed", False)
        assert item["exit"]["cause"] == "main returned"
        assert item["exit"]["signal"] == "SIGTERM"  # it was asked to end, while it lingered
        assert item["summary"]["loss"] > 0
    assert [trial.state.name for trial in study_of(folder).trials] == ["COMPLETE"] * 2


def test_a_script_that_ends_in_good_order_when_asked_is_pruned_all_the_same(
    project: Project,
) -> None:
    prepare(
        project,
        'trials = 1\nsampler = "random"\npruner = "asha"\n'
        "pruner_options = {min_resource = 1, bootstrap_count = 5}\n",
    )
    orderly = WORK.replace("import math,", "import math, signal,").replace(
        "            time.sleep(p",
        "            signal.signal(signal.SIGTERM, lambda *_: globals().update(asked=True))\n"
        '            if "asked" in globals():\n'
        "                break\n"
        "            time.sleep(p",
    )
    project.write("work.py", orderly)
    project.write(
        "parameters.toml", PARAMETERS.replace("= 0.0\nb", "= 0.1\nb").replace("= 3", "= 99")
    )
    project.commit()
    folder = searched(project)
    (item,) = records(folder)
    assert (item["state"], item["pruned"]) == ("completed", True)
    assert item["times"]["run_s"] < 5


def test_a_tail_reads_only_what_is_new_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path, "a/b")
    assert list(tail.read()) == []
    path.write_text(
        '{"step": 0, "a/b": 1.5}\n{"step": 1, "c": 2}\n{"step": 2, "a/b": NaN, "c": "a/b"}\n{"st'
    )
    first = list(tail.read())
    assert first[0] == (0, 1.5)
    assert first[1].step == 2
    assert first[1].value != first[1].value
    with path.open("a") as stream:
        stream.write(
            'ep": 3, "a/b": 7}\n{"step": 3, "a/b": 8}\n{"step": 4, "a/b": true}\nnonsense "a/b":\n'
        )
    assert list(tail.read()) == [(3, 7.0)]
    assert list(tail.read()) == []


def test_of_very_many_values_a_tail_leaves_the_same_ones_out_every_time(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": 3 * n, "loss": n}) + "\n" for n in range(1, 5001)]
    path.write_text("".join(lines))
    at_once = list(Tail(path, "loss").read())
    expected = [*range(1, 100), *range(100, 1000, 10), *range(1000, 5001, 100)]
    assert [value.value for value in at_once] == expected
    path.write_text("")
    tail, bit_by_bit = Tail(path, "loss"), []
    for at in range(0, 5000, 777):
        with path.open("a") as stream:
            stream.writelines(lines[at : at + 777])
        bit_by_bit += tail.read()
    assert bit_by_bit == at_once
