"""A child forked from a warm interpreter and one that was started by exec: is there a difference?"""

from __future__ import annotations

import os
import signal

import pytest
from warm_bench import Both, until

from engram.errors import ConfigError
from engram.supervise import Supervisor
from engram.warm import WarmEndedError


@pytest.fixture
def bench(tmp_path):
    made = Both(tmp_path)
    yield made
    made.close()
    assert until(lambda: not made.living(), 5.0), made.living()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """One warm interpreter that has imported nothing, for many scripts."""
    made = Both(tmp_path_factory.mktemp("table"))
    made.start()
    yield made
    made.close()
    assert until(lambda: not made.living(), 5.0), made.living()


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
    "environ": "[(k, v) for k, v in os.environ.items() if k not in ('ENGRAM_GUARD', 'PYTEST_CURRENT_TEST')]",
    "mark": "len(os.environ['ENGRAM_GUARD']), os.environ['ENGRAM_GUARD'] in "
    "open('/proc/self/environ').read()",
    "modules": "sorted(sys.modules)",
    "path": "sys.path, sys.argv, len(sys.orig_argv), sys.flags, sys.executable",
    "main": "vars(sys.modules['__main__']), __name__",
    "finders": "[type(f).__name__ if type(f) is not type else f.__name__ for f in sys.meta_path]",
    "signals": "[(int(n), str(signal.getsignal(n))) for n in signal.valid_signals()],"
    " signal.pthread_sigmask(signal.SIG_BLOCK, [])",
    "ignored": "[line for line in open('/proc/self/status') if line.startswith(('Sig', 'NoNew'))]",
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
    modules = "faulthandler gc inspect os random resource signal sys tempfile threading".split()
    used = [module for module in modules if f"{module}." in SURROUNDINGS[name]]
    top = "".join(f"import {module}\n" for module in used)
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
os.environ["HELPED"] = os.environ.get("OMP_NUM_THREADS", "") + os.environ.get("TMPDIR", "-")[:1]
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

    assert "helper speaks\nhalf a line of the descriptor\n" in warm.out[0]
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

    from engram.spawn import spawn

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
    import textwrap

    bench.script(
        textwrap.dedent(loader) + WRITE.format(draw=MORE_TORCH), top=DRAWS + DRAWS_TORCH
    )
    bench.start("torch", "torch.utils.data")
    bench.variables.pop("TMPDIR")
    tmp = bench.folder / "t"
    tmp.mkdir()
    cold, warm = bench.both(seed=7, environ={"TMPDIR": str(tmp)})

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


UNSAFE = {
    "Python thread": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(60,), name='busy', daemon=True).start()",
    "keeps open: {helper}": "kept = open(__file__)",
    "starts a process": "import subprocess\nkept = subprocess.Popen(['sleep', '60'])",
    "processes share": "import mmap\nkept = mmap.mmap(-1, 4096)",
    "draws random numbers while it is imported, from random": "import random\nrandom.random()",
    "writes or removes files: {outside}": "import os\nopen(os.environ['OUTSIDE'], 'a').close()\n"
    "open(os.environ['OUTSIDE'], 'w').write('x')",
    "into the working folder: cache.txt": "open('cache.txt', 'w').write('x')",
    "starts Python processes": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])",
    "the script itself": "import work",
}


@pytest.mark.parametrize("why", UNSAFE)
def test_what_a_fork_cannot_repeat_makes_runs_cold(bench, tmp_path, monkeypatch, why):
    outside = tmp_path / "outside.txt"
    outside.write_text("here")
    os.utime(outside, (0, 0))
    monkeypatch.setenv("OUTSIDE", str(outside))
    helper = bench.helper(UNSAFE[why])
    bench.script("pass")
    warm = bench.start("helper")

    assert warm.why_not is not None
    assert why.format(helper=helper, outside=outside) in warm.why_not
    with pytest.raises(WarmEndedError, match="PRELOAD"):
        warm.spawn()
    assert until(lambda: not bench.living(), 5.0), bench.living()


def test_numbers_that_numpy_draws_make_runs_cold(bench):
    pytest.importorskip("numpy")
    bench.helper("import numpy\ntable = numpy.random.rand(312)")

    assert "from numpy.random" in str(bench.start("helper").why_not)


def test_a_stand_in_for_torch_that_says_cuda_is_up_makes_runs_cold(bench):
    """No GPU is needed: the module torch here is a stand-in that claims to have one."""
    bench.helper("from torch import cuda\n", "torch/__init__.py")
    bench.helper("def is_initialized():\n    return True\n", "torch/cuda.py")

    assert "CUDA" in str(bench.start("torch").why_not)


def test_an_openmp_region_makes_runs_cold_and_the_import_alone_does_not(bench):
    pytest.importorskip("torch")
    bench.variables["OMP_NUM_THREADS"] = "2"
    bench.helper("import torch\ntotal = torch.ones(1_000_000).sum()")

    assert bench.start("torch").why_not is None
    bench.warm.close()
    assert "OpenMP" in str(bench.start("helper").why_not)


def test_a_pool_of_blas_threads_is_no_reason_to_be_cold(bench):
    """Results with the pool, which comes back after the fork, are those of a new interpreter."""
    pytest.importorskip("scipy")
    bench.variables |= {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    bench.helper(
        "import numpy, scipy.linalg\nbig = numpy.sin(numpy.arange(250_000.0)).reshape(500, 500)\n"
        "used = big @ big, scipy.linalg.lu(big)"
    )
    body = "import os, numpy, helper\nproduct = helper.big @ helper.big\n"
    body += "product.tofile(output_dir / 'product')\nimport scipy.linalg\n"
    body += "scipy.linalg.svdvals(product).tofile(output_dir / 'values')\n"
    body += "return {'threads': len(os.listdir('/proc/self/task'))}"
    bench.script(body)
    bench.start("helper")
    cold, warm = bench.both()

    assert warm.files == cold.files
    assert warm.summary["threads"] > 1


def test_pyarrows_own_thread_is_no_reason_to_be_cold(bench):
    pytest.importorskip("pyarrow")
    bench.script("return {'sum': pyarrow.compute.sum(list(range(9))).as_py()}",
                 top="import pyarrow.compute\n")
    bench.start("pyarrow", "pyarrow.compute")
    cold, warm = bench.both()

    assert warm == cold


def test_a_hash_seed_drawn_by_each_run_makes_runs_cold(bench):
    assert "hash_seed" in str(bench.start(hash_seed="random").why_not)


FAILING = {
    "raise ValueError('no good')": ["ValueError: no good", "helper.py"],
    "import not_there": ["ModuleNotFoundError: No module named 'not_there'"],
    "def": ["SyntaxError"],
    "import sys; sys.exit('leaving')": ["SystemExit: leaving"],
    "import os; os.write(2, b'last words'); os._exit(3)": ["exit code 3", "last words"],
    "import os; os.kill(os.getpid(), 9)": ["SIGKILL"],
}


@pytest.mark.parametrize("text", FAILING)
def test_a_module_that_cannot_be_imported_is_named(bench, text):
    bench.helper(text)
    with pytest.raises(ConfigError) as caught:
        bench.start("os", "helper")

    assert "PRELOAD names 'helper'" in str(caught.value)
    assert all(words in str(caught.value) for words in FAILING[text])
    assert "zygote" not in str(caught.value)
    assert until(lambda: not bench.living(), 5.0), bench.living()


def test_an_interpreter_that_cannot_start_makes_runs_cold(bench):
    warm = bench.start(python="/nowhere/python")

    assert "cannot start '/nowhere/python'" in str(warm.why_not)
