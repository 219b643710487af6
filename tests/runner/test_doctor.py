"""The doctor, in repositories and on machines with something to say about them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from conftest import Project
from made_runs import make_run

from engram import doctor_machine, doctor_store, record
from engram.doctor import BROKEN, OK, WARN

NVIDIA = """\
#!/bin/sh
case "$*" in
*ecc*) printf '{ecc}' ;;
*query-gpu*) printf '{gpus}' ;;
*-L*) ;;
*) echo 'CUDA Version: 13.0' ;;
esac
"""

# Importing the real one takes seconds, and only the tests of that check need it.
QUICK_TORCH = """\
from types import SimpleNamespace as S
__version__ = "2.0"
version = S(cuda=None)
cuda = S(is_available=lambda: False)
backends = S(
    cudnn=S(deterministic=False, benchmark=False), cpu=S(get_cpu_capability=lambda: "AVX2")
)
are_deterministic_algorithms_enabled = lambda: False
get_float32_matmul_precision = lambda: "highest"
"""


def examined(project: Project, **env: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and topic -> (level, all that was said) of each check."""
    stand_in = project.root.parent / "stand_in"
    stand_in.mkdir(exist_ok=True)
    (stand_in / "torch.py").write_text(QUICK_TORCH)
    path = ":".join(filter(None, (str(stand_in), os.environ.get("PYTHONPATH"))))
    done = project.run("doctor", env={"PYTHONPATH": path, **env})
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, tuple[str, str]] = {}
    topic = ""
    for line in done.stdout.splitlines()[:-1]:
        if line.startswith(" "):
            found[topic] = (found[topic][0], f"{found[topic][1]} {line.strip()}")
        else:
            level, topic = line[:8].strip(), line[8:20].strip()
            before = found.get(topic, (level, ""))
            worst = max(before[0], level, key=(OK, WARN, BROKEN).index)
            found[topic] = (worst, f"{before[1]} {line[20:]}".strip())
    return done.returncode, found


def programs(folder: Path, *left_out: str) -> str:
    """A PATH with everything this one leads to, but for some programs."""
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(":")):
        if not os.path.isdir(place) or not os.access(place, os.R_OK):  # noqa: PTH112 - may be closed
            continue
        for program in Path(place).iterdir():
            link = folder / program.name
            if program.name not in left_out:
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(folder)


def test_a_healthy_project_has_nothing_broken(project: Project) -> None:
    assert project.run("experiment.toml").returncode == 0
    code, found = examined(project)
    assert code == 0
    assert BROKEN not in {level for level, _ in found.values()}
    version = ".".join(map(str, sys.version_info[:3]))
    assert version in found["python"][1]
    assert found["run root"][0] == OK
    assert found["snapshots"] == (OK, "1, all as they were made")
    assert found["runs"] == (OK, "1 run, none killed")
    assert found["git setting"][0] == OK
    assert "none" in found["remote"][1]


def test_the_doctor_leaves_no_trace(project: Project) -> None:
    assert project.run("experiment.toml").returncode == 0
    assert examined(project)[0] == 0
    before = sorted(path for path in project.root.rglob("*") if "facts" not in path.parts)
    assert examined(project)[0] == 0
    after = sorted(path for path in project.root.rglob("*") if "facts" not in path.parts)
    assert after == before
    assert project.git("status", "--porcelain") == ""


def test_outside_of_a_repository_that_is_broken(project: Project, tmp_path: Path) -> None:
    (tmp_path / "nowhere").mkdir()
    project.root = tmp_path / "nowhere"
    code, found = examined(project)
    assert code == 1
    assert found["repository"][0] == BROKEN
    assert "git init" in found["repository"][1]


def test_a_repository_without_a_commit_is_broken(project: Project, tmp_path: Path) -> None:
    project.root = tmp_path / "fresh"
    project.root.mkdir()
    project.git("init", "-q")
    code, found = examined(project)
    assert code == 1
    assert found["commit"][0] == BROKEN


@pytest.mark.parametrize(
    ("key", "value"), [("core.autocrlf", "true"), ("core.fsmonitor", "true"), ("core.eol", "crlf")]
)
def test_git_settings_that_change_or_hide_content_are_named(
    project: Project, key: str, value: str
) -> None:
    project.git("config", key, value)
    code, found = examined(project)
    assert code == 0
    assert found["git setting"][0] == WARN
    assert f"{key} = {value}" in found["git setting"][1]


