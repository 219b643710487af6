"""Networks for other simulators and for neuromorphic machines, by PyNN.

PyNN (Davison et al. 2009, doi:10.3389/neuro.11.011.2008) is one language for NEST, Brian2,
SpiNNaker and others. `write_pynn` leaves a folder with a script that needs nothing of this
project, `run_pynn` runs it with a Python that has PyNN, `compare_spike_counts` holds the result
against this project's own. Nothing here imports PyNN. For NIR see `neuro.spiking.nir`.
"""

from neuro.export.backends import BACKENDS, Backend, PynnError, PynnMissing, find_backend
from neuro.export.comparison import SpikeCountAgreement, compare_spike_counts
from neuro.export.conversion import PynnCells, convert_cells
from neuro.export.pynn import PynnExport, write_pynn
from neuro.export.readouts import PynnReadout
from neuro.export.running import PynnResult, find_python, read_result, run_pynn
from neuro.export.spinnaker import SpinnakerMachine

__all__ = [
    "BACKENDS",
    "Backend",
    "PynnCells",
    "PynnError",
    "PynnExport",
    "PynnMissing",
    "PynnReadout",
    "PynnResult",
    "SpikeCountAgreement",
    "SpinnakerMachine",
    "compare_spike_counts",
    "convert_cells",
    "find_backend",
    "find_python",
    "read_result",
    "run_pynn",
    "write_pynn",
]
