"""Simulate two networks of 2,000 neurons with Brian2 and store what they did.

The rasters are the outside reference for the simulators: Brian2's own refractoriness, delays and
exact integration, in double precision, from equations in its own words.

    python3.11 -m venv brian && brian/bin/pip install "brian2==2.9.0" "numpy==2.2.6"
    brian/bin/python tests/golden/spiking/make_brian2_rasters.py [--check]

writes, beside itself (`--check` compares with the files that are there instead):

lif.npz          the neurons of Shiu et al. 2024 (doi:10.1038/s41586-024-07763-9): current-based,
                 silent and deaf while refractory. Three rasters of one network: `spikes`, all
                 synapses with a delay of 1.8 ms; `spikes_delays`, every synapse with its own;
                 `spikes_kicks`, no sources, but the first 100 neurons kicked over threshold and
                 without refractoriness.
conductance.npz  excitatory and inhibitory neurons with AMPA, NMDA and GABA_A conductances that rise
                 and decay; `spikes`.

Edges are stored by presynaptic neuron: neuron i reaches post[offsets[i]:offsets[i + 1]] with
weights `count` (signed) times the unit that is stored with them. Spikes are pairs (step, neuron),
sorted. A stored number beats a recipe: nothing in the files depends on numpy's random streams.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import brian2 as b2
import numpy as np
from brian2 import ms, mV

HERE = Path(__file__).resolve().parent
VERSIONS = {"brian2": "2.9.0", "numpy": "2.2.6"}
N_NEURONS = 2000

LIF = {
    "dt_ms": 0.1,
    "n_steps": 1500,
    "v_rest_mv": -52.0,
    "v_reset_mv": -52.0,
    "v_threshold_mv": -45.0,
    "tau_mem_ms": 20.0,
    "tau_syn_ms": 5.0,
    "refractory_ms": 2.2,
    "delay_ms": 1.8,
    "weight_mv": 0.275,
    "kick_mv": 68.75,
    "n_kicked": 100,
}
CONDUCTANCE = {
    "dt_ms": 1.0,
    "n_steps": 200,
    "n_excitatory": 1600,
    # E, then I
    "tau_mem_ms": [85.0, 50.0],
    "g_leak_ns": [1.35, 0.9],
    "v_threshold_mv": [-38.0, -45.0],
    "v_reset_mv": [-60.0, -60.0],
    "e_leak_mv": [-60.0, -60.0],
    "refractory_ms": 8.0,
    "delay_steps": 1,
    "weight": 0.05,
    # AMPA, NMDA, GABA_A
    "tau_rise_ms": [0.1, 10.0, 1.0],
    "tau_decay_ms": [5.0, 70.0, 6.0],
    "e_rev_mv": [0.0, 0.0, -70.0],
    "g_ns": [0.4177, 0.0448, 0.8139],
}


def random_edges(generator, n_pre, n_post, per_pre):
    """Return offsets and targets: `per_pre` different ones for each, ascending, never itself."""
    post = np.empty((n_pre, per_pre), np.uint16)
    for i in range(n_pre):
        choice = generator.choice(n_post - 1, per_pre, replace=False)
        post[i] = np.sort(choice + (choice >= i) if n_pre == n_post else choice)
    return np.arange(n_pre + 1, dtype=np.int32) * per_pre, post.ravel()


def random_events(generator, n_steps, n_sources, *, chance, first=0):
    """Return pairs (step, source), sorted; no source fires in two steps running."""
    fires = generator.random((n_steps, n_sources)) < chance
    fires[:first] = False
    fires[1:] &= ~fires[:-1]
    return np.argwhere(fires).astype(np.uint16)


def edge_delay_steps(pre, post):
    """Return each edge's own delay in steps, one of 1, 5, 9 .. 29, from its two ends."""
    return 1 + 4 * ((7 * pre.astype(np.int64) + 13 * post.astype(np.int64)) % 8)


def lif_network():
    """Draw the current-based network."""
    generator = np.random.default_rng(20240)
    offsets, post = random_edges(generator, N_NEURONS, N_NEURONS, 40)
    size = 1 + generator.poisson(3.0, len(post))
    sign = np.where(np.arange(N_NEURONS) % 10 < 7, 1, -2)
    count = np.clip(size * sign[np.repeat(np.arange(N_NEURONS), 40)], -127, 127)
    n_sources = 200
    source_offsets, source_post = random_edges(generator, n_sources, N_NEURONS, 60)
    n_steps = LIF["n_steps"]
    return {
        "offsets": offsets,
        "post": post,
        "count": count.astype(np.int8),
        "source_offsets": source_offsets,
        "source_post": source_post,
        "source_count": (4 + generator.poisson(6.0, len(source_post))).astype(np.int8),
        # From step 1 on, and never in two steps running: so a neuron that is kicked in the step
        # before can stand for a source.
        "source_events": random_events(generator, n_steps, n_sources, chance=0.012, first=1),
        "kick_events": random_events(generator, n_steps, LIF["n_kicked"], chance=0.02),
    }


