"""What an index promises while nothing goes wrong. What it does when something does is in
test_store_faults.py."""

import dataclasses
import datetime
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest

from hashnet.errors import ArgumentError, HashnetError, LockedError, ShapeError, StoreError
from hashnet.images import Exif
from hashnet.retrieval.store.folder import store as store_module
from hashnet.retrieval.store.folder import writer as writer_module
from hashnet.retrieval.store.folder.store import Store, check
from hashnet.retrieval.store.items import Item, StoredFeatures
from hashnet.retrieval.store.texts import Line, Texts

GOLDEN = pathlib.Path(__file__).parent / "golden"
NUM_BITS, FEATURE_DIM = 12, 5


@pytest.fixture
def store(tmp_path):
    return Store.create(
        tmp_path / "index", num_bits=NUM_BITS, feature_dim=FEATURE_DIM, fingerprint="f"
    )


def code_of(id, version=0):
    """A code that tells which image it belongs to."""
    return list(zlib.crc32(repr((id, version)).encode()).to_bytes(4, "big")[:2])


def feature_of(id, version=0):
    start = zlib.crc32(repr((version, id)).encode()) % 1000
    return [start + place / 8 for place in range(FEATURE_DIM)]


def batch(ids, version=0):
    """Arguments for `Writer.add`."""
    return (
        [Item(id, f"/{id}", f"label {len(id) % 3}", len(id), version) for id in ids],
        np.array([code_of(id, version) for id in ids], np.uint8).reshape(-1, 2),
        np.array([feature_of(id, version) for id in ids], np.float32).reshape(-1, FEATURE_DIM),
    )


def add(store, ids, version=0):
    with store.writer() as writer:
        return writer.add(*batch(ids, version))


def contents(store):
    """The live rows, in order: what an index is, the slow way."""
    with store.snapshot() as snapshot:
        rows = [
            row
            for row in range(snapshot.num_rows)
            if snapshot.live_images is None or snapshot.live_images[row]
        ]
        assert snapshot.num_items == len(rows)
        whole = np.array(snapshot.feature_map(rows))
        assert whole.shape == (snapshot.num_rows, FEATURE_DIM)
        return [
            (item, snapshot.codes[row].tolist(), whole[row].tolist())
            for item, row in zip(snapshot.items(rows), rows, strict=True)
        ]


def expected(ids, version=0):
    items, codes, features = batch(ids, version)
    return list(zip(items, codes.tolist(), features.tolist(), strict=True))


# Contracts


def test_what_is_added_is_found_in_a_new_process(store):
    add(store, ["a", "b", "c"])
    program = (
        "import sys, json; from hashnet.retrieval.store.folder.store import Store\n"
        "with Store.open(sys.argv[1]).snapshot() as s:\n"
        "    print(json.dumps([s.codes.tolist(), s.features([0, 1, 2]).tolist(),"
        " [[i.id, i.path, i.label, i.size, i.mtime_ns] for i in s.items([0, 1, 2])]]))"
    )
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program, store.folder], cwd=root, capture_output=True, check=True
    )
    codes, features, items = json.loads(done.stdout)
    wanted = expected(["a", "b", "c"])
    assert codes == [code for _, code, _ in wanted]
    assert features == [feature for _, _, feature in wanted]
    assert [Item(*fields) for fields in items] == [item for item, _, _ in wanted]


def test_an_index_knows_what_it_was_made_for(tmp_path):
    source = tmp_path / "some file"
    source.write_bytes(b"bundle")
    Store.create(
        tmp_path / "index",
        num_bits=48,
        feature_dim=7,
        feature_dtype="float16",
        fingerprint="finger",
        encoder_files={"hashnet.json": source, "deep/er/model.onnx": source},
    )
    source.unlink()
    store = Store.open(tmp_path / "index")
    assert (store.num_bits, store.feature_dim, store.feature_dtype) == (48, 7, "float16")
    assert (store.fingerprint, store.format_version) == ("finger", 7)
    assert (store.encoder_folder / "deep/er/model.onnx").read_bytes() == b"bundle"
    assert (store.encoder_folder / "hashnet.json").read_bytes() == b"bundle"
    assert time.strptime(store.created, "%Y-%m-%dT%H:%M:%SZ")


def test_an_index_without_an_encoder_has_no_folder_for_one(store):
    assert store.encoder_folder is None


def test_an_empty_index_is_an_index(store):
    with store.snapshot() as snapshot:
        assert (snapshot.num_rows, snapshot.num_items) == (0, 0)
        assert snapshot.codes.shape == (0, 2) and snapshot.live_images is None
        assert snapshot.features([]).shape == (0, FEATURE_DIM)
        assert snapshot.items([]) == [] and snapshot.feature_map([]).shape == (0, FEATURE_DIM)
        assert snapshot.rows(["a"]).tolist() == [-1] and snapshot.rows([]).tolist() == []
        assert snapshot.rows_of_sizes([0, 1]).tolist() == [] and snapshot.labels()[1] == []
    with store.writer() as writer:
        assert writer.add([], np.empty((0, 2), np.uint8), np.empty((0, FEATURE_DIM), "f4")) == 0
        assert writer.add([], [], []) == 0
        assert writer.remove(["a"]) == [] and writer.update([]) == 0
        assert writer.compact().rows_after == 0
    assert store.check() == []


