"""Which devices runs get. The GPUs are stand-ins: an nvidia-smi script and a small NVML library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from gpu_stubs import FakeGpu, FakePart, Machine, needs_compiler
from hypothesis import given
from hypothesis import strategies as st

from engram.errors import DeviceError
from engram.grid import device_memory, device_query, device_slots, devices
from engram.grid.device_memory import memory_per_device, pack
from engram.grid.device_slots import Slot, remarks, slots, usable_cpus
from engram.grid.devices import Choice, Device

LIB = Path(__file__).resolve().parents[2] / "lib"
A = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
B = "GPU-3f2a11aa-0000-4106-c12f-20bd9faed9f6"
PARTS = [
    FakePart("MIG-11111111-0000-5000-8000-000000000001", instance=3),
    FakePart("MIG-22222222-0000-5000-8000-000000000002", instance=4, total_mib=35000),
]
NO_TOOL = {"tool": "/nowhere/nvidia-smi", "library": "/nowhere/libnvidia-ml.so.1"}


def choose(configured=None, shown=None, **options):
    """Choose on a machine without GPUs, unless `options` name stand-ins."""
    environ = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    environ |= options.pop("environ", {})
    return devices.choose(configured, environ, **{**NO_TOOL, **options})


def visible(choice):
    return [device.visible for device in choice.devices]


@pytest.fixture
def machine(tmp_path):
    """A machine of two GPUs; what shows them is put in place by the test."""
    return Machine(tmp_path, [FakeGpu(A), FakeGpu(B, total_mib=80000, free_mib=60000)])


def seen_by(machine):
    return {"tool": machine.tool, "library": machine.library}


# What is configured


def test_a_configured_list_is_believed_where_there_is_no_gpu_at_all():
    choice = choose([0, "7"])
    assert visible(choice) == ["0", "7"]
    assert [device.label for device in choice.devices] == ["gpu 0", "gpu 7"]
    assert [device.key for device in choice.devices] == ["HOSTINDEX-0", "HOSTINDEX-7"]
    assert (choice.source, choice.hidden) == ("DEVICES", False)


def test_a_configured_list_is_believed_against_what_the_machine_shows(machine):
    machine.with_tool()
    assert visible(choose([5], **seen_by(machine))) == ["5"]


@pytest.mark.parametrize("configured", [[0, 1], (0, 1), ["0", "1"], "0,1", [" 0", "01"]])
def test_numbers_are_positions_inside_a_restricted_list(configured):
    assert visible(choose(configured, "2,3")) == ["2", "3"]
    assert visible(choose(configured, f"{A},{B}")) == [A, B]


@pytest.mark.parametrize(("shown", "count"), [("2,3", 2), ("", 0), ("-1", 0), ("5,-1,6", 1)])
def test_a_position_outside_a_restricted_list_is_refused(shown, count):
    with pytest.raises(DeviceError) as caught:
        choose([0, 2], shown, where="DEVICES in grid.py")
    said = f"DEVICES in grid.py names {2 if count else 0}, but CUDA_VISIBLE_DEVICES={shown!r}"
    assert f"{said} shows {count}" in str(caught.value)


@pytest.mark.parametrize("name", [A, "GPU-8932", "MIG-GPU-8932f937-d72c/1/2", PARTS[0].uuid])
@pytest.mark.parametrize("shown", [None, "2,3", ""])
def test_names_pass_through(name, shown):
    choice = choose([name], shown)
    assert visible(choice) == [name]
    assert choice.order is None


@pytest.mark.parametrize("configured", [[], (), "", " ", "-1", [-1], ["-1"]])
@pytest.mark.parametrize("shown", [None, "0,1"])
def test_none_can_be_configured(configured, shown, machine):
    machine.with_tool()
    choice = choose(configured, shown, **seen_by(machine))
    assert (choice.devices, choice.hidden, choice.source) == ((), True, "DEVICES")
    assert machine.calls == []


@pytest.mark.parametrize(
    "item", [True, 1.5, None, -2, "cuda:0", "gpu0", "GPU-", "GPU-xyz", "", "0-3", "MIG-", b"0", "²"]
)
def test_what_is_no_device_is_refused(item):
    with pytest.raises(DeviceError, match="DEVICES names .*expected an index such as 0, or a name"):
        choose([item, 0])


@pytest.mark.parametrize("configured", [2, True, {"a": 1}, {0, 1}, 1.5])
def test_what_is_no_list_is_refused(configured):
    with pytest.raises(DeviceError, match="expected a list"):
        choose(configured)


def test_minus_one_among_others_is_refused():
    with pytest.raises(DeviceError, match="names -1 among others"):
        choose([0, -1, 1])


@pytest.mark.parametrize(
    ("configured", "shown"),
    [([0, 0], None), ([0, "0"], None), ([1, 1], "2,3"), ([A, A], None), (None, "1,1"), ([2], "4,4")]
    + [([2, 2], "4,5,6"), (["2", "02"], None)],
)
def test_a_device_twice_is_refused(configured, shown):
    with pytest.raises(DeviceError, match="twice|shows 2"):
        choose(configured, shown)


@pytest.mark.parametrize("twice", [[0, A], [A, "GPU-8932"], ["GPU-8932F937", 0]])
def test_a_device_under_two_names_is_refused(twice, machine):
    machine.with_tool()
    with pytest.raises(DeviceError, match="names a device twice: .* and "):
        choose(twice, **seen_by(machine))


# CUDA_VISIBLE_DEVICES


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("0", ["0"]),
        ("2,1", ["2", "1"]),
        (" 3 , 1 ", ["3", "1"]),
        ("0,2,-1,1", ["0", "2"]),  # the example of NVIDIA's own documentation
        ("0,,1", ["0"]),
        ("0,GPU-8932f937", ["0"]),
        ("GPU-8932f937,0", ["GPU-8932f937"]),
        ("GPU-8932f937,MIG-1234", ["GPU-8932f937"]),
        (f"{A},{B}", [A, B]),
        ("MIG-GPU-8932f937/1/2,nonsense,MIG-GPU-8932f937/3/4", ["MIG-GPU-8932f937/1/2"]),
        ("1gpu2,2ampere", ["1", "2"]),
        ("+1", ["1"]),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(shown, expected):
    choice = choose(None, shown)
    assert visible(choice) == expected
    assert (choice.source, choice.hidden) == ("CUDA_VISIBLE_DEVICES", False)


@pytest.mark.parametrize("shown", ["", "-1", "NoDevFiles", "none", ",", "-1,0", " "])
def test_the_variable_can_mean_none(shown, machine):
    machine.with_tool()
    choice = choose(None, shown, **seen_by(machine))
    assert (choice.devices, choice.hidden) == ((), True)


# What is found


@needs_compiler
def test_the_order_of_truth(machine):
    other = FakeGpu("GPU-00000000-7777-4106-c12f-20bd9faed9f6")
    Machine(machine.folder, [other]).with_tool()
    machine.with_library()
    both = seen_by(machine)

    assert visible(choose([1], "4,5", **both)) == ["5"]
    assert visible(choose(None, "4,5", **both)) == ["4", "5"]
    found = choose(None, None, **both)
    assert (visible(found), found.source) == ([A, B], "NVML")
    Path(machine.library).unlink()
    found = choose(None, None, **both)
    assert (visible(found), found.source) == ([other.uuid], "nvidia-smi")
    Path(machine.tool).unlink()
    assert choose(None, None, **both) == Choice((), "")


@pytest.mark.parametrize("source", ["nvidia-smi", pytest.param("NVML", marks=needs_compiler)])
def test_divided_gpus_are_replaced_by_their_parts(tmp_path, source):
    machine = Machine(tmp_path, [FakeGpu(A), FakeGpu(B, parts=PARTS)])
    _ = machine.with_tool() if source == "nvidia-smi" else machine.with_library()
    found = choose(**seen_by(machine))

    assert found.source == source
    assert visible(found) == [A, PARTS[0].uuid, PARTS[1].uuid]
    assert [device.key for device in found.devices] == visible(found)
    assert [device.label for device in found.devices] == ["gpu 0", "gpu 1 mig 0", "gpu 1 mig 1"]
    tells = [18000, 35000] if source == "NVML" else [None, None]
    assert [device.memory_mib for device in found.devices] == [143771, *tells]
    assert found.order is None  # UUIDs mean the same in every order


@needs_compiler
def test_a_lost_gpu_leaves_the_others_their_numbers(tmp_path):
    machine = Machine(tmp_path, [FakeGpu(A, lost=True), FakeGpu(B)]).with_library()
    (device,) = choose(**seen_by(machine)).devices
    assert (device.visible, device.label) == (B, "gpu 1")
    assert [device.key for device in choose([1, 0], **seen_by(machine)).devices] == [
        B,
        "HOSTINDEX-0",
    ]


@needs_compiler
def test_a_divided_gpu_without_parts_is_no_device(tmp_path):
    machine = Machine(tmp_path, [FakeGpu(A, parts=[]), FakeGpu(B)]).with_library()
    assert visible(choose(**seen_by(machine))) == [B]


@needs_compiler
@pytest.mark.parametrize("init", ["return 9;", "_exit(3);", "sleep(60); return 0;"])
def test_nvidia_smi_is_asked_where_nvml_does_not_answer(machine, init, monkeypatch):
    monkeypatch.setattr(device_query, "TIMEOUT_S", 0.5)
    machine.with_library(init).with_tool()
    found = choose(**seen_by(machine))
    assert (found.source, visible(found)) == ("nvidia-smi", [A, B])


def test_nvidia_smi_that_fails_is_told(machine):
    machine.with_tool(broken=True)
    choice = choose(**seen_by(machine))
    assert (choice.devices, choice.hidden) == ((), False)
    (said,) = remarks(choice)
    assert "Driver/library version mismatch" in said


LOOK = """\
import json, os, sys
before = set(os.listdir("/proc/self/fd"))
from engram.grid.devices import choose
found = [device.visible for device in choose(None, {}, tool="none").devices]
print(json.dumps({
    "found": found,
    "modules": [name for name in ("ctypes", "torch", "subprocess") if name in sys.modules],
    "mapped": "libnvidia" in open("/proc/self/maps").read(),
    "open": sorted(set(os.listdir("/proc/self/fd")) - before),
    "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
}))
"""


@needs_compiler
def test_nvml_is_found_by_the_loader_and_leaves_nothing_behind(machine):
    machine.with_library('fopen("/dev/zero", "r"); return 0;')
    done = subprocess.run(
        [sys.executable, "-S", "-c", LOOK],
        env={"PYTHONPATH": str(LIB), "LD_LIBRARY_PATH": str(machine.folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    nothing = {"modules": [], "mapped": False, "open": [], "children": ""}
    assert json.loads(done.stdout) == {"found": [A, B], **nothing}


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="this machine has no nvidia-smi")
def test_real_gpus_are_those_that_nvidia_smi_lists():
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    by_nvml = devices.choose(None, {}, tool="none")
    by_tool = devices.choose(None, {}, library="none")
    assert by_nvml.source == "NVML"
    assert visible(by_nvml) == visible(by_tool) != []
    assert all(f"(UUID: {name})" in listed for name in visible(by_nvml))
    room = memory_per_device(visible(by_nvml), tool="none")
    assert all(0 < room[name].free_mib <= room[name].total_mib for name in visible(by_nvml))


# What leases are called, and how CUDA is told to count


def test_keys_are_whole_uuids_where_they_can_be_learned(machine):
    machine.with_tool()
    keys = [device.key for device in choose([1, "GPU-8932"], **seen_by(machine)).devices]
    assert keys == [B, A]
    assert [device.key for device in choose(None, "1", **seen_by(machine)).devices] == [B]
    assert choose([1], **seen_by(machine)).devices[0].memory_mib == 80000


def test_a_name_that_fits_no_gpu_is_its_own_key(machine):
    machine.with_tool()
    keys = [device.key for device in choose(["GPU-ABCD", 9], **seen_by(machine)).devices]
    assert keys == ["GPU-abcd", "HOSTINDEX-9"]


@needs_compiler
def test_older_names_of_mig_devices_and_the_divided_gpu_itself_mean_the_part(tmp_path):
    machine = Machine(tmp_path, [FakeGpu(A, parts=PARTS), FakeGpu(B)]).with_library()
    keys = [device.key for device in choose([f"MIG-{A}/4/0", A], **seen_by(machine)).devices]
    assert keys == [PARTS[1].uuid, PARTS[0].uuid]


@pytest.mark.parametrize("order", ["FASTEST_FIRST", "PCI_BUS_ID"])
def test_an_index_of_unlike_gpus_is_known_only_in_the_order_of_the_bus(tmp_path, order):
    machine = Machine(tmp_path, [FakeGpu(A), FakeGpu(B, name="NVIDIA T4")]).with_tool()
    choice = choose([1], environ={"CUDA_DEVICE_ORDER": order}, **seen_by(machine))
    assert choice.devices[0].key == (B if order == "PCI_BUS_ID" else "HOSTINDEX-1")
    assert choice.order is None


@pytest.mark.parametrize(("configured", "shown"), [([0], None), (None, "2"), ([0], "2")])
def test_cuda_counts_as_nvidia_smi_unless_the_shell_says_otherwise(configured, shown):
    (slot,) = slots(choose(configured, shown))
    assert slot.environ()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    environ = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    (slot,) = slots(choose(configured, shown, environ=environ))
    assert "CUDA_DEVICE_ORDER" not in slot.environ()


def test_labels_are_short_and_never_alike():
    labels = [device.label for device in choose([A, B, "MIG-GPU-8932f937-d72c/1/2"]).devices]
    assert labels == ["GPU-8932f937", "GPU-3f2a11aa", "MIG-GPU-8932f937/1/2"]
    alike = ["GPU-8932f937-1", "GPU-8932f937-2"]
    assert [device.label for device in choose(alike).devices] == alike


# Slots


def fake(count):
    return Choice(tuple(Device(str(n), f"gpu {n}", f"KEY-{n}") for n in range(count)), "DEVICES")


def test_slots_go_round_the_devices_first():
    found = slots(fake(2), slots_per_device=3)
    assert [slot.label for slot in found] == [
        "gpu 0 slot 0",
        "gpu 1 slot 0",
        "gpu 0 slot 1",
        "gpu 1 slot 1",
        "gpu 0 slot 2",
        "gpu 1 slot 2",
    ]
    assert {slot.per_device for slot in found} == {3}


def test_one_slot_is_called_as_its_device():
    assert [slot.label for slot in slots(fake(2))] == ["gpu 0", "gpu 1"]


def test_a_run_of_several_devices_gets_neighbors():
    found = slots(fake(5), devices_per_run=2, slots_per_device=2)
    shown = [slot.environ()["CUDA_VISIBLE_DEVICES"] for slot in found]
    assert shown == ["0,1", "2,3", "0,1", "2,3"]
    assert remarks(fake(5), 2) == ["gpu 4 stays unused: 5 devices in groups of 2"]
    assert remarks(fake(4), 2) == []


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_devices_are_refused(count):
    with pytest.raises(DeviceError, match=f"a run needs 2 devices, but there are {count}"):
        slots(fake(count), devices_per_run=2)


@pytest.mark.parametrize("option", ["slots_per_device", "devices_per_run"])
@pytest.mark.parametrize("number", [-1, 65])
def test_numbers_out_of_range_are_refused(option, number):
    with pytest.raises(DeviceError, match=f"{option} is {number}"):
        slots(fake(2), **{option: number})


@given(st.integers(0, 20), st.integers(1, 5), st.integers(1, 4))
def test_slots_share_out_whole_devices_and_no_more(count, share, each):
    if count < each:
        return
    used = {}
    for slot in slots(fake(count), slots_per_device=share, devices_per_run=each):
        for device in slot.devices:
            used[device.key] = used.get(device.key, 0) + Fraction(1, slot.per_device)
    assert set(used.values()) == {1}
    assert len(used) == count - count % each


def test_several_mig_devices_for_one_run_are_told():
    choice = choose(["MIG-1", "MIG-2"])
    assert any("only one MIG device" in text for text in remarks(choice, 2))
    assert remarks(choice) == []


def test_without_devices_the_processor_has_the_slots():
    assert [slot.label for slot in slots(choose(), cpus=3)] == [
        "cpu slot 0",
        "cpu slot 1",
        "cpu slot 2",
    ]
    assert len(slots(choose(), cpus=9, threads=4)) == 2
    assert len(slots(choose(), cpus=1, threads=4)) == 1
    assert len(slots(choose(), cpus=2, slots_per_device=5)) == 5
    assert [slot.label for slot in slots(choose(), cpus=1)] == ["cpu"]


@pytest.mark.parametrize(
    ("configured", "shown", "environ"),
    [
        (None, None, {}),
        ([], None, {"CUDA_VISIBLE_DEVICES": ""}),
        ([-1], "0,1", {"CUDA_VISIBLE_DEVICES": ""}),
        (None, "-1", {"CUDA_VISIBLE_DEVICES": ""}),
        ([A], None, {"CUDA_VISIBLE_DEVICES": A}),
        ([1], f"{A},{B}", {"CUDA_VISIBLE_DEVICES": B}),
    ],
)
def test_gpus_are_hidden_only_where_somebody_said_none(configured, shown, environ):
    slot, *_ = slots(choose(configured, shown), cpus=2)
    assert slot.environ() == environ
    kept = slot.to_record()
    assert (kept and kept.environ) == (environ or None)


def test_the_record_names_a_slots_devices(machine):
    machine.with_tool()
    slot, *_ = slots(choose([1, 0], **seen_by(machine)), devices_per_run=2)
    kept = slot.to_record()
    assert (kept.visible, kept.labels, kept.keys) == ("1,0", ("gpu 1", "gpu 0"), (B, A))
    assert kept.environ == slot.environ()


def test_processors_are_those_this_process_may_use():
    code = "from engram.grid.device_slots import usable_cpus; print(usable_cpus())"
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(LIB)},
        preexec_fn=lambda: os.sched_setaffinity(0, {one}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "350000 100000\n"}, 3),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 8),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "/proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/x\n1:name=systemd:/\n0::/\n",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "/proc/self/cgroup": "2:cpu:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        ({}, 8),
    ],
)
def test_a_quota_of_the_control_groups_lowers_the_processors(files, expected, monkeypatch):
    monkeypatch.setattr(device_slots, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert usable_cpus() == expected


def test_a_slot_without_devices_is_the_default():
    assert (Slot().label, Slot().environ(), Slot().to_record()) == ("cpu", {}, None)


# Memory


@pytest.mark.parametrize("source", ["nvidia-smi", pytest.param("NVML", marks=needs_compiler)])
def test_memory_is_told_by_key(tmp_path, source):
    machine = Machine(tmp_path, [FakeGpu(A, parts=PARTS), FakeGpu(B, free_mib=1000)])
    _ = machine.with_tool() if source == "nvidia-smi" else machine.with_library()
    found = memory_per_device([B, PARTS[1].uuid, "HOSTINDEX-3"], **seen_by(machine))
    expected = {B: (143771, 1000)}
    if source == "NVML":
        expected[PARTS[1].uuid] = (35000, 17000)
    assert found == expected


def test_memory_of_no_device_is_told_without_gpus():
    assert memory_per_device([A], **NO_TOOL) == {}


@pytest.mark.parametrize(
    ("peak", "total", "expected"),
    [
        (None, 80000, 1),
        (0, 80000, 1),
        (10000, None, 1),
        (90000, 80000, 1),  # what did not fit alone is still tried alone
        (35488, 80000, 2),  # 2 * (35488 + 512) = 72000 = 90 % of 80000
        (35489, 80000, 1),
        (1, 143771, 64),
        (7488, 80000, 9),
    ],
)
def test_as_many_runs_as_fit_with_headroom(peak, total, expected):
    assert pack(peak, total) == expected


@given(st.integers(1, 200_000), st.integers(1, 200_000), st.floats(0, 0.9))
def test_packed_runs_leave_the_headroom_free(peak, total, headroom):
    number = pack(peak, total, headroom)
    room = total * (1 - headroom)
    each = peak + device_memory.OVERHEAD_MIB
    assert number == 1 or number * each <= room
    assert number == device_slots.MOST_SLOTS or (number + 1) * each > room
