"""Training as a whole, on a network so small that an epoch takes no time."""

import csv
import dataclasses
import errno
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from hashnet import codes, metrics
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, BundleError, UnknownNameError
from hashnet.network import backbones
from hashnet.train import data, supervised
from hashnet.train.config import TrainConfig
from tests.stub_backbone import DEPTHWISE, STUB

pytestmark = pytest.mark.keras
SETTINGS = TrainConfig(
    num_bits=8,
    backbone="stub",
    weights="random",
    image_size=32,
    head_epochs=2,
    epochs=3,
    head_rate=0.03,
    rate=0.01,
    batch=8,
)


VALIDATED = dataclasses.replace(SETTINGS, validation=0.2, patience=4)


@pytest.fixture(scope="module", autouse=True)
def stub():
    """Know the stub of a backbone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "stub", STUB)
        yield


@pytest.fixture(scope="module")
def colours():
    """Pictures of three colours, which any network can tell apart."""
    random = np.random.default_rng(1)
    label = np.arange(48) % 3
    pixels = random.integers(0, 60, (48, 32, 32, 3))
    pixels[np.arange(48), :, :, label] += 150
    return data.from_arrays(pixels.astype("uint8"), label, ["red", "green", "blue"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory, colours):
    """A training with `SETTINGS` that ran through."""
    return supervised.train(
        colours, tmp_path_factory.mktemp("plain") / "b", SETTINGS, verbose=False
    )


def weights_of(trained):
    return trained.bundle.load_model().get_weights()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def map_of(code, labelled):
    result = metrics.evaluate_codes(
        code, labelled.labels, code, labelled.labels, num_bits=8, exclude_self=True
    )
    return result.map_all.expected


LOSSES = ["orthohash"] + [
    pytest.param(loss, marks=pytest.mark.slow) for loss in ("paper", "ssdh", "csq", "greedyhash")
]


@pytest.mark.thorough
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_to_tell_colours_apart(tmp_path, colours, loss):
    settings = dataclasses.replace(SETTINGS, loss=loss, head_epochs=25, epochs=0, head_rate=0.1)
    trained = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    network = trained.bundle.load_model()
    latent = network.predict(colours.sources.astype("float32"), verbose=0)["latent"]
    assert map_of(codes.from_latent(latent), colours) > 0.9


@pytest.mark.thorough
@pytest.mark.parametrize("loss", ["csq", "orthohash"])
def test_the_folded_head_gives_the_bits_and_the_scores_that_were_trained(colours, loss):
    from hashnet.network.model import HashNetConfig, build
    from hashnet.train import losses, network

    plain = build(
        HashNetConfig(backbone="stub", image_size=32, num_bits=8, classes=colours.classes),
        weights=None,
    )
    hash_loss = losses.create(loss, 8, 3)
    head = network.make_head(8, 8, 3, hash_loss)
    random = np.random.default_rng(0)
    head.set_weights([random.uniform(0.3, 2, value.shape) for value in head.get_weights()])
    network.fold(head, plain)
    features_of = network.feature_part(plain)
    trained = head.predict(features_of.predict(colours.sources, verbose=0), verbose=0)
    given = plain.predict(colours.sources.astype("float32"), verbose=0)
    logistic = 1 / (1 + np.exp(-hash_loss.steepness * trained["u"]))
    np.testing.assert_allclose(given["latent"], logistic, atol=1e-5)
    clear = np.abs(trained["u"]) > 1e-5
    assert ((given["latent"] >= 0.5) == (trained["u"] >= 0))[clear].all()
    odds = np.exp(trained["logits"])
    np.testing.assert_allclose(given["scores"], odds / odds.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.thorough
def test_another_seed_gives_another_network(tmp_path, colours, plain):
    """That the same one gives the same is seen below, where trainings are interrupted."""
    settings = dataclasses.replace(SETTINGS, seed=1)
    other = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    assert not same(weights_of(plain), weights_of(other))


@pytest.fixture(scope="module")
def never_interrupted(tmp_path_factory, colours):
    """The history and the weights of a training with validation that ran through."""
    folder = tmp_path_factory.mktemp("whole") / "b"
    trained = supervised.train(colours, folder, VALIDATED, verbose=False)
    return trained.history, weights_of(trained)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=pytest.mark.slow) for step in (1, 4, 6, 8, 9, 20)] + [18]
)
def test_interrupted_at_any_step_the_same_call_ends_with_the_same_network(
    tmp_path, colours, monkeypatch, never_interrupted, step
):
    from hashnet.train.callbacks import AfterEpoch

    steps = iter(range(1, 99))

    def interrupt(_self, _batch, logs=None):
        if next(steps) == step:
            raise KeyboardInterrupt

    settings = dataclasses.replace(VALIDATED, logs=str(tmp_path / "logs"))
    with monkeypatch.context() as patch:
        patch.setattr(AfterEpoch, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            supervised.train(colours, tmp_path / "b", settings, verbose=False)
    assert not (tmp_path / "b").exists()
    resumed = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    history, weights = never_interrupted
    assert resumed.history == history
    assert same(weights_of(resumed), weights)
    assert not (tmp_path / "b.training").exists()
    with open(tmp_path / "logs" / "log.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "1", "2", "3"]


@pytest.mark.thorough
def test_a_full_disk_is_reported_and_the_next_call_goes_on(tmp_path, colours, monkeypatch, plain):
    from hashnet.train import state

    write, written = np.savez, [0]

    def until_full(file, **arrays):
        written[0] += 1
        if written[0] == 4:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, **arrays)

    monkeypatch.setattr(state.np, "savez", until_full)
    with pytest.raises(BundleError, match="No space left.*Make room"):
        supervised.train(colours, tmp_path / "cut", SETTINGS, verbose=False)
    assert os.listdir(tmp_path / "cut.training") == ["state.npz"]
    resumed = supervised.train(colours, tmp_path / "cut", SETTINGS, verbose=False)
    assert same(weights_of(plain), weights_of(resumed))
    assert written[0] == 4 + 2  # epochs 2 and 3 of phase 2, and no more


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, colours):
    """The state beside a bundle whose training was interrupted after its first epoch."""
    from hashnet.train.callbacks import AfterEpoch

    folder = tmp_path_factory.mktemp("unfinished")
    end = AfterEpoch.on_epoch_end

    def then_stop(self, epoch, logs=None):
        end(self, epoch, logs)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AfterEpoch, "on_epoch_end", then_stop)
        with pytest.raises(KeyboardInterrupt):
            supervised.train(colours, folder / "b", SETTINGS, verbose=False)
    return folder / "b.training"


@pytest.mark.slow
def test_minutes_count_the_calls_that_were_interrupted_too(tmp_path, colours):
    from hashnet.train import state

    first = state.RunState(tmp_path / "s", "this run", time.monotonic() - 600)
    network = supervised.build(
        supervised.HashNetConfig(
            backbone="stub", image_size=32, num_bits=8, classes=colours.classes
        ),
        weights=None,
    )
    network.compile("sgd")
    first.save(network)
    second = state.RunState(tmp_path / "s", "this run", time.monotonic() - 60)
    assert 660 <= second.seconds < 700


@pytest.mark.thorough
def test_an_unfinished_training_does_not_go_on_with_other_settings(tmp_path, colours, unfinished):
    shutil.copytree(unfinished, tmp_path / "b.training")
    settings = dataclasses.replace(SETTINGS, loss="csq")
    with pytest.raises(ArgumentError, match="same settings and images.*delete that folder"):
        supervised.train(colours, tmp_path / "b", settings, verbose=False)


@pytest.mark.thorough
def test_a_damaged_state_is_reported_with_the_way_out(tmp_path, colours, unfinished):
    path = shutil.copytree(unfinished, tmp_path / "b.training") / "state.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BundleError, match="Delete the folder"):
        supervised.train(colours, tmp_path / "b", SETTINGS, verbose=False)


@pytest.mark.thorough
def test_stopping_early_keeps_the_best_epoch(tmp_path, colours):
    settings = dataclasses.replace(
        SETTINGS, head_epochs=40, epochs=0, validation=0.3, patience=2, head_rate=0.1
    )
    trained = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    scores = [row["validation_map"] for row in trained.history]
    assert 3 <= len(scores) < 40 and max(scores) == scores[-3]
    _, apart = colours.split(0.3, settings.seed)
    code = Encoder(trained.bundle).encode(list(apart.sources)).codes
    assert map_of(code, apart) == pytest.approx(max(scores), abs=0.02)


def layers_that_stayed(first, second):
    """Of each layer of the backbone, whether two trainings gave it the same weights."""
    before, after = (one.bundle.load_model() for one in (first, second))
    return {
        name: same(before.get_layer(name).get_weights(), after.get_layer(name).get_weights())
        for name in ("conv", "bn")
    }


@pytest.mark.slow
def test_without_phase_2_the_backbone_stays_and_a_new_code_can_start_from_it(
    tmp_path, colours, plain
):
    settings = dataclasses.replace(
        SETTINGS, num_bits=4, image_size=0, start_from=str(plain.bundle.folder), epochs=0
    )
    short = supervised.train(colours, tmp_path / "short", settings, verbose=False)
    assert short.bundle.config.num_bits == 4 and short.bundle.config.image_size == 32
    assert layers_that_stayed(plain, short) == {"conv": True, "bn": True}


@pytest.mark.slow
@pytest.mark.parametrize("freeze_bn", [True, False])
def test_batch_normalisation_learns_only_where_it_is_asked_to(tmp_path, colours, freeze_bn):
    first = supervised.train(
        colours, tmp_path / "a", dataclasses.replace(SETTINGS, epochs=0), verbose=False
    )
    settings = dataclasses.replace(
        SETTINGS, freeze_bn=freeze_bn, start_from=str(tmp_path / "a"), epochs=1
    )
    second = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    assert layers_that_stayed(first, second) == {"conv": False, "bn": freeze_bn}


@pytest.mark.slow
def test_a_network_that_is_to_see_mirror_images_learns_as_any_other(tmp_path, colours, plain):
    settings = dataclasses.replace(SETTINGS, mirror=True)
    mirrored = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    assert (plain.bundle.config.mirror, mirrored.bundle.config.mirror) == (False, True)
    assert mirrored.history == plain.history
    for was, became in zip(
        plain.bundle.load_model().get_weights(),
        mirrored.bundle.load_model().get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(became, was)


@pytest.mark.slow
def test_fixed_depthwise_kernels_stay_where_all_else_learns(tmp_path, colours, monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "stub", DEPTHWISE)
    start = dataclasses.replace(SETTINGS, epochs=0)
    first = supervised.train(colours, tmp_path / "a", start, verbose=False)
    settings = dataclasses.replace(
        start,
        start_from=str(tmp_path / "a"),
        epochs=1,
        freeze_depthwise=True,
        precision="mixed_bfloat16",
    )
    second = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    before, after = (one.bundle.load_model() for one in (first, second))
    stayed = {
        name: same(before.get_layer(name).get_weights(), after.get_layer(name).get_weights())
        for name in ("conv", "depthwise", "bn")
    }
    assert stayed == {"conv": False, "depthwise": True, "bn": True}


FAULTS = """
import resource, sys
import numpy as np
from hashnet.system import keep_freed_memory
if not keep_freed_memory():
    sys.exit("unknown")
