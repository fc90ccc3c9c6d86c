"""Metrics against their definitions: loops over ranks, and every order of every tie."""

import itertools
import json
import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashnet import codes, metrics
from hashnet.errors import ArgumentError, HashnetError, ShapeError, UnknownNameError

CODES = np.zeros((3, 1), "uint8")
LABELS = np.array([1, 1, 2])


# --- The definitions, the slow way ---------------------------------------------------------------


def ap_slowly(relevant, at=None, num_relevant=None, denominator="relevant"):
    """Walk down the ranks, one by one, in exact fractions."""
    last_rank = len(relevant) if at is None else at
    total, hits = Fraction(0), 0
    for rank, is_relevant in enumerate(relevant, start=1):
        if rank <= last_rank and is_relevant:
            hits += 1
            total += Fraction(hits, rank)
    if num_relevant is None:
        num_relevant = sum(map(bool, relevant))
    if denominator == "found":
        divisor = hits
    else:
        divisor = num_relevant if at is None else min(at, num_relevant)
    return float(total / divisor) if divisor else 0.0


def all_orders(distances, relevant):
    """List the relevance of every order that sorts the distances."""
    orders = itertools.permutations(range(len(distances)))
    return [
        [relevant[row] for row in order]
        for order in orders
        if all(distances[a] <= distances[b] for a, b in itertools.pairwise(order))
    ]


def tie_aware_formula_slowly(items, relevant, at=None):
    """McSherry and Najork's double sum, term by term."""
    last_rank = sum(items) if at is None else at
    total, items_before, relevant_before = 0.0, 0, 0
    for n, r in zip(items, relevant, strict=True):
        for t in range(1, n + 1):
            if items_before + t <= last_rank:
                before = relevant_before + (t - 1) * (r - 1) / (n - 1 if n > 1 else 1) + 1
                total += r / n * before / (items_before + t)
        items_before, relevant_before = items_before + n, relevant_before + r
    divisor = min(last_rank, sum(relevant))
    return total / divisor if divisor else 0.0


def one_order_slowly(items, relevant, relevant_first, at=None):
    """Lay the items out with the relevant ones of every tie first, or last."""
    order = []
    for n, r in zip(items, relevant, strict=True):
        tie = [True] * r + [False] * (n - r)
        order += tie if relevant_first else tie[::-1]
    return ap_slowly(order, at)


def found_slowly(items, relevant, k):
    """Chance that one of the first k is relevant: choices without any, of all choices."""
    for n, r in zip(items, relevant, strict=True):
        listed = min(n, k)
        if r:
            return 1 - math.comb(n - r, listed) / math.comb(n, listed) if listed else 0.0
        k -= listed
    return 0.0


def r_precision_slowly(items, relevant):
    left = total = sum(relevant)
    found = 0.0
    for n, r in zip(items, relevant, strict=True):
        listed = min(n, left)
        found += listed * r / n if n else 0.0
        left -= listed
    return found / total if total else 0.0


def shares_a_label(a, b):
    if np.ndim(a):
        return any(x and y for x, y in zip(a, b, strict=True))
    return a == b


def bits_apart_slowly(a, b):
    return (int.from_bytes(bytes(a), "big") ^ int.from_bytes(bytes(b), "big")).bit_count()


def evaluate_slowly(apart, query_labels, database_labels, at, ks, radius, exclude_self=False):
    """Rank by (distance, row), query by query, and average in plain Python."""
    figures = []
    unanswerable, nothing_within = 0, 0
    for query, label in enumerate(query_labels):
        rows = [row for row in range(len(database_labels)) if not (exclude_self and row == query)]
        ranked = sorted(rows, key=lambda row, query=query: (apart[query][row], row))
        relevant = [shares_a_label(label, database_labels[row]) for row in ranked]
        if not any(relevant):
            unanswerable += 1
            continue
        distances = [apart[query][row] for row in ranked]
        levels = sorted(set(distances))
        items = [distances.count(level) for level in levels]
        hits = [
            sum(
                is_relevant
                for d, is_relevant in zip(distances, relevant, strict=True)
                if d == level
            )
            for level in levels
        ]
        inside = [
            is_relevant for d, is_relevant in zip(distances, relevant, strict=True) if d <= radius
        ]
        nothing_within += not inside
        figures.append(
            {
                "map_all": tie_aware_formula_slowly(items, hits),
                "map_all_best": one_order_slowly(items, hits, True),
                "map_all_worst": one_order_slowly(items, hits, False),
                "found": ap_slowly(relevant, at, denominator="found"),
                "of_relevant": ap_slowly(relevant, at),
                "tie_aware": tie_aware_formula_slowly(items, hits, at),
                "tie_aware_best": one_order_slowly(items, hits, True, at),
                "tie_aware_worst": one_order_slowly(items, hits, False, at),
                "precision_within": sum(inside) / len(inside) if inside else 0.0,
                "recall_within": sum(inside) / sum(relevant),
            }
            | {f"precision_{k}": sum(relevant[:k]) / k for k in ks}
            | {f"recall_{k}": sum(relevant[:k]) / sum(relevant) for k in ks}
            | {f"found_{k}": found_slowly(items, hits, k) for k in metrics.FOUND_KS}
            | {
                "r_precision": r_precision_slowly(items, hits),
                "map_at_r": tie_aware_formula_slowly(items, hits, sum(relevant)),
            }
        )
    means = {name: math.fsum(f[name] for f in figures) / len(figures) for name in figures[0]}
    return means, unanswerable, nothing_within


