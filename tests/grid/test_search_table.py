"""The keys of a search in the [grid] table: what is refused, and what is recorded."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import Project
from grids import grid_record
from searches import prepare, searched

from engram import config
from engram.grid import growth, search_table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("trials = 3\nsearch = 'optuma'", "'grid.search' is 'optuma': expected 'optuna'"),
        ("trials = 3\nsampler = 'tpee'", "did you mean 'tpe'?"),
        ("trials = 3\nsampler = 'CMA-ES'", "did you mean 'cmaes'?"),
        ("trials = 3\npruner = 'medain'", "did you mean 'median'?"),
        ("trials = 3\ndirection = 'minimise'", "did you mean 'minimize'?"),
        (
            "trials = 3\nsampler_options = {n_startup_trails = 3}",
            "did you mean 'n_startup_trials'?",
        ),
        ("trials = 3\nsampler_options = {group = true}", "needs multivariate = true"),
        ("trials = 3\npruner = 'asha'\npruner_options = {reduction_factor = 1}", "from 2 to"),
        ("trials = 0", "'grid.trials' is 0"),
        ("", "needs the key 'grid.trials'"),
        ("trials = 3\nmetric = 7", "'grid.metric' is 7"),
        ("trials = 3\nseeds = [1, 2]", "the search chooses every point"),
        ("trials = 3\nspace = {x = {normal = [0, 1]}}", "write for example {uniform = [-3, 3]}"),
        ("trials = 3\nspace = {x = {unifrom = [0, 1]}}", "did you mean 'uniform'?"),
        ("trials = 3\nspace = {}", "needs the key 'grid.space'"),
        ("trials = 3\nspace = {xx = {uniform = [0, 1]}}", "'xx'"),
        ("trials = 3\nsampler = 'cmaes'\nspace = {x = {uniform = [0, 1]}}", "write 'tpe'"),
        ("trails = 3", "did you mean 'trials'?"),
    ],
)
def test_a_search_that_is_not_fit_is_refused_before_anything_is_made(
    project: Project, table: str, message: str
) -> None:
    space = "" if "space" in table else "[grid.space]\nx = {uniform = [0, 1]}\n"
    prepare(project, table, space=space)
    text = (project.root / "experiment.toml").read_text()
    for key in ("search", "metric"):
        if f"{key} = " in table:
            text = text.replace(
                {"search": 'search = "optuna"\n', "metric": 'metric = "loss"\n'}[key], ""
            )
    project.write("experiment.toml", text)
    project.commit()
    done = project.run("--grid", "experiment.toml")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not (project.root / "runs").exists()


def test_a_missing_package_is_named(project: Project) -> None:
    """The interpreter below the environment has no optuna."""
    bare = getattr(sys, "_base_executable", sys.executable)
    probe = [bare, "-c", "import importlib.util as u; print(u.find_spec('optuna') is None)"]
    if subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip() != "True":
        pytest.skip("the base interpreter has optuna too")
    prepare(project, "trials = 3\n")
    command = [bare, *project.command("--grid", "experiment.toml")[1:]]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "a search needs 'optuna', which is not installed here" in done.stderr
    assert "pip install optuna" in done.stderr
    assert not (project.root / "runs").exists()


def test_a_recorded_search_reads_back_as_it_was(project: Project) -> None:
    prepare(project, 'trials = 3\npruner = "asha"\npruner_options = {min_resource = 2}\n')
    folder = searched(project)
    before = config.load(project.root / "experiment.toml", root=project.root)
    assert before.grid is not None
    assert growth.check(grid_record(folder)) == search_table.read(before.grid, "x")
