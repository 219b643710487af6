"""The [grid] table: how many points it makes, what they hold, what they are called."""

from __future__ import annotations

import copy
import itertools
import math
import random
import re
import statistics
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engram import config, toml
from engram.errors import ConfigError
from engram.grid import point_names
from engram.grid.distributions import distribution, stream
from engram.grid.draw import draw
from engram.grid.point_names import Namer
from engram.grid.points import folded, name_problem

ROOT = Path(__file__).resolve().parents[2]
BASE = {
    "lr": 0.1,
    "seed": 7,
    "layers": [{"size": 8}, {"size": 4}],
    "optimizer": {"name": "adam", "momentum": 0.9},
    "schedule": {"name": "flat", "warm": False},
    "a.b": 1,
}


@pytest.fixture
def drawn(tmp_path):
    """Draw from the text of a [grid] table."""

    def call(text, base=BASE):
        path = tmp_path / "experiment.toml"
        path.write_text(f"script = 'work.py'\n[grid]\n{text}", encoding="utf-8")
        found = config.load(path, root=tmp_path)
        return draw(None, found, base, tmp_path / "points.jsonl")

    return call


def values(points):
    return [tomllib.loads(points.parameters(index).decode()) for index in range(len(points))]


def changed(**changes):
    """BASE with keys replaced; two underscores stand for a dot."""
    found = copy.deepcopy(BASE)
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = found
        for part in outer:
            place = place[part]
        place[last] = value
    return found


def test_product_makes_every_combination_the_last_changing_fastest(drawn):
    points = drawn("[grid.product]\nlr = [1.0, 2.0]\noptimizer.name = ['sgd', 'adam']").points

    assert values(points) == [
        changed(lr=lr, optimizer__name=name) for lr in (1.0, 2.0) for name in ("sgd", "adam")
    ]
    assert points.names == [
        "lr=1.0,name=sgd",
        "lr=1.0,name=adam",
        "lr=2.0,name=sgd",
        "lr=2.0,name=adam",
    ]
    assert set(points.varying) == {"lr", "optimizer.name"}


@pytest.mark.parametrize(
    "text",
    [
        "[grid.product]\n'optimizer.momentum' = [0.5, 0.6]",
        "[grid.product]\noptimizer.momentum = [0.5, 0.6]",
        "[grid.product.optimizer]\nmomentum = [0.5, 0.6]",
        "product = {optimizer = {momentum = [0.5, 0.6]}}",
    ],
)
def test_dotted_and_nested_keys_are_the_same(drawn, text):
    assert [point["optimizer"]["momentum"] for point in values(drawn(text).points)] == [0.5, 0.6]


def test_zip_goes_side_by_side(drawn):
    points = drawn("[grid.zip]\nlr = [1.0, 2.0, 3.0]\noptimizer.name = ['a', 'b', 'a']").points

    assert values(points) == [
        changed(lr=lr, optimizer__name=name)
        for lr, name in zip((1.0, 2.0, 3.0), "aba", strict=True)
    ]


def test_points_are_overrides_of_the_base(drawn):
    points = drawn(
        "[[grid.points]]\nlr = 1.0\noptimizer.name = 'sgd'\n"
        "[[grid.points]]\n[[grid.points]]\n'layers.1.size' = 9"
    ).points

    expected = [changed(lr=1.0, optimizer__name="sgd"), BASE, changed()]
    expected[2]["layers"][1]["size"] = 9
    assert values(points) == expected
    assert points.names == [
        "lr=1.0,name=sgd,size=4",
        "lr=0.1,name=adam,size=4",
        "lr=0.1,name=adam,size=9",
    ]


def test_repeats_count_seeds_from_zero_and_seeds_name_them(drawn):
    assert [point["seed"] for point in values(drawn("repeats = 3").points)] == [0, 1, 2]
    assert [point["seed"] for point in values(drawn("seeds = [5, 3]").points)] == [5, 3]
    assert drawn("seeds = [5, 3]").points.names == ["seed=5", "seed=3"]


