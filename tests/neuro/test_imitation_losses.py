"""Imitating a teacher's traces and spikes, against scipy's filter and finite differences."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

import neuro
from neuro.losses import choose_recorded, filtered_spike_loss, trace_loss

SHAPE = (30, 2, 5)
TIMES = {"tau_ms": 10.0, "dt_ms": 1.0}
UNITS = torch.tensor([1, 3])


def traces(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def spikes(seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(SHAPE, generator=generator) < 0.2).double()


def test_trace_loss_is_the_mean_square_over_the_units_that_count():
    mine, target = traces(0).requires_grad_(), traces(1)
    square = ((mine - target).detach().numpy()) ** 2
    assert trace_loss(mine, target).item() == pytest.approx(square.mean())
    assert trace_loss(mine, target, UNITS).item() == pytest.approx(square[:, :, [1, 3]].mean())


def test_spike_loss_is_that_of_scipy_s_filter():
    mine, target = spikes(0).requires_grad_(), spikes(1)
    a = math.exp(-1.0 / 10.0)
    filtered = lfilter([1], [1, -a], (mine - target).detach().numpy(), axis=0)
    loss = filtered_spike_loss(mine, target, UNITS, **TIMES)
    assert loss.item() == pytest.approx((filtered[:, :, [1, 3]] ** 2).mean())


def test_spike_too_many_costs_more_than_a_late_one():
    target = torch.zeros(200, 1, 1)
    target[20] = 1
    late, twice = torch.zeros_like(target), target.clone()
    late[21] = 1
    twice[21] = 1
    with torch.no_grad():
        loss_late = filtered_spike_loss(late, target, **TIMES)
        loss_twice = filtered_spike_loss(twice, target, **TIMES)
    a = math.exp(-0.1)
    assert loss_twice.item() == pytest.approx(1 / (1 - a**2) / 200, rel=1e-5)
    assert loss_late < loss_twice / 2


def losses(units):
    return {
        "trace": lambda s, t: trace_loss(s, t, units),
        "spikes": lambda s, t: filtered_spike_loss(s, t, units, **TIMES),
    }


@pytest.mark.parametrize("name", ["trace", "spikes"])
def test_gradient_is_that_of_finite_differences_and_zero_off_the_chosen_units(name):
    loss, mine, target = losses(UNITS)[name], traces(0).requires_grad_(), traces(1)
    assert torch.autograd.gradcheck(lambda s: loss(s, target), (mine,))
    loss(mine, target).backward()
    untouched = mine.grad[:, :, [0, 2, 4]]
    assert (untouched == 0).all()
    assert (mine.grad[:, :, UNITS] != 0).all()


@pytest.mark.parametrize("name", ["trace", "spikes"])
def test_no_gradient_reaches_the_teacher_and_none_is_left_at_a_perfect_copy(name):
    loss = losses(None)[name]
    mine, target = traces(0).requires_grad_(), traces(1).requires_grad_()
    loss(mine, target).backward()
    assert target.grad is None
    copy = traces(1).requires_grad_()
    loss(copy, target).backward()
    assert (copy.grad == 0).all()


@pytest.mark.parametrize("name", ["trace", "spikes"])
def test_loss_that_would_train_nothing_is_refused(name):
    loss = losses(None)[name]
    with pytest.raises(ValueError, match="would train nothing"):
        loss(traces(0), traces(1))
    with torch.no_grad():
        assert loss(traces(0), traces(1)) > 0
    with pytest.raises(ValueError, match="teacher has shape"):
        loss(traces(0).requires_grad_(), traces(1)[:, :1])


def test_fraction_of_the_units_is_chosen_by_the_seed_and_larger_ones_hold_smaller_ones():
    candidates = list(range(100, 200))
    tenth = choose_recorded(candidates, 0.1, seed=3)
    assert len(tenth) == 10 and set(tenth.tolist()) <= set(candidates)
    assert tenth.tolist() == sorted(set(tenth.tolist()))
    assert set(tenth.tolist()) < set(choose_recorded(candidates, 0.4, seed=3).tolist())
    assert tenth.tolist() != choose_recorded(candidates, 0.1, seed=4).tolist()
    assert choose_recorded(candidates[::-1], 0.1, seed=3).tolist() == tenth.tolist()
    assert choose_recorded(candidates, 1.0, seed=3).tolist() == candidates
    assert len(choose_recorded([5, 6, 7], 0.01, seed=0)) == 1


def test_another_process_chooses_the_same_units():
    script = (
        f"import sys; sys.path.insert(0, {str(Path(neuro.__file__).parents[1])!r})\n"
        "from neuro.losses import choose_recorded\n"
        "print(choose_recorded(range(50), 0.2, seed=11).tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100
    ).stdout
    assert printed.strip() == str(choose_recorded(range(50), 0.2, seed=11).tolist())


@pytest.mark.parametrize(("units", "fraction"), [([], 0.5), ([1, 2], 0.0), ([1, 2], 1.1)])
def test_no_units_and_fractions_out_of_range_are_refused(units, fraction):
    with pytest.raises(ValueError, match="cannot choose a fraction"):
        choose_recorded(units, fraction, seed=0)


def test_chosen_units_are_spread_over_the_candidates():
    share = np.mean([choose_recorded(range(20), 0.25, seed=s).numpy() for s in range(200)])
    # Uniform: mean 9.5, standard error of 1,000 draws about 0.18.
    assert share == pytest.approx(9.5, abs=0.8)
