"""Training of features for classes never seen, on a network of a few hundred weights."""

import dataclasses

import numpy as np
import pytest

from hashnet import metrics
from hashnet.api import Index
from hashnet.cli.choices import FORMATS
from hashnet.encode import precision
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError
from hashnet.network import backbones, bundle, export
from hashnet.train import data, supervised
from hashnet.train.config import METRIC_LOSSES, TrainConfig
from tests.lazily import Lazily
from tests.stub_backbone import STUB

pytestmark = pytest.mark.keras
batches, embedding = Lazily("hashnet.train.batches"), Lazily("hashnet.train.embedding")
SETTINGS = TrainConfig(
    num_bits=8,
    backbone="stub",
    weights="random",
    image_size=32,
    loss="proxy_anchor",
    embedding=4,
    images_of_class=4,
    head_epochs=2,
    epochs=3,
    head_rate=0.01,
    rate=0.003,
    batch=8,
)
SUFFIXES = {"onnx": ".onnx", "keras": ".keras", "openvino": ".xml", "litert": ".tflite"}


@pytest.fixture(scope="module", autouse=True)
def stub():
    """Know the stub of a backbone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "stub", STUB)
        yield


def pictures(num_classes, each, seed=0):
    """Pictures of a colour each, the classes' as far apart as they go, under much noise."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(1).permutation(np.mgrid[0:3, 0:3, 0:3].reshape(3, -1).T)
    label = np.arange(num_classes * each) % num_classes
    pixels = random.integers(0, 90, (len(label), 32, 32, 3))
    pixels += colours[label][:, None, None] * 60 + random.integers(0, 40, (len(label), 1, 1, 1))
    names = [f"colour {one:02}" for one in range(num_classes)]
    return data.from_arrays(pixels.astype("uint8"), label, names)


@pytest.fixture(scope="module")
def colours():
    return pictures(6, 8)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, colours):
    """A training with `SETTINGS` that ran through."""
    return supervised.train(
        colours, tmp_path_factory.mktemp("features") / "b", SETTINGS, verbose=False
    )


@pytest.mark.thorough
def test_the_bundle_has_the_embedding_as_its_feature(plain, colours):
    config = plain.bundle.config
    assert (config.embedding, config.feature_dim, config.num_bits) == (4, 4, 8)
    assert config.classes == colours.classes
    encoded = Encoder(plain.bundle).encode(list(colours.sources))
    assert encoded.features.shape == (48, 4)
    np.testing.assert_allclose(np.linalg.norm(encoded.features, axis=1), 1, atol=1e-5)
    named = np.array(config.classes)[encoded.scores.argmax(axis=1)]
    assert (named == colours.labels).mean() > 0.8
    assert plain.score.map > 0.5


@pytest.mark.thorough
def test_codes_are_fitted_again_to_what_an_index_holds(plain, colours, photos, tmp_path, run):
    index = Index.create(tmp_path / "i", plain.bundle.folder)
    index.add(list(colours.sources), ids=[f"{place:02}" for place in range(48)])
    codes, features, queries = index.codes(), index.features(), list(colours.sources[:3])
    assert index.drift().fitted_to == 0 and not index.info()["outgrown"]  # 48 images
    said = run("index", index.store.folder, photos)[2]
    assert "outgrown: the codes were fitted to photos of a training" in said
    assert run("refit", index.store.folder)[1] == "codes fitted to 72 images\n"
    index = Index.open(index.store.folder)
    assert index.drift().fitted_to == 72
    kept = [id for id in index if id.isdecimal()]
    assert (index.features(kept) == features).all() and (index.codes(kept) != codes).any()
    # F8 told classes by the codes of before, whose mAP was noted.
    bundle = index.encoder.bundle
    assert index.encoder.config.classes == () and bundle.config.embedding == 4
    assert "score" in plain.bundle.origin and "score" not in bundle.origin
    assert bundle.origin["training"] == plain.bundle.origin["training"]
    assert index.search(queries[0], k=1)[0].bits_apart <= 1
    pixels = np.stack(queries).astype("float32")
    encoded = index.encoder.encode(queries)
    np.testing.assert_allclose(bundle.load_model()(pixels)["latent"], encoded.latents, atol=1e-4)
    assert index.refit(seed=1) == 72


