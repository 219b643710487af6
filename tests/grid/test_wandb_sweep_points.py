"""The process that takes points from a W&B sweep, alone: against a stand-in for the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeping import ALL
from wandb_stand_in import KEY, StandIn

from engram import grid_table, toml
from engram.errors import ConfigError
from engram.grid import sweep_points, sweep_table, wandb_server
from engram.grid.points import Points
from engram.grid.proposer import Answer, Over
from engram.grid.sweep_points import SweepPoints
from engram.grid.sweep_rest import rest
from engram.grid.sweep_space import as_yaml, configuration
from engram.grid.sweep_table import SweepConfig
from engram.grid.wandb_server import Server, SweepPath, UnreachableError
from engram.paths import GridPaths
from engram.tables import Table

TABLE = """\
[grid]
search = "wandb"
[grid.product]
x = [0, 1, 2]
"model.k" = [1, 2]
"""
BASE = {"x": 0, "model": {"k": 1}}


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as found:
        yield found


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test need not wait for what people would not notice."""
    monkeypatch.setattr(sweep_points, "HEARTBEAT_S", 0.0)
    monkeypatch.setattr(sweep_points, "ASK_AGAIN_S", 0.0)


def read(text: str) -> SweepConfig:
    grid = grid_table.read(Table(toml.loads(text.encode(), where="t"), "t"), 2**32 - 1)
    assert grid is not None
    return sweep_table.read(grid, "t")


def made(server: StandIn, config: SweepConfig) -> tuple[Server, SweepPath]:
    client = Server(server.url, KEY)
    written = configuration(config, name="n", script="s.py", description="d")
    path, _ = client.make(as_yaml(written), description="d", entity=None, project="fly")
    return client, path


def opened(server: Any, path: SweepPath, folder: Path, config: SweepConfig) -> SweepPoints:
    paths = GridPaths(folder)
    paths.private.mkdir(parents=True, exist_ok=True)
    points = Points(paths.points) if paths.points.exists() else Points.create(paths.points)
    given = {"base": BASE, "points": points, "paths": paths, "where": "t", "parameters": "p"}
    return SweepPoints(config, server, path, **given)


def over(number: int, **changes: Any) -> Over:
    item = Over(number, f"run-{number}", "completed", False, {"loss": 0.5}, 0, 1.0)
    return item._replace(**changes)


def values(found: SweepPoints, number: int | None) -> tuple[Any, Any]:
    assert number is not None
    point = toml.loads(found.points.parameters(number), where="t")
    return point["x"], point["model"]["k"]


def test_every_point_comes_once_and_then_the_end(server: StandIn, tmp_path: Path) -> None:
    config = read(TABLE)
    found = opened(*made(server, config), tmp_path, config)
    answers = [found.propose() for _ in range(7)]
    assert [values(found, answer.point) for answer in answers[:6]] == ALL
    assert answers[6].ended and answers[6].point is None
    assert len(server.agents) == 7  # each works on one point, and the last one hears of the end


def test_an_agent_whose_point_is_over_takes_the_next_one(server: StandIn, tmp_path: Path) -> None:
    config = read(TABLE)
    found = opened(*made(server, config), tmp_path, config)
    for number in range(6):
        assert found.propose().point == number
        assert found.take([over(number)]) == []
    assert len(server.agents) == 1
    assert [run.summary for run in server.runs.values()] == [{"loss": 0.5}] * 6
    assert {run.state for run in server.runs.values()} == {"finished"}