def test_an_index_can_lose_all_its_items_and_go_on(store):
    add(store, ["a", "b"])
    with store.writer() as writer:
        writer.remove(["a", "b"])
        assert contents(store) == []
        writer.compact()
        assert contents(store) == []
        writer.add(*batch(["c"]))
    assert contents(store) == expected(["c"]) and store.check() == []


def test_adding_twice_changes_nothing_but_the_rows(store):
    add(store, ["a", "b"])
    before = contents(store)
    add(store, ["a", "b"])
    assert contents(store) == before
    with store.snapshot() as snapshot:
        assert snapshot.live_images.tolist() == [False, False, True, True]
        assert snapshot.rows(["a", "b"]).tolist() == [2, 3]


def test_adding_an_id_again_replaces_its_row(store):
    with store.writer() as writer:
        writer.add(*batch(["a", "b", "c"]))
        writer.add(*batch(["b"], version=1))
        writer.add(*batch(["b"], version=2))
    assert contents(store) == expected(["a", "c"]) + expected(["b"], version=2)


def test_rows_are_in_the_order_of_adding_and_compaction_keeps_it(store):
    with store.writer() as writer:
        writer.add(*batch(["z", "y", "x"]))
        writer.add(*batch(["b", "a"]))
        writer.remove(["y"])
        wanted = expected(["z", "x", "b", "a"])
        assert contents(store) == wanted
        report = writer.compact()
        assert contents(store) == wanted
        assert (report.rows_before, report.rows_after) == (5, 4)
        assert (report.segments_before, report.segments_after) == (2, 1)
        assert report.bytes_freed > 0
        again = writer.compact()
        assert (again.rows_before, again.rows_after, again.bytes_freed) == (4, 4, 0)


def test_a_compaction_in_many_pieces_is_the_same(store, monkeypatch):
    monkeypatch.setattr(writer_module, "_COMPACT_ROWS", 3)
    ids = [f"image {number}" for number in range(20)]
    with store.writer() as writer:
        for start in range(0, 20, 2):
            writer.add(*batch(ids[start : start + 2]))
        writer.remove(ids[4:8])
        assert writer.compact().segments_after == 6
        assert contents(store) == expected(ids[:4] + ids[8:])
        assert writer.update([Item(id, label="new") for id in ids[8:]]) == 12
    with store.snapshot() as snapshot:
        codes, names = snapshot.labels()
        assert names == ["label 1", "new"]
        assert (codes == 1).sum() == 12
    assert store.check() == []


def test_removing_says_which_ids_were_there(store):
    add(store, ["a", "b", "c"])
    with store.writer() as writer:
        assert writer.remove(["c", "nobody", "a", "c"]) == ["c", "a"]
        assert writer.remove(["c"]) == []
    assert contents(store) == expected(["b"])


def test_updating_changes_what_is_known_and_neither_code_nor_feature(store):
    add(store, ["a", "b"])
    with store.writer() as writer:
        assert writer.update([Item("a", "moved", None, 7, 8)]) == 1
        with pytest.raises(ArgumentError, match="'nobody'"):
            writer.update([Item("b"), Item("nobody")])
    ((_, code, feature),) = expected(["a"])
    assert contents(store) == expected(["b"]) + [(Item("a", "moved", None, 7, 8), code, feature)]


def test_one_writer_sees_its_own_changes(store):
    with store.writer() as writer:
        for version in range(4):
            writer.add(*batch(["a", "b", "c"], version))
            assert writer.remove(["b"]) == ["b"] and writer.remove(["b"]) == []
            writer.update([Item("c", mtime_ns=version)])
    with store.snapshot() as snapshot:
        items = {item.id: (item.size, item.mtime_ns) for item in snapshot.items_in_order()}
        assert items == {"a": (1, 3), "c": (None, 3)}


IDS = [
    "plain.jpg",
    "",
    " leading space",
    "-dash",
    "../up",
    "new\nline",
    "nul\0nul",
    "e\u0301",
    "\u00e9",
    "\udcff\udc80 bytes of a file name",
    "\ud83d\ude00 a pair of surrogates",
    "\U0001f600 and one character",
    "x" * 5000,
    "'; DROP TABLE segments; --",
]


def test_any_text_is_an_id_a_path_and_a_label(store):
    items = [Item(id, path=id[::-1], label=id, size=2**62, mtime_ns=-1) for id in IDS]
    codes, features = np.zeros((len(IDS), 2), "u1"), np.zeros((len(IDS), FEATURE_DIM), "f4")
    with store.writer() as writer:
        writer.add(items, codes, features)
    with store.snapshot() as snapshot:
        assert snapshot.items(range(len(IDS))) == items
        assert snapshot.rows(IDS).tolist() == list(range(len(IDS)))
        assert snapshot.rows_of_sizes([2**62]).tolist() == list(range(len(IDS)))
        codes, names = snapshot.labels()
        assert [names[code] for code in codes] == IDS
    with store.writer() as writer:
        assert writer.remove(IDS) == IDS


