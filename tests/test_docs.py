"""The documentation says what the code does: keys, findings, exit codes, states, examples."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from engram import config, errors, findings, record
from engram.tables import Table

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
EVERY_TABLE = """\
script = "work.py"
[[data.inputs]]
path = "input.txt"
"""
TRAIN_AND_RESUME = """\
import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("train", sys.argv[1])
train = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)

def run(name, parameters, resume_from=None):
    folder = Path(name)
    folder.mkdir()
    summary = train.main(input_dir=None, output_dir=folder, params_file=Path(parameters),
                         resume_from=resume_from)
    return folder, summary

whole, whole_summary = run("whole", "four.toml")
half, _ = run("half", "two.toml")
resumed = Path("resumed")
resumed.mkdir()
(resumed / "metrics.jsonl").write_bytes((half / "metrics.jsonl").read_bytes())  # as --resume does
rest_summary = train.main(input_dir=None, output_dir=resumed, params_file=Path("four.toml"),
                          resume_from=half / "checkpoints" / "step-00000002")
assert rest_summary == whole_summary, (rest_summary, whole_summary)
"""


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name, language):
    """The fenced blocks of one language on a page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


def sections(name):
    """The page by headings of every level: (title, text)."""
    parts = re.split(r"^#+ (.*)$", page(name), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text):
    """The cells of every table row but headers and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    bodies = [
        line
        for i, line in enumerate(lines)
        if not is_rule(line) and not (i + 1 < len(lines) and is_rule(lines[i + 1]))
    ]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in bodies]


def is_rule(line):
    return not line.strip("|-: ")


def accepted_keys(tmp_path, monkeypatch):
    """Every key that the reader of experiment.toml asks for, as it does so."""
    asked = set()
    take = Table.take

    def listening(table, name, default):
        asked.add(table.key(name).replace("data.inputs.0.", "data.inputs."))
        return take(table, name, default)

    monkeypatch.setattr(Table, "take", listening)
    path = tmp_path / "experiment.toml"
    path.write_text(EVERY_TABLE)
    config.load(path, root=tmp_path)
    return {key for key in asked if not any(other.startswith(f"{key}.") for other in asked)}


def documented_keys():
    found = set()
    for title, text in sections("experiment.md").items():
        table = re.fullmatch(r"`\[+([a-z.]+)\]+`", title)
        if table or title == "Top level":
            prefix = f"{table[1]}." if table else ""
            found |= {prefix + cells[0].strip("`") for cells in rows(text)}
    return found


def test_every_key_of_experiment_toml_is_documented_and_no_other(tmp_path, monkeypatch):
    accepted = accepted_keys(tmp_path, monkeypatch)

    assert {"script", "data.inputs.path", "wandb.tags"} <= accepted
    assert documented_keys() == accepted


def test_example_of_experiment_toml_is_accepted(tmp_path):
    (text,) = blocks("experiment.md", "toml")
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    found = config.load(path, root=tmp_path)

    assert found.timeout_s == 7200
    assert [item.name for item in found.inputs] == [None, "preprocessed"]


def test_findings_table_equals_the_severities():
    documented = rows(sections("record.md")["Findings"])
    table = {code.strip("`"): severity for code, severity, *_ in documented}

    assert table == findings.SEVERITIES


def finding_codes_in_code():
    """The codes of all calls of Finding that name theirs."""
    for path in (ROOT / "lib/engram").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding":
                yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def test_findings_that_the_code_makes_are_those_of_the_table():
    assert set(finding_codes_in_code()) == set(findings.SEVERITIES)


def test_exit_codes_table_equals_the_exit_codes():
    table = {int(code): text for code, text in rows(sections("record.md")["Exit codes"])}

    assert table == errors.EXIT_CODES


def test_states_table_equals_the_states():
    table = [state.strip("`") for state, *_ in rows(sections("record.md")["States"])]

    assert table == list(record.STATES)


def test_documented_record_keys_are_those_of_a_record(project):
    assert project.run("experiment.toml").returncode == 0
    table = {
        key
        for keys, _ in rows(sections("record.md")["The record"])
        for key in re.findall(r"`(\w+)`", keys)
    }

    assert table == set(project.record())


def test_documented_files_are_those_of_a_run(project):
    assert project.run("experiment.toml").returncode == 0
    folder = project.latest().folder
    text = sections("record.md")["The run folder"]
    table = {name for names, _ in rows(text) for name in re.findall(r"`([^`]+)`", names)}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    ours = {f"{name}/" if (folder / name).is_dir() else name for name in found}

    assert ours - {"provenance/", "outputs/result.txt"} <= table


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name) if name else path
        assert other.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(other), f"{path.name} links to {target}"


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_script_examples_parse():
    examples = blocks("script.md", "python")

    assert len(examples) == 6
    for example in examples:
        ast.parse(example)


def run_python(code, folder, *arguments):
    """Run an example as a script of its own, in `folder`."""
    (folder / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "example.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "lib")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def example(mark):
    (found,) = [block for block in blocks("script.md", "python") if mark in block]
    return found


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_training_example_resumes_bit_for_bit(tmp_path):
    (parameters,) = blocks("script.md", "toml")
    assert tomllib.loads(parameters)["epochs"] == 4
    (tmp_path / "four.toml").write_text(parameters)
    (tmp_path / "two.toml").write_text(parameters.replace("epochs = 4", "epochs = 2"))
    (tmp_path / "train.py").write_text(example("Checkpoints("))
    evaluation = example("partial=True").replace('"outputs/checkpoints"', '"whole/checkpoints"')
    done = run_python(TRAIN_AND_RESUME + evaluation, tmp_path, "train.py")

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert done.stdout.startswith("4 ")
    for name in ("metrics.jsonl", "checkpoints/step-00000004/state.pt", "model.pt"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


def test_metrics_example_runs(tmp_path):
    run_python(example("to_csv") + "assert len(rows) == 6, rows\n", tmp_path)

    lines = (tmp_path / "outputs/metrics.jsonl").read_text().splitlines()
    assert lines[1] == '{"step": 0, "validation/accuracy": 0.9, "rates/excitatory": 4.0}'
    header = (tmp_path / "outputs/metrics.csv").read_text().splitlines()[0]
    assert header == "step,loss,validation/accuracy,rates/excitatory"


def test_progress_example_runs(tmp_path):
    done = run_python(example("progress.bar"), tmp_path)

    assert "prepare: 100/100 (100 %)" in done.stderr
    assert "simulate: 1000/1000 (100 %)" in done.stderr


def test_code_map_names_every_module_once():
    named = re.findall(r"^\| `([\w/]+\.py)` \|", (DOCS / "code-map.md").read_text(), re.MULTILINE)
    engram, neuro = ROOT / "lib" / "engram", ROOT / "lib" / "neuro"
    modules = {
        path.relative_to(base).as_posix()
        for base, path in [
            *((engram, path) for path in [*engram.glob("*.py"), *engram.glob("grid/*.py")]),
            *((neuro.parent, path) for path in neuro.rglob("*.py")),
        ]
        if path.name != "__init__.py"
    }
    assert sorted(named) == sorted(modules)
