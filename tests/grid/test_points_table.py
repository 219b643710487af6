"""points.csv and points.parquet: true to the records, current, and O(1) a point."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_grids import MadeGrid, run_record

from engram import record as runs
from engram.errors import StoreError
from engram.grid import pace, parquet_file, points_table, table_text
from engram.grid.parquet_file import DOUBLE, INTEGER, TEXT, Column
from engram.grid.points import Points
from engram.grid.points_table import FIXED, PointsTable, row_of
from engram.paths import GridPaths

LIB = Path(points_table.__file__).parents[2]
needs_pyarrow = pytest.mark.skipif(
    not parquet_file.installed(), reason="without pyarrow there is no points.parquet"
)

# What scripts return and what points vary, as nasty as it comes.
SUMMARIES = [
    {"loss": 0.25, "epochs": 3, "note": 'a "quoted", comma', "good": True, "mixed": 1},
    {"loss": math.nan, "epochs": None, "note": "two\nlines", "good": None, "mixed": "text"},
    {"loss": math.inf, "epochs": 7, "note": "carriage\rreturn", "good": False, "mixed": None},
    {"loss": -math.inf, "epochs": 9, "note": "größer \u65e5\u672c \U0001f9e0", "huge": 2**63},
    {"loss": 1, "note": "", "list": [1, "ä", None], "table": {"a": math.nan}, "mixed": 2.5},
    {"loss": 1e-300, "note": "ends here\0or not", "huge": -(2**63), "late": 0.1 + 0.2},
]


def drawn(number):
    return [({"lr": 0.1 * i, "name": f"x,{i}", "on": i % 2 == 0}, f"p{i}") for i in range(number)]


@pytest.fixture
def grid(tmp_path):
    """A grid of six points that ended with SUMMARIES, in another order than they were drawn."""
    made = MadeGrid(tmp_path / "runs", drawn(len(SUMMARIES)))
    for index in (3, 0, 5, 1, 4, 2):
        made.end(index, summary=SUMMARIES[index], seed=index * 10, run_s=index + 0.5)
    return made


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def read_parquet(path):
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()


def as_text(value):
    """What a cell of the CSV file holds for a value, written down by hand for every type."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return {True: "true", False: "false"}[value]
    if isinstance(value, list | dict):
        return json.dumps(runs.plain(value), ensure_ascii=False)
    return str(value).replace("\0", "\\x00")


def test_csv_holds_what_the_records_hold(grid):
    grid.close()
    rows = read_csv(grid.paths.table)

    assert [row["name"] for row in rows] == [f"p{index}" for index in range(6)]
    for index, row in enumerate(rows):
        record = runs.load(grid.paths.run(row["run_id"]))
        assert row["index"] == str(index)
        assert row["state"] == record["state"] == "completed"
        assert row["started"] == record["times"]["started"]
        assert float(row["run_s"]) == record["times"]["run_s"]
        assert row["seed"] == str(record["seed"])
        assert row["cause"] == ""
        assert float(row["param.lr"]) == 0.1 * index
        assert row["param.name"] == f"x,{index}"
        assert row["param.on"] == ("true" if index % 2 == 0 else "false")
        told = {key[8:]: text for key, text in row.items() if key.startswith("summary.")}
        assert told == {key: as_text(SUMMARIES[index].get(key)) for key in told}
        assert set(SUMMARIES[index]) <= set(told)


