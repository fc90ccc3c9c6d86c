"""The box of words: ways from a text to images, and one order of what they find."""

import json
import shutil
import time
import types

import numpy as np
import pytest

from hashnet import images
from hashnet.cli import main
from hashnet.errors import ArgumentError, HashnetError, UnknownIdError
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder import text_index
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.texts import Line, Texts
from hashnet.retrieval.words import plain
from hashnet.retrieval.words.box import WordBox
from hashnet.retrieval.words.fusion import fused
from hashnet.retrieval.words.way import NAMES, Matches
from tests.fixtures import GOLDEN


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


def test_what_is_written_comes_before_what_is_guessed():
    written = Matches(np.array([9, 8]), np.array([2, 1], "f4"))
    guessed = Matches(np.array([1, 8]), np.array([5, 4], "f4"))
    best = fused({"ocr": written, "class": guessed, "learned": guessed})
    assert best.rows.tolist() == [8, 9, 1]  # by all three, by what is written, by two guesses
    assert np.allclose(best.scores, [1 / 62 + 0.8 / 62, 1 / 61, 0.8 / 61])


def test_what_ways_found_is_one_answer(index):
    ways = [
        Way("name", [1, 0], [2, 1]),
        Way("ocr", [0], [5], regions=lambda rows: [(1, 2, 3, 4)] * len(rows)),
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


# What is written


@pytest.fixture
def filled(index):
    """A function that gives images of the index of these ids their texts; returns the index."""

    def fill(texts_of):
        with index.store.writer() as writer, index.store.snapshot() as snapshot:
            items = snapshot.items(snapshot.rows(["a"] * len(texts_of)))
            items = [
                item._replace(id=id, label=None, texts=texts)
                for item, (id, texts) in zip(items, texts_of.items(), strict=True)
            ]
            writer.copy(items, ["a"] * len(items))
        return index

    return fill


def ids(result):
    return [hit.id for hit in result]


def test_names_captions_and_what_was_read_are_found(filled):
    box = (3, 4, 50, 60)
    index = filled(
        {
            "beers/Sierra_Nevada.jpg": None,
            "x1": Texts(given="Sierra Nevada, at home"),
            "x2": Texts(beside="a crate", inside="of Nevada"),
            "x3": Texts(lines=(Line("SIERRANEVADA", box, 0.9), Line("12 OZ", (0, 0, 2, 2), 0.9))),
        }
    )
    result = index.search_text("sierra nevada", k=9)
    assert {hit.id: hit.ways for hit in result} == {
        "beers/Sierra_Nevada.jpg": ("name",),
        "x1": ("caption",),
        "x2": ("caption",),
    }
    assert ids(result)[-1] == "x2"  # half of the words
    assert result.missing["ocr"] == "it was made without --ocr"


def test_what_has_all_of_a_text_comes_before_what_has_little_of_it_in_many_ways(filled):
    index = filled(
        {
            "beer/the_lucky_monk.jpg": None,
            "x1": Texts(given="hat of uncle Göran on the beach"),
            "beer/amber_ale.jpg": Texts(given="an ale of amber"),
            "beer/2.jpg": Texts(given="a pale ale"),
        }
    )
    assert ids(index.search_text("hat of uncle göran on the beach"))[0] == "x1"
    assert ids(index.search_text("pale ale"))[:2] == ["beer/2.jpg", "beer/amber_ale.jpg"]


def test_trigrams_that_stand_here_and_there_are_no_word(filled):
    index = filled({"x1": Texts(given="fog, Ostend, water, RS"), "x2": Texts("fostrs")})
    assert ids(index.search_text("fosters")) == ["x2"]


def test_what_was_read_is_found_where_it_stands(bundle_folder, tmp_path):
    store = Store.create(
        tmp_path / "index", num_bits=32, feature_dim=64, fingerprint="f", ocr="reader"
    )
    lines = (
        Line("SIERRANEVADA", (3, 4, 50, 60), 0.9),
        Line("pale ale", (50, 2, 70, 30), 0.5),
        Line("12 OZ", (0, 0, 2, 2), 0.9),
        Line("NEVADA", (90, 4, 95, 60), 0.9),
        Line("PALE", (90, 4, 95, 60), 0.9),  # as in the line before
    )
    with store.writer() as writer:
        items = [Item("a", texts=Texts(lines=lines)), Item("b", texts=Texts(lines=()))]
        writer.add(items, np.zeros((2, 4), "u1"), np.ones((2, 64), "f4"))
    engine = Engine(types.SimpleNamespace(store=store))
    box = WordBox(engine)
    assert box.missing["caption"] == "no image has a caption; see index --captions"
    [hit] = box.search("nevada")
    # The very word, and not what has it within; of equal lines the first.
    assert (hit.id, hit.ways, hit.region) == ("a", ("ocr",), (90, 4, 95, 60))
    assert box.search("Pale Nevada")[0].region == (50, 2, 95, 60)
    assert box.search("siera")[0].region == (3, 4, 50, 60)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("brewery", ["word", "misread"]),  # the very word first
        ("brevery", ["misread", "word"]),
        ("狗", ["dog", "puppies"]),
        ("啤酒", ["beer"]),
        ("黑啤酒", ["beer"]),
        ("酒啤", []),
        ("강아지", ["korean"]),
        ("ÉCLAIR", ["cake"]),
        ("é", []),
        ("zzzz", []),
        ('"brewery" OR x*', ["word", "misread"]),
        ("-!?", []),
        ("brewery of the word that nobody wrote", ["word", "misread"]),
    ],
)
def test_words_are_found_though_letters_differ(filled, text, wanted):
    index = filled(
        {
            "word": Texts("the brewery"),
            "misread": Texts("the brevery"),
            "dog": Texts("狗"),
            "puppies": Texts("两只小狗在睡觉"),
            "beer": Texts("青岛啤酒"),
            "cake": Texts("un éclair"),
            "korean": Texts("강아지는 귀엽다"),
        }
    )
    found = [hit.id for hit in index.search_text(text) if "caption" in hit.ways]
    assert found[: len(wanted)] == wanted and bool(found) == bool(wanted)


