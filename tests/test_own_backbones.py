"""Networks that a user brings: ONNX and Keras files as backbones, and what of them is refused."""

import io
import json
import zipfile

import numpy as np
import onnx
import pytest

import hashnet
from hashnet import cli, images
from hashnet.errors import (
    ArgumentError,
    BundleError,
    FingerprintError,
    HashnetError,
    UnknownNameError,
    WeightsError,
)
from hashnet.network import backbones, bundle, own_backbones, pretrained
from hashnet.network.own_settings import Settings
from tests import own_networks


@pytest.fixture
def small(tmp_path):
    return own_networks.write_small(tmp_path / "small.onnx", map="places")


def prepared(paths, size=32, channels="rgb", mean=0.5, std=0.5):
    """Pixels as (x / 255 - mean) / std, float32, channels last: the definition."""
    pixels = np.stack([images.read_resized(path, (size, size)) for path in paths])
    pixels = pixels[..., ::-1] if channels == "bgr" else pixels
    return ((pixels.astype(np.float64) / 255 - mean) / std).astype(np.float32)


def run(path, pixels):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["f"], {"x": pixels.transpose(0, 3, 1, 2)})[0]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.fast("settings0-how0", "settings3-how3")
@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({}, {}),
        ({"channels": "bgr"}, {"channels": "bgr"}),
        ({"range": [0, 1]}, {"mean": 0, "std": 1}),
        (
            {"range": None, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
            {"mean": np.array([0.4, 0.5, 0.6]), "std": np.array([0.2, 0.3, 0.4])},
        ),
    ],
)
def test_features_are_those_of_the_network_itself(settings, how, photos, tmp_path):
    path = own_networks.write_small(tmp_path / "n.onnx", **settings)
    files = sorted(photos.rglob("*.png"))
    index = hashnet.Index.of_photos(tmp_path / "i", photos, backbone=str(path), bits=16)
    found = index.encoder.encode(files).features
    assert np.allclose(found, run(path, prepared(files, **how)), atol=1e-5)
    assert index.search(files[7], k=1)[0].path == str(files[7])
    assert (index.encoder.config.backbone, index.encoder.config.classes) == ("n", ())