def test_labels_are_counted_in_the_order_in_which_they_occur(store):
    labels = ["dog", None, "", "cat", "dog", "", None, "cat", "", "ox"]
    for start in (0, 4):
        items = [Item(f"{n}", label=labels[n]) for n in range(start, min(start + 6, 10))]
        with store.writer() as writer:
            rows = len(items)
            writer.add(items, np.zeros((rows, 2), "u1"), np.zeros((rows, FEATURE_DIM), "f4"))
            writer.remove(["3"])
    with store.snapshot() as snapshot:
        codes, names = snapshot.labels()
        assert codes.dtype == np.int32 and names == ["dog", "", "cat", "ox"]
        for row, item in enumerate(snapshot.items(range(10))):
            wanted = (
                -1
                if not snapshot.live_images[row] or item.label is None
                else names.index(item.label)
            )
            assert codes[row] == wanted


def test_live_items_are_found_by_the_sizes_of_their_files(store):
    none = np.zeros((4, 2), "u1"), np.zeros((4, FEATURE_DIM), "f4")
    with store.writer() as writer:
        items = [Item("a", size=1), Item("b"), Item("c", size=0), Item("d", size=7)]
        writer.add(items, *none)
        writer.remove(["c"])
    with store.snapshot() as snapshot:
        assert snapshot.rows_of_sizes([7, 0, 1]).tolist() == [0, 3]
        assert snapshot.rows_of_sizes([]).tolist() == snapshot.rows_of_sizes([5]).tolist() == []


def test_features_come_in_the_order_asked_for_and_may_repeat(store):
    add(store, ["a", "b", "c"])
    with store.snapshot() as snapshot:
        got = snapshot.features(np.array([2, 0, 2]))
        assert got.dtype == np.float32
        assert got.tolist() == [feature_of(id) for id in "cac"]
        assert [item.id for item in snapshot.items([2, 0, 2])] == ["c", "a", "c"]
        assert isinstance(snapshot.feature_map([0]), np.memmap)
        assert not snapshot.feature_map([0]).flags.writeable and not snapshot.codes.flags.writeable


def test_a_row_that_is_not_there_is_refused(store):
    add(store, ["a", "b"])
    with store.snapshot() as snapshot:
        for method in (snapshot.features, snapshot.items, snapshot.feature_map):
            with pytest.raises(ArgumentError, match="0 to 1.*2 to 2"):
                method([2])
            with pytest.raises(ArgumentError):
                method([-1])
            with pytest.raises(ShapeError):
                method([[0]])
            with pytest.raises(ShapeError):
                method([0.0])


def test_a_closed_snapshot_is_refused_and_its_arrays_stay(store):
    add(store, ["a"])
    with store.snapshot() as snapshot:
        features = snapshot.feature_map([0])
    with pytest.raises(StoreError, match="closed snapshot"):
        snapshot.items([0])
    assert features[0].tolist() == feature_of("a")


def test_float16_features_are_stored_as_given(tmp_path):
    store = Store.create(
        tmp_path / "i", num_bits=8, feature_dim=2, feature_dtype="float16", fingerprint="f"
    )
    features = np.array([[0.1, 65504]], np.float16)
    with store.writer() as writer:
        writer.add([Item("a")], np.array([[1]], "u1"), features)
        with pytest.raises(ShapeError, match="float16.*float32"):
            writer.add([Item("b")], np.array([[1]], "u1"), features.astype("f4"))
    with store.snapshot() as snapshot:
        assert snapshot.features([0]).dtype == np.float16
        assert (snapshot.features([0]) == features).all()


def test_the_index_is_as_a_dictionary_would_be_after_any_changes(store):
    chance, model = random.Random(0), {}
    names = [f"n{number}" for number in range(30)]
    writer = store.writer()
    for step in range(150):
        some = chance.sample(names, chance.randint(0, 6))
        verb = chance.choice(["add", "add", "remove", "update", "compact", "reopen"])
        if verb == "add":
            writer.add(*batch(some, step))
            for id, row in zip(some, expected(some, step), strict=True):
                model.pop(id, None)
                model[id] = row
        elif verb == "remove":
            assert writer.remove(some) == [id for id in some if model.pop(id, None)]
        elif verb == "update":
            some = [id for id in some if id in model]
            writer.update([Item(id, size=step) for id in some])
            for id in some:
                _, code, feature = model.pop(id)
                model[id] = (Item(id, size=step), code, feature)
        elif verb == "compact":
            writer.compact()
        else:
            writer.close()
            assert store.check() == []
            writer = store.writer()
        if step % 5 == 0:
            assert contents(store) == list(model.values())
            with store.snapshot() as snapshot:
                rows = snapshot.rows(names)
                assert [row >= 0 for row in rows] == [name in model for name in names]
                known = [name for name in names if name in model]
                assert [item.id for item in snapshot.items(rows[rows >= 0])] == known
    writer.close()
    assert contents(store) == list(model.values())


# Snapshots


def test_a_snapshot_stays_as_it_was_while_a_writer_changes_everything(store):
    add(store, ["a", "b", "c"])
    snapshot = store.snapshot()
    with store.writer() as writer:
        writer.add(*batch(["b", "d"], version=1))
        writer.update([Item("c", label="new")])
        writer.remove(["a"])
        writer.compact()
        writer.add(*batch(["e"]))
    assert (snapshot.num_rows, snapshot.num_items, snapshot.live_images) == (3, 3, None)
    assert snapshot.rows(["a", "b", "c", "d"]).tolist() == [0, 1, 2, -1]
    assert snapshot.items([0, 1, 2]) == [item for item, _, _ in expected(["a", "b", "c"])]
    assert snapshot.features([0, 1, 2]).tolist() == [feature_of(id) for id in "abc"]
    assert [item.id for item in snapshot.items_in_order()] == ["a", "b", "c"]
    assert snapshot.labels()[1] == ["label 1"]
    assert [item.id for item, _, _ in contents(store)] == ["b", "d", "c", "e"]


