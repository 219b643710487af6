"""Sources that are compiled on demand: kept, made anew when they change, and shared."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from neuro.spiking import native
from neuro.spiking.native import compiler


@pytest.fixture
def sources(monkeypatch, tmp_path):
    """A folder of sources with answer.cpp, and an empty cache."""
    try:
        compiler.compiler()
    except native.CompilerMissing as missing:
        pytest.skip(str(missing))
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.h").write_text("constexpr int SHIFT = 1;\n")
    (folder / "answer.cpp").write_text(
        '#include "answer.h"\n'
        "#ifndef BASE\n#define BASE 40\n#endif\n"
        'extern "C" int answer() { return BASE + SHIFT; }\n'
    )
    monkeypatch.setattr(compiler, "SOURCES", folder)
    monkeypatch.setenv("COMPILED_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def compiled_files(sources):
    return sorted((sources.parent / "cache" / "neuro").glob("*.so"))


def test_a_source_is_compiled_once(sources, monkeypatch):
    assert native.library("answer.cpp").answer() == 41
    monkeypatch.setattr(compiler, "_compile", None)
    assert native.library("answer.cpp").answer() == 41
    (file,) = compiled_files(sources)
    assert file.name.startswith("answer-")
    assert file.suffix == ".so"


def test_a_change_of_source_header_or_macro_is_compiled_anew(sources):
    assert native.library("answer.cpp").answer() == 41
    assert native.library("answer.cpp", BASE="10").answer() == 11
    (sources / "answer.h").write_text("constexpr int SHIFT = 2;\n")
    assert native.library("answer.cpp").answer() == 42
    (sources / "answer.cpp").write_text('extern "C" int answer() { return 7; }\n')
    assert native.library("answer.cpp").answer() == 7
    assert len(compiled_files(sources)) == 4


def test_several_who_compile_at_once_leave_one_whole_file(sources):
    with ThreadPoolExecutor(4) as pool:
        place, command = compiler._planned("answer.cpp", ())
        list(pool.map(lambda _: compiler._loaded.__wrapped__(place, command), range(4)))
    assert compiled_files(sources) == [place]
    assert native.library("answer.cpp").answer() == 41


def test_the_users_cache_folder_is_used_where_no_other_is_named(sources, monkeypatch, tmp_path):
    monkeypatch.delenv("COMPILED_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    native.library("answer.cpp")
    assert len(list((tmp_path / "xdg" / "neuro").glob("*.so"))) == 1


def test_an_error_of_the_compiler_is_shown(sources):
    (sources / "answer.cpp").write_text('extern "C" int answer() { return missing_name; }\n')
    with pytest.raises(native.CompileFailed, match="missing_name"):
        native.library("answer.cpp")
    assert compiled_files(sources) == []


def test_a_compiler_that_does_not_work_is_shown_with_what_it_says(sources, monkeypatch, tmp_path):
    broken = tmp_path / "broken++"
    broken.write_text("#!/bin/sh\necho no licence >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(native.CompileFailed, match="failed with 3:\nno licence"):
        native.library("answer.cpp")


def test_a_cache_that_cannot_be_written_says_what_to_set(sources, monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("COMPILED_CACHE_DIR", str(file))
    with pytest.raises(native.CompileFailed, match="set COMPILED_CACHE_DIR"):
        native.library("answer.cpp")


@pytest.mark.parametrize("content", [b"", b"half a library"])
def test_a_damaged_file_in_the_cache_is_compiled_anew(sources, content):
    place, _ = compiler._planned("answer.cpp", ())
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    assert native.library("answer.cpp").answer() == 41


def test_a_library_cut_short_after_its_compilation_is_compiled_anew(sources):
    place, command = compiler._planned("answer.cpp", ())
    place.parent.mkdir(parents=True)
    compiler._compile(command, place)
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    assert native.library("answer.cpp").answer() == 41


def test_what_cannot_be_loaded_says_what_to_set(sources, monkeypatch):
    def refuse(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(compiler.ctypes, "CDLL", refuse)
    with pytest.raises(native.CompileFailed, match="failed to map segment.*allows execution"):
        native.library("answer.cpp")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("no shebang", "could not be run"),
        ("#!/nowhere/sh\n", "could not be run"),
        ("#!/bin/sh\nsleep 60\n", "could not be run to its end"),
        ("#!/bin/sh\nexit 0\n", "failed with 0"),
        ("#!/bin/sh\nprintf '\\377' >&2; exit 1\n", "failed with 1"),
    ],
    ids=["no program", "no interpreter", "hangs", "writes nothing", "says no text"],
)
def test_a_compiler_that_misbehaves_is_a_failure_that_can_be_caught(
    sources, monkeypatch, tmp_path, script, message
):
    odd = tmp_path / "odd++"
    odd.write_text(script)
    odd.chmod(0o755)
    monkeypatch.setenv("CXX", str(odd))
    monkeypatch.setattr(compiler, "TIMEOUT_S", 1)
    with pytest.raises(native.CompileFailed, match=message):
        native.library("answer.cpp")


def test_a_cxx_that_is_no_command_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "g++ '-O2")
    with pytest.raises(native.CompilerMissing, match="is no command"):
        native.library("event.cpp", REAL="float")


def test_without_a_compiler_there_is_no_library(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(native.CompilerMissing, match=r"install g\+\+ or clang\+\+"):
        native.library("event.cpp", REAL="float")


def test_sources_lie_beside_the_module():
    assert (compiler.SOURCES / "event.cpp").is_file()


def test_importing_compiles_nothing(tmp_path):
    # Whoever only reads recordings needs no compiler and waits for none.
    code = "import neuro.spiking.simulate, neuro.spiking.event"
    environ = {"PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=600)
    assert list(tmp_path.iterdir()) == []
