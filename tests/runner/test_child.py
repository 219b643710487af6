"""The exit truth table, and what main finds around it: each case is a real process."""

from __future__ import annotations

import random
import signal

import pytest
from supervision import Bench

from engram.child import flat_summary
from engram.outcome import Facts, judge


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("body", "state", "code", "cause"),
    [
        ("return None", "completed", 0, "main returned"),
        ("import sys; sys.exit(0)", "completed", 0, "sys.exit(0)"),
        ("exit(None)", "completed", 0, "sys.exit(None)"),
        ("import sys; sys.exit()", "completed", 0, "sys.exit(None)"),
        ("import sys; sys.exit(3)", "failed", 3, "sys.exit(3)"),
        ("import sys; sys.exit('bad luck')", "failed", 1, "sys.exit('bad luck')"),
        ("import sys; sys.exit(256)", "failed", 0, "sys.exit(256)"),
        ("import os; os._exit(5)", "failed", 5, "exit code 5 before main returned"),
        ("import os; os._exit(0)", "failed", 0, "exit code 0 before main returned"),
        ("import atexit, os; atexit.register(os._exit, 7)", "failed", 7, "after main had returned"),
        ("raise ValueError('no good')", "failed", 1, "ValueError: no good"),
        ("raise KeyboardInterrupt", "interrupted", 130, "KeyboardInterrupt was not caught"),
        (
            "import os; os.kill(os.getpid(), 2); import time; time.sleep(9)",
            "interrupted",
            130,
            "Key",
        ),
    ],
)
def test_exit_truth(bench, body, state, code, cause):
    outcome = bench.supervise(body)

    assert (outcome.state, outcome.exit["code"], outcome.exit["signal"]) == (state, code, None)
    assert cause in outcome.exit["cause"]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "SIGABRT"),
    ],
)
def test_a_signal_to_the_child_is_killed_with_its_name(bench, body, name):
    outcome = bench.supervise("import resource; resource.setrlimit(4, (0, 0))\n" + body)

    assert (outcome.state, outcome.exit["signal"], outcome.exit["code"]) == ("killed", name, None)
    assert name in outcome.exit["cause"]
    assert outcome.signal_received is None


def test_out_of_memory_is_told_from_another_sigkill():
    state, exit_ = judge(Facts(signal.SIGKILL, None, None, False, True))

    assert (state, exit_["signal"]) == ("killed", "SIGKILL")
    assert "out of memory" in exit_["cause"]


def test_a_memory_error_is_an_exception(bench):
    outcome = bench.supervise("bytearray(1 << 60)")

    assert (outcome.state, outcome.exit["exception"]["type"]) == ("failed", "MemoryError")


def test_sys_exit_message_is_printed_as_python_does(bench):
    bench.supervise("import sys; sys.exit('bad luck')")

    assert bench.run.log_err.read_text() == "bad luck\n"


def test_traceback_is_in_log_err_and_starts_at_the_scripts_own_frames(bench):
    outcome = bench.supervise("inner()", top="def inner():\n    raise ValueError('no good')\n")
    text = bench.run.log_err.read_text()
    lines = [line for line in text.splitlines() if line.startswith("  File")]

    assert text.startswith("Traceback (most recent call last):\n")
    assert [line.split(", in ")[1] for line in lines] == ["main", "inner"]
    assert text.endswith("ValueError: no good\n")
    assert outcome.exit["exception"]["traceback"] == text
    assert outcome.exit["exception"]["message"] == "no good"


def test_an_error_while_the_script_loads_has_no_foreign_frames(bench):
    outcome = bench.supervise("pass", top="1 / 0\n")

    assert "ZeroDivisionError" in outcome.exit["cause"]
    assert bench.run.log_err.read_text().count("  File") == 1


def test_an_exception_with_a_broken_str_is_still_a_failure(bench):
    top = "class Odd(Exception):\n    def __str__(self):\n        raise RuntimeError\n"
    outcome = bench.supervise("raise Odd", top=top)

    assert (outcome.state, outcome.exit["exception"]["type"]) == ("failed", "work.Odd")


def test_main_is_called_by_keyword_with_paths(bench):
    body = """
        import os, pathlib, sys
        names = (input_dir, output_dir, params_file, resume_from)
        return {"kinds": " ".join(type(n).__name__ for n in names), "wandb": repr(wandb_config),
                "here": os.getcwd() == str(output_dir), "argv": sys.argv[0] == __file__,
                "stdin": os.readlink("/proc/self/fd/0"), "value": params_file.read_text()}
    """
    outcome = bench.supervise(
        body, input_dir=str(bench.run.inputs), wandb_config={"project": "p"}, resume_from=None
    )

    assert outcome.summary == {
        "kinds": "PosixPath PosixPath PosixPath NoneType",
        "wandb": "{'project': 'p'}",
        "here": True,
        "argv": True,
        "stdin": "/dev/null",
        "value": "value = 1\n",
    }


