"""When forking is not as good as starting: each reason is brought about by a module of PRELOAD."""

from __future__ import annotations

import os
import subprocess

import pytest
from gpu_stubs import needs_compiler
from warm_bench import Both, until

from engram.errors import ConfigError
from engram.warm import WarmEndedError


@pytest.fixture
def bench(tmp_path):
    made = Both(tmp_path)
    yield made
    made.close()
    assert until(lambda: not made.living(), 50.0), made.living()


UNSAFE = {
    "Python thread": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(60,), name='busy', daemon=True).start()",
    "keeps open: {helper}": "kept = open(__file__)",
    "starts a process": "import subprocess\nkept = subprocess.Popen(['sleep', '60'])",
    "does not wait for its end": "import os, time\nif os.fork() == 0:\n    time.sleep(60)",
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
    assert until(lambda: not bench.living(), 50.0), bench.living()


def test_numbers_that_numpy_draws_make_runs_cold(bench):
    pytest.importorskip("numpy")
    bench.helper("import numpy\ntable = numpy.random.rand(312)")

    assert "from numpy.random" in str(bench.start("helper").why_not)


def test_a_stand_in_for_torch_that_says_cuda_is_up_makes_runs_cold(bench):
    """No GPU is needed: the module torch here is a stand-in that claims to have one."""
    bench.helper("from torch import cuda\n", "torch/__init__.py")
    bench.helper("def is_initialized():\n    return True\n", "torch/cuda.py")

    assert "CUDA" in str(bench.start("torch").why_not)


DRIVER = """
static int up;
int cuInit(unsigned flags) { up = 1; return 0; }
int cuDeviceGetCount(int *count) { *count = up; return up ? 0 : 3; }
"""


@needs_compiler
def test_a_stand_in_for_the_driver_that_was_initialized_makes_runs_cold(bench, tmp_path):
    """No GPU is needed: a library of the driver's name knows whether cuInit was called."""
    library = tmp_path / "libcuda.so.1"
    name = ["-Wl,-soname,libcuda.so.1", "-o", str(library), "-x", "c", "-"]
    subprocess.run(["gcc", "-shared", "-fPIC", *name], input=DRIVER.encode(), check=True)
    load = f"import ctypes\ndriver = ctypes.CDLL({str(library)!r})\n"
    bench.helper(load)
    bench.helper(load + "driver.cuInit(0)\n", "toucher.py")

    assert bench.start("helper").why_not is None
    bench.warm.close()
    assert "cuInit" in str(bench.start("toucher").why_not)


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
    bench.script(
        "return {'sum': pyarrow.compute.sum(list(range(9))).as_py()}",
        top="import pyarrow.compute\n",
    )
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
    assert until(lambda: not bench.living(), 50.0), bench.living()


def test_an_interpreter_that_cannot_start_makes_runs_cold(bench):
    warm = bench.start(python="/nowhere/python")

    assert "cannot start '/nowhere/python'" in str(warm.why_not)
