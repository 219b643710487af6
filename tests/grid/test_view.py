"""What a person sees of a grid: exact lines in a log, a small picture on a real terminal."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from engram.grid import view
from engram.grid.tally import Tally

LIB = Path(view.__file__).parents[2]
WHERE = Path("/runs/20261121T070000.000Z-digits-grid-3f2a9c")
ESCAPES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


def row(name, state="completed", **changes):
    """A row of the table of points."""
    made = {
        "index": 0,
        "name": name,
        "state": state,
        "run_id": f"run-{name}",
        "attempts": 1,
        "device": "gpu 0",
        "seed": 1,
        "started": "2026-11-21T07:00:00.000000+00:00",
        "run_s": 3.2,
        "cause": "main returned" if state == "completed" else "ValueError: it broke",
    }
    return {**made, **changes}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves by hand."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def log(clock):
    """A view that writes lines into a string."""
    return view.make_view(io.StringIO())


def lines(shown):
    return shown.outlet.stream.getvalue().splitlines()


def test_a_log_gets_one_line_for_each_point_that_ends(log):
    log.begin(50, 11, ["gpu 0 slot 0", "gpu 0 slot 1", "gpu 1 slot 0"], WHERE)
    log.started("lr=0.1,seed=2", "gpu 0")
    log.ended(row("lr=0.1,seed=2", **{"summary.accuracy": 0.91}), retry=False)
    log.finish({"completed": 12}, 75.0, WHERE)

    assert lines(log) == [
        "50 points (11 done before) on 3 slots (gpu 0 x 2, gpu 1)",
        f"        {WHERE}",
        "[12/50] lr=0.1,seed=2 completed in 3.20 s on gpu 0  accuracy=0.91",
        "12 of 50 points completed, 38 not run, in 1 min 15 s",
        f"        {WHERE}",
    ]


def test_a_log_says_why_a_point_failed_and_where_its_run_lies(log):
    log.begin(3, 0, ["cpu"], WHERE)
    log.ended(row("a", "failed", device="cpu"), retry=True)
    log.ended(row("a", "timed_out", device="cpu", attempts=2, cause="over 5 s"), retry=False)
    log.ended(row("b", "killed", run_id=None, run_s=None, device=""), retry=False)
    log.finish({"timed_out": 1, "killed": 1, "completed": 1, "pending": 0}, 0.5, WHERE)

    assert lines(log)[2:] == [
        "[0/3] a failed in 3.20 s on cpu: ValueError: it broke; it is tried again",
        f"        {WHERE}/run-a",
        "[1/3] a timed out in 3.20 s on cpu, attempt 2: over 5 s",
        f"        {WHERE}/run-a",
        "[2/3] b killed: ValueError: it broke",
        "1 of 3 points completed, 1 timed out, 1 killed, in 0.50 s",
        f"        {WHERE}",
    ]


def test_a_log_is_never_silent_for_longer_than_half_a_minute(log, clock):
    log.begin(10, 0, ["cpu slot 0", "cpu slot 1"], WHERE)
    log.started("a", "cpu slot 0")
    clock[0] += 10
    log.ended(row("a"), retry=False)
    log.started("b", "cpu slot 0")
    log.started("c", "cpu slot 1")
    before = len(lines(log))
    for _ in range(4 * 65):
        clock[0] += 0.25
        log.tick()

    # Seven wait for 10 s each on two slots; what runs is overdue already.
    assert lines(log)[before:] == [
        "[1/10] 2 running, 7 waiting; 40.0 s elapsed, about 35.0 s left",
        "[1/10] 2 running, 7 waiting; 1 min 10 s elapsed, about 35.0 s left",
    ]


def test_control_characters_reach_no_terminal(log):
    log.begin(1, 0, ["cpu"], WHERE)
    log.ended(row("a", "failed", cause="\x1b[2Jgone\nline"), retry=False)
    log.note("\x07bell")

    assert lines(log)[2].endswith(r"\x1b[2Jgone\nline")
    assert lines(log)[-1] == r"\x07bell"


def test_time_left_is_the_median_times_what_remains_by_slots(clock):
    tally = Tally()
    tally.begin(103, 0, ["a", "b"], WHERE)
    assert tally.left_s() is None
    for spent in (4.0, 5.0, 5000.0):  # one straggler does not count
        tally.started("x", "a")
        clock[0] += spent
        tally.ended(row("x"), retry=False)

    assert tally.left_s() == 100 * 5.0 / 2
    tally.started("y", "a")
    clock[0] += 2
    assert tally.left_s() == (99 * 5.0 + 3.0) / 2


def test_a_point_that_is_tried_again_waits_and_is_not_over(clock):
    tally = Tally()
    tally.begin(2, 0, ["a"], WHERE)
    tally.started("x", "a")
    tally.ended(row("x", "failed"), retry=True)

    assert (tally.over, tally.waiting, len(tally.running), tally.failed) == (0, 2, 0, 0)


def test_extremes_follow_the_metric_and_leave_nan_out(clock):
    tally = Tally()
    tally.begin(4, 0, ["a"], WHERE)
    values = {"p": float("nan"), "q": 0.5, "r": 0.25, "s": True}
    for name, value in values.items():
        tally.ended(row(name, **{"summary.note": "text", "summary.loss": value}), retry=False)

    assert tally.metric == "loss"
    assert (tally.highest, tally.lowest) == ((0.5, "q"), (0.25, "r"))
    assert tally.values(row("t", **{"summary.extra": 1, "summary.loss": 2.0})) == "loss=2 extra=1"


@pytest.mark.parametrize("stream", ["closed", "broken", "absent"])
def test_a_stream_that_is_gone_ends_nothing(stream, tmp_path):
    if stream == "closed":
        gone = io.StringIO()
        gone.close()
    elif stream == "broken":
        reader, writer = os.pipe()
        os.close(reader)
        gone = os.fdopen(writer, "w")
    else:
        gone = None
    outlet = view.Outlet(gone)
    shown = view.Lines(outlet, Tally())
    shown.begin(1, 0, ["cpu"], WHERE)
    shown.ended(row("a"), retry=False)
    shown.finish({"completed": 1}, 1.0, WHERE)

    assert outlet.pending == b""
    if stream == "broken":
        gone.close()


def test_a_reader_that_stopped_holds_nothing_up_and_then_gets_every_line():
    reader, writer = os.pipe()
    shown = view.Lines(view.Outlet(os.fdopen(writer, "w")), Tally())
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    shown.begin(1000, 0, ["cpu"], WHERE)
    for number in range(1000):  # a blocking write would end in the test's timeout
        shown.ended(row(f"point-{number}"), retry=False)
    assert shown.outlet.pending
    got = b""
    while shown.outlet.pending:
        got += os.read(reader, 65536)
        shown.tick()
    shown.outlet.stream.close()
    while piece := os.read(reader, 65536):
        got += piece
    os.close(reader)

    assert re.findall(r"point-(\d+) ", got.decode()) == [str(number) for number in range(1000)]


def test_what_nobody_reads_takes_bounded_memory():
    reader, writer = os.pipe()
    shown = view.Lines(view.Outlet(os.fdopen(writer, "w")), Tally())
    for number in range(20_000):
        shown.note(f"{number} " + "x" * 100)

    assert len(shown.outlet.pending) == view.MOST_PENDING
    assert shown.outlet.pending.endswith(b"19999 " + b"x" * 100 + b"\n")
    os.close(reader)
    shown.outlet.flush(wait=True)  # its reader is gone
    shown.outlet.stream.close()


# ---- a real terminal

DRIVER = """
import sys, time
from pathlib import Path
from engram.grid.view import make_view