def assert_agrees(result, means, at, ks):
    got = {
        "map_all": result.map_all.expected,
        "map_all_best": result.map_all.best,
        "map_all_worst": result.map_all.worst,
        "found": result.map_at,
        "of_relevant": result.map_at_of_relevant,
        "tie_aware": result.map_at_tie_aware.expected,
        "tie_aware_best": result.map_at_tie_aware.best,
        "tie_aware_worst": result.map_at_tie_aware.worst,
    }
    got |= {f"precision_{k}": result.precision_at[k] for k in ks}
    got |= {f"recall_{k}": result.recall_at[k] for k in ks}
    got |= {f"found_{k}": result.found_at[k] for k in metrics.FOUND_KS}
    got |= {"r_precision": result.r_precision, "map_at_r": result.map_at_r}
    assert got == pytest.approx({name: means[name] for name in got}, abs=1e-9)
    assert result.at == at


# --- One ranking ---------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 40) | st.none(), st.integers(0, 9))
def test_average_precision_is_what_the_definition_says(relevant, at, missing):
    ranking = np.array(relevant, bool)
    assert metrics.average_precision(ranking, at=at) == pytest.approx(ap_slowly(relevant, at))
    found = metrics.average_precision(ranking, at=at, denominator="found")
    assert found == pytest.approx(ap_slowly(relevant, at, denominator="found"))
    total = sum(relevant) + missing
    got = metrics.average_precision(ranking, at=at, num_relevant=total)
    assert got == pytest.approx(ap_slowly(relevant, at, total))


def test_many_rankings_score_as_one_by_one():
    relevant = np.random.default_rng(0).random((20, 15)) < 0.3
    relevant[3] = False
    total = relevant.sum(axis=1) + 2
    for at in (1, 7, 15, 99, None):
        together = metrics.average_precision(relevant, at=at, num_relevant=total)
        alone = [
            metrics.average_precision(row, at=at, num_relevant=int(n))
            for row, n in zip(relevant, total, strict=True)
        ]
        assert together.tolist() == alone
    assert metrics.precision_at(relevant, 4).tolist() == [sum(row[:4]) / 4 for row in relevant]
    got = metrics.recall_at(relevant, 4, num_relevant=total)
    assert got.tolist() == [sum(row[:4]) / n for row, n in zip(relevant, total, strict=True)]


@pytest.mark.parametrize("at", [None, 4, 5])
def test_the_last_item_is_not_dropped(at):
    last = np.array([False, False, False, True])
    assert metrics.average_precision(last, at=at) == 0.25
    assert metrics.average_precision(last, at=at, denominator="found") == 0.25
    ap = metrics.tie_aware_average_precision(np.arange(4), last, at=at)
    assert ap == pytest.approx((0.25, 0.25, 0.25))
    assert metrics.recall_at(last, 4) == 1.0


def test_one_early_hit_scores_one_only_if_divided_by_what_was_found():
    relevant = np.array([True] + [False] * 9 + [True] * 90)
    assert metrics.average_precision(relevant, at=10, denominator="found") == 1.0
    assert metrics.average_precision(relevant, at=10) == pytest.approx(0.1)


def test_nothing_relevant_scores_zero():
    nothing = np.zeros(5, bool)
    assert metrics.average_precision(nothing) == 0.0
    assert metrics.average_precision(nothing, denominator="found") == 0.0
    assert metrics.recall_at(nothing, 3) == metrics.precision_at(nothing, 3) == 0.0
    assert metrics.tie_aware_average_precision(np.zeros(5), nothing) == (0.0, 0.0, 0.0)
    assert metrics.average_precision(np.zeros(0, bool)) == 0.0
    assert metrics.tie_aware_average_precision(np.zeros(0), np.zeros(0, bool)) == (0, 0, 0)


def test_one_relevant_item_alone_scores_one():
    assert metrics.average_precision(np.array([True])) == 1.0
    assert metrics.tie_aware_average_precision(np.array([9]), np.array([True])) == (1, 1, 1)


