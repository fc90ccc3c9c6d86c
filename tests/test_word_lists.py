"""The inverted lists of an index folder: what they hold, how many they are, what they withstand."""

import random
import zlib

import numpy as np
import pytest

from hashnet.errors import StoreError
from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.folder import check, lookups, words, writer
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item, StoredFeatures
from hashnet.retrieval.store.word_lists import WordLists, nothing, signatures_of
from tests.test_store import GOLDEN

DIM = 8
CODEBOOK, OTHER = (
    Codebook.fit(np.random.default_rng(seed).normal(size=(300, DIM)).astype(np.float16))
    for seed in (0, 1)
)
EVERY_WORD = np.arange(1 << 16, dtype=np.uint32)


@pytest.fixture
def store(tmp_path):
    return Store.create(
        tmp_path / "index",
        num_bits=12,
        feature_dim=2,
        fingerprint="f",
        extractor="sift",
        descriptor_dim=DIM,
        regions_per_image=2,
    )


def blocks_of_64_bytes(monkeypatch):
    monkeypatch.setattr(words, "BLOCK_BYTES", 64)
    monkeypatch.setattr(check, "WORD_BLOCK_BYTES", 64)


def described(name):
    """Up to 30 local features, as its name has them; often none."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    number = max(0, int(rng.integers(-8, 30)))
    descriptors = rng.normal(size=(number, DIM)).astype(np.float32)
    return StoredFeatures(np.zeros((number, 2), np.float32), descriptors)


def add(writer, names):
    regions = [np.array([[0, 0, 1, 1]] * (len(name) % 3), int).reshape(-1, 4) for name in names]
    num_rows = len(names) + sum(map(len, regions))
    codes, features = np.zeros((num_rows, 2), np.uint8), np.zeros((num_rows, 2), np.float32)
    writer.add(list(map(Item, names)), codes, features, list(map(described, names)), regions)


def judge(snapshot):
    """Compare all lists with what the local features of the live images say."""
    live = np.ones(snapshot.num_rows, bool) if snapshot.live is None else snapshot.live
    wanted = {}
    for row in np.flatnonzero(live).tolist():
        [local] = snapshot.local_features([row])
        for word, signature in zip(*snapshot.codebook.signatures(local.descriptors), strict=True):
            wanted[int(word), row] = int(signature)
    found, ends = {}, [0]
    for lists in snapshot.word_lists(EVERY_WORD):
        assert lists.first_row == ends[-1]
        ends.append(lists.end_row)
        entries = zip(lists.of_entries(), lists.rows, lists.signatures, strict=True)
        entries = [(int(word), int(row) + lists.first_row, int(one)) for word, row, one in entries]
        assert [entry[:2] for entry in entries] == sorted(entry[:2] for entry in entries)
        counts = np.bincount(lists.rows, minlength=lists.num_rows)
        assert counts.tolist() == lists.lengths.tolist()
        found.update(((word, row), one) for word, row, one in entries if live[row])
    assert found == wanted and ends[-1] == snapshot.num_rows


def test_lists_are_what_the_local_features_say_after_any_changes(store, monkeypatch):
    monkeypatch.setattr(lookups, "FAN_OUT", 3)
    monkeypatch.setattr(lookups, "TOP_LEVEL", 3)
    monkeypatch.setattr(writer, "_WORD_RUN_ROWS", 20)
    blocks_of_64_bytes(monkeypatch)
    chance, followed = random.Random(1), store.snapshot()
    for step in range(30):
        names = list(
            dict.fromkeys(f"{chance.randrange(60)}" for _ in range(chance.randrange(1, 9)))
        )
        with store.writer() as one:
            verb = chance.choice(["add", "add", "remove", "update", "copy"])
            known = [id for id in names if followed.rows([id])[0] >= 0]
            if step in (3, 23):
                one.set_codebook(CODEBOOK if step == 3 else OTHER)
            elif step in (15, 27):
                one.compact()
            elif verb == "add" or not known:
                add(one, names)
            elif verb == "remove":
                one.remove(known)
            elif verb == "update":
                one.update([Item(id, label="bee") for id in known])
            else:
                copies = [Item(f"copy {id}") for id in known]
                one.copy([*copies, *copies[:0]], known, gone=known[:1])
        followed = store.snapshot()  # while the older one is open
        if step < 3:
            assert followed.codebook is None and followed.word_lists(EVERY_WORD) == []
            continue
        judge(followed)
        judge(Store.open(store.folder).snapshot())
    assert store.check() == [] and followed.num_rows > 100


def test_runs_stay_few_however_many_the_commits(store, monkeypatch):
    monkeypatch.setattr(lookups, "FAN_OUT", 3)
    monkeypatch.setattr(lookups, "TOP_LEVEL", 2)
    with store.writer() as writer:
        writer.set_codebook(CODEBOOK)
        for number in range(40):
            add(writer, [f"{number:03}"])
        sizes = [run.num_rows for run in writer._opened().word_runs]
    assert sizes == [9, 9, 9, 9, 3, 1]
    judge(store.snapshot())


def test_the_work_of_a_commit_does_not_grow_with_the_index(store, monkeypatch):
    with store.writer() as writer:
        writer.set_codebook(CODEBOOK)
        add(writer, [f"{number:03}" for number in range(200)])
        before = writer._opened().word_runs
        read = []
        real = words.StoredWordLists._verify
        monkeypatch.setattr(
            words.StoredWordLists, "_verify", lambda *given: (read.append(1), real(*given))
        )
        add(writer, ["more"])
        assert writer._opened().word_runs[:-1] == before and read == []
        assert writer._opened().word_runs[-1].num_rows == 2  # with a region


def test_a_search_reads_the_lists_of_its_words_alone(store, monkeypatch):
    blocks_of_64_bytes(monkeypatch)
    with store.writer() as writer:
        writer.set_codebook(CODEBOOK)
        add(writer, [f"{number:03}" for number in range(200)])
    lists = store.snapshot().word_lists(EVERY_WORD)[0]
    snapshot = store.snapshot()
    [stored] = snapshot._committed.word_lists()
    for asked in (lists.words[:1], np.array([9, 70_000], np.uint32), lists.words[-1:]):
        stored._is_verified[:] = False
        stored._lists = None
        stored.of_words(asked)
        of_lists = stored.run.places[2] // 64
        assert stored._is_verified[of_lists + 1 :].all()
        assert 0 < np.count_nonzero(stored._is_verified[:of_lists]) < of_lists / 4
    stored.whole()
    assert stored._is_verified.all()


def test_a_list_that_is_damaged_is_an_error_when_it_is_read_and_no_sooner(store, monkeypatch):
    blocks_of_64_bytes(monkeypatch)
    with store.writer() as writer:
        writer.set_codebook(CODEBOOK)
        add(writer, [f"{number:03}" for number in range(200)])
        run = writer._opened().word_runs[0]
    good = store.snapshot().word_lists(EVERY_WORD)[0]
    first, other = good.words[:1].copy(), good.words[len(good.words) // 2 :][:1].copy()
    path = store.folder / "segments/000001.words"
    for at in (0, run.places[1]):  # the first signature, and the first row
        content = bytearray(path.read_bytes())
        content[run.start + at] ^= 4
        path.write_bytes(content)
        snapshot = Store.open(store.folder).snapshot()
        snapshot.word_lists(other)
        with pytest.raises(StoreError, match="segments/000001.words.*lists of rows 0 to"):
            snapshot.word_lists(first)
        assert "000001.words" in " ".join(store.check())
        content[run.start + at] ^= 4
        path.write_bytes(content)


def test_lists_of_a_stranger_never_send_a_search_outside_its_arrays():
    """Their checksums fit."""
    some = np.array([3, 7], np.uint32), np.array([1, 2], np.uint32)
    lists = WordLists.of(0, [some, some])
    for change in (
        {"rows": np.array([0, 1, 0, 2], np.uint32)},
        {"rows": np.array([0, 1, 2**32 - 1, 1], np.uint32)},
        {"ends": np.array([2, 5], np.uint32)},
        {"ends": np.array([4, 2], np.uint32)},
        {"ends": np.array([0, 4], np.uint32)},
        {"words": np.array([7, 3], np.uint32)},
        {"words": np.array([3, 3], np.uint32)},
        {"lengths": np.array([2, 3], np.uint16)},
    ):
        forged = WordLists(**(vars(lists) | change))
        run, content = words.encoded(forged, 0)
        stored = words.StoredWordLists(run, np.frombuffer(content, np.uint8), StoreError)
        with pytest.raises(StoreError):
            stored.of_words(EVERY_WORD)
    run, content = words.encoded(lists, 0)
    words.StoredWordLists(run, np.frombuffer(content, np.uint8), StoreError).of_words(EVERY_WORD)


@pytest.mark.parametrize("num_bits", [32, 64])
def test_lists_of_nothing(num_bits):
    lists = WordLists.of(5, [nothing(num_bits)] * 3)
    run, content = words.encoded(lists, 8)
    assert (run.num_rows, run.num_signatures, len(content)) == (3, 0, run.end - 8)
    stored = words.StoredWordLists(run, np.frombuffer(content, np.uint8), StoreError)
    assert stored.of_words(EVERY_WORD).lengths.tolist() == [0, 0, 0]
    assert [len(one) for one in stored.whole().of_rows([6])[0]] == [0, 0]


def test_signatures_are_those_of_descriptors_as_they_are_stored():
    descriptors = np.random.default_rng(3).normal(size=(90, DIM)) / 3
    found = signatures_of(CODEBOOK, descriptors)
    wanted = CODEBOOK.signatures(descriptors.astype(np.float16))
    assert [one.tolist() for one in found] == [one.tolist() for one in wanted]


def test_an_index_that_keeps_no_local_pool_refuses_a_codebook(tmp_path):
    plain = Store.create(tmp_path / "index", num_bits=12, feature_dim=2, fingerprint="f")
    for store in (plain, Store.open(GOLDEN / "index_v5")):
        if store is not plain:
            (tmp_path / "old").mkdir()
            for path in GOLDEN.joinpath("index_v5").rglob("*"):
                target = tmp_path / "old" / path.relative_to(GOLDEN / "index_v5")
                target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
            store = Store.open(tmp_path / "old")
        with store.writer() as writer, pytest.raises(StoreError, match="Make the index anew"):
            writer.set_codebook(CODEBOOK)
        assert not store.snapshot().keeps_words and store.check() == []
