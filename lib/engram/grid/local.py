"""The local engine: one process per slot, and the pipes to them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING, Any

from engram import guardian
from engram.grid import slot as slots
from engram.grid.engine import Ended, Event, Halt, Note, Started, Task, essence, without_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engram.grid.device_slots import Slot
    from engram.grid.devices import Device
    from engram.grid.prepare import Shared

__all__ = ["LocalEngine"]

MIB = 1 << 20


class Seat:
    """One slot, and the process that works in it."""

    def __init__(self, slot: Slot, ends: slots.Ends) -> None:
        """Take over what `slots.fork` made."""
        self.slot = slot
        self.ends = ends
        self.buffer = bytearray()
        self.ready = False
        self.retiring = False  # makes room for more slots, once it is free
        self.task: Task | None = None
        self.run_id: str | None = None

    @property
    def free(self) -> bool:
        """Whether it waits for a task."""
        return self.ready and self.task is None and not self.retiring


class LocalEngine:
    """Points on the devices of this machine."""

    STOPS = "ending what runs (again: at once)"

    def __init__(
        self, shared: Shared, choice: Sequence[Slot], *, most: int, packs: bool = False
    ) -> None:
        """Start the slot processes.

        Args:
            shared: what the points are made of.
            choice: the slots, best first.
            most: how many points there are: more slots are not needed.
            packs: whether the memory that the first point uses says how many share a device.
        """
        self.shared = shared
        self.seats: list[Seat] = []
        self.stopping = False
        self.packs = packs
        self.reserved: dict[tuple[Device, ...], Task] = {}  # devices that one task wants alone
        self.most = most
        self.share = 1  # points on a device, once that is known
        for slot in choice[:most]:
            self._open(slot)

    def _open(self, slot: Slot) -> None:
        self.seats.append(Seat(slot, slots.fork(self.shared, slot, self.shared.paths.slot_log)))

    def free(self) -> int:
        """How many slots wait for a point."""
        return len(self._free())

    def _free(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.free and seat.slot.devices not in self.reserved]

    def start(self, task: Task) -> None:
        """Give a task to a free slot, or reserve a device for one that needs it alone."""
        seat = self._free()[0]
        if task.alone:
            self.reserved[seat.slot.devices] = task
            self._start_alone(seat.slot.devices)
        else:
            self._give(seat, task)

    def _give(self, seat: Seat, task: Task) -> None:
        seat.task, seat.run_id = task, None
        # A slot that has just died is noticed by the end of its news.
        with contextlib.suppress(BrokenPipeError):
            os.write(seat.ends.tasks, guardian.frame({"task": tuple(task)}))

    def _start_alone(self, devices: tuple[Device, ...]) -> None:
        """Start the task that wants these devices alone, once nothing else runs there."""
        there = [seat for seat in self.seats if seat.slot.devices == devices and seat.ready]
        if there and all(seat.task is None for seat in there):
            self._give(there[0], self.reserved[devices])

    def wait(self, timeout_s: float, wake: Sequence[int]) -> list[Event]:
        """Return what the slots had to say."""
        poll = select.poll()
        for descriptor in wake:
            poll.register(descriptor, select.POLLIN)
        for seat in self.seats:
            poll.register(seat.ends.news, select.POLLIN)
        ready = dict(poll.poll(max(0.0, timeout_s) * 1000))
        found: list[Event] = []
        for seat in list(self.seats):
            if seat.ends.news in ready:
                found += self._hear(seat)
        return found

    def _hear(self, seat: Seat) -> list[Event]:
        data = os.read(seat.ends.news, 1 << 16)
        if not data:
            return self._gone(seat)
        seat.buffer += data
        found: list[Event] = []
        for message in guardian.unframe(seat.buffer):
            found += self._events(seat, message)
        return found

    def _events(self, seat: Seat, message: dict[str, Any]) -> list[Event]:
        if "ready" in message:
            seat.ready = True
            if seat.slot.devices in self.reserved:
                self._start_alone(seat.slot.devices)
            return []
        if "note" in message:
            return [Note(message["note"])]
        task = seat.task
        if task is None:
            msg = f"a slot without a task said {message!r}"
            raise RuntimeError(msg)
        if "started" in message:
            seat.run_id = message["started"]
            return [Started(task, message["started"], seat.slot.label)]
        if "halt" in message:
            seat.task = None
            return [Halt(task, message["halt"])]
        record = message["ended"]
        over = Ended(task, record["run_id"], seat.slot.label, record, message["checkpoint"])
        return [over, *self._freed(seat, record)]

    def _freed(self, seat: Seat, record: dict[str, Any]) -> list[Event]:
        """A slot has no task anymore: others may have waited for that."""
        task, seat.task = seat.task, None
        devices = seat.slot.devices
        if self.reserved.get(devices) == task:
            del self.reserved[devices]
        elif devices in self.reserved:
            self._start_alone(devices)
        if seat.retiring:
            self._divide(seat)
        if self.packs and record["state"] == "completed":
            self.packs = False
            return [Note(self._pack(seat, record))]
        return []

    def _pack(self, seat: Seat, record: dict[str, Any]) -> str:
        """Let as many points share each device as fit, by what the first one used."""
        from engram.grid.device_memory import pack

        used = (record["usage"] or {}).get("gpu_memory_bytes")
        total = min((device.memory_mib or 0 for device in seat.slot.devices), default=0)
        self.share = pack(used and used / MIB, total)
        if not used or not total:
            return "memory = 'auto': no device memory could be measured, so one point a device"
        if self.share > 1:
            for other in list(self.seats):
                other.retiring = True
                if other.task is None:
                    self._divide(other)
        return (
            f"memory = 'auto': {seat.slot.label} has {total} MiB, and the first point used "
            f"{used / MIB:.0f} MiB: {self.share} points a device"
        )

    def _divide(self, seat: Seat) -> None:
        """Put several slots in the place of one."""
        self._close(seat)
        for number in range(min(self.share, self.most)):
            self._open(seat.slot._replace(number=number, per_device=self.share))

    def _gone(self, seat: Seat) -> list[Event]:
        """A slot process has ended: as it was asked to, or by a crash."""
        self._close(seat)
        if seat.task is None:
            return []
        if self.reserved.get(seat.slot.devices) == seat.task:
            del self.reserved[seat.slot.devices]
        log = self.shared.paths.slot_log
        cause = f"the process of its slot ended without a word; see {str(log)!r}"
        state = "interrupted" if self.stopping else "killed"
        record = self._record(seat, state, cause)
        if not self.stopping:
            self._open(seat.slot)
        return [Ended(seat.task, seat.run_id, seat.slot.label, record)]

    def _record(self, seat: Seat, state: str, cause: str) -> dict[str, Any]:
        """What became of the run of a slot that died."""
        if seat.run_id is None:
            return without_run(state, cause)
        from engram.paths import RunPaths
        from engram.reconcile import reconcile

        return essence(reconcile(RunPaths(self.shared.paths.folder / seat.run_id)))

    def _close(self, seat: Seat) -> None:
        self.seats.remove(seat)
        for descriptor in (seat.ends.tasks, seat.ends.orders, seat.ends.news):
            os.close(descriptor)
        os.waitpid(seat.ends.pid, 0)

    def prune(self, task: Task, why: str) -> None:
        """Tell the slot of a task; see Engine."""
        for seat in self.seats:
            if seat.task == task:
                order = {"prune": [task.number, task.attempt], "why": why}
                with contextlib.suppress(BrokenPipeError, ProcessLookupError):
                    os.write(seat.ends.orders, guardian.frame(order))
                    os.kill(seat.ends.pid, signal.SIGUSR1)

    def withdraw(self) -> None:
        """See Engine; a slot begins at once with what it takes."""

    def stop(self, *, now: bool) -> None:
        """Have the slots end their runs: SIGTERM first; SIGINT after it kills at once."""
        self.stopping = True
        for seat in self.seats:
            with contextlib.suppress(ProcessLookupError):
                os.kill(seat.ends.pid, signal.SIGINT if now else signal.SIGTERM)

    def close(self) -> None:
        """Send the slots home and wait for them; one that still waits for its device, too."""
        self.stop(now=False)
        for seat in list(self.seats):
            self._close(seat)
