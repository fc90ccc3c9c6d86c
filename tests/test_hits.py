"""What a search answers: how it reads, as a table and after a pickle."""

import pickle

import pytest

from hashnet.retrieval.search.hits import Hit, SearchResult


def result(*hits, **fields):
    return SearchResult("q.jpg", 12, len(hits), {}, hits, **fields)


def test_each_hit_is_a_line_with_all_that_is_known_of_it():
    hits = (
        Hit("a", "/p/a.jpg", "cat", 0, 0.0, 31),
        Hit("b", None, None, 9, 0.70004),
        Hit("c", "/p/c.jpg", "d\no\u202eg", 117, 12.5),
    )
    assert repr(result(*hits)).splitlines() == [
        "'q.jpg': 3 hits of a pool of 3 at a Hamming distance below 12",
        "   1    0 bits   0.0000    31 inliers  [cat]  '/p/a.jpg'",
        "   2    9 bits   0.7000  'b'",
        "   3  117 bits  12.5000  [d\\no\\u202eg]  '/p/c.jpg'",
    ]


@pytest.mark.parametrize(("number", "last"), [(10, "'i9'"), (11, "and 1 more")])
def test_ten_hits_are_all_printed_and_of_more_the_number(number, last):
    lines = repr(result(*(Hit(f"i{n}", None, None, 0, 0.0) for n in range(number)))).splitlines()
    assert len(lines) == 1 + min(number, 11) and lines[-1].endswith(last)


def test_a_table_of_no_hits_has_its_columns():
    pytest.importorskip("pandas")
    assert list(result().to_pandas().columns) == list(Hit._fields)


def test_a_query_that_is_no_image_any_more_has_no_picture_in_a_pickle():
    kept = pickle.loads(pickle.dumps(result(source=b"no image")))
    assert kept.source is None and kept == result()
    assert pickle.loads(pickle.dumps(result(source="/gone/q.jpg"))).source == "/gone/q.jpg"