def test_results_that_could_not_be_sent_are_sent_when_the_server_answers_again(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(TABLE)
    found = opened(*made(server, config), tmp_path, config)
    found.propose()
    server.down = True
    (note,) = found.take([over(0)])
    assert "cannot answer now (status 503); what runs goes on" in note
    assert found.propose() == Answer(notes=[])  # said once is enough
    monkeypatch.setattr(sweep_points, "PATIENCE_S", -1.0)
    with pytest.raises(UnreachableError, match="`--grid --resume` goes on"):
        found.propose()
    monkeypatch.undo()
    server.down = False
    assert server.runs["sweep1r1"].summary == {}
    assert found.take([]) == []
    assert server.runs["sweep1r1"].summary == {"loss": 0.5}


def test_a_server_that_was_not_asked_for_long_may_miss_once(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point of a session that goes on has no agent: while it runs for hours nobody asks."""
    config = read(TABLE)
    client, path = made(server, config)
    opened(client, path, tmp_path, config).propose()
    clock = [1000.0]
    monkeypatch.setattr(sweep_points.time, "monotonic", lambda: clock[0])
    again = opened(client, path, tmp_path, config)
    clock[0] += 10 * sweep_points.PATIENCE_S
    server.down = True
    (note,) = again.take([over(0)])
    assert "what runs goes on" in note
    clock[0] += sweep_points.PATIENCE_S / 2
    assert again.take([]) == []
    clock[0] += sweep_points.PATIENCE_S
    with pytest.raises(UnreachableError, match="for 600 s now"):
        again.take([])


def test_a_result_that_is_refused_does_not_keep_the_others_back(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(TABLE)
    client, path = made(server, config)
    found = opened(client, path, tmp_path, config)
    for _ in range(2):
        found.propose()
    finish = client.finish

    def refuse_one(path: SweepPath, run: str, **told: Any) -> None:
        if run == "sweep1r1":
            raise ConfigError("W&B refuses: too large")
        finish(path, run, **told)

    monkeypatch.setattr(client, "finish", refuse_one)
    (note,) = found.take([over(0), over(1)])
    assert "the result of x=0,k=1 did not reach W&B: W&B refuses: too large" in note
    assert server.runs["sweep1r2"].summary == {"loss": 0.5}


def test_what_a_killed_script_has_sent_stays_and_its_run_is_ended(
    server: StandIn, tmp_path: Path
) -> None:
    config = read(TABLE)
    found = opened(*made(server, config), tmp_path, config)
    found.propose()
    run = server.runs["sweep1r1"]
    run.config = {"model": {"value": {"k": 1}}}
    run.summary = {"curve": 2.0}
    found.take([over(0, state="killed", summary=None)])
    assert run.config == {"model": {"value": {"k": 1}}, "x": {"value": 0}, "model.k": {"value": 1}}
    assert (run.state, run.summary) == ("failed", {"curve": 2.0})


def test_a_session_that_goes_on_tells_no_result_twice_and_loses_no_point(
    server: StandIn, tmp_path: Path
) -> None:
    """A worker that was killed between taking a point and writing it down gets it first."""
    config = read(TABLE)
    client, path = made(server, config)
    first = opened(client, path, tmp_path, config)
    assert [first.propose().point, first.propose().point] == [0, 1]
    first.take([over(0)])
    lines = first.points.path.read_bytes().splitlines(keepends=True)
    first.points.path.write_bytes(lines[0])
    server.runs["sweep1r1"].summary = {"untouched": 1}
    again = opened(client, path, tmp_path, config)
    assert again.take([over(0)]) == []
    assert server.runs["sweep1r1"].summary == {"untouched": 1}
    assert values(again, again.propose().point) == ALL[1]
    assert len(server.runs) == 2
    assert values(again, again.propose().point) == ALL[2]


def test_a_run_that_is_stopped_on_the_page_is_pruned_and_a_canceled_sweep_ends_all(
    server: StandIn, tmp_path: Path
) -> None:
    config = read(TABLE)
    found = opened(*made(server, config), tmp_path, config)
    for _ in range(2):
        found.propose()
    running = {0: "run-0", 1: "run-1"}
    assert found.look(running) == []
    server.stopped.add("sweep1r2")
    (order,) = found.look(running)
    assert order == (1, "it was stopped on W&B")
    server.sweeps["sweep1"].state = "CANCELED"
    assert [item.number for item in found.look(running)] == [0, 1]
    answer = found.propose()
    assert answer.ended and answer.point is None


def test_a_paused_sweep_is_asked_again_and_a_deleted_one_ends_the_search(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(TABLE)
    found = opened(*made(server, config), tmp_path, config)
    monkeypatch.setattr(server, "orders", lambda sweep, running: [])
    assert found.propose() == Answer()
    monkeypatch.undo()
    monkeypatch.setattr(sweep_points, "HEARTBEAT_S", 0.0)
    assert found.propose().point == 0
    server.sweeps.clear()
    with pytest.raises(ConfigError, match="somebody/fly/sweep1 gives no more points.*deleted"):
        found.propose()


def test_a_value_that_the_table_does_not_know_is_refused(server: StandIn, tmp_path: Path) -> None:
    config = read(TABLE)
    client, path = made(server, config)
    found = opened(client, path, tmp_path, read(TABLE.replace("[0, 1, 2]", "[7, 8]")))
    with pytest.raises(ConfigError, match="W&B gave x = 0, which .grid. does not know"):
        found.propose()


def test_what_others_lost_is_reported(tmp_path: Path) -> None:
    states = {"a": "finished", "b": "crashed", "c": "failed", "d": "running"}
    (note,) = rest(GridPaths(tmp_path / "mine"), "e/p/s", states, {"c"})
    assert note.startswith("1 of the sweep's runs did not finish on other machines: b;")
    assert rest(GridPaths(tmp_path / "mine"), "e/p/s", {"a": "finished"}, set()) == []


REAL = """\
import json

import wandb
from wandb.apis.public import sweeps

config = {"method": "grid", "parameters": {"x": {"values": [1]}}}
sweep = wandb.sweep(config, entity="somebody", project="fly")
api = wandb.Api()
agent = sweeps._register_agent(api, "here", sweep_id=sweep, entity="somebody", project="fly")
(command,) = sweeps._agent_heartbeat(api, agent["id"], {}, {})
assert (command["type"], command["args"]) == ("run", {"x": {"value": 1}}), command
assert sweeps._agent_heartbeat(api, agent["id"], {}, {command["run_id"]: True}) == []
made = api.sweep("somebody/fly/sweep1")
print(json.dumps([made.state, made.config, made.name]))
"""


def test_the_server_is_spoken_to_as_the_real_client_does(server: StandIn, tmp_path: Path) -> None:
    """The oracle is the installed wandb: the same variables; and it reads our sweep."""
    pytest.importorskip("wandb.apis.public.sweeps")._register_agent  # noqa: B018 - it moves
    config = read(TABLE)
    client, path = made(server, config)
    found = opened(client, path, tmp_path, config)
    found.propose()
    found.take([over(0)])
    ours = {name: told for name, told in server.calls}
    server.calls.clear()
    done = subprocess.run(
        [sys.executable, "-c", REAL],
        env={**os.environ, **server.environ, "WANDB_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = {name: told for name, told in server.calls}
    for name in ("CreateAgent", "Heartbeat"):
        assert set(ours[name]) == set(theirs[name])
        assert {type(value) for value in ours[name].values()} == {str}
    assert set(ours["UpsertSweep"]) <= set(theirs["UpsertSweep"])
    state, read_by_wandb, called = json.loads(done.stdout.splitlines()[-1])
    written = configuration(config, name="n", script="s.py", description="d")
    assert (state, read_by_wandb, called) == ("RUNNING", written, "n")


def test_statuses_of_the_server_are_told_apart(server: StandIn) -> None:
    path = SweepPath("somebody", "fly", "none")
    with pytest.raises(wandb_server.GoneError, match="the sweep was deleted"):
        Server(server.url, KEY).register(path)
    with pytest.raises(ConfigError, match="does not accept the API key"):
        Server(server.url, "x" * 40).register(path)
    server.down = True
    with pytest.raises(UnreachableError, match="status 503"):
        Server(server.url, KEY).register(path)
    with pytest.raises(UnreachableError, match=r"gives no answer \(.*refused"):
        Server("http://127.0.0.1:9", KEY).register(path)


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("https://api.wandb.ai", "https://wandb.ai/e/p/sweeps/s"),
        ("https://api.forge.coreweave.com/", "https://forge.coreweave.com/wandb/e/p/sweeps/s"),
        ("https://wandb.example.org", "https://wandb.example.org/e/p/sweeps/s"),
    ],
)
def test_pages_are_where_the_real_client_has_them(url: str, page: str) -> None:
    """The oracle is wandb's own rule; it calls the first server by its new name now."""
    assert Server(url, KEY).page(SweepPath("e", "p", "s")) == page
    util = pytest.importorskip("wandb.util")
    if "api.wandb.ai" not in url and hasattr(util, "api_to_app_url"):
        assert util.api_to_app_url(url.rstrip("/")) == page.removesuffix("/e/p/sweeps/s")