def test_names_are_of_files_and_the_folders_below_a_root(bundle_folder, tmp_path):
    index = Index.create(tmp_path / "photos.index", bundle_folder)
    (tmp_path / "secret/holiday").mkdir(parents=True)
    images.write(tmp_path / "secret/holiday/beach.png", np.zeros((9, 9, 3), np.uint8))
    index.update([tmp_path / "secret"])
    assert ids(index.search_text("beach holiday")) == ["secret/holiday/beach.png"]
    # What a service shows no name of is nothing to search by.
    assert not index.search_text("secret") and not index.search_text("png")


@pytest.mark.thorough
def test_very_many_short_words_take_no_time(index):
    """Nothing has one of them, and all texts have words that begin like them."""
    rng, letters = np.random.default_rng(0), "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choice(list(letters), 6)) for _ in range(20_000)]
    items = [
        Item(f"r/{row}", None, None, texts=Texts(" ".join(rng.choice(words, 150))))
        for row in range(500)
    ]
    with index.store.writer() as writer:
        writer.add(items, np.zeros((500, 4), np.uint8), np.ones((500, 64), np.float16))
    asked = " ".join(a + b for a in letters[:13] for b in letters)[:999]
    before = time.process_time()
    assert not Index.open(index.store.folder).search_text(asked).hits
    assert time.process_time() - before < 4


def test_rare_words_count_more(filled):
    index = filled({f"x{n}": Texts("pale ale") for n in range(20)} | {"y": Texts("stone")})
    result = index.search_text("stone pale ale", k=3)
    assert ids(result)[0] == "y"
    assert len(index.search_text("pale", k=30)) == 20


def test_a_word_that_nobody_wrote_is_answered_with_one_spelled_like_it(filled):
    index = filled({"x": Texts("the Brewery of Hildesheim"), "y": Texts("a cat")})
    assert index.search_text("hldshaim").suggestions == ("hildesheim",)
    assert not index.search_text("qqqqqq").suggestions


