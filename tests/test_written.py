"""Finding by what is written in a query: how text finds images, and agrees with local features."""

import json

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import ArgumentError, StoreError
from hashnet.ocr import reader
from hashnet.ocr.reader import ReadLine
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.index import Index, open_sharded
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.written import LEAST_SHARE, Written, joined
from hashnet.retrieval.service.app import create_app
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.words.spelling import units
from tests.test_engine_verify import thing, view

# What is read in a picture is told by the colour of its corner.
LINES = {
    (1, 0, 0): ["MOONRISE BREWING", "PALE ALE"],
    (2, 0, 0): ["MOONRISE BREWING", "OATMEAL STOUT"],
    (3, 0, 0): ["HARBOUR COFFEE"],
    (4, 0, 0): ["MOONR1SE BREWING", "0ATMEAL STOUT", "SCANDINAVIA"],
    (5, 0, 0): ["A"],
}
PALE, STOUT, COFFEE, BLURRED, LETTER = LINES


class Reader:
    """Reads what `LINES` say."""

    def read(self, image):
        lines = LINES.get(tuple(image[0, 0].tolist()), [])
        return [ReadLine(text, (0, 0, 9, 9), 0.9) for text in lines]


@pytest.fixture(scope="module", autouse=True)
def reads():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "require", lambda: None)
        patch.setattr(reader.Reader, "open", classmethod(lambda cls: Reader()))
        yield


def marked(image, colour):
    image = image.copy()
    image[0, 0] = colour or 0
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four things; three of them have labels, of which two differ in a name alone."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "db").mkdir()
    for name, number, colour in (
        ("pale", 0, PALE),
        ("stout", 1, STOUT),
        ("coffee", 2, COFFEE),
        ("blank", 3, None),
    ):
        images.write(folder / "db" / f"{name}.png", marked(thing(number), colour))
    return folder


@pytest.fixture(scope="module")
def plain(folder, bundle_folder):
    """An index of the same photos, in which nothing was read."""
    index = Index.create(folder / "plain", bundle_folder, local="sift")
    index.update([folder / "db"])
    return index


@pytest.fixture(scope="module")
def index(folder, bundle_folder):
    index = Index.create(folder / "i", bundle_folder, local="sift", ocr=True)
    index.update([folder / "db"])
    return index


def names(result):
    return [hit.id.split("/")[-1].removesuffix(".png") for hit in result]


def test_shares_are_the_weight_of_the_trigrams_that_an_image_has(index):
    engine = index.engine
    found = engine.written("MOONR1SE BREWING 0ATMEAL STOUT SCANDINAVIA", None)
    texts = {
        row: {one for line in item.texts.lines for word in units(line.text) for one in word}
        for row, item in enumerate(engine.snapshot.items(np.arange(4)))
    }
    asked = {one for word in units("MOONR1SE BREWING 0ATMEAL STOUT SCANDINAVIA") for one in word}
    having = {one: sum(one in of for of in texts.values()) for one in asked}
    weights = {one: np.log(1 + 4 / count) for one, count in having.items() if count}
    wanted = {
        row: sum(weights.get(one, 0) for one in of & asked) / sum(weights.values())
        for row, of in texts.items()
    }
    assert found.rows.tolist() == [row for row, share in wanted.items() if share]
    assert found.shares == pytest.approx([share for share in wanted.values() if share])
    assert len(engine.written("", None).rows) == 0
    [row] = engine.snapshot.rows(["db/coffee.png"]).tolist()
    assert engine.written("HARB", None).of(np.array([row])) == pytest.approx(4 / 6)  # of little


