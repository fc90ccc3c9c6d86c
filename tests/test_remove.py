"""Images are removed by id, folder, pattern and label, and a dry run removes none."""

import shutil

import pytest

from hashnet import cli
from hashnet.errors import ArgumentError
from hashnet.retrieval.index import Index

PLACES = ["2019/a.png", "2019/raw/b.gif", "2019b/a.png", "2020/a.gif", "2020/#1.png"]


@pytest.fixture
def index(bundle_folder, photos, tmp_path):
    index = Index.create(tmp_path / "i", bundle_folder)
    ids = [str(tmp_path / place) for place in PLACES] + ["mine", "2020"]
    labels = ["cat", "dog", "cat", None, "cat", "dog", None]
    index.add([photos / "disc/0.png"] * len(ids), ids=ids, labels=labels)
    return index


def below(tmp_path, ids):
    return [id.removeprefix(f"{tmp_path}/") for id in ids]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"folders": "2019"}, ["2019/a.png", "2019/raw/b.gif"]),
        ({"folders": ["2019/raw/", "2020"]}, ["2019/raw/b.gif", "2020/a.gif", "2020/#1.png"]),
        ({"patterns": "*.gif"}, ["2019/raw/b.gif", "2020/a.gif"]),
        ({"patterns": "2019/*.png"}, ["2019/a.png"]),
        ({"patterns": ["raw/", "**/2020/*.gif"]}, ["2019/raw/b.gif", "2020/a.gif"]),
        ({"patterns": "m*e"}, ["mine"]),
        ({"patterns": "#*"}, ["2020/#1.png"]),
        ({"labels": "dog"}, ["2019/raw/b.gif", "mine"]),
        ({"labels": ["dog", "no such"], "folders": "2019"}, ["2019/raw/b.gif"]),
        ({"labels": "dog", "folders": "no such folder"}, []),
        ({"ids": ["mine", "2020"], "labels": ["dog"]}, ["mine"]),
        ({"ids": ["2020", "unknown", "mine"], "folders": "2019/raw"},
         ["2020", "mine", "2019/raw/b.gif"]),
        ({}, []),
        ({"labels": []}, []),
    ],
)  # fmt: skip
def test_what_is_named_is_removed_and_nothing_else(index, tmp_path, monkeypatch, asked, expected):
    monkeypatch.chdir(tmp_path)
    before = list(index)
    assert below(tmp_path, index.remove(**asked, dry_run=True)) == expected
    assert list(index) == before
    assert below(tmp_path, index.remove(**asked)) == expected
    left = [one for one in below(tmp_path, before) if one not in expected]
    assert below(tmp_path, list(index)) == left


@pytest.mark.parametrize("pattern", ["", "!", 5])
def test_what_is_no_pattern_removes_nothing(index, pattern):
    with pytest.raises(ArgumentError, match=r"\.gitignore"):
        index.remove(patterns=[pattern])
    assert len(index) == 7


def test_the_command_tells_ids_folders_and_patterns_apart(run, index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("remove", "i", "2019", "*.gif", "--dry-run")
    assert status == cli.DONE and "3 images would be removed" in err and len(index) == 7
    assert below(tmp_path, out.splitlines()) == ["2019/a.png", "2019/raw/b.gif", "2020/a.gif"]
    # An id is an id, though there is a folder of that name; so is a file's path from here.
    assert run("remove", "i", "2020", "2019b/a.png")[:2] == (cli.DONE, "2 removed\n")
    status, out, err = run("remove", "i", "2019", "no such", "no*such", "--label", "dog")
    assert (status, out) == (cli.SKIPPED_SOME, "1 removed\n")
    assert "skipped no such: no image of this id" in err and "skipped no*such" in err
    assert run("remove", "i", "--label", "dog")[:2] == (cli.DONE, "1 removed\n")
    status, out, err = run("remove", "i", "--label", "dog")
    assert (status, out) == (cli.FAILED, "0 removed\n") and "skipped dog: no image" in err
    assert run("remove", "i")[0] == cli.WRONG_ARGUMENTS
    assert below(tmp_path, list(index)) == ["2019/a.png", "2020/a.gif", "2020/#1.png"]


def test_files_are_named_by_path_and_by_id(run, bundle_folder, photos, tmp_path, monkeypatch):
    for place in PLACES:
        (tmp_path / "lib" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "disc/0.png", tmp_path / "lib" / place)
    index = Index.create(tmp_path / "i", bundle_folder)
    index.update([tmp_path / "lib"])
    monkeypatch.chdir(tmp_path / "lib")
    chosen = {
        "2019": ["lib/2019/a.png", "lib/2019/raw/b.gif"],
        "lib/2019": ["lib/2019/a.png", "lib/2019/raw/b.gif"],
        str(tmp_path / "lib/2019b"): ["lib/2019b/a.png"],
        "2019*/*.png": ["lib/2019/a.png", "lib/2019b/a.png"],
        "lib/2019*/*.png": ["lib/2019/a.png", "lib/2019b/a.png"],
        "2020/a.gif": ["lib/2020/a.gif"],
        "lib/2020/a.gif": ["lib/2020/a.gif"],
        "*.gif": ["lib/2019/raw/b.gif", "lib/2020/a.gif"],
        "phot": [],
    }
    for name, wanted in chosen.items():
        assert run("remove", "../i", name, "--dry-run")[1].splitlines() == wanted
    # A folder that lies here goes before one of that id.
    (tmp_path / "lib/lib/2019").mkdir(parents=True)
    shutil.copy(photos / "disc/0.png", tmp_path / "lib/lib/2019/inner.png")
    index.update([tmp_path / "lib"])
    assert index.remove(folders="lib/2019", dry_run=True) == ["lib/lib/2019/inner.png"]


@pytest.mark.thorough
def test_an_index_in_a_table_is_removed_from_in_the_same_way(chdb_folder, bundle_folder, photos):
    index = Index.create(f"chdb://{chdb_folder}/removal/photos", bundle_folder)
    ids = ["/p/1.png", "/p/q/2.gif", "/pq/3.gif", "4"]
    index.add([photos / "disc/0.png"] * 4, ids=ids, labels=["a", "b", "a", None])
    assert index.remove(folders="/p", labels="a", dry_run=True) == ["/p/1.png"]
    assert index.remove(patterns="*.gif") == ["/p/q/2.gif", "/pq/3.gif"]
    assert index.remove(labels="a") == ["/p/1.png"] and list(index) == ["4"]
