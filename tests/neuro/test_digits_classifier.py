"""The LIF classifier against closed forms, a second implementation and its own symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import snntorch
import torch

from neuro.models import DigitsClassifier
from neuro.spiking import decay_per_step, encode_rate


@pytest.fixture
def classifier() -> DigitsClassifier:
    """A small network whose sums are exact in any order: weights are multiples of 1/64."""
    torch.manual_seed(0)
    network = DigitsClassifier(
        n_inputs=12, n_hidden=9, n_classes=4, dt_ms=5.0, tau_mem_ms=50.0, surrogate_slope=25.0
    )
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(torch.round(weights * 4 * 64) / 64)
    return network


@pytest.fixture
def input_spikes() -> torch.Tensor:
    """Spikes of shape (T, B, N) = (20, 3, 12)."""
    rate_hz = torch.full((3, 12), 80.0)
    return encode_rate(rate_hz, n_steps=20, dt_ms=5.0, generator=torch.Generator().manual_seed(1))


def leaky(beta: float) -> snntorch.Leaky:
    return snntorch.Leaky(beta=beta).double()


def test_potential_decays_to_one_part_in_e_after_one_time_constant():
    dt_ms, tau_ms = 0.5, 20.0
    layer = leaky(decay_per_step(dt_ms=dt_ms, tau_ms=tau_ms))
    potential = torch.tensor([[0.9]], dtype=torch.float64)
    for _ in range(round(tau_ms / dt_ms)):
        _, potential = layer(torch.zeros(1, 1, dtype=torch.float64), potential)
    # snntorch keeps beta in single precision.
    assert potential.item() == pytest.approx(0.9 / math.e, rel=1e-5)


def test_constant_current_charges_the_membrane_along_the_geometric_series():
    beta, current = 0.75, 0.2
    layer = leaky(beta)
    potential = torch.zeros(1, 1, dtype=torch.float64)
    for step in range(1, 30):
        _, potential = layer(torch.full((1, 1), current, dtype=torch.float64), potential)
        assert potential.item() == pytest.approx(current * (1 - beta**step) / (1 - beta), rel=1e-12)


def test_decay_of_two_half_steps_is_the_decay_of_one_step():
    half = decay_per_step(dt_ms=1.0, tau_ms=7.0)
    assert half**2 == pytest.approx(decay_per_step(dt_ms=2.0, tau_ms=7.0), rel=1e-14)


@pytest.mark.parametrize(("dt_ms", "tau_ms", "named"), [(0, 1, "dt_ms"), (1, -2.0, "tau_ms")])
def test_times_of_a_decay_must_be_positive(dt_ms, tau_ms, named):
    with pytest.raises(ValueError, match=named):
        decay_per_step(dt_ms=dt_ms, tau_ms=tau_ms)


def lif_by_hand(current: np.ndarray, beta: float) -> np.ndarray:
    """U[t] = beta U[t-1] + I[t] - S[t-1], S[t] = U[t] > 1, one unit and step at a time."""
    spikes = np.zeros_like(current)
    for unit in np.ndindex(current.shape[1:]):
        potential, fired = np.float32(0), np.float32(0)
        for step in range(len(current)):
            potential = np.float32(beta) * potential + current[(step, *unit)] - fired
            fired = np.float32(potential > 1)
            spikes[(step, *unit)] = fired
    return spikes


def test_network_computes_the_equation_of_its_docstring(classifier, input_spikes):
    response = classifier(input_spikes)
    weights = {name: value.detach().numpy() for name, value in classifier.named_parameters()}
    beta = math.exp(-5.0 / 50.0)
    spikes = input_spikes.numpy()
    for layer, raster in (
        ("input_to_hidden", response.hidden),
        ("hidden_to_output", response.output),
    ):
        current = spikes @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        spikes = lif_by_hand(current, beta)
        assert spikes.any()
        np.testing.assert_array_equal(raster.detach().numpy(), spikes)
    np.testing.assert_array_equal(response.spike_count.detach().numpy(), spikes.sum(axis=0))


def test_shuffled_input_units_with_shuffled_weights_change_nothing(classifier, input_spikes):
    before = classifier(input_spikes)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        classifier.input_to_hidden.weight.copy_(classifier.input_to_hidden.weight[:, order])
    after = classifier(input_spikes[:, :, order])
    assert torch.equal(before.hidden, after.hidden)
    assert torch.equal(before.output, after.output)


def test_shuffled_hidden_units_permute_the_raster_and_keep_the_decision(classifier, input_spikes):
    before = classifier(input_spikes)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        classifier.input_to_hidden.weight.copy_(classifier.input_to_hidden.weight[order])
        classifier.input_to_hidden.bias.copy_(classifier.input_to_hidden.bias[order])
        classifier.hidden_to_output.weight.copy_(classifier.hidden_to_output.weight[:, order])
    after = classifier(input_spikes)
    assert not torch.equal(before.hidden, after.hidden)
    assert torch.equal(before.hidden[:, :, order], after.hidden)
    assert torch.equal(before.output, after.output)


def test_trials_of_a_batch_do_not_see_each_other(classifier, input_spikes):
    together = classifier(input_spikes)
    for trial in range(input_spikes.shape[1]):
        alone = classifier(input_spikes[:, trial : trial + 1])
        assert torch.equal(together.output[:, trial : trial + 1], alone.output)


def test_second_presentation_starts_from_rest(classifier, input_spikes):
    assert torch.equal(classifier(input_spikes).output, classifier(input_spikes).output)


def test_future_input_does_not_reach_past_spikes(classifier, input_spikes):
    changed = input_spikes.clone()
    changed[12:] = 1 - changed[12:]
    assert torch.equal(classifier(input_spikes).hidden[:12], classifier(changed).hidden[:12])
    assert torch.equal(classifier(input_spikes).output[:12], classifier(changed).output[:12])


def test_surrogate_gradient_is_the_stated_one():
    """One step from rest: dS/dI = 1 / (1 + k |I - 1|)^2, although S itself is a step."""
    slope = 25.0
    network = DigitsClassifier(
        n_inputs=1, n_hidden=1, n_classes=1, dt_ms=5.0, tau_mem_ms=50.0, surrogate_slope=slope
    )
    current = torch.linspace(0, 2, 21, dtype=torch.float64).reshape(-1, 1).requires_grad_()
    fired, _ = network.hidden(current, torch.zeros_like(current))
    fired.sum().backward()
    expected = 1 / (1 + slope * (current.detach() - 1).abs()) ** 2
    torch.testing.assert_close(current.grad, expected, rtol=1e-12, atol=0)


def test_every_weight_gets_a_gradient(classifier, input_spikes):
    classifier(input_spikes).spike_count.square().sum().backward()
    for name, weights in classifier.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.any(), name
