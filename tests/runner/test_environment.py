"""What is recorded about the machine and the environment, and what never is."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from engram import environment, packages
from engram.paths import CachePaths

QUERY = "GPU-1111, NVIDIA H200, 580.82.07, 143771\nGPU-2222, NVIDIA H200, 580.82.07, 143771\n"
BANNER = "| NVIDIA-SMI 580.82.07   Driver Version: 580.82.07   CUDA Version: 13.0  |\n"
LISTING = """\
GPU 0: NVIDIA H200 (UUID: GPU-1111)
  MIG 1g.18gb     Device  0: (UUID: MIG-aaaa)
  MIG 1g.18gb     Device  1: (UUID: MIG-bbbb)
GPU 1: NVIDIA H200 (UUID: GPU-2222)
"""
STUB = """\
#!/bin/sh
echo called >> "{calls}"
case "$1" in
    --query-gpu=*) cat "{folder}/query" ;;
    -L) cat "{folder}/listing" ;;
    *) cat "{folder}/banner" ;;
esac
exit {status}
"""


@pytest.fixture
def cache(tmp_path: Path) -> CachePaths:
    """An empty cache."""
    return CachePaths(tmp_path / "cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of code without a lock file."""
    (tmp_path / "code").mkdir()
    return tmp_path / "code"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a stand-in for nvidia-smi on PATH; returns how often it was called."""

    def install(query: str = QUERY, banner: str = BANNER, status: int = 0):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in (("query", query), ("banner", banner), ("listing", LISTING)):
            (folder / name).write_text(text)
        stub = folder / "nvidia-smi"
        stub.write_text(STUB.format(calls=folder / "calls", folder=folder, status=status))
        stub.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        (folder / "calls").write_text("")
        return lambda: len((folder / "calls").read_text().splitlines())

    return install


def package(folder: Path, name: str, **files: str) -> None:
    (folder / name).mkdir(parents=True)
    for file, text in files.items():
        (folder / name / file).write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, the only one on the search path, left alone for long."""
    folder = tmp_path / "site-packages"
    package(folder, "numpy-2.1.0.dist-info")
    package(folder, "torch-2.9.0.dist-info")
    package(folder, "My.Odd_Name-1.0.dist-info")
    (folder / "torch").mkdir()
    (folder / "torch" / "version.py").write_text(
        "from typing import Optional\n"
        "__all__ = ['__version__', 'cuda']\n"
        "__version__ = '2.9.0+cu130'\n"
        "debug = False\n"
        "cuda: Optional[str] = '13.0'\n"
        "hip: Optional[str] = None\n"
    )
    os.utime(folder, (1_700_000_000, 1_700_000_000))
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


def test_the_description_is_plain_and_names_this_machine(cache: CachePaths, root: Path):
    facts, _ = environment.collect(cache, root)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["python"] == platform.python_version()
    assert facts["executable"] == sys.executable
    assert facts["platform"].startswith(f"{platform.system()}-{platform.release()}")
    assert facts["cpus"] == os.cpu_count()
    assert facts["lock"] is None
    if Path("/proc/cpuinfo").exists():
        assert (
            facts["cpu"] in Path("/proc/cpuinfo").read_text() or facts["cpu"] == platform.machine()
        )


def test_packages_are_those_that_importlib_finds(cache: CachePaths, root: Path):
    facts, _ = environment.collect(cache, root)
    folders = {str(folder) for folder in environment.site_folders()}
    expected: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        if str(found.locate_file("")) in folders:  # the first on the search path counts
            expected.setdefault(packages.normalized(found.name), found.version)
    assert facts["packages"] == expected


def test_a_torch_build_keeps_its_local_part(cache: CachePaths, root: Path, site: Path):
    facts, _ = environment.collect(cache, root)
    assert facts["torch"] == "2.9.0+cu130"
    assert facts["torch_cuda"] == "13.0"
    assert facts["packages"] == {"my-odd-name": "1.0", "numpy": "2.1.0", "torch": "2.9.0"}


def test_a_cpu_build_of_torch_has_no_cuda(cache: CachePaths, root: Path, site: Path):
    (site / "torch" / "version.py").write_text("__version__ = '2.9.0+cpu'\ncuda = None\n")
    facts, _ = environment.collect(cache, root)
    assert (facts["torch"], facts["torch_cuda"]) == ("2.9.0+cpu", None)


