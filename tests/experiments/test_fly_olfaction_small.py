"""Both networks of the fly experiment on a dozen neurons: main(), kill -9, resume, and ./run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import CHECKOUT
from small_fly import (
    FILES,
    FOLDER,
    assert_same_results,
    imported,
    metrics_of,
    newest_checkpoint,
    start,
    write_parameters,
    write_small_tables,
)

MODELS = ("compact", "full")


@pytest.fixture(autouse=True)
def no_seed_from_outside(monkeypatch):
    monkeypatch.delenv("ENGRAM_SEED", raising=False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An inputs folder as the runner makes it."""
    folder = tmp_path_factory.mktemp("inputs")
    write_small_tables(folder / "tables")
    return folder


@pytest.fixture(scope="module")
def script():
    with imported("train") as module:
        yield module


@pytest.fixture(scope="module", params=MODELS)
def straight(request, script, inputs, tmp_path_factory):
    """A network's name, the outputs of a run without interruption, and its summary."""
    folder = tmp_path_factory.mktemp(request.param) / "out"
    folder.mkdir()
    parameters = write_parameters(request.param, folder.with_suffix(".toml"))
    return request.param, folder, script.main(inputs, folder, parameters)


def test_run_leaves_everything_it_promises(straight):
    model, folder, summary = straight
    written = {path.name for path in folder.iterdir()}
    figures = {"learning.png", "activity.png", "confusion.png"}
    assert {"checkpoints", "responses.npz", "metrics.jsonl"} | figures <= written
    assert [row["step"] for row in metrics_of(folder)] == [1, 2]
    assert metrics_of(folder)[-1]["validation/accuracy"] == summary["validation_accuracy"]
    assert (summary["model"], summary["classes"]) == (model, 4)
    assert (summary["training_trials"], summary["validation_trials"]) == (24, 16)
    assert summary["backend"] in ("event", "sequence")
    p = summary["validation_accuracy"]
    assert summary["validation_accuracy_se"] == pytest.approx((p * (1 - p) / 16) ** 0.5)
    assert 0 <= summary["kc_active_fraction"] <= 1
    assert 0 < summary["pn_active_fraction"] <= 1
    assert 0.5 < summary["ideal_observer_accuracy"] <= 1
    assert any(name.startswith("gain ") for name in summary) == (model == "full")


def test_the_run_records_which_edges_are_data_and_which_are_modelled(straight):
    _, folder, _ = straight
    rows = json.loads((folder / "network.json").read_text())["edge_classes"]
    origin = {row["edge_class"]: row["origin"] for row in rows}
    assert origin["ORN->ALPN"] == origin["ALPN->KC"] == "data"
    assert origin["ALLN->ALPN"] == origin["APL->KC"] == "modelled"
    assert all(row["pairs"] > 0 for row in rows)


def test_responses_are_in_the_order_of_their_ids_and_give_the_summary(straight):
    model, folder, summary = straight
    with np.load(folder / "responses.npz") as saved:
        found = dict(saved)
    assert str(found["network"]) == model
    assert found["count"].shape == (16, len(found["unit_id"]))
    assert found["count"].dtype == found["orn_count"].dtype == np.uint16
    assert found["logits"].shape == (16, 4)
    assert sorted(found["label"].tolist()) == sorted([0, 1, 2, 3] * 4)
    np.testing.assert_array_equal(found["sample_id"] % 4, found["label"])
    np.testing.assert_array_equal(found["logits"].argmax(axis=1), found["decided"])
    assert summary["validation_accuracy"] == np.mean(found["decided"] == found["label"])
    for name, cell_class in (("kc", "KC"), ("pn", "ALPN")):
        active = np.mean(found["count"][:, found["cell_class"] == cell_class] > 0)
        assert summary[f"{name}_active_fraction"] == pytest.approx(active)
    for cell_class in set(found["cell_class"]):
        assert (np.diff(found["unit_id"][found["cell_class"] == cell_class]) > 0).all()
    assert (np.diff(found["orn_id"]) > 0).all()
    raster = np.zeros((3, len(found["unit_id"])), dtype=int)
    np.add.at(raster, (found["raster_trial"], found["raster_unit"]), 1)
    np.testing.assert_array_equal(raster, found["count"][:3])
    assert found["raster_step"].max() < found["trial_ms"] / found["dt_ms"]


