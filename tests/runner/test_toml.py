"""TOML in and out, with Python's own parser as the oracle."""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engram import overrides, toml
from engram.errors import ConfigError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ZONES = st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    TEXT,
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=ZONES),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(TEXT, VALUES, max_size=6)

COMMENTED = """\
# how long
epochs = 6  # full passes

[optimizer]
"name with space" = "adam"  # quoted
lr = 1e-3      # per step
sizes = [
    1,  # one
    2,
]

[[layers]]
size = 10  # first
[[layers]]
size = 20  # second
"""


@given(TABLES)
@settings(deadline=None)
def test_every_value_reads_back_the_same(values):
    assert toml.equal(tomllib.loads(toml.dumps(values)), values)


@given(TABLES, VALUES)
@settings(deadline=None, max_examples=50)
def test_an_edited_text_holds_the_new_value_and_all_others(values, new):
    data = toml.dumps({**values, "changed": 1}).encode()
    change = overrides.Override(("changed",), new, create=False, is_text=False, text="changed=...")
    edited = tomllib.loads(toml.edit(data, [change], where="p.toml").decode())
    assert toml.equal(edited, {**values, "changed": new})


def test_nan_and_infinities_survive():
    found = tomllib.loads(toml.dumps({"a": [math.nan, math.inf, -math.inf, -0.0]}))["a"]
    assert math.isnan(found[0])
    assert found[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, found[3]) == -1


def test_equal_tells_types_signs_and_zones_apart():
    assert toml.equal(math.nan, math.nan)
    assert not toml.equal(1, 1.0)
    assert not toml.equal(1, True)
    assert not toml.equal(0.0, -0.0)
    assert not toml.equal({"a": 1}, {"b": 1})
    assert not toml.equal(datetime.date(2026, 1, 1), "2026-01-01")
    assert not toml.equal([1], [1, 1])


def test_editing_keeps_comments_and_layout():
    pytest.importorskip("tomlkit", reason="comments are kept by tomlkit")
    changes = [
        overrides.parse(text) for text in ("optimizer.lr=0.5", "layers.1.size=30", "epochs=7")
    ]
    edited = toml.edit(COMMENTED.encode(), changes, where="p.toml").decode()
    expected = COMMENTED.replace("1e-3", "0.5").replace("20", "30").replace("= 6", "= 7")
    assert edited == expected


def test_editing_without_tomlkit_keeps_the_values(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "tomlkit", None)
    edited = toml.edit(COMMENTED.encode(), [overrides.parse("epochs=7")], where="p.toml").decode()
    assert tomllib.loads(edited) == {**tomllib.loads(COMMENTED), "epochs": 7}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"a = 1\nb = \n", "line 2, column 5"),
        (b"a = 1\nb = [1,\n", "end of document"),
        (b"a = 1\nb = '\xff'\n", "line 2"),
        (b"a = 1\na = 2\n", "line 2"),
        (b"\xef\xbb\xbfa = 1\n", "byte order mark"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, data, where):
    path = tmp_path / "p.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=where) as caught:
        toml.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"absent\.toml.*No such file"):
        toml.read(tmp_path / "absent.toml")


def test_endless_nesting_is_an_error_not_a_crash():
    with pytest.raises(ConfigError, match="deep.toml"):
        toml.loads(b"a = " + b"[" * 100_000, where="deep.toml")


def test_a_number_of_too_many_digits_is_an_error_not_a_crash():
    with pytest.raises(ConfigError, match="big.toml"):
        toml.loads(b"a = " + b"1" * 5000, where="big.toml")


def test_what_toml_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match=r"'a\.b' is None"):
        toml.dumps({"a": {"b": None}})
    with pytest.raises(ConfigError, match="not valid Unicode"):
        toml.dumps({"a": "\udcff"})


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a=1", ("a",), 1),
        ("a.b.c=1.5", ("a", "b", "c"), 1.5),
        (" a . b = true", ("a", "b"), True),
        ('"x.y".z=[1, "two"]', ("x.y", "z"), [1, "two"]),
        ("'q\"'=2026-11-21", ('q"',), datetime.date(2026, 11, 21)),
        ('"t\\tb"=1', ("t\tb",), 1),
        ("a=nan", ("a",), math.nan),
        ("a=adam", ("a",), "adam"),
        ('a="1"', ("a",), "1"),
        ("a=", ("a",), ""),
        ("a=x=y", ("a",), "x=y"),
        ("a=#fff", ("a",), "#fff"),
        ("a=1\nb = 2", ("a",), "1\nb = 2"),
        ("a={lr = 1}", ("a",), {"lr": 1}),
        ("größe=3", ("größe",), 3),
        ("layers.0.size=3", ("layers", "0", "size"), 3),
    ],
)
def test_a_value_is_toml_else_text(text, path, value):
    change = overrides.parse(text)
    assert change.path == path
    assert toml.equal(change.value, value)
    assert not change.create
    assert overrides.parse("+" + text).create


