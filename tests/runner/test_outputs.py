"""Comparison of two output folders, path by path."""

import json
import os
import shutil
import sys

import pytest

from engram.outputs import compare


@pytest.fixture
def folders(tmp_path):
    """Two runs with equal outputs: the recorded one and its rerun."""
    for name in ("a", "b"):
        outputs = tmp_path / name / "outputs"
        (outputs / "deep" / "er").mkdir(parents=True)
        (outputs / "result.json").write_text('{"x": 1.0}')
        (outputs / "deep" / "er" / "note.txt").write_text("hello")
        (outputs / "empty").mkdir()
    return tmp_path / "a" / "outputs", tmp_path / "b" / "outputs"


def verdicts(comparison) -> dict[str, str]:
    return {file.path: file.verdict for file in comparison.files}


def test_equal_folders_are_identical_and_every_path_is_listed(folders):
    found = compare(*folders)
    assert found.verdict == "identical"
    assert verdicts(found) == {
        "deep/er/note.txt": "identical",
        "empty/": "identical",
        "result.json": "identical",
    }


def test_empty_outputs_are_identical(tmp_path):
    assert compare(tmp_path, tmp_path).as_json() == {"verdict": "identical", "files": []}


def test_missing_extra_and_different_files_are_told_apart(folders):
    a, b = folders
    (b / "result.json").write_text('{"x": 2.0}')
    (b / "deep" / "er" / "note.txt").unlink()
    (b / "new.txt").write_text("")
    (b / "empty").rmdir()
    found = compare(a, b)
    assert found.verdict == "different"
    assert verdicts(found) == {
        "deep/er/": "extra",
        "deep/er/note.txt": "missing",
        "empty/": "missing",
        "new.txt": "extra",
        "result.json": "different",
    }
    recorded = json.loads(json.dumps(found.as_json()))
    assert recorded["files"][-1] == {
        "path": "result.json",
        "verdict": "different",
        "reason": "x: 1.0 != 2.0",
        "first": {"key": "x", "index": None, "a": "1.0", "b": "2.0"},
    }


def test_numbers_within_the_tolerance_make_the_verdict_equal(folders):
    a, b = folders
    (b / "result.json").write_text('{"x": 1.01}')
    assert compare(a, b).verdict == "different"
    found = compare(a, b, rtol=0.02)
    assert (found.verdict, verdicts(found)["result.json"]) == ("equal", "equal")


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("*.log", {"a.log", "deep/b.log", "deep/er/c.log"}),
        ("/*.log", {"a.log"}),
        ("deep/*.log", {"deep/b.log"}),
        ("deep/**/*.log", {"deep/b.log", "deep/er/c.log"}),
        ("**/c.log", {"deep/er/c.log"}),
        ("**", {"a.log", "deep/b.log", "deep/er/c.log", "x.txt"}),
        ("deep", {"deep/b.log", "deep/er/c.log"}),
        ("deep/", {"deep/b.log", "deep/er/c.log"}),
        ("er", {"deep/er/c.log"}),
        ("?.log", {"a.log", "deep/b.log", "deep/er/c.log"}),
        ("[a].log", set()),
    ],
)
def test_volatile_patterns(tmp_path, pattern, covered):
    for side in ("a", "b"):
        for name in ("a.log", "deep/b.log", "deep/er/c.log", "x.txt"):
            path = tmp_path / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(side)
    found = verdicts(compare(tmp_path / "a", tmp_path / "b", volatile=[pattern]))
    assert {path for path, verdict in found.items() if verdict == "volatile"} == covered
    assert {path for path, verdict in found.items() if verdict == "different"} == set(
        found
    ) - covered


def test_volatile_files_never_count_even_when_missing(folders):
    a, b = folders
    (a / "time.log").write_text("1")
    (b / "other.log").write_text("1")
    (b / "wandb" / "run-1").mkdir(parents=True)
    (b / "wandb" / "run-1" / "x").write_text("id")
    found = compare(a, b, volatile=["*.log"])
    assert found.verdict == "identical"
    assert [verdicts(found)[name] for name in ("time.log", "other.log", "wandb/run-1/x")] == [
        "volatile"
    ] * 3


def test_links_are_compared_by_where_they_lead_and_never_followed(folders):
    a, b = folders
    for side in folders:
        (side / "relative").symlink_to("result.json")
        (side / "own").symlink_to(side / "result.json")
        (side / "input").symlink_to(side.parent / "inputs" / "x")
        (side / "loop").symlink_to("loop")
        (side / "folder").symlink_to("/")
        (side / "outside").symlink_to("/nowhere/1" if side == a else "/nowhere/2")
    found = compare(a, b)
    assert {path for path, verdict in verdicts(found).items() if verdict == "different"} == {
        "outside"
    }
    reasons = {file.path: file.reason for file in found.files}
    assert reasons["own"] == "links to 'RUN/outputs/result.json'"
    assert "'/nowhere/1' were recorded, now to '/nowhere/2'" in reasons["outside"]


