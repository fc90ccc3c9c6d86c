"""Relevance feedback: the moved query, the slow way, and that it finds more of what is right."""

import json

import numpy as np
import pytest

from hashnet import cli, codes
from hashnet.errors import ArgumentError, UnknownIdError
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import feedback
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query


@pytest.fixture(scope="module")
def index(photos, bundle_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("feedback") / "photos.index"
    index = Index.create(folder, bundle_folder)
    index.update([photos], label_from_folder=True)
    return folder


def world(seed, num_right, num_wrong, num_bits=13, dim=5):
    rng = np.random.default_rng(seed)

    def some(n):
        return codes.pack(rng.random((n, num_bits)) < 0.5), rng.normal(size=(n, dim)).astype("f4")

    (code, feature), right, wrong = some(1), some(num_right), some(num_wrong)
    return code[0], feature[0], right, wrong


def least_squares(query, rows, wanted):
    """The definition: the least sum of squares, of what scores miss and of the move."""
    query, rows = query / np.linalg.norm(query), _unit_rows(rows)
    stiffness = np.sqrt(feedback.STIFFNESS)
    return np.linalg.lstsq(
        np.concatenate([rows, stiffness * np.eye(len(query))]),
        np.concatenate([wanted, stiffness * query]),
        rcond=None,
    )[0]


@pytest.mark.parametrize(("num_right", "num_wrong"), [(0, 0), (1, 0), (0, 1), (3, 4), (7, 1)])
def test_it_moves_as_defined(num_right, num_wrong):
    code, feature, right, wrong = world(num_right, num_right, num_wrong)
    new_code, new_feature = feedback.move(code, feature, right, wrong, num_bits=13)
    wanted = [1] + [1] * num_right + [feedback.WRONG] * num_wrong
    moved = least_squares(feature, np.concatenate([feature[None], right[1], wrong[1]]), wanted)
    scale = np.linalg.norm(feature) / np.linalg.norm(moved)
    np.testing.assert_allclose(new_feature, moved * scale, rtol=1e-4, atol=1e-6)
    assert new_feature.dtype == np.float32
    signs = codes.unpack(np.concatenate([code[None], right[0], wrong[0]]), 13) * 2.0 - 1
    votes = least_squares(signs[0], signs, wanted)
    sure = np.abs(votes) > 1e-6
    assert (codes.unpack(new_code, 13)[sure] == (votes > 0)[sure]).all() and sure.sum() > 10
    if not num_right + num_wrong:
        assert (new_code == code).all()


@pytest.mark.parametrize("seed", range(5))
def test_right_images_are_told_from_wrong_ones(seed):
    _, feature, right, wrong = world(seed, 4, 5, dim=40)

    assert not _told_apart(feature, right, wrong)
    moved = feedback.move(np.zeros(2, "uint8"), feature, right, wrong, num_bits=13)[1]
    assert _told_apart(moved, right, wrong)


def _told_apart(query, right, wrong):
    """Whether each right image lies nearer than every wrong one."""
    return (_unit_rows(right[1]) @ query).min() > (_unit_rows(wrong[1]) @ query).max()


def _unit_rows(features):
    return features / np.linalg.norm(features, axis=1)[:, None]


def test_a_query_without_length_stays_without():
    code, right = np.zeros(2, "uint8"), (np.zeros((1, 2), "uint8"), np.ones((1, 3), "f4"))
    none = np.empty((0, 2), "uint8"), np.empty((0, 3), "f4")
    moved = feedback.move(code, np.zeros(3, "f4"), right, none, num_bits=13)
    assert moved[1].tolist() == [0, 0, 0] and moved[0].tolist() == [0, 0]


def test_what_cancels_out_leaves_the_query():
    code, feature = np.array([0b10000000], "uint8"), np.array([1, 0], "f4")
    against = np.array([[0b10000000]], "uint8"), np.array([[1, 0]], "f4")
    none = np.empty((0, 1), "uint8"), np.empty((0, 2), "f4")
    moved = feedback.move(code, feature, none, against, num_bits=1)
    assert moved[0].tolist() == [0b10000000] and moved[1].tolist() == [1, 0]


def test_marks_bring_more_of_what_is_right(index, photos):
    engine = Engine(Index.open(index))

    def found(**marks):
        hits = engine.search(photos / "disc/0.png", Query(k=6, **marks)).hits
        return sum(hit.label == "checks" for hit in hits)

    right = [f"{photos.name}/checks/{number}.png" for number in range(3)]
    wrong = [f"{photos.name}/disc/{number}.png" for number in range(3)]
    assert found() == 0
    assert found(right=right, wrong=wrong) == 6


def test_unknown_and_odd_marks_are_refused(index, photos):
    engine = Engine(Index.open(index))
    query = str(photos / "disc/0.png")
    with pytest.raises(UnknownIdError, match="nothing"):
        engine.search(query, Query(right=["nothing"]))
    with pytest.raises(ArgumentError, match="collection"):
        engine.search(query, Query(wrong=query))


def test_the_command_line_takes_marks(index, photos, capsys):
    query = str(photos / "disc/0.png")
    marks = ["--right", f"{photos.name}/checks/1.png", "--wrong", f"{photos.name}/disc/1.png"]
    assert cli.main(["search", str(index), query, "--json", "-k", "3", *marks]) == cli.DONE
    answer = json.loads(capsys.readouterr().out)
    engine = Engine(Index.open(index, runtime="onnxruntime"))
    wanted = engine.search(query, Query(k=3, right=marks[1:2], wrong=marks[3:]))
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in wanted.hits]
    assert "histogram" not in answer
