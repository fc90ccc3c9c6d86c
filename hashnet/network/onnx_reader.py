"""From ONNX to Keras: a convolutional network of another library as layers, and its weights.

Maps are channels first in ONNX and channels last here; each layer has the weights of one operator.
What is not known is refused by name, and such a network encodes without ever being built.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet.errors import ArgumentError

if TYPE_CHECKING:
    import onnx

# Operators whose arrays are weights: where they come as inputs.
_WEIGHTS = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (1,), "BatchNormalization": (1, 2, 3, 4)}
_CONVOLUTION, _DEPTHWISE = (2, 3, 1, 0), (2, 3, 0, 1)

Arrays = Mapping[str, np.ndarray]


def without_weights(network: "onnx.ModelProto") -> "onnx.ModelProto":
    """A copy of a network whose weights have their shapes and no content.

    Args:
        network: `onnx.ModelProto`, whose weights are in it.

    Returns:
        `onnx.ModelProto`.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    weights = {
        node.input[place]
        for node in copy.graph.node
        for place in _WEIGHTS.get(node.op_type, ())
        if place < len(node.input)
    }
    for array in copy.graph.initializer:
        if array.name in weights:
            array.ClearField("raw_data")
            array.ClearField("float_data")
    return copy


class Reader:
    """Builds the layers of a network, in the order of its operators.

    Args:
        graph: `onnx.GraphProto`; its weights need no content.

    Attributes:
        weights: dict of the name of a layer to a function of the arrays of a graph, by name, which
            gives the layer's weights in Keras's order.
    """

    def __init__(self, graph: "onnx.GraphProto") -> None:
        from onnx import numpy_helper

        self._graph = graph
        self._shapes = {one.name: tuple(one.dims) for one in graph.initializer}
        self._constants = {
            one.name: numpy_helper.to_array(one)
            for one in graph.initializer
            if one.raw_data or one.float_data or one.int64_data
        }
        self.weights: dict[str, Callable[[Arrays], list[np.ndarray]]] = {}

    def build(self, name: str, image: Any, wanted: list[str]) -> list[Any]:
        """The Keras tensors of some values.

        Args:
            name: str, of the input.
            image: Keras tensor, float32 `(n, rows, columns, channels)`, that stands for it.
            wanted: names of values.

        Returns:
            list of Keras tensors; maps have their channels last.

        Raises:
            ArgumentError: an operator on the way to them has no layer here.
        """
        needed = {*wanted}
        nodes = []
        for node in reversed(self._graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        values = {name: image}
        for number, node in enumerate(reversed(nodes)):
            self._take(f"o{number}_{node.op_type.lower()}", node, values)
        return [values[one] for one in wanted]

    def _take(self, name: str, node: "onnx.NodeProto", values: dict[str, Any]) -> None:
        import onnx.helper
        from onnx import numpy_helper

        if node.op_type == "Constant":
            [value] = node.attribute
            self._constants[node.output[0]] = numpy_helper.to_array(value.t)
            return
        step = getattr(self, f"_{node.op_type.lower()}", None)
        given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if step is None or len(node.output) != 1:
            raise _unknown(node, "no layer")
        tensors = [values.get(one) for one in node.input]
        values[node.output[0]] = step(name, node, tensors, given)

    def _constant(self, node: "onnx.NodeProto", place: int) -> Any:
        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self._constants:
            raise _unknown(node, "an argument that is computed")
        return self._constants[node.input[place]]

    def _shape(self, node: "onnx.NodeProto", place: int) -> tuple[int, ...]:
        if node.input[place] not in self._shapes:
            raise _unknown(node, "weights that are computed")
        return self._shapes[node.input[place]]

    def _padded(self, name: str, x: Any, node: "onnx.NodeProto", given: Any) -> tuple[Any, str]:
        """What a window slides over, and Keras's padding."""
        from keras import layers

        mode, pads = given.get("auto_pad", b"NOTSET"), given.get("pads", [0, 0, 0, 0])
        if mode == b"SAME_UPPER":
            return x, "same"
        if mode not in (b"NOTSET", b"VALID"):
            raise _unknown(node, f"auto_pad {mode.decode()}")
        if any(pads):
            top, left, bottom, right = pads
            x = layers.ZeroPadding2D(((top, bottom), (left, right)), name=f"{name}_pad")(x)
        return x, "valid"

    def _conv(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        kernel, bias = node.input[1], node.input[2] if len(node.input) > 2 else None
        filters, _, rows, columns = self._shape(node, 1)
        channels, group = tensors[0].shape[-1], given.get("group", 1)
        x, padding = self._padded(name, tensors[0], node, given)
        options = {
            "kernel_size": (rows, columns),
            "strides": tuple(given.get("strides", (1, 1))),
            "dilation_rate": tuple(given.get("dilations", (1, 1))),
            "padding": padding,
            "use_bias": bias is not None,
            "name": name,
        }
        depthwise = group == channels == filters and group > 1
        order = _DEPTHWISE if depthwise else _CONVOLUTION
        self.weights[name] = lambda arrays: [
            arrays[kernel].transpose(order),
            *([] if bias is None else [arrays[bias]]),
        ]
        if depthwise:
            return layers.DepthwiseConv2D(**options)(x)
        return layers.Conv2D(filters, groups=group, **options)(x)

    def _batchnormalization(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        names = list(node.input[1:5])
        self.weights[name] = lambda arrays: [arrays[one] for one in names]
        return layers.BatchNormalization(epsilon=given.get("epsilon", 1e-5), name=name)(tensors[0])

    def _gemm(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        if given.get("transA", 0) or given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
            raise _unknown(node, "factors")
        shape, turned = self._shape(node, 1), given.get("transB", 0)
        kernel, bias = node.input[1], node.input[2] if len(node.input) > 2 else None
        self.weights[name] = lambda arrays: [
            arrays[kernel].T if turned else arrays[kernel],
            *([] if bias is None else [arrays[bias].ravel()]),
        ]
        units = shape[0] if turned else shape[1]
        return layers.Dense(units, use_bias=bias is not None, name=name)(tensors[0])

    def _matmul(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        if tensors[0] is None or len(self._shape(node, 1)) != 2 or len(tensors[0].shape) != 2:
            raise _unknown(node, "of more than two axes")
        return self._gemm(name, node, tensors, given)

    def _clip(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        least, most = self._constant(node, 1), self._constant(node, 2)
        if least is None or least != 0 or most is None:
            raise _unknown(node, f"from {least} to {most}")
        return layers.ReLU(float(most), name=name)(tensors[0])

    def _relu(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        return layers.ReLU(name=name)(tensors[0])

    def _activated(self, kind: str, name: str, tensors: Any) -> Any:
        from keras import layers

        return layers.Activation(kind, name=name)(tensors[0])

    def _hardswish(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return self._activated("hard_silu", name, tensors)

    def _hardsigmoid(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        if not np.isclose(given.get("alpha", 0.2), 1 / 6) or given.get("beta", 0.5) != 0.5:
            raise _unknown(node, f"of slope {given.get('alpha', 0.2)}")
        return self._activated("hard_sigmoid", name, tensors)

    def _sigmoid(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return self._activated("sigmoid", name, tensors)

    def _tanh(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return self._activated("tanh", name, tensors)

    def _combined(self, kind: str, name: str, node: Any, tensors: Any) -> Any:
        """A sum or product of two tensors, or of one with a number for each channel."""
        from keras import layers

        if all(one is not None for one in tensors):
            return getattr(layers, "Add" if kind == "Add" else "Multiply")(name=name)(tensors)
        place = 0 if tensors[0] is None else 1
        x, numbers = tensors[1 - place], np.float32(self._constant(node, place))
        if numbers.size not in (1, x.shape[-1]) or numbers.size != max(numbers.shape, default=1):
            raise _unknown(node, f"with an array of shape {numbers.shape}")
        each = numbers.ravel().tolist() if numbers.size > 1 else float(numbers.ravel()[0])
        if kind == "Add":
            return layers.Rescaling(1.0, offset=each, name=name)(x)
        return layers.Rescaling(each, name=name)(x)

    def _add(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return self._combined("Add", name, node, tensors)

    def _mul(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return self._combined("Mul", name, node, tensors)

    def _globalaveragepool(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        return layers.GlobalAveragePooling2D(keepdims=True, name=name)(tensors[0])

    def _reducemean(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        axes = given.get("axes", self._constant(node, 1))
        if len(tensors[0].shape) != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
            raise _unknown(node, f"over axes {list(axes)}")
        keep = bool(given.get("keepdims", 1))
        return layers.GlobalAveragePooling2D(keepdims=keep, name=name)(tensors[0])

    def _pooled(self, kind: str, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        plain = not given.get("ceil_mode") and {*given.get("dilations", [1])} == {1}
        after = getattr(tensors[0]._keras_history.operation, "name", "")
        # Beyond an edge there is nothing, which is no more than what a ReLU gives.
        if not plain or (any(given.get("pads", [])) and not after.endswith(("relu", "clip"))):
            raise _unknown(node, "with a margin or steps of its own")
        if kind == "AveragePooling2D" and any(given.get("pads", [])):
            raise _unknown(node, "with a margin")
        x, padding = self._padded(name, tensors[0], node, given)
        size, strides = tuple(given["kernel_shape"]), tuple(given.get("strides", (1, 1)))
        return getattr(layers, kind)(size, strides, padding, name=name)(x)

    def _maxpool(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return self._pooled("MaxPooling2D", name, node, tensors, given)

    def _averagepool(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return self._pooled("AveragePooling2D", name, node, tensors, given)

    def _flatten(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        from keras import layers

        [x] = tensors[:1]
        if len(x.shape) == 4 and x.shape[1:3] != (1, 1):
            raise _unknown(node, "of a map")
        return layers.Flatten(name=name)(x) if len(x.shape) == 4 else x

    def _squeeze(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return self._flatten(name, node, tensors, given)

    def _reshape(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        shape = self._constant(node, 1)
        if len(shape) != 2:
            raise _unknown(node, f"to {shape.tolist()}")
        return self._flatten(name, node, tensors, given)

    def _identity(self, name: str, node: Any, tensors: Any, given: Any) -> Any:
        return tensors[0]

    _dropout = _identity


def _unknown(node: "onnx.NodeProto", what: str) -> ArgumentError:
    return ArgumentError(
        "A network that came as ONNX is trained and exported if Keras has its layers.",
        f"{node.op_type} {what}",
        "It encodes as it is; give it as a .keras file to train it.",
    )