def test_killed_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    straight, inputs, tmp_path
):
    model, folder, _ = straight
    parameters = write_parameters(model, tmp_path / "p.toml")
    assert start(inputs, tmp_path / "killed", parameters, kill_after=1, hash_seed="1") == -9
    begun = newest_checkpoint(tmp_path / "killed")
    assert begun.name == newest_checkpoint(folder).name.replace("2", "1")
    code = start(inputs, tmp_path / "resumed", parameters, resume_from=begun, hash_seed="2")
    assert code == 0
    assert_same_results(folder, tmp_path / "resumed")
    lines = metrics_of(tmp_path / "killed") + metrics_of(tmp_path / "resumed")
    assert lines == metrics_of(folder)


def test_checkpoint_of_the_real_wiring_is_refused_by_the_shuffled_one(
    straight, script, inputs, tmp_path
):
    model, folder, _ = straight
    # With two PN -> KC pairs onto each of few cells, only some shuffles change anything.
    parameters = write_parameters(model, tmp_path / "p.toml", pn_to_kc="shuffled", seed=1)
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError, match="wiring_hash differs"):
        script.main(inputs, tmp_path / "out", parameters, resume_from=newest_checkpoint(folder))


def test_every_readout_weight_belongs_to_a_kenyon_cell(straight):
    model, folder, _ = straight
    with np.load(folder / "responses.npz") as saved:
        kc = saved["unit_id"][saved["cell_class"] == "KC"]
    state = torch.load(newest_checkpoint(folder) / "state.pt", weights_only=True)
    learned = state["objects"]["network"]["state"]
    if model == "full":
        assert learned["unit_id"][learned["readout.unit"]].tolist() == kc.tolist()
        assert len(learned["readout.weight"]) == len(kc)
    else:
        assert learned["kc_id"].tolist() == kc.tolist()
        assert learned["readout.weight"].shape[1] == len(kc)


@pytest.mark.parametrize("trainable", ["frozen", "transmitters", "type_pairs", "synapses"])
def test_every_scope_of_the_full_network_trains(script, inputs, tmp_path, trainable):
    (tmp_path / "out").mkdir()
    parameters = write_parameters(
        "full", tmp_path / "p.toml", **{"network.trainable": trainable, "epochs": 1}
    )
    summary = script.main(inputs, tmp_path / "out", parameters)
    assert summary["trained_values"] > 0


def test_values_of_neurons_never_stay_beyond_their_range(script, inputs, tmp_path):
    (tmp_path / "out").mkdir()
    narrow = {"neurons.bias_most": 0.01, "neurons.tau_mem_least_ms": 19.9}
    parameters = write_parameters("full", tmp_path / "p.toml", **narrow)
    script.main(inputs, tmp_path / "out", parameters)
    state = torch.load(newest_checkpoint(tmp_path / "out") / "state.pt", weights_only=True)
    learned = state["objects"]["network"]["state"]
    assert learned["network.neuron.bias"].abs().max().item() == pytest.approx(0.01)
    tau_ms = learned["network.neuron.log_tau_mem_ms"].exp()
    assert tau_ms.min().item() >= 19.9 - 1e-4


