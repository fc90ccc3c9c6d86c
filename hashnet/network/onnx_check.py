"""Looking through an ONNX file before a runtime gets it.

Runtimes trust their models: one reads any file that a model names as the place of its weights,
another takes a model of a version that it has never heard of, and all make arrays as large as a
few bytes ask them to. This file therefore walks the file's fields by itself, which copies nothing
and takes milliseconds; what passed is read with the `onnx` library, to know the size of every array
before the first is made.
"""

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hashnet.errors import BundleError
from hashnet.network.onnx_cost import Cost, cost_of

if TYPE_CHECKING:
    import onnx

# Opsets whose operators mean what the converters meant: from ONNX 1.2 to what runtimes know now.
OPSETS = range(7, 25)

# What the networks of `hashnet.network.backbones` and `hashnet.local` and the code layer consist
# of, what int8 adds, and what convolutional networks and transformers, of texts too, of other
# libraries use. None of these holds a graph of its own or draws numbers.
OPERATORS = frozenset(
    """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Clip Concat Constant Conv
    ConvTranspose CumSum DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand
    Flatten Floor Gather GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GridSample HardSigmoid HardSwish Identity InstanceNormalization IsNaN LRN
    LayerNormalization LeakyRelu Less Log MatMul Max MaxPool Min Mul Neg Not Or PRelu Pad Pow
    QuantizeLinear Reciprocal ReduceL2 ReduceMax ReduceMean ReduceSum Relu Reshape Resize Selu
    Shape Sigmoid Sign Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Tanh TopK
    Transpose Unsqueeze Where
    """.split()
)

# Sizes are worked out for as many images as we ever run at once: what grows faster than their
# number shows.
IMAGES = 1024
# One array, and all of a network together, over the network's own input. VGG and ResNet, the
# widest of the usual ones, hold 21 and 200 times their input.
LARGEST, ALL = 64, 1024
LARGEST_INPUT = 3 * 4096 * 4096
# Networks for local features take images of any size: sizes are worked out for the largest that
# they are given (hashnet.local.delf.MAX_PIXELS).
OPEN_SIDE = 2048
# Whatever network it is, for an image: half a minute on a core, and 4 GB. A ViT-H/14 of 224 pixels
# takes 1.7e11 multiply-adds; DISK, for local features of 2048 x 2048 pixels, 4.3e11 and 6.7e8.
MOST = Cost(work=2.0**40, numbers=2.0**30)
# No kernel, stride or margin is wider than this.
WINDOW = 1024
_WINDOWS = {"kernel_shape", "pads", "strides", "dilations", "output_padding", "output_shape"}
# Longer weights are never shapes; sizes are worked out without them.
_SHAPE_BYTES = 1024

# Numbers of the fields, from onnx.proto.
_GRAPH, _OPSET, _FUNCTIONS, _TRAINING = 7, 8, 25, 20
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15
_OPERATOR, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_TENSOR, _INNER_GRAPH, _TENSORS, _INNER_GRAPHS, _SPARSE, _SPARSES = 5, 6, 10, 11, 22, 23
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2

_WAY_OUT = "Export the network again from a source you trust."
_STANDARD_DOMAINS = (b"", b"ai.onnx")


def check(model: bytes, name: str | os.PathLike[str], most: Cost = MOST) -> Cost:
    """Refuse an ONNX network that could read files, or that holds what no encoder holds.

    Args:
        model: bytes of the file.
        name: str or path-like, what messages call it.
        most: `Cost`. What it may take for an image, at the most.

    Returns:
        `Cost`: what it takes for an image.

    Raises:
        BundleError: it is no whole ONNX file, its opset is not in `OPSETS`, it keeps weights in
            other files, it uses operators beyond `OPERATORS`, functions or inner graphs, its
            arrays are of unknown size or far larger than its input, or it takes more than `most`.

    Example:
        >>> check(b"hello", "x.onnx")
        Traceback (most recent call last):
        ...
        hashnet.errors.BundleError: An encoder must be a whole ONNX file. Received: x.onnx: ...
    """
    try:
        _check_model(memoryview(model))
        cost = _check_sizes(model)
        if cost.work > most.work or cost.numbers > most.numbers:
            raise _Refused(
                f"An encoder must take no more than {most.work:.3g} multiply-adds an image, or as "
                f"much as they, and hold no more than {most.numbers:.3g} numbers at a time.",
                f"{cost.work:.3g} and {cost.numbers:.3g}",
            )
    except _Refused as refused:
        rule, received = refused.args
        raise BundleError(rule, f"{name}: {received}", _WAY_OUT) from None
    return cost