def conductance_network():
    """Draw the conductance-based network; sources are excitatory."""
    generator = np.random.default_rng(20251)
    offsets, post = random_edges(generator, N_NEURONS, N_NEURONS, 40)
    n_sources = 300
    source_offsets, source_post = random_edges(generator, n_sources, N_NEURONS, 100)

    def counts(n_edges, scale):
        size = np.round(generator.lognormal(1.5, 0.8, n_edges) * scale)
        return np.clip(size, 1, 127).astype(np.int8)

    return {
        "offsets": offsets,
        "post": post,
        "count": counts(len(post), 4.0),
        "source_offsets": source_offsets,
        "source_post": source_post,
        "source_count": counts(len(source_post), 3.0),
        "source_events": random_events(generator, CONDUCTANCE["n_steps"], n_sources, chance=0.02),
    }


def ends(net, prefix=""):
    """Return pre and post of all edges."""
    offsets = net[prefix + "offsets"]
    pre = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return pre, net[prefix + "post"].astype(np.int64)


def sources(events, n_sources, dt):
    """Return a group that spikes when it is told to."""
    # Half a step late: Brian2 rounds down to the step.
    times = (events[:, 0] + 0.5) * dt
    return b2.SpikeGeneratorGroup(n_sources, events[:, 1], times, dt=dt)


