"""Neuron models, one class each: equation, units and source in its docstring."""

from neuro.spiking.neurons.adaptive import AdaptiveLIF
from neuro.spiking.neurons.conductance import ConductanceLIF, Synapse
from neuro.spiking.neurons.decay import decay_per_step
from neuro.spiking.neurons.lif import LIF
from neuro.spiking.neurons.neuron import Neuron

__all__ = ["LIF", "AdaptiveLIF", "ConductanceLIF", "Neuron", "Synapse", "decay_per_step"]
