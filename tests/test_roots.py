"""Ids of files are of the folders they lie in, and stay when these move."""

import ntpath
import types

import pytest

from hashnet.errors import ArgumentError
from hashnet.retrieval.store import roots as module
from hashnet.retrieval.store.roots import MOST_AT_ONCE, Root, Roots


def free(start):
    return False


def names(roots):
    return [root.name for root in roots.all]


def test_a_file_belongs_to_the_nearest_root_above_it():
    roots = Roots([("a", "/p"), ("b", "/p/q"), ("c", "/p/q/r")])
    assert roots.id_of("/p/q.jpg") == "a/q.jpg" and roots.id_of("/p/qq/x.jpg") == "a/qq/x.jpg"
    assert roots.id_of("/p/q/x.jpg") == "b/x.jpg" and roots.id_of("/p/q/r/s/x") == "c/s/x"
    assert roots.id_of("/pp/x.jpg") is None and roots.id_of("/x.jpg") is None
    for path in ("/p/q.jpg", "/p/q/x", "/p/q/r/s/t \udcff\n"):
        assert roots.path_of(roots.id_of(path)) == path
    assert [roots.path_of(id) for id in ("a", "a/", "d/x", "", "/a/x")] == [None] * 5


def test_ids_of_a_folder_begin_in_ways_that_no_other_does():
    roots = Roots([("a", "/p"), ("b", "/p/q"), ("c", "/p/q/r")])
    assert roots.beginnings("/p/q") == ["b/", "c/"] and roots.beginnings("/p/x") == ["a/x/"]
    assert roots.beginnings("/") == ["a/", "b/", "c/"] and roots.beginnings("/x") == []


def test_a_new_folder_becomes_a_root_unless_it_lies_in_one():
    roots = Roots([]).with_folders(["/p", "/p/q", "/s/p"], free)
    assert roots.all == (Root("p", "/p"), Root("p-2", "/s/p"))
    assert roots.with_folders(["/p/q", "/p"], free) == roots
    above = roots.with_folders(["/"], free)
    assert above.all[2] == Root("files", "/") and above.id_of("/p/x") == "p/x"
    assert above.id_of("/q/x") == "files/q/x" and above.path_of("files/q/x") == "/q/x"


def test_a_name_that_ids_have_already_is_no_name_of_a_root():
    roots = Roots([]).with_folders(["/p"], lambda start: start in ("p/", "p-2/"))
    assert names(roots) == ["p-3"]


def test_many_folders_at_once_are_parts_of_one():
    folders = [f"/photos/{number}/raw" for number in range(MOST_AT_ONCE + 1)]
    assert Roots([]).with_folders(folders, free).all == (Root("photos", "/photos"),)
    assert len(Roots([]).with_folders(folders[1:], free).all) == MOST_AT_ONCE


def test_roots_move_alone_or_with_a_folder_above_them():
    roots = Roots([("a", "/p"), ("b", "/p/q"), ("c", "/pq")])
    assert roots.moved("/p", "/n").all == (("a", "/n"), ("b", "/n/q"), ("c", "/pq"))
    assert roots.moved("/p/q", "/n").all == (("a", "/p"), ("b", "/n"), ("c", "/pq"))
    with pytest.raises(ArgumentError, match="/p/x; there are /p, /p/q, /pq"):
        roots.moved("/p/x", "/n")
    with pytest.raises(ArgumentError, match="roots"):
        Roots(None).moved("/p", "/n")


def test_an_older_index_has_paths_for_ids():
    roots = Roots(None)
    assert roots.id_of("/p/x") == "/p/x" and roots.path_of("/p/x") is None
    assert roots.beginnings("/p") == ["/p/"] and roots.holds("/p")
    assert roots.with_folders(["/p"], free) is roots


@pytest.mark.parametrize(
    "made_of", [[("", "/p")], [("a/b", "/p")], [("a", "/p"), ("a", "/q")], [(1, "/p")], [("a", 2)]]
)
def test_what_no_roots_can_be_is_refused(made_of):
    with pytest.raises(ValueError, match="root|name"):
        Roots(made_of)


def test_ids_are_the_same_where_paths_are_written_otherwise(monkeypatch):
    monkeypatch.setattr(module, "os", types.SimpleNamespace(path=ntpath, sep="\\"))
    roots = Roots([]).with_folders([r"C:\Users\me\Photos", "D:\\"], free)
    assert names(roots) == ["Photos", "files"]
    assert roots.id_of(r"C:\Users\me\Photos\2026\cat.jpg") == "Photos/2026/cat.jpg"
    assert roots.path_of("Photos/2026/cat.jpg") == r"C:\Users\me\Photos\2026\cat.jpg"
    many = [rf"{drive}:\{n}" for drive in "CD" for n in range(MOST_AT_ONCE)]
    assert len(Roots([]).with_folders(many, free).all) == 2