@pytest.mark.thorough
def test_readers_see_whole_commits_while_a_writer_adds_and_compacts(store):
    """Each commit holds all of `0..9` in one version, so a mixture would show."""
    ids = [f"{number}" for number in range(10)]
    add(store, ids)
    stop, seen, errors = threading.Event(), set(), []

    def read():
        try:
            while not stop.is_set():
                rows = contents(store)
                (version,) = {item.mtime_ns for item, _, _ in rows}
                assert rows == expected(ids, version)
                seen.add(version)
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    with store.writer() as writer:
        for version in range(1, 60):
            writer.add(*batch(ids, version))
            if version % 7 == 0:
                writer.compact()
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors and len(seen) > 3
    assert contents(store) == expected(ids, 59)


def test_many_threads_share_one_snapshot(store):
    ids = [f"{number}" for number in range(200)]
    add(store, ids)
    with store.snapshot() as snapshot:
        wrong = []

        def ask(seed):
            chance = random.Random(seed)
            for _ in range(50):
                some = chance.sample(range(200), 5)
                names = [ids[row] for row in some]
                if [i.id for i in snapshot.items(some)] != names:
                    wrong.append(some)
                if snapshot.rows(names).tolist() != some:
                    wrong.append(names)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


# One writer


def test_a_second_writer_is_told_who_holds_the_lock(store):
    with store.writer():
        with pytest.raises(LockedError, match=f"process {os.getpid()} on "):
            store.writer()
        start = time.monotonic()
        with pytest.raises(LockedError):
            store.writer(wait_seconds=0.1)
        assert time.monotonic() - start >= 0.1
    with store.writer():
        pass


def test_a_second_writer_can_wait(store):
    writer = store.writer()
    threading.Timer(0.1, writer.close).start()
    with store.writer(wait_seconds=10) as second:
        second.add(*batch(["a"]))


def _hold_the_lock(folder, told, fork):
    writer = Store.open(folder).writer()
    child = os.fork() if fork else None
    if child == 0:
        time.sleep(60)  # a child that outlives the writer must not keep its lock
        os._exit(0)
    told.send(child)
    time.sleep(60)
    writer.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
@pytest.mark.parametrize("fork", [False, True])
def test_the_lock_of_a_dead_process_is_free(store, fork):
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_hold_the_lock, args=(store.folder, there, fork))
    process.start()
    child = here.recv()
    with pytest.raises(LockedError, match=f"process {process.pid} on "):
        store.writer()
    process.kill()
    process.join()
    assert f"process {process.pid}" in (store.folder / "lock").read_text()
    try:
        # A child that was just forked lets go at its first step, which may be still to come.
        with store.writer(wait_seconds=10) as writer:
            assert writer.add(*batch(["a"])) == 1
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
    assert (store.folder / "lock").read_text() == ""


def test_a_closed_writer_is_refused(store):
    writer = store.writer()
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match="closed writer"):
        writer.add(*batch(["a"]))


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((2, 3), "u1")}, r"\(2, 2\).*\(2, 3\)"),
        ({"codes": np.zeros((1, 2), "u1")}, r"\(2, 2\).*\(1, 2\)"),
        ({"codes": np.zeros((2, 2), "i8")}, "uint8.*int64"),
        ({"codes": np.array([[b"a", None]] * 2, object)}, "uint8.*object"),
        ({"features": np.zeros((2, 4), "f4")}, r"\(2, 5\).*\(2, 4\)"),
        ({"features": np.zeros((2, 5), "f8")}, "float32.*float64"),
    ],
)
def test_arrays_of_another_dtype_or_shape_are_refused_naming_both(store, change, message):
    items, codes, features = batch(["a", "b"])
    arrays = {"codes": codes, "features": features} | change
    with store.writer() as writer, pytest.raises(ShapeError, match=message):
        writer.add(items, **arrays)
    assert contents(store) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_is_refused_by_name(store, bad):
    items, codes, features = batch(["a", "b"])
    features[1, 3] = bad
    with store.writer() as writer:
        with pytest.raises(ArgumentError, match="'b'"):
            writer.add(items, codes, features)
        assert writer.add(*batch(["a"])) == 1
    assert contents(store) == expected(["a"])


def test_an_id_twice_in_one_call_is_refused(store):
    with store.writer() as writer, pytest.raises(ArgumentError, match="'a'"):
        writer.add(*batch(["a", "b", "a"]))
    assert contents(store) == []


@pytest.mark.parametrize(
    "item",
    [Item(7), Item("a", path=pathlib.Path("p")), Item("a", size=2**63), Item("a", mtime_ns=0.5)],
)
def test_an_item_of_other_types_is_refused(store, item):
    _, codes, features = batch(["a"])
    with store.writer() as writer, pytest.raises(ArgumentError, match="Item"):
        writer.add([item], codes, features)


