"""The fly experiment, small, on the real tables: main() called directly, and once through ./run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from small_fly import FILES, FOLDER, imported

from neuro.connectome import fly_tables

SMALL = {
    "samples_per_class": "{ train = 1, validation = 1 }",
    "epochs": 2,
    "dt_ms": 50,
    "batch_size": 94,
}
BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from classification import build
from parameters import read_parameters
built = build(read_parameters(Path(sys.argv[2])), Path(sys.argv[3]))
print(built.network.units["root_id"].tolist() == sorted(built.network.units["root_id"]))
print(built.wiring.fingerprint.hex(), hash(tuple(built.odors.names)) != 0)
print(built.samples.total_counts(built.validation[:3]).sum(axis=1).tolist())
"""


@pytest.fixture(scope="module")
def script():
    with imported("train") as module:
        yield module


@pytest.fixture(scope="module")
def inputs(shared_data, tmp_path_factory):
    """An inputs folder as the runner makes it."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "tables").symlink_to(shared_data / "fly")
    return folder


@pytest.fixture(autouse=True)
def no_seed_from_outside(monkeypatch):
    monkeypatch.delenv("ENGRAM_SEED", raising=False)


def write_parameters(path: Path, model: str = "compact", **changed: object) -> Path:
    lines = (FOLDER / FILES[model]).read_text().splitlines()
    for key, value in (SMALL | changed).items():
        places = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert len(places) == 1, key
        lines[places[0]] = f"{key} = {value}"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def straight(script, inputs, tmp_path_factory):
    """A small run of the compact network, and its summary."""
    folder = tmp_path_factory.mktemp("straight") / "out"
    folder.mkdir()
    return folder, script.main(inputs, folder, write_parameters(folder.with_suffix(".toml")))


def test_accuracy_lies_above_chance_and_not_above_the_ideal_observer(straight):
    _, summary = straight
    assert summary["classes"] == summary["validation_trials"] == 281
    assert summary["validation_accuracy"] > 10 / 281
    # The same trials for both; an observer of counts errs in a few of them.
    sampling = 3 * (0.25 / 281) ** 0.5
    assert summary["validation_accuracy"] <= summary["ideal_observer_accuracy"] + sampling
    assert 0.9 < summary["ideal_observer_accuracy"] < 1


def test_responses_are_those_of_real_kenyon_cells(straight, inputs):
    folder, _ = straight
    neurons = fly_tables.read_table(inputs / "tables", fly_tables.NEURONS).set_index("root_id")
    with np.load(folder / "responses.npz") as saved:
        for cell_class, size in (("KC", 2332), ("ALPN", 110)):
            ids = saved["unit_id"][saved["cell_class"] == cell_class]
            assert set(neurons.loc[ids, "class_broad"]) == {cell_class}
            assert len(ids) == size
        assert sorted(saved["label"]) == list(range(281))
        assert ((saved["duration_ms"] >= 70) & (saved["duration_ms"] < 500)).all()
        assert saved["orn_count"].shape == (281, 2113)


def test_full_network_has_the_published_size_and_reads_all_kenyon_cells(script, inputs, tmp_path):
    parameters = script.read_parameters(write_parameters(tmp_path / "p.toml", "full"))
    built = script.build(parameters, inputs / "tables")
    network = built.network
    assert (len(built.receptors), len(network.units)) == (2113, 7616)
    assert network.units["cell_type"].nunique() == len(network.network.neuron.names) == 552
    assert (network.units["cell_class"].iloc[network.readout.unit.numpy()] == "KC").all()
    assert len(network.readout.unit) == 5177
    assert network.units["root_id"].is_monotonic_increasing


@pytest.mark.parametrize("model", ["compact", "full"])
@pytest.mark.slow
def test_order_of_neurons_and_trials_does_not_depend_on_the_hash_seed(inputs, tmp_path, model):
    parameters = write_parameters(tmp_path / "p.toml", model)
    printed = [
        subprocess.run(
            [sys.executable, "-c", BUILD, FOLDER, parameters, inputs / "tables"],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(CHECKOUT / "lib")},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]


def test_another_number_of_samples_changes_no_other_trial(script, inputs, tmp_path):
    built = []
    for name, samples in (("a", 1), ("b", 9)):
        per_class = f"{{ train = {samples}, validation = 1 }}"
        parameters = write_parameters(tmp_path / f"{name}.toml", samples_per_class=per_class)
        built.append(script.build(script.read_parameters(parameters), inputs / "tables"))
    one, more = built
    assert (len(one.train), len(more.train)) == (281, 9 * 281)
    assert set(one.train) <= set(more.train)
    np.testing.assert_array_equal(one.validation, more.validation)
    assert not set(more.train) & set(more.validation)
    for k in (one.train[0], one.validation[-1]):
        for first, second in zip(one.samples.spikes(k), more.samples.spikes(k), strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_fetched_from_a_mirror_it_runs_through_the_runner(project, shared_data):
    from engram.fetch import fetch

    for name in ("lib", "experiments/fly_olfaction"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, project.root / name, ignore=ignore, dirs_exist_ok=True)
    project.write(".gitignore", "runs\n__pycache__\n/data\n")
    project.commit()
    fetch("fly_olfaction", root=project.root, mirror=shared_data / "fly" / "raw")
    small = [f"{key}={value}" for key, value in SMALL.items() if key != "dt_ms"]
    done = project.run(
        "experiments/fly_olfaction/experiment.toml",
        *(argument for setting in (*small, "network.dt_ms=50") for argument in ("--set", setting)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = project.record()
    assert record["state"] == "completed"
    assert record["summary"]["classes"] == 281
    assert [given["name"] for given in record["inputs"]] == ["tables"]
    assert [found for found in record["findings"] if found["severity"] == "error"] == []
