"""hashnet/files.py: whole or not at all, and durable before it has its name."""

import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import pytest

from hashnet import files
from hashnet.errors import ArgumentError


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), files.whole_file(path) as file:
        file.write(b"ne")
        raise KeyError
    assert content(tmp_path) == {"a": b"old"}
    with files.whole_file(path) as file:
        file.write(b"new")
    assert content(tmp_path) == {"a": b"new"}


def test_a_folder_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path):
    folder = tmp_path / "deep" / "f"
    with files.whole_folder(folder) as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "a").write_bytes(b"old")
    with pytest.raises(KeyError), files.whole_folder(folder) as beside:
        (beside / "b").write_bytes(b"half")
        raise KeyError
    assert content(tmp_path) == {"deep/f/inner/a": b"old"}
    with files.whole_folder(folder) as beside:
        (beside / "b").write_bytes(b"new")
    assert content(tmp_path) == {"deep/f/b": b"new"}


def test_where_the_new_folder_cannot_take_its_place_the_old_one_comes_back(tmp_path, monkeypatch):
    folder = tmp_path / "f"
    with files.whole_folder(folder) as beside:
        (beside / "a").write_bytes(b"old")
    real = os.rename

    def rename(source, target):
        if os.fspath(target) == os.fspath(folder) and (source / "b").exists():
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="No space"), files.whole_folder(folder) as beside:
        (beside / "b").write_bytes(b"new")
    assert content(tmp_path) == {"f/a": b"old"}


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "rename", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *given, name=name, real=real: (events.append(name), real(*given))[1]
        )
    with files.whole_file(tmp_path / "a") as file:
        file.write(b"1")
    assert events == ["fsync", "replace", "fsync"]
    events.clear()
    with files.whole_folder(tmp_path / "f") as beside:
        (beside / "a").write_bytes(b"1")
    assert events == ["fsync", "fsync", "rename", "fsync"]


def test_leftovers_of_killed_writers_are_found_and_nothing_else_is(tmp_path):
    for name in ("a", ".a", ".a.hashnet-00", ".ab.hashnet-00", ".a.hashnet-11"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".a.hashnet-22").mkdir()
    files.remove_leftovers(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == [".a", ".ab.hashnet-00", "a"]


KILLED = """
import os, signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from hashnet import files
with files.scratch_folder() as folder:
    open(os.path.join(folder, "half"), "w").close()
    whole = files.whole_folder(folder)
    open(os.path.join(whole.__enter__(), "half"), "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills as only POSIX does")
def test_scratch_of_killed_processes_is_removed_and_that_of_living_ones_is_not(
    tmp_path, monkeypatch
):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert len(list(tmp_path.rglob("half"))) == 2
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "hashnet-of-somebody").mkdir()  # who claims nothing
    with files.scratch_folder() as first:
        assert not list(tmp_path.rglob("half"))
        pathlib.Path(first, "mine").touch()
        with files.scratch_folder() as second:
            assert first != second and os.listdir(first) == ["mine"]
    assert os.listdir(tmp_path) == ["hashnet-of-somebody"]


def test_a_file_without_an_end_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_at_most(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ArgumentError, match="4 bytes at most"):
        files.read_at_most(tmp_path / "a", 4)
    with pytest.raises(ArgumentError, match="'-'"):
        files.read_stream(io.BytesIO(bytes(9)), 8, "-")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a = " + "[" * 8000, "too deep"),
        ("a = " + "{a=" * 2000, "too deep"),
        ("a" + ".a" * 100_000 + " = 1", "8192 bytes at most"),
        ("a = ", "value"),
    ],
)
def test_settings_that_are_too_deep_are_refused_before_they_cost_anything(tmp_path, content, words):
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(ValueError, match=words):
        files.read_toml(tmp_path / "a.toml")


def test_the_longest_key_of_settings_takes_no_time(tmp_path):
    content = "a" + ".a" * ((files.MOST_TOML - 10) // 2) + " = 1"
    (tmp_path / "a.toml").write_text(content)
    before = time.process_time()
    with pytest.raises(ValueError, match="too deep"):
        files.read_toml(tmp_path / "a.toml")
    assert time.process_time() - before < 3
