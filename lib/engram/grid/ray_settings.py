"""What [engine] says of Ray, and what of it can be seen before anything is made."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from typing import TYPE_CHECKING

from engram import errors

if TYPE_CHECKING:
    from engram.settings import EngineConfig

__all__ = ["address_of", "check", "needs", "threads"]

PROBE_S = 5.0  # until a cluster is given up that does not answer at all


def check(config: EngineConfig) -> None:
    """See, before anything is made, that there is a Ray to use.

    Raises:
        EnvironmentMissingError: Ray is not installed.
        ConfigError: it could never give a run what is asked for.
        DeviceError: no cluster answers.
    """
    found = importlib.util.find_spec("ray")
    if found is None or found.origin is None:  # a folder of that name is found too
        msg = (
            "[engine] kind = 'ray' needs Ray, which is not installed here: "
            f"`{sys.executable} -m pip install 'ray>=2.40'`, or the extra engram[ray]"
        )
        raise errors.EnvironmentMissingError(msg)
    gpus = config.num_gpus or 0.0
    if gpus > 1 and gpus != int(gpus):
        msg = f"[engine] num_gpus = {gpus!r}: Ray gives parts of one GPU, or whole ones: round it"
        raise errors.ConfigError(msg)
    address = address_of(config)
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # "auto", or none: Ray finds it
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
    except OSError as error:
        msg = f"no Ray cluster answers at {address!r} ({error}): see [engine] address, `ray status`"
        raise errors.DeviceError(msg) from error


def address_of(config: EngineConfig) -> str | None:
    """Where the cluster is; None for one of our own."""
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" else address


def threads(config: EngineConfig) -> int:
    """Of each process of a run, where nobody has configured them: Ray gives a task one processor.

    Args:
        config: the table [engine].
    """
    return max(1, int(config.num_cpus or 1.0) // config.processes)


def needs(config: EngineConfig) -> str:
    """What a run asks for, for people."""
    cpus = 1.0 if config.num_cpus is None else config.num_cpus
    return f"num_cpus = {cpus:g} and num_gpus = {config.num_gpus or 0.0:g}"
