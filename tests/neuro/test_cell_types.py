"""Types and assemblies of cells: how many of each, and nobody is dropped."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuro.connectome.assemblies import assign_assemblies
from neuro.connectome.cell_types import Population, count_types, draw_types


def seeded(seed=0):
    return np.random.default_rng(seed)


def deal(n_cells, n_assemblies):
    """Types and assemblies of 80 % E and 20 % I."""
    assembly_ids = assign_assemblies(n_cells, n_assemblies)
    population = Population(n_cells, ["E", "I"], [0.8, 0.2])
    return draw_types(population, generator=seeded(), assembly_ids=assembly_ids), assembly_ids


@given(
    st.integers(0, 500),
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6).map(lambda w: np.array(w) / sum(w)),
)
def test_counts_of_types_add_up_and_are_less_than_one_off(n_cells, proportions):
    counts = count_types(n_cells, proportions)
    assert counts.sum() == n_cells
    assert np.abs(counts - proportions * n_cells).max() < 1 + 1e-5
    assert counts.min() >= 0


def test_exact_shares_are_met_despite_rounding_errors():
    assert count_types(100, (0.29, 0.71)).tolist() == [29, 71]
    assert count_types(5000, (0.8, 0.2)).tolist() == [4000, 1000]


def test_every_assembly_holds_the_same_types_in_random_order():
    types, assembly_ids = deal(n_cells=200, n_assemblies=4)
    by_assembly = types.reshape(4, 50)
    assert by_assembly.sum(axis=1).tolist() == [10, 10, 10, 10]
    assert len({tuple(row) for row in by_assembly.tolist()}) == 4
    np.testing.assert_array_equal(assembly_ids, np.repeat(np.arange(4), 50))


def test_cells_without_assembly_get_minus_one_a_type_and_are_counted_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        types, assembly_ids = deal(n_cells=209, n_assemblies=4)
    # 209 = 4 * 52 + 1
    assert (assembly_ids == -1).nonzero()[0].tolist() == [208]
    assert set(types.tolist()) == {0, 1}
    assert "1 of 209 cells belong to no assembly" in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_cells": 0}, "n_cells = 0 is not a positive"),
        ({"names": ["E", "E"]}, "each once"),
        ({"proportions": [1.0]}, "one share for each of"),
        ({"proportions": [0.8, 0.3]}, "sum to 1"),
        ({"proportions": [1.2, -0.2]}, "must be >= 0"),
    ],
)
def test_impossible_populations_are_refused(changed, message):
    table = {"n_cells": 10, "names": ["E", "I"], "proportions": [0.8, 0.2]} | changed
    with pytest.raises(ValueError, match=message):
        Population(**table)


def test_impossible_numbers_of_assemblies_are_refused():
    for n_assemblies in (0, 11):
        with pytest.raises(ValueError, match=f"n_assemblies = {n_assemblies} must lie in 1 .. 10"):
            assign_assemblies(10, n_assemblies)
    with pytest.raises(ValueError, match="assembly_ids has 3 entries for n_cells = 10"):
        draw_types(
            Population(10, ["E"], [1.0]),
            generator=seeded(),
            assembly_ids=np.zeros(3, dtype=np.int64),
        )
