"""Words in a table: what is written is kept there and found as in a folder."""

import json
import shutil
import types

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.api import Index
from hashnet.errors import StoreError
from hashnet.ocr import reader
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.service.app import create_app
from hashnet.retrieval.store.clickhouse import store as clickhouse
from hashnet.retrieval.store.clickhouse import tables
from hashnet.retrieval.store.clickhouse import writer as writers
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.kinds import kind_of
from hashnet.retrieval.store.texts import Line, Texts
from hashnet.retrieval.words.box import WordBox
from tests import test_written
from tests.test_clickhouse import killed_at, refit
from tests.test_engine_verify import thing
from tests.test_words_learned import captions, features, sentences  # noqa: F401

NUM = 120
WORDS = (
    "pale",
    "ale",
    "sierra",
    "nevada",
    "o'hara's",
    "啤酒",
    "brewery",
    "straße",
    "12",
    "Cafe\u0301",
)
QUERIES = (
    "pale ale",
    "nevda",
    "sierra nevada brewery",
    "啤酒",
    "STRASSE 12",
    "ohara",
    "café",
    "zebra",
    "sierre",
    "cat",
    "i7",
    "'; DROP \\",
    "a",
)
FILTERS = (
    {},
    {"labels": "cat"},
    {"ids": ["b/i7.jpg", "b/i8.jpg", "b/i9.jpg", "nobody"]},
    {"under": "b"},
    {"k": 3},
)


def text(rng):
    return " ".join(WORDS[one] for one in rng.integers(0, len(WORDS), rng.integers(1, 5)))


def lines(rng):
    edges = rng.integers(0, 50, (rng.integers(0, 4), 2)).tolist()
    return tuple(Line(text(rng), (top, left, top + 9, left + 30), 0.5) for top, left in edges)


def items(seed=0, num=NUM):
    """Images of which some have captions, some lines, some both, and some neither."""
    rng = np.random.default_rng(seed)
    return [
        Item(
            f"b/i{n}.jpg",
            f"/photos/b/i{n}.jpg",
            ["cat", "pale Dog", None][n % 3],
            texts=None
            if n % 5 == 0
            else Texts(
                text(rng) if n % 2 else None,
                text(rng) if n % 3 else None,
                None,
                lines(rng) if n % 4 else (),
            ),
        )
        for n in range(num)
    ]


def arrays(num, dim, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num, 4), "u1"), rng.normal(size=(num, dim)).astype("f4")


def filled(place, bundle_folder, **options):
    """An index in several commits, with some images replaced, captioned and removed."""
    index = Index.create(place, bundle_folder, feature_dtype="float32", ocr=True, **options)
    with index.store.writer() as writer:
        writer.add(items(), *arrays(NUM, index.store.feature_dim))
        writer.add(items(1, 30), *arrays(30, index.store.feature_dim, 1))
        writer.update([one._replace(texts=Texts("zebra crossing")) for one in items()[40:44]])
        writer.remove([f"b/i{n}.jpg" for n in range(50, 60)])
    report = index.caption({"b/i70.jpg": "a pale zebra", "b/i71.jpg": "", "nobody": "x"})
    assert report.unknown == ["nobody"] and report.captioned == 2
    return index


@pytest.fixture(scope="module", autouse=True)
def reads():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "require", lambda: None)
        yield


