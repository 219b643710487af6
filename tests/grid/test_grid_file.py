"""A grid file: what it may say, and that nothing it does reaches the process that asks."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import pytest

from engram import config, processes
from engram.errors import ConfigError, StoreError
from engram.grid.draw import draw

ROOT = Path(__file__).resolve().parents[2]
ONE_POINT = "def configurations(base):\n    yield base, 'only'\n"
PATIENCE_S = 120.0


@pytest.fixture
def drawn(tmp_path):
    """Draw from the text of a grid file."""

    def call(text, base=None, *, more=""):
        experiment = tmp_path / "experiment.toml"
        experiment.write_text(f"script = 'work.py'\n{more}")
        path = tmp_path / "here" / "grid.py"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        found = config.load(experiment, root=tmp_path)
        return draw(path, found, {} if base is None else base, tmp_path / "points.jsonl")

    return call


def values(points):
    return [tomllib.loads(points.parameters(index).decode()) for index in range(len(points))]


def refusal(drawn, tmp_path, text, **given):
    """The message, after a look that nothing is left behind."""
    before = (list(sys.path), os.getcwd(), signal.getsignal(signal.SIGINT))  # noqa: PTH109
    with pytest.raises(ConfigError) as caught:
        drawn(text, **given)
    assert not (tmp_path / "points.jsonl").exists()
    assert before == (list(sys.path), os.getcwd(), signal.getsignal(signal.SIGINT))  # noqa: PTH109
    assert str(tmp_path / "here" / "grid.py") in str(caught.value)
    return str(caught.value)


def test_points_come_as_the_generator_yields_them(drawn):
    found = drawn(
        """
        def configurations(base):
            for lr in (0.1, 0.2):
                for seed in range(2):
                    yield {**base, "lr": lr, "seed": seed}, f"lr={lr}-seed{seed}"
        """,
        {"keep": [1, {"a": "b"}]},
    )

    assert found.points.names == ["lr=0.1-seed0", "lr=0.1-seed1", "lr=0.2-seed0", "lr=0.2-seed1"]
    assert values(found.points)[2] == {"keep": [1, {"a": "b"}], "lr": 0.2, "seed": 0}
    assert found.points.varying == ("lr", "seed")
    assert found[2:] == (None,) * 6 + (False, None, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "configurations = lambda base: [(base, 'a'), ({}, 'b')]",
        "def configurations(base): return iter([[base, 'a'], ({}, 'b')])",
        "def configurations(base, number=2): return (({}, c) for c in 'ab')",
        "def configurations(*given): return [(given[0], 'a'), ({}, 'b')]",
        "class Grid:\n    def __call__(self, base):\n        return [(base, 'a'), ({}, 'b')]\n"
        "configurations = Grid()",
    ],
)
def test_any_function_of_base_that_gives_pairs_will_do(drawn, text):
    assert drawn(text).points.names == ["a", "b"]


def test_source_is_the_bytes_that_ran(drawn, tmp_path):
    text = b"# -*- coding: latin-1 -*-\ndef configurations(base):\n    yield {'a': '\xe9'}, 'x'\n"
    found = drawn(text)

    assert found.source.data == text
    assert found.source.sha256 == hashlib.sha256(text).hexdigest()
    assert (found.source.kind, found.source.path) == ("file", tmp_path / "here" / "grid.py")
    assert values(found.points) == [{"a": "é"}]


def test_bytes_are_read_once(drawn, tmp_path):
    """A file that rewrites itself is recorded as it was when it was executed."""
    text = f"open(__file__, 'w').write('other')\n{ONE_POINT}"
    found = drawn(text)

    assert (tmp_path / "here" / "grid.py").read_text() == "other"
    assert found.source.data == text.encode()


def test_base_and_dicts_may_be_changed_on_the_way(drawn):
    base = {"lr": 0.1, "inner": {"n": [1]}}
    found = drawn(
        """
        def configurations(base):
            shared = dict(base)
            for index in range(3):
                shared["lr"] = index
                base["inner"]["n"].append(index)
                yield shared, f"p{index}"
        """,
        base,
    )

    assert [point["lr"] for point in values(found.points)] == [0, 1, 2]
    assert [point["inner"]["n"] for point in values(found.points)] == [
        [1, 0],
        [1, 0, 1],
        [1, 0, 1, 2],
    ]
    assert base == {"lr": 0.1, "inner": {"n": [1]}}


def test_constants_come_back_plain(drawn):
    found = drawn(
        "DEVICES = (0, 'GPU-1')\nSLOTS_PER_DEVICE = 2\nDEVICES_PER_RUN = 3\nPRELOAD = ('a.b',)\n"
        f"MAX_RETRIES = 0\nMEMORY = 'auto'\nMAX_POINTS = 1\nANYTHING = 3\n{ONE_POINT}"
    )

    assert found[2:] == ([0, "GPU-1"], 2, 3, ("a.b",), 0, "auto", False, None, None, None)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("range(2)", [0, 1]),
        ("[]", []),
        ("''", []),
        ("'0,1'", ["0", "1"]),
        ("[-1]", [-1]),
        ("None", None),
    ],
)
def test_devices_are_written_in_many_ways(drawn, written, found):
    assert drawn(f"DEVICES = {written}\n{ONE_POINT}").devices == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("DEVICES = 1", "DEVICES is 1: expected a list of device"),
        ("DEVICES = [1.5]", "DEVICES is [1.5]"),
        ("DEVICES = [-2]", "DEVICES is [-2]"),
        ("DEVICES = [True]", "DEVICES is [True]"),
        ("DEVICES = [0, '0']", "none twice"),
        ("SLOTS_PER_DEVICE = 0", "SLOTS_PER_DEVICE is 0: expected a whole number from 1"),
        ("SLOTS_PER_DEVICE = 1.0", "SLOTS_PER_DEVICE is 1.0"),
        ("DEVICES_PER_RUN = -1", "DEVICES_PER_RUN is -1"),
        ("PRELOAD = 'torch'", "PRELOAD is 'torch': expected a list of names of modules"),
        ("PRELOAD = ['a b']", "PRELOAD is ['a b']"),
        ("PRELOAD = [1]", "PRELOAD is [1]"),
        ("MAX_RETRIES = -1", "MAX_RETRIES is -1: expected a whole number from 0"),
        ("MAX_RETRIES = True", "MAX_RETRIES is True"),
        ("MEMORY = 'all'", "MEMORY is 'all': expected 'auto'"),
        ("MAX_POINTS = 0", "MAX_POINTS is 0"),
        ("DEVICE = [0]", "DEVICE means nothing here; did you mean 'DEVICES'?"),
        ("MAX_RETRY = 1", "did you mean 'MAX_RETRIES'?"),
        ("RETRIES = 1", "did you mean 'MAX_RETRIES'?"),
        ("SLOT_PER_DEVICE = 1", "did you mean 'SLOTS_PER_DEVICE'?"),
        ("PRELOADS = []", "did you mean 'PRELOAD'?"),
    ],
)
def test_constant_that_does_not_fit_is_refused(drawn, tmp_path, line, said):
    assert said in refusal(drawn, tmp_path, f"{line}\n{ONE_POINT}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["has no configurations: define configurations(base)"]),
        ("def configuration(base): pass", ["is it written as 'configuration'?"]),
        ("configurations = [1]", ["configurations is [1]: define a function"]),
        (
            "def configurations(): yield",
            ["configurations() does not fit: write configurations(base)"],
        ),
        ("def configurations(a, b, c): yield", ["configurations(a, b, c) does not fit"]),
        ("async def configurations(base): yield", ["is async"]),
        ("def configurations(base): pass", ["returned None: yield (parameters, name)"]),
        ("def configurations(base): return 3", ["returned 3"]),
        ("def configurations(base): return base, 'a'", ["point 0 is {}, of type dict"]),
        ("def configurations(base): yield 'a', base", ["point 0 names 'a' first"]),
        ("def configurations(base): yield base", ["point 0 is {}, of type dict", "pairs"]),
        ("def configurations(base): yield base, 'a', 1", ["point 0 is a tuple of 3"]),
        ("def configurations(base): yield base, 3", ["point 0: its name is 3, of type int"]),
        ("def configurations(base): yield None, 'a'", ["point 0 ('a'): its parameters are None"]),
        ("def configurations(base): yield {'a': None}, 'x'", ["point 0 ('x')", "'a' is None"]),
        ("def configurations(base): yield from [({}, 'a'), ({}, 'A')]", ["'a' and 'A'"]),
        ("def configurations(base): return []", ["there is no point"]),
        ("def configurations(base): yield from ()", ["there is no point"]),
        ("def f(:", ["line 1", "invalid syntax", "'def f(:'"]),
        ("x = 1\n\0", ["source code"]),
        (b"x = '\xff'", ["unicode" if sys.version_info < (3, 12) else "utf-8"]),
    ],
)
def test_file_that_makes_no_sense_is_refused(drawn, tmp_path, text, said):
    message = refusal(drawn, tmp_path, text)

    assert all(part.lower() in message.lower() for part in said), message
    assert "Traceback" not in message


def test_generator_that_raises_gives_its_own_frames_only(drawn, tmp_path):
    message = refusal(
        drawn,
        tmp_path,
        """
        def inverse(x):
            return 1 / x

        def configurations(base):
            for x in (2, 1, 0):
                yield {"x": inverse(x)}, f"x{x}"
        """,
    )

    assert "raised while it drew point 2: nothing was started" in message
    assert "ZeroDivisionError: division by zero" in message
    assert "in configurations\n" in message
    assert "return 1 / x" in message
    assert "lib/engram" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name", ["while it was imported", "No module named 'nothing_of"]),
        ("import sys\nsys.exit('stop')", ["called sys.exit while it was imported", "stop"]),
        (
            "import sys\ndef configurations(base):\n    sys.exit(0)\n    yield",
            ["called sys.exit", "point 0"],
        ),
        ("def configurations(base): raise ValueError('\\ud800')", ["ValueError"]),
        ("def configurations(base): raise BaseException('odd')", ["BaseException: odd"]),
        ("def configurations(base): return configurations(base)", ["RecursionError"]),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", ["str() failed"]),
        ("import os\nos._exit(7)", ["ended its process with exit code 7"]),
        ("import os\nos._exit(0)", ["ended its process with exit code 0"]),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            ["SIGKILL (out of memory, perhaps)"],
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", ["ended by SIGTERM"]),
        (
            "import ctypes\ndef configurations(base):\n    yield {}, 'a'\n    ctypes.string_at(0)",
            ["ended by SIGSEGV (a crash)"],
        ),
    ],
)
def test_file_that_breaks_is_told_and_breaks_nothing_else(drawn, tmp_path, text, said):
    message = refusal(drawn, tmp_path, text)

    assert all(part in message for part in [*said, "nothing was started"]), message


def test_endless_generator_is_stopped(drawn, tmp_path):
    endless = """
        import itertools
        def configurations(base):
            for number in itertools.count():
                yield {}, f"p{number}"
        """
    message = refusal(drawn, tmp_path, endless, more="[grid]\nmost = 50\n")
    assert "more than 50 points: does it ever end?" in message
    message = refusal(drawn, tmp_path, f"MAX_POINTS = 20\n{textwrap.dedent(endless)}")
    assert "more than 20 points" in message


def test_file_that_is_missing_is_told(tmp_path):
    experiment = tmp_path / "experiment.toml"
    experiment.write_text("script = 'work.py'\n")
    found = config.load(experiment, root=tmp_path)
    with pytest.raises(ConfigError, match="cannot read the grid file .*no.py"):
        draw(tmp_path / "no.py", found, {}, tmp_path / "points.jsonl")
    with pytest.raises(StoreError, match="cannot write"):
        path = tmp_path / "grid.py"
        path.write_text(ONE_POINT)
        draw(path, found, {}, tmp_path / "missing" / "points.jsonl")


def test_modules_beside_the_file_and_in_the_import_roots_are_found(drawn, tmp_path):
    for name in ("here/near.py", "lib/in_lib.py", "src/in_src.py", "here/relative.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"VALUE = {name!r}\n")
    (tmp_path / "lib" / "near.py").write_text("VALUE = 'the wrong one'\n")
    found = drawn(
        """
        import near, in_lib, in_src
        from .relative import VALUE
        def configurations(base):
            yield {"found": [near.VALUE, in_lib.VALUE, in_src.VALUE, VALUE]}, "x"
        """
    )

    assert values(found.points) == [
        {"found": ["here/near.py", "lib/in_lib.py", "src/in_src.py", "here/relative.py"]}
    ]
    assert not list(tmp_path.rglob("__pycache__"))


def test_configured_project_paths_are_the_import_roots(drawn, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "of_ours.py").write_text("SEEDS = [3]\n")
    text = (
        "from of_ours import SEEDS\ndef configurations(base): return [({}, f's{s}') for s in SEEDS]"
    )

    assert drawn(text, more="[project]\npaths = ['code']\n").points.names == ["s3"]


def test_what_the_file_imports_and_changes_stays_in_its_process(drawn, tmp_path, capfd):
    before = (os.environ.copy(), Path.cwd(), set(sys.modules))
    found = drawn(
        """
        import dataclasses, os, signal, sys, threading, wave
        os.chdir("/")
        os.environ["LEAKED"] = "1"
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=threading.Event().wait).start()
        @dataclasses.dataclass
        class Point:
            name: str
        print("seen on stdout")
        print("seen on stderr", file=sys.stderr)
        def configurations(base):
            yield base, Point("x").name
        """
    )

    assert found.points.names == ["x"]
    assert (os.environ.copy(), Path.cwd()) == before[:2]
    assert "wave" not in set(sys.modules) - before[2]
    assert not [name for name in sys.modules if name in ("grid", "grid_grid")]
    assert capfd.readouterr() == ("seen on stdout\n", "seen on stderr\n")


def test_function_that_asks_for_what_has_finished_is_adaptive(drawn):
    found = drawn("PRELOAD = ['a']\ndef configurations(base, finished):\n    raise RuntimeError")

    assert found.adaptive
    assert len(found.points) == 0
    assert found.preload == ("a",)


def test_process_left_behind_by_the_file_holds_nothing_up(drawn, tmp_path):
    began = time.monotonic()
    text = f"""
        import os, time
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        print(pid, file=open({str(tmp_path / "pids")!r}, "a"))
        """
    try:
        assert drawn(textwrap.dedent(text) + ONE_POINT).points.names == ["only"]
        message = refusal(drawn, tmp_path, textwrap.dedent(text) + "os._exit(3)\n")
        assert "exit code 3" in message
    finally:
        for pid in map(int, (tmp_path / "pids").read_text().split()):
            os.kill(pid, signal.SIGKILL)
    assert time.monotonic() - began < PATIENCE_S


def test_process_that_the_file_forks_and_forgets_says_nothing(drawn):
    text = "import os\ndef configurations(base):\n    yield {}, 'a'\n    os.fork()\n"

    assert drawn(text).points.names == ["a"]


DRIVER = """\
import sys
from pathlib import Path

