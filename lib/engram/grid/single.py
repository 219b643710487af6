"""Which engine takes a single run: most run here, without any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram.config import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from engram.request import Request, Run

__all__ = ["engine"]


def engine(request: Request) -> Callable[[Request, Callable[[Run], None]], Run] | None:
    """Find what runs a request on another machine.

    Args:
        request: of a single run.

    Returns:
        A function of the request and of what announces the run; None when it runs here.

    Raises:
        ConfigError: experiment.toml cannot be read, or is wrong.
    """
    config = load(request.experiment, root=request.root, overrides=request.set_config)
    if config.engine.kind == "slurm":
        from engram.grid import slurm_single

        return slurm_single.execute
    if config.engine.kind == "ray":
        from engram.grid import ray_single

        return ray_single.execute
    return None
