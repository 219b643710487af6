"""Tags, notes, pins and rm on real runs."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Project
from made_runs import make_run

from engram import record
from engram.lease import Lease
from engram.paths import RootPaths, RunPaths
from engram.trash import Weight, erase


def ran(project: Project, *arguments: str) -> RunPaths:
    """Make one run and return its folder."""
    done = project.run(*(arguments or ("experiment.toml",)))
    assert done.returncode == 0, done.stderr
    return project.latest()


def listed(project: Project) -> list[str]:
    """The ids that `list` shows."""
    return [row["run_id"] for row in json.loads(project.run("list", "--json").stdout)]


def bytes_below(folder: Path) -> int:
    """The bytes of all files, as find counts them."""
    command = ["find", str(folder), "-type", "f", "-printf", "%s\n"]
    return sum(map(int, subprocess.run(command, capture_output=True, check=True).stdout.split()))


def test_tags_are_added_filtered_by_and_taken_away(project: Project) -> None:
    paths = ran(project)
    before = record.load(paths)
    assert project.run("tag", "latest", "paper", "figure-2").returncode == 0
    assert project.run("tag", "latest", "paper").returncode == 0
    assert record.load(paths)["tags"] == ["paper", "figure-2"]
    assert paths.run_id in project.run("list", "tag=figure-2").stdout
    assert project.run("tag", "latest", "--remove", "paper", "final").returncode == 0
    after = record.load(paths)
    assert after["tags"] == ["figure-2", "final"]
    assert "no run matches" in project.run("list", "tag=paper").stdout
    assert after["record_sha256"] == before["record_sha256"]
    assert project.run("verify", "latest").returncode == 0


@pytest.mark.parametrize("tag", ["", "two words", "line\nbreak"])
def test_a_tag_is_one_word(project: Project, tag: str) -> None:
    ran(project)
    done = project.run("tag", "latest", tag)
    assert done.returncode == 2
    assert "is no tag" in done.stderr
    assert record.load(project.latest())["tags"] == []


def test_a_tag_that_is_not_there_cannot_be_taken_away(project: Project) -> None:
    ran(project)
    assert project.run("tag", "latest", "paper").returncode == 0
    done = project.run("tag", "latest", "--remove", "papers")
    assert done.returncode == 2
    assert "its tags are paper" in done.stderr


def test_notes_pile_up_with_their_times(project: Project) -> None:
    paths = ran(project)
    assert project.run("note", "latest", "learning", "rate too high").returncode == 0
    assert project.run("note", paths.run_id[-6:], "see figure 3").returncode == 0
    notes = record.load(paths)["notes"]
    assert [item["text"] for item in notes] == ["learning rate too high", "see figure 3"]
    assert all(item["when"].endswith("+00:00") for item in notes)
    assert "see figure 3" in project.run("show", "latest").stdout
    assert project.run("note", "latest", " ").returncode == 2


def test_many_annotations_at_once_lose_nothing(project: Project) -> None:
    paths = ran(project)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(project.run, "tag", "latest", f"tag-{i}") for i in range(8)]
    assert {call.result().returncode for call in calls} == {0}
    assert set(record.load(paths)["tags"]) == {f"tag-{i}" for i in range(8)}


def test_rm_says_what_would_go_and_deletes_nothing(project: Project) -> None:
    paths = ran(project)
    before = sorted(paths.folder.rglob("*"))
    done = project.run("rm", "latest")
    assert done.returncode == 0
    assert paths.run_id in done.stdout
    assert "nothing was deleted: --yes" in done.stdout
    assert sorted(paths.folder.rglob("*")) == before


def test_rm_with_yes_deletes_the_run_and_the_index_follows(project: Project) -> None:
    first, second = ran(project), ran(project)
    assert listed(project) == [second.run_id, first.run_id]
    done = project.run("rm", first.run_id, "--yes")
    assert done.returncode == 0
    assert "1 run removed" in done.stdout
    assert not first.folder.exists()
    assert listed(project) == [second.run_id]
    assert list((project.root / "runs/.engram/trash").iterdir()) == []
    assert project.run("--rerun", "latest").returncode == 0


def test_rm_never_asks_even_on_a_closed_input(project: Project) -> None:
    ran(project)
    done = project.run("rm", "latest", "--yes")
    assert done.returncode == 0
    assert project.runs() == []


def test_rm_of_a_pinned_run_is_refused_until_the_pin_is_gone(project: Project) -> None:
    paths = ran(project)
    assert project.run("pin", "latest").returncode == 0
    done = project.run("rm", "latest", "--yes")
    assert done.returncode == 2
    assert "pinned" in done.stderr
    assert paths.metadata.exists()
    assert project.run("pin", "--remove", "latest").returncode == 0
    assert project.run("rm", "latest", "--yes").returncode == 0
    assert not paths.folder.exists()


def test_rm_of_a_rerun_original_names_the_rerun(project: Project) -> None:
    first = ran(project)
    second = ran(project, "--rerun", "latest")
    done = project.run("rm", first.run_id, "--yes")
    assert done.returncode == 2
    assert second.run_id in done.stderr
    assert first.metadata.exists()
    assert project.run("rm", first.run_id, second.run_id, "--yes").returncode == 0
    assert project.runs() == []


def test_rm_of_an_input_run_names_the_run_that_takes_it(project: Project) -> None:
    first = ran(project)
    table = f'[[data.inputs]]\nrun = "{first.run_id}"\n'
    project.write("experiment.toml", (project.root / "experiment.toml").read_text() + table)
    project.commit()
    second = ran(project)
    done = project.run("rm", first.run_id, "--yes")
    assert done.returncode == 2
    assert second.run_id in done.stderr
    assert "as input" in done.stderr
    assert (second.inputs.resolve()).is_dir()


def test_rm_of_one_refused_run_removes_none_of_them(project: Project) -> None:
    first, second = ran(project), ran(project)
    assert project.run("pin", second.run_id).returncode == 0
    assert project.run("rm", first.run_id, second.run_id, "--yes").returncode == 2
    assert first.metadata.exists()
    assert second.metadata.exists()


def test_rm_of_an_unknown_run_is_refused(project: Project) -> None:
    ran(project)
    assert project.run("rm", "nonesuch", "--yes").returncode == 2
    assert len(project.runs()) == 1


def test_rm_of_a_live_run_is_refused(project: Project) -> None:
    project.write(
        "work.py",
        "import time\ndef main(input_dir, output_dir, params_file, wandb_config=None,"
        " resume_from=None):\n    print('up', flush=True)\n    time.sleep(60)\n",
    )
    project.commit()
    started = project.start("experiment.toml")
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        done = project.run("rm", "latest", "--yes")
        assert done.returncode == 2
        assert "alive" in done.stderr
        assert project.latest().metadata.exists()
    finally:
        started.terminate()
        started.communicate(timeout=300)
    assert project.run("rm", "latest", "--yes").returncode == 0


def test_rm_of_a_run_whose_runner_is_still_writing_is_refused(project: Project) -> None:
    paths = ran(project)
    with Lease.acquire(paths.lease):
        assert project.run("rm", "latest", "--yes").returncode == 2
    assert project.run("rm", "latest", "--yes").returncode == 0


def test_rm_leaves_a_run_of_another_host_that_may_be_alive(project: Project) -> None:
    ran(project)
    elsewhere = {"host": "far", "machine": "f" * 32, "pid": 1, "start_time": 1, "boot_id": "b"}
    away = make_run(project.root / "runs", state="running", lease=elsewhere)
    done = project.run("rm", away.run_id, "--yes")
    assert done.returncode == 2
    assert "running on" in done.stderr
    assert away.metadata.exists()


def test_rm_never_follows_a_link_out_of_the_folder(project: Project, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "precious.csv").write_text("1,2\n")
    table = f'[[data.inputs]]\npath = "{data}"\n'
    project.write("experiment.toml", (project.root / "experiment.toml").read_text() + table)
    project.commit()
    paths = ran(project)
    assert any(path.is_symlink() for path in paths.inputs.iterdir())
    (paths.outputs / "up").symlink_to(tmp_path)
    done = project.run("rm", "latest", "--yes")
    assert done.returncode == 0
    assert not paths.folder.exists()
    assert (data / "precious.csv").read_text() == "1,2\n"


def test_rm_deletes_read_only_files_and_folders(project: Project) -> None:
    paths = ran(project)
    (paths.outputs / "deep").mkdir()
    (paths.outputs / "deep/file").write_text("x")
    (paths.outputs / "deep/file").chmod(0o400)
    (paths.outputs / "deep").chmod(0o500)
    paths.metadata.chmod(0o444)
    paths.folder.chmod(0o500)
    done = project.run("rm", "latest", "--yes")
    assert done.returncode == 0, done.stderr
    assert not paths.folder.exists()
    assert list((project.root / "runs/.engram/trash").iterdir()) == []


def test_rm_removes_a_folder_whose_record_was_never_born(project: Project) -> None:
    paths = ran(project)
    paths.metadata.unlink()
    paths.lease.touch()
    assert project.run("rm", paths.run_id, "--yes").returncode == 0
    assert not paths.folder.exists()


def test_rm_of_a_damaged_record_is_refused(project: Project) -> None:
    paths = ran(project)
    paths.metadata.write_text("{")
    done = project.run("rm", paths.run_id, "--yes")
    assert done.returncode == 2
    assert "delete the folder by hand" in done.stderr
    assert paths.metadata.exists()


def test_rm_of_a_copy_outside_every_run_root_is_refused(project: Project, tmp_path: Path) -> None:
    paths = ran(project)
    copy = tmp_path / "elsewhere" / paths.run_id
    subprocess.run(["cp", "-a", str(paths.folder), f"{tmp_path}/"], check=True)
    copy.parent.mkdir()
    (tmp_path / paths.run_id).rename(copy)
    done = project.run("rm", str(copy), "--yes")
    assert done.returncode == 2
    assert "lies in no run root" in done.stderr
    assert copy.is_dir()
    assert not (tmp_path / ".engram").exists()


def test_freed_bytes_are_those_that_have_no_other_name(tmp_path: Path) -> None:
    going = tmp_path / "going"
    going.mkdir()
    (going / "alone").write_bytes(b"a" * 100)
    (going / "shared").write_bytes(b"s" * 1000)
    (tmp_path / "kept").hardlink_to(going / "shared")
    (going / "twice").write_bytes(b"t" * 10)
    (going / "again").hardlink_to(going / "twice")
    (going / "link").symlink_to(tmp_path)
    weight = Weight(going)
    assert weight.size == 1110
    assert weight.freed == 110
    weight.merge(Weight(tmp_path / "kept"))
    assert weight.freed == 1110


def test_reported_bytes_are_those_in_the_folder(project: Project) -> None:
    paths = ran(project)
    (paths.outputs / "large.bin").write_bytes(os.urandom(7_000_000))
    expected = bytes_below(paths.folder)
    assert 7_000_000 <= expected < 7_100_000
    assert Weight(paths.folder).size == expected
    assert f"{expected / 1e6:.3g} MB would be freed" in project.run("rm", "latest").stdout


def test_erasing_a_link_spares_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    erase(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "target/file").exists()


def test_two_who_erase_the_same_folder_both_succeed(tmp_path: Path) -> None:
    for i in range(200):
        folder = tmp_path / "going" / str(i % 10)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(i)).write_text("x")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(erase, tmp_path / "going") for _ in range(4)]
    assert [call.result() for call in calls] == [None] * 4
    assert not (tmp_path / "going").exists()


def test_rm_takes_the_mark_of_an_open_run_away(project: Project) -> None:
    paths = ran(project)
    root = RootPaths(project.root / "runs")
    (root.open_runs / f"{paths.folder.parent.name}:{paths.run_id}").touch()
    assert project.run("rm", "latest", "--yes").returncode == 0
    assert list(root.open_runs.iterdir()) == []
