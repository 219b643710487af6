"""Progress: a bar for a terminal, few plain lines for a log, and never a reason to fail."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engram import progress

LIB = Path(progress.__file__).parents[1]
ESCAPE = "\x1b["


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    monkeypatch.delenv("ENGRAM_TERMINAL", raising=False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves by hand."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_items_pass_through_unchanged_and_are_not_read_ahead(capsys):
    source = iter(range(5))
    seen = []
    for item in progress.track(source, "work"):
        seen.append(item)
        if item == 2:
            break
    assert seen == [0, 1, 2]
    assert next(source) == 3


def test_a_log_gets_the_first_the_last_and_a_line_every_ten_seconds(capsys, clock):
    for _ in progress.track(range(100), "epoch 1"):
        clock[0] += 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ESCAPE not in shown.err
    counts = [int(count) for count in re.findall(r"^epoch 1: (\d+)/100", shown.err, re.MULTILINE)]
    assert counts == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
    assert shown.err.splitlines()[4] == "epoch 1: 41/100 (41 %), 0:41 elapsed, 0:59 left"
    assert shown.err.splitlines()[-1] == "epoch 1: 100/100 (100 %), 1:40 elapsed"


def test_a_quick_loop_prints_two_lines(capsys):
    for _ in progress.track(range(1000), "quick"):
        pass
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_an_unknown_total_is_counted_without_a_share(capsys, clock):
    for _ in progress.track((i for i in range(3)), "stream"):
        clock[0] += 20
    assert capsys.readouterr().err.splitlines() == [
        "stream: 1, 0:20 elapsed",
        "stream: 2, 0:40 elapsed",
        "stream: 3, 1:00 elapsed",
    ]


def test_a_given_total_wins_and_hours_are_written_out(capsys, clock):
    for _ in progress.track((i for i in range(1)), "long", total=2):
        clock[0] += 3725
    assert capsys.readouterr().err == "long: 1/2 (50 %), 1:02:05 elapsed, 1:02:05 left\n"


def test_work_without_steps_is_said_to_be_done(capsys):
    assert list(progress.track([], "nothing")) == []
    assert capsys.readouterr().err == "nothing: 0, 0:00 elapsed\n"


def test_a_loop_that_fails_shows_how_far_it_came(capsys):
    with pytest.raises(KeyError):
        for item in progress.track(range(10), "work"):
            if item == 4:
                raise KeyError(item)
    assert capsys.readouterr().err.splitlines()[-1].startswith("work: 4/10")


def test_a_bar_is_advanced_by_hand(capsys, clock):
    with progress.bar("simulate", total=30) as bar:
        bar.advance(10)
        clock[0] += 11
        bar.advance(15)
        assert bar.done == 25
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "simulate: 10/30 (33 %)",
        "simulate: 25/30 (83 %)",
    ]


@pytest.mark.parametrize("terminal", ["", "80"])
@pytest.mark.parametrize("broken", ["closed", "absent", "ascii"])
def test_an_unusable_standard_error_never_fails_the_work(monkeypatch, capsys, broken, terminal):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    if broken == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", None if broken == "absent" else stream)
    monkeypatch.setenv("ENGRAM_TERMINAL", terminal)
    assert sum(progress.track(range(10), "é")) == 45
    assert capsys.readouterr().out == ""


def test_the_runners_terminal_gets_a_bar_of_its_width(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("ENGRAM_TERMINAL", "60")
    threads = threading.active_count()
    for _ in progress.track(range(20), "epoch [1]"):
        assert threading.active_count() == threads
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ESCAPE in shown.err
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.err)
    assert "epoch [1]" in text
    assert "20/20" in text
    assert max(len(line) for line in re.split(r"[\r\n]", text)) <= 60


@pytest.mark.parametrize("value", ["", "0", "-5", "wide"])
def test_a_width_that_is_no_number_means_no_terminal(monkeypatch, capsys, value):
    monkeypatch.setenv("ENGRAM_TERMINAL", value)
    assert list(progress.track(range(2), "x")) == [0, 1]
    assert ESCAPE not in capsys.readouterr().err


def test_nested_bars_share_one_display(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("ENGRAM_TERMINAL", "80")
    for outer in progress.track(range(2), "outer"):
        for _ in progress.track(range(3), f"inner {outer}"):
            pass
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    for part in ("outer", "2/2", "inner 0", "inner 1", "3/3"):
        assert part in text


def test_the_scripts_own_output_stays_its_own(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("ENGRAM_TERMINAL", "80")
    for _ in progress.track(range(2), "x"):
        print("to stdout [bold]")
    assert capsys.readouterr().out == "to stdout [bold]\n" * 2


def test_a_real_terminal_gets_a_bar():
    pytest.importorskip("rich")
    leader, follower = pty.openpty()
    code = "from engram import progress\nfor _ in progress.track(range(3), 'work'): pass"
    environment = {**os.environ, "PYTHONPATH": str(LIB)}
    subprocess.run([sys.executable, "-c", code], stderr=follower, env=environment, check=True)
    os.close(follower)
    shown = b""
    while b"3/3" not in shown:
        shown += os.read(leader, 4096)
    os.close(leader)
    assert b"work" in shown


def test_works_without_rich_and_without_any_package():
    code = "from engram import progress\nfor _ in progress.track(range(3), 'work'): pass"
    code = f"import sys; sys.path.insert(0, {str(LIB)!r})\n{code}"
    environment = {**os.environ, "ENGRAM_TERMINAL": "80"}
    command = [sys.executable, "-S", "-I", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1].startswith("work: 3/3 (100 %)")
