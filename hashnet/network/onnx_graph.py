"""Parts of an ONNX network, without Keras: the way to its map, and a head that takes the map.

An encoder of `onnx_writer` names one array within, `map`, channels first. What local features and
regions need is the encoder up to there, for images of other sizes, and a head of their own behind
it: the weights of the backbone lie in one file, and an index carries them once.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet.errors import BundleError
from hashnet.network.geometry import Geometry

if TYPE_CHECKING:
    import onnx

MAP = "map"
# Names of the weights of H: kernel `(feature_dim, num_bits)` and bias.
HASH_LAYER = ("latent/kernel", "latent/bias")
PRODUCER = "hashnet"
OWN = "own:"  # how the names of what another graph has brought begin
OPSET, IR_VERSION = 17, 8
_GEOMETRY, _MAP_IMAGE = "map_geometry", "map_image_size"


class Builder:
    """A graph in the making; its values are names of arrays.

    Args:
        prefix: str. How the names of its values begin, so that two graphs can be joined.

    Attributes:
        arrays: dict of name to weights or constants, of any dtype and shape.
        geometry: the `Geometry` of the map that the graph names, or None.
        map_image_size: int, side in pixels of the only images that the map is for; 0 where it is
            for images of any size.
        opset: int, version of ONNX's operators.

    Example:
        >>> builder = Builder()
        >>> x = builder.take("x", "float32", ["n", 2])
        >>> builder.give("double", builder.node("Add", [x, x]), shape=["n", 2])
        >>> [node.op_type for node in builder.model().graph.node]
        ['Add']
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.arrays: dict[str, np.ndarray] = {}
        self.geometry: Geometry | None = None
        self.map_image_size = 0
        self.opset = OPSET
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._renamed: dict[str, str] = {}

    def take(self, name: str, dtype: str, shape: Sequence[str | int | None]) -> str:
        """Add an input.

        Args:
            name: str.
            dtype: str, as NumPy names it.
            shape: length of each axis; a str or None for one that varies.

        Returns:
            str, the name of its value.
        """
        self._inputs.append(_tensor_info(name, dtype, shape))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add an operator with one output.

        Args:
            kind: str, ONNX's name of it.
            inputs: names of values.
            **attributes: as ONNX names them.

        Returns:
            str, the name of what it gives.
        """
        [name] = self.several(kind, inputs, 1, **attributes)
        return name

    def several(
        self, kind: str, inputs: Sequence[str], number: int, **attributes: Any
    ) -> list[str]:
        """Add an operator with several outputs.

        Args:
            kind, inputs, **attributes: as for `node`.
            number: int, of outputs.

        Returns:
            list of str, the names of what it gives.
        """
        import onnx.helper

        # Not the name of a layer, which Keras may have counted through all of a process.
        name = f"{self.prefix}{kind}:{len(self._nodes)}"
        names = [name, *(f"{name}.{place}" for place in range(1, number))]
        self._nodes.append(onnx.helper.make_node(kind, list(inputs), names, name, **attributes))
        return names

    def include(self, graph: "onnx.GraphProto", inputs: dict[str, str]) -> dict[str, str]:
        """Add all of another graph, under names of its own.

        Args:
            graph: `onnx.GraphProto`, whose weights are in it.
            inputs: dict of its inputs to names of values here.

        Returns:
            dict of the names of its values to those here.
        """
        import onnx.numpy_helper

        names = dict(inputs)
        for weight in graph.initializer:
            names[weight.name] = f"{self.prefix}{OWN}{weight.name}"
            self.arrays[names[weight.name]] = onnx.numpy_helper.to_array(weight)
        for number, node in enumerate(graph.node):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{self.prefix}{OWN}{number}"
            names |= {name: f"{self.prefix}{OWN}{name}" for name in node.output if name}
            for ends in (copy.input, copy.output):
                for place, name in enumerate(ends):
                    ends[place] = names.get(name, name)
            self._nodes.append(copy)
        return names

    def constant(self, value: Any, dtype: str = "float32") -> str:
        """Add a constant.

        Args:
            value: a number, or an array of any dtype and any shape.
            dtype: str, what it is stored as (default "float32").

        Returns:
            str, the name of its value.
        """
        name = f"{self.prefix}constant:{len(self.arrays)}"
        self.arrays[name] = np.asarray(value, dtype)
        return name

    def rename(self, value: str, name: str) -> None:
        """Give a value a name of its own, once all nodes are there.

        Args:
            value: str, as `node` gave it.
            name: str.
        """
        if value in self._renamed:
            value = self.node("Identity", [value])
        self._renamed[value] = name

    def give(
        self,
        name: str,
        value: str,
        dtype: str = "float32",
        shape: Sequence[str | int | None] = ("n", None),
    ) -> None:
        """Make a value an output.

        Args:
            name: str, of the output.
            value: str, as `node` gave it.
            dtype: str, as NumPy names it.
            shape: as for `take`.
        """
        self.rename(value, name)
        self._outputs.append(_tensor_info(name, dtype, shape))

    def model(self) -> "onnx.ModelProto":
        """The network."""
        import onnx.helper
        import onnx.numpy_helper

        for node in self._nodes:
            for names in (node.input, node.output):
                for place, one in enumerate(names):
                    names[place] = self._renamed.get(one, one)
        tensors = [
            # What is contiguous has one axis at least.
            onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            for name, array in self.arrays.items()
        ]
        graph = onnx.helper.make_graph(self._nodes, PRODUCER, self._inputs, self._outputs, tensors)
        network = onnx.helper.make_model(
            graph,
            producer_name=PRODUCER,
            opset_imports=[onnx.helper.make_opsetid("", self.opset)],
            ir_version=max(IR_VERSION, onnx.helper.OP_SET_ID_VERSION_MAP["ai.onnx", self.opset]),
        )
        if self.geometry is not None:
            seen = self.geometry
            told = {_GEOMETRY: f"{seen.size} {seen.stride} {seen.offset}"}
            if self.map_image_size:
                told[_MAP_IMAGE] = str(self.map_image_size)
            onnx.helper.set_model_props(network, told)
        return network


def _tensor_info(name: str, dtype: str, shape: Sequence[str | int | None]) -> "onnx.ValueInfoProto":
    import onnx.helper

    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_value_info(name, kind, list(shape))


def content(network: "onnx.ModelProto") -> bytes:
    """The bytes of an ONNX file, the same for the same network.

    Args:
        network: `onnx.ModelProto`.

    Returns:
        bytes.
    """
    return network.SerializeToString(deterministic=True)


def parsed(content: bytes, name: Any) -> "onnx.ModelProto":
    """The network in an ONNX file.

    Nothing is checked: whoever runs it gives it to `onnx_check` first.

    Args:
        content: bytes of the file.
        name: str or path-like, what messages call it.

    Returns:
        `onnx.ModelProto`.

    Raises:
        BundleError: it is no ONNX file.
    """
    import onnx

    try:
        return onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own kinds
        raise BundleError("An encoder must be a whole ONNX file.", f"{name}: {error}") from error


def hash_layer(network: "onnx.ModelProto") -> tuple[np.ndarray, np.ndarray]:
    """The weights of H in a network.

    Args:
        network: `onnx.ModelProto`.

    Returns:
        kernel: float32 `(feature_dim, num_bits)`.
        bias: float32 `(num_bits,)`.

    Raises:
        BundleError: it has none.
    """
    from onnx import numpy_helper

    stored = {one.name: one for one in network.graph.initializer}
    if not stored.keys() >= {*HASH_LAYER}:
        raise BundleError("A network's codes come from a hash layer.", f"no {HASH_LAYER[0]}")
    kernel, bias = (numpy_helper.to_array(stored[name]).astype(np.float32) for name in HASH_LAYER)
    return kernel, bias


def geometry_of(network: "onnx.ModelProto") -> Geometry | None:
    """What a network says of the places of its map.

    Args:
        network: `onnx.ModelProto`.

    Returns:
        `Geometry`, or None where it says nothing.
    """
    found = {entry.key: entry.value for entry in network.metadata_props}
    try:
        size, stride, offset = found[_GEOMETRY].split()
        return Geometry(int(size), int(stride), float(offset))
    except (KeyError, ValueError):
        return None


def map_image_size(network: "onnx.ModelProto") -> int | None:
    """The side in pixels of the only images that a network's map is for.

    Args:
        network: `onnx.ModelProto`.

    Returns:
        int; None where it is for images of any size.
    """
    found = {entry.key: entry.value for entry in network.metadata_props}
    side = found.get(_MAP_IMAGE, "")
    return int(side) if side.isdecimal() else None


def without_weights(network: "onnx.ModelProto", most: int) -> "onnx.ModelProto":
    """A copy of a network whose long arrays have their shapes and no content.

    Args:
        network: `onnx.ModelProto`, whose weights are in it as raw data.
        most: int. Arrays of more numbers lose them.

    Returns:
        `onnx.ModelProto`.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    for weight in copy.graph.initializer:
        if math.prod(weight.dims) > most:
            weight.ClearField("raw_data")
    return copy


