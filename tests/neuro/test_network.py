"""Networks: equal to loops written by hand, whatever the scope, the order, the chunks."""

from __future__ import annotations

import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    CELL_TYPE,
    DELAYS,
    FEEDFORWARD,
    INPUT_TYPE,
    N_INPUTS,
    N_STEPS,
    N_TRIALS,
    N_UNITS,
    POST,
    PRE,
    RECURRENT,
    SIGNS,
    SLOPE,
    TAU_MS,
    TRANSMITTER,
    loss_of,
    network,
    seeded,
    spike_trains,
    uniform,
)

from neuro.spiking.network import Network
from neuro.spiking.neurons import LIF, ConductanceLIF, Synapse
from neuro.spiking.projection import Projection
from neuro.spiking.surrogate import FastSigmoid

# A loop written by hand, with one dense matrix a delay.


def surrogate_spike(excess):
    soft = excess / (1 + SLOPE * excess.abs())
    return (excess > 0).double() + soft - soft.detach()


def run_by_hand(recurrent, feedforward, source, log_tau, bias):
    """LIF with reset by subtraction; `recurrent` holds weights of the edges."""
    matrices = []
    for delay in (1, 2, 3):
        chosen = delay == DELAYS
        matrix = torch.zeros(N_UNITS, N_UNITS, dtype=torch.float64)
        matrices.append(matrix.index_put((PRE[chosen], POST[chosen]), recurrent[chosen]))
    decay = torch.exp(-1 / log_tau.exp())[CELL_TYPE.ids]
    nothing = torch.zeros(source.shape[1], N_UNITS, dtype=torch.float64)
    potential, spikes = nothing, [nothing] * 3
    for step in range(len(source)):
        x = source[step] @ feedforward + bias[CELL_TYPE.ids]
        for delay, matrix in enumerate(matrices, start=1):
            x = x + spikes[-delay] @ matrix
        potential = decay * potential + x - spikes[-1].detach()
        spikes.append(surrogate_spike(potential - 1))
    return torch.stack(spikes[3:])


def weights_by_hand(scope, recurrent, feedforward):
    """Weights of both projections out of leaves, and the leaves."""
    if scope == "synapses":
        leaves = [RECURRENT.abs().log().requires_grad_(), FEEDFORWARD.log().requires_grad_()]
        return SIGNS[PRE] * leaves[0].exp(), leaves[1].exp(), leaves
    leaves = [
        torch.zeros(shape, dtype=torch.float64).requires_grad_()
        for shape in (recurrent.scaling_factors.shape, feedforward.scaling_factors.shape)
    ]
    first, second = (one.exp() for one in leaves)
    cell, source = CELL_TYPE.ids, INPUT_TYPE.ids
    factors = {
        "type_pairs": lambda: (first[cell[PRE], cell[POST]], second[source][:, cell]),
        "pre_types": lambda: (first[cell[PRE]], second[source][:, None]),
        "post_types": lambda: (first[cell[POST]], second[cell]),
        "transmitters": lambda: (first[TRANSMITTER.ids[PRE]], second[source][:, None]),
    }
    of_edges, of_matrix = factors[scope]()
    return RECURRENT * of_edges, FEEDFORWARD * of_matrix, leaves


SCALED = ("type_pairs", "pre_types", "post_types", "transmitters")