@pytest.mark.parametrize(
    "change",
    [
        {"num_bits": 0},
        {"num_bits": 1025},
        {"num_bits": 8.0},
        {"feature_dim": 0},
        {"feature_dtype": "float64"},
        {"feature_dtype": "object"},
        {"fingerprint": None},
        {"encoder_files": {"../outside": __file__}},
        {"encoder_files": {"/outside": __file__}},
        {"encoder_files": {"": __file__}},
        {"extractor": "sift"},
        {"extractor": 7, "descriptor_dim": 4},
        {"extractor": "sift", "descriptor_dim": 0},
        {"descriptor_dim": 4},
    ],
)
def test_an_index_of_nonsense_is_refused_and_leaves_nothing(tmp_path, change):
    arguments = {"num_bits": 8, "feature_dim": 2, "fingerprint": "f"} | change
    with pytest.raises(ArgumentError):
        Store.create(tmp_path / "index", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_encoder_file_leaves_nothing(tmp_path):
    with pytest.raises(StoreError, match="no such thing"):
        Store.create(
            tmp_path / "index",
            num_bits=8,
            feature_dim=2,
            fingerprint="f",
            encoder_files={"a": tmp_path / "no such thing"},
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_made_an_index(store, tmp_path):
    arguments = {"num_bits": 8, "feature_dim": 2, "fingerprint": "f"}
    with pytest.raises(StoreError, match="is an index"):
        Store.create(store.folder, **arguments)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    for taken in ("photos", "photos/one.jpg"):
        with pytest.raises(StoreError, match="is taken"):
            Store.create(tmp_path / taken, **arguments)
    (tmp_path / "empty").mkdir()
    assert Store.create(tmp_path / "empty", **arguments).num_bits == 8
    assert Store.create(tmp_path / "new" / "deep", **arguments).num_bits == 8


@pytest.mark.parametrize("name", ["nowhere", "a folder", "a file"])
def test_what_is_no_index_is_refused(tmp_path, name):
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").write_text("text")
    with pytest.raises(StoreError, match="hashnet index"):
        Store.open(tmp_path / name)
    assert len(check(tmp_path / name)) == 1


def test_a_name_that_is_no_unicode_is_a_folder_like_any_other(tmp_path):
    name = os.fsdecode(b"odd \xff%3F?#\n")
    store = Store.create(tmp_path / name, num_bits=12, feature_dim=5, fingerprint="f")
    add(store, ["a"])
    assert contents(Store.open(tmp_path / name)) == expected(["a"])


def test_the_errors_are_of_one_family():
    assert issubclass(LockedError, StoreError) and issubclass(StoreError, HashnetError)


# Local features


def local_of(*places):
    """Local features at some rows, with a descriptor that tells the place."""
    yx = np.array([[place, place / 2] for place in places], np.float32).reshape(-1, 2)
    return StoredFeatures(yx, np.repeat(yx, 2, axis=1).astype(np.float16))


@pytest.fixture
def local_store(tmp_path):
    return Store.create(
        tmp_path / "local",
        num_bits=NUM_BITS,
        feature_dim=FEATURE_DIM,
        fingerprint="f",
        extractor="sift",
        descriptor_dim=4,
    )


def places_of(store):
    """Each id and the places of its local features, the slow way."""
    with store.snapshot() as snapshot:
        live = (
            np.ones(snapshot.num_rows, bool)
            if snapshot.live_images is None
            else snapshot.live_images
        )
        found = {}
        for row in np.flatnonzero(live):
            [local] = snapshot.local_features([row])
            assert local.yx.dtype == np.float32 and local.descriptors.dtype == np.float16
            assert (local.descriptors == np.repeat(local.yx, 2, axis=1)).all()
            found[snapshot.items([row])[0].id] = local.yx[:, 0].tolist()
        return found


def test_local_features_go_with_their_image(local_store):
    with local_store.writer() as writer:
        writer.add(*batch(["a", "b", "c"]), [local_of(1, 2, 3), local_of(), local_of(4)])
        writer.add(*batch(["a", "d"]), [local_of(5), local_of(6, 7)])
        writer.update([Item("c", label="new")])
        writer.remove(["d"])
        assert places_of(local_store) == {"b": [], "a": [5], "c": [4]}
        writer.compact()
        assert places_of(local_store) == {"b": [], "a": [5], "c": [4]}
    assert local_store.check() == []
    sizes = {path.suffix: path.stat().st_size for path in local_store.folder.glob("segments/*")}
    assert (sizes[".yx"], sizes[".descriptors"], sizes[".spans"]) == (2 * 8, 2 * 4 * 2, 3 * 16)


def test_a_compaction_of_local_features_in_many_pieces_is_the_same(local_store, monkeypatch):
    monkeypatch.setattr(writer_module, "_COMPACT_LOCAL_BYTES", 3 * 2 * 16)
    names = [f"{number}" for number in range(10)]
    with local_store.writer() as writer:
        writer.add(*batch(names), [local_of(*range(n, n + n % 3)) for n in range(10)])
        writer.remove(names[:2])
        assert writer.compact().segments_after == 3
    wanted = {str(n): [float(p) for p in range(n, n + n % 3)] for n in range(2, 10)}
    assert places_of(local_store) == wanted and local_store.check() == []


def test_an_index_has_local_features_of_all_images_or_of_none(store, local_store):
    with local_store.writer() as writer:
        with pytest.raises(ArgumentError, match="none for an index with"):
            writer.add(*batch(["a"]))
        with pytest.raises(ShapeError, match="1 of 2"):
            writer.add(*batch(["a", "b"]), [local_of(1)])
    with store.writer() as writer:
        with pytest.raises(ArgumentError, match="some for an index without"):
            writer.add(*batch(["a"]), [local_of(1)])
        writer.add(*batch(["a"]))
    with store.snapshot() as snapshot, pytest.raises(StoreError, match="--local"):
        snapshot.local_features([0])
    assert places_of(local_store) == {}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"yx": np.zeros((2, 3), "f4")}, ShapeError),
        ({"yx": np.zeros((3, 2), "f4")}, ShapeError),
        ({"descriptors": np.zeros((2, 5), "f2")}, ShapeError),
        ({"yx": np.full((2, 2), np.nan, "f4")}, ArgumentError),
        ({"descriptors": np.full((2, 4), np.inf, "f2")}, ArgumentError),
    ],
)
def test_local_features_of_nonsense_are_refused_by_name(local_store, change, error):
    local = dataclasses.replace(local_of(1, 2), **change)
    with local_store.writer() as writer, pytest.raises(error, match="'a'"):
        writer.add(*batch(["a"]), [local])
    assert places_of(local_store) == {}


