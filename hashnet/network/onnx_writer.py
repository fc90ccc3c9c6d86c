"""From a Keras network to ONNX, and its weights back: any backend of Keras, nothing traced.

The file keeps every weight as Keras has it (batch normalisation stays a node of its own, which
runtimes fold into the convolution before it as they open the file), under the name of its layer.
Arrays inside are channels first, `(n, channels, rows, columns)`; images are channels last.

Besides its outputs the file names one array within, `map`, the convolution map of stride 16: see
`onnx_graph.up_to_map`.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet import codes
from hashnet.errors import ArgumentError, BundleError, ExportError
from hashnet.network import onnx_graph
from hashnet.network.functional import Evaluation
from hashnet.network.geometry import geometry, map_tensor

if TYPE_CHECKING:
    import keras
    import onnx

PRODUCER = onnx_graph.PRODUCER

# Kernels: Keras's order of axes to ONNX's.
_CONVOLUTION, _DEPTHWISE = (3, 2, 0, 1), (2, 3, 0, 1)
_CHANNELS_FIRST, _CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


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
    for name in outputs:
        end = model.output[name]
        graph.give(name, graph.of(end), shape=["n", *end.shape[1:]])
    if code:
        graph.give("code", graph.packed(model.output["latent"]), "uint8")
    stride_16 = map_tensor(model)
    if stride_16 is not None:
        graph.rename(graph.of(stride_16), onnx_graph.MAP)
        # Where the layers do not tell it, there are no local features.
        with contextlib.suppress(ArgumentError):
            graph.geometry = geometry(model)
    return graph.model().SerializeToString(deterministic=True)


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
        order = graph.variables[name][1]
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


class _Graph(onnx_graph.Builder):
    """The ONNX graph of a Keras network in the making; its values are names of arrays."""

    def __init__(self, model: "keras.Model") -> None:
        super().__init__()
        self.variables: dict[str, tuple[Any, tuple[int, ...] | None]] = {}
        self.names: dict[int, str] = {}  # of variables, by identity
        self._evaluation = Evaluation([(model.input, self._image(model.input.shape))], self._add)

    def of(self, tensor: Any) -> str:
        """The name of what a Keras tensor stands for."""
        return self._evaluation.of(tensor)

    def model(self) -> "onnx.ModelProto":
        for name, (variable, order) in self.variables.items():
            array = np.asarray(variable, np.float32)
            self.arrays[name] = array if order is None else array.transpose(order)
        return super().model()

    def weight(self, layer: Any, variable: Any, order: tuple[int, ...] | None = None) -> str:
        """A variable of a layer; a layer that is used twice has it once."""
        if id(variable) not in self.names:
            name = f"{layer.name}/{variable.name}"
            if name in self.variables:
                _refuse(layer, "another layer has this name")
            self.names[id(variable)] = name
            self.variables[name] = (variable, order)
        return self.names[id(variable)]

    def _image(self, shape: Sequence[int | None]) -> str:
        import onnx

        self.take("image", "uint8", ["n", *shape[1:]])
        pixels = self.node("Cast", ["image"], to=onnx.TensorProto.FLOAT)
        return self.node("Transpose", [pixels], perm=_CHANNELS_FIRST)

    def packed(self, latent: Any) -> str:
        """What `codes.from_latent` does, in integers, which no precision rounds."""
        import onnx

        num_bits = latent.shape[-1]
        width = codes.code_bytes(num_bits)
        bits = self.node("GreaterOrEqual", [self.of(latent), self.constant(0.5)])
        bits = self.node("Cast", [bits], to=onnx.TensorProto.INT32)
        margin = self.constant([0, 0, 0, 8 * width - num_bits], "int64")
        bits = self.node("Pad", [bits, margin])
        bits = self.node("Reshape", [bits, self.constant([-1, width, 8], "int64")])
        values = self.constant([128, 64, 32, 16, 8, 4, 2, 1], "int32")
        sums = self.node(
            "ReduceSum",
            [self.node("Mul", [bits, values]), self.constant([-1], "int64")],
            keepdims=0,
        )
        return self.node("Cast", [sums], to=onnx.TensorProto.UINT8)

    def _add(self, operation: Any, node: Any, values: Mapping[int, str]) -> str:
        """Add what a layer or operation of Keras does; returns what it gives."""
        kind = type(operation).__name__
        if kind not in _LAYERS:
            raise ExportError(
                "A network is written as ONNX if all of its layers are known here.",
                f"a {kind} named {operation.name!r}",
                f"Known ones: {', '.join(sorted(_LAYERS))}.",
            )
        return _LAYERS[kind](self, operation, node, values)

    def activated(self, x: str, function: Any) -> str:
        name = getattr(function, "__name__", str(function))
        if name == "linear":
            return x
        if name not in _ACTIVATIONS:
            raise ExportError(
                "A network is written as ONNX if all of its activations are known here.",
                name,
                f"Known ones: {', '.join(sorted(_ACTIVATIONS))}.",
            )
        kind, attributes = _ACTIVATIONS[name]
        return self.node(kind, [x], **attributes)


_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "softplus": ("Softplus", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_silu": ("HardSwish", {}),
}


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
    return {"same": "SAME_UPPER", "valid": "VALID"}[layer.padding]


def _convolution(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    if depthwise and layer.depth_multiplier != 1:
        _refuse(layer, f"depth_multiplier={layer.depth_multiplier}")
    order = _DEPTHWISE if depthwise else _CONVOLUTION
    inputs = [_only_input(node, values), graph.weight(layer, layer.kernel, order)]
    if layer.use_bias:
        inputs.append(graph.weight(layer, layer.bias))
    x = graph.node(
        "Conv",
        inputs,
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        group=layer.kernel.shape[2] if depthwise else layer.groups,
        auto_pad=_padding(layer),
    )
    return graph.activated(x, layer.activation)


def _dense(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    inputs = [_only_input(node, values), graph.weight(layer, layer.kernel)]
    if layer.use_bias:
        inputs.append(graph.weight(layer, layer.bias))
    return graph.activated(graph.node("Gemm", inputs), layer.activation)


def _batch_normalization(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    channels = layer.moving_mean.shape[0]
    gamma, beta = (
        graph.constant(np.full(channels, default)) if variable is None else None
        for variable, default in ((layer.gamma, 1.0), (layer.beta, 0.0))
    )
    inputs = [
        _only_input(node, values),
        gamma or graph.weight(layer, layer.gamma),
        beta or graph.weight(layer, layer.beta),
        graph.weight(layer, layer.moving_mean),
        graph.weight(layer, layer.moving_variance),
    ]
    return graph.node("BatchNormalization", inputs, epsilon=layer.epsilon)


def _relu(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    if layer.negative_slope or layer.threshold:
        _refuse(layer, "a slope or threshold")
    x = _only_input(node, values)
    if layer.max_value is None:
        return graph.node("Relu", [x])
    return graph.node("Clip", [x, graph.constant(0), graph.constant(layer.max_value)])


def _activation(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    return graph.activated(_only_input(node, values), layer.activation)


def _pooling(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    return graph.node(
        "MaxPool" if type(layer).__name__ == "MaxPooling2D" else "AveragePool",
        [_only_input(node, values)],
        kernel_shape=list(layer.pool_size),
        strides=list(layer.strides),
        auto_pad=_padding(layer),
    )


def _global_pooling(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    x = graph.node("GlobalAveragePool", [_only_input(node, values)])
    return x if layer.keepdims else graph.node("Flatten", [x])


def _zero_padding(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    (top, bottom), (left, right) = layer.padding
    margin = graph.constant([0, 0, top, left, 0, 0, bottom, right], "int64")
    return graph.node("Pad", [_only_input(node, values), margin])


def _flatten(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    x = _only_input(node, values)
    shape = node.input_tensors[0].shape
    if len(shape) == 4 and shape[1:3] != (1, 1):
        x = graph.node("Transpose", [x], perm=_CHANNELS_LAST)
    return graph.node("Flatten", [x])


def _nothing(_graph: _Graph, _layer: Any, node: Any, values: Mapping[int, str]) -> str:
    return _only_input(node, values)


def _rescaling(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    def of_channels(numbers: Any) -> str:
        array = np.asarray(numbers, np.float32)
        return graph.constant(array.reshape(-1, 1, 1) if array.ndim else array)

    x = graph.node("Mul", [_only_input(node, values), of_channels(layer.scale)])
    return graph.node("Add", [x, of_channels(layer.offset)])


def _unit_normalization(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
    x = _only_input(node, values)
    if len(node.input_tensors[0].shape) != 2:
        _refuse(layer, "of more than two axes")
    axis = graph.constant([-1], "int64")
    length = graph.node("Sqrt", [graph.node("ReduceSum", [graph.node("Mul", [x, x]), axis])])
    inverse = graph.node("Min", [graph.node("Reciprocal", [length]), graph.constant(1e12)])
    return graph.node("Mul", [x, inverse])


def _elementwise(kind: str) -> Callable[[_Graph, Any, Any, Mapping[int, str]], str]:
    def step(graph: _Graph, layer: Any, node: Any, values: Mapping[int, str]) -> str:
        from keras import tree

        # Of layers these are lists of tensors; of operators a tensor and perhaps a number.
        terms = [
            graph.constant(term) if np.isscalar(term) else values[id(term)]
            for term in tree.flatten(node.arguments.args)
        ]
        x = terms[0]
        for term in terms[1:]:
            x = graph.node("Add" if kind == "Average" else kind, [x, term])
        return graph.node("Div", [x, graph.constant(len(terms))]) if kind == "Average" else x

    return step


def _take(graph: _Graph, operation: Any, node: Any, values: Mapping[int, str]) -> str:
    image, indices = node.arguments.args[:2]
    axis = operation.axis
    if len(image.shape) == 4:
        axis = _CHANNELS_FIRST.index(axis)
    return graph.node("Gather", [values[id(image)], graph.constant(indices, "int64")], axis=axis)


_LAYERS: dict[str, Callable[[_Graph, Any, Any, Mapping[int, str]], str]] = {
    "Activation": _activation,
    "Add": _elementwise("Add"),
    "Average": _elementwise("Average"),
    "AveragePooling2D": _pooling,
    "BatchNormalization": _batch_normalization,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Dropout": _nothing,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global_pooling,
    "MaxPooling2D": _pooling,
    "Multiply": _elementwise("Mul"),
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Take": _take,
    "UnitNormalization": _unit_normalization,
    "ZeroPadding2D": _zero_padding,
}