@pytest.mark.parametrize("text", ["", "a", "=1", "a.=1", ".a=1", "+", "a b=1", 'a"b"=1'])
def test_what_is_no_key_and_value_is_refused(text):
    with pytest.raises(ConfigError, match=r"is not KEY=VALUE: write for example --set"):
        overrides.parse(text)


def test_bytes_that_are_not_text_are_refused():
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        overrides.parse("a=\udcff")


@given(st.lists(TEXT, min_size=1, max_size=4), VALUES)
@settings(deadline=None)
def test_any_key_can_be_written_with_quotes(path, value):
    written = ".".join(toml._key(key) for key in path)
    line = toml.dumps({"value": value}).removeprefix("value = ").strip()
    if isinstance(value, dict) or (
        isinstance(value, list) and value and isinstance(value[0], dict)
    ):
        return
    change = overrides.parse(f"{written}={line}")
    assert change.path == tuple(path)
    assert toml.equal(change.value, value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("epoch=3", "did you mean 'epochs'"),
        ("lr=3", r"did you mean 'optimizer\.lr'"),
        ("optimiser.lr=3", r"did you mean 'optimizer\.lr'"),
        ("optimizer.lrr=3", r"did you mean 'optimizer\.lr'"),
        ("layers.0.siz=3", r"did you mean 'layers\.0\.size'"),
        ("zzzzzz=3", r"to add a new key write '\+zzzzzz=3'"),
    ],
)
def test_an_unknown_key_is_refused_with_what_was_meant(text, hint):
    with pytest.raises(ConfigError, match=hint) as caught:
        toml.edit(COMMENTED.encode(), [overrides.parse(text)], where="p.toml")
    assert "p.toml" in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("layers.2.size=1", "no index into an array of 2"),
        ("layers.-1.size=1", "no index into an array of 2"),
        ("layers.x=1", "no index into an array of 2"),
        ("epochs.a=1", "'epochs' in p.toml is 6"),
        ("+epochs.a=1", "'epochs' in p.toml is 6"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(text, what):
    with pytest.raises(ConfigError, match=what):
        toml.edit(COMMENTED.encode(), [overrides.parse(text)], where="p.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+new=1", {"new": 1}),
        ("+new.deep.er=1", {"new": {"deep": {"er": 1}}}),
        ("+a.2=3", {"a": [1, 2, 3]}),
        ("a.0=9", {"a": [9, 2]}),
        ("a=7", {"a": 7}),
        ("t={y = 2}", {"t": {"y": 2}}),
        ("+t.y=2", {"t": {"x": 1, "y": 2}}),
    ],
)
def test_values_are_set_where_the_path_says(text, expected):
    base = {"a": [1, 2], "t": {"x": 1}}
    edited = toml.edit(toml.dumps(base).encode(), [overrides.parse(text)], where="p.toml")
    assert tomllib.loads(edited.decode()) == {**base, **expected}


@pytest.mark.parametrize("text", ["flag=False", "flag=yes", "flag=0n"])
def test_text_in_place_of_a_boolean_is_refused(text):
    with pytest.raises(ConfigError, match="write true or false"):
        toml.edit(b"flag = true\n", [overrides.parse(text)], where="p.toml")


@pytest.mark.parametrize(
    "text", ["t.rate=fast", "+t.rate=fast", "t.rate=1e-3x", "t.rate=", "n.0=I"]
)
def test_text_in_place_of_a_number_is_refused_unless_it_is_quoted(text):
    base = b"t = {rate = 1e-3}\nn = [1]\n"
    key, _, value = text.partition("=")
    quoted = f'{key}="{value}"'
    with pytest.raises(ConfigError, match=re.escape(f"write a number, or '{quoted}' for text")):
        toml.edit(base, [overrides.parse(text)], where="p.toml")
    edited = tomllib.loads(toml.edit(base, [overrides.parse(quoted)], where="p.toml").decode())
    assert value in (edited["t"]["rate"], edited["n"][0])


def test_a_setting_that_may_be_a_number_or_text_takes_both():
    values = {"timeout": 60}
    overrides.apply(values, [overrides.parse("timeout=2h")], where="experiment.toml", create=True)
    assert values == {"timeout": "2h"}


@given(TABLES, st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_overriding_any_one_value_changes_only_that_one(values, data):
    if not values:
        return
    key = data.draw(st.sampled_from(sorted(values)))
    change = overrides.Override((key,), 12345, create=False, is_text=False, text="x")
    edited = toml.edit(toml.dumps(values).encode(), [change], where="p.toml")
    assert toml.equal(tomllib.loads(edited.decode()), {**values, key: 12345})
