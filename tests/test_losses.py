"""The losses against their formulas, written out as loops."""

import math

import numpy as np
import pytest

from hashnet.errors import UnknownNameError
from hashnet.train import config
from tests.lazily import Lazily

pytestmark = pytest.mark.keras
keras, losses = Lazily("keras"), Lazily("hashnet.train.losses")
B, K, C = 5, 12, 4


@pytest.fixture
def batch():
    random = np.random.default_rng(3)
    u = random.normal(0, 1.5, (B, K)).astype("float32")
    logits = random.normal(0, 2, (B, C)).astype("float32")
    targets = np.eye(C, dtype="float32")[[0, 1, 2, 3, 1]]
    targets[4] = [0.5, 0, 0.5, 0]  # an image of two classes
    return u, logits, targets


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cross_entropy_by_loops(logits, targets):
    total = 0.0
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        normaliser = sum(math.exp(value) for value in row)
        for value, weight in zip(row, wanted, strict=True):
            total -= weight * math.log(math.exp(value) / normaliser)
    return total / len(logits)


def close(tensor, expected):
    assert float(tensor) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_paper_has_cross_entropy_alone(batch):
    u, logits, targets = batch
    close(losses.create("paper", K, C)(u, logits, targets), cross_entropy_by_loops(logits, targets))


def test_ssdh_adds_pushing_apart_and_balance(batch):
    u, logits, targets = batch
    k1 = k2 = 0.0
    for row in u.tolist():
        a = [sigmoid(value) for value in row]
        k1 -= sum((x - 0.5) ** 2 for x in a) / (2 * B * K)
        k2 += (sum(a) / K - 0.5) ** 2 / (2 * B)
    expected = cross_entropy_by_loops(logits, targets) + k1 + k2
    close(losses.create("ssdh", K, C)(u, logits, targets), expected)


def test_greedyhash_adds_the_distance_to_one_cubed(batch):
    u, logits, targets = batch
    extra = sum(abs(abs(x) - 1) ** 3 for row in u.tolist() for x in row) * 0.1 / (B * K)
    expected = cross_entropy_by_loops(logits, targets) + extra
    close(losses.create("greedyhash", K, C)(u, logits, targets), expected)


def test_csq_pulls_every_bit_to_the_centre_of_the_class(batch):
    u, _, targets = batch
    centres = losses.codewords(K, C, seed=1)
    total = quantisation = 0.0
    for row, wanted in zip(u.tolist(), targets, strict=True):
        members = [c for c in range(C) if wanted[c] > 0]
        for k, value in enumerate(row):
            one = sum(centres[c][k] for c in members) >= 0
            p = (math.tanh(value) + 1) / 2
            total -= math.log(p if one else 1 - p)
            quantisation += (abs(math.tanh(value)) - 1) ** 2
    expected = (total + 1e-4 * quantisation) / (B * K)
    close(losses.csq_loss(u, targets, centres), expected)


def test_orthohash_is_cross_entropy_of_cosines_with_a_margin(batch):
    u, _, targets = batch
    words = losses.codewords(K, C, seed=1)
    logits = np.zeros((B, C))
    for b in range(B):
        for c in range(C):
            dot = sum(float(u[b, k]) * float(words[c, k]) for k in range(K))
            cosine = dot / math.sqrt(sum(float(x) ** 2 for x in u[b])) / math.sqrt(K)
            logits[b, c] = 4.0 * (cosine - 0.2 * (targets[b, c] > 0))
    close(losses.orthohash_loss(u, targets, words), cross_entropy_by_loops(logits, targets))


@pytest.mark.parametrize("name", config.CODE_LOSSES)
def test_every_loss_that_the_settings_know_is_there_and_finite_far_out(name):
    loss = losses.create(name, K, C)
    u = np.array([[100.0] * K, [-100.0] * K, [0.0] * K], dtype="float32")
    targets = np.eye(C, dtype="float32")[:3]
    assert loss.name == name
    assert np.isfinite(float(loss(u, np.zeros((3, C), "float32"), targets)))


def test_a_loss_of_another_name_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="greedyhash, orthohash"):
        losses.create("triplet", K, C)


@pytest.mark.parametrize(("num_bits", "num_classes"), [(12, 10), (32, 10), (48, 10), (64, 64)])
def test_codewords_of_a_hadamard_matrix_are_half_their_bits_apart(num_bits, num_classes):
    words = losses.codewords(num_bits, num_classes)
    assert set(np.unique(words)) == {-1.0, 1.0}
    for a in range(num_classes):
        for b in range(a):
            assert np.count_nonzero(words[a] != words[b]) == num_bits // 2


def test_bits_of_codewords_are_balanced_over_ten_classes():
    ones = (losses.codewords(48, 10) > 0).sum(axis=0)
    assert ones.min() >= 1 and ones.max() <= 9


@pytest.mark.parametrize(("num_bits", "num_classes"), [(30, 10), (12, 100), (5, 3), (16, 200)])
def test_codewords_are_there_for_any_number_of_bits_and_classes(num_bits, num_classes):
    words = losses.codewords(num_bits, num_classes)
    assert words.shape == (num_classes, num_bits)
    assert set(np.unique(words)) == {-1.0, 1.0}


def test_codewords_depend_on_the_seed_and_on_nothing_else():
    assert (losses.codewords(48, 10, seed=1) == losses.codewords(48, 10, seed=1)).all()
    assert (losses.codewords(48, 10, seed=1) != losses.codewords(48, 10, seed=2)).any()


@pytest.mark.parametrize("f8_sees", ["latent", "bits", "stopped"])
def test_f8_sees_zeros_and_ones_and_sends_back_the_gradient_it_should(f8_sees):
    u = keras.ops.convert_to_tensor(np.array([[-2.0, -0.1, 0.0, 3.0]], dtype="float32"))
    layer = losses.SeenByF8(f8_sees, 2.0)
    seen = keras.ops.convert_to_numpy(layer(u))[0]
    latent = np.array([sigmoid(2 * x) for x in (-2.0, -0.1, 0.0, 3.0)])
    expected = (latent >= 0.5).astype(float) if f8_sees == "bits" else latent
    np.testing.assert_allclose(seen, expected, atol=1e-6)

    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(u)
        total = tf.reduce_sum(layer(u))
    gradient = tape.gradient(total, u)
    if f8_sees == "stopped":
        assert gradient is None
    elif f8_sees == "bits":
        np.testing.assert_allclose(gradient[0], [0.5] * 4)
    else:
        np.testing.assert_allclose(gradient[0], 2 * latent * (1 - latent), rtol=1e-5)
