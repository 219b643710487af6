"""The simulator: what must not change what a population does, delays, chunks, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import MODELS, backends, population, seeded, spike_trains

from neuro.spiking.edges import make_edges
from neuro.spiking.neurons import LIF
from neuro.spiking.problem import Carry
from neuro.spiking.simulate import simulate
from neuro.spiking.synapses import Synapses

FEW = ["subtract", "hold, synapse", "silenced", "adaptive, refractory", "conductance, refractory"]


def on_a_grid(made):
    """Weights and drive as multiples of 1/1024: sums of them are exact in any order."""
    for name in ("dense", "sparse", "feedforward", "late", "drive"):
        setattr(made, name, (getattr(made, name) * 1024).round() / 1024)
    return made


def assert_same(run, expected):
    assert torch.equal(run.spikes, expected.spikes)
    assert torch.equal(run.potential, expected.potential)
    for one, other in zip(run.carry.state, expected.carry.state, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def permuted(neuron, order):
    """The same neurons in another order."""
    changed = {
        name: value[order]
        for name, value in vars(neuron).items()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    }
    return replace(neuron, **changed)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("backend", backends())
def test_order_of_neurons_permutes_the_spikes(backend, name):
    made = on_a_grid(population(name, n_units=16))
    expected = made.run(backend=backend)
    order = torch.randperm(16, generator=seeded(5))
    n_channels = made.neuron.n_channels
    columns = torch.cat([order + 16 * channel for channel in range(n_channels)])
    new_unit, new_column = order.argsort(), columns.argsort()
    edges, by_pre = make_edges(
        new_unit[made.edges.pre], new_column[made.edges.post], n_pre=16, n_post=16 * n_channels
    )
    changed = replace(
        made,
        neuron=permuted(made.neuron, order),
        dense=made.dense[order][:, columns],
        sparse=made.sparse[by_pre],
        edges=edges,
        feedforward=made.feedforward[:, columns],
        late=made.late[:, columns],
        drive=made.drive[..., columns],
    )
    run = changed.run(backend=backend)
    assert expected.spikes.sum() > 0
    assert torch.equal(run.spikes, expected.spikes[..., order])
    assert torch.equal(run.potential, expected.potential[..., order])


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("backend", backends())
def test_order_and_splitting_of_trials_change_nothing(backend, name):
    made = on_a_grid(population(name, n_trials=5))
    expected = made.run(backend=backend)
    for trials in ([4, 2, 0, 1, 3], [2], [1, 4]):
        part = replace(made, source=made.source[:, trials], drive=made.drive[:, trials])
        run = part.run(backend=backend)
        assert torch.equal(run.spikes, expected.spikes[:, trials])
        assert torch.equal(run.potential, expected.potential[:, trials])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", backends())
def test_chunks_with_a_carry_change_nothing(backend, name):
    made = population(name, n_steps=40, delays=(1, 7, 4))
    whole = made.run(backend=backend)
    # Shorter and longer chunks than the longest delay, one of a single step.
    carry, spikes, potentials = None, [], []
    for first, last in ((0, 1), (1, 4), (4, 9), (9, 30), (30, 40)):
        part = made.run(first=first, last=last, carry=carry, backend=backend)
        carry = part.carry
        spikes.append(part.spikes)
        potentials.append(part.potential)
    assert whole.spikes.sum() > 0
    assert torch.equal(torch.cat(spikes), whole.spikes)
    torch.testing.assert_close(torch.cat(potentials), whole.potential, rtol=0, atol=1e-12)
    assert torch.equal(carry.spikes, whole.carry.spikes)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("backend", backends())
def test_chunks_are_bit_for_bit_the_whole_where_sums_are_exact(backend, name):
    made = on_a_grid(population(name, n_steps=24))
    whole = made.run(backend=backend)
    first = made.run(last=11, backend=backend)
    second = made.run(first=11, carry=first.carry, backend=backend)
    assert torch.equal(torch.cat([first.potential, second.potential]), whole.potential)
    for one, other in zip(second.carry.state, whole.carry.state, strict=True):
        assert one is None or torch.equal(one, other)


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 23), max_size=6), seed=st.integers(0, 1000))
def test_wherever_a_sequence_is_cut_its_spikes_are_the_same(cuts, seed):
    made = population("refractory", n_steps=24, n_units=6, seed=seed, delays=(1, 5, 3))
    borders = [0, *sorted(cuts), 24]
    for backend in backends():
        whole = made.run(backend=backend)
        carry, spikes = None, []
        for first, last in zip(borders, borders[1:], strict=False):
            part = made.run(first=first, last=last, carry=carry, backend=backend)
            carry = part.carry
            spikes.append(part.spikes)
        assert torch.equal(torch.cat(spikes), whole.spikes)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", FEW)
def test_whole_milliseconds_are_those_with_a_decimal_point(backend, name):
    made = population(name)
    assert_same(made.run(backend=backend, dt_ms=1), made.run(backend=backend, dt_ms=1.0))


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("delay", [0, 1, 2, 7])
def test_a_spike_from_outside_arrives_after_its_delay(backend, delay):
    source = torch.zeros(12, 1, 1, dtype=torch.float64)
    source[2] = 1
    run = simulate(
        LIF(tau_mem_ms=10.0),
        [Synapses(torch.tensor([[0.5]], dtype=torch.float64), delay=delay, source=source)],
        n_units=1,
        dt_ms=1.0,
        backend=backend,
        record_potential=True,
    )
    moved = run.potential.flatten().nonzero().flatten().tolist()
    assert moved == list(range(2 + delay, 12))
    assert run.potential[2 + delay] == 0.5


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_spike_within_the_population_arrives_after_its_delay(backend, delay):
    # Unit 0 is pushed over threshold in step 3 and projects to unit 1.
    drive = torch.zeros(12, 1, 2, dtype=torch.float64)
    drive[3, 0, 0] = 2
    edges, _ = make_edges(torch.tensor([0]), torch.tensor([1]), n_pre=2, n_post=2)
    value = torch.tensor([0.5], dtype=torch.float64)
    dense = torch.tensor([[0, 0.5], [0, 0]], dtype=torch.float64)
    for synapses in (Synapses(value, edges, delay), Synapses(dense, delay=delay)):
        run = simulate(
            LIF(tau_mem_ms=10.0),
            [synapses],
            n_units=2,
            dt_ms=1.0,
            drive=drive,
            backend=backend,
            record_potential=True,
        )
        assert run.spikes.nonzero().tolist() == [[3, 0, 0]]
        assert run.potential[:, 0, 1].nonzero().flatten().tolist() == list(range(3 + delay, 12))
        assert run.potential[3 + delay, 0, 1] == 0.5


@pytest.mark.parametrize("backend", backends())
def test_a_longer_delay_beside_a_short_one_shifts_only_its_own_synapses(backend):
    # Unit 0 projects to 1 after one step and to 2 after six, in two sets of one population.
    drive = torch.zeros(12, 2, 3, dtype=torch.float64)
    drive[1, :, 0] = 2
    near = torch.tensor([[0, 0.25, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.float64)
    far = near[:, [0, 2, 1]]
    run = simulate(
        LIF(tau_mem_ms=10.0),
        [Synapses(near, delay=1), Synapses(far, delay=6)],
        n_units=3,
        dt_ms=1.0,
        drive=drive,
        backend=backend,
        record_potential=True,
    )
    for trial in range(2):
        moved = run.potential[:, trial] != 0
        assert moved[:, 1].nonzero().flatten().tolist() == list(range(2, 12))
        assert moved[:, 2].nonzero().flatten().tolist() == list(range(7, 12))


@pytest.mark.parametrize("name", ["subtract", "silenced", "adaptive", "conductance"])
@pytest.mark.parametrize("backend", backends())
def test_sparse_synapses_do_what_dense_ones_do(backend, name):
    made = on_a_grid(population(name))
    dense = torch.zeros(made.n_units, made.edges.n_post, dtype=torch.float64)
    dense[made.edges.pre, made.edges.post] = made.sparse
    source = spike_trains(0.2, 30, 3, made.n_units, seed=3)

    def run(weights, edges):
        sets = [
            Synapses(weights, edges, delay=2),
            Synapses(weights, edges, delay=0, source=source),
        ]
        return simulate(
            made.neuron,
            [*made.synapses()[2:], *sets],
            n_units=made.n_units,
            dt_ms=1.0,
            drive=made.drive,
            backend=backend,
            record_potential=True,
        )

    assert_same(run(made.sparse, made.edges), run(dense, None))


@pytest.mark.parametrize("backend", backends())
def test_presynaptic_events_may_have_a_size(backend):
    # Graded input: release of quanta, or noise, instead of spikes.
    made = population("subtract", n_steps=10)
    made.source = made.source * torch.rand(made.source.shape, generator=seeded(1)).double()
    run, expected = made.run(backend=backend), made.run(backend="loop")
    assert torch.equal(run.spikes, expected.spikes)
    torch.testing.assert_close(run.potential, expected.potential, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", backends())
def test_recurrence_alone_needs_a_size(backend):
    weights = torch.zeros(3, 3, dtype=torch.float64)
    neuron = LIF(tau_mem_ms=10.0, bias=0.3)
    run = simulate(neuron, [Synapses(weights)], n_units=3, dt_ms=1.0, size=(8, 2), backend=backend)
    assert run.spikes.shape == (8, 2, 3)
    assert run.spikes.sum() > 0
    with pytest.raises(ValueError, match="give size = "):
        simulate(neuron, [Synapses(weights)], n_units=3, dt_ms=1.0, backend=backend)


@pytest.mark.parametrize("backend", backends())
def test_single_precision_agrees_with_double_while_no_unit_is_at_threshold(backend):
    made = population("subtract", n_steps=20)
    expected = made.run(backend="loop")
    margin = (expected.potential - made.neuron.threshold).abs().min()
    assert margin > 1e-5
    for name in ("dense", "sparse", "feedforward", "late", "source", "drive"):
        setattr(made, name, getattr(made, name).float())
    run = made.run(backend=backend)
    assert run.spikes.dtype == run.potential.dtype == torch.float32
    assert torch.equal(run.spikes.double(), expected.spikes)
    torch.testing.assert_close(run.potential.double(), expected.potential, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e15, 1e30])
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("conductance")])
@pytest.mark.parametrize("backend", backends())
def test_huge_weights_and_drives_leave_potential_loss_and_gradient_finite(backend, name, size):
    made = population(name)
    names = ("dense", "sparse", "feedforward", "late", "source", "drive")
    for each in names:
        setattr(made, each, getattr(made, each).float())
    for each in ("dense", "feedforward", "drive"):
        setattr(made, each, (getattr(made, each) * size).requires_grad_())
    run = made.run(backend=backend)
    assert run.spikes.isfinite().all()
    assert run.potential.isfinite().all()
    leaves = [made.dense, made.feedforward, made.drive]
    for grad in torch.autograd.grad(run.spikes.mean(), leaves):
        assert grad.isfinite().all()


@pytest.mark.parametrize("backend", backends())
def test_the_name_of_the_backend_is_returned(backend):
    assert population("subtract").run(backend=backend).backend == backend


def test_a_backend_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'fast' is none of 'auto', 'loop', 'sequence'"):
        population("subtract").run(backend="fast")


def test_auto_takes_the_plain_loop_only_where_no_other_can():
    assert population("subtract").run().backend != "loop"


def call(**changes):
    """A valid call of two units and one input, with something changed."""
    options = {
        "neuron": LIF(tau_mem_ms=10.0),
        "synapses": [Synapses(torch.ones(1, 2), delay=0, source=torch.ones(4, 3, 1))],
        "n_units": 2,
        "dt_ms": 1.0,
        **changes,
    }
    neuron, synapses = options.pop("neuron"), options.pop("synapses")
    return simulate(neuron, synapses, **options)


SOURCE = torch.ones(4, 3, 1)
EDGES, _ = make_edges(torch.tensor([0]), torch.tensor([1]), n_pre=1, n_post=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dt_ms": 0.0}, "dt_ms = 0.0 is not a positive"),
        ({"dt_ms": float("nan")}, "dt_ms = nan is not a positive"),
        ({"segment_steps": 0}, "segment_steps = 0 must be at least 1"),
        ({"drive": torch.ones(4, 3, 5)}, r"drive has shape \(4, 3, 5\).*1 x 2 values"),
        ({"drive": torch.ones(5, 3, 2)}, "with the same T and B"),
        ({"size": (5, 3)}, r"size = \(5, 3\).*the same T and B"),
        ({"synapses": [Synapses(torch.ones(3, 2), source=SOURCE)]}, "from 3 units to 2; needed"),
        ({"synapses": [Synapses(torch.ones(1, 4), source=SOURCE)]}, "from 1 units to 4; needed"),
        ({"synapses": [Synapses(torch.ones(2), EDGES, source=SOURCE)]}, "1 edges, but .2,. values"),
        (
            {"synapses": [Synapses(torch.ones(2, 2), delay=0)], "size": (4, 3)},
            "delay = 0 steps is below 1, the least within a population",
        ),
        (
            {"synapses": [Synapses(torch.ones(1, 2), delay=-1, source=SOURCE)]},
            "delay = -1 steps is below 0, the least from outside",
        ),
        ({"synapses": [Synapses(torch.ones(1, 2).double(), source=SOURCE)]}, "one floating type"),
        ({"synapses": [Synapses(torch.ones(1, 2).int(), source=SOURCE.int())]}, "floating type"),
        ({"synapses": [Synapses(torch.ones(1, 2), source=SOURCE[0])]}, r"must be \(T, B, units\)"),
        ({"size": (0, 3), "synapses": [Synapses(torch.ones(2, 2))]}, "0 steps; a sequence has at"),
        ({"synapses": []}, r"give size = \(T, B\)"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_carry_of_another_size_is_refused():
    carry = call().carry
    wrong = Carry(carry.state, carry.spikes[:, :2], carry.sources)
    with pytest.raises(ValueError, match=r"carry holds spikes of shape \(1, 2, 2\).*\(1, 3, 2\)"):
        call(carry=wrong)


def test_carry_is_not_changed_by_what_follows():
    made = population("exact")
    first = made.run(last=10)
    before = [part.clone() for part in (*first.carry.state[:2], first.carry.spikes)]
    made.run(first=10, carry=first.carry)
    after = [*first.carry.state[:2], first.carry.spikes]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("backend", backends())
def test_inputs_are_not_changed(backend):
    made = population("adaptive")
    before = [leaf.clone() for leaf in made.leaves()]
    for leaf in made.leaves():
        leaf.requires_grad_()
    made.run(backend=backend, segment_steps=7).spikes.sum().backward()
    for leaf, copy in zip(made.leaves(), before, strict=True):
        assert torch.equal(leaf, copy)


def with_refractory_period(name):
    return replace(MODELS[name](3), refractory_ms=torch.tensor([1.0, 2.0, 5.0]))


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), strength=st.floats(0.5, 100.0))
def test_no_unit_spikes_twice_within_its_refractory_period(backend, name, seed, strength):
    neuron = with_refractory_period(name)
    drive = strength * torch.rand(60, 2, neuron.n_channels * 3, generator=seeded(seed)).double()
    run = simulate(neuron, [], n_units=3, dt_ms=1.0, drive=drive, backend=backend)
    for unit, steps in enumerate((1, 2, 5)):
        for trial in range(2):
            times = run.spikes[:, trial, unit].nonzero().flatten()
            assert (times.diff() >= steps).all()


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("name", MODELS)
def test_units_spike_again_as_soon_as_their_refractory_period_is_over(backend, name):
    # "hold" and conductances need a step more to leave v_reset, a silenced current one to come.
    late = int(name.startswith("silenced"))
    neuron = with_refractory_period(name)
    drive = torch.full((60, 1, neuron.n_channels * 3), 500.0, dtype=torch.float64)
    drive[..., 3:] = 0
    run = simulate(neuron, [], n_units=3, dt_ms=1.0, drive=drive, backend=backend)
    for unit, steps in enumerate((1, 2, 5)):
        shortest = int(run.spikes[:, 0, unit].nonzero().flatten().diff().min())
        assert steps <= shortest <= max(steps, 2) + late