@pytest.mark.thorough
def test_codes_of_int8_are_fitted_again(plain, colours, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    small = precision.convert(plain.bundle, tmp_path / "int8", "int8", images_from=[photos])
    index = Index.create(tmp_path / "i", small.folder)
    index.add(list(colours.sources), ids=[f"{place:02}" for place in range(48)])
    codes = index.codes()
    assert index.refit() == 48 and (index.codes() != codes).any()
    encoder = Index.open(index.store.folder).encoder
    assert encoder.precision == "int8" and encoder.config.classes == ()
    assert encoder.bundle.load_model().output["latent"].shape == (None, 8)
    latents = encoder.encode(list(colours.sources)).latents
    sure = np.abs(latents - 0.5) > 1e-2
    bits = np.unpackbits(index.codes(), axis=1)
    assert ((latents >= 0.5) == bits)[sure].all()


def test_who_does_not_know_embeddings_is_told_to_upgrade(plain, monkeypatch):
    monkeypatch.setattr(bundle, "FORMAT_VERSION", 4)
    with pytest.raises(bundle.BundleError, match="format 5.*[Uu]pgrade"):
        bundle.load(plain.bundle.folder)


@pytest.mark.thorough
@pytest.mark.parametrize("loss", METRIC_LOSSES)
def test_every_loss_serves_classes_that_it_has_not_seen(tmp_path, loss):
    shown, unseen = pictures(12, 8), pictures(24, 8, seed=5)
    unseen = unseen.without(shown.classes)
    settings = dataclasses.replace(
        SETTINGS, loss=loss, embedding=8, batch=24, head_epochs=30, epochs=0
    )
    found = supervised.train(shown, tmp_path / "b", settings, verbose=False)
    before = dataclasses.replace(settings, head_epochs=1, head_rate=1e-9)
    begun = supervised.train(shown, tmp_path / "begun", before, verbose=False)
    scores = []
    for trained in (begun, found):
        features = Encoder(trained.bundle).encode(list(unseen.sources)).features
        scores.append(
            metrics.evaluate_features(
                features, unseen.labels, features, unseen.labels, exclude_self=True
            ).map_at_r
        )
    assert scores[1] > scores[0]


@pytest.mark.thorough
@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 20])
def test_interrupted_the_same_call_ends_with_the_same_network(
    tmp_path, colours, monkeypatch, plain, step
):
    from hashnet.train.callbacks import AfterEpoch

    steps = iter(range(1, 99))

    def interrupt(_self, _batch, logs=None):
        if next(steps) == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AfterEpoch, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            supervised.train(colours, tmp_path / "b", SETTINGS, verbose=False)
    resumed = supervised.train(colours, tmp_path / "b", SETTINGS, verbose=False)
    assert resumed.history == plain.history
    weights = (one.bundle.load_model().get_weights() for one in (resumed, plain))
    for found, wanted in zip(*weights, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.thorough
def test_validation_keeps_whole_classes_apart(tmp_path, colours):
    settings = dataclasses.replace(
        SETTINGS, validation=0.4, patience=2, epochs=0, head_epochs=2, loss="supcon"
    )
    trained = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    assert len(trained.bundle.config.classes) == 4
    assert trained.score.kept_apart and trained.score.images == 16
    assert all(0 < row["validation_map"] <= 1 for row in trained.history)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "form",
    ["onnx", *(pytest.param(one, marks=pytest.mark.slow) for one in FORMATS if one != "onnx")],
)
def test_exports_give_the_same_numbers(plain, tmp_path, form):
    compared = export.export(plain.bundle, tmp_path / f"network{SUFFIXES.get(form, '')}", form)
    assert compared.bits_that_differ == 0 < compared.bits
    assert compared.largest_difference["feature"] < 1e-4


def test_a_catalogue_and_components_make_the_bundle(tmp_path, colours):
    catalogue = pictures(8, 2, seed=9)  # of two classes that no photo shows
    settings = dataclasses.replace(SETTINGS, components=3, head_epochs=1, epochs=1)
    trained = supervised.train(
        colours, tmp_path / "b", settings, catalogue=catalogue, verbose=False
    )
    config = trained.bundle.config
    assert (config.embedding, config.classes) == (7, colours.classes)
    assert trained.bundle.origin["images"] == len(colours) + 12
    kernel, _ = trained.bundle.load_model().get_layer("embedding").get_weights()
    encoded = Encoder(trained.bundle).encode(list(colours.sources))
    assert encoded.features.shape == (48, 7) and kernel.shape == (8, 7)
    without = supervised.train(colours, tmp_path / "c", settings, verbose=False)
    weights = [
        one.bundle.load_model().get_layer("conv").get_weights()[0] for one in (trained, without)
    ]
    assert np.abs(weights[0] - weights[1]).max() > 1e-6