for _ in range(2):
    np.ones(100_000_000, "uint8")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(100_000_000, "uint8")
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_used_again_without_new_pages():
    answer = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    if "unknown" in answer.stderr:
        pytest.skip("this C library has no mallopt")
    assert int(answer.stdout) < 1000  # Five times 24,000 pages otherwise.


@pytest.mark.slow
def test_layers_before_the_first_that_learns_stay(tmp_path, colours):
    start = dataclasses.replace(SETTINGS, epochs=0, freeze_bn=False)
    first = supervised.train(colours, tmp_path / "a", start, verbose=False)
    settings = dataclasses.replace(start, learn_from="bn", start_from=str(tmp_path / "a"), epochs=1)
    second = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    assert layers_that_stayed(first, second) == {"conv": True, "bn": False}


def test_an_unknown_first_layer_is_refused_before_anything_is_learned(tmp_path, colours):
    settings = dataclasses.replace(SETTINGS, learn_from="block9")
    with pytest.raises(UnknownNameError, match="block9"):
        supervised.train(colours, tmp_path / "a", settings, verbose=False)
    assert not list(tmp_path.iterdir())


def test_starting_from_a_bundle_of_another_backbone_is_refused(tmp_path, colours, plain):
    settings = dataclasses.replace(
        SETTINGS, backbone="efficientnet_lite0", start_from=str(plain.bundle.folder)
    )
    with pytest.raises(ArgumentError, match="same backbone.*stub"):
        supervised.train(colours, tmp_path / "b", settings, verbose=False)