def test_what_both_tell_comes_first_and_what_neither_tells_is_left_out():
    inliers, shares = np.array([97, 73, 0, 0, 20]), np.array([0.4, 0.9, LEAST_SHARE, 0.29, 0])
    assert joined(inliers, shares).tolist() == [1, 0, 2, 4]
    assert joined(np.zeros(3, int), np.array([0.5, 0.9, 0.5])).tolist() == [1, 0, 2]
    assert joined(np.array([5, 9]), np.zeros(2)).tolist() == [1, 0]  # as without any text
    assert joined(np.empty(0, int), np.empty(0)).tolist() == []
    written = Written(np.array([2, 5, 8]), np.array([0.9, 0.1, 0.9]))
    assert written.best(9).tolist() == [2, 8] and written.best(1).tolist() == [2]
    assert Written(np.empty(0, int), np.empty(0)).of(np.array([1])).tolist() == [0]


def test_a_photo_finds_the_label_in_which_the_same_was_read(index):
    photo = marked(np.full((90, 90, 3), 128, np.uint8), BLURRED)
    result = index.search(photo, written=True, k=4)
    assert names(result)[0] == "stout" and result[0].inliers is None
    assert result[0].written > result[1].written > 0 == result[3].written
    assert result.milliseconds["read"] >= 0 and "written" in repr(result)
    # The others follow as they were, and without words all are as they were.
    plain = index.search(photo, k=4)
    first = names(result)[: sum(hit.written >= LEAST_SHARE for hit in result)]
    assert names(result)[len(first) :] == [one for one in names(plain) if one not in first]
    assert all(hit.written is None for hit in plain) and "read" not in plain.milliseconds
    nothing = index.search(marked(thing(7), None), written=True, k=4)
    assert [hit.written for hit in nothing] == [0] * 4
    assert names(nothing) == names(index.search(marked(thing(7), None), k=4))
    assert index.search(marked(thing(7), LETTER), written=True)[0].written == 0


@pytest.mark.parametrize("kind", ["verify", "same_object"])
def test_text_decides_among_what_local_features_find(index, folder, kind):
    """The photo shows the thing of the coffee, and on it is written what the stout's label says."""
    photo = marked(view(2), None)
    [hit] = index.search(photo, k=1, written=True, **{kind: True})
    assert names([hit]) == ["coffee"] and hit.inliers > 0 and hit.written == 0
    both = index.search(marked(view(2), BLURRED), k=4, written=True, **{kind: True})
    assert names(both)[:2] == ["coffee", "stout"] and both[1].written > LEAST_SHARE
    same = index.search(marked(view(1), BLURRED), k=4, written=True, **{kind: True})
    assert names(same)[0] == "stout" and same[0].inliers > 0
    alone = index.search(marked(view(2), BLURRED), k=4, **{kind: True})
    assert names(alone)[0] == "coffee" and alone[0].written is None


def test_filters_hold_and_a_small_pool_does_not_hide_what_is_written(index):
    photo = marked(view(3), BLURRED)
    first = index.search(photo, k=1, pool=1, written=True, verify=True, verify_top=4)
    assert names(first) == ["blank"]
    two = index.search(photo, k=2, pool=1, written=True, verify=True, verify_top=4)
    assert names(two) == ["blank", "stout"]
    some = index.search(photo, written=True, ids=["db/coffee.png", "db/blank.png"])
    assert sorted(names(some)) == ["blank", "coffee"]
    near = index.search(photo, written=True, threshold=1)
    assert "stout" not in names(near)


def test_what_is_found_by_its_text_is_kept_though_it_looks_unlike(folder, unsupervised_bundle):
    index = Index.create(folder / "graded", unsupervised_bundle, ocr=True)
    index.update([folder / "db"])
    rng = np.random.default_rng(0)
    features = rng.normal(0.05, 0.01, (60, index.store.feature_dim)).astype(np.float16)
    codes, _ = index.encoder.encode_vectors(features.astype(np.float32))
    with index.store.writer() as writer:
        writer.add([Item(f"other/{n}") for n in range(60)], codes, features)
    index = Index.open(folder / "graded")
    noise = marked(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), STOUT)
    like = index.engine.search(noise, Query(until_unlike=True, k=64))
    assert not {"stout", "pale"} & set(names(like))
    read = index.engine.search(noise, Query(until_unlike=True, k=64, written=True))
    assert {"stout", "pale"} <= set(names(read))