def arrays(network: "onnx.ModelProto") -> dict[str, np.ndarray]:
    """The weights and constants of a network.

    Args:
        network: `onnx.ModelProto`.

    Returns:
        dict of name to array, of any dtype and shape.
    """
    from onnx import numpy_helper

    return {one.name: numpy_helper.to_array(one) for one in network.graph.initializer}


def has_map(network: "onnx.ModelProto") -> bool:
    """Whether a network names its map.

    Args:
        network: `onnx.ModelProto`.

    Returns:
        bool.

    Example:
        >>> import onnx
        >>> has_map(onnx.ModelProto())
        False
    """
    return any(MAP in node.output for node in network.graph.node)


def up_to_map(network: "onnx.ModelProto", size: int | None = None) -> "onnx.ModelProto":
    """The part of an encoder that its map depends on.

    Args:
        network: the encoder, as parsed; it is left as it is.
        size: int or None. Side in pixels of the images that it shall take, where its map is for
            any; None for images of any height and width.

    Returns:
        A network from `image`, uint8 `(n, height, width, 3)`, to `map`, float32 `(n, channels,
        rows, columns)`.

    Raises:
        BundleError: the network names no map.
    """
    import onnx.helper

    if not has_map(network):
        raise BundleError("An encoder names its map.", "one without", "Make the bundle again.")
    size = map_image_size(network) or size
    needed, nodes = {MAP}, []
    for node in reversed(network.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    image = _tensor_info("image", "uint8", ["n", size or "height", size or "width", 3])
    given = _tensor_info(MAP, "float32", ["n", None, None, None])
    weights = [one for one in network.graph.initializer if one.name in needed]
    graph = onnx.helper.make_graph(nodes[::-1], "map", [image], [given], weights)
    return onnx.helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )


