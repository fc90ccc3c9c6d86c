"""A pretrained network with a hash layer that is still to be fitted, as searching runs it.

Where the backbone's layers are known as ONNX (`Backbone.write`) Keras is not needed; the file is
the one that Keras and `onnx_writer` would give, with a pooling but for the order of
its operators.
"""

from typing import TYPE_CHECKING

import numpy as np

from hashnet.errors import ShapeError
from hashnet.network import backbones, onnx_graph, onnx_layers
from hashnet.network.backbones import Backbone
from hashnet.network.model import HashNetConfig

if TYPE_CHECKING:
    import onnx

_KERNEL, _BIAS = onnx_graph.HASH_LAYER


def config_of(backbone: Backbone, num_bits: int) -> HashNetConfig:
    """The hash network of a pretrained backbone with its own F8, if it has one.

    Args:
        backbone: a `Backbone`.
        num_bits: int, 1 to 1024.

    Returns:
        A `HashNetConfig`.

    Raises:
        ArgumentError: there are no codes of this length.

    Example:
        >>> config_of(backbones.known("resnet50"), 12).scores_from
        'feature'
    """
    return HashNetConfig(
        backbone=backbone.name,
        num_bits=num_bits,
        classes=backbones.imagenet_classes() if backbone.has_classes else (),
        scores_from="feature" if backbone.has_classes else "none",
        own=backbone.own,
    )


def write(
    config: HashNetConfig, weights: str = "imagenet", backbone: Backbone | None = None
) -> "onnx.ModelProto":
    """The hash network of a pretrained backbone with its own F8; every latent is one half.

    Args:
        config: a `HashNetConfig` whose `scores_from` is `"feature"` or `"none"`.
        weights: `"imagenet"`, or the path of a weights file.
        backbone: as for `model.build`.

    Returns:
        A network from `image`, uint8 `(n, size, size, 3)`, or from `vector`, float32
        `(n, feature_dim)`, to float32 `latent`, `feature` and, where there are classes, `scores`,
        as `onnx_writer.write` makes.

    Raises:
        WeightsError: the weights cannot be had, or are of another network.
        HashnetError: the backbone needs Keras, which is not installed.

    Example:
        >>> config = HashNetConfig(
        ...     num_bits=12, classes=backbones.imagenet_classes(), scores_from="feature"
        ... )
        >>> [output.name for output in write(config).graph.output]
        ['latent', 'feature', 'scores']
    """
    backbone, size = backbones.checked(
        backbone or config.known, weights=weights, image_size=config.image_size
    )
    blank = np.zeros((backbone.feature_dim, config.num_bits), np.float32), np.zeros(config.num_bits)
    if backbone.write is None:
        from hashnet.network import model, onnx_writer

        network = model.build(config, weights=weights, backbone=backbone)
        content = onnx_writer.write(network, config.outputs)
        return with_hash_layer(onnx_graph.parsed(content, config.backbone), *blank)
    layers = onnx_layers.Layers()
    f7 = backbone.write(size, weights, layers)
    feature = layers.unit_length(f7.feature)
    kernel, bias = (layers.weight(*pair) for pair in zip((_KERNEL, _BIAS), blank, strict=True))
    latent = layers.node("Sigmoid", [layers.dense(feature, kernel, bias)])
    layers.give("latent", latent, shape=["n", config.num_bits])
    layers.give("feature", feature, shape=["n", backbone.feature_dim])
    if f7.scores:
        layers.give("scores", f7.scores, shape=["n", len(config.classes)])
    if f7.map:
        layers.rename(f7.map, onnx_graph.MAP)
    return layers.model()


def with_hash_layer(
    network: "onnx.ModelProto", kernel: np.ndarray, bias: np.ndarray
) -> "onnx.ModelProto":
    """The same network with other weights of H.

    Args:
        network: as from `write`; it is left as it is.
        kernel: float array `(feature_dim, num_bits)`.
        bias: float array `(num_bits,)`.

    Returns:
        The network.

    Raises:
        ShapeError: H has other shapes.

    Example:
        >>> config = HashNetConfig(
        ...     num_bits=1, classes=backbones.imagenet_classes(), scores_from="feature"
        ... )
        >>> network = with_hash_layer(write(config), np.ones((1280, 1)), np.zeros(1))
        >>> [list(one.dims) for one in network.graph.initializer if one.name == "latent/kernel"]
        [[1280, 1]]
    """
    import onnx
    import onnx.numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(network)
    stored = {one.name: one for one in made.graph.initializer}
    for name, values in ((_KERNEL, kernel), (_BIAS, bias)):
        if name not in stored or list(stored[name].dims) != list(values.shape):
            raise ShapeError(
                "Weights of H must fit its layer.",
                f"{name} of shape {values.shape} for {list(stored[name].dims)}"
                if name in stored
                else f"no {name}",
            )
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
        stored[name].CopyFrom(tensor)
    return made