@pytest.mark.thorough
def test_lite0_by_the_door_gives_the_codes_that_its_name_gives(tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(70):  # from 64 on no other photos have a part in the codes
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        images.write(folder / f"{number}.png", coarse.repeat(16, 0).repeat(16, 1))
    path = own_networks.write_lite0(tmp_path / "lite0.onnx")
    by_name = hashnet.Index.of_photos(tmp_path / "a", folder)
    by_door = hashnet.Index.of_photos(tmp_path / "b", folder, backbone=path)
    assert (by_name.codes() == by_door.codes()).all()
    assert (by_name.features() == by_door.features()).all()


@pytest.mark.thorough
def test_local_features_and_regions_are_taken_from_the_map(small, photos, tmp_path):
    pytest.importorskip("cv2")
    index = hashnet.Index.of_photos(
        tmp_path / "i", photos, backbone=small, bits=16, local="delf", regions=2
    )
    geometry = index.extractor.geometry
    assert (geometry.stride, geometry.size) == (4, 7)
    picture = photos / "checks/2.png"
    hit = index.search(picture, k=1, verify=True)[0]
    assert hit.path == str(picture) and hit.inliers >= 20
    local = index.extractor.extract(images.read(picture))
    assert local.yx[:, 0].max() < 80 and local.yx[:, 1].max() < 100
    plain = own_networks.write_small(tmp_path / "plain.onnx")
    with pytest.raises(ArgumentError, match="which gives none"):
        hashnet.Index.of_photos(tmp_path / "j", photos, backbone=plain, local="delf")
    assert not (tmp_path / "j").exists()


def test_an_index_keeps_its_network(small, photos, tmp_path):
    place = tmp_path / "i"
    hashnet.Index.of_photos(place, photos / "disc", backbone=small, bits=16)
    again = hashnet.Index.of_photos(place, photos, backbone=small)
    assert again.report.added == 18
    small.unlink()
    assert hashnet.open(place).search(photos / "disc/0.png", k=1)[0].id.endswith("disc/0.png")
    assert hashnet.open(place).refit() == 24
    with pytest.raises(FingerprintError, match="keeps its backbone"):
        hashnet.Index.of_photos(place, photos, backbone="resnet50")
    assert json.loads((place / "encoder/hashnet.json").read_text())["format_version"] == 4


def test_the_command_takes_a_file(small, photos, tmp_path, capsys):
    arguments = ["index", tmp_path / "i", photos, "--backbone", small, "--bits", "16"]
    assert cli.main([str(one) for one in arguments]) == cli.DONE
    assert "24 added" in capsys.readouterr().out
    vectors = hashnet.open(tmp_path / "i").features()
    named = hashnet.Index.of_vectors(tmp_path / "v", vectors, backbone=small, bits=16)
    assert named.search(photos / "ramp/1.png", k=1)[0].bits_apart == 0


def test_a_wrong_toml_is_refused(tmp_path):
    path = own_networks.write_small(tmp_path / "n.onnx")
    wrong = {
        "image_size = 64": "as the TOML says",
        "image_size = 5": "32 to 2048",
        'layout = "nhwc"': "as the TOML says",
        'feature = "nothing"': "Its outputs are: f",
        'map = "nothing"': "nothing",
        "range = [1]": "2 numbers",
        "mean = [0.1, 0.2, 0.3]": "mean and std",
        'channels = "rgba"': "rgb, bgr",
        "sharpness = 3": "They are: image_size",
        "x = = 1": "TOML",
    }
    usual = {"image_size": "32", "feature": '"f"', "range": "[-1, 1]"}
    for line, message in wrong.items():
        name, _, value = line.partition(" = ")
        said = usual | {name: value}
        text = "\n".join(f"{key} = {one}" for key, one in said.items())
        path.with_suffix(".toml").write_text(text)
        with pytest.raises(WeightsError, match=message):
            hashnet.Backbone(path)
            pytest.fail(line)
    path.with_suffix(".toml").unlink()
    with pytest.raises(WeightsError, match="Beside a network of yours lies a TOML"):
        hashnet.Backbone(path)
    with pytest.raises(UnknownNameError, match="efficientnet_lite0"):
        hashnet.Backbone("resnet51")


def test_settings_come_back_from_json():
    settings = Settings(32, "f", mean=(0.1, 0.2, 0.3), std=(1, 1, 1), layout="nhwc")
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def changed(path, change):
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def test_hostile_onnx_is_refused(tmp_path):
    def elsewhere(model):
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="/etc/passwd")

    def swollen(model):
        pads = onnx.helper.make_tensor("pads", onnx.TensorProto.INT64, [4], [0, 0, 0, 2**33])
        model.graph.initializer.append(pads)
        model.graph.node.append(onnx.helper.make_node("Pad", ["f", "pads"], ["huge"]))

    def second_input(model):
        model.graph.input.append(onnx.helper.make_tensor_value_info("y", 1, [1, 3]))

    def loop(model):
        model.graph.node[0].op_type = "Loop"

    for change in (elsewhere, swollen, second_input, loop):
        path = own_networks.write_small(tmp_path / "n.onnx")
        changed(path, change)
        with pytest.raises(WeightsError):
            hashnet.Backbone(path)
            pytest.fail(change.__name__)
    for content in (b"", b"hello", path.read_bytes()[:100]):
        path.write_bytes(content)
        with pytest.raises(WeightsError):
            hashnet.Backbone(path)


@pytest.mark.keras
@pytest.mark.thorough
def test_an_onnx_network_is_trained_and_exported(photos, tmp_path):
    from hashnet.network import export

    small = own_networks.write_small(tmp_path / "small.onnx", map="places", channels="bgr")
    index = hashnet.Index.of_photos(tmp_path / "i", photos, backbone=small, bits=16)
    comparison = export.export(bundle.load(tmp_path / "i"), tmp_path / "i.onnx", "onnx")
    assert comparison.differing_far_from_half == 0
    files = sorted(photos.rglob("*.png"))[:4]
    pixels = np.stack([images.read_resized(file, (32, 32)) for file in files])
    model = bundle.load(tmp_path / "i").load_model()
    features = np.asarray(model(pixels.astype(np.float32))["feature"])
    assert np.allclose(features, index.encoder.encode(files).features, atol=1e-5)
    trained = hashnet.train(
        photos, tmp_path / "b", backbone=str(small), num_bits=16, head_epochs=1, epochs=1, batch=8,
        verbose=False,
    )  # fmt: skip
    comparison = export.export(trained.bundle, tmp_path / "b.onnx", "onnx")
    assert comparison.differing_far_from_half == 0
    again = hashnet.Index.of_photos(tmp_path / "j", photos, bundle=tmp_path / "b")
    assert again.search(files[0], k=1)[0].path == str(files[0])


