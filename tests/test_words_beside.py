"""Words beside a picture: the query moves towards what they mean."""

import json

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import ArgumentError
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.words import beside
from hashnet.retrieval.words.beside import WordEngine


class Way:
    """A way that knows where some words point."""

    name, missing = "class", None

    def __init__(self, **directions):
        self._directions = directions

    def direction(self, text):
        return self._directions.get(text)

    def find(self, text, most, allowed):
        raise AssertionError("nothing is found beside a picture")

    def suggest(self, text, most):
        return ["dark", "pale"][:most]


@pytest.fixture(scope="module")
def place(unsupervised_bundle, tmp_path_factory):
    """Twenty pictures of spots, from dark to pale."""
    place = tmp_path_factory.mktemp("beside") / "photos.index"
    index = Index.create(place, unsupervised_bundle)
    random = np.random.default_rng(4)
    spots = [random.integers(0, 60 + 10 * one, (64, 64, 3), dtype=np.uint8) for one in range(20)]
    index.add(spots, ids=[f"p{one:02}" for one in range(20)], labels=["even", "odd"] * 10)
    return place


@pytest.fixture
def index(place, monkeypatch):
    """That index, with a way that knows where "pale" lies: where the palest picture does."""
    index = Index.open(place)
    towards = index.features(["p19"])[0] - index.engine.mean
    towards /= np.linalg.norm(towards)
    away = np.zeros_like(towards)
    away[0] = 1
    way = Way(pale=towards, odd=away)
    monkeypatch.setattr(beside.WordBox, "__init__", lambda box, engine: _given(box, way))
    return index


def _given(box, way):
    box._known = [way]


def test_a_query_moves_towards_the_words_as_far_as_they_weigh(index):
    engine, mean = index.engine, index.engine.mean
    [feature] = index.features(["p00"])
    [towards] = index.features(["p19"])
    before = engine.search_id("p00", Query(k=19))
    assert engine.search_id("p00", Query(k=19, text="pale", text_weight=0)) == before
    for weight in (0.3, 0.5, 1.0):
        found = engine.search_id("p00", Query(k=19, text="pale", text_weight=weight))
        apart = [(one - mean) / np.linalg.norm(one - mean) for one in (feature, towards)]
        between = (1 - weight) * apart[0] + weight * apart[1]
        between *= np.linalg.norm(feature - mean) / np.linalg.norm(between)
        expected = engine.search_vector(mean + between, Query(k=20))
        assert [hit.id for hit in found] == [hit.id for hit in expected if hit.id != "p00"]
    assert found[0].id == "p19"


def test_filters_stand_beside_the_words(index):
    result = index.search("p00", k=5, text="PALE ", text_weight=1, labels="even")
    assert {hit.label for hit in result} == {"even"} and len(result) == 5


def test_several_directions_are_one_between_them(index):
    pale, odd = (index.engine.meaning(text) for text in ("pale", "odd"))
    index.engine.words._known.append(Way(pale=odd))
    between = index.engine.meaning("pale")
    assert np.allclose(between, (pale + odd) / np.linalg.norm(pale + odd), atol=1e-6)


def test_words_that_point_nowhere_are_refused_with_what_is_like_them(index):
    with pytest.raises(ArgumentError, match=r"'palest'\. Known, and like it: dark, pale\."):
        index.search("p00", text="palest")
    for text in ("", "\0", "x" * 2**20):
        with pytest.raises(ArgumentError, match="text"):
            index.search("p00", text=text)


@pytest.mark.parametrize(
    "fields",
    [
        {"text": 7},
        {"text": b"pale"},
        {"text_weight": -0.1},
        {"text_weight": 1.1},
        {"text_weight": float("nan")},
        {"text_weight": True},
        {"text_weight": None},
        {"text": "pale", "same_object": True},
    ],
)
def test_a_query_with_other_words_and_weights_is_refused(fields):
    with pytest.raises(ArgumentError):
        Query(**fields)


def test_several_indexes_as_one_take_no_words_beside_a_picture(place):
    engine = ShardedEngine([Index.open(place).engine, Index.open(place).engine])
    with pytest.raises(ArgumentError, match="one index at a time"):
        engine.search_id("p00", Query(text="pale"))
    assert isinstance(Index.open(place).engine, WordEngine)


def test_the_command_takes_words_beside_a_picture(index, place, tmp_path, run):
    picture = tmp_path / "query.png"
    images.write(picture, np.zeros((64, 64, 3), np.uint8))
    asked = "search", place, picture, "--json"
    status, out, _ = run(*asked, "--text", "pale", "--text-weight", "1")
    assert status == 0 and json.loads(out)["hits"][0]["id"] == "p19"
    status, _, err = run(*asked, "--text-weight", "1")
    assert status == 2 and "--text" in err