def test_precision_beyond_the_end_still_divides_by_k():
    relevant = np.array([True, True])
    assert metrics.precision_at(relevant, 8) == 0.25
    assert metrics.recall_at(relevant, 8) == 1.0


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
def test_without_ties_over_the_whole_database_scikit_learn_agrees(seed):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    distances = rng.permutation(300)
    relevant = rng.random(300) < 0.2
    theirs = sklearn_metrics.average_precision_score(relevant, -distances)
    ranking = relevant[np.argsort(distances)]
    assert metrics.average_precision(ranking) == pytest.approx(theirs)
    assert metrics.average_precision(ranking, denominator="found") == pytest.approx(theirs)
    ap = metrics.tie_aware_average_precision(distances, relevant)
    assert ap == pytest.approx((theirs, theirs, theirs))


# --- Ties ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6),
    st.integers(1, 8) | st.none(),
)
def test_tie_aware_is_the_mean_the_best_and_the_worst_over_every_order(ranking, at):
    distances, relevant = map(list, zip(*ranking, strict=True))
    scores = [ap_slowly(order, at) for order in all_orders(distances, relevant)]
    ap = metrics.tie_aware_average_precision(np.array(distances), np.array(relevant), at=at)
    assert ap.expected == pytest.approx(sum(scores) / len(scores), abs=1e-12)
    assert ap.best == pytest.approx(max(scores), abs=1e-12)
    assert ap.worst == pytest.approx(min(scores), abs=1e-12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6),
    st.integers(1, 8),
)
def test_the_first_hits_are_the_mean_over_every_order(ranking, k):
    distances, relevant = map(list, zip(*ranking, strict=True))
    items, hits = metrics._count_ties(np.sort(distances), np.array(relevant)[np.argsort(distances)])
    orders = list(all_orders(distances, relevant))
    total = sum(relevant)

    def mean(score):
        return pytest.approx(sum(map(score, orders)) / len(orders), abs=1e-12)

    assert metrics.found_at(items, hits, k) == mean(lambda order: any(order[:k]))
    assert metrics.r_precision(items, hits) == mean(
        lambda order: sum(order[:total]) / max(total, 1)
    )
    assert metrics.map_at_r(items, hits) == mean(lambda order: ap_slowly(order, total or 1))


def test_map_at_r_tells_apart_what_recall_at_1_does_not():
    one, ten = np.ones(20, int), np.ones(10, int)
    first_two = np.array([1, 1] + [0] * 10 + [1] * 8)
    scattered = np.array([1, 0] + [0] * 9 + [1] * 9)
    perfect = np.concatenate([ten, 0 * ten])
    scores = [metrics.map_at_r(one, order) for order in (scattered, first_two, perfect)]
    assert scores == pytest.approx([0.1, 0.2, 1.0])
    assert [metrics.found_at(one, order, 1) for order in (scattered, first_two, perfect)] == [1] * 3
    counts = metrics.map_at_r(np.stack([one] * 3), np.stack([scattered, first_two, perfect]))
    assert counts.tolist() == scores


