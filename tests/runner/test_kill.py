"""Whatever ends the runner, nothing of the run lives on and the store stays whole."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import tomllib
import uuid
from pathlib import Path

import pytest
from conftest import Project

from engram import record

FAMILY = """\
import multiprocessing, os, pathlib, subprocess, sys, time

FLAG = pathlib.Path(__file__).resolve()


def linger():
    time.sleep(600)


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    (output_dir / "value.txt").write_text("1")
    if os.path.exists(os.environ["QUICK_FLAG"]):
        return {"value": 1}
    subprocess.Popen(["sleep", "600"])
    subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; sleep 600"], start_new_session=True)
    multiprocessing.get_context("fork").Process(target=linger).start()
    print("family is up", flush=True)
    time.sleep(600)
"""


def living(token: str) -> list[int]:
    """The processes that have this token in their environment; /proc is the witness."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if token.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def wait_until_none_lives(token: str, seconds: float) -> list[int]:
    """Wait at most `seconds` for the last process with the token to go; return those left."""
    end = time.monotonic() + seconds
    while (left := living(token)) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def require_readable(project: Project) -> None:
    """Every JSON and TOML file below the run root parses."""
    for path in (project.root / "runs").rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text())


@pytest.fixture
def family(project: Project, tmp_path: Path) -> Project:
    """A project whose script runs for minutes with a child, a deaf daemon and a fork."""
    project.write("work.py", FAMILY)
    project.commit()
    return project


@pytest.mark.slow
def test_kill_9_of_the_runner_at_any_moment_leaves_no_process_and_an_intact_store(
    family: Project, tmp_path: Path
) -> None:
    flag = tmp_path / "quick"
    began = time.monotonic()
    first = family.start("experiment.toml", env={"QUICK_FLAG": str(flag)})
    assert first.stdout is not None
    assert first.stdout.readline() == "family is up\n"
    life_s = time.monotonic() - began  # on this machine, now
    first.kill()
    first.communicate()
    moments = random.Random(20261121)
    for _ in range(30):
        token = uuid.uuid4().hex
        environment = {"KILL_TOKEN": token, "QUICK_FLAG": str(flag)}
        started = family.start("experiment.toml", env=environment)
        time.sleep(moments.uniform(0.0, 1.5 * life_s))
        started.kill()
        started.communicate()
        assert wait_until_none_lives(token, 60.0) == []
        if (family.root / "runs").exists():
            require_readable(family)
    listed = json.loads(family.run("list", "--json").stdout)
    assert len(listed) == len(family.runs()) > 0
    assert {row["state"] for row in listed} == {"killed"}
    for paths in family.runs():
        assert family.run("show", paths.run_id).returncode == 0
    flag.write_text("")
    born = [paths for paths in family.runs() if paths.metadata.exists()]
    done = family.run("--rerun", born[0].run_id, env={"QUICK_FLAG": str(flag)})
    assert done.returncode == 0, done.stderr
    assert family.record()["state"] == "completed"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_to_the_runner_interrupts_the_run_and_leaves_no_process(
    family: Project, tmp_path: Path, number: int, code: int
) -> None:
    token = uuid.uuid4().hex
    started = family.start(
        "experiment.toml", env={"KILL_TOKEN": token, "QUICK_FLAG": str(tmp_path / "quick")}
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "family is up\n"
    os.kill(started.pid, number)
    started.communicate(timeout=300)
    assert started.returncode == code
    assert wait_until_none_lives(token, 60.0) == []
    assert family.record()["state"] == "interrupted"


def test_sigkill_of_the_child_is_recorded_as_killed(family: Project, tmp_path: Path) -> None:
    family.write(
        "work.py",
        FAMILY.replace("time.sleep(600)\n\n\n", "pass\n\n\n").replace(
            "    time.sleep(600)\n", "    os.kill(os.getpid(), 9)\n"
        ),
    )
    family.commit()
    token = uuid.uuid4().hex
    done = family.run(
        "experiment.toml", env={"KILL_TOKEN": token, "QUICK_FLAG": str(tmp_path / "no")}
    )
    assert done.returncode == 1
    found = record.load(family.latest())
    assert found["state"] == "killed"
    assert found["exit"]["signal"] == "SIGKILL"
    assert wait_until_none_lives(token, 60.0) == []


@pytest.mark.parametrize(
    "command", [["show", "latest"], ["none.toml"], ["experiment.toml", "--dry-run"]]
)
def test_command_of_any_kind_finds_the_dead_run(
    family: Project, tmp_path: Path, command: list[str]
) -> None:
    started = family.start("experiment.toml", env={"QUICK_FLAG": str(tmp_path / "quick")})
    assert started.stdout is not None
    assert started.stdout.readline() == "family is up\n"
    started.kill()
    started.communicate()
    family.run(*command)
    assert record.load(family.latest())["state"] == "killed"


def test_next_run_finds_the_dead_one(family: Project, tmp_path: Path) -> None:
    flag = tmp_path / "quick"
    started = family.start("experiment.toml", env={"QUICK_FLAG": str(flag)})
    assert started.stdout is not None
    assert started.stdout.readline() == "family is up\n"
    started.kill()
    started.communicate()
    dead = family.latest()
    assert record.load(dead)["state"] == "running"
    flag.write_text("")
    assert family.run("experiment.toml", env={"QUICK_FLAG": str(flag)}).returncode == 0
    assert record.load(dead)["state"] == "killed"
    assert list((family.root / "runs" / ".engram" / "open").iterdir()) == []
