"""The provenance record: its states, its atomic writes, and what may change after the end."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import first_record, make_hashed_run, make_run

from engram import errors, files, record
from engram.paths import RunPaths

CHECKOUT = Path(__file__).resolve().parents[2]
SCHEMA = CHECKOUT / "docs" / "metadata.schema.json"
RUN_ID = re.compile(r"20\d{6}T\d{6}\.\d{3}Z-[a-z0-9-]+-[0-9a-f]{6}")


@pytest.fixture
def born(tmp_path):
    """A run in the state created."""
    return make_run(tmp_path / "runs", state="created")


def test_run_id_holds_utc_start_slug_and_random_part(tmp_path):
    paths = record.new_run_folder(tmp_path, "Spiking Digits (größer)")

    assert paths.folder.parent == tmp_path / "Spiking Digits (größer)"
    assert RUN_ID.fullmatch(paths.run_id)
    assert paths.run_id[21:-7] == "spiking-digits-groer"
    started = datetime.strptime(paths.run_id[:19] + "+0000", "%Y%m%dT%H%M%S.%f%z")
    assert abs(datetime.now(started.tzinfo) - started) < timedelta(minutes=1)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "nul\0", "\udce9"])
def test_unsafe_experiment_name_is_refused_and_nothing_is_made(tmp_path, name):
    with pytest.raises(errors.ConfigError, match="name"):
        record.new_run_folder(tmp_path / "runs", name)

    assert not (tmp_path / "runs").exists()


@given(st.text())
def test_slug_is_short_and_plain_for_any_name(name):
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", record.slug(name))


def test_20_starts_in_the_same_second_make_20_folders(tmp_path, monkeypatch):
    moment = 1_800_000_000_123_000_000
    monkeypatch.setattr(record.time, "time_ns", lambda: moment)
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda _: record.new_run_folder(tmp_path, "x"), range(20)))

    assert len({paths.folder for paths in made}) == 20
    assert len({paths.run_id[:20] for paths in made}) == 1
    assert all(paths.folder.is_dir() for paths in made)


def test_a_taken_id_is_never_reused(tmp_path, monkeypatch):
    monkeypatch.setattr(record.time, "time_ns", lambda: 1_800_000_000_000_000_000)
    draws = iter([b"\0\0\1", b"\0\0\1", b"\0\0\2"])
    monkeypatch.setattr(record.os, "urandom", lambda _: next(draws))
    first, second = (record.new_run_folder(tmp_path, "x") for _ in range(2))

    assert (first.run_id[-6:], second.run_id[-6:]) == ("000001", "000002")


def test_a_full_life_is_recorded_with_its_times(born):
    record.change(born, state="running")
    ended = record.change(born, state="failed", run_s=2.5, exit={"code": 3, "cause": "exit(3)"})

    times = record.load(born)["times"]
    assert ended["state"] == "failed"
    assert times["run_s"] == 2.5
    moments = [datetime.fromisoformat(times[key]) for key in ("created", "started", "ended")]
    assert moments == sorted(moments)
    assert all(moment.utcoffset() == timedelta(0) for moment in moments)
    assert all(times[key].endswith("+00:00") for key in ("created", "started", "ended"))


@pytest.mark.parametrize("state", sorted(record.ENDED))
def test_every_end_can_follow_created_and_running(tmp_path, state):
    straight = make_run(tmp_path, state="created")
    running = make_run(tmp_path, state="running")

    assert record.change(straight, state=state)["state"] == state
    assert record.change(running, state=state)["state"] == state


BACKWARD = [
    (before, after)
    for before in ("running", *sorted(record.ENDED))
    for after in ("created", "running", "completed")
    if (before, after) != ("running", "completed")
]


@pytest.mark.parametrize(("before", "after"), BACKWARD)
def test_no_way_back_from_a_later_state(tmp_path, before, after):
    paths = make_run(tmp_path, state=before)
    with pytest.raises(ValueError, match="cannot go from"):
        record.change(paths, state=after)

    assert record.load(paths)["state"] == before


def test_an_ended_record_is_fixed_except_for_the_late_comparison(tmp_path):
    paths = make_run(tmp_path)
    record.change(paths, comparison={"verdict": "identical"})

    for field in ({"summary": {"a": 1}}, {"comparison": {"verdict": "different"}}):
        with pytest.raises(ValueError, match="fixed keys"):
            record.change(paths, **field)
    assert record.load(paths)["comparison"] == {"verdict": "identical"}


def test_unknown_keys_are_refused(born):
    with pytest.raises(ValueError, match="sumary"):
        record.change(born, sumary={})


def test_a_run_has_one_record_in_its_life(born):
    with pytest.raises(errors.StoreError, match="one life"):
        record.create(born, first_record(born))


def test_record_sha256_is_that_of_canonical_json_without_the_mutable_keys(tmp_path):
    paths = make_run(tmp_path)
    on_disk = json.loads(paths.metadata.read_bytes())
    left_out = {"record_sha256", "reruns", "tags", "notes", "pinned"}
    fixed = {key: value for key, value in on_disk.items() if key not in left_out}
    text = json.dumps(fixed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert on_disk["record_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_golden_record_hash_does_not_depend_on_the_order_of_keys():
    made = {"b": [1, 2.5, None, True], "a": {"z": "é", "y": float("nan")}, "tags": ["free"]}
    shuffled = {"tags": [], "a": {"y": float("nan"), "z": "é"}, "b": [1, 2.5, None, True]}

    assert record.record_sha256(made) == record.record_sha256(shuffled)
    text = '{"a":{"y":"NaN","z":"é"},"b":[1,2.5,null,true]}'
    assert record.record_sha256(made) == hashlib.sha256(text.encode()).hexdigest()


def test_the_record_is_strict_json_and_nan_survives_in_the_summary(born):
    summary = {"loss": float("nan"), "best": float("inf"), "worst": float("-inf"), "note": "NaNny"}
    record.change(born, state="completed", summary=summary)

    def refuse(word):
        pytest.fail(f"{word} is not JSON")

    json.loads(born.metadata.read_bytes(), parse_constant=refuse)
    loaded = record.load(born)["summary"]
    assert loaded["loss"] != loaded["loss"]
    assert (loaded["best"], loaded["worst"]) == (float("inf"), float("-inf"))
    assert loaded["note"] == "NaNny"


def test_an_argument_that_is_no_unicode_can_be_recorded(tmp_path):
    paths = make_run(tmp_path, argv=[os.fsdecode(b"caf\xe9.toml"), "\ud800"])

    assert record.load(paths)["argv"] == ["caf\\udce9.toml", "\\ud800"]


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_record_hash_is_the_same_before_and_after_the_disk(value):
    made = {"schema_version": 1, "value": value}
    on_disk = json.loads(json.dumps(record.plain(made), ensure_ascii=False).encode())

    assert record.record_sha256(made) == record.record_sha256(on_disk)


def test_only_the_final_write_is_forced_to_the_disk(born, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda fd: (synced.append(fd), real(fd)))
    record.change(born, state="running")
    assert synced == []

    record.change(born, state="completed")
    assert len(synced) == 1


def test_a_reader_never_sees_half_a_record(tmp_path):
    paths = make_run(tmp_path, state="created")
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import json, sys\n"
            "print('ready', flush=True)\n"
            "while True:\n"
            "    state = json.load(open(sys.argv[1]))['state']\n"
            "    if state == 'completed': break\n",
            str(paths.metadata),
        ],
        stdout=subprocess.PIPE,
    )
    assert reader.stdout is not None
    reader.stdout.readline()
    for number in range(200):
        record.change(paths, description="x" * 1000 * (number % 7))
    record.change(paths, state="completed")

    assert reader.wait(timeout=300) == 0
    reader.stdout.close()
    assert [path.name for path in paths.folder.iterdir() if path.name.endswith(".tmp")] == []


def test_a_missing_folder_is_not_found(tmp_path):
    with pytest.raises(errors.RunNotFoundError, match="no run folder"):
        record.load(RunPaths(tmp_path / "gone"))


def test_a_folder_without_record_says_so(tmp_path):
    paths = record.new_run_folder(tmp_path, "x")
    with pytest.raises(errors.RunNotFoundError, match="before its record was born"):
        record.load(paths)
    with pytest.raises(errors.RunNotFoundError, match="before its record was born"):
        record.change(paths, state="running")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff\xfe", '{"schema_version": 1}'])
def test_a_damaged_record_names_its_file(born, text):
    born.metadata.write_text(text, encoding="latin-1")
    with pytest.raises(errors.StoreError, match=re.escape(str(born.metadata))):
        record.load(born)


@pytest.mark.parametrize("version", [2, 99, "1", None])
def test_a_record_of_a_newer_engram_is_refused_with_advice(born, version):
    made = json.loads(born.metadata.read_bytes())
    born.metadata.write_text(json.dumps({**made, "schema_version": version}))
    with pytest.raises(errors.StoreError, match="use a newer engram"):
        record.load(born)


def test_annotations_do_not_touch_what_is_fixed(tmp_path):
    paths = make_run(tmp_path)
    before = record.load(paths)
    record.annotate(paths, tags=["good", "figure-2"], note="nice", pinned=True)
    record.annotate(paths, tags=["good"], untag=["figure-2"], rerun={"run": "r", "verdict": "v"})

    after = record.load(paths)
    assert after["tags"] == ["good"]
    assert [note["text"] for note in after["notes"]] == ["nice"]
    assert after["pinned"] is True
    assert after["reruns"] == [{"run": "r", "verdict": "v"}]
    assert after["record_sha256"] == before["record_sha256"] == record.record_sha256(after)


def annotate_from_elsewhere(folder, name):
    record.annotate(RunPaths(Path(folder)), tags=[name], note=name)


def test_annotators_at_once_lose_nothing(tmp_path):
    paths = make_run(tmp_path, state="running")
    names = [f"t{number}" for number in range(24)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        pool.starmap(annotate_from_elsewhere, [(str(paths.folder), name) for name in names], 1)
    record.change(paths, state="completed")

    found = record.load(paths)
    assert sorted(found["tags"]) == sorted(names)
    assert sorted(note["text"] for note in found["notes"]) == sorted(names)


def test_50_processes_finishing_at_once_leave_50_whole_lines(tmp_path):
    log = tmp_path / "logs" / "runs.jsonl"
    program = (
        "import sys; from pathlib import Path; from engram.record import append_line\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "line = {'run': sys.argv[2], 'fill': 'x' * 20000, 'loss': float('nan')}\n"
        "append_line(Path(sys.argv[1]), line)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(log), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")},
        )
        for number in range(50)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=300)
        assert process.returncode == 0

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(int(line["run"]) for line in lines) == list(range(50))
    assert all(line["fill"] == "x" * 20000 for line in lines)


def test_a_line_cut_short_by_a_crash_does_not_swallow_the_next(tmp_path):
    log = tmp_path / "runs.jsonl"
    log.write_bytes(b'{"run": 1}\n{"run": 2, "su')
    record.append_line(log, {"run": 3})

    assert log.read_text().splitlines()[-1] == '{"run": 3}'


def test_a_log_file_replaced_while_waiting_gets_the_line(tmp_path):
    from engram.locks import locked

    log = tmp_path / "runs.jsonl"
    log.write_text("old\n")
    with ThreadPoolExecutor(1) as pool:
        with locked(log):
            waiting = pool.submit(record.append_line, log, {"run": 1})
            log.rename(tmp_path / "runs.jsonl.1")
            log.write_text("")
        waiting.result(timeout=300)

    assert log.read_text() == '{"run": 1}\n'


@pytest.fixture
def full_disk(tmp_path):
    """A file system with nothing left."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Use up every byte."""
    with (folder / "filler").open("wb", buffering=0) as stream:
        try:
            for block in (4096, 1):
                while True:
                    stream.write(b"x" * block)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_full_disk_is_a_clear_error_and_leaves_the_store_intact(full_disk):
    root = full_disk / "runs"
    paths = make_run(root, state="running")
    log = full_disk / "log.jsonl"
    record.append_line(log, {"run": 1})
    before = paths.metadata.read_bytes()
    fill(full_disk)

    with pytest.raises(errors.StoreError, match="disk is full"):
        record.change(paths, state="completed", description="x" * 5000)
    with pytest.raises(errors.StoreError, match="disk is full"):
        record.append_line(log, {"run": 2, "fill": "x" * 9000})
    assert paths.metadata.read_bytes() == before
    assert log.read_text() == '{"run": 1}\n'
    assert list(paths.folder.glob(".*.tmp")) == []
    (full_disk / "filler").unlink()
    assert record.change(paths, state="completed")["state"] == "completed"


