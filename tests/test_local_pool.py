"""The local pool: images found by signatures of local features."""

import types

import numpy as np
import pytest

from hashnet.errors import ShapeError
from hashnet.retrieval.search import compiled, local_pool
from hashnet.retrieval.search.local_pool import joined, similarities


def images_of(rng, num_rows, num_words, kind):
    """{word: signature} of each row, with many words and signatures alike; one row has none."""
    images = []
    for row in range(num_rows):
        words = rng.permutation(num_words)[: 0 if row == 2 else rng.integers(1, num_words // 2)]
        base = rng.integers(0, 2**31, 4)
        images.append({int(word): kind(rng.choice(base) << row % 3) for word in words})
    return images


def run_of(images, first_row, kind):
    """The inverted lists of some rows."""
    entries = sorted(
        (word, row, signature)
        for row, image in enumerate(images)
        for word, signature in image.items()
    )
    words, rows, signatures = zip(*entries, strict=True)
    found, counts = np.unique(words, return_counts=True)
    return types.SimpleNamespace(
        first_row=first_row,
        lengths=np.array([len(image) for image in images], np.uint16),
        words=found.astype(np.uint32),
        ends=np.cumsum(counts).astype(np.uint32),
        rows=np.array(rows, np.uint32),
        signatures=np.array(signatures, kind),
    )


def query_of(image, kind):
    words = sorted(image)
    return np.array(words, np.uint32), np.array([image[word] for word in words], kind)


def slow_similarity(query, image, bits):
    total = 0.0
    for word in query.keys() & image.keys():
        apart = (int(query[word]) ^ int(image[word])).bit_count()
        total += round(max(1 - 2 * apart / bits, 0) ** 1.5 * 4096) / 4096
    return total / len(image) ** 0.25 if image else 0.0


@pytest.mark.parametrize("with_numba", [True, False])
@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_similarities_are_as_defined(kind, with_numba, monkeypatch):
    kernels = compiled.load() if with_numba else None
    monkeypatch.setattr(local_pool.compiled, "kernels", lambda num_bytes: kernels)
    monkeypatch.setattr(local_pool, "LEAST_ROWS", 4)
    monkeypatch.setattr(local_pool, "ENTRIES_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    images = images_of(rng, 40, 60, kind)
    runs = [run_of(images[:25], 0, kind), run_of(images[25:37], 25, kind)]
    query = images_of(rng, 1, 60, kind)[0] | {word: images[4][word] for word in images[4]}
    expected = [slow_similarity(query, image, 8 * kind().itemsize) for image in images[:37]]
    found = similarities(runs, 40, *query_of(query, kind))
    assert found.dtype == np.float32 and found.argmax() == 4
    np.testing.assert_allclose(found, [*expected, 0, 0, 0], rtol=1e-5)
    two = similarities(runs, 40, *query_of(query, kind), num_threads=2)
    assert np.array_equal(found, two)
    monkeypatch.setattr(local_pool.compiled, "kernels", lambda num_bytes: None)
    assert np.array_equal(found, similarities(runs, 40, *query_of(query, kind)))


def test_a_query_without_words_is_like_nothing():
    run = run_of([{1: 5}, {2: 6}], 0, np.uint32)
    none = np.zeros(0, np.uint32)
    assert similarities([run], 2, none, none).tolist() == [0, 0]
    assert similarities([], 2, *query_of({1: 5}, np.uint32)).tolist() == [0, 0]


def test_signatures_of_other_sizes_are_refused():
    with pytest.raises(ShapeError, match="bits"):
        similarities([run_of([{1: 5}], 0, np.uint32)], 1, *query_of({1: 5}, np.uint64))


def test_candidates_come_from_both_pools_in_turn():
    by_hash, by_local = np.arange(6), np.array([9, 2, 0, 8])
    assert joined(by_hash, by_local, 6).tolist() == [0, 1, 9, 2, 3, 4]
    assert joined(by_hash, by_local, 9).tolist() == [0, 1, 9, 2, 3, 4, 5, 8]
    assert joined(by_hash, by_local[:0], 9).tolist() == list(range(6))
    assert joined(by_hash[:0], by_local, 3).tolist() == [9, 2, 0]
