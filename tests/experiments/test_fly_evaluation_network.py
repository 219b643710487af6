"""The trained network built again from what its run handed on, and changed, on the real tables."""

from __future__ import annotations

import importlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluations import FOLDER, imported

SMALL = {
    "samples_per_class": "{ train = 1, validation = 1 }",
    "epochs": 1,
    "dt_ms": 50,
    "batch_size": 94,
}


@pytest.fixture(scope="module")
def modules():
    with imported():
        names = {"handed_on": "handed_on", "train": "train"}
        names |= {name: f"evaluation.{name}" for name in ("changes", "responses", "simulation")}
        yield SimpleNamespace(**{key: importlib.import_module(name) for key, name in names.items()})


@pytest.fixture(scope="module")
def trained(modules, shared_data, tmp_path_factory):
    """An inputs folder with a run of the compact network, barely trained."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "tables").symlink_to(shared_data / "fly")
    (folder / "trained").mkdir()
    text = (FOLDER / "parameters.toml").read_text()
    for key, value in SMALL.items():
        text, changed = re.subn(rf"^{key} = .+", f"{key} = {value}", text, flags=re.MULTILINE)
        assert changed == 1, key
    (folder / "p.toml").write_text(text)
    modules.train.main(folder, folder / "trained", folder / "p.toml")
    return folder


@pytest.fixture(scope="module")
def responses(modules, trained):
    return modules.responses.load_responses(trained / "trained" / "responses.npz")


@pytest.fixture(scope="module")
def loaded(modules, trained):
    return modules.handed_on.load_network(trained / "trained", trained / "tables")


@pytest.fixture(scope="module")
def simulation(modules, trained, loaded, responses):
    options = SimpleNamespace(trials_per_odor=1, seeds=[0], batch_size=100)
    return modules.simulation.Simulation(loaded, trained / "tables", responses, options)


def test_the_network_answers_as_it_did_at_the_end_of_training(loaded, responses):
    ids = responses.sample_id[:50]
    samples, network = loaded.built.samples, loaded.built.network
    with torch.no_grad():
        batch = samples.batch(ids, loaded.parameters.dt_ms)
        answer = network(network.prepare(batch))
    # Training keeps the drive of trials in half precision, which moves a spike now and then.
    assert np.mean(answer.counts.numpy() != responses.count[:50]) < 1e-3
    decided = answer.logits.argmax(dim=1).numpy()
    assert np.mean(decided == responses.decided[:50]) >= 0.96
    np.testing.assert_array_equal(batch.sum(dim=0).numpy(), responses.orn_count[:50])


def test_a_seed_of_the_evaluation_is_not_taken_for_that_of_the_training(
    modules, trained, monkeypatch
):
    monkeypatch.setenv("ENGRAM_SEED", "99")
    assert modules.handed_on.read_trained(trained / "trained").seed == 0


def test_what_was_logged_in_training_is_handed_on(simulation, responses):
    (epoch,) = simulation.history
    right = responses.decided == responses.label
    assert epoch["validation/accuracy"] == pytest.approx(right.mean())
    assert epoch["train/loss"] > 0


def test_controls_change_what_they_name(simulation, responses):
    found = simulation.measure_controls()
    by_change = {one["change"]: one for one in found["conditions"]}
    assert set(by_change) == {"intact", "apl_removed", "targets_within_type", "signs"}
    assert found["n_trials"] == 281
    right = responses.decided == responses.label
    assert by_change["intact"]["accuracy"]["value"] == pytest.approx(right.mean())
    # The publication that the report quotes: without APL Kenyon cells answer more.
    assert found["apl_removed_minus_intact"]["kc_active_fraction"]["value"] > 0


def test_the_ideal_observer_reads_the_same_trials(simulation, responses):
    decided = simulation.observer_decisions()
    assert decided.shape == responses.label.shape
    assert np.mean(decided == responses.label) > 0.9


def test_the_raster_shows_the_receptor_spikes_of_its_trial(simulation, responses):
    spikes = simulation.receptor_spikes(trial=1)
    np.testing.assert_array_equal(spikes.sum(axis=0), responses.orn_count[1])


@pytest.mark.parametrize("change", ["targets_within_type", "signs"])
def test_shuffles_keep_all_but_what_they_name(modules, trained, loaded, change):
    real = loaded.built.wiring
    changed, again, other = (
        modules.changes.changed_wiring(
            real, loaded.parameters, trained / "tables", change=change, seed=seed
        )
        for seed in (0, 0, 1)
    )
    assert changed.fingerprint == again.fingerprint
    assert len({real.fingerprint, changed.fingerprint, other.fingerprint}) == 3
    for kept in ("orn_to_pn", "orn_to_ln", "ln_to_pn"):
        np.testing.assert_array_equal(getattr(changed, kept), getattr(real, kept))
    shares, signs = np.abs(changed.pn_to_kc), np.sign(changed.pn_to_kc)
    if change == "signs":
        np.testing.assert_array_equal(shares, np.abs(real.pn_to_kc))
        negative = [(one < 0).any(axis=1).sum() for one in (signs, np.sign(real.pn_to_kc))]
        assert negative[0] == negative[1] > 0
        return
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    # A PN still drives as many Kenyon cells of a type as before, or fewer where a pair came twice.
    kinds = real.cells.kc["cell_type"].to_numpy()
    for kind in np.unique(kinds):
        now, then = ((one[:, kinds == kind] != 0).sum(axis=1) for one in (signs, real.pn_to_kc))
        assert (now <= then).all()
        assert now.sum() > 0.9 * then.sum()


def test_a_run_that_handed_nothing_on_is_not_simulated(modules, trained, responses, tmp_path):
    inputs = {"trained": tmp_path, "tables": trained / "tables"}
    options = SimpleNamespace(trials_per_odor=1, seeds=[0], batch_size=100)
    found = modules.simulation.open_trained(inputs, responses, options)
    assert found.measure_controls() is None
    assert found.observer_decisions() is None
    assert "train again" in found.missing


def test_the_first_trials_of_each_odor_are_chosen(modules, responses):
    few = responses._replace(
        label=np.array([4, 2, 4, 4, 2]), sample_id=np.array([10, 11, 12, 13, 14])
    )
    assert modules.simulation.first_trials(few, 2).tolist() == [10, 11, 12, 14]
    assert modules.simulation.first_trials(few, 0).tolist() == []
