"""Finding, listing and showing runs, as a person types it."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import make_run

from engram import lease, record, roots
from engram.errors import ConfigError, RunNotFoundError, StoreError
from engram.filters import parse
from engram.paths import CachePaths, RootPaths
from engram.store import Store, list_command, show_command
from engram.table import columns, duration, size

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path):
    """A folder that looks like a repository, with the default run root."""
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return tmp_path / "repo"


@pytest.fixture
def runs(repository):
    """The default run root."""
    return repository / "runs"


def listed(start, *filters, **options):
    return [
        item["run_id"] for item in json.loads(list_command(start, filters, as_json=True, **options))
    ]


def test_find_by_id_prefix_end_and_latest(repository, runs):
    first = make_run(runs, "digits", created="2026-01-01T00:00:00.000000+00:00")
    second = make_run(runs, "maze", created="2026-01-02T00:00:00.000000+00:00")
    store = Store.for_root(repository)

    assert store.find(first.run_id) == first
    assert store.find(second.run_id[:-1]) == second
    assert store.find(second.run_id[-6:]) == second
    assert store.find("maze-" + second.run_id[-6:]) == second
    assert store.find("latest") == second
    assert store.find("latest:digits") == first


def test_latest_is_the_greatest_recorded_start_not_the_newest_folder(repository, runs):
    started_last = make_run(runs, created="2026-05-01T00:00:00.000000+00:00")
    make_run(runs, created="2026-04-01T00:00:00.000000+00:00")

    assert Store.for_root(repository).find("latest") == started_last


def test_find_by_folder_inside_and_outside_any_root(repository, runs, tmp_path, monkeypatch):
    paths = make_run(runs)
    moved = tmp_path / "on a usb stick"
    shutil.copytree(paths.folder, moved)
    store = Store.for_root(repository)
    monkeypatch.chdir(tmp_path)

    assert store.find(str(paths.folder)) == paths
    assert store.find("on a usb stick").folder == moved
    assert store.find(str(moved / "metadata.json")).folder == moved
    assert Store.for_root(tmp_path).find("./on a usb stick").folder == moved


def test_a_folder_that_is_no_run_is_named(repository, tmp_path):
    store = Store.for_root(repository)
    for reference, words in ((str(tmp_path), "holds no metadata.json"), ("./gone/x", "no folder")):
        with pytest.raises(RunNotFoundError, match=words):
            store.find(reference)


def test_several_runs_behind_a_prefix_are_listed(repository, runs):
    made = [make_run(runs) for _ in range(3)]
    with pytest.raises(RunNotFoundError) as caught:
        Store.for_root(repository).find("20")

    assert "stands for 3 runs" in str(caught.value)
    assert all(paths.run_id in str(caught.value) for paths in made)


@pytest.mark.parametrize("reference", ["%", "_", "20%", "\\", "' OR 1=1 --"])
def test_wildcards_in_a_reference_mean_themselves(repository, runs, reference):
    make_run(runs)
    with pytest.raises(RunNotFoundError, match="no run"):
        Store.for_root(repository).find(reference)


def test_a_misspelt_reference_is_answered_with_what_is_near(repository, runs):
    paths = make_run(runs, "digits")
    store = Store.for_root(repository)
    wrong = paths.run_id[:-1] + "g"

    with pytest.raises(RunNotFoundError, match=f"did you mean {paths.run_id}"):
        store.find(wrong)
    with pytest.raises(RunNotFoundError, match="write latest:digits"):
        store.find("digits")
    with pytest.raises(RunNotFoundError, match="did you mean 'digits'"):
        store.find("latest:digts")


def test_without_runs_every_reference_says_so(repository, tmp_path):
    for start, words in ((repository, "no runs yet"), (tmp_path, "no run root is known")):
        with pytest.raises(RunNotFoundError, match=words):
            Store.for_root(start).find("latest")
    assert "no runs yet" in list_command(repository)


def test_every_root_the_repository_used_is_known(repository, runs, tmp_path):
    inside = make_run(runs)
    far = tmp_path / "big disk" / "ru\nns"
    outside = make_run(far)
    cache = CachePaths(repository / ".git" / "engram")
    for _ in range(3):
        roots.register(cache, far)
    roots.register(cache, tmp_path / "unmounted")
    (repository / "deep" / "er").mkdir(parents=True)

    assert set(listed(repository / "deep" / "er")) == {inside.run_id, outside.run_id}
    assert Store.for_root(repository).find(outside.run_id) == outside
    assert len(cache.roots.read_bytes().splitlines()) == 2


def test_a_linked_working_tree_shares_the_roots(project, tmp_path):
    roots.register(CachePaths(project.root / ".git" / "engram"), project.root / "runs")
    paths = make_run(project.root / "runs")
    project.git("worktree", "add", "-q", str(tmp_path / "linked"))

    assert listed(tmp_path / "linked") == [paths.run_id]


def test_a_root_without_repository_is_known_from_inside(tmp_path):
    paths = make_run(tmp_path / "moved")

    assert listed(tmp_path / "moved") == listed(paths.outputs) == [paths.run_id]


def test_a_copy_does_not_make_a_run_ambiguous(repository, runs):
    paths = make_run(runs)
    shutil.copytree(paths.folder, paths.folder.with_name("copy of it"))

    assert Store.for_root(repository).find(paths.run_id) == paths
    assert Store.for_root(repository).find(paths.run_id[:25]) == paths


@pytest.fixture
def family(runs):
    """Five runs with all kinds of values."""
    texts = {
        "a": 'lr = 0.01\nname = "alpha"\nflag = true\nsizes = [1, 2]\n[model]\ndepth = 2\n',
        "b": "lr = 0.1\nflag = false\nsizes = [3]\n[model]\ndepth = 10\n",
        "c": 'lr = "0.1"\nday = 2026-01-02\n',
        "d": "lr = nan\nbig = 123456789012345678901234567890\n",
        "e": "other = 1\n",
    }
    summaries = {
        "a": {"acc": 0.9, "loss": 1},
        "b": {"acc": 0.5},
        "c": {"acc": float("nan")},
        "d": {"acc": float("inf")},
        "e": None,
    }
    return {
        name: make_run(
            runs,
            f"exp {name}",
            "failed" if name == "b" else "completed",
            text,
            created=f"2026-01-0{number}T00:00:00.000000+00:00",
            summary=summaries[name],
            tags=["good", name],
            findings=[{"code": "no_remote", "severity": "note", "message": "m", "evidence": None}]
            if name == "c"
            else [],
        )
        for number, (name, text) in enumerate(texts.items(), start=1)
    }


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["state=failed"], "b"),
        (["state!=failed"], "acde"),
        (["experiment=exp a"], "a"),
        (["name~EXP"], "abcde"),
        (["param.lr>0.01"], "b"),
        (["param.lr>=0.01"], "ab"),
        (["param.lr<0.1"], "a"),
        (["param.lr=0.1"], "bc"),
        (["param.lr=1e-1"], "b"),
        (["param.lr=nan"], "d"),
        (["param.lr!=0.1"], "ade"),
        (["param.model.depth>5"], "b"),
        (["param.model.depth=10.0"], "b"),
        (["param.name=alpha"], "a"),
        (["param.name~PH"], "a"),
        (["param.flag=true"], "a"),
        (["param.flag=False"], "b"),
        (["param.sizes=2"], "a"),
        (["param.day>2026-01-01"], "c"),
        (["param.big=123456789012345678901234567890"], "d"),
        (["summary.acc>=0.9"], "ad"),
        (["summary.acc<0.9"], "b"),
        (["summary.acc=nan"], "c"),
        (["summary.loss=1"], "a"),
        (["tag=a"], "a"),
        (["tag!=a"], "bcde"),
        (["tag=good", "summary.acc>0.4", "state = completed"], "ad"),
        (["finding=no_remote"], "c"),
        (["severity=note"], "c"),
        (["created>2026-01-03"], "cde"),
        (["created<2026"], ""),
        (["seed=0"], "abcde"),
        (["dirty=false"], "abcde"),
        (["run_s>1"], "abcde"),
        (["param.lr=0.1; DROP TABLE runs"], ""),
    ],
)
def test_filters_choose(repository, family, filters, expected):
    names = {paths.run_id: name for name, paths in family.items()}

    assert "".join(sorted(names[run] for run in listed(repository, *filters))) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (None, "edcba"),
        ("created", "abcde"),
        ("-created", "edcba"),
        ("summary.acc", "badce"),
        ("-summary.acc", "dabce"),
        ("param.lr", "abcde"),
        ("param.model.depth", "abedc"),
        ("-experiment", "edcba"),
    ],
)
def test_sorting_puts_missing_and_nan_last_both_ways(repository, family, sort, expected):
    names = {paths.run_id: name for name, paths in family.items()}

    assert "".join(names[run] for run in listed(repository, sort=sort)) == expected


def test_sorting_over_several_roots_is_that_over_one(repository, runs, tmp_path):
    numbers = [3.0, None, math.nan, 1.0, 2.0, -1.0, math.inf, None]
    made = {}
    for position, number in enumerate(numbers):
        root = runs if position % 2 else tmp_path / "second"
        summary = None if number is None else {"x": number}
        when = f"2026-01-{position + 1:02}T00:00:00.000000+00:00"
        made[make_run(root, summary=summary, created=when).run_id] = position
    roots.register(CachePaths(repository / ".git" / "engram"), tmp_path / "second")

    def order(**options):
        return [made[run] for run in listed(repository, **options)]

    assert order() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert order(sort="summary.x") == [5, 3, 4, 0, 6, 2, 7, 1]
    assert order(sort="-summary.x") == [6, 0, 4, 3, 5, 2, 7, 1]
    assert order(sort="summary.x", limit=3) == [5, 3, 4]
    assert order(limit=2) == [7, 6]


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats() | st.integers() | st.none(), min_size=1, max_size=6),
    bound=st.floats(allow_nan=False) | st.integers(-(10**6), 10**6),
    operator=st.sampled_from(["<", "<=", ">", ">=", "="]),
)
def test_comparisons_are_those_of_python(tmp_path_factory, values, bound, operator):
    root = tmp_path_factory.mktemp("filters") / "runs"
    tests = {
        "<": lambda x: x < bound,
        "<=": lambda x: x <= bound,
        ">": lambda x: x > bound,
        ">=": lambda x: x >= bound,
        "=": lambda x: x == bound,
    }
    expected = {
        make_run(root, summary=None if value is None else {"x": value}).run_id: value
        for value in values
    }

    found = {
        row.run_id for row in Store([root]).list_runs([parse(f"summary.x{operator}{bound!r}")])
    }
    assert found == {
        run for run, value in expected.items() if value is not None and tests[operator](value)
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("completed", "not a filter"),
        ("=x", "not a filter"),
        ("stat=failed", "did you mean 'state'"),
        ("state=faild", "did you mean 'failed'"),
        ("lr>0.1", "param.KEY"),
        ("param.=1", "param"),
    ],
)
def test_a_wrong_filter_is_refused_with_advice(repository, text, words):
    with pytest.raises(ConfigError, match=words):
        list_command(repository, [text])


def test_a_wrong_sort_key_or_limit_is_refused(repository):
    with pytest.raises(ConfigError, match="did you mean 'state'"):
        list_command(repository, sort="-stat")
    with pytest.raises(ConfigError, match="--limit -1"):
        list_command(repository, limit=-1)


def test_an_unknown_parameter_is_named_when_nothing_matches(repository, family):
    assert "did you mean 'param.lr'" in list_command(repository, ["param.lrr=1"])
    assert list_command(repository, ["param.lr=7"]) == "no run matches"
    assert list_command(repository, ["param.lr=7"], as_json=True) == "[]"


def test_a_table_shows_what_was_asked_for(repository, family):
    text = list_command(repository, ["param.lr=0.01"], sort="-summary.acc")
    header, row = text.splitlines()

    assert header.split() == ["RUN", "STATE", "WHEN", "TOOK", "TAGS", "PARAMETERS", "SUMMARY"]
    assert row.startswith(family["a"].run_id + "  completed")
    assert "lr=0.01" in row
    assert row.endswith("acc=0.9 loss=1")


def test_a_long_table_says_how_much_it_leaves_out(repository, runs):
    for _ in range(52):
        make_run(runs)

    assert list_command(repository).splitlines()[-1] == "50 of 52 runs; --limit 0 shows all"
    assert len(list_command(repository, limit=0).splitlines()) == 53
    assert len(listed(repository)) == 52


def test_json_names_folders_parameters_and_summary(repository, family):
    (found,) = json.loads(list_command(repository, ["tag=a"], as_json=True))

    assert found["folder"] == str(family["a"].folder)
    assert found["parameters"]["model"] == {"depth": 2}
    assert found["summary"] == {"acc": 0.9, "loss": 1}
    assert found["state"] == "completed"


def test_a_run_elsewhere_is_shown_with_its_host(repository, runs):
    there = {**lease.process_identity(), "host": "node-9"}
    paths = make_run(runs, state="running", lease=there)

    assert "running on node-9, last sign of life " in list_command(repository)
    assert "running on node-9, last sign of life " in show_command(repository, paths.run_id)
    (found,) = json.loads(list_command(repository, as_json=True))
    assert found["state"] == "running"
    assert found["whereabouts"].startswith("running on node-9")


def test_finding_a_run_ends_it_when_its_runner_is_dead(repository, runs):
    there = {**lease.process_identity(), "pid": 2**22 - 1, "start_time": 1}
    paths = make_run(runs, state="running", lease=there)
    assert record.load(paths)["state"] == "running"
    Store.for_root(repository).find(paths.run_id)

    assert record.load(paths)["state"] == "killed"


def test_show_says_what_a_person_asks(repository, runs):
    trace = "Traceback (most recent call last):\n  File ...\nValueError: it broke\n"
    ending = {"type": "ValueError", "message": "it broke", "traceback": trace}
    findings = [
        {"code": "no_remote", "severity": "note", "message": "no remote", "evidence": None},
        {
            "code": "inputs_changed",
            "severity": "error",
            "message": "x.csv changed",
            "evidence": None,
        },
    ]
    paths = make_run(
        runs,
        state="running",
        parameters="lr = 0.1\nepochs = 3\n[model]\ndepth = 2\n",
        description="why",
        summary={"acc": 0.5},
        findings=findings,
        overrides={"parameters": ["model.depth=2"], "experiment": ["timeout=60"]},
    )
    how = {"code": 1, "signal": None, "cause": "ValueError: it broke", "exception": ending}
    record.change(paths, state="failed", exit=how, run_s=75.0)
    record.annotate(paths, tags=["odd"], note="look here")
    text = show_command(repository, "latest")
    lines = text.splitlines()

    assert lines[0] == f"run         {paths.run_id}"
    assert "state       failed: ValueError: it broke" in lines
    assert "took 1 min 15 s" in text
    assert f"commit      {'c' * 40} (main)" in lines
    assert lines[lines.index("parameters  model.depth = 2  (--set)") + 1].strip() == "lr = 0.1"
    assert text.index("error: x.csv changed") < text.index("note: no remote")
    assert "tags        odd" in lines
    assert "notes       look here" in lines
    assert f"engram --rerun {paths.run_id}" in text
    assert max(map(len, lines[2:])) < 100


def test_show_json_is_the_record(repository, runs):
    paths = make_run(runs, summary={"loss": float("nan")})
    shown = json.loads(show_command(repository, "latest", as_json=True))

    assert shown.pop("folder") == str(paths.folder)
    assert shown == json.loads(paths.metadata.read_bytes())


def test_show_of_a_run_without_record(repository, runs):
    paths = record.new_run_folder(runs, "digits")
    paths.provenance.mkdir()
    paths.lease.touch()

    assert "killed before its record was born" in show_command(repository, paths.run_id)
    assert json.loads(show_command(repository, paths.run_id, as_json=True))["state"] == "killed"


def test_show_of_a_damaged_record_is_an_error(repository, runs):
    paths = make_run(runs)
    paths.metadata.write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        show_command(repository, paths.run_id)


def test_control_characters_never_reach_the_terminal(repository, runs):
    paths = make_run(
        runs,
        parameters='evil = "\\u001b[2J"\n',
        summary={"x": "\x1b]0;boo\x07\nnext"},
        description="a\rb",
    )
    for text in (
        list_command(repository, ["param.evil~J"]),
        show_command(repository, paths.run_id),
        show_command(repository, paths.run_id, lineage=True),
    ):
        assert all(line.isprintable() for line in text.splitlines())


def test_lineage_shows_parents_and_children(repository, runs):
    source = make_run(runs, "data")
    first = make_run(
        runs,
        inputs=[
            {
                "name": "d",
                "path": "p",
                "strategy": "copy",
                "run": source.run_id,
                "sha256": "0",
                "size": 1,
            }
        ],
    )
    edge = {"run": first.run_id, "checkpoint": "step-3", "sha256": None}
    second = make_run(runs, parents={"resumed_from": edge, "rerun_of": None})
    third = make_run(
        runs,
        parents={"resumed_from": None, "rerun_of": {"run": second.run_id}},
        comparison={"verdict": "identical"},
    )
    text = show_command(repository, second.run_id, lineage=True)

    assert text.splitlines() == [
        f"{second.run_id}  completed",
        "came from",
        f"└── resumed from {first.run_id}  completed",
        f"    └── input from {source.run_id}  completed",
        "gave rise to",
        f"└── rerun as (identical) {third.run_id}  completed",
    ]
    shutil.rmtree(first.folder)
    assert f"{first.run_id}  not found here" in show_command(
        repository, second.run_id, lineage=True
    )


def test_a_loop_in_the_lineage_ends(repository, runs):
    first, second = (make_run(runs) for _ in range(2))
    for paths, other in ((first, second), (second, first)):
        made = json.loads(paths.metadata.read_bytes())
        made["parents"]["rerun_of"] = {"run": other.run_id}
        paths.metadata.write_text(json.dumps(made))

    text = show_command(repository, first.run_id, lineage=True)
    assert text.count(first.run_id) <= 3


def test_the_list_stays_small_in_what_it_imports(repository, runs):
    make_run(runs)
    code = (
        "import sys; from pathlib import Path; from engram.store import list_command\n"
        "list_command(Path(sys.argv[1]))\n"
        "heavy = {'subprocess', 'difflib', 'tomllib', 'asyncio', 'numpy', 'rich', 'logging'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    list_command(repository)
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")},
    )

    assert done.stdout == "[]\n"


def test_columns_are_cut_to_the_terminal_and_wide_characters_counted():
    text = columns(["A", "B"], [["ab", "x" * 50], ["漢字", "y"]], width=30)

    assert text.splitlines() == ["A     B", "ab    " + "x" * 21 + "...", "漢字  y"]
    assert columns(["A", "B"], [["a", ""]]) == "A\na"


def test_rows_fit_the_terminal_and_the_first_column_stays_whole():
    name, row = "n" * 30, ["x" * 40, "y" * 25, "short", "z" * 40]
    header = ["NAME", "ONE", "TWO", "THREE", "FOUR"]
    for width in (88, 100, 120, 200):
        lines = columns(header, [[name, *row]], width=width).splitlines()
        assert all(len(line) <= width for line in lines)
        assert lines[1].startswith(f"{name}  ")
    assert max(len(line) for line in columns(header, [[name, *row]], width=100).splitlines()) == 100
    # Nothing is cut to less than what can be recognized, and nothing where there is room.
    narrow = columns(header, [[name, *row]], width=20).splitlines()[1]
    assert narrow.split()[1:] == ["x" * 9 + "...", "y" * 9 + "...", "short", "z" * 9 + "..."]
    assert columns(header, [[name, *row]], width=200).splitlines()[1].split() == [name, *row]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.31, "0.31 s"),
        (42.13, "42.1 s"),
        (59.96, "1 min 00 s"),
        (252, "4 min 12 s"),
        (7500, "2 h 05 min"),
        (273600, "3 d 4 h"),
        (None, ""),
    ],
)
def test_durations_are_written_for_people(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(812, "812 B"), (1_240_000, "1.24 MB"), (999_600, "1 MB")]
)
def test_sizes_are_written_for_people(count, text):
    assert size(count) == text


def test_many_random_stores_answer_as_a_plain_loop_would(repository, runs):
    choose = random.Random(1)
    values = {}
    for _ in range(40):
        lr = choose.choice([0.001, 0.01, 0.1, 1])
        acc = choose.random()
        paths = make_run(runs, parameters=f"lr = {lr}\n", summary={"acc": acc})
        values[paths.run_id] = (lr, acc)
    expected = sorted(
        (run for run, (lr, acc) in values.items() if lr > 0.005 and acc < 0.7),
        key=lambda run: -values[run][1],
    )

    assert listed(repository, "param.lr>0.005", "summary.acc<0.7", sort="-summary.acc") == expected
    assert RootPaths(runs).database.exists()