def test_held_out_classes_are_not_learned(tmp_path, colours):
    settings = dataclasses.replace(SETTINGS, held_out=("green",), head_epochs=1, epochs=0)
    trained = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    assert trained.bundle.config.classes == ("blue", "red")
    assert trained.bundle.origin["images"] == 32


@pytest.mark.slow
def test_images_with_several_labels_are_learned(tmp_path, colours):
    targets = colours.targets.copy()
    targets[::4, 0] = True
    several = data.from_arrays(colours.sources, targets, colours.classes)
    settings = dataclasses.replace(SETTINGS, head_epochs=20, epochs=1, validation=0.2)
    trained = supervised.train(several, tmp_path / "b", settings, verbose=False)
    assert trained.history[-1]["validation_map"] > 0.6


@pytest.mark.slow
def test_one_image_in_a_class_is_enough_to_train(tmp_path, colours):
    labels = ["red"] * 30 + ["rest"]
    few = data.from_arrays(colours.sources[:31], labels)
    settings = dataclasses.replace(SETTINGS, epochs=1, balanced=True, validation=0.2)
    trained = supervised.train(few, tmp_path / "b", settings, verbose=False)
    assert trained.bundle.config.classes == ("red", "rest")


@pytest.mark.thorough
def test_unreadable_images_are_named_in_the_result(tmp_path, colours):
    from hashnet import images

    for row in range(6):
        path = tmp_path / "data" / str(colours.labels[row]) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write(path, colours.sources[row])
    broken = tmp_path / "data" / "red" / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    settings = dataclasses.replace(SETTINGS, head_epochs=1, epochs=0, batch=3)
    trained = supervised.train(tmp_path / "data", tmp_path / "b", settings, verbose=False)
    assert [problem.path for problem in trained.problems] == [str(broken)]
    assert trained.bundle.origin["images"] == 6


