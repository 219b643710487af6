"""Spike trains as events, and the file that hands them from stage to stage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuro.metrics.firing import fano_factors, firing_rates_hz, interval_cv
from neuro.metrics.trains import train_cv, train_rates_hz, train_window_counts
from neuro.spiking.spike_data import (
    OdorMixtures,
    SpikeData,
    load_spike_data,
    save_spike_data,
)
from neuro.spiking.spike_trains import SpikeTrains

# Three steps of two trials of three units, by hand.
RASTER = torch.tensor(
    [
        [[1, 0, 1], [0, 0, 0]],  # step 0: units 0 and 2 of trial 0
        [[0, 0, 0], [0, 0, 0]],  # step 1: nobody
        [[0, 1, 0], [0, 0, 1]],  # step 2: unit 1 of trial 0, unit 2 of trial 1
    ],
    dtype=torch.float32,
)


def drawn(n_steps: int, n_trials: int, n_units: int, *, seed: int, rate: float = 0.1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n_steps, n_trials, n_units, generator=generator) < rate).float()


def data(seed: int = 0) -> SpikeData:
    return SpikeData(
        input=SpikeTrains.from_dense(drawn(20, 3, 5, seed=seed)),
        output=SpikeTrains.from_dense(drawn(20, 3, 4, seed=seed + 1)),
        dt_ms=0.5,
        odors=OdorMixtures(
            patterns_hz=np.full((2, 5), 6, dtype=np.float32),
            mixture_step=np.array([0, 10]),
            mixture=np.full((2, 3, 2), 0.5, dtype=np.float32),
        ),
    )


def test_events_are_those_of_the_raster_written_by_hand():
    trains = SpikeTrains.from_dense(RASTER)
    assert trains.offsets.tolist() == [0, 2, 2, 4]
    assert trains.trial.tolist() == [0, 0, 0, 1]
    assert trains.unit.tolist() == [0, 2, 1, 2]
    assert trains.counts().tolist() == [[1, 1, 1], [0, 0, 1]]


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 6)),
    rate=st.sampled_from([0.0, 0.2, 1.0]),
    seed=st.integers(0, 100),
    picked=st.data(),
)
def test_dense_chunks_spans_and_joins_give_the_raster_back(sizes, rate, seed, picked):
    raster = drawn(*sizes, seed=seed, rate=rate)
    trains = SpikeTrains.from_dense(raster)
    first = picked.draw(st.integers(0, sizes[0]))
    last = picked.draw(st.integers(first, sizes[0]))
    assert torch.equal(trains.dense(), raster)
    assert torch.equal(trains.dense(first, last), raster[first:last])
    assert torch.equal(trains.span(first, last).dense(), raster[first:last])
    both = SpikeTrains.join([trains.span(0, first), trains.span(first)])
    assert torch.equal(both.dense(), raster)
    trial = picked.draw(st.integers(0, sizes[1] - 1))
    assert torch.equal(trains.of_trial(trial).dense()[:, 0], raster[:, trial])


def test_dense_takes_the_type_of_another_tensor():
    trains = SpikeTrains.from_dense(RASTER)
    assert trains.dense(like=torch.zeros((), dtype=torch.float64)).dtype == torch.float64


def test_statistics_of_events_are_those_of_the_raster():
    raster = drawn(200, 3, 7, seed=4)
    raster[:, :, 0] = 0
    trains = SpikeTrains.from_dense(raster)
    np.testing.assert_allclose(
        train_rates_hz(trains, dt_ms=0.5), firing_rates_hz(raster, dt_ms=0.5)
    )
    np.testing.assert_allclose(train_cv(trains), interval_cv(raster))


def test_window_counts_are_sums_of_the_raster_and_give_its_fano_factors():
    raster = drawn(103, 3, 7, seed=5)
    counts = train_window_counts(SpikeTrains.from_dense(raster), window_ms=10.0, dt_ms=0.5)
    assert counts.shape == (5, 3, 7)
    np.testing.assert_array_equal(counts, raster[:100].reshape(5, 20, 3, 7).sum(1).numpy())
    np.testing.assert_allclose(
        fano_factors(counts, window_ms=1.0, dt_ms=1.0),
        fano_factors(raster, window_ms=10.0, dt_ms=0.5),
    )
    with pytest.raises(ValueError, match="window_ms"):
        train_window_counts(SpikeTrains.from_dense(raster), window_ms=60.0, dt_ms=0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"offsets": np.array([0, 2, 2, 3])},
        {"offsets": np.array([0, 3, 2, 4])},
        {"unit": np.array([0, 3, 1, 2], dtype=np.int32)},
        {"trial": np.array([0, 0, 0, 2], dtype=np.int32)},
        {"unit": np.array([2, 0, 1, 2], dtype=np.int32)},
        {"unit": np.array([0, 0, 1, 2], dtype=np.int32)},
        {"trial": np.array([0, 0], dtype=np.int32)},
    ],
)
def test_events_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match=r"offsets|holds|sorted"):
        dataclasses.replace(SpikeTrains.from_dense(RASTER), **wrong)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (2, 1), (0, 4)])
def test_steps_that_are_not_there_are_refused(first, last):
    with pytest.raises(ValueError, match="there are 0"):
        SpikeTrains.from_dense(RASTER).dense(first, last)


def test_trains_of_other_sizes_are_not_joined():
    with pytest.raises(ValueError, match="must agree"):
        SpikeTrains.join([SpikeTrains.from_dense(RASTER), SpikeTrains.from_dense(RASTER[:, :1])])


def test_spike_data_comes_back_from_its_file(tmp_path):
    saved = data()
    save_spike_data(tmp_path / "spike_data.npz", saved)
    found = load_spike_data(tmp_path / "spike_data.npz")
    assert found.dt_ms == 0.5
    for name in ("input", "output"):
        assert torch.equal(getattr(found, name).dense(), getattr(saved, name).dense())
    for one, other in zip(found.odors, saved.odors, strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_data_give_equal_bytes(tmp_path):
    save_spike_data(tmp_path / "a.npz", data())
    save_spike_data(tmp_path / "b.npz", data())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_parts_that_do_not_fit_are_not_written(tmp_path):
    wrong = data()._replace(output=SpikeTrains.from_dense(drawn(19, 3, 4, seed=1)))
    with pytest.raises(ValueError, match="fit together"):
        save_spike_data(tmp_path / "spike_data.npz", wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_unit": None}, "lacks"),
        ({"extra": np.zeros(1)}, "extra"),
        ({"mixture": np.zeros((2, 3, 3), dtype=np.float32)}, "fit together"),
        ({"n_cells": np.int64(2)}, "holds"),
        ({"patterns_hz": np.zeros(5, dtype=np.float32)}, "axes"),
    ],
)
def test_file_that_holds_something_else_is_refused_with_a_remedy(tmp_path, change, message):
    path = tmp_path / "spike_data.npz"
    save_spike_data(path, data())
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | change
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=f"(?s){message}.*save_spike_data"):
        load_spike_data(path)


def test_damaged_and_missing_files_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="name the run"):
        load_spike_data(tmp_path / "spike_data.npz")
    (tmp_path / "spike_data.npz").write_bytes(b"PK not a file")
    with pytest.raises(ValueError, match="no spike data"):
        load_spike_data(tmp_path / "spike_data.npz")