def test_no_torch_is_none(cache: CachePaths, root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    facts, _ = environment.collect(cache, root)
    assert facts["torch"] is None
    assert facts["packages"] == {}


def test_old_and_editable_packages_are_found(tmp_path: Path):
    folder = tmp_path / "site-packages"
    package(folder, "old-1.2-py3.11.egg-info")
    package(folder, "bare.egg-info", **{"PKG-INFO": "Metadata-Version: 1\nVersion: 3.1\n"})
    (folder / "flat.egg-info").write_text("Name: flat\nVersion: 4\n")
    (folder / "broken.dist-info").mkdir()
    direct = {"url": "file:///home/me/mine", "dir_info": {"editable": True}}
    package(folder, "mine-0.1.dist-info", **{"direct_url.json": json.dumps(direct)})
    direct = {"url": "https://me:secret@example.org/x.git", "vcs_info": {"commit_id": "abc"}}
    package(folder, "vcs-0.2.dist-info", **{"direct_url.json": json.dumps(direct)})
    facts = packages.describe([folder])
    assert facts["packages"] == {
        "bare": "3.1",
        "broken": "unknown",
        "flat": "4",
        "mine": "0.1",
        "old": "1.2",
        "vcs": "0.2",
    }
    assert facts["installed_from"] == {
        "mine": "file:///home/me/mine (editable)",
        "vcs": "https://***@example.org/x.git@abc",
    }


def lock(root: Path, **versions: str) -> None:
    lines = ["version = 1\n", 'requires-python = ">=3.11"\n']
    for name, version in versions.items():
        lines.append(f'\n[[package]]\nname = "{name}"\nversion = "{version}"\n')
        lines.append('source = { registry = "https://example.org/simple" }\n')
        lines.append('dependencies = [\n    { name = "numpy", version = "0.0" },\n]\n')
    (root / "uv.lock").write_text("".join(lines))
    os.utime(root / "uv.lock", (1_700_000_000, 1_700_000_000))


def test_an_environment_as_locked_is_no_finding(cache: CachePaths, root: Path, site: Path):
    lock(root, numpy="2.1.0", torch="2.9.0", absent="1")
    facts, found = environment.collect(cache, root)
    assert found == []
    assert facts["lock"]["differences"] == []


def test_an_environment_that_differs_from_its_lock_is_found(
    cache: CachePaths, root: Path, site: Path
):
    lock(root, numpy="2.2.0", torch="2.9.0+cpu", **{"my-odd-name": "1.0"})
    _, (found,) = environment.collect(cache, root)
    assert found.code == "environment_differs_from_lock"
    assert found.severity == "warning"
    assert found.evidence == [{"name": "numpy", "installed": "2.1.0", "locked": "2.2.0"}]
    assert "numpy 2.1.0 (locked 2.2.0)" in found.message


def test_a_package_locked_in_several_versions_may_be_any_of_them():
    installed = {"scipy": "1.13", "numpy": "2.1+local"}
    locked = {"scipy": ["1.12", "1.13"], "numpy": ["2.0"]}
    assert [d["name"] for d in packages.differences(installed, locked)] == ["numpy"]
    assert packages.differences({"certifi": "2024.01.05"}, {"certifi": ["2024.1.5"]}) == []


def test_locked_versions_are_those_that_a_parser_finds():
    path = Path(__file__).resolve().parents[2] / "uv.lock"
    parsed: dict[str, list[str]] = {}
    for item in tomllib.loads(path.read_text())["package"]:
        if "version" in item:
            parsed.setdefault(item["name"], []).append(item["version"])
    assert packages.locked_versions(path.read_text()) == parsed


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "describe", None)
    monkeypatch.setattr(packages, "compare", None)


def test_packages_are_looked_up_once(cache: CachePaths, root: Path, site: Path, monkeypatch):
    lock(root, numpy="2.2.0")
    facts, (found,) = environment.collect(cache, root)
    forbid(monkeypatch)
    again, (same,) = environment.collect(cache, root)
    assert again == facts
    assert (same.message, same.evidence) == (found.message, found.evidence)


@pytest.mark.parametrize("change", ["installed", "removed", "lock"])
def test_packages_are_looked_up_again_when_something_changed(
    cache: CachePaths, root: Path, site: Path, change
):
    lock(root, numpy="2.1.0")
    environment.collect(cache, root)
    if change == "installed":
        package(site, "new-1.0.dist-info")
    elif change == "removed":
        (site / "numpy-2.1.0.dist-info").rmdir()
    else:
        lock(root, numpy="2.2.0")
    facts, found = environment.collect(cache, root)
    assert ("new" in facts["packages"]) == (change == "installed")
    assert ("numpy" in facts["packages"]) == (change != "removed")
    assert len(found) == (change == "lock")


def test_a_folder_that_changed_just_now_is_not_trusted(
    cache: CachePaths, root: Path, site: Path, monkeypatch
):
    os.utime(site, (time.time(), time.time()))
    environment.collect(cache, root)
    assert not list(cache.facts.glob("packages-*"))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": 1}', b"\xff"])
def test_damaged_facts_are_computed_again(cache: CachePaths, root: Path, site: Path, damage):
    expected, _ = environment.collect(cache, root)
    (path,) = cache.facts.iterdir()
    path.write_bytes(damage)
    assert environment.collect(cache, root)[0] == expected


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, root: Path):
    (tmp_path / "file").touch()
    facts, _ = environment.collect(CachePaths(tmp_path / "file" / "cache"), root)
    assert facts["python"] == platform.python_version()