def test_parquet_holds_the_same_values_with_types(grid):
    grid.close()
    rows = read_parquet(grid.paths.parquet)
    told = read_csv(grid.paths.table)
    assert list(rows[0]) == list(told[0])
    assert [row["seed"] for row in rows] == [0, 10, 20, 30, 40, 50]
    assert [row["param.on"] for row in rows] == [True, False] * 3
    assert [row["summary.epochs"] for row in rows] == [3, None, 7, 9, None, None]
    assert [row["summary.good"] for row in rows] == [True, None, False, None, None, None]
    assert [row["summary.mixed"] for row in rows] == ["1", "text", None, None, "2.5", None]
    assert [row["summary.huge"] for row in rows][3:] == [str(2**63), None, str(-(2**63))]
    losses = [row["summary.loss"] for row in rows]
    assert math.isnan(losses[1])
    assert losses[:1] + losses[2:] == [0.25, math.inf, -math.inf, 1.0, 1e-300]
    for row, texts in zip(rows, told, strict=True):
        for key, value in row.items():
            if isinstance(value, float):
                assert math.isnan(value) or float(texts[key]) == value
            else:
                assert as_text(value) == texts[key]


def test_pandas_reads_the_same_from_both_files(grid):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    grid.close()
    texts = pandas.read_csv(grid.paths.table, keep_default_na=False, na_values=[""])
    typed = pandas.read_parquet(grid.paths.parquet)
    assert list(texts.columns) == list(typed.columns)
    for key in ("index", "run_id", "started", "run_s", "param.lr", "summary.late"):
        pandas.testing.assert_series_equal(texts[key], typed[key])
    assert texts["summary.note"].tolist()[:4] == typed["summary.note"].tolist()[:4]
    assert texts["summary.loss"].map(float).equals(typed["summary.loss"])


def test_columns_stand_in_order_whenever_they_appear(tmp_path):
    made = MadeGrid(tmp_path / "runs", drawn(3))
    made.end(0, summary={"b": 1})
    made.end(1, summary={"a": 2, "b": 3})
    header = made.paths.table.read_text().split("\n")[0].split(",")
    assert header[: len(FIXED)] == [
        *("index", "name", "state", "run_id", "attempts", "device", "seed"),
        *("started", "run_s", "cause"),
    ]
    made.table.flush(force=True)
    header = made.paths.table.read_text().split("\n")[0].split(",")
    assert header[len(FIXED) :] == [
        *("param.lr", "param.name", "param.on", "summary.b", "summary.a")
    ]
    assert [row["summary.a"] for row in read_csv(made.paths.table)] == ["", "2"]


def test_a_failed_point_says_why_and_a_retried_one_how_often(tmp_path):
    made = MadeGrid(tmp_path / "runs", drawn(2))
    made.end(0, "failed", "ValueError: a, b\nand c", attempt=1)
    made.end(1, "timed_out", "it took too long", attempt=3)
    first, second = read_csv(made.close("failed").table)
    assert (first["state"], first["cause"]) == ("failed", "ValueError: a, b\nand c")
    assert (second["state"], second["attempts"]) == ("timed_out", "3")
    assert made.table.counts() == {"failed": 1, "timed_out": 1}