def test_commits_on_no_remote_are_counted(project: Project, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    project.git("init", "-q", "--bare", str(remote))
    project.git("remote", "add", "origin", str(remote))
    project.git("push", "-q", "origin", "main")
    assert examined(project)[1]["remote"] == (OK, "origin; HEAD is on it")
    project.commit()
    level, said = examined(project)[1]["remote"]
    assert level == WARN
    assert said.startswith("1 commits")


def test_pointers_without_git_lfs_are_broken(project: Project, tmp_path: Path) -> None:
    project.write(
        "weights.bin",
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n",
    )
    project.commit()
    code, found = examined(project, PATH=programs(tmp_path / "bin", "git-lfs"))
    assert code == 1
    assert found["git lfs"][0] == BROKEN
    assert "weights.bin" in found["git lfs"][1]
    assert "git-lfs" in found["git lfs"][1]


def test_a_machine_without_git_is_broken(project: Project, tmp_path: Path) -> None:
    code, found = examined(project, PATH=programs(tmp_path / "bin", "git"))
    assert code == 1
    assert found["git"][0] == BROKEN


def test_killed_runs_are_found_and_how_to_go_on_is_said(project: Project) -> None:
    assert project.run("experiment.toml").returncode == 0
    dead = {**record.load(project.latest())["lease"], "pid": 1, "start_time": 1}
    paths = make_run(project.root / "runs", state="running", lease=dead)
    code, found = examined(project)
    assert code == 0
    assert found["killed runs"][0] == WARN
    assert paths.run_id in found["killed runs"][1]
    assert record.load(paths)["state"] == "killed"


def test_a_damaged_snapshot_is_found(project: Project) -> None:
    assert project.run("experiment.toml").returncode == 0
    commit = project.git("rev-parse", "HEAD")
    file = project.root / ".git/engram/snapshots" / commit / "work.py"
    file.chmod(0o644)
    file.write_text("changed = True\n")
    code, found = examined(project)
    assert code == 0
    assert found["snapshots"][0] == WARN
    assert commit[:12] in found["snapshots"][1]


def test_an_unreadable_record_is_found(project: Project) -> None:
    assert project.run("experiment.toml").returncode == 0
    project.latest().metadata.write_text("{")
    shutil.rmtree(project.root / "runs/.engram")
    found = examined(project)[1]
    assert found["record"][0] == WARN
    assert project.latest().run_id in found["record"][1]


def test_what_the_newest_run_had_otherwise_is_told(project: Project) -> None:
    other = {"python": "3.8.1", "torch": None, "cpu": "Zilog Z80", "gpus": [], "packages": 3}
    make_run(project.root / "runs", environment=other)
    found = examined(project)[1]
    assert found["python"][0] == WARN
    assert "3.8.1" in found["python"][1]
    assert found["processor"][0] == WARN
    assert "Zilog Z80" in found["processor"][1]


def test_packages_that_are_not_the_locked_ones_are_named(project: Project) -> None:
    project.write("uv.lock", 'version = 1\n\n[[package]]\nname = "pytest"\nversion = "0.0.1"\n')
    project.commit()
    level, said = examined(project)[1]["packages"]
    assert level == WARN
    assert "pytest" in said
    assert "0.0.1" in said


def test_variables_that_change_numbers_are_named(project: Project) -> None:
    found = examined(project, MKL_CBWR="AVX2", OPENBLAS_CORETYPE="")[1]
    assert found["variables"][0] == WARN
    assert "MKL_CBWR=AVX2" in found["variables"][1]


def with_gpus(folder: Path, gpus: str, ecc: str) -> str:
    """A PATH on which nvidia-smi shows these GPUs."""
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text(NVIDIA.replace("{gpus}", gpus).replace("{ecc}", ecc))
    tool.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_gpu_without_error_correction_is_told(project: Project, tmp_path: Path) -> None:
    path = with_gpus(tmp_path / "bin", "GPU-1, Fancy, 580.1, 1000\\n", "Disabled, 0\\n")
    code, found = examined(project, PATH=path)
    assert code == 0
    assert "driver 580.1, CUDA 13.0: Fancy" in found["gpu"][1]
    assert found["gpu memory"][0] == WARN


def test_a_gpu_with_memory_errors_is_broken(project: Project, tmp_path: Path) -> None:
    path = with_gpus(tmp_path / "bin", "GPU-1, Fancy, 580.1, 1000\\n", "Enabled, 3\\n")
    code, found = examined(project, PATH=path)
    assert code == 1
    assert found["gpu memory"][0] == BROKEN


def test_two_kinds_of_gpu_are_told(project: Project, tmp_path: Path) -> None:
    gpus = "GPU-1, Fancy, 580.1, 1000\\nGPU-2, Plain, 580.1, 1000\\n"
    path = with_gpus(tmp_path / "bin", gpus, "Enabled, 0\\nEnabled, 0\\n")
    found = examined(project, PATH=path)[1]
    assert found["gpu kinds"][0] == WARN
    assert found["gpu memory"][0] == OK


def test_a_run_from_the_future_casts_doubt_on_the_clock(project: Project) -> None:
    make_run(project.root / "runs", created=record.iso_utc(time.time() + 86400))
    found = examined(project)[1]
    assert found["clock"][0] == WARN


def test_a_locale_without_utf_8_is_told(project: Project) -> None:
    found = examined(project, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")[1]
    assert found["locale"][0] == WARN


def test_torch_that_cannot_be_imported_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "TORCH", "raise ImportError('libfancy.so is missing')")
    assert "libfancy.so" in doctor_machine.ask_torch()["error"]


def test_torch_is_asked_in_another_process() -> None:
    pytest.importorskip("torch")
    facts = doctor_machine.ask_torch()
    import torch

    assert facts["version"] == torch.__version__
    assert facts["deterministic"] is False


def test_gpu_kernels_that_vary_come_with_what_to_do() -> None:
    facts = json.loads(
        '{"deterministic": false, "cudnn_benchmark": false, "matmul_precision": "high", "gpus": 1}'
    )
    (check,) = doctor_machine.determinism(facts)
    assert check.level == WARN
    assert "use_deterministic_algorithms" in check.advice
    (check,) = doctor_machine.determinism({**facts, "gpus": 0})
    assert check.level == OK


def test_a_full_disk_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**7))
    levels = [check.level for check in doctor_store.probe("run root", tmp_path)]
    assert levels == [BROKEN]


def test_locks_that_do_not_work_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(doctor_store.problems(tmp_path)) == []
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(doctor_store.fcntl, "flock", lambda file, kind: None)
    ((level, said, _),) = doctor_store.problems(tmp_path / "again")
    assert level == WARN
    assert "locks" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_root_that_cannot_be_written_is_broken(project: Project) -> None:
    assert project.run("experiment.toml").returncode == 0
    store = project.root / "runs/.engram"
    store.chmod(0o500)
    try:
        assert examined(project)[1]["run root"][0] == BROKEN
    finally:
        store.chmod(0o700)


def test_the_file_system_is_named() -> None:
    assert doctor_store.kind(Path("/proc")) == "proc"
