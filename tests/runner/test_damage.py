"""Scripts that damage their own run, and surroundings that are half closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKOUT, Project

from engram import record
from engram.paths import RunPaths

HEADER = """\
import os, pathlib, shutil, subprocess, sys
def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    run = output_dir.parent
"""


def run_body(project: Project, *lines: str) -> subprocess.CompletedProcess[str]:
    """Commit a script of these lines and run it."""
    project.write("work.py", HEADER + "".join(f"    {line}\n" for line in lines))
    project.commit()
    return project.run("experiment.toml")


@pytest.mark.parametrize(
    "line",
    [
        "(run / 'metadata.json').unlink()",
        "(run / 'metadata.json').write_text('{}')",
        "(run / 'metadata.json').unlink(); (run / 'metadata.json').mkdir()",
        "params_file.write_text('value = 1')",
        "(run / 'experiment.toml').write_text('')",
        "os.chdir('/'); shutil.rmtree(run)",
        "os.chdir('/'); shutil.rmtree(output_dir)",
    ],
)
def test_script_that_damages_its_own_record_is_found_out_and_recorded(
    project: Project, line: str
) -> None:
    done = run_body(project, line, "return {'value': 1}")
    assert "Traceback" not in done.stderr
    found = project.record()
    assert "record_damaged" in [item["code"] for item in found["findings"]]
    assert found["state"] in ("completed", "failed")
    assert found["times"]["ended"] is not None
    assert project.latest().parameters.read_text() == "value = 21\n"
    assert [row["state"] for row in json.loads(project.run("list", "--json").stdout)] == [
        found["state"]
    ]


def test_script_that_forges_its_log_is_found_out(project: Project) -> None:
    run_body(project, "(run / 'log.out').write_text('forged')")
    assert "log_incomplete" in [item["code"] for item in project.record()["findings"]]


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_do_not_harm_the_run(
    project: Project, redirection: str
) -> None:
    command = [*project.command("experiment.toml")]
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command]
    done = subprocess.run(shell, cwd=project.root, capture_output=True, check=False)
    assert done.returncode == 0
    assert project.record()["state"] == "completed"
    assert project.latest().log_out.read_text() == "value 21\n"


@pytest.mark.parametrize("redirection", ["2>&1 | true", "2>/dev/full", ">/dev/full 2>&1"])
def test_reader_that_has_gone_does_not_harm_the_run(project: Project, redirection: str) -> None:
    shell = ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash"]
    command = [*shell, *project.command("experiment.toml")]
    done = subprocess.run(command, cwd=project.root, capture_output=True, check=False)
    assert done.returncode == 0
    assert project.record()["state"] == "completed"


def test_exception_after_closing_the_streams_is_recorded_with_its_cause(project: Project) -> None:
    done = run_body(
        project, "sys.stdout.close(); sys.stderr.close()", "raise ValueError('said nowhere')"
    )
    assert done.returncode == 1
    exception = project.record()["exit"]["exception"]
    assert (exception["type"], exception["message"]) == ("ValueError", "said nowhere")


@pytest.mark.parametrize("value", ["'\\udcff'", "10**5000", "float('nan')"])
def test_odd_summary_values_do_not_fail_the_run(project: Project, value: str) -> None:
    done = run_body(project, f"return {{'odd': {value}, 'fine': 2}}")
    assert done.returncode == 0, done.stderr
    assert project.record()["summary"]["fine"] == 2


def test_family_of_a_run_whose_runner_and_guardian_died_at_once_is_ended_by_the_next_command(
    project: Project,
) -> None:
    token = uuid.uuid4().hex
    project.write(
        "work.py",
        HEADER + "    subprocess.Popen(['setsid', 'sleep', '600'])\n"
        "    print(os.getppid(), flush=True)\n    import time; time.sleep(600)\n",
    )
    project.commit()
    started = project.start("experiment.toml", env={"DAMAGE_TOKEN": token})
    assert started.stdout is not None
    guardian = int(started.stdout.readline())
    os.kill(started.pid, signal.SIGSTOP)
    for pid in (guardian, started.pid):
        os.kill(pid, signal.SIGKILL)
    started.communicate()
    assert json.loads(project.run("list", "--json").stdout)[0]["state"] == "killed"
    end = time.monotonic() + 60.0
    while (left := carrying(token)) and time.monotonic() < end:
        time.sleep(0.02)
    assert left == []


def carrying(token: str) -> list[str]:
    """The processes with a token in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_list_to_a_full_device_says_so(project: Project) -> None:
    project.run("experiment.toml")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            project.command("list"),
            cwd=project.root,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_record_of_the_damaged_run_verifies_apart_from_what_is_lost(project: Project) -> None:
    run_body(project, "params_file.write_text('value = 1')", "return {'value': 1}")
    assert project.run("verify", "latest").returncode == 0
    assert record.load(project.latest())["summary"] == {"value": 1}