def check_plain(model: bytes, name: str | os.PathLike[str]) -> None:
    """The part of `check` that does not depend on the size of images.

    Args:
        model, name: as for `check`.

    Raises:
        BundleError: as for `check`, but for the sizes of arrays.
    """
    try:
        _check_model(memoryview(model))
    except _Refused as refused:
        rule, received = refused.args
        raise BundleError(rule, f"{name}: {received}", _WAY_OUT) from None


class _Refused(Exception):
    """A rule and what was found instead."""


def _check_model(model: memoryview) -> None:
    has_graph, versions = False, []
    for number, value in _fields(model):
        if number == _GRAPH:
            has_graph = True
            _check_graph(_message(value))
        elif number == _OPSET:
            opset = dict(_fields(_message(value)))
            domain = opset.get(_OPSET_DOMAIN, memoryview(b""))
            if bytes(_message(domain)) in _STANDARD_DOMAINS:
                versions.append(opset.get(_OPSET_VERSION, 0))
        elif number in (_FUNCTIONS, _TRAINING):
            raise _Refused("An encoder must be one plain graph.", "it holds functions")
    if not has_graph:
        raise _Refused("An encoder must be a whole ONNX file.", "no graph")
    if not versions or any(version not in OPSETS for version in versions):
        raise _Refused(
            f"An encoder must be of an ONNX opset from {OPSETS[0]} to {OPSETS[-1]}.",
            f"opset {versions[0] if versions else 'not given'}",
        )


def _check_graph(graph: memoryview) -> None:
    for number, value in _fields(graph):
        if number == _NODE:
            _check_node(_message(value))
        elif number == _INITIALIZER:
            _check_tensor(_message(value))
        elif number == _SPARSE_INITIALIZER:
            raise _Refused("An encoder's weights must be dense.", "sparse weights")


def _check_node(node: memoryview) -> None:
    for number, value in _fields(node):
        if number == _OPERATOR:
            operator = bytes(_message(value)).decode(errors="replace")
            if operator not in OPERATORS:
                raise _Refused("An encoder must use known operators.", operator)
        elif number == _DOMAIN and bytes(_message(value)) not in _STANDARD_DOMAINS:
            raise _Refused("An encoder must use ONNX's own operators.", repr(bytes(value)))
        elif number == _ATTRIBUTE:
            _check_attribute(_message(value))


def _check_attribute(attribute: memoryview) -> None:
    for number, value in _fields(attribute):
        if number in (_TENSOR, _TENSORS):
            _check_tensor(_message(value))
        elif number in (_INNER_GRAPH, _INNER_GRAPHS):
            raise _Refused("An encoder must be one plain graph.", "a graph within a graph")
        elif number in (_SPARSE, _SPARSES):
            raise _Refused("An encoder's weights must be dense.", "sparse weights")


def _check_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
            raise _Refused("An encoder must hold all its weights itself.", "weights in other files")


