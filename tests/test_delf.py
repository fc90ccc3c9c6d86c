"""Local features: where they are, what they are, and that the exported network gives the same."""

import itertools
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import ArgumentError, BundleError, HashnetError, ShapeError, WeightsError
from hashnet.local import delf, delf_head, delf_network
from hashnet.network import backbones, onnx_check, onnx_graph, runtimes
from hashnet.network.geometry import Geometry, geometry
from tests.lazily import Lazily
from tests.make_images import photo

ndimage = Lazily("scipy.ndimage")
pytestmark = pytest.mark.keras

CHANNELS = 24


def small_backbone(name="small"):
    """Two strided layers of every kind that backbones have, a branch, and a network within."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inner_image = keras.Input((64, 64, 3))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(inner_image)
    x = layers.Conv2D(8, 3, 2)(x)
    x = layers.ReLU()(x)
    inner = keras.Model(inner_image, [x, layers.GlobalAveragePooling2D()(x)])
    image = keras.Input((64, 64, 3), name="image")
    x, _ = inner(layers.Rescaling(1 / 128, offset=-1)(image))
    x = layers.DepthwiseConv2D(5, 2, padding="same", use_bias=False)(x)
    before = x
    x = layers.Conv2D(8, 3, padding="same")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(gate)])
    x = layers.Add()([before, x])
    x = layers.Conv2D(CHANNELS, 1, activation="relu")(x)
    return keras.Model(image, {"map": x}, name=name)


def local_backbone():
    """One without global layers, so that each place sees some pixels only."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    image = keras.Input((64, 64, 3), name="image")
    x = layers.Conv2D(4, 3, 2, padding="same", kernel_initializer="ones")(image)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    y = layers.DepthwiseConv2D(5, padding="same", depthwise_initializer="ones")(x)
    x = layers.Add()([x, y])
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(CHANNELS, 3, 2, dilation_rate=1, kernel_initializer="ones")(x)
    return keras.Model(image, {"map": x}, name="local")


def random_head(channels=CHANNELS, dim=8, attention=True, root=False):
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=channels) / 9, rng.normal(size=(channels, dim))
    mean, components = (array.astype(np.float32) for array in arrays)
    layers = [rng.normal(size=shape) for shape in ((channels, 16), (16,), (16,), ())]
    layers = tuple(np.asarray(array, np.float16).astype(np.float32) for array in layers)
    return delf_head.Head(mean, components, layers if attention else None, root)


@pytest.fixture(scope="module")
def backbone():
    pytest.importorskip("keras")
    return small_backbone()


@pytest.fixture(scope="module")
def files(backbone, tmp_path_factory):
    """dict of whether there is attention to (path of the ONNX file, the head in it)."""
    folder = tmp_path_factory.mktemp("delf")
    found = {}
    for attention in (True, False):
        found[attention] = folder / f"{attention}.onnx", random_head(attention=attention)
        delf.export(found[attention][0], backbone, found[attention][1])
    return found


@pytest.fixture(params=[True, False], ids=["attention", "norm"])
def exported(request, files):
    return files[request.param]


@pytest.fixture
def extractor(files):
    return delf.Delf.open(files[True][0], "onnxruntime", num_threads=1)


def test_geometry_is_what_pixels_change():
    """The slow way: change each row of pixels, and see which places notice."""
    pytest.importorskip("keras")
    network = local_backbone()
    seen_by = geometry(network)
    middle = 64 // seen_by.stride // 2
    plain = np.asarray(network(np.zeros((1, 64, 64, 3), np.float32))["map"])[0]
    seen = []
    for row in range(64):
        image = np.zeros((1, 64, 64, 3), np.float32)
        image[0, row] = 1.0
        changed = np.asarray(network(image)["map"])[0]
        if not np.allclose(changed[middle], plain[middle]):
            seen.append(row)
    assert seen_by.size == len(seen) == seen[-1] - seen[0] + 1
    assert seen_by.offset + seen_by.stride * middle == (seen[0] + seen[-1]) / 2


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_lite0", Geometry(339, 16, 15.0)),
        # The paper says 291 pixels and 16; padding is 145 on both sides.
        ("resnet50", Geometry(291, 16, 0.0)),
    ],
)
def test_geometry_of_real_backbones(name, expected):
    pytest.importorskip("keras")
    assert geometry(backbones.create(name, weights=None)) == expected