@pytest.mark.parametrize("scope", ["synapses", *SCALED])
@pytest.mark.parametrize("backend", ["loop", "sequence", "auto"])
def test_spikes_and_gradients_of_every_scope_are_those_of_a_loop_by_hand(backend, scope):
    made = network(scope, backend=backend)
    recurrent, feedforward = made.projections["recurrent"], made.projections["feedforward"]
    source = spike_trains()
    simulation = made({"feedforward": source})
    loss_of(simulation.spikes).backward()
    first, second, leaves = weights_by_hand(scope, recurrent, feedforward)
    log_tau, bias = (getattr(made.neuron, name).detach().clone() for name in ("log_tau", "bias"))
    spikes = run_by_hand(first, second, source, log_tau.requires_grad_(), bias.requires_grad_())
    expected = torch.autograd.grad(loss_of(spikes), [*leaves, log_tau, bias])
    assert 0.05 < simulation.spikes.mean() < 0.5
    assert torch.equal(simulation.spikes, spikes.detach().round())
    if scope == "synapses":
        found = [recurrent.wiring.given(recurrent.raw_weight.grad), feedforward.raw_weight.grad]
    else:
        found = [one.scaling.log_factors.grad for one in (recurrent, feedforward)]
    found += [made.neuron.log_tau.grad, made.neuron.bias.grad]
    for one, other in zip(found, expected, strict=True):
        assert (other != 0).any()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_gradient_step_trains_the_neuron_with_the_weights():
    made = network("type_pairs")
    rate = torch.tensor([0.05, 0.2, 0.1], dtype=torch.float64)[CELL_TYPE.ids]
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = (made({"feedforward": spike_trains()}).spikes.mean((0, 1)) - rate).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert (made.neuron.log_tau != TAU_MS.log()).all()


# Feed-forward networks


def test_two_chained_networks_are_a_stack_of_snntorch_layers():
    beta, widths = 0.875, (N_INPUTS, 20, 4)
    tau_ms = -1 / torch.tensor(beta, dtype=torch.float64).log().item()
    weights = [0.5 * uniform(*one, seed=4) - 0.2 for one in zip(widths, widths[1:], strict=False)]
    layers = [
        Network(
            LIF(tau_mem_ms=tau_ms, surrogate=FastSigmoid(SLOPE)),
            {
                "below": Projection(
                    n_pre=len(one),
                    n_post=one.shape[1],
                    weights=one,
                    delay_steps=0,
                    trainable="synapses",
                )
            },
            n_units=one.shape[1],
            dt_ms=1.0,
        )
        for one in weights
    ]
    source = spike_trains()
    hidden = layers[0]({"below": source}).spikes
    output = layers[1]({"below": hidden}).spikes
    loss_of(output).backward()
    found = [layer.projections["below"].weight.grad for layer in layers]

    gradient = snntorch.surrogate.fast_sigmoid(slope=SLOPE)
    stack = [snntorch.Leaky(beta=beta, spike_grad=gradient).double() for _ in weights]
    leaves = [one.clone().requires_grad_() for one in weights]
    potentials = [torch.zeros(N_TRIALS, width, dtype=torch.float64) for width in widths[1:]]
    steps = []
    for spikes in source:
        for layer, (leaky, weight) in enumerate(zip(stack, leaves, strict=True)):
            fired, potentials[layer] = leaky(spikes @ weight, potentials[layer])
            spikes = fired.double()
        steps.append(spikes)
    expected = torch.stack(steps)
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(output, expected)
    for one, other in zip(found, torch.autograd.grad(loss_of(expected), leaves), strict=True):
        assert (other != 0).any()
        # snntorch's spikes are float32 in a module of any type.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_network_fed_with_its_own_spikes_repeats_them():
    # A clamped student is the same network whose recurrent projection reads an input.
    source = spike_trains()
    free = network()({"feedforward": source})
    clamped = network(recurrent=())
    assert clamped.input_names == ("recurrent", "feedforward")
    repeated = clamped({"feedforward": source, "recurrent": free.spikes.detach()})
    assert free.spikes.sum() > 0
    assert torch.equal(repeated.spikes, free.spikes)


# What must not change anything


