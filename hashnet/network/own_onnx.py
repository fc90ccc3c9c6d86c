"""An ONNX file of one's own as a backbone: looked through, and put behind the pixels of images.

The file is what another library exported, a network from prepared pixels to features. What prepares
the pixels is said by the TOML beside it (`own_settings`) and becomes part of the encoder.
"""

import base64
import hashlib
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet.errors import ArgumentError, BundleError, WeightsError
from hashnet.network import onnx_check, onnx_graph, onnx_layers, onnx_reader
from hashnet.network.backbones import Backbone, no_weights
from hashnet.network.efficientnet_lite import Tensors
from hashnet.network.geometry import Geometry, Window
from hashnet.network.own_settings import Settings

if TYPE_CHECKING:
    import keras
    import onnx

KIND = "onnx"
# Operators of this opset on are what ours are; older files are converted to ours.
_OLDEST_OPSET = 13
# Numbers of a constant that says a shape; all else of a network is weights.
_SHAPE_NUMBERS = 64
# Of a description's operators, unpacked.
_MOST_BYTES = 10_000_000


def open_file(path: str) -> Backbone:
    """Open an ONNX file as a backbone.

    Args:
        path: str, with a TOML beside it.

    Returns:
        A `Backbone`.

    Raises:
        WeightsError: it is damaged, holds what is refused, or is not what the TOML says.
    """
    settings = Settings.beside(path)
    try:
        content = pathlib.Path(path).read_bytes()
        onnx_check.check_plain(content, path)
        foreign = _of_our_time(onnx_graph.parsed(content, path))
        whole = onnx_layers.Layers()
        found = _placed(foreign, settings, whole)
        whole.give("feature", found.feature)
        if found.map:
            whole.rename(found.map, onnx_graph.MAP)
        checked = whole.model()
        onnx_check.check(onnx_graph.content(checked), path)
        feature_dim = _width(checked, "feature")
        map_channels = _width(checked, onnx_graph.MAP) if found.map else 0
    except (BundleError, ArgumentError, OSError) as error:
        raise WeightsError(
            "A network of yours is a whole ONNX file of known operators, from images to features.",
            f"{path}: {error}",
        ) from error
    own = {
        "kind": KIND,
        "settings": settings.to_dict(),
        "feature_dim": feature_dim,
        "map_channels": map_channels,
        "sha256": hashlib.sha256(content).hexdigest(),
        "graph": _graph_text(foreign),
    }
    return _backbone(pathlib.Path(path).stem, own, foreign)


def described(name: str, own: dict[str, Any]) -> Backbone:
    """The backbone of a description, without its weights; see `own_backbones.described`.

    Args:
        name: str.
        own: dict.

    Returns:
        A `Backbone`.

    Raises:
        BundleError: it describes none.
    """
    return _backbone(name, own, None)


def _backbone(name: str, own: dict[str, Any], foreign: "onnx.ModelProto | None") -> Backbone:
    settings = Settings.from_dict(own["settings"])

    def build(size: int, weights: str | None) -> "keras.Model":
        model, reader = _in_keras(foreign or _graph_of(own), settings)
        if weights is not None:
            if foreign is None:
                raise no_weights(name)
            _fill(model, reader, onnx_graph.arrays(foreign))
        return model

    def write(size: int, weights: str, layers: onnx_layers.Layers) -> Tensors[str]:
        if foreign is None:
            raise BundleError("A network of one's own comes from its file.", name)
        return _placed(foreign, settings, layers)

    width, channels = own["feature_dim"], own["map_channels"]
    if not (type(width) is int and type(channels) is int and width > 0 <= channels):
        raise BundleError("A backbone has numbers.", f"{width!r}, {channels!r}")
    return Backbone(
        name=name,
        image_size=settings.image_size,
        any_size=False,
        feature_dim=width,
        map_channels=channels,
        build=build,
        source="an ONNX file of yours",
        write=write,
        has_classes=False,
        own=own,
    )


def restore(model: "keras.Model", encoder: "onnx.ModelProto", own: dict[str, Any]) -> bool:
    """Fill a hash network with the weights of an encoder that still has the foreign operators.

    Args:
        model: of `model.build`, over a backbone of the description `own`; changed in place.
        encoder: the ONNX file, checked and parsed.
        own: dict, as for `described`.

    Returns:
        bool. False, and nothing is changed, where Keras has written the encoder.

    Raises:
        BundleError: it holds other weights.
    """
    arrays = onnx_graph.arrays(encoder)
    theirs = {
        name.removeprefix(onnx_graph.OWN): array
        for name, array in arrays.items()
        if name.startswith(onnx_graph.OWN)
    }
    if not theirs:
        return False
    _, reader = _in_keras(_graph_of(own), Settings.from_dict(own["settings"]))
    try:
        _fill(model, reader, theirs)
        model.get_layer("latent").set_weights([arrays[name] for name in onnx_graph.HASH_LAYER])
    except (KeyError, ValueError) as error:
        raise BundleError(
            "A network's weights must fit its description.", str(error)[:300]
        ) from error
    return True