def test_geometry_refuses_what_it_does_not_understand():
    keras = pytest.importorskip("keras")
    image = keras.Input((64, 64, 3))
    wide = keras.Model(image, {"map": keras.layers.UpSampling2D(2)(image)})
    with pytest.raises(ArgumentError, match="UpSampling2D"):
        geometry(wide)
    lengthened = keras.Model(image, {"map": keras.layers.MaxPooling2D((2, 1))(image)})
    with pytest.raises(ArgumentError, match="alike"):
        geometry(lengthened)


@pytest.mark.fast(
    "attention-shape0-openvino",
    "attention-shape1-onnxruntime",
    "norm-shape2-openvino",
    "norm-shape0-onnxruntime",
)
@pytest.mark.parametrize("runtime", runtimes.FASTEST)
@pytest.mark.parametrize("shape", [(64, 96), (32, 32), (64, 128)])
def test_export_gives_what_a_slow_definition_gives(backbone, exported, runtime, shape):
    pytest.importorskip(runtime)
    path, head = exported
    image = photo(*shape)
    column = _map(backbone, image)
    network = runtimes.open_file(path, runtime)
    score = delf.ATTENTION if head.attention else delf.NORM
    descriptors, scores = network.run(["descriptors", score], {"image": image[None]})
    for row, place in np.ndindex(column.shape[:2]):
        f = column[row, place].astype(np.float64)
        unit = f / max(np.sqrt((f * f).sum()), 1e-6)
        reduced = [sum((unit - head.mean) * axis) for axis in head.components.T]
        expected = reduced / np.linalg.norm(reduced)
        np.testing.assert_allclose(descriptors[0, row, place], expected, atol=2e-4)
        if head.attention:
            kernel1, bias1, kernel2, bias2 = head.attention
            hidden = np.maximum(unit @ kernel1 + bias1, 0)
            expected = np.log1p(np.exp(hidden @ kernel2 + bias2))
        else:
            expected = np.sqrt((f * f).sum())
        np.testing.assert_allclose(scores[0, row, place], expected, rtol=1e-3, atol=1e-5)


def test_descriptors_of_signed_roots_are_as_defined():
    onnxruntime = pytest.importorskip("onnxruntime")
    columns = np.random.default_rng(0).normal(size=(1, CHANNELS, 2, 3)).astype(np.float32)
    columns[0, :5] = 0  # as behind a ReLU
    columns[0, :, 1, 2] = 0  # a place that says nothing

    def given(head):
        network = delf_head.network(head, Geometry(3, 4, 0.0))
        session = onnxruntime.InferenceSession(
            network.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(["descriptors", delf.ATTENTION], {onnx_graph.MAP: columns})

    head = random_head(root=True)
    rooted, scores = given(head)
    for row, place in np.ndindex(2, 3):
        signed = [math.copysign(math.sqrt(abs(x)), x) for x in columns[0, :, row, place].tolist()]
        length = math.sqrt(sum(x * x for x in signed)) or 1.0
        expected = np.array(
            [
                sum((x / length - m) * a for x, m, a in zip(signed, head.mean, axis, strict=True))
                for axis in head.components.T
            ]
        )
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(rooted[0, row, place], expected, atol=2e-5)
    plain, same_scores = given(random_head())
    np.testing.assert_array_equal(scores, same_scores)  # attention sees the columns themselves
    assert not np.allclose(plain, rooted, atol=0.05)


def _map(backbone, image):
    import keras

    any_size = keras.Input((None, None, 3))
    network = keras.Model(any_size, delf_network.map_of(backbone, any_size))
    return np.asarray(network(np.float32(image[None])))[0]


def test_batch_equals_single(exported):
    path, head = exported
    score = delf.ATTENTION if head.attention else delf.NORM
    network = runtimes.open_file(path, "onnxruntime")
    batch = np.stack([photo(64, 64, seed) for seed in range(3)])
    together = network.run(["descriptors", score], {"image": batch})
    for row in range(3):
        alone = network.run(["descriptors", score], {"image": batch[row : row + 1]})
        for whole, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[row], one[0], atol=1e-5)


