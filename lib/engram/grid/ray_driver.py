"""A process that speaks to Ray for the dispatcher, which stays small and has no threads.

dispatcher --fork--> driver - - Ray - -> worker on a node --exec--> runner

Ray's client library prints as it likes, starts threads, and ends its process when the cluster is
lost: none of that is to happen to the dispatcher.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import secrets
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from engram import errors, guardian
from engram.grid import ray_node
from engram.grid.slot import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engram.settings import EngineConfig

__all__ = ["Ends", "Link", "check", "threads"]

PROBE_S = 5.0  # until a cluster is given up that does not answer at all
CLOSE_S = 60.0  # until a driver is killed that does not end
GRACE_S = 20.0  # until what runs is killed, when the dispatcher has gone
OBJECTS = 100 << 20  # bytes for Ray's objects in a cluster of our own: nothing goes through them
SHORT = 40  # characters of a folder that Ray may put its sockets into
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"


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


class Ends(NamedTuple):
    """A driver as the dispatcher sees it."""

    pid: int
    orders: int  # write end; its end is the driver's
    news: int  # read end
    scratch: str  # folder for Ray's own files


class Link:
    """The dispatcher's side of a driver."""

    def __init__(self, config: EngineConfig, folder: Path, log: Path) -> None:
        """Start a driver.

        Args:
            config: the table [engine].
            folder: that all nodes must see.
            log: what Ray has to say.
        """
        self.log = log
        self.buffer = bytearray()
        self.connected = False
        self.ended = False
        self.ends = fork(config, folder, log)

    def tell(self, **order: Any) -> None:  # noqa: ANN401 - plain values
        """Send an order; a driver that is gone is noticed by the end of its news."""
        data = memoryview(guardian.frame(order))
        while data and not self.ended:
            # It may be about to say something itself, and wait for us to read.
            news = select.select([self.ends.news], [self.ends.orders], [])[0]
            if news:
                self._read()
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                data = data[os.write(self.ends.orders, data) :]

    def hear(self, timeout_s: float, *wake: int) -> list[dict[str, Any]]:
        """Return what the driver had to say.

        Args:
            timeout_s: how long to wait for it.
            wake: descriptors that end the wait when they can be read.
        """
        poll = select.poll()
        for descriptor in wake:
            poll.register(descriptor, select.POLLIN)
        if not self.ended:
            poll.register(self.ends.news, select.POLLIN)
        ready = poll.poll(0 if self.buffer else max(0.0, timeout_s) * 1000)
        if not self.ended and any(descriptor == self.ends.news for descriptor, _ in ready):
            self._read()
        found = guardian.unframe(self.buffer)
        self.connected = self.connected or any("ready" in message for message in found)
        return found

    def _read(self) -> None:
        data = os.read(self.ends.news, 1 << 16)
        self.ended = not data
        self.buffer += data

    def close(self) -> None:
        """Let go of Ray; what runs yet is ended."""
        os.close(self.ends.orders)
        end = time.monotonic() + (CLOSE_S if self.connected else 0.0)
        while not self.ended and time.monotonic() < end:
            self.hear(end - time.monotonic())
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.ends.pid, signal.SIGKILL)
        os.close(self.ends.news)
        os.waitpid(self.ends.pid, 0)
        shutil.rmtree(self.ends.scratch, ignore_errors=True)

    def last_words(self) -> str:
        """What the log says last."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if lines:
                return lines[-1][:300]
        return "without a word"


def fork(config: EngineConfig, folder: Path, log: Path) -> Ends:
    """Start a driver's process."""
    place = tempfile.gettempdir()
    place = place if len(place) <= SHORT else "/tmp"
    scratch = tempfile.mkdtemp(prefix="engram-ray-", dir=place)
    orders, news = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        serve(config, folder, log, Ends(0, orders[0], news[1], scratch))
    os.close(orders[0])
    os.close(news[1])
    os.set_blocking(orders[1], False)
    return Ends(pid, orders[1], news[0], scratch)


def serve(config: EngineConfig, folder: Path, log: Path, ends: Ends) -> NoReturn:
    """Be a driver, to its end."""
    code = 1
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        settle(log, keep={ends.orders, ends.news})
        Driver(config, folder, ends).work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        shutil.rmtree(ends.scratch, ignore_errors=True)
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


class Driver:
    """Hands tasks to Ray, and what came of them to the dispatcher."""

    def __init__(self, config: EngineConfig, folder: Path, ends: Ends) -> None:
        """Remember what a run needs, and where to report."""
        self.config = config
        self.folder = folder
        self.ends = ends
        self.environ = dict(os.environ)  # before Ray adds to it
        self.refs: dict[str, Any] = {}  # by the name of the attempt
        self.wake = os.pipe()
        self.stopped = False

    def work(self) -> None:
        """Connect, and serve until the dispatcher has no more orders."""
        try:
            self.connect()
        except Exception as error:  # whatever Ray raises
            self.tell(failed=first_line(error))
            return
        self.tell(ready=self.room(), nodes=len(self.nodes()))
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
            options |= {"num_cpus": len(os.sched_getaffinity(0)), "object_store_memory": OBJECTS}
            options["_temp_dir"] = self.ends.scratch
        else:
            options["address"] = address
        import ray
        from ray import cloudpickle

        ray.init(**options)
        self.ray = ray
        cloudpickle.register_pickle_by_value(ray_node)
        needs = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        # A GPU's worker would else end with each task: it is the runner that touches the device.
        self.remote = ray.remote(max_calls=0, max_retries=0, **needs)(ray_node.on_node)
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
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        return sum(fitting(node, needs) for node in self.nodes())

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
        ref.future().add_done_callback(lambda _: os.write(self.wake[1], b"."))

    def cancel(self, attempt: str) -> None:
        """Take a task back, or have its runner end its run; again: at once."""
        if attempt in self.refs:
            self.ray.cancel(self.refs[attempt])

    def report(self) -> None:
        """Tell how tasks ended."""
        os.read(self.wake[0], 1 << 16)
        names = {ref: name for name, ref in self.refs.items()}
        over = self.ray.wait(list(names), num_returns=len(names), timeout=0)[0] if names else ()
        for ref in over:
            del self.refs[names[ref]]
            self.tell(over=names[ref], **self.outcome(ref))

    def outcome(self, ref: Any) -> dict[str, Any]:  # noqa: ANN401 - Ray's
        """What came of a task: of ours, or why Ray gave it up."""
        from ray import exceptions

        try:
            found: dict[str, Any] = self.ray.get(ref)
        except exceptions.TaskCancelledError:
            return {"canceled": True}
        except exceptions.RayTaskError as error:
            return {"problem": first_line(error.cause)}
        except exceptions.RayError as error:
            return {"lost": first_line(error)}
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


def first_line(error: BaseException) -> str:
    """What people get to read of an error of Ray's, which explains itself at length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
