"""Search in words by a pair of networks that the user brings, for pictures and for texts."""

import json
import shutil
import sys

import numpy as np
import pytest

from hashnet import cli
from hashnet.api import Index
from hashnet.errors import ArgumentError, BundleError, HashnetError, WeightsError
from hashnet.network import bundle, onnx_graph, own_backbones, own_text
from hashnet.retrieval.words import nearest
from hashnet.retrieval.words.paired import NetworkWay
from tests.own_networks import (
    COLOURS,
    DIM,
    TOKENS,
    VOCABULARY,
    colours,
    tokenizer,
    write_colours,
    write_pair,
    write_table,
    write_texts,
)

pytest.importorskip("tokenizers", reason='pip install "hashnet[text]"')


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path / "pair")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory):
    """Of an index that no test changes."""
    folder = tmp_path_factory.mktemp("index")
    pair = write_pair(folder / "pair")
    return Index.of_photos(folder / "i", photos, backbone=pair, bits=16).store.folder


@pytest.fixture
def index(folder):
    return Index.open(folder)


def test_a_word_finds_what_shows_it_and_both_networks_travel_along(photos, pair, tmp_path):
    index = Index.of_photos(tmp_path / "i", photos, backbone=pair, bits=16)
    for name in COLOURS:
        result = index.search_text(name, k=15)
        assert colours(result) == [name] * 15
        assert {hit.ways for hit in result} == {("network",)}
    among = [hit.id for hit in index.search_text("green", k=60)][40:43]
    assert {hit.id for hit in index.search_text("green", ids=among)} == set(among)
    before = index.search_text("blue", k=60)
    index.refit(seed=1)
    index.remove([hit.id for hit in index.search_text("green", k=10)])
    assert cli.main(["compact", str(tmp_path / "i")]) == 0
    for file in pair.parent.iterdir():
        file.unlink()
    again = Index.open(tmp_path / "i")
    assert colours(again.search_text("green", k=10)) == ["green"] * 10
    assert [hit.id for hit in again.search_text("blue", k=20)] == [hit.id for hit in before[:20]]
    assert cli.main(["check", str(tmp_path / "i")]) == 0
    kept = again.store.encoder_folder / own_text.NETWORK
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert cli.main(["check", str(tmp_path / "i")]) == 1
    with pytest.raises(BundleError, match=r"text\.onnx"):
        Index.open(tmp_path / "i").search_text("blue")


