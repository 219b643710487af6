"""Manifests and hashes, with sha256sum as the oracle."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram import hash_cache, manifest
from engram.hash_cache import HashCache
from engram.manifest import Entry, Found, hash_file, hash_many, hash_tree, tree_hash


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files, folders, links and odd names."""
    folder = tmp_path / "tree"
    (folder / "b" / "empty").mkdir(parents=True)
    (folder / "b" / "two.bin").write_bytes(b"2" * 3_000_000)
    (folder / "a b.txt").write_text("one\n")
    (folder / 'ä\n\\".txt').write_text("odd")
    (folder / "B").write_bytes(b"")
    (folder / "link").symlink_to("a b.txt")
    (folder / "dangling").symlink_to("nowhere")
    return folder


def sha256sum(folder: Path) -> str:
    """What coreutils say about every regular file, sorted by the bytes of the paths."""
    command = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, check=True, capture_output=True
    ).stdout.decode()


def test_files_have_the_hash_that_sha256sum_gives(tree: Path):
    (tree / "link").unlink()
    (tree / "dangling").unlink()
    expected = sha256sum(tree)
    assert tree_hash(hash_tree(tree)) == hashlib.sha256(expected.encode()).hexdigest()
    assert len(expected.splitlines()) == 4


def test_links_are_entries_of_their_own(tree: Path):
    by_path = {entry.path: entry for entry in hash_tree(tree)}
    assert by_path["link"] == ("link", 7, hashlib.sha256(b"a b.txt").hexdigest(), "a b.txt")
    assert by_path["dangling"].link == "nowhere"
    assert by_path["a b.txt"].link is None


def test_a_manifest_is_the_same_wherever_the_folder_lies(tree: Path, tmp_path: Path):
    shutil.copytree(tree, tmp_path / "copy", symlinks=True)
    assert hash_tree(tree) == hash_tree(tmp_path / "copy")
    assert [e.path for e in hash_tree(tree)] == sorted(
        (e.path for e in hash_tree(tree)), key=str.encode
    )


def test_a_manifest_survives_its_file(tree: Path):
    entries = hash_tree(tree)
    assert manifest.read_entries([entry.as_json() for entry in entries]) == entries


def test_what_a_script_leaves_behind_never_makes_a_manifest_fail(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "file").write_text("x")
    assert [(e.path, bool(e.sha256)) for e in hash_tree(tmp_path)] == [
        ("fifo", False),
        ("file", True),
        ("socket", False),
    ]
    assert hash_tree(tmp_path / "absent") == []


