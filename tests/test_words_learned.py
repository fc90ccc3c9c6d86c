"""What an index learns from its captions: photos without one are found by those of others."""

import hashlib
import io
import types
import zlib

import numpy as np
import pytest

from hashnet import cli
from hashnet.api import Index
from hashnet.retrieval.words import learned, sentence
from hashnet.retrieval.words.learned import LearnedWay, fit

KINDS = ("red boat", "green tree", "grey stone", "white house")
DIM = 64


def vector(text):
    """A sum of what its words are, of length 1."""
    words = [
        np.random.default_rng(zlib.crc32(one.encode())).normal(size=sentence.DIM)
        for one in text.split()
    ]
    total = np.sum(words, axis=0) if words else np.ones(sentence.DIM)
    return (total / np.linalg.norm(total)).astype(np.float32)


@pytest.fixture
def sentences(monkeypatch):
    """A sentence network that is installed; counts its texts."""
    asked = []

    def vectors(texts):
        texts = list(texts)
        asked.extend(texts)
        return np.stack([vector(text) for text in texts])

    monkeypatch.setattr(sentence, "missing", lambda: None)
    network = types.SimpleNamespace(vectors=vectors, knows=lambda word: True)
    monkeypatch.setattr(sentence, "opened", lambda: network)
    return asked


def features(number, seed=0):
    """Of photos of all kinds in turn: float32 `(number, DIM)`."""
    random = np.random.default_rng(seed)
    vectors = random.normal(0, 0.1, (number, DIM)) + 0.3
    vectors[np.arange(number), np.arange(number) % len(KINDS)] += 3
    return vectors.astype(np.float32)


@pytest.fixture
def index(bundle_folder, tmp_path):
    """240 photos of four kinds, without captions."""
    return Index.of_vectors(tmp_path / "photos.index", features(240), bundle=bundle_folder)


def captions(start, end):
    return {str(one): f"a {KINDS[one % len(KINDS)]} number{one}" for one in range(start, end)}


def test_photos_without_captions_are_found_by_what_others_say(index, sentences):
    assert "100 captions" in index.words.missing["learned"]
    index.caption(captions(0, 99))
    assert "learned" in index.words.missing and not sentences
    index.caption(captions(99, 120))
    assert len(sentences) == 120 and "learned" not in index.words.missing
    way = LearnedWay(index.engine)
    for place, kind in enumerate(KINDS):
        found = way.find(kind, 40, None)
        assert set(found.rows[:10] % len(KINDS)) == {place}
        assert (np.diff(found.scores) <= 0).all()
        result = index.search_text(kind, k=100)
        without = [hit for hit in result if int(hit.id) >= 120]
        assert without and {hit.ways for hit in without} == {("learned",)}
        among = way.find(kind, 40, index.engine.finder.allowed(ids=["200", "201", "202", "203"]))
        assert among.rows[0] % len(KINDS) == place


def test_a_map_is_fitted_again_when_captions_have_grown_by_half(index, sentences):
    index.caption(captions(0, 100))
    assert len(sentences) == 100
    index.caption(captions(100, 149))
    assert len(sentences) == 100
    index.caption(captions(149, 150))
    assert len(sentences) == 250
    again = Index.open(index.store.folder)
    assert LearnedWay(again.engine).find("boat", 9, None).rows.tolist() == (
        LearnedWay(index.engine).find("boat", 9, None).rows.tolist()
    )


def test_of_many_captions_some_are_learned_from(index, sentences, monkeypatch):
    monkeypatch.setattr(learned, "MOST", 110)
    index.caption(captions(0, 240))
    assert len(sentences) == len(set(sentences)) == 110


def test_equal_captions_are_read_once_and_count_each(index, sentences):
    index.caption({str(one): KINDS[one % len(KINDS)] for one in range(120)})
    assert sorted(sentences) == sorted(KINDS)
    found = LearnedWay(index.engine).find("green tree", 10, None)
    assert set(found.rows % len(KINDS)) == {1}


def test_words_beside_a_picture_may_be_those_of_captions(index, sentences):
    index.caption(captions(0, 120))
    plain = index.search("0", k=10)
    assert {int(hit.id) % len(KINDS) for hit in plain} == {0}
    moved = index.search("0", k=10, text="white house", text_weight=0.9)
    assert {int(hit.id) % len(KINDS) for hit in moved} == {3}


def test_where_sentences_have_no_vectors_nothing_is_learned(index, monkeypatch):
    monkeypatch.setattr(sentence, "missing", lambda: "not installed")
    index.caption(captions(0, 150))
    assert index.words.missing["learned"] == "not installed"
    assert not (index.store.folder / learned.FILE).exists()


def test_a_damaged_map_is_found_and_made_anew(index, sentences, capsys):
    index.caption(captions(0, 120))
    path = index.store.folder / learned.FILE
    content = path.read_bytes()
    for damaged in (content[:-1], content[:50] + b"x" + content[51:], b""):
        path.write_bytes(damaged)
        assert cli.main(["check", str(index.store.folder)]) == 1
        assert "captions.map is damaged" in capsys.readouterr().out
        assert "is damaged" in Index.open(index.store.folder).words.missing["learned"]
    index.caption(captions(120, 121))
    assert path.read_bytes() != b"" and cli.main(["check", str(index.store.folder)]) == 0
    assert "learned" not in Index.open(index.store.folder).words.missing


