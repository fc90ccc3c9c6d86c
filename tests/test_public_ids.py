"""Ids as the outside sees them: what folders and patterns of what is shown mean of the ids."""

import types

import pytest

from hashnet import images
from hashnet.retrieval.service.public_ids import PublicIds
from hashnet.retrieval.store.roots import Roots

ROOT = "/my [photos]/"
ESCAPED = r"/my \[photos\]/"


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        ("2019/*.gif", f"{ESCAPED}2019/*.gif"),
        ("/2019/*.gif", f"{ESCAPED}2019/*.gif"),
        ("2019/raw/", f"{ESCAPED}2019/raw/"),
        # At any depth, as everywhere else.
        ("*.gif", "*.gif"),
        ("raw/", "raw/"),
        ("**/2019/*.gif", "**/2019/*.gif"),
    ],
)
def test_a_pattern_with_a_place_is_one_below_the_folder_that_is_left_out(shown, meant):
    assert PublicIds(ROOT).pattern(shown) == meant
    assert PublicIds().pattern(shown) == shown


@pytest.mark.parametrize("folder", ["2019", "2019/", "/my [photos]/2019"])
def test_what_is_below_a_folder_is_matched_and_nothing_beside(folder):
    matches = images.matcher(PublicIds(ROOT).below(folder))
    found = [matches(f"{ROOT}{name}") for name in ("2019/a.png", "2019/b/c.png", "2019b/a.png")]
    assert found == [True, True, False] and not matches("/my p/2019/a.png")


@pytest.mark.parametrize("name", ["a*", "a?", "a[b]", "a\\b"])
def test_signs_of_patterns_in_a_folders_name_mean_themselves(name):
    matches = images.matcher(PublicIds().below(f"/p/{name}"))
    assert matches(f"/p/{name}/1.png") and not matches("/p/ab/1.png")


def test_a_folder_of_ids_that_are_no_paths_is_below_nothing():
    assert PublicIds().below("photos") == "/photos/"
    assert PublicIds().below("X/photos/X") == "/X/photos/X/"


def a_snapshot(*ids, roots=None):
    """Of an index with these ids, as far as it is asked for them."""

    def id_ends(start):
        inside = sorted(id for id in ids if id.startswith(start))
        return (inside[0], inside[-1]) if inside else None

    return types.SimpleNamespace(
        roots=Roots(roots),
        id_ends=id_ends,
        ids_outside=lambda start: [id for id in ids if not id.startswith(start)],
    )


def test_the_folder_that_all_ids_share_is_left_out():
    ids = ["/home/me/photos/a/1.png", "/home/me/photos/b/1.png", "mine"]
    public_ids = PublicIds.of(a_snapshot(*ids), b"key")
    shown = [public_ids.shown(id) for id in ids]
    assert shown == ["a/1.png", "b/1.png", "mine"]
    assert [public_ids.id(name) for name in shown] == ids
    assert PublicIds.of(a_snapshot("mine"), b"key").shown("mine") == "mine"


UNRELATED = [
    ["/home/alice/a/1.png", "/home/bob/b/1.png", "/home/bob/b/\udcff.png", "mine"],
    ["/a.png", "/etc/x/y.png"],
    ["files/home/alice/1.png", "files/mnt/disk/2.png", "photos/3.png"],
]


@pytest.mark.parametrize("ids", UNRELATED)
def test_a_cipher_stands_for_folders_that_share_nothing(ids):
    roots = [("files", "/"), ("photos", "/home/alice/photos")]
    names = PublicIds.of(a_snapshot(*ids, roots=roots), b"key")
    shown = [names.shown(id) for id in ids]
    assert len(set(shown)) == len(ids) and [names.id(name) for name in shown] == ids
    for part in ("home", "alice", "bob", "mnt", "disk", "etc"):
        assert not any(part in name for name in shown)
    other = PublicIds.of(a_snapshot(*ids, roots=roots), b"another key")
    hidden = [(id, name) for id, name in zip(ids, shown, strict=True) if id != name]
    assert len(hidden) >= 2 and all(other.id(name) != id for id, name in hidden)
    assert all(names.id(id) != id for id, _ in hidden)


def test_what_is_below_a_ciphered_folder_is_matched():
    id = "/home/alice/a/1.png"
    names = PublicIds.of(a_snapshot(id, "/mnt/b/1.png"), b"key")
    matches = images.matcher(names.below(names.shown(id).rpartition("/")[0]))
    assert matches(id) and not matches("/mnt/b/1.png")


@pytest.mark.parametrize(
    "name", ["folder:", "folder:x", "folder:!!/a", "folder:AAAA/b", "folder:é/c"]
)
def test_a_cipher_of_nothing_is_a_name(name):
    assert PublicIds.of(a_snapshot("/home/alice/1", "/mnt/2"), b"key").id(name) == name
