"""What is particular to compiled code: its kernels' sizes, memory, and what happens without it.

What all backends have in common is tested in test_simulate.py, test_neurons.py, test_gradients.py.
"""

from __future__ import annotations

import platform
import warnings
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import MODELS, conductance_model, current_model, population, trained, uniform

from neuro.spiking import event, event_call, native
from neuro.spiking.edges import Edges, make_edges
from neuro.spiking.native import compiler
from neuro.spiking.neurons import LIF
from neuro.spiking.neurons.currents import CurrentLIF, CurrentSynapse
from neuro.spiking.simulate import NotCompiledWarning, _warn_once, simulate
from neuro.spiking.surrogate import FastSigmoid, Triangle
from neuro.spiking.synapses import Synapses

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def needs_compiler(request):
    if "without" in request.node.name:
        return
    try:
        compiler.compiler()
    except native.CompilerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def forgotten():
    """What was compiled, and what was warned of, is forgotten before and after."""
    caches = (event_call.compiled, event_call.not_compiled, _warn_once)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def in_precision(made, dtype):
    """The same population in another floating type."""
    parts = ("dense", "sparse", "feedforward", "late", "source", "drive")
    return replace(made, **{name: getattr(made, name).to(dtype) for name in parts})


def outcome(made, *, backend, **options):
    """Spikes, and the gradients of a loss on spikes and potentials with respect to all."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in made.leaves()]
    names = ("dense", "sparse", "feedforward", "late", "source", "drive")
    with_grads = replace(made, **dict(zip(names, leaves, strict=True)))
    ran = with_grads.run(backend=backend, **options)
    shape, dtype = ran.spikes.shape, ran.spikes.dtype
    weight = uniform(-1, 1, *shape, seed=77).to(dtype)
    loss = (ran.spikes * weight).sum() + 0.01 * (ran.potential * weight.flip(0)).sum()
    return ran, torch.autograd.grad(loss, leaves)


def assert_as_the_loop(made, **options):
    ran, found = outcome(made, backend="event", **options)
    expected_run, expected = outcome(made, backend="loop")
    assert ran.backend == "event"
    assert torch.equal(ran.spikes, expected_run.spikes)
    assert ran.spikes.any()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other))
    return found


def tolerance(expected):
    """Of the largest entry: sums of thousands of products in another order."""
    return TOLERANCE[expected.dtype] * max(float(expected.abs().max()), 1e-6)


# Widths beside and on the sizes of vectors, tiles and blocks; trials that fill half a vector, a
# whole one, and more.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n_trials", [1, 2, 3, 8, 9, 19, 33])
@pytest.mark.parametrize("n_units", [1, 7, 16, 37])
def test_all_sizes_of_kernels_agree_with_the_loop(n_units, n_trials, dtype):
    made = population("subtract", n_units=n_units, n_trials=n_trials, n_steps=12, rate=0.6)
    assert_as_the_loop(in_precision(made, dtype))


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("conductance")])
def test_all_models_agree_with_the_loop_in_single_precision(name):
    assert_as_the_loop(in_precision(population(name, n_units=21), torch.float32))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["conductance", "conductance, refractory"])
def test_conductances_in_single_precision_are_as_far_from_double_as_the_loop(name, seed):
    # Strong conductances enlarge what is rounded: the loop itself is 1e-4 off.
    single = in_precision(population(name, n_units=21, seed=seed), torch.float32)
    exact_run, exact = outcome(in_precision(single, torch.float64), backend="loop")
    errors = {}
    for backend in ("loop", "event"):
        ran, grads = outcome(single, backend=backend)
        assert torch.equal(ran.spikes.double(), exact_run.spikes)
        errors[backend] = max(
            float((one - other).abs().max() / other.abs().max())
            for one, other in zip(grads, exact, strict=True)
        )
    assert errors["event"] < 4 * errors["loop"] + 1e-6


@pytest.mark.parametrize("n_trials", [1, 3])
@pytest.mark.parametrize("name", ["hold, synapse", "adaptive, refractory", "conductance"])
def test_populations_of_more_than_one_block_agree_with_the_loop(name, n_trials):
    # 512 units are stepped at once; 2 * 1100 inputs are more than a tile takes of a row.
    made = population(name, n_units=1100, n_trials=n_trials, n_steps=8)
    made = replace(made, dense=made.dense * 0.05, sparse=made.sparse * 0.05)
    assert_as_the_loop(made)


@pytest.mark.parametrize("chunk_bytes", [1, 2000])
@pytest.mark.parametrize("delays", [(1, 3, 2), (4, 1, 0), (9, 2, 40)])
def test_gradients_do_not_depend_on_the_chunks_that_gather_them(monkeypatch, delays, chunk_bytes):
    made = population("zero", n_steps=75, delays=delays)
    whole = assert_as_the_loop(made)
    monkeypatch.setattr(event, "CHUNK_BYTES", chunk_bytes)
    for one, other in zip(outcome(made, backend="event")[1], whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other))


def test_gradients_without_a_drive_go_round_the_ring():
    # Without a gradient of the drive only the steps that are still needed are kept.
    made = population("subtract", n_steps=200, delays=(1, 5, 2))
    grads = {}
    for backend in ("loop", "event"):
        weights = [one.clone().requires_grad_() for one in (made.dense, made.sparse)]
        ran = replace(made, dense=weights[0], sparse=weights[1]).run(backend=backend)
        grads[backend] = torch.autograd.grad(ran.spikes.sum(), weights)
    for one, other in zip(grads["event"], grads["loop"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other))


@pytest.mark.parametrize("segment_steps", [None, 7])
@pytest.mark.parametrize("refractory_ms", [0.0, 3.0])
@pytest.mark.parametrize("detach_reset", [True, False])
def test_currents_of_several_kinds_agree_with_the_loop(
    monkeypatch, detach_reset, refractory_ms, segment_steps
):
    kinds = (
        CurrentSynapse("fast", 0, 3.0, 1),
        CurrentSynapse("slow", 0, 30.0, 1),
        CurrentSynapse("inhibitory", 1, 5.0, -1),
    )

    def model(n_units):
        return CurrentLIF(
            tau_mem_ms=uniform(5, 15, n_units, seed=1),
            synapses=kinds,
            refractory_ms=refractory_ms,
            detach_reset=detach_reset,
            surrogate=FastSigmoid(2.0),
        )

    monkeypatch.setitem(MODELS, "currents", model)
    made = population("currents")
    weights = ("dense", "sparse", "feedforward", "late")
    made = replace(made, **{name: 0.3 * getattr(made, name) for name in weights})
    assert_as_the_loop(made, segment_steps=segment_steps)
    tau = made.neuron.tau_mem_ms.clone().requires_grad_()
    neuron = replace(made.neuron, tau_mem_ms=tau)
    grads = [
        torch.autograd.grad(made.run(neuron=neuron, **options).spikes.sum(), tau)[0]
        for options in ({"backend": "loop"}, {"backend": "event", "segment_steps": segment_steps})
    ]
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=tolerance(grads[0]))


def test_triangle_skips_only_units_that_pass_no_gradient():
    made = population("subtract", n_units=40, n_steps=25)
    for width in (0.05, 0.5, 100.0):
        assert_as_the_loop(replace(made, neuron=current_model(40, surrogate=Triangle(width))))


def test_delays_beyond_the_end_send_no_gradient_back():
    made = population("subtract", n_steps=4, delays=(7, 4, 3))
    _, grads = outcome(made, backend="event")
    assert_as_the_loop(made)
    assert not grads[0].any()
    assert not grads[1].any()


@pytest.mark.parametrize("segment_steps", [1, 4, 7, 29, 30])
@pytest.mark.parametrize("name", ["refractory, subtract", "adaptive", "conductance, refractory"])
def test_values_of_neurons_are_trained_through_segments(name, segment_steps):
    made = population(name)
    neuron, leaves = trained(made.neuron, made.n_units)
    grads = [
        torch.autograd.grad(made.run(neuron=neuron, **options).spikes[5:].sum(), leaves)
        for options in (
            {"backend": "loop"},
            {"backend": "event", "segment_steps": segment_steps},
        )
    ]
    for one, other in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance(other))


@pytest.mark.parametrize("name", ["exact", "adaptive", "conductance"])
def test_two_runs_are_equal_to_the_last_bit(name):
    made = in_precision(population(name, n_units=50, n_trials=5), torch.float32)
    first, second = (outcome(made, backend="event") for _ in range(2))
    assert torch.equal(first[0].potential, second[0].potential)
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_chunks_with_a_carry_are_equal_to_the_last_bit(name):
    made = in_precision(population(name, n_units=21), torch.float32)
    whole = made.run(backend="event")
    carry, parts = None, []
    for first, last in ((0, 1), (1, 3), (3, 17), (17, 30)):
        ran = made.run(first=first, last=last, carry=carry, backend="event")
        carry = ran.carry
        parts.append(ran)
    assert torch.equal(torch.cat([one.potential for one in parts]), whole.potential)
    assert torch.equal(torch.cat([one.spikes for one in parts]), whole.spikes)
    for one, other in zip(carry.state, whole.carry.state, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_memory_that_is_not_contiguous_is_understood():
    made = population("subtract")
    turned = replace(
        made,
        dense=made.dense.T.contiguous().T,
        sparse=made.sparse.repeat_interleave(2)[::2],
        source=made.source.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        drive=made.drive[:, :1].expand_as(made.drive),
    )
    straight = replace(
        turned,
        **{
            name: getattr(turned, name).contiguous()
            for name in ("dense", "sparse", "source", "drive")
        },
    )
    found, expected = (outcome(one, backend="event") for one in (turned, straight))
    assert torch.equal(found[0].potential, expected[0].potential)
    assert all(torch.equal(one, other) for one, other in zip(found[1], expected[1], strict=True))


def test_weights_changed_before_the_backward_pass_are_refused():
    made = population("subtract")
    made.dense.requires_grad_()
    loss = made.run(backend="event").spikes.sum()
    with torch.no_grad():
        made.dense.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_graph_that_is_retained_gives_the_same_gradient_again():
    made = population("conductance")
    made.dense.requires_grad_()
    loss = made.run(backend="event").spikes.sum()
    once, again = (torch.autograd.grad(loss, made.dense, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("n_trials", [1, 4])
def test_edges_of_none_and_channels_without_synapses_are_harmless(n_trials):
    n_units, n_steps = 6, 10
    neuron = conductance_model(n_units)
    none, _ = make_edges([], [], n_pre=n_units, n_post=2 * n_units)
    # Excitation alone: nothing ever reaches the second channel.
    excitation, _ = make_edges([0, 0, 1], [0, 5, 3], n_pre=3, n_post=2 * n_units)
    source = torch.ones(n_steps, n_trials, 3, dtype=torch.float64)
    grads = []
    for backend in ("loop", "event"):
        empty = torch.zeros(0, dtype=torch.float64, requires_grad=True)
        weights = torch.full((3,), 3.0, dtype=torch.float64, requires_grad=True)
        synapses = [Synapses(empty, none), Synapses(weights, excitation, source=source)]
        ran = simulate(neuron, synapses, n_units=n_units, dt_ms=1.0, backend=backend)
        grads.append(torch.autograd.grad(ran.spikes.sum(), [empty, weights]))
    assert grads[1][0].shape == (0,)
    torch.testing.assert_close(grads[1][1], grads[0][1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e300])
@pytest.mark.parametrize("name", MODELS)
def test_a_drive_without_bounds_ends_as_in_the_loop(name, value):
    made = population(name)
    made.drive[7, 1, 2] = value
    ran, expected = (made.run(backend=backend) for backend in ("event", "loop"))
    assert torch.equal(ran.spikes, expected.spikes)
    torch.testing.assert_close(
        ran.potential, expected.potential, rtol=1e-9, atol=1e-9, equal_nan=True
    )


def test_a_conductance_network_keeps_at_most_41_bytes_a_neuron_and_step():
    made = in_precision(
        population("conductance, refractory", n_units=60, n_steps=40), torch.float32
    )
    known = {leaf.untyped_storage().data_ptr() for leaf in made.leaves()}
    made.sparse.requires_grad_()
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ran = made.run(backend="event")
    assert ran.spikes.requires_grad
    per_step = (sum(kept.values())) / ran.spikes.numel()
    assert 8 <= per_step <= 41


@given(
    n_units=st.integers(1, 40),
    n_trials=st.integers(1, 18),
    n_edges=st.integers(0, 200),
    delay=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_any_sparse_connectivity_agrees_with_the_loop(n_units, n_trials, n_edges, delay, seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(n_units**2, generator=generator)[:n_edges]
    edges, _ = make_edges(pairs // n_units, pairs % n_units, n_pre=n_units, n_post=n_units)
    drive = uniform(0, 0.6, 12, n_trials, n_units, seed=seed)
    found = []
    for backend in ("loop", "event"):
        weights = uniform(-0.5, 0.5, len(pairs), seed=seed + 1).requires_grad_()
        current = drive.clone().requires_grad_()
        ran = simulate(
            LIF(tau_mem_ms=10.0, surrogate=FastSigmoid(2.0)),
            [Synapses(weights, edges, delay)],
            n_units=n_units,
            dt_ms=1.0,
            drive=current,
            backend=backend,
        )
        loss = (ran.spikes * uniform(-1, 1, *drive.shape, seed=seed + 2)).sum()
        found.append((ran.spikes, *torch.autograd.grad(loss, [weights, current])))
    assert torch.equal(found[1][0], found[0][0])
    for one, other in zip(found[1][1:], found[0][1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


# The code has a path of its own for processors with vectors of 64, 32 and 16 bytes.
@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86")
@pytest.mark.parametrize("processor", ["x86-64", "haswell"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_older_processors_agree_with_the_loop(monkeypatch, forgotten, processor, dtype):
    if processor == "haswell" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has no AVX2")
    monkeypatch.setattr(compiler, "NATIVE", f"-march={processor}")
    for name, n_trials in (("subtract", 1), ("adaptive", 3), ("hold, synapse", 19)):
        made = population(name, n_units=37, n_trials=n_trials)
        assert_as_the_loop(in_precision(made, dtype))


def test_auto_takes_compiled_code():
    assert population("zero").run(backend="auto").backend == "event"


@dataclass(frozen=True)
class Own(LIF):
    """A model that might step otherwise than its parent."""


def with_edges(**changes):
    """Edges that were not made by make_edges."""

    def change(made):
        parts = {name: getattr(made.edges, name) for name in ("pre", "post", "offsets", "n_post")}
        parts |= {name: new(parts[name]) for name, new in changes.items()}
        return replace(made, edges=Edges(**parts))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: in_precision(made, torch.bfloat16), "float32 or float64"),
        (lambda made: replace(made, neuron=Own(tau_mem_ms=10.0)), "not Own"),
        (with_edges(post=lambda post: post.flip(0)), "sorted by pre, then post"),
    ],
)
def test_what_compiled_code_cannot_run_is_refused_by_name_and_left_to_others(change, message):
    made = change(population("subtract"))
    with pytest.raises(ValueError, match=f"'event' cannot run this: .*{message}"):
        made.run(backend="event")
    assert made.run(backend="auto").backend == "sequence"


@pytest.mark.parametrize(
    "change",
    [
        with_edges(post=lambda post: post + 12),
        with_edges(post=lambda post: post - 12),
        with_edges(post=lambda post: post // 2),
        with_edges(offsets=lambda offsets: offsets + 1),
        with_edges(offsets=lambda offsets: offsets.flip(0)),
        with_edges(pre=lambda pre: pre.flip(0)),
    ],
)
def test_edges_that_would_lead_beside_the_memory_never_reach_compiled_code(change):
    with pytest.raises(ValueError, match="edges must be sorted"):
        change(population("subtract")).run(backend="event")


def test_without_a_compiler_the_backend_says_what_to_install(monkeypatch, tmp_path, forgotten):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"no C\+\+ compiler; install g\+\+ or clang\+\+"):
        population("zero").run(backend="event")


def test_without_a_compiler_auto_falls_back_and_says_so_once(monkeypatch, forgotten):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    made = population("zero")
    with pytest.warns(
        NotCompiledWarning, match="CXX = 'no-such-compiler -O2' is no program"
    ) as told:
        ran = made.run(backend="auto")
    assert ran.backend == "sequence"
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(made.run(backend="auto").spikes, ran.spikes)
