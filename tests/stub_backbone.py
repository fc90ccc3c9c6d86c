"""Backbones of a few hundred weights, for tests of what happens around them."""

import dataclasses

from hashnet.network import backbones


def _build(size, weights, depthwise=False):
    from keras import Input, Model, layers

    image = Input((size, size, 3), name="image")
    x = layers.Rescaling(1 / 128, offset=-1, name="scale")(image)
    x = layers.Conv2D(8, 3, 2, use_bias=False, name="conv")(x)
    if depthwise:
        x = layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    feature = layers.GlobalAveragePooling2D(name="f7")(x)
    feature = layers.Dropout(0.1, name="drop")(feature)
    scores = layers.Dense(1000, activation="softmax", name="f8")(feature)
    return Model(image, {"map": x, "feature": feature, "scores": scores}, name="stub")


STUB = backbones.Backbone(
    name="stub",
    image_size=32,
    any_size=True,
    feature_dim=8,
    map_channels=8,
    build=_build,
    source="nobody: random weights",
)
DEPTHWISE = dataclasses.replace(
    STUB, build=lambda size, weights: _build(size, weights, depthwise=True)
)
