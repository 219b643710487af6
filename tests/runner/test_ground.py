"""The ground: ./run, the packaging and what git ignores.

`run` is tried for real in a copy whose uv and python3 are stubs that write down their calls.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import engram

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "cat", "chmod", "cmp", "cp", "env", "flock", "mkdir", "readlink", "rm", "sed")
LOCK = """\
version = 1

[[package]]
name = "cuda-bindings"
version = "13.0.3"

[[package]]
name = "nvidia-cublas"
version = "13.1.0.3"

[[package]]
name = "torch"
version = "2.13.0"

[[package]]
name = "torchmetrics"
version = "1.8.2"

[[package]]
name = "triton"
version = "3.7.0"
"""
# An environment's python: -c and pip are written down, run_experiment.py "runs".
PYTHON = """\
#!/usr/bin/env bash
case "$1" in
-c) exit 0 ;;
-m)
    echo "pip ${*:2}" >>"$LOG"
    # As at Ctrl-C: everybody in the foreground gets the signal, and pip turns it into exit 1.
    [[ -z ${PIP_INTERRUPTED-} ]] || { trap 'exit 1' INT && kill -INT 0; }
    exit "${PIP_EXIT:-0}"
    ;;
esac
echo "started in $PWD:$(printf ' [%s]' "${@:2}")"
"""
UV = """\
#!/usr/bin/env bash
[[ $1 != export ]] || exit 0
echo "uv $*" >>"$LOG"
if [[ $1 == venv ]]; then rm -rf .venv/*; exit 0; fi
if [[ -e .venv/bin && ! -e .venv/bin/python ]]; then echo "not a valid environment" >&2; exit 2; fi
mkdir -p .venv/bin
[[ -z ${UV_KILLED-} ]] || kill -9 $PPID $$
cp "$STUBS/python" .venv/bin/python
exit "${UV_EXIT:-0}"
"""
# The machine's python3: makes .uv with a uv in it, through venv or through pip --target.
PYTHON3 = """\
#!/usr/bin/env bash
echo "python3 $*" >>"$LOG"
case "$2" in
venv)
    [[ -z ${NO_ENSUREPIP-} ]] || exit 1
    mkdir -p .uv/bin
    cp "$STUBS/pip-for-uv" .uv/bin/python
    ;;
pip) mkdir -p .uv/bin; cp "$STUBS/uv" .uv/bin/uv ;;
esac
"""
PIP_FOR_UV = """\
#!/usr/bin/env bash
cp "$STUBS/uv" .uv/bin/uv
"""


@dataclass(frozen=True)
class Ground:
    """A copy of `run` among stubs."""

    folder: Path
    bin: Path
    environ: dict[str, str]

    def start(self, *arguments, program=None, cwd=None, **environ):
        command = [str(program or self.folder / "run"), *arguments]
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            start_new_session=True,
        )

    def calls(self):
        log = Path(self.environ["LOG"])
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def add_stub(self, name, text):
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    @property
    def build(self):
        return (self.folder / ".venv/engram.build").read_text().strip()


@pytest.fixture
def ground(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copy(ROOT / "run", folder / "run")
    (folder / "uv.lock").write_text(LOCK)
    tools, stubs = tmp_path / "bin", tmp_path / "stubs"
    tools.mkdir()
    stubs.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"this machine has no {name}")
        (tools / name).symlink_to(found)
    for name, text in {"python": PYTHON, "uv": UV, "pip-for-uv": PIP_FOR_UV}.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    environ = {
        "PATH": str(tools),
        "HOME": str(tmp_path),
        "LOG": str(tmp_path / "log"),
        "STUBS": str(stubs),
        "ENGRAM_TORCH": "cpu",
    }
    made = Ground(folder, tools, environ)
    made.add_stub("uv", UV)
    made.add_stub("python3", PYTHON3)
    return made


def test_first_start_makes_a_cpu_environment_and_says_so(ground):
    done = ground.start("list", "a b", "--json")

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"started in {ground.folder}: [list] [a b] [--json]\n"
    sync, pip = ground.calls()
    assert sync.startswith("uv sync --frozen --compile-bytecode --inexact")
    skipped = re.findall(r"--no-install-package=(\S+)", sync)
    assert skipped == ["cuda-bindings", "nvidia-cublas", "torch", "triton"]
    assert pip.startswith("pip pip install --no-deps")
    assert pip.endswith("/cpu torch==2.13.0+cpu")
    assert "ready (torch build: cpu)" in done.stderr
    assert ground.build == "cpu"


def test_nvidia_driver_chooses_the_cuda_build(ground):
    ground.add_stub("nvidia-smi", "#!/bin/sh\n")
    done = ground.start(ENGRAM_TORCH="")

    assert ground.calls() == ["uv sync --frozen --compile-bytecode"]
    assert "ready (torch build: cuda)" in done.stderr


@pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or os.uname().machine != "x86_64"
    or Path("/proc/driver/nvidia/version").exists(),
    reason="the CPU build is the choice on Linux x86_64 without an NVIDIA driver",
)
def test_no_nvidia_driver_chooses_the_cpu_build(ground):
    ground.start(ENGRAM_TORCH="")

    assert ground.build == "cpu"


def test_missing_cpu_build_falls_back_to_cuda_for_good(ground):
    done = ground.start(PIP_EXIT="1")

    assert done.returncode == 0
    assert "no CPU build of torch 2.13.0 is to be had" in done.stderr
    assert ground.build == "cuda"
    assert ground.calls()[-1] == "uv sync --frozen --compile-bytecode"
    ground.start()
    assert ground.calls() == []


def test_second_start_sets_up_nothing_and_prints_nothing(ground):
    ground.start()
    ground.calls()
    done = ground.start("test")

    assert ground.calls() == []
    assert (done.stdout, done.stderr) == (f"started in {ground.folder}: [test]\n", "")


def test_changed_lock_file_is_noticed_even_with_its_old_mtime(ground):
    ground.start()
    ground.calls()
    lock = ground.folder / "uv.lock"
    before = lock.stat()
    lock.write_text(LOCK.replace("1.8.2", "1.8.3"))
    os.utime(lock, ns=(before.st_atime_ns, before.st_mtime_ns))
    ground.start()

    assert [call.split()[0] for call in ground.calls()] == ["uv", "pip"]


def test_cpu_environment_is_upgraded_where_a_gpu_appears_and_stays_so(ground):
    ground.start()
    ground.calls()
    ground.start(ENGRAM_TORCH="cuda")
    assert ground.calls() == ["uv sync --frozen --compile-bytecode"]
    ground.start()
    assert ground.calls() == []
    (ground.folder / "uv.lock").write_text(LOCK + "\n")
    ground.start()
    assert ground.calls() == ["uv sync --frozen --compile-bytecode"]


def test_set_up_killed_half_way_recovers_at_the_next_start(ground):
    killed = ground.start(UV_KILLED="1")
    assert killed.returncode != 0
    assert "started" not in killed.stdout
    ground.calls()
    done = ground.start()

    assert done.returncode == 0, done.stderr
    assert [call.split()[:2] for call in ground.calls()] == [
        ["uv", "venv"],
        ["uv", "sync"],
        ["pip", "pip"],
    ]


def test_ctrl_c_during_the_cpu_build_does_not_start_the_cuda_build(ground):
    interrupted = ground.start(PIP_INTERRUPTED="1")
    assert interrupted.returncode != 0
    assert [call.split()[0] for call in ground.calls()] == ["uv", "pip"]
    ground.start()

    assert [call.split()[1] for call in ground.calls()] == ["venv", "sync", "pip"]


def test_starts_at_the_same_time_make_one_environment(ground):
    starts = [
        subprocess.Popen(
            [ground.folder / "run", str(number)],
            cwd=ground.folder,
            env=ground.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(6)
    ]
    printed = [process.communicate(timeout=300)[0] for process in starts]

    assert printed == [f"started in {ground.folder}: [{number}]\n" for number in range(6)]
    assert len([call for call in ground.calls() if call.startswith("uv sync")]) == 1


@pytest.mark.parametrize("made", [False, True], ids=["first", "second"])
def test_starts_through_links_and_from_elsewhere_keep_the_current_folder(ground, tmp_path, made):
    if made:
        ground.start()
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (tmp_path / "one").symlink_to("a folder/run")
    (elsewhere / "two").symlink_to("../one")

    for program in ("./two", elsewhere / "two", "../a folder/run"):
        done = ground.start("x", program=program, cwd=elsewhere)
        assert done.stdout == f"started in {elsewhere}: [x]\n", done.stderr
    assert (ground.folder / ".venv/engram.build").exists()


@pytest.mark.parametrize("command", [["bash", "run"], ["bash", "../a folder/run"]])
def test_starts_under_an_explicit_bash_and_a_hostile_cdpath(ground, tmp_path, command):
    done = subprocess.run(
        command,
        cwd=ground.folder,
        env=ground.environ | {"CDPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.stdout.startswith(f"started in {ground.folder}:"), done.stderr


def test_absent_uv_is_installed_for_this_folder_alone(ground):
    (ground.bin / "uv").unlink()
    done = ground.start()

    assert done.returncode == 0, done.stderr
    calls = ground.calls()
    assert calls[0] == "python3 -m venv .uv"
    assert calls[1].startswith("uv sync")
    assert not (ground.bin / "uv").exists()


def test_absent_uv_and_no_ensurepip_still_set_up(ground):
    (ground.bin / "uv").unlink()
    done = ground.start(NO_ENSUREPIP="1")

    assert done.returncode == 0, done.stderr
    assert ground.calls()[1] == "python3 -m pip install -q --upgrade --target .uv uv"


def test_uv_too_old_for_the_lock_file_is_passed_over(ground):
    ground.add_stub("uv", "#!/bin/sh\necho old $* >>$LOG\nexit 2\n")
    done = ground.start()

    assert done.returncode == 0, done.stderr
    assert [call for call in ground.calls() if call.startswith("old")] == ["old export -q --frozen"]


def test_failed_set_up_is_refused_with_another_way_and_no_stamp(ground):
    done = ground.start(UV_EXIT="1")

    assert done.returncode == 2
    assert "python3 run_experiment.py" in done.stderr
    assert "no CPU build" not in done.stderr
    assert not (ground.folder / ".venv/engram.build").exists()


@pytest.mark.parametrize("name", [".venv", ".uv"])
def test_environment_may_be_a_link_to_an_emptied_disk(ground, tmp_path, name):
    disk = tmp_path / "disk" / name
    (ground.folder / name).symlink_to(disk)
    done = ground.start()

    assert done.returncode == 0, done.stderr
    assert (ground.folder / name).is_symlink()
    assert list(disk.iterdir())


def test_bytecode_is_written_although_the_shell_forbids_it(ground):
    ground.start()
    (ground.folder / ".venv/bin/python").write_text(
        '#!/usr/bin/env bash\necho "${PYTHONDONTWRITEBYTECODE-unset}"\n'
    )

    assert ground.start(PYTHONDONTWRITEBYTECODE="1").stdout == "unset\n"


def test_run_and_its_door_stay_short():
    assert len((ROOT / "run").read_text().splitlines()) <= 60
    assert len((ROOT / "run_experiment.py").read_text().splitlines()) <= 15
    assert os.access(ROOT / "run", os.X_OK)


def test_bare_python_without_site_packages_starts(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-s", ROOT / "run_experiment.py", "--help"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    assert "--resume" in done.stdout


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def lock():
    return tomllib.loads((ROOT / "uv.lock").read_text())


def requirement_name(requirement):
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]


def test_version_is_the_same_in_package_and_project(pyproject):
    assert engram.__version__ == pyproject["project"]["version"]


def test_plain_install_brings_the_runner_and_no_science(pyproject):
    names = {requirement_name(item) for item in pyproject["project"]["dependencies"]}

    assert names == {"gitpython", "rich", "tomli", "tomlkit"}


def test_lock_file_names_one_public_index_and_no_local_path(lock):
    sources = [package["source"] for package in lock["package"] if package["name"] != "engram"]

    assert {tuple(source) for source in sources} == {("registry",)}
    assert len({source["registry"] for source in sources}) == 1
    assert sources[0]["registry"].startswith("https://")


def test_lock_file_answers_to_the_project_file(pyproject, lock):
    locked = {package["name"] for package in lock["package"]}
    asked = pyproject["project"]["dependencies"] + [
        item
        for group in (pyproject["project"]["optional-dependencies"], pyproject["dependency-groups"])
        for items in group.values()
        for item in items
    ]
    torch = next(package for package in lock["package"] if package["name"] == "torch")

    assert {requirement_name(item) for item in asked} <= locked
    assert pyproject["tool"]["uv"]["constraint-dependencies"] == [f"torch=={torch['version']}"]


def git(folder, *arguments):
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environ, check=True, capture_output=True, text=True
    ).stdout


def test_every_file_of_lib_is_tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of the project is not a git checkout")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lib").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    tracked = set(git(ROOT, "ls-files", "-z", "--", "lib").split("\0")) - {""}

    assert found - tracked == set()


@pytest.mark.parametrize("link", [False, True], ids=["folder", "symlink"])
@pytest.mark.parametrize("name", ["runs", ".venv", ".uv"])
def test_runs_and_environments_are_ignored(tmp_path, name, link):
    repository, disk = tmp_path / "repository", tmp_path / "disk"
    repository.mkdir()
    disk.mkdir()
    git(repository, "init", "-q")
    shutil.copy(ROOT / ".gitignore", repository / ".gitignore")
    if link:
        (repository / name).symlink_to(disk)
    else:
        (repository / name).mkdir()
        (repository / name / "file").touch()

    assert git(repository, "status", "--porcelain", "-uall") == "?? .gitignore\n"


def test_files_of_lib_are_never_ignored_whatever_their_name(tmp_path):
    git(tmp_path, "init", "-q")
    shutil.copy(ROOT / ".gitignore", tmp_path / ".gitignore")
    names = [f"lib/{name}/x.py" for name in ("engram", "neuro/runs", "neuro/build", "neuro/lib")]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()

    status = git(tmp_path, "status", "--porcelain", "-uall", "--", "lib").split()
    assert sorted(status[1::2]) == sorted(names)