def test_an_image_of_the_index_is_read_there(index):
    with_words = index.search("db/pale.png", written=True, k=3)
    assert names(with_words)[0] == "stout" and len(with_words) == 3
    engine = index.engine
    code, feature = engine.index.encoder.encode_one(thing(5))
    found = engine.search_encoded(code, feature, Query(written=True), lines=["OATMEAL STOUT"])
    assert names(found)[0] == "stout" and found[0].written == 1
    with pytest.raises(ArgumentError, match="written=True for a code"):
        engine.search_encoded(code, feature, Query(written=True))


def test_where_nothing_was_read_it_is_refused(index, folder, plain):
    for by in (thing(1), "db/pale.png"):
        with pytest.raises(StoreError, match="index --ocr"):
            plain.search(by, written=True)
    with pytest.raises(ArgumentError, match="one index is searched at a time"):
        open_sharded([folder / "i", folder / "plain"]).search(thing(1), Query(written=True))
    with pytest.raises(ArgumentError, match="one index"):
        Engine(index).search_id("db/pale.png", Query(written=True))
    with pytest.raises(ArgumentError, match="written is True or False"):
        Query(written=1)
    with pytest.raises(ArgumentError, match="measured beside verification"):
        evaluate(index, [folder], Query(written=True))
    with pytest.raises(StoreError, match="index --ocr"):
        evaluate(plain, [folder], Query(written=True, verify=True))


def test_the_command_and_the_evaluation_read_their_queries(index, folder, run):
    (folder / "queries").mkdir()
    for name, number, colour in (("stout", 1, BLURRED), ("pale", 6, PALE)):
        images.write(folder / "queries" / f"{name}.png", marked(view(number), colour))
    place = folder / "i"
    status, out, _ = run("search", place, folder / "queries/pale.png", "--written", "--json")
    assert status == 0
    [first, *_] = json.loads(out)["hits"]
    assert first["id"] == "db/pale.png" and first["written"] == 1
    _, out, _ = run("search", place, folder / "queries/pale.png", "--written")
    assert "1.00 written" in out and "read " in out
    truth = folder / "truth.json"
    truth.write_text('{"pale.png": ["db/pale.png"], "stout.png": ["db/stout.png"]}')
    asked = "evaluate", place, folder / "queries", "--ground-truth", truth, "--verify"
    _, out, _ = run(*asked, "--written")
    [verified] = [line.split() for line in out.splitlines() if line.startswith("coarse, fine, ver")]
    [written] = [line.split() for line in out.splitlines() if line.startswith("verified, and")]
    assert written[3] == "1.0000" > verified[3]
    report = evaluate(
        index,
        [folder / "queries"],
        Query(verify=True, written=True),
        ground_truth=truth,
    )
    assert report.stages.figures["written"]["found_at_1"] == 1
    assert report.stages.milliseconds["read"] >= 0 and "written: as verified" in report.protocol
    without = evaluate(index, [folder / "queries"], Query(verify=True), ground_truth=truth)
    assert "written" not in without.stages.figures and "written" not in without.protocol


def test_the_service_reads_its_queries(index, folder, plain):
    from starlette.testclient import TestClient

    content = (folder / "db/pale.png").read_bytes()
    files = {"image": ("pale.png", content, "image/png")}
    with TestClient(create_app(folder / "i"), base_url="http://localhost") as client:
        answer = client.post("/api/search", files=files, data={"written": "true"}).json()
        assert answer["hits"][0]["written"] == 1 and answer["milliseconds"]["read"] >= 0
        answer = client.get("/api/search?id=db/pale.png&written=true").json()
        assert next(hit["id"] for hit in answer["hits"]) == "db/stout.png"
    with TestClient(create_app(plain.store.folder), base_url="http://localhost") as client:
        refused = client.get("/api/search?id=db/pale.png&written=true")
        assert refused.status_code == 409 and "index --ocr" in refused.json()["error"]