def test_a_file_size_limit_is_a_clear_error(tmp_path):
    paths = make_run(tmp_path, state="running")
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from engram import record; from engram.paths import RunPaths\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n"
        "record.change(RunPaths(Path(sys.argv[1])), state='completed')\n"
    )
    before = paths.metadata.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", program, str(paths.folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "lib")},
    )

    assert "StoreError" in done.stderr
    assert "file size limit" in done.stderr
    assert paths.metadata.read_bytes() == before


def test_a_root_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(errors.StoreError, match="is a file"):
        record.new_run_folder(tmp_path / "runs", "x")


def test_a_read_only_root_is_a_clear_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; see the read-only mount")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(errors.StoreError, match="permission denied"):
            record.new_run_folder(tmp_path / "runs", "x")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("state", ["created", "running", "failed"])
def test_records_answer_to_the_published_schema(tmp_path, state):
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes()))
    paths = make_run(tmp_path, state=state)

    assert [
        error.message for error in validator.iter_errors(json.loads(paths.metadata.read_bytes()))
    ] == []


def test_a_whole_annotated_record_answers_to_the_schema_and_a_wrong_one_does_not(tmp_path):
    schema = json.loads(SCHEMA.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    finding = {"code": "no_remote", "severity": "note", "message": "m", "evidence": ["c"]}
    paths = make_hashed_run(tmp_path / "runs", findings=[finding])
    record.annotate(
        paths, tags=["a"], note="b", rerun={"run": "r", "verdict": "identical", "when": "w"}
    )
    made = json.loads(paths.metadata.read_bytes())

    assert [error.message for error in validator.iter_errors(made)] == []
    for wrong in (
        {**made, "state": "done"},
        {**made, "surprise": 1},
        {**made, "times": {**made["times"], "created": "yesterday"}},
        {key: value for key, value in made.items() if key != "code"},
    ):
        assert not validator.is_valid(wrong)


def test_a_real_run_answers_to_the_schema_and_verifies(project):
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes()))
    for arguments in (["experiment.toml"], ["--rerun", "latest"]):
        done = project.run(*arguments)
        assert done.returncode == 0, done.stderr
    for paths in project.runs():
        made = json.loads(paths.metadata.read_bytes())
        assert [error.message for error in validator.iter_errors(made)] == []
        done = project.run("verify", paths.run_id)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
