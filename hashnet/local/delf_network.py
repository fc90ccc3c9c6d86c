"""The network of DELF in Keras: a backbone up to its map, of images of any size."""

import os
from typing import TYPE_CHECKING, Any

from hashnet.errors import ArgumentError
from hashnet.network import backbones, bundle
from hashnet.network.functional import Evaluation

if TYPE_CHECKING:
    import keras


def map_of(model: "keras.Model", image: Any) -> Any:
    """Apply a backbone up to its map to a float32 Keras tensor of any size; weights are shared.

    Args:
        model: a `keras.Model` with an output named `map`.
        image: Keras tensor `(n, height, width, 3)`, float32, RGB in 0..255.

    Returns:
        Keras tensor `(n, rows, columns, channels)`, the map.
    """
    from keras import tree

    def call(operation: Any, node: Any, values: dict[int, Any]) -> Any:
        arguments, options = node.arguments.fill_in(values)
        return tree.flatten(operation(*arguments, **options))[0]

    return Evaluation([(model.input, image)], call).of(model.output["map"])


def load_backbone(
    name: str, weights: str = "imagenet", start_from: str | os.PathLike[str] = ""
) -> "keras.Model":
    """A backbone that gives maps of images of any size.

    Args:
        name: str, one of `BACKBONES`; with `start_from` what its bundle calls a network of yours.
        weights: `"imagenet"`, the path of a weights file, or `"random"`.
        start_from: str or path-like. Folder of a bundle whose trained backbone is taken instead;
            empty for none.

    Returns:
        A `keras.Model`, as from `backbones.create`.

    Raises:
        UnknownNameError: there is no such backbone.
        ArgumentError: it takes images of one size only, or the bundle has another one.
        WeightsError: its weights cannot be had.
        BundleError: the bundle cannot be read.

    Example:
        >>> load_backbone("alexnet")
        Traceback (most recent call last):
        ...
        hashnet.errors.ArgumentError: Local features and regions need a backbone for \
images of any size. Received: alexnet.
    """
    if not start_from:
        check_any_size(name)
        return backbones.create(name, weights=None if weights == "random" else weights)
    trained = bundle.load(start_from)
    check_has_map(trained.config.known)
    if trained.config.backbone != name:
        raise ArgumentError(
            "A bundle's backbone is the one that is asked for.",
            f"{trained.config.backbone} in {start_from}, {name}",
        )
    source, model = trained.load_model(), backbones.create(trained.config.known, weights=None)
    if getattr(model, "map_geometry", None) is not None:
        raise ArgumentError(
            "Local features are learned on maps of images of any size.",
            f"{name}, whose map is of one size",
            "hashnet index --local delf takes them without learning.",
        )
    for layer in model.layers:
        if layer.weights and layer.name != "f8":
            layer.set_weights(source.get_layer(layer.name).get_weights())
    return model


def check_any_size(name: str) -> None:
    """Refuse a backbone that gives no maps of images of any size.

    Args:
        name: str, one of `BACKBONES`.

    Raises:
        UnknownNameError: there is no such backbone.
        ArgumentError: it takes images of one size only.
    """
    if not backbones.known(name).any_size:
        raise ArgumentError(
            "Local features and regions need a backbone for images of any size.", name
        )


def check_has_map(backbone: backbones.Backbone) -> None:
    """Refuse a backbone from which no local features and regions can be taken.

    Args:
        backbone: a `Backbone`.

    Raises:
        ArgumentError: it takes images of one size only, or, one of one's own, gives no map.
    """
    if backbone.own is None:
        check_any_size(backbone.name)
    elif not backbone.map_channels:
        raise ArgumentError(
            "Local features of a network and regions are taken from its map.",
            f"{backbone.name}, which gives none",
            'Name an array as map in the TOML beside it, or take local features of "sift".',
        )
