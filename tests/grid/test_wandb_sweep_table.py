"""A sweep in the [grid] table, its place and its identity: all that needs no server."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from engram import grid_table, toml, wandb_log
from engram.errors import ConfigError
from engram.grid import distributions, sweep_place, sweep_space, sweep_table
from engram.grid.sweep_identity import Identity
from engram.grid.sweep_place import Known, SweepPlace
from engram.grid.sweep_space import as_yaml, configuration, countable, outward
from engram.grid.sweep_table import SweepConfig, local_table
from engram.grid.wandb_server import SweepPath
from engram.paths import RootPaths
from engram.tables import Table


def read(text: str) -> SweepConfig:
    grid = grid_table.read(table_of(f'[grid]\nsearch = "wandb"\n{text}'), 2**32 - 1)
    assert grid is not None
    return sweep_table.read(grid, "t")


def table_of(text: str) -> Table:
    return Table(toml.loads(text.encode(), where="t"), "t")


def written(text: str) -> dict[str, Any]:
    return configuration(read(text), name="n", script="s.py", description="d")


def distribution(**table: Any) -> distributions.Distribution:
    return distributions.distribution(table, "t")


def test_a_grid_has_the_product_of_all_blocks() -> None:
    found = written(
        "repeats = 2\n[grid.product]\nx = [0.5, 1]\n[grid.space]\n"
        'a.b = {choice = ["u", "v"]}\nn = {int = [1, 5], step = 2}\n'
        "y = {uniform = [0, 0.3], step = 0.1}\n"
    )
    values = {key: one["values"] for key, one in found["parameters"].items()}
    assert values == {
        "x": [0.5, 1],
        "seed": [0, 1],
        "a.b": ["u", "v"],
        "n": [1, 3, 5],
        "y": [0.0, 0.1, 0.2, 0.3],
    }
    assert found["method"] == "grid" and "run_cap" not in found and "metric" not in found


def test_a_range_is_a_distribution_of_wandb() -> None:
    """The words are those of W&B's page on sweep configurations."""
    found = written(
        'method = "random"\ntrials = 9\nmetric = "m"\ndirection = "maximize"\n[grid.space]\n'
        "u = {uniform = [0, 1]}\nl = {loguniform = [1e-5, 1]}\ni = {int = [1, 8]}\n"
        "g = {logint = [1, 64]}\n"
    )
    assert found["parameters"] == {
        "u": {"distribution": "uniform", "min": 0.0, "max": 1.0},
        "l": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0},
        "i": {"distribution": "int_uniform", "min": 1, "max": 8},
        "g": {"distribution": "q_log_uniform_values", "min": 1, "max": 64, "q": 1},
    }
    assert (found["run_cap"], found["metric"]) == (9, {"name": "m", "goal": "maximize"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs the key 'grid.space'"),
        ('method = "tpe"\n[grid.product]\nx = [1]', "'grid.method' is 'tpe'"),
        ('sampler = "tpe"\n[grid.product]\nx = [1]', "'grid.sampler' is 'tpe'"),
        ("trials = 3\n[grid.product]\nx = [1]", "a grid has all points"),
        ('method = "random"\n[grid.product]\nx = [1]', "needs the key 'grid.trials'"),
        ('method = "bayes"\ntrials = 2\n[grid.product]\nx = [1]', "needs the key 'grid.metric'"),
        ("[grid.space]\nx = {uniform = [0, 1]}", "has no end of values"),
        ("[grid.space]\nx = {normal = [0, 1]}", "a search needs bounds"),
        ("[grid.product]\nx = [1, 1]", "lists x = 1 twice"),
        ("[grid.product]\nx = 1", "expected a list of values"),
        ("[grid.product]\nx = [1]\n[grid.space]\nx = {int = [1, 2]}", "both set 'x'"),
        ("[grid.zip]\nx = [1]", "write zip, points and random of"),
        ("most = 3\n[grid.product]\nx = [1, 2]\ny = [1, 2]", "2 x 2 = 4 points, more than 3"),
        ('sweep_id = "a/b/c/d"\n[grid.product]\nx = [1]', "SWEEP, PROJECT/SWEEP or ENTITY"),
        ('sweep_id = "/c"\n[grid.product]\nx = [1]', "SWEEP, PROJECT/SWEEP or ENTITY"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        read(text)


def test_keys_of_a_sweep_need_a_sweep() -> None:
    with pytest.raises(ConfigError, match="'search' beside it"):
        grid_table.read(table_of('[grid]\nsweep_id = "a"\n'), 9)


@pytest.mark.parametrize(
    ("one", "given", "kept"),
    [
        (distribution(choice=[1, 2.5, "a", True]), 1, 1),
        (distribution(choice=[True, 1]), 1, 1),
        (distribution(choice=[1.0]), 1, 1.0),
        (distribution(choice=[[1, 2], {"a": 1}]), '{"a": 1}', {"a": 1}),
        (distribution(int=[1, 9], step=4), 5, 5),
        (distribution(logint=[1, 64]), 7.0, 7),
        (distribution(uniform=[0, 1]), 0, 0.0),
        (distribution(uniform=[0, 0.3], step=0.1), 0.30000000000000004, 0.3),
        (distribution(loguniform=[1e-5, 1]), 0.25, 0.25),
    ],
)
def test_a_value_of_the_server_is_one_of_ours_again(one: Any, given: Any, kept: Any) -> None:
    found = outward(one, given, "x")
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize("given", [True, 3, "1", None, math.nan])
def test_a_value_that_may_not_be_is_refused(given: Any) -> None:
    for one in (
        distribution(choice=[1, 2]),
        distribution(int=[1, 2]),
        distribution(uniform=[0, 2.5]),
    ):
        with pytest.raises(ConfigError, match="which .grid. does not know"):
            outward(one, given, "x")


def test_a_stepped_range_too_long_to_be_listed_still_ends_on_its_steps() -> None:
    one = distribution(int=[0, 10**9], step=3)
    assert countable(one) is None
    assert sweep_space.parameter(one, grid=False)["distribution"] == "int_uniform"
    assert outward(one, 301, "x") == 300


def test_yaml_is_read_alike_by_the_reader_that_wandb_uses() -> None:
    """The oracle is PyYAML, which takes 1e-05 for text."""
    value = {
        "f": [1e-05, 1e22, 0.1, -2.5e-300, 3.0],
        "t": ["1e-05", "no", "é \U0001f600", 'a "b"\n', "0x1"],
        "d.e": {"x": True, "n": None, "i": 7},
        "": [],
    }
    assert yaml.safe_load(as_yaml(value)) == value


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_what_stands_in_without_wandb_draws_from_the_same_space(method: str) -> None:
    more = "" if method == "grid" else f'method = "{method}"\ntrials = 4\nmetric = "m"\n'
    local = local_table(read(f'{more}[grid.product]\nx = [1, 2]\n"+y.z" = ["a"]\n'))
    assert {"grid": "product", "random": "random", "bayes": "space"}[method] in local
    grid = grid_table.read(table_of(toml.dumps({"grid": local})), 2**32 - 1)
    assert grid is not None
    assert (grid.search is None) == (method != "bayes")
    if method == "grid":
        assert grid.product == {"x": [1, 2], "+y.z": ["a"]}


def identity(**changes: Any) -> Identity:
    parts = {"script": "aa", "parameters": "bb", "grid": "cc", "inputs": "dd", "commit": "ee"}
    details = {"parameters": {"lr": ["float", 0.1], "n": ["int", 1]}}
    return Identity({**parts, **changes.pop("parts", {})}, {**details, **changes})


@pytest.mark.parametrize("broken", ["\n", "\\\n  \\ ", "\n    "])
def test_an_identity_is_read_from_what_the_server_kept(broken: str) -> None:
    mark = identity().mark
    text = yaml.dump({"description": f"My experiment\n{mark}", "method": "grid"}, width=40)
    for kept in (mark, text, mark.replace(" ", broken)):
        found = Identity.marked(f"before {kept}\nafter")
        assert found is not None
        assert found.parts == identity().parts
        assert identity().differences(found) == []
    assert Identity.marked("no such line") is None
    assert Identity.marked(mark.replace("=bb", "=bc")) is None  # somebody edited it


def test_what_differs_is_named() -> None:
    other = identity(parts={"parameters": "b0"}, parameters={"lr": ["float", 0.2]})
    assert identity().differences(other) == [
        "its parameters differ (lr is 0.2 there and 0.1 here; n is absent there and 1 here)"
    ]
    bare = Identity({**identity().parts, "grid": "c0", "commit": "e0"}, {})
    ours = identity(commit="ee", grid={})
    assert ours.differences(bare) == [
        "its grid differs",
        "its commit differs (e0 there, ee here)",
    ]


def known(sweep: str) -> Known:
    return Known(SweepPath("e", "p", sweep), identity(), "2026-11-21T07:00:00Z")


def keep(folder: str, number: int, start: Any, told: Any) -> None:
    place = SweepPlace(RootPaths(Path(folder)), "exp", "s.py")
    start.wait(20)
    told.put((number, place.keep(known(f"sweep{number}"))))


@pytest.mark.parametrize("links", [True, False])
def test_of_many_starters_without_locks_one_sweep_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Nobody takes the lock here: the file alone decides."""
    if not links:

        def refuse(self: Path, target: Path) -> None:
            raise PermissionError(1, "no links here")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    context = multiprocessing.get_context("fork")
    start, told = context.Event(), context.Queue()
    workers = [
        context.Process(target=keep, args=(str(tmp_path), number, start, told))
        for number in range(6)
    ]
    for worker in workers:
        worker.start()
    start.set()
    answers = dict(told.get(timeout=20) for _ in workers)
    for worker in workers:
        worker.join(20)
    (winner,) = [number for number, stands in answers.items() if stands]
    place = SweepPlace(RootPaths(tmp_path), "exp", "s.py")
    assert place.read() == known(f"sweep{winner}")
    assert [path.name for path in place.file.parent.iterdir()] == [place.file.name]


def test_a_place_is_one_experiments_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    root = RootPaths(tmp_path)
    place = SweepPlace(root, "exp", "s.py")
    with place.alone():
        assert place.read() is None
        assert place.keep(known("one"))
    assert not place.keep(known("two"))
    assert SweepPlace(root, "exp", "other.py").read() is None
    assert place.keep(known("three"), instead=known("one"))
    assert place.read() == known("three")
    place.file.write_text(json.dumps({"sweep": 1}))
    assert place.read() is None
    assert place.keep(known("four"))
    assert place.read() == known("four")


def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(sweep_place, "locked", refuse)
    place = SweepPlace(RootPaths(tmp_path), "exp", "s.py")
    with place.alone():
        assert place.keep(known("one"))


def test_an_account_is_found_under_either_name_of_the_public_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_log.api_key() is None
    for host, url in itertools.product(wandb_log.SAME_SERVER, wandb_log.SAME_SERVER):
        (tmp_path / "netrc").write_text(f"machine {host} login user password {host}-key\n")
        monkeypatch.setenv("WANDB_BASE_URL", f"https://{url}")
        assert wandb_log.api_key() == f"{host}-key"
        assert wandb_log.has_account()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_log.api_key() is None
    (tmp_path / "settings").write_text("[default]\napi_key = from-settings\n")
    assert wandb_log.api_key() == "from-settings"
    monkeypatch.setenv("WANDB_API_KEY", "from-environment")
    assert wandb_log.api_key() == "from-environment"
