"""Visual words and signatures of local features."""

import numpy as np
import pytest

from hashnet.errors import ArgumentError, ShapeError, StoreError
from hashnet.local import codebook as codebooks
from hashnet.local.codebook import Codebook, num_words_for, sample

DIM = 40


def unit(seed, count, dim=DIM):
    descriptors = np.random.default_rng(seed).normal(size=(count, dim))
    return (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def codebook():
    return Codebook.fit(unit(1, 9000))


def slow_signatures(codebook, descriptors, assignments):
    """{word: bits as text}, by the definition, among all words."""
    sums = {}
    for descriptor in descriptors.astype(np.float64):
        apart = np.linalg.norm(codebook._words - descriptor, axis=1)
        for word in np.argsort(apart)[:assignments].tolist():
            sums[word] = sums.get(word, 0) + descriptor - codebook._words[word]
    return {word: [bool(one > 0) for one in sums[word] @ codebook._directions] for word in sums}


@pytest.mark.parametrize("assignments", [1, 3])
def test_signatures_are_the_signs_of_summed_differences(codebook, assignments, monkeypatch):
    monkeypatch.setattr(codebooks, "PROBES", len(codebook._cells))  # all words are looked at
    descriptors = unit(2, 300)
    words, signatures = codebook.signatures(descriptors, assignments=assignments)
    expected = slow_signatures(codebook, descriptors, assignments)
    assert words.tolist() == sorted(expected)
    bits = (signatures[:, None] >> np.arange(codebook.num_bits, dtype=np.uint32)) & 1
    assert bits.astype(bool).tolist() == [expected[word] for word in words.tolist()]


def test_words_of_the_nearest_cells_are_mostly_the_nearest_words(codebook, monkeypatch):
    descriptors = unit(2, 300)
    found = codebook._nearest_words(descriptors, 1)[:, 0]
    monkeypatch.setattr(codebooks, "PROBES", len(codebook._cells))
    assert (found == codebook._nearest_words(descriptors, 1)[:, 0]).mean() > 0.6


def test_no_answer_depends_on_the_number_of_threads(codebook, monkeypatch):
    monkeypatch.setattr(codebooks, "LEAST_CELLS", 1)
    again = Codebook.fit(unit(1, 9000), num_threads=2)
    assert again.to_bytes() == codebook.to_bytes()
    one, two = (codebook.signatures(unit(3, 900), assignments=3, num_threads=n) for n in (1, 3))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_another_seed_gives_other_words():
    assert Codebook.fit(unit(1, 3000), seed=1).to_bytes() != Codebook.fit(unit(1, 3000)).to_bytes()


def test_a_codebook_is_read_as_it_was_written(codebook):
    again = Codebook.from_bytes(codebook.to_bytes())
    assert (again.num_words, again.descriptor_dim, again.num_bits) == (512, DIM, 32)
    for one, other in zip(
        codebook.signatures(unit(4, 200)), again.signatures(unit(4, 200)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype == np.uint32


def test_damaged_bytes_are_refused(codebook):
    content = codebook.to_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    for damaged in (b"", content[:10], content[:-1], content + b"0", flipped, b"X" + content[1:]):
        with pytest.raises(StoreError, match="to_bytes"):
            Codebook.from_bytes(damaged)
    with pytest.raises(StoreError, match="newer"):
        Codebook.from_bytes(content[:4] + b"\x09\x00" + content[6:])


def test_sizes_that_a_header_claims_are_not_trusted(codebook):
    content = bytearray(codebook.to_bytes())
    content[16:20] = b"\xff\xff\xff\xff"
    with pytest.raises(StoreError, match="to_bytes"):
        Codebook.from_bytes(bytes(content))


def test_few_and_odd_descriptors_make_a_codebook_too():
    one = Codebook.fit(np.ones((1, 3), np.float16))
    assert one.num_words == 1
    assert one.signatures(np.ones((2, 3), np.float32), assignments=5)[0].tolist() == [0]
    same = Codebook.fit(np.ones((700, 3), np.float32))
    assert len(same.signatures(np.ones((5, 3), np.float32))[0]) == 1
    with pytest.raises(ArgumentError, match="fitted"):
        Codebook.fit(np.full((5, 3), np.nan, np.float32))


def test_descriptors_of_another_kind_are_refused(codebook):
    for wrong in (np.zeros((3, 5), np.float32), np.zeros((3, DIM)), np.zeros(DIM, np.float32)):
        with pytest.raises(ShapeError, match="Descriptors"):
            codebook.signatures(wrong)
    with pytest.raises(ArgumentError, match="assignments"):
        codebook.signatures(unit(1, 3), assignments=0)


def test_an_image_without_features_has_no_words(codebook):
    for none in (unit(1, 0), np.full((2, DIM), np.inf, np.float16)):
        words, signatures = codebook.signatures(none)
        assert words.dtype == signatures.dtype == np.uint32
        assert words.shape == signatures.shape == (0,)


def test_an_index_outgrows_its_codebook(codebook):
    assert num_words_for(9000) == codebook.num_words == 512
    assert not codebook.is_outgrown(9000 * 4)
    assert codebook.is_outgrown(9000 * 8)


def test_images_are_drawn_up_to_so_many_descriptors():
    counts = np.random.default_rng(0).integers(0, 1000, 5000)
    rows = sample(counts, 100_000, seed=3)
    assert 95_000 < counts[rows].sum() <= 100_000
    assert (np.diff(rows) > 0).all() and (counts[rows] > 0).all()
    assert not np.array_equal(rows, sample(counts, 100_000, seed=4))
    assert sample(counts, 10**9).tolist() == np.flatnonzero(counts).tolist()
