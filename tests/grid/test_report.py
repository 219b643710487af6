"""The report of a grid: one page, safe whatever a grid holds; read with and without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from browser import ENTER, Browser, needs_browser
from made_grids import MadeGrid

from engram.errors import ConfigError, RunNotFoundError, StoreError
from engram.grid import report_curves
from engram.grid.report import report_command, write_report
from engram.grid.report_curves import Thinned, read_curves
from engram.grid.report_data import as_script_text
from engram.grid.report_points import Point, last_lines, read_points
from engram.paths import RunPaths

NAN, INF = float("nan"), float("inf")
ATTACK = (
    "<img src=x onerror=window.attacked=1></script><script>window.attacked=1</script>'\"&\u2028"
)


class Reader(HTMLParser):
    """What a page consists of, read by the standard library's parser."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.scripts, self.texts, self.policy = [], [], [], [], ""
        self._script = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [found[key] for key in ("href", "src") if key in found]
        if tag in ("script", "style"):
            self._script = True
            self.scripts.append("")
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, text):
        if self._script:
            self.scripts[-1] += text
        else:
            self.texts.append(text)

    @property
    def text(self):
        return "".join(self.texts)

    @property
    def data(self):
        return json.loads(self.scripts[1])


def product(**values):
    """Points of every combination, as a grid file would draw them."""
    drawn = [{}]
    for key, several in values.items():
        drawn = [{**point, key: value} for point in drawn for value in several]
    return [(point, ",".join(f"{key}={value}" for key, value in point.items())) for point in drawn]


def read(paths):
    return Reader(paths.report.read_text(encoding="ascii"))


