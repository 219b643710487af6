"""The driver: a process of its own that hands the dispatcher's tasks to Ray."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import select
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import guardian
from engram.grid import ray_node
from engram.grid.device_slots import usable_cpus
from engram.grid.ray_settings import address_of, needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engram.settings import EngineConfig

__all__ = ["Driver", "Ends"]

GRACE_S = 20.0  # until what runs is killed, when the dispatcher has gone
OBJECTS = 100 << 20  # bytes for Ray's objects in a cluster of our own: nothing goes through them
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"


class Ends(NamedTuple):
    """A driver as the dispatcher sees it."""

    pid: int
    orders: int  # write end; its end is the driver's
    news: int  # read end
    scratch: str | None  # folder for the files of a cluster of our own


class Driver:
    """Hands tasks to Ray, and what came of them to the dispatcher."""

    def __init__(self, config: EngineConfig, folder: Path, ends: Ends) -> None:
        """Remember what a run needs, and where to report."""
        self.config = config
        self.folder = folder
        self.ends = ends
        self.environ = dict(os.environ)  # before Ray adds to it
        self.refs: dict[str, Any] = {}  # by the name of the attempt
        self.over: deque[str] = deque()  # filled by a thread of Ray's
        self.wake = os.pipe()

    def work(self) -> None:
        """Connect, and serve until the dispatcher has no more orders."""
        try:
            self.connect()
        except Exception as error:  # whatever Ray raises
            self.tell(failed=in_short(error))
            return
        room = self.room()
        if not room and self.ends.scratch is not None:
            self.tell(failed=f"this machine has not {needs(self.config)}")
            return
        self.tell(ready=room, nodes=len(self.nodes()))
        for order in self.orders():
            self.obey(order)
        self.end_all()
        self.ray.shutdown()

    def connect(self) -> None:
        """Join the cluster, or start one."""
        address = address_of(self.config)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "WARNING"}
        if address is None:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            if MODE not in os.environ:  # nobody else is to use it
                os.environ[MODE], os.environ[TOKEN] = "token", secrets.token_hex(32)
            options |= {"address": "local", "include_dashboard": False}
            options |= {"num_cpus": usable_cpus(), "object_store_memory": OBJECTS}
            options["_temp_dir"] = self.ends.scratch
        else:
            options["address"] = address
        import ray
        from ray import cloudpickle

        ray.init(**options)
        self.ray = ray
        cloudpickle.register_pickle_by_value(ray_node)
        given = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        # A GPU's worker would else end with each task: it is the runner that touches the device.
        self.remote = ray.remote(max_calls=0, max_retries=0, **given)(ray_node.on_node)
        gpus = bool(self.gpus)
        common = {"folder": str(self.folder), "environ": self.environ, "gpus": gpus}
        self.common = ray.put({**common, "cwd": working_folder(self.folder)})

    @property
    def cpus(self) -> float:
        """Processors of a run."""
        return 1.0 if self.config.num_cpus is None else self.config.num_cpus

    @property
    def gpus(self) -> float:
        """GPUs of a run."""
        return self.config.num_gpus or 0.0

    def nodes(self) -> list[dict[str, float]]:
        """What each living node has."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def room(self) -> int:
        """How many runs the cluster holds at a time."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return sum(fitting(node, wanted) for node in self.nodes())

    def orders(self) -> Iterator[dict[str, Any]]:
        """Yield orders as they come; report what ends meanwhile."""
        buffer = bytearray()
        while True:
            ready = select.select([self.ends.orders, self.wake[0]], [], [])[0]
            if self.wake[0] in ready:
                self.report()
            if self.ends.orders in ready:
                data = os.read(self.ends.orders, 1 << 16)
                if not data:
                    return
                buffer += data
                yield from guardian.unframe(buffer)

    def obey(self, order: Mapping[str, Any]) -> None:
        """Do what the dispatcher wants."""
        for command, attempt in order.get("run", ()):
            self.start(command, attempt)
        for attempt in order.get("cancel", ()):
            self.cancel(attempt)

    def start(self, command: list[str], attempt: str) -> None:
        """Make a task of an attempt."""
        ref = self.refs[attempt] = self.remote.remote(self.common, command, attempt)

        def note(_: object) -> None:
            self.over.append(attempt)
            os.write(self.wake[1], b".")

        ref.future().add_done_callback(note)

    def cancel(self, attempt: str) -> None:
        """Take a task back, or have its runner end its run; again: at once."""
        if attempt in self.refs:
            self.ray.cancel(self.refs[attempt])

    def report(self) -> None:
        """Tell how tasks ended."""
        os.read(self.wake[0], 1 << 16)
        while self.over:
            attempt = self.over.popleft()
            self.tell(over=attempt, **self.outcome(self.refs.pop(attempt)))

    def outcome(self, ref: Any) -> dict[str, Any]:  # noqa: ANN401 - Ray's
        """What came of a task: of ours, or why Ray gave it up."""
        from ray import exceptions

        try:
            found: dict[str, Any] = self.ray.get(ref)
        except exceptions.TaskCancelledError:
            return {"canceled": True}
        except exceptions.RayTaskError as error:
            return {"problem": in_short(error.cause)}
        except exceptions.RayError as error:
            return {"lost": in_short(error)}
        return found

    def end_all(self) -> None:
        """End what still runs, and wait for that: at first politely."""
        end = time.monotonic() + GRACE_S
        for turn in range(2):
            for attempt in list(self.refs):
                self.cancel(attempt)
            while self.refs and time.monotonic() < end + turn * GRACE_S:
                if select.select([self.wake[0]], [], [], 1.0)[0]:
                    self.report()

    def tell(self, **news: Any) -> None:  # noqa: ANN401 - plain values
        """Write to the dispatcher, which may have gone."""
        data = memoryview(guardian.frame(news))
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self.ends.news, data) :]


def fitting(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many runs fit on a node."""
    fit = [math.floor(node.get(key, 0.0) / need + 1e-6) for key, need in needs.items() if need]
    return min(fit, default=int(node.get("CPU", 1.0)))


def working_folder(otherwise: Path) -> str:
    """Where we are; it may be gone."""
    try:
        return str(Path.cwd())
    except OSError:
        return str(otherwise)


def in_short(error: BaseException) -> str:
    """What people get to read of an error of Ray's, which explains itself at length."""
    said = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__