where = Path({where!r})
shown = make_view(sys.stderr)
slots = [f"gpu {{i}}" for i in range({slots})]
shown.begin(50, 2, slots, where)
shown.note("a note that stays")

def row(name, state, cause, **summary):
    return {{"index": 0, "name": name, "state": state, "run_id": "run-" + name, "attempts": 1,
            "device": "gpu 0", "seed": 1, "started": None, "run_s": 0.5, "cause": cause,
            **{{"summary." + key: value for key, value in summary.items()}}}}

for slot in slots:
    shown.started("on " + slot, slot)
shown.started("lr=1", "gpu 0")
shown.ended(row("lr=1", "completed", "main returned", accuracy=0.75), retry=False)
shown.started("lr=2", "gpu 0")
shown.ended(row("lr=2", "failed", "ValueError: [bold]it[/bold] broke \\x1b[2J"), retry=False)
for _ in range(20):
    time.sleep(0.05)
    shown.tick()
if not {finish}:
    sys.exit("rude exit")
shown.finish({{"completed": 3, "failed": 1}}, 12.0, where)
print("with rich" if "rich" in sys.modules else "without rich", file=sys.stderr)
"""


class Terminal:
    """As much of a terminal as the display uses, written from its manual."""

    def __init__(self):
        self.lines = [""]
        self.row = self.column = 0
        self.tallest = 0
        self.pictures = []
        self.cursor = True

    def feed(self, text):
        for number, letter, start, down, shown in ESCAPES.findall(text):
            if start:
                self.column = 0
            elif down:
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif letter == "A":
                self.row -= int(number or 1)
                self.pictures.append("\n".join(self.lines))
            elif letter == "K":
                self.lines[self.row] = ""
            elif letter in "hl" and number == "?25":
                self.cursor = letter == "h"
            elif shown:
                line = self.lines[self.row].ljust(self.column)
                end = self.column + len(shown)
                self.lines[self.row] = line[: self.column] + shown + line[end:]
                self.column = end


def on_a_terminal(*, rows=24, columns=80, slots=2, finish=True, **env):
    """Run the driver on a pseudo-terminal; return the bytes, what they drew, the exit code."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    code = DRIVER.format(where=str(WHERE), slots=slots, finish=finish)
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env={**plain, "PYTHONPATH": str(LIB), "TERM": "xterm", **env},
    )
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        written += piece
    os.close(leader)
    code = process.wait()
    terminal = Terminal()
    terminal.feed(written.decode())
    return written.decode(), terminal, code


