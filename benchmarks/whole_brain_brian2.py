"""Build the whole-brain network as a C++ standalone program of Brian2; run by Brian2's Python.

    python whole_brain_brian2.py NETWORK.npz FOLDER float32|float64

The network file holds pre, post, weights_mv, kick_steps, kick_neurons, n_neurons, n_kicked and
n_steps. FOLDER/main is then the program; whoever times it starts it there. Its input is a list of
kicks, so that it can be compared with others spike for spike.
"""

from __future__ import annotations

import sys
from time import perf_counter

import brian2 as b2
import numpy as np
from brian2 import ms, mV


def main():
    network, folder, precision = sys.argv[1:]
    began = perf_counter()
    b2.prefs.core.default_float_dtype = np.dtype(precision).type
    b2.set_device("cpp_standalone", build_on_run=False)
    with np.load(network) as stored:
        describe(dict(stored))
    b2.device.build(directory=folder, compile=True, run=False)
    print(f"{perf_counter() - began:.1f}")


def describe(net):
    """Say what to simulate: the neurons of Shiu et al. 2024, in Brian2's words."""
    dt = b2.defaultclock.dt = 0.1 * ms
    n_neurons, n_kicked = int(net["n_neurons"]), int(net["n_kicked"])
    neurons = b2.NeuronGroup(
        n_neurons,
        """dv/dt = (v_0 - v + g) / t_mbr : volt (unless refractory)
           dg/dt = -g / tau : volt (unless refractory)
           rfc : second""",
        threshold="v > v_th",
        reset="v = v_rst; g = 0*mV",
        refractory="rfc",
        method="linear",
        namespace={
            "v_0": -52 * mV,
            "v_rst": -52 * mV,
            "v_th": -45 * mV,
            "t_mbr": 20 * ms,
            "tau": 5 * ms,
        },
    )
    neurons.v = -52 * mV
    neurons.rfc = 2.2 * ms
    neurons.rfc[:n_kicked] = 0 * ms
    synapses = b2.Synapses(neurons, neurons, "w : volt", on_pre="g += w", delay=1.8 * ms)
    synapses.connect(i=net["pre"], j=net["post"])
    synapses.w = net["weights_mv"] * mV
    # Half a step late: times are rounded down to the step.
    times = (net["kick_steps"] + 0.5) * dt
    given = b2.SpikeGeneratorGroup(n_kicked, net["kick_neurons"], times)
    kick = {"kick": 68.75 * mV}
    kicks = b2.Synapses(given, neurons, on_pre="v += kick", namespace=kick)
    kicks.connect(j="i")
    monitor = b2.SpikeMonitor(neurons)
    b2.Network(neurons, synapses, given, kicks, monitor).run(int(net["n_steps"]) * dt)


if __name__ == "__main__":
    main()
