"""Projections: what they compute, what training may change."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projections import (
    N_CHANNELS,
    N_POST,
    N_PRE,
    POST_TYPE,
    PRE_TYPE,
    SIGNS,
    TRANSMITTER,
    dense,
    magnitudes,
    make,
    random_edges,
    seeded,
    sparse,
)

from neuro.spiking.projection import SCOPES
from neuro.spiking.scaling import Labels, ScalingFactors

SCALED = ("type_pairs", "pre_types", "post_types", "transmitters")


def as_matrices(projection):
    """What each delay's synapses do to single spikes: (P, C * N) by delay."""
    single = torch.eye(projection.n_pre, dtype=torch.float64)
    return {one.delay: one.propagate(single) for one in projection.synapses(None)}


def by_hand(pre, post, weights, channel_of_pre, delays):
    """The same by one assignment an edge."""
    matrices = {int(d): np.zeros((N_PRE, N_CHANNELS * N_POST)) for d in delays}
    for i, j, weight, delay in zip(pre, post, weights, delays, strict=True):
        matrices[int(delay)][i, channel_of_pre[i] * N_POST + j] = weight
    return matrices


# What a projection computes


@settings(max_examples=30, deadline=None)
@given(n_edges=st.integers(1, N_PRE * N_POST), seed=st.integers(0, 10**6))
def test_each_edge_acts_on_the_channel_of_its_source_after_its_own_delay(n_edges, seed):
    rng = np.random.default_rng(seed)
    delays = rng.integers(1, 5, n_edges)
    channel_of_pre = rng.integers(0, N_CHANNELS, N_PRE)
    pre, post = (one.numpy() for one in random_edges(n_edges, seed=seed))
    weights = rng.normal(size=n_edges)
    made = make(
        weights=weights,
        edges=(pre, post),
        n_channels=N_CHANNELS,
        channel_of_pre=torch.from_numpy(channel_of_pre),
        delay_steps=torch.from_numpy(delays),
    )
    expected = by_hand(pre, post, weights, channel_of_pre, delays)
    found = as_matrices(made)
    assert made.delays == tuple(sorted(expected)) == tuple(found)
    for delay, matrix in expected.items():
        assert np.array_equal(found[delay].numpy(), matrix)
    assert np.array_equal(made.effective_weights().numpy(), weights)


def test_dense_weights_act_on_the_channel_of_their_source():
    weights = magnitudes(N_PRE, N_POST)
    channel_of_pre = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    made = make(weights=weights, n_channels=2, channel_of_pre=channel_of_pre, delay_steps=3)
    pre, post = np.divmod(np.arange(N_PRE * N_POST), N_POST)
    expected = by_hand(pre, post, weights.flatten().numpy(), channel_of_pre, [3] * len(pre))
    assert np.array_equal(as_matrices(made)[3].numpy(), expected[3])
    assert torch.equal(made.effective_weights(), weights)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("signs", [None, SIGNS])
