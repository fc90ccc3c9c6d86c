"""Training attention and components, on a network so small that an epoch takes no time."""

import dataclasses

import numpy as np
import pytest

from hashnet.errors import ArgumentError, UnknownNameError
from hashnet.local import delf, delf_network
from hashnet.network import backbones
from hashnet.train import attention
from tests.make_images import photo
from tests.stub_backbone import STUB

pytestmark = pytest.mark.keras
SETTINGS = attention.AttentionConfig(
    backbone="stub",
    weights="random",
    descriptor_dim=3,
    hidden=6,
    views=4,
    view_side=32,
    places=40,
    epochs=8,
    rate=0.02,
    batch=6,
)


@pytest.fixture(scope="module", autouse=True)
def stub():
    """Know the stub of a backbone."""
    pytest.importorskip("cv2", reason="views of photos need OpenCV")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "stub", STUB)
        yield


def photos(count=6):
    return [photo(70, 90, seed) for seed in range(count)]


@pytest.fixture(scope="module")
def trained():
    """A training with `SETTINGS`."""
    return attention.train(photos(), None, SETTINGS, verbose=False)


def test_training_lowers_the_loss_and_fits_the_backbone(trained):
    losses = [epoch["loss"] for epoch in trained.history]
    assert len(losses) == 8 and losses[-1] < 0.9 * losses[0]
    assert trained.history[-1]["accuracy"] > trained.history[0]["accuracy"]
    channels = delf_network.load_backbone("stub", "random").output["map"].shape[-1]
    assert len(trained.head.mean) == channels


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_weights(trained):
    again = attention.train(photos(), None, SETTINGS, verbose=False)
    settings = dataclasses.replace(SETTINGS, seed=1, epochs=1)
    other = attention.train(photos(), None, settings, verbose=False)
    for first, second in zip(trained.head._arrays(), again.head._arrays(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert trained.history == again.history
    assert trained.history[0] != other.history[0]


def test_roots_change_what_is_described_and_not_what_attention_sees(monkeypatch):
    seen = []

    def attends(columns, targets, num_classes, mean, *rest):
        seen.append((columns, mean))
        return None, []

    monkeypatch.setattr(attention, "_attention", attends)
    plain, rooted = (
        attention.train(photos(2), None, dataclasses.replace(SETTINGS, root=root), verbose=False)
        for root in (False, True)
    )
    assert rooted.head.root and not plain.head.root
    (columns, mean), (_, mean_beside_roots) = seen
    np.testing.assert_array_equal(mean, plain.head.mean)
    np.testing.assert_array_equal(mean, mean_beside_roots)
    every = np.concatenate(columns).astype(np.float64)
    assert attention._sampled(columns, SETTINGS.seed).shape == every.shape  # all places are taken
    roots = np.sign(every) * np.sqrt(np.abs(every))
    roots /= np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-6)
    np.testing.assert_allclose(rooted.head.mean, roots.mean(axis=0), atol=1e-3)


@pytest.mark.thorough
def test_labels_make_classes():
    few = dataclasses.replace(SETTINGS, epochs=1)
    trained = attention.train(photos(4), ["cat", "dog", "cat", "dog"], few, verbose=False)
    assert trained.history[0]["loss"] < 20
    with pytest.raises(ArgumentError, match="tell classes apart"):
        attention.train(photos(4), ["cat"] * 4, few, verbose=False)
    with pytest.raises(ArgumentError, match="one label"):
        attention.train(photos(4), ["cat"], few, verbose=False)


def test_without_hidden_layer_the_norm_is_the_score():
    none = dataclasses.replace(SETTINGS, hidden=0)
    trained = attention.train(photos(3), None, none, verbose=False)
    assert trained.head.attention is None and trained.history == []


@pytest.mark.thorough
def test_broken_images_are_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    few = dataclasses.replace(SETTINGS, epochs=1)
    trained = attention.train([*photos(3), broken], None, few, verbose=False)
    assert [problem.path for problem in trained.problems] == [str(broken)]


@pytest.fixture
def tiny_bundle(tmp_path):
    from hashnet.network import bundle
    from hashnet.network.model import HashNetConfig, build

    config = HashNetConfig(backbone="stub", image_size=32, num_bits=8, classes=("a", "b"))
    network = build(config, weights=None)
    return bundle.save(tmp_path / "tiny", network, config, origin={"command": "tests"})


@pytest.fixture
def recipe(tmp_path):
    """Settings of one short epoch."""
    path = tmp_path / "short.toml"
    short = "descriptor_dim = 3\nhidden = 6\nviews = 2\nview_side = 32\nplaces = 10\nepochs = 1\n"
    path.write_text(short + "batch = 4\n")
    return path


@pytest.mark.thorough
def test_a_command_trains_what_new_indexes_of_a_bundle_take(
    run, tiny_bundle, recipe, tmp_path, photos
):
    from hashnet import cli
    from hashnet.network import bundle
    from hashnet.retrieval.index import Index

    options = ["--bundle", tiny_bundle.folder, "--recipe", recipe]
    (tiny_bundle.folder / delf.FILE).write_bytes(b"of an earlier training")
    status, out, err = run("attention", photos, *options, "--label-from", "folder")
    assert status == cli.DONE and "24 images" in out, err
    names = {"hashnet.json", "model.keras", "encoder.onnx", delf.FILE}
    assert {path.name for path in tiny_bundle.folder.iterdir()} == names
    assert bundle.load(tiny_bundle.folder).fingerprint == tiny_bundle.fingerprint
    index = Index.create(tmp_path / "index", tiny_bundle.folder, local="delf")
    carried = index.store.encoder_folder / delf.FILE
    assert carried.read_bytes() == (tiny_bundle.folder / delf.FILE).read_bytes()
    assert index.extractor.descriptor_dim == 3
    status, _, err = run("attention", photos, "--bundle", tmp_path / "index", "--recipe", recipe)
    assert status == cli.WRONG_ARGUMENTS and "An index keeps" in err


@pytest.mark.thorough
def test_the_command_names_what_it_cannot_learn_from(run, tiny_bundle, recipe, tmp_path, photos):
    from hashnet import cli

    options = ["--bundle", tiny_bundle.folder, "--recipe", recipe]
    status, _, err = run("attention", photos / "disc", *options, "--label-from", "folder")
    assert status == cli.WRONG_ARGUMENTS and "lies in none" in err
    status, _, err = run("attention", tmp_path / "nowhere", *options)
    assert status == cli.WRONG_ARGUMENTS and "nowhere" in err and "0 classes" in err
    assert not (tiny_bundle.folder / delf.FILE).exists()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    status, out, err = run("attention", photos / "disc", broken, *options)
    assert status == cli.SKIPPED_SOME and "6 images" in out and "broken.png" in err


def test_pooling_is_what_a_slow_definition_gives():
    from hashnet.train.attention_network import network_of

    rng = np.random.default_rng(0)
    columns = rng.random((3, 5, 4)).astype(np.float32)
    mean = rng.random(4).astype(np.float32)
    network, (first, second) = network_of(mean, 6, 7, 16.0, [1, 2, 3])
    kernel1, bias1 = first.get_weights()
    kernel2, bias2 = second.get_weights()
    directions = network.get_layer("classes").get_weights()[0].astype(np.float64)
    expected = np.zeros((3, 7))
    for view in range(3):
        total = np.zeros(4)
        for f in columns[view].astype(np.float64):
            hidden = [max(0.0, f @ kernel1[:, unit] + bias1[unit]) for unit in range(6)]
            weight = np.log1p(np.exp(sum(hidden * kernel2[:, 0]) + bias2[0]))
            total += weight * (f - mean)
        for number in range(7):
            direction = directions[:, number]
            cosine = total @ direction / np.linalg.norm(total) / np.linalg.norm(direction)
            expected[view, number] = 16 * cosine
    np.testing.assert_allclose(np.asarray(network(columns)), expected, atol=1e-4)


@pytest.mark.parametrize("whiten", [0.0, 0.5, 1.0])
def test_components_are_those_of_the_singular_value_decomposition(whiten):
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(500, 6)) * [5, 4, 3, 2, 1, 0.5] + 7
    _mean, components, kept = attention.principal_components(columns, 3, whiten=whiten)
    centred = columns - columns.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    scale = (values[:3] / np.sqrt(500)) ** whiten
    agreement = axes[:3] @ (components * scale)
    np.testing.assert_allclose(np.abs(agreement), np.eye(3), atol=1e-3)
    assert kept == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())
    deviations = (centred @ components).std(axis=0)
    np.testing.assert_allclose(deviations, (values[:3] / np.sqrt(500)) ** (1 - whiten), 1e-3)


def test_components_of_columns_that_are_all_alike_are_finite():
    for whiten in (0.0, 1.0):
        _, components, kept = attention.principal_components(np.ones((9, 4)), 2, whiten=whiten)
        assert np.isfinite(components).all() and kept == 0
    with pytest.raises(ArgumentError, match="5 of 4"):
        attention.principal_components(np.ones((9, 4)), 5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (300, 2), (640, 480)])
def test_views_of_any_photo(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    seen = attention.view(image, 64, np.random.default_rng(1))
    assert seen.shape == (64, 64, 3) and seen.dtype == np.uint8
    again = attention.view(image, 64, np.random.default_rng(1))
    np.testing.assert_array_equal(seen, again)


def test_recipes_and_settings():
    assert attention.from_recipe("views").views == 6
    with pytest.raises(UnknownNameError, match="hue"):
        attention.from_recipe("views", hue=1)
    with pytest.raises(ArgumentError, match="recipe"):
        attention.from_recipe("nothing")
    for wrong in (
        {"views": 0},
        {"rate": 0.0},
        {"shrink": 1.5},
        {"hidden": "many"},
        {"batch": 1},
        {"whiten": 2.0},
    ):
        with pytest.raises(ArgumentError):
            attention.AttentionConfig(**wrong)
