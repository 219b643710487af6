"""The table [engine] of experiment.toml: where runs run, and on what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError
from engram.settings import EngineConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from engram.tables import Table

__all__ = ["read"]

KINDS = ("local", "slurm", "ray")
# What only one kind understands; `kind` and `processes` are everybody's.
ONLY = {
    "devices": "local",
    "slots_per_device": "local",
    "devices_per_run": "local",
    "partition": "slurm",
    "gres": "slurm",
    "time": "slurm",
    "memory": "slurm",
    "account": "slurm",
    "cpus_per_task": "slurm",
    "throttle": "slurm",
    "extra": "slurm",
    "address": "ray",
    "num_gpus": "ray",
    "num_cpus": "ray",
}
MOST = 4096
MOST_DEVICES = 64


def read(table: Table, seconds: Callable[[object], float]) -> EngineConfig:
    """Check the table.

    Args:
        table: the table as read; an empty one where it is absent.
        seconds: reads a time span.

    Raises:
        ConfigError: a key is unknown, does not fit, or belongs to another kind.
    """
    kind = table.choice("kind", "local", KINDS)
    processes = table.integer("processes", 1, least=1, most=MOST)
    given: dict[str, Any] = {
        "devices": _devices(table),
        "slots_per_device": table.integer("slots_per_device", None, least=1, most=MOST_DEVICES),
        "devices_per_run": table.integer("devices_per_run", None, least=1, most=MOST_DEVICES),
        "partition": table.text("partition", None),
        "gres": table.text("gres", None),
        "time": _time(table, seconds),
        "memory": table.text("memory", None),
        "account": table.text("account", None),
        "cpus_per_task": table.integer("cpus_per_task", None, least=1, most=MOST),
        "throttle": table.integer("throttle", None, least=1, most=MOST),
        "extra": _extra(table),
        "address": table.text("address", None),
        "num_gpus": _number(table, "num_gpus"),
        "num_cpus": _number(table, "num_cpus"),
    }
    table.finish()
    for key, value in given.items():
        if value is not None and ONLY[key] != kind:
            msg = f"{table.where}: key {table.key(key)!r} is for kind = {ONLY[key]!r}, but"
            msg += f" {table.key('kind')!r} is {kind!r}: remove the one or change the other"
            raise ConfigError(msg)
    return EngineConfig(kind, processes, time_s=given.pop("time"), **given)


def _devices(table: Table) -> tuple[int | str, ...] | None:
    """The list of devices; which of them can be had is found out when a run needs one."""
    value = table.take("devices", None)
    if value is None:
        return None
    if isinstance(value, str):
        return tuple(value.split(",")) if value.strip() else ()
    if not isinstance(value, list) or any(type(item) not in (int, str) for item in value):
        table.refuse("devices", value, 'a list of indices or UUIDs: [0, 1] or ["GPU-8932f937"]')
    return tuple(value)


def _time(table: Table, seconds: Callable[[object], float]) -> float | None:
    value = table.take("time", None)
    try:
        return None if value is None else seconds(value)
    except ConfigError as error:
        msg = f"{table.where}: key {table.key('time')!r}: {error}"
        raise ConfigError(msg) from error


def _number(table: Table, name: str) -> float | None:
    """A number that may be absent."""
    return None if table.take(name, None) is None else table.number(name, 0.0)


def _extra(table: Table) -> dict[str, Any] | None:
    """Free keys: what Slurm makes of them is Slurm's affair."""
    value = table.take("extra", None)
    if value is None:
        return None
    if not isinstance(value, dict):
        table.refuse("extra", value, f"a table: write [{table.key('extra')}]")
    for key, item in value.items():
        if not key or not isinstance(item, str | int | float):
            table.refuse(f"extra.{key}", item, "a string, a number, true or false")
    return dict(value)