def test_every_new_index_is_of_the_newest_format(store, local_store):
    assert (store.format_version, local_store.format_version) == (7, 7)


# Golden files


GOLDEN_V1 = [
    (Item("cat/1.jpg", "/images/cat/1.jpg", "cat", 1000, 1_600_000_000_000_000_001), 1),
    (Item("odd \udcff\n\0 name", None, "", 0, 0), 4),
    (Item("hund/å.jpg", "hund/å.jpg", "hund", 5, 6), 5),
    (Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2001, 7), 6),
    (Item("bare"), 8),
]


def test_an_index_of_format_version_1_opens_for_ever():
    store = Store.open(GOLDEN / "index_v1")
    assert (store.num_bits, store.feature_dim, store.feature_dtype) == (12, 3, "float16")
    assert store.fingerprint == "golden"
    assert (store.encoder_folder / "hashnet.json").read_text() == '{"num_bits": 12}\n'
    assert store.check() == []
    with store.snapshot() as snapshot:
        assert snapshot.live_images.tolist() == [True, False, True, True, True, False, True]
        rows = np.flatnonzero(snapshot.live_images)
        assert snapshot.items(rows) == [item for item, _ in GOLDEN_V1]
        assert snapshot.codes[rows].tolist() == [[n, n << 4] for _, n in GOLDEN_V1]
        assert snapshot.features(rows).tolist() == [[n, n / 4, -n] for _, n in GOLDEN_V1]
        assert snapshot.rows(["bare", "removed"]).tolist() == [6, -1]


GOLDEN_V2 = [
    (Item("cat/1.jpg", "/images/cat/1.jpg", "cat", 1000, 1_600_000_000_000_000_001), 1),
    (Item("nothing to see", None, None, 7, 8), 0),
    (Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2001, 7), 3),
]


def test_an_index_of_format_version_2_opens_for_ever():
    """Local features of a golden image n: n of them, at (n, 100.5), (n + 1, 100.5)..."""
    store = Store.open(GOLDEN / "index_v2")
    assert (store.format_version, store.extractor, store.descriptor_dim) == (2, "sift", 4)
    assert (store.num_bits, store.feature_dim, store.feature_dtype) == (12, 3, "float16")
    assert store.check() == []
    with store.snapshot() as snapshot:
        assert snapshot.live_images.tolist() == [True, True, False, True, False]
        rows = np.flatnonzero(snapshot.live_images)
        assert snapshot.items(rows) == [item for item, _ in GOLDEN_V2]
        for (_, n), found in zip(GOLDEN_V2, snapshot.local_features(rows), strict=True):
            assert found.yx.tolist() == [[n + place, 100.5] for place in range(n)]
            assert found.descriptors.tolist() == [[0.5, -0.5, 0.5, 0.5]] * n


GOLDEN_V3 = [
    (Item("cat/1.jpg", "/images/cat/1.jpg", "cat", 1000, 1_600_000_000_000_000_001), 1),
    (Item("nothing to see", None, None, 7, 8), 0),
    (Item("cat/2.jpg", "/images/cat/2.jpg", "cat", 2001, 7), 4),
]


def test_an_index_of_format_version_3_opens_for_ever():
    """Regions of a golden image n: n of them, (n, 0, n + 5, 6), (n, 1, n + 5, 7)..."""
    store = Store.open(GOLDEN / "index_v3")
    assert (store.format_version, store.extractor, store.regions_per_image) == (3, None, 4)
    assert store.check() == []
    with store.snapshot() as snapshot:
        assert (snapshot.num_items, snapshot.num_regions, snapshot.num_rows) == (3, 5, 13)
        assert np.flatnonzero(snapshot.live_images).tolist() == [0, 2, 6]
        assert np.flatnonzero(snapshot.live).tolist() == [0, 1, 2, 6, 7, 8, 9, 10]
        assert snapshot.owners[snapshot.live].tolist() == [0, 0, 2, 6, 6, 6, 6, 6]
        for (item, n), row in zip(GOLDEN_V3, (0, 2, 6), strict=True):
            rows = range(row, row + n + 1)
            assert snapshot.items(rows) == [item] * len(rows)
            boxes = [(n, place, n + 5, place + 6) for place in range(n)]
            assert snapshot.regions(rows) == [None, *boxes]
            numbers = [n + place for place in range(n + 1)]
            assert snapshot.codes[rows].tolist() == [[m, m << 4] for m in numbers]
            assert snapshot.features(rows).tolist() == [[m, m / 4, -m] for m in numbers]


