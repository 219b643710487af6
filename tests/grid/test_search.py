"""Searches by optuna, through the real command line; optuna in memory is the oracle."""

from __future__ import annotations

import json
import signal
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from grids import by_point, folders, grid_record, records, wait_for
from searches import (
    PARAMETERS,
    SMALL,
    TWO,
    WORK,
    drawn,
    ended,
    optuna,
    prepare,
    searched,
    study_of,
)

from engram.grid import search_table


def objective(trial: Any) -> float:
    """What WORK returns, in optuna's own words."""
    x = trial.suggest_float("x", -5, 5)
    trial.suggest_float("rate", 1e-4, 1, log=True)
    k = trial.suggest_int("model.k", 1, 9, step=2)
    trial.suggest_categorical("model.kind", ["a", "b", "c"])
    return (x - 1) ** 2 + k / 10


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Optuna's own warnings are not ours to mend."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_one_slot_runs_the_very_trials_of_optuna(project: Project) -> None:
    """More trials than TPE draws at random, so that it has to learn from what it was told."""
    prepare(project, "trials = 16\nseed = 7\n")
    folder = searched(project)
    sampler = optuna.samplers.TPESampler(seed=7, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=16)
    found = [
        {
            "x": p["x"],
            "rate": p["rate"],
            "model.k": p["model"]["k"],
            "model.kind": p["model"]["kind"],
        }
        for p in drawn(folder)
    ]
    assert found == [trial.params for trial in study.trials]
    best = grid_record(folder)["best"]
    assert best["value"] == study.best_value
    assert by_point(folder)[best["name"]]["run_id"] == best["run_id"]
    assert best["run_id"] in (folder / "README.md").read_text()


def test_the_storage_is_a_study_that_optuna_reads(project: Project) -> None:
    prepare(project, 'trials = 4\ndirection = "maximize"\nsampler = "random"\n')
    folder = searched(project)
    study = study_of(folder)
    assert study.direction.name == "MAXIMIZE"
    made = by_point(folder)
    told = {trial.user_attrs["point"]: trial.value for trial in study.trials}
    assert told == {name: item["summary"]["loss"] for name, item in made.items()}
    assert grid_record(folder)["best"]["value"] == max(told.values())


def test_parallel_slots_never_run_a_point_twice_and_stop_when_none_is_left(
    project: Project,
) -> None:
    prepare(project, 'trials = 10\nsampler = "random"\n', space=SMALL, engine=TWO)
    done = project.run("--grid", "experiment.toml")
    assert done.returncode == 0, done.stderr
    (folder,) = folders(project)
    pairs = [(p["model"]["k"], p["model"]["kind"]) for p in drawn(folder)]
    assert sorted(pairs) == [(k, kind) for k in (1, 2, 3) for kind in "ab"]
    assert "the space holds no other point: 6 of 10" in done.stderr
    assert f"best loss {grid_record(folder)['best']['value']:.5g}" in done.stderr
    made = grid_record(folder)
    assert (made["state"], made["points"], made["counts"]["completed"]) == ("completed", 6, 6)


@pytest.mark.parametrize("journal", ["kept", "torn", "lost"])
def test_resume_after_a_kill_makes_exactly_the_trials_and_repeats_none(
    project: Project, journal: str
) -> None:
    prepare(project, "trials = 7\n", engine=TWO)
    project.write("parameters.toml", PARAMETERS.replace("seconds = 0.0", "seconds = 0.1"))
    project.commit()
    process = project.start("--grid", "experiment.toml")
    wait_for(lambda: len(list(project.root.glob("runs/*/*/provenance/outputs.json"))) >= 3)
    threads = list(Path(f"/proc/{process.pid}/task").iterdir())
    assert len(threads) == 1  # it forks
    process.kill()
    process.communicate(timeout=300)
    (folder,) = folders(project)
    storage = folder / ".grid/search.journal"
    if journal == "torn":
        storage.write_bytes(storage.read_bytes() + b'{"op_code":4,"wor')
    if journal == "lost":
        storage.unlink()
    wait_for(lambda: project.run("list").returncode == 0 and ended(folder))
    before = {p["x"] for p in drawn(folder)}
    done = project.run("--grid", "--resume", folder.name)
    assert done.returncode == 0, done.stderr
    points = drawn(folder)
    assert len(points) == len({p["x"] for p in points}) == 7
    assert before <= {p["x"] for p in points}
    completed = [item for item in records(folder) if item["state"] == "completed"]
    assert len({item["grid"]["point"] for item in completed}) == len(completed) == 7
    study = study_of(folder)
    values = {trial.user_attrs["point"]: trial.value for trial in study.trials if trial.value}
    assert values == {item["grid"]["point"]: item["summary"]["loss"] for item in completed}
    assert not [trial for trial in study.trials if trial.state.name == "RUNNING"]
    assert grid_record(folder)["counts"] == {"completed": 7, "pending": 0}


