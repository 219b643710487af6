"""A small recurrent network with delays, cell types and trained neurons that tests share."""

from __future__ import annotations

import torch
from torch import nn

from neuro.spiking.network import Network
from neuro.spiking.neurons import LIF
from neuro.spiking.projection import Projection
from neuro.spiking.scaling import Labels
from neuro.spiking.surrogate import FastSigmoid

N_UNITS, N_INPUTS, N_STEPS, N_TRIALS = 12, 6, 25, 3
SLOPE = 5.0
CELL_TYPE = Labels(torch.arange(N_UNITS) % 3, ("E", "PV", "SST"))
INPUT_TYPE = Labels(torch.arange(N_INPUTS) % 2, ("mitral", "tufted"))
SIGNS = torch.where(torch.arange(N_UNITS) % 3 > 0, -1, 1)
TRANSMITTER = Labels((torch.arange(N_UNITS) % 3 > 0).long(), ("glutamate", "GABA"))
TAU_MS = torch.tensor([8.0, 12.0, 20.0], dtype=torch.float64)
PAIRS = torch.randperm(N_UNITS**2, generator=torch.Generator().manual_seed(1))[:50]
PRE, POST = PAIRS // N_UNITS, PAIRS % N_UNITS
DELAYS = torch.arange(50) % 3 + 1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=0):
    return 0.1 + torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def spike_trains(n_units=N_INPUTS, *, n_steps=N_STEPS, n_trials=N_TRIALS, seed=9, rate=0.3):
    draws = torch.rand(n_steps, n_trials, n_units, generator=seeded(seed), dtype=torch.float64)
    return (draws < rate).double()


RECURRENT = 0.4 * uniform(50, seed=2) * SIGNS[PRE]
FEEDFORWARD = 0.4 * uniform(N_INPUTS, N_UNITS, seed=3)


class TypedLIF(nn.Module):
    """A neuron with a time constant and a bias for each cell type, all trained."""

    def __init__(self):
        super().__init__()
        self.log_tau = nn.Parameter(TAU_MS.log())
        self.bias = nn.Parameter(torch.full((3,), 0.02, dtype=torch.float64))
        self.register_buffer("type_of_unit", CELL_TYPE.ids.clone())

    def forward(self):
        tau_ms, bias = self.log_tau.exp()[self.type_of_unit], self.bias[self.type_of_unit]
        return LIF(tau_mem_ms=tau_ms, bias=bias, surrogate=FastSigmoid(SLOPE))


def network(scope="frozen", *, neuron=None, recurrent_weights=RECURRENT, **options):
    """A sparse recurrent projection with delays, and a dense one from outside."""
    kinds = {"pre_type": CELL_TYPE, "transmitter_of_pre": TRANSMITTER, "post_type": CELL_TYPE}
    recurrent = Projection(
        n_pre=N_UNITS,
        n_post=N_UNITS,
        weights=recurrent_weights,
        edges=(PRE, POST),
        delay_steps=DELAYS,
        trainable=scope,
        signs=SIGNS,
        **kinds,
    )
    kinds = {"pre_type": INPUT_TYPE, "transmitter_of_pre": INPUT_TYPE, "post_type": CELL_TYPE}
    feedforward = Projection(
        n_pre=N_INPUTS,
        n_post=N_UNITS,
        weights=FEEDFORWARD,
        delay_steps=0,
        trainable=scope,
        signs=1,
        **kinds,
    )
    return Network(
        neuron or TypedLIF(),
        {"recurrent": recurrent, "feedforward": feedforward},
        **{"n_units": N_UNITS, "dt_ms": 1.0, "recurrent": ["recurrent"], **options},
    )


def loss_of(spikes):
    """Depends on every spike in a way of its own."""
    return (spikes * torch.randn(spikes.shape, generator=seeded(8), dtype=spikes.dtype)).sum()