GOLDEN_V4 = [
    (Item("/cat/1.jpg", "/images/cat/1.jpg", "cat", 1000, 1_600_000_000_000_000_001), 1),
    (Item("nothing to see", None, None, 7, 8), 0),
    *((Item(f"/many/{number}", label=""), number % 3) for number in (2, 4, 5, 6, 7)),
    (Item("/cat/2.jpg", None, "cat"), 2),
    (Item("/many/3", label="dog"), 4),
    (Item("/many/1", label="odd \udcff"), 1),
]


def test_an_index_of_format_version_4_opens_for_ever():
    """Local features and regions of a golden image n: as of those of versions 2 and 3."""
    store = Store.open(GOLDEN / "index_v4")
    assert (store.format_version, store.extractor, store.regions_per_image) == (4, "sift", 4)
    assert store.check() == []
    with store.snapshot() as snapshot:
        ids = [item.id for item, _ in GOLDEN_V4]
        rows = snapshot.rows(ids).tolist()
        assert (snapshot.num_items, snapshot.num_regions) == (10, sum(n for _, n in GOLDEN_V4))
        assert snapshot.ids() == ids and rows == sorted(rows)
        assert snapshot.rows(["/many/0", "/many/8", "gone before the compaction"]).max() == -1
        assert list(snapshot.items_in_order()) == [item for item, _ in GOLDEN_V4]
        assert snapshot.rows_beginning_with("/many/").tolist() == [*rows[2:7], *rows[8:]]
        assert snapshot.rows_of_label("cat").tolist() == [rows[0], rows[7]]
        assert snapshot.label_counts() == {"cat": 2, "": 5, "dog": 1, "odd \udcff": 1}
        assert snapshot.id_ends("/") == ("/cat/1.jpg", "/many/7")
        assert list(snapshot.ids_outside("/")) == ["nothing to see"]
        for (_, n), row in zip(GOLDEN_V4, rows, strict=True):
            of_image = range(row, row + n + 1)
            numbers = [n + place for place in range(n + 1)]
            assert snapshot.codes[of_image].tolist() == [[m, m << 4 & 255] for m in numbers]
            assert snapshot.features(of_image).tolist() == [[m, m / 4, -m] for m in numbers]
            boxes = [(n, place, n + 5, place + 6) for place in range(n)]
            assert snapshot.regions(of_image) == [None, *boxes]
            [local] = snapshot.local_features([row])
            assert local.yx.tolist() == [[n + place, 100.5] for place in range(n)]


CANON = Exif(datetime.datetime(2026, 5, 1, 12, 30, 59), -33.5, 151.25, "Canon EOS 5D")  # noqa: DTZ001
CAT = (1000, 1_600_000_000_000_000_001, -5, 2**64 - 1, bytes(range(16)))
GOLDEN_V5 = [
    (Item("cats/1.jpg", "/more/cats/1.jpg", "cat", *CAT, CANON), 1),
    (Item("nothing to see", size=7, mtime_ns=8), 0),
    (Item("dogs \udcff/a/b.jpg", "/images/dogs/a/b.jpg", "dog", inode=3), 4),
    (Item("cats/2.jpg", "/more/cats/2.jpg", "cat", *CAT, Exif(CANON.taken)), 1),
    (Item("cats/3.jpg", "/more/cats/3.jpg", "", 0, 0, 0), 2),
]


def test_an_index_of_format_version_5_opens_for_ever():
    """Local features and regions of a golden image n: as of those of versions 2 and 3."""
    store = Store.open(GOLDEN / "index_v5")
    assert (store.format_version, store.extractor, store.regions_per_image) == (5, "sift", 4)
    assert store.exif and store.check() == []
    with store.snapshot() as snapshot:
        ids = [item.id for item, _ in GOLDEN_V5]
        rows = snapshot.rows(ids).tolist()
        assert snapshot.roots.all == (("cats", "/more/cats"), ("dogs \udcff", "/images/dogs"))
        assert snapshot.ids() == ids and rows == sorted(rows)
        assert list(snapshot.items_in_order()) == [item for item, _ in GOLDEN_V5]
        assert snapshot.rows_taken(CANON.taken, None).tolist() == [rows[0], rows[3]]
        assert snapshot.rows_of_sizes([0, 7]).tolist() == [rows[1], rows[4]]
        for (_, n), row in zip(GOLDEN_V5, rows, strict=True):
            of_image = range(row, row + n + 1)
            numbers = [n + place for place in range(n + 1)]
            assert snapshot.codes[of_image].tolist() == [[m, m << 4 & 255] for m in numbers]
            assert snapshot.features(of_image).tolist() == [[m, m / 4, -m] for m in numbers]
            assert len(snapshot.local_features([row])[0].yx) == n


GOLDEN_V6 = [
    (Item("a", None, "cat"), 9),
    (Item("b"), 20),
    (Item("nothing to see"), 0),
    (Item("c"), 7),
    (Item("d", label="dog"), 20),
]
# Of image n the words that it has, and what their signatures add up to: as they were, whatever
# codebooks are fitted to by now.
WORDS_V6 = {
    9: [0, 2, 6, 10, 20, 27, 28],
    20: [2, 5, 6, 8, 14, 16, 18, 19, 20, 21, 23, 24, 25, 26, 28],
    0: [],
    7: [0, 15, 16, 20, 25],
}
SIGNATURES_V6 = {9: 12501540202, 20: 33042531600, 0: 0, 7: 5377777263}