@pytest.mark.thorough
def test_a_share_of_the_pretrained_weights_is_kept(tmp_path, colours, plain):
    begun = str(plain.bundle.folder)
    settings = dataclasses.replace(SETTINGS, start_from=begun, epochs=1, head_epochs=1)
    kernels = {}
    for share in (0.0, 0.25, 1.0):
        trained = supervised.train(
            colours,
            tmp_path / f"{share}",
            dataclasses.replace(settings, pretrained_share=share),
            verbose=False,
        )
        [kernels[share]] = trained.bundle.load_model().get_layer("conv").get_weights()
    [before] = plain.bundle.load_model().get_layer("conv").get_weights()
    np.testing.assert_array_equal(kernels[1.0], before)
    np.testing.assert_allclose(kernels[0.25], before / 4 + kernels[0.0] * 3 / 4, atol=1e-6)
    assert np.abs(kernels[0.0] - before).max() > 1e-4


@pytest.mark.thorough
def test_a_backbone_of_a_metric_starts_another_training(tmp_path, colours, plain):
    codes = dataclasses.replace(
        SETTINGS, loss="orthohash", embedding=0, images_of_class=0,
        start_from=str(plain.bundle.folder), head_epochs=1, epochs=0,
    )  # fmt: skip
    trained = supervised.train(colours, tmp_path / "b", codes, verbose=False)
    assert trained.bundle.config.feature_dim == 8
    kernel = [one.bundle.load_model().get_layer("conv").get_weights() for one in (trained, plain)]
    np.testing.assert_array_equal(*kernel)


# --- Where it starts and how it ends -------------------------------------------------------------