def without_scores(network: "onnx.ModelProto") -> "onnx.ModelProto":
    """An encoder without F8.

    Args:
        network: the encoder, as parsed; it is left as it is.

    Returns:
        The network, without the output `scores` and what serves it alone.

    Example:
        >>> from hashnet.network import bundle
        >>> source = bundle.load(bundle_folder)
        >>> network = without_scores(parsed(source.encoder_bytes(), source.folder))
        >>> sorted(output.name for output in network.graph.output)
        ['feature', 'latent']
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(network)
    graph = made.graph
    outputs = [one for one in graph.output if one.name != "scores"]
    needed, nodes = {MAP, *(one.name for one in outputs)}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    weights = [one for one in graph.initializer if one.name in needed]
    for kept, field in ((outputs, "output"), (nodes[::-1], "node"), (weights, "initializer")):
        kept = [type(one).FromString(one.SerializeToString()) for one in kept]
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    return made


def digest(network: "onnx.ModelProto") -> str:
    """64 hex digits that change with the operators and weights that the map comes of.

    Names and sizes of images do not count.

    Args:
        network: as from `up_to_map`.

    Returns:
        str.
    """
    arrays = {array.name: array for array in network.graph.initializer}
    found = hashlib.sha256()
    for node in network.graph.node:
        found.update(f"{node.op_type}({len(node.input)})".encode())
        for attribute in sorted(node.attribute, key=lambda one: one.name):
            found.update(attribute.SerializeToString(deterministic=True))
        for array in (arrays[name] for name in node.input if name in arrays):
            found.update(f"{array.data_type}{list(array.dims)}".encode())
            found.update(array.raw_data)
    return found.hexdigest()


def joined(network: "onnx.ModelProto", head: "onnx.ModelProto") -> "onnx.ModelProto":
    """One network of two: what takes the map, behind what gives it.

    Args:
        network: as from `up_to_map`.
        head: a network that takes `map`; both are left as they are.

    Returns:
        A network from `image` to the outputs of the head.

    Raises:
        BundleError: they do not fit.
    """
    import onnx.helper

    taken = {name for node in network.graph.node for name in node.output}
    taken |= {one.name for one in network.graph.initializer} | {"image"}
    given = {name for node in head.graph.node for name in node.output}
    given |= {one.name for one in head.graph.initializer}
    if [taken_in.name for taken_in in head.graph.input] != [MAP] or taken & given:
        raise BundleError(
            "A head takes the map of its encoder, and nothing else.",
            ", ".join(taken_in.name for taken_in in head.graph.input)
            + str(sorted(taken & given)[:3]),
        )
    graph = onnx.helper.make_graph(
        [*network.graph.node, *head.graph.node],
        head.graph.name,
        list(network.graph.input),
        list(head.graph.output),
        [*network.graph.initializer, *head.graph.initializer],
    )
    return onnx.helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version
    )