def test_scores_are_the_cosines_of_features(index):
    found = NetworkWay(index.engine).find("red photo", 60, None)
    words = np.zeros((1, DIM))
    words[0, :3] = np.array(COLOURS["red"]) / 255
    words[0, -1] = -0.05 * 5  # of a photo of red photo
    text = words[0] / np.linalg.norm(words[0])
    features = index.features().astype(np.float64)[found.rows]
    cosines = features @ text / np.linalg.norm(features, axis=1)
    assert len(found.rows) == 60 and np.allclose(found.scores, cosines, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all()


def test_a_text_goes_coarse_to_fine(index, monkeypatch):
    monkeypatch.setattr(nearest, "default_pool", lambda k, number, by_certainty: 12)
    finder, pools = index.engine.finder, []

    def find(*arguments, **options):
        pools.append(options["at_least"])
        return type(finder).find(finder, *arguments, **options)

    monkeypatch.setattr(finder, "find", find, raising=False)
    for name in COLOURS:
        rows = NetworkWay(index.engine).find(name, 5, None).rows
        assert colours(index.engine.snapshot.items(rows)) == [name] * 5
    assert pools == [12, 12, 12]


def test_a_word_moves_a_picture(index, photos):
    assert set(colours(index.search(photos / "0.png", k=5))) == {"red"}
    moved = index.search(photos / "0.png", k=5, text="blue", text_weight=0.95)
    assert set(colours(moved)) == {"blue"}


def test_commands_say_it(photos, pair, tmp_path, capsys):
    place = str(tmp_path / "i")
    command = ["index", place, str(photos), "--backbone", str(pair), "--bits", "16"]
    assert cli.main(command) == 0
    capsys.readouterr()
    assert cli.main(["search", place, "--text", "Red\u0007\n", "-k", "1", "--json"]) == 0
    [hit] = json.loads(capsys.readouterr().out)["hits"]
    assert (hit["ways"], int(hit["id"].rpartition("/")[2][:-4]) % 3) == (["network"], 0)
    assert cli.main(["info", place, "--json"]) == 0
    assert "network" in json.loads(capsys.readouterr().out)["ways"]
    with pytest.raises(ArgumentError, match="1,000 letters"):
        Index.open(place).search_text("red " * 250_000)


def test_long_texts_are_cut_to_the_tokens_that_the_network_takes(pair):
    part = own_text.beside(pair, DIM)
    network = own_text.TextNetwork(part, DIM)
    cut = network.vector("red photo of blue blue blue blue")
    assert np.allclose(cut, network.vector("red photo of"), atol=1e-6)
    assert not np.allclose(cut, network.vector("red"), atol=1e-3)


def test_without_tokenizers_one_line_says_what_to_install(folder, photos, pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setattr(own_text.extras, "is_installed", lambda name: name != "tokenizers")
    index = Index.open(folder)
    assert index.words.missing["network"] == (
        'no tokenizers; install it: pip install "tokenizers>=0.15"'
    )
    assert set(colours(index.search(photos / "0.png", k=3))) == {"red"}
    with pytest.raises(HashnetError, match=r'pip install "tokenizers'):
        own_backbones.opened(pair)


def test_a_network_without_texts_says_so(photos, pair, tmp_path):
    toml = pair.with_suffix(".toml")
    toml.write_text(toml.read_text().partition("[text]")[0])
    index = Index.of_photos(tmp_path / "i", [photos / "0.png"], backbone=pair, bits=8)
    assert index.words.missing["network"] == "its network came without one for texts"


def test_a_transformer_that_reads_up_to_its_last_token_is_taken(pair):
    """As CLIP's: what comes later is masked, and the token of the highest number stands for all."""
    rng = np.random.default_rng(2)
    builder = onnx_graph.Builder()
    words = rng.normal(size=(len(VOCABULARY), DIM)).astype("f4")
    tokens = builder.take("t", "int64", ["n", None])
    x = builder.node("Gather", [builder.constant(words), tokens])
    later = builder.constant(np.triu(np.full((TOKENS, TOKENS), -np.inf), 1))
    scores = builder.node("MatMul", [x, builder.node("Transpose", [x], perm=[0, 2, 1])])
    shares = builder.node("Softmax", [builder.node("Add", [scores, later])], axis=2)
    empty = builder.node("IsNaN", [shares])
    shares = builder.node("Where", [empty, builder.constant(0), shares])
    x = builder.node("MatMul", [shares, x])
    last = builder.node("ArgMax", [tokens], axis=1)
    x = builder.several("GatherND", [x, last], 1, batch_dims=1)[0]
    builder.give("v", x, shape=["n", DIM])
    (pair.parent / "texts.onnx").write_bytes(onnx_graph.content(builder.model()))
    write_table(pair.parent, mask=None)
    network = own_text.TextNetwork(own_text.beside(pair, DIM), DIM)
    found = network.vector("blue")  # the last that counts of: a photo of blue, and padding
    rows = words[[VOCABULARY[word] for word in ("a", "photo", "of", "blue")]].astype(float)
    shares = np.exp(rows @ rows[3] - (rows @ rows[3]).max())
    expected = shares @ rows
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_int32_tokens_of_a_fixed_number_without_a_mask_are_taken(pair):
    write_table(pair.parent, mask=None)
    write_texts(pair.parent / "texts.onnx", dtype="int32", num_tokens=TOKENS, mask=False)
    vector = own_text.TextNetwork(own_text.beside(pair, DIM), DIM).vector("green")
    assert vector[:3].argmax() == 1 and np.isclose(np.linalg.norm(vector), 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"vector": None}, "num_tokens, vector"),
        ({"vector": "w"}, "outputs are: v, other"),
        ({"tokens": "x"}, "inputs t, m"),
        ({"mask": None}, "inputs t, m"),
        ({"network": "../texts.onnx"}, "beside the TOML"),
        ({"network": "none.onnx"}, "No such file"),
        ({"tokenizer": None}, "beside the TOML"),
        ({"num_tokens": 0}, "1 to 1024"),
        ({"num_tokens": True}, "1 to 1024"),
        ({"padding": -1}, "number of a token"),
        ({"padding": 99}, "out of"),
        ({"template": "photo"}, "one {}"),
        ({"template": "\u0000{}"}, "one {}"),
        ({"template": "x" * 300 + "{}"}, "200 letters"),
        ({"layers": 3}, "known settings"),
    ],
)
def test_a_table_that_is_wrong_is_refused(text, reason, tmp_path):
    pair = write_pair(tmp_path / "pair", **text)
    with pytest.raises(WeightsError, match=reason):
        own_backbones.opened(pair)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"width": DIM + 1}, "as wide as features, 8"),
        ({"dtype": "float32"}, "int64 or int32"),
        ({"num_tokens": TOKENS + 1}, "as num_tokens says"),
    ],
)
def test_a_text_network_of_another_kind_is_refused(settings, reason, pair):
    write_texts(pair.parent / "texts.onnx", **settings)
    with pytest.raises(WeightsError, match=reason):
        own_backbones.opened(pair)