def test_the_start_has_equal_axes_about_the_mean():
    random = np.random.default_rng(0)
    f7 = random.normal(size=(400, 5)) * [5, 3, 1, 0.1, 0.1] + 2
    kernel, bias = embedding.whitened(f7, 3)
    z = f7 @ kernel + bias
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(z.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3
    spread = np.diag(covariance)
    assert spread[0] / spread[2] < 25 / 1 / 2 and (np.diff(spread) < 0).all()


def test_a_class_is_named_by_the_nearest_mean():
    random = np.random.default_rng(0)
    latents, label = random.random((40, 6)), np.arange(40) % 3
    targets = np.eye(3)[label]
    kernel, bias = embedding.nearest_mean(latents, targets)
    means = [latents[label == c].mean(axis=0) for c in range(3)]
    nearest = [int(np.argmin([np.sum((row - m) ** 2) for m in means])) for row in latents]
    assert (latents @ kernel + bias).argmax(axis=1).tolist() == nearest


def test_components_of_f7_stand_beside_what_was_learned():
    random = np.random.default_rng(0)
    f7 = random.normal(size=(300, 6)) * [5, 3, 1, 1, 0.5, 0.1] + 1
    f7 /= np.linalg.norm(f7, axis=1, keepdims=True)
    learned, offset = random.normal(size=(6, 2)), random.normal(size=2)
    kernel, bias = embedding.with_components(learned, offset, f7, 3)
    assert kernel.shape == (6, 5) and bias.shape == (5,)
    np.testing.assert_allclose(kernel[:, :2], learned, rtol=1e-6)
    z = f7 @ kernel + bias
    sums = np.square(z).mean(axis=0)
    np.testing.assert_allclose(sums[:2].sum(), sums[2:].sum(), rtol=1e-4)
    np.testing.assert_allclose(z[:, 2:].mean(axis=0), 0, atol=1e-5)
    covariance = np.cov(z[:, 2:].T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3 * covariance.max()


# --- Batches -------------------------------------------------------------------------------------


def test_a_batch_holds_so_many_classes_and_images_of_each():
    label = np.repeat(np.arange(7), [2, 3, 9, 9, 9, 9, 20])
    targets = np.eye(7, dtype="float32")[label]
    rows = np.arange(len(label))
    made = batches.Batches(rows, targets, 20, (0, 1), images_of_class=4)
    assert len(made) == 3
    for step in range(len(made)):
        shown, wanted = made[step]
        assert (wanted.argmax(axis=1) == label[shown]).all()
        classes, count = np.unique(label[shown], return_counts=True)
        assert len(classes) == 5 and (count == 4).all()
        for one in classes[classes > 1]:  # the others have fewer images than are shown
            assert len(set(shown[label[shown] == one])) == 4


def test_an_image_comes_again_only_after_all_others_of_its_class():
    targets = np.eye(2, dtype="float32")[np.repeat([0, 1], 40)]
    made = batches.Batches(np.arange(80), targets, 8, (3, 0), images_of_class=4)
    shown = np.concatenate([made[step][0] for step in range(len(made))])
    assert sorted(shown) == list(range(80))


def test_a_batch_shows_one_picture_of_the_catalogue_of_each_class_that_has_any():
    label = np.concatenate([np.repeat(np.arange(4), 10), [0, 0, 2, 3]])
    targets = np.eye(4, dtype="float32")[label]
    made = batches.Batches(np.arange(44), targets, 16, (0, 1), images_of_class=4, catalogue=4)
    shown = np.stack([made[step][0] for step in range(len(made))]).reshape(-1, 4, 4)
    for rows in shown.reshape(-1, 4):
        assert len(set(label[rows])) == 1
        assert (rows >= 40).sum() == (0 if label[rows[0]] == 1 else 1)
    assert set(range(40, 44)) <= set(shown.ravel().tolist())


def test_the_seed_and_the_epoch_decide_the_batches():
    targets = np.eye(4, dtype="float32")[np.arange(40) % 4]

    def order(*seed):
        made = batches.Batches(np.arange(40), targets, 8, seed, images_of_class=4)
        return np.concatenate([made[step][0] for step in range(len(made))]).tolist()

    assert order(0, 1) == order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 10}, "multiple of images_of_class"),
        ({"images_of_class": 1}, "two or more"),
        ({"batch": 4}, "two classes or more"),
        ({"balanced": True}, "as it is"),
        ({"embedding": -1}, "embedding is 0 or more"),
        ({"loss": "orthohash"}, "goes with a loss of features"),
        ({"loss": "csq", "embedding": 0, "components": 2}, "components goes with"),
        ({"loss": "csq", "embedding": 0}, "images_of_class goes with"),
        ({"pretrained_share": 1.5}, "pretrained_share is 0 or more, and 1 at most"),
    ],
)
def test_settings_that_make_no_batches_are_refused(changes, said):
    with pytest.raises(ArgumentError, match=said):
        dataclasses.replace(SETTINGS, **changes)


@pytest.mark.parametrize(
    ("num_classes", "each", "changes", "said"),
    [
        (6, 1, {"batch": 4, "images_of_class": 2}, "one image in each of 6 classes"),
        (4, 1, {"batch": 64}, "one image in each of 4 classes"),
        (3, 9, {"batch": 16}, r"3 classes. Give batch=12 \(--batch 12\)"),
        (3, 3, {"batch": 16}, r"3 classes. Give batch=8 \(--batch 8\)"),
        (3, 2, {"batch": 12}, "one batch at least. Received: 6"),
        (3, 2, {"batch": 12}, r"images_of_class=2 \(--batch 6 --images-of-class 2\)"),
        (3, 9, {"embedding": 9}, "no longer than F7"),
        (3, 9, {"components": 9}, "components=9, 8 numbers of stub"),
    ],
)
def test_images_that_make_no_batches_are_refused(tmp_path, num_classes, each, changes, said):
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(ArgumentError, match=said):
        supervised.train(pictures(num_classes, each), tmp_path / "b", settings, verbose=False)
    assert not (tmp_path / "b").exists() and not list(tmp_path.iterdir())


def test_one_class_is_refused():
    pixels = np.zeros((4, 32, 32, 3), "uint8")
    with pytest.raises(ArgumentError, match="at least two classes"):
        supervised.train(data.from_arrays(pixels, ["a"] * 4), "b", SETTINGS, verbose=False)


def test_too_few_classes_to_keep_some_apart_are_refused(tmp_path):
    settings = dataclasses.replace(SETTINGS, validation=0.3)
    with pytest.raises(ArgumentError, match="at least two classes"):
        supervised.train(pictures(3, 8), tmp_path / "b", settings, verbose=False)