def two_keys(root):
    """A grid over two keys and three seeds: one point failed, one summary is NaN, one infinite.

    Returns:
        The grid's paths, and its points as a table made by hand.
    """
    drawn = product(lr=[0.001, 0.01, 0.1], wiring=["real", "shuffled"], seed=[0, 1, 2])
    grid = MadeGrid(root, drawn)
    rows = []
    for index, (point, name) in enumerate(drawn):
        loss = {4: NAN, 9: INF}.get(index, 1.0 + index % 5 + 0.01 * index)
        accuracy = 1 / (1 + index)
        lines = [{"step": step, "loss": 1 / (1 + step)} for step in range(20)]
        if index == 7:
            grid.end(index, "failed", "ValueError: no luck", err=b"trace\nValueError: no luck\n")
            loss = accuracy = NAN
        else:
            grid.end(index, summary={"accuracy": accuracy, "loss": loss}, metrics=lines)
        rows.append({**point, "name": name, "accuracy": accuracy, "loss": loss})
    return grid.close("failed"), pd.DataFrame(rows)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The grid over two keys, with its report; only read."""
    paths, table = two_keys(tmp_path_factory.mktemp("two") / "runs")
    write_report(paths, paths.report)
    return paths, table


# ---- what is read from the folder


def test_the_page_has_every_point_and_every_number_of_the_summaries(two):
    paths, table = two
    data = read(paths).data

    assert data["name"] == list(table["name"])
    assert [key["name"] for key in data["keys"]] == ["lr", "wiring", "seed"]
    assert [key["repeat"] for key in data["keys"]] == [False, False, True]
    assert [metric["name"] for metric in data["metrics"]] == ["accuracy", "loss"]
    loss = data["metrics"][1]["values"]
    assert (loss[4], loss[7], loss[9]) == (["NaN"], None, ["Infinity"])
    assert data["state"].count("failed") == 1


def test_a_point_is_its_last_completed_attempt(tmp_path):
    grid = MadeGrid(tmp_path, product(lr=[1, 2, 3]))
    grid.end(0, "failed")
    grid.end(0, summary={"loss": 1.0}, attempt=2)
    grid.end(1, summary={"loss": 2.0})
    grid.end(1, "killed", attempt=2)
    points, problems = read_points(grid.close())

    assert [(point.state, point.attempts) for point in points] == [
        ("completed", 2),
        ("completed", 2),
        ("pending", 0),
    ]
    assert [point.summary for point in points] == [{"loss": 1.0}, {"loss": 2.0}, {}]
    assert problems == []


def test_points_whose_runs_were_removed_come_from_the_table(tmp_path):
    grid = MadeGrid(tmp_path, product(lr=[1, 2]))
    run = grid.end(0, summary={"loss": 0.5, "bad": NAN, "note": "text"}, run_s=2.5)
    grid.end(1, summary={"loss": 1.5, "bad": INF, "note": "7"})
    paths = grid.close()
    shutil.rmtree(run.folder)
    points, _ = read_points(paths)

    assert points[0].run is None
    assert (points[0].state, points[0].run_s, points[0].seed) == ("completed", 2.5, 0)
    assert points[0].summary["loss"] == 0.5
    assert math.isnan(points[0].summary["bad"])
    assert points[0].summary["note"] == "text"
    assert write_report(paths, paths.report) == 2
    assert read(paths).data["folder"][0] is None


def test_a_damaged_record_is_told_and_leaves_the_others(tmp_path):
    grid = MadeGrid(tmp_path, product(lr=[1, 2]))
    run = grid.end(0, summary={"loss": 0.5})
    grid.end(1, summary={"loss": 1.5})
    paths = grid.close()
    run.metadata.write_text("{")
    write_report(paths, paths.report)

    assert "1 runs are left out: their records are missing or damaged" in read(paths).text


def test_nothing_but_the_page_is_written(tmp_path):
    paths, _ = two_keys(tmp_path / "runs")

    def state():
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in paths.folder.rglob("*")
            if path.is_file() and path != paths.report
        }

    before = state()
    write_report(paths, paths.report)

    assert state() == before
    assert paths.report.is_file()


# ---- what the page is


def test_the_page_needs_nothing_else_and_may_load_nothing(two):
    paths, _ = two
    page = paths.report.read_text(encoding="ascii")
    seen = Reader(page)
    style, _, script = seen.scripts

    assert [link for link in seen.links if not link.startswith("./")] == []
    assert "import" not in style
    assert seen.policy.startswith("default-src 'none'; ")
    for text in (style, script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in seen.policy
    assert "unsafe" not in seen.policy


@pytest.mark.parametrize("place", ["report.html", "../elsewhere/deep/page.html"])
def test_links_are_relative_and_lead_to_the_runs_also_from_a_copy(two, tmp_path, place):
    shutil.copytree(two[0].folder, tmp_path / "copy: #1" / two[0].folder.name)
    folder = tmp_path / "copy: #1" / two[0].folder.name
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    line = report_command(Path("/"), str(folder), target, None)
    seen = Reader(target.read_text())

    assert line.startswith(f"{target}  (18 points, ")
    places = [*seen.links, *(f"{folder}/log.err" for folder in seen.data["folder"])]
    assert len(places) > 18
    for link in places:
        assert target.parent.joinpath(unquote(link)).exists(), link


def hostile(root):
    """A grid in which everything that a user can name is an attack."""
    slashless = ATTACK.replace("/", "|").replace("\u2028", "")
    drawn = [
        ({ATTACK: ATTACK, "x": 1, "y": {"<b>": "real"}}, slashless),
        ({ATTACK: "plain", "x": 2, "y": {"<b>": "</table>"}}, "<b>bold & 'quoted'"),
        ({ATTACK: ATTACK, "x": 3, "y": {"<b>": "${1}"}}, 'a" onmouseover="window.attacked=1'),
        ({ATTACK: "javascript:window.attacked=1", "x": 4}, "javascript:alert(1)"),
    ]
    changes = {"experiment": ATTACK, "description": ATTACK, "argv": [ATTACK], "host": ATTACK}
    grid = MadeGrid(root, drawn, **changes, tags=[ATTACK], devices=[ATTACK])
    log = f"\x1b[31m{ATTACK}\x1b[0m\n\x00\xff{ATTACK}\n"
    for index in range(3):
        metrics = [{"step": step, ATTACK: step * 0.5, "__proto__": 1.0} for step in range(3)]
        summary = {ATTACK: index * 0.5, "__proto__": 1.0, "text": ATTACK}
        grid.end(index, summary=summary, metrics=metrics)
    grid.end(3, "failed", ATTACK, err=log.encode("utf-8", "surrogateescape"))
    return grid.close("failed", ATTACK)


def test_hostile_text_stays_text(tmp_path):
    paths = hostile(tmp_path)
    write_report(paths, paths.report)
    page = paths.report.read_text(encoding="ascii")
    seen = Reader(page)

    assert seen.tags.count("script") == 2
    assert not {"img", "b>", "table"} & set(seen.tags)
    assert "\u2028" not in page
    assert "</script" not in seen.scripts[1]
    assert not set("<>&") & set(seen.scripts[1])
    assert seen.data["metrics"][0]["name"] == ATTACK
    assert seen.data["texts"][0]["values"][0] == ATTACK
    assert seen.text.count("onerror=window.attacked=1></script>") >= 6
    assert not [link for link in seen.links if not link.startswith("./")]


def test_json_in_a_script_survives_what_ends_scripts():
    value = {"</script>": ["\u2028\u2029", "<!--", "]]>", "\ud800", "&amp;", "\x00"]}
    text = as_script_text(value)

    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def test_the_page_of_2000_points_is_small(tmp_path):
    grid = MadeGrid(tmp_path, product(lr=[x / 10 for x in range(1, 41)], seed=range(50)))
    for index, name in enumerate(grid.points.names):
        row = {
            **dict.fromkeys(["device", "seed", "started", "cause"]),
            **{"index": index, "name": name, "state": "completed", "run_id": f"r{index}"},
            **{"attempts": 1, "run_s": 0.123456789},
            **{f"summary.metric_{key}": 1 / (index + key + 1) for key in range(10)},
        }
        grid.table.put(row)
    paths = grid.close()
    write_report(paths, paths.report)

    assert len(read(paths).data["name"]) == 2000
    assert paths.report.stat().st_size < 1_000_000


# ---- what is read of logs and metrics


def test_last_lines_are_few_plain_and_from_the_error_log_first(tmp_path):
    run = RunPaths(tmp_path)
    run.log_out.write_text("printed\n")
    bar = "".join(f"\r{percent} %" for percent in range(101))
    lines = [f"line {number}" for number in range(5000)]
    text = "\n".join(lines) + f"\n{bar}\n\x1b[1;31mred\x1b[0m \x1b]0;title\x07end\n\n"
    run.log_err.write_text(text)
    point = Point("p", {}, run=run)

    assert last_lines(point, 3) == ("log.err", "line 4999\n100 %\nred end")
    run.log_err.write_text(" \n")
    assert last_lines(point, 3) == ("log.out", "printed")
    assert last_lines(Point("p", {}), 3) == ("", "")


def test_the_log_of_the_rank_that_spoke_is_shown(tmp_path):
    run = RunPaths(tmp_path)
    for log in run.logs(3):
        log.write_text("")
    run.logs(3)[5].write_text("rank 2 broke\n")

    assert last_lines(Point("p", {}, run=run, processes=3), 5)[1] == "rank 2 broke"


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 100, 1023, 1024, 1025])
def test_a_thinned_curve_is_even_and_keeps_its_ends(count):
    thinned = Thinned(10)
    for step in range(count):
        thinned.add(step, step * 2.0)
    steps, values = thinned.result()
    gaps = {after - before for before, after in zip(steps[:-2], steps[1:-1], strict=True)}

    assert (steps[0], steps[-1]) == (0, count - 1)
    assert values == [step * 2.0 for step in steps]
    assert len(steps) == count if count < 10 else 5 <= len(steps) <= 10
    assert len(gaps) <= 1


def with_metrics(folder, lines):
    run = RunPaths(folder)
    run.folder.mkdir(parents=True)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Point(folder.name, {}, run=run)


def test_curves_are_of_bounded_number_by_a_rule_that_is_told(tmp_path):
    lines = [{"step": 1, **{f"key {key}": key for key in range(15)}}]
    points = [with_metrics(tmp_path / f"p{number:03d}", lines) for number in range(250)]
    points[0] = Point("none", {})
    curves = read_curves(points)
    chosen = [index for index, _ in curves["runs"]]

    assert len(chosen) == len(set(chosen)) == 100
    assert {after - before for before, after in zip(chosen, chosen[1:], strict=False)} <= {2, 3}
    assert len(curves["keys"]) == 12
    assert curves["rule"] == (
        "100 of 249 runs with metrics, evenly spaced over the grid; at most 200 steps of a curve, "
        "evenly spaced, and always its last; the 12 most common of 15 metrics"
    )


def test_torn_and_foreign_lines_of_metrics_are_passed_over(tmp_path):
    point = with_metrics(tmp_path / "p", [{"step": 0, "loss": 1.5, "word": "x", "flag": True}])
    with point.run.metrics.open("a") as stream:
        stream.write('[1]\n\n{"loss": 2}\n{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    curves = read_curves([point])

    assert curves["keys"] == ["loss"]
    steps, values = curves["runs"][0][1]["loss"]
    assert steps == [0, 1]
    assert values[0] == 1.5
    assert math.isnan(values[1])


def test_of_a_file_beyond_the_budget_whole_lines_from_its_beginning_to_its_end_are_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(report_curves, "MOST_BYTES", 64 * 1024)
    lines = [{"step": step, "loss": step * 2} for step in range(20_000)]
    curves = read_curves([with_metrics(tmp_path / "p", lines)])
    steps, values = curves["runs"][0][1]["loss"]

    assert (steps[0], steps[-1]) == (0, 19_999)
    assert values == [step * 2 for step in steps]
    assert max(after - before for before, after in zip(steps, steps[1:], strict=False)) < 1000
    assert "of 1 large files, 64 parts that are evenly spaced" in curves["rule"]


# ---- what is refused, and what is said


def test_an_unknown_metric_is_refused_with_those_that_are_there(two, tmp_path):
    paths, _ = two
    with pytest.raises(ConfigError, match="'acuracy'.*did you mean 'accuracy'.*'loss'"):
        write_report(paths, tmp_path / "page.html", "acuracy")
    write_report(paths, tmp_path / "page.html", "loss")

    assert Reader((tmp_path / "page.html").read_text()).data["metric"] == "loss"


def test_a_folder_or_a_missing_place_is_no_output(two, tmp_path):
    with pytest.raises(ConfigError, match="is a folder: name a file"):
        write_report(two[0], tmp_path)
    with pytest.raises(StoreError, match="missing"):
        write_report(two[0], tmp_path / "missing" / "page.html")
    with pytest.raises(RunNotFoundError):
        report_command(tmp_path, str(tmp_path / "nowhere"), None, None)


# ---- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def show(browser, paths, metric=None):
    """Write the page, open it, and check that it asked for nothing and complained of nothing."""
    write_report(paths, paths.report, metric)
    browser.requested(), browser.log("browser")
    address = paths.report.as_uri()
    browser.open(address)
    assert browser.requested() == [address]
    assert browser.log("browser") == []


def names_in_order(browser):
    return browser.texts("#points tbody tr th")


def head(browser, title):
    """The selector of a column's header."""
    titles = browser.texts("#points thead th")
    return f"#points thead th:nth-child({titles.index(title) + 1}) button"


