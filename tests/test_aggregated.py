"""Retrieval by aggregated local features."""

import io
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from hashnet import codes
from hashnet.errors import ArgumentError, ShapeError, StoreError
from hashnet.local.features import LocalFeatures
from hashnet.retrieval.search import aggregated
from hashnet.retrieval.search.aggregated import AggregatedIndex, learn_codebook
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item, StoredFeatures

DIM = 40


def unit(rng, count, dim=DIM):
    descriptors = rng.normal(size=(count, dim))
    return (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)


def features_of(descriptors):
    none = np.zeros((len(descriptors), 2), np.float32)
    return LocalFeatures(none, descriptors, none[:, 0])


def image(seed, count=60, dim=DIM):
    return features_of(unit(np.random.default_rng(seed), count, dim))


def seen_otherwise(features, seed=0, kept=40):
    """Most of an image's features, with noise, among others."""
    rng = np.random.default_rng(seed)
    dim = features.descriptors.shape[1]
    noisy = features.descriptors[:kept] + rng.normal(0, 0.02, (kept, dim)).astype(np.float32)
    return features_of(np.vstack([noisy, unit(rng, 20, dim)]))


def codebook_of(dim=DIM, num_words=16):
    return learn_codebook(unit(np.random.default_rng(99), 400, dim), num_words)


def filled(dim=DIM, num_threads=1, count=12):
    """Images "0" to "11"; "5" shows nothing and "6" a single feature."""
    index = AggregatedIndex(codebook_of(dim), num_threads=num_threads)
    counts = {5: 0, 6: 1}
    local = [image(seed, counts.get(seed, 60), dim) for seed in range(count)]
    assert index.add(map(str, range(count)), local) == count
    return index


def slow_signatures(descriptors, codebook, assignments):
    """{word: list of bool}, by the definition."""
    sums = {}
    for descriptor in descriptors.astype(np.float64):
        apart = [np.linalg.norm(descriptor - word) for word in codebook]
        for word in sorted(range(len(codebook)), key=lambda word: apart[word])[:assignments]:
            difference = descriptor - codebook[word]
            sums[word] = sums[word] + difference if word in sums else difference
    return {word: [number > 0 for number in sums[word]] for word in sums}


def slow_similarity(query, other, tau, alpha):
    total = 0.0
    for word in query.keys() & other.keys():
        apart = sum(a != b for a, b in zip(query[word], other[word], strict=True))
        agreement = 1 - 2 * apart / len(query[word])
        total += agreement**alpha if agreement > tau else 0.0
    return total / np.sqrt(len(query) * len(other)) if total else 0.0


@pytest.mark.fast(
    "numpy-1-0.0-3.0-3",
    "numpy-5-0.25-1.0-64",
    "compiled-1-0.0-3.0-40",
    "compiled-5-0.25-1.0-128",
    "compiled-5-0.25-1.0-3",
)
@pytest.mark.parametrize("dim", [3, 40, 64, 128])
@pytest.mark.parametrize(("assignments", "tau", "alpha"), [(1, 0.0, 3.0), (5, 0.25, 1.0)])
def test_similarities_follow_the_definition(dim, assignments, tau, alpha, way):
    index = filled(dim)
    query = seen_otherwise(image(4, dim=dim))
    options = {"assignments": assignments, "tau": tau, "alpha": alpha}
    ids, scores = index.search(query, k=20, **options)
    asked = slow_signatures(query.descriptors, index.codebook, assignments)
    slow = {}
    for seed in range(12):
        local = image(seed, {5: 0, 6: 1}.get(seed, 60), dim)
        stored = slow_signatures(local.descriptors, index.codebook, 1)
        slow[str(seed)] = slow_similarity(asked, stored, tau, alpha)
    assert ids == sorted((id for id in slow if slow[id]), key=lambda id: -slow[id])
    np.testing.assert_allclose(scores, [slow[id] for id in ids], rtol=1e-9)


def test_an_image_is_wholly_like_itself_and_found_when_seen_otherwise():
    index = filled()
    for seed in (0, 4, 6, 11):
        ids, scores = index.search(image(seed, 1 if seed == 6 else 60), assignments=1)
        assert ids[0] == str(seed) and scores[0] == pytest.approx(1.0)
        assert (scores[1:] < 0.9).all()
    for seed in (0, 4, 11):
        ids, scores = index.search(seen_otherwise(image(seed)))
        assert ids[0] == str(seed) and (np.diff(scores) <= 0).all()


