"""Whatever ends a point or the grid: the others go on, records are true, nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from conftest import Project
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

HANGING = points('[{"kind": "hang"}, {"kind": "hang"}, {}, {}]')
TWO = "\nSLOTS_PER_DEVICE = 2\n"


def left_behind(project: Project) -> list[str]:
    """Worktrees, half-made snapshots and marks of open runs that nobody should find."""
    cache = project.root / ".git/engram"
    found = [str(path) for path in cache.glob("snapshots/*.new")]
    found += [str(path) for path in cache.glob("packs/*")]
    found += [str(path) for path in project.root.glob("runs/.engram/open/*")]
    trees = project.git("worktree", "list").splitlines()
    return found + trees[1:]


def logs(project: Project) -> list[Path]:
    return [p for p in project.root.glob("runs/*/*/log.out") if p.stat().st_size]


def test_a_point_that_crashes_leaves_the_others_alone(project: Project) -> None:
    kinds = ("segfault", "ok", "killed", "exit", "ok", "raise", "hang", "ok")
    set_up(project, points(str([{"kind": kind} for kind in kinds])), extra=TWO)
    done = project.run("--grid", "grid.py", "experiment.toml", "--timeout", "3s")
    assert done.returncode == 1, done.stderr
    (folder,) = folders(project)
    states = [by_point(folder)[f"point-{n}"]["state"] for n in range(len(kinds))]
    assert states == [
        *("killed", "completed", "killed", "failed", "completed", "failed"),
        *("timed_out", "completed"),
    ]
    ends = [by_point(folder)[f"point-{n}"]["exit"] for n in range(len(kinds))]
    assert ends[0]["signal"] == "SIGSEGV"
    assert ends[2]["signal"] == "SIGKILL"
    assert ends[3]["code"] == 3
    assert ends[5]["exception"]["message"] == "no luck with 5"
    assert grid_record(folder)["state"] == "failed"
    assert grid_record(folder)["counts"] == {
        **{"killed": 2, "failed": 2, "completed": 3, "timed_out": 1},
        "pending": 0,
    }
    assert left_behind(project) == []


def test_retries_are_new_runs_and_are_counted(project: Project) -> None:
    script = (project.root / "work.py").read_text()
    set_up(project, points("[{}, {}]"))
    flaky = (
        "def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):\n"
        "    import os, pathlib\n"
        '    flag = pathlib.Path(os.environ["FLAGS"]) / params_file.parent.name[21:28]\n'
        "    if not flag.exists():\n"
        "        flag.touch()\n"
        "        os.abort()\n"
        '    return {"ok": 1}\n'
    )
    assert script != flaky
    project.write("work.py", flaky)
    project.commit()
    (project.root / "runs").mkdir()
    flags = project.root / "runs"
    done = project.run(
        "--grid", "grid.py", "experiment.toml", "--retries", "1", env={"FLAGS": str(flags)}
    )
    assert done.returncode == 0, done.stderr
    (folder,) = folders(project)
    made = sorted(
        (item["grid"]["point"], item["grid"]["attempt"], item["state"]) for item in records(folder)
    )
    assert made == [
        ("point-0", 1, "killed"),
        ("point-0", 2, "completed"),
        ("point-1", 1, "killed"),
        ("point-1", 2, "completed"),
    ]
    assert grid_record(folder)["state"] == "completed"


def test_fail_fast_starts_nothing_more(project: Project) -> None:
    set_up(project, points('[{"kind": "raise"}, {}, {}]'), extra="\nSLOTS_PER_DEVICE = 1\n")
    done = project.run("--grid", "grid.py", "experiment.toml", "--fail-fast")
    assert done.returncode == 1
    (folder,) = folders(project)
    assert [item["state"] for item in records(folder)] == ["failed"]
    assert grid_record(folder)["counts"] == {"failed": 1, "pending": 2}


def test_ctrl_c_ends_what_runs_and_says_so(project: Project) -> None:
    set_up(project, HANGING, extra=TWO)
    process = project.start("--grid", "grid.py", "experiment.toml")
    wait_for(lambda: len(logs(project)) == 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    (folder,) = folders(project)
    assert [item["state"] for item in records(folder)] == ["interrupted"] * 2
    assert grid_record(folder)["state"] == "interrupted"
    assert "--grid --resume" in err
    assert left_behind(project) == []


def test_ctrl_c_twice_ends_at_once(project: Project) -> None:
    set_up(project, points('[{"kind": "hang"}]'))
    stubborn = (
        (project.root / "work.py")
        .read_text()
        .replace(
            '    print("begin"',
            '    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    print("begin"',
        )
    )
    project.write("work.py", stubborn)
    project.commit()
    process = project.start("--grid", "grid.py", "experiment.toml")
    wait_for(lambda: logs(project))
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=300)
    assert time.monotonic() - began < 9  # the grace is ten seconds
    assert process.returncode == 130
    (folder,) = folders(project)
    assert [item["state"] for item in records(folder)] == ["interrupted"]


def test_sigterm_ends_with_its_own_code(project: Project) -> None:
    set_up(project, HANGING, extra=TWO)
    process = project.start("--grid", "grid.py", "experiment.toml")
    wait_for(lambda: len(logs(project)) == 2)
    process.terminate()
    process.communicate(timeout=300)
    assert process.returncode == 143


def test_kill_of_the_dispatcher_leaves_nothing_running(project: Project) -> None:
    token = os.urandom(8).hex()
    device = f"GPU-{os.urandom(4).hex()}"
    set_up(project, HANGING, extra=f"\nDEVICES = ['{device}']\nSLOTS_PER_DEVICE = 2\n")
    process = project.start("--grid", "grid.py", "experiment.toml", env={"TEST_MARK": token})
    wait_for(lambda: len(logs(project)) == 2)
    process.kill()
    process.communicate(timeout=300)
    wait_for(lambda: living(token) == [], 20)
    assert device not in Path("/proc/net/unix").read_text()  # the leases are free
    assert project.run("list").returncode == 0
    (folder,) = folders(project)
    assert {item["state"] for item in records(folder)} <= {"interrupted", "killed"}
    assert grid_record(folder)["state"] == "killed"
    assert left_behind(project) == []


def test_resume_runs_only_what_is_not_completed(project: Project, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    set_up(project, points('[{}, {"kind": "raise"}, {}]'))
    work = (project.root / "work.py").read_text()
    fixable = work.replace(
        'if kind == "raise":', 'if kind == "raise" and "FIXED" not in os.environ:'
    )
    project.write("work.py", fixable)
    project.commit()
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 1
    (folder,) = folders(project)
    before = {item["run_id"] for item in records(folder)}
    project.write("work.py", "")  # what is resumed is the recorded commit
    done = project.run(
        "--grid", "--resume", folder.name, env={"FIXED": "1", "WITNESS": str(witness)}
    )
    assert done.returncode == 0, done.stderr
    assert [item["value"] for item in witnessed(witness)] == [1]
    (new,) = [item for item in records(folder) if item["run_id"] not in before]
    assert (new["grid"]["point"], new["grid"]["attempt"]) == ("point-1", 2)
    made = grid_record(folder)
    assert (made["state"], made["counts"]) == ("completed", {"completed": 3, "pending": 0})
    assert len(made["sessions"]) == 2
    assert folders(project) == [folder]


def test_rerun_repeats_and_compares_every_point(project: Project) -> None:
    set_up(project, number=3)
    project.run("--grid", "grid.py", "experiment.toml")
    (first,) = folders(project)
    done = project.run("--grid", "--rerun", first.name)
    assert done.returncode == 0, done.stderr
    assert "3 identical" in done.stderr
    second = folders(project)[-1]
    assert second != first
    assert {item["comparison"]["verdict"] for item in records(second)} == {"identical"}
    originals = {item["run_id"] for item in records(first)}
    assert {item["parents"]["rerun_of"]["run"] for item in records(second)} == originals


def test_rerun_says_when_another_result_came_out(project: Project) -> None:
    set_up(project, number=2)
    work = (project.root / "work.py").read_text()
    project.write("work.py", work.replace('["value"] * 2))', '["value"] * time.time()))'))
    project.commit()
    project.run("--grid", "grid.py", "experiment.toml")
    done = project.run("--grid", "--rerun", "latest")
    assert done.returncode == 4, done.stderr
    assert "1 different" in done.stderr


def test_a_live_grid_is_not_resumed(project: Project) -> None:
    set_up(project, HANGING, extra=TWO)
    process = project.start("--grid", "grid.py", "experiment.toml")
    try:
        wait_for(lambda: len(logs(project)) == 2)
        done = project.run("--grid", "--resume", "latest")
        assert done.returncode == 2
        assert "running" in done.stderr
    finally:
        process.terminate()
        process.communicate(timeout=300)