from engram import config
from engram.grid.draw import draw

folder = Path(sys.argv[1])
try:
    found = config.load(folder / "experiment.toml", root=folder)
    draw(folder / "grid.py", found, {}, folder / "points.jsonl")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def endless(tmp_path):
    """A process that draws from a file that never yields; the pid of the file's own process."""
    (tmp_path / "experiment.toml").write_text("script = 'work.py'\n")
    (tmp_path / "grid.py").write_text(
        "import os, pathlib\n"
        "def configurations(base):\n"
        "    yield {}, 'first'\n"
        f"    pathlib.Path({str(tmp_path / 'tmp')!r}).write_text(str(os.getpid()))\n"
        f"    os.rename({str(tmp_path / 'tmp')!r}, {str(tmp_path / 'pid')!r})\n"
        "    while True:\n"
        "        pass\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, env=environ, start_new_session=True) as process:
        wait_for((tmp_path / "pid").exists)
        yield process, int((tmp_path / "pid").read_text())
        process.kill()


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def is_gone(pid):
    """Whether a process has ended; one that nobody has waited for counts as well."""
    fields = processes.read_bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return not fields or fields[0] == b"Z"


@pytest.mark.parametrize("whole_group", [True, False])
def test_interrupt_ends_an_endless_silent_loop(endless, tmp_path, whole_group):
    process, child = endless
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)

    assert process.wait(PATIENCE_S) == 130
    assert is_gone(child)
    assert not (tmp_path / "points.jsonl").exists()


def test_interrupt_of_the_file_alone_is_an_interrupt(endless):
    process, child = endless
    os.kill(child, signal.SIGINT)

    assert process.wait(PATIENCE_S) == 130


def test_the_files_process_does_not_outlive_its_parent(endless):
    process, child = endless
    process.kill()

    wait_for(lambda: is_gone(child))


def test_template_varies_the_seed_of_any_experiment(tmp_path):
    experiment = tmp_path / "experiment.toml"
    experiment.write_text("script = 'work.py'\n")
    found = config.load(experiment, root=tmp_path)
    for base in (
        {},
        tomllib.loads((ROOT / "experiments/spiking_digits/parameters.toml").read_text()),
    ):
        drawn = draw(ROOT / "run_grid_search.py", found, base, tmp_path / "points.jsonl")
        assert values(drawn.points) == [{**base, "seed": seed} for seed in (0, 1, 2)]
        assert drawn.preload == ("torch",)
        assert drawn._replace(preload=None)[2:] == (None,) * 6 + (False, None, None, None)
