"""The whole-brain simulator: Brian2's spikes, whatever the mode, the engine and the machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from neuro.spiking import native
from neuro.spiking.native.compiler import compiler
from neuro.spiking.whole_brain import (
    GivenKicks,
    PoissonKicks,
    WholeBrainLIF,
    Wiring,
    simulate_whole_brain,
    wire,
)
from neuro.spiking.whole_brain_kicks import draw, mix

GOLDEN = Path(__file__).parents[1] / "golden" / "spiking" / "lif.npz"
N = 2000
MODES = ("all", "active", "auto")


def has_compiler():
    try:
        compiler()
    except native.CompilerMissing:
        return False
    return True


WAYS = [*((mode, "native") for mode in MODES), ("all", "numpy")]
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
each_way = pytest.mark.parametrize(
    ("mode", "engine"),
    [pytest.param(*way, marks=needs_compiler if way[1] == "native" else ()) for way in WAYS],
)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as stored:
        return dict(stored)


def pairs(raster):
    return np.stack([raster.steps, raster.neurons], axis=1)


def golden_edges(golden):
    pre = np.repeat(np.arange(N), np.diff(golden["offsets"]))
    return pre, golden["post"].astype(int), golden["count"] * float(golden["weight_mv"])


def chain(*weights_mv, dtype=np.float64):
    """Return neurons in a row, each with one synapse onto the next."""
    n = len(weights_mv)
    return wire(np.arange(n), np.arange(1, n + 1), np.array(weights_mv, dtype), n_neurons=n + 1)


@each_way
def test_kicked_neurons_spike_as_in_brian2(golden, mode, engine):
    wiring = wire(*golden_edges(golden), n_neurons=N)
    step, neuron = golden["kick_events"].astype(int).T
    made = simulate_whole_brain(
        wiring, GivenKicks(step, neuron), n_steps=int(golden["n_steps"]), mode=mode, engine=engine
    )
    assert made.engine == engine
    np.testing.assert_array_equal(pairs(made), golden["spikes_kicks"])


@each_way
def test_neurons_driven_by_sources_spike_as_in_brian2(golden, mode, engine):
    # A source is one more neuron, kicked in the step before it is to spike.
    pre, post, weights = golden_edges(golden)
    n_sources = len(golden["source_offsets"]) - 1
    source = N + np.repeat(np.arange(n_sources), np.diff(golden["source_offsets"]))
    wiring = wire(
        np.concatenate([pre, source]),
        np.concatenate([post, golden["source_post"]]),
        np.concatenate([weights, golden["source_count"] * float(golden["weight_mv"])]),
        n_neurons=N + n_sources,
    )
    step, which = golden["source_events"].astype(int).T
    made = simulate_whole_brain(
        wiring,
        GivenKicks(step - 1, N + which),
        n_steps=int(golden["n_steps"]),
        mode=mode,
        engine=engine,
    )
    spikes = pairs(made)
    inside = spikes[:, 1] < N
    np.testing.assert_array_equal(spikes[inside], golden["spikes"])
    assert np.count_nonzero(~inside) == len(step)


@st.composite
def networks(draw_one):
    """Draw a small network of any constants, its kicks and its model."""
    seed = draw_one(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    # More than one block of neurons, or less than one; around its edges too.
    n = draw_one(st.sampled_from([1, 7, 300, 4096, 4100, 9000]))
    n_edges = min(40 * n, 20_000)
    dtype = draw_one(st.sampled_from([np.float32, np.float64]))
    size = draw_one(st.sampled_from([0.3, 3.0, 12.0]))
    wiring = wire(
        generator.integers(0, n, n_edges),
        generator.integers(0, n, n_edges),
        generator.normal(0.3 * size, size, n_edges).astype(dtype),
        n_neurons=n,
    )
    model = WholeBrainLIF(
        v_reset_mv=draw_one(st.sampled_from([-52.0, -60.0])),
        tau_syn_ms=draw_one(st.sampled_from([5.0, 20.0, 0.2])),
        refractory_ms=generator.integers(0, 40, n) * 0.1,
        delay_ms=draw_one(st.sampled_from([0.1, 0.7, 1.8])),
        floor_mv=draw_one(st.sampled_from([None, 0.0, 0.1])),
    )
    rate_hz = draw_one(st.sampled_from([10.0, 300.0, 10_000.0]))
    kicked = generator.permutation(n)[: draw_one(st.integers(0, 200))]
    kicks = PoissonKicks(
        kicked,
        rate_hz,
        kick_mv=draw_one(st.sampled_from([68.75, 2.0])),
        seed=seed,
        refractory_ms=draw_one(st.sampled_from([0.0, None])),
    )
    return wiring, kicks, model


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(networks(), st.integers(0, 120))
def test_all_modes_and_engines_give_the_same_spikes_bit_for_bit(network, n_steps):
    wiring, kicks, model = network
    made = [
        simulate_whole_brain(wiring, kicks, n_steps=n_steps, model=model, mode=mode, engine=engine)
        for mode, engine in WAYS
    ]
    for other in made[1:]:
        np.testing.assert_array_equal(pairs(other), pairs(made[0]))
        assert other.active_fraction == made[0].active_fraction


@needs_compiler
def test_auto_updates_a_quiet_block_sparsely_and_a_busy_one_as_a_whole():
    n = 3 * 4096
    wiring = Wiring(np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0))
    # All of the first block, and two neurons of the last.
    kicks = PoissonKicks(np.concatenate([np.arange(4096), [9000, 9001]]), 300.0, kick_mv=1.0)
    made = simulate_whole_brain(wiring, kicks, n_steps=1800, mode="auto")
    # Blocks are counted 100 times; the first starts sparse, for everybody starts at rest.
    assert 0.9 / 3 < made.dense_fraction < 1 / 3
    for mode, share in (("all", 1.0), ("active", 0.0)):
        other = simulate_whole_brain(wiring, kicks, n_steps=1800, mode=mode)
        assert other.dense_fraction == share
        np.testing.assert_array_equal(pairs(other), pairs(made))


@each_way
def test_a_neuron_leaves_the_active_set_once_it_is_within_the_floor_of_rest(mode, engine):
    model = WholeBrainLIF(floor_mv=1e-3)
    made = simulate_whole_brain(
        chain(2.0),
        GivenKicks([0], [0]),
        n_steps=18 * 120,
        model=model,
        mode=mode,
        engine=engine,
    )
    assert len(made.steps) == 1

    # g = 2 mV arrives in step 1 + 18, and is felt from step 20 on:
    # v = g tau_syn / (tau_mem - tau_syn) (exp(-t / tau_mem) - exp(-t / tau_syn)).
    def v_mv(t_ms):
        return 2.0 * 5 / 15 * (np.exp(-t_ms / 20) - np.exp(-t_ms / 5))

    rests_after_ms = 1.9 + brentq(lambda t_ms: v_mv(t_ms) - 1e-3, 10, 1000)
    windows = np.arange(1, 121) * 1.8
    # The kicked neuron is away from rest for no end of a window, for its reset is rest.
    seen = np.count_nonzero((windows > 1.95) & (windows - 0.1 < rests_after_ms))
    assert made.active_fraction == pytest.approx(seen / 120 / 2, abs=1.1 / 240)


def test_the_floor_does_not_change_a_spike_of_brian2s_network(golden):
    wiring = wire(*golden_edges(golden), n_neurons=N)
    step, neuron = golden["kick_events"].astype(int).T
    made = simulate_whole_brain(
        wiring,
        GivenKicks(step, neuron),
        n_steps=int(golden["n_steps"]),
        model=WholeBrainLIF(floor_mv=0.0),
        engine="numpy",
    )
    # With the floor they are the same: see the first test.
    np.testing.assert_array_equal(pairs(made), golden["spikes_kicks"])


@each_way
def test_kicks_add_up(mode, engine):
    # 4 mV a step: the second kick meets 4 e^-0.005 mV, and both together pass the 7 mV at once.
    kicks = GivenKicks([10, 11], [0, 0], kick_mv=4.0)
    made = simulate_whole_brain(chain(0.0), kicks, n_steps=30, mode=mode, engine=engine)
    assert pairs(made).tolist() == [[12, 0]]


@pytest.mark.parametrize("tau_syn_ms", [5.0, 20.0])
@each_way
def test_spikes_come_when_the_closed_form_crosses_threshold(tau_syn_ms, mode, engine):
    weight_mv = 60.0
    made = simulate_whole_brain(
        chain(weight_mv),
        GivenKicks([3], [0]),
        n_steps=300,
        model=WholeBrainLIF(tau_syn_ms=tau_syn_ms),
        mode=mode,
        engine=engine,
    )

    def v_mv(t_ms):
        if tau_syn_ms == 20:
            return weight_mv * t_ms / 20 * np.exp(-t_ms / 20)
        rise_and_fall = np.exp(-t_ms / 20) - np.exp(-t_ms / tau_syn_ms)
        return weight_mv * tau_syn_ms / (20 - tau_syn_ms) * rise_and_fall

    crosses_ms = brentq(lambda t_ms: v_mv(t_ms) - 7, 0, 5)
    # Kicked at the end of step 3, spike in step 4, arrival at the end of step 22.
    expected = 22 + int(np.ceil(crosses_ms / 0.1))
    assert pairs(made).tolist() == [[4, 0], [expected, 1]]


@each_way
def test_a_refractory_neuron_is_deaf_and_spikes_again_at_the_earliest_after_its_time(mode, engine):
    # Kicks in every step, each enough for a spike: one spike a refractory period of 22 steps, plus
    # one step because a kick that comes with the end of the period acts in the next step.
    steps = np.arange(100)
    made = simulate_whole_brain(
        chain(0.0),
        GivenKicks(steps, np.zeros(100, int), refractory_ms=None),
        n_steps=100,
        mode=mode,
        engine=engine,
    )
    assert made.steps.tolist() == [1, 24, 47, 70, 93]


@each_way
def test_poisson_kicks_have_their_rate_and_depend_on_the_seed_alone(mode, engine):
    n, n_steps, rate_hz = 200, 1000, np.where(np.arange(200) < 100, 150.0, 40.0)
    wiring = Wiring(np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0))

    def run(seed):
        kicks = PoissonKicks(np.arange(n), rate_hz, seed=seed)
        return simulate_whole_brain(wiring, kicks, n_steps=n_steps, mode=mode, engine=engine)

    made = run(5)
    for group, rate in ((made.neurons < 100, 150.0), (made.neurons >= 100, 40.0)):
        # A kick in the very step of a spike is lost.
        p = rate * 1e-4
        expected = 100 * n_steps * p / (1 + p)
        assert abs(np.count_nonzero(group) - expected) < 4.5 * np.sqrt(expected)
    np.testing.assert_array_equal(pairs(made), pairs(run(5)))
    assert pairs(made).tolist() != pairs(run(6)).tolist()


def test_random_bits_are_those_of_splitmix64():
    # The first five outputs for seed 1234567, as published with several implementations.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert draw(1234567, 0, 6)[1:].tolist() == published
    # A step is 2^32 places further on.
    far = (1234567 + ((3 << 32) + 1) * 0x9E3779B97F4A7C15) % 2**64
    assert draw(1234567, 3, 2)[1] == mix(np.array([far], np.uint64))[0]


def test_without_a_compiler_numpy_takes_over_and_says_so(monkeypatch):
    def missing(source_name):
        msg = f"no compiler for {source_name}"
        raise native.CompilerMissing(msg)

    monkeypatch.setattr(native, "library", missing)
    with pytest.warns(RuntimeWarning, match="by numpy.*no compiler for whole_brain.cpp"):
        made = simulate_whole_brain(chain(60.0), GivenKicks([3], [0]), n_steps=100)
    assert made.engine == "numpy"
    assert len(made.steps) == 2
    with pytest.raises(native.CompilerMissing):
        simulate_whole_brain(chain(60.0), GivenKicks([3], [0]), n_steps=100, engine="native")


def test_wiring_is_sorted_by_presynaptic_neuron():
    wiring = wire([2, 0, 2, 1], [1, 2, 0, 0], np.array([1.0, 2.0, 3.0, 4.0]), n_neurons=3)
    assert wiring.offsets.tolist() == [0, 1, 2, 4]
    assert wiring.targets.tolist() == [2, 0, 1, 0]
    assert wiring.weights_mv.tolist() == [2.0, 4.0, 1.0, 3.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "some"}, "mode = 'some' is none of 'all', 'active', 'auto'"),
        ({"engine": "gpu"}, "engine = 'gpu'"),
        ({"n_steps": -1}, "n_steps = -1"),
        ({"kicks": PoissonKicks([2])}, r"kicked neurons: 2 \.\. 2 lie outside 0 \.\. 1"),
        ({"kicks": PoissonKicks([0], 20_000.0)}, r"0 \.\. 10000 Hz"),
        ({"kicks": GivenKicks([5, 6], [0])}, r"both must be \(K,\)"),
        ({"kicks": GivenKicks([50], [0])}, r"50 \.\. 50 lie outside 0 \.\. 49"),
        ({"model": WholeBrainLIF(delay_ms=0.05)}, "delay_ms = 0.05"),
        ({"model": WholeBrainLIF(delay_ms=1e6)}, "delay_ms = 1000000.0"),
        (
            {"model": WholeBrainLIF(refractory_ms=0.25), "kicks": GivenKicks([], [])},
            "refractory_ms",
        ),
    ],
)
def test_what_cannot_be_simulated_is_refused(changed, message):
    asked = {"kicks": GivenKicks([0], [0]), "n_steps": 50} | changed
    with pytest.raises(ValueError, match=message):
        simulate_whole_brain(chain(1.0), asked.pop("kicks"), **asked)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WholeBrainLIF(tau_mem_ms=0.0), "tau_mem_ms = 0.0"),
        (lambda: WholeBrainLIF(v_reset_mv=-40.0), "v_threshold_mv = -45.0 must lie above"),
        (lambda: wire([0], [2], np.ones(1), n_neurons=2), "targets: 2"),
        (lambda: wire([0], [2, 1], np.ones(1), n_neurons=2), "shapes"),
        (lambda: wire([0], [1], np.ones(1, int), n_neurons=2), "type int64"),
        (lambda: wire([0], [1], np.array([np.nan]), n_neurons=2), "not finite"),
        (
            lambda: Wiring(np.array([0, 2]), np.zeros(1, np.int32), np.ones(1)),
            "offsets must rise",
        ),
    ],
)
def test_what_is_no_model_or_wiring_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
