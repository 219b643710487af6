"""The student stages, small: main() called directly on a small teacher, and once by ./run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHECKOUT, Project
from small_stages import FOLDER, SMALL_CONNECTOME, Stages, contents, imported, lines

from engram import record
from neuro.connectome.network_structure import load_structure
from neuro.spiking.spike_data import load_spike_data

STAGES = ("generate_connectome", "generate_teacher", "train_student", "infer_hidden_units")
STUDENTS = STAGES[2:]
# 60 cells, 30 inputs, and as little time as shows what is to be shown; nothing to compile.
SMALL = {
    "generate_connectome": SMALL_CONNECTOME,
    "generate_teacher": {
        "threads": 1,
        "backend": "sequence",
        "n_trials": 4,
        "duration_ms": 300.0,
        "settle_ms": 50.0,
        "window_ms": 50.0,
    },
    "train_student": {
        "threads": 1,
        "backend": "sequence",
        "validation_trials": 1,
        "log_interval": 1,
        "checkpoint_interval": 3,
        "task.grouping": "cell_types",
        "training.feedforward.passes": 3,
        "training.feedforward.chunk_ms": 100.0,
        "training.between.passes": 3,
        "training.between.chunk_ms": 100.0,
        "training.recurrent.passes": 3,
        "training.recurrent.chunk_ms": 100.0,
    },
    "infer_hidden_units": {
        "threads": 1,
        "backend": "sequence",
        "validation_trials": 1,
        "iterations": 3,
        "task.grouping": "cell_types",
        "m_step.chunk_ms": 100.0,
    },
}


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    with imported(STAGES, SMALL) as found:
        yield found


@pytest.fixture(scope="module")
def inputs(stages, tmp_path_factory) -> Path:
    """A folder of inputs that holds a teacher; weights are not tuned, so that it fires a lot."""
    folder = tmp_path_factory.mktemp("inputs")
    stages.run("generate_connectome", folder / "generate_connectome")
    stages.run("generate_teacher", folder / "generate_teacher", input_dir=folder)
    return folder


@pytest.fixture(autouse=True)
def no_seed_from_outside(monkeypatch):
    monkeypatch.delenv("ENGRAM_SEED", raising=False)


def assert_resumed_equals_straight(straight: Path, begun: Path, resumed: Path) -> None:
    both = lines(begun) + lines(resumed)
    assert json.dumps(both) == json.dumps(lines(straight))
    wanted, found = contents(straight), contents(resumed)
    # What a checkpoint says of metrics.jsonl is its length, here without the parent's lines.
    meta = {name for name in wanted if name.endswith("meta.json")}
    assert wanted.keys() == found.keys()
    assert {name for name in wanted if wanted[name] != found[name]} <= meta


def tables(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_student_writes_what_it_knew_what_was_to_be_found_and_what_it_found(
    stages, inputs, tmp_path
):
    summary = stages.run("train_student", tmp_path / "out", input_dir=inputs)
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {
        *("student_structure.npz", "target_scaling_factors.npz", "scaling_factors.npz"),
        *("learning.png", "recovery.png", "checkpoints", "metrics.jsonl", "metrics_times.jsonl"),
    }
    true = load_structure(inputs / "generate_teacher" / "network_structure.npz")
    known = load_structure(folder / "student_structure.npz")
    target, found = (tables(folder / f"{name}scaling_factors.npz") for name in ("target_", ""))
    assert target["cell_groups"].tolist() == ["E", "I"]
    # The target factors undo what was done to the weights.
    for name, pairs in (
        ("recurrent", true.recurrent_type_pairs),
        ("feedforward", true.feedforward_type_pairs),
    ):
        undone = getattr(known, f"{name}_weight") * target[name][pairs]
        np.testing.assert_allclose(undone, getattr(true, f"{name}_weight"), rtol=1e-5)
    # Median over 4 + 2 factors, by hand.
    error = [
        abs(found[name] - target[name]) / target[name] for name in ("recurrent", "feedforward")
    ]
    assert summary["median_relative_error"] == pytest.approx(
        np.median(np.concatenate([one.ravel() for one in error])), rel=1e-5
    )
    assert (summary["factors"], summary["hidden_cells"]) == (6, 0)
    assert summary["start_log_factor_correlation"] is None
    assert summary["backend"] == "sequence"


def test_clamped_student_comes_nearer_to_the_factors_and_to_the_spikes(stages, inputs, tmp_path):
    summary = stages.run(
        "train_student",
        tmp_path / "out",
        input_dir=inputs,
        **{"training.feedforward.passes": 15},
    )
    assert summary["mean_absolute_difference"] < 0.5 * summary["start_mean_absolute_difference"]
    assert summary["median_relative_error"] < 0.5 * summary["start_median_relative_error"]
    assert summary["log_factor_correlation"] > 0.9
    assert summary["validation_loss"] < 0.2 * summary["start_validation_loss"]


def test_recurrent_student_comes_nearer_to_the_teachers_spikes(stages, inputs, tmp_path):
    summary = stages.run("train_student", tmp_path / "out", input_dir=inputs, student="recurrent")
    assert summary["validation_loss"] < summary["start_validation_loss"]
    assert all(np.isfinite(row["train/gradient_norm"]) for row in lines(tmp_path / "out"))


@pytest.mark.parametrize("student", ["feedforward", "recurrent"])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_every_factor_moves_in_the_first_update(stages, inputs, tmp_path, student, hidden):
    # Adam moves what has a gradient, however small, by its step size at first.
    table = "between" if student == "feedforward" and hidden else student
    stages.run(
        "train_student",
        tmp_path / "out",
        input_dir=inputs,
        student=student,
        **{
            f"training.{table}.passes": 1,
            f"training.{table}.chunk_ms": 300.0,
            f"training.{table}.learning_rate": 0.01,
            "task.hidden_fraction": hidden,
        },
    )
    found = tables(tmp_path / "out" / "scaling_factors.npz")
    for name in ("recurrent", "feedforward"):
        np.testing.assert_allclose(abs(np.log(found[name])), 0.01, rtol=1e-2)
    n_hidden = {"E": round(hidden * 48), "I": round(hidden * 12)}
    types = load_structure(tmp_path / "out" / "student_structure.npz").cell_type_ids
    assert np.bincount(types[found["hidden"]], minlength=2).tolist() == list(n_hidden.values())


class StoppedError(Exception):
    """The process is killed."""


def stop_at(monkeypatch, module, name: str, call: int) -> None:
    """Let a function of a module be the last thing that is called, the n-th time."""
    original, calls = getattr(module, name), []

    def counted(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise StoppedError
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, counted)


@pytest.mark.parametrize(
    ("student", "hidden", "chunks_per_update", "log_interval"),
    # A stop within a pass over the data; within an update and a line of metrics, or one of them.
    [("feedforward", 0.0, 2, 4), ("feedforward", 0.2, 4, 1), ("recurrent", 0.2, 1, 3)],
)
def test_resumed_student_equals_uninterrupted_bit_for_bit(
    stages, inputs, tmp_path, monkeypatch, student, hidden, chunks_per_update, log_interval
):
    table = "between" if student == "feedforward" and hidden else student
    changed = {
        "input_dir": inputs,
        "student": student,
        "log_interval": log_interval,
        "checkpoint_interval": 5,
        f"training.{table}.chunks_per_update": chunks_per_update,
        "task.hidden_fraction": hidden,
    }
    straight = stages.run("train_student", tmp_path / "straight", **changed)
    with monkeypatch.context() as patched:
        stop_at(patched, stages["train_student"], "learn_chunk", call=6)
        with pytest.raises(StoppedError):
            stages.run("train_student", tmp_path / "begun", **changed)
    newest = max((tmp_path / "begun" / "checkpoints").glob("step-*"))
    # Whatever the random streams are when a run resumes must not matter.
    torch.manual_seed(999)
    resumed = stages.run("train_student", tmp_path / "resumed", resume_from=newest, **changed)
    assert resumed == straight
    assert_resumed_equals_straight(tmp_path / "straight", tmp_path / "begun", tmp_path / "resumed")


def test_noise_and_hidden_cells_leave_the_factors_to_be_found_as_they_are(stages, inputs, tmp_path):
    short = {"input_dir": inputs, "training.feedforward.passes": 1}
    stages.run("train_student", tmp_path / "plain", **short)
    changed = {"task.noise_fraction": 0.3, "task.hidden_fraction": 0.2}
    stages.run("train_student", tmp_path / "hard", **short, **changed)
    stages.run("train_student", tmp_path / "other", seed=45, **short)
    plain, hard, other = (contents(tmp_path / name) for name in ("plain", "hard", "other"))
    assert plain["target_scaling_factors.npz"] == hard["target_scaling_factors.npz"]
    assert plain["target_scaling_factors.npz"] != other["target_scaling_factors.npz"]
    assert plain["student_structure.npz"] != hard["student_structure.npz"]


def test_nothing_is_learned_from_the_validation_trials(stages, inputs, tmp_path):
    students = stages["train_student"]
    data = load_spike_data(inputs / "generate_teacher" / "spike_data.npz")
    training, validation = students.split_trials(data, validation_trials=1, chunk_ms=70.0)
    assert (training.chosen.tolist(), validation.chosen.tolist()) == ([0, 1, 2], [3])
    for trials in (training, validation):
        # 300 steps in chunks of 70: the last one has 20.
        pieces = [trials.outputs(chunk) for chunk in range(trials.n_chunks)]
        assert [len(one) for one in pieces] == [70, 70, 70, 70, 20]
        assert torch.equal(torch.cat(pieces), data.output.dense()[:, trials.chosen])


@pytest.mark.parametrize(
    ("stage", "changed", "message"),
    [
        ("train_student", {"student": "perfect"}, "student = 'perfect' is none of 'feedforward'"),
        ("train_student", {"validation_trials": 4}, "validation_trials = 4 must be in 1 .. 3"),
        ("train_student", {"task.hidden_fraction": 1.0}, "hidden_fraction = 1.0"),
        ("train_student", {"task.grouping": "layers"}, "grouping = 'layers'"),
        ("infer_hidden_units", {"e_step": "guess"}, "e_step = 'guess' is none of 'current'"),
        ("infer_hidden_units", {"task.hidden_fraction": 0.0}, "hides no cell"),
    ],
)
def test_impossible_parameters_are_refused(stages, inputs, tmp_path, stage, changed, message):
    with pytest.raises(ValueError, match=message):
        stages.run(stage, tmp_path / "out", input_dir=inputs, **changed)


@pytest.mark.parametrize("stage", STUDENTS)
def test_missing_teacher_is_refused_with_the_command_that_makes_one(stages, tmp_path, stage):
    with pytest.raises(FileNotFoundError, match="generate_teacher.toml"):
        stages.run(stage, tmp_path / "out", input_dir=tmp_path)


@pytest.fixture(scope="module")
def inferred(stages, inputs, tmp_path_factory):
    """A run of expectation-maximization that others are compared with, and its summary."""
    folder = tmp_path_factory.mktemp("inferred") / "out"
    changed = {"m_step.passes": 3, "iterations": 4}
    return folder, stages.run("infer_hidden_units", folder, input_dir=inputs, **changed)


def test_hidden_spikes_come_nearer_to_the_true_ones_and_not_to_those_of_others(inferred):
    folder, summary = inferred
    assert summary["hidden_cells"] == round(0.2 * 48) + round(0.2 * 12)
    assert summary["hidden_coincidence"] > summary["start_hidden_coincidence"] + 0.1
    assert summary["hidden_coincidence"] > summary["shuffled_coincidence"] + 0.2
    assert summary["hidden_van_rossum"] < 0.5 * summary["start_hidden_van_rossum"]
    assert summary["mean_absolute_difference"] < summary["start_mean_absolute_difference"]
    rows = lines(folder)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[-1]["hidden/coincidence"] == summary["hidden_coincidence"]


def test_each_iteration_infers_other_spikes_than_the_one_before(inferred):
    folder, summary = inferred
    changed = [row["hidden/changed_spikes"] for row in lines(folder)[1:]]
    assert min(changed) == summary["least_changed_spikes"] > 0


def test_with_the_true_factors_hidden_spikes_are_inferred_without_error(inferred):
    _, summary = inferred
    assert summary["true_factors_coincidence"] == 1
    assert summary["true_factors_van_rossum"] == 0


def test_hidden_spikes_are_written_as_events_of_hidden_cells(inferred, inputs):
    folder, summary = inferred
    written = tables(folder / "hidden_spikes.npz")
    hidden = tables(folder / "scaling_factors.npz")["hidden"]
    assert set(written["cell"]) <= set(hidden)
    data = load_spike_data(inputs / "generate_teacher" / "spike_data.npz")
    guess = torch.zeros(data.output.dense().shape)
    guess[written["step"], written["trial"], written["cell"]] = 1
    # The rate correlation of the summary, from the rasters.
    counts = [one[..., hidden].sum((0, 1)).numpy() for one in (guess, data.output.dense())]
    assert summary["hidden_rate_correlation"] == pytest.approx(np.corrcoef(*counts)[0, 1])


def test_m_step_takes_the_spikes_that_its_control_asks_for(stages, inputs, tmp_path):
    module = stages["infer_hidden_units"]
    path = stages.write_parameters("infer_hidden_units", tmp_path / "p.toml")
    parameters = module.make_parameters(module.read_parameters(path))
    problem = module.make_problem(inputs, parameters)
    true, hidden = problem.data.output, torch.from_numpy(problem.hidden)
    with torch.no_grad():
        for table in module.log_factors(problem.clamped):
            table += 0.1
    current = module.infer(problem.between, problem)
    found = {}
    for e_step in module.E_STEPS:
        changed = dataclasses.replace(parameters, e_step=e_step)
        found[e_step] = module.for_m_step(current, problem, changed).dense()
    recorded = torch.ones(60, dtype=torch.bool)
    recorded[hidden] = False
    for spikes in found.values():
        assert torch.equal(spikes[..., recorded], true.dense()[..., recorded])
    assert torch.equal(found["current"], current.dense())
    assert torch.equal(found["true"], true.dense())
    assert not found["silent"][..., hidden].any()
    # The factors of the start are those of a student that has not learned.
    fresh = module.make_problem(inputs, parameters)
    assert torch.equal(found["start"], module.infer(fresh.between, fresh).dense())
    assert not torch.equal(found["start"], found["current"])


def test_mixed_up_cells_are_other_cells_of_the_same_group(stages, inputs, tmp_path):
    module = stages["infer_hidden_units"]
    path = stages.write_parameters("infer_hidden_units", tmp_path / "p.toml")
    problem = module.make_problem(inputs, module.make_parameters(module.read_parameters(path)))
    groups = problem.task.groups.cells.ids.numpy()
    assert sorted(problem.partner) == problem.hidden.tolist()
    assert (problem.partner != problem.hidden).all()
    assert (groups[problem.partner] == groups[problem.hidden]).all()


def test_resumed_inference_equals_uninterrupted_bit_for_bit(stages, inputs, tmp_path, monkeypatch):
    changed = {"input_dir": inputs, "m_step.chunks_per_update": 2}
    straight = stages.run("infer_hidden_units", tmp_path / "straight", **changed)
    with monkeypatch.context() as patched:
        stop_at(patched, stages["infer_hidden_units"], "m_step", call=2)
        with pytest.raises(StoppedError):
            stages.run("infer_hidden_units", tmp_path / "begun", **changed)
    newest = max((tmp_path / "begun" / "checkpoints").glob("step-*"))
    torch.manual_seed(999)
    resumed = stages.run("infer_hidden_units", tmp_path / "resumed", resume_from=newest, **changed)
    assert resumed == straight
    assert_resumed_equals_straight(tmp_path / "straight", tmp_path / "begun", tmp_path / "resumed")


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("stage", STUDENTS)
def test_every_parameter_has_a_comment_and_both_sizes_have_the_same_keys(stage, size):
    path = FOLDER / "parameters" / size / f"{stage}.toml"
    for line in path.read_text().splitlines():
        assert "=" not in line or line.partition("#")[2].strip(), line
    small = tomllib.loads((FOLDER / "parameters" / "small" / f"{stage}.toml").read_text())
    assert keys(tomllib.loads(path.read_text())) == keys(small)


def keys(values: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        found |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Project:
    """A repository of this checkout's code, as a clone on a new machine would be."""
    project = Project(tmp_path / "checkout", tool=tmp_path / "checkout")
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("lib", "experiments"):
        shutil.copytree(CHECKOUT / name, project.root / name, ignore=skipped)
    for name in (".gitignore", "run_experiment.py", "uv.lock"):
        shutil.copyfile(CHECKOUT / name, project.root / name)
    # A teacher without the stage that tunes it, which takes longest.
    teacher = project.root / "experiments" / "connectome_snns" / "generate_teacher.toml"
    text = teacher.read_text().replace("homeostatic_plasticity", "generate_connectome")
    teacher.write_text(text)
    project.git("init", "-q", "-b", "main")
    project.commit()
    return project


def settings(stage: str) -> list[str]:
    """The small values of a stage as options of ./run."""
    return [
        option
        for key, value in SMALL[stage].items()
        for option in ("--set", f"{key}={json.dumps(value)}")
    ]


@pytest.mark.slow
def test_students_run_through_the_runner_and_rerun_and_as_grids(checkout):
    for stage in STAGES:
        path = f"experiments/connectome_snns/{stage}.toml"
        done = checkout.run(path, *settings(stage), env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
    teacher, *students = checkout.runs()[1:]
    for paths in students:
        (edge,) = record.load(paths)["inputs"]
        assert edge["run"] == teacher.run_id
        again = checkout.run("--rerun", paths.run_id)
        assert again.returncode == 0, again.stderr
        assert "identical" in again.stderr
    for grid, points in (("noise", 18), ("students", 12), ("inference", 12)):
        path = f"experiments/connectome_snns/{grid}.toml"
        done = checkout.run("--grid", "--dry-run", path)
        assert done.returncode == 0, done.stderr
        assert f"# {points} points" in done.stdout