def test_equal_images_come_in_the_order_in_which_they_were_added():
    index = AggregatedIndex(codebook_of())
    for id in ("c", "a", "b"):
        index.add([id], [image(1)])
    assert index.search(image(1))[0] == ["c", "a", "b"]
    assert index.search(image(1), k=2)[0] == ["c", "a"]
    index.add(["c"], [image(1)])
    assert index.search(image(1))[0] == ["a", "b", "c"]


def test_the_words_are_the_means_of_what_falls_to_them():
    rng = np.random.default_rng(0)
    middles = 10 * np.eye(4, 6, dtype=np.float32)
    descriptors = np.repeat(middles, 50, axis=0)
    descriptors += rng.normal(0, 0.1, descriptors.shape).astype(np.float32)
    shuffled = descriptors[rng.permutation(200)]
    found = min(
        (learn_codebook(shuffled, 4, seed=seed) for seed in range(5)),
        key=lambda words: np.linalg.norm(shuffled[:, None] - words, axis=2).min(axis=1).sum(),
    )
    means = descriptors.reshape(4, 50, 6).mean(axis=1)
    np.testing.assert_allclose(found[found.argmax(axis=1).argsort()], means, atol=1e-5)


def test_a_codebook_depends_on_its_seed_alone():
    descriptors = unit(np.random.default_rng(0), 900)
    one = learn_codebook(descriptors, 32, seed=3)
    np.testing.assert_array_equal(one, learn_codebook(descriptors, 32, seed=3, num_threads=2))
    assert (one != learn_codebook(descriptors, 32, seed=4)).any()
    with_repeats = learn_codebook(np.repeat(descriptors[:2], 9, axis=0), 6)
    assert np.isfinite(with_repeats).all()


def test_the_answer_does_not_depend_on_threads_or_on_how_images_came(monkeypatch, way):
    monkeypatch.setattr(aggregated, "LEAST_IMAGES", 1)
    monkeypatch.setattr(aggregated, "FEATURES_AT_ONCE", 16)
    one, two = filled(), filled(num_threads=2)
    single = AggregatedIndex(codebook_of(), num_threads=3)
    for seed in range(12):
        single.add([str(seed)], [image(seed, {5: 0, 6: 1}.get(seed, 60))])
        assert len(single) == seed + 1
        single.search(image(2))
    query = seen_otherwise(image(2))
    ids, scores = one.search(query, k=20)
    for other in (two, single):
        others_ids, others_scores = other.search(query, k=20)
        assert others_ids == ids
        np.testing.assert_array_equal(others_scores, scores)


def test_compiled_or_not_similarities_are_the_same_to_the_last_bit(kernels, request):
    index, query = filled(dim=128), seen_otherwise(image(4, dim=128))
    ids, scores = index.search(query, k=20, assignments=5)
    request.getfixturevalue("plain")
    plain_ids, plain_scores = index.search(query, k=20, assignments=5)
    assert len(ids) > 5 and plain_ids == ids
    assert plain_scores.tobytes() == scores.tobytes()


def test_what_was_removed_or_replaced_is_not_found():
    index = filled()
    query = seen_otherwise(image(3))
    assert index.search(query)[0][0] == "3"
    assert index.remove(["3", "nobody", "3", "7"]) == ["3", "7"] and len(index) == 10
    assert not {"3", "7"} & set(index.search(query, k=20)[0])
    assert index.remove(["3"]) == []
    index.add(["9"], [image(3)])
    assert len(index) == 10 and index.search(query)[0][0] == "9"
    index.add(["new"], [image(7)])
    assert index.remove(["new"]) == ["new"] and len(index) == 10  # before it was ever searched
    before = index.num_bytes
    index.add(["9"], [image(3)])
    assert index.num_bytes == before
    index.remove(map(str, range(12)))
    assert len(index) == 0 and index.search(query)[0] == []


def test_an_index_folder_fills_it(tmp_path):
    store = Store.create(
        *(tmp_path / "index",),
        num_bits=8,
        feature_dim=1,
        fingerprint="f",
        extractor="delf",
        descriptor_dim=DIM,
    )
    with store.writer() as writer:
        items = [Item(str(seed)) for seed in range(6)]
        local = [image(seed) for seed in range(6)]
        writer.add(items, np.zeros((6, 1), "u1"), np.zeros((6, 1), "f4"), local)
    index = AggregatedIndex(codebook_of())
    with store.snapshot() as snapshot:
        rows = np.arange(snapshot.num_rows)
        index.add([item.id for item in snapshot.items(rows)], snapshot.local_features(rows))
    assert index.search(seen_otherwise(image(2)))[0][0] == "2"


