"""How a SpiNNaker machine is reached."""

from __future__ import annotations

from typing import NamedTuple

from neuro.export.backends import PynnError


class SpinnakerMachine(NamedTuple):
    """What sPyNNaker needs to know; it looks for spynnaker.cfg in the folder that it runs in.

    Attributes:
        machine_name: address of the board.
        version: of the board: 3 has four chips, 5 has 48.
        time_scale_factor: how many times slower than real time it runs.
        host: address of the computer that receives live spikes; "" for none.
    """

    machine_name: str
    version: int
    time_scale_factor: int = 1
    host: str = ""

    def config(self) -> str:
        """Return the text of spynnaker.cfg.

        Raises:
            PynnError: a value is out of range.
        """
        if not self.machine_name or self.version < 1 or self.time_scale_factor < 1:
            msg = (
                f"{self!r} is no machine: machine_name is the address of the board; version and "
                "time_scale_factor are at least 1"
            )
            raise PynnError(msg)
        lines = [
            "[Machine]",
            f"machine_name = {self.machine_name}",
            f"version = {self.version}",
            f"time_scale_factor = {self.time_scale_factor}",
        ]
        if self.host:
            lines += ["", "[Recording]", f"live_spike_host = {self.host}"]
        return "\n".join(lines) + "\n"