@pytest.mark.parametrize("at", [None, 1, 70, 71, 5000, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_items_in_ties_follow_the_formula_term_by_term(seed, at):
    rng = np.random.default_rng(seed)
    items = rng.integers(0, 2000, (4, 9)) * (rng.random((4, 9)) < 0.7)
    relevant = rng.binomial(items, [[0.9], [0.5], [0.01], [0]])
    ap = metrics.tie_aware_ap_from_counts(items, relevant, at=at)
    for query in range(4):
        counts = items[query].tolist(), relevant[query].tolist()
        assert ap.expected[query] == pytest.approx(tie_aware_formula_slowly(*counts, at), abs=1e-9)
        assert ap.best[query] == pytest.approx(one_order_slowly(*counts, True, at), abs=1e-9)
        assert ap.worst[query] == pytest.approx(one_order_slowly(*counts, False, at), abs=1e-9)


def test_all_in_one_tie():
    ap = metrics.tie_aware_average_precision(np.zeros(4), np.array([True, False, False, False]))
    assert ap == pytest.approx(((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, 1.0, 0.25))
    assert metrics.tie_aware_average_precision(np.zeros(3), np.ones(3, bool)) == (1, 1, 1)


def test_a_cut_inside_a_tie_counts_only_the_ranks_before_it():
    # One relevant item somewhere in a tie of four; only rank 1 and 2 count.
    ap = metrics.tie_aware_ap_from_counts(np.array([4]), np.array([1]), at=2)
    assert ap == pytest.approx(((1 + 1 / 2) / 4, 1.0, 0.0))


@pytest.mark.parametrize("dtype", ["uint8", "uint64"])
@pytest.mark.parametrize("at", [None, 100, 250])
def test_counts_of_unsigned_types_do_not_wrap_around(dtype, at):
    counts = [200, 200, 50], [0, 200, 1]
    ap = metrics.tie_aware_ap_from_counts(*(np.array(c, dtype) for c in counts), at=at)
    assert ap.expected == pytest.approx(tie_aware_formula_slowly(*counts, at))
    assert ap.best == pytest.approx(one_order_slowly(*counts, True, at))
    assert ap.worst == pytest.approx(one_order_slowly(*counts, False, at))


@pytest.mark.parametrize("n", [1, 2, 62, 63, 64, 65, 66, 127, 1000, 20_000])
def test_one_relevant_item_in_one_tie_gives_the_harmonic_number(n):
    ap = metrics.tie_aware_ap_from_counts(np.array([n]), np.array([1]))
    harmonic = math.fsum(1 / i for i in range(1, n + 1))
    assert ap.expected == pytest.approx(harmonic / n, rel=4e-15, abs=0)


def test_an_item_without_a_tie_is_not_rounded_by_logarithms():
    ap = metrics.tie_aware_ap_from_counts(np.array([10**6, 1]), np.array([0, 1]))
    assert ap == pytest.approx([1 / (10**6 + 1)] * 3, rel=0, abs=4e-16)
    assert ap.expected == pytest.approx(1 / (10**6 + 1), rel=4e-16, abs=0)


def test_counts_of_no_queries_give_no_figures():
    none = np.zeros((0, 9), int)
    assert [case.shape for case in metrics.tie_aware_ap_from_counts(none, none)] == [(0,)] * 3


def test_a_billion_tied_items_take_neither_memory_nor_time():
    items = np.array([10**9, 10**9])
    ap = metrics.tie_aware_ap_from_counts(items, items // np.array([2, 10**9]))
    assert ap.worst < ap.expected < ap.best
    assert ap.expected == pytest.approx(0.5, abs=1e-6)


def test_an_infinite_distance_is_a_tie_of_its_own():
    distances, relevant = np.array([1.0, np.inf, np.inf]), np.array([False, True, False])
    ap = metrics.tie_aware_average_precision(distances, relevant)
    assert ap == pytest.approx(((1 / 2 + 1 / 3) / 2, 1 / 2, 1 / 3))


# --- Codes ---------------------------------------------------------------------------------------


def random_codes(rng, n, num_bits, distinct=12):
    """Codes that repeat, as learned codes do."""
    return codes.pack((rng.random((distinct, num_bits)) < 0.5)[rng.integers(0, distinct, n)])


def labels_of_kind(rng, kind, n):
    """A few labels; the query set may hold ones that the database lacks."""
    if kind == "int":
        return rng.integers(-1, 4, n)
    if kind == "str":
        return np.array(["ape", "bee", "cat", "dog"])[rng.integers(0, 4, n)]
    return rng.random((n, 5)) < 0.25


@pytest.mark.parametrize("kind", ["int", "str", "multi"])
@pytest.mark.parametrize(
    ("num_bits", "radius"), [(1, 0), (3, 2), (3, 3), (12, 5), (48, 20), (200, 95)]
)
def test_the_evaluation_of_codes_is_what_the_definition_says(kind, num_bits, radius):
    rng = np.random.default_rng(num_bits)
    query, database = random_codes(rng, 15, num_bits), random_codes(rng, 70, num_bits)
    query_labels, database_labels = labels_of_kind(rng, kind, 15), labels_of_kind(rng, kind, 70)
    at, ks = 11, (1, 5, 70, 100)
    result = metrics.evaluate_codes(
        query,
        query_labels,
        database,
        database_labels,
        num_bits=num_bits,
        at=at,
        ks=ks,
        radius=radius,
    )
    apart = [[bits_apart_slowly(a, b) for b in database] for a in query]
    means, unanswerable, nothing = evaluate_slowly(
        apart, query_labels, database_labels, at, ks, radius
    )
    assert_agrees(result, means, at, ks)
    assert result.precision_within == pytest.approx(means["precision_within"])
    assert result.recall_within == pytest.approx(means["recall_within"])
    assert result.queries_with_nothing_within == nothing
    assert result.queries_without_relevant == unanswerable
    assert (result.queries, result.database) == (15, 70)
    assert np.isnan(result.ap_of_query).sum() == unanswerable
    assert np.nanmean(result.ap_of_query) == pytest.approx(result.map_all.expected)


@pytest.mark.parametrize("num_bits", [8, 254, 255, 256, 1024])
def test_a_query_can_be_left_out_of_its_own_ranking(num_bits):
    rng = np.random.default_rng(num_bits)
    database, labels = random_codes(rng, 40, num_bits), rng.integers(0, 8, 40)
    database[0], database[1:3] = 0, codes.pack(np.ones(num_bits, bool))  # as far as can be
    labels[:2], labels[2] = 0, 99  # 99 has nothing to find but itself
    at, ks = 39, (1, 39, 40)
    result = metrics.evaluate_codes(
        database, labels, database, labels, num_bits=num_bits, at=at, ks=ks, exclude_self=True
    )
    apart = [[bits_apart_slowly(a, b) for b in database] for a in database]
    means, unanswerable, nothing = evaluate_slowly(apart, labels, labels, at, ks, 2, True)
    assert_agrees(result, means, at, ks)
    assert result.database == 39
    assert result.queries_without_relevant == unanswerable >= 1
    assert result.queries_with_nothing_within == nothing
    assert result.items_at_distance.sum() == 39 * (40 - unanswerable)


def test_many_blocks_of_queries_are_joined_in_order():
    rng = np.random.default_rng(3)
    query, database = random_codes(rng, 600, 16, 50), random_codes(rng, 30, 16, 50)
    query_labels, database_labels = rng.integers(0, 3, 600), rng.integers(0, 3, 30)
    result = metrics.evaluate_codes(query, query_labels, database, database_labels, num_bits=16)
    for place in (0, 255, 256, 511, 512, 599):
        distances = np.array([bits_apart_slowly(query[place], code) for code in database])
        ap = metrics.tie_aware_average_precision(distances, database_labels == query_labels[place])
        assert result.ap_of_query[place] == pytest.approx(ap.expected)


def test_shuffling_the_database_moves_ties_by_row_but_nothing_tie_aware():
    rng = np.random.default_rng(1)
    query, database = random_codes(rng, 30, 12, 6), random_codes(rng, 200, 12, 6)
    query_labels, labels = rng.integers(0, 3, 30), np.sort(rng.integers(0, 3, 200))
    by_row = set()
    steady = set()
    for _ in range(4):
        result = metrics.evaluate_codes(query, query_labels, database, labels, num_bits=12, at=20)
        by_row.add(round(result.map_at, 9))
        within = (result.precision_within, result.recall_within)
        steady.add(tuple(np.round((*result.map_all, *result.map_at_tie_aware, *within), 12)))
        order = rng.permutation(200)
        database, labels = database[order], labels[order]
    assert len(by_row) > 1
    assert len(steady) == 1


def test_the_mean_over_shuffles_tends_to_the_tie_aware_figure():
    rng = np.random.default_rng(2)
    query, database = random_codes(rng, 20, 12, 6), random_codes(rng, 60, 12, 6)
    query_labels, labels = rng.integers(0, 3, 20), rng.integers(0, 3, 60)
    means = []
    for _ in range(300):
        order = rng.permutation(60)
        result = metrics.evaluate_codes(
            query, query_labels, database[order], labels[order], num_bits=12, at=15
        )
        means.append(result.map_at_of_relevant)
    spread = np.std(means) / np.sqrt(len(means))
    assert result.map_at_tie_aware.expected == pytest.approx(np.mean(means), abs=4 * spread)


def test_classes_that_share_one_code_each_score_one_in_every_order():
    labels = np.arange(60) % 4
    database = codes.pack(np.eye(4, dtype=bool)[labels])
    result = metrics.evaluate_codes(database[:4], labels[:4], database, labels, num_bits=4)
    assert result.map_all == (1, 1, 1)
    assert result.map_at == result.map_at_of_relevant == 1
    assert result.precision_at[10] == 1
    precision, recall = result.precision_recall_curve()
    assert precision.tolist() == [1, 1, 0.25, 0.25, 0.25]
    assert recall.tolist() == [1] * 5


def test_one_code_for_everything_scores_as_chance_does():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(1000) % 10)
    database = np.zeros((1000, 6), "uint8")
    result = metrics.evaluate_codes(database[:10], labels[:10], database, labels, num_bits=48)
    assert result.map_all.expected == pytest.approx(0.1, abs=0.01)
    assert result.map_all.best == 1
    assert result.recall_within == 1


def test_the_curve_of_precision_and_recall_counts_pairs():
    rng = np.random.default_rng(5)
    query, database = random_codes(rng, 9, 20), random_codes(rng, 50, 20)
    query_labels, labels = rng.integers(0, 3, 9), rng.integers(0, 3, 50)
    result = metrics.evaluate_codes(query, query_labels, database, labels, num_bits=20)
    precision, recall = result.precision_recall_curve()
    pairs = [
        (bits_apart_slowly(a, b), x == y)
        for a, x in zip(query, query_labels, strict=True)
        for b, y in zip(database, labels, strict=True)
    ]
    for radius in range(21):
        inside = [same for apart, same in pairs if apart <= radius]
        assert recall[radius] == pytest.approx(sum(inside) / sum(same for _, same in pairs))
        if inside:
            assert precision[radius] == pytest.approx(sum(inside) / len(inside))
        else:
            assert np.isnan(precision[radius])


def test_the_curve_begins_with_the_first_pair_there_is():
    database = np.array([[1], [3], [255]], "uint8")
    result = metrics.evaluate_codes(
        np.zeros((1, 1), "uint8"), LABELS[:1], database, LABELS, num_bits=8
    )
    precision, recall = result.precision_recall_curve()
    np.testing.assert_array_equal(precision, [np.nan, 1] + [1] * 6 + [2 / 3])
    assert recall.tolist() == [0, 0.5] + [1] * 7


@pytest.mark.parametrize("exclude_self", [False, True])
def test_one_image_besides_the_query_is_a_database(exclude_self):
    count = 1 + exclude_self
    result = metrics.evaluate_codes(
        *(CODES[:count], LABELS[:count]) * 2, num_bits=8, exclude_self=exclude_self
    )
    assert result.map_all == (1, 1, 1)


def test_the_curve_ends_with_pairs_that_differ_in_every_bit():
    database = np.array([[0], [255]], "uint8")
    result = metrics.evaluate_codes(database[:1], LABELS[:1], database, LABELS[:2], num_bits=8)
    precision, recall = result.precision_recall_curve()
    assert precision.tolist() == [1] * 9
    assert recall.tolist() == [0.5] * 8 + [1]


def test_the_json_has_the_names_of_the_command_line():
    # All in one tie. By row, the two queries of label 1 see yes yes no, and that of 2 no no yes.
    database = np.zeros((3, 6), "uint8")
    labels = np.array([1, 1, 2])
    figures = metrics.evaluate_codes(database, labels, database, labels, num_bits=48).to_dict()
    precision_at, recall_at, found_at = map(figures.pop, ("precision_at", "recall_at", "found_at"))
    assert figures == pytest.approx(
        {
            "queries": 3,
            "queries_without_relevant": 0,
            "database": 3,
            "bits": 48,
            "radius": 2,
            "map_at_1000": 7 / 9,
            "map_at_1000_of_relevant": 7 / 9,
            "map_at_1000_tie_aware": 20 / 27,
            "map_at_1000_tie_aware_best": 1,
            "map_at_1000_tie_aware_worst": 1 / 2,
            "map_all": 20 / 27,
            "map_all_best": 1,
            "map_all_worst": 1 / 2,
            "precision_within": 5 / 9,
            "recall_within": 1,
            "queries_with_nothing_within": 0,
            "r_precision": 5 / 9,
            "map_at_r": (2 * (1 + 1 / 2 + 1 / 4) / 3 + 1 / 3) / 3,
        }
    )
    assert found_at == pytest.approx({"1": 5 / 9, "2": 8 / 9, "4": 1, "8": 1})
    assert precision_at == pytest.approx({"1": 2 / 3, "10": 1 / 6, "100": 1 / 60, "1000": 1 / 600})
    assert recall_at == pytest.approx({"1": 1 / 3, "10": 1, "100": 1, "1000": 1})
    assert json.loads(json.dumps(figures)) == figures


# --- Features and ready rankings -----------------------------------------------------------------


@pytest.mark.parametrize("distances_a_block", [1, 60 * 5, metrics.DISTANCES_A_BLOCK])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_the_evaluation_of_features_is_what_the_definition_says(
    exclude_self, distances_a_block, monkeypatch
):
    monkeypatch.setattr(metrics, "DISTANCES_A_BLOCK", distances_a_block)
    rng = np.random.default_rng(7)
    database = rng.integers(-3, 4, (60, 3)).astype("float32")  # whole numbers: exact, with ties
    query = database if exclude_self else rng.integers(-3, 4, (12, 3)).astype("float32")
    labels = rng.integers(0, 4, 60)
    query_labels = labels if exclude_self else rng.integers(0, 5, 12)
    at, ks = 11, (1, 5, 60, 100)
    result = metrics.evaluate_features(
        query, query_labels, database, labels, at=at, ks=ks, exclude_self=exclude_self
    )
    apart = [[math.dist(a, b) for b in database.tolist()] for a in query.tolist()]
    means, unanswerable, _ = evaluate_slowly(apart, query_labels, labels, at, ks, 0, exclude_self)
    assert_agrees(result, means, at, ks)
    assert result.queries_without_relevant == unanswerable
    assert result.database == 60 - exclude_self


def test_one_rank_is_cut_at_unless_another_is_asked_for():
    features, none = np.eye(3), np.zeros(0, bool)
    assert metrics.evaluate_codes(CODES, LABELS, CODES, LABELS, num_bits=8).at == 1000
    assert metrics.evaluate_features(features, LABELS, features, LABELS).at == 1000
    assert metrics.evaluate_rankings([none], np.array([1]), database=1).at == 1000


def test_features_far_from_any_tie_have_one_order():
    rng = np.random.default_rng(8)
    query, database = rng.normal(size=(20, 16)), rng.normal(size=(300, 16))
    query_labels, labels = rng.integers(0, 5, 20), rng.integers(0, 5, 300)
    result = metrics.evaluate_features(query, query_labels, database, labels, at=50)
    means = []
    for a, label in zip(query, query_labels, strict=True):
        ranked = np.argsort([math.dist(a, b) for b in database])
        means.append(ap_slowly((labels == label)[ranked].tolist()))
    assert result.map_all == pytest.approx([np.mean(means)] * 3)


def test_rounding_below_zero_does_not_send_the_nearest_item_to_the_end():
    features = np.random.default_rng(4).normal(100, 1, (200, 16)).astype("float32")
    result = metrics.evaluate_features(features, np.arange(200), features, np.arange(200))
    assert result.map_all == (1, 1, 1)


def test_ready_rankings_may_list_only_a_pool():
    rng = np.random.default_rng(9)
    rankings = [rng.random(p) < 0.4 for p in (0, 1, 7, 30)] + [np.zeros(3, bool)]
    total = np.array([2, 3, 9, 40, 0])
    result = metrics.evaluate_rankings(rankings, total, database=50, at=10, ks=(1, 5, 60))
    aps = [ap_slowly(r, None, n) for r, n in zip(rankings[:4], total[:4].tolist(), strict=True)]
    assert result.map_all == pytest.approx([np.mean(aps)] * 3)
    heads = [ap_slowly(r, 10, n) for r, n in zip(rankings[:4], total[:4].tolist(), strict=True)]
    assert result.map_at_of_relevant == pytest.approx(np.mean(heads))
    assert result.map_at_tie_aware == pytest.approx([np.mean(heads)] * 3)
    found = [ap_slowly(r, 10, denominator="found") for r in rankings[:4]]
    assert result.map_at == pytest.approx(np.mean(found))
    assert result.precision_at[5] == pytest.approx(np.mean([sum(r[:5]) / 5 for r in rankings[:4]]))
    recalls = [sum(r) / n for r, n in zip(rankings[:4], total[:4], strict=True)]
    assert result.recall_at[60] == pytest.approx(np.mean(recalls))
    assert (result.queries, result.queries_without_relevant) == (5, 1)
    pairs = list(zip(rankings[:4], total[:4].tolist(), strict=True))
    for k in metrics.FOUND_KS:
        assert result.found_at[k] == np.mean([any(r[:k]) for r, _ in pairs])
    assert result.r_precision == pytest.approx(np.mean([sum(r[:n]) / n for r, n in pairs]))
    assert result.map_at_r == pytest.approx(np.mean([ap_slowly(r, n, n) for r, n in pairs]))


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, -1, 2.5, "10", True])
def test_a_rank_that_is_no_positive_integer_is_refused(at):
    with pytest.raises(ArgumentError, match="^at is a positive integer"):
        metrics.average_precision(np.ones(3, bool), at=at)
    with pytest.raises(ArgumentError, match="positive integer"):
        metrics.tie_aware_ap_from_counts(np.ones(3, int), np.ones(3, int), at=at)
    for score in (metrics.precision_at, metrics.recall_at):
        with pytest.raises(ArgumentError, match="^k is a positive integer"):
            score(np.ones(3, bool), at)
    with pytest.raises(ArgumentError, match="positive integer"):
        metrics.evaluate_codes(CODES, LABELS, CODES, LABELS, num_bits=8, at=at)
    with pytest.raises(ArgumentError, match="^Every k of ks is a positive integer"):
        metrics.evaluate_codes(CODES, LABELS, CODES, LABELS, num_bits=8, ks=[1, at])


def test_an_unknown_denominator_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="found, relevant"):
        metrics.average_precision(np.ones(3, bool), denominator="all")