def test_an_index_of_format_version_6_opens_for_ever():
    store = Store.open(GOLDEN / "index_v6")
    assert (store.format_version, store.extractor, store.descriptor_dim) == (6, "sift", 4)
    assert store.check() == []
    with store.snapshot() as snapshot:
        ids = [item.id for item, _ in GOLDEN_V6]
        rows = snapshot.rows(ids).tolist()
        assert snapshot.ids() == ids and rows == sorted(rows)
        assert list(snapshot.items_in_order()) == [item for item, _ in GOLDEN_V6]
        assert snapshot.codebook.num_words == 29
        lists = snapshot.word_lists(np.arange(30, dtype=np.uint32))
        for (_, n), row in zip(GOLDEN_V6, rows, strict=True):
            [one] = [one for one in lists if one.first_row <= row < one.end_row]
            [(words, signatures)] = one.of_rows([row])
            assert words.tolist() == WORDS_V6[n]
            assert signatures.sum(dtype=np.int64) == SIGNATURES_V6[n]
            [local] = snapshot.local_features([row])
            assert snapshot.codebook.signatures(local.descriptors)[0].tolist() == WORDS_V6[n]


ALL_V7 = Texts(
    "Rex,\nour dog",
    "beside 狗",
    "inside",
    (Line("PALE ÄLE", (1, 2, 30, 400), 0.875), Line("odd \udcff", (0, 0, 1, 1), 0.0)),
)
GOLDEN_V7 = [
    (Item("a", texts=ALL_V7), 2),
    (Item("c", label="cat", texts=Texts(lines=())), 1),
    (Item("d", texts=Texts("a copy")), 2),
    (Item("b", texts=Texts(inside="later")), 0),
]


def test_an_index_of_format_version_7_opens_for_ever():
    """Regions of a golden image n: as of that of version 3."""
    store = Store.open(GOLDEN / "index_v7")
    assert (store.format_version, store.texts, store.ocr) == (7, True, "golden-reader")
    assert store.check() == []
    with store.snapshot() as snapshot:
        ids = [item.id for item, _ in GOLDEN_V7]
        rows = snapshot.rows(ids).tolist()
        assert snapshot.ids() == ids and rows == sorted(rows)
        for (item, n), row in zip(GOLDEN_V7, rows, strict=True):
            assert snapshot.items(range(row, row + n + 1)) == [item] * (n + 1)


def test_what_is_no_text_of_an_image_is_refused(store):
    box = (0, 0, 1, 1)
    for texts in (
        Texts("x" * 10_001),
        Texts(7),
        ("a", None, None, None),
        Texts(lines=(("a", box, 0.5),)),
        Texts(lines=(Line("a", box, 2.0),)),
        Texts(lines=(Line("a", (0, 0, 0, 1), 1.0),)),
        Texts(lines=(Line("a", box, 1.0),) * 201),
    ):
        with store.writer() as writer, pytest.raises(ArgumentError):
            writer.add([Item("a", texts=texts)], *batch(["a"])[1:])
    with store.snapshot() as snapshot:
        assert not snapshot.num_items


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7])
def test_an_index_of_an_older_format_can_be_written_to(tmp_path, version):
    shutil.copytree(GOLDEN / f"index_v{version}", tmp_path / "index")
    golden = [GOLDEN_V1, GOLDEN_V2, GOLDEN_V3, GOLDEN_V4, GOLDEN_V5, GOLDEN_V6, GOLDEN_V7]
    golden = golden[version - 1]
    store = Store.open(tmp_path / "index")
    with store.writer() as writer:
        writer.remove([golden[-1][0].id])
        writer.compact()
    with store.snapshot() as snapshot:
        rows = snapshot.rows([item.id for item, _ in golden[:-1]])
        assert sorted(rows) == list(rows) and snapshot.num_items == len(rows)
        assert snapshot.items(rows) == [item for item, _ in golden[:-1]]
        if version == 2:
            assert [len(local.yx) for local in snapshot.local_features(rows)] == [1, 0]
    assert Store.open(tmp_path / "index").format_version == version
    assert store.check() == []


def test_an_index_at_rest_is_seen_to_be_so_without_reading_its_catalogue(store, monkeypatch):
    catalogue = store.folder / "catalogue.sqlite"
    reads = []
    read = store_module.read_catalogue
    monkeypatch.setattr(
        store_module, "read_catalogue", lambda *given: reads.append(1) or read(*given)
    )
    # Just written: a further commit could leave the same time behind.
    first = store.version()
    assert store.version() == first and len(reads) == 2

    os.utime(catalogue, ns=(10**18, 10**18))
    assert [store.version() for _ in range(5)] == [first] * 5 and len(reads) == 3
    other = Store.open(store.folder)
    add(other, ["a"])
    assert store.version() == other.version() != first
    os.utime(catalogue, ns=(2 * 10**18, 2 * 10**18))  # as if it had been written in the future
    before = len(reads)
    store.version(), store.version()
    assert len(reads) == before + 2
    catalogue.unlink()
    with pytest.raises(StoreError):
        store.version()
