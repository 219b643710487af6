"""The readout of rare spikes against the dense product and the leaky readout, by autograd."""

from __future__ import annotations

import pytest
import torch

from neuro.spiking.neurons.readout import LeakyReadout
from neuro.spiking.spike_readout import SpikeReadout

N_STEPS, N_TRIALS, N_UNITS, N_OUTPUTS = 40, 3, 30, 7
READ = torch.arange(3, 25, 2)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_readout() -> SpikeReadout:
    torch.manual_seed(0)
    return SpikeReadout(READ, n_units=N_UNITS, n_outputs=N_OUTPUTS, dt_ms=2.0, tau_ms=15.0)


def draw_spikes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    spikes = torch.rand(N_STEPS, N_TRIALS, N_UNITS, generator=generator) < 0.1
    return spikes.double().requires_grad_()


def dense(readout: SpikeReadout, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaky = LeakyReadout(n_outputs=N_OUTPUTS, dt_ms=2.0, tau_ms=15.0, bias=False)
    return leaky(spikes[..., READ] @ readout.weight).values, spikes.sum(dim=0)


def loss(outputs: torch.Tensor, counts: torch.Tensor, kind: str) -> torch.Tensor:
    # The maximum has a gradient at one step of each trial and output, the cube everywhere.
    of_outputs = outputs.max(dim=0).values.square() if kind == "maximum" else outputs.pow(3)
    return of_outputs.sum() + (counts * torch.arange(N_UNITS)).square().sum()


@pytest.mark.parametrize("kind", ["maximum", "everywhere"])
def test_values_and_gradients_are_those_of_the_dense_product(kind):
    readout, spikes = make_readout(), draw_spikes()
    own, expected = readout(spikes), dense(readout, spikes)
    for one, other in zip(own, expected, strict=True):
        torch.testing.assert_close(one, other)
    asked = [spikes, readout.weight]
    gradients = torch.autograd.grad(loss(*own, kind), asked)
    for one, other in zip(
        gradients, torch.autograd.grad(loss(*expected, kind), asked), strict=True
    ):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0


def test_spikes_of_units_that_are_not_read_move_no_output_but_count():
    readout, spikes = make_readout(), draw_spikes().detach()
    others = spikes.clone()
    others[..., 0] = 1 - others[..., 0]
    one, other = readout(spikes), readout(others)
    assert torch.equal(one.outputs, other.outputs)
    assert torch.equal(one.counts[:, 0], N_STEPS - other.counts[:, 0])


def test_silence_gives_zeros_and_a_gradient():
    readout = make_readout()
    spikes = torch.zeros(N_STEPS, N_TRIALS, N_UNITS, requires_grad=True)
    found = readout(spikes)
    assert not found.outputs.any()
    found.outputs[5].sum().backward()
    kappa = torch.exp(torch.tensor(-2.0 / 15.0))
    expected = kappa**5 * readout.weight.sum(dim=1)
    torch.testing.assert_close(spikes.grad[0, 0, READ], expected)


def test_other_units_than_it_was_made_for_are_refused():
    with pytest.raises(ValueError, match=r"must be \(T, B, 30\)"):
        make_readout()(torch.zeros(4, 2, 29))


def test_readout_of_no_unit_is_refused():
    with pytest.raises(ValueError, match="must read at least one unit"):
        SpikeReadout(READ[:0], n_units=N_UNITS, n_outputs=N_OUTPUTS, dt_ms=2.0, tau_ms=15.0)
