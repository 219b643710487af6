"""Graphs of synthetic connectomes: how many edges there are, and which."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neuro.connectome import graph_laws
from neuro.connectome.assemblies import (
    AssemblyWiring,
    FeedforwardWiring,
    assign_assemblies,
    draw_feedforward,
    draw_recurrent,
)
from neuro.connectome.cell_types import Population, draw_types
from neuro.connectome.graph_laws import configuration, erdos_renyi

WITHIN = ((0.2, 0.3), (0.4, 0.1))
BETWEEN = ((0.05, 0.06), (0.07, 0.08))


def seeded(seed=0):
    return np.random.default_rng(seed)


def cells(n_cells=203, n_assemblies=4):
    """Types and assemblies of 80 % E and 20 % I."""
    assembly_ids = assign_assemblies(n_cells, n_assemblies)
    population = Population(n_cells, ["E", "I"], [0.8, 0.2])
    types = draw_types(population, generator=seeded(1), assembly_ids=assembly_ids)
    return types, assembly_ids


def adjacency(pairs, n_pre, n_post):
    """Count how often each pair occurs."""
    matrix = np.zeros((n_pre, n_post), dtype=int)
    np.add.at(matrix, (pairs.pre, pairs.post), 1)
    return matrix


def blocks(matrix, types, assembly_ids):
    """Every block of two groups, with the probability it should have."""
    groups = sorted(set(zip(assembly_ids.tolist(), types.tolist(), strict=True)))
    for (a, s), (b, t) in itertools.product(groups, repeat=2):
        pre = (assembly_ids == a) & (types == s)
        post = (assembly_ids == b) & (types == t)
        probability = WITHIN[s][t] if a == b != -1 else BETWEEN[s][t]
        yield matrix[np.ix_(pre, post)], probability, (a, s) == (b, t)


@settings(max_examples=150, deadline=None)
@given(
    n_pre=st.integers(1, 25),
    n_post=st.integers(1, 25),
    probability=st.floats(0, 1),
    within=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_configuration_gives_the_exact_number_of_edges_and_even_degrees(
    n_pre, n_post, probability, within, seed
):
    n_post = n_pre if within else n_post
    n_edges = round(probability * n_pre * n_post)
    n_pairs = n_pre * (n_post - within)
    if n_edges > n_pairs:
        n_edges, probability = 0, 0.0
    pairs = configuration(n_pre, n_post, probability, within=within, generator=seeded(seed))
    matrix = adjacency(pairs, n_pre, n_post)
    assert matrix.sum() == len(pairs.pre) == n_edges
    assert matrix.max(initial=0) <= 1
    for axis in (0, 1):
        degrees = matrix.sum(axis=axis)
        assert degrees.max() - degrees.min() <= 1
    if within:
        assert not matrix.diagonal().any()


def test_configuration_joins_all_pairs_when_asked_to():
    pairs = configuration(6, 9, 1.0, within=False, generator=seeded())
    assert (adjacency(pairs, 6, 9) == 1).all()


def test_configuration_has_no_favorite_pairs():
    # By symmetry every pair off the diagonal is as likely as any other: 12 of 30 a draw.
    total = np.zeros((6, 6))
    n_draws = 4000
    generator = seeded(2)
    for _ in range(n_draws):
        total += adjacency(configuration(6, 6, 1 / 3, within=True, generator=generator), 6, 6)
    counts = total[~np.eye(6, dtype=bool)]
    deviation = (counts - n_draws * 0.4) / np.sqrt(n_draws * 0.4 * 0.6)
    assert np.abs(deviation).max() < 4.5


def test_configuration_matches_stubs_at_random():
    # 60 edges from 20 to 30 cells: every target has 2 sources, so that 30 pairs of sources are
    # drawn out of 190. Stubs matched in turn would give 10 pairs, each 3 times.
    generator = seeded(4)
    n_distinct = []
    for _ in range(100):
        matrix = adjacency(configuration(20, 30, 0.1, within=False, generator=generator), 20, 30)
        n_distinct.append(np.count_nonzero(np.triu(matrix @ matrix.T, k=1)))
    assert np.mean(n_distinct) == pytest.approx(190 * (1 - (189 / 190) ** 30), abs=1)


def test_configuration_refuses_more_edges_than_pairs():
    with pytest.raises(ValueError, match="100 edges from 10 to 10 cells, but .* there are 90"):
        configuration(10, 10, 1.0, within=True, generator=seeded())


def test_configuration_shuffles_again_where_swaps_cannot_help():
    # Two edges among two cells: the only graph without self-loops is there and back, and half of
    # all shuffles give two self-loops instead, which have no good edge to swap with.
    for seed in range(10):
        pairs = configuration(2, 2, 0.5, within=True, generator=seeded(seed))
        assert set(zip(pairs.pre.tolist(), pairs.post.tolist(), strict=True)) == {(0, 1), (1, 0)}


def test_a_graph_that_cannot_be_mended_ends_in_a_clear_error(monkeypatch):
    monkeypatch.setattr(graph_laws, "_match_stubs", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match="no graph of 20 edges from 10 to 10 .* 100 shuffles"):
        configuration(10, 10, 0.2, within=False, generator=seeded())


@pytest.mark.parametrize("within", [False, True])
def test_erdos_renyi_edges_are_as_many_and_as_spread_as_the_binomial_says(within):
    n_draws, n_cells, probability = 300, 40, 0.15
    generator = seeded(3)
    draws = [
        adjacency(
            erdos_renyi(n_cells, n_cells, probability, within=within, generator=generator),
            n_cells,
            n_cells,
        )
        for _ in range(n_draws)
    ]
    total = np.sum(draws, axis=0)
    possible = ~np.eye(n_cells, dtype=bool) if within else np.ones((n_cells, n_cells), dtype=bool)
    assert max(draw.max() for draw in draws) == 1
    assert not total[~possible].any()
    # Each pair on its own, then all of a draw together, against the binomial distribution.
    expected = stats.binom.pmf(np.arange(n_draws + 1), n_draws, probability) * possible.sum()
    observed = np.bincount(total[possible], minlength=n_draws + 1)
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-4
    edges = np.array([draw.sum() for draw in draws])
    n_pairs = possible.sum()
    variance = n_pairs * probability * (1 - probability)
    chi2 = ((edges - n_pairs * probability) ** 2).sum() / variance
    assert 1e-4 < stats.chi2.cdf(chi2, n_draws) < 1 - 1e-4


def test_erdos_renyi_reaches_both_ends():
    for within, n_edges in ((False, 20), (True, 12)):
        n_post = 4 if within else 5
        full = erdos_renyi(4, n_post, 1.0, within=within, generator=seeded())
        assert adjacency(full, 4, n_post).sum() == len(full.pre) == n_edges
        assert len(erdos_renyi(4, n_post, 0.0, within=within, generator=seeded()).pre) == 0
    assert len(erdos_renyi(1, 1, 1.0, within=True, generator=seeded()).pre) == 0
    assert len(erdos_renyi(500, 500, 1e-300, within=True, generator=seeded()).pre) == 0


def test_every_block_of_a_configuration_graph_has_its_exact_number_of_edges():
    types, assembly_ids = cells()
    wiring = AssemblyWiring(4, "configuration", WITHIN, BETWEEN)
    pairs = draw_recurrent(wiring, types, assembly_ids, n_types=2, generator=seeded())
    matrix = adjacency(pairs, 203, 203)
    assert matrix.max() == 1
    assert not matrix.diagonal().any()
    for block, probability, _ in blocks(matrix, types, assembly_ids):
        assert block.sum() == round(probability * block.size)
        for axis in (0, 1):
            degrees = block.sum(axis=axis)
            assert degrees.max() - degrees.min() <= 1


def test_every_block_of_an_erdos_renyi_graph_has_the_density_of_its_types():
    types, assembly_ids = cells(n_cells=802)
    wiring = AssemblyWiring(4, "erdos-renyi", WITHIN, BETWEEN)
    pairs = draw_recurrent(wiring, types, assembly_ids, n_types=2, generator=seeded())
    matrix = adjacency(pairs, 802, 802)
    assert not matrix.diagonal().any()
    for block, probability, same in blocks(matrix, types, assembly_ids):
        n_pairs = block.size - same * len(block)
        lowest, highest = stats.binom.interval(1 - 1e-6, n_pairs, probability)
        assert lowest <= block.sum() <= highest


def test_cells_of_equal_rank_in_two_assemblies_may_be_joined():
    types, assembly_ids = np.zeros(40, dtype=np.int64), np.repeat([0, 1], 20)
    wiring = AssemblyWiring(2, "configuration", [[0.0]], [[1.0]])
    pairs = draw_recurrent(wiring, types, assembly_ids, n_types=1, generator=seeded())
    matrix = adjacency(pairs, 40, 40)
    assert (matrix[:20, 20:] == 1).all()
    assert matrix.sum() == 800


@pytest.mark.parametrize("law", ["configuration", "erdos-renyi"])
def test_edges_are_sorted_without_repeats_and_come_from_the_seed(law):
    types, assembly_ids = cells()
    wiring = AssemblyWiring(4, law, WITHIN, BETWEEN)
    first, again, other = (
        draw_recurrent(wiring, types, assembly_ids, n_types=2, generator=seeded(seed))
        for seed in (5, 5, 6)
    )
    assert (np.diff(first.pre * 203 + first.post) > 0).all()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first.post[:1000], other.post[:1000])


def test_feedforward_configuration_is_exact_and_even_for_each_type():
    types, _ = cells()
    inputs = np.zeros(61, dtype=np.int64)
    wiring = FeedforwardWiring("configuration", 0.05)
    pairs = draw_feedforward(wiring, inputs, types, n_types=(1, 2), generator=seeded())
    matrix = adjacency(pairs, 61, 203)
    assert matrix.max() == 1
    # An input may well project to the cell of its own number: they are different cells.
    assert len(pairs.pre) == sum(round(0.05 * 61 * n) for n in np.bincount(types))
    for type_id in (0, 1):
        received = matrix[:, types == type_id].sum(axis=0)
        assert received.max() - received.min() <= 1


def test_feedforward_joins_an_input_to_the_cell_of_its_number():
    wiring = FeedforwardWiring("configuration", 1.0)
    zeros = np.zeros(5, dtype=np.int64)
    pairs = draw_feedforward(wiring, zeros, zeros, n_types=(1, 1), generator=seeded())
    assert len(pairs.pre) == 25


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"law": "small-world"}, "'small-world' is none of 'erdos-renyi', 'configuration'"),
        ({"conn_within": [[0.2, 1.2], [0.4, 0.2]]}, r"conn_within holds 1.2, .* 0 .. 1"),
        ({"conn_between": [[0.2, -0.1], [0.4, 0.2]]}, r"conn_between holds -0.1, .* 0 .. 1"),
        ({"conn_within": [[0.2, float("nan")], [0.4, 0.2]]}, "conn_within holds nan"),
        ({"conn_within": [[0.2, 0.2]]}, "conn_within = .* is no table of 2 x 2"),
        ({"conn_within": [0.2, 0.2]}, "conn_within = .* is no table of 2 x 2"),
        ({"conn_within": [[0.2], [0.4, 0.2]]}, "conn_within = .* is no table of 2 x 2"),
        ({"conn_within": 1.0}, r"conn_within\[0\]\[0\]: .* asks for 1600 edges"),
    ],
)
def test_impossible_wiring_is_refused_by_the_name_of_the_key(changed, message):
    table = {
        "n_assemblies": 4,
        "law": "configuration",
        "conn_within": WITHIN,
        "conn_between": BETWEEN,
    } | changed
    types, assembly_ids = cells(n_cells=200)
    with pytest.raises(ValueError, match=message):
        draw_recurrent(AssemblyWiring(**table), types, assembly_ids, n_types=2, generator=seeded())


def test_unknown_feedforward_law_is_refused():
    with pytest.raises(ValueError, match="'random' is none of"):
        FeedforwardWiring("random", 0.05)
