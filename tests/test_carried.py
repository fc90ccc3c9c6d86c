"""The networks in an index: each weight lies there once, and gives what whole files give."""

import shutil

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import ArgumentError, BundleError, ShapeError
from hashnet.local import delf, delf_head, regions
from hashnet.network import backbones, export
from hashnet.network import bundle as bundles
from hashnet.retrieval.index import Index
from tests.make_images import photo

pytestmark = pytest.mark.keras


@pytest.fixture(scope="module")
def made(small_network, tmp_path_factory):
    """A bundle of today's format; the golden one is of the format before."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    return bundles.save(folder, *small_network, origin={"command": "tests"})


@pytest.fixture(scope="module")
def index(made, tmp_path_factory):
    pytest.importorskip("cv2", reason="needs OpenCV")
    place = tmp_path_factory.mktemp("index") / "i"
    return Index.create(place, made.folder, local="delf", regions=2)


@pytest.fixture(scope="module")
def backbone(small_network):
    """The backbone within the small network, as Keras builds it alone."""
    model, config = small_network
    bare = backbones.create(config.backbone, weights=None)
    for layer in bare.layers:
        if layer.weights and layer.name != "f8":
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return bare


@pytest.mark.thorough
def test_an_index_takes_what_its_network_takes_once(index, made):
    carried = {path.name: path.stat().st_size for path in index.store.encoder_folder.iterdir()}
    assert set(carried) == {"hashnet.json", "encoder.onnx", delf.FILE, regions.FILE}
    assert carried["encoder.onnx"] == made.encoder_file.stat().st_size
    # The heads are two matrices of 40 axes at most, however large the backbone is.
    assert carried[delf.FILE] + carried[regions.FILE] < 60_000


def test_heads_on_the_encoders_map_give_what_whole_files_give(index, backbone, tmp_path):
    delf.export(tmp_path / delf.FILE, backbone)
    regions.export(tmp_path / regions.FILE, backbone)
    whole, alone = delf.Delf.open(tmp_path / delf.FILE), index.extractor
    proposer = regions.Proposer.open(tmp_path / regions.FILE)
    assert (alone.score, alone.descriptor_dim) == (whole.score, whole.descriptor_dim)
    assert alone.geometry == whole.geometry
    for shape in [(150, 211), (64, 64), (300, 90)]:
        image = photo(*shape)
        expected, found = whole.extract(image), alone.extract(image)
        np.testing.assert_array_equal(found.yx, expected.yx)
        np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-5)
        boxes = [one.propose(image, 3) for one in (proposer, index.proposer)]
        np.testing.assert_array_equal(*boxes)


def test_images_are_added_and_found_with_all_that_an_index_keeps(index, photos):
    paths = sorted(photos.rglob("*.png"))[:4]
    assert index.update(paths).added == 4
    opened = Index.open(index.store.folder)
    with opened.store.snapshot() as snapshot:
        [local] = snapshot.local_features(snapshot.rows([f"checks/{paths[0].name}"]))
    np.testing.assert_array_equal(local.yx, opened.extractor.extract(images.read(paths[0])).yx)


def test_the_network_of_an_index_serves_as_a_bundle(index, made, tmp_path):
    inside = bundles.load(index.store.folder)
    assert inside.fingerprint == made.fingerprint
    whole = made.load_model().get_weights()
    restored = inside.load_model().get_weights()
    assert all(np.array_equal(*pair) for pair in zip(restored, whole, strict=True))
    export.export(inside, tmp_path / "n.onnx", "onnx")
    another = Index.create(tmp_path / "another", index.store.folder, local="delf", regions=2)
    names = sorted(path.name for path in another.store.encoder_folder.iterdir())
    assert names == sorted(path.name for path in index.store.encoder_folder.iterdir())


def test_a_network_is_opened_and_hashed_once_for_a_new_index(made, tmp_path, monkeypatch):
    hashed, opened = [], []
    sha256, load = bundles._sha256, bundles.load
    monkeypatch.setattr(bundles, "_sha256", lambda path: hashed.append(path.name) or sha256(path))
    monkeypatch.setattr(bundles, "load", lambda folder: opened.append(folder) or load(folder))
    index = Index.create(tmp_path / "index", made.folder)
    assert (hashed, len(opened)) == (["encoder.onnx"], 1)
    # The bundle may go.
    assert index.encoder.bundle.folder == index.store.encoder_folder


def test_a_bundle_of_the_format_before_is_carried_whole(bundle_folder, tmp_path):
    index = Index.create(tmp_path / "index", bundle_folder)
    names = {path.name for path in index.store.encoder_folder.iterdir()}
    assert names == {"hashnet.json", "model.keras", "encoder.onnx"}
    inside = bundles.load(index.store.folder)
    assert len(inside.load_model().get_weights()) > 10


def test_a_head_trained_for_a_bundle_comes_along(made, tmp_path):
    pytest.importorskip("cv2", reason="needs OpenCV")
    folder = shutil.copytree(made.folder, tmp_path / "bundle")
    copied = bundles.load(folder)
    channels = backbones.known(made.config.backbone).map_channels
    with pytest.raises(ShapeError, match=f"{channels} channels"):
        delf.export_for(copied, folder / delf.FILE, delf_head.Head.untrained(channels + 1))
    head = delf_head.Head.untrained(channels, descriptor_dim=5)
    delf.export_for(copied, folder / delf.FILE, head)
    index = Index.create(tmp_path / "index", folder, local="delf")
    shutil.rmtree(folder)
    assert Index.open(index.store.folder).extractor.descriptor_dim == 5
    assert 0 < len(index.extractor.extract(photo(90, 120)))


def test_a_head_without_its_encoder_is_refused_by_name(index, tmp_path):
    shutil.copy(index.store.encoder_folder / delf.FILE, tmp_path)
    with pytest.raises(BundleError, match="encoder.onnx"):
        delf.Delf.open(tmp_path / delf.FILE)
    (tmp_path / "encoder.onnx").write_bytes(b"no network")
    with pytest.raises(BundleError):
        delf.Delf.open(tmp_path / delf.FILE)


@pytest.mark.thorough
def test_the_preset_is_for_the_weights_of_imagenet_alone():
    import onnx

    from hashnet.network import onnx_graph, onnx_writer

    model = backbones.create("efficientnet_lite0", image_size=64)
    network = onnx_writer.write_map(model)
    digest = onnx_graph.digest(onnx_graph.up_to_map(network))
    assert digest == delf_head.PRESET_MAPS["efficientnet_lite0"]
    [kernel] = [one for one in network.graph.initializer if one.name == "stem_conv/kernel"]
    changed = onnx.numpy_helper.to_array(kernel) * np.float32(1.0001)
    kernel.CopyFrom(onnx.numpy_helper.from_array(changed, kernel.name))
    assert onnx_graph.digest(onnx_graph.up_to_map(network)) != digest


def test_backbones_of_one_size_have_neither(made, tmp_path):
    import dataclasses

    config = dataclasses.replace(made.config, backbone="alexnet", image_size=224)
    with pytest.raises(ArgumentError, match="any size"):
        regions.export_for(dataclasses.replace(made, config=config), tmp_path / "r.onnx")
