"""Leases of devices, between real processes; the devices themselves are only names."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from engram.errors import DeviceError
from engram.grid import device_socket
from engram.grid.device_lease import DeviceLease, Holder, hold, holders
from engram.grid.device_slots import Slot
from engram.grid.devices import Device

LIB = Path(__file__).resolve().parents[2] / "lib"
NOBODY = 65534
START = """\
import json, os, random, signal, subprocess, sys, time
from engram.grid.device_lease import DeviceLease, holders
from engram.grid.device_slots import Slot
from engram.grid.devices import Device

def slot(keys, number=0, of=1):
    return Slot(tuple(Device(key, "gpu " + key[-1], key) for key in keys), number, of)

def tell(value):
    print(json.dumps(value), flush=True)

"""
AS_NOBODY = """\
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""
HOLD = """\
lease = DeviceLease.acquire(slot(sys.argv[1:]))
tell("held")
sys.stdin.read()
"""
FORKED = """\
lease = DeviceLease.acquire(slot(sys.argv[1:]))
child = os.fork()
if child == 0:
    time.sleep(600)
tell(child)
time.sleep(600)
"""
EXECUTED = """\
lease = DeviceLease.acquire(slot(sys.argv[1:]))
tell(subprocess.Popen(["sleep", "600"], close_fds=False).pid)
time.sleep(600)
"""
# Every process is its own witness: when it believed to hold what.
HAMMER = """\
me, until, keys = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
random.seed(me)
seen = []
tell("ready")
sys.stdin.readline()
while time.monotonic() < until or len(seen) < 30:
    of = random.choice([1, 2, 2, 3, 4, 5])
    wanted = random.sample(keys, random.choice([1, 1, 2]))
    lease = DeviceLease.acquire(slot(wanted, random.randrange(of), of))
    begun = time.monotonic_ns()
    time.sleep(random.uniform(0, 0.004))
    seen.append((begun, time.monotonic_ns(), of, wanted))
    lease.release()
tell(seen)
"""


@pytest.fixture
def key(request):
    """The name of a device that no other test and no other user of this machine knows."""
    return f"GPU-test-{os.getpid()}-{time.monotonic_ns()}-0"


