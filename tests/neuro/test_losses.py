"""Losses against numpy and scipy, and the gradients that they claim."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import snntorch
import torch
from scipy.signal import lfilter

from neuro.losses import (
    VanRossumState,
    cv_loss,
    firing_rate_loss,
    mean_rate_hz,
    membrane_variance_loss,
    silent_neuron_loss,
    van_rossum_loss,
    weight_ratio_loss,
)

DT_MS = 1.0
TIMES = {"tau_rise_ms": 10.0, "tau_decay_ms": 100.0, "dt_ms": DT_MS}


def bernoulli(*shape, p=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < p).float()


def weights(scale):
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.rand(12, 8, generator=generator)).requires_grad_()


def recorded(step, inputs, state):
    """Spikes and potentials, shape (T, B, N), of a neuron of snntorch."""
    seen = []
    for current in inputs:
        state = step(current, *state)
        seen.append(state)
    return tuple(torch.stack(values) for values in zip(*seen, strict=True))


LOSSES = {
    "van_rossum": lambda s, v: van_rossum_loss(s, bernoulli(*s.shape, seed=5), **TIMES).value,
    "firing_rate": lambda s, v: firing_rate_loss(s, 20.0, dt_ms=DT_MS),
    "silent": lambda s, v: silent_neuron_loss(s, 0.02, dt_ms=DT_MS),
    "cv": lambda s, v: cv_loss(s),
    "cv_within_trials": lambda s, v: cv_loss(s, across_trials=False),
    "membrane_variance": lambda s, v: membrane_variance_loss(v, 1.0, ratio=0.3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_finite_and_not_zero_in_a_network_that_spikes(name):
    torch.manual_seed(0)
    neuron = snntorch.RLeaky(beta=0.9, linear_features=8, spike_grad=snntorch.surrogate.atan())
    feedforward = weights(0.4)
    inputs = bernoulli(150, 3, 12, p=0.2) @ feedforward
    spikes, potential = recorded(neuron, inputs, neuron.init_rleaky())
    assert 0.01 < spikes.mean() < 0.5
    LOSSES[name](spikes, potential).backward()
    for parameter in (feedforward, neuron.recurrent.weight):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 1e-8


@pytest.mark.parametrize("name", LOSSES)
def test_loss_falls_by_descent_along_its_gradient(name):
    neuron = snntorch.Leaky(beta=0.9, spike_grad=snntorch.surrogate.fast_sigmoid(slope=10))
    feedforward, inputs = weights(0.4), bernoulli(80, 4, 12, p=0.2)
    optimizer = torch.optim.Adam([feedforward], lr=0.015)
    seen = []
    for _ in range(20):
        optimizer.zero_grad()
        rest = (None, torch.zeros(4, 8))
        spikes, potential = recorded(lambda x, _, v: neuron(x, v), inputs @ feedforward, rest)
        loss = LOSSES[name](spikes, potential)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert min(seen[-5:]) < 0.8 * seen[0]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_losses_and_gradients_are_finite_in_silence_and_in_saturation(name, level):
    spikes = torch.full((40, 2, 3), level, requires_grad=True)
    # At threshold, 1, as the mean of a saturated potential may be.
    potential = torch.full((40, 2, 3), level, requires_grad=True)
    loss = LOSSES[name](spikes, potential)
    gradients = torch.autograd.grad(loss, (spikes, potential), allow_unused=True)
    (used,) = [gradient for gradient in gradients if gradient is not None]
    assert loss.isfinite()
    assert used.isfinite().all()


# Van Rossum


def filtered(train):
    """Both filters, as scipy has them, in double precision."""
    rise, decay = math.exp(-DT_MS / 10), math.exp(-DT_MS / 100)
    return lfilter([1], [1, -decay], lfilter([1], [1, -rise], train, axis=0), axis=0)


def test_van_rossum_is_the_squared_difference_of_trains_filtered_by_scipy():
    output, target = bernoulli(400, 2, 5), bernoulli(400, 2, 5, seed=1)
    expected = np.mean((filtered(output.double()) - filtered(target.double())) ** 2)
    loss = van_rossum_loss(output, target.bool(), **TIMES)
    assert loss.value.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        loss.state.decay, (filtered(output.double()) - filtered(target.double()))[-1], rtol=1e-4
    )


def test_lone_spike_becomes_a_difference_of_two_exponentials():
    # Convolution of two geometric sequences: (a^(t+1) - b^(t+1)) / (a - b).
    a, b = math.exp(-DT_MS / 100), math.exp(-DT_MS / 10)
    output = torch.zeros(60, 1, 1, dtype=torch.float64)
    output[0] = 1
    expected = [((a ** (t + 1) - b ** (t + 1)) / (a - b)) ** 2 for t in range(60)]
    loss = van_rossum_loss(output, torch.zeros_like(output), **TIMES)
    assert loss.value.item() == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_van_rossum_in_chunks_is_that_of_the_whole(chunk):
    output, target = bernoulli(350, 2, 5), bernoulli(350, 2, 5, seed=1)
    whole = van_rossum_loss(output, target, **TIMES)
    total, wrong, state, stale = 0.0, 0.0, None, None
    for ours, theirs in zip(output.split(chunk), target.split(chunk), strict=True):
        value, state = van_rossum_loss(ours, theirs, **TIMES, state=state)
        total += value.item() * len(ours)
        # A state that is dropped must be seen by this test.
        wrong += van_rossum_loss(ours, theirs, **TIMES, state=stale).value.item() * len(ours)
    assert total / 350 == pytest.approx(whole.value.item(), rel=1e-6)
    assert wrong / 350 != pytest.approx(whole.value.item(), rel=1e-2)
    torch.testing.assert_close(state, whole.state, rtol=1e-6, atol=1e-6)


def test_state_of_van_rossum_survives_a_file_and_carries_no_gradient():
    output = bernoulli(30, 2, 3).requires_grad_()
    state = van_rossum_loss(output, bernoulli(30, 2, 3, seed=1), **TIMES).state
    assert not any(value.requires_grad for value in state)
    file = io.BytesIO()
    torch.save(state._asdict(), file)
    file.seek(0)
    assert all(map(torch.equal, VanRossumState(**torch.load(file, weights_only=True)), state))


def test_van_rossum_is_symmetric_and_zero_for_equal_trains():
    one, other = bernoulli(80, 1, 4), bernoulli(80, 1, 4, seed=1)
    assert van_rossum_loss(one, one, **TIMES).value == 0
    there, back = (van_rossum_loss(*pair, **TIMES).value for pair in ((one, other), (other, one)))
    assert there == back > 0


def test_half_precision_is_filtered_in_single():
    one, other = bernoulli(300, 1, 4), bernoulli(300, 1, 4, seed=1)
    loss = van_rossum_loss(one.to(torch.bfloat16), other, **TIMES)
    assert torch.equal(loss.value, van_rossum_loss(one, other, **TIMES).value)


def test_trains_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"target has shape \(5, 1, 3\), output \(5, 1, 2\)"):
        van_rossum_loss(torch.zeros(5, 1, 2), torch.zeros(5, 1, 3), **TIMES)
    with pytest.raises(ValueError, match="tau_ms = 0"):
        van_rossum_loss(
            torch.zeros(5, 1, 2), torch.zeros(5, 1, 2), tau_rise_ms=0, tau_decay_ms=1, dt_ms=1
        )


# Rates


def test_rate_losses_are_those_of_numpy():
    spikes = bernoulli(200, 3, 4, p=0.02)
    rate_hz = spikes.double().numpy().sum(axis=(0, 1)) / (200 * 3 * 0.5e-3)
    target_hz, alpha_s = np.array([0.5, 2, 30, 80]), np.array([0.01, 0.02, 0.05, 0.1])
    np.testing.assert_allclose(mean_rate_hz(spikes, dt_ms=0.5), rate_hz, rtol=1e-6)
    assert firing_rate_loss(spikes, target_hz.tolist(), dt_ms=0.5).item() == pytest.approx(
        np.mean((rate_hz - target_hz) ** 2 / (target_hz + 1)), rel=1e-5
    )
    assert silent_neuron_loss(spikes, torch.tensor(alpha_s), dt_ms=0.5).item() == pytest.approx(
        np.mean(np.exp(-alpha_s * rate_hz)), rel=1e-5
    )


def test_silent_neurons_are_pulled_up_hardest():
    spikes = torch.zeros(100, 1, 2)
    spikes[::10, 0, 1] = 1
    spikes.requires_grad_()
    silent_neuron_loss(spikes, 0.02, dt_ms=1.0).backward()
    silent, firing = spikes.grad.mean(dim=(0, 1))
    assert silent < firing < 0


@pytest.mark.parametrize("loss", [firing_rate_loss, silent_neuron_loss])
def test_values_for_another_number_of_units_are_refused(loss):
    with pytest.raises(ValueError, match=r"has shape \(2,\); give one number, or .* 3 units"):
        loss(torch.zeros(5, 2, 3), [1.0, 2.0], dt_ms=1.0)
    with pytest.raises(ValueError, match=r"\(T, B, N\)"):
        loss(torch.zeros(5, 3), 1.0, dt_ms=1.0)


# Potentials and weights


def test_membrane_variance_is_that_of_numpy():
    generator = torch.Generator().manual_seed(0)
    potential = -50 + 3 * torch.randn(200, 2, 3, generator=generator, dtype=torch.float64)
    threshold_mv = np.array([-38.0, -45.0, -40.0])
    values = potential.numpy()
    expected = (values.std(axis=0) / (threshold_mv - values.mean(axis=0)) - 0.25) ** 2
    loss = membrane_variance_loss(potential.requires_grad_(), threshold_mv.tolist(), ratio=0.25)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)


def test_membrane_variance_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    potential = torch.randn(9, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v: membrane_variance_loss(v, [4.0, 5.0, 6.0], ratio=0.3), (potential,)
    )


def test_detached_potential_is_refused_where_gradients_are_recorded():
    potential = torch.randn(9, 2, 3)
    with pytest.raises(ValueError, match="would train nothing; record the potential attached"):
        membrane_variance_loss(potential, 1.0, ratio=0.3)
    with torch.no_grad():
        assert membrane_variance_loss(potential, 1.0, ratio=0.3) > 0


def test_weight_ratio_pulls_both_means_to_their_aim():
    recurrent = torch.tensor([[1.0, 2.0], [3.0, 6.0]], requires_grad=True)  # mean 3
    feedforward = torch.tensor([0.5, 2.5], requires_grad=True)  # mean 1.5
    loss = weight_ratio_loss(recurrent, feedforward, target=2.5)
    loss.backward()
    # (2 - 2.5)^2; d/dR = 2 (-0.5) / 1.5 / 4 an element, d/dF = 2 (-0.5) (-3 / 1.5^2) / 2.
    assert loss.item() == pytest.approx(0.25)
    np.testing.assert_allclose(recurrent.grad, np.full((2, 2), -1 / 6), rtol=1e-6)
    np.testing.assert_allclose(feedforward.grad, np.full(2, 2 / 3), rtol=1e-6)


def test_weights_without_a_mean_are_refused():
    with pytest.raises(ValueError, match="feedforward is empty"):
        weight_ratio_loss(torch.ones(2), torch.ones(0), target=2.0)
