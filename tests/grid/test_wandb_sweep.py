"""W&B sweeps through the real command line, against a stand-in for W&B's server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import Project
from grids import by_point, folders, grid_record, records, wait_for
from sweeping import ALL, completed, drawn, edit, prepare, sweep
from wandb_stand_in import StandIn


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as found:
        yield found


def test_two_workers_share_one_sweep_and_run_each_point_once(
    project: Project, server: StandIn
) -> None:
    prepare(project)
    edit(project, "seconds = 0.0", "seconds = 0.4")
    server.most_each = 3
    both = [
        project.start("--grid", "experiment.toml", env=server.environ),
        project.start("--grid", "experiment.toml", env=server.environ),
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("made the W&B sweep" in text for text in said) == [False, True]
    assert sorted("joined the W&B sweep" in text for text in said) == [False, True]
    one, other = folders(project)
    assert len(drawn(one)) == len(drawn(other)) == 3
    assert sorted(drawn(one) + drawn(other)) == ALL == completed(project)
    assert list(server.sweeps) == ["sweep1"]
    found = [run.state for run in server.of_sweep("sweep1")]
    assert found == ["finished"] * len(ALL)


def test_each_point_names_its_sweep_and_its_result_reaches_it(
    project: Project, server: StandIn
) -> None:
    prepare(project, slots=2)
    edit(project, "breaks_at = -1", "breaks_at = 2")
    sweep(project, server, code=1)
    (folder,) = folders(project)
    told = grid_record(folder)["search"]
    assert (told["sweep"]["id"], told["sweep"]["made"]) == ("somebody/fly/sweep1", True)
    assert (
        "W&B sweep somebody/fly/sweep1: grid, to minimize loss"
        in (folder / "README.md").read_text()
    )
    for item in records(folder):
        place = item["grid"]["sweep"]
        run = server.runs[place["run"]]
        assert place["id"] == "somebody/fly/sweep1"
        assert place["url"] == f"{server.url}/somebody/fly/runs/{place['run']}"
        assert run.state == ("finished" if item["state"] == "completed" else "failed")
        assert run.summary.get("loss") == (item["summary"] or {}).get("loss")
        assert {"seen": "sweep1"}.items() <= run.summary.items() or run.state == "failed"
    assert grid_record(folder)["counts"] == {"completed": 4, "failed": 2, "pending": 0}
    assert project.run("verify", folder.name).returncode == 0


def test_the_wandb_client_of_a_script_logs_into_the_run_of_its_point(
    project: Project, server: StandIn
) -> None:
    """The client is the real one; what it logged stays beside what main returned."""
    pytest.importorskip("wandb")
    prepare(project, space="[grid.product]\nmodel.k = [2]\n")
    edit(project, "logs = false", "logs = true")
    sweep(project, server)
    (folder,) = folders(project)
    (item,) = records(folder)
    run = server.runs[item["grid"]["sweep"]["run"]]
    assert item["wandb"]["id"] == item["grid"]["sweep"]["run"]
    assert (item["wandb"]["mode"], item["wandb"]["error"]) == ("online", None)
    assert (run.sweep, run.state) == ("sweep1", "finished")
    assert [line["curve"] for line in run.history] == [item["summary"]["loss"] + 1]
    assert run.summary["curve"] == item["summary"]["loss"] + 1
    assert run.summary["loss"] == item["summary"]["loss"]
    assert run.config["model.k"]["value"] == 2 == run.config["model"]["value"]["k"]
    assert str(folder / ".grid") not in json.dumps(item["findings"])


def test_a_point_that_a_killed_worker_had_is_reported_and_taken_again(
    project: Project, server: StandIn
) -> None:
    prepare(project)
    edit(project, "seconds = 0.0", "seconds = 0.3")
    process = project.start("--grid", "experiment.toml", env=server.environ)
    wait_for(lambda: len(list(project.root.glob("runs/*/*/provenance/outputs.json"))) == 1)
    wait_for(lambda: len(list(project.root.glob("runs/*/*/metadata.json"))) == 2)
    process.kill()
    process.communicate(timeout=30)
    (killed,) = folders(project)
    said = sweep(project, server)
    assert "joined the W&B sweep somebody/fly/sweep1" in said
    assert f"1 of the sweep's points did not complete in {killed.name}, which has ended" in said
    assert len(completed(project)) == len(ALL) - 1
    done = project.run("--grid", "--resume", killed.name, env=server.environ)
    assert done.returncode == 0, done.stderr
    assert completed(project) == ALL
    assert [run.state for run in server.of_sweep("sweep1")] == ["finished"] * len(ALL)
    again = [item for item in records(killed) if item["grid"]["attempt"] == 2]
    assert [item["grid"]["sweep"]["run"] for item in again] == ["sweep1r2"]


def test_random_and_bayes_stop_at_the_number_of_trials(project: Project, server: StandIn) -> None:
    space = "[grid.space]\nx = {uniform = [-2, 2]}\nmodel.k = {int = [1, 9]}\n"
    prepare(project, 'method = "bayes"\ntrials = 4', space=space, slots=2)
    sweep(project, server)
    (folder,) = folders(project)
    points = drawn(folder)
    assert len(points) == 4
    given = [run.config for run in server.of_sweep("sweep1")]
    assert sorted(points) == sorted((one["x"]["value"], one["model.k"]["value"]) for one in given)
    assert all(-2 <= x <= 2 and type(k) is int and 1 <= k <= 9 for x, k in points)
    best = grid_record(folder)["best"]
    losses = {name: item["summary"]["loss"] for name, item in by_point(folder).items()}
    assert best["value"] == min(losses.values()) == losses[best["name"]]


def test_a_rerun_repeats_the_points_without_the_sweep(project: Project, server: StandIn) -> None:
    prepare(project, space="[grid.product]\nx = [0, 1]\n")
    edit(project, '"seen": os', '"seen": "x" or os', "work.py")
    sweep(project, server)
    calls = len(server.calls)
    done = project.run("--grid", "--rerun", "latest", env=server.environ)
    assert done.returncode == 0, done.stderr
    assert "2 identical" in done.stderr
    assert len(server.calls) == calls
    again = folders(project)[-1]
    assert [item["grid"].get("sweep") for item in records(again)] == [None, None]
    assert json.loads((again / "grid.json").read_text())["search"] is None