HASHED = HEADER + (
    "    (output_dir / 'large').write_bytes(bytes(300_000_000))\n"
    "    print('written', flush=True)\n"
    "    return {'value': 1}\n"
)


@pytest.mark.parametrize("count", [1, 5])
def test_signals_while_outputs_are_hashed_leave_an_ended_record_that_knows_the_script(
    project: Project, count: int
) -> None:
    project.write("work.py", HASHED)
    project.commit()
    started = project.start("experiment.toml")
    paths = wait_for_run(project)
    until(lambda: not paths.reserve.exists() and paths.log_out.exists())
    for _ in range(count):
        started.send_signal(signal.SIGTERM)
    started.communicate(timeout=300)
    found = record.load(paths)
    if found["state"] == "completed":
        pytest.skip("the machine hashed faster than it could be interrupted")
    assert started.returncode == 143
    assert found["state"] == "interrupted"
    assert found["summary"] == {"value": 1}
    assert found["exit"]["code"] == 0
    assert list(paths.folder.glob(".*.tmp")) == []


def test_interrupt_before_the_record_is_born_leaves_no_folder(project: Project) -> None:
    for wait_s in (0.02, 0.04, 0.06, 0.08, 0.10):
        started = project.start("experiment.toml")
        time.sleep(wait_s)
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=300)
    for paths in project.runs():
        assert paths.metadata.exists()
        assert record.load(paths)["state"] in record.ENDED
    marks = project.root / "runs" / ".engram" / "open"
    assert not marks.exists() or list(marks.iterdir()) == []


def test_run_that_fills_the_disk_is_recorded_truthfully(project: Project, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        project.write(
            "work.py",
            HEADER
            + "    with open(output_dir / 'all', 'wb', buffering=0) as stream:\n"
            + "        while True:\n            stream.write(bytes(10_000))\n",
        )
        project.commit()
        done = project.run("experiment.toml", "--config", f'output_dir="{disk}/runs"')
        assert done.returncode == 1, done.stderr
        folder = next((disk / "runs" / "project").iterdir())
        found = record.load(RunPaths(folder))
        assert found["state"] == "failed"
        assert "No space left" in found["exit"]["cause"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("folder", ["new\nline", "tab\there", "back\\slash"])
def test_repository_folder_of_any_name_gives_a_usable_experiment_name(
    project: Project, folder: str
) -> None:
    moved = project.root.with_name(folder)
    project.root.rename(moved)
    project.root = moved
    done = project.run("experiment.toml")
    assert done.returncode == 0, done.stderr


def test_run_root_that_is_a_broken_link_is_refused_clearly(project: Project) -> None:
    (project.root / "runs").symlink_to("/nonexistent/disk")
    done = project.run("experiment.toml", "--config", 'log_file="log.jsonl"')
    assert done.returncode == 2
    assert "/nonexistent/disk" in done.stderr
    assert "Traceback" not in done.stderr


def test_log_file_that_cannot_be_written_is_refused_before_the_run(project: Project) -> None:
    (project.root / "folder").mkdir()
    done = project.run("experiment.toml", "--config", 'log_file="folder"')
    assert done.returncode == 2
    assert "log_file" in done.stderr
    assert not (project.root / "runs").exists()


def test_engram_is_a_module_too(project: Project) -> None:
    command = [sys.executable, "-m", "engram", "--version"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith("engram ")


def wait_for_run(project: Project) -> RunPaths:
    """The first run folder, once it has its record."""
    until(lambda: bool(project.runs()) and project.latest().metadata.exists())
    return project.latest()


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Poll until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