def test_an_argument_that_would_be_ignored_is_refused():
    with pytest.raises(ArgumentError, match="num_relevant=5"):
        metrics.average_precision(np.ones(3, bool), num_relevant=5, denominator="found")


def test_relevance_and_counts_that_contradict_themselves_are_refused():
    with pytest.raises(ShapeError, match="int64"):
        metrics.average_precision(np.array([1, 0, 1]))
    with pytest.raises(ArgumentError, match="num_relevant=2, 3 listed"):
        metrics.recall_at(np.ones(3, bool), 1, num_relevant=2)
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        metrics.average_precision(np.ones((3, 4), bool), num_relevant=np.array([4, 4]))
    with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
        metrics.tie_aware_average_precision(np.zeros(2), np.ones(3, bool))
    with pytest.raises(ArgumentError, match="NaN"):
        metrics.tie_aware_average_precision(np.array([0, np.nan]), np.ones(2, bool))
    with pytest.raises(ArgumentError, match="more relevant"):
        metrics.tie_aware_ap_from_counts(np.array([1]), np.array([2]))
    with pytest.raises(ShapeError, match="float64"):
        metrics.tie_aware_ap_from_counts(np.array([1.0]), np.array([1]))


def test_labels_without_anything_in_common_are_an_error_not_a_zero():
    with pytest.raises(ArgumentError, match="same labels"):
        metrics.evaluate_codes(CODES, LABELS, CODES, LABELS + 5, num_bits=8)