def test_it_may_be_searched_while_images_come_and_go():
    index, query = filled(), seen_otherwise(image(4))
    failures = []

    def change():
        for turn in range(30):
            index.add([f"x{turn}"], [image(100 + turn)])
            index.remove([f"x{turn - 1}"])

    def search():
        try:
            for _ in range(30):
                assert index.search(query)[0][0] == "4"
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=task) for task in (change, search, search)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(index) == 13


def test_nothing_is_found_in_nothing_and_by_nothing():
    empty = AggregatedIndex(codebook_of())
    assert len(empty) == 0 and empty.search(image(1))[0] == []
    assert empty.add([], []) == 0
    ids, scores = filled().search(image(0, 0))
    assert ids == [] and scores.shape == (0,)
    nan = np.full((3, DIM), np.nan, np.float32)
    assert filled().search(features_of(nan))[0] == []
    index = filled()
    some = features_of(np.vstack([nan, image(4).descriptors]))
    assert index.search(some)[0] == index.search(image(4))[0]


def test_more_words_than_there_are_may_be_asked_for():
    index = AggregatedIndex(np.eye(2, DIM, dtype=np.float32))
    index.add(["a"], [image(1)])
    assert index.search(image(1), assignments=9)[0] == ["a"]


def test_a_feature_on_its_word_is_no_accident():
    """A difference of zero has a sign too, and a codebook of equal words has a nearest."""
    index = AggregatedIndex(np.ones((3, DIM), np.float32))
    index.add(["a"], [features_of(np.ones((2, DIM), np.float32))])
    ids, scores = index.search(features_of(np.ones((1, DIM), np.float32)), assignments=1)
    assert ids == ["a"] and scores.tolist() == [1.0]


def test_what_does_not_fit_is_refused_and_nothing_is_added():
    index = filled()
    nan = features_of(np.full((1, DIM), np.nan, np.float32))
    for ids, features, message in (
        (["new", "bad"], [image(1), nan], "bad"),
        (["new", "new"], [image(1), image(2)], "once"),
        ([1], [image(1)], "text"),
        (["new"], [image(1, dim=128)], "128"),
        (["new"], [image(1), image(2)], "1 ids"),
    ):
        with pytest.raises((ArgumentError, ShapeError), match=message):
            index.add(ids, features)
        assert len(index) == 12
    with pytest.raises(ShapeError, match="128"):
        index.search(image(1, dim=128))
    for wrong in ({"k": 0}, {"assignments": 0}, {"tau": 1.0}, {"tau": -0.1}, {"alpha": 0.0}):
        with pytest.raises(ArgumentError):
            index.search(image(1), **wrong)
    for wrong in (np.zeros((0, 4), "f4"), np.zeros((4, 0), "f4"), np.zeros(4, "f4"), np.eye(3)):
        with pytest.raises(ShapeError):
            AggregatedIndex(wrong)
    with pytest.raises(ArgumentError, match="codebook"):
        AggregatedIndex(np.full((2, 2), np.inf, np.float32))
    with pytest.raises(ArgumentError, match="1024"):
        AggregatedIndex(np.zeros((1, codes.MAX_BITS + 1), np.float32))
    with pytest.raises(ArgumentError, match="fewer words"):
        learn_codebook(unit(np.random.default_rng(0), 3), 4)
    with pytest.raises(ArgumentError, match="NaN"):
        learn_codebook(nan.descriptors, 1)


SEARCH = """
import sys, numpy as np
from hashnet.retrieval.search.aggregated import AggregatedIndex
from tests.test_aggregated import image, seen_otherwise
index = AggregatedIndex.open(sys.argv[1])
ids, scores = index.search(seen_otherwise(image(4)), k=20)
print(len(index), *ids, *scores.tolist())
"""


