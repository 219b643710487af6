"""A child forked from a warm interpreter and one that was started by exec: what differs?"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest
from gpu_stubs import needs_compiler
from warm_bench import Both, until

from engram.spawn import spawn


@pytest.fixture
def bench(tmp_path):
    made = Both(tmp_path)
    yield made
    made.close()
    assert until(lambda: not made.living(), 50.0), made.living()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """One warm interpreter that has imported nothing, for many scripts."""
    made = Both(tmp_path_factory.mktemp("table"))
    made.start()
    yield made
    made.close()
    assert until(lambda: not made.living(), 50.0), made.living()


NO_CORE = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
ENDINGS = {
    "return": "return {'a': 1, 'b': 'two'}",
    "nothing": "pass",
    "bad summary": "return [1]",
    "exit 0": "import sys; sys.exit(0)",
    "exit 3": "import sys; sys.exit(3)",
    "exit text": "import sys; sys.exit('bad luck')",
    "_exit": "import os; print('lost', end=''); os._exit(3)",
    "exception": "print('before'); raise ValueError('no good')",
    "late exit": "import atexit, os; atexit.register(os._exit, 7)",
    "late text": "import atexit; atexit.register(print, 'at the end')",
    "interrupt": "raise KeyboardInterrupt",
    "own interrupt": "import os, time; os.kill(os.getpid(), 2); time.sleep(9)",
    "kill": "import os; os.kill(os.getpid(), 9)",
    "term": "import os; os.kill(os.getpid(), 15)",
    "pipe": "import os, signal; print(signal.getsignal(13)); os.kill(os.getpid(), 13)",
    "segfault": NO_CORE + "import ctypes; ctypes.string_at(0)",
    "abort": NO_CORE + "import os; os.abort()",
    "memory": "bytearray(1 << 60)",
    "recursion": "def f(n):\n    return f(n + 1)\nf(0)",
    "thread": "import threading, time\ndef f():\n    time.sleep(0.2)\n    print('late')\n"
    "threading.Thread(target=f).start()\nprint('main')",
    "closed streams": "import sys; sys.stdout.close(); sys.stderr.close()",
    "full stdout": "import os; os.close(1); print('x')",
    "fork": "import os\nif os.fork() == 0:\n    print('child')\n    os._exit(0)\n"
    "os.wait()\nprint('parent')",
    "fall through": "import os\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n"
    "return {'a': bool(pid)}",
    "late output": "import os, time\nif os.fork() == 0:\n    time.sleep(0.2)\n"
    "    print('after main', flush=True)\n    os._exit(0)",
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)",
    "subprocess": "import subprocess; subprocess.run(['sh', '-c', 'echo out; echo err >&2'])",
    "stops": "import os; os.kill(os.getpid(), 19)",
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_is_the_same(table, name):
    table.script(ENDINGS[name])
    timeout_s = 1.0 if name == "stops" else 20.0
    cold, warm = table.both(timeout_s=timeout_s)

    assert warm == cold


def test_hanging_is_timed_out_in_both(table):
    table.script("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)")
    cold, warm = table.both(timeout_s=0.7)

    assert warm == cold
    assert warm.state == "timed_out"


SURROUNDINGS = {
    "environ": "[item for item in os.environ.items() if item[0] not in"
    " ('ENGRAM_GUARD', 'PYTEST_CURRENT_TEST')]",
    "mark": "len(os.environ['ENGRAM_GUARD']), os.environ['ENGRAM_GUARD'] in "
    "open('/proc/self/environ').read()",
    "modules": "sorted(sys.modules)",
    "path": "sys.path, sys.argv, len(sys.orig_argv), sys.flags, sys.executable",
    "main": "vars(sys.modules['__main__']), __name__",
    "finders": "[type(f).__name__ if type(f) is not type else f.__name__ for f in sys.meta_path]",
    "signals": "[(int(n), str(signal.getsignal(n))) for n in signal.valid_signals()],"
    " signal.pthread_sigmask(signal.SIG_BLOCK, [])",
    "ignored": "[line for line in open('/proc/self/status')"
    " if line.startswith(('SigB', 'SigC', 'SigI', 'NoNew'))]",
    "descriptors": "sorted(os.listdir('/proc/self/fd')), os.readlink('/proc/self/fd/0'),"
    " os.readlink('/proc/self/fd/1')[:5]",
    "first descriptor": "os.open('/dev/null', 0)",
    "streams": "[(f, f.line_buffering, f.encoding, f.errors, f.seekable(), f.isatty(), f.mode)"
    " for f in (sys.stdin, sys.stdout, sys.stderr)]",
    "process": "os.getcwd(), os.getsid(0) == os.getpgid(0) == os.getpid(), os.getpriority(0, 0),"
    " os.umask(0), open('/proc/self/comm').read()",
    "limits": "[resource.getrlimit(n) for n in range(16)]",
    "frames": "len(inspect.stack()), [f.function for f in inspect.stack()]",
    "threads": "threading.active_count(), threading.current_thread().name,"
    " threading.get_native_id() == os.getpid(), len(os.listdir('/proc/self/task'))",
    "collector": "gc.isenabled(), gc.get_threshold(), gc.callbacks",
    "tmp": "tempfile.gettempdir(), tempfile.gettempprefix()",
    "handlers": "faulthandler.is_enabled(), sys.gettrace(), sys.getprofile(), sys.exc_info()",
    "random": "random.random(), random.getrandbits(64)",
    "hash": "list({str(n) for n in range(50)}), hash('x')",
    "tree": "os.path.basename(os.readlink(f'/proc/{os.getppid()}/exe'))[:6],"
    " open(f'/proc/{os.getppid()}/comm').read()",
    "children": "open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read()",
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_the_script_sees_is_the_same(table, name):
    used = set(re.findall(r"\b([a-z]+)\.", SURROUNDINGS[name])) & sys.stdlib_module_names
    top = "".join(f"import {module}\n" for module in sorted(used))
    table.script(f"print({SURROUNDINGS[name]})", top=top)
    tmp = table.run.folder / "tmp"
    cold, warm = table.both(seed=3, environ={"TMPDIR": str(tmp), "HOME": None, "NEW": "1"})

    assert warm == cold
    assert warm.state == "completed"


HELPER = """
import os, random, sys, tempfile, warnings
print("helper speaks")
print("half a line", end="")
os.write(1, b" of the descriptor\\n")
print("helper complains", file=sys.stderr)
warnings.warn("helper warns")
os.environ["HELPED"] = os.environ.get("OMP_NUM_THREADS", "")
os.environ.pop("LANGUAGE", None)
text = open(os.environ["OUTSIDE"]).read()
argv, main, hashed = list(sys.argv), sys.modules["__main__"], list({str(n) for n in range(30)})
tmp = tempfile.gettempdir()
"""
USES_HELPER = """
import os
import helper
import package.part
print(helper.text, os.environ["HELPED"], "LANGUAGE" in os.environ, helper.argv, helper.hashed)
print(helper.tempfile.gettempdir(), helper.main is helper.sys.modules["__main__"])
print(helper.__file__, helper.__cached__[-4:], package.part.__spec__.origin)
(output_dir / "drawn.txt").write_text(repr([helper.random.random() for _ in range(5)]))
"""


def give_helper(bench, tmp_path, monkeypatch):
    outside = tmp_path / "outside.txt"
    outside.write_text("from outside")
    monkeypatch.setenv("OUTSIDE", str(outside))
    monkeypatch.setenv("LANGUAGE", "en")
    bench.helper(HELPER)
    bench.helper("", "package/__init__.py")
    bench.helper("value = 1\n", "package/part.py")
    return outside


def test_what_preload_does_happens_in_every_run(bench, tmp_path, monkeypatch):
    outside = give_helper(bench, tmp_path, monkeypatch)
    bench.script(USES_HELPER, top="import helper\n")
    bench.start("helper", "package.part")
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    cold, warm = bench.both(seed=5, environ={"TMPDIR": str(tmp)})

    assert warm.out[0].startswith("helper speaks\n of the descriptor\nhalf a line")
    assert "helper complains\n" in warm.err[0]
    assert {entry["name"] for entry in warm.imports["modules"]} > {"helper", "package.part"}
    assert [entry["path"] for entry in warm.opened["files"]] == [str(outside)]
    assert str(tmp) in warm.out[0]
    assert warm == cold


def test_events_of_preload_are_there_after_a_crash(bench, tmp_path, monkeypatch):
    outside = give_helper(bench, tmp_path, monkeypatch)
    bench.script("import os; os.kill(os.getpid(), 9)", top="import helper\n")
    bench.start("helper")
    cold, warm = bench.both()

    assert warm.imports == cold.imports
    assert warm.opened == cold.opened
    assert [entry["path"] for entry in warm.opened["files"]] == [str(outside)]


def test_runs_ignore_what_they_ignore_also_before_them(bench, tmp_path, monkeypatch):
    outside = give_helper(bench, tmp_path, monkeypatch)
    bench.script("pass", top="import helper\n")
    bench.start("helper")
    ignored = [str(bench.run.folder), str(outside.parent)]
    cold, warm = bench.both(ignored=ignored)

    assert warm == cold
    assert warm.opened["files"] == []


def test_packages_are_those_of_a_cold_run(bench):
    pytest.importorskip("numpy")
    bench.script("return {'a': int(numpy.arange(3).sum())}", top="import numpy\n")
    bench.start("numpy")
    cold, warm = bench.both(seed=1)

    assert warm == cold
    assert "numpy" in warm.imports["packages"]


DRAWS = """
import random
values = [random.random(), random.gauss(0, 1), random.getrandbits(80)]
values += [list({str(n) for n in range(100)}), hash("a")]
import numpy
values += [numpy.random.rand(3).tolist(), numpy.random.permutation(20).tolist()]
"""
DRAWS_TORCH = """
import torch
values += [torch.rand(3).tolist(), torch.nn.Linear(3, 2).weight.tolist()]
values += [numpy.random.rand(3).tolist()]
"""
WRITE = "(output_dir / 'values.txt').write_text(repr([values, {draw}]))\n"
MORE = "random.random(), numpy.random.rand(4).tolist()"
MORE_TORCH = MORE + ", torch.randn(4).tolist(), (torch.randn(64, 64) @ torch.ones(64)).tolist()"


@pytest.mark.parametrize("hash_seed", [0, 17])
def test_numbers_drawn_without_a_seed_of_their_own_are_the_same(bench, hash_seed, monkeypatch):
    pytest.importorskip("numpy")
    bench.script(WRITE.format(draw=MORE), top=DRAWS)
    bench.start("numpy", "numpy.linalg", hash_seed=hash_seed)
    first = bench.go(bench.warm.spawn(), seed=11)
    second = bench.go(bench.warm.spawn(), seed=11)
    other = bench.go(bench.warm.spawn(), seed=12)

    assert first == second == bench.go(spawn(hash_seed=hash_seed), seed=11)
    assert first.files != other.files


def test_without_a_seed_every_run_draws_others(bench):
    pytest.importorskip("numpy")
    bench.script(WRITE.format(draw=MORE), top=DRAWS)
    bench.start("numpy")
    first, second = bench.go(bench.warm.spawn()), bench.go(bench.warm.spawn())

    assert first.files != second.files


def test_runs_with_torch_are_the_same(bench):
    """Seeds, a pool of BLAS threads, data loaders and their TMPDIR, one optimizer step."""
    pytest.importorskip("torch")
    loader = """
        from torch.utils.data import DataLoader, TensorDataset
        data = TensorDataset(torch.randn(64, 3), torch.randn(64, 1))
        model = torch.nn.Linear(3, 1)
        step = torch.optim.Adam(model.parameters())
        for x, y in DataLoader(data, batch_size=16, shuffle=True, num_workers=2):
            step.zero_grad()
            ((model(x) - y) ** 2).mean().backward()
            step.step()
        torch.save(model.state_dict(), output_dir / "model.pt")
        big = torch.randn(400, 400)
        values.append((big @ big).sum().item())
    """
    bench.variables |= {"OMP_NUM_THREADS": "2", "TMPDIR": None}
    bench.script(textwrap.dedent(loader) + WRITE.format(draw=MORE_TORCH), top=DRAWS + DRAWS_TORCH)
    bench.start("torch", "torch.utils.data")
    bench.variables.pop("TMPDIR")
    tmp = bench.folder / "t"
    tmp.mkdir()
    ignored = [str(bench.run.folder), str(tmp)]
    cold, warm = bench.both(seed=7, environ={"TMPDIR": str(tmp)}, ignored=ignored)

    assert warm.state == "completed", warm.err
    assert set(warm.files) == {"model.pt", "values.txt"}
    assert warm == cold


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_processes_work(bench, method):
    body = f"""
        import multiprocessing, sys
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            total = sum(pool.map(double, range(10)))
        here = multiprocessing.process.ORIGINAL_DIR == str(output_dir)
        return {{"total": total, "here": here}}
    """
    bench.script(body, top="import helper\ndef double(n):\n    return helper.two * n\n")
    bench.helper("import multiprocessing, subprocess, tempfile\ntwo = 2\n")
    bench.start("helper")
    tmp = bench.folder / "t"
    tmp.mkdir()
    cold, warm = bench.both(environ={"TMPDIR": str(tmp)})

    assert warm == cold
    assert warm.summary == {"total": 90, "here": True}


def test_python_children_are_audited_and_import_the_snapshot(bench):
    bench.helper("where = 'snapshot'\n")
    code = "import helper, os; print(helper.where, os.environ['ENGRAM_GUARD'] != '0' * 16)"
    body = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    bench.script(body)
    bench.start("subprocess")
    cold, warm = bench.both()

    assert warm == cold
    assert warm.out == ["snapshot True\n"]
    assert warm.findings == []


def test_ranks_are_children_of_one_guardian(bench):
    bench.script("import os; print(os.environ['RANK'], flush=True); os.getpgid(0)")
    bench.start()
    cold, warm = bench.both(ranks=3)

    assert warm == cold
    assert warm.out == ["0\n", "1\n", "2\n"]


def test_files_that_the_script_leaves_open_are_written_out(bench):
    pytest.importorskip("numpy")
    body = "numpy.kept = open(output_dir / 'kept.txt', 'w')\nnumpy.kept.write('unflushed')\n"

    bench.helper("")
    bench.script(body, top="import numpy\n")
    bench.start("numpy")
    cold, warm = bench.both()

    assert len(warm.files) == 1
    assert warm == cold


def test_the_scripts_objects_end_with_the_interpreter(bench):
    pytest.importorskip("numpy")
    top = """
