"""The head of DELF: what lies between the map of a backbone and local features."""

import io
import os
import pathlib
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hashnet.errors import ShapeError, WeightsError
from hashnet.network import onnx_graph
from hashnet.network.geometry import Geometry

if TYPE_CHECKING:
    import onnx

# What the score is, by the name that the network's output has.
ATTENTION, NORM = "attention", "activation_norm"
# Sizes of the pyramid's levels, .25 to 2.83. A file of a network names its own, so that an index
# keeps those that its features were extracted at; files of before it did have the levels up to 2.
SCALES = tuple(2.0 ** (power / 2) for power in range(-4, 4))
SCALES_BEFORE = SCALES[:7]

# Of the backbones with a preset, `onnx_graph.digest` of the network up to the map that the preset
# is for, with its weights of ImageNet. A network of other weights gets one of these beside it.
PRESET_MAPS = {
    "efficientnet_lite0": "72f30157332b088c7f3b457bd1e6f9ad750045a39bccec01f5c8f162fd30fe14",
}


@dataclass(frozen=True, eq=False)
class Head:
    """What lies between the map of a backbone and local features.

    Attributes:
        mean: float32 `(channels,)`. Mean of the training features of length 1.
        components: float32 `(channels, descriptor_dim)`. Their principal axes.
        root: bool. Whether those features are the signed roots of the map's columns, as RootSIFT's
            are of SIFT's: a few strong channels then outweigh the others less.
        attention: None where none is trained, and the length of the map's column is the score;
            or four float32 arrays: kernel `(channels, hidden)` and bias `(hidden,)` of the
            first layer, kernel `(hidden,)` and bias `()` of the second.

    Raises:
        ShapeError: the arrays do not fit each other.
        WeightsError: a number among them is not finite.
    """

    mean: np.ndarray
    components: np.ndarray
    attention: tuple[np.ndarray, ...] | None = None
    root: bool = False

    def __post_init__(self) -> None:
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
    def descriptor_dim(self) -> int:
        """int, length of a descriptor."""
        return self.components.shape[-1]

    def _arrays(self) -> list[np.ndarray]:
        return [self.mean, self.components, *(self.attention or ())]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the head as an `.npz`, the kernels of attention in float16.

        Args:
            path: str or path-like.
        """
        arrays: dict[str, Any] = {"mean": self.mean, "components": self.components}
        if self.root:  # files of before have no such array
            arrays["root"] = np.array(True)
        if self.attention:
            kernel1, bias1, kernel2, bias2 = self.attention
            arrays |= {"kernel1": kernel1.astype(np.float16), "bias1": bias1}
            arrays |= {"kernel2": kernel2, "bias2": bias2}
        np.savez_compressed(path, **arrays)

    @classmethod
    def untrained(cls, channels: int, descriptor_dim: int = 40) -> Self:
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
    def load(cls, path: str | os.PathLike[str]) -> Self:
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
            (672, 64)
        """
        preset = _preset(path)
        names = ("kernel1", "bias1", "kernel2", "bias2")
        try:
            content = (preset if preset.is_file() else pathlib.Path(path)).read_bytes()
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: np.asarray(file[name], np.float32) for name in file.files}
            attention = tuple(arrays[name] for name in names) if "kernel1" in arrays else None
            root = bool(arrays.get("root", False))
            return cls(arrays["mean"], arrays["components"], attention, root)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsError(
                "A DELF head is an .npz of hashnet.train.attention, or the backbone of a preset.",
                f"{path}: {error}",
            ) from error


def network(head: Head, seen: Geometry | None = None) -> "onnx.ModelProto":
    """A head as ONNX.

    Args:
        head: a `Head`.
        seen: the `Geometry` of the map that it is for; None gives the scores alone, for regions.

    Returns:
        A network from `map`, float32 `(n, channels, rows, columns)`, to `descriptors`, float32
        `(n, rows, columns, descriptor_dim)`, `attention` where the head has it, else
        `activation_norm`, float32 `(n, rows, columns)`, and `geometry`, the three numbers of
        `seen` and those of `SCALES`. To `scores` alone where `seen` is None.

    Example:
        >>> head = network(Head.untrained(24), Geometry(339, 16, 15.0))
        >>> [end.name for end in head.graph.output]
        ['descriptors', 'activation_norm', 'geometry']
    """
    graph = onnx_graph.Builder("head/")

    def length_of(x: str) -> str:
        squares = graph.node("Mul", [x, x])
        return graph.node("Sqrt", [graph.node("ReduceSum", [squares, channels])])

    def of_length_1(x: str, length: str) -> str:
        return graph.node("Div", [x, graph.node("Max", [length, graph.constant(1e-6)])])

    def pointwise(x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        weights = [graph.constant(kernel.T[:, :, None, None]), graph.constant(bias)]
        return graph.node("Conv", [x, *weights], kernel_shape=[1, 1])

    column = graph.take(onnx_graph.MAP, "float32", ["n", len(head.mean), "rows", "columns"])
    channels = graph.constant([1], "int64")
    length = length_of(column)
    unit = of_length_1(column, length)
    if head.attention:
        kernel1, bias1, kernel2, bias2 = head.attention
        hidden = graph.node("Relu", [pointwise(unit, kernel1, bias1)])
        scores = graph.node("Softplus", [pointwise(hidden, kernel2[:, None], bias2[None])])
    else:
        scores = length
    scores = graph.node("Squeeze", [scores, channels])
    places = ["n", "rows", "columns"]
    if seen is None:
        graph.give("scores", scores, shape=places)
        return graph.model()
    described = unit
    if head.root:
        size = graph.node("Sqrt", [graph.node("Abs", [unit])])
        described = graph.node("Mul", [graph.node("Sign", [unit]), size])
        described = of_length_1(described, length_of(described))
    reduced = pointwise(described, head.components, -head.mean @ head.components)
    reduced = of_length_1(reduced, length_of(reduced))
    last = graph.node("Transpose", [reduced], perm=[0, 2, 3, 1])
    graph.give("descriptors", last, shape=[*places, head.descriptor_dim])
    graph.give(ATTENTION if head.attention else NORM, scores, shape=places)
    numbers = [seen.size, seen.stride, seen.offset, *SCALES]
    geometry = graph.node("Identity", [graph.constant(numbers)])
    graph.give("geometry", geometry, shape=[len(numbers)])
    return graph.model()


def has_preset(backbone: str) -> bool:
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


def _preset(backbone: str | os.PathLike[str]) -> pathlib.Path:
    return pathlib.Path(__file__).with_name("presets") / f"{backbone}_delf.npz"
