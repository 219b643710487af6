"""A real Ray cluster for the tests of this folder: one node with four GPUs that are not there."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from grids import living, wait_for


@pytest.fixture(scope="session")
def ray_head() -> Iterator[dict[str, str]]:
    """What programs need in their environment to reach the cluster."""
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("Ray is not installed: pip install ray")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets need a short path
    log = Path(folder) / "start.log"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=4", "--num-gpus=4"]
    command += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
    with log.open("w") as stream:
        head = subprocess.Popen(
            command,
            env={**os.environ, **environ, "RAY_ADDRESS": ""},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "Ray runtime started" in log.read_text() or head.poll(), 60)
        assert head.poll() is None, log.read_text()
        yield environ
    finally:
        head.kill()
        for pid in living(environ["RAY_AUTH_TOKEN"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)
