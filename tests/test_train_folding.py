"""Frozen normalisations inside the convolutions before them: other steps, same numbers."""

import numpy as np
import pytest

from tests.lazily import Lazily

pytestmark = pytest.mark.keras
keras, layers, tf = Lazily("keras"), Lazily("keras.layers"), Lazily("tensorflow")
folding, network = Lazily("hashnet.train.folding"), Lazily("hashnet.train.network")
RNG = np.random.default_rng(0)


def small(size, padding="same"):
    """A network with every kind of convolution that a backbone has, its weights at random."""
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(8, 3, 2, padding=padding, use_bias=False, name="plain")(image)
    x = layers.BatchNormalization(epsilon=1e-3, name="plain_bn")(x)
    x = before = layers.ReLU(6.0)(x)
    for place, (side, stride) in enumerate(((3, 1), (5, 2), (3, 2))):
        x = layers.DepthwiseConv2D(
            side, stride, padding=padding, use_bias=False, name=f"depthwise{place}"
        )(x)
        x = layers.BatchNormalization(scale=place != 1, center=place != 2)(x)
    x = layers.Conv2D(6, 1, use_bias=False, name="wide")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(one) for one in (x, before)])
    model = keras.Model(image, x)
    for weight in model.weights:
        spread = RNG.normal(1 if "variance" in weight.path else 0, 0.2, weight.shape)
        weight.assign(np.abs(spread) + 0.1 if "variance" in weight.path else spread)
    return model


def derived(model, pixels, kernels):
    """Outputs, and the gradients of a sum of them to the pixels and the kernels."""
    x = tf.constant(pixels)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
        total = tf.reduce_sum(y * tf.sin(tf.range(1, y.shape[1] + 1, dtype="float32")))
    gradients = tape.gradient(total, [x, *(kernel.value for kernel in kernels)])
    return [y.numpy(), *(gradient.numpy() for gradient in gradients)]


@pytest.mark.fast("False-47-same", "True-50-valid")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [47, 48, 49, 50])
@pytest.mark.parametrize("fixed", [False, True])
def test_numbers_and_gradients_are_the_same(size, padding, fixed):
    model = small(size, padding)
    network.freeze_batch_norm(model)
    if fixed:
        network.freeze_depthwise(model)
    kernels = [model.get_layer(name).kernel for name in ("plain", "wide")]
    if not fixed:
        kernels += [model.get_layer(f"depthwise{place}").kernel for place in range(3)]
    pixels = RNG.normal(0, 1, (2, size, size, 3)).astype("float32")
    faster = folding.fold_norms(model)
    for was, became in zip(
        derived(model, pixels, kernels), derived(faster, pixels, kernels), strict=True
    ):
        np.testing.assert_allclose(became, was, rtol=1e-3, atol=1e-4 * np.abs(was).max())


def test_every_norm_is_folded_and_all_weights_are_shared():
    model = small(32)
    network.freeze_batch_norm(model)
    faster = folding.fold_norms(model)
    kinds = [type(layer) for layer in faster.layers]
    assert kinds.count(folding.NormalisedConvolution) == 5
    assert not {layers.BatchNormalization, layers.Conv2D, layers.DepthwiseConv2D} & set(kinds)
    assert {id(one) for one in faster.weights} == {id(one) for one in model.weights}
    trained = {one.path for one in faster.trainable_weights}
    assert trained == {one.path for one in model.trainable_weights} and len(trained) == 5


def test_what_lies_between_convolution_and_norm_keeps_them_apart():
    image = keras.Input((8, 8, 3))
    with_bias = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    bent = layers.BatchNormalization()(
        layers.Conv2D(4, 3, use_bias=False, activation="relu")(image)
    )
    used_twice = layers.Conv2D(4, 3, use_bias=False)(image)
    both = layers.Add()([used_twice, layers.BatchNormalization()(used_twice)])
    model = keras.Model(image, layers.Add()([with_bias, bent, both]))
    network.freeze_batch_norm(model)
    faster = folding.fold_norms(model)
    kinds = [type(layer) for layer in faster.layers]
    assert kinds.count(folding.NormalisedConvolution) == 1
    assert kinds.count(layers.BatchNormalization) == 2
    pixels = RNG.normal(0, 1, (2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(faster(pixels), model(pixels), rtol=1e-4, atol=1e-5)


def test_convolutions_run_in_the_precision_of_the_policy_and_scales_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small(32)
    finally:
        keras.config.set_dtype_policy("float32")
    network.freeze_batch_norm(model)
    network.freeze_depthwise(model)
    faster = folding.fold_norms(model)
    folded_layers = [one for one in faster.layers if type(one) is folding.NormalisedConvolution]
    assert {one.output.dtype for one in folded_layers} == {"bfloat16"}
    pixels = RNG.normal(0, 1, (4, 32, 32, 3)).astype("float32")
    exact = _in_float32(model, pixels)
    error = np.abs(np.asarray(faster(pixels), "float32") - exact).max()
    assert 0 < error < 0.03 * np.abs(exact).max()


def _in_float32(model, pixels):
    plain = small(32)
    plain.set_weights(model.get_weights())
    return np.asarray(plain(pixels))
