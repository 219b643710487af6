"""Gradients of every neuron model and backend: finite differences, and the plain step loop.

With `smooth` a spike is the surrogate's primitive, whose derivative the surrogate is; so finite
differences of the forward pass must agree with the backward pass. Hard spikes then differ from
smooth ones in the forward pass alone, and backends are compared with each other.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from populations import MODELS, backends, population, trained

from neuro.spiking.edges import make_edges
from neuro.spiking.neurons import LIF
from neuro.spiking.simulate import simulate
from neuro.spiking.surrogate import ATan, FastSigmoid, Triangle
from neuro.spiking.synapses import Synapses

SEGMENTS = [None, 4]
OTHERS = [name for name in backends() if name != "loop"]


def small(name, **options):
    """A population that is small enough for finite differences, with all its trained values."""
    made = population(name, n_units=4, n_inputs=3, n_steps=10, n_trials=2, **options)
    # Refractory units are those with a spike above 0: a primitive that is 0 at threshold.
    slope = 0.5 if name.startswith("conductance") else 2.0
    neuron = replace(made.neuron, detach_reset=False, surrogate=FastSigmoid(slope))
    made.neuron, values = trained(neuron, made.n_units)
    leaves = made.leaves() + values
    for leaf in leaves:
        leaf.requires_grad_()
    return made, leaves


@pytest.mark.parametrize("segment_steps", SEGMENTS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", backends())
def test_gradients_of_everything_are_finite_differences(backend, name, segment_steps):
    made, leaves = small(name)

    # Started from a carry: a population at rest starts at v_rest, whatever its gradient.
    carry = made.run(smooth=True, last=3).carry

    def outputs(*_):
        run = made.run(
            first=3, carry=carry, backend=backend, segment_steps=segment_steps, smooth=True
        )
        return run.spikes, run.potential

    assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("surrogate", [FastSigmoid(3.0), ATan(1.0), Triangle(20.0)], ids=repr)
@pytest.mark.parametrize("name", ["subtract", "hold, synapse", "adaptive", "conductance"])
def test_each_weight_has_its_finite_difference(backend, surrogate, name):
    made, _ = small(name)
    made.neuron = replace(made.neuron, surrogate=surrogate)
    made.dense = made.dense.detach()[:, ::2].repeat(1, 2).requires_grad_()

    def spikes(*_):
        return made.run(backend=backend, smooth=True).spikes

    assert torch.autograd.gradcheck(spikes, [made.dense, made.sparse], atol=1e-6, rtol=1e-5)


def losses(run, seed=0):
    """A loss that weighs every spike and every potential differently."""
    made = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(run.spikes.shape, generator=made, dtype=torch.float64) for _ in range(2))
    return (run.spikes * a).sum() + 0.1 * (run.potential * b).sum()


def gradients(made, leaves, **options):
    run = made.run(**options)
    return run, torch.autograd.grad(losses(run), leaves, materialize_grads=True)


def assert_gradients_agree(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        scale = other.abs().max().clamp_min(1e-9)
        assert ((one - other).abs().max() / scale) < tolerance


@pytest.mark.parametrize("segment_steps", [None, 1, 7])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", OTHERS)
def test_backends_agree_with_the_step_loop(backend, name, detach_reset, segment_steps):
    made = population(name)
    made.neuron, values = trained(replace(made.neuron, detach_reset=detach_reset), made.n_units)
    leaves = [leaf.requires_grad_() for leaf in made.leaves()] + values
    expected, expected_grads = gradients(made, leaves, backend="loop")
    run, grads = gradients(made, leaves, backend=backend, segment_steps=segment_steps)
    assert 0.01 < float(expected.spikes.detach().mean()) < 0.6
    assert torch.equal(run.spikes, expected.spikes)
    torch.testing.assert_close(run.potential, expected.potential, rtol=1e-12, atol=1e-12)
    for one, other in zip(run.carry.state, expected.carry.state, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert_gradients_agree(grads, expected_grads, 1e-11)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("name", ["subtract", "silenced", "adaptive", "conductance, refractory"])
def test_computing_segments_again_changes_neither_loss_nor_gradient(backend, name):
    made = population(name, n_steps=50)
    made.neuron, values = trained(made.neuron, made.n_units)
    leaves = [leaf.requires_grad_() for leaf in made.leaves()] + values
    whole, whole_grads = gradients(made, leaves, backend=backend)
    for segment_steps in (1, 7, 25, 49, 50, 1000):
        cut, cut_grads = gradients(made, leaves, backend=backend, segment_steps=segment_steps)
        assert torch.equal(losses(cut), losses(whole))
        assert_gradients_agree(cut_grads, whole_grads, 1e-12)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("wanted", range(6))
def test_each_gradient_can_be_asked_for_alone(backend, wanted):
    made = population("subtract, synapse", n_steps=12)
    leaves = made.leaves()
    every = [leaf.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.requires_grad_()
    all_grads = torch.autograd.grad(losses(made.run(backend=backend)), leaves)
    for leaf in leaves:
        leaf.requires_grad_(False)
    leaves[wanted].requires_grad_()
    (alone,) = torch.autograd.grad(losses(made.run(backend=backend)), leaves[wanted])
    torch.testing.assert_close(alone, all_grads[wanted], rtol=1e-12, atol=1e-12)
    assert all(torch.equal(leaf, copy) for leaf, copy in zip(leaves, every, strict=True))


@pytest.mark.parametrize("backend", backends())
def test_nothing_to_train_leaves_no_graph(backend):
    run = population("subtract").run(backend=backend)
    assert not run.spikes.requires_grad
    assert not run.potential.requires_grad


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("output", ["spikes", "potential"])
def test_a_loss_may_look_at_one_output_alone(backend, output):
    made = population("zero")
    made.dense.requires_grad_()
    torch.manual_seed(0)
    weights = torch.randn(30, 3, 12, dtype=torch.float64)
    expected, found = (
        torch.autograd.grad((getattr(made.run(backend=name), output) * weights).sum(), made.dense)
        for name in ("loop", backend)
    )
    assert expected[0].abs().max() > 0
    assert_gradients_agree(found, expected, 1e-11)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", ["exact", "conductance", "adaptive"])
def test_no_gradient_passes_the_border_of_a_chunk(backend, name):
    made = population(name)
    made.source.requires_grad_()
    first = made.run(first=0, last=15, backend=backend)
    second = made.run(first=15, last=30, carry=first.carry, backend=backend)
    (grad,) = torch.autograd.grad(losses(second), made.source)
    assert (grad[:13] == 0).all()
    assert grad[15:].abs().max() > 0
    assert not any(one.requires_grad for one in second.carry.state if one is not None)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("detach_reset", [True, False])
def test_gradient_of_a_single_neuron_is_the_one_by_hand(backend, detach_reset):
    # Two steps of V[1] = b V[0] + w x[1] - theta s[0], s = H(V - theta); with d = derivative:
    # dV[1]/dw = b x[0] + x[1] - theta d[0] x[0], whose last term is gone when it is detached.
    tau_mem_ms, weight, first, second = 10.0, 1.5, 1.0, 0.25
    surrogate = FastSigmoid(2.0)
    weights = torch.tensor([[weight]], dtype=torch.float64, requires_grad=True)
    source = torch.tensor([first, second], dtype=torch.float64).reshape(2, 1, 1)
    neuron = _lif(tau_mem_ms, surrogate, detach_reset)
    run = simulate(
        neuron,
        [Synapses(weights, delay=0, source=source)],
        n_units=1,
        dt_ms=1.0,
        backend=backend,
        record_potential=True,
    )
    assert run.spikes.flatten().tolist() == [1, 0]
    (grad,) = torch.autograd.grad(run.potential[1].sum(), weights)
    b = torch.exp(torch.tensor(-1.0 / tau_mem_ms, dtype=torch.float64))
    through_reset = 0.0 if detach_reset else 1 / (1 + 2.0 * (weight * first - 1.0)) ** 2 * first
    torch.testing.assert_close(grad.squeeze(), b * first + second - through_reset)


def _lif(tau_mem_ms, surrogate, detach_reset):
    return LIF(tau_mem_ms=tau_mem_ms, surrogate=surrogate, detach_reset=detach_reset)


@pytest.mark.parametrize("backend", backends())
def test_units_that_never_spike_have_a_gradient_all_the_same(backend):
    made = population("subtract", n_trials=1, rate=0.02)
    made.drive.zero_()
    made.neuron = replace(made.neuron, bias=0.0, threshold=5.0)
    made.feedforward.requires_grad_()
    run = made.run(backend=backend)
    assert run.spikes.sum() == 0
    (grad,) = torch.autograd.grad(run.spikes.sum(), made.feedforward)
    used = made.source.sum((0, 1)) > 0
    assert (grad[used] > 0).all()
    assert (grad[~used] == 0).all()


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", ["subtract", "conductance", "adaptive"])
def test_sparse_weights_have_the_gradients_of_dense_ones(backend, name):
    made = population(name)
    n_post = made.edges.n_post
    dense = torch.zeros(made.n_units, n_post, dtype=torch.float64)
    dense[made.edges.pre, made.edges.post] = made.sparse
    values, dense = made.sparse.clone().requires_grad_(), dense.requires_grad_()

    def grads(synapses, leaf):
        rest = made.synapses()[2:]
        run = simulate(
            made.neuron,
            [synapses, *rest],
            n_units=made.n_units,
            dt_ms=1.0,
            drive=made.drive,
            record_potential=True,
            backend=backend,
        )
        return run.spikes, torch.autograd.grad(losses(run), leaf)[0]

    sparse_spikes, sparse_grad = grads(Synapses(values, made.edges, delay=2), values)
    dense_spikes, dense_grad = grads(Synapses(dense, delay=2), dense)
    assert torch.equal(sparse_spikes, dense_spikes)
    expected = dense_grad[made.edges.pre, made.edges.post]
    torch.testing.assert_close(sparse_grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", backends())
def test_edges_of_a_silent_or_missing_presynaptic_unit_are_harmless(backend):
    # Unit 0 has no edges at all, unit 2 never spikes.
    edges, order = make_edges(torch.tensor([2, 1]), torch.tensor([0, 2]), n_pre=3, n_post=3)
    values = torch.tensor([5.0, 0.05], dtype=torch.float64)[order].requires_grad_()
    drive = torch.zeros(6, 1, 3, dtype=torch.float64)
    drive[:, :, :2] = 2.0
    run = simulate(
        _lif(10.0, FastSigmoid(2.0), True),
        [Synapses(values, edges)],
        n_units=3,
        dt_ms=1.0,
        drive=drive,
        backend=backend,
    )
    run.spikes.sum().backward()
    fired = run.spikes[:, 0].sum(0)
    assert fired[0] == fired[1] > 0
    assert values.grad[edges.pre.tolist().index(1)] > 0
    assert values.grad[edges.pre.tolist().index(2)] == 0
