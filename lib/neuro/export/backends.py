"""The simulators and machines that an exported network can run on."""

from __future__ import annotations

from typing import NamedTuple


class PynnError(ValueError):
    """A network that cannot be written for PyNN, or a script that failed."""


class PynnMissing(ImportError):
    """There is no Python with PyNN and the simulator that is asked for."""


class Backend(NamedTuple):
    """What a backend of PyNN is called, and how it differs.

    Attributes:
        name: that `write_pynn` takes.
        title: for people.
        module: that a script imports.
        requirements: what has to be installed for it, as pip takes it.
        setup: further arguments of PyNN's `setup`, as source.
        before_delta: what has to be done before an IF_curr_delta is made, as source.
        holds_current: whether the current of a step acts on the potential as a constant, as it
            does here, and not as the exponential that it is.
        repeats: whether a source can spike more than once in a step.
        stamps_start: whether spikes have the time at which the time step of the simulator that
            they come from begins, not ends; potentials have their own time either way.
    """

    name: str
    title: str
    module: str
    requirements: tuple[str, ...]
    setup: str = ""
    before_delta: str = ""
    holds_current: bool = False
    repeats: bool = False
    stamps_start: bool = False


BACKENDS = {
    backend.name: backend
    for backend in (
        # Without "on_grid" PyNN takes NEST's off-grid neurons, which refuse tau_refrac = 0.
        Backend(
            "nest",
            "NEST",
            "pyNN.nest",
            ("PyNN==0.13.0", "nest-simulator==3.10.0"),
            setup='max_delay=MAX_DELAY_MS, spike_precision="on_grid"',
            # PyNN 0.13.0 knows no name of this model's potential in NEST.
            before_delta='sim.IF_curr_delta.variable_map = {"v": "V_m"}',
            repeats=True,
        ),
        Backend(
            "brian2",
            "Brian2",
            "pyNN.brian2",
            ("PyNN==0.13.0", "brian2==2.9.0", "numpy<2"),
            setup="max_delay=MAX_DELAY_MS",
            stamps_start=True,
        ),
        Backend("spinnaker", "SpiNNaker", "pyNN.spiNNaker", ("sPyNNaker",), holds_current=True),
    )
}


def find_backend(name: str) -> Backend:
    """Return the backend of a name.

    Raises:
        PynnError: there is none.
    """
    if name not in BACKENDS:
        msg = f"backend = {name!r} is none of {', '.join(map(repr, BACKENDS))}"
        raise PynnError(msg)
    return BACKENDS[name]