def test_points_that_ctrl_c_ended_are_told_when_they_have_been_run_again(project: Project) -> None:
    prepare(project, 'trials = 4\nsampler = "random"\n', engine=TWO)
    project.write("parameters.toml", PARAMETERS.replace("seconds = 0.0", "seconds = 0.2"))
    project.commit()
    process = project.start("--grid", "experiment.toml")
    wait_for(lambda: len(list(project.root.glob("runs/*/*/metrics.jsonl"))) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    (folder,) = folders(project)
    assert [trial.state.name for trial in study_of(folder).trials] == ["RUNNING"] * 2
    done = project.run("--grid", "--resume", "latest")
    assert done.returncode == 0, done.stderr
    trials = study_of(folder).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    made = by_point(folder)
    assert [made[trial.user_attrs["point"]]["summary"]["loss"] for trial in trials] == [
        trial.value for trial in trials
    ]


def test_failed_points_are_told_as_failed_and_run_again_at_resume(project: Project) -> None:
    prepare(project, 'trials = 5\nsampler = "random"\nseed = 1\n')
    project.write("parameters.toml", PARAMETERS.replace("breaks_below = -100", "breaks_below = 0"))
    fixable = WORK.replace('p["breaks_below"]:', 'p["breaks_below"] and "FIXED" not in os.environ:')
    project.write("work.py", fixable)
    project.commit()
    folder = searched(project, code=1)
    made = by_point(folder)
    failed = {name for name, item in made.items() if item["state"] == "failed"}
    assert failed
    assert failed < set(made)
    trials = {trial.user_attrs["point"]: trial.state.name for trial in study_of(folder).trials}
    assert trials == {name: "FAIL" if name in failed else "COMPLETE" for name in made}
    done = project.run("--grid", "--resume", "latest", env={"FIXED": "1"})
    assert done.returncode == 0, done.stderr
    again = [trial for trial in study_of(folder).trials if trial.state.name == "COMPLETE"]
    assert {trial.user_attrs["point"] for trial in again} == set(made)
    assert len(again) == len(drawn(folder)) == 5


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("nan", "its 'loss' is NaN"),
        ("los", "main returned no 'loss'; did you mean 'los'? (it returned los)"),
    ],
)
def test_a_point_without_a_value_is_told_as_failed_and_said(
    project: Project, result: str, message: str
) -> None:
    prepare(project, 'trials = 2\nsampler = "random"\n')
    project.write("parameters.toml", PARAMETERS.replace('"loss"', f'"{result}"'))
    project.commit()
    done = project.run("--grid", "experiment.toml")
    assert done.returncode == 0, done.stderr  # every point completed
    assert done.stderr.count(message) == 2
    (folder,) = folders(project)
    assert [trial.state.name for trial in study_of(folder).trials] == ["FAIL", "FAIL"]
    assert grid_record(folder)["best"] is None


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        ("tpe", 'pruner = "median"\npruner_options = {n_startup_trials = 1, n_warmup_steps = 1}'),
        ("cmaes", 'pruner = "asha"\npruner_options = {reduction_factor = 2}'),
        ("gp", "sampler_options = {n_startup_trials = 2, deterministic_objective = true}"),
        ("qmc", 'sampler_options = {qmc_type = "halton", scramble = true}'),
        ("random", 'pruner = "none"'),
    ],
)
def test_every_sampler_and_pruner_makes_its_trials(
    project: Project, sampler: str, pruner: str
) -> None:
    for name in search_table.PACKAGES.get(sampler, ()):
        pytest.importorskip(name, reason=f"the sampler needs {name}")
    prepare(project, f'trials = 5\nsampler = "{sampler}"\nseed = 2\n{pruner}\n', engine=TWO)
    folder = searched(project)
    points = drawn(folder)
    assert len({json.dumps(p) for p in points}) == 5
    assert all(-5 <= p["x"] <= 5 and 1e-4 <= p["rate"] <= 1 for p in points)
    assert all(p["model"]["k"] in (1, 3, 5, 7, 9) for p in points)
    assert grid_record(folder)["search"]["sampler"] == sampler


def test_values_that_optuna_cannot_hold_are_chosen_by_place(project: Project) -> None:
    space = (
        '[grid.space]\n"+layers" = {choice = [[8, 8], [16], []]}\n"+on" = {choice = [1, true]}\n'
    )
    prepare(project, "trials = 6\n", space=space)
    folder = searched(project)
    found = [json.dumps([p["layers"], p["on"]]) for p in drawn(folder)]
    assert sorted(found) == sorted(
        json.dumps([layers, on]) for layers in ([8, 8], [16], []) for on in (1, True)
    )


def test_long_names_give_way_to_numbers(project: Project) -> None:
    keys = "\n".join(f'"+a_rather_long_name_{n}" = {{uniform = [0, 1]}}' for n in range(4))
    prepare(project, "trials = 2\n", space=f"[grid.space]\n{keys}\n")
    folder = searched(project)
    assert sorted(by_point(folder)) == ["trial-0001", "trial-0002"]


def test_a_plain_grid_loads_nothing_of_searches(project: Project) -> None:
    prepare(project, "trials = 1\n")
    text = (project.root / "experiment.toml").read_text().partition("[grid]")[0]
    project.write("experiment.toml", text + "[grid]\nproduct = {x = [1.0, 2.0]}\n")
    project.commit()
    command = project.command("--grid", "experiment.toml")
    done = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "engram.grid.dispatch" in loaded
    wrong = {"optuna", "numpy", *(f"engram.grid.{n}" for n in ("search", "study", "proposer"))}
    assert loaded & wrong == set()
    (folder,) = folders(project)
    assert grid_record(folder)["search"] is None
    assert not (folder / ".grid/search.journal").exists()


def test_the_plan_of_a_search_says_how_many_points_it_may_make(project: Project) -> None:
    prepare(project, "trials = 12\n")
    done = project.run("--grid", "experiment.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "up to 12 points" in done.stdout
    assert not (project.root / "runs").exists()
