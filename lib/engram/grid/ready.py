"""What a grid needs before it may begin to exist: slots, threads, and the warm interpreter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from engram.grid.device_slots import Slot
    from engram.grid.settings import Settings
    from engram.request import Run
    from engram.warm import Warm

__all__ = ["Ready", "asked_threads", "get_ready"]


class Ready(NamedTuple):
    """What a grid needs before it may begin to exist."""

    run: Run  # what all points share: code, inputs, configuration
    settings: Settings
    slots: list[Slot]
    remarks: list[str]  # what people should know about them
    warm: Warm | None
    why_cold: str | None

    def close(self) -> None:
        """End the warm interpreter; a second call does nothing."""
        if self.warm is not None:
            self.warm.close()


def get_ready(run: Run, settings: Settings) -> Ready:
    """Find the slots, and start the warm interpreter.

    Raises:
        DeviceError: the devices that were configured cannot be had.
        ConfigError: a module of PRELOAD cannot be imported.
    """
    if settings.engine.kind == "slurm":
        from engram.grid import slurm_submit

        slurm_submit.check(settings.engine)
    if settings.engine.kind == "ray":
        from engram.grid import ray_settings

        ray_settings.check(settings.engine)
        share = asked_threads(run) or ray_settings.threads(settings.engine)
        environment = run.config.environment._replace(threads=share)
        run.config = run.config._replace(environment=environment)
    if settings.engine.kind != "local":
        run.config = run.config._replace(engine=settings.engine)
        return Ready(run, settings, [], [], None, "points run elsewhere")
    asked = asked_threads(run)
    slots, remarks = settings.slots(asked or 1)
    environment = run.config.environment
    share = asked or max(1, environment.threads // len(slots))
    run.config = run.config._replace(
        environment=environment._replace(threads=share), engine=settings.engine
    )
    if settings.cold:
        return Ready(run, settings, slots, remarks, None, "--cold")
    from engram.warm import Warm

    warm = Warm.for_run(run, settings.preload)
    if warm.why_not is not None:
        warm.close()
        return Ready(run, settings, slots, remarks, None, warm.why_not)
    return Ready(run, settings, slots, remarks, warm, None)


def asked_threads(run: Run) -> int | None:
    """Threads of each point as somebody has configured them; else points share the processors."""
    from engram import toml

    source = run.config.source
    table = toml.read(source)[1].get("environment", {}) if source else {}
    asked = "threads" in table or any("environment.threads" in o for o in run.request.set_config)
    if asked or os.environ.get("OMP_NUM_THREADS"):
        return run.config.environment.threads
    return None