def test_two_tables_of_inhibition_are_refused(script, tmp_path):
    for name in ("inhibition.csv", "inhibition.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="inhibition.csv, inhibition.parquet: give one"):
        script.find_inhibition(tmp_path)


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        ("compact", {"inhibition": "data"}, "cannot be had for the adult fly"),
        ("full", {"inhibition": "data"}, "cannot be had for the adult fly"),
        ("compact", {"classes": "all"}, "classes = 'all' is none of 'selection'"),
        ("compact", {"pn_to_kc": "random"}, "pn_to_kc = 'random' is none of 'real', 'shuffled'"),
        ("full", {"pn_to_kc": "random"}, "none of 'real', 'shuffled', 'shuffled_within_type'"),
        ("full", {"model": "small"}, "model = 'small' is none of 'compact', 'full'"),
        ("full", {"samples_per_class": {"train": 1}}, "must hold train and validation"),
        ("full", {"network.trainable": "all"}, "trainable = 'all' is none of 'frozen'"),
        ("compact", {"epochs": 0}, "epochs = 0 must be a whole number of at least 1"),
        ("compact", {"batch_size": 0}, "batch_size = 0 must be"),
        ("full", {"threads": 0}, "threads = 0 must be"),
        ("full", {"samples_per_class": {"train": 0, "validation": 4}}, "train = 0 must be"),
        ("compact", {"network.dt_ms": 2.5}, "dt_ms = 2.5 must be a whole number of ms"),
        ("full", {"network.dt_ms": 3}, "dt_ms = 3 does not divide the trial"),
        ("full", {"network.read_from_ms": -50.0}, "read_from_ms = -50.0 must be at least 0"),
        ("full", {"network.read_from_ms": 500.0}, "read_from_ms = 500.0 lies beyond the trial"),
        ("full", {"odor.concentration": -0.5}, "concentration = -0.5 must lie within 0 .. 1"),
        ("full", {"gains": {"ALN->ALPN": 5.0}}, "'ALN->ALPN', which is no edge class"),
        ("full", {"gains": {"ALLN->ALPN": -5.0}}, "must be above 0"),
        ("full", {"calibration.trials": 0}, "trials = 0 and halvings = 6 must be at least 1"),
        ("full", {"calibration.kc_active": -0.1}, "kc_active = -0.1 within 0 .. 1"),
        ("full", {"neurons.bias_most": -1.0}, "bias_most = -1.0 must be at least 0"),
    ],
)
def test_impossible_parameters_are_refused(script, inputs, tmp_path, model, changed, message):
    parameters = write_parameters(model, tmp_path / "p.toml", **changed)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=message):
        script.main(inputs, tmp_path / "out", parameters)


@pytest.mark.parametrize("folder", [None, "empty"])
def test_missing_data_name_the_command_that_gets_them(script, tmp_path, folder):
    input_dir = None if folder is None else tmp_path / folder
    with pytest.raises(FileNotFoundError, match="run fetch fly_olfaction"):
        script.find_tables(input_dir)


def test_seed_of_the_command_line_replaces_the_parameter(script, tmp_path, monkeypatch):
    parameters = write_parameters("compact", tmp_path / "p.toml", seed=4)
    assert script.read_parameters(parameters).seed == 4
    monkeypatch.setenv("ENGRAM_SEED", "7")
    assert script.read_parameters(parameters).seed == 7


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_has_a_comment_that_explains_it(model):
    for line in (FOLDER / FILES[model]).read_text().splitlines():
        assert not line or line.startswith("[") or line.partition("#")[2].strip(), line


@pytest.mark.slow
def test_full_network_runs_and_reruns_identically_through_the_runner(project):
    for name in ("lib", "experiments/fly_olfaction"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, project.root / name, ignore=ignore, dirs_exist_ok=True)
    write_small_tables(project.root / "data" / "fly_olfaction" / "tables")
    project.write(".gitignore", "runs\n__pycache__\n/data\n")
    write_parameters("full", project.root / "experiments/fly_olfaction/parameters_full.toml")
    project.commit()
    done = project.run("experiments/fly_olfaction/full.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    record = project.record()
    assert record["state"] == "completed"
    assert record["summary"]["model"] == "full"
    assert [found for found in record["findings"] if found["severity"] == "error"] == []
    again = project.run("--rerun", "latest")
    assert again.returncode == 0, again.stderr
    assert "identical" in again.stderr