def test_the_file_says_what_its_score_is(exported):
    path, head = exported
    extractor = delf.Delf.open(path)
    assert extractor.score == ("attention" if head.attention else "activation_norm")
    assert extractor.descriptor_dim == 8
    assert (extractor.geometry.stride, extractor.geometry.offset) == (4, 3.0)
    onnx_check.check(path.read_bytes(), path)


def test_features_are_as_promised(extractor):
    image = photo(150, 211)
    features = extractor.extract(image)
    assert 0 < len(features) <= 1000
    assert features.yx.dtype == features.descriptors.dtype == features.scores.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    assert (np.diff(features.scores) <= 0).all()
    assert (features.yx >= 0).all() and (features.yx <= [149, 210]).all()


def test_key_points_come_back_to_where_they_are(backbone, tmp_path):
    """A bright spot is found at its own place, at every scale of the pyramid and any size."""
    keras = pytest.importorskip("keras")
    image_in = keras.Input((64, 64, 3))
    spots = keras.layers.AveragePooling2D(4)(image_in)
    spots = keras.Model(image_in, {"map": keras.layers.Conv2D(4, 1)(spots)})
    spots.layers[-1].set_weights([np.ones((1, 1, 3, 4)), np.zeros(4)])
    head = delf_head.Head(np.zeros(4, np.float32), np.eye(4, dtype=np.float32)[:, :2])
    delf.export(tmp_path / "spots.onnx", spots, head)
    image = np.zeros((203, 150, 3), np.uint8)
    image[120:128, 60:68] = 255
    for scale in (0.5, 1.0, 2.0):
        extractor = delf.Delf.open(tmp_path / "spots.onnx", scales=(scale,), max_features=1)
        place = extractor.extract(image).yx[0]
        assert np.abs(place - [123.5, 63.5]).max() <= 4 / scale


