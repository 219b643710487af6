"""The life of a warm interpreter beside its runs: who ends with whom, and who is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from warm_bench import Both, until

from engram import processes
from engram.supervise import Supervisor
from engram.warm import WarmEndedError


@pytest.fixture
def bench(tmp_path):
    made = Both(tmp_path)
    yield made
    made.close()
    assert until(lambda: not made.living(), 50.0), made.living()


def test_an_abandoned_child_ends_silently(bench, capfd):
    bench.script("print('never')")
    bench.start()
    supervisor = Supervisor(bench.warm.spawn())
    supervisor.abandon()

    assert until(lambda: len(bench.living()) == 1), bench.living()  # the warm interpreter
    assert capfd.readouterr() == ("", "")


def test_a_run_of_other_code_or_settings_is_refused(bench):
    bench.script("pass")
    bench.start()
    other = bench.go(bench.warm.spawn(), environ={"OMP_NUM_THREADS": "7"})
    elsewhere = bench.go(bench.warm.spawn(), roots=[str(bench.folder)])

    assert other.state == elsewhere.state == "failed"
    assert "OMP_NUM_THREADS = '1', the run '7'" in other.err[0]
    assert "the warm interpreter has roots" in elsewhere.err[0]


def start_and_wait(bench, body):
    """Start a run in a runner process of its own, which has a warm interpreter; wait for output."""
    bench.script(body)
    runner = os.fork()
    if runner == 0:
        code = 1
        try:
            os.setsid()
            bench.start()
            bench.go(bench.warm.spawn(), timeout_s=60)
            code = 0
        finally:
            os._exit(code)
    assert until(lambda: "up" in bench.log()), bench.living()
    return runner


FAMILY = """
    import os, subprocess, sys, time
    subprocess.Popen(["sleep", "100"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        time.sleep(100)
    print("up", os.getpid(), os.getppid(), flush=True)
    time.sleep(100)
"""


def pids(bench):
    """The child and its guardian, and the zygote above."""
    child, guardian = map(int, bench.log().split()[1:3])
    return child, guardian, processes.process(guardian).ppid


def test_kill_9_of_the_dispatcher_leaves_no_process(bench):
    runner = start_and_wait(bench, FAMILY)
    os.kill(runner, signal.SIGKILL)
    os.waitpid(runner, 0)

    assert until(lambda: not bench.living(), 50.0), bench.living()


def test_kill_9_of_the_guardian_ends_its_run_and_no_other(bench):
    runner = start_and_wait(bench, FAMILY)
    _, guardian, zygote = pids(bench)
    os.kill(guardian, signal.SIGKILL)
    _, status = os.waitpid(runner, 0)

    assert status == 0
    assert until(lambda: not bench.living(), 50.0), bench.living()


def test_a_run_survives_its_zygote_and_is_found_by_its_mark(bench):
    """The runner, alone, kills a family whose guardian and zygote are both gone."""
    runner = start_and_wait(bench, FAMILY)
    _, guardian, zygote = pids(bench)
    os.kill(zygote, signal.SIGKILL)
    assert until(lambda: len(bench.living()) == 4), bench.living()
    assert not until(lambda: len(bench.living()) < 4, 0.3), bench.living()
    os.kill(guardian, signal.SIGKILL)
    os.waitpid(runner, 0)

    assert until(lambda: not bench.living(), 50.0), bench.living()


def test_the_zygote_ends_the_strays_of_a_killed_guardian(bench):
    """Before the runner hears of it: here it is stopped."""
    runner = start_and_wait(bench, FAMILY)
    _, guardian, zygote = pids(bench)
    os.kill(runner, signal.SIGSTOP)
    os.kill(guardian, signal.SIGKILL)

    assert until(lambda: len(bench.living()) == 1, 50.0), bench.living()
    assert processes.process(zygote) is not None
    os.kill(runner, signal.SIGKILL)
    os.waitpid(runner, 0)


def test_the_zygote_ends_with_the_last_sender(bench):
    warm = bench.start()
    os.dup2(os.open(os.devnull, os.O_RDONLY), warm.descriptors[0])

    assert until(lambda: not bench.living(), 50.0), bench.living()


def test_without_its_zygote_the_sender_is_told(bench):
    bench.script("pass")
    warm = bench.start()
    zygote = int(bench.living()[0].split()[0])
    os.kill(zygote, signal.SIGKILL)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(WarmEndedError, match="gone"):
        for _ in range(2):  # the first may still fit into the socket
            Supervisor(warm.spawn()).abandon()

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_zygote_holds_nothing_of_the_dispatcher(bench, tmp_path):
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)
    bench.script("pass")
    bench.start()
    zygote = bench.living()[0].split()[0]
    files = {str(link.readlink()) for link in Path(f"/proc/{zygote}/fd").iterdir()}

    assert files
    assert not [name for name in files if name.startswith(str(tmp_path))]
    os.close(lock)


def test_runs_of_one_zygote_go_on_side_by_side(bench, tmp_path):
    body = "import time, os\nopen(os.environ['MEET'] + str(os.getpid()), 'w')\n"
    body += "while len(os.listdir(os.environ['MEET'])) < 3: time.sleep(0.01)\nreturn {'met': True}"
    meet = tmp_path / "meet"
    meet.mkdir()
    bench.script(body)
    bench.start()
    others = []
    for n in range(2):
        other = Both(tmp_path / str(n))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                other.snapshot, other.variables = bench.snapshot, bench.variables
                spec = {"roots": [str(bench.snapshot)], "snapshot": str(bench.snapshot)}
                spec["bytecode"] = str(bench.run.folder / "bytecode")
                told = other.go(bench.warm.spawn(), environ={"MEET": f"{meet}/"}, **spec)
                code = int(told.summary != {"met": True})
            finally:
                os._exit(code)
        others.append(pid)
    os.environ["BENCH"] = str(bench.run.folder)
    last = bench.go(bench.warm.spawn(), environ={"MEET": f"{meet}/"})

    assert [os.waitpid(pid, 0)[1] for pid in others] == [0, 0]
    assert last.summary == {"met": True}


def test_an_interrupted_start_leaves_nothing(bench, monkeypatch):
    tmp = bench.folder / "tmp"
    tmp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp))
    body = "import os, time\nopen('left', 'w')\nos.makedirs('one/two')\nos.kill(os.getppid(), 2)"
    bench.helper(body + "\ntime.sleep(60)\n")
    with pytest.raises(KeyboardInterrupt):
        bench.start("helper")

    assert until(lambda: not list(tmp.iterdir()), 50.0)
    assert until(lambda: not bench.living(), 50.0), bench.living()
