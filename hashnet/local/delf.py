"""DELF: deep local features, from the same convolution map as the hash is made of.

A pyramid of sizes of an image goes through the backbone up to its map of stride 16. Every place of
every map is a local feature: its centre in the image follows from the layers, its score says how
much it tells (attention), its descriptor is the map's column there, of length 1, cut to 40
principal components, of length 1 again. The best 1000 are kept, those first that score no less
than their eight neighbours on the map.

All but the pyramid is one ONNX file, `delf.onnx`, which `export` writes with Keras and `Delf` runs
without it.

Reference:
    Noh, Araujo, Sim, Weyand and Han, "Large-Scale Image Retrieval with Attentive Deep Local
    Features", ICCV 2017, sections 4.1 to 4.3.
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import zipfile
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hashnet import images
from hashnet.errors import ArgumentError, BundleError, ShapeError, WeightsError
from hashnet.local.extractors import MAX_FEATURES, LocalFeatures
from hashnet.network import runtimes

FILE = "delf.onnx"
SCALES = tuple(2.0 ** (power / 2) for power in range(-4, 3))  # .25 to 2
MIN_SIDE = 32  # pixels; of a smaller level the map is hardly more than padding
MAX_PIXELS = 4_200_000  # of a level, which takes a second and 2 GB

# What the score is, by the name that the network's output has.
ATTENTION, NORM = "attention", "activation_norm"


@dataclass(frozen=True)
class Geometry:
    """Which pixels a place of a map sees.

    Attributes:
        size: int, pixels. Side of the square that it sees.
        stride: int, pixels between the centres of neighbours.
        offset: float, pixels. Centre of the first place, where the first pixel's is 0.
    """

    size: int
    stride: int
    offset: float


@dataclass(frozen=True, eq=False)
class Head:
    """What lies between the map of a backbone and local features.

    Attributes:
        mean: float32 `(channels,)`. Mean of the training features of length 1.
        components: float32 `(channels, descriptor_dim)`. Their principal axes.
        attention: None where none is trained, and the length of the map's column is the score;
            or four float32 arrays: kernel `(channels, hidden)` and bias `(hidden,)` of the
            first layer, kernel `(hidden,)` and bias `()` of the second.

    Raises:
        ShapeError: the arrays do not fit each other.
        WeightsError: a number among them is not finite.
    """

    mean: np.ndarray
    components: np.ndarray
    attention: tuple | None = None

    def __post_init__(self):
        channels = len(self.mean)
        hidden = len(self.attention[1]) if self.attention else 0
        expected = [(channels,), (channels, self.descriptor_dim)]
        expected += [(channels, hidden), (hidden,), (hidden,), ()] if self.attention else []
        arrays = self._arrays()
        if [array.shape for array in arrays] != expected or channels < self.descriptor_dim:
            raise ShapeError(
                "The arrays of a DELF head fit each other.",
                ", ".join(str(array.shape) for array in arrays),
            )
        if not all(np.isfinite(array).all() for array in arrays):
            raise WeightsError("The numbers of a DELF head are finite.", "NaN or infinity")

    @property
    def descriptor_dim(self):
        """int, length of a descriptor."""
        return self.components.shape[-1]

    def _arrays(self):
        return [self.mean, self.components, *(self.attention or ())]

    def save(self, path):
        """Write the head as an `.npz`, the kernels of attention in float16.

        Args:
            path: str or path-like.
        """
        arrays = {"mean": self.mean, "components": self.components}
        if self.attention:
            kernel1, bias1, kernel2, bias2 = self.attention
            arrays |= {"kernel1": kernel1.astype(np.float16), "bias1": bias1}
            arrays |= {"kernel2": kernel2, "bias2": bias2}
        np.savez_compressed(path, **arrays)

    @classmethod
    def untrained(cls, channels, descriptor_dim=40):
        """A head where none is trained: a random projection, and the column's length as score.

        Args:
            channels: int, depth of the map.
            descriptor_dim: int; `channels` if that is less.

        Returns:
            A `Head`, always the same; angles stay nearly as they are.

        Example:
            >>> Head.untrained(1024).components.shape
            (1024, 40)
        """
        rng = np.random.default_rng(0)
        axes = np.linalg.qr(rng.normal(size=(channels, min(channels, descriptor_dim))))[0]
        return cls(np.zeros(channels, np.float32), axes.astype(np.float32))

    @classmethod
    def load(cls, path):
        """Read a head, or the one that comes with HashNet.

        Args:
            path: path of an `.npz` that `save` wrote, or the name of a backbone that has a
                preset.

        Returns:
            A `Head`.

        Raises:
            WeightsError: there is none, or it is damaged.

        Example:
            >>> Head.load("efficientnet_lite0").components.shape
            (672, 40)
        """
        preset = _preset(path)
        names = ("kernel1", "bias1", "kernel2", "bias2")
        try:
            content = (preset if preset.is_file() else pathlib.Path(path)).read_bytes()
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name], np.float32) for name in file.files}
            attention = tuple(arrays[name] for name in names) if "kernel1" in arrays else None
            return cls(arrays["mean"], arrays["components"], attention)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsError(
                "A DELF head is an .npz of hashnet.train.attention, or the backbone of a preset.",
                f"{path}: {error}",
            ) from error


def has_preset(backbone):
    """Whether a head for this backbone comes with HashNet.

    Args:
        backbone: str, a name.

    Returns:
        bool.

    Example:
        >>> has_preset("efficientnet_lite0"), has_preset("alexnet")
        (True, False)
    """
    return _preset(backbone).is_file()


def _preset(backbone):
    return pathlib.Path(__file__).with_name("presets") / f"{backbone}_delf.npz"


# --- Geometry ---------------------------------------------------------------------------------


def geometry(model):
    """Compute, from the layers, which pixels a place of the map sees.

    For images whose sides are multiples of the stride: "same" padding depends on the size.

    Args:
        model: a `keras.Model` of one image with an output called `map`, such as
            `backbones.create` gives.

    Returns:
        A `Geometry`.

    Raises:
        ArgumentError: a layer moves places in a way that is not understood.

    Example:
        >>> from hashnet.network import backbones
        >>> geometry(backbones.create("efficientnet_lite0", weights=None))
        Geometry(size=339, stride=16, offset=15.0)
    """
    first = _Window(0, 0, 1)
    last = _follow(model.output["map"], {id(model.input): first}, _window_after)
    if last is None:
        raise ArgumentError("A map has places.", model.name)
    return Geometry(last.end - last.start + 1, last.stride, (last.start + last.end) / 2)


@dataclass(frozen=True)
class _Window:
    """The first and the last pixel that the first place of a map sees, and how far the next is."""

    start: int
    end: int
    stride: int


def _follow(tensor, values, step):
    """Evaluate a tensor of a Keras graph with another meaning of its operations.

    Args:
        values: dict of `id` of a tensor to its value; those computed are added.
        step: function of an operation, its node, and the values, to the value of its output.
    """
    import keras

    waiting = [tensor]
    while waiting:
        wanted = waiting[-1]
        if id(wanted) in values:
            waiting.pop()
            continue
        operation, node_index, tensor_index = wanted._keras_history
        node = operation._inbound_nodes[node_index]
        missing = [one for one in node.input_tensors if id(one) not in values]
        if missing:
            waiting += missing
        elif isinstance(operation, keras.Model):  # a network within the network
            inside = {
                id(inner): values[id(outer)]
                for inner, outer in zip(operation.inputs, node.input_tensors, strict=True)
            }
            values[id(wanted)] = _follow(operation.outputs[tensor_index], inside, step)
        else:
            values[id(wanted)] = step(operation, node, values)
    return values[id(tensor)]


def _window_after(layer, node, values):
    from keras import layers

    before = [values[id(tensor)] for tensor in node.input_tensors]
    windows = [window for window in before if window is not None]
    if not windows:
        return None  # after a global pooling there are no places
    window = windows[0]
    if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D):
        return _seen(window, layer, layer.kernel_size, layer.strides, layer.dilation_rate)
    if isinstance(layer, layers.MaxPooling2D | layers.AveragePooling2D):
        return _seen(window, layer, layer.pool_size, layer.strides, 1)
    if isinstance(layer, layers.ZeroPadding2D | layers.Cropping2D):
        (top, _), (left, _) = getattr(layer, "padding", None) or layer.cropping
        move = _alike(layer, (top, left)) * window.stride
        move = move if isinstance(layer, layers.Cropping2D) else -move
        return _Window(window.start + move, window.end + move, window.stride)
    out, inputs = node.outputs[0], node.input_tensors
    places = [tensor.shape[1:3] for tensor, seen in zip(inputs, before, strict=True) if seen]
    if len(out.shape) != 4 or out.shape[1:3] == (1, 1) != places[0]:
        return None
    if {*places} != {out.shape[1:3]} or len({window.stride for window in windows}) > 1:
        raise ArgumentError(
            "The places of a map must follow from convolutions, poolings and paddings.",
            f"{type(layer).__name__} {layer.name}",
        )
    start, end = min(w.start for w in windows), max(w.end for w in windows)
    return _Window(start, end, window.stride)


def _seen(window, layer, kernel, strides, dilation):
    kernel, stride = _alike(layer, kernel), _alike(layer, strides)
    reach = (kernel - 1) * _alike(layer, dilation)
    padding = max(reach + 1 - stride, 0) // 2 if layer.padding == "same" else 0
    start = window.start - padding * window.stride
    end = window.end + (reach - padding) * window.stride
    return _Window(start, end, window.stride * stride)


def _alike(layer, pair):
    rows, columns = pair if isinstance(pair, tuple | list) else (pair, pair)
    if rows != columns:
        raise ArgumentError("A layer treats rows and columns alike.", f"{pair} in {layer.name}")
    return rows


# --- The network ------------------------------------------------------------------------------


def build(model, head):
    """The network from images of any size to descriptors and scores of all places.

    Args:
        model: a `keras.Model` of one image with an output called `map`, such as
            `backbones.create` gives; its weights are shared.
        head: a `Head` for that map.

    Returns:
        A `keras.Model` from `image`, uint8 `(n, height, width, 3)`, sides multiples of the
        stride, to a dictionary of `descriptors` float32 `(n, rows, columns, descriptor_dim)`
        and, float32 `(n, rows, columns)`, `attention` where the head has it, else
        `activation_norm`.

    Raises:
        ShapeError: the head is for a map of other depth.
    """
    import keras
    from keras import ops

    pixels = keras.Input((None, None, 3), dtype="uint8", name="image")
    column = map_of(model, ops.cast(pixels, "float32"))  # (n, rows, columns, channels)
    if column.shape[-1] != len(head.mean):
        raise ShapeError(
            "A DELF head must be for the backbone's map.",
            f"{column.shape[-1]} channels of {model.name}, a head for {len(head.mean)}",
        )
    # In a network within the network, whose operations may be named as layers of the backbone.
    return keras.Model(pixels, _head_network(head)(column), name="delf")


def _head_network(head):
    import keras
    from keras import ops

    column = keras.Input((None, None, len(head.mean)), name="column")
    length = ops.sqrt(ops.sum(column * column, axis=-1, keepdims=True))
    unit = column / ops.maximum(length, 1e-6)
    if head.attention:
        kernel1, bias1, kernel2, bias2 = head.attention
        hidden = ops.relu(_pointwise(unit, kernel1, bias1))
        scores = ops.softplus(_pointwise(hidden, kernel2[:, None], bias2[None]))
    else:
        scores = length
    reduced = _pointwise(unit, head.components, -head.mean @ head.components)
    reduced_length = ops.sqrt(ops.sum(reduced * reduced, axis=-1, keepdims=True))
    outputs = {
        "descriptors": reduced / ops.maximum(reduced_length, 1e-6),
        ATTENTION if head.attention else NORM: ops.squeeze(scores, -1),
    }
    return keras.Model(column, outputs, name="delf_head")


def map_of(model, image):
    """Apply a backbone up to its map to a float32 Keras tensor of any size; weights are shared.

    Args:
        model: a `keras.Model` with an output named `map`.
        image: Keras tensor `(n, height, width, 3)`, float32, RGB in 0..255.

    Returns:
        Keras tensor `(n, rows, columns, channels)`, the map.
    """
    from keras import tree

    def call(operation, node, values):
        arguments, options = node.arguments.fill_in(values)
        return tree.flatten(operation(*arguments, **options))[0]

    return _follow(model.output["map"], {id(model.input): image}, call)


def _pointwise(x, kernel, bias):
    from keras import layers

    convolution = layers.Conv2D(kernel.shape[1], 1)
    y = convolution(x)
    convolution.set_weights([kernel[None, None], bias])
    return y


def load_backbone(name, weights="imagenet", start_from=""):
    """A backbone that gives maps of images of any size.

    Args:
        name: str, one of `BACKBONES`.
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
        hashnet.errors.ArgumentError: Local features need a backbone for images of any size. \
