"""Neurons that a user brings from snntorch do in a network what they do alone."""

from __future__ import annotations

import pytest
import snntorch
import torch
from populations import seeded, spike_trains

from neuro.spiking import Network, Projection
from neuro.spiking.simulate import simulate
from neuro.spiking.snntorch_neuron import SnntorchNeuron
from neuro.spiking.synapses import Synapses

N_UNITS, N_INPUTS, N_STEPS, N_TRIALS = 20, 12, 50, 3
KINDS = ["Leaky", "Lapicque", "Synaptic", "Alpha", "RLeaky", "RSynaptic"]


def make_module(kind, *, seed=0, **options):
    """A neuron with trained decays that differ from unit to unit where it allows that."""
    random = seeded(seed)
    torch.manual_seed(seed)
    decay = 0.7 + 0.1 * torch.rand(N_UNITS, generator=random)
    options = {"learn_threshold": True, **options}
    if kind == "Lapicque":
        return snntorch.Lapicque(beta=0.8, **options)
    if kind in ("Synaptic", "Alpha", "RSynaptic"):
        options["alpha"] = 0.9
    if kind.startswith("R"):
        options["linear_features"] = N_UNITS
    return getattr(snntorch, kind)(beta=decay, learn_beta=kind != "Alpha", **options)


def given(dtype=torch.float32):
    weights = 0.1 + 0.3 * torch.randn(N_INPUTS, N_UNITS, generator=seeded(1))
    source = spike_trains(0.2, N_STEPS, N_TRIALS, N_INPUTS, seed=2, dtype=dtype)
    return weights.to(dtype).requires_grad_(), source


def run_alone(module, weights, source):
    """A loop as snntorch's documentation writes it."""
    spikes, potentials, state = [], [], ()
    for step in range(len(source)):
        fired, *rest = module(source[step] @ weights, *state)
        recurrent = isinstance(module, snntorch.RLeaky | snntorch.RSynaptic)
        state = (fired, *rest) if recurrent else tuple(rest)
        spikes.append(fired)
        potentials.append(rest[-1])
    return torch.stack(spikes), torch.stack(potentials)


def loss(spikes, potential):
    weights = torch.randn(spikes.shape, generator=seeded(3))
    return (spikes * weights).sum() + 0.1 * (potential * weights).sum()


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_module_spikes_and_learns_as_it_does_alone(kind, reset):
    weights, source = given()
    module = make_module(kind, reset_mechanism=reset)
    spikes, potential = run_alone(module, weights, source)
    leaves = [weights, *module.parameters()]
    expected = torch.autograd.grad(loss(spikes, potential), leaves, materialize_grads=True)
    run = simulate(
        SnntorchNeuron(module),
        [Synapses(weights, delay=0, source=source)],
        n_units=N_UNITS,
        dt_ms=1.0,
        record_potential=True,
    )
    assert run.backend == "loop"
    assert torch.equal(run.spikes, spikes)
    assert spikes.sum() > 0
    torch.testing.assert_close(run.potential, potential, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(loss(run.spikes, run.potential), leaves, materialize_grads=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_leaky_with_recurrent_synapses_is_an_rleaky():
    weights, source = given()
    alone = make_module("RLeaky")
    with torch.no_grad():
        alone.recurrent.bias.zero_()
    expected, _ = run_alone(alone, weights, source)
    leaky = snntorch.Leaky(beta=alone.beta.detach(), threshold=alone.threshold.detach())
    synapses = [
        Synapses(weights, delay=0, source=source),
        Synapses(alone.recurrent.weight.T.contiguous()),
    ]
    run = simulate(SnntorchNeuron(leaky), synapses, n_units=N_UNITS, dt_ms=1.0)
    assert torch.equal(run.spikes, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_with_a_carry_change_nothing(kind):
    weights, source = given()
    neuron = SnntorchNeuron(make_module(kind))

    def run(part, carry=None):
        synapses = [Synapses(weights, delay=2, source=part)]
        return simulate(neuron, synapses, n_units=N_UNITS, dt_ms=1.0, carry=carry)

    whole = run(source)
    first = run(source[:17])
    second = run(source[17:], first.carry)
    assert torch.equal(torch.cat([first.spikes, second.spikes]), whole.spikes)


@pytest.mark.parametrize("kind", KINDS)
def test_module_computes_in_double_precision(kind):
    weights, source = given(torch.float64)
    neuron = SnntorchNeuron(make_module(kind).double())
    synapses = [Synapses(weights, delay=0, source=source), Synapses(weights.new_zeros(20, 20))]
    run = simulate(neuron, synapses, n_units=N_UNITS, dt_ms=1.0, record_potential=True)
    assert run.spikes.dtype == run.potential.dtype == torch.float64
    assert run.spikes.sum() > 0


def test_parameters_of_the_module_are_those_of_the_network():
    weights, source = given()
    projection = Projection(
        n_pre=N_INPUTS, n_post=N_UNITS, weights=weights, delay_steps=0, trainable="synapses"
    )
    neuron = SnntorchNeuron(make_module("Synaptic"))
    network = Network(neuron, {"stimulus": projection}, n_units=N_UNITS, dt_ms=1.0)
    run = network({"stimulus": source})
    run.spikes.sum().backward()
    trained = {name for name, value in network.named_parameters() if value.grad is not None}
    assert {"neuron.module.beta", "neuron.module.threshold"} <= trained
    assert torch.equal(run.spikes, run_alone(neuron.module, weights, source)[0])


def test_module_is_left_without_the_graph_of_the_last_step():
    weights, source = given()
    module = make_module("Leaky")
    synapses = [Synapses(weights, delay=0, source=source)]
    simulate(SnntorchNeuron(module), synapses, n_units=N_UNITS, dt_ms=1.0)
    assert not module.mem.requires_grad


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.nn.ReLU(), "ReLU is none of snntorch's Leaky, Lapicque"),
        (snntorch.Leaky(beta=0.9, init_hidden=True), "Leaky was made with init_hidden=True"),
    ],
)
def test_module_that_keeps_its_state_or_is_no_neuron_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        SnntorchNeuron(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "sequence"}, "SnntorchNeuron has no backward pass of its own"),
        ({"backend": "event"}, "it knows the neurons LIF, .*not SnntorchNeuron"),
        ({"backend": "loop", "smooth": True}, "SnntorchNeuron makes its spikes itself"),
    ],
)
def test_what_only_own_models_can_do_is_refused(options, message):
    weights, source = given()
    synapses = [Synapses(weights, delay=0, source=source)]
    neuron = SnntorchNeuron(make_module("Leaky"))
    with pytest.raises(ValueError, match=message):
        simulate(neuron, synapses, n_units=N_UNITS, dt_ms=1.0, **options)
