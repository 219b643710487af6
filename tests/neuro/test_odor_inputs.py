"""Odors and input streams: rates, Ornstein-Uhlenbeck statistics, chunks without a seam."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neuro.connectome.mitral_patterns import OdorRates, assembly_drive, odor_patterns
from neuro.connectome.network_structure import NetworkStructure
from neuro.spiking.inputs import InputStream, OdorMixture, OdorMixtureInput, PoissonInput

RATES = OdorRates(baseline_hz=6.0, raised_by_hz=30.0, raised_fraction=0.1)


def structure(n_inputs=1500, n_cells=8, seed=0):
    """Every input projects to every cell; E and I take turns, in two assemblies and a remainder."""
    generator = np.random.default_rng(seed)
    pre, post = np.divmod(np.arange(n_inputs * n_cells), n_cells)
    nothing = np.zeros(0, dtype=int)
    return NetworkStructure(
        cell_type_names=np.array(["E", "I"]),
        cell_type_ids=np.arange(n_cells) % 2,
        assembly_ids=np.array([0, 0, 0, 1, 1, 1, -1, -1]),
        input_type_names=np.array(["mitral"]),
        input_type_ids=np.zeros(n_inputs, dtype=int),
        recurrent_pre=nothing,
        recurrent_post=nothing,
        recurrent_weight=np.zeros(0),
        feedforward_pre=pre,
        feedforward_post=post,
        feedforward_weight=generator.random(n_inputs * n_cells),
    )


def mixture_input(n_inputs=20, n_odors=3, dt_ms=1.0, **changed):
    patterns = torch.rand(n_odors, n_inputs, generator=torch.Generator().manual_seed(7)) * 400
    constants = {"tau_ms": 50.0, "sigma": 2.0, "temperature": 0.5} | changed
    return OdorMixtureInput(patterns, OdorMixture(**constants), dt_ms)


def activations(n_trials, n_steps, *, dt_ms, seed=0, **constants):
    """Draw nothing but processes: one silent input."""
    silent = OdorMixtureInput(torch.zeros(2, 1), OdorMixture(temperature=1.0, **constants), dt_ms)
    return silent.draw(silent.start(n_trials, seed=seed), n_steps).activation.numpy()


def test_an_odor_excites_a_tenth_of_the_inputs_and_keeps_the_mean_rate():
    patterns = odor_patterns(structure(), RATES)
    assert patterns.shape == (2, 1500)
    np.testing.assert_allclose(patterns.mean(axis=1), 6.0)
    # (1500 * 6 - 150 * 36) / 1350 = 2.67 Hz
    for pattern in patterns:
        rates, counts = np.unique(pattern, return_counts=True)
        np.testing.assert_allclose(rates, [8 / 3, 36])
        assert counts.tolist() == [1350, 150]


def test_an_odor_excites_the_inputs_that_drive_the_assembly_s_e_cells_most():
    network = structure(n_inputs=40)
    weight = network.feedforward_weight.reshape(40, 8).astype(float)
    # Of cells 0 .. 7 even ones are E; 0, 1, 2 form assembly 0 and 3, 4, 5 assembly 1.
    expected = np.array([weight[:, 0] + weight[:, 2], weight[:, 4]])
    np.testing.assert_allclose(assembly_drive(network, "E"), expected)
    for pattern, drive in zip(odor_patterns(network, RATES), expected, strict=True):
        excited = pattern == 36
        assert excited.sum() == 4
        assert drive[excited].min() > drive[~excited].max()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"raised_fraction": 0.5}, "leave -24.0 Hz for the others at a mean of 6.0 Hz"),
        ({"raised_by_hz": -1.0}, "lower raised_by_hz"),
        ({"raised_fraction": 0.0}, "must raise at least one rate"),
        ({"raised_fraction": 1.0}, "and lower at least one"),
        ({"target_type": "P"}, "cell type 'P' is none of 'E', 'I'"),
    ],
)
def test_impossible_odors_are_refused(changed, message):
    table = {"baseline_hz": 6.0, "raised_by_hz": 30.0, "raised_fraction": 0.1} | changed
    with pytest.raises(ValueError, match=message):
        odor_patterns(structure(n_inputs=40), OdorRates(**table))


def test_stationary_processes_are_normal_with_deviation_sigma_whatever_the_step():
    # One step of 20 time constants forgets the start, so that each draw is a stationary one; at
    # such a step the Euler scheme would diverge.
    drawn = activations(5000, 5, dt_ms=1000.0, tau_ms=50.0, sigma=5.0, start=100.0)[1:]
    assert drawn.std() == pytest.approx(5.0, rel=0.02)
    assert stats.kstest(drawn.ravel() / 5.0, "norm").pvalue > 1e-4


def test_autocorrelation_falls_off_with_tau():
    tau_ms, n_trials = 20.0, 4000
    drawn = activations(n_trials, 300, dt_ms=1.0, tau_ms=tau_ms, sigma=2.0)[200:]
    for lag in (1, 5, 20, 60):
        products = (drawn[:-lag] * drawn[lag:]).mean(axis=0).ravel()
        error = products.std() / np.sqrt(products.size)
        assert abs(products.mean() - 4.0 * np.exp(-lag / tau_ms)) < 4.5 * error


def test_slow_processes_leave_the_start_as_the_closed_form_says():
    # After t: mean exp(-t / tau), variance sigma^2 (1 - exp(-2 t / tau))
    drawn = activations(500, 1001, dt_ms=1.0, tau_ms=7e5, sigma=5.0)[-1].ravel()
    deviation = 5 * np.sqrt(-np.expm1(-2 * 1000 / 7e5))
    assert drawn.mean() == pytest.approx(np.exp(-1 / 700), abs=4.5 * deviation / np.sqrt(1000))
    assert drawn.std() == pytest.approx(deviation, rel=0.1)


def test_without_noise_the_start_decays_exactly():
    drawn = activations(1, 1001, dt_ms=0.5, tau_ms=7e5, sigma=0.0)[:, 0, 0]
    np.testing.assert_allclose(drawn, np.exp(-np.arange(1001) * 0.5 / 7e5), rtol=1e-12)


def test_trials_and_odors_are_independent():
    # 40 trials of 2 odors: 80 processes, 3,160 correlations over 4,000 correlation times.
    drawn = activations(40, 4000, dt_ms=10.0, tau_ms=10.0, sigma=1.0).reshape(4000, 80)
    correlation = np.corrcoef(drawn.T)[np.triu_indices(80, k=1)]
    # Two processes of correlation c(k) = e^-k: variance (1 + 2 sum c^2) / T = 1.313 / T.
    deviation = correlation / np.sqrt((1 + 2 / np.expm1(2)) / 4000)
    assert np.abs(deviation).max() < stats.norm.isf(1e-4 / len(deviation))
    assert deviation.std() == pytest.approx(1, abs=0.08)


def test_the_jump_between_two_chunks_is_like_any_other_in_each_trial():
    source = mixture_input()
    state = source.start(200, seed=0)
    chunks = []
    for _ in range(12):
        chunk = source.draw(state, 25)
        state = chunk.state
        chunks.append(source.rates_hz(chunk.activation).numpy())
    jumps = np.abs(np.diff(np.concatenate(chunks), axis=0)).sum(axis=2)
    at_boundary = jumps[24::25].ravel()
    inside = np.delete(jumps, np.arange(24, 299, 25), axis=0).ravel()
    assert len(at_boundary) == 11 * 200
    # Steps are correlated, so a thinned sample; the faulty scheme was off by a factor of 18.
    assert stats.ks_2samp(at_boundary, inside[::17]).pvalue > 1e-3
    assert at_boundary.mean() == pytest.approx(inside.mean(), rel=0.1)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    n_trials=st.integers(1, 5),
    n_odors=st.integers(1, 7),
    n_inputs=st.integers(1, 40),
    poisson=st.booleans(),
)
def test_chunks_of_any_lengths_join_to_the_very_bits_of_one_draw(
    lengths, n_trials, n_odors, n_inputs, poisson
):
    source = mixture_input(n_inputs, n_odors)
    if poisson:
        source = PoissonInput(source.patterns_hz[0], dt_ms=1.0)
    start = source.start(n_trials, seed=3)
    whole = source.draw(start, sum(lengths))
    state, chunks = start, []
    for length in lengths:
        chunks.append(source.draw(state, length))
        state = chunks[-1].state
    assert torch.equal(torch.cat([chunk.spikes for chunk in chunks]), whole.spikes)
    assert torch.equal(torch.cat([chunk.activation for chunk in chunks]), whole.activation)
    assert all(torch.equal(a, b) for a, b in zip(state, whole.state, strict=True))


def test_drawing_leaves_the_state_and_the_global_stream_alone():
    source = mixture_input()
    state = source.start(3, seed=5)
    global_before = torch.get_rng_state()
    first, again = source.draw(state, 20), source.draw(state, 20)
    assert torch.equal(first.spikes, again.spikes)
    assert torch.equal(torch.get_rng_state(), global_before)
    other = source.draw(source.start(3, seed=6), 20)
    assert not torch.equal(first.spikes, other.spikes)


@pytest.mark.parametrize("n_odors", [3, 5])
def test_a_stream_goes_on_from_a_checkpoint_bit_for_bit(n_odors):
    # Odd numbers of processes leave half of a pair of normal numbers in the generator.
    source = mixture_input(n_odors=n_odors)
    stream = InputStream(source, n_trials=3, seed=9)
    stream.draw(17)
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    resumed = InputStream(source, n_trials=3, seed=0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    expected, actual = stream.draw(30), resumed.draw(30)
    assert torch.equal(expected.spikes, actual.spikes)
    assert torch.equal(expected.activation, actual.activation)


def test_a_stream_refuses_the_state_of_another_number_of_trials():
    stream = InputStream(mixture_input(), n_trials=3, seed=0)
    saved = InputStream(mixture_input(), n_trials=4, seed=0).state_dict()
    with pytest.raises(ValueError, match=r"saved input is of \(4, 3\) .* this one of \(3, 3\)"):
        stream.load_state_dict(saved)


def test_mixtures_spike_as_often_as_the_softmax_of_the_activation_says():
    source = mixture_input(n_inputs=30)
    chunk = source.draw(source.start(40, seed=1), 500)
    # Oracle in numpy: each spike is a Bernoulli trial given the activation.
    weight = np.exp(chunk.activation.numpy() / 0.5)
    share = weight / weight.sum(axis=-1, keepdims=True)
    chance = share @ source.patterns_hz.numpy().astype(float) / 1000
    np.testing.assert_allclose(source.rates_hz(chunk.activation).numpy() / 1000, chance, rtol=1e-5)
    spikes = chunk.spikes.numpy()
    assert set(np.unique(spikes)) == {0.0, 1.0}
    surplus = (spikes - chance).sum(axis=(0, 1))
    deviation = surplus / np.sqrt((chance * (1 - chance)).sum(axis=(0, 1)))
    assert np.abs(deviation).max() < 4.5
    # The spikes follow the mixture in time: each input's spikes rise one to one with its chance.
    change = chance - chance.mean(axis=(0, 1))
    slope = (spikes * change).sum() / (change**2).sum()
    error = np.sqrt((chance * (1 - chance) * change**2).sum()) / (change**2).sum()
    assert error < 0.02
    assert abs(slope - 1) < 4.5 * error


def test_a_first_step_mixes_all_odors_equally():
    source = mixture_input()
    chunk = source.draw(source.start(2, seed=0), 1)
    assert (chunk.activation == 1.0).all()
    rates = source.rates_hz(chunk.activation)[0]
    torch.testing.assert_close(rates, source.patterns_hz.mean(dim=0).expand(2, -1))


def test_poisson_spikes_come_as_often_as_the_binomial_distribution_allows():
    rate_hz = torch.tensor([0.0, 6.0, 36.0, 250.0, 500.0])
    source = PoissonInput(rate_hz, dt_ms=2.0)
    spikes = source.draw(source.start(20, seed=2), 2000).spikes
    assert spikes.shape == (2000, 20, 5)
    chance = rate_hz.numpy() * 2.0 / 1000
    lowest, highest = stats.binom.interval(1 - 1e-6, 40_000, chance)
    counts = spikes.sum(dim=(0, 1)).numpy()
    assert (lowest <= counts).all()
    assert (counts <= highest).all()


def test_poisson_trials_may_have_rates_of_their_own():
    source = PoissonInput(torch.tensor([[0.0, 1000.0], [1000.0, 0.0]]), dt_ms=1.0)
    spikes = source.draw(source.start(2, seed=0), 4).spikes
    assert (spikes == torch.tensor([[0.0, 1.0], [1.0, 0.0]])).all()
    with pytest.raises(ValueError, match="n_trials = 3, but rate_hz holds 2 trials"):
        source.start(3, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoissonInput(torch.tensor([1500.0]), dt_ms=1.0), "rate_hz holds 1500.0"),
        (lambda: PoissonInput(torch.tensor(5.0), dt_ms=1.0), r"rate_hz has shape \(\)"),
        (lambda: mixture_input(dt_ms=10.0), "a rate must lie in 0 .. 100 Hz"),
        (lambda: mixture_input(tau_ms=0.0), "tau_ms = 0.0 is not positive"),
        (lambda: mixture_input(temperature=-1.0), "temperature = -1.0 is not positive"),
        (lambda: mixture_input(sigma=-1.0), "sigma = -1.0 is negative"),
        (
            lambda: OdorMixtureInput(torch.ones(3), OdorMixture(1.0, 1.0, 1.0), dt_ms=1.0),
            r"patterns_hz has shape \(3,\)",
        ),
    ],
)
def test_impossible_inputs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_chunks_join_on_a_gpu_too():
    source = OdorMixtureInput(
        mixture_input().patterns_hz.cuda(), OdorMixture(50.0, 2.0, 0.5), dt_ms=1.0
    )
    state = source.start(3, seed=3)
    whole = source.draw(state, 30)
    first = source.draw(state, 11)
    second = source.draw(first.state, 19)
    assert torch.equal(torch.cat([first.spikes, second.spikes]), whole.spikes)