def _check_sizes(model: bytes) -> Cost:
    """Refuse what would make a runtime take far more memory than such a file has a use for.

    Returns:
        `Cost`, of an image.
    """
    import onnx.shape_inference

    rule = "An encoder's arrays must not be far larger than its input."
    try:
        network = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's own kinds
        raise _Refused("An encoder must be a whole ONNX file.", str(error)) from None
    graph = network.graph
    weights = {weight.name: weight for weight in graph.initializer}
    tensors = list(weights.values())
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            if attribute.name in _WINDOWS and any(abs(i) > WINDOW for i in attribute.ints):
                raise _Refused(rule, f"{attribute.name} of {max(map(abs, attribute.ints))}")
    for tensor in tensors:
        if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > len(model):
            raise _Refused(rule, f"weights of shape {list(tensor.dims)} in {len(model)} bytes")
        if len(tensor.raw_data) > _SHAPE_BYTES:
            tensor.ClearField("raw_data")
    ends = [end for end in graph.input if end.name not in weights]
    # Others are for so many images as they say, which one may fill.
    one_by_one = all(_is_open(end) for end in ends)
    sizes = [_size(end, IMAGES) for end in ends]
    given = sum(size or 0 for size in sizes)
    if None in sizes or not 0 < given <= IMAGES * LARGEST_INPUT:
        raise _Refused("An encoder's input must be images of one known size.", f"{sizes} numbers")
    # What a file says of its arrays counts for nothing.
    del graph.value_info[:]
    for end in graph.output:
        end.type.tensor_type.ClearField("shape")
    try:
        network = onnx.shape_inference.infer_shapes(network, strict_mode=True, data_prop=True)
    except Exception as error:  # its kinds have no common base
        raise _Refused(
            "An encoder's arrays must be of known sizes.", " ".join(str(error).split())[:200]
        ) from None
    shapes = {
        end.name: shape
        for end in [*network.graph.value_info, *network.graph.output]
        if (shape := _shape(end)) is not None
    }
    total, largest = 0, LARGEST * given + len(model)
    for name in (name for node in network.graph.node for name in node.output if name):
        if name not in shapes:
            raise _Refused("An encoder's arrays must be of known sizes.", f"{name!r}")
        size = math.prod(shapes[name])
        total += size
        if size > largest or total > ALL * given + len(graph.node) * len(model):
            raise _Refused(rule, f"{size} numbers in {name!r} for {IMAGES} images")
    inputs = {end.name: _shape(end) or () for end in ends}
    shapes |= {name: tuple(weight.dims) for name, weight in weights.items()} | inputs
    return cost_of(network.graph, shapes, inputs).times(1 / IMAGES if one_by_one else 1)


def _is_open(end: "onnx.ValueInfoProto") -> bool:
    sides = end.type.tensor_type.shape.dim
    return bool(sides) and not sides[0].HasField("dim_value")


def _size(end: "onnx.ValueInfoProto", images: int | None) -> int | None:
    """How many numbers an array holds, or None; an open first side is set to `images`.

    So are the open sides of images of any size, `(n, height, width, 3)`, to `OPEN_SIDE`.
    """
    sides = end.type.tensor_type.shape.dim
    if images and len(sides) == 4 and sides[3].dim_value == 3:
        for side in sides[1:3]:
            if not side.HasField("dim_value"):
                side.dim_value = OPEN_SIDE
    if images and sides and not sides[0].HasField("dim_value"):
        sides[0].dim_value = images
    shape = _shape(end)
    return None if shape is None else math.prod(shape)


def _shape(end: "onnx.ValueInfoProto") -> tuple[int, ...] | None:
    """The shape of an array, or None where it is not known."""
    sides = end.type.tensor_type.shape.dim
    if not end.type.tensor_type.HasField("shape"):
        return None
    if any(not side.HasField("dim_value") or side.dim_value < 0 for side in sides):
        return None
    return tuple(side.dim_value for side in sides)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Refused("An encoder must be a whole ONNX file.", "a number in place of a message")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of each field; value is int, or a view of the bytes that it holds."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        if kind == 0:
            value, position = _varint(message, position)
        else:
            if kind == 2:
                length, position = _varint(message, position)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise _Refused("An encoder must be a whole ONNX file.", f"wire type {kind}")
            value = message[position : position + length]
            position += length
            if position > len(message):
                raise _Refused("An encoder must be a whole ONNX file.", "it ends too early")
        yield number, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _Refused("An encoder must be a whole ONNX file.", "it ends too early")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _Refused("An encoder must be a whole ONNX file.", "a number without end")