def test_a_point_that_is_run_again_has_one_row(grid):
    again = grid.end(2, "failed", "worse now", attempt=2)
    grid.table.flush(force=True)
    rows = read_csv(grid.paths.table)
    assert [row["index"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert (rows[2]["run_id"], rows[2]["state"]) == (again.run_id, "failed")
    assert grid.table.counts() == {"completed": 5, "failed": 1}


def test_opened_anew_it_is_rebuilt_from_the_runs(grid):
    grid.close()
    before = grid.paths.table.read_bytes(), grid.paths.parquet.read_bytes()
    grid.paths.table.write_bytes(before[0][: len(before[0]) // 2])  # as a power cut may leave it
    grid.paths.parquet.unlink()
    table = PointsTable.open(grid.paths, Points(grid.paths.points))
    assert grid.paths.table.read_bytes() == before[0]
    table.flush(force=True)
    assert (grid.paths.table.read_bytes(), grid.paths.parquet.read_bytes()) == before
    assert table.counts() == {"completed": 6}


def test_a_run_that_still_goes_on_has_no_row(tmp_path):
    made = MadeGrid(tmp_path / "runs", drawn(2))
    made.end(0)
    paths = runs.new_run_folder(made.paths.folder.parent, made.paths.grid_id)
    place = {"id": made.paths.grid_id, "point": "p1", "index": 1, "attempt": 1}
    runs.create(paths, run_record(paths, grid=place, lease=None))
    paths.provenance.mkdir()
    rows = points_table.rebuild(made.paths, made.points)
    assert [row["index"] for row in rows] == [0]


def ended(index):
    """The record of a run, as far as a row needs it."""
    return {
        "state": "completed",
        "run_id": f"20261121T070000.{index % 1000:03d}Z-point-{index:06x}",
        "seed": index,
        "times": {"started": "2026-11-21T07:00:00.000000+00:00", "run_s": 0.123456},
        "exit": None,
    }


def row(index, **summary):
    record = {**ended(index), "summary": summary}
    return row_of(index, f"point-{index:05}", {"lr": index / 7}, record, 1, "gpu 0 slot 1")


def test_parameters_that_vary_only_since_later_points_are_filled_in(tmp_path):
    """As in a search: points are drawn while earlier ones are over already."""
    paths = GridPaths(tmp_path)
    points = Points.create(paths.points)
    table = PointsTable.open(paths, points)
    for index, parameters in enumerate(({"lr": 1, "on": True}, {"lr": 2, "on": True}, {"lr": 3})):
        points.append(parameters, f"p{index}")
        record = {**ended(index), "summary": {f"acc-{index}": index}}
        table.put(row_of(index, f"p{index}", points.columns(index), record, 1, "cpu"))
    table.finish()
    rows = read_csv(paths.table)

    assert [row["param.lr"] for row in rows] == ["1", "2", "3"]
    assert [row["param.on"] for row in rows] == ["true", "true", ""]
    assert [row["summary.acc-1"] for row in rows] == ["", "1", ""]


class Disk:
    """Counts the bytes that the table itself writes: appended, and in files written anew."""

    def __init__(self, monkeypatch):
        self.appended, self.anew = [], []
        write, write_atomic = os.write, points_table.write_atomic

        def counting(descriptor, data):
            self.appended.append(len(data))
            return write(descriptor, data)

        def counting_whole(path, data, **options):
            self.anew.append((path.name, len(data)))
            write_atomic(path, data, **options)

        monkeypatch.setattr(points_table.os, "write", counting)
        monkeypatch.setattr(points_table, "write_atomic", counting_whole)


def test_2000_points_cost_the_same_bytes_each(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])
    paths = GridPaths(tmp_path)
    table, disk = PointsTable(paths, ["lr"]), Disk(monkeypatch)
    for index in range(2000):
        table.put(row(index, acc=index / 2000))
        table.flush()
    assert len(disk.appended) == 1999  # the first one brought a new column
    assert sum(disk.appended[-100:]) < 1.1 * sum(disk.appended[:100])
    assert [name for name, _ in disk.anew] == ["points.csv"]
    table.finish()
    assert len(read_csv(paths.table)) == 2000


def test_a_new_column_in_every_point_does_not_write_the_file_each_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])
    write_atomic, count = points_table.write_atomic, []

    def slow(path, data, **options):
        clock[0] += len(data) * 1e-7
        count.append(path.name)
        write_atomic(path, data, **options)

    monkeypatch.setattr(points_table, "write_atomic", slow)
    table = PointsTable(GridPaths(tmp_path), ["lr"])
    for index in range(300):
        clock[0] += 0.001
        table.put(row(index, **{f"metric-{index}": 1.0}))
    assert count.count("points.csv") < 100
    table.finish()
    assert len(read_csv(GridPaths(tmp_path).table)) == 300


def test_memory_of_2000_rows_is_small(tmp_path):
    table = PointsTable(GridPaths(tmp_path), ["lr"])
    table.put(row(0, acc=0.5))
    tracemalloc.start()
    try:
        for index in range(1, 2001):
            table.put(row(index, acc=index / 2000))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 3_000_000


def test_a_full_disk_costs_no_row(tmp_path, monkeypatch):
    paths = GridPaths(tmp_path)
    table = PointsTable(paths, ["lr"])
    table.put(row(0, acc=1))
    write, full = os.write, [True]

    def half(descriptor, data):
        return write(descriptor, data[: len(data) // 2]) if full[0] else write(descriptor, data)

    def refuse(path, data, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(points_table.os, "write", half)
        patch.setattr(points_table, "write_atomic", refuse)
        table.put(row(1, acc=2))
        table.put(row(2, acc=3))
        with pytest.raises(StoreError, match="the disk is full"):
            table.finish()
    table.finish()
    assert [line["summary.acc"] for line in read_csv(paths.table)] == ["1", "2", "3"]


def test_a_table_that_was_deleted_comes_back(tmp_path):
    paths = GridPaths(tmp_path)
    table = PointsTable(paths, ["lr"])
    table.put(row(0, acc=1))
    paths.table.unlink()
    table.put(row(1, acc=2))
    table.flush(force=True)
    assert [line["index"] for line in read_csv(paths.table)] == ["0", "1"]


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False),
            st.none() | texts.filter(lambda text: "\0" not in text),
            st.none() | st.booleans(),
        ),
        max_size=70,
    ),
    texts,
)
def test_every_parquet_file_reads_back_as_it_was(rows, name):
    reader = pytest.importorskip("pyarrow.parquet")
    names = [f"{kind}.{name}" for kind in ("integer", "double", "text", "flag")]
    values = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    columns = map(Column, names, (INTEGER, DOUBLE, TEXT, None), values)
    table = reader.read_table(io.BytesIO(parquet_file.encode(columns)))
    flag = "string" if set(values[3]) <= {None} else "bool"
    assert table.column_names == names
    assert [str(kind) for kind in table.schema.types] == ["int64", "double", "string", flag]
    assert [table.column(place).to_pylist() for place in range(4)] == values


