"""Files of an index that another program cuts off, or a disk does not give, while they are mapped:
a page of such a map ends the process, so it must not come to that."""

import errno
import os
import traceback

import numpy as np
import pytest

from hashnet import system
from hashnet.errors import StoreError
from hashnet.retrieval.store.folder.store import Store
from tests import needs
from tests.test_store_faults import batch, codebook_of, new_store

IDS = [f"image {number}" for number in range(60)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "index"
    with new_store(folder).writer() as writer:
        writer.add(*batch(IDS))
        writer.set_codebook(codebook_of(0))
    return folder


def read(snapshot):
    rows = np.arange(snapshot.num_rows)
    snapshot.items(rows)
    np.array(snapshot.feature_map(rows))
    snapshot.local_features(rows)
    snapshot.local_counts()
    snapshot.rows_of_sizes([0])


def in_child(action):
    """The exit status of a process that did something; negative: the signal that ended it."""
    child = needs.fork()
    if not child:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", ["codes", "descriptors", "exif", "features", "items", "text"])
@pytest.mark.parametrize("is_read_before", [True, False])
def test_a_file_cut_off_between_two_searches_is_an_error(filled, name, is_read_before):
    [path] = filled.glob(f"segments/*.{name}")
    content = path.read_bytes()

    def search_twice():
        with Store.open(filled).snapshot() as snapshot:
            if is_read_before:
                read(snapshot)
            os.truncate(path, 0)
            with pytest.raises(StoreError, match=f"{path.name}: 0 bytes instead of {len(content)}"):
                read(snapshot)

    try:
        assert in_child(search_twice) == 0
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["features", "yx", "descriptors", "spans", "codes", "items"])
def test_what_a_disk_does_not_give_is_an_error_that_names_the_file(filled, name, monkeypatch):
    [path] = filled.glob(f"segments/*.{name}")
    known, real = os.stat(path), system.read_at

    def fails(descriptor, count, offset):
        if os.path.samestat(os.fstat(descriptor), known):
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, count, offset)

    monkeypatch.setattr(system, "read_at", fails)
    words = f"{path.name}: Input/output error"
    with pytest.raises(StoreError, match=words), Store.open(filled).snapshot() as snapshot:
        read(snapshot)


def test_what_is_read_in_pieces_is_whole(filled, monkeypatch):
    real = system.read_at
    with Store.open(filled).snapshot() as snapshot:
        wanted = snapshot.local_features(np.arange(snapshot.num_rows))
    monkeypatch.setattr(system, "read_at", lambda file, count, at: real(file, min(count, 5), at))
    with Store.open(filled).snapshot() as snapshot:
        read(snapshot)
        found = snapshot.local_features(np.arange(snapshot.num_rows))
        rows = [3, 4, 5, 40, 2, 3]
        features = np.array(snapshot.features(rows))
    assert np.array_equal(features, batch(IDS)[2][rows])
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.yx, other.yx)
        assert np.array_equal(one.descriptors, other.descriptors)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted there")
def test_no_file_stays_open_behind_a_snapshot(filled):
    def opened():
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    for _ in range(3):
        with Store.open(filled).snapshot() as snapshot:
            read(snapshot)
    del snapshot
    assert opened() <= before + 1
