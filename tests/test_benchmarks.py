"""The benchmarks run; what they measure is never asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
BENCHMARKS = CHECKOUT / "benchmarks"
PAGE = """\
# Speed

<!-- launch -->
old
<!-- end of launch -->

<!-- inputs -->
old
<!-- end of inputs -->

The end.
"""


def run_benchmark(name, *arguments):
    left_out = ("GIT_", "PYTHONDONTWRITEBYTECODE")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=300, check=False
    )


def test_launch_benchmark_checks_the_work_and_writes_its_tables(tmp_path):
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    page.write_text(PAGE)
    tiny = ("--rounds", 1, "--files", 3, "--python", sys.executable)
    ended = run_benchmark("launch.py", *tiny, "--json", numbers, "--docs", page)
    assert ended.returncode == 0, ended.stderr
    cases = json.loads(numbers.read_text())["cases"]
    assert len(cases) == 7
    assert all(case["wall_ms"] > 0 for case in cases)
    text = page.read_text()
    assert all(f"| {case['case']} |" in text for case in cases)
    assert "<!-- end of inputs -->\n\nThe end.\n" in text


def test_launch_benchmark_names_the_peers_it_cannot_measure(tmp_path):
    numbers = tmp_path / "numbers.json"
    tiny = ("--rounds", 1, "--files", 1, "--python", sys.executable)
    ended = run_benchmark("launch.py", *tiny, "--peers", tmp_path, "--json", numbers)
    assert ended.returncode == 0, ended.stderr
    missing = json.loads(numbers.read_text())["missing"]
    assert "DVC" in missing and "not installed" in missing["DVC"]


TINY_GRID = ("--points", 3, "--rounds", 1, "--many", 8, "--many-cold", 4, "--many-rounds", 1)


def test_grid_benchmark_compares_every_number_and_writes_its_tables(tmp_path):
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    page.write_text(PAGE.replace("launch", "grid"))
    tiny = (*TINY_GRID, "--series", "trivial", "many", "--python", sys.executable)
    ended = run_benchmark("grid.py", *tiny, "--json", numbers, "--docs", page)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(numbers.read_text())
    assert [row["numbers_right"] for row in found["trivial"]["cases"]] == ["3 of 3"] * 3
    assert [row["numbers_right"] for row in found["many"]["cases"]] == ["8 of 8", "4 of 4"]
    text = page.read_text()
    assert all(f"| {row['case']} |" in text for row in found["trivial"]["cases"])
    assert "<!-- end of inputs -->\n\nThe end.\n" in text


def test_grid_benchmark_counts_only_right_and_new_numbers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from grid_peers import Results, answers

    assert answers(3) == {f"n{n}": str(sum(i * i for i in range(n))) for n in (1000, 1001, 1002)}
    folder = tmp_path / "project"
    folder.mkdir()
    right = list(answers(4).values())
    old = folder / "old.txt"
    old.write_text(right[3])
    os.utime(old, (0, 0))
    results = Results(folder, "*.txt")
    results.begin()
    for name, text in (("a", right[0]), ("b", right[1] + "\n"), ("c", "7")):
        (folder / f"{name}.txt").write_text(text)
    assert results.equal(4) == 2
    (folder / "again.txt").write_text(right[0])
    (folder / "more.txt").write_text("8")
    assert results.equal(4) == 1  # one file more than there are points


def test_grid_benchmark_names_the_peers_it_cannot_measure(tmp_path):
    numbers = tmp_path / "numbers.json"
    tiny = (*TINY_GRID, "--series", "trivial", "--python", sys.executable)
    ended = run_benchmark("grid.py", *tiny, "--peers", tmp_path, "--json", numbers)
    assert ended.returncode == 0, ended.stderr
    missing = json.loads(numbers.read_text())["trivial"]["missing"]
    assert "Ray Tune" in missing and "not installed" in missing["Ray Tune"]


@pytest.mark.slow
def test_inputs_benchmark_runs_and_leaves_nothing_behind(tmp_path):
    numbers, data = tmp_path / "numbers.json", tmp_path / "data"
    data.mkdir()
    tiny = ("--gigabytes", 0.004, "--files", 4, "--rounds", 1, "--runs", 1, "--folder", data)
    ended = run_benchmark("inputs.py", *tiny, "--json", numbers)
    assert ended.returncode == 0, ended.stderr
    assert list(data.iterdir()) == []
    found = json.loads(numbers.read_text())
    assert {row["layout"] for row in found["hashing"]} == {"one file", "4 files"}


def test_inputs_benchmark_refuses_a_disk_that_is_too_small(tmp_path):
    ended = run_benchmark("inputs.py", "--gigabytes", 1e9, "--folder", tmp_path)
    assert ended.returncode == 1
    assert "--gigabytes" in ended.stderr


@pytest.mark.parametrize("name", ["launch.py", "inputs.py", "grid.py", "fly_olfaction.py"])
def test_benchmark_help_shows_how_to_call_it(name):
    ended = run_benchmark(name, "--help")
    assert ended.returncode == 0
    assert f"python benchmarks/{name}" in ended.stdout


def test_whole_brain_benchmark_runs_all_modes_and_compares_their_spikes(tmp_path):
    numbers = tmp_path / "numbers.json"
    tiny = ("--neurons", 3000, "--edges", 30_000, "--rounds", 1, "--types", "float64")
    ended = run_benchmark("spiking_whole_brain.py", *tiny, "--regimes", "quiet", "--json", numbers)
    assert ended.returncode == 0, ended.stderr
    assert "ours, active" in ended.stdout
    assert numbers.stat().st_size > 0


def test_spiking_benchmark_compares_spikes_and_gradients_before_it_times(tmp_path):
    pytest.importorskip("snntorch", reason="the first row is snntorch's")
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    page.write_text("<!-- spiking -->\n<!-- end of spiking -->\n")
    tiny = ("--series", "dense", "--sizes", 0, "--rounds", 1, "--without", "event, triangle")
    ended = run_benchmark("spiking.py", *tiny, "--json", numbers, "--docs", page)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(numbers.read_text())["dense"]
    assert [row["implementation"] for row in rows][:2] == ["snntorch RLeaky", "step loop"]
    assert all(row["spikes_unequal"].startswith("0 of") for row in rows)
    assert "| snntorch RLeaky |" in page.read_text()


def test_fly_olfaction_benchmark_compares_spikes_and_gradients_with_torch_sparse(tmp_path):
    pytest.importorskip("snntorch", reason="the first row steps with its surrogate gradient")
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    page.write_text("<!-- fly olfaction -->\n<!-- end of fly olfaction -->\n")
    tiny = ("--units", 200, "--trials", 2, "--steps", 60, "--rounds", 1)
    where = ("--no-memory", "--json", numbers, "--docs", page)
    ended = run_benchmark("fly_olfaction.py", *tiny, *where)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(numbers.read_text())["rows"]
    names = [row["implementation"] for row in rows]
    assert names[:2] == ["torch.sparse CSR", "torch.sparse COO"] and "loop" in names
    spikes = int(rows[0]["spikes_unequal"].removeprefix("0 of "))
    assert spikes > 100
    assert all(row["spikes_unequal"] == f"0 of {spikes}" for row in rows)
    assert all(row["gradient_error"] < 1e-3 for row in rows)
    assert "| torch.sparse CSR |" in page.read_text()
    memory = run_benchmark("fly_olfaction.py", *tiny, "--memory-of", "torch.sparse CSR")
    assert int(memory.stdout) > 0, memory.stderr
