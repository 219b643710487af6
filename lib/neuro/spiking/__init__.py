"""Spiking neurons and the codes that drive them."""

from neuro.spiking.encoding import encode_rate, spike_probability
from neuro.spiking.neurons import decay_per_step

__all__ = ["decay_per_step", "encode_rate", "spike_probability"]