def marks(browser, selector):
    """What plots say of their own numbers, as pandas knows it."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].map((each) => ({...each.dataset}))"
    )
    return browser.run(script, selector)


@needs_browser
def test_a_click_sorts_the_table_with_nan_and_missing_last_both_ways(browser, two):
    paths, table = two
    show(browser, paths)
    loss = table["loss"].where(table["loss"].notna())
    last = [table["name"][4], table["name"][7]]
    for ascending in (True, False):
        browser.click(head(browser, "loss"))
        wanted = table.loc[loss.dropna().sort_values(ascending=ascending).index, "name"]
        assert names_in_order(browser) == [*wanted, *last]
        spoken = browser.run("return document.querySelector('th[aria-sort]').ariaSort")
        assert spoken == ("ascending" if ascending else "descending")


@needs_browser
def test_the_keyboard_sorts_the_table(browser, two):
    paths, table = two
    show(browser, paths)
    browser.type(head(browser, "accuracy"), ENTER)
    wanted = table.sort_values("accuracy", na_position="last")

    assert names_in_order(browser) == list(wanted["name"])


@needs_browser
def test_the_heat_map_is_the_mean_over_seeds_and_follows_the_metric(browser, two):
    paths, table = two
    show(browser, paths)
    for metric in ("accuracy", "loss"):
        browser.choose("#metric", metric)
        finite = table[table[metric].map(math.isfinite)]
        wanted = finite.groupby(["lr", "wiring"])[metric].agg(["mean", "sem", "count"])
        cells = marks(browser, "#pairs .cell")
        assert len(cells) == 6
        for cell in cells:
            mean, sem, count = wanted.loc[(float(cell["x"]), cell["y"])]
            assert float(cell["mean"]) == pytest.approx(mean, rel=1e-12)
            assert float(cell["se"]) == pytest.approx(sem, rel=1e-9)
            assert int(cell["n"]) == count
            assert f"{metric}: " in cell["tip"]
        assert browser.texts("#pairs .legend .name") == [metric]
    assert sum("not finite left out" in cell["tip"] for cell in cells) == 2


@needs_browser
def test_main_effects_are_means_with_standard_errors_of_each_value(browser, two):
    paths, table = two
    show(browser, paths)
    finite = table.dropna(subset="accuracy")
    for key in ("lr", "wiring", "seed"):
        found = [mark for mark in marks(browser, "#effects .mean") if mark["key"] == key]
        wanted = finite.groupby(key)["accuracy"].agg(["mean", "sem", "count"])
        assert [mark["level"] for mark in found] == [
            f"{level:g}" if key != "wiring" else level for level in wanted.index
        ]
        for mark, (mean, sem, count) in zip(found, wanted.to_numpy(), strict=True):
            assert float(mark["mean"]) == pytest.approx(mean, rel=1e-12)
            assert float(mark["se"]) == pytest.approx(sem, rel=1e-9)
            assert int(mark["n"]) == count


@needs_browser
def test_one_value_has_a_mean_and_no_error_bar(browser, tmp_path):
    grid = MadeGrid(tmp_path, product(lr=[1, 2], seed=[0, 1]))
    for index in (0, 1, 2):
        grid.end(index, summary={"loss": float(index)})
    show(browser, grid.close())
    bars = browser.run(
        "return [...document.querySelectorAll('#effects .mean')].map((each) => "
        "[each.dataset.key, each.dataset.n, each.querySelectorAll('line').length])"
    )

    assert bars == [["lr", "2", 3], ["lr", "1", 0], ["seed", "2", 3], ["seed", "1", 0]]
    assert browser.run("return document.querySelectorAll('#effects .mean')[1].dataset.se") == "NaN"


@needs_browser
def test_hostile_content_does_not_run_and_is_shown_as_it_is(browser, tmp_path):
    paths = hostile(tmp_path)
    show(browser, paths)
    browser.choose("#metric", "__proto__")
    browser.choose("#metric", ATTACK)
    browser.click("#points thead th:nth-child(1) button")
    browser.run(
        "document.querySelectorAll('[data-tip]').forEach((each) => "
        "each.dispatchEvent(new Event('pointerover', { bubbles: true })))"
    )

    assert browser.run("return window.attacked ?? null") is None
    assert (
        browser.run("return document.querySelectorAll('img, b > b, #points table table').length")
        == 0
    )
    assert browser.texts("h1") == [ATTACK.replace("\u2028", r"\u2028")]
    assert "<b>bold & 'quoted'" in names_in_order(browser)
    assert browser.texts("#effects .mean") != [] or marks(browser, "#effects .mean")
    assert browser.texts("pre")[0].startswith("<img src=x onerror")
    assert browser.log("browser") == []
    hrefs = browser.run("return [...document.links].map((each) => each.protocol)")
    assert set(hrefs) == {"file:"}


def four_keys(root):
    drawn = product(lr=[0.1, 0.2, 0.3], tau=[5, 10], wiring=["real", "shuffled"], seed=[0, 1])
    grid = MadeGrid(root, drawn)
    for index, (point, _) in enumerate(drawn):
        lines = [{"step": step, "loss": 1 / (step + 1), "rate": step} for step in range(500)]
        grid.end(index, summary={"score": point["lr"] * point["tau"]}, metrics=lines)
    return grid.close()


@needs_browser
def test_dragging_on_a_parallel_axis_shows_only_what_crosses_it_there(browser, tmp_path):
    show(browser, four_keys(tmp_path))
    assert browser.run("return document.querySelectorAll('#parallel .strand').length") == 24
    assert browser.run("return document.getElementById('pairs').hidden")
    # From the middle of the axis to above its top: tau = 10, the upper of its two values.
    browser.drag("[data-axis='tau']", (0, 0), (0, -160))

    assert browser.texts("#shown") == ["12 of 24 points"]
    assert all("tau=10" in name for name in names_in_order(browser))
    assert browser.run("return document.querySelectorAll('#parallel .away').length") == 12
    levels = {mark["level"]: mark["n"] for mark in marks(browser, "#effects .mean[data-key=tau]")}
    assert levels == {"10": "12"}
    browser.click("#clear")
    assert browser.texts("#shown") == ["24 points"]


@needs_browser
@pytest.mark.parametrize(
    ("typed", "count"),
    [("lr<0.25", 16), ("lr>=0.2 wiring=real", 8), ("shuffled seed!=0", 6), ("score>100", 0)],
)
def test_what_is_typed_narrows_the_table_and_the_plots(browser, tmp_path, typed, count):
    show(browser, four_keys(tmp_path))
    browser.type("#filter", typed)

    assert len(names_in_order(browser)) == count
    assert browser.texts("#shown") == [f"{count} of 24 points"]
    assert browser.run("return document.querySelectorAll('#curves .curve').length") == count
    counts = [int(mark["n"]) for mark in marks(browser, "#effects .mean[data-key=seed]")]
    assert sum(counts) == count


@needs_browser
def test_learning_curves_show_the_key_that_is_chosen(browser, tmp_path):
    show(browser, four_keys(tmp_path))
    script = "return document.querySelector('#curves .curve path:not(.hit)').getAttribute('d')"
    first = browser.run(script)
    browser.choose("#curve", "rate")
    second = browser.run(script)
    heights = [float(pair.split(",")[1]) for pair in re.split("[ML]", second)[1:]]

    assert first != second
    assert heights == sorted(heights, reverse=True)  # it rises, and y points down
    assert len(heights) <= 200
    assert "24 runs; at most 200 steps of a curve" in browser.texts("#curves .note")[0]


@needs_browser
@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["failed", "failed"], "No point completed. No point has a number in its summary"),
        ([None, None], "No point has ended yet."),
        (["completed", None], "No point has a number in its summary"),
    ],
)
def test_a_grid_without_numbers_says_so_and_still_has_its_table(browser, tmp_path, states, said):
    grid = MadeGrid(tmp_path, product(lr=[1, 2]))
    for index, state in enumerate(states):
        if state:
            grid.end(index, state, summary={"note": "text"} if state == "completed" else None)
    show(browser, grid.close("failed"))

    assert browser.texts("#nothing")[0].startswith(said)
    assert names_in_order(browser) == ["lr=1", "lr=2"]
    assert browser.texts("#effects, #pairs, #parallel, #curves") == []


@needs_browser
def test_every_drawing_and_every_field_has_a_name_for_those_who_cannot_see(browser, tmp_path):
    show(browser, four_keys(tmp_path))
    nameless = browser.run(
        "return [...document.querySelectorAll('svg:not([aria-hidden]), select, input')].filter("
        "(each) => each.tagName === 'svg' ? each.getAttribute('role') !== 'img' || "
        "!each.getAttribute('aria-label') : each.labels.length === 0).map((each) => each.outerHTML)"
    )

    assert nameless == []
    assert browser.run("return document.querySelector('table caption').textContent.length") > 0
    assert browser.run("return document.querySelectorAll('thead th:not([scope])').length") == 0


@needs_browser
def test_the_page_is_dark_where_pages_are_to_be_dark_and_prints_light(browser, two):
    script = "return getComputedStyle(document.body).backgroundColor"
    show(browser, two[0])
    seen = {}
    for name in ("dark", "light"):
        browser.scheme(name)
        seen[name] = sum(map(int, re.findall(r"\d+", browser.run(script))))
    browser.tell("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    printed = browser.run(script)
    browser.tell("Emulation.setEmulatedMedia", {"media": "", "features": []})

    assert seen["dark"] < 150 < 600 < seen["light"]
    assert printed == "rgb(255, 255, 255)"
