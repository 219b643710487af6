"""The compact olfactory network against a plain simulation, unit by unit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_fly import write_tables

from neuro.connectome.olfactory_pathway import load_pathway
from neuro.models.fly_olfaction import FlyOlfaction, Settings

SETTINGS = Settings(
    dt_ms=10.0,
    tau_syn_ms=10.0,
    tau_mem_ms=20.0,
    tau_ln_ms=15.0,
    tau_apl_ms=25.0,
    orn_to_pn_gain=2.0,
    pn_to_kc_gain=1.5,
    orn_to_ln_gain=2.5,
    ln_to_pn_gain=1.25,
    apl_to_kc_gain=0.8,
    input_scale=5.0,
    inhibition_scale=0.5,
    count_scale=0.5,
    surrogate_slope=10.0,
)


@pytest.fixture
def pathway(tmp_path):
    return load_pathway(write_tables(tmp_path / "tables"))


def make(pathway, *, inhibition=True, settings=SETTINGS):
    torch.manual_seed(0)
    return FlyOlfaction(pathway, n_classes=4, settings=settings, inhibition=inhibition)


def of(model, response, cell_class):
    """Return the spike counts of a class of neurons."""
    return response.counts[
        :, torch.from_numpy((model.units["cell_class"] == cell_class).to_numpy())
    ]


def receptor_spikes(n_trials=6):
    return np.random.default_rng(0).poisson(0.5, size=(50, n_trials, 3)).astype(float)


def simulate(pathway, counts, settings, *, inhibition, bias):
    """One trial, written out with numpy, unit by unit; returns PN and KC spike counts."""
    e = np.exp
    dt, a = settings.dt_ms, np.exp(-settings.dt_ms / settings.tau_syn_ms)
    b, b_ln = e(-dt / settings.tau_mem_ms), e(-dt / settings.tau_ln_ms)
    c = e(-dt / settings.tau_apl_ms)
    r = 10.0 / dt
    population = {"ln": 1, "pn": 3, "kc": 2}
    current = {name: np.zeros(n) for name, n in population.items()}
    potential = {name: np.zeros(n) for name, n in population.items()}
    total = {name: np.zeros(n) for name, n in population.items()}
    apl = 0.0

    def fire(name, drive, decay, constant):
        current[name] = a * current[name] + (1 - a) * drive
        potential[name] = decay * potential[name] + (1 - decay) * (current[name] + constant)
        spikes = (potential[name] > 1).astype(float)
        potential[name][spikes == 1] = 0
        total[name] += spikes
        return spikes

    for now in counts:
        ln = fire("ln", 5 * r * settings.orn_to_ln_gain * (now @ pathway.orn_to_ln), b_ln, 0)
        drive = 5 * r * settings.orn_to_pn_gain * (now @ pathway.orn_to_pn)
        if inhibition:
            drive = drive - 0.5 * r * settings.ln_to_pn_gain * (ln @ pathway.ln_to_pn)
        pn = fire("pn", drive, b, 0)
        drive = 5 * r * settings.pn_to_kc_gain * (pn @ pathway.pn_to_kc)
        if inhibition:
            drive = drive - 5 * r * settings.apl_to_kc_gain * apl
        kc = fire("kc", drive, b, bias)
        apl = c * apl + (1 - c) * kc.mean()
    return total["pn"], total["kc"]


@pytest.mark.parametrize("inhibition", [True, False])
@pytest.mark.parametrize("dt_ms", [10.0, 4.0])
def test_network_does_what_its_equations_say(pathway, inhibition, dt_ms):
    settings = replace(SETTINGS, dt_ms=dt_ms)
    model = make(pathway, inhibition=inhibition, settings=settings).double()
    model.kc.bias_by_type.data.fill_(0.1)
    counts = receptor_spikes()
    with torch.no_grad():
        response = model(model.prepare(torch.from_numpy(counts)))
    for trial in range(counts.shape[1]):
        pn, kc = simulate(pathway, counts[:, trial], settings, inhibition=inhibition, bias=0.1)
        np.testing.assert_array_equal(of(model, response, "ALPN")[trial], pn)
        np.testing.assert_array_equal(of(model, response, "KC")[trial], kc)
    kc_count = of(model, response, "KC")
    assert kc_count.sum() > 0
    readout = 0.5 * kc_count @ model.readout.weight.T + model.readout.bias
    torch.testing.assert_close(response.logits, readout)


def test_inhibition_lowers_activity(pathway):
    counts = torch.from_numpy(receptor_spikes(40)).float()
    totals = []
    for inhibition in (True, False):
        model = make(pathway, inhibition=inhibition)
        with torch.no_grad():
            response = model(model.prepare(counts))
        totals.append([of(model, response, kind).sum().item() for kind in ("ALPN", "KC")])
    assert totals[0][0] < totals[1][0]
    assert totals[0][1] < totals[1][1]


def test_fixed_weights_are_not_learned_and_everything_learned_gets_a_gradient(pathway):
    model = make(pathway)
    response = model(model.prepare(torch.from_numpy(receptor_spikes()).float()))
    torch.nn.functional.cross_entropy(response.logits, torch.arange(6) % 4).backward()
    learned = dict(model.named_parameters())
    assert {name for name in learned if not name.startswith("readout")} == {
        "log_inhibition",
        *(
            f"{cells}.{value}"
            for cells in ("pn", "kc")
            for value in ("log_gain", "log_tau_mem_ms", "bias_by_type")
        ),
    }
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_state_of_the_same_wiring_is_loaded(pathway):
    first, second = make(pathway), make(pathway)
    first.kc.bias_by_type.data.fill_(0.7)
    second.load_state_dict(first.state_dict())
    assert second.kc.bias_by_type.tolist() == first.kc.bias_by_type.tolist()


@pytest.mark.parametrize("ids", ["input_id", "pn_id", "kc_id", "ln_id"])
def test_state_of_other_neurons_is_refused(pathway, ids):
    model = make(pathway)
    state = model.state_dict()
    state[ids] = state[ids] + 1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=rf"{ids} differs"):
        model.load_state_dict(state)
    for name, value in before.items():
        # Parts that agree may have been loaded; what they hold is the same.
        assert torch.equal(model.state_dict()[name], value), name


def test_state_of_other_wiring_between_the_same_neurons_is_refused_but_its_values_can_be_had(
    pathway,
):
    shuffled = replace(pathway, pn_to_kc=np.fliplr(pathway.pn_to_kc).copy())
    other = make(shuffled)
    other.kc.bias_by_type.data.fill_(0.7)
    model = make(pathway)
    with pytest.raises(RuntimeError, match="wiring_hash differs"):
        model.load_state_dict(other.state_dict())
    model.load_learned(other.state_dict())
    assert torch.equal(model.kc.bias_by_type, other.kc.bias_by_type)
    assert not torch.equal(model.wiring_hash, other.wiring_hash)


def test_state_without_ids_is_refused(pathway):
    state = make(pathway).state_dict()
    del state["wiring_hash"]
    with pytest.raises(RuntimeError, match="wiring_hash"):
        make(pathway).load_state_dict(state)


def test_silenced_apl_leaves_the_local_neurons_and_raises_kenyon_cell_activity(pathway):
    counts = torch.from_numpy(receptor_spikes(40)).float()
    model = make(pathway)
    with torch.no_grad():
        before = model(model.prepare(counts))
        model.silence("APL->KC")
        after = model(model.prepare(counts))
    assert of(model, after, "KC").sum() > of(model, before, "KC").sum()
    assert torch.equal(of(model, after, "ALPN"), of(model, before, "ALPN"))
    with pytest.raises(ValueError, match="none of 'ALLN->ALPN', 'APL->KC'"):
        model.silence("KC->MBON")


def test_every_spike_is_recorded_on_request(pathway):
    model = make(pathway)
    with torch.no_grad():
        response = model(
            model.prepare(torch.from_numpy(receptor_spikes()).float()), record_spikes=True
        )
    assert torch.equal(response.spikes.sum(dim=0), response.counts)
    assert response.spikes.shape == (50, 6, len(model.units))
