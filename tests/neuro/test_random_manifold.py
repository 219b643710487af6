"""Random manifolds: one spike an input, smooth, of known law, and the same in any process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import CHECKOUT
from scipy.stats import norm

from neuro.spiking.random_manifold import ManifoldLaw, RandomManifolds

LAW = ManifoldLaw(n_classes=4, n_dimensions=2, smoothness=1.5, n_modes=6, duration_ms=100.0)


@pytest.fixture
def task():
    return RandomManifolds(LAW, n_inputs=10, seed=3)


def test_every_input_spikes_once_at_its_time(task):
    spikes = task.batch(range(12), dt_ms=2.0, n_steps=60)
    assert spikes.shape == (60, 12, 10)
    assert torch.equal(spikes.sum(dim=0), torch.ones(12, 10))
    step = spikes.argmax(dim=0).numpy()
    np.testing.assert_array_equal(step, np.floor(task.spike_times_ms(range(12)) / 2.0))
    assert not spikes[50:].any()


def test_times_follow_the_stated_equation_written_out_as_a_loop(task):
    # The docstring's equation by plain loops, from the class's drawn amplitudes and phases.
    law, points = LAW, task.points([5, 6])
    for row, sample in enumerate([5, 6]):
        for unit in range(3):
            product = 1.0
            for d in range(law.n_dimensions):
                raw = task._amplitude[sample % 4, unit, d]
                total = 0.0
                for k in range(law.n_modes):
                    angle = (k + 1) * points[row, d] + task._phase[sample % 4, unit, d, k]
                    total += raw[k] * np.sin(2 * np.pi * angle)
                product *= total
            expected = norm.cdf(product) * law.duration_ms
            assert task.spike_times_ms([sample])[0, unit] == pytest.approx(expected)


def test_what_phi_is_taken_of_has_mean_zero_and_variance_one_over_the_cube():
    law = ManifoldLaw(3, 1, 1.0, 5, 100.0)
    task = RandomManifolds(law, n_inputs=6, seed=1)
    # A grid of more points than twice the modes integrates products of the sine waves exactly.
    points = (np.arange(64) / 64)[:, None]
    for label in range(3):
        times = task.times_at_ms(points, np.full(64, label))
        waves = norm.ppf(times / law.duration_ms)
        np.testing.assert_allclose(waves.mean(axis=0), 0, atol=1e-9)
        np.testing.assert_allclose((waves**2).mean(axis=0), 1, rtol=1e-9)


def test_a_larger_exponent_makes_smoother_manifolds():
    steps = []
    for smoothness in (0.0, 1.0, 3.0):
        law = ManifoldLaw(2, 1, smoothness, 20, 100.0)
        task = RandomManifolds(law, n_inputs=30, seed=0)
        times = task.times_at_ms(np.linspace(0, 1, 400)[:, None], np.zeros(400, dtype=int))
        steps.append(np.abs(np.diff(times, axis=0)).mean())
    assert steps[0] > 2 * steps[1] > 3 * steps[2]


def test_a_class_has_a_manifold_of_its_own(task):
    points = task.points([8])
    times = [task.times_at_ms(points, np.array([label])) for label in range(4)]
    assert len({one.tobytes() for one in times}) == 4
    np.testing.assert_array_equal(task.labels([0, 1, 5, 7]), [0, 1, 1, 3])


def test_a_sample_is_the_same_in_any_order_and_batch(task):
    whole = task.batch(range(20), dt_ms=1.0, n_steps=100)
    turned = task.batch(range(19, -1, -1), dt_ms=1.0, n_steps=100)
    assert torch.equal(whole, turned.flip(1))
    assert torch.equal(whole[:, 7:9], task.batch([7, 8], dt_ms=1.0, n_steps=100))
    assert not torch.equal(whole[:, 0], whole[:, 4])


def test_another_seed_makes_another_task(task):
    other = RandomManifolds(LAW, n_inputs=10, seed=4)
    assert not np.allclose(task.spike_times_ms([0]), other.spike_times_ms([0]))
    assert not np.allclose(task.points([0]), other.points([0]))


def test_a_sample_is_the_same_in_another_process(task):
    code = (
        "from neuro.spiking.random_manifold import ManifoldLaw, RandomManifolds\n"
        f"task = RandomManifolds({LAW!r}, n_inputs=10, seed=3)\n"
        "print(task.spike_times_ms([17])[0].tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(CHECKOUT / "lib"), "PYTHONHASHSEED": "11", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == task.spike_times_ms([17])[0].tobytes().hex()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_classes": 0}, "n_classes = 0"),
        ({"duration_ms": 0.0}, "duration_ms = 0.0"),
        ({"smoothness": -1.0}, "smoothness = -1.0"),
    ],
)
def test_impossible_laws_are_refused(changed, message):
    values = {
        **{"n_classes": 2, "n_dimensions": 1, "smoothness": 1.0},
        **{"n_modes": 3, "duration_ms": 50.0},
    }
    with pytest.raises(ValueError, match=message):
        ManifoldLaw(**values | changed)


def test_too_few_steps_and_no_inputs_are_refused(task):
    with pytest.raises(ValueError, match="end before"):
        task.batch([0], dt_ms=1.0, n_steps=99)
    with pytest.raises(ValueError, match="n_inputs = 0"):
        RandomManifolds(LAW, n_inputs=0, seed=0)