Received: alexnet.
    """
    from hashnet.network import backbones, bundle

    if not backbones.known(name).any_size:
        raise ArgumentError("Local features need a backbone for images of any size.", name)
    if not start_from:
        return backbones.create(name, weights=None if weights == "random" else weights)
    trained = bundle.load(start_from)
    if trained.config.backbone != name:
        raise ArgumentError(
            "A bundle's backbone is the one that is asked for.",
            f"{trained.config.backbone} in {start_from}, {name}",
        )
    source, model = trained.load_model(), backbones.create(name, weights=None)
    for layer in model.layers:
        if layer.weights and layer.name != "f8":
            layer.set_weights(source.get_layer(layer.name).get_weights())
    return model


def export(path, backbone="efficientnet_lite0", head=None):
    """Write a backbone up to its map, with a head, as the ONNX file that `Delf` runs.

    Args:
        path: str or path-like ending in `.onnx`.
        backbone: str, one with weights of ImageNet, or a `keras.Model`, as from `load_backbone`.
        head: a `Head`. None for the preset of the backbone, or, where it has none or it is a
            network of yours, `Head.untrained`.

    Raises:
        UnknownNameError: there is no such backbone.
        ArgumentError: it takes images of one size only.
        WeightsError: its weights cannot be had.
        ShapeError: the head is for another map.
    """
    from hashnet.network.export import quiet

    if isinstance(backbone, str):
        model = load_backbone(backbone)
        if head is None and has_preset(backbone):
            head = Head.load(backbone)
    else:
        model = backbone
    head = head or Head.untrained(model.output["map"].shape[-1])
    seen = geometry(model)
    network = build(model, head)
    network(np.zeros((1, 64, 64, 3), np.uint8))  # keras exports only what has been called
    with quiet():
        network.export(os.fspath(path), format="onnx", verbose=False)
    _add_geometry(path, seen)


def _add_geometry(path, seen):
    """Let the file itself say where its places are: a constant output, which runtimes all give."""
    import onnx

    network = onnx.load(path)
    numbers = np.float32([seen.size, seen.stride, seen.offset])
    value = onnx.numpy_helper.from_array(numbers, "geometry_value")
    network.graph.node.append(onnx.helper.make_node("Constant", [], ["geometry"], value=value))
    network.graph.output.append(
        onnx.helper.make_tensor_value_info("geometry", onnx.TensorProto.FLOAT, [3])
    )
    onnx.save(network, path)


# --- The extractor ----------------------------------------------------------------------------


class Delf:
    """Extracts local features with an exported network, without Keras.

    Args:
        network: a runtime, as `runtimes.open_file` gives.
        fingerprint: str. Changes with anything that could change a feature.
        scales: tuple of float. Sizes of the pyramid's levels, 1 being the image itself. Levels
            with a side under `MIN_SIDE` or of more than `MAX_PIXELS` are left out.
        max_features: int.
        spread: bool. Take the features that score no less than their neighbours on the map
            first, and others only where these do not fill `max_features`. False takes the
            highest scores wherever they are, as in the paper.

    Attributes:
        name: `"delf"`.
        descriptor_dim: int.
        score: `"attention"`, or `"activation_norm"` where no attention is trained.
        geometry: the network's `Geometry`.
        fingerprint: str.

    Raises:
        ArgumentError: a scale is not above 0, or `max_features` is under 1.
        BundleError: the network is none for local features.
    """

    name = "delf"

    def __init__(
        self, network, fingerprint="", *, scales=SCALES, max_features=MAX_FEATURES, spread=True
    ):
        if not scales or not all(0 < scale < np.inf for scale in scales) or max_features < 1:
            raise ArgumentError(
                "Local features come from scales above 0, at least one.",
                f"scales={scales}, max_features={max_features}",
            )
        score = {ATTENTION, NORM} & set(network.outputs)
        image = runtimes.End("uint8", (None, None, 3))
        found = network.inputs.get("image")
        if (
            set(network.outputs) != {"descriptors", "geometry", *score}
            or len(score) != 1
            or set(network.inputs) != {"image"}
            or (found.dtype, len(found.shape), found.shape[-1]) != (image.dtype, 3, 3)
        ):
            raise BundleError(
                "A network for local features is a file of hashnet.local.delf.export.",
                f"{network.inputs} to {network.outputs}",
            )
        self._network = network
        (self.score,) = score
        self.descriptor_dim = network.outputs["descriptors"].shape[-1]
        self.fingerprint, self.scales = fingerprint, tuple(scales)
        self.max_features, self.spread = max_features, spread
        smallest = np.zeros((1, MIN_SIDE, MIN_SIDE, 3), np.uint8)
        size, stride, offset = network.run(["geometry"], {"image": smallest})[0].tolist()
        if not (
            1 <= stride <= 1024 and stride == int(stride) and np.isfinite([size, offset]).all()
        ):
            raise BundleError(
                "A network for local features knows its stride.", f"{stride} and {offset} pixels"
            )
        self.geometry = Geometry(int(size), int(stride), offset)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        runtime: str = "auto",
        *,
        num_threads: int | None = None,
        **options: Any,
    ) -> Self:
        """Open an exported network.

        Args:
            path: str or path-like, an ONNX file of `export`.
            runtime, num_threads: as for `runtimes.open_file`.
            **options: as for the class.

        Returns:
            The opened `Delf`.

        Raises:
            BundleError: the file is missing, damaged or of another kind.
            HashnetError: the runtime is unknown or not installed.
        """
        content = runtimes.read(
            path, "Local features need their network.", "Write it with hashnet.local.delf.export."
        )
        network = runtimes.open_bytes(content, path, runtime, num_threads=num_threads)
        return cls(network, hashlib.sha256(content).hexdigest(), **options)

    def extract(self, image: np.ndarray) -> LocalFeatures:
        """Extract the local features of an image.

        Args:
            image: uint8 `(height, width, 3)`, RGB and upright.

        Returns:
            `LocalFeatures`, at most `max_features`. None where every level is too small or too
            large.

        Raises:
            ShapeError: the image is of another dtype or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ShapeError(
                "An image is a uint8 array of shape (height, width, 3).",
                f"{image.dtype} {image.shape}",
            )
        levels = [self._level(image, size) for size in self._sizes(image.shape[:2])]
        empty = np.empty((0, 2)), np.empty((0, self.descriptor_dim)), np.empty(0), np.empty(0)
        yx, descriptors, scores, peaks = (
            np.concatenate([np.float32(part) for part in parts])
            for parts in zip(empty, *levels, strict=True)
        )
        first = peaks if self.spread else np.zeros_like(peaks)
        chosen = np.lexsort((-scores, -first))[: self.max_features]
        best = chosen[np.argsort(-scores[chosen], kind="stable")]
        return LocalFeatures(yx[best], descriptors[best], scores[best])

    def _sizes(self, shape):
        sizes = [tuple(max(1, round(side * scale)) for side in shape) for scale in self.scales]
        return [size for size in sizes if min(size) >= MIN_SIDE and size[0] * size[1] <= MAX_PIXELS]

    def _level(self, image, size):
        """(yx, descriptors, scores, is a peak) of all places whose centre lies in the image."""
        from scipy import ndimage  # half a second, which searching does without

        pixels = image if size == image.shape[:2] else images.resize(image, size)
        stride, offset = self.geometry.stride, self.geometry.offset
        # Up to whole strides, for which the geometry holds, with what the edge looks like.
        missing = [-side % stride for side in size]
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        descriptors, scores = self._network.run(
            ["descriptors", self.score], {"image": pixels[None]}
        )
        centres = [offset + stride * np.arange(count) for count in scores.shape[1:]]
        rows, columns = (
            np.flatnonzero((0 <= centre) & (centre < side))
            for centre, side in zip(centres, size, strict=True)
        )
        scores = scores[0][np.ix_(rows, columns)]
        peaks = (scores == ndimage.maximum_filter(scores, 3)).ravel() if scores.size else []
        scores = scores.ravel()
        descriptors = descriptors[0][np.ix_(rows, columns)].reshape(len(scores), -1)
        # Pixels are squares: their edges coincide at all scales, their centres do not.
        y, x = (
            np.clip((centre[kept] + 0.5) * (whole / side) - 0.5, 0, whole - 1)
            for centre, kept, whole, side in zip(
                centres, (rows, columns), image.shape[:2], size, strict=True
            )
        )
        yx = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
        known = np.isfinite(scores) & np.isfinite(descriptors).all(axis=1)
        return yx[known], descriptors[known], scores[known], np.asarray(peaks)[known]