def _graph_text(foreign: "onnx.ModelProto") -> str:
    """The operators of a network, without its weights, as text."""
    content = onnx_graph.content(onnx_reader.without_weights(foreign))
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def _graph_of(own: dict[str, Any]) -> "onnx.ModelProto":
    """The network of a description, looked through."""
    try:
        packed = base64.b64decode(own["graph"], validate=True)
        content = zlib.decompressobj().decompress(packed, _MOST_BYTES)
    except (ValueError, TypeError, zlib.error) as error:
        raise BundleError(
            "A description holds the operators of its network.", str(error)
        ) from error
    onnx_check.check_plain(content, "graph")
    return onnx_graph.parsed(content, "graph")


def _in_keras(
    foreign: "onnx.ModelProto", settings: Settings
) -> tuple["keras.Model", onnx_reader.Reader]:
    """The network in Keras, from images in 0..255, with random weights; and what read it."""
    from keras import Input, Model, layers, ops

    if settings.layout == "nhwc":
        raise ArgumentError(
            "A network that came as ONNX is trained and exported if it has channels first.", "nhwc"
        )
    image = x = Input((settings.image_size, settings.image_size, 3), name="image")
    if settings.channels == "bgr":
        x = ops.take(x, [2, 1, 0], axis=3)
    scale, offset = settings.scale_and_offset()
    x = layers.Rescaling(scale.tolist(), offset=offset.tolist(), name="scale")(x)
    reader = onnx_reader.Reader(foreign.graph)
    weights = {one.name for one in foreign.graph.initializer}
    [taken] = [one.name for one in foreign.graph.input if one.name not in weights]
    wanted = [name for name in (settings.feature, settings.map) if name is not None]
    feature, *maps = reader.build(taken, x, wanted)
    outputs = {
        "feature": layers.Flatten(name="f7")(feature),
        **dict(zip(["map"], maps, strict=False)),
    }
    return Model(image, outputs, name="own"), reader


def _fill(
    model: "keras.Model", reader: onnx_reader.Reader, arrays: Mapping[str, np.ndarray]
) -> None:
    for name, weights in reader.weights.items():
        model.get_layer(name).set_weights(weights(arrays))


def _of_our_time(foreign: "onnx.ModelProto") -> "onnx.ModelProto":
    """The network in an opset whose operators are those that are put around it."""
    opset = max((one.version for one in foreign.opset_import if not one.domain), default=0)
    if opset >= _OLDEST_OPSET:
        return foreign
    import onnx.version_converter

    try:
        return onnx.version_converter.convert_version(foreign, onnx_graph.OPSET)
    except Exception as error:  # its kinds have no common base
        raise BundleError(
            f"A network is of ONNX opset {_OLDEST_OPSET} or newer, or can be converted.",
            f"opset {opset}: {' '.join(str(error).split())[:200]}",
        ) from error


def _placed(
    foreign: "onnx.ModelProto", settings: Settings, layers: onnx_layers.Layers
) -> Tensors[str]:
    """Put a network behind the pixels of an image; names of its map and feature there."""
    graph = foreign.graph
    weights = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in weights]
    if len(inputs) != 1:
        raise BundleError("A network takes one image.", f"{[one.name for one in inputs]}")
    size = settings.image_size
    pixels = _prepared(layers, inputs[0], settings)
    layers.opset = max(one.version for one in foreign.opset_import if not one.domain)
    names = layers.include(graph, {inputs[0].name: pixels})
    for wanted in (settings.feature, settings.map):
        if wanted is not None and wanted not in names:
            outputs = ", ".join(one.name for one in graph.output)
            raise BundleError(
                "feature and map name arrays of the network.",
                f"{wanted!r}",
                f"Its outputs are: {outputs}.",
            )
    feature = layers.node("Flatten", [names[settings.feature]])
    if settings.map is None:
        return Tensors(map="", feature=feature, scores="")
    stride_map = names[settings.map]
    if settings.layout == "nhwc":
        stride_map = layers.node("Transpose", [stride_map], perm=onnx_layers.CHANNELS_FIRST)
    layers.geometry, layers.map_image_size = _geometry(graph, inputs[0].name, settings), size
    return Tensors(map=stride_map, feature=feature, scores="")