def test_a_file_that_became_a_link_is_different(folders):
    a, b = folders
    (b / "result.json").unlink()
    (b / "result.json").symlink_to(a / "result.json")
    found = compare(a, b)
    assert found.verdict == "different"
    assert "a file was recorded, now it is a link" in found.files[-1].reason


def test_a_file_that_became_a_folder_is_missing_and_extra(folders):
    a, b = folders
    (b / "result.json").unlink()
    (b / "result.json").mkdir()
    found = verdicts(compare(a, b))
    assert (found["result.json"], found["result.json/"]) == ("missing", "extra")


def test_a_fifo_is_never_opened(folders):
    for side in folders:
        os.mkfifo(side / "pipe")
    found = {file.path: file for file in compare(*folders).files}
    assert found["pipe"].verdict == "identical"
    assert "without content" in found["pipe"].reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_different_and_says_why(folders):
    (folders[1] / "result.json").chmod(0)
    found = {file.path: file for file in compare(*folders).files}
    assert found["result.json"].verdict == "different"
    assert "cannot be read" in found["result.json"].reason


def test_strange_names_are_compared_too(folders):
    for side in folders:
        (side / 'a "b"\nc\\.csv').write_text("1\n")
        (side / os.fsdecode(b"\xff.bin")).write_bytes(b"x")
    assert compare(*folders).verdict == "identical"
    (folders[1] / os.fsdecode(b"\xff.bin")).write_bytes(b"y")
    assert json.dumps(compare(*folders).as_json())


def test_sources_are_only_read(folders):
    a, b = folders
    shutil.copytree(a.parent, a.parent.parent / "copy")
    (b / "result.json").write_text("{}")
    compare(a, b)
    assert compare(a, a.parent.parent / "copy" / "outputs").verdict == "identical"


def plain_store(folder, chunks):
    """A folder in the place of a store: chunks as files, as zarr writes them."""
    for name, data in chunks.items():
        path = folder / "rates.zarr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_store_of_equal_bytes_is_one_entry(folders):
    for folder in folders:
        plain_store(folder, {"zarr.json": b"{}", "c/0/0": b"1"})
    found = compare(*folders)
    assert verdicts(found)["rates.zarr"] == "identical"
    assert not any(path.startswith("rates.zarr/") for path in verdicts(found))


def test_store_that_cannot_be_decoded_is_compared_file_by_file_and_says_so(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    for folder, data in zip(folders, (b"1", b"2"), strict=True):
        plain_store(folder, {"zarr.json": b"{}", "c/0/0": data})
    found = {file.path: file for file in compare(*folders).files}
    assert found["rates.zarr/zarr.json"].verdict == "identical"
    assert found["rates.zarr/c/0/0"].verdict == "different"
    assert ".zarr needs a package that is not here" in found["rates.zarr/c/0/0"].reason


def test_store_of_which_a_part_is_volatile_is_compared_file_by_file(folders):
    for folder, data in zip(folders, (b"1", b"2"), strict=True):
        plain_store(folder, {"zarr.json": b"{}", "c/0/0": data})
    assert verdicts(compare(*folders, volatile=["c/**", "rates.zarr/c/**"])) == {
        **verdicts(compare(*folders, volatile=["rates.zarr"])),
        "rates.zarr/zarr.json": "identical",
    }


def test_missing_store_is_missing_file_by_file(folders):
    plain_store(folders[0], {"zarr.json": b"{}"})
    assert verdicts(compare(*folders))["rates.zarr/zarr.json"] == "missing"


def test_store_is_compared_by_its_arrays(folders):
    zarr = pytest.importorskip("zarr", reason="decodes .zarr")
    a, b = (zarr.open_group(str(folder / "rates.zarr"), mode="w") for folder in folders)
    for group, chunk in ((a, 2), (b, 5)):
        made = group.create_array("deep/x", shape=(5, 2), chunks=(chunk, 2), dtype="f4")
        made[:] = 1
        made.attrs["unit"] = "Hz"
        group.create_array("point", shape=(), dtype="i8")
    found = compare(*folders)
    assert verdicts(found)["rates.zarr"] == "identical"
    assert found.verdict == "identical"
    b["deep/x"][3, 1] = 2
    changed = {file.path: file for file in compare(*folders).files}["rates.zarr"]
    assert (changed.verdict, changed.first.key) == ("different", "deep/x/values")
    assert changed.first.index == (3, 1)
    assert compare(*folders, atol=1).verdict == "equal"
    b["deep/x"][3, 1] = 1
    b["deep/x"].attrs["unit"] = "kHz"
    changed = {file.path: file for file in compare(*folders).files}["rates.zarr"]
    assert changed.first.key == "deep/x/attributes/unit"
