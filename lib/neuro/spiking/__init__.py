"""Spiking neurons, the networks that they make up, and the codes that drive them."""

from neuro.spiking.encoding import encode_rate, spike_probability
from neuro.spiking.network import Network
from neuro.spiking.neurons import decay_per_step
from neuro.spiking.neurons.readout import LeakyReadout
from neuro.spiking.projection import Projection
from neuro.spiking.scaling import Labels
from neuro.spiking.simulate import Simulation, simulate

__all__ = [
    "Labels",
    "LeakyReadout",
    "Network",
    "Projection",
    "Simulation",
    "decay_per_step",
    "encode_rate",
    "simulate",
    "spike_probability",
]
