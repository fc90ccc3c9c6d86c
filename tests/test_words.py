"""The box of words: ways from a text to images, and one order of what they find."""

import numpy as np
import pytest

from hashnet.errors import ArgumentError, HashnetError, UnknownIdError
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.words import plain
from hashnet.retrieval.words.box import WordBox
from hashnet.retrieval.words.fusion import fused
from hashnet.retrieval.words.way import NAMES, Matches


class Way:
    """A way that finds what it is told to."""

    def __init__(self, name, rows=(), scores=(), *, missing=None, near=(), regions=None):
        self.name, self.missing, self._near = name, missing, near
        self._matches = Matches(np.array(rows, np.int64), np.array(scores, "f4"), regions)
        self.asked = []

    def find(self, text, most, allowed):
        self.asked.append((text, most, allowed))
        return self._matches

    def suggest(self, text, most):
        return list(self._near)[:most]


@pytest.fixture
def index(bundle_folder, tmp_path, monkeypatch):
    """Three images: a cat, a small dog, and one without a label."""
    index = Index.create(tmp_path / "photos.index", bundle_folder)
    pixels = [np.full((40, 40, 3), shade, np.uint8) for shade in (0, 90, 200)]
    index.add(pixels, ids=["a", "b", "c"], labels=["Cat", "Small Dog", None])
    return index


def test_ranks_are_fused_as_the_paper_defines():
    random = np.random.default_rng(3)
    found = {}
    for name in NAMES[:4]:
        rows = random.permutation(40)[: random.integers(0, 30)]
        found[name] = Matches.ordered(rows, random.integers(0, 6, len(rows)).astype("f4"), 25)
    scores, by = {}, {}
    for name, matches in found.items():
        for row, score in zip(matches.rows.tolist(), matches.scores.tolist(), strict=True):
            rank = 1 + sum(other > score for other in matches.scores.tolist())
            scores[row] = scores.get(row, 0) + 1 / (60 + rank)
            by.setdefault(row, []).append(name)
    best = fused(found)
    wanted = sorted(scores, key=lambda row: (-round(scores[row], 12), row))
    assert best.rows.tolist() == wanted
    assert np.allclose(best.scores, [scores[row] for row in wanted])
    assert best.ways == [tuple(by[row]) for row in wanted]
    again = fused(dict(reversed(found.items())))
    assert again.rows.tolist() == wanted  # whatever the order of the ways
    assert not len(fused({}).rows)


def test_what_ways_found_is_one_answer(index):
    ways = [
        Way("name", [1, 0], [2, 1]),
        Way("ocr", [0], [5], regions=[(1, 2, 3, 4)]),
        Way("caption", missing="it has none"),
    ]
    result = WordBox(index.engine, ways).search(" Brown\tFOX ", Query(k=5))
    assert [(hit.id, hit.ways, hit.region) for hit in result] == [
        ("a", ("name", "ocr"), (1, 2, 3, 4)),
        ("b", ("name",), None),
    ]
    assert result.found == 2 and result.missing == {"caption": "it has none"}
    assert list(result.milliseconds) == ["name", "ocr"] and result.query == " Brown\tFOX "
    assert ways[0].asked == [("brown fox", 1000, None)] and not ways[2].asked
    one = WordBox(index.engine, ways).search("x", Query(k=1))
    assert len(one) == 1 and one.found == 2


def test_a_text_that_nothing_means_is_answered_with_what_is_like_it(index):
    ways = [Way("name", near=["ant", "any"]), Way("ocr", near=["bee", "ant"])]
    result = WordBox(index.engine, ways).search("an")
    assert not result and result.suggestions == ("ant", "bee", "any")
    assert index.search_text("smal dogg").suggestions == ("Small Dog",)


def test_labels_are_found_by_their_words_whatever_their_case(index):
    assert [hit.id for hit in index.search_text("CAT")] == ["a"]
    assert [hit.id for hit in index.search_text("dog small")] == ["b"]
    assert [hit.id for hit in index.search_text("dog", labels=["Cat"])] == []
    index.add([np.zeros((9, 9, 3), np.uint8)], ids=["d"], labels=["dog"])
    assert [hit.id for hit in index.search_text("dog")] == ["d", "b"]  # the whole label first
    index.remove("d")
    assert [hit.id for hit in index.search_text("dog")] == ["b"]


@pytest.mark.parametrize("text", ["", " \n", "\0\x07", "x" * 1001, "x" * 2**20, None, b"cat", 7])
def test_what_is_no_text_to_search_by_is_refused(index, text):
    with pytest.raises(ArgumentError, match=r"text"):
        index.search_text(text)


def test_a_text_is_taken_literally_but_for_case_width_and_gaps():
    assert plain.query('"A" AND b* NEAR(c)') == '"a" and b* near(c)'
    assert plain.query("ｃａｔ\0\r\nÉ\ud800") == "cat é"
    assert plain.query("x" * 1000) == "x" * 1000


def test_fields_that_a_text_has_no_use_for_are_refused(index):
    with pytest.raises(ArgumentError, match=r"threshold, verify\. Fields that it takes: k, "):
        index.search_text("cat", threshold=3, verify=True)
    with pytest.raises(UnknownIdError, match="'z'"):
        index.search_text("cat", ids=["z"])
    with pytest.raises(ArgumentError, match="no/where"):
        index.search_text("cat", under="no/where")


def test_an_index_without_any_way_says_why(index):
    box = WordBox(index.engine, [Way("ocr", missing="it was made without --ocr")])
    with pytest.raises(HashnetError, match="ocr: it was made without --ocr"):
        box.search("cat")