def test_an_index_is_the_same_in_a_new_process(tmp_path):
    index, path = filled(), tmp_path / "photos.npz"
    odd = ["名字 with spaces", "\udcff", "", "nul\0"]
    index.add(odd, [image(100 + place) for place in range(4)])
    index.remove(["2"])
    index.save(path)
    index.save(path)
    assert list(tmp_path.iterdir()) == [path]
    opened = AggregatedIndex.open(path, num_threads=2)
    assert len(opened) == len(index) == 15 and opened.num_bytes == index.num_bytes
    for place, id in enumerate(odd):
        assert opened.search(image(100 + place))[0][0] == id
    opened.remove(odd)
    opened.save(path)
    run = subprocess.run(
        [sys.executable, "-c", SEARCH, str(path)], capture_output=True, text=True, check=True
    )
    ids, scores = opened.search(seen_otherwise(image(4)), k=20)
    assert run.stdout.split() == ["11", *ids, *map(str, scores.tolist())]
    opened.add(["2"], [image(2)])
    assert opened.search(seen_otherwise(image(2)))[0][0] == "2"
    AggregatedIndex(codebook_of()).save(path)
    assert len(AggregatedIndex.open(path)) == 0


def arrays_of(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


DAMAGED = {
    "a newer format": (lambda a: a | {"format": np.int64(2)}, "format 2"),
    "no codebook": (lambda a: {n: v for n, v in a.items() if n != "codebook"}, "codebook"),
    "an infinite codebook": (lambda a: a | {"codebook": a["codebook"] * np.inf}, "finite"),
    "objects": (lambda a: a | {"rows": np.array([None, {}], object)}, "pickle"),
    "rows of no image": (lambda a: a | {"rows": a["rows"] + np.uint32(12)}, "row 23 of 12"),
    "rows that descend": (lambda a: a | {"rows": a["rows"][::-1]}, "ascend"),
    "rows of another kind": (lambda a: a | {"rows": a["rows"].astype("i8")}, "int64"),
    "fewer codes": (lambda a: a | {"codes": a["codes"][:-1]}, "codes"),
    "longer codes": (lambda a: a | {"codes": np.repeat(a["codes"], 2, 1)}, "bytes"),
    "fewer words": (lambda a: a | {"borders": a["borders"][:-1]}, "of words"),
    "borders beyond": (lambda a: a | {"borders": a["borders"] + 1}, "of words"),
    "borders that descend": (
        lambda a: a | {"borders": a["borders"][[0, 2, 1, *range(3, 17)]]},
        "of words",
    ),
    "ids beyond": (lambda a: a | {"id_ends": a["id_ends"] + 1}, "ids"),
    "an id twice": (lambda a: a | {"ids": np.full(len(a["ids"]), 49, "u1")}, "twice"),
    "ids of no text": (lambda a: a | {"ids": np.full(len(a["ids"]), 255, "u1")}, "decode"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_with_what_is_wrong(tmp_path, damage, message):
    path = tmp_path / "photos.npz"
    filled().save(path)
    np.savez(path, **damage(arrays_of(path)))
    with pytest.raises(StoreError, match=message):
        AggregatedIndex.open(path)


def test_a_file_that_is_none_of_ours_is_refused(tmp_path):
    path = tmp_path / "photos.npz"
    with pytest.raises(StoreError, match="photos"):
        AggregatedIndex.open(path)
    filled().save(path)
    content = path.read_bytes()
    for cut in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(StoreError):
            AggregatedIndex.open(path)
    path.write_bytes(content)
    np.savez_compressed(path, **arrays_of(path))
    with pytest.raises(StoreError, match="compressed"):
        AggregatedIndex.open(path)


def test_a_flipped_byte_changes_nothing_or_is_refused(tmp_path):
    path, index = tmp_path / "photos.npz", filled()
    index.save(path)
    content, right = path.read_bytes(), index.search(image(4))[0]
    refused = 0
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        try:
            assert AggregatedIndex.open(path).search(image(4))[0] == right  # a date, say
        except StoreError:
            refused += 1
    assert refused > 30


def test_an_array_that_claims_more_than_memory_is_refused(tmp_path):
    path = tmp_path / "photos.npz"
    filled().save(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, DIM)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "w") as file:
        for name, member in (members | {"codebook.npy": header.getvalue()}).items():
            file.writestr(name, member)
    with pytest.raises(StoreError):
        AggregatedIndex.open(path)


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "photos.npz"
    index = filled()
    index.save(path)
    before = path.read_bytes()

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(aggregated.np, "savez", refuse)
    with pytest.raises(StoreError, match="No space"):
        index.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError):
        index.save(tmp_path / "nowhere" / "photos.npz")


def test_stored_features_in_float16_do_as_well():
    index = AggregatedIndex(codebook_of())
    local = image(1)
    index.add(["a"], [StoredFeatures(local.yx, local.descriptors.astype(np.float16))])
    ids, scores = index.search(local, assignments=1)
    assert ids == ["a"] and scores[0] > 0.95
