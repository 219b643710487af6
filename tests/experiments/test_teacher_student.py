"""Teacher and students of fly_olfaction, small: main() called directly, and chained by ./run."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CHECKOUT, Project
from small_stages import as_toml, contents, lines

from engram import record
from neuro.models.teacher_student import MODES

FOLDER = CHECKOUT / "experiments" / "fly_olfaction"
MODULES = ("teacher", "student", "lessons", "teaching", "student_report", "learning")
# 16 units, 25 steps, and as few updates as show what is to be shown; nothing to compile.
SMALL = {
    "teacher": {
        "backend": "sequence",
        "epochs": 3,
        "batch_size": 10,
        "samples": {"train": 40, "validation": 12, "test": 16},
        "random_graph.n_units": 16,
        "random_graph.n_inputs": 8,
        "random_graph.n_excitatory": 2,
        "random_graph.n_inhibitory": 1,
        "task.n_classes": 3,
        "task.duration_ms": 50.0,
        "network.synapse_noise": 0.01,
        "network.tau_syn_ms": 5.0,
    },
    "student": {
        "backend": "sequence",
        "epochs": 3,
        "batch_size": 10,
        "train_samples": 30,
    },
}


def write_parameters(name: str, path: Path, **changed) -> Path:
    values = tomllib.loads((FOLDER / f"parameters_{name}.toml").read_text())
    for key, value in (SMALL[name] | changed).items():
        *tables, last = key.split(".")
        table = values
        for one in tables:
            table = table[one]
        assert last in table, key
        table[last] = value
    path.write_text(as_toml(values))
    return path


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules; what they change in PyTorch and in sys is put back at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    sys.path.insert(0, str(FOLDER))
    modules = {name: importlib.import_module(name) for name in MODULES}

    def run(name, folder, *, input_dir=None, resume_from=None, **changed):
        folder.mkdir(parents=True)
        parameters = write_parameters(name, folder.with_suffix(".toml"), **changed)
        return modules[name].main(input_dir, folder, parameters, resume_from=resume_from)

    yield SimpleNamespace(run=run, **modules)
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        del sys.modules[name]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def taught(scripts, tmp_path_factory):
    """A folder of inputs that holds a spiking teacher, and its summary."""
    folder = tmp_path_factory.mktemp("inputs")
    return folder, scripts.run("teacher", folder / "teacher")


@pytest.fixture
def inputs(taught):
    return taught[0]


@pytest.fixture(autouse=True)
def no_seed_from_outside(monkeypatch):
    monkeypatch.delenv("ENGRAM_SEED", raising=False)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_teacher_hands_on_what_students_read_and_is_read_as_it_was(scripts, taught):
    folder, summary = taught
    assert {path.name for path in (folder / "teacher").iterdir()} == {
        *("graph.npz", "teacher.json", "teacher.npz", "learning.png", "potentials.png"),
        *("checkpoints", "metrics.jsonl", "metrics_times.jsonl"),
    }
    teacher = scripts.teaching.load_teacher(folder, backend="sequence")
    chosen = teacher.samples.counts.ids("test")
    found = scripts.teaching.run_all(teacher.network, teacher.samples, chosen, 10)
    right = found.logits.argmax(dim=1) == teacher.samples.labels(chosen)
    assert summary["test_accuracy"] == right.double().mean().item()
    assert len(lines(folder / "teacher")) == 3
    assert (summary["chance"], summary["units"]) == (1 / 3, 16)


def test_samples_of_three_kinds_have_no_sample_in_common(scripts):
    counts = scripts.teaching.SampleCounts(train=5, validation=3, test=2)
    found = [counts.ids(name).tolist() for name in ("train", "validation", "test")]
    assert found == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9]]
    with pytest.raises(ValueError, match="at least 2 of each"):
        scripts.teaching.SampleCounts(train=5, validation=1, test=2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_student_of_every_mode_learns_what_it_forgot_and_nothing_else(
    scripts, inputs, tmp_path, mode, hidden
):
    summary = scripts.run(
        "student", tmp_path / "out", input_dir=inputs, mode=mode, hidden_in_loss=hidden
    )
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {
        *("start.npz", "learned.npz", "groups.csv", "learning.png", "potentials.png"),
        *("outputs.png", "recovery.png", "checkpoints", "metrics.jsonl", "metrics_times.jsonl"),
    }
    start, learned = arrays(folder / "start.npz"), arrays(folder / "learned.npz")
    forgotten = set(scripts.student_report.forgotten(mode))
    moved = {name for name in start if not np.array_equal(start[name], learned[name])}
    assert moved == forgotten
    teacher = scripts.teaching.load_teacher(inputs, backend="sequence")
    true = scripts.student_report.values_of(teacher.network)
    known = {name for name in true if np.array_equal(true[name], learned[name])}
    assert known == set(true) - forgotten
    assert summary["recorded_units"] == round(16 * hidden)
    # The error of a value by hand: root mean squared difference over the true values' spread.
    for name in forgotten:
        error = np.sqrt(((learned[name] - true[name]) ** 2).mean()) / true[name].std()
        assert summary[f"{name}_relative_error"] == pytest.approx(error, rel=1e-5)


def test_student_comes_nearer_to_its_teacher_and_a_shuffled_teacher_teaches_less(
    scripts, inputs, tmp_path
):
    changed = {"input_dir": inputs, "mode": "weights", "epochs": 12, "hidden_in_loss": 1.0}
    true = scripts.run("student", tmp_path / "true", **changed)
    shuffled = scripts.run("student", tmp_path / "shuffled", teacher="shuffled", **changed)
    assert true["start_test_potential_mse"] == shuffled["start_test_potential_mse"]
    assert true["test_potential_mse"] < 0.7 * true["start_test_potential_mse"]
    assert true["test_potential_mse"] < shuffled["test_potential_mse"]
    assert true["test_output_correlation"] > shuffled["test_output_correlation"]


def test_shuffled_teacher_gives_every_sample_the_target_of_another(scripts, inputs, tmp_path):
    teacher = scripts.teaching.load_teacher(inputs, backend="sequence")
    lessons = {}
    for name in ("true", "shuffled"):
        path = write_parameters("student", tmp_path / "p.toml", teacher=name, hidden_in_loss=0.5)
        values = tomllib.loads(path.read_text())
        rates = scripts.teaching.LearningRates(**values["learning_rate"])
        parameters = scripts.lessons.Parameters(**values | {"learning_rate": rates})
        lessons[name] = scripts.lessons.make_lesson(teacher, parameters)
    true, shuffled = lessons["true"].targets, lessons["shuffled"].targets
    outputs = teacher.network(teacher.samples.spikes(np.arange(30)))
    assert torch.equal(true.outputs, outputs.outputs)
    recorded = lessons["true"].recorded
    assert torch.equal(true.hidden, outputs.potential[..., recorded])
    # All targets are there once more; two samples may have the same, where their spikes fall into
    # the same steps, and then one may seem to have its own.
    for given, own in zip(shuffled, true, strict=True):
        rows = [[one.numpy().tobytes() for one in part.unbind(1)] for part in (given, own)]
        assert sorted(rows[0]) == sorted(rows[1])
        unique = [row for row in rows[1] if rows[1].count(row) == 1]
        assert len(unique) > 20
        assert not [row for row, other in zip(*rows, strict=True) if row == other in unique]
    assert torch.equal(
        lessons["shuffled"].validation.taught.outputs, lessons["true"].validation.taught.outputs
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"target": "nll"},
        {"target": "nll", "hidden_in_loss": 0.7},
        {"output_loss_scale": 0.0, "hidden_in_loss": 0.7},
        {"hidden_in_loss": 0.7, "hidden_signal": "spikes"},
    ],
)
def test_every_loss_moves_the_student(scripts, inputs, tmp_path, changed):
    summary = scripts.run("student", tmp_path / "out", input_dir=inputs, mode="both", **changed)
    start, learned = (arrays(tmp_path / "out" / f"{name}.npz") for name in ("start", "learned"))
    # Hidden neurons alone say nothing of the readout, which keeps what it was drawn as.
    still = {"readout_weight"} if changed.get("output_loss_scale") == 0 else set()
    same = {name for name in start if np.array_equal(start[name], learned[name])}
    assert same == still
    losses = [row["train/loss"] for row in lines(tmp_path / "out")]
    assert losses[-1] < losses[0]
    assert summary["target"] == changed.get("target", "mse")


def test_group_table_has_the_errors_of_each_cell_group(scripts, inputs, tmp_path):
    summary = scripts.run("student", tmp_path / "out", input_dir=inputs)
    with (tmp_path / "out" / "groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["E0", "E1", "I0"]
    units = np.array([int(row["units"]) for row in rows])
    errors = np.array([float(row["potential_mse"]) for row in rows])
    assert units.sum() == 16
    # The mean over all units, from those of the groups.
    assert (units * errors).sum() / 16 == pytest.approx(summary["test_potential_mse"], rel=1e-4)


def test_rate_teacher_has_rate_students_whose_spike_measures_are_undefined(scripts, tmp_path):
    changed = {"network.kind": "rate", "epochs": 2}
    summary = scripts.run("teacher", tmp_path / "inputs" / "teacher", **changed)
    assert summary["kind"] == "rate"
    found = scripts.run(
        "student",
        tmp_path / "out",
        input_dir=tmp_path / "inputs",
        hidden_in_loss=0.5,
        hidden_signal="spikes",
    )
    assert found["test_gamma"] is found["test_spike_synchrony"] is None
    assert np.isfinite(found["test_potential_correlation"])


class StoppedError(Exception):
    """The process is killed."""


def stop_at(monkeypatch, module, call: int) -> None:
    """Let `learn` be the last thing that is called, the n-th time."""
    original, calls = module.learn, []

    def counted(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            raise StoppedError
        return original(*arguments, **options)

    monkeypatch.setattr(module, "learn", counted)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("teacher", {}),
        ("student", {"mode": "both", "hidden_in_loss": 0.5}),
        ("student", {"mode": "recurrent", "target": "nll", "teacher": "shuffled"}),
    ],
)
def test_resumed_run_equals_uninterrupted_bit_for_bit(
    scripts, inputs, tmp_path, monkeypatch, name, changed
):
    changed = {"input_dir": inputs} | changed
    straight = scripts.run(name, tmp_path / "straight", **changed)
    with monkeypatch.context() as patched:
        # In the third epoch, after two whole ones.
        batches = {"teacher": 4, "student": 3}[name]
        stop_at(patched, scripts.learning, call=2 * batches + 2)
        with pytest.raises(StoppedError):
            scripts.run(name, tmp_path / "begun", **changed)
    newest = max((tmp_path / "begun" / "checkpoints").glob("step-*"))
    # Whatever the random streams are when a run resumes must not matter.
    torch.manual_seed(999)
    resumed = scripts.run(name, tmp_path / "resumed", resume_from=newest, **changed)
    assert resumed == straight
    both = lines(tmp_path / "begun") + lines(tmp_path / "resumed")
    assert json.dumps(both) == json.dumps(lines(tmp_path / "straight"))
    wanted, found = contents(tmp_path / "straight"), contents(tmp_path / "resumed")
    assert wanted.keys() == found.keys()
    # What a checkpoint says of metrics.jsonl is its length, here without the parent's lines.
    meta = {path for path in wanted if path.endswith("meta.json")}
    assert {path for path in wanted if wanted[path] != found[path]} <= meta


def test_values_of_another_graph_are_refused(scripts, inputs, tmp_path):
    shutil.copytree(inputs / "teacher", tmp_path / "teacher")
    graph = arrays(tmp_path / "teacher" / "graph.npz")
    graph["unit_id"] = graph["unit_id"][::-1]
    np.savez(tmp_path / "teacher" / "graph.npz", **graph)
    with pytest.raises(RuntimeError, match="unit_id differs"):
        scripts.run("student", tmp_path / "out", input_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("student", {"mode": "all"}, "mode = 'all' is none of 'intrinsic'"),
        ("student", {"target": "mae"}, "target = 'mae' is none of 'mse', 'nll'"),
        ("student", {"hidden_in_loss": 1.5}, "hidden_in_loss = 1.5"),
        ("student", {"output_loss_scale": 0.0}, "nothing is asked of the student"),
        ("student", {"train_samples": 41}, r"train_samples = 41 must lie in 2 \.\. 40"),
        ("teacher", {"connectome": "mouse"}, "connectome = 'mouse' is none of 'random'"),
        ("teacher", {"trained": "all"}, "mode = 'all'"),
    ],
)
def test_impossible_parameters_are_refused(scripts, inputs, tmp_path, name, changed, message):
    with pytest.raises(ValueError, match=message):
        scripts.run(name, tmp_path / "out", input_dir=inputs, **changed)


def test_missing_teacher_or_tables_are_refused_with_what_to_do(scripts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"teacher\.toml"):
        scripts.run("student", tmp_path / "student", input_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="run fetch fly_olfaction"):
        scripts.run("teacher", tmp_path / "teacher", input_dir=tmp_path, connectome="adult")


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_every_parameter_has_a_comment(name):
    for line in (FOLDER / f"parameters_{name}.toml").read_text().splitlines():
        assert "=" not in line or line.partition("#")[2].strip(), line


def settings(name: str) -> list[str]:
    """The small values as options of ./run."""
    flat = {}
    for key, value in SMALL[name].items():
        inner = value.items() if isinstance(value, dict) else ()
        flat |= {f"{key}.{last}": one for last, one in inner} or {key: value}
    return [part for key, one in flat.items() for part in ("--set", f"{key}={json.dumps(one)}")]


def test_students_of_a_grid_take_the_best_teacher_by_its_record(tmp_path):
    project = Project(tmp_path / "checkout", tool=tmp_path / "checkout")
    for name in ("lib", "experiments/fly_olfaction"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, project.root / name, ignore=skipped)
    for name in (".gitignore", "run_experiment.py", "uv.lock"):
        shutil.copyfile(CHECKOUT / name, project.root / name)
    project.git("init", "-q", "-b", "main")
    project.commit()
    refused = project.run("experiments/fly_olfaction/student.toml")
    assert refused.returncode == 2
    assert "make one with `./run experiments/fly_olfaction/teacher.toml`" in refused.stderr
    for epochs in ("4", "1"):
        options = [*settings("teacher"), "--set", f"epochs={epochs}"]
        done = project.run("experiments/fly_olfaction/teacher.toml", *options)
        assert done.returncode == 0, done.stderr
    found = [(record.load(paths)["summary"]["train_loss"], paths) for paths in project.runs()]
    best = min(found, key=lambda pair: pair[0])[1]
    done = project.run(
        "experiments/fly_olfaction/student.toml",
        *settings("student"),
        *("--config", "data.inputs.0.run=best:teacher:train_loss:min"),
    )
    assert done.returncode == 0, done.stderr
    (student,) = [paths for paths in project.runs() if "student" in paths.run_id]
    (taken,) = record.load(student)["inputs"]
    assert (taken["run"], taken["name"]) == (best.run_id, "teacher")
    assert len(taken["sha256"]) == 64
