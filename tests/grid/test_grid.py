"""A grid through the real command line: every point a full run, every slot busy."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
from pathlib import Path

from conftest import Project
from grids import (
    by_point,
    folders,
    grid_record,
    points,
    records,
    set_up,
    wait_for,
    witnessed,
)

from engram import verify
from engram.paths import RunPaths


def test_every_point_is_a_full_run_with_its_own_parameters(project: Project) -> None:
    set_up(project)
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 0, done.stderr
    (folder,) = folders(project)
    found = by_point(folder)
    assert {name: item["summary"] for name, item in found.items()} == {
        f"value-{n}": {"doubled": 2 * n} for n in range(3)
    }
    for item in found.values():
        run = RunPaths(folder / item["run_id"])
        assert item["state"] == "completed"
        assert item["grid"]["id"] == folder.name
        assert verify.verify(run) == []
        assert (run.outputs / "result.txt").read_text() == str(item["summary"]["doubled"])


def test_the_grid_folder_holds_what_the_points_were_made_of(project: Project) -> None:
    set_up(project)
    project.run("--grid", "grid.py", "experiment.toml")
    (folder,) = folders(project)
    made = grid_record(folder)
    assert made["state"] == "completed"
    assert made["counts"] == {"completed": 3, "pending": 0}
    assert made["varying"] == ["value"]
    own = (project.root / "grid.py").read_bytes()
    assert (folder / "grid.py").read_bytes() == own
    assert made["source"]["sha256"] == hashlib.sha256(own).hexdigest()
    assert (folder / "parameters.toml").read_bytes() == (
        project.root / "parameters.toml"
    ).read_bytes()
    assert "value-2" in (folder / "README.md").read_text()
    with (folder / "points.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["value-0", "value-1", "value-2"]
    assert [row["summary.doubled"] for row in rows] == ["0", "2", "4"]
    assert [row["param.value"] for row in rows] == ["0", "1", "2"]
    assert {row["state"] for row in rows} == {"completed"}


def test_a_free_slot_takes_the_next_point_at_once(project: Project, tmp_path: Path) -> None:
    """Durations 12, 0.1, 3, 0.1, 3 on two devices, four times as fast; fake devices, no GPU."""
    seconds = (3.0, 0.025, 0.75, 0.025, 0.75)
    set_up(project, points(str([{"seconds": s} for s in seconds])), extra="\nDEVICES = [0, 1]\n")
    witness = tmp_path / "witness"
    done = project.run("--grid", "grid.py", "experiment.toml", env={"WITNESS": str(witness)})
    assert done.returncode == 0, done.stderr
    seen = witnessed(witness)
    per_device = {d: [s for s in seen if s["device"] == d] for d in ("0", "1")}
    for items in per_device.values():
        ordered = sorted(items, key=lambda item: item["began"])
        assert all(a["ended"] <= b["began"] for a, b in itertools.pairwise(ordered))
    long, others = sorted(per_device.values(), key=len)
    assert [item["value"] for item in long] == [0]
    assert [item["value"] for item in others] == [1, 2, 3, 4]
    idle = [b["began"] - a["ended"] for a, b in itertools.pairwise(others)]
    assert max(idle) < 1.0  # one that waited for the long point would be idle for two seconds
    assert others[-1]["ended"] < long[0]["ended"]


def test_two_runners_never_share_a_device(project: Project, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    device = f"\nDEVICES = ['GPU-{os.urandom(4).hex()}']\n"
    set_up(project, points(str([{"seconds": 0.1}] * 4)), extra=device)
    both = [
        project.start("--grid", "grid.py", "experiment.toml", env={"WITNESS": str(witness)})
        for _ in range(2)
    ]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    seen = sorted(witnessed(witness), key=lambda item: item["began"])
    assert len(seen) == 8
    assert all(a["ended"] <= b["began"] for a, b in itertools.pairwise(seen))


def test_a_points_logs_are_readable_while_it_runs(project: Project) -> None:
    set_up(project, points('[{"kind": "hang"}]'))
    process = project.start("--grid", "grid.py", "experiment.toml")
    try:
        wait_for(lambda: [p for p in project.root.glob("runs/*/*/log.out") if p.stat().st_size])
        (log,) = project.root.glob("runs/*/*/log.out")
        assert log.read_text() == "begin 0\n"
        wait_for(lambda: (log.parent / "log.err").read_text() == "to stderr\n")
    finally:
        process.terminate()
        process.communicate(timeout=300)


def test_edits_during_a_grid_change_nothing(project: Project) -> None:
    set_up(project, points(str([{"seconds": 0.5}] * 3)), extra="\nSLOTS_PER_DEVICE = 1\n")
    process = project.start("--grid", "grid.py", "experiment.toml")
    wait_for(lambda: list(project.root.glob("runs/*/*/log.out")))
    project.write("work.py", "def main(**_):\n    raise SystemExit('edited')\n")
    project.write("parameters.toml", "value = 'edited'\n")
    project.write("grid.py", "")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    (folder,) = folders(project)
    made = records(folder)
    assert [item["state"] for item in made] == ["completed"] * 3
    assert len({item["code"]["snapshot_commit"] for item in made}) == 1


def test_no_secret_of_the_shell_lies_in_the_grid_folder(project: Project) -> None:
    set_up(project)
    secret = f"s3cret-{os.urandom(8).hex()}"
    names = ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN", "SOMETHING")
    done = project.run("--grid", "grid.py", "experiment.toml", env=dict.fromkeys(names, secret))
    assert done.returncode == 0, done.stderr
    (folder,) = folders(project)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_names_from_another_folder_and_a_relative_output_dir_work(project: Project) -> None:
    set_up(project, number=2)
    project.write("sub/folder/.keep", "")
    experiment = (project.root / "experiment.toml").read_text()
    project.write("sub/experiment.toml", experiment.replace('"runs"', '"./results"'))
    project.write(".gitignore", "runs\nresults\n__pycache__\n")
    project.commit()
    done = project.run(
        "--grid", "../../grid.py", "../experiment.toml", cwd=project.root / "sub/folder"
    )
    assert done.returncode == 0, done.stderr
    assert len(list(project.root.glob("sub/results/*/*/metadata.json"))) == 2


def test_an_older_grid_is_never_touched(project: Project) -> None:
    set_up(project, points('[{}, {"kind": "raise"}]'))
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 1
    (old,) = folders(project)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in old.rglob("*") if p.is_file()}
    project.write("grid.py", points("[{}, {}]"))
    project.commit()
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 0
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in old.rglob("*") if p.is_file()}
    assert after == before


def test_a_table_in_the_experiment_serves_plain_grids(project: Project) -> None:
    set_up(project)
    with (project.root / "experiment.toml").open("a") as stream:
        stream.write("\n[grid.product]\nvalue = [3, 5]\nseconds = [0.0, 0.01]\n")
    project.commit()
    done = project.run("--grid", "experiment.toml")
    assert done.returncode == 0, done.stderr
    (folder,) = folders(project)
    assert sorted(item["summary"]["doubled"] for item in records(folder)) == [6, 6, 10, 10]
    assert not (folder / "grid.py").exists()


def test_points_without_a_seed_get_one_that_a_resume_gives_again(project: Project) -> None:
    set_up(project, points('[{}, {"kind": "raise"}]'))
    project.run("--grid", "grid.py", "experiment.toml")
    (folder,) = folders(project)
    first = by_point(folder)["point-1"]
    project.run("--grid", "--resume", "latest")
    again = by_point(folder)["point-1"]
    assert again["run_id"] != first["run_id"]
    assert again["seed"] == first["seed"] != by_point(folder)["point-0"]["seed"]


def test_a_point_can_be_repeated_by_itself(project: Project) -> None:
    set_up(project, number=2)
    project.run("--grid", "grid.py", "experiment.toml")
    (folder,) = folders(project)
    chosen = by_point(folder)["value-1"]["run_id"]
    done = project.run("--rerun", chosen)
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stderr


def test_the_plan_creates_nothing(project: Project) -> None:
    set_up(project)
    done = project.run("--grid", "grid.py", "experiment.toml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == ["value-0", "value-1", "value-2"]
    assert not (project.root / "runs").exists()


def test_a_refused_grid_leaves_nothing(project: Project) -> None:
    set_up(project, "def configurations(base):\n    yield base, 'a'\n    yield base, 'A'\n")
    done = project.run("--grid", "grid.py", "experiment.toml")
    assert done.returncode == 2
    assert "'a'" in done.stderr
    assert "'A'" in done.stderr
    assert not (project.root / "runs").exists()
    (project.root / "parameters.toml").write_text("value = 2\n")
    project.write("work.py", "def main(**_):\n    pass\n")
    assert project.run("--grid", "grid.py", "experiment.toml").returncode == 3
    assert not (project.root / "runs").exists()


def test_runs_of_several_devices_see_them_all(project: Project, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    constants = "\nDEVICES = [0, 1, 2, 3]\nDEVICES_PER_RUN = 2\n"
    set_up(project, points(str([{"seconds": 0.2}] * 4)), extra=constants)
    done = project.run("--grid", "grid.py", "experiment.toml", env={"WITNESS": str(witness)})
    assert done.returncode == 0, done.stderr
    assert {item["device"] for item in witnessed(witness)} == {"0,1", "2,3"}
    (folder,) = folders(project)
    assert json.loads((folder / "grid.json").read_text())["slots"] == 2


def test_a_single_run_waits_for_the_devices_that_it_names(project: Project, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    device = f"GPU-{os.urandom(4).hex()}"
    set_up(project)
    with (project.root / "experiment.toml").open("a") as stream:
        stream.write(f'\n[engine]\ndevices = ["{device}"]\n')
    project.commit()
    call = ("experiment.toml", "--set", "seconds=0.5")
    both = [project.start(*call, env={"WITNESS": str(witness)}) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    first, second = sorted(witnessed(witness), key=lambda item: item["began"])
    assert first["ended"] <= second["began"]
    assert first["device"] == second["device"] == device
    assert any("waiting for" in text for text in said)
    assert project.record()["devices"]["visible"] == device


def test_a_key_that_the_parameters_lack_is_warned_of(project: Project) -> None:
    set_up(project, points('[{"second": 0.0}, {"second": 1.0}]'))
    done = project.run("--grid", "grid.py", "experiment.toml", "--dry-run")
    assert done.returncode == 0
    assert "no 'second'" in done.stderr
    assert "'seconds'" in done.stderr


def test_a_completed_grid_has_nothing_left_to_resume(project: Project) -> None:
    set_up(project, number=2)
    project.run("--grid", "grid.py", "experiment.toml")
    done = project.run("--grid", "--resume", "latest")
    assert done.returncode == 0
    assert "nothing is left to run" in done.stderr
    (folder,) = folders(project)
    assert len(grid_record(folder)["sessions"]) == 1
