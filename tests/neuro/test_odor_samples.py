"""Sample k is the same trial in any process, batch, number of workers, order and length of bin."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader

import neuro
from neuro.spiking.odor_samples import OdorDataset, OdorSamples
from neuro.spiking.odor_trials import OdorLaw

LIB = Path(neuro.__file__).parents[1]
LAW = {
    "rate_at_response_1_hz": 192.0,
    "concentration": 0.5,
    "baseline_hz": 8.0,
    "trial_ms": 500,
    "duration_min_ms": 70,
    "duration_end_ms": 500,
}
N_ODORS, N_NEURONS = 5, 40


def make_samples(*, seed=7, repetitions=20, counts="bernoulli", response=None):
    if response is None:
        response = np.random.default_rng(0).random((N_ODORS, N_NEURONS))
    return OdorSamples(OdorLaw(**LAW, counts=counts), response, seed, repetitions)


def digest(counts):
    return hashlib.sha256(np.ascontiguousarray(counts, dtype=np.int64).tobytes()).hexdigest()


IN_ANOTHER_PROCESS = """
import sys
sys.path[:0] = [{lib!r}, {tests!r}]
from test_odor_samples import digest, make_samples
samples = make_samples()
for k in {ids}:
    print(k, digest(samples.counts(k, 1)))
for part in samples.split(samples.ids):
    print(*part)
