"""Scripts that damage their own run, and surroundings that are half closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from conftest import Project

from engram import record

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
    end = time.monotonic() + 2.0
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
