"""The stages from connectome to teacher, small: main() called directly, and chained by ./run."""

from __future__ import annotations

import csv
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
from neuro.models.assembly_network import assembly_network
from neuro.models.physiology import load_physiology
from neuro.spiking.spike_data import load_spike_data
from neuro.spiking.surrogate import FastSigmoid

STAGES = ("generate_connectome", "homeostatic_plasticity", "generate_teacher")
HANDED_ON = {"network_structure.npz", "physiology.json", "odor_patterns.npy"}
# 60 cells, 30 inputs, and as little time as shows what is to be shown.
SMALL = {
    "generate_connectome": SMALL_CONNECTOME,
    "homeostatic_plasticity": {
        "threads": 1,
        "n_trials": 4,
        "chunk_ms": 40.0,
        "n_chunks": 6,
        "chunks_per_update": 4,
        "log_interval": 1,
        "checkpoint_interval": 3,
        "evaluation_ms": 120.0,
        "settle_ms": 40.0,
    },
    "generate_teacher": {
        "threads": 1,
        "n_trials": 3,
        "duration_ms": 300.0,
        "settle_ms": 50.0,
        "window_ms": 50.0,
    },
}


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    with imported(STAGES, SMALL) as found:
        yield found


@pytest.fixture(scope="module")
def inputs(stages, tmp_path_factory) -> Path:
    """A folder of inputs that holds the output of stage 1."""
    folder = tmp_path_factory.mktemp("inputs")
    stages.run("generate_connectome", folder / "generate_connectome")
    return folder