def test_gpus_are_those_of_nvidia_smi(cache: CachePaths, root: Path, nvidia_smi):
    nvidia_smi()
    facts, _ = environment.collect(cache, root)
    assert facts["driver"] == "580.82.07"
    assert facts["cuda"] == "13.0"
    assert facts["gpu_error"] is None
    common = {"name": "NVIDIA H200", "driver": "580.82.07", "cuda": "13.0", "memory_mib": 143771}
    assert facts["gpus"] == [
        {"uuid": "GPU-1111", **common, "mig": ["MIG-aaaa", "MIG-bbbb"]},
        {"uuid": "GPU-2222", **common},
    ]


def test_gpus_are_asked_for_once_a_boot(cache: CachePaths, nvidia_smi, tmp_path, monkeypatch):
    calls = nvidia_smi()
    first = environment.gpu_facts(cache)
    asked = calls()
    assert environment.gpu_facts(cache) == first
    assert calls() == asked
    (tmp_path / "boot_id").write_text("another-boot\n")
    monkeypatch.setattr(environment, "BOOT_ID", tmp_path / "boot_id")
    environment.gpu_facts(cache)
    assert calls() == 2 * asked


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "NVIDIA_VISIBLE_DEVICES"])
def test_gpus_of_another_job_are_asked_for_again(cache, nvidia_smi, monkeypatch, variable):
    calls = nvidia_smi()
    environment.gpu_facts(cache)
    asked = calls()
    monkeypatch.setenv(variable, "17")
    environment.gpu_facts(cache)
    assert calls() == 2 * asked


def test_a_failing_nvidia_smi_is_recorded_and_asked_again(cache: CachePaths, nvidia_smi):
    calls = nvidia_smi(
        query="Failed to initialize NVML: Driver/library version mismatch\n", status=18
    )
    facts = environment.gpu_facts(cache)
    assert facts["gpus"] == []
    assert "ended with 18: Failed to initialize NVML" in facts["gpu_error"]
    asked = calls()
    environment.gpu_facts(cache)
    assert calls() == 2 * asked


def test_a_machine_without_nvidia_smi_has_no_gpus(cache: CachePaths, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.gpu_facts(cache) == {
        "gpus": [],
        "driver": None,
        "cuda": None,
        "gpu_error": None,
    }


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="this machine has no nvidia-smi")
def test_the_real_nvidia_smi_is_understood(cache: CachePaths):
    facts = environment.gpu_facts(cache)
    listed = subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, text=True).stdout
    assert facts["gpu_error"] is None
    assert facts["gpus"]
    assert all(gpu["uuid"] in listed for gpu in facts["gpus"])
    assert facts["driver"][0].isdigit()
    assert facts["cuda"][0].isdigit()


def test_only_listed_variables_are_recorded(cache: CachePaths, root: Path, monkeypatch):
    monkeypatch.setenv("FOO_SECRET", "hunter2")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("PLAIN_SETTING", "ordinary-value")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    facts, _ = environment.collect(cache, root)
    text = json.dumps(facts)
    assert facts["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not any(word in text for word in ("hunter2", "0123456789abcdef", "ordinary-value"))
    written = b"".join(path.read_bytes() for path in cache.folder.rglob("*") if path.is_file())
    assert b"hunter2" not in written


def test_a_variable_that_is_asked_for_is_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLAIN_SETTING", "value")
    found = environment.variables(["PLAIN_SETTING", "NOT_SET_ANYWHERE"])
    assert found["PLAIN_SETTING"] == "value"
    assert "NOT_SET_ANYWHERE" not in found


@pytest.mark.parametrize(
    "name",
    [
        "FOO_SECRET",
        "WANDB_API_KEY",
        "MY_TOKEN",
        "DB_PASSWORD",
        "db_password",
        "AWS_SECRET_ACCESS_KEY",
    ]
    + ["HF_TOKEN", "GITHUB_PAT", "AUTH_HEADER", "TOKEN2", "APIKEY", "SENTRY_DSN"],
)
def test_a_secret_is_withheld_even_when_asked_for(monkeypatch: pytest.MonkeyPatch, name):
    monkeypatch.setenv(name, "hunter2")
    assert environment.variables([name])[name] == environment.WITHHELD


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MONKEY", "KEYBOARD", "PATIENCE"])
def test_a_name_that_only_resembles_a_secret_is_recorded(monkeypatch: pytest.MonkeyPatch, name):
    monkeypatch.setenv(name, "value")
    assert environment.variables([name])[name] == "value"


def test_the_default_list_holds_no_name_that_looks_secret():
    looks_secret = re.compile(environment.SECRET, re.IGNORECASE).search
    assert [name for name in environment.VARIABLES if looks_secret(name)] == []


def test_credentials_inside_a_url_are_cut_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_PROXY", "http://me:hunter2@proxy.example.org:3128 https://x@y")
    found = environment.variables(["MY_PROXY"])["MY_PROXY"]
    assert found == "http://***@proxy.example.org:3128 https://***@y"


def test_a_value_that_is_not_text_can_be_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ODD", "\udcff")
    json.dumps(environment.variables(["ODD"]), ensure_ascii=False).encode()
