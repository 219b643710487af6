"""A rerun in the recorded environment, made by a real uv from a lock file that needs no network."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from conftest import CHECKOUT, Project

from engram import record, recreate

PYPROJECT = """\
[project]
name = "tiny"
version = "0.1.0"
requires-python = ">=3.11"
"""
# What the environment is goes into a file that is not compared: it is to differ between the runs.
SCRIPT = """\
import importlib.util
import json
import sys


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    found = {
        "prefix": sys.prefix,
        "pytest": importlib.util.find_spec("pytest") is not None,
        "engram": importlib.util.find_spec("engram.metrics") is not None,
    }
    (output_dir / "environment.json").write_text(json.dumps(found))
    return {"answer": 42}
"""
NEEDS_A_PACKAGE = """\
version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "absent"
version = "1.0.0"
source = { registry = "https://packages.invalid/simple" }
wheels = [{ url = "https://packages.invalid/absent-1.0.0-py3-none-any.whl", \
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000" }]

[[package]]
name = "tiny"
version = "0.1.0"
source = { virtual = "." }
dependencies = [{ name = "absent" }]
"""
RERUN = ("--rerun", "latest", "--recreate-environment")


def real_uv():
    """Uv from PATH, or as the package of that name brings it."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), str(CHECKOUT / ".uv" / "bin")))
    found = shutil.which("uv") or shutil.which("uv", path=beside)
    if found is None and importlib.util.find_spec("uv") is not None:
        import uv

        found = uv.find_uv_bin()
    if found is None:
        pytest.skip("needs uv, which is neither on PATH nor installed as a package")
    return found


class Locked(Project):
    """A project with a uv.lock, and a uv that notes how it is called."""

    @property
    def calls(self):
        """The first argument of each call of uv so far."""
        log = self.root.parent / "uv.log"
        return log.read_text().split() if log.exists() else []

    def put_uv(self, place, *, on_sync=""):
        """Lay out a uv that notes its call and does `on_sync` before it makes an environment."""
        place.parent.mkdir(parents=True, exist_ok=True)
        log = self.root.parent / "uv.log"
        case = f'case "$1" in sync) {on_sync or ":"} ;; esac\n'
        body = f'#!/bin/sh\necho "$1" >> "{log}"\n{case}exec "{real_uv()}" "$@"\n'
        place.write_text(body)
        place.chmod(0o755)

    def environ(self, **more):
        """The variables of a call: our uv first, no network, nothing of the user's."""
        home = self.root.parent
        return {
            "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home / "home"),
            "UV_CACHE_DIR": str(home / "uv-cache"),
            "UV_OFFLINE": "1",
            "UV_NO_CONFIG": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            **more,
        }

    def rerun(self, **more):
        """Rerun the newest run in its recorded environment."""
        return self.run(*RERUN, env=self.environ(**more))

    def environments(self):
        """The folders of the environments that were made."""
        return [
            path for path in (self.root / ".git/engram/environments").glob("*") if path.is_dir()
        ]

    def said(self):
        """What the newest run's script saw of its environment."""
        return json.loads((self.latest().outputs / "environment.json").read_text())


@pytest.fixture
def locked(project):
    """A project with pyproject.toml and uv.lock, and a uv on the search path."""
    made = Locked(project.root)
    made.put_uv(project.root.parent / "bin" / "uv")
    made.write("pyproject.toml", PYPROJECT)
    made.write("work.py", SCRIPT)
    made.write(
        "experiment.toml",
        (project.root / "experiment.toml").read_text()
        + '[outputs]\nvolatile = ["environment.json"]\n',
    )
    made.write(".gitignore", "runs\n__pycache__\n.uv\n")
    call = [real_uv(), "lock", "-q", "--python", sys.executable]
    subprocess.run(
        call, cwd=made.root, env={**os.environ, **made.environ()}, check=True, timeout=60
    )
    made.commit()
    return made


@pytest.fixture
def ran(locked):
    """The same, having run once."""
    done = locked.run("experiment.toml")
    assert done.returncode == 0, done.stderr
    return locked


def test_rerun_takes_place_in_the_recorded_environment(ran):
    assert ran.said()["pytest"]
    done = ran.rerun()
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stderr
    (folder,) = ran.environments()
    assert ran.said() == {"prefix": str(folder / ".venv"), "pytest": False, "engram": True}
    assert (folder / "uv.lock").read_bytes() == (ran.root / "uv.lock").read_bytes()
    found = ran.record()
    assert found["environment"]["executable"] == str(folder / ".venv/bin/python")
    assert found["environment"]["packages"] == 0
    assert json.loads(ran.latest().environment.read_text())["prefix"] == str(folder / ".venv")
    assert {item["code"] for item in found["findings"]} == {"no_remote"}


def test_plain_rerun_stays_in_the_environment_that_is_installed(ran):
    done = ran.run("--rerun", "latest", env=ran.environ())
    assert done.returncode == 0, done.stderr
    assert ran.said()["pytest"]
    assert ran.calls == []


def test_environment_is_kept_for_the_next_rerun(ran):
    ran.rerun()
    calls = ran.calls
    assert "sync" in calls
    done = ran.rerun()
    assert done.returncode == 0, done.stderr
    assert ran.calls == calls
    assert not ran.said()["pytest"]


def test_folder_is_named_after_lock_and_python(ran):
    ran.rerun()
    (folder,) = ran.environments()
    sha256 = record.load(ran.runs()[0])["hashes"]["lock_file"]
    python = ".".join(map(str, sys.version_info[:3]))
    assert folder.name.startswith(f"{sha256[:16]}-{python}")


def test_reruns_at_once_make_one_environment(ran):
    run = ran.latest().run_id
    both = [ran.start("--rerun", run, *RERUN[2:], env=ran.environ()) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert ran.calls.count("sync") == 1


def test_killed_set_up_is_redone(ran):
    uv = ran.root.parent / "bin" / "uv"
    ran.put_uv(uv, on_sync="mkdir .venv; touch .venv/half; kill -9 $PPID; exit 1")
    assert ran.rerun().returncode == -signal.SIGKILL
    (folder,) = ran.environments()
    assert (folder / ".venv/half").exists()
    assert len(ran.runs()) == 1
    ran.put_uv(uv)
    done = ran.rerun()
    assert done.returncode == 0, done.stderr
    assert not (folder / ".venv/half").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_ends_the_set_up_and_leaves_no_run(ran, number, code):
    noted = ran.root.parent / "pid"
    stop = f'echo $$ > "{noted}.new"; mv "{noted}.new" "{noted}"; exec sleep 1000'
    ran.put_uv(ran.root.parent / "bin" / "uv", on_sync=stop)
    process = ran.start(*RERUN, env=ran.environ())
    end = time.monotonic() + 300
    while not noted.exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == code
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.read_text()), 0)
    assert len(ran.runs()) == 1


def test_removed_python_below_the_environment_has_it_made_again(ran):
    ran.rerun()
    (folder,) = ran.environments()
    (folder / ".venv/bin/python").unlink()
    (folder / ".venv/bin/python").symlink_to(folder / "gone")
    done = ran.rerun()
    assert done.returncode == 0, done.stderr
    assert ran.calls.count("sync") == 2


def test_commit_without_lock_file_is_refused(project):
    project.run("experiment.toml")
    done = project.run(*RERUN)
    assert done.returncode == 2
    assert "recorded no uv.lock" in done.stderr
    assert len(project.runs()) == 1


def test_commit_without_pyproject_is_refused(locked):
    (locked.root / "pyproject.toml").unlink()
    locked.commit()
    locked.run("experiment.toml")
    done = locked.rerun()
    assert done.returncode == 2
    assert "pyproject.toml" in done.stderr
    assert len(locked.runs()) == 1


def test_altered_lock_file_is_refused(ran):
    lock = ran.latest().lock_file
    lock.write_bytes(lock.read_bytes() + b"\n")
    done = ran.rerun()
    assert done.returncode == 2
    assert str(lock) in done.stderr
    assert ran.calls == []


def test_lock_file_that_uv_cannot_read_is_refused_with_its_words(locked):
    locked.write("uv.lock", "no lock at all\n")
    locked.commit()
    locked.run("experiment.toml")
    done = locked.rerun()
    assert done.returncode == 2
    assert "Failed to parse" in done.stderr
    assert "sync" not in locked.calls
    assert len(locked.runs()) == 1


def test_package_that_is_not_to_be_had_is_refused_each_time(locked):
    locked.write("pyproject.toml", PYPROJECT + 'dependencies = ["absent"]\n')
    locked.write("uv.lock", NEEDS_A_PACKAGE)
    locked.commit()
    locked.run("experiment.toml")
    for number in (1, 2):
        done = locked.rerun()
        assert done.returncode == 2
        assert "absent" in done.stderr
        assert "could not be made" in done.stderr
        assert locked.calls.count("sync") == number
    assert len(locked.runs()) == 1


def path_with_git_alone(folder):
    """A search path on which git is, and no uv."""
    folder.mkdir()
    (folder / "git").symlink_to(shutil.which("git"))
    return str(folder)


def test_missing_uv_is_said_with_what_to_do(ran, tmp_path):
    done = ran.rerun(PATH=path_with_git_alone(tmp_path / "only"))
    assert done.returncode == 2
    assert "install it" in done.stderr
    assert len(ran.runs()) == 1


@pytest.mark.parametrize("place", ["home/.local/bin/uv", "project/.uv/bin/uv"])
def test_uv_is_found_where_run_puts_it(ran, tmp_path, place):
    ran.put_uv(ran.root.parent / place, on_sync="PATH=/usr/bin:/bin")
    done = ran.rerun(PATH=path_with_git_alone(tmp_path / "only"))
    assert done.returncode == 0, done.stderr
    assert "sync" in ran.calls


def test_run_script_of_this_project_makes_the_environment_where_the_commit_has_it(locked):
    shutil.copy(CHECKOUT / "run", locked.root / "run")
    locked.write("run_experiment.py", "raise SystemExit('this must not run')\n")
    locked.commit()
    assert locked.run("experiment.toml").returncode == 0
    done = locked.rerun(ENGRAM_TORCH="cuda")
    assert done.returncode == 0, done.stderr
    (folder,) = locked.environments()
    assert (folder / ".venv/engram.build").read_text() == "cuda\n"
    assert locked.said()["prefix"] == str(folder / ".venv")


def test_run_script_of_somebody_else_is_never_started(locked):
    locked.write("run", "#!/bin/sh\nexit 9\n")
    locked.commit()
    locked.run("experiment.toml")
    done = locked.rerun()
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    sys.prefix == sys.base_prefix, reason="needs a runner whose packages are not its Python's own"
)
def test_package_of_the_runner_is_outside_the_recreated_environment(locked):
    packages = sysconfig.get_path("purelib")
    script = SCRIPT.replace(
        "import sys\n", f"import sys\n\nsys.path.append({packages!r})\nimport iniconfig\n", 1
    )
    locked.write("work.py", script)
    locked.commit()
    locked.run("experiment.toml")
    codes = [item["code"] for item in locked.record()["findings"]]
    assert "imported_outside_snapshot" not in codes
    done = locked.rerun()
    assert done.returncode == 0, done.stderr
    found = {item["code"]: item for item in locked.record()["findings"]}
    evidence = found["imported_outside_snapshot"]["evidence"]
    assert "iniconfig" in {item["name"] for item in evidence}