import helper, numpy, weakref, ctypes
class Loud:
    def __del__(self):
        print("deleted", flush=True)
kept = Loud()
helper.kept = Loud()
circle = [Loud()]
circle.append(circle)
libc = ctypes.CDLL(None)
weakref.finalize(kept, print, "finalized")
"""
    bench.script("libc.printf(b'from C, not flushed')", top=top)
    bench.helper("kept = None\n")
    bench.start("numpy", "ctypes", "weakref", "helper")
    cold, warm = bench.both()

    assert warm == cold
    assert warm.out[0].count("deleted") == 3
    assert "from C, not flushed" in warm.out[0]


LIBRARY = """
#include <stdio.h>
#include <stdlib.h>
static void end(void) { printf("the library ends\\n"); }
__attribute__((constructor)) static void begin(void) { atexit(end); }
"""


@needs_compiler
@pytest.mark.parametrize("loaded_by", ["helper", "script"])
def test_a_library_that_has_something_to_end_ends_in_every_run(bench, loaded_by):
    library = bench.folder / "libending.so"
    target = ["-o", str(library), "-x", "c", "-"]
    subprocess.run(["gcc", "-shared", "-fPIC", *target], input=LIBRARY.encode(), check=True)
    load = f"import ctypes\nlibrary = ctypes.CDLL({str(library)!r})\n"
    bench.helper(load if loaded_by == "helper" else "import ctypes\n")
    bench.script("print('main')", top="import helper\n" + (load if loaded_by == "script" else ""))
    bench.start("helper")
    cold, warm = bench.both()

    assert warm == cold
    assert warm.out == ["main\nthe library ends\n"]