def test_modules_of_the_runner_do_not_shadow_the_scripts(bench):
    for name in ("audit", "child", "record", "config", "finder"):
        (bench.snapshot / f"{name}.py").write_text("mine = True\n")
    body = (
        "import audit, child, record, config, finder\nreturn {'mine': audit.mine and finder.mine}"
    )

    assert bench.supervise(body).summary == {"mine": True}


def test_python_variables_of_the_shell_do_not_reach_the_child(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHASHSEED", "17")
    body = "import sys, os\nreturn {'o': sys.flags.optimize, 'h': os.environ['PYTHONHASHSEED']}"

    assert bench.supervise(body).summary == {"o": 0, "h": "0"}


def test_environ_of_the_spec_is_set_and_unset(bench, monkeypatch):
    monkeypatch.setenv("GONE", "1")
    body = "import os\nreturn {'kept': os.environ.get('KEPT'), 'gone': os.environ.get('GONE')}"
    outcome = bench.supervise(body, environ={"KEPT": "yes", "GONE": None})

    assert outcome.summary == {"kept": "yes", "gone": None}


def test_the_seed_reaches_random_and_numpy_before_main(bench):
    np = pytest.importorskip("numpy")
    body = "return {'r': random.random(), 'n': float(numpy.random.rand())}"
    outcome = bench.supervise(body, top="import random\nimport numpy\n", seed=5)
    np.random.seed(5)

    assert outcome.summary == {"r": random.Random(5).random(), "n": float(np.random.rand())}


def test_summary_scalars_are_unwrapped(bench):
    pytest.importorskip("numpy")
    body = """
        import numpy as np
        return {"f": np.float32(0.5), "i": np.int64(2**40), "b": np.bool_(True), "z": np.array(3),
                "nan": float("nan"), "big": 10**40, "s": "\\x00\\udcff", "none": None}
    """
    summary = bench.supervise(body).summary
    assert summary is not None
    nan = summary.pop("nan")

    assert nan != nan
    assert summary == {
        "f": 0.5,
        "i": 2**40,
        "b": True,
        "z": 3,
        "big": 10**40,
        "s": "\x00\udcff",
        "none": None,
    }


@pytest.mark.parametrize("value", ["[1, 2]", "{'a': [1]}", "{1: 2}", "object()", "{'a': {'b': 1}}"])
def test_a_bad_summary_is_a_finding_and_no_failure(bench, value):
    outcome = bench.supervise(f"return {value}")

    assert outcome.state == "completed"
    assert [item.code for item in bench.digest().findings] == ["summary_ignored"]


def test_the_good_entries_of_a_summary_are_kept():
    kept, problem = flat_summary({"a": 1, "b": [1], "c": "x"})

    assert kept == {"a": 1, "c": "x"}
    assert problem is not None
    assert "'b' (list)" in problem


def test_a_forked_process_that_falls_through_main_does_not_speak_for_the_run(bench):
    body = "import os\nif os.fork() == 0:\n    raise ValueError('in the fork')\n"
    body += "os.wait()\nreturn {'a': 1}"
    outcome = bench.supervise(body)

    assert (outcome.state, outcome.summary) == ("completed", {"a": 1})


def test_output_is_flushed_when_the_script_leaves_files_open(bench):
    bench.supervise("global f\nf = open('left.txt', 'w'); f.write('kept')")

    assert (bench.run.outputs / "left.txt").read_text() == "kept"


def test_usage_is_measured(bench):
    body = "block = bytearray(200 << 20)\nx = 0\nfor i in range(2_000_000): x += i"
    usage = bench.supervise(body).usage

    assert 200 << 20 < usage["max_rss_bytes"] < 600 << 20
    assert 0 < usage["cpu_user_s"] + usage["cpu_system_s"] < 20
    assert 0 < usage["wall_s"] < 20


def test_a_pool_of_spawned_processes_finds_the_scripts_functions(bench):
    body = """
        import multiprocessing
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            return {"sum": sum(pool.map(double, range(10)))}
    """
    outcome = bench.supervise(body, top="def double(x):\n    return 2 * x\n")

    assert outcome.summary == {"sum": 90}
    assert outcome.strays == []


def test_a_missing_interpreter_fails_the_run_and_says_why(bench):
    outcome = bench.supervise("pass", python="/no/such/python")

    assert (outcome.state, outcome.exit["code"]) == ("failed", 127)
    assert "/no/such/python" in bench.run.log_err.read_text()


def test_the_child_starts_with_few_modules(bench):
    body = "import sys\nreturn {'heavy': ' '.join(sorted({'json', 'ctypes', 'subprocess',"
    body += " 'dataclasses', 'threading', 'logging', 'engram'} & set(sys.modules)))}"

    assert bench.supervise(body).summary == {"heavy": ""}