@pytest.mark.slow
@pytest.mark.keras
def test_attention_is_learned_on_a_network_of_ones_own(photos, tmp_path):
    small = own_networks.write_small(tmp_path / "small.onnx", width=48, map="places")
    plain = own_networks.write_small(tmp_path / "plain.onnx")
    options = {"num_bits": 8, "head_epochs": 1, "epochs": 0, "batch": 8, "verbose": False}
    for path in (small, plain):
        hashnet.train(photos, tmp_path / path.stem, backbone=str(path), **options)
    command = ["attention", str(photos), "--bundle"]
    assert cli.main([*command, str(tmp_path / "small")]) == cli.DONE
    assert (tmp_path / "small/delf.onnx").is_file()
    assert cli.main([*command, str(tmp_path / "plain")]) != cli.DONE


@pytest.mark.keras
def test_every_operator_that_is_read_gives_what_onnx_gives(tmp_path):
    import onnxruntime

    rng = np.random.default_rng(4)

    def floats(name, *shape):
        return onnx.numpy_helper.from_array(rng.normal(0, 0.4, shape).astype("f4"), name)

    def node(kind, inputs, output, **attributes):
        return onnx.helper.make_node(kind, inputs, [output], **attributes)

    nodes = [
        node("Conv", ["x", "w1", "b1"], "c1", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c1", "g", "b", "m", "v"], "n", epsilon=1e-3),
        node("Clip", ["n", "zero", "six"], "r"),
        node("MaxPool", ["r"], "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["p", "w2"], "d", group=6, pads=[0, 1, 2, 1], dilations=[1, 1]),
        node("HardSwish", ["d"], "h"),
        node("Mul", ["h", "each"], "scaled"),
        node("Add", ["scaled", "one"], "moved"),
        node("GlobalAveragePool", ["moved"], "squeezed"),
        node("Sigmoid", ["squeezed"], "gate"),
        node("Mul", ["moved", "gate"], "gated"),
        node("Tanh", ["gated"], "t"),
        node("Add", ["t", "gated"], "sum"),
        node("AveragePool", ["sum"], "a", kernel_shape=[2, 2], strides=[2, 2]),
        node("ReduceMean", ["a"], "mean", axes=[2, 3], keepdims=0),
        node("Gemm", ["mean", "w3", "b3"], "dense", transB=1),
        node("MatMul", ["dense", "w4"], "f"),
    ]
    weights = [
        floats("w1", 6, 3, 3, 3), floats("b1", 6), floats("g", 6), floats("b", 6), floats("m", 6),
        floats("w2", 6, 1, 3, 3), floats("each", 1, 6, 1, 1), floats("w3", 5, 6), floats("b3", 5),
        floats("w4", 5, 7),
    ]  # fmt: skip
    constants = {"v": np.full(6, 0.7), "zero": 0, "six": 6, "one": 1}
    weights += [onnx.numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("f", 1, ["n", 7])],
        weights,
    )
    opset = [onnx.helper.make_opsetid("", 14)]
    path = own_networks.write_small(tmp_path / "n.onnx", range=[0, 1])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    pixels = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = onnxruntime.InferenceSession(str(path)).run(
        None, {"x": (pixels / 255).astype("f4").transpose(0, 3, 1, 2)}
    )[0]
    model = backbones.create(hashnet.Backbone(path))
    found = np.asarray(model(pixels.astype(np.float32))["feature"])
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.keras
def test_an_operator_that_keras_has_no_layer_for_is_named(photos, tmp_path):
    path = own_networks.write_small(tmp_path / "n.onnx")
    changed(path, lambda model: setattr(model.graph.node[1], "op_type", "Exp"))
    index = hashnet.Index.of_photos(tmp_path / "i", photos, backbone=path, bits=16)
    assert len(index) == 24
    with pytest.raises(ArgumentError, match="Exp no layer"):
        bundle.load(tmp_path / "i").load_model()


def test_a_description_of_an_onnx_network_is_looked_through(small, tmp_path):
    own = hashnet.Backbone(small).own
    for graph in ("", "!", own["graph"][:40], 3):
        with pytest.raises(HashnetError):
            backbones.create(own_backbones.described("x", own | {"graph": graph}), weights=None)
            pytest.fail(str(graph))
    with pytest.raises(BundleError, match="comes from its file"):
        pretrained.write(pretrained.config_of(own_backbones.described("x", own), 8))


# --- .keras -------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.keras
def test_a_keras_file_is_a_backbone(photos, tmp_path):
    import keras

    path = own_networks.write_keras(tmp_path / "n.keras", map="places", channels="bgr")
    index = hashnet.Index.of_photos(tmp_path / "i", photos, backbone=path, bits=16, regions=1)
    files = sorted(photos.rglob("*.png"))[:5]
    whole = keras.saving.load_model(path)
    tap = keras.Model(whole.input, whole.get_layer("pooled").output)
    expected = tap.predict(prepared(files, channels="bgr", mean=0, std=1), verbose=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(index.encoder.encode(files).features, expected, atol=1e-5)
    again = bundle.load(tmp_path / "i").load_model()
    assert {*again.output} == {"latent", "feature"}


@pytest.mark.keras
@pytest.mark.thorough
def test_a_keras_file_is_trained_and_exported(photos, tmp_path):
    path = own_networks.write_keras(tmp_path / "n.keras")
    trained = hashnet.train(
        photos, tmp_path / "b", backbone=str(path), num_bits=16, head_epochs=1, epochs=1, batch=4,
        verbose=False,
    )  # fmt: skip
    assert trained.bundle.config.classes == ("checks", "disc", "ramp", "stripes")
    from hashnet.network import export

    comparison = export.export(trained.bundle, tmp_path / "n.onnx", "onnx")
    assert comparison.differing_far_from_half == 0
    index = hashnet.Index.of_photos(tmp_path / "i", photos, bundle=tmp_path / "b")
    assert index.search(photos / "disc/0.png", k=1)[0].id.endswith("disc/0.png")
    more = hashnet.train(
        photos, tmp_path / "c", backbone=str(path), start_from=str(tmp_path / "b"), num_bits=8,
        head_epochs=1, epochs=0, batch=4, verbose=False,
    )  # fmt: skip
    assert more.bundle.config.own == trained.bundle.config.own


def rewritten(path, change):
    """The archive with another config.json."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    path.write_bytes(content.getvalue())


@pytest.mark.keras
def test_hostile_keras_files_are_refused(tmp_path):
    def layer(config, place=1):
        return config["config"]["layers"][place]

    def made_lambda(config):
        layer(config).update(class_name="Lambda", config={"function": {"class_name": "__lambda__"}})

    def of_a_module(config):
        layer(config).update(module="os", class_name="system")

    def function(config):
        layer(config)["config"]["activation"] = {
            "module": "builtins", "class_name": "function", "config": "eval",
        }  # fmt: skip

    def subclassed(config):
        config.update(class_name="Evil", module="evil")

    def hidden_between(config):
        layer(config)["inbound_nodes"] = [{"args": [{"class_name": "Lambda"}], "kwargs": {}}]

    def enormous(config):
        for one in config["config"]["layers"]:
            for name in {"units", "filters"} & {*one["config"]}:
                one["config"][name] = 10**9

    changes = (made_lambda, of_a_module, function, subclassed, hidden_between, enormous)
    for change in changes:
        path = own_networks.write_keras(tmp_path / "n.keras")
        rewritten(path, change)
        with pytest.raises(WeightsError):
            hashnet.Backbone(path)
            pytest.fail(change.__name__)
    path = own_networks.write_keras(tmp_path / "n.keras", feature="nothing")
    with pytest.raises(HashnetError, match="name layers of the network"):
        hashnet.Backbone(path)
    path.write_bytes(b"hello")
    with pytest.raises(WeightsError):
        hashnet.Backbone(path)


@pytest.mark.keras
def test_a_bundle_runs_no_code_of_its_description(photos, tmp_path):
    path = own_networks.write_keras(tmp_path / "n.keras")
    opened = own_backbones.opened(path)
    own = json.loads(json.dumps(opened.own))
    own["layers"]["layers"][1].update(class_name="Lambda", module="keras.layers")
    with pytest.raises(WeightsError, match="only plain layers"):
        backbones.create(own_backbones.described("n", own), weights=None)


@pytest.mark.keras
@pytest.mark.thorough
def test_an_index_takes_a_weights_file(photos, tmp_path):
    model = backbones.create("mobilenet_v3_large", weights=None, image_size=224)
    model.get_layer("network").save_weights(tmp_path / "mine.weights.h5")
    few = photos / "disc"
    index = hashnet.Index.of_photos(
        tmp_path / "i", few, backbone="mobilenet_v3_large", bits=16,
        weights=tmp_path / "mine.weights.h5",
    )  # fmt: skip
    assert len(index) == 6 and index.encoder.config.backbone == "mobilenet_v3_large"
    with pytest.raises(FingerprintError, match="keeps its weights"):
        hashnet.Index.of_photos(tmp_path / "i", few, weights=tmp_path / "mine.weights.h5")
    with pytest.raises(WeightsError):
        hashnet.Index.of_photos(tmp_path / "j", few, backbone="resnet50", weights="nothing.h5")
    assert not (tmp_path / "j").exists()