@pytest.mark.parametrize(
    ("query_labels", "database_labels"),
    [
        (LABELS[:2], LABELS),
        (LABELS, np.array([1.0, 1.0, 2.0])),
        (LABELS, np.array(["1", "1", "2"])),
        (LABELS, np.ones((3, 2), bool)),
        (np.ones((3, 2), bool), np.ones((3, 4), bool)),
        (np.ones((3, 2), int), np.ones((3, 2), int)),
    ],
)
def test_labels_that_do_not_fit_are_refused(query_labels, database_labels):
    with pytest.raises(ShapeError, match="label"):
        metrics.evaluate_codes(CODES, query_labels, CODES, database_labels, num_bits=8)


@pytest.mark.parametrize("radius", [-1, 9, 1.5])
def test_a_radius_beyond_the_code_is_refused(radius):
    with pytest.raises(ArgumentError, match=f"radius={radius}"):
        metrics.evaluate_codes(CODES, LABELS, CODES, LABELS, num_bits=8, radius=radius)


def test_codes_and_sets_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="16 bits"):
        metrics.evaluate_codes(CODES, LABELS, CODES, LABELS, num_bits=16)
    with pytest.raises(HashnetError, match="^Query and database codes are two arrays"):
        metrics.evaluate_codes(CODES[0], LABELS, CODES, LABELS, num_bits=8)
    with pytest.raises(ArgumentError, match="exclude_self"):
        metrics.evaluate_codes(CODES[:2], LABELS[:2], CODES, LABELS, num_bits=8, exclude_self=True)
    with pytest.raises(ArgumentError, match="0 items"):
        metrics.evaluate_codes(CODES, LABELS, CODES[:0], LABELS[:0], num_bits=8)
    with pytest.raises(ArgumentError, match="0 queries"):
        metrics.evaluate_codes(CODES[:0], LABELS[:0], CODES, LABELS, num_bits=8)
    with pytest.raises(ArgumentError, match="1 items"):
        metrics.evaluate_codes(
            CODES[:1], LABELS[:1], CODES[:1], LABELS[:1], num_bits=8, exclude_self=True
        )
    with pytest.raises(ArgumentError, match="ks"):
        metrics.evaluate_codes(CODES, LABELS, CODES, LABELS, num_bits=8, ks=())