@pytest.mark.parametrize(
    ("fixed", "values", "kind", "expected"),
    [
        (None, [], "string", []),
        (None, [None, None], "string", [None, None]),
        (INTEGER, [None], "int64", [None]),
        (DOUBLE, [1, None], "double", [1.0, None]),
        (None, [1, 2.5], "double", [1.0, 2.5]),
        (None, [2**53 + 1, 0.5], "string", ["9007199254740993", "0.5"]),
        (None, [2**63 - 1, -(2**63)], "int64", [2**63 - 1, -(2**63)]),
        (INTEGER, [2**63, 1], "string", ["9223372036854775808", "1"]),
        (INTEGER, [1.5, 1], "double", [1.5, 1.0]),
        (None, [1.0, True], "string", ["1.0", "true"]),
        (None, [True, 1, None], "string", ["true", "1", None]),
        (None, ["", "a\0b", "\ud800"], "string", ["", "a\\x00b", "\\ud800"]),
        (None, [[1, None], {"a": "\u00e4"}], "string", ["[1, null]", '{"a": "\u00e4"}']),
    ],
)
def test_a_column_has_the_type_that_holds_its_values_as_they_are(fixed, values, kind, expected):
    reader = pytest.importorskip("pyarrow.parquet")
    data = parquet_file.encode([Column("it", fixed, values)])
    column = reader.read_table(io.BytesIO(data)).column("it")
    assert (str(column.type), column.to_pylist()) == (kind, expected)


def test_without_pyarrow_there_is_the_csv_file_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    paths = GridPaths(tmp_path)
    table = PointsTable(paths, ["lr"])
    table.put(row(0, acc=1))
    table.finish()
    assert table.problem is None
    assert [path.name for path in tmp_path.iterdir()] == ["points.csv"]


