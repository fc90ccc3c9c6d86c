"""From a Keras network to ONNX, and its weights back: any backend of Keras, nothing traced.

The file keeps every weight as Keras has it, under the name of its layer; see `onnx_layers`.

Besides its outputs the file names one array within, `map`, the convolution map of stride 16: see
`onnx_graph.up_to_map`.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet.errors import ArgumentError, BundleError, ExportError
from hashnet.network import onnx_graph, onnx_layers
from hashnet.network.functional import Evaluation
from hashnet.network.geometry import geometry, map_tensor

if TYPE_CHECKING:
    import keras
    import onnx

PRODUCER = onnx_graph.PRODUCER


def write(model: "keras.Model", outputs: Sequence[str], *, code: bool = False) -> bytes:
    """Write a network as ONNX.

    Args:
        model: a `keras.Model` from float32 images `(n, size, size, 3)`, RGB in 0..255, to a
            dictionary, as `model.build` gives.
        outputs: some of the dictionary's names. The map is named within in any case.
        code: bool. Also give `code`, the packed bits of `latent`.

    Returns:
        bytes of the file: from `image`, uint8 `(n, size, size, 3)`, to the outputs.

    Raises:
        ExportError: a layer of the network is not among those that are known here.

    Example:
        >>> from hashnet.network import bundle
        >>> content = write(bundle.load(bundle_folder).load_model(), ("latent", "feature"))
        >>> is_ours(content)
        True
    """
    graph = _Graph(model)
    # From the last, as `pretrained` has them: scores that do not need H stand before it.
    values = {name: graph.of(model.output[name]) for name in reversed(outputs)}
    for name in outputs:
        graph.give(name, values[name], shape=["n", *model.output[name].shape[1:]])
    if code:
        latent = model.output["latent"]
        graph.give("code", graph.packed(graph.of(latent), latent.shape[-1]), "uint8")
    stride_16 = map_tensor(model)
    if stride_16 is not None:
        graph.rename(graph.as_map(graph.of(stride_16)), onnx_graph.MAP)
        graph.geometry = getattr(model, "map_geometry", None)
        if graph.geometry is not None:
            graph.map_image_size = model.input.shape[1]
        else:
            # Where the layers do not tell it, there are no local features.
            with contextlib.suppress(ArgumentError):
                graph.geometry = geometry(model)
    return onnx_graph.content(graph.model())


def write_map(model: "keras.Model") -> "onnx.ModelProto":
    """A backbone up to its map as ONNX.

    Args:
        model: a `keras.Model` with an output called `map`, as `backbones.create` gives.

    Returns:
        A network as `onnx_graph.up_to_map` takes it.

    Raises:
        ExportError: as for `write`.
        ArgumentError: its places in the image do not follow from its layers.
    """
    graph = _Graph(model)
    graph.rename(graph.of(model.output["map"]), onnx_graph.MAP)
    graph.geometry = geometry(model)
    return graph.model()


def restore(model: "keras.Model", network: "onnx.ModelProto") -> None:
    """Fill a Keras network with the weights of a file that `write` made of one like it.

    Weights that nothing in the file depends on become zero.

    Args:
        model: a `keras.Model`, built as the other one was.
        network: the ONNX file, checked and parsed.

    Raises:
        BundleError: it holds other weights.
    """
    import onnx.numpy_helper

    graph = _Graph(model)
    for tensor in model.output.values():
        graph.of(tensor)
    stored = {tensor.name: tensor for tensor in network.graph.initializer}
    for variable in model.weights:
        if id(variable) not in graph.names:
            variable.assign(np.zeros(variable.shape, np.float32))
            continue
        name = graph.names[id(variable)]
        if name not in stored:
            raise BundleError("A network's file must hold all of its weights.", f"no {name!r}")
        value = onnx.numpy_helper.to_array(stored[name])
        order = graph.orders[name]
        if order is not None and value.ndim == len(order):
            value = value.transpose(np.argsort(order))
        if value.dtype != np.float32 or value.shape != tuple(variable.shape):
            raise BundleError(
                "A network's weights must fit its description.",
                f"{name!r}, {value.dtype} of shape {value.shape} for {tuple(variable.shape)}",
            )
        variable.assign(value)


def is_ours(content: bytes) -> bool:
    """Whether an ONNX file is one that `write` made, from its first bytes.

    Args:
        content: bytes, of the file.

    Returns:
        bool.

    Example:
        >>> is_ours(b"")
        False
    """
    mark = PRODUCER.encode()
    # The second field of the message; the first one is two bytes long.
    return content[2:4] == bytes([0x12, len(mark)]) and content[4:].startswith(mark)


class _Graph(onnx_layers.Layers):
    """The ONNX graph of a Keras network in the making; its values are names of arrays."""

    def __init__(self, model: "keras.Model") -> None:
        super().__init__()
        self.names: dict[int, str] = {}  # of variables, by identity
        self.orders: dict[str, tuple[int, ...] | None] = {}
        self._as_in_keras: set[str] = set()  # arrays of four axes that are no maps
        pixels = self.image(["n", *model.input.shape[1:]])
        self._evaluation = Evaluation([(model.input, pixels)], self._add)

    def of(self, tensor: Any) -> str:
        """The name of what a Keras tensor stands for."""
        return self._evaluation.of(tensor)

    def variable(self, layer: Any, variable: Any, order: tuple[int, ...] | None = None) -> str:
        """A variable of a layer; a layer that is used twice has it once."""
        if id(variable) not in self.names:
            name = f"{layer.name}/{variable.name}"
            if name in self.weights:
                _refuse(layer, "another layer has this name")
            self.names[id(variable)] = self.weight(name, variable, order)
            self.orders[name] = order
        return self.names[id(variable)]

    def is_map(self, x: str, tensor: Any) -> bool:
        """Whether an array has its channels first, where Keras has them last."""
        return len(tensor.shape) == 4 and x not in self._as_in_keras

    def as_map(self, x: str) -> str:
        """An array with channels first."""
        if x not in self._as_in_keras:
            return x
        return self.node("Transpose", [x], perm=onnx_layers.CHANNELS_FIRST)

    def _add(self, operation: Any, node: Any, values: Mapping[int, str]) -> str:
        """Add what a layer or operation of Keras does; returns what it gives."""
        kind = type(operation).__name__
        if kind not in LAYERS:
            raise ExportError(
                "A network is written as ONNX if all of its layers are known here.",
                f"a {kind} named {operation.name!r}",
                f"Known ones: {', '.join(sorted(LAYERS))}.",
            )
        x = LAYERS[kind](self, operation, node, values)
        given = {values[id(tensor)] for tensor in node.input_tensors}
        if len(node.outputs[0].shape) == 4 and (kind == "Reshape" or given & self._as_in_keras):
            self._as_in_keras.add(x)
        return x

    def activated(self, x: str, function: Any) -> str:
        name = getattr(function, "__name__", str(function))
        if name == "linear":
            return x
        if name == "gelu":
            share = self.node("Erf", [self.node("Mul", [x, self.constant(math.sqrt(0.5))])])
            half = self.node("Mul", [x, self.constant(0.5)])
            return self.node("Mul", [half, self.node("Add", [share, self.constant(1)])])
        if name == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x])])
        if name not in _OPERATORS:
            raise ExportError(
                "A network is written as ONNX if all of its activations are known here.",
                name,
                f"Known ones: {', '.join(ACTIVATIONS)}.",
            )
        kind, attributes = _OPERATORS[name]
        return self.node(kind, [x], **attributes)


_OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "softplus": ("Softplus", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_silu": ("HardSwish", {}),
    "tanh": ("Tanh", {}),
}
ACTIVATIONS = tuple(sorted({"gelu", "silu", *_OPERATORS}))


def _only_input(node: Any, values: Mapping[int, str]) -> str:
    [tensor] = node.input_tensors
    return values[id(tensor)]


def _refuse(layer: Any, what: str) -> None:
    raise ExportError(
        "A layer is written as ONNX in the form that backbones use.", f"{layer.name}: {what}"
    )


def _padding(layer: Any) -> str:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        _refuse(layer, "channels first")
    return str(layer.padding)


def _bias(graph: _Graph, layer: Any) -> str | None:
    return graph.variable(layer, layer.bias) if layer.use_bias else None


def _convolution(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    if depthwise and layer.depth_multiplier != 1:
        _refuse(layer, f"depth_multiplier={layer.depth_multiplier}")
    order = onnx_layers.DEPTHWISE if depthwise else onnx_layers.CONVOLUTION
    x = graph.convolution(
        _only_input(node, values),
        graph.variable(layer, layer.kernel, order),
        _bias(graph, layer),
        strides=layer.strides,
        padding=_padding(layer),
        dilations=layer.dilation_rate,
        group=layer.kernel.shape[2] if depthwise else layer.groups,
    )
    return graph.activated(x, layer.activation)


def _dense(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    kernel, bias = graph.variable(layer, layer.kernel), _bias(graph, layer)
    x = _only_input(node, values)
    if len(node.input_tensors[0].shape) == 2:
        x = graph.dense(x, kernel, bias)
    else:
        x = graph.node("MatMul", [x, kernel])
        x = graph.node("Add", [x, bias]) if bias else x
    return graph.activated(x, layer.activation)


def _batch_normalization(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    channels = layer.moving_mean.shape[0]
    gamma, beta = (
        graph.constant(np.full(channels, default)) if variable is None else None
        for variable, default in ((layer.gamma, 1.0), (layer.beta, 0.0))
    )
    return graph.normalised(
        _only_input(node, values),
        gamma or graph.variable(layer, layer.gamma),
        beta or graph.variable(layer, layer.beta),
        graph.variable(layer, layer.moving_mean),
        graph.variable(layer, layer.moving_variance),
        layer.epsilon,
    )


def _relu(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    if layer.negative_slope or layer.threshold:
        _refuse(layer, "a slope or threshold")
    x = _only_input(node, values)
    if layer.max_value is None:
        return graph.node("Relu", [x])
    return graph.clipped(x, layer.max_value)


def _activation(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    return graph.activated(_only_input(node, values), layer.activation)


def _pooling(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    kind = "MaxPool" if type(layer).__name__ == "MaxPooling2D" else "AveragePool"
    x = _only_input(node, values)
    return graph.pooled(x, kind, layer.pool_size, layer.strides, _padding(layer))


def _global_pooling(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    largest = type(layer).__name__ == "GlobalMaxPooling2D"
    return graph.global_pooling(
        _only_input(node, values),
        keep_axes=layer.keepdims,
        kind="GlobalMaxPool" if largest else "GlobalAveragePool",
    )


def _cropping(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    [tensor], (rows, columns) = node.input_tensors, layer.cropping
    ends = [tensor.shape[1] - rows[1], tensor.shape[2] - columns[1]]
    return graph.cropped(_only_input(node, values), [rows[0], columns[0]], ends)


def _sum(graph: _Graph, operation: Any, node: Any, values: Mapping[int, str]) -> str:
    if operation.axis not in (-1, [-1]) or not operation.keepdims:
        _refuse(operation, "other than of channels, which stay as an axis")
    return graph.sum_of_channels(_only_input(node, values))


def _zero_padding(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    (top, bottom), (left, right) = layer.padding
    margin = graph.constant([0, 0, top, left, 0, 0, bottom, right], "int64")
    return graph.node("Pad", [_only_input(node, values), margin])


def _flatten(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    x = _only_input(node, values)
    tensor = node.input_tensors[0]
    if graph.is_map(x, tensor) and tensor.shape[1:3] != (1, 1):
        x = graph.node("Transpose", [x], perm=onnx_layers.CHANNELS_LAST)
    return graph.node("Flatten", [x])


def _nothing(_graph: _Graph, _layer: Any, node: Any, values: Mapping[int, str]) -> str:
    return _only_input(node, values)


def _rescaling(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    x = _only_input(node, values)
    if graph.is_map(x, node.input_tensors[0]):
        return graph.rescaled(x, layer.scale, layer.offset)
    x = graph.node("Mul", [x, graph.constant(layer.scale)])
    return graph.node("Add", [x, graph.constant(layer.offset)]) if np.any(layer.offset) else x


def _unit_normalization(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    if len(node.input_tensors[0].shape) != 2:
        _refuse(layer, "of more than two axes")
    return graph.unit_length(_only_input(node, values))


def _elementwise(kind: str) -> Callable[[_Graph, Any, Any, Mapping[int, str]], str]:
    def step(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
        from keras import tree

        # Of layers these are lists of tensors; of operators a tensor and perhaps a number, or a
        # number for each place of a map.
        terms = [_term(graph, term, values) for term in tree.flatten(node.arguments.args)]
        x = terms[0]
        for term in terms[1:]:
            x = graph.node("Add" if kind == "Average" else kind, [x, term])
        return graph.node("Div", [x, graph.constant(len(terms))]) if kind == "Average" else x

    return step


def _term(graph: _Graph, term: Any, values: Mapping[int, str]) -> str:
    if isinstance(term, np.ndarray):
        return graph.constant(term.transpose(2, 0, 1))
    return graph.constant(term) if np.isscalar(term) else values[id(term)]


def _unary(kind: str) -> Callable[[_Graph, Any, Any, Mapping[int, str]], str]:
    def step(graph: _Graph, _operation: Any, node: Any, values: Mapping[int, str]) -> str:
        return graph.node(kind, [_only_input(node, values)])

    return step


def _take(graph: _Graph, operation: Any, node: Any, values: Mapping[int, str]) -> str:
    image, indices = node.arguments.args[:2]
    axis = operation.axis
    if graph.is_map(values[id(image)], image):
        axis = onnx_layers.CHANNELS_FIRST.index(axis)
    return graph.node("Gather", [values[id(image)], graph.constant(indices, "int64")], axis=axis)


def _reshape(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    x, tensor = _only_input(node, values), node.input_tensors[0]
    if graph.is_map(x, tensor):
        x = graph.node("Transpose", [x], perm=onnx_layers.CHANNELS_LAST)
    shape = [-1, *node.outputs[0].shape[1:]]
    return graph.node("Reshape", [x, graph.constant(shape, "int64")])


def _permute(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    x = _only_input(node, values)
    if graph.is_map(x, node.input_tensors[0]):
        _refuse(layer, "of a map")
    return graph.node("Transpose", [x], perm=[0, *layer.dims])


def _zero_padding_of_rows(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    before, after = layer.padding
    margin = graph.constant([0, before, 0, 0, after, 0], "int64")
    return graph.node("Pad", [_only_input(node, values), margin])


def _cropping_of_rows(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    before, after = layer.cropping
    end = node.input_tensors[0].shape[1] - after
    ends = (graph.constant([number], "int64") for number in (before, end, 1))
    return graph.node("Slice", [_only_input(node, values), *ends])


def _layer_normalization(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    last = len(node.input_tensors[0].shape) - 1
    if axes not in ([-1], [last]) or layer.gamma is None or layer.beta is None:
        _refuse(layer, "other than of the last axis, with a scale")
    x, gamma = _only_input(node, values), graph.variable(layer, layer.gamma)
    inputs = [x, gamma, graph.variable(layer, layer.beta)]
    return graph.node("LayerNormalization", inputs, axis=-1, epsilon=layer.epsilon)


def _mean_of_rows(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    return graph.node("ReduceMean", [_only_input(node, values)], axes=[1], keepdims=0)


def _concatenate(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    if len(node.outputs[0].shape) != 2:
        _refuse(layer, "of more than two axes")
    return graph.node("Concat", [values[id(tensor)] for tensor in node.input_tensors], axis=1)


def _binary(kind: str) -> Callable[[_Graph, Any, Any, Mapping[int, str]], str]:
    def step(graph: _Graph, operation: Any, node: Any, values: Mapping[int, str]) -> str:
        one, other = node.arguments.args[:2]
        second = graph.constant(other) if np.isscalar(other) else values[id(other)]
        return graph.node(kind, [values[id(one)], second])

    return step


LAYERS: dict[str, Callable[[_Graph, Any, Any, Mapping[int, str]], str]] = {
    "Activation": _activation,
    "Add": _elementwise("Add"),
    "Average": _elementwise("Average"),
    "AveragePooling2D": _pooling,
    "BatchNormalization": _batch_normalization,
    "Concatenate": _concatenate,
    "Conv2D": _convolution,
    "Cropping1D": _cropping_of_rows,
    "Cropping2D": _cropping,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Dropout": _nothing,
    "Flatten": _flatten,
    "GlobalAveragePooling1D": _mean_of_rows,
    "GlobalAveragePooling2D": _global_pooling,
    "GlobalMaxPooling2D": _global_pooling,
    "LayerNormalization": _layer_normalization,
    "Log": _unary("Log"),
    "Matmul": _binary("MatMul"),
    "MaxPooling2D": _pooling,
    "Multiply": _elementwise("Mul"),
    "Permute": _permute,
    "Power": _binary("Pow"),
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "Sign": _unary("Sign"),
    "Sum": _sum,
    "Take": _take,
    "UnitNormalization": _unit_normalization,
    "ZeroPadding1D": _zero_padding_of_rows,
    "ZeroPadding2D": _zero_padding,
}