def test_connectome_is_handed_on_counted_and_drawn(stages, inputs):
    folder = inputs / "generate_connectome"
    written = {path.name for path in folder.iterdir()}
    figures = {"connectivity.png", "distributions.png"}
    assert written == HANDED_ON | figures | {"network_statistics.csv"}
    structure = load_structure(folder / "network_structure.npz")
    assert (structure.n_cells, structure.n_inputs, structure.n_assemblies) == (60, 30, 2)
    with (folder / "network_statistics.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Counted here by a loop over edges, there by masks.
    types = structure.cell_type_names[structure.cell_type_ids]
    wanted = {(pre, post): 0 for pre in "EI" for post in "EI"}
    for pre, post in zip(structure.recurrent_pre, structure.recurrent_post, strict=True):
        wanted[types[pre], types[post]] += 1
    found = {
        (row["pre"], row["post"]): int(row["edges"])
        for row in rows
        if row["projection"] == "recurrent"
    }
    assert found == wanted
    assert sum(int(row["edges"]) for row in rows) == sum(
        len(edges.pre) for edges in (structure.recurrent, structure.feedforward)
    )


def test_same_seed_gives_the_same_connectome_and_another_seed_another(stages, inputs, tmp_path):
    stages.run("generate_connectome", tmp_path / "again")
    stages.run("generate_connectome", tmp_path / "other", seed=44)
    assert contents(tmp_path / "again") == contents(inputs / "generate_connectome")
    name = "network_structure.npz"
    assert contents(tmp_path / "other")[name] != contents(tmp_path / "again")[name]


def test_seed_of_the_run_wins_over_that_of_the_parameters(stages, inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("ENGRAM_SEED", "43")
    stages.run("generate_connectome", tmp_path / "out", seed=44)
    assert contents(tmp_path / "out") == contents(inputs / "generate_connectome")


def test_connectome_that_its_physiology_cannot_simulate_is_refused_at_once(stages, tmp_path):
    with pytest.raises(ValueError, match="'mitral'"):
        changed = {"connectome.inputs.names": ["granule"]}
        text = stages.run("generate_connectome", tmp_path / "out", **changed)
        pytest.fail(f"it ran: {text}")


@pytest.mark.parametrize("trainable", ["synapses", "type_pairs"])
def test_homeostasis_changes_weights_and_nothing_else(stages, inputs, tmp_path, trainable):
    changed = {"trainable.recurrent": trainable, "trainable.feedforward": trainable}
    short = {"n_chunks": 2, "chunks_per_update": 1}
    summary = stages.run(
        "homeostatic_plasticity", tmp_path / "out", input_dir=inputs, **short, **changed
    )
    before = load_structure(inputs / "generate_connectome" / "network_structure.npz")
    after = load_structure(tmp_path / "out" / "network_structure.npz")
    for name in vars(before):
        same = np.array_equal(getattr(before, name), getattr(after, name))
        assert same is not name.endswith("_weight"), name
    for name in ("physiology.json", "odor_patterns.npy"):
        handed_on = (tmp_path / "out" / name).read_bytes()
        assert handed_on == (inputs / "generate_connectome" / name).read_bytes()
    if trainable == "type_pairs":
        ratio = after.recurrent_weight / before.recurrent_weight
        for pre in range(2):
            for post in range(2):
                own = ratio[(np.stack(before.recurrent_type_pairs) == [[pre], [post]]).all(axis=0)]
                np.testing.assert_allclose(own, own[0], rtol=1e-5)
        logged = lines(tmp_path / "out")[-1]
        assert logged["factor/recurrent/I-E"] != 1.0
    assert summary["backend"] in ("event", "sequence")


@pytest.mark.parametrize(
    ("chunks_per_update", "log_interval", "checkpoint_interval"),
    # A stop within an update and within a line of metrics; logging more and less often than
    # updating; all of them at once.
    [(4, 1, 3), (1, 4, 3), (2, 2, 3), (5, 2, 1)],
)
def test_resumed_homeostasis_equals_uninterrupted_bit_for_bit(
    stages, inputs, tmp_path, chunks_per_update, log_interval, checkpoint_interval
):
    intervals = {
        "chunks_per_update": chunks_per_update,
        "log_interval": log_interval,
        "checkpoint_interval": checkpoint_interval,
    }
    stage = "homeostatic_plasticity"
    straight = stages.run(stage, tmp_path / "straight", input_dir=inputs, **intervals)
    stages.run(stage, tmp_path / "begun", input_dir=inputs, n_chunks=3, **intervals)
    # Whatever the random streams are when a run resumes must not matter.
    torch.manual_seed(999)
    newest = max((tmp_path / "begun" / "checkpoints").glob("step-*"))
    resumed = stages.run(
        stage, tmp_path / "resumed", input_dir=inputs, resume_from=newest, **intervals
    )
    assert resumed == straight
    both = lines(tmp_path / "begun") + lines(tmp_path / "resumed")
    assert both == lines(tmp_path / "straight")
    assert len(both) == 6 // log_interval
    wanted, found = (contents(tmp_path / name) for name in ("straight", "resumed"))
    # What a checkpoint says of metrics.jsonl is its length, here without the parent's lines.
    meta = {name for name in wanted if name.endswith("meta.json")}
    assert wanted.keys() == found.keys()
    assert {name for name in wanted if wanted[name] != found[name]} <= meta


def test_every_loss_with_a_weight_is_logged_and_one_without_is_left_out(stages, inputs, tmp_path):
    changed = {"loss_weights.cv": 0.0, "loss_weights.membrane_variance": 0.0}
    stages.run("homeostatic_plasticity", tmp_path / "out", input_dir=inputs, n_chunks=2, **changed)
    logged = {name for name in lines(tmp_path / "out")[0] if name.startswith("loss/")}
    assert logged == {"loss/firing_rate", "loss/silent", "loss/weight_ratio", "loss/total"}


def test_homeostasis_brings_rates_nearer_to_their_targets(stages, inputs, tmp_path):
    summary = stages.run(
        "homeostatic_plasticity",
        tmp_path / "out",
        input_dir=inputs,
        n_chunks=30,
        chunks_per_update=1,
        n_trials=10,
        learning_rate=0.1,
        evaluation_ms=600.0,
    )
    targets = {"E": 0.5, "I": 2.0}
    start = {name: abs(summary[f"initial_rate_{name}_hz"] / targets[name] - 1) for name in targets}
    assert max(start.values()) > 1.0
    for name in targets:
        error = abs(summary[f"rate_{name}_hz"] / targets[name] - 1)
        assert summary[f"relative_rate_error_{name}"] == pytest.approx(error)
    assert summary["relative_rate_error"] < 0.5 * max(start.values())


def test_missing_stage_is_refused_with_the_command_that_runs_it(stages, inputs, tmp_path):
    with pytest.raises(FileNotFoundError, match="generate_connectome.toml"):
        stages.run("homeostatic_plasticity", tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="homeostatic_plasticity.toml"):
        stages.run("generate_teacher", tmp_path / "b", input_dir=tmp_path)
    shutil.copytree(inputs / "generate_connectome", tmp_path / "in" / "generate_connectome")
    (tmp_path / "in" / "generate_connectome" / "physiology.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks physiology\.json"):
        stages.run("homeostatic_plasticity", tmp_path / "c", input_dir=tmp_path / "in")


def test_teachers_spikes_are_those_of_the_network_that_it_hands_on(stages, inputs, tmp_path):
    summary = stages.run("generate_teacher", tmp_path / "out", input_dir=inputs)
    folder = tmp_path / "out"
    figures = {"raster.png", "statistics.png", "potentials.png"}
    handed_on = HANDED_ON | {"spike_data.npz"}
    assert {path.name for path in folder.iterdir()} == handed_on | figures | {
        "firing_statistics.csv"
    }
    data = load_spike_data(folder / "spike_data.npz")
    assert (data.input.n_steps, data.input.n_trials, data.input.n_units) == (300, 3, 30)
    assert summary["output_spikes"] == len(data.output.unit) > 0
    # One simulation of the whole, by the reference backend, in place of chunks by the fastest.
    network = assembly_network(
        load_structure(folder / "network_structure.npz"),
        load_physiology(folder / "physiology.json"),
        dt_ms=data.dt_ms,
        surrogate=FastSigmoid(),
        backend="loop",
    )
    with torch.no_grad():
        again = network({"feedforward": data.input.dense()}).spikes
    assert torch.equal(again, data.output.dense())


def test_clamped_network_repeats_the_recording_that_drives_it(stages, inputs, tmp_path):
    stages.run("generate_teacher", tmp_path / "out", input_dir=inputs, backend="sequence")
    data = load_spike_data(tmp_path / "out" / "spike_data.npz")
    network = assembly_network(
        load_structure(tmp_path / "out" / "network_structure.npz"),
        load_physiology(tmp_path / "out" / "physiology.json"),
        dt_ms=data.dt_ms,
        surrogate=FastSigmoid(),
        clamped=True,
        backend="sequence",
    )
    given = {"feedforward": data.input.dense(), "recurrent": data.output.dense()}
    with torch.no_grad():
        assert torch.equal(network(given).spikes, data.output.dense())


def test_mixtures_of_odors_are_kept_beside_the_spikes(stages, inputs, tmp_path):
    stages.run("generate_teacher", tmp_path / "out", input_dir=inputs)
    odors = load_spike_data(tmp_path / "out" / "spike_data.npz").odors
    assert odors.mixture_step.tolist() == [0, 100, 200]
    np.testing.assert_allclose(odors.mixture.sum(axis=2), 1, rtol=1e-5)
    # All odors alike at first; then every trial has a mixture of its own.
    np.testing.assert_allclose(odors.mixture[0], 0.5, rtol=1e-5)
    assert len(np.unique(odors.mixture[-1, :, 0])) == 3
    np.testing.assert_allclose((odors.mixture @ odors.patterns_hz).mean(axis=2), 6.0, rtol=1e-4)


CURRENT = {
    "physiology.model": "current",
    "physiology.cells": {
        "E": {"tau_mem_ms": 20.0, "refractory_ms": 3.0},
        "I": {"tau_mem_ms": 10.0, "refractory_ms": 2.0},
    },
    "physiology.synapses": {
        "excitation": {"tau_syn_ms": 5.0, "sign": 1},
        "inhibition": {"tau_syn_ms": 8.0, "sign": -1},
    },
    "physiology.transmission": {
        "E": ["excitation"],
        "I": ["inhibition"],
        "mitral": ["excitation"],
    },
    "connectome.recurrent_weights.w_mean": 0.05,
    "connectome.recurrent_weights.w_variance": 0.01,
}


def test_current_based_cells_go_through_all_stages(stages, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    stages.run("generate_connectome", folder / "generate_connectome", **CURRENT)
    tuned = folder / "homeostatic_plasticity"
    summary = stages.run("homeostatic_plasticity", tuned, input_dir=folder, n_chunks=3)
    assert summary["initial_rate_E_hz"] > 0
    summary = stages.run("generate_teacher", tmp_path / "teacher", input_dir=folder)
    assert summary["output_spikes"] > 0
    assert load_physiology(tmp_path / "teacher" / "physiology.json").model == "current"


@pytest.mark.parametrize("size", ["small", "full"])
def test_every_parameter_has_a_comment_and_both_sizes_have_the_same_keys(size):
    for stage in STAGES:
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
    project.git("init", "-q", "-b", "main")
    project.commit()
    return project


def settings(stage: str) -> list[str]:
    """The small values of a stage as options of ./run, without the time to compile a simulator."""
    values = SMALL[stage] | ({} if stage == STAGES[0] else {"backend": "sequence"})
    return [
        option
        for key, value in values.items()
        for option in ("--set", f"{key}={json.dumps(value)}")
    ]


@pytest.mark.slow
def test_stages_chain_by_declared_runs_and_the_chain_verifies_and_reruns(checkout):
    first, second, third = (f"experiments/connectome_snns/{stage}.toml" for stage in STAGES)
    early = checkout.run(second)
    assert early.returncode == 2
    assert f"./run {first}" in early.stderr
    for path, stage in zip((first, second, third), STAGES, strict=True):
        done = checkout.run(path, *settings(stage), env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
    runs = checkout.runs()
    shown = checkout.run("show", "latest", "--lineage")
    for paths in runs:
        assert paths.run_id in shown.stdout
    for paths, earlier in zip(runs[1:], runs, strict=False):
        (edge,) = record.load(paths)["inputs"]
        assert edge["run"] == earlier.run_id
        assert checkout.run("verify", paths.run_id).returncode == 0
    again = checkout.run("--rerun", runs[-1].run_id)
    assert again.returncode == 0, again.stderr
    assert "identical" in again.stderr
