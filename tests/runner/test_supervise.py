"""Signals, timeouts, logs, and the end of everything that a run has started: real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest
from supervision import Bench, until

from engram import guardian
from engram.supervise import Supervisor
from engram.watch import DOUBLE_PRESS_S

# A child, a grandchild, a daemon forked twice, and one in its own group that ignores signals.
FAMILY = """
    import os, signal, subprocess, sys, time
    deaf = "import signal, time\\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\\n"
    deaf += "open('deaf', 'w').close()\\ntime.sleep(600)"
    subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
    subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"])
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 3)
            time.sleep(600)
        os._exit(0)
    while not os.path.exists("deaf"):
        time.sleep(0.005)
    print("up", flush=True)
    time.sleep(600)
"""
LINGER = "import time\nprint('up', flush=True)\ntime.sleep(600)"


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()
    assert until(lambda: not made.living(), 50.0), made.living()


def wait_up(bench, runner):
    assert until(lambda: "up" in bench.log() or runner.poll() is not None)
    assert runner.poll() is None


def guardian_of(runner):
    text = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(runner.pid)], capture_output=True, text=True
    ).stdout
    return next(int(line.split()[0]) for line in text.splitlines() if "engram-guard" in line)


@pytest.mark.parametrize(
    ("signum", "group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGHUP, True)],
)
def test_a_signal_to_the_runner_interrupts_and_leaves_no_process(bench, signum, group):
    runner = bench.runner(FAMILY)
    wait_up(bench, runner)
    (os.killpg if group else os.kill)(runner.pid, signum)
    runner.wait(300)

    assert bench.living() == []
    assert bench.outcome()["state"] == "interrupted"
    assert bench.outcome()["signal_received"] == signum


def test_ctrl_c_reaches_the_script_as_keyboard_interrupt(bench):
    body = "import time\ntry:\n    print('up', flush=True)\n    time.sleep(600)\n"
    body += "except KeyboardInterrupt:\n    open('saved', 'w').close()"
    runner = bench.runner(body)
    wait_up(bench, runner)
    os.kill(runner.pid, signal.SIGINT)
    runner.wait(300)

    assert (bench.run.outputs / "saved").exists()
    assert bench.outcome()["state"] == "interrupted"


def test_second_ctrl_c_ends_a_script_that_does_not_listen(bench):
    body = "import signal\nsignal.signal(2, lambda *a: print('heard', flush=True))\n"
    body += "print('up', flush=True)\nwhile True:\n    signal.pause()"
    runner = bench.runner(body, grace_s=60.0)
    wait_up(bench, runner)
    os.kill(runner.pid, signal.SIGINT)
    pressed = time.monotonic()
    assert until(lambda: "heard" in bench.log())
    assert until(lambda: time.monotonic() - pressed > 2 * DOUBLE_PRESS_S)
    os.kill(runner.pid, signal.SIGINT)

    assert until(lambda: runner.poll() is not None, 50.0)
    assert bench.outcome()["exit"]["signal"] == "SIGKILL"
    assert bench.outcome()["state"] == "interrupted"


def test_a_script_that_ignores_sigterm_is_killed_after_the_grace(bench):
    body = "import signal\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\n"
    body += "while True:\n    signal.pause()"
    runner = bench.runner(body, grace_s=0.3)
    wait_up(bench, runner)
    os.kill(runner.pid, signal.SIGTERM)
    runner.wait(300)

    assert bench.outcome()["exit"]["signal"] == "SIGKILL"


def test_nohup_keeps_the_run_alive_when_the_terminal_goes(bench):
    runner = bench.runner(
        "import time\nprint('up', flush=True)\nwhile not __import__('os').path.exists('go'):\n"
        "    time.sleep(0.01)",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_up(bench, runner)
    os.kill(runner.pid, signal.SIGHUP)
    (bench.run.outputs / "go").touch()
    runner.wait(300)

    assert bench.outcome()["state"] == "completed"


def test_timeout_ends_the_run_as_timed_out(bench):
    outcome = bench.supervise(LINGER, timeout_s=0.3)

    assert (outcome.state, outcome.signal_received) == ("timed_out", None)
    assert 0.3 <= outcome.usage["wall_s"] < 5


def test_kill_9_of_the_runner_leaves_no_process(bench):
    runner = bench.runner(FAMILY)
    wait_up(bench, runner)
    assert len(bench.living()) >= 8, "runner, guardian, child, and its family of five"
    runner.kill()
    runner.wait()

    assert until(lambda: not bench.living(), 50.0), bench.living()


def test_kill_9_of_the_runner_at_random_moments_leaves_no_process(bench):
    rng = random.Random(1)
    for _ in range(10):
        bench.run.log_out.unlink(missing_ok=True)
        runner = bench.runner(FAMILY)
        if rng.random() < 0.7:
            until(lambda: False, rng.uniform(0.0, 0.4))
        else:
            until(lambda: "up" in bench.log())
        os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()

        assert until(lambda: not bench.living(), 50.0), bench.living()


def test_kill_9_of_the_guardian_ends_the_run_as_killed(bench):
    runner = bench.runner(FAMILY)
    wait_up(bench, runner)
    os.kill(guardian_of(runner), signal.SIGKILL)

    assert until(lambda: len(bench.living()) <= 1, 50.0), bench.living()
    runner.wait(300)
    assert bench.living() == []
    assert bench.outcome()["state"] == "killed"
    assert "guardian" in bench.outcome()["exit"]["cause"]


def test_kill_9_of_the_child_is_seen_and_its_family_ends(bench):
    runner = bench.runner(FAMILY.replace('print("up"', 'print("up", os.getpid()'))
    wait_up(bench, runner)
    os.kill(int(bench.log().split()[1]), signal.SIGKILL)
    runner.wait(300)

    assert bench.living() == []
    assert bench.outcome()["state"] == "killed"
    assert bench.outcome()["exit"]["signal"] == "SIGKILL"


def test_processes_left_behind_are_ended_and_named(bench):
    outcome = bench.supervise(
        "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"
    )

    assert outcome.state == "completed"
    assert [name.split()[0] for name in outcome.strays] == ["sleep"]


def test_a_process_that_ends_by_itself_is_no_stray(bench):
    outcome = bench.supervise("import subprocess; subprocess.Popen(['sleep', '0.05'])")

    assert outcome.strays == []


def test_a_process_that_is_still_at_work_on_its_end_is_no_stray(bench, monkeypatch):
    monkeypatch.setattr(guardian, "NATURAL_END_S", 0.0)
    monkeypatch.setattr(guardian, "BUSY_END_S", 120.0)
    busy = "import time\nwhile time.process_time() < 0.3:\n    pass\nopen('ended', 'w').close()"
    outcome = bench.supervise(
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {busy!r}])"
    )

    assert outcome.strays == []
    assert (bench.run.outputs / "ended").exists()


def test_a_stray_that_works_for_ever_is_ended(bench, monkeypatch):
    monkeypatch.setattr(guardian, "BUSY_END_S", 0.2)
    spin = "while True:\n    pass"
    outcome = bench.supervise(
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {spin!r}])"
    )

    assert len(outcome.strays) == 1


def test_abandoned_child_ends_silently(bench, capfd):
    began = time.monotonic()
    Supervisor.start().abandon()

    assert time.monotonic() - began < 60
    assert capfd.readouterr() == ("", "")


def test_raw_bytes_reach_the_logs_unchanged(bench):
    data = bytes(range(256)) + b"\r 10%\r 20%\x00\xff\xfe\n" + b"no newline at the end"
    outcome = bench.supervise(f"import os\nos.write(1, {data!r})\nos.write(2, {data!r})")

    assert outcome.state == "completed"
    assert bench.run.log_out.read_bytes() == data
    assert bench.run.log_err.read_bytes() == data


def test_output_is_shown_as_it_is(bench):
    data = bytes(range(256)) * 100
    body = f"import os\nos.write(1, bytes(range(256)) * 100)\nos.write(2, {b'err'!r})"
    runner = bench.runner(body, show=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    assert runner.communicate(timeout=300) == (data, b"err")


def test_200_mb_of_output_pass_in_bounded_memory(bench):
    body = "import os\nblock = b'x' * (1 << 20)\nfor _ in range(200):\n    os.write(1, block)"
    runner = bench.runner(body, show=True)
    runner.wait(300)

    assert bench.run.log_out.stat().st_size == 200 << 20
    assert bench.outcome()["state"] == "completed"
    assert bench.outcome()["runner_kib"] < 64 * 1024


def test_log_is_readable_while_the_script_runs(bench):
    body = "import time\nprint('first')\nfor i in range(2):\n    print('up', i)\ntime.sleep(600)"
    runner = bench.runner(body)
    wait_up(bench, runner)

    assert until(lambda: bench.log() == "first\nup 0\nup 1\n")
    runner.terminate()
    runner.wait(300)


def test_a_closed_terminal_does_not_end_the_run(bench):
    reader, writer = os.pipe()
    body = "import time\nprint('up', flush=True)\nwhile not __import__('os').path.exists('go'):\n"
    body += "    time.sleep(0.01)\nfor i in range(100000):\n    print(i)"
    runner = bench.runner(body, show=True, stdout=writer, stderr=writer)
    os.close(writer)
    wait_up(bench, runner)
    os.close(reader)
    (bench.run.outputs / "go").touch()
    runner.wait(300)

    assert bench.outcome()["state"] == "completed"
    assert bench.log().endswith("99999\n")


def test_a_terminal_that_takes_nothing_does_not_hold_up_a_signal(bench):
    reader, writer = os.pipe()
    body = "print('up', flush=True)\nwhile True:\n    print('x' * 1000)"
    runner = bench.runner(body, show=True, stdout=writer)
    os.close(writer)
    wait_up(bench, runner)
    os.kill(runner.pid, signal.SIGTERM)
    assert until(lambda: len(bench.living()) <= 1, 50.0), bench.living()
    os.close(reader)
    runner.wait(300)

    assert bench.outcome()["state"] == "interrupted"


def test_a_full_disk_below_the_logs_is_a_finding(bench):
    bench.run.log_out.symlink_to("/dev/full")
    outcome = bench.supervise("print('lost')\nreturn {'a': 1}")

    assert (outcome.state, outcome.summary) == ("completed", {"a": 1})
    assert [item.code for item in outcome.findings] == ["log_incomplete"]


def test_the_width_of_the_terminal_is_told_only_when_there_is_one(bench):
    pty = pytest.importorskip("pty")
    body = "import os\nprint(os.environ.get('ENGRAM_TERMINAL'))"
    bench.runner(body).wait(300)
    assert bench.log() == "None\n"

    bench.run.log_out.unlink()
    terminal, inner = pty.openpty()
    import termios

    termios.tcsetwinsize(inner, (24, 93))
    runner = bench.runner(body, stderr=inner)
    runner.wait(300)
    os.close(inner)
    os.close(terminal)

    assert bench.log() == "93\n"


def talk(command, answers):
    """Run a command on a terminal of its own; answer each prompt in turn; return all it showed."""
    pty = pytest.importorskip("pty")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    shown, waiting = b"", list(answers)
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        shown += data
        if not data:
            break
        if waiting and shown.endswith(b"(Pdb) "):
            os.write(terminal, waiting.pop(0) + b"\n")
    os.close(terminal)
    os.waitpid(pid, 0)
    return shown


def test_a_debugger_has_the_terminal_in_the_foreground(bench):
    command = bench.command("x = 6\nbreakpoint()\nreturn {'x': x}", foreground=True)
    shown = talk(command, [b"p x * 7", b"c"])

    assert b"42" in shown
    assert bench.outcome()["summary"] == {"x": 6}


def test_the_debugger_opens_where_an_exception_was_raised(bench):
    shown = talk(bench.command("y = 5\n1 / 0", foreground=True), [b"p y * 9", b"q"])

    assert b"45" in shown
    assert bench.outcome()["exit"]["cause"] == "ZeroDivisionError: division by zero"


def test_two_runs_at_once_do_not_hold_each_other_up(bench, tmp_path):
    first, second = Supervisor.start(), Supervisor.start()
    other = Bench(tmp_path / "other")
    options = {"show": False, "timeout_s": 20.0}
    for supervisor, mine in ((first, bench), (second, other)):
        run, script = mine.run, mine.script("print('done')")
        outcome = supervisor.run(
            mine.spec(script), log_out=run.log_out, log_err=run.log_err, audit=run.audit, **options
        )
        assert outcome.state == "completed"