class Writers:
    """Processes that write points.parquet: how many there were, and what holds them up."""

    def __init__(self, monkeypatch, gate):
        """Make each of them wait until somebody opens `gate`, a named pipe, if there is one."""
        self.pids = []
        fork, encode = os.fork, parquet_file.encode

        def counting():
            pid = fork()
            if pid:
                self.pids.append(pid)
            return pid

        def held(columns):
            gate.read_bytes()
            return encode(columns)

        monkeypatch.setattr(parquet_file.os, "fork", counting)
        if gate is not None:
            os.mkfifo(gate)
            monkeypatch.setattr(parquet_file, "encode", held)


@needs_pyarrow
def test_a_point_never_waits_for_the_parquet_file_and_one_process_writes_it(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])
    paths, gate = GridPaths(tmp_path), tmp_path / "gate"
    table, writers = PointsTable(paths, ["lr"]), Writers(monkeypatch, gate)
    for index in range(100):
        clock[0] += 1.0
        table.put(row(index, acc=0.5))
        table.flush()
    assert len(writers.pids) == 1  # it waits at the gate, and so does nobody else
    assert len(read_csv(paths.table)) == 100
    assert not paths.parquet.exists()

    gate.write_bytes(b"")
    table._parquet.wait()
    assert [line["index"] for line in read_parquet(paths.parquet)] == [0, 1]
    for _ in range(99 * 20):  # it took 98 s on this clock, as far as anybody could see
        clock[0] += 1.0
        table.flush()
        assert len(writers.pids) == (1 if clock[0] < 100.0 + 98.0 * 20.0 else 2)
    gate.write_bytes(b"")
    table._parquet.wait()
    table.flush()
    assert len(writers.pids) == 2  # nothing has changed since
    assert len(read_parquet(paths.parquet)) == 100


@needs_pyarrow
def test_the_process_that_writes_has_nothing_of_the_dispatcher_open(tmp_path, monkeypatch):
    """A pipe that stays open there would hide the end of a slot."""
    encode = parquet_file.encode

    def looking(columns):
        numbers = [path.name for path in Path("/proc/self/fd").iterdir() if path.exists()]
        facts = {"open": sorted(numbers), "session": os.getsid(0)}
        (tmp_path / "facts").write_text(json.dumps(facts))
        return encode(columns)

    monkeypatch.setattr(parquet_file, "encode", looking)
    ends = os.pipe()
    table = PointsTable(GridPaths(tmp_path), ["lr"])
    table.put(row(0, acc=1))
    try:
        table.finish()
    finally:
        for end in ends:
            os.close(end)
    facts = json.loads((tmp_path / "facts").read_text())
    assert facts["open"] == ["0", "1", "2"]
    assert facts["session"] != os.getsid(0)  # a Ctrl-C in the terminal does not reach it


@needs_pyarrow
@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("raise RuntimeError('pyarrow is broken: ' + chr(0xD800))", "pyarrow is broken"),
        ("os.write(2, b'terminate called'); os.kill(os.getpid(), 9)", "terminate called"),
        ("os.kill(os.getpid(), 9)", "ended by signal 9; points.csv has the same rows"),
        ("os._exit(7)", "ended with exit code 7; points.csv has the same rows"),
        ("raise OSError(errno.ENOSPC, '')", "the disk is full"),
        ("os.write(2, b'x' * 1000000); os._exit(7)", "xxx"),
    ],
)
def test_a_process_that_cannot_write_is_told_with_what_it_said(tmp_path, monkeypatch, breaks, said):
    paths = GridPaths(tmp_path)
    table = PointsTable(paths, ["lr"])
    table.put(row(0, acc=1))
    with monkeypatch.context() as patch:
        patch.setattr(parquet_file, "encode", lambda columns: exec(breaks))
        with pytest.raises(StoreError, match=said) as raised:
            table.finish()
    assert "points.parquet" in str(raised.value)
    assert len(str(raised.value)) < 10_000
    assert table.problem is raised.value
    assert len(read_csv(paths.table)) == 1
    assert not paths.parquet.exists()

    table.flush(force=True)
    assert table.problem is None
    assert len(read_parquet(paths.parquet)) == 1


