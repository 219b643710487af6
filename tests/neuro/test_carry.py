"""What a carry may be: one that a network of the same kind and size left, and nothing larger."""

from __future__ import annotations

import gc

import pytest
import torch
from populations import AMPA, MODELS, NMDA, backends, conductance_model, population, spike_trains

from neuro.spiking.neurons import LIF, AdaptiveLIF
from neuro.spiking.simulate import simulate
from neuro.spiking.synapses import Synapses

TAU = {"tau_mem_ms": 10.0}
LATE = Synapses(torch.ones(2, 4), delay=3, source=torch.ones(6, 3, 2))


def run(neuron, *, dtype=torch.float64, synapses=(), **options):
    drive = torch.ones(6, 3, 4 * neuron.n_channels, dtype=dtype)
    return simulate(neuron, synapses, n_units=4, dt_ms=1.0, drive=drive, **options)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize(
    ("left_by", "found_by", "message"),
    [
        (LIF(**TAU), AdaptiveLIF(tau_adapt_ms=50.0, strength=0.1, **TAU), "holds a LIFState"),
        (LIF(**TAU), LIF(tau_syn_ms=5.0, **TAU), r"state\[1\] of nothing"),
        (LIF(**TAU), LIF(refractory_ms=3.0, **TAU), r"state\[2\] of nothing"),
        (LIF(refractory_ms=3.0, **TAU), LIF(**TAU), r"state\[2\] of shape"),
        (
            conductance_model(4, synapses=(AMPA,)),
            conductance_model(4, synapses=(AMPA, NMDA)),
            r"state\[1\] of shape \(3, 4\).*\(3, 8\)",
        ),
    ],
)
def test_a_carry_of_other_neurons_is_refused(backend, left_by, found_by, message):
    with pytest.raises(ValueError, match=message):
        run(found_by, carry=run(left_by).carry, backend=backend)


@pytest.mark.parametrize("backend", backends())
def test_a_carry_of_another_precision_is_refused(backend):
    # Compiled code for single precision would read doubles as pairs of numbers.
    carry = run(LIF(**TAU), dtype=torch.float32).carry
    with pytest.raises(ValueError, match=r"torch.float32 on cpu;.*torch.float64 on cpu"):
        run(LIF(**TAU), carry=carry, backend=backend)


def test_a_carry_of_other_sources_is_refused():
    with_source = {"dtype": torch.float32, "synapses": [LATE]}
    carry = run(LIF(**TAU), dtype=torch.float32).carry
    with pytest.raises(ValueError, match=r"0 sources; this network needs a LIFState and 1"):
        run(LIF(**TAU), carry=carry, **with_source)
    sooner = {"dtype": torch.float32, "synapses": [LATE._replace(delay=0)]}
    carry = run(LIF(**TAU), **with_source).carry
    with pytest.raises(ValueError, match=r"sources\[0\] of shape \(3, 3, 2\).*\(0, 3, 2\)"):
        run(LIF(**TAU), carry=carry, **sooner)


@pytest.mark.parametrize("delay", [0, 2])
def test_a_carry_keeps_no_more_than_what_the_next_chunk_needs(delay):
    source = spike_trains(0.1, 500, 3, 2, seed=1)
    outside = Synapses(torch.ones(2, 4, dtype=torch.float64), delay=delay, source=source)
    carry = simulate(LIF(**TAU), [outside], n_units=4, dt_ms=1.0).carry
    kept = [part for part in (*carry.state, carry.spikes, *carry.sources) if part is not None]
    assert all(part.untyped_storage().nbytes() == part.numel() * 8 for part in kept)


@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("which", ["dense", "sparse", "source"])
def test_what_has_changed_since_the_forward_pass_is_refused_in_the_backward_pass(backend, which):
    made = population(next(iter(MODELS)))
    for leaf in (made.dense, made.sparse, made.feedforward):
        leaf.requires_grad_()
    ran = made.run(backend=backend)
    with torch.no_grad():
        getattr(made, which).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ran.spikes.sum().backward()


@pytest.mark.parametrize("backend", backends())
def test_states_of_all_steps_are_freed_by_the_backward_pass(backend):
    drive = torch.full((200, 3, 50), 0.2, dtype=torch.float64, requires_grad=True)
    run = simulate(LIF(tau_syn_ms=5.0, **TAU), [], n_units=50, dt_ms=1.0, drive=drive)
    before = values_in_memory()
    run = simulate(
        LIF(tau_syn_ms=5.0, **TAU), [], n_units=50, dt_ms=1.0, drive=drive, backend=backend
    )
    run.spikes.sum().backward()
    drive.grad = None
    assert values_in_memory() - before < 0.5 * drive.numel()


def values_in_memory():
    gc.collect()
    return sum(one.numel() for one in gc.get_objects() if type(one) is torch.Tensor)
