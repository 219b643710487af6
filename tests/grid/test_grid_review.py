"""What must hold of a grid when its surroundings fail: disk, terminal, a signal at a bad moment."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Project
from grids import by_point, folders, grid_record, points, records, set_up, wait_for
from test_grid_endings import left_behind, living

from engram import lease
from engram.grid.interrupts import Interrupts
from engram.packing import Packing
from engram.paths import GridPaths
from engram.repository import Repository

NAMESPACE = ["unshare", "--map-root-user", "--mount"]
FULL = """\
set -u
mount -t tmpfs -o size={size} tmpfs runs
{grid} --grid grid.py experiment.toml 2> ../first; echo $? > ../codes
mount -o remount,size=100m runs
{grid} --grid --resume latest 2> ../second; echo $? >> ../codes
cp -r runs/*-grid-* ../kept
"""


def namespaces_work() -> bool:
    try:
        return (
            subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not namespaces_work(), reason="needs a mount namespace of its own")
@pytest.mark.parametrize("size", ["400k", "1500k"])  # one that no reserve fits on, one that has it
def test_a_full_disk_ends_the_grid_once_and_a_resume_runs_what_is_left(
    project: Project, size: str
) -> None:
    set_up(project, points(str([{}] * 40)), extra="\nSLOTS_PER_DEVICE = 2\n")
    experiment = (project.root / "experiment.toml").read_text()
    project.write("experiment.toml", experiment.replace('log_file = "runs/log.jsonl"\n', ""))
    project.commit()
    (project.root / "runs").mkdir()
    call = " ".join(project.command())
    command = [*NAMESPACE, "sh", "-c", FULL.format(size=size, grid=call)]
    subprocess.run(command, cwd=project.root, check=True, stdin=subprocess.DEVNULL, timeout=300)
    folder = project.root.parent
    assert (folder / "codes").read_text().split() == ["1", "0"]
    first = (folder / "first").read_text()
    assert "the disk is full" in first
    assert "nothing more starts" in first
    assert first.count("failed on cpu") <= 2  # those that ran; the others were not tried
    assert "--grid --resume" in first
    found = by_point(folder / "kept")
    assert len(found) == 40
    assert {item["state"] for item in found.values()} == {"completed"}
    assert grid_record(folder / "kept")["state"] == "completed"


def test_a_table_that_cannot_be_written_is_an_error_at_the_end_of_a_whole_grid(
    project: Project,
) -> None:
    set_up(project, number=2)
    project.write(
        "work.py",
        "import os, pathlib\n\n\n"
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        '    table = output_dir.parent.parent / "points.csv"\n'
        "    if table.is_file():\n"
        "        table.unlink(missing_ok=True)\n"
        "        table.mkdir(exist_ok=True)\n",
    )
    project.commit()
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 1
    assert "points.csv" in done.stderr
    (folder,) = folders(project)
    assert grid_record(folder)["state"] == "completed"
    assert grid_record(folder)["counts"] == {"completed": 2, "pending": 0}
    assert left_behind(project) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_before_the_grid_exists_leaves_nothing(
    project: Project, tmp_path: Path, number: signal.Signals
) -> None:
    """While PRELOAD is imported: all is prepared, and nothing has a folder yet."""
    set_up(project, number=1, extra='\nPRELOAD = ["slow"]\n')
    begun = tmp_path / "begun"
    project.write("slow.py", f"import time\nopen({str(begun)!r}, 'w')\ntime.sleep(60)\n")
    project.commit()
    (tmp_path / "tmp").mkdir()
    token = os.urandom(8).hex()
    environ = {"TMPDIR": str(tmp_path / "tmp"), "TEST_MARK": token}
    process = project.start("--grid", "grid.py", "experiment.toml", env=environ)
    wait_for(begun.exists)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == (130 if number == signal.SIGINT else 143), err
    wait_for(lambda: living(token) == [], 10)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert folders(project) == []
    assert left_behind(project) == []


def test_a_signal_at_any_moment_leaves_a_true_record_and_a_grid_that_goes_on(
    project: Project,
) -> None:
    set_up(project, points(str([{"seconds": 0.05}] * 4)))
    codes = set()
    for step in range(10):
        before = folders(project)
        process = project.start("--grid", "grid.py", "experiment.toml")
        wait_for(
            lambda process=process, before=before: (
                len(list(project.root.glob("runs/*-grid-*"))) > len(before)
                or process.poll() is not None
            )
        )
        time.sleep(step * 0.04)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=300)
        codes.add(process.returncode)
        assert process.returncode in (0, 143), err
        made = grid_record(folders(project)[-1])
        assert made["state"] == ("interrupted" if process.returncode else "completed")
        assert left_behind(project) == []
    assert 143 in codes
    stopped = [f for f in folders(project) if grid_record(f)["state"] == "interrupted"]
    done = project.run("--grid", "--resume", stopped[0].name)
    assert done.returncode == 0, done.stderr
    assert {item["state"] for item in by_point(stopped[0]).values()} == {"completed"}


def test_held_signals_interrupt_nothing_and_wake_the_loop() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGHUP) is before
        interrupts.hold()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.pressed == [signal.SIGHUP, signal.SIGINT]
        assert select.select(interrupts.wake, [], [], 60)[0] == interrupts.wake
        interrupts.clear()
        assert select.select(interrupts.wake, [], [], 0)[0] == []
        assert interrupts.pressed == [signal.SIGHUP, signal.SIGINT]
    assert signal.getsignal(signal.SIGHUP) is before


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_grid_without_standard_streams_completes(project: Project, closed: str) -> None:
    set_up(project, number=2)
    call = " ".join(project.command("--grid", "grid.py", "experiment.toml"))
    done = subprocess.run(
        ["sh", "-c", f"{call} {closed}"], cwd=project.root, capture_output=True, check=False
    )
    (folder,) = folders(project)
    assert done.returncode == 0, done.stderr
    assert grid_record(folder)["state"] == "completed"
    assert [item["state"] for item in records(folder)] == ["completed"] * 2
    assert (GridPaths(folder)).slot_log.read_bytes() == b""


def test_a_runner_that_ended_is_dead_though_nobody_collected_it(tmp_path: Path) -> None:
    """As below a first process of a container that is no init."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    identity = {
        **lease.process_identity(),
        "pid": ended.pid,
        "start_time": lease.start_time(ended.pid),
    }
    assert lease.standing(tmp_path / "lease", identity) == "alive"
    state = Path(f"/proc/{ended.pid}/stat")
    wait_for(lambda: state.read_text().rsplit(")", 1)[1].split()[0] == "Z", 20)
    assert lease.standing(tmp_path / "lease", identity) == "dead"
    ended.wait()


def test_a_pack_that_nobody_came_to_need_is_removed(project: Project) -> None:
    repository = Repository(project.root)
    packing = Packing(repository, project.git("rev-parse", "HEAD"))
    wait_for(packing.done)
    assert packing.path.exists()
    packing.abandon()
    assert list(packing.path.parent.iterdir()) == []