def test_names_that_are_not_text_can_be_written(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_text("x")
    (entry,) = hash_tree(tmp_path)
    assert entry.path == "\\xff"
    entry.path.encode()


@given(st.dictionaries(st.text("ab/\n\\", min_size=1), st.binary(max_size=8), max_size=6))
@settings(deadline=None)
def test_different_manifests_have_different_hashes(files):
    entries = [Entry(p, len(data), hashlib.sha256(data).hexdigest()) for p, data in files.items()]
    assert tree_hash(entries) == tree_hash(reversed(entries))
    for changed in range(len(entries)):
        others = [e for i, e in enumerate(entries) if i != changed]
        assert tree_hash(others) != tree_hash(entries)
        moved = entries[changed]._replace(path=entries[changed].path + "x")
        assert tree_hash([*others, moved]) != tree_hash(entries)


def found(*paths: Path) -> list[Found]:
    return [Found(str(path), path.name, path.stat()) for path in paths]


def make_old(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock run on instead of waiting: the times of a file's inode cannot be set back."""
    now = path.stat().st_ctime + 3600
    monkeypatch.setattr(time, "time", lambda: now)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    original = manifest.hash_file

    def note(path: str) -> str:
        read.append(str(path))
        return original(path)

    monkeypatch.setattr(manifest, "hash_file", note)
    return read


def test_a_file_left_alone_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    path.write_text("content")
    make_old(path, monkeypatch)
    read, cache = counting(monkeypatch), HashCache(tmp_path / "cache" / "hashes.sqlite")
    expected = hashlib.sha256(b"content").hexdigest()
    for _ in range(3):
        assert hash_many(found(path), cache) == [expected]
    assert read == [str(path)]


@pytest.mark.parametrize("change", ["content", "times", "moved", "replaced"])
def test_a_touched_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change):
    path, cache = tmp_path / "file", HashCache(tmp_path / "hashes.sqlite")
    path.write_text("content")
    before = path.stat()
    make_old(path, monkeypatch)
    hash_many(found(path), cache)
    text = "CONTENT"
    if change == "content":
        path.write_text(text)
    elif change == "times":
        path.write_text(text)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "moved":
        other = tmp_path / "other"
        other.write_text(text)
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(path)
    else:
        path.unlink()
        path.write_text(text)
    assert hash_many(found(path), cache) == [hashlib.sha256(text.encode()).hexdigest()]


def test_a_file_younger_than_two_seconds_is_not_trusted(tmp_path: Path, monkeypatch):
    path, cache = tmp_path / "file", HashCache(tmp_path / "hashes.sqlite")
    path.write_text("content")
    read = counting(monkeypatch)
    changed = path.stat().st_ctime
    monkeypatch.setattr(time, "time", lambda: changed + 1.9)
    hash_many(found(path), cache)
    hash_many(found(path), cache)
    assert len(read) == 2
    monkeypatch.setattr(time, "time", lambda: changed - 60)
    hash_many(found(path), cache)
    monkeypatch.setattr(time, "time", lambda: changed + 2.1)
    hash_many(found(path), cache)
    hash_many(found(path), cache)
    assert len(read) == 4


@pytest.mark.parametrize("damage", ["garbage", "other table", "folder", "read-only"])
def test_a_damaged_cache_costs_time_only(tmp_path: Path, monkeypatch, damage):
    path, cache = tmp_path / "file", HashCache(tmp_path / "c" / "hashes.sqlite")
    path.write_text("content")
    make_old(path, monkeypatch)
    cache.path.parent.mkdir()
    if damage == "garbage":
        cache.path.write_bytes(b"no database" * 1000)
    elif damage == "other table":
        with sqlite3.connect(cache.path) as connection:
            connection.execute("CREATE TABLE hashes (x)")
        connection.close()
    elif damage == "folder":
        cache.path.mkdir()
    else:
        cache.path.parent.chmod(0o500)
    for _ in range(3):
        assert hash_many(found(path), cache) == [hashlib.sha256(b"content").hexdigest()]
    cache.path.parent.chmod(0o700)


def test_many_files_are_known_in_few_queries(tmp_path: Path, monkeypatch):
    paths = [tmp_path / f"{i}" for i in range(1200)]
    for path in paths:
        path.write_text(path.name)
    make_old(paths[-1], monkeypatch)
    cache = HashCache(tmp_path / "c.sqlite")
    expected = [hashlib.sha256(path.name.encode()).hexdigest() for path in paths]
    assert hash_many(found(*paths), cache) == expected
    read = counting(monkeypatch)
    assert hash_many(found(*paths), cache) == expected
    assert read == []


def test_large_files_are_hashed_by_several_threads(tmp_path: Path, monkeypatch):
    import threading

    paths = [tmp_path / f"{i}" for i in range(6)]
    for path in paths:
        path.write_bytes(path.name.encode() * 400_000)
    used, original, barrier = set(), manifest.hash_file, threading.Barrier(2, timeout=300)

    def hash_and_note(path):
        if len(used) < 2:
            used.add(threading.get_ident())
            barrier.wait()  # passes only when two threads are at work at once
        return original(path)

    monkeypatch.setattr(manifest, "hash_file", hash_and_note)
    monkeypatch.setattr(manifest, "WORKERS", 2)
    assert hash_many(found(*paths)) == [hash_file(path) for path in paths]


def test_an_unreadable_file_ends_hashing_with_its_name(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    files = found(tmp_path / "file")
    (tmp_path / "file").unlink()
    with pytest.raises(FileNotFoundError, match="file"):
        hash_many(files)
    assert hash_many(files, lenient=True) == [""]


def test_hashes_do_not_depend_on_the_number_of_threads(tmp_path: Path, monkeypatch):
    paths = [tmp_path / f"{i}" for i in range(40)]
    for i, path in enumerate(paths):
        path.write_bytes(os.urandom(1 + 70_000 * (i % 3)))
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    for workers in (1, 2, 7):
        monkeypatch.setattr(manifest, "WORKERS", workers)
        assert hash_many(found(*paths)) == expected


def test_signatures_hold_everything_that_changes_with_content(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("x")
    status = path.stat()
    parts = hash_cache.signature(status).split(":")
    expected = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    assert [int(part) for part in parts] == list(expected)