"""


def test_samples_and_split_are_the_same_in_other_processes_and_in_any_order():
    samples, ids = make_samples(), [93, 4, 57, 0]
    expected = [f"{k} {digest(samples.counts(k, 1))}" for k in sorted(ids)]
    expected += [" ".join(map(str, part)) for part in samples.split(samples.ids)]
    for hash_seed, order in (("1", ids), ("2", ids[::-1])):
        script = IN_ANOTHER_PROCESS.format(
            lib=str(LIB), tests=str(Path(__file__).parent), ids=order
        )
        printed = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout.splitlines()
        by_sample = sorted(printed[:4], key=lambda line: int(line.split()[0]))
        assert by_sample + printed[4:] == expected


def test_samples_are_what_they_were_when_this_test_was_written():
    # Pins numpy's stream and the order of the draws: a change makes other data of the same seed.
    samples = make_samples()
    assert samples.duration_ms(57) == 410
    assert digest(samples.counts(57, 1))[:16] == "50c4a7d2427843db"
    assert digest(make_samples(counts="poisson").counts(57, 1))[:16] == "4a2d2ff56ef0ccd3"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # machines of one core
@pytest.mark.parametrize(("n_workers", "batch_size"), [(0, 3), (1, 7), (2, 4), (2, 20)])
def test_loader_gives_each_sample_whatever_the_workers_batches_and_order(n_workers, batch_size):
    samples = make_samples()
    dataset = OdorDataset(samples, samples.ids[20:40], dt_ms=5)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=n_workers,
        collate_fn=dataset.collate,
        generator=torch.Generator().manual_seed(n_workers),
    )
    seen = []
    for spikes, label, sample_id in loader:
        assert spikes.shape == (100, len(sample_id), N_NEURONS)
        for place, k in enumerate(sample_id.tolist()):
            np.testing.assert_array_equal(spikes[:, place].numpy(), samples.counts(k, 5))
            assert label[place] == k % N_ODORS
            seen.append(k)
    assert sorted(seen) == list(range(20, 40))
    assert seen != sorted(seen)


@pytest.mark.parametrize("counts", ["bernoulli", "poisson"])
@pytest.mark.parametrize("dt_ms", [2, 10, 500])
def test_bins_sum_the_spikes_of_one_trial(counts, dt_ms):
    samples = make_samples(counts=counts)
    fine = samples.counts(33, 1)
    coarse = fine.reshape(-1, dt_ms, N_NEURONS).sum(axis=1)
    np.testing.assert_array_equal(samples.counts(33, dt_ms), coarse)
    np.testing.assert_array_equal(samples.batch([2, 33], dt_ms)[:, 1].numpy(), coarse)
    assert samples.batch([33], dt_ms).dtype == torch.float32
    np.testing.assert_array_equal(samples.total_counts([33, 2])[0], fine.sum(axis=0))
    assert fine.max() == 1 or counts == "poisson"


def test_spikes_are_ordered_and_come_once_a_step():
    time_ms, neuron = make_samples().spikes(12)
    cells = time_ms * N_NEURONS + neuron
    assert (np.diff(cells) > 0).all()
    assert time_ms.min() >= 0 and time_ms.max() < 500


def test_seed_and_number_make_a_sample_and_nothing_else_does():
    spikes = digest(make_samples().counts(57, 1))
    assert digest(make_samples(repetitions=500).counts(57, 1)) == spikes
    assert digest(make_samples(seed=8).counts(57, 1)) != spikes
    assert digest(make_samples().counts(57 + N_ODORS, 1)) != spikes
    assert make_samples().label([57, 3]).tolist() == [2, 3]
    assert make_samples().repetition([57, 3]).tolist() == [11, 0]


def test_rates_are_those_of_the_law_with_8_hz_after_the_odor():
    # p = (max(0, response * 192 * 0.5) + 8) * 1e-3 a ms; by hand, a row a neuron.
    response = np.repeat([[0.0, 0.25, 1.0, -0.5]], 50, axis=1)
    p_on = np.repeat([0.008, 0.032, 0.104, 0.008], 50)
    samples = make_samples(response=response, repetitions=400)
    during, after = np.zeros(200), np.zeros(200)
    steps_during = steps_after = 0
    for k in samples.ids:
        duration_ms, counts = samples.duration_ms(k), samples.counts(k, 1)
        during += counts[:duration_ms].sum(axis=0)
        after += counts[duration_ms:].sum(axis=0)
        steps_during, steps_after = steps_during + duration_ms, steps_after + 500 - duration_ms
    for spikes, steps, p in ((during, steps_during, p_on), (after, steps_after, 0.008)):
        z = (spikes - steps * p) / np.sqrt(steps * p * (1 - p))
        assert np.abs(z).max() < 4.5
        assert (z**2).sum() < stats.chi2.ppf(0.9999, z.size)


def test_steps_of_a_neuron_are_independent_and_so_are_neurons():
    samples = make_samples(response=np.full((1, 2000), 0.5), repetitions=5)
    for k in samples.ids:
        on = samples.counts(k, 1)[: samples.duration_ms(k)].astype(float)
        on -= on.mean()
        for one, other in ((on[1:], on[:-1]), (on[:, 1:], on[:, :-1])):
            correlation = (one * other).mean() / on.var()
            assert abs(correlation) * np.sqrt(one.size) < 4.5


def test_durations_are_whole_ms_from_70_to_below_500_uniformly():
    samples = make_samples(repetitions=4000)
    drawn = np.array([samples.duration_ms(k) for k in samples.ids])
    assert (drawn.min(), drawn.max()) == (70, 499)
    share = np.histogram(drawn, bins=43, range=(70, 500))[0]
    assert stats.chisquare(share).pvalue > 1e-4


def test_every_odor_has_seven_two_and_one_of_ten_repetitions_in_the_sets():
    samples = make_samples()
    parts = samples.split(samples.ids)
    assert sorted(np.concatenate(parts)) == list(samples.ids)
    for part, size in zip(parts, (7, 2, 1), strict=True):
        for repetitions in (part[part < 50], part[part >= 50]):
            assert (np.bincount(samples.label(repetitions), minlength=N_ODORS) == size).all()


def test_split_orders_repetitions_by_the_hash_of_odor_and_repetition():
    samples = make_samples()
    train, validation, test = samples.split(samples.ids)
    for odor in range(N_ODORS):
        ranked = sorted(
            range(10, 20), key=lambda r: hashlib.sha256(f"{odor}/{r}".encode()).hexdigest()
        )
        ids = [odor + N_ODORS * r for r in ranked]
        assert set(ids[:7]) <= set(train)
        assert set(ids[7:9]) <= set(validation)
        assert ids[9] in test


def test_set_of_a_sample_depends_on_nothing_else():
    samples = make_samples()
    train = set(samples.split(samples.ids)[0].tolist())
    backwards = samples.split(samples.ids[::-1])[0]
    assert backwards.tolist() == sorted(train, reverse=True)
    few = [3, 57, 98, 4, 20]
    assert samples.split(few)[0].tolist() == [k for k in few if k in train]
    other = make_samples(seed=99, repetitions=35)
    assert train == {k for k in other.split(other.ids)[0].tolist() if k < len(samples)}
    assert [len(part) for part in samples.split(samples.ids, (1, 0, 3))] == [25, 0, 75]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed = -1 is not"),
        ({"seed": 2**64}, "is not a whole number from 0"),
        ({"repetitions": 0}, "repetitions = 0"),
        ({"response": np.zeros(3)}, r"response has shape \(3,\)"),
        ({"response": np.array([[np.nan, 0.0]])}, "give 0 where a response is unknown"),
        ({"response": np.array([[10.4]])}, "not below one spike a ms"),
    ],
)
def test_what_no_sample_can_be_drawn_from_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_samples(**change)


def test_wrong_bins_numbers_and_parts_are_refused():
    samples = make_samples()
    for call in (samples.counts, lambda k, dt_ms: OdorDataset(samples, [k], dt_ms=dt_ms)):
        with pytest.raises(ValueError, match="dt_ms = 7 does not divide the trial of 500 ms"):
            call(0, 7)
    for k in (-1, len(samples)):
        with pytest.raises(IndexError, match="numbered from 0 to 99"):
            samples.batch([k], 10)
    for parts in ((0, 0), (2, -1)):
        with pytest.raises(ValueError, match="whole numbers >= 0"):
            samples.split(samples.ids, parts)
