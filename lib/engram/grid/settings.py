"""How a grid is to be run: what command line, grid file and experiment.toml say together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.settings import EngineConfig, ExperimentConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engram.grid.device_slots import Slot
    from engram.grid.draw import Drawn

__all__ = ["Settings"]


class Settings(NamedTuple):
    """What decides how points run, but not what they are."""

    engine: EngineConfig
    preload: tuple[str, ...] = ()
    retries: int = 0
    fail_fast: bool = False
    memory: str | None = None  # "auto": as many points on a device as its memory holds
    cold: bool = False

    @classmethod
    def of(cls, config: ExperimentConfig, drawn: Drawn, options: argparse.Namespace) -> Settings:
        """The settings of a new grid: command line before grid file before tables."""
        table = config.grid
        named = {
            "devices": drawn.devices if drawn.devices is None else tuple(drawn.devices),
            "slots_per_device": drawn.slots_per_device,
            "devices_per_run": drawn.devices_per_run,
        }
        said: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
        return cls(
            engine=config.engine._replace(**said),
            preload=first(drawn.preload, table and table.preload, ()),
            retries=first(options.retries, drawn.retries, table and table.retries, 0),
            fail_fast=options.fail_fast or bool(table and table.fail_fast),
            memory=first(drawn.memory, table and table.memory),
            cold=options.cold,
        )

    @classmethod
    def recorded(cls, record: dict[str, Any], options: argparse.Namespace) -> Settings:
        """The settings of a grid that goes on, or is repeated."""
        kept = dict(record["options"])
        engine = EngineConfig(**{**kept.pop("engine")})
        before = cls(engine=engine, **{**kept, "preload": tuple(kept["preload"])})
        return before._replace(
            retries=first(options.retries, before.retries),
            fail_fast=options.fail_fast or before.fail_fast,
            cold=options.cold or before.cold,
        )

    def as_json(self) -> dict[str, Any]:
        """What grid.json says about them."""
        return {**self._asdict(), "engine": self.engine._asdict()}

    def slots(self, threads: int) -> tuple[list[Slot], list[str]]:
        """Share the devices of this machine out.

        Args:
            threads: of each point, where there are no devices.

        Returns:
            The slots, best first, and what people should know about them.

        Raises:
            DeviceError: the configured devices cannot be had.
        """
        from engram.grid.device_slots import remarks, slots
        from engram.grid.devices import choose

        engine = self.engine
        choice = choose(engine.devices, os.environ)
        found = slots(
            choice,
            slots_per_device=1 if self.packs(choice.devices) else engine.slots_per_device,
            devices_per_run=engine.devices_per_run,
            threads=threads,
        )
        return found, remarks(choice, engine.devices_per_run)

    def packs(self, devices: Sequence[object]) -> bool:
        """Whether the first point's memory says how many share a device."""
        return self.memory == "auto" and bool(devices) and self.engine.slots_per_device is None


def first(*values: Any) -> Any:  # noqa: ANN401
    """The first value that is not None; None when there is none."""
    return next((value for value in values if value is not None), None)