def test_peaks_come_first(extractor):
    image = photo(120, 160)
    everything = delf.Delf(extractor._network, scales=(1.0,), max_features=10**6)
    few = delf.Delf(extractor._network, scales=(1.0,), max_features=20)
    highest = delf.Delf(extractor._network, scales=(1.0,), max_features=20, spread=False)
    for one in (everything, few, highest):
        one.between_places = False  # so that neighbours are 4 pixels apart
    features = everything.extract(image)
    assert len(features) == 30 * 40
    peaks = set()
    for yx, score in zip(features.yx, features.scores, strict=True):
        near = (np.abs(features.yx - yx) < 4.5).all(axis=1)
        if score == features.scores[near].max():
            peaks.add(tuple(yx))
    assert len(peaks) >= 20
    assert {tuple(yx) for yx in few.extract(image).yx} <= peaks
    np.testing.assert_array_equal(highest.extract(image).yx, features.yx[:20])


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 2), (7, 9), (0, 4), (4, 0)])
def test_a_peak_is_no_lower_than_its_neighbours(shape):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, shape).astype(np.float32)
    unknown = rng.random(shape) < 0.1
    scores[unknown] = np.nan
    peaks = delf._is_peak(scores)
    assert peaks.shape == shape
    for y, x in np.ndindex(shape):
        near = scores[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        highest = not unknown[y, x] and scores[y, x] == np.nanmax(near)
        assert peaks[y, x] == highest
    np.testing.assert_array_equal(
        delf._is_peak(np.nan_to_num(scores)),
        np.nan_to_num(scores) == ndimage.maximum_filter(np.nan_to_num(scores), 3),
    )


def test_a_peak_lies_at_the_top_of_its_parabola():
    y, x = np.mgrid[:8, :9].astype(np.float32)
    hill = 90 - (y - 3.3) ** 2 - 2 * (x - 4.6) ** 2
    tops = delf._tops(hill, delf._is_peak(hill))
    np.testing.assert_allclose(tops[3, 5], [0.3, -0.4], atol=1e-4)
    tops[3, 5] = 0
    assert not tops.any()


def test_tops_of_any_scores_follow_the_definition():
    scores = np.random.default_rng(0).integers(0, 4, (30, 40)).astype(np.float32)
    scores[3, 4], scores[7, 8], scores[20, 21] = np.nan, np.inf, -np.inf
    peaks = delf._is_peak(scores)
    tops = delf._tops(scores, peaks)
    assert np.isfinite(tops).all() and np.abs(tops).max() == 0.5
    for place in np.ndindex(scores.shape):
        for axis in (0, 1):
            expected = 0.0
            if peaks[place] and 0 < place[axis] < scores.shape[axis] - 1:
                sides = [np.add(place, way * np.eye(2, dtype=int)[axis]) for way in (-1, 1)]
                before, middle, after = (
                    float(scores[tuple(p)]) for p in (sides[0], place, sides[1])
                )
                if np.isfinite([before, middle, after]).all() and before + after < 2 * middle:
                    expected = np.polyfit([-1, 0, 1], [before, middle, after], 2)
                    expected = -expected[1] / (2 * expected[0])
            assert tops[(*place, axis)] == pytest.approx(expected, abs=1e-5)


def test_a_file_of_before_keeps_its_levels_and_places(files, extractor, tmp_path):
    """It names no scales: an index that carries it goes on with features of one kind."""
    import onnx

    network = onnx.load(files[True][0])
    [geometry] = [node for node in network.graph.node if "geometry" in node.output]
    [numbers] = [one for one in network.graph.initializer if one.name == geometry.input[0]]
    numbers.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(numbers)[:3], numbers.name)
    )
    network.graph.output[-1].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(network, tmp_path / "before.onnx")
    before = delf.Delf.open(tmp_path / "before.onnx", "onnxruntime", num_threads=1)
    assert np.allclose(before.scales, [0.25, 0.354, 0.5, 0.707, 1, 1.414, 2], atol=1e-3)
    assert np.allclose(extractor.scales, [*before.scales, 2.828], atol=1e-3)
    image = photo(120, 160)
    ways = [delf.Delf(one._network, scales=(1.0,)) for one in (before, extractor)]
    old, new = (one.extract(image) for one in ways)
    assert ((old.yx - 3) % 4 == 0).all()
    np.testing.assert_array_equal(old.descriptors, new.descriptors)
    moved = np.abs(new.yx - old.yx)
    assert 0 < moved.max() <= 2 and (moved > 0).any(axis=1).mean() < 0.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (11, 11), (9, 300)])
def test_images_too_small_for_a_map_have_no_features(extractor, shape):
    features = extractor.extract(np.full((*shape, 3), 7, np.uint8))
    assert len(features) == 0
    assert features.yx.shape == (0, 2) and features.descriptors.shape == (0, 8)
    assert features.descriptors.dtype == np.float32


def test_small_images_are_seen_enlarged(extractor):
    assert len(extractor.extract(photo(20, 20))) > 0


def test_levels_of_too_many_pixels_are_left_out(extractor, monkeypatch):
    monkeypatch.setattr(delf, "MAX_PIXELS", 100 * 100)
    assert extractor._sizes((100, 100)) == [(35, 35), (50, 50), (71, 71), (100, 100)]


def test_a_plain_image_gives_finite_features(extractor):
    features = extractor.extract(np.zeros((64, 64, 3), np.uint8))
    assert np.isfinite(features.descriptors).all() and np.isfinite(features.scores).all()


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))]
)
def test_other_arrays_are_refused(extractor, image):
    with pytest.raises(ShapeError, match="uint8"):
        extractor.extract(image)


def test_the_same_on_any_number_of_threads(files):
    image = photo(120, 90)
    one, two = (
        delf.Delf.open(files[True][0], "onnxruntime", num_threads=n).extract(image) for n in (1, 2)
    )
    np.testing.assert_array_equal(one.yx, two.yx)
    np.testing.assert_allclose(one.descriptors, two.descriptors, atol=1e-5)