def _prepared(layers: onnx_layers.Layers, end: "onnx.ValueInfoProto", settings: Settings) -> str:
    """The input `image`, scaled and ordered as a network takes it."""
    import onnx

    size = settings.image_size
    sides = [side.dim_value for side in end.type.tensor_type.shape.dim]
    expected = [size, size, 3] if settings.layout == "nhwc" else [3, size, size]
    if len(sides) != 4 or any(
        side not in (0, wish) for side, wish in zip(sides[1:], expected, strict=True)
    ):
        raise BundleError(
            f"A network takes images as the TOML says, (n, {', '.join(map(str, expected))}).",
            f"{end.name} of shape {sides}",
        )
    if sides[0] not in (0, 1):
        raise BundleError("A network takes any number of images.", f"{sides[0]} at once")
    kind = end.type.tensor_type.elem_type
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        raise BundleError(
            "A network takes images as float32 or uint8.", onnx.TensorProto.DataType.Name(kind)
        )
    x = layers.image(["n", size, size, 3])  # channels first, in 0..255
    if settings.channels == "bgr":
        x = layers.node("Gather", [x, layers.constant([2, 1, 0], "int64")], axis=1)
    scale, offset = settings.scale_and_offset()
    if not (np.all(scale == 1) and np.all(offset == 0)):
        x = layers.rescaled(x, scale, offset)
    if settings.layout == "nhwc":
        x = layers.node("Transpose", [x], perm=onnx_layers.CHANNELS_LAST)
    return x if kind == onnx.TensorProto.FLOAT else layers.node("Cast", [x], to=kind)


def _width(network: "onnx.ModelProto", name: str) -> int:
    """Channels of an array, its second axis."""
    import onnx.shape_inference

    copy = onnx_graph.without_weights(network, _SHAPE_NUMBERS)
    found = onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True).graph
    [end] = [one for one in (*found.value_info, *found.output) if one.name == name]
    sides = [side.dim_value for side in end.type.tensor_type.shape.dim]
    if end.type.tensor_type.elem_type != onnx.TensorProto.FLOAT or len(sides) < 2 or sides[1] < 1:
        raise BundleError("A feature and a map are of float32, with channels.", f"{name} {sides}")
    return sides[1]


# --- Which pixels the places of the map see ------------------------------------------------------

_CHANGES_NOTHING = frozenset(
    """
    Add BatchNormalization Cast Clip Div Dropout Elu Erf Gelu HardSigmoid HardSwish Identity
    InstanceNormalization LeakyRelu Max Min Mul Neg Pow PRelu Reciprocal Relu Sigmoid Softplus Sqrt
    Sub Tanh Transpose
    """.split()
)


def _geometry(graph: "onnx.GraphProto", image: str, settings: Settings) -> Geometry:
    """Computed from convolutions and poolings; of what mixes places, from the size of the map."""
    windows: dict[str, Window | None] = {image: Window()}
    for node in graph.node:
        seen = [windows[name] for name in node.input if name in windows]
        if seen:
            windows.update(dict.fromkeys(node.output, _after(node, seen)))
    window = windows.get(settings.map or "")
    if window is None:
        raise BundleError(
            "The places of a map follow from convolutions and poolings.",
            f"{settings.map!r}, which has none, or comes of other operators",
            "Name another array as map, or none.",
        )
    return window.geometry()


def _after(node: "onnx.NodeProto", seen: "Sequence[Window | None]") -> Window | None:
    import onnx.helper

    windows = [window for window in seen if window is not None]
    if len(windows) < len(seen) or not windows:
        # What is pooled over all places and multiplied in again, as squeeze and excitation do,
        # moves none.
        return windows[0] if windows and node.op_type == "Mul" else None
    if len({window.stride for window in windows}) > 1:
        return None
    window = Window(
        min(one.start for one in windows), max(one.end for one in windows), windows[0].stride
    )
    given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type in ("Conv", "MaxPool", "AveragePool"):
        kernel = given.get("kernel_shape", [1, 1])
        strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
        pads = given.get("pads", [0, 0, 0, 0])
        if len({*kernel}) > 1 or len({*strides}) > 1 or pads[0] != pads[1]:
            return None
        padding = given.get("auto_pad", b"NOTSET")
        if padding in (b"SAME_UPPER", b"SAME_LOWER"):
            return window.after(kernel[0], strides[0], "same", dilations[0])
        moved = pads[0] * window.stride
        behind = window.after(kernel[0], strides[0], "valid", dilations[0])
        return Window(behind.start - moved, behind.end - moved, behind.stride)
    return window if node.op_type in _CHANGES_NOTHING or node.op_type == "Concat" else None