def on_a_grid(weights):
    """Multiples of 1/1024, whose sums are exact in any order."""
    return (weights * 1024).round() / 1024


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_order_of_neurons_and_of_edges_permutes_the_spikes_exactly(seed):
    order, mixed = (torch.randperm(n, generator=seeded(seed)) for n in (N_UNITS, len(PRE)))
    new = order.argsort()
    recurrent, feedforward = on_a_grid(RECURRENT), on_a_grid(FEEDFORWARD)
    tau_ms = 5 + 10 * uniform(N_UNITS, seed=seed)
    source = spike_trains(seed=seed)
    runs = []
    for edges, weights, delays, from_outside, tau in (
        ((PRE, POST), recurrent, DELAYS, feedforward, tau_ms),
        (
            (new[PRE][mixed], new[POST][mixed]),
            recurrent[mixed],
            DELAYS[mixed],
            feedforward[:, order],
            tau_ms[order],
        ),
    ):
        size = {"n_pre": N_UNITS, "n_post": N_UNITS}
        made = Network(
            LIF(tau_mem_ms=tau),
            {
                "inside": Projection(**size, weights=weights, edges=edges, delay_steps=delays),
                "outside": Projection(n_pre=N_INPUTS, n_post=N_UNITS, weights=from_outside),
            },
            n_units=N_UNITS,
            dt_ms=1.0,
            recurrent=["inside"],
        )
        runs.append(made({"outside": source}, record_potential=True))
    assert torch.equal(runs[1].spikes, runs[0].spikes[..., order])
    assert torch.equal(runs[1].potential, runs[0].potential[..., order])


def test_order_of_trials_permutes_the_spikes_exactly():
    made = network(neuron=LIF(tau_mem_ms=10.0), recurrent_weights=on_a_grid(RECURRENT))
    source = (spike_trains() * 512).round() / 512
    trials = [2, 0, 1]
    run = made({"feedforward": source})
    assert run.spikes.sum() > 0
    assert torch.equal(made({"feedforward": source[:, trials]}).spikes, run.spikes[:, trials])


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, N_STEPS - 1), max_size=6), recurrent=st.booleans())
def test_wherever_a_sequence_is_cut_the_spikes_are_the_same(cuts, recurrent):
    made = network(recurrent=["recurrent"] if recurrent else [])
    inputs = {"feedforward": spike_trains()}
    if not recurrent:
        inputs["recurrent"] = spike_trains(N_UNITS, seed=5)
    whole = made(inputs)
    carry, spikes = None, []
    edges = [0, *sorted(cuts), N_STEPS]
    for first, last in zip(edges, edges[1:], strict=False):
        run = made({name: one[first:last] for name, one in inputs.items()}, carry=carry)
        carry = run.carry
        spikes.append(run.spikes)
    assert torch.equal(torch.cat(spikes), whole.spikes)


def test_sparse_and_dense_projections_onto_two_channels_agree():
    synapses = [Synapse("AMPA", 0, 4.2, 0.0, 0.1, 5.0), Synapse("GABA", 1, 8.1, -70.0, 1.0, 6.0)]
    neuron = ConductanceLIF(
        tau_mem_ms=50.0,
        g_leak_ns=1.35,
        threshold_mv=-50.0,
        v_reset_mv=-60.0,
        e_leak_mv=-60.0,
        synapses=synapses,
    )
    pairs = torch.arange(N_UNITS**2)
    weights = 0.1 * uniform(N_UNITS, N_UNITS, seed=6)
    runs = []
    for options in (
        {"weights": weights},
        {"weights": weights.flatten(), "edges": (pairs // N_UNITS, pairs % N_UNITS)},
    ):
        inside = Projection(
            n_pre=N_UNITS,
            n_post=N_UNITS,
            n_channels=2,
            channel_of_pre=(SIGNS < 0).long(),
            **options,
        )
        outside = Projection(n_pre=N_INPUTS, n_post=N_UNITS, weights=FEEDFORWARD, n_channels=2)
        made = Network(
            neuron, {"in": inside, "out": outside}, n_units=N_UNITS, dt_ms=1.0, recurrent=["in"]
        )
        runs.append(made({"out": spike_trains()}, record_potential=True))
    assert runs[0].spikes.sum() > 0
    torch.testing.assert_close(runs[1].potential, runs[0].potential, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_runs_in_the_type_of_its_weights(dtype):
    made = network("type_pairs").to(dtype)
    run = made({"feedforward": spike_trains().to(dtype)}, record_potential=True)
    loss_of(run.spikes).backward()
    assert {run.spikes.dtype, run.potential.dtype} == {dtype}
    assert all(one.grad.dtype == dtype and one.grad.abs().sum() > 0 for one in made.parameters())