@pytest.mark.thorough
def test_opening_and_extracting_load_no_network_library(exported):
    code = (
        "import sys, numpy as np; from hashnet.local.delf import Delf; "
        f"features = Delf.open({str(exported[0])!r}).extract(np.zeros((80, 64, 3), np.uint8)); "
        "assert len(features) > 0; "
        "print(sorted({'tensorflow', 'keras', 'jax', 'cv2'} & set(sys.modules)))"
    )
    root = pathlib.Path(__file__).resolve().parents[1]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.parametrize(
    "options", [{"scales": ()}, {"scales": (1.0, 0.0)}, {"scales": (np.inf,)}, {"max_features": 0}]
)
def test_settings_out_of_range_are_refused(extractor, options):
    with pytest.raises(ArgumentError):
        delf.Delf(extractor._network, **options)


def test_another_network_is_refused(bundle_folder, tmp_path):
    with pytest.raises(BundleError, match="local features"):
        delf.Delf.open(bundle_folder / "encoder.onnx")
    with pytest.raises(BundleError, match="export"):
        delf.Delf.open(tmp_path / "nothing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"hello")
    with pytest.raises(BundleError):
        delf.Delf.open(tmp_path / "broken.onnx")


def test_a_head_must_fit(backbone, tmp_path):
    with pytest.raises(ShapeError, match="24 channels"):
        delf.export(tmp_path / delf.FILE, backbone, random_head(channels=25))
    with pytest.raises(ShapeError):
        delf_head.Head(np.zeros(3, np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(WeightsError, match="finite"):
        delf_head.Head(np.full(4, np.nan, np.float32), np.zeros((4, 2), np.float32))


def test_a_head_survives_its_file(tmp_path):
    for attention, root in itertools.product((True, False), repeat=2):
        head = random_head(attention=attention, root=root)
        head.save(tmp_path / "head.npz")
        again = delf_head.Head.load(tmp_path / "head.npz")
        for one, other in zip(head._arrays(), again._arrays(), strict=True):
            np.testing.assert_array_equal(one, other)
        assert again.root is root


def test_broken_heads_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "pickle.npz", mean=np.array([{}], object), components=np.zeros((1, 1)))
    np.savez(tmp_path / "part.npz", mean=np.zeros(4))
    for name in ("text", "pickle", "part", "nothing"):
        with pytest.raises(WeightsError):
            delf_head.Head.load(tmp_path / f"{name}.npz")


def test_the_preset_fits_its_backbone():
    head = delf_head.Head.load("efficientnet_lite0")
    assert len(head.mean) == backbones.known("efficientnet_lite0").map_channels
    assert head.descriptor_dim == 64 and head.attention and head.root
    lengths = np.linalg.norm(head.components, axis=0)
    axes = head.components / lengths
    np.testing.assert_allclose(axes.T @ axes, np.eye(64), atol=1e-4)
    # Whitened in part: what varies less is enlarged.
    assert (np.diff(lengths) > 0).all()


def test_backbones_of_one_size_are_refused(tmp_path):
    with pytest.raises(HashnetError, match="any size"):
        delf.export(tmp_path / delf.FILE, "alexnet")


def test_where_nothing_is_trained_the_norm_is_the_score(backbone, tmp_path):
    delf.export(tmp_path / delf.FILE, backbone)
    extractor = delf.Delf.open(tmp_path / delf.FILE)
    assert extractor.score == "activation_norm" and extractor.descriptor_dim == CHANNELS
    head = delf_head.Head.untrained(672)
    np.testing.assert_array_equal(head.components, delf_head.Head.untrained(672).components)
    np.testing.assert_allclose(head.components.T @ head.components, np.eye(40), atol=1e-5)


@pytest.mark.slow
def test_the_preset_finds_graf_again(shared_data, tmp_path):
    """At least 75 right matches within 5 pixels, and the homography right at the corners."""
    from tests.bench import delf as bench

    delf.export(tmp_path / delf.FILE)
    extractor = delf.Delf.open(tmp_path / delf.FILE)
    first, second = (
        images.read(shared_data / "landmarks" / "images" / f"graf__graf{number}.jpg")
        for number in (1, 3)
    )
    homography = bench.homographies(shared_data)[1, 3]
    found = bench.compare(extractor.extract(first), extractor.extract(second), homography, first)
    assert found["right_within_5_px"] >= 75
    assert found["corner_error_px"] < 5