@pytest.fixture(scope="module")
def both(chdb_folder, bundle_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "index"
    return [filled(one, bundle_folder) for one in (folder, f"chdb://{chdb_folder}/texts/both")]


def answer(index, text, filters):
    result = index.search_text(text, **{"k": 2 * NUM} | filters)
    fields = [(hit.id, hit.path, hit.label, hit.ways, hit.region) for hit in result]
    scores = [hit.score for hit in result]
    return fields, scores, result.found, result.missing, result.suggestions


def assert_alike(both, filters):
    for text in QUERIES:
        one, other = (answer(index, text, filters) for index in both)
        assert one == other, text


@pytest.mark.fast("all")
@pytest.mark.parametrize("filters", FILTERS, ids=lambda filters: ",".join(filters) or "all")
def test_what_is_written_is_found_as_in_a_folder(both, filters):
    assert_alike(both, filters)
    assert answer(both[1], "zebra", filters)[0] or "ids" in filters
    for text in ("SIERRA NEVADA\n12", "xxx " + " ".join(map(str, range(300)))):
        found = [
            index.engine.written(text, index.engine.allowed(Query(**filters))) for index in both
        ]
        ids = [
            [item.id for item in index.engine.snapshot.items(one.rows)]
            for index, one in zip(both, found, strict=True)
        ]
        assert ids[0] == ids[1]
        np.testing.assert_array_equal(found[0].shares, found[1].shares)
        assert ids[1]


def test_items_infos_and_filters_are_those_of_a_folder(both):
    assert answer(both[0], "pale ale", FILTERS[2]) == answer(both[1], "pale ale", FILTERS[2])
    listed = [list(index.engine.snapshot.items_in_order()) for index in both]
    assert listed[0] == listed[1] and sum(one.texts is not None for one in listed[1]) > 60
    infos = [index.info() for index in both]
    for name in ("ways", "ways_missing", "ocr"):
        assert infos[0].get(name) == infos[1].get(name)


@pytest.mark.thorough
def test_after_a_compaction_and_a_refit_it_is_found_as_before(
    both, chdb_folder, bundle_folder, tmp_path
):
    place = f"chdb://{chdb_folder}/texts/later"
    table = filled(place, bundle_folder)
    with table.store.writer() as writer:
        writer.compact()
    assert_alike([both[0], Index.open(place)], {})
    contents = list(table.store.snapshot().items_in_order())
    with table.store.writer() as writer:
        writer.recode(
            {path.name: path for path in table.store.encoder_folder.iterdir()},
            table.store.fingerprint,
            lambda features: np.zeros((len(features), 4), np.uint8),
        )
    again = Index.open(place)
    assert again.store.entries.startswith("later-g")
    assert list(again.store.snapshot().items_in_order()) == contents
    assert answer(again, "zebra", {})[:4] == answer(both[0], "zebra", {})[:4]
    with again.store.writer() as writer:
        writer.add(items(2, 5), *arrays(5, again.store.feature_dim))
    assert again["b/i1.jpg"].texts == items(2, 5)[1].texts


@pytest.mark.thorough
def test_regions_have_the_texts_of_their_images_which_are_found_once(
    chdb_folder, bundle_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(writers, "BATCH_BYTES", 1000)  # so that texts decide where it is cut
    found = []
    for place in (tmp_path / "index", f"chdb://{chdb_folder}/texts/regions"):
        kind = kind_of(place)
        store = kind.create(
            place,
            num_bits=32,
            feature_dim=64,
            feature_dtype="float32",
            fingerprint="0123456789",
            regions_per_image=2,
            ocr="reader",
        )
        with store.writer() as writer:
            boxes = [np.array([[0, 0, 9, 9], [5, 5, 9, 9]])] * 20
            writer.add(items(num=20), *arrays(60, 64), None, boxes)
        engine = Engine(types.SimpleNamespace(store=store))
        hits = [(hit.id, hit.ways) for hit in WordBox(engine).search("ale")]
        rows = engine.finder.find(*(one[7] for one in arrays(60, 64)), 20, threshold=99).rows
        assert len({*rows.tolist()} - {*engine.finder.rows().tolist()}) > 3
        texts = {item.id: item.texts for item in engine.snapshot.items(rows)}
        found.append((hits, texts))
    assert found[0] == found[1] and len(found[0][0]) > 5
    assert found[0][1] == {item.id: item.texts for item in items(num=20)}


def test_a_table_learns_of_its_captions_as_a_folder(
    chdb_folder,
    bundle_folder,
    tmp_path,
    sentences,  # noqa: F811
):
    found = []
    for place in (tmp_path / "index", f"chdb://{chdb_folder}/texts/learned"):
        index = Index.create(place, bundle_folder, feature_dtype="float32")
        with index.store.writer() as writer:
            of_photos = index.encoder.encode_vectors(features(200))
            writer.add([Item(str(one)) for one in range(200)], *of_photos)
        assert "learned" in index.words.missing
        index.caption(captions(0, 120))
        hits = [
            [(hit.id, hit.ways) for hit in index.search_text(text, k=150)]
            for text in ("red boat", "green", "stone")
        ]
        assert any(int(id) >= 120 and ways == ("learned",) for id, ways in hits[0])
        found.append(hits)
    assert found[0] == found[1]
    table, asked = Index.open(place), len(sentences)
    assert "learned" not in table.words.missing
    # It is damaged, and made again; fewer captions than it takes, and it goes.
    table.store.write_caption_map(b"x" * 99)
    assert "is damaged" in Index.open(place).words.missing["learned"]
    table.caption(captions(120, 121))
    assert "learned" not in Index.open(place).words.missing and len(sentences) > asked
    with table.store.writer() as writer:
        writer.compact()
    assert table.store.caption_map() is None


@pytest.mark.thorough
@pytest.mark.parametrize("done", [False, True])
def test_captions_given_by_a_killed_writer_are_the_old_ones_or_the_new(
    chdb_folder, bundle_folder, done
):
    """Killed before the n-th statement of captioning and compacting is carried out, or after."""
    place = f"chdb://{chdb_folder}/texts/killed_{done}"
    index = Index.create(place, bundle_folder, feature_dtype="float32")
    with index.store.writer() as writer:
        writer.add(items(num=9), *arrays(9, index.store.feature_dim))
    outcomes, number = [], 0
    while outcomes[-1:] != ["not killed"]:
        before = {item.id: item.texts for item in index.store.snapshot().items_in_order()}
        wanted = {id: f"zebra{number} {id}" for id in before}

        def caption_and_compact(wanted=wanted):
            index.caption(wanted)
            with index.store.writer() as writer:
                writer.compact()

        outcomes.append(killed_at(number, done, caption_and_compact))
        now = Index.open(place)
        found = {item.id: item.texts for item in now.store.snapshot().items_in_order()}
        if found != before:
            assert {id: texts.given for id, texts in found.items()} == wanted
            outcomes[-1] += "" if outcomes[-1] == "not killed" else ", new"
        hits = now.search_text(f"zebra{number}", k=20)
        assert (len(hits) == 9 and hits[0].score > 0.01) == (found != before)
        assert all(hit.ways == ("caption",) for hit in hits)
        number += 1
    assert {*outcomes} >= ({"killed, new"} if done else {"killed", "killed, new"})
    assert number > 4


def test_a_table_of_before_keeps_no_texts_and_says_so(chdb_folder, tmp_path):
    url = f"chdb://{chdb_folder}/before/photos"
    new = ", texts String, spaced_name String, spaced_caption String, spaced_ocr String"
    made = tables.ddl(url, num_bits=16)
    assert sum(new in statement for statement in made) == 1
    tables.execute(url, [statement.replace(new, "") for statement in made])
    options = {"num_bits": 16, "feature_dim": 2, "fingerprint": "0123456789"}
    with pytest.raises(StoreError, match="older version.*clickhouse init"):
        clickhouse.Store.create(url, **options)
    facts = {"format_version": 5, "created": "2026-01-02T03:04:05Z", **options}
    statement = f"INSERT INTO `before`.`photos_encoder` VALUES ('facts', '{json.dumps(facts)}')"
    tables.execute(url, [statement])
    store = clickhouse.Store.open(url)
    given = [Item(f"i{n}", label="cat" if n else None, texts=Texts("a dog")) for n in range(3)]
    with store.writer() as writer:
        writer.add(given, np.zeros((3, 2), "u1"), np.ones((3, 2), "f4"))
        writer.remove(["i2"])
    assert not store.texts and store.ocr is None
    for turn in range(2):
        box = WordBox(Engine(types.SimpleNamespace(store=store)))
        assert [(hit.id, hit.ways) for hit in box.search("Cat")] == [("i1", ("label",))]
        assert not box.search("dog")
        for way in ("name", "caption", "ocr"):
            assert "format version 5 or older" in box.missing[way]
        items = list(store.snapshot().items_in_order())
        assert [item.id for item in items] == ["i0", "i1"] and items[0].texts is None
        if not turn:
            refit(store, tmp_path)
            store = clickhouse.Store.open(url)
            assert store.format_version == 5
            with store.writer() as writer:
                writer.compact()


def test_texts_that_are_none_are_an_error(chdb_folder):
    url = f"chdb://{chdb_folder}/damaged/photos"
    store = clickhouse.Store.create(url, num_bits=16, feature_dim=2, fingerprint="0123456789")
    with store.writer() as writer:
        writer.add([Item("a", texts=Texts("dog"))], np.zeros((1, 2), "u1"), np.ones((1, 2), "f4"))
    cut = "ALTER TABLE `damaged`.`photos` UPDATE texts = substring(texts, 1, 5) WHERE 1"
    tables.execute(url, [cut])
    with pytest.raises(StoreError, match="Texts are as HashNet wrote them"):
        list(store.snapshot().items_in_order())


@pytest.mark.thorough
def test_the_commands_keep_and_find_what_is_written(
    chdb_folder, bundle_folder, photos, tmp_path, capsys
):
    place, folder = f"chdb://{chdb_folder}/texts/commands", tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "disc" / "1.txt").write_text("Rex on the beach")
    (tmp_path / "captions.csv").write_text(f"{folder}/disc/0.png,my own words\n", "utf-8")

    def run(*arguments):
        capsys.readouterr()
        status = cli.main([str(one) for one in arguments])
        return status, capsys.readouterr().out

    def found(text):
        hits = json.loads(run("search", place, "--text", text, "--json")[1])["hits"]
        return [hit["path"] for hit in hits if "caption" in hit["ways"]]

    status, out = run("index", place, folder, "--bundle", bundle_folder)
    assert status == 0 and "24 added" in out
    status, out = run("index", place, "--captions", tmp_path / "captions.csv")
    assert status == 0 and "1 caption given" in out
    one, other = str(folder / "disc/0.png"), str(folder / "disc/1.png")
    assert found("own words") == [one] and found("beach") == [other]
    (folder / "disc" / "1.txt").write_text("Rex at home")
    status, out = run("index", place, folder)
    assert status == 0 and "24 unchanged" in out
    assert found("beach") == [] and found("rex home") == [other]
    (folder / "disc" / "0.png").rename(folder / "disc" / "moved.png")
    assert run("index", place, folder)[0] == 0
    assert found("own words") == [str(folder / "disc/moved.png")]
    lines = [json.loads(line) for line in run("list", place, "--json")[1].splitlines()]
    assert [one["caption"] for one in lines if "caption" in one].count("my own words") == 1
    assert "caption" in json.loads(run("info", place, "--json")[1])["ways"]
    assert run("compact", place)[0] == 0
    assert found("own words") == [str(folder / "disc/moved.png")]


@pytest.mark.thorough
def test_what_is_read_in_photos_and_queries_is_kept_and_found(
    chdb_folder, bundle_folder, tmp_path, monkeypatch
):
    from starlette.testclient import TestClient

    monkeypatch.setattr(reader.Reader, "open", classmethod(lambda _: test_written.Reader()))
    for name, number, colour in (
        ("pale", 0, test_written.PALE),
        ("stout", 1, test_written.STOUT),
        ("blank", 3, None),
    ):
        (tmp_path / "db").mkdir(exist_ok=True)
        pixels = test_written.marked(thing(number), colour)
        images.write(tmp_path / "db" / f"{name}.png", pixels)
    query = test_written.marked(np.full((90, 90, 3), 128, np.uint8), test_written.BLURRED)
    found = []
    for place in (tmp_path / "index", f"chdb://{chdb_folder}/texts/read"):
        index = Index.create(place, bundle_folder, feature_dtype="float32", local="sift", ocr=True)
        assert index.update([tmp_path / "db"]).added == 3
        results = [
            index.search(query, written=True, k=3),
            index.search(query, written=True, verify=True, k=3),
            index.search(query, written=True, under="db", k=3),
            index.search("db/pale.png", written=True, k=3),
        ]
        with TestClient(create_app(place), base_url="http://localhost") as client:
            answer = client.get("/api/search/text?text=oatmeal").json()
        [hit] = answer["hits"]
        assert (hit["id"], hit["ways"]) == ("db/stout.png", ["ocr"])
        found.append(
            [[(hit.id, hit.written, hit.inliers) for hit in result] for result in results]
            + [hit["region"], {item.id: item.texts for item in index.values()}]
        )
    assert found[0] == found[1]
    assert found[1][0][0][0] == "db/stout.png" and found[1][0][0][1] > 0.3
