"""What a search answers: how it reads, as a table and after a pickle."""

import pickle

import numpy as np
import pytest

from hashnet import images
from hashnet.retrieval.search.hits import Hit, SearchResult


def result(*hits, **fields):
    return SearchResult("q.jpg", 12, len(hits), {}, hits, **fields)


def test_each_hit_is_a_line_with_all_that_is_known_of_it():
    hits = (
        Hit("a", "/p/a.jpg", "cat", 0, 0.0, 31),
        Hit("b", None, None, 9, 0.70004, None, None, 0.61, "alike"),
        Hit("c", "/p/c.jpg", "dö\no\u202eg", 117, 12.5),
    )
    assert repr(result(*hits)).splitlines() == [
        "'q.jpg': 3 hits of a pool of 3 at a Hamming distance below 12",
        "   1    0 bits   0.0000    31 inliers  [cat]  '/p/a.jpg'",
        "   2    9 bits   0.7000  alike   'b'",
        "   3  117 bits  12.5000  [dö\\no\\u202eg]  '/p/c.jpg'",
    ]


@pytest.mark.parametrize(("number", "last"), [(10, "'i9'"), (11, "and 1 more")])
def test_ten_hits_are_all_printed_and_of_more_the_number(number, last):
    lines = repr(result(*(Hit(f"i{n}", None, None, 0, 0.0) for n in range(number)))).splitlines()
    assert len(lines) == 1 + min(number, 11) and lines[-1].endswith(last)


def test_a_table_has_a_row_for_each_hit_and_its_columns_without_any():
    pytest.importorskip("pandas")
    hits = (Hit("a", "/p/a.jpg", "cat", 0, 0.0, 31), Hit("b", "/p/b.jpg", "dog", 9, 0.7, 8))
    table = result(*hits).to_pandas()
    assert list(table.columns) == list(result().to_pandas().columns) == list(Hit._fields)
    assert [tuple(row) for row in table.values] == [tuple(hit) for hit in hits]


def test_a_pickle_holds_a_small_picture_of_a_query_that_is_no_file():
    large = np.zeros((600, 900, 3), np.uint8)
    kept = pickle.loads(pickle.dumps(result(source=large)))
    assert max(images.size(kept.source)) == 256
    assert pickle.loads(pickle.dumps(result(source="/gone/q.jpg"))).source == "/gone/q.jpg"
    broken = pickle.loads(pickle.dumps(result(source=b"no image")))
    assert broken.source is None and broken == result()
