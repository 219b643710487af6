"""Networks: how they are run, saved and loaded, and what they refuse."""

from __future__ import annotations

import io

import pytest
import torch
from networks import (
    FEEDFORWARD,
    N_UNITS,
    PRE,
    loss_of,
    network,
    seeded,
    spike_trains,
)

from neuro.spiking.network import Network
from neuro.spiking.neurons import LIF
from neuro.spiking.projection import Projection

# How it is run


def test_backend_and_segments_reach_the_simulator():
    inputs = {"feedforward": spike_trains()}
    gradients = []
    for backend, segment_steps in (("loop", None), ("sequence", None), ("sequence", 4)):
        made = network("type_pairs", backend=backend, segment_steps=segment_steps)
        run = made(inputs)
        loss_of(run.spikes).backward()
        gradients.append(made.projections["recurrent"].scaling.log_factors.grad)
        assert run.backend == backend
    for one in gradients[1:]:
        torch.testing.assert_close(one, gradients[0], rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="segment_steps = 0"):
        network(segment_steps=0)(inputs)
    with pytest.raises(ValueError, match="backend = 'best'"):
        network(backend="best")(inputs)


def test_a_network_without_inputs_runs_for_a_given_size():
    made = Network(
        LIF(tau_mem_ms=10.0, bias=0.3),
        {"in": Projection(n_pre=2, n_post=2, weights=torch.ones(2, 2))},
        n_units=2,
        dt_ms=1.0,
        recurrent=["in"],
    )
    run = made({}, size=(9, 4))
    assert run.spikes.shape == (9, 4, 2)
    assert run.potential is None
    # 0.3 (1 + b + b^2 + b^3) > 1 with b = exp(-0.1), but not without its last term.
    assert run.spikes[:, 0, 0].nonzero()[0] == 3


def test_a_drive_acts_like_an_input():
    made, source = network(), spike_trains()
    inputs = {"feedforward": torch.zeros_like(source)}
    driven = made(inputs, drive=source @ FEEDFORWARD)
    assert torch.equal(driven.spikes, made({"feedforward": source}).spikes)


def test_a_state_brings_spikes_back():
    made, other = network("synapses"), network("synapses")
    with torch.no_grad():
        for one in made.parameters():
            one.add_(0.2 * torch.rand(one.shape, generator=seeded(1), dtype=one.dtype))
    inputs = {"feedforward": spike_trains()}
    before = other(inputs).spikes
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert not torch.equal(before, made(inputs).spikes)
    assert torch.equal(other(inputs).spikes, made(inputs).spikes)


def test_a_state_of_other_edges_names_the_projection():
    made = network()
    state = made.state_dict() | {"projections.recurrent.wiring.pre": (PRE + 1).sort().values}
    with pytest.raises(RuntimeError, match=r"projections\.recurrent\.wiring\.pre differs: entry"):
        made.load_state_dict(state)


# What is refused


def onto(n_post, *, n_pre=N_UNITS, **options):
    return Projection(n_pre=n_pre, n_post=n_post, weights=torch.ones(n_pre, n_post), **options)


@pytest.mark.parametrize(
    ("projections", "message"),
    [
        ({"other": onto(12)}, r"recurrent names \['inside'\]; the projections are \['other'\]"),
        ({"inside": onto(11)}, "'inside' leads to 11 units with 1 channels; .* has 12 with 1"),
        ({"inside": onto(12, n_channels=2)}, "'inside' leads to 12 units with 2 channels"),
        ({"inside": onto(12, n_pre=5)}, "recurrent projection 'inside' comes from 5 units"),
        ({"inside": onto(12, delay_steps=0)}, "'inside' has a delay of 0 steps"),
        ({"inside": onto(12), "a.b": onto(12)}, r"cannot be named 'a\.b'"),
        ({"inside": onto(12), "keys": onto(12)}, "cannot be named 'keys'"),
    ],
)
def test_projections_that_do_not_fit_are_named(projections, message):
    with pytest.raises(ValueError, match=message):
        Network(LIF(tau_mem_ms=10.0), projections, n_units=12, dt_ms=1.0, recurrent=["inside"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"inputs lack \['feedforward'\]; this network reads \['feedforward'\]"),
        (
            {"feedforward": spike_trains(), "odor": spike_trains()},
            r"inputs hold \['odor'\], which nothing reads; this network reads \['feedforward'\]",
        ),
        ({"feedforward": spike_trains(5)}, r"'feedforward' has shape \(25, 3, 5\).*\(T, B, 6\)"),
        ({"feedforward": spike_trains()[0]}, r"'feedforward' has shape \(3, 6\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        network()(inputs)


def test_what_is_no_dictionary_is_refused_by_name():
    made = network("type_pairs")
    with pytest.raises(TypeError, match=r"inputs is a Tensor; give a dictionary with"):
        made(spike_trains())
    with pytest.raises(TypeError, match="projections is a list; give a dictionary"):
        Network(LIF(tau_mem_ms=9.0), [], n_units=3, dt_ms=1.0)


def test_a_network_that_nothing_says_the_length_of_asks_for_its_size():
    lateral = Projection(n_pre=3, n_post=3, weights=torch.ones(3, 3))
    made = Network(
        LIF(tau_mem_ms=9.0), {"lateral": lateral}, n_units=3, dt_ms=1.0, recurrent=["lateral"]
    )
    with pytest.raises(ValueError, match=r"give size = \(T, B\)"):
        made({})
    assert made({}, size=(4, 2)).spikes.shape == (4, 2, 3)
