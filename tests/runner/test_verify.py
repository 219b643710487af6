"""verify reads every byte that the record vouches for, and names the file that was altered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from made_runs import make_hashed_run, make_run

from engram import errors, record
from engram.paths import CachePaths, RunPaths
from engram.verify import Difference, verify, verify_command


@pytest.fixture
def paths(tmp_path):
    return make_hashed_run(tmp_path / "repo" / "runs")


def found(paths):
    return {(difference.kind, difference.path) for difference in verify(paths)}


def test_an_untouched_run_has_no_difference(paths):
    assert verify(paths) == []


def test_annotations_are_no_difference(paths):
    record.annotate(paths, tags=["a"], note="n", pinned=True, rerun={"run": "r", "verdict": "v"})

    assert verify(paths) == []


def test_a_moved_copy_still_holds(paths, tmp_path):
    shutil.copytree(paths.folder, tmp_path / "copy", symlinks=True)

    assert verify(RunPaths(tmp_path / "copy")) == []


FILES = [
    "parameters.toml",
    "experiment.toml",
    "log.out",
    "log.err",
    "outputs/a.txt",
    "outputs/deep/b.bin",
    "inputs/copied.txt",
    "provenance/environment.json",
    "provenance/inputs.json",
    "provenance/outputs.json",
    "provenance/uv.lock",
    "provenance/code.patch",
    "provenance/source.pack",
]


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_named_even_with_its_size_and_times_kept(paths, name):
    path = paths.folder / name
    before = path.stat()
    data = path.read_bytes()
    # A space for a space's neighbor: same length, and JSON stays JSON.
    changed = (
        data.replace(b"  ", b" \n", 1)
        if name.endswith(".json") and b"  " in data
        else b"Z" + data[1:]
    )
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert path.stat().st_size == before.st_size
    assert ("altered", name) in found(paths) or ("unreadable", name) in found(paths)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(paths, name):
    (paths.folder / name).unlink()

    assert ("missing", name) in found(paths)


def test_the_hashes_shown_are_those_of_sha256sum(paths):
    path = paths.outputs / "a.txt"
    before = subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    path.write_text("other\n")
    after = subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]

    assert verify(paths) == [Difference("outputs/a.txt", "altered", before, after)]


def test_an_extra_output_is_named(paths):
    (paths.outputs / "deep" / "new\n.txt").write_text("new")

    assert found(paths) == {("extra", "outputs/deep/new\n.txt")}
    assert str(verify(paths)[0]) == "extra: outputs/deep/new\\n.txt"


def test_a_link_among_the_outputs_turned_elsewhere_is_named(paths):
    (paths.outputs / "link").unlink()
    (paths.outputs / "link").symlink_to("deep/b.bin")

    assert found(paths) == {("altered", "outputs/link")}


def test_a_lock_file_or_patch_that_was_not_there_is_extra(tmp_path):
    paths = make_run(tmp_path / "runs")
    paths.lock_file.write_text("")
    paths.patch.write_text("")

    assert found(paths) == {("extra", "provenance/uv.lock"), ("extra", "provenance/code.patch")}


def test_a_linked_input_is_followed_to_its_source(paths):
    source = (paths.inputs / "data").resolve()
    (source / "x.csv").write_text("9,9\n")
    (source / "z.csv").write_text("")
    (source / "y.csv").unlink()

    assert found(paths) == {
        ("altered", "inputs/data/x.csv"),
        ("extra", "inputs/data/z.csv"),
        ("missing", "inputs/data/y.csv"),
    }
    shutil.rmtree(source)
    assert found(paths) == {("missing", "inputs/data")}


def test_a_loop_put_into_an_input_does_not_hang(paths):
    source = (paths.inputs / "data").resolve()
    (source / "loop").symlink_to(source)
    (source / "broken").symlink_to("nowhere")

    assert found(paths) == set()


@pytest.mark.parametrize(
    "change",
    [
        {"summary": {"accuracy": 0.99}},
        {"state": "failed"},
        {"findings": [{"code": "x", "severity": "note", "message": "m", "evidence": None}]},
        {"record_sha256": "0" * 64},
        {"added": 1},
    ],
)
def test_an_edited_record_is_named(paths, change):
    made = json.loads(paths.metadata.read_bytes())
    paths.metadata.write_text(json.dumps({**made, **change}))

    assert found(paths) == {("altered", "metadata.json")}


def test_reformatting_the_record_is_no_difference(paths):
    made = json.loads(paths.metadata.read_bytes())
    paths.metadata.write_text(json.dumps(made, sort_keys=True))

    assert verify(paths) == []


def test_no_cache_of_hashes_is_asked(paths, monkeypatch):
    from engram import hash_cache

    cache = CachePaths(paths.folder.parents[2] / ".git" / "engram")
    assert not cache.hashes.exists()

    def refuse(*_args, **_kwargs):
        pytest.fail("the cache was used")

    monkeypatch.setattr(hash_cache.HashCache, "__init__", refuse)
    assert verify(paths) == []
    assert not cache.hashes.exists()


def test_the_command_says_what_and_gives_the_exit_code(paths, capsys):
    start = paths.folder.parents[2]
    assert verify_command(start, str(paths.folder)) == errors.COMPLETED
    assert capsys.readouterr().out == f"{paths.run_id}: every recorded hash holds\n"

    (paths.outputs / "a.txt").write_text("altered")
    assert verify_command(start, str(paths.folder)) == errors.DIFFERENT
    said = capsys.readouterr().out
    assert "altered: outputs/a.txt (sha256 " in said
    assert said.endswith("1 of its files are not as recorded\n")


def test_a_run_still_going_is_said_to_be(tmp_path, capsys):
    paths = make_run(tmp_path / "runs", state="running")

    assert verify_command(tmp_path, str(paths.folder)) == errors.COMPLETED
    assert "is running: only what it has recorded so far" in capsys.readouterr().out


def test_what_was_never_hashed_is_said(tmp_path, capsys):
    paths = make_run(tmp_path / "runs", state="failed")
    (paths.outputs / "late.txt").write_text("")

    assert verify_command(tmp_path, str(paths.folder)) == errors.COMPLETED
    assert "before its outputs and logs were hashed" in capsys.readouterr().out


def test_a_run_without_record_cannot_be_verified(tmp_path):
    paths = record.new_run_folder(tmp_path / "runs", "x")
    with pytest.raises(errors.RunNotFoundError, match="before its record was born"):
        verify_command(tmp_path, str(paths.folder))


def test_a_folder_in_place_of_a_file_is_named(paths):
    paths.parameters.unlink()
    paths.parameters.mkdir()

    assert found(paths) == {("unreadable", "parameters.toml")}


def test_an_output_that_may_not_be_read_is_named(paths):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (paths.outputs / "a.txt").chmod(0)

    assert found(paths) == {("unreadable", "outputs/a.txt")}
    assert Path(paths.outputs / "a.txt").exists()