@pytest.fixture
def start():
    """Starts processes that speak JSON lines; kills them afterwards."""
    started = []

    def run(code, *arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-c", START + code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(LIB)},
            **options,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def slot(*keys, number=0, of=1):
    devices = tuple(Device(key, f"gpu {key[-1]}", key) for key in keys)
    return Slot(devices, number, of)


def heard(process):
    """The next line of a process, read."""
    return json.loads(process.stdout.readline())


def take(*keys, number=0, of=1, patience_s=0.0, **options):
    return DeviceLease.acquire(slot(*keys, number=number, of=of), patience_s=patience_s, **options)


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_the_shares_of_a_device_never_exceed_it(start, key):
    keys = [key, f"{key[:-1]}1"]
    until = time.monotonic() + 4.0
    hammers = [start(HAMMER, number, until, *keys) for number in range(10)]
    assert [heard(process) for process in hammers] == ["ready"] * 10
    for process in hammers:
        process.stdin.write("\n")
        process.stdin.flush()
    spans = [span for process in hammers for span in heard(process)]

    most = highest_sums(spans)
    assert set(most) == set(keys)
    assert all(sum_ <= 1 for sum_ in most.values()), most
    # ... and that was not because they never met: devices were full, and shared by several.
    assert set(most.values()) == {Fraction(1)}
    assert overlapping(spans) > 10
    assert len(spans) > 100
    assert {of for _, _, of, _ in spans} == {1, 2, 3, 4, 5}
    assert all(holders(name) == [] for name in keys)


def highest_sums(spans):
    """The largest sum of shares on each device at any moment, by the witnesses alone."""
    events = {}
    for begun, ended, of, keys in spans:
        for name in keys:
            events.setdefault(name, []).extend(
                [(begun, Fraction(1, of)), (ended, -Fraction(1, of))]
            )
    found = {}
    for name, changes in events.items():
        total = most = Fraction(0)
        for _, change in sorted(changes):  # at the same nanosecond, the end comes first
            total += change
            most = max(most, total)
        found[name] = most
    return found


def overlapping(spans):
    """How many spans began on a device while another was on it."""
    return sum(any(a[0] < b[0] < a[1] and set(a[3]) & set(b[3]) for a in spans) for b in spans)


def test_the_witness_would_see_a_double_booking():
    assert highest_sums([(0, 5, 2, ["a"]), (4, 9, 1, ["a"])]) == {"a": Fraction(3, 2)}
    assert highest_sums([(0, 5, 1, ["a"]), (5, 9, 1, ["a"])]) == {"a": 1}


@pytest.mark.parametrize("code", [FORKED, EXECUTED], ids=["forked", "executed"])
def test_a_killed_holder_leaves_the_device_free_though_its_child_lives_on(start, key, code):
    process = start(code, key)
    child = heard(process)
    try:
        assert take(key) is None
        process.kill()
        process.wait()
        with take(key, patience_s=60.0) as lease:
            os.kill(child, 0)  # it is alive
            assert lease is not None
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_sees_the_lease_and_is_seen(start, key):
    other = start(AS_NOBODY + HOLD, key)
    assert heard(other) == "held"
    assert holders(key) == [Holder(other.pid, NOBODY, 0, 1)]
    assert take(key) is None
    said = []
    assert take(key, patience_s=1.0, say=said.append) is None
    assert said == [f"waiting for gpu 0: gpu 0 is held by process {other.pid} of nobody"]
    other.stdin.close()
    with take(key, patience_s=60.0):
        attempt = "tell(bool(DeviceLease.acquire(slot(sys.argv[1:]), patience_s=0)))"
        assert heard(start(AS_NOBODY + attempt, key)) is False


def test_unequal_shares_add_up(key):
    with contextlib.ExitStack() as stack:
        for number in (0, 1):
            stack.enter_context(take(key, number=number, of=3))
        assert take(key, of=1) is None
        assert take(key, of=2) is None
        with take(key, of=4) as quarter:
            assert take(key, of=3, number=2) is None
            assert sorted(holders(key)) == [
                Holder(os.getpid(), os.geteuid(), 0, 3),
                Holder(os.getpid(), os.geteuid(), 0, 4),
                Holder(os.getpid(), os.geteuid(), 1, 3),
            ]
            quarter.release()
            quarter.release()
        with take(key, of=3, number=2):
            assert take(key, of=64) is None
    assert holders(key) == []


def test_sixty_four_runs_fill_a_device(key):
    with contextlib.ExitStack() as stack:
        for number in range(64):
            assert stack.enter_context(take(key, number=number, of=64)) is not None
        assert take(key, of=64) is None
        assert len(holders(key)) == 64


def test_another_free_share_is_as_good(key):
    with take(key, number=1, of=3), take(key, number=1, of=3), take(key, number=1, of=3):
        assert sorted(holder.number for holder in holders(key)) == [0, 1, 2]
        assert take(key, number=1, of=3) is None


def test_several_devices_are_taken_all_or_none(start, key):
    first, second = key, f"{key[:-1]}1"
    process = start(HOLD, second)
    assert heard(process) == "held"
    assert take(first, second, patience_s=0.1) is None
    assert holders(first) == []

    free = []
    waiting = start("tell(bool(DeviceLease.acquire(slot(sys.argv[1:]))))", second, first)
    with take(first, patience_s=60.0):  # not held by one who waits for the other
        free.append(True)
    process.stdin.close()
    assert heard(waiting) is True
    assert free == [True]


def test_who_waits_is_woken_by_the_release(start, key):
    process = start(HOLD, key)
    assert heard(process) == "held"
    released = []

    def let_go():
        released.append(time.monotonic())
        process.stdin.close()

    said = []
    timer = threading.Timer(0.6, let_go)
    timer.start()
    with hold(slot(key), say=said.append):
        waited = time.monotonic() - released[0]
    timer.join()
    assert len(said) == 1
    assert f"held by process {process.pid} of " in said[0]
    assert waited < 60.0


def test_a_release_is_noticed_without_looking_again(key, monkeypatch):
    lease = take(key)
    with device_socket.Watch() as watch:
        watch.names([device_socket.address("holder", key, device_socket.Share(1, 0))])
        timer = threading.Timer(0.1, lease.release)
        timer.start()
        begun = time.monotonic()
        watch.wait(600.0)
        assert 0.05 < time.monotonic() - begun < 300.0
        timer.join()


def test_patience_ends_and_so_does_waiting_that_is_called_off(key):
    with take(key):
        begun = time.monotonic()
        assert take(key, patience_s=0.3) is None
        assert 0.25 < time.monotonic() - begun < 60.0
        asked = []
        assert take(key, patience_s=60.0, stop=lambda: len(asked.append(1) or asked) == 3) is None
        assert len(asked) == 3


def test_a_slot_on_the_processor_needs_no_lease():
    before = descriptors()
    with hold(Slot()) as lease, hold(Slot(hidden=True)):
        assert descriptors() == before
        assert isinstance(lease, DeviceLease)


def test_interrupted_waiting_leaves_nothing_held(key):
    first = f"{key[:-1]}9"
    before = descriptors()
    with take(key):
        held = descriptors()

        def interrupt():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            take(key, first, patience_s=60.0, stop=interrupt)
        assert descriptors() == held
        assert holders(first) == []
    assert descriptors() == before


def test_waiting_and_asking_leave_no_descriptor_behind(key):
    before = descriptors()
    with take(key, of=2), take(key, of=2):
        held = descriptors()
        assert take(key, of=2, patience_s=0.6) is None
        holders(key)
        assert descriptors() == held
    assert descriptors() == before


def test_a_crowd_that_waits_does_not_hide_the_holder(key):
    """A full queue of connections hides who holds a device, but never that it is held."""
    with take(key):
        name = device_socket.address("holder", key, device_socket.Share(1, 0))
        with crowd(name):
            assert holders(key) == [Holder(None, None, 0, 1)]
            said = []
            assert take(key, patience_s=1.0, say=said.append) is None
            assert said == ["waiting for gpu 0: gpu 0 is held by another process"]


@contextlib.contextmanager
def crowd(name):
    """Connect until no more connections are taken; the queue is as long as this system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = int(Path("/proc/sys/net/core/somaxconn").read_text()) + 100
    if hard < most:
        pytest.skip("this system allows fewer descriptors than connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    lines = []
    try:
        while True:
            line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            line.setblocking(False)
            lines.append(line)
            if line.connect_ex(name) == errno.EAGAIN:
                break
        yield
    finally:
        for line in lines:
            line.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_name_of_any_length_can_be_held(key):
    long = "MIG-" + "0123456789abcdef" * 20
    with take(long, of=64, number=63):
        assert take(long) is None
        assert take(long[:-1] + "0").release() is None
        assert len(holders(long)) == 1


def test_no_more_descriptors_is_an_error_that_says_so(key):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(DeviceError, match="cannot take the lease of gpu 0: Too many open"):
            take(key)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with take(key) as lease:
        assert lease is not None


def test_a_forked_child_may_take_what_its_parent_lets_go(key):
    """The child of a holder has nothing of the lease, not even a way to end it."""
    reader, writer = os.pipe()
    lease = take(key)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            lease.release()
            lease.release()
            os.write(writer, b"1" if take(key) is None else b"0")
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 120)
    assert ready
    assert os.read(reader, 1) == b"1"
    os.waitpid(child, 0)
    os.close(reader)
    assert len(holders(key)) == 1
    lease.release()
    assert holders(key) == []