def test_a_terminal_shows_what_runs_where_and_keeps_a_summary():
    written, terminal, code = on_a_terminal()
    picture = max(terminal.pictures, key=lambda text: text.count("ValueError"))

    assert code == 0
    for text in (
        "4/50  2 running, 44 waiting, 1 failed",
        "elapsed, about",
        "highest accuracy 0.75  lr=1",
        "gpu 1  on gpu 1 ",
        "last  lr=1 completed in 0.50 s on gpu 0  accuracy=0.75",
        r"failed  lr=2: ValueError: [bold]it[/bold] broke \x1b[2J",
        "run-lr=2",
    ):
        assert text in picture
    assert [line.rstrip() for line in terminal.lines if line.strip()] == [
        "50 points (2 done before) on 2 slots (gpu 0, gpu 1)",
        "a note that stays",
        r"failed  lr=2: ValueError: [bold]it[/bold] broke \x1b[2J",
        f"        {WHERE}/run-lr=2",
        "highest accuracy 0.75  lr=1",
        "lowest  accuracy 0.75  lr=1",
        "3 of 50 points completed, 1 failed, 46 not run, in 12.0 s",
        str(WHERE),
        "with rich",
    ]
    assert "\x1b[31m" in written


def test_the_picture_is_small_and_drawn_four_times_a_second_at_most():
    written, terminal, _ = on_a_terminal(slots=64)
    picture = max(terminal.pictures, key=len).splitlines()

    assert "gpu 11  on gpu 11 " in "\n".join(picture)
    assert "and 52 more, 52 points running" in [line.rstrip() for line in picture]
    assert len(picture) - picture.index("a note that stays") - 1 <= 22
    assert max(len(line) for line in picture[2:]) <= 80
    # Twenty ticks in one second, and what is drawn at the beginning, with a note, and at the end.
    assert 4 <= written.count(" elapsed") <= 10


@pytest.mark.parametrize(("rows", "columns"), [(8, 30), (12, 200)])
def test_the_picture_fits_any_terminal(rows, columns):
    _, terminal, code = on_a_terminal(rows=rows, columns=columns, slots=20)
    below = [text.partition("a note that stays\n")[2] for text in terminal.pictures]

    assert code == 0
    assert max(len(text.splitlines()) for text in below) < rows
    assert max(len(line.rstrip()) for text in below for line in text.splitlines()) <= columns


def test_no_color_draws_without_color_and_a_dumb_terminal_gets_lines():
    written, _, _ = on_a_terminal(NO_COLOR="1")
    assert "\x1b[31m" not in written
    assert "with rich" in written
    written, _, _ = on_a_terminal(TERM="dumb")
    assert "\x1b" not in written
    assert "[4/50] lr=2 failed" in written
    assert "without rich" in written


def test_a_display_that_was_never_finished_leaves_a_cursor_on_a_line_of_its_own():
    _, terminal, code = on_a_terminal(finish=False)

    assert code == 1
    assert terminal.cursor
    assert "rude exit" in [line.rstrip() for line in terminal.lines]


def test_a_terminal_that_goes_away_ends_nothing(tmp_path):
    leader, follower = pty.openpty()
    code = DRIVER.format(where=str(WHERE), slots=2, finish=True).rpartition("print(")[0]
    code += f"Path({str(tmp_path / 'reached')!r}).touch()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env={**os.environ, "PYTHONPATH": str(LIB), "TERM": "xterm"},
    )
    os.close(follower)
    os.read(leader, 10)
    os.close(leader)
    process.wait()

    assert process.returncode == 0
    assert (tmp_path / "reached").exists()