MODEL = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"}
LONGER = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "taken apart by the tokenizer"),
        ("[" * 100_000, "taken apart by the tokenizer"),
        ("[]", "taken apart by the tokenizer"),
        (tokenizer(model=MODEL | {"vocab": VOCABULARY | {"more": 8}}), "taken apart"),
        (tokenizer(model=MODEL | {"vocab": VOCABULARY | {"more": 2**32 - 1}}), "taken apart"),
        (tokenizer(model=MODEL | {"unk_token": "?"}), "taken apart"),
        (tokenizer(model={"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.5}), "chance"),
        (
            tokenizer(normalizer={"type": "Sequence", "normalizers": [LONGER, LONGER]}),
            "by long texts",
        ),
    ],
)
def test_a_tokenizer_that_is_wrong_is_refused(content, reason, pair):
    (pair.parent / "tokens.json").write_text(content)
    with pytest.raises(WeightsError, match=reason):
        own_backbones.opened(pair)


def test_a_file_that_is_too_large_is_not_read(pair, monkeypatch):
    monkeypatch.setattr(own_text, "MOST_TOKENIZER", 50)
    with pytest.raises(WeightsError, match="50 bytes at most"):
        own_backbones.opened(pair)


def test_a_description_that_is_wrong_is_refused(folder, tmp_path):
    path = shutil.copytree(folder / bundle.INSIDE_AN_INDEX, tmp_path / "b") / bundle.DESCRIPTION
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"text": {"num_tokens": "6"}}))
    with pytest.raises(BundleError, match="num_tokens"):
        bundle.load(path.parent)


def test_a_bundle_of_another_precision_keeps_the_text_network(index, tmp_path):
    source = index.encoder.bundle
    made = bundle.save_precision(
        tmp_path / "half", source, source.encoder_bytes(), "bfloat16", origin={}
    )
    assert made.text_part().files() == source.text_part().files()
    assert made.text == source.text and {own_text.NETWORK, own_text.TOKENIZER} < set(made.files())


def test_the_service_finds_by_it(folder):
    from fastapi.testclient import TestClient

    from hashnet.retrieval.service import app

    with TestClient(app.create_app(folder), base_url="http://localhost") as client:
        answer = client.get("/api/search/text", params={"text": "blue", "k": 3}).json()
    assert [hit["ways"] for hit in answer["hits"]] == [["network"]] * 3