@pytest.mark.parametrize("parametrization", ["log", "softplus"])
@pytest.mark.parametrize("build", [dense, sparse])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_projection_starts_with_the_weights_it_was_given(
    scope, signs, parametrization, build, dtype
):
    options = {"signs": signs, "parametrization": parametrization, "dtype": dtype}
    given_weights = build(trainable="frozen", dtype=dtype).effective_weights()
    made = build(trainable=scope, **options)
    tolerance = 8 * torch.finfo(dtype).eps
    assert made.effective_weights().dtype == dtype
    torch.testing.assert_close(
        made.effective_weights(), given_weights, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("parametrization", ["log", "softplus"])
@pytest.mark.parametrize("value", [1e-30, 1e-6, 1.0, 30.0, 1e4])
def test_magnitudes_of_all_sizes_survive_the_reparametrization(parametrization, value):
    made = make(
        weights=torch.full((N_PRE, N_POST), -value, dtype=torch.float64),
        signs=-1,
        trainable="synapses",
        parametrization=parametrization,
    )
    assert made.effective_weights().detach().numpy() == pytest.approx(-value, rel=1e-10)


def test_edges_are_the_same_objects_in_every_call():
    # Backends may keep what they derive from edges; it must not be derived in every sequence.
    made = sparse(delay_steps=torch.arange(20) % 3)
    first, second = made.synapses(None), made.synapses(None)
    assert [one.edges for one in first] == [one.edges for one in second]


def test_edges_follow_a_projection_to_another_device():
    moved = sparse(delay_steps=torch.arange(20) % 3)
    moved.synapses(None)
    moved = moved.to("meta")
    for one in moved.synapses(None):
        assert {one.edges.pre.device.type, one.weights.device.type} == {"meta"}


def test_a_copy_learns_on_its_own():
    made = sparse(trainable="synapses", signs=SIGNS)
    copied = copy.deepcopy(made)
    with torch.no_grad():
        copied.raw_weight.add_(1)
    assert not torch.equal(copied.effective_weights(), made.effective_weights())
    assert torch.equal(copied.synapses(None)[0].edges.pre, made.synapses(None)[0].edges.pre)


def test_no_edges_mean_no_input():
    nothing = torch.zeros(0, dtype=torch.int64)
    for scope, delay_steps in itertools.product(SCOPES, (2, nothing)):
        made = make(
            weights=torch.zeros(0),
            edges=(nothing, nothing),
            trainable=scope,
            delay_steps=delay_steps,
        )
        (synapses,) = made.synapses(None)
        assert synapses.propagate(torch.ones(3, N_PRE)).eq(0).all()


# What training may change


@pytest.mark.parametrize(
    ("scope", "shapes"),
    [
        ("frozen", {}),
        ("synapses", {"raw_weight": (20,)}),
        ("type_pairs", {"scaling.log_factors": (3, 2)}),
        ("pre_types", {"scaling.log_factors": (3,)}),
        ("post_types", {"scaling.log_factors": (2,)}),
        ("transmitters", {"scaling.log_factors": (3,)}),
    ],
)
def test_a_scope_trains_what_it_says_and_nothing_else(scope, shapes):
    made = sparse(trainable=scope, signs=SIGNS)
    assert {name: tuple(one.shape) for name, one in made.named_parameters()} == shapes


def group_of(scope, i, j):
    groups = {
        "type_pairs": (PRE_TYPE.ids[i], POST_TYPE.ids[j]),
        "pre_types": (PRE_TYPE.ids[i],),
        "post_types": (POST_TYPE.ids[j],),
        "transmitters": (TRANSMITTER.ids[i],),
    }
    return tuple(int(one) for one in groups[scope])


@pytest.mark.parametrize("scope", SCALED)
@pytest.mark.parametrize("build", [dense, sparse])
def test_factors_multiply_the_weights_of_their_group(scope, build):
    fixed = build().effective_weights()
    shape = tuple(build(trainable=scope).scaling_factors.shape)
    factors = magnitudes(*shape, seed=7)
    made = build(trainable=scope, factors=factors)
    pre, post = random_edges(20) if build is sparse else np.divmod(np.arange(35), N_POST)
    expected = [
        float(weight) * float(factors[group_of(scope, int(i), int(j))])
        for i, j, weight in zip(pre, post, fixed.flatten(), strict=True)
    ]
    found = made.effective_weights().detach().flatten().numpy()
    assert found == pytest.approx(np.array(expected), rel=1e-12)
    torch.testing.assert_close(made.scaling_factors, factors)


@pytest.mark.parametrize("scope", SCALED)
@pytest.mark.parametrize("build", [dense, sparse])
def test_gradient_of_a_log_factor_is_the_sum_over_its_synapses(scope, build):
    made = build(trainable=scope, delay_steps=2)
    upstream = torch.randn(made.effective_weights().shape, generator=seeded(3), dtype=torch.float64)
    (made.effective_weights() * upstream).sum().backward()
    pre, post = random_edges(20) if build is sparse else np.divmod(np.arange(35), N_POST)
    expected = np.zeros(made.scaling_factors.shape)
    parts = (upstream * build().effective_weights()).flatten()
    for i, j, part in zip(pre, post, parts, strict=True):
        expected[group_of(scope, int(i), int(j))] += float(part)
    assert made.scaling.log_factors.grad.numpy() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_weights_of_synapses_without_signs_are_the_parameter_itself():
    made = dense(trainable="synapses")
    assert torch.equal(made.weight, made.effective_weights())
    assert [name for name, _ in made.named_parameters()] == ["weight"]


OPTIMIZERS = {
    "SGD": lambda given, rate: torch.optim.SGD(given, lr=rate, momentum=0.9),
    "Adam": lambda given, rate: torch.optim.Adam(given, lr=rate),
    "RMSprop": lambda given, rate: torch.optim.RMSprop(given, lr=rate),
}


def steps_of_noise(made, optimizer, rate, seed):
    """Weights after each of ten steps along gradients of any size and sign."""
    parameters = list(made.parameters())
    step, generator = OPTIMIZERS[optimizer](parameters, rate), seeded(seed)
    for _ in range(10):
        for one in parameters:
            one.grad = 100 * torch.randn(one.shape, generator=generator, dtype=one.dtype)
        step.step()
        yield made.effective_weights().detach()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parametrization", ["log", "softplus"])
@settings(max_examples=10, deadline=None)
@given(
    rate=st.sampled_from([1e-2, 1.0, 1e3]),
    seed=st.integers(0, 1000),
    build=st.sampled_from([dense, sparse]),
    scope=st.sampled_from([one for one in SCOPES if one != "frozen"]),
)
def test_no_step_of_an_optimizer_flips_a_sign(optimizer, parametrization, rate, seed, build, scope):
    made = build(trainable=scope, signs=SIGNS, parametrization=parametrization)
    sign = build().effective_weights().sign()
    # Zero is allowed: exp(-1000) is no number of float64. Not a number is not.
    for weights in steps_of_noise(made, optimizer, rate, seed):
        assert (weights * sign >= 0).all()


def test_weights_without_signs_do_flip_in_such_steps():
    made = sparse(trainable="synapses")
    sign = made.effective_weights().sign()
    assert any((weights * sign < 0).any() for weights in steps_of_noise(made, "SGD", 1.0, seed=0))


def test_factors_of_a_million_synapses_get_their_gradient_in_full():
    # In float32, adding 0.1 one by one loses 1e-3 of the sum of a million.
    n_edges = 10**6
    units = torch.zeros(n_edges, dtype=torch.int64)
    one_kind = Labels(torch.zeros(1, dtype=torch.int64), ("all",))
    scaling = ScalingFactors(
        one_kind, None, size=(1, 1), edges=(units, units), initial=torch.tensor(1.0)
    )
    (0.1 * scaling()).sum().backward()
    assert scaling.log_factors.grad.item() == pytest.approx(0.1 * n_edges, rel=1e-6)
