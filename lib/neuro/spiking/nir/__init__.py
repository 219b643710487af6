"""Networks to and from NIR, the Neuromorphic Intermediate Representation.

NIR (Pedersen et al. 2024, doi:10.1038/s41467-024-52259-9) describes neurons by differential
equations and a network by a graph, which other simulators and neuromorphic chips read; `nir.write`
and `nir.read` of the package nir keep it in a file. `to_nir` and `from_nir` are the two ways.
"""

from neuro.spiking.nir.model import NirModel
from neuro.spiking.nir.nodes import NirError, NirMissing
from neuro.spiking.nir.reading import from_nir
from neuro.spiking.nir.writing import ReadoutLayer, to_nir

__all__ = ["NirError", "NirMissing", "NirModel", "ReadoutLayer", "from_nir", "to_nir"]
