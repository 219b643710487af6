"""`best:NAME:KEY`: which run it means, and what it says when it means none."""

from __future__ import annotations

import json
import tomllib

import pytest
from made_runs import make_run

from engram import best, record
from engram.errors import RunNotFoundError
from engram.index import Index
from engram.paths import RootPaths
from engram.store import Store

ACCURACY = {"a": 0.7, "b": 0.9, "c": 0.8}


@pytest.fixture
def root(tmp_path):
    """A run root."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def teacher(root, summary, *, name="teacher", state="completed", day=1, pruned=False):
    """A run that left a summary."""
    created = f"2026-01-{day:02}T00:00:00.000000+00:00"
    paths = make_run(root, name, "running", created=created, pruned=pruned)
    ending = {"code": 0, "signal": None, "cause": "main returned", "exception": None}
    record.change(paths, state=state, exit=ending, summary=summary, run_s=1.0)
    Index(RootPaths(root)).note(paths.folder)
    return paths


def find(root, reference):
    return Store([root]).find(reference)


def refusal(root, reference):
    with pytest.raises(RunNotFoundError) as caught:
        find(root, reference)
    return str(caught.value)


@pytest.fixture
def teachers(root):
    """Runs of three accuracies, the best neither the first nor the last."""
    return {
        name: teacher(root, {"accuracy": value, "loss": 1 - value, "note": "x"}, day=day)
        for day, (name, value) in enumerate(ACCURACY.items(), start=1)
    }


@pytest.mark.parametrize(
    ("reference", "meant"),
    [
        ("best:teacher:accuracy", "b"),
        ("best:teacher:accuracy:1", "b"),
        ("best:teacher:accuracy:2", "c"),
        ("best:teacher:accuracy:3", "a"),
        ("best:teacher:accuracy:max:2", "c"),
        ("best:teacher:accuracy:min", "a"),
        ("best:teacher:loss:min", "b"),
        ("best:teacher:loss:min:3", "a"),
    ],
)
def test_the_kth_best_of_an_experiment_is_found_by_its_summary(root, teachers, reference, meant):
    assert find(root, reference) == teachers[meant]


def test_only_completed_runs_of_that_experiment_with_a_number_there_count(root, teachers):
    teacher(root, {"accuracy": 0.99}, state="failed", day=4)
    teacher(root, {"accuracy": 0.99}, name="student", day=5)
    teacher(root, {"accuracy": float("nan")}, day=6)
    teacher(root, {"accuracy": "high"}, day=7)
    teacher(root, {"loss": 0.0}, day=8)
    assert find(root, "best:teacher:accuracy") == teachers["b"]
    assert find(root, "best:teacher:accuracy:3") == teachers["a"]
    said = refusal(root, "best:teacher:accuracy:4")
    assert "3 of the 6 completed runs of 'teacher' have a number summary.accuracy" in said


def test_a_run_that_a_search_ended_early_does_not_count(root, teachers):
    """As where the grid names its own best point: what it left was not trained to its end."""
    teacher(root, {"accuracy": 0.99}, day=4, pruned=True)
    assert find(root, "best:teacher:accuracy") == teachers["b"]


def test_an_infinite_number_is_never_the_best(root, teachers):
    """As where the grid names its own best point."""
    teacher(root, {"accuracy": float("inf")}, day=4)
    teacher(root, {"accuracy": float("-inf")}, day=5)
    assert find(root, "best:teacher:accuracy") == teachers["b"]
    assert find(root, "best:teacher:accuracy:min") == teachers["a"]


def test_of_equal_runs_the_newest_comes_first(root):
    older, newer = (teacher(root, {"accuracy": 0.5}, day=day) for day in (1, 2))
    assert find(root, "best:teacher:accuracy") == newer
    assert find(root, "best:teacher:accuracy:2") == older


def test_a_negative_number_and_a_whole_one_are_numbers(root):
    low, high = (teacher(root, {"score": value}) for value in (-5, -2.5))
    assert find(root, "best:teacher:score") == high
    assert find(root, "best:teacher:score:min") == low


def test_runs_of_several_roots_are_compared(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    made = [
        teacher(folder, {"accuracy": value})
        for folder, value in ((folders[0], 0.5), (folders[1], 0.6), (folders[0], 0.7))
    ]
    found = [Store(folders).find(f"best:teacher:accuracy:{rank}") for rank in (1, 2, 3)]
    assert found == [made[2], made[1], made[0]]


def test_without_a_key_the_one_number_of_the_summary_counts(root):
    teacher(root, {"accuracy": 0.5, "kind": "spiking", "sure": True}, day=1)
    wanted = teacher(root, {"accuracy": 0.6, "kind": "spiking", "sure": True}, day=2)
    assert find(root, "best:teacher") == wanted
    assert find(root, "best:teacher:min:2") == wanted
    teacher(root, {"accuracy": 0.7, "loss": 0.3}, day=3)
    said = refusal(root, "best:teacher")
    assert "does not say by what; the newest run has accuracy, loss: write best:NAME" in said


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("best:techer:accuracy", "no run of an experiment 'techer' is there: did you mean 'teach"),
        ("best:teacher:acuracy", "0 of the 3 completed runs of 'teacher' have a number summary."),
        ("best:teacher:acuracy", "; the newest run has accuracy"),
        ("best:teacher:note", "0 of the 3 completed runs"),
        ("best:teacher:accuracy:0", "is not best:NAME"),
        ("best:teacher:accuracy:-1", "is not best:NAME"),
        ("best:", "is not best:NAME"),
        ("best:teacher:", "is not best:NAME"),
        ("best:teacher:accuracy:most", "is not best:NAME"),
    ],
)
def test_what_means_no_run_is_refused_with_what_there_is(root, teachers, reference, words):
    assert words in refusal(root, reference)


def test_an_experiment_that_never_completed_says_so(root):
    teacher(root, {"accuracy": 0.5}, state="failed")
    assert "no run of an experiment 'teacher' has completed" in refusal(
        root, "best:teacher:accuracy"
    )


def test_a_key_of_digits_is_a_rank():
    assert best.parse("best:teacher:2") == best.Best("teacher", None, False, 2)


def test_a_run_takes_the_best_one_as_input_and_records_which_it_was(project):
    for value in (3, 7, 5):
        assert project.run("experiment.toml", "--set", f"value={value}").returncode == 0
    chosen = project.runs()[1]
    project.write(
        "next.toml",
        'script = "work.py"\nparameters_file = "parameters.toml"\noutput_dir = "runs"\n'
        '[[data.inputs]]\nrun = "best:project:doubled"\nname = "teacher"\n',
    )
    project.commit()
    done = project.run("next.toml")
    assert done.returncode == 0, done.stderr
    taken = record.load(latest(project))["inputs"]
    assert [item["run"] for item in taken] == [chosen.run_id]
    # Written back as what it meant: a later, better run changes nothing.
    kept = tomllib.loads(latest(project).experiment.read_text())
    assert kept["data"]["inputs"][0]["run"] == chosen.run_id
    manifest = json.loads(latest(project).inputs_manifest.read_text())
    assert manifest[0]["sha256"] == taken[0]["sha256"]


def test_a_missing_best_run_is_refused_with_the_command_that_makes_one(project):
    project.write("stages/prepare.toml", 'script = "work.py"\n')
    asking = '[[data.inputs]]\nrun = "best:prepare:accuracy:2"\n'
    project.write("stages/analyze.toml", f'script = "work.py"\n{asking}')
    project.commit()
    refused = project.run("stages/analyze.toml")
    assert refused.returncode == 2
    assert "make one with `./run stages/prepare.toml`" in refused.stderr


def latest(project):
    """The run that was made last, of whatever experiment."""
    return max(project.runs(), key=lambda paths: record.load(paths)["times"]["created"])