def test_repeats_add_the_seed_that_the_parameters_lack(drawn):
    points = drawn("repeats = 2\nproduct.lr = [1.0, 2.0]", {"lr": 0.1}).points

    assert values(points) == [{"lr": lr, "seed": seed} for lr in (1.0, 2.0) for seed in (0, 1)]


def test_plus_adds_a_key(drawn):
    points = drawn("product.'+new.key' = [1, 2]").points

    assert [point["new"] for point in values(points)] == [{"key": 1}, {"key": 2}]
    assert points.names == ["key=1", "key=2"]


def test_base_is_left_as_it_is(drawn):
    base = copy.deepcopy(BASE)
    drawn("repeats = 2\n[grid.product]\n'layers.0.size' = [1, 2]\n[grid.random]\n", base)

    assert base == BASE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("product.lrr = [1]", ["[grid.product] 'lrr'", "did you mean 'lr'", "write '+lrr'"]),
        ("product.momentum = [1]", ["did you mean 'optimizer.momentum'"]),
        ("zip.optimizer.nme = ['a']", ["[grid.zip]", "did you mean 'optimizer.name'"]),
        ("[[grid.points]]\nrl = 1", ["[[grid.points]]", "there is no key 'rl'"]),
        ("samples = 1\nrandom.x = {int = [1, 2]}", ["[grid.random]", "there is no key 'x'"]),
        ("product.'layers.2.size' = [1]", ["'2' is no index into an array of 2"]),
        ("product.lr.deep = [1]", ["'lr' in", "is 0.1: no key 'deep' in it"]),
        ("product.lr = []", ["[grid.product] 'lr' is []", "not an empty one"]),
        ("product.lr = 1", ["'lr' is 1: expected a list"]),
        ("product.lr = {}", ["'lr' is {}: expected a list"]),
        ("product = [1]", ["'grid.product' is [1]: expected a table"]),
        ("points = {a = 1}", ["[[grid.points]]"]),
        (
            "zip = {lr = [1, 2], seed = [1, 2, 3]}",
            ["[grid.zip] are of different lengths", "'lr' has 2, 'seed' has 3"],
        ),
        (
            "product.lr = [1.0, 2.0, 1.0]",
            ["'lr' lists lr = 1.0 twice", "numbers 0 and 2", "repeats"],
        ),
        ("seeds = [1, 2, 1]", ["seed = 1 twice"]),
        ("[[grid.points]]\nlr = 1\n[[grid.points]]\nlr = 1", ["lr = 1 twice"]),
        ("[[grid.points]]\nlr = 1\n'+lr' = 2", ["[[grid.points]] number 0 names a key twice"]),
        ("product.lr = [1]\nzip.lr = [2]", ["[grid.product] 'lr' and [grid.zip] both set 'lr'"]),
        ("repeats = 2\nproduct.seed = [2]", ["[grid.product] 'seed' and [grid] repeats both set"]),
        (
            "product.optimizer.name = ['a']\nzip.optimizer = [{name = 'b'}]",
            ["set 'optimizer.name' and 'optimizer'"],
        ),
        ("product.lr = [1, 2]\nproduct.'+lr' = [3]", ["both set 'lr'"]),
        ("random.lr = {int = [1, 2]}", ["needs the key 'samples'"]),
        ("samples = 3", ["no [grid] table says what the points are"]),
        ("samples = 3\nrepeats = 2", ["'grid.samples' is 3, but there is no [grid.random]"]),
        ("preload = ['torch']", ["no [grid] table says what the points are", "[grid.product]"]),
        ("repeats = 2\nseeds = [1]", ["either 'seeds' or 'repeats'"]),
        ("seeds = [-1]", ["'grid.seeds' is [-1]"]),
        ("seeds = [true]", ["'grid.seeds'"]),
        ("repeats = 0", ["'grid.repeats' is 0"]),
        ("retries = -1", ["'grid.retries' is -1"]),
        ("preload = ['import torch']", ["'grid.preload' is 'import torch'", "name of a module"]),
        ("memory = 'all'", ["'grid.memory' is 'all'", "'auto'"]),
        ("most = 3\nrepeats = 4", ["4 = 4 points, more than 3", "'grid.most'"]),
        ("repeat = 3", ["unknown key 'grid.repeat'", "did you mean 'repeats'"]),
        ("[grid.prodct]\nlr = [1]", ["unknown key 'grid.prodct'", "did you mean 'product'"]),
        ("metric = 'loss'", ["'grid.metric' is 'loss'", "expected 'search' beside it"]),
        ("repeats = 2\nproduct.lr = [1.0, 99999999999999999999]", ["'lr' is 9999", "64 bits"]),
    ],
)
def test_table_that_makes_no_sense_is_refused_and_leaves_nothing(drawn, tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        drawn(text)

    assert all(part in str(caught.value) for part in [str(tmp_path), *said]), str(caught.value)
    assert not (tmp_path / "points.jsonl").exists()


def test_too_many_points_are_refused_before_any_is_drawn(drawn):
    text = "[grid.product]\n" + "".join(f"'+k{i}' = {list(range(50))}\n" for i in range(10))
    with pytest.raises(
        ConfigError, match=r"50 x 50 x .* = 97656250000000000 points, more than 100000"
    ):
        drawn(text)
    with pytest.raises(ConfigError, match=r"2 x 9000000 = 18000000 points"):
        drawn("samples = 9000000\nrepeats = 2\nrandom.lr = {uniform = [0, 1]}")


def test_plain_keys_are_settings(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text(
        "script = 'work.py'\n[grid]\npreload = ['torch', 'a.b']\nretries = 2\nfail_fast = true\n"
        "memory = 'auto'\nsearch = 'optuna'\ntrials = 9\n[grid.space]\nlr = {uniform = [0, 1]}\n"
    )
    grid = config.load(path, root=tmp_path).grid

    assert grid.preload == ("torch", "a.b")
    assert (grid.retries, grid.fail_fast, grid.memory, grid.most) == (2, True, "auto", None)
    assert grid.search == {"search": "optuna", "trials": 9, "space": {"lr": {"uniform": [0, 1]}}}
    assert not grid.has_points


def test_source_is_the_table_with_overrides_of_the_command_line(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text("script = 'work.py'\n[grid]\nrepeats = 2\n")
    found = config.load(path, root=tmp_path, overrides=["grid.repeats=3"])
    drawn = draw(None, found, {}, tmp_path / "points.jsonl")

    assert len(drawn.points) == 3
    assert (drawn.source.kind, drawn.source.path) == ("table", path)
    assert tomllib.loads(drawn.source.data.decode()) == {"grid": {"repeats": 3}}


def test_single_run_with_a_grid_table_runs_the_base(project):
    text = (project.root / "experiment.toml").read_text()
    project.write("experiment.toml", f"{text}[grid]\nrepeats = 3\n[grid.product]\nvalue = [1, 2]\n")
    project.commit()
    done = project.run("experiment.toml")

    assert done.returncode == 0, done.stderr
    assert project.record()["summary"] == {"doubled": 42}
    assert len(project.runs()) == 1
    assert "grid" not in tomllib.loads(project.latest().experiment.read_text())


def test_example_of_the_documentation_makes_240_points(drawn):
    text = (ROOT / "docs/experiment.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```\n\[grid\]\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    base = {"optimizer": {"learning_rate": 1e-3}, "noise": 0.1}
    points = drawn(example, base).points

    assert len(points) == 2 * 2 * 20 * 3
    assert points.names[0].startswith("learning_rate=0.001,warmup=0,noise=0.")


KEYS = ["lr", "seed", "optimizer.name", "optimizer.momentum", "schedule.name", "+fresh"]
CELLS = st.one_of(
    st.integers(-3, 3), st.floats(-1, 1), st.text(max_size=6).filter(lambda t: "\x7f" not in t)
)


@st.composite
def tables(draw_):
    """A [grid] table of lists, and what it must make: lists of override dicts, block by block."""
    keys = draw_(st.permutations(KEYS))
    lists = st.lists(CELLS, min_size=1, max_size=3, unique_by=lambda v: (type(v), repr(v)))
    product = {key: draw_(lists) for key in keys[: draw_(st.integers(0, 2))]}
    rows = draw_(st.integers(1, 3))
    row = st.lists(CELLS, min_size=rows, max_size=rows, unique_by=lambda v: (type(v), repr(v)))
    zipped = {key: draw_(row) for key in keys[2 : 2 + draw_(st.integers(0, 2))]}
    samples = draw_(st.integers(0, 3))
    assume(product or zipped or samples)
    grid = {"product": product, "zip": zipped}
    if samples:
        grid |= {"samples": samples, "random": {keys[5]: {"uniform": [0.0, 1.0]}}}
    blocks = [[{key: value} for value in values] for key, values in product.items()]
    if zipped:
        blocks.append(
            [dict(zip(zipped, r, strict=True)) for r in zip(*zipped.values(), strict=True)]
        )
    return grid, blocks, samples


@given(tables())
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_size_is_the_product_names_are_legal_and_parameters_read_back(tmp_path, made):
    grid, blocks, samples = made
    path = tmp_path / "experiment.toml"
    path.write_text(toml.dumps({"script": "work.py", "grid": grid}), encoding="utf-8")
    points = draw(None, config.load(path, root=tmp_path), BASE, tmp_path / "points.jsonl").points

    assert len(points) == math.prod(map(len, blocks)) * (samples or 1)
    assert [name_problem(name) for name in points.names] == [None] * len(points)
    assert len({folded(name) for name in points.names}) == len(points)
    rows = itertools.product(*blocks, range(samples or 1))
    random_key = next(iter(grid.get("random", {})), None)
    for found, (*overrides, _) in zip(values(points), rows, strict=True):
        expected = copy.deepcopy(BASE)
        for override in overrides:
            for key, value in override.items():
                put(expected, key, value)
        if random_key is not None:
            drawn_value = get(found, random_key)
            assert 0.0 <= drawn_value <= 1.0
            put(expected, random_key, drawn_value)
        assert toml.equal(found, expected)


def put(table, key, value):
    *outer, last = key.removeprefix("+").split(".")
    for part in outer:
        table = table[part]
    table[last] = value


def get(table, key):
    for part in key.removeprefix("+").split("."):
        table = table[part]
    return table


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("product = {lr = [1e-3, 0.5]}", ["lr=0.001", "lr=0.5"]),
        ("product = {lr = [1, 2], seed = [3]}", ["lr=1", "lr=2"]),
        ("product = {lr = [1], seed = [3]}", ["lr=1,seed=3"]),
        ("product = {optimizer.name = ['a', 'b'], schedule.name = ['c']}", ["name=a", "name=b"]),
        (
            "product = {optimizer.name = ['a', 'b'], schedule.name = ['c', 'd']}",
            [f"optimizer.name={x},schedule.name={y}" for x in "ab" for y in "cd"],
        ),
        ("product = {schedule.warm = [true, false]}", ["warm=true", "warm=false"]),
        ("product = {lr = [nan, inf, -inf, 1e300]}", ["lr=nan", "lr=inf", "lr=-inf", "lr=1e+300"]),
        ("product = {optimizer.name = ['data/x y', '']}", ["name=data-x-y", "name="]),
        (
            "product = {optimizer.name = ['a/b', 'a b', 'A-B']}",
            ["name=a-b", "name=a-b~2", "name=A-B~3"],
        ),
        ("product = {optimizer.name = ['é', 'ends.']}", ["name=é", "name=ends"]),
        ("product = {'+sizes' = [[8, 4], []]}", ["sizes=8_4", "sizes="]),
        (
            "product = {optimizer = [{name = 'x', m = 1}, {}]}",
            ["optimizer=name-x_m-1", "optimizer="],
        ),
        ("product = {'+-odd' = [1, 2]}", ["odd=1", "odd=2"]),
        ('product = {"+a b" = [1, 2]}', ["a-b=1", "a-b=2"]),
        ("product = {'\"a.b\"' = [1, 2]}", ["a.b=1", "a.b=2"]),
        ("product = {lr = [1, 1.0, true, '1']}", ["lr=1", "lr=1.0", "lr=true", "lr=1~2"]),
    ],
)
def test_names_come_from_the_keys_that_vary(drawn, text, names):
    assert drawn(text).points.names == names


def test_long_names_are_cut_and_end_in_a_hash(drawn):
    texts = ["é" * 100 + end for end in "ab"]
    names = drawn(f"product = {{optimizer.name = {texts}}}").points.names

    assert [len(name.encode()) <= 120 for name in names] == [True, True]
    assert all(re.fullmatch(r"name=é+~[0-9a-f]{8}", name) for name in names)
    assert names[0] != names[1]


def test_numbers_drawn_are_short_in_names_and_whole_in_parameters(drawn):
    points = drawn("samples = 50\nrandom.lr = {uniform = [0, 1]}").points
    exact = [point["lr"] for point in values(points)]

    assert [name.partition("~")[0] for name in points.names] == [
        f"lr={value:.4g}" for value in exact
    ]
    assert any(f"{value:.4g}" != repr(value) for value in exact)


def test_equal_names_are_numbered_in_linear_time(monkeypatch):
    calls = []
    monkeypatch.setattr(point_names, "folded", lambda name: calls.append(name) or folded(name))
    namer = Namer([("k",)])
    names = [namer.name({("k",): "x"}) for _ in range(3000)]

    assert names[:3] == ["k=x", "k=x~2", "k=x~3"]
    assert len(set(names)) == 3000
    assert len(calls) < 5 * 3000


KINDS = {
    "uniform": lambda a, b: {"uniform": [a, b]},
    "loguniform": lambda a, b: {"loguniform": [a, b]},
    "int": lambda a, b: {"int": [math.floor(a), math.ceil(b)]},
    "logint": lambda a, b: {"logint": [math.ceil(a), math.ceil(b)]},
}


@given(
    st.sampled_from(sorted(KINDS)),
    st.floats(1e-3, 1e6),
    st.floats(1.0, 1e3),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_draws_stay_within_their_bounds(kind, first, ratio, seed):
    table = KINDS[kind](first, first * ratio)
    source = stream(seed, "x")
    least, most = table[kind]
    for value in (distribution(table, "here").draw(source) for _ in range(20)):
        assert least <= value <= most
        assert type(value) is (int if kind in ("int", "logint") else float)


@given(st.integers(-5, 5), st.integers(0, 40), st.integers(1, 7), st.integers(0, 99))
def test_steps_are_counted_from_the_first_number(first, width, step, seed):
    table = {"int": [first, first + width], "step": step}
    value = distribution(table, "here").draw(stream(seed, "x"))

    assert value in range(first, first + width + 1, step)
    tenths = {"uniform": [first / 10, (first + width) / 10], "step": step / 10}
    value = distribution(tenths, "here").draw(stream(seed, "x"))
    assert value in [n / 10 for n in range(first, first + width + 1, step)]


def many(table, number=4000):
    source = stream(1, "x")
    found = distribution(table, "here")
    return [found.draw(source) for _ in range(number)]


def test_draws_follow_their_distribution():
    """Means within five standard errors of those of the textbook; ranks of whole numbers too."""

    def near(found, mean, deviation):
        return abs(statistics.fmean(found) - mean) < 5 * deviation / math.sqrt(len(found))

    normal = many({"normal": [3.0, 2.0]})
    assert near(many({"uniform": [2, 6]}), 4.0, 4 / math.sqrt(12))
    assert near(
        [math.log(x) for x in many({"loguniform": [1.0, math.e**2]})], 1.0, 2 / math.sqrt(12)
    )
    assert near(normal, 3.0, 2.0)
    assert near([(x - 3.0) ** 2 for x in normal], 4.0, 4.0 * math.sqrt(2))
    assert near([math.log(x) for x in many({"lognormal": [3.0, 2.0]})], 3.0, 2.0)
    for table, expected in (
        ({"int": [1, 4]}, [1 / 4] * 4),
        ({"choice": [1, 2, 3]}, [1 / 3] * 3),
        ({"logint": [1, 3]}, [math.log((k + 1) / k) / math.log(4) for k in (1, 2, 3)]),
    ):
        found = many(table)
        for value, share in enumerate(expected, start=1):
            seen = found.count(value) / len(found)
            assert abs(seen - share) < 5 * math.sqrt(share * (1 - share) / len(found)), table


def test_draws_are_those_of_every_version():
    """Golden: the same seed gives the same points, whatever Python and engram become."""
    golden = {
        "uniform": [0.0, 1.0],
        "loguniform": [1e-3, 1.0],
        "normal": [0.0, 1.0],
        "lognormal": [0.0, 1.0],
        "int": [0, 999],
        "logint": [1, 999],
        "choice": list("abcdefgh"),
    }
    found = {
        kind: distribution({kind: given}, "here").draw(stream(0, f"key.{kind}"))
        for kind, given in golden.items()
    }

    assert found == {
        kind: pytest.approx(value, rel=1e-13) if isinstance(value, float) else value
        for kind, value in GOLDEN.items()
    }
    assert stream(0, "x").random() == random.Random("0/x").random()


GOLDEN = {
    "uniform": 0.4851200007119574,
    "loguniform": 0.013375634605797729,
    "normal": -1.3105335120764336,
    "lognormal": 0.6967037220141373,
    "int": 572,
    "logint": 89,
    "choice": "c",
}


def test_seed_decides_the_draws_and_other_keys_do_not(drawn):
    def draws(text):
        return [point["lr"] for point in values(drawn(text).points)]

    lr = "random.lr = {uniform = [0, 1]}\n"
    first = draws(f"samples = 3\n{lr}")
    assert draws(f"samples = 3\nseed = 0\n{lr}") == first
    assert draws(f"samples = 5\n{lr}")[:3] == first
    assert draws(f"samples = 3\nrandom.optimizer.momentum = {{int = [1, 9]}}\n{lr}") == first
    assert draws(f"samples = 3\nseed = 1\n{lr}") != first
    assert len(set(first)) == 3


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[1, 2]", ["is [1, 2]: expected a distribution"]),
        ("{unifrom = [0, 1]}", ["expected one of uniform", "did you mean 'uniform'"]),
        ("{uniform = [0, 1], int = [0, 1]}", ["expected one of"]),
        ("{}", ["expected one of"]),
        ("{uniform = [0]}", ["expected two numbers"]),
        ("{uniform = [0, nan]}", ["expected two numbers"]),
        ("{uniform = ['a', 'b']}", ["expected two numbers"]),
        ("{uniform = 3}", ["expected a list"]),
        ("{uniform = [2, 1]}", ["the first number is the smaller one"]),
        ("{loguniform = [0, 1]}", ["bounds above 0"]),
        ("{logint = [0, 9]}", ["bounds of 1 or more"]),
        ("{int = [0.5, 9]}", ["expected two whole numbers"]),
        ("{normal = [0, -1]}", ["standard deviation"]),
        ("{lognormal = [700, 10]}", ["beyond any float"]),
        ("{choice = []}", ["expected a list"]),
        ("{normal = [0, 1], step = 1}", ["'step' fits uniform and int only"]),
        ("{uniform = [0, 1], step = 0}", ["'step' is 0"]),
        ("{uniform = [0, 1], step = true}", ["'step' is True"]),
        ("{int = [0, 9], step = 0.5}", ["a whole number above 0"]),
    ],
)
def test_distribution_that_makes_no_sense_is_refused(drawn, written, said):
    with pytest.raises(ConfigError) as caught:
        drawn(f"samples = 2\nrandom.optimizer.momentum = {written}")

    text = str(caught.value)
    assert all(part in text for part in ["'grid.random' 'optimizer.momentum", *said]), text


def test_choices_may_be_of_any_kind(drawn):
    points = drawn("samples = 40\nrandom.'+any' = {choice = [1, 'x', [2, 3], {a = 1}]}").points

    kinds = {type(point["any"]) for point in values(points)}
    assert kinds == {int, str, list, dict}
    assert len(set(points.names)) == 40