def test_a_folder_with_something_else_is_not_replaced_and_found_out_first(tmp_path, colours):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("all my work")
    with pytest.raises(BundleError, match="replaces only a bundle"):
        supervised.train(colours, tmp_path / "thesis", SETTINGS, verbose=False)


@pytest.mark.slow
def test_progress_goes_to_stderr_and_nothing_to_stdout(tmp_path, colours, capsys):
    settings = dataclasses.replace(SETTINGS, epochs=1)
    supervised.train(colours, tmp_path / "b", settings, verbose=True)
    out, err = capsys.readouterr()
    assert out == "" and "phase 2" in err
    supervised.train(colours, tmp_path / "c", settings, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_balanced_batches_show_every_class_equally_often():
    from hashnet.train.batches import Batches

    targets = np.eye(3, dtype="float32")[[0] * 50 + [1] * 9 + [2]]
    batches = Batches(np.arange(60), targets, 6, (0, 0), balanced=True)
    shown = np.concatenate([batches[step][1] for step in range(len(batches))])
    assert shown.sum(axis=0).tolist() == [20, 20, 20]
    assert all((batches[step][1].sum(axis=0) == 2).all() for step in range(len(batches)))


def test_the_order_of_images_depends_on_seed_and_epoch_alone():
    from hashnet.train.batches import Batches

    targets = np.eye(2, dtype="float32")[np.arange(20) % 2]

    def order(seed):
        batches = Batches(np.arange(20), targets, 4, seed)
        return [row for step in range(len(batches)) for row in batches[step][0].tolist()]

    assert sorted(order((5, 0))) == list(range(20))
    assert order((5, 0)) == order((5, 0))
    assert order((5, 0)) != order((5, 1)) != order((6, 0))


@pytest.mark.slow
def test_a_mixed_precision_training_gives_a_float32_bundle(tmp_path, colours):
    import keras

    settings = dataclasses.replace(SETTINGS, precision="mixed_bfloat16", epochs=1)
    trained = supervised.train(colours, tmp_path / "b", settings, verbose=False)
    assert keras.config.dtype_policy().name == "float32"
    assert all(value.dtype == np.float32 for value in weights_of(trained))


JAX_PROGRAM = """
import importlib.util, sys
find_spec = importlib.util.find_spec


class NoTensorFlow:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError("no TensorFlow here")


sys.meta_path.insert(0, NoTensorFlow())
importlib.util.find_spec = lambda name: None if name == "tensorflow" else find_spec(name)
import numpy as np
from hashnet import errors
from hashnet.quiet import import_keras
import_keras()
from hashnet.network import backbones, bundle, export, model
from tests.stub_backbone import DEPTHWISE, STUB
from hashnet.train import data
from hashnet.train import supervised as hash
from hashnet.train.config import TrainConfig

backbones.BACKBONES["stub"] = STUB
random = np.random.default_rng(1)
label = np.arange(48) % 3
pixels = random.integers(0, 60, (48, 32, 32, 3))
pixels[np.arange(48), :, :, label] += 150
colours = data.from_arrays(pixels.astype("uint8"), label, ["red", "green", "blue"])
settings = TrainConfig(
    num_bits=8, backbone="stub", weights="random", image_size=32, head_epochs=30, epochs=3,
    head_rate=.1, rate=.01, batch=8, validation=.25, seed=3,
)
for loss in ("proxy_anchor", "multi_similarity", "triplet", "supcon_softmax", "arcface"):
    of_features = TrainConfig(
        num_bits=8, backbone="stub", weights="random", image_size=32, head_epochs=1, epochs=1,
        batch=12, loss=loss, embedding=4,
    )
    trained = hash.train(colours, sys.argv[1] + loss, of_features, verbose=False)
    assert all(np.isfinite(row["loss"]) for row in trained.history), trained.history
    assert trained.bundle.config.feature_dim == 4
trained = hash.train(colours, sys.argv[1], settings, verbose=False)
print(trained.history[-1]["validation_map"])
comparison = export.export(trained.bundle, sys.argv[1] + ".onnx", "onnx")
assert comparison.bits_that_differ == 0 and comparison.bits > 0
for format, suffix in (("litert", ".tflite"), ("saved_model", "")):
    try:
        export.export(trained.bundle, sys.argv[1] + "x" + suffix, format)
    except errors.HashnetError as error:
        assert "TensorFlow" in str(error) and "pip install" in str(error), error
    else:
        raise AssertionError(format)
"""


@pytest.mark.slow
def test_the_same_training_runs_under_jax_without_tensorflow(tmp_path):
    pytest.importorskip("jax")
    root = pathlib.Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", JAX_PROGRAM, str(tmp_path / "b")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.8