def raster(monitor, dt):
    """Return sorted pairs (step, neuron)."""
    steps = np.round(np.asarray(monitor.t / dt)).astype(np.uint16)
    pairs = np.stack([steps, np.asarray(monitor.i).astype(np.uint16)], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def run_lif(net, *, delays="same", driven_by="sources"):
    """Simulate the current-based network; return its raster."""
    dt = LIF["dt_ms"] * ms
    names = {
        "v_0": LIF["v_rest_mv"] * mV,
        "v_r": LIF["v_reset_mv"] * mV,
        "v_th": LIF["v_threshold_mv"] * mV,
        "tau_m": LIF["tau_mem_ms"] * ms,
        "tau_s": LIF["tau_syn_ms"] * ms,
    }
    neurons = b2.NeuronGroup(
        N_NEURONS,
        """dv/dt = (v_0 - v + g) / tau_m : volt (unless refractory)
           dg/dt = -g / tau_s : volt (unless refractory)
           t_ref : second""",
        threshold="v > v_th",
        reset="v = v_r; g = 0*volt",
        refractory="t_ref",
        method="exact",
        namespace=names,
        dt=dt,
    )
    neurons.v = LIF["v_rest_mv"] * mV
    neurons.t_ref = LIF["refractory_ms"] * ms
    pre, post = ends(net)
    recurrent = b2.Synapses(neurons, neurons, "w : volt", on_pre="g_post += w", dt=dt)
    recurrent.connect(i=pre, j=post)
    recurrent.w = net["count"] * LIF["weight_mv"] * mV
    steps = LIF["delay_ms"] / LIF["dt_ms"] if delays == "same" else edge_delay_steps(pre, post)
    recurrent.delay = steps * dt
    if driven_by == "sources":
        given = sources(net["source_events"], len(net["source_offsets"]) - 1, dt)
        drive = b2.Synapses(given, neurons, "w : volt", on_pre="g_post += w", dt=dt)
        source, target = ends(net, "source_")
        drive.connect(i=source, j=target)
        drive.w = net["source_count"] * LIF["weight_mv"] * mV
        drive.delay = LIF["delay_ms"] * ms
    else:
        neurons.t_ref[: LIF["n_kicked"]] = 0 * ms
        given = sources(net["kick_events"], LIF["n_kicked"], dt)
        kick = {"kick": LIF["kick_mv"] * mV}
        drive = b2.Synapses(given, neurons, on_pre="v_post += kick", namespace=kick, dt=dt)
        each = np.arange(LIF["n_kicked"])
        drive.connect(i=each, j=each)
    monitor = b2.SpikeMonitor(neurons)
    b2.Network(neurons, recurrent, given, drive, monitor).run(LIF["n_steps"] * dt)
    return raster(monitor, dt)


def run_conductance(net):
    """Simulate the conductance-based network; return its raster."""
    c = CONDUCTANCE
    dt = c["dt_ms"] * ms
    kinds = ["ampa", "nmda", "gaba"]
    names = {}
    for k, name in enumerate(kinds):
        names[f"e_{name}"] = c["e_rev_mv"][k] * mV
        for part in ("rise", "decay"):
            # Rates with which one Euler step is the exact exponential decay.
            names[f"{part}_{name}"] = -np.expm1(-c["dt_ms"] / c[f"tau_{part}_ms"][k]) / dt
    current = " + ".join(f"(rise_g_{n} + decay_g_{n}) * (v - e_{n})" for n in kinds)
    lines = [f"dv/dt = leak * (e_leak - v) - ({current}) / c_mem : volt (unless refractory)"]
    for n in kinds:
        lines += [f"d{p}_g_{n}/dt = -{p}_{n} * {p}_g_{n} : siemens" for p in ("rise", "decay")]
    lines += ["leak : Hz", "c_mem : farad"]
    lines += [f"{name} : volt" for name in ("e_leak", "v_th", "v_r")]
    neurons = b2.NeuronGroup(
        N_NEURONS,
        "\n".join(lines),
        threshold="v > v_th",
        reset="v = v_r",
        refractory=c["refractory_ms"] * ms,
        method="euler",
        namespace=names,
        dt=dt,
    )
    kind = (np.arange(N_NEURONS) >= c["n_excitatory"]).astype(int)

    def each(name):
        return np.array(c[name])[kind]

    neurons.leak = -np.expm1(-c["dt_ms"] / each("tau_mem_ms")) / c["dt_ms"] * 1000 * b2.Hz
    neurons.c_mem = each("tau_mem_ms") * each("g_leak_ns") * b2.pF
    neurons.e_leak = each("e_leak_mv") * mV
    neurons.v_th = each("v_threshold_mv") * mV
    neurons.v_r = neurons.v = each("v_reset_mv") * mV
    pre, post = ends(net)
    excitatory = pre < c["n_excitatory"]
    source, target = ends(net, "source_")
    given = sources(net["source_events"], len(net["source_offsets"]) - 1, dt)
    sizes, source_sizes = net["count"] * c["weight"], net["source_count"] * c["weight"]
    parts = [
        connect(
            neurons, neurons, pre[excitatory], post[excitatory], sizes[excitatory], kinds=[0, 1]
        ),
        connect(
            neurons, neurons, pre[~excitatory], post[~excitatory], sizes[~excitatory], kinds=[2]
        ),
        connect(given, neurons, source, target, source_sizes, kinds=[0, 1]),
    ]
    parts[0].delay = parts[1].delay = c["delay_steps"] * dt
    monitor = b2.SpikeMonitor(neurons)
    b2.Network(neurons, given, *parts, monitor).run(c["n_steps"] * dt)
    return raster(monitor, dt)


def connect(before, after, pre, post, weights, *, kinds):
    """Return synapses whose spikes open some kinds of conductances by their weight."""
    c = CONDUCTANCE
    jumps, actions = {}, []
    for k in kinds:
        name = ["ampa", "nmda", "gaba"][k]
        r = c["tau_rise_ms"][k] / c["tau_decay_ms"][k]
        # The unit peak of exp(-t / decay) - exp(-t / rise).
        peak = r ** (r / (1 - r)) - r ** (1 / (1 - r))
        jumps[f"jump_{name}"] = c["g_ns"][k] / peak * b2.nS
        actions += [f"rise_g_{name}_post += -w * jump_{name}"]
        actions += [f"decay_g_{name}_post += w * jump_{name}"]
    made = b2.Synapses(
        before, after, "w : 1", on_pre="\n".join(actions), namespace=jumps, dt=c["dt_ms"] * ms
    )
    made.connect(i=pre, j=post)
    made.w = weights
    return made


def main():
    options = argparse.ArgumentParser(description="Store what Brian2 simulates.")
    options.add_argument("--check", action="store_true", help="compare with the stored files")
    given = options.parse_args()
    found = {"brian2": b2.__version__, "numpy": np.__version__}
    if found != VERSIONS:
        sys.exit(f"error: found {found}, the rasters are made with {VERSIONS}")
    # Brian2's plain numpy code needs no compiler and knows no other order than the one written.
    b2.prefs.codegen.target = "numpy"
    lif, conductance = lif_network(), conductance_network()
    lif["spikes"] = run_lif(lif)
    lif["spikes_delays"] = run_lif(lif, delays="own")
    lif["spikes_kicks"] = run_lif(lif, driven_by="kicks")
    conductance["spikes"] = run_conductance(conductance)
    for name, made, constants in (
        ("lif.npz", lif, LIF),
        ("conductance.npz", conductance, CONDUCTANCE),
    ):
        arrays = made | {key: np.array(value) for key, value in constants.items()}
        counts = {key: len(value) for key, value in made.items() if key.startswith("spikes")}
        if given.check:
            with np.load(HERE / name) as stored:
                same = all(np.array_equal(stored[key], arrays[key]) for key in arrays)
            print(f"{name}: {'equal' if same else 'DIFFERENT'}, {counts}")
        else:
            np.savez_compressed(HERE / name, **arrays)
            print(f"{name}: {(HERE / name).stat().st_size} bytes, {counts}")


if __name__ == "__main__":
    main()