def test_features_that_are_not_finite_are_refused():
    features = np.ones((3, 2), "float32")
    for bad in (np.nan, np.inf):
        spoilt = features.copy()
        spoilt[1, 1] = bad
        with pytest.raises(ArgumentError, match="database_features"):
            metrics.evaluate_features(features, LABELS, spoilt, LABELS)
        with pytest.raises(ArgumentError, match="query_features"):
            metrics.evaluate_features(spoilt, LABELS, features, LABELS)
    with pytest.raises(ShapeError, match="uint8"):
        metrics.evaluate_features(CODES, LABELS, CODES, LABELS)
    with pytest.raises(ShapeError, match=r"^Query and database features .*\(3, 2\).*\(3, 1\)"):
        metrics.evaluate_features(features, LABELS, features[:, :1], LABELS)


def test_ready_rankings_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="2 rankings"):
        metrics.evaluate_rankings([np.ones(1, bool)] * 2, np.array([1]), database=3)
    with pytest.raises(ArgumentError, match="database=3"):
        metrics.evaluate_rankings([np.ones(4, bool)], np.array([4]), database=3)
    with pytest.raises(ArgumentError, match="0 rankings"):
        metrics.evaluate_rankings([], np.zeros(0, int), database=3)
    with pytest.raises(ArgumentError, match="none with any"):
        metrics.evaluate_rankings([np.zeros(4, bool)], np.array([0]), database=4)


@pytest.mark.slow
def test_cifar_sized_evaluations_take_less_than_a_minute():
    rng = np.random.default_rng(0)
    query, database = random_codes(rng, 10_000, 48, 5000), random_codes(rng, 50_000, 48, 5000)
    query_labels, labels = rng.integers(0, 10, 10_000), rng.integers(0, 10, 50_000)
    start = time.perf_counter()
    metrics.evaluate_codes(query, query_labels, database, labels, num_bits=48)
    assert time.perf_counter() - start < 60
