"""The points of a grid: names, what TOML can hold, what differs, and how they are kept."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import time
import tomllib
import tracemalloc
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engram import toml
from engram.errors import ConfigError, StoreError
from engram.grid.points import Points, folded, name_problem

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ZONES = st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    TEXT,
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=ZONES),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(TEXT, VALUES, max_size=5)
WITH_FOLDER = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def points(tmp_path):
    return Points.create(tmp_path / "points.jsonl")


def lines(points):
    return [json.loads(line) for line in points.path.read_text(encoding="utf-8").splitlines()]


def values(points, index):
    return tomllib.loads(points.parameters(index).decode())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is empty"),
        (".", "means a folder"),
        ("..", "means a folder"),
        ("a/b", "slash"),
        ("a\\b", "backslash"),
        ("a\nb", "U+000A"),
        ("a\0b", "U+0000"),
        ("a\x7fb", "U+007F"),
        ("a\x85b", "U+0085"),
        ("a\u2028b", "U+2028"),
        ("a\u200bb", "U+200B"),
        ("a\u202eb", "U+202E"),
        ("a\ud800b", "U+D800"),
        ("-a", "begins with '-'"),
        (".a", "begins with '.'"),
        (" a", "begins with a space"),
        ("a ", "ends with a space"),
        ("a.", "or a dot"),
        ("a" * 121, "has 121 bytes"),
        ("é" * 61, "has 122 bytes"),
        (3, "of type int: names are text"),
        (None, "of type NoneType"),
        (b"a", "of type bytes"),
    ],
)
def test_name_that_is_not_fit_is_refused_with_its_index(points, name, said):
    points.append({}, "fine")
    with pytest.raises(ConfigError) as caught:
        points.append({}, name)

    assert said in str(caught.value)
    assert "point 1:" in str(caught.value)
    assert len(points) == 1
    assert len(lines(points)) == 1


@pytest.mark.parametrize("name", ["a", "lr=0.1,seed=2", "é" * 60, "日本", "x y", "a-b.c~2", "_"])
def test_name_that_is_fit_is_taken(points, name):
    assert points.append({}, name) == 0


@given(st.text(max_size=40))
@WITH_FOLDER
def test_every_name_that_is_taken_can_be_a_file_and_a_line(tmp_path, name):
    if name_problem(name) is not None:
        return
    path = tmp_path / name
    path.write_text("x")

    assert path.parent == tmp_path
    assert name in [found.name for found in tmp_path.iterdir()]
    assert name.splitlines() == [name]
    assert name.strip() == name
    path.unlink()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "A"),
        ("Straße", "STRASSE"),
        ("\u00e9", "e\u0301"),
        ("\u00c9", "e\u0301"),
        ("\ufb01t", "fit"),
        ("\u03c3\u03c2", "\u03a3\u03a3"),
    ],
)
def test_names_that_differ_in_case_or_normal_form_only_are_refused_with_both(points, one, other):
    points.append({}, "between")
    points.append({}, one)
    with pytest.raises(ConfigError, match="differ in nothing but case or Unicode") as caught:
        points.append({}, other)

    shown = [
        name if unicodedata.is_normalized("NFC", name) else ascii(name) for name in (one, other)
    ]
    assert all(name in str(caught.value) for name in shown)
    assert "points 1 and 2" in str(caught.value)


def test_same_name_twice_is_refused_with_both_points(points):
    points.append({"a": 1}, "x")
    with pytest.raises(ConfigError, match="points 0 and 1 are both named 'x'"):
        points.append({"a": 2}, "x")


@given(st.text(max_size=10))
def test_folding_knows_no_case_and_no_form(name):
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert folded(unicodedata.normalize(form, name)) == folded(name)
    assert folded(folded(name)) == folded(name)


def holding_itself():
    table = {}
    table["inner"] = [table]
    return table


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"a": {"b": None}}, ["'a.b'", "None", "NoneType", "leave the key out"]),
        ({"a": [1, {"b": {1, 2}}]}, ["'a.1.b'", "{1, 2}", "sorted"]),
        ({"a.b": {"c d": 1j}}, ['"a.b"."c d"', "complex"]),
        ({"a": Path("x")}, ["'a'", "PosixPath", "str("]),
        ({"a": b"x"}, ["bytes"]),
        ({"a": 2**63}, ["9223372036854775808", "64 bits"]),
        ({"a": -(2**63) - 1}, ["64 bits"]),
        ({"a": {3: "x"}}, ["key 3 in parameter 'a'", "keys are strings"]),
        ({"a": "\ud800"}, ["'\\ud800'", "parameter 'a'", "not valid Unicode"]),
        ({"\ud800": 1}, ["not valid Unicode"]),
        ({"a": range(3)}, ["range(0, 3)", "list("]),
        ({"a": object()}, ["<object object", "TOML has no object"]),
        ({"a": datetime.time(1, tzinfo=datetime.UTC)}, ["time zone"]),
        (
            {"a": datetime.datetime(1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(0, 1)))},
            ["whole minutes"],
        ),
        ({"a": holding_itself()}, ["does it hold itself?"]),
        ([("a", 1)], ["its parameters are [('a', 1)]", "they are a dict"]),
        (None, ["they are a dict"]),
    ],
)
def test_value_that_toml_cannot_hold_is_refused_with_key_and_type(points, parameters, said):
    with pytest.raises(ConfigError) as caught:
        points.append(parameters, "this")

    assert all(text in str(caught.value) for text in ["point 0 ('this')", *said])
    assert points.path.read_bytes() == b""


@given(st.lists(TABLES, min_size=1, max_size=3))
@WITH_FOLDER
def test_parameters_read_back_the_same(tmp_path, tables):
    points = Points.create(tmp_path / "points.jsonl")
    for index, table in enumerate(tables):
        points.append(table, f"point-{index}")
    again = Points(points.path)

    for index, table in enumerate(tables):
        assert toml.equal(values(points, index), table)
        assert again.parameters(index) == points.parameters(index)


def test_what_is_not_quite_plain_becomes_plain(points):
    class Name(str):
        pass

    class Number(int):
        pass

    points.append({"a": (1, (2,)), "b": Name("x"), "c": Number(3), "d": math.inf}, "x")

    assert values(points, 0) == {"a": [1, [2]], "b": "x", "c": 3, "d": math.inf}


def test_scalars_of_numpy_become_plain_and_arrays_are_refused(points):
    np = pytest.importorskip("numpy")
    scalars = {"a": np.float32(0.1), "b": np.int8(-3), "c": np.bool_(True), "d": np.str_("x")}
    points.append(scalars, "x")

    assert toml.equal(
        values(points, 0), {"a": float(np.float32(0.1)), "b": -3, "c": True, "d": "x"}
    )
    for value in (np.ones(3), np.complex64(1), np.datetime64("2020-01-01"), np.uint64(2**63)):
        with pytest.raises(ConfigError, match="parameter 'deep.a'"):
            points.append({"deep": {"a": value}}, "y")


def test_dict_that_is_changed_after_it_was_given_is_safe(points):
    shared = {"lr": 0.1, "inner": {"a": [1]}}
    points.append(shared, "one")
    shared["lr"] = 0.2
    shared["inner"]["a"].append(2)
    points.append(shared, "two")

    assert values(points, 0) == {"lr": 0.1, "inner": {"a": [1]}}
    assert values(points, 1) == {"lr": 0.2, "inner": {"a": [1, 2]}}


FLAT = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.one_of(st.booleans(), st.integers(0, 2), st.floats(), st.sampled_from(["0", "x", "nan"])),
)


@given(st.lists(FLAT, min_size=1, max_size=5))
@WITH_FOLDER
def test_varying_keys_are_those_with_more_than_one_value(tmp_path, tables):
    written = Points.create(tmp_path / "points.jsonl")
    for index, table in enumerate(tables):
        written.append(table, f"p{index}")
    keys = list(dict.fromkeys(key for table in tables for key in table))
    missing = object()
    distinct = {
        key: {
            (type(v), "" if v is missing else repr(v))
            for t in tables
            for v in [t.get(key, missing)]
        }
        for key in keys
    }
    expected = [key for key in keys if len(distinct[key]) > 1]

    for points in (written, Points(written.path)):
        assert list(points.varying) == expected
        for index, table in enumerate(tables):
            found = points.columns(index)
            assert list(found) == expected
            assert {k: repr(v) for k, v in found.items()} == {
                k: repr(table.get(k)) for k in expected
            }


def test_columns_name_dotted_keys_in_order_of_appearance(points):
    points.append({"opt": {"lr": 0.1, "name": "adam"}, "seed": 0, "layers": [{"n": 1}]}, "a")
    points.append({"opt": {"lr": 0.2, "name": "adam"}, "seed": 1, "layers": [{"n": 2}]}, "b")
    points.append({"opt": {"lr": 0.2}, "seed": 1, "layers": [{"n": 2}], "new.key": [1, 2]}, "c")

    assert points.varying == ("seed", "opt.lr", "opt.name", "layers.0.n", '"new.key"')
    assert Points(points.path).varying == points.varying
    assert points.columns(2) == {
        "seed": 1,
        "opt.lr": 0.2,
        "opt.name": None,
        "layers.0.n": 2,
        '"new.key"': "[1, 2]",
    }


def test_keys_that_nobody_varies_are_no_columns(points):
    for name in "ab":
        points.append({"x": math.nan, "y": [1, {"z": 2}], "d": datetime.date(2020, 1, 1)}, name)

    assert points.varying == ()
    assert points.columns(1) == {}


def test_long_values_are_short_in_columns_and_still_told_apart(points):
    texts = ["x" * 10_000 + end for end in "aab"]
    for index, text in enumerate(texts):
        points.append({"text": text, "list": list(range(10_000 + index // 2))}, f"p{index}")
    columns = [points.columns(index) for index in range(3)]

    assert points.varying == ("text", "list")
    assert columns[0] == columns[1] != columns[2]
    assert len(json.dumps(columns)) < 2000


def test_a_file_says_what_its_writer_knew(points):
    for index in range(5):
        points.append({"a": index, "b": 1.5}, f"p{index}")
    again = Points(points.path)

    assert len(again) == 5
    assert again.names == points.names == ["p0", "p1", "p2", "p3", "p4"]
    assert again.sha256 == points.sha256 == hashlib.sha256(points.path.read_bytes()).hexdigest()
    assert [line["index"] for line in lines(points)] == [0, 1, 2, 3, 4]
    assert {"index", "name", "parameters"} <= set(lines(points)[0])


def test_points_are_appended_to_those_of_a_file(points):
    points.append({"a": 1, "b": 1}, "one")
    again = Points(points.path)
    again.append({"a": 2, "b": 1}, "two")

    assert again.varying == ("a",)
    assert again.columns(0) == {"a": 1}
    assert Points(points.path).sha256 == again.sha256
    with pytest.raises(ConfigError, match="points 0 and 2 are both named 'one'"):
        again.append({}, "one")


def test_points_are_found_by_name(points):
    for name in ("lr=0.1", "lr=0.2"):
        points.append({}, name)

    assert points.index_of("lr=0.2") == 1
    with pytest.raises(ConfigError, match=r"no point 'lr=0.3'.*did you mean 'lr=0"):
        points.index_of("lr=0.3")
    with pytest.raises(ConfigError, match="no point 'LR=0.1'"):
        points.index_of("LR=0.1")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-5], "cut short"),
        (lambda text: text.replace('{"index": 1', '{"index": ', 1), "line 2"),
        (lambda text: text.replace('"index": 1', '"index": 7', 1), "it holds point 7"),
        (lambda text: text.replace('"name": "b"', '"nam": "b"', 1), "no 'name'"),
        (lambda text: text.replace('"name": "b"', '"name": "a"', 1), "'a' is there twice"),
        (lambda text: text.replace('["int", 2]', '["int"]', 1), "is no cell"),
        (lambda text: text.replace("\n", "\n\n", 1), "line 2"),
    ],
)
def test_damaged_file_is_told_with_its_line(points, damage, said):
    points.append({"a": 1}, "a")
    points.append({"a": 2}, "b")
    text = points.path.read_text()
    points.path.write_text(damage(text))

    assert damage(text) != text
    with pytest.raises(StoreError, match="line 2 is damaged") as caught:
        Points(points.path)
    assert said in str(caught.value)


def test_file_that_is_gone_or_changed_is_told(points):
    points.append({"a": 1}, "a")
    points.path.write_text("{}\n")
    with pytest.raises(StoreError, match="line 1 is damaged"):
        points.parameters(0)
    points.path.unlink()
    with pytest.raises(StoreError, match="cannot read"):
        points.parameters(0)
    with pytest.raises(StoreError, match="cannot read"):
        Points(points.path)


def test_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(StoreError, match="cannot write"):
        Points.create(tmp_path / "nothing" / "points.jsonl")


def seconds(path, number, keys):
    """CPU time to write and read `number` points of `keys` parameters each."""
    base = {f"key{index}": index / 7 for index in range(keys)}
    began = time.process_time()
    points = Points.create(path)
    for index in range(number):
        points.append({**base, "seed": index}, f"seed={index}")
    again = Points(path)
    assert [again.columns(index) for index in range(number)][-1] == {"seed": number - 1}
    return time.process_time() - began


def test_two_thousand_points_cost_ten_times_two_hundred(tmp_path):
    few = min(seconds(tmp_path / "few", 200, 20) for _ in range(3))
    many = seconds(tmp_path / "many", 2000, 20)

    assert many < 25 * few


def test_large_parameters_cost_in_proportion(tmp_path):
    small = min(seconds(tmp_path / "small", 3, 2_000) for _ in range(3))
    large = seconds(tmp_path / "large", 3, 20_000)

    assert large < 25 * small


def test_memory_does_not_grow_with_the_size_of_the_parameters(points):
    text = "x" * 20_000
    for index in range(300):
        points.append({"text": text, "seed": index}, f"seed={index}")
    assert points.path.stat().st_size > 6_000_000
    tracemalloc.start()
    try:
        again = Points(points.path)
        assert again.columns(299) == {"seed": 299}
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 1_000_000
