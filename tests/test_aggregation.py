"""Aggregated local features beside the formulas of their papers, and through the product."""

import math
import zipfile

import numpy as np
import pytest

import hashnet
from hashnet import Index
from hashnet.errors import ArgumentError, HashnetError, ShapeError, StoreError, UnknownNameError
from hashnet.local import aggregation
from hashnet.local.aggregation import KINDS, Aggregation


def photos_of(seed=0, num=20, dim=6):
    """Descriptors of images around five centres, some of them equal."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((5, dim))
    found = []
    for number in range(num):
        some = centres[rng.integers(0, 5 - number % 2, rng.integers(3, 30))]
        found.append((some + 0.3 * rng.standard_normal(some.shape)).astype(np.float32))
    found[1][0] = found[0][0]
    return found


# --- The slow definitions -------------------------------------------------------------------------


def nearest(words, one):
    return min(range(len(words)), key=lambda k: math.dist(words[k], one))


def bovw(arrays, photos, descriptors):
    words = arrays["words"].tolist()
    lists = [{nearest(words, one) for one in photo} for photo in photos]
    counts = [0] * len(words)
    for one in descriptors:
        counts[nearest(words, one)] += 1
    return [
        count / len(descriptors) * math.log(len(photos) / max(1, sum(k in held for held in lists)))
        for k, count in enumerate(counts)
    ]


def vlad(arrays, _photos, descriptors):
    words = arrays["words"].astype(float)
    parts = np.zeros_like(words)
    for one in descriptors:
        k = nearest(words.tolist(), one)
        parts[k] += one - words[k]
    return np.concatenate([part / (np.linalg.norm(part) or 1) for part in parts])


def fisher(arrays, _photos, descriptors):
    words, variances, weights = arrays["words"], arrays["variances"], arrays["weights"]
    rows = [arrays["axes"] @ (one - arrays["centre"]) for one in descriptors.astype(float)]
    by_mean, by_variance = np.zeros_like(words), np.zeros_like(words)
    for x in rows:
        chances = [
            weight
            * math.prod(
                math.exp(-((a - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v)
                for a, m, v in zip(x, mean, variance, strict=True)
            )
            for weight, mean, variance in zip(weights, words, variances, strict=True)
        ]
        for k, chance in enumerate(chances):
            share = chance / sum(chances)
            apart = (x - words[k]) / np.sqrt(variances[k])
            by_mean[k] += share * apart / (len(rows) * math.sqrt(weights[k]))
            by_variance[k] += share * (apart**2 - 1) / (len(rows) * math.sqrt(2 * weights[k]))
    vector = np.concatenate([by_mean.ravel(), by_variance.ravel()])
    return np.sign(vector) * np.sqrt(np.abs(vector))


SLOW = {"bovw": bovw, "vlad": vlad, "fisher": fisher}


def test_every_kind_has_a_slow_definition():
    assert SLOW.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_is_that_of_the_paper(kind):
    photos = photos_of()
    made = Aggregation.fit(kind, photos, num_words=4)
    for descriptors in photos[:5]:
        slow = np.array(SLOW[kind](made.fitted, photos, descriptors), float)
        found = made.vector(descriptors)
        assert found.dtype == np.float32 and found.shape == (made.feature_dim,)
        np.testing.assert_allclose(found, slow / np.linalg.norm(slow), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_fits_do_not_depend_on_threads_and_files_give_them_back(kind, tmp_path):
    photos = photos_of(num=60)
    first, second = (
        Aggregation.fit(kind, photos, num_words=4, num_threads=threads) for threads in (1, 2)
    )
    for name, array in first.fitted.items():
        np.testing.assert_array_equal(array, second.fitted[name])
    first.save(tmp_path / "codebook.npz")
    again = Aggregation.load(tmp_path / "codebook.npz")
    assert again.kind == kind
    np.testing.assert_array_equal(again.vector(photos[3]), first.vector(photos[3]))
    other = Aggregation.fit(kind, photos, num_words=4, seed=1)
    assert (other.vector(photos[3]) != first.vector(photos[3])).any()


def test_gaussians_are_found_where_they_are():
    rng = np.random.default_rng(0)
    centres = np.array([[-3.0, 0], [3, 1], [0, 4]])
    rows = centres[rng.integers(0, 3, 3000)] + rng.standard_normal((3000, 2)) * [0.5, 0.2]
    made = Aggregation.fit("fisher", [rows.astype(np.float32)], num_words=3)
    back = made.fitted["words"] @ made.fitted["axes"] + made.fitted["centre"]
    apart = np.linalg.norm(back[:, None] - centres, axis=2)
    assert (apart.min(axis=1) < 0.1).all() and sorted(apart.argmin(axis=1)) == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_the_same_things_are_most_alike(kind):
    rng = np.random.default_rng(4)
    things = rng.standard_normal((6, 12, 16))
    photos = [
        (things[number % 6] + 0.2 * rng.standard_normal((12, 16))).astype(np.float32)
        for number in range(24)
    ]
    made = Aggregation.fit(kind, photos, num_words=24)
    vectors = np.stack([made.vector(one) for one in photos])
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)
    assert (likeness.argmax(axis=1) % 6 == np.arange(24) % 6).mean() > 0.9


def test_what_cannot_be_fitted_is_refused():
    photos = photos_of(num=2)
    number = sum(map(len, photos))
    with pytest.raises(UnknownNameError, match="bovw, fisher, vlad"):
        Aggregation.fit("magic", photos)
    with pytest.raises(ArgumentError, match=f"no more words .* {number} local features of 2"):
        Aggregation.fit("vlad", photos, num_words=number + 1)
    with pytest.raises(ArgumentError, match="4 words, 0 local features of 0 images"):
        Aggregation.fit("vlad", [np.empty((0, 6), np.float32)], num_words=4)
    with pytest.raises(ArgumentError, match="65536 numbers at most"):
        Aggregation.fit("vlad", [np.zeros((70, 1000), np.float32)], num_words=66)
    with pytest.raises(ArgumentError, match="num_words is an integer, 1 or more"):
        Aggregation.fit("vlad", photos, num_words=0)
    with pytest.raises(ShapeError, match="equally wide"):
        Aggregation.fit("vlad", [photos[0], photos[1][:, :3]], num_words=1)
    made = Aggregation.fit("vlad", photos, num_words=2)
    with pytest.raises(ShapeError, match="descriptors of 6 numbers"):
        made.vector(photos[0][:, :5])
    assert not made.vector(np.empty((0, 6), np.float32)).any()


def test_without_scikit_learn_the_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.mixture", None)
    with pytest.raises(HashnetError, match='pip install "scikit-learn"'):
        Aggregation.fit("fisher", photos_of(), num_words=2)


def test_a_damaged_codebook_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "codebook.npz"
    Aggregation.fit("fisher", photos_of(), num_words=4).save(path)
    content = path.read_bytes()
    for damage in (b"", content[:200], b"\x00" * 300):
        path.write_bytes(damage)
        with pytest.raises(StoreError, match="that hashnet aggregate wrote"):
            Aggregation.load(path)
    good = {"kind": np.array("vlad"), "words": np.ones((3, 4), np.float32)}
    for wrong in ({"words": np.ones(3)}, {"kind": np.array("magic")}, {"words": np.array("x")}):
        np.savez(path, **{**good, **wrong})
        with pytest.raises(StoreError, match="Fit it again"):
            Aggregation.load(path)
    np.savez(path, **good)
    monkeypatch.setattr(aggregation, "_MOST_BYTES", 40)
    with pytest.raises(StoreError, match="more than 40 bytes"):
        Aggregation.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("words.npy", b"no array")
    with pytest.raises(StoreError, match="Fit it again"):
        Aggregation.load(path)


# --- Through the product --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local_index(unsupervised_bundle, photos, tmp_path_factory):
    pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("aggregation")
    index = Index.create(folder / "index", unsupervised_bundle, local="sift")
    index.update([photos], label_from_folder=True)
    return index


@pytest.mark.fast("fisher")
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_vectors_finds_by_them(local_index, photos, tmp_path, run, kind):
    place, out = local_index.store.folder, tmp_path / "v.npy"
    status, told, err = run("aggregate", place, out, "--by", kind, "--words", "8")
    vectors = np.load(out)
    assert status in (0, 3) and f"wrote {len(vectors)} vectors" in told, err
    assert vectors.dtype == np.float16 and len(vectors) > 12
    assert run("index", tmp_path / "v.index", "--from-vectors", out)[0] == 0
    made = hashnet.open(tmp_path / "v.index")
    _, item = next(iter(made.items()))
    assert item.label is not None and item.path is not None
    book = tmp_path / "v.codebook.npz"
    asked = [str(item.path)]
    status, *_ = run(
        "aggregate", place, tmp_path / "q.npy", "--codebook", book, "--queries", *asked
    )
    assert status == 0
    [hit] = made.search(np.load(tmp_path / "q.npy")[0].astype(np.float32), k=1)
    assert hit.id == item.id and hit.distance < 0.05  # of float16, of float16
    # The codebook decides, and not what else is said.
    run("aggregate", place, tmp_path / "again.npy", "--codebook", book)
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), vectors)


def test_what_cannot_be_aggregated_leaves_nothing(local_index, photos, tmp_path, run):
    place = local_index.store.folder
    for arguments, said in (
        ([place, tmp_path / "v.txt"], "ends in .npy"),
        ([place, tmp_path / "v.npy", "--queries", photos], "queries without a codebook"),
        ([place, tmp_path / "v.npy", "--words", "100000000"], "no more words than"),
    ):
        status, _, err = run("aggregate", *arguments)
        assert status == 2 and said in err
    (tmp_path / "no.npz").write_bytes(b"none")
    status, _, err = run("aggregate", place, tmp_path / "v.npy", "--codebook", tmp_path / "no.npz")
    assert status == 1 and "that hashnet aggregate wrote" in err
    assert [path.name for path in tmp_path.iterdir()] == ["no.npz"]


def test_an_index_without_local_features_says_so(doctest_folder, tmp_path, run):
    status, _, err = run("aggregate", doctest_folder / "pets.index", tmp_path / "v.npy")
    assert status == 1 and "aggregated from the local features" in err and "--local sift" in err
    assert "Verification" not in err and not list(tmp_path.glob("v.*"))


@pytest.mark.thorough
def test_aggregated_features_are_compared(photos):
    pytest.importorskip("cv2")
    found = hashnet.compare(photos, features=["f7", "sift:vlad", "sift:fisher"], bits=[])
    assert [one.name for one in found.methods] == ["f7", "sift:vlad", "sift:fisher"]
    assert [one.bytes_per_image for one in found.methods] == [2560, 2 * 16 * 128, 4 * 16 * 64]
    assert all(one.encode_milliseconds > 0 for one in found.methods)