def test_no_more_processes_is_told_too(tmp_path, monkeypatch):
    paths = GridPaths(tmp_path)
    monkeypatch.setattr(parquet_file.importlib.util, "find_spec", lambda name: True)

    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    table = PointsTable(paths, ["lr"])
    table.put(row(0, acc=1))
    monkeypatch.setattr(parquet_file.os, "fork", refuse)
    with pytest.raises(StoreError, match=r"points\.parquet.*temporarily unavailable"):
        table.finish()
    assert len(read_csv(paths.table)) == 1
    assert "engram-parquet" not in "".join(
        os.path.realpath(p) for p in Path("/proc/self/fd").iterdir()
    )


@needs_pyarrow
def test_an_interrupt_ends_the_process_that_is_waited_for(tmp_path, monkeypatch):
    table, writers = PointsTable(GridPaths(tmp_path)), Writers(monkeypatch, tmp_path / "gate")
    table.put(row(0, acc=1))
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            table.finish()
    finally:
        signal.signal(signal.SIGALRM, previous)
    (pid,) = writers.pids
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def python(code, *arguments):
    """Start an interpreter that has imported nothing yet: a pytest process has many threads."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIB), str(Path(__file__).parent)])}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


@needs_pyarrow
def test_a_dispatcher_that_writes_it_stays_light(tmp_path):
    """No thread, no package, no descriptor, no process that nobody waited for."""
    code = """
        import os, sys
        from pathlib import Path
        from engram.grid import points_table
        from engram.grid.parquet_file import ParquetFile
        from engram.paths import GridPaths

        before = sorted(os.listdir("/proc/self/fd"))
        table = points_table.PointsTable(GridPaths(Path(sys.argv[1])), ["lr"])
        record = {"state": "completed", "run_id": "x", "seed": 1, "times": {}, "summary": {"a": 1}}
        for index in range(300):
            table.put(points_table.row_of(index, f"p{index}", {"lr": index}, record, 1, "cpu"))
            table.flush(force=index in (100, 200))
        table.finish()
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert os.listdir("/proc/self/task") == [str(os.getpid())]
        assert not {"pyarrow", "numpy", "pandas"} & set(sys.modules)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("light")
    """
    with python(code, tmp_path) as process:
        assert process.communicate()[0] == "light\n"
    assert len(read_parquet(GridPaths(tmp_path).parquet)) == 300


@needs_pyarrow
def test_the_process_that_writes_dies_with_the_dispatcher(tmp_path):
    code = """
        import os, sys, time
        from pathlib import Path
        from engram.grid import parquet_file, points_table
        from engram.paths import GridPaths

        def stuck(columns):
            os.write(out, f"{os.getpid()}\\n".encode())
            time.sleep(600)

        out = os.dup(1)
        parquet_file.encode = stuck
        parquet_file.forked.guardian.close_all_but = lambda *keep: None
        points_table.PointsTable(GridPaths(Path(sys.argv[1])), ["lr"]).finish()
    """
    with python(code, tmp_path) as process:
        writer = int(process.stdout.readline())
        assert is_alive(writer)
        process.kill()
    end = time.monotonic() + 120
    while is_alive(writer) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_alive(writer)


def is_alive(pid):
    """Whether a process has not ended yet; one that nobody has waited for has."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@given(st.text(), st.text() | st.floats() | st.integers() | st.booleans() | st.none())
def test_every_line_of_the_csv_file_reads_back(text, value):
    line = table_text.line([text, value, "end"]).decode("utf-8")
    (found,) = csv.reader(io.StringIO(line, newline=""))
    expected = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    assert found[0] == expected
    assert found[2] == "end"
    assert line.endswith("\n")
