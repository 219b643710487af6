"""Which W&B sweep a worker joins, makes or refuses, and what it does without W&B."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project
from grids import folders, grid_record
from sweeping import ALL, completed, drawn, edit, prepare, sweep
from wandb_stand_in import StandIn


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as found:
        yield found


def test_a_sweep_of_another_configuration_is_refused_until_it_is_over(
    project: Project, server: StandIn
) -> None:
    prepare(project, "preload = []")
    sweep(project, server)
    server.sweeps["sweep1"].state = "RUNNING"
    edit(project, "breaks_at = -1", "breaks_at = -2")
    before = sorted(project.root.glob("runs/*"))
    said = sweep(project, server, code=2)
    assert "somebody/fly/sweep1 belongs to another configuration" in said
    assert "its parameters differ (breaks_at is -1 there and -2 here)" in said
    assert "its commit differs" in said
    assert "--sweep new" in said
    assert sorted(project.root.glob("runs/*")) == before
    assert list(server.sweeps) == ["sweep1"]
    said = sweep(project, server, "--sweep", "new")
    assert "made the W&B sweep somebody/fly/sweep2" in said
    edit(project, "breaks_at = -2", "breaks_at = -3")
    said = sweep(project, server)
    assert "somebody/fly/sweep2 is over, and another configuration's" in said
    assert "made the W&B sweep somebody/fly/sweep3" in said


def test_a_sweep_of_this_configuration_that_is_over_or_deleted_is_refused(
    project: Project, server: StandIn
) -> None:
    prepare(project)
    sweep(project, server)
    said = sweep(project, server, code=2)
    assert "somebody/fly/sweep1 of this configuration is over (finished)" in said
    assert "`--sweep new` makes another" in said
    del server.sweeps["sweep1"]
    said = sweep(project, server, code=2)
    assert "somebody/fly/sweep1 of this configuration was deleted" in said
    said = sweep(project, server, "--sweep", "fly/sweep1", code=2)
    assert "W&B has no sweep 'fly/sweep1': it was deleted, or its name is another" in said


def clone(project: Project, folder: Path) -> Project:
    """The same commit on another machine, as it were: nothing is shared but W&B."""
    subprocess.run(["git", "clone", "-q", project.root, folder], check=True)
    return Project(folder)


def test_a_worker_elsewhere_joins_by_id_and_a_stale_id_is_refused(
    project: Project, server: StandIn, tmp_path: Path
) -> None:
    prepare(project)
    sweep(project, server, "--sweep", "new")
    made = server.sweeps["sweep1"]
    made.state, made.given, made.source = "RUNNING", 0, None
    elsewhere = clone(project, tmp_path / "elsewhere")
    assert not (elsewhere.root / "runs").exists()
    said = sweep(elsewhere, server, "--sweep", "somebody/fly/sweep1")
    assert "joined the W&B sweep somebody/fly/sweep1" in said
    assert completed(elsewhere) == ALL
    made.state, made.given, made.source = "RUNNING", 0, None
    edit(elsewhere, "x = [0, 1, 2]", "x = [0, 1, 5]", "experiment.toml")
    said = sweep(elsewhere, server, "--sweep", "sweep1", code=2)
    assert "belongs to another configuration" in said
    assert "its grid differs" in said and "its commit differs" in said
    said = sweep(elsewhere, server, "--config", 'grid.sweep_id="sweep1"', code=2)
    assert "belongs to another configuration" in said
    made.text = made.description = '{"method": "grid", "parameters": {}}'
    said = sweep(elsewhere, server, "--sweep", "sweep1", code=2)
    assert "does not say what it belongs to" in said


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"WANDB_MODE": "offline"}, "WANDB_MODE is offline"),
        ({"WANDB_API_KEY": ""}, "there is no API key"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "127.0.0.1 cannot be reached"),
    ],
)
def test_without_wandb_the_same_points_run_here_and_one_line_says_so(
    project: Project, server: StandIn, tmp_path: Path, environ: dict[str, str], why: str
) -> None:
    prepare(project)
    nowhere = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_MODE": ""}
    environ = {**server.environ, **nowhere, **environ}
    done = project.run("--grid", "experiment.toml", env=environ)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "W&B" in line]
    assert len(said) == 1
    assert said[0].startswith(f"no W&B sweep, {why}")
    assert said[0].endswith("the same 6 points run here alone, as a local grid")
    (folder,) = folders(project)
    assert completed(project) == ALL
    made = grid_record(folder)
    assert (made["search"], made["points"]) == (None, 6)
    assert [note["text"] for note in made["notes"]] == said
    assert not server.sweeps
    done = project.run("--grid", "experiment.toml", "--sweep", "fly/sweep1", env=environ)
    assert done.returncode == 2
    assert "the W&B sweep 'fly/sweep1' cannot be joined" in done.stderr


def test_what_stands_in_for_bayes_is_said_and_recorded(project: Project, server: StandIn) -> None:
    pytest.importorskip("optuna", reason="what stands in for bayes needs optuna")
    space = "[grid.space]\nx = {uniform = [-2, 2]}\n"
    prepare(project, 'method = "bayes"\ntrials = 3', space=space)
    done = project.run(
        "--grid", "experiment.toml", env={**server.environ, "WANDB_MODE": "disabled"}
    )
    assert done.returncode == 0, done.stderr
    assert "WANDB_MODE is disabled: optuna's TPE stands in for W&B's bayes" in done.stderr
    (folder,) = folders(project)
    made = grid_record(folder)
    assert (made["search"]["kind"], made["search"]["sampler"]) == ("optuna", "tpe")
    assert "stands in for W&B's bayes" in made["notes"][0]["text"]
    assert len(drawn(folder)) == 3


def test_a_key_that_the_server_does_not_know_is_refused(project: Project, server: StandIn) -> None:
    prepare(project)
    done = project.run(
        "--grid", "experiment.toml", env={**server.environ, "WANDB_API_KEY": "wrong" * 8}
    )
    assert done.returncode == 2
    assert "does not accept the API key" in done.stderr
    assert "wrong" not in done.stderr
    assert folders(project) == []


@pytest.mark.parametrize("odd", ["", "/", "fly/", "fly//sweep1", "a/somebody/fly/sweep1"])
def test_what_is_no_id_of_a_sweep_is_refused(project: Project, server: StandIn, odd: str) -> None:
    """An empty one is what a variable of the shell gives that is not set."""
    prepare(project)
    said = sweep(project, server, "--sweep", odd, code=2)
    assert f"--sweep {odd!r} is no id of a sweep: write SWEEP, PROJECT/SWEEP or ENTITY" in said
    assert server.calls == []


def test_dry_run_and_other_tables_ask_nothing_of_wandb(project: Project, server: StandIn) -> None:
    prepare(project)
    done = project.run("--grid", "experiment.toml", "--dry-run", env=server.environ)
    assert done.returncode == 0, done.stderr
    assert "# up to 6 points of" in done.stdout
    edit(project, 'search = "wandb"\nmetric = "loss"\n', "", "experiment.toml")
    done = project.run("--grid", "experiment.toml", "--sweep", "new", env=server.environ)
    assert done.returncode == 2
    assert 'needs a [grid] table with search = "wandb"' in done.stderr
    assert server.calls == []