def resaved(stored, **changed):
    """The content of a map with other arrays, or without those that are None; its checksum fits."""
    with np.load(io.BytesIO(stored[32:])) as arrays:
        kept = {name: value for name, value in {**arrays, **changed}.items() if value is not None}
    content = io.BytesIO()
    np.savez(content, **kept)
    return sealed(content.getvalue())


def sealed(content):
    return hashlib.sha256(content).digest() + content


@pytest.mark.fast("<lambda>0", "<lambda>6", "<lambda>9")
@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: sealed(b""),
        lambda stored: sealed(b"no zip"),
        lambda stored: sealed(stored[32:-30]),
        lambda stored: resaved(stored, kernel=None),
        lambda stored: resaved(stored, made=None),
        lambda stored: resaved(stored, num_captions=np.array("many")),
        lambda stored: resaved(stored, mean=np.zeros((3, 3), np.float32)),
        lambda stored: resaved(stored, kernel=np.zeros((sentence.DIM, DIM + 1), np.float16)),
        lambda stored: resaved(stored, mean=np.full(sentence.DIM, np.nan, np.float32)),
        lambda stored: resaved(stored, kernel=np.full((sentence.DIM, DIM), "x")),
    ],
)
def test_a_map_that_is_none_is_damaged_though_its_checksum_fits(index, sentences, damage, capsys):
    index.caption(captions(0, 120))
    path = index.store.folder / learned.FILE
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert cli.main(["check", str(index.store.folder)]) == 1
    assert "captions.map is damaged; hashnet refit" in capsys.readouterr().out
    again = Index.open(index.store.folder)
    result = again.search_text("number7")
    assert result[0].id == "7" and "is damaged" in result.missing["learned"]
    assert cli.main(["info", str(index.store.folder)]) == 0
    again.caption(captions(0, 121))
    assert cli.main(["check", str(index.store.folder)]) == 0
    assert "learned" not in Index.open(index.store.folder).words.missing


def test_a_damaged_map_goes_where_there_are_too_few_captions_for_another(index, sentences):
    index.caption(captions(0, 120))
    path = index.store.folder / learned.FILE
    path.write_bytes(b"")
    index.caption({str(one): "" for one in range(50)})
    assert not path.exists() and cli.main(["check", str(index.store.folder)]) == 0


def test_a_disk_that_refuses_the_map_keeps_the_captions(index, sentences, monkeypatch):
    def refused(path):
        raise OSError("no space")

    monkeypatch.setattr(learned.files, "whole_file", refused)
    assert index.caption(captions(0, 120)).captioned == 120
    assert "learned" in index.words.missing
    assert index.search_text("number7")[0].id == "7"


def test_a_map_outlives_a_compaction(index, sentences):
    index.caption(captions(0, 200))
    index.remove([str(one) for one in range(60)])
    assert cli.main(["compact", str(index.store.folder)]) == 0
    again = Index.open(index.store.folder)
    assert "learned" not in again.words.missing
    found = LearnedWay(again.engine).find("stone", 10, None)
    assert {int(item.id) % 4 for item in again.engine.snapshot.items(found.rows)} == {2}


def test_the_map_is_the_ridge_regression_that_errs_least_where_one_is_left_out():
    random = np.random.default_rng(1)
    texts = random.normal(size=(40, 12)).astype("f4")
    photos = (texts @ random.normal(size=(12, 9)) + random.normal(0, 3, (40, 9))).astype("f4")
    apart = photos - photos.mean(axis=0)
    apart = (apart / np.linalg.norm(apart, axis=1, keepdims=True)).astype(float)

    def solved(rows, wanted, penalty):
        mean, mean_wanted = rows.mean(axis=0), wanted.mean(axis=0)
        about = (rows - mean).astype(float)
        square = about.T @ about + penalty * np.eye(12)
        return mean, mean_wanted, np.linalg.solve(square, about.T @ (wanted - mean_wanted))

    def error(penalty):
        total = 0.0
        for place in range(40):
            rest = np.arange(40) != place
            mean, mean_wanted, kernel = solved(texts[rest], apart[rest], penalty)
            told = (texts[place] - mean) @ kernel + mean_wanted
            total += np.square(apart[place] - told).sum()
        return total

    errors = {penalty: error(40 * penalty) for penalty in learned.PENALTIES}
    best = min(errors, key=errors.get)
    fitted = fit(texts, photos)
    mean, _, kernel = solved(texts, apart, 40 * best)
    assert fitted.num_captions == 40 and np.allclose(fitted.mean, mean, atol=1e-6)
    assert np.allclose(fitted.kernel, kernel, atol=1e-5)
    towards = (texts[3] - mean) @ kernel
    assert np.allclose(fitted.direction(texts[3]), towards / np.linalg.norm(towards), atol=1e-5)