def test_repository_gone_environment_is_kept_beside_the_runs(ran, tmp_path):
    moved = tmp_path / "archive" / ran.latest().run_id
    moved.parent.mkdir()
    shutil.copytree(ran.latest().folder, moved, symlinks=True)
    environ = ran.environ()
    shutil.rmtree(ran.root)
    done = ran.run("--rerun", str(moved), *RERUN[2:], env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(moved.parent.glob(".engram/cache/environments/*/engram.ready"))) == 1


@pytest.mark.parametrize(
    ("version", "build"),
    [("2.9.0+cpu", "cpu"), ("2.9.0+cu130", "cuda"), ("2.9.0", None), (None, None)],
)
def test_build_of_torch_is_read_from_its_version(version, build):
    assert recreate.torch_build(version) == build


def test_build_counts_only_where_the_lock_has_torch(monkeypatch):
    lock = b'[[package]]\nname = "torch"\nversion = "2.9.0"\n'
    monkeypatch.delenv("ENGRAM_TORCH", raising=False)
    assert recreate.wanted_build(lock, "2.9.0+cpu") == "cpu"
    assert recreate.wanted_build(b'[[package]]\nname = "torchmetrics"\n', "2.9.0+cpu") is None
    monkeypatch.setenv("ENGRAM_TORCH", "cuda")
    assert recreate.wanted_build(lock, "2.9.0+cpu") == "cuda"