@pytest.mark.parametrize("fewest", [1, 1000])  # kept on the disk, and read from the rows
def test_texts_follow_what_becomes_of_their_images(filled, monkeypatch, fewest):
    monkeypatch.setattr(text_index, "_FEWEST_ROWS", fewest)
    index = filled({"x": Texts("walrus"), "y": Texts("walrus too")})

    def found():
        return sorted(ids(index.search_text("walrus")))

    assert found() == ["x", "y"]
    index.add([np.zeros((9, 9, 3), np.uint8)], ids=["other"])  # what comes later is looked up, too
    assert len(list(index.store.folder.glob("texts-*"))) == (fewest == 1)
    assert found() == ["x", "y"]
    index.remove("x")
    assert found() == ["y"]
    filled({"y": Texts("whale"), "z": Texts("walrus at last")})
    assert found() == ["z"]
    with index.store.writer() as writer:
        writer.compact()
    assert found() == ["z"]  # before what is looked up by follows
    assert main(["compact", str(index.store.folder)]) == 0
    assert main(["check", str(index.store.folder)]) == 0
    assert found() == ["z"]
    assert index.search_text("walrus", ids=["y"]).found == 0


@pytest.mark.parametrize("version", range(1, 8))
def test_indexes_of_every_format_are_searched_by_what_is_written(version):
    store = Store.open(GOLDEN / f"index_v{version}")
    box = WordBox(Engine(types.SimpleNamespace(store=store)))
    assert [way.name for way in box.ways][:2] == ["label", "name"]
    assert (version < 7) == box.missing.get("caption", "").startswith("an index of format")
    with store.snapshot() as snapshot:
        names = [id for id in snapshot.ids() if len(id) > 3]
    assert all(box.search(name)[0].id == name for name in names)
    if version < 7:
        assert "b" not in ids(box.search("cat"))
    else:
        assert ids(box.search("pale äle"))[0] in ("a", "d")


# The command


def test_the_command_searches_in_words(run, index, tmp_path):
    place = index.store.folder
    status, out, err = run("search", place, "--text", "dog", "--json")
    answer = json.loads(out)
    assert (status, err, answer["query"], answer["found"]) == (0, "", "dog", 1)
    assert answer["hits"][0]["id"] == "b" and answer["hits"][0]["ways"] == ["label"]
    assert answer["missing"]["ocr"] == "it was made without --ocr"
    picture = tmp_path / "hits.png"
    status, out, err = run("search", place, "--text", "dog cat", "--picture", picture)
    assert status == 0 and "0 of 0 images" in out and picture.exists()
    assert "not searched by ocr: it was made without --ocr" in err
    _, out, _ = run("search", place, "--text", "CAT", "-k", 1)
    assert out.splitlines()[1] == "   1  0.0164  label  [Cat]  a"
    _, _, err = run("search", place, "--text", "kat")
    assert "known, and like it: Cat" in err


def test_the_command_takes_words_or_a_picture(run, index, tmp_path):
    place = index.store.folder
    status, _, err = run("search", place)
    assert status == 2 and "neither QUERY nor --text" in err
    assert "--by-id and no QUERY" in run("search", place, "--by-id", "--text", "cat")[2]
    assert "letters" in run("search", place, "--text", "")[2]
    assert "verify" in run("search", place, "--text", "cat", "--verify")[2]
    other = tmp_path / "other.index"
    shutil.copytree(place, other)
    status, _, err = run("search", place, "--also", other, "--text", "cat")
    assert status == 2 and "one index at a time" in err


def test_info_says_how_an_index_is_searched_in_words(run, index):
    _, out, _ = run("info", index.store.folder, "--json")
    assert json.loads(out)["ways"][:2] == ["label", "name"]
    assert "ocr: it was made without --ocr" in " ".join(run("info", index.store.folder)[1].split())
