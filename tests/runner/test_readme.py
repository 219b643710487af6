"""The README of a run folder says what a person needs, and its commands work as they stand."""

from __future__ import annotations

import re
import subprocess

import pytest
from made_runs import first_record, make_hashed_run, make_run

from engram import record
from engram.readme import render


def made(tmp_path, **changes):
    paths = record.new_run_folder(tmp_path, "digits")
    return {**first_record(paths), "record_sha256": "r" * 64, **changes}


def section(text, title):
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_a_completed_run_says_what_when_and_what_came_out(tmp_path):
    paths = make_hashed_run(tmp_path / "runs", description="Why it was run.")
    found = record.load(paths)
    text = render(found)

    assert text.startswith("# digits\n\nWhy it was run.\n\nIt completed.\n")
    assert f"| run | {paths.run_id} |" in text
    assert f"| started | {found['times']['started']} |" in text
    assert "| accuracy | 0.9 |" in section(text, "Summary")
    assert f"--rerun {paths.run_id}" in section(text, "Again")
    assert f"verify {paths.run_id}" in section(text, "Again")
    assert found["record_sha256"] in section(text, "Cite")
    assert "c" * 40 in section(text, "Cite")


@pytest.mark.parametrize("state", record.STATES)
def test_every_state_can_be_told(tmp_path, state):
    text = render(record.load(make_run(tmp_path / "runs", state=state)))

    assert re.search(r"^It .+\.?$", text, re.MULTILINE)
    assert f"| state | {state} |" in text


def test_a_failed_run_shows_its_cause_and_traceback(tmp_path):
    trace = "Traceback (most recent call last):\n```\nValueError: it | broke\n"
    ending = {
        "code": 1,
        "signal": None,
        "cause": "ValueError: it | broke",
        "exception": {"type": "ValueError", "message": "it | broke", "traceback": trace},
    }
    text = render(made(tmp_path, state="failed", exit=ending))

    assert "It failed: ValueError: it | broke" in text
    assert f"````\n{trace.rstrip()}\n````" in text


def test_what_was_not_pinned_is_said(tmp_path):
    inputs = [
        {"name": "linked", "path": "/data", "strategy": "symlink", "run": None, "sha256": "s"},
        {"name": "copied", "path": "/data", "strategy": "copy", "run": None, "sha256": "s"},
    ]
    finding = {
        "code": "unpushed_commit",
        "severity": "note",
        "message": "on no remote",
        "evidence": "",
    }
    text = section(render(made(tmp_path, inputs=inputs, findings=[finding])), "What was not pinned")

    assert "no uv.lock" in text
    assert "linked" in text
    assert "copied" not in text
    assert "note: on no remote (`unpushed_commit`)" in text


def test_a_live_run_is_not_said_to_be_repeatable(tmp_path):
    found = made(tmp_path)
    found["code"].update(live=True, snapshot_commit=None)
    text = render(found)

    assert "--rerun" not in text
    assert "live working tree" in section(text, "What was not pinned")


def test_nothing_missing_is_said_too(tmp_path):
    found = record.load(make_hashed_run(tmp_path / "runs"))
    found["inputs"] = []

    assert "Nothing is known to be missing." in section(render(found), "What was not pinned")


def test_markdown_is_not_broken_by_what_people_write(tmp_path):
    found = made(tmp_path, experiment="a|b\n# c", summary={"x|y": "1\n2"}, description="<b>\x1b[0m")
    text = render(found)

    assert "| x\\|y | 1\\n2 |" in text
    assert "\n# c" not in text
    assert "\x1b" not in text


def test_the_commands_for_plain_git_give_the_code_back(project, tmp_path):
    project.write("second.txt", "one\n")
    project.commit("one")
    project.write("second.txt", "two\n")
    commit = project.commit("two")
    listing = project.git("rev-list", "--objects", "--no-walk", commit)
    ids = "".join(line.split()[0] + "\n" for line in listing.splitlines())
    pack = subprocess.run(
        ["git", "-C", str(project.root), "pack-objects", "--stdout", "-q"],
        input=ids.encode(),
        capture_output=True,
        check=True,
    ).stdout
    folder = tmp_path / "run folder"
    (folder / "provenance").mkdir(parents=True)
    (folder / "provenance" / "source.pack").write_bytes(pack)
    found = made(tmp_path)
    found["code"].update(commit=commit, snapshot_commit=commit, source_sha256="s" * 64)
    (commands,) = re.findall(r"```\n(.*?)\n```", section(render(found), "The code"), re.DOTALL)
    done = subprocess.run(["sh", "-ec", commands], cwd=folder, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert (folder / "code" / "second.txt").read_text() == "two\n"
    assert (folder / "code" / "work.py").read_text() == (project.root / "work.py").read_text()
    status = ["git", "-C", str(folder / "code"), "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, check=True).stdout == b""
    log = ["git", "-C", str(folder / "code"), "log", "--format=%H %s"]
    assert (
        subprocess.run(log, capture_output=True, check=True, text=True).stdout == f"{commit} two\n"
    )


def test_a_dirty_run_says_where_the_difference_lies(tmp_path):
    found = made(tmp_path)
    found["code"].update(dirty=True, source_sha256="s" * 64, snapshot_commit="d" * 40)
    text = section(render(found), "The code")

    assert "d" * 40 in text
    assert f"the difference from {'c' * 40} is in provenance/code.patch" in text.lower()
