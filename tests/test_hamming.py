"""Coarse search beside its slow definition: unpack the bits, compare, count, sort."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashnet.errors import ArgumentError, ShapeError, UnknownNameError
from hashnet.retrieval.search.coarse import distinct, hamming, mih, plain, scan
from hashnet.retrieval.search.coarse.hamming import CodeIndex

BIT_LENGTHS = (1, 7, 8, 9, 12, 48, 63, 64, 65, 128, 256, 1000, 1024)
METHODS = ("auto", "scan", "distinct", "mih")


def random_codes(rng, num_rows, num_bits):
    """Codes full of ties: few centres, some of them with a few bits flipped."""
    bits = rng.integers(0, 2, (20, num_bits), dtype=np.uint8)[rng.integers(0, 20, num_rows)]
    bits ^= (rng.random((num_rows, num_bits)) < rng.choice([0, 0.02, 0.3], (num_rows, 1))).astype(
        np.uint8
    )
    return np.packbits(bits, axis=1)


def slow_bits_apart(codes, query):
    return (np.unpackbits(codes, axis=1) != np.unpackbits(query)).sum(axis=1)


def slow_within(codes, query, threshold, mask):
    bits_apart = slow_bits_apart(codes, query)
    rows = np.flatnonzero((bits_apart < threshold) & mask)
    return list(zip(rows.tolist(), bits_apart[rows].tolist(), strict=True))


def slow_nearest(codes, query, k, mask):
    rows = np.flatnonzero(mask)
    bits_apart = slow_bits_apart(codes, query)[rows]
    return sorted(zip(bits_apart.tolist(), rows.tolist(), strict=True))[:k]


def pairs(rows, bits):
    assert rows.dtype == np.int64 and bits.dtype == np.int32
    return list(zip(rows.tolist(), bits.tolist(), strict=True))


@pytest.fixture(params=["auto in numpy", "auto", "scan", "distinct", "mih"])
def method(request, monkeypatch):
    """Every way to search, and on as many threads as are asked for, however small the index."""
    monkeypatch.setattr(scan, "LEAST_WORDS_A_THREAD", 1)
    monkeypatch.setattr(plain, "BLOCK_WORDS", 200)
    monkeypatch.setattr(mih, "QUERIES_A_THREAD", 1)
    request.getfixturevalue("plain" if request.param.endswith("numpy") else "kernels")
    return request.param.split()[0]


@pytest.mark.fast(
    "auto in numpy-12",
    "auto-65",
    "auto-256",
    "auto-1000",
    "scan-1",
    "scan-128",
    "distinct-64",
    "distinct-9",
    "mih-48",
    "mih-63",
)
@pytest.mark.parametrize("num_bits", BIT_LENGTHS)
def test_every_search_equals_its_definition(method, num_bits):
    rng = np.random.default_rng(num_bits)
    codes = random_codes(rng, 400, num_bits)
    live = rng.random(400) < 0.9
    masks = {
        "all": None,
        "half": rng.random(400) < 0.5,
        "few": rng.random(400) < 0.02,
        "none": np.zeros(400, bool),
    }
    index = CodeIndex(codes, live=live, method=method)
    for query in (codes[3], rng.integers(0, 256, codes.shape[1], dtype=np.uint8)):
        for allowed in masks.values():
            mask = live if allowed is None else live & allowed
            for threshold in {0, 1, 2, 6, num_bits // 3, num_bits, num_bits + 9, 10**6}:
                expected = slow_within(codes, query, threshold, mask)
                assert pairs(*index.within(query, threshold, allowed=allowed)) == expected
                rows, bits, used = index.pool(query, threshold=threshold, allowed=allowed)
                assert pairs(rows, bits) == expected and used == threshold
            for k in (1, 10, 200, 9999):
                found = pairs(*index.nearest(query, k, allowed=allowed))
                nearest = slow_nearest(codes, query, k, mask)
                assert [(apart, row) for row, apart in found] == nearest
                rows, bits, used = index.pool(query, at_least=k, allowed=allowed)
                assert used == (nearest[-1][0] + 1 if nearest else 0)
                assert pairs(rows, bits) == slow_within(codes, query, used, mask)
            counts = np.zeros(8 * codes.shape[1] + 1, int)
            for apart in slow_bits_apart(codes, query)[mask]:
                counts[apart] += 1
            assert index.histogram(query, allowed=allowed).tolist() == counts.tolist()


@pytest.mark.fast("auto in numpy-128", "auto-64", "scan-12", "distinct-64", "mih-128", "auto-1000")
@pytest.mark.parametrize("num_bits", [12, 64, 128, 1000])
def test_a_batch_and_any_number_of_threads_give_the_answers_of_one(method, num_bits, monkeypatch):
    monkeypatch.setattr(plain, "BLOCK_WORDS", 800 * -(-num_bits // 64))  # Four blocks.
    rng = np.random.default_rng(num_bits)
    codes = random_codes(rng, 2500, num_bits)
    live, allowed = rng.random(2500) < 0.8, rng.random(2500) < 0.7
    queries = codes[rng.integers(0, 2500, 70)]
    one = CodeIndex(codes, live=live, method="scan")
    for num_threads in (1, 2, 5):
        index = CodeIndex(codes, live=live, num_threads=num_threads, method=method)
        for mask in (None, allowed):
            batch = index.within_batch(queries, 4, allowed=mask)
            rows, bits = index.nearest_batch(queries, 37, allowed=mask)
            assert len(batch) == len(rows) == len(bits) == 70
            for number, query in enumerate(queries):
                assert pairs(*batch[number]) == pairs(*one.within(query, 4, allowed=mask))
                expected = pairs(*one.nearest(query, 37, allowed=mask))
                assert pairs(rows[number], bits[number]) == expected
                if number % 20 == 0:
                    assert pairs(*index.within(query, 4, allowed=mask)) == pairs(*batch[number])
                    assert pairs(*index.nearest(query, 37, allowed=mask)) == expected
                    pool = index.pool(query, at_least=99, allowed=mask)
                    slow = one.pool(query, at_least=99, allowed=mask)
                    assert pairs(*pool[:2]) == pairs(*slow[:2]) and pool[2] == slow[2]
                    counts = index.histogram(query, allowed=mask)
                    assert (counts == one.histogram(query, allowed=mask)).all()


# Rows of a sample that search looks at first: strips of 64 that lie evenly, 39 of 40,000 rows.
SAMPLED = (np.arange(39) * 40_000 // 39)[:, None] + np.arange(64)


@pytest.mark.fast("mixed-256", "sampled rows near-64", "sampled rows far-320", "sorted-128")
@pytest.mark.parametrize("num_bits", [64, 128, 192, 256, 320])
@pytest.mark.parametrize("order", ["mixed", "sampled rows near", "sampled rows far", "sorted"])
def test_a_search_that_begins_with_a_sample_equals_its_definition(num_bits, order, kernels):
    rng = np.random.default_rng(num_bits)
    codes = random_codes(rng, 40_000, num_bits)
    query = codes[7].copy()
    if order == "sorted":
        codes = codes[np.argsort(slow_bits_apart(codes, query), kind="stable")]
    elif order != "mixed":
        codes[SAMPLED.ravel()] = query if order.endswith("near") else ~query
    live, allowed = rng.random(40_000) < 0.9, rng.random(40_000) < 0.3
    everything = np.ones(40_000, bool)
    for mask, index in (
        (everything, CodeIndex(codes, method="scan")),
        (live & allowed, CodeIndex(codes, live=live, method="scan")),
    ):
        passing = None if mask is everything else allowed
        for k in (1, 90, 2_000, 4_000, 39_990):
            found = pairs(*index.nearest(query, k, allowed=passing))
            nearest = slow_nearest(codes, query, k, mask)
            assert [(apart, row) for row, apart in found] == nearest
            rows, bits, used = index.pool(query, at_least=k, allowed=passing)
            assert used == nearest[-1][0] + 1
            assert pairs(rows, bits) == slow_within(codes, query, used, mask)
        rows, bits = index.nearest_batch(np.array([query, codes[0], ~query]), 50, allowed=passing)
        for number, one in enumerate((query, codes[0], ~query)):
            expected = [(row, apart) for apart, row in slow_nearest(codes, one, 50, mask)]
            assert pairs(rows[number], bits[number]) == expected


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_all_ways_agree_on_any_codes(data):
    num_bytes = data.draw(st.sampled_from([1, 3, 8, 11]))
    few = data.draw(st.lists(st.binary(min_size=num_bytes, max_size=num_bytes), min_size=1))
    picks = data.draw(st.lists(st.integers(0, len(few) - 1), max_size=80))
    codes = np.array([list(few[pick]) for pick in picks], np.uint8).reshape(-1, num_bytes)
    query = np.array(list(data.draw(st.sampled_from(few))), np.uint8)
    query[0] ^= data.draw(st.integers(0, 255))
    live = np.array(data.draw(st.lists(st.booleans(), min_size=len(picks), max_size=len(picks))))
    live = live.astype(bool)
    threshold, k = data.draw(st.integers(0, 8 * num_bytes + 2)), data.draw(st.integers(1, 90))
    for method in METHODS:
        index = CodeIndex(codes, live=live, method=method)
        assert pairs(*index.within(query, threshold)) == slow_within(codes, query, threshold, live)
        found = pairs(*index.nearest(query, k))
        assert [(apart, row) for row, apart in found] == slow_nearest(codes, query, k, live)


@pytest.mark.fast("1", "4", "9", "13")
@pytest.mark.parametrize("threshold", range(1, 14))
def test_tables_of_substrings_miss_nothing_at_any_small_threshold(threshold, kernels):
    rng = np.random.default_rng(threshold)
    codes = rng.integers(0, 256, (20_000, 8), dtype=np.uint8)
    bits = np.unpackbits(codes[:100], axis=1)
    for row in range(100):
        flipped = rng.choice(64, row % 14, replace=False)
        bits[row, flipped] ^= 1
    queries = np.packbits(bits, axis=1)
    tables = CodeIndex(codes, method="mih").within_batch(queries, threshold)
    for query, (rows, apart) in zip(queries, tables, strict=True):
        assert pairs(rows, apart) == slow_within(codes, query, threshold, np.ones(20_000, bool))


def test_tables_with_crowded_buckets_leave_the_query_to_the_scan(kernels):
    codes = np.zeros((3000, 8), np.uint8)
    codes[:10, 0] = np.arange(10)
    index = CodeIndex(codes, method="mih")
    for rows, _ in index.within_batch(np.zeros((3, 8), np.uint8), 1):
        assert rows.tolist() == [0, *range(10, 3000)]


def test_a_memory_map_is_searched_where_it_lies(tmp_path, method):
    codes = random_codes(np.random.default_rng(0), 900, 64)
    codes.tofile(tmp_path / "codes")
    mapped = np.memmap(tmp_path / "codes", np.uint8, "r").reshape(900, 8)
    assert np.shares_memory(scan.read_only(mapped), CodeIndex(mapped)._scan.words)
    expected = pairs(*CodeIndex(codes).within(codes[0], 5))
    assert pairs(*CodeIndex(mapped, method=method).within(codes[0], 5)) == expected
    unaligned = np.memmap(tmp_path / "codes", np.uint8, "r", offset=3)[:-5].reshape(-1, 8)
    index = CodeIndex(unaligned, method=method)
    assert pairs(*index.nearest(unaligned[5], 1)) == [(5, 0)]


def test_an_empty_index_gives_empty_answers(method):
    index = CodeIndex(np.empty((0, 6), np.uint8), method=method)
    query = np.zeros(6, np.uint8)
    assert pairs(*index.within(query, 5)) == pairs(*index.nearest(query, 3)) == []
    assert [len(part) for part in index.nearest_batch(query[None], 3)] == [1, 1]
    rows, bits, threshold = index.pool(query, at_least=5)
    assert pairs(rows, bits) == [] and threshold == 0
    assert index.histogram(query).sum() == 0


def test_a_batch_of_no_queries_gives_no_answers(method):
    index = CodeIndex(np.zeros((5, 6), np.uint8), method=method)
    none = np.empty((0, 6), np.uint8)
    assert index.within_batch(none, 3) == []
    assert index.nearest_batch(none, 3)[0].shape == (0, 3)


@pytest.mark.parametrize("threshold", [-1, 1.5, 2.0, float("nan"), "3", None, True])
def test_a_threshold_that_is_no_whole_number_is_refused(threshold):
    index, query = CodeIndex(np.zeros((5, 6), np.uint8)), np.zeros(6, np.uint8)
    for search in (index.within, index.within_batch):
        argument = query if search == index.within else query[None]
        with pytest.raises(ArgumentError, match="threshold is an integer, 0 or more"):
            search(argument, threshold)
    with pytest.raises(ArgumentError):
        index.pool(query, threshold=threshold)


@pytest.mark.parametrize("k", [0, -3, 1.5, None, False])
def test_a_k_below_one_is_refused(k):
    index, query = CodeIndex(np.zeros((5, 6), np.uint8)), np.zeros(6, np.uint8)
    with pytest.raises(ArgumentError, match="k is an integer, 1 or more"):
        index.nearest(query, k)
    with pytest.raises(ArgumentError):
        index.pool(query, at_least=k)


def test_a_pool_needs_a_threshold_or_a_size_and_not_both():
    index, query = CodeIndex(np.zeros((5, 6), np.uint8)), np.zeros(6, np.uint8)
    for arguments in ({}, {"threshold": 3, "at_least": 3}):
        with pytest.raises(ArgumentError, match="exactly one"):
            index.pool(query, **arguments)


@pytest.mark.parametrize(
    "query", [np.zeros(5, np.uint8), np.zeros(6, np.int8), np.zeros((1, 6), np.uint8), b"123456"]
)
def test_a_query_unlike_the_codes_is_refused_naming_both(query):
    index = CodeIndex(np.zeros((5, 6), np.uint8))
    with pytest.raises(ShapeError, match=r"\(6,\).*Received: ") as error:
        index.within(query, 3)
    if isinstance(query, np.ndarray):
        assert f"{query.dtype} array of shape {query.shape}" in str(error.value)
    else:
        assert "bytes b'123456'" in str(error.value)
    with pytest.raises(ShapeError):
        index.within_batch(query, 3) if np.ndim(query) != 2 else index.nearest(query, 3)


def test_codes_and_masks_of_a_wrong_shape_are_refused():
    for codes in (np.zeros(5, np.uint8), np.zeros((5, 6)), np.zeros((5, 129), np.uint8), [[1]]):
        with pytest.raises(ShapeError, match="Codes are a uint8 array"):
            CodeIndex(codes)
    with pytest.raises(ShapeError, match=r"live is a bool array of shape \(5,\)"):
        CodeIndex(np.zeros((5, 6), np.uint8), live=np.ones(4, bool))
    index = CodeIndex(np.zeros((5, 6), np.uint8))
    with pytest.raises(ShapeError, match="allowed"):
        index.within(np.zeros(6, np.uint8), 3, allowed=np.ones(5, int))
    with pytest.raises(UnknownNameError, match="auto"):
        CodeIndex(np.zeros((5, 6), np.uint8), method="fast")
    with pytest.raises(ArgumentError, match="num_threads"):
        CodeIndex(np.zeros((5, 6), np.uint8), num_threads=0)


def test_codes_that_repeat_are_grouped_after_some_searches(monkeypatch, kernels):
    monkeypatch.setattr("hashnet.retrieval.search.coarse.hamming.LEAST_WORDS_TO_GROUP", 1)
    monkeypatch.setattr("hashnet.retrieval.search.coarse.hamming.SEARCHES_BEFORE_GROUPING", 3)
    rng = np.random.default_rng(1)
    repeating = rng.integers(0, 4, (900, 1), np.uint8)
    others = rng.integers(0, 256, (900, 8), np.uint8)
    for codes, grouped in ((repeating, True), (others, False)):
        index = CodeIndex(codes)
        answers = [pairs(*index.within(codes[0], 2)) for _ in range(6)]
        assert (index._groups is not None) == grouped
        assert answers == [answers[0]] * 6


def test_tables_are_built_after_some_searches_at_thresholds_where_they_win(monkeypatch, kernels):
    monkeypatch.setattr("hashnet.retrieval.search.coarse.hamming.SEARCHES_BEFORE_TABLES", 3)
    codes = np.random.default_rng(1).integers(0, 256, (200_000, 8), dtype=np.uint8)
    index = CodeIndex(codes)
    wide = [pairs(*index.within(codes[0], 30)) for _ in range(4)]
    assert index._tables is None and wide == [wide[0]] * 4
    answers = [pairs(*index.within(codes[0], 3)) for _ in range(6)]
    assert index._tables is not None
    assert answers == [answers[0]] * 6 and answers[0][0] == (0, 0)


def test_prepare_does_at_once_what_many_searches_would(monkeypatch, kernels):
    monkeypatch.setattr(mih, "CALL_COST", 0)
    monkeypatch.setattr(mih, "PROBE_COST", 0)
    rng = np.random.default_rng(3)
    few = rng.integers(0, 256, (10, 6), dtype=np.uint8)[rng.integers(0, 10, 200)]
    many = rng.integers(0, 256, (5000, 6), dtype=np.uint8)
    for codes, threshold, grouped, tabulated in (
        (few, 2, True, False),
        (many, 2, False, True),
        (many, 0, False, False),  # finds nothing, so nothing can win
        (many, None, False, False),
    ):
        index = CodeIndex(codes)
        index.prepare(threshold)
        assert (index._groups is not None, index._tables is not None) == (grouped, tabulated)
        expected = slow_within(codes, codes[0], 2, np.ones(len(codes), bool))
        assert pairs(*index.within(codes[0], 2)) == expected
    assert CodeIndex(many, method="distinct")._groups is not None  # asked for, whatever it gains
    scanning = CodeIndex(few, method="scan")
    scanning.prepare(2)
    assert scanning._groups is None and scanning._tables is None
    with pytest.raises(ArgumentError, match="threshold=-1"):
        CodeIndex(many).prepare(-1)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("method", METHODS)
def test_without_numba_the_scan_answers_whatever_the_method(monkeypatch, method):
    monkeypatch.setattr(hamming, "LEAST_WORDS_TO_GROUP", 1)
    monkeypatch.setattr(hamming, "SEARCHES_BEFORE_GROUPING", 2)
    monkeypatch.setattr(mih, "CALL_COST", 0)
    monkeypatch.setattr(mih, "PROBE_COST", 0)
    codes = np.repeat(random_codes(np.random.default_rng(1), 100, 16), 9, axis=0)
    index, everything = CodeIndex(codes, method=method), np.ones(900, bool)
    index.prepare(2)
    for query in codes[:40:9]:
        assert pairs(*index.within(query, 2)) == slow_within(codes, query, 2, everything)
        found = pairs(*index.nearest(query, 30))
        assert [(apart, row) for row, apart in found] == slow_nearest(codes, query, 30, everything)
    assert index._groups is None and index._tables is None


def test_the_examples_of_the_kernels_hold(run_examples, kernels):
    assert run_examples("hashnet.retrieval.search.kernels") == 0


def test_substrings_cover_every_bit_once():
    for num_bits in (8, 16, 48, 64, 128, 1000, 1024):
        for num_rows in (1, 1000, 10**6, 10**8):
            widths = mih.substring_widths(num_rows, num_bits)
            assert sum(widths) == num_bits and 1 <= min(widths) <= max(widths) <= 24
            assert max(widths) - min(widths) <= 1


def test_groups_hold_each_live_row_once(kernels):
    rng = np.random.default_rng(3)
    words = rng.integers(0, 5, (4000, 2)).astype(np.uint64) << np.uint64(50)
    live = rng.random(4000) < 0.5
    groups = distinct.grouped(kernels, words, live, 1)
    assert sorted(groups._rows) == np.flatnonzero(live).tolist()
    assert len(groups._scan.words) == len(np.unique(words[live], axis=0))
    assert distinct.grouped(kernels, words, live, 1, least_repeats=2000) is None


def test_one_index_is_searched_from_many_threads_at_once(monkeypatch):
    monkeypatch.setattr(scan, "LEAST_WORDS_A_THREAD", 1)
    monkeypatch.setattr("hashnet.retrieval.search.coarse.hamming.LEAST_WORDS_TO_GROUP", 1)
    codes = random_codes(np.random.default_rng(2), 4000, 24)
    index, scanning = CodeIndex(codes, num_threads=2), CodeIndex(codes, method="scan")
    expected = [pairs(*scanning.within(codes[row], 4)) for row in range(40)]
    found = [[] for _ in range(6)]

    def search(answers):
        answers.extend(pairs(*index.within(codes[row], 4)) for row in range(40))

    threads = [threading.Thread(target=search, args=(answers,)) for answers in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


def run_python(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(p for p in sys.path if p)}
        | environment,
    ).stdout


def test_a_first_small_search_does_not_wait_for_numba():
    loaded = run_python(
        "import sys, numpy as np\n"
        "from hashnet.retrieval.search.coarse.hamming import CodeIndex\n"
        "codes = np.zeros((100_000, 8), np.uint8)\n"
        "assert len(CodeIndex(codes).within(codes[0], 1)[0]) == 100_000\n"
        "print('numba' in sys.modules)"
    )
    assert loaded.strip() == "False"


@pytest.mark.slow
def test_kernels_work_where_compiled_code_cannot_be_kept():
    found = run_python(
        "import numpy as np\n"
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from hashnet.retrieval.search import compiled\n"
        "kept = type(compiled.load().within._cache).__name__\n"
        "from hashnet.retrieval.search.coarse.hamming import CodeIndex\n"
        "codes = np.arange(40, dtype=np.uint8).reshape(5, 8)\n"
        "print(kept, CodeIndex(codes).within(codes[2], 1)[0].tolist())"
    )
    assert found.strip() == "NullCache [2]"


def test_a_forked_child_can_search_on_threads():
    found = run_python(
        "import os, numpy as np\n"
        "from hashnet.retrieval.search import compiled\n"
        "from hashnet.retrieval.search.coarse import scan\n"
        "from hashnet.retrieval.search.coarse.hamming import CodeIndex\n"
        "compiled.load()\n"
        "scan.LEAST_WORDS_A_THREAD = 1\n"
        "index = CodeIndex(np.arange(80, dtype=np.uint8).reshape(10, 8), num_threads=2)\n"
        "query = np.zeros(8, np.uint8)\n"
        "parent = index.nearest(query, 10)[0].tolist()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if index.nearest(query, 10)[0].tolist() == parent else 1)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    assert found.strip() == "0"


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("words_in_cache", [0, distinct.MOST_WORDS_IN_CACHE])
def test_long_lists_of_rows_of_distinct_codes_are_merged_in_order(
    num_threads, words_in_cache, monkeypatch, kernels
):
    """Enough rows to sort them by more than one digit, and ties in more codes than are kept."""
    monkeypatch.setattr(distinct, "MOST_WORDS_IN_CACHE", words_in_cache)
    rng = np.random.default_rng(0)
    codes = (1 << rng.integers(0, 8, (9000, 1))).astype(np.uint8)
    index = CodeIndex(codes, num_threads=num_threads, method="distinct")
    slow = CodeIndex(codes, method="scan")
    queries = np.array([[0], [1], [3], [255]] * 10, np.uint8)
    for k in (1, 300, 1200, 8999, 9000):
        for found, expected in zip(
            index.nearest_batch(queries, k), slow.nearest_batch(queries, k), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        for query in queries[:4]:
            assert pairs(*index.pool(query, at_least=k)[:2]) == slow_within(
                codes, query, int(slow.nearest(query, k)[1].max()) + 1, np.ones(9000, bool)
            )
    for threshold in (2, 3, 9):
        for found, query in zip(index.within_batch(queries[:4], threshold), queries, strict=False):
            assert pairs(*found) == slow_within(codes, query, threshold, np.ones(9000, bool))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_bits=st.sampled_from((8, 12, 48, 64, 128)),
    method=st.sampled_from(METHODS),
    num_rows=st.integers(30, 300),
    steps=st.integers(1, 4),
)
def test_an_index_that_comes_after_another_answers_as_a_new_one(
    seed, num_bits, method, num_rows, steps
):
    rng = np.random.default_rng(seed)
    codes, live = random_codes(rng, num_rows, num_bits), rng.random(num_rows) < 0.9
    index = CodeIndex(codes, live=live, method=method)
    index._searches["distinct"] = hamming.SEARCHES_BEFORE_GROUPING - 1
    index._count_searches("distinct", 1)
    for _ in range(steps):
        more = int(rng.integers(0, 6))
        codes = np.concatenate([codes, random_codes(rng, more, num_bits)])
        live = np.concatenate([live, np.ones(more, bool)]) & (rng.random(len(codes)) > 0.01)
        index = CodeIndex(codes, live=live, method=method, after=index)
    queries = np.concatenate([codes[:2], random_codes(rng, 2, num_bits)])
    allowed = rng.random(len(codes)) < 0.5
    for mask in (None, allowed):
        passing = live if mask is None else live & mask
        threshold, k = int(rng.integers(0, num_bits)), int(rng.integers(1, 40))
        batch = index.within_batch(queries, threshold, allowed=mask)
        best = index.nearest_batch(queries, k, allowed=mask)
        for query, found, rows, bits in zip(queries, batch, *best, strict=True):
            assert pairs(*found) == slow_within(codes, query, threshold, passing)
            assert pairs(*index.within(query, threshold, allowed=mask)) == pairs(*found)
            nearest = slow_nearest(codes, query, k, passing)
            assert [pair[::-1] for pair in pairs(rows, bits)] == nearest
            apart = slow_bits_apart(codes, query)[passing]
            counts = index.histogram(query, allowed=mask)
            assert counts.tolist() == np.bincount(apart, minlength=len(counts)).tolist()
            rows, bits, threshold_found = index.pool(query, at_least=k, allowed=mask)
            last = np.sort(apart)[:k][-1] if len(apart) else -1
            assert threshold_found == last + 1
            assert pairs(rows, bits) == slow_within(codes, query, last + 1, passing)
