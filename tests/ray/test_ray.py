"""Runs and grids as tasks of a real Ray cluster: who shares a GPU, what ends them, what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import EXPERIMENT, Project
from grids import (
    by_point,
    folders,
    grid_record,
    living,
    points,
    records,
    set_up,
    wait_for,
    witnessed,
)

from engram import record, verify
from engram.errors import ConfigError
from engram.grid import ray_driver, ray_node, ray_settings
from engram.paths import RunPaths
from engram.settings import EngineConfig

pytest_plugins = ["ray_cluster"]
pytestmark = [pytest.mark.ray, pytest.mark.slow]

GRID = ("--grid", "grid.py", "experiment.toml")
ENGINE = """
[environment]
threads = 1

[engine]
kind = "ray"
"""
LOCAL = EXPERIMENT + ENGINE.replace('"ray"', '"local"')


@pytest.fixture
def ray(project: Project, ray_head: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Project:
    """A repository whose experiment runs in Ray."""
    for name, value in ray_head.items():
        monkeypatch.setenv(name, value)
    engine(project)
    return project


def engine(project: Project, **keys: object) -> None:
    """Have an experiment run in Ray, with more keys of [engine]."""
    lines = "".join(f"{key} = {value!r}\n" for key, value in keys.items())
    project.write("experiment.toml", EXPERIMENT + ENGINE + lines)
    project.commit("engine")


def logs(project: Project) -> list[Path]:
    return [p for p in project.root.glob("runs/*/*/log.out") if p.stat().st_size]


def overlaps(seen: list[dict[str, Any]]) -> dict[str, int]:
    """How many scripts ran on each device at the same time, at most."""
    found = {}
    for device in {item["device"] for item in seen}:
        here = [item for item in seen if item["device"] == device]
        found[device] = max(sum(b["began"] <= a["began"] < b["ended"] for b in here) for a in here)
    return found


def test_points_with_a_whole_gpu_never_overlap_on_one(ray: Project, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    engine(ray, num_gpus=1, num_cpus=0.5)
    set_up(ray, points(str([{"seconds": 0.3}] * 10)))
    done = ray.run(*GRID, env={"WITNESS": str(witness)})
    assert done.returncode == 0, done.stderr
    assert "4 points at a time" in done.stderr
    seen = witnessed(witness)
    assert sorted(item["value"] for item in seen) == list(range(10))
    assert {item["device"] for item in seen} <= {"0", "1", "2", "3"}
    assert len({item["device"] for item in seen}) > 1
    assert set(overlaps(seen).values()) == {1}
    (folder,) = folders(ray)
    given = {item["grid"]["index"]: item["devices"] for item in records(folder)}
    for item in seen:
        device = item["device"]
        assert given[item["value"]]["visible"] == device
        assert given[item["value"]]["labels"] == [f"gpu {device}"]


def test_two_points_with_half_a_gpu_share_it(ray: Project, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    engine(ray, num_gpus=0.5, num_cpus=0.1)
    set_up(ray, points(str([{"seconds": 1.5}] * 8)))
    done = ray.run(*GRID, env={"WITNESS": str(witness)})
    assert done.returncode == 0, done.stderr
    assert "8 points at a time" in done.stderr
    assert max(overlaps(witnessed(witness)).values()) == 2


def test_a_point_without_gpus_sees_none(ray: Project, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    set_up(ray, number=1)
    env = {"WITNESS": str(witness), "CUDA_VISIBLE_DEVICES": "3"}
    assert ray.run(*GRID, env=env).returncode == 0
    assert [item["device"] for item in witnessed(witness)] == [""]


def test_a_point_that_crashes_leaves_the_others_alone(ray: Project) -> None:
    kinds = ("segfault", "ok", "killed", "exit", "raise", "hang", "ok")
    engine(ray, num_cpus=1)
    set_up(ray, points(str([{"kind": kind} for kind in kinds])))
    done = ray.run(*GRID, "--timeout", "2s", "--retries", "1")
    assert done.returncode == 1, done.stderr
    (folder,) = folders(ray)
    found = by_point(folder)
    assert [found[f"point-{n}"]["state"] for n in range(len(kinds))] == [
        *("killed", "completed", "killed", "failed", "failed", "timed_out", "completed")
    ]
    assert found["point-0"]["exit"]["signal"] == "SIGSEGV"
    assert found["point-3"]["exit"]["code"] == 3
    assert [found[f"point-{n}"]["grid"]["attempt"] for n in range(7)] == [2, 1, 2, 2, 2, 1, 1]
    counts = grid_record(folder)["counts"]
    assert counts == {"completed": 2, "killed": 2, "failed": 2, "timed_out": 1, "pending": 0}


def test_a_record_is_the_same_whichever_engine_ran_the_point(ray: Project) -> None:
    ray.write("experiment.toml", 'name = "same"\n' + EXPERIMENT + ENGINE + "num_gpus = 1\n")
    ray.write("local.toml", 'name = "same"\n' + LOCAL + "devices = [0]\n")
    set_up(ray, points("[{'seed': 7}]"))
    for experiment in ("experiment.toml", "local.toml"):
        done = ray.run("--grid", "grid.py", experiment, "--cold")
        assert done.returncode == 0, done.stderr
    folder, other = (
        next(path.parent for path in grid.glob("*/metadata.json")) for grid in folders(ray)
    )
    there, here = (record.load(RunPaths(path)) for path in (folder, other))
    assert there["state"] == "completed"
    assert there.keys() == here.keys()
    assert differing(there, here) == {
        *("run_id", "argv", "grid", "devices", "lease", "times", "usage", "record_sha256")
    }
    assert there["devices"]["labels"] == here["devices"]["labels"] == ["gpu 0"]
    assert differing(there["grid"], here["grid"]) == {"id"}
    assert differing(there["lease"], here["lease"]) <= {"pid", "start_time", "guard", "tmp"}
    names = [sorted(str(p.relative_to(run)) for p in run.rglob("*")) for run in (folder, other)]
    assert names[0] == names[1]
    assert (folder / "outputs/result.txt").read_bytes() == (
        other / "outputs/result.txt"
    ).read_bytes()
    assert verify.verify(RunPaths(folder)) == []
    assert ray.run("diff", there["run_id"], here["run_id"]).returncode == 0


def differing(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    """The keys that do not say the same in both."""
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}


def test_ctrl_c_interrupts_and_a_resume_runs_what_is_left(ray: Project, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    engine(ray, num_gpus=2)
    set_up(ray, points('[{}, {"kind": "hang"}, {"kind": "hang"}, {"kind": "hang"}]'))
    work = (ray.root / "work.py").read_text()
    fixable = work.replace('kind == "hang":', 'kind == "hang" and "FIXED" not in os.environ:')
    ray.write("work.py", fixable)
    ray.commit()
    process = ray.start(*GRID)
    wait_for(lambda: len(logs(ray)) == 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    (folder,) = folders(ray)
    states = {name: item["state"] for name, item in by_point(folder).items()}
    assert states == {"point-0": "completed", "point-1": "interrupted", "point-2": "interrupted"}
    assert grid_record(folder)["state"] == "interrupted"
    assert grid_record(folder)["counts"] == {"completed": 1, "interrupted": 2, "pending": 1}
    done = ray.run("--grid", "--resume", folder.name, env={"FIXED": "1", "WITNESS": str(witness)})
    assert done.returncode == 0, done.stderr
    assert sorted(item["value"] for item in witnessed(witness)) == [1, 2, 3]
    assert grid_record(folder)["counts"] == {"completed": 4, "pending": 0}
    assert by_point(folder)["point-1"]["grid"]["attempt"] == 2
    assert folders(ray) == [folder]


def test_ctrl_c_twice_ends_at_once(ray: Project) -> None:
    set_up(ray, points('[{"kind": "hang"}]'))
    stubborn = (ray.root / "work.py").read_text()
    deaf = "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    ray.write("work.py", stubborn.replace('    print("begin"', deaf + '    print("begin"'))
    ray.commit()
    process = ray.start(*GRID)
    wait_for(lambda: logs(ray))
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=300)
    assert time.monotonic() - began < 9  # the grace is ten seconds
    assert process.returncode == 130
    (folder,) = folders(ray)
    assert [item["state"] for item in records(folder)] == ["interrupted"]


def test_kill_of_the_dispatcher_leaves_nothing_running(ray: Project) -> None:
    token = os.urandom(8).hex()
    set_up(ray, points('[{"kind": "hang"}, {"kind": "hang"}]'))
    process = ray.start(*GRID, env={"TEST_MARK": token})
    wait_for(lambda: len(logs(ray)) == 2)
    process.kill()
    process.communicate(timeout=300)
    wait_for(lambda: living(token) == [], 20)
    (folder,) = folders(ray)
    assert {item["state"] for item in records(folder)} == {"interrupted"}
    assert ray.run("list").returncode == 0
    assert grid_record(folder)["state"] == "killed"


def test_a_point_whose_worker_dies_is_interrupted_and_runs_again(ray: Project) -> None:
    token = os.urandom(8).hex()
    set_up(ray, points('[{"kind": "hang"}]'))
    process = ray.start(*GRID, env={"TEST_MARK": token})
    wait_for(lambda: logs(ray))
    (first,) = records(folders(ray)[0])
    runner = first["lease"]["pid"]
    os.kill(int(Path(f"/proc/{runner}/stat").read_text().rpartition(")")[2].split()[1]), 9)
    wait_for(lambda: len(logs(ray)) == 2)
    wait_for(lambda: runner not in living(token))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert "Ray lost its worker" in err
    made = records(folders(ray)[0])
    assert [item["grid"]["attempt"] for item in made] == [1, 2]
    assert {item["state"] for item in made} == {"interrupted"}
    assert living(token) == []


def test_fail_fast_takes_back_what_has_not_begun(ray: Project) -> None:
    engine(ray, num_cpus=4)
    set_up(ray, points('[{"kind": "raise"}, {}, {}, {}]'))
    done = ray.run(*GRID, "--fail-fast")
    assert done.returncode == 1, done.stderr
    (folder,) = folders(ray)
    counts = grid_record(folder)["counts"]
    assert (counts["failed"], counts["pending"] >= 2) == (1, True)


def test_without_its_connection_to_ray_a_grid_ends_with_true_records(ray: Project) -> None:
    token = os.urandom(8).hex()
    engine(ray, num_cpus=2)
    set_up(ray, points('[{"kind": "hang"}] * 4'))
    process = ray.start(*GRID, env={"TEST_MARK": token})
    wait_for(lambda: len(logs(ray)) == 2)
    (driver,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(driver), signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "the connection to Ray is lost" in err
    (folder,) = folders(ray)
    made = records(folder)
    assert {item["state"] for item in made} <= {"interrupted", "killed"}
    assert grid_record(folder)["counts"]["pending"] == 4 - len(made)
    wait_for(lambda: living(token) == [])


def test_points_that_no_node_can_run_wait_and_stay_pending(ray: Project) -> None:
    engine(ray, num_gpus=9)
    set_up(ray, number=2)
    process = ray.start(*GRID)
    assert process.stderr is not None
    said = ""
    while "no node of the Ray cluster has num_cpus = 1 and num_gpus = 9" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130
    (folder,) = folders(ray)
    assert grid_record(folder)["counts"] == {"pending": 2}
    assert records(folder) == []


def test_a_cluster_of_its_own_leaves_nothing_behind(
    ray: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token, home = os.urandom(8).hex(), tmp_path / "home"
    home.mkdir()
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')
    monkeypatch.setenv("HOME", str(home))
    witness, before = tmp_path / "witness", set(Path("/tmp").iterdir())
    engine(ray, num_gpus=1)
    set_up(ray, number=2)
    done = ray.run(*GRID, env={"WITNESS": str(witness), "TEST_MARK": token})
    assert done.returncode == 0, done.stderr
    assert {item["device"] for item in witnessed(witness)} <= {"0", "1"}
    assert living(token) == []
    assert {p for p in set(Path("/tmp").iterdir()) - before if "ray" in p.name} == set()
    assert not (home / ".ray").exists()
    assert ray.git("status", "--porcelain") == ""
    noise = [line for line in done.stderr.splitlines() if "ray" in line.lower()]
    assert noise == ["Ray: 2 points at a time, on 1 node"]
    engine(ray, num_gpus=3)
    done = ray.run(*GRID)
    assert done.returncode == 2, done.stderr
    assert "this machine has not num_cpus = 1 and num_gpus = 3" in done.stderr


def test_a_single_run_is_followed_as_if_it_ran_here(ray: Project) -> None:
    set_up(ray)
    engine(ray, num_gpus=1)
    done = ray.run("experiment.toml", "--set", "value=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "begin 4\n"
    assert "to stderr" in done.stderr
    made = ray.record()
    assert (made["state"], made["summary"]) == ("completed", {"doubled": 8})
    assert made["devices"]["visible"] in {"0", "1", "2", "3"}
    assert list(ray.root.glob("runs/.engram/**/run.pickle")) == []


def test_ctrl_c_ends_a_single_run(ray: Project) -> None:
    set_up(ray)
    process = ray.start("experiment.toml", "--set", "kind='hang'")
    wait_for(lambda: logs(ray))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert ray.record()["state"] == "interrupted"


def test_a_cluster_that_does_not_answer_refuses_the_grid(project: Project) -> None:
    engine(project, address="127.0.0.1:1")
    set_up(project)
    done = project.run(*GRID)
    assert done.returncode == 2
    assert "no Ray cluster answers at '127.0.0.1:1'" in done.stderr
    assert list(project.root.glob("runs/*Z-*")) == []


def test_without_ray_the_advice_is_how_to_get_it(project: Project) -> None:
    engine(project)
    set_up(project)
    bare = [sys.executable, "-S", *project.command(*GRID)[1:]]
    done = subprocess.run(bare, cwd=project.root, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install 'ray>=2.40'" in done.stderr
    assert list(project.root.glob("runs/*Z-*")) == []


def test_parts_of_several_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="1.5"):
        ray_settings.check(EngineConfig(kind="ray", num_gpus=1.5))


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    common = {"folder": str(tmp_path / "nowhere"), "environ": {}, "cwd": "/", "gpus": False}
    found = ray_node.on_node(common, [sys.executable], str(tmp_path / "0-1"))
    assert found.keys() == {"problem"}
    assert "nowhere" in found["problem"]


@pytest.mark.parametrize(
    ("node", "needs", "most"),
    [
        ({"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.1}, 4),
        ({"CPU": 64.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.1}, 20),
        ({"CPU": 64.0}, {"CPU": 1.0, "GPU": 1.0}, 0),
        ({"CPU": 3.0}, {"CPU": 0.0, "GPU": 0.0}, 3),
    ],
)
def test_as_many_runs_fit_as_the_scarcest_resource_lets(
    node: dict[str, float], needs: dict[str, float], most: int
) -> None:
    assert ray_driver.fitting(node, needs) == most
