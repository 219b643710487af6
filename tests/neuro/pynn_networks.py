"""Networks that the tests of PyNN share, and where they find a PyNN with NEST."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuro.export import PynnMissing, find_python
from neuro.spiking import Network, Projection
from neuro.spiking.neurons import LIF

N_UNITS, N_INPUTS, N_STEPS, N_TRIALS, DT_MS = 40, 25, 150, 2, 1.0


def python_with_nest():
    try:
        return find_python("nest")
    except PynnMissing as error:
        pytest.skip(str(error))


def draw(low, high, *shape, seed):
    """Numbers in double precision, as NEST has them: no spike hangs on a rounding then."""
    values = np.random.default_rng(seed).uniform(low, high, shape)
    return torch.from_numpy(values)


def make_neuron(**options):
    """Cells of different time constants and biases, some of which fire by their bias alone."""
    values = {
        "tau_mem_ms": draw(8, 40, N_UNITS, seed=1),
        "tau_syn_ms": draw(4, 20, N_UNITS, seed=2),
        "bias": draw(-0.9, 1.1, N_UNITS, seed=3),
        "reset": "zero",
        "gain": "normalized",
    }
    return LIF(**{**values, **options})


def make_network(*, recurrent_delay=None, stimulus_delay=0, strength=9.0, **options):
    """A population with one input; with a delay, a sparse recurrent projection too."""
    weights = strength * draw(-0.4, 0.7, N_INPUTS, N_UNITS, seed=4)
    projections = {
        "stimulus": Projection(
            n_pre=N_INPUTS, n_post=N_UNITS, weights=weights, delay_steps=stimulus_delay
        )
    }
    if recurrent_delay is not None:
        pre, post = np.nonzero(np.random.default_rng(5).random((N_UNITS, N_UNITS)) < 0.2)
        projections["lateral"] = Projection(
            n_pre=N_UNITS,
            n_post=N_UNITS,
            weights=strength * draw(-1.2, 0.8, len(pre), seed=6),
            edges=(pre, post),
            delay_steps=recurrent_delay,
        )
    return Network(
        make_neuron(**options),
        projections,
        n_units=N_UNITS,
        dt_ms=DT_MS,
        recurrent=[] if recurrent_delay is None else ["lateral"],
    )


def stimulus(rate=0.04, n_inputs=N_INPUTS):
    return (draw(0, 1, N_STEPS, N_TRIALS, n_inputs, seed=7) < rate).double()
