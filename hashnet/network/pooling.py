"""From a map to a feature: the usual ways, said once and built twice, in Keras and as ONNX.

    mean   the mean over all places, as most networks end
    mac    the maximum of each channel
    spoc   the mean, places near the centre weighing more
    rmac   maxima of windows of three sizes, each of length 1, added up
    gem    the cube root of the mean of cubes, between mean and maximum
    crow   the mean, places weighing by how much responds there and channels by how rarely they do

A pooling behind a backbone's name, as in `efficientnet_lite0:gem`, makes F7 of its last map; of its
map of stride 16 with `map_` before it, as in `vgg16:map_rmac`. Several are joined by `+`, each of
length 1.

Reference:
    Razavian, Sullivan, Carlsson, Maki, "Visual Instance Retrieval with Deep Convolutional
    Networks", MTA 2016: MAC.
    Babenko, Lempitsky, "Aggregating Deep Convolutional Features for Image Retrieval", ICCV 2015:
    SPoC, with its centre prior.
    Tolias, Sicre, Jegou, "Particular Object Retrieval with Integral Max-Pooling of CNN
    Activations", ICLR 2016: R-MAC.
    Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", PAMI 2018:
    GeM, with the power 3 that its networks begin with.
    Kalantidis, Mellina, Osindero, "Cross-Dimensional Weighting for Aggregated Deep Convolutional
    Features", ECCV Workshops 2016: CroW.
    All but GeM and MAC go on to whiten by PCA, which is not done here: codes are fitted to the
    features, and the fine stage ranks about their mean.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from hashnet.errors import UnknownNameError
from hashnet.network import onnx_layers

OF_MAP = "map_"
_SCALES = 3  # of R-MAC: windows in so many sizes
_POSITIVE = 1e-6  # what GeM adds, so that no root is of 0
_EPSILON = 1e-6  # of CroW's shares

T = TypeVar("T")


class _Meaning(Protocol[T]):
    """What the steps of a pooling stand for. Maps are `(n, rows, columns, channels)`."""

    def side(self, x: T) -> int:
        """Rows of a map, and columns."""

    def mean(self, x: T, *, keep_axes: bool = False) -> T:
        """Over all places: `(n, channels)`, or with its axes a map of one place."""

    def largest(self, x: T) -> T:
        """Of all places: `(n, channels)`."""

    def window(self, x: T, top: int, left: int, side: int) -> T:
        """A part of a map."""

    def rectified(self, x: T) -> T:
        """What is below 0 becomes 0."""

    def sign(self, x: T) -> T:
        """1 above 0, and 0 at it."""

    def linear(self, x: T, scale: float, offset: float) -> T:
        """Each number scaled, and moved."""

    def power(self, x: T, exponent: float) -> T:
        """Of numbers that are not below 0."""

    def log(self, x: T) -> T:
        """The natural logarithm."""

    def times(self, x: T, y: T) -> T:
        """Number by number; an axis of 1 stands for as many as the other has."""

    def times_places(self, x: T, weights: np.ndarray) -> T:
        """Each place by a weight, float32 `(rows, columns)`."""

    def sum_of_channels(self, x: T) -> T:
        """The last axis becomes 1."""

    def added(self, parts: Sequence[T]) -> T:
        """The sum of several `(n, channels)`."""

    def joined(self, parts: Sequence[T]) -> T:
        """Several `(n, channels)`, one behind the other."""

    def unit_length(self, x: T) -> T:
        """Rows of `(n, channels)`, scaled to length 1."""


def named(text: str) -> tuple[str, ...]:
    """The poolings that stand behind a backbone's name.

    Args:
        text: str, some of `POOLINGS`, `map_` before those of the map of stride 16, joined by `+`.

    Returns:
        tuple of str.

    Raises:
        UnknownNameError: there is no such pooling.

    Example:
        >>> named("gem+map_rmac")
        ('gem', 'map_rmac')
    """
    names = tuple(text.split("+"))
    for name in names:
        if name.removeprefix(OF_MAP) not in POOLINGS:
            raise UnknownNameError("pooling", name, POOLINGS)
    return names


def is_named(text: str) -> bool:
    """Whether a text names poolings.

    Args:
        text: str.

    Returns:
        bool.

    Example:
        >>> is_named("gem+map_mac"), is_named("resnet50")
        (True, False)
    """
    return all(name.removeprefix(OF_MAP) in POOLINGS for name in text.split("+"))


def in_keras(last: Any, stride_16: Any, names: Sequence[str]) -> Any:
    """A feature of a network's maps, in Keras.

    Args:
        last: the last map, a Keras tensor `(n, rows, rows, channels)`, not below 0.
        stride_16: the map of stride 16, likewise.
        names: as from `named`.

    Returns:
        Keras tensor `(n, feature_dim)`.
    """
    return _pooled(_InKeras(), last, stride_16, names)


def in_onnx(
    layers: onnx_layers.Layers,
    last: tuple[str, int],
    stride_16: tuple[str, int],
    names: Sequence[str],
) -> str:
    """A feature of a network's maps, as ONNX.

    Args:
        layers: the network in the making.
        last: name of the last map, not below 0, and its rows; channels come first.
        stride_16: the same of the map of stride 16.
        names: as from `named`.

    Returns:
        str, the name of the feature, `(n, feature_dim)`.
    """
    return _pooled(_InOnnx(layers, dict([last, stride_16])), last[0], stride_16[0], names)


def _pooled(layers: _Meaning[T], last: T, stride_16: T, names: Sequence[str]) -> T:
    parts = [
        POOLINGS[name.removeprefix(OF_MAP)](
            layers, layers.rectified(stride_16) if name.startswith(OF_MAP) else last
        )
        for name in names
    ]
    if len(parts) == 1:
        return parts[0]
    return layers.joined([layers.unit_length(part) for part in parts])


def windows(side: int) -> list[tuple[int, int, int]]:
    """The windows of R-MAC, of a square map.

    Args:
        side: int, rows of the map.

    Returns:
        list of (top, left, side), all within the map; of the l-th size l by l of them, each
        `2 * side // (l + 1)` long, evenly apart.

    Example:
        >>> windows(7)[:5]
        [(0, 0, 7), (0, 0, 4), (0, 3, 4), (3, 0, 4), (3, 3, 4)]
        >>> len(windows(7))
        14
    """
    found = []
    for scale in range(1, _SCALES + 1):
        length = max(1, 2 * side // (scale + 1))
        starts = [place * (side - length) // max(1, scale - 1) for place in range(scale)]
        found += [(top, left, length) for top in starts for left in starts]
    return found


def _spoc(layers: _Meaning[T], x: T) -> T:
    side = layers.side(x)
    apart = np.square((np.arange(side) + 0.5 - side / 2) / (side / 2 / 3))
    prior = np.exp(-(apart[:, None] + apart) / 2)
    return layers.mean(layers.times_places(x, prior.astype(np.float32)))


def _rmac(layers: _Meaning[T], x: T) -> T:
    return layers.added(
        [
            layers.unit_length(layers.largest(layers.window(x, *window)))
            for window in windows(layers.side(x))
        ]
    )


def _gem(layers: _Meaning[T], x: T) -> T:
    x = layers.linear(layers.rectified(x), 1.0, _POSITIVE)
    return layers.power(layers.mean(layers.times(x, layers.times(x, x))), 1 / 3)


def _crow(layers: _Meaning[T], x: T) -> T:
    places = layers.side(x) ** 2
    response = layers.sum_of_channels(x)
    squares = layers.mean(layers.times(response, response), keep_axes=True)
    inverse = layers.power(layers.linear(squares, places, 1e-12), -0.5)
    weighted = layers.mean(layers.times(x, layers.power(layers.times(response, inverse), 0.5)))
    shares = layers.linear(layers.mean(layers.sign(x)), 1.0, _EPSILON)
    # log(a / b), as the product of powers that every runtime knows.
    rarity = layers.log(layers.times(layers.sum_of_channels(shares), layers.power(shares, -1.0)))
    return layers.times(weighted, rarity)


POOLINGS: dict[str, Callable[[Any, Any], Any]] = {
    "mean": lambda layers, x: layers.mean(x),
    "mac": lambda layers, x: layers.largest(x),
    "spoc": _spoc,
    "rmac": _rmac,
    "gem": _gem,
    "crow": _crow,
}


class _InKeras:
    """Keras layers and operations."""

    def __init__(self) -> None:
        from keras import layers, ops

        self._layers, self._ops = layers, ops

    def side(self, x: Any) -> int:
        return int(x.shape[1])

    def mean(self, x: Any, *, keep_axes: bool = False) -> Any:
        return self._layers.GlobalAveragePooling2D(keepdims=keep_axes)(x)

    def largest(self, x: Any) -> Any:
        return self._layers.GlobalMaxPooling2D()(x)

    def window(self, x: Any, top: int, left: int, side: int) -> Any:
        rest = self.side(x) - side
        if not rest:
            return x
        return self._layers.Cropping2D(((top, rest - top), (left, rest - left)))(x)

    def rectified(self, x: Any) -> Any:
        return self._layers.ReLU()(x)

    def sign(self, x: Any) -> Any:
        return self._ops.sign(x)

    def linear(self, x: Any, scale: float, offset: float) -> Any:
        return self._layers.Rescaling(scale, offset=offset)(x)

    def power(self, x: Any, exponent: float) -> Any:
        return self._ops.power(x, exponent)

    def log(self, x: Any) -> Any:
        return self._ops.log(x)

    def times(self, x: Any, y: Any) -> Any:
        return self._layers.Multiply()([x, y])

    def times_places(self, x: Any, weights: np.ndarray) -> Any:
        return self._ops.multiply(x, weights[:, :, None])

    def sum_of_channels(self, x: Any) -> Any:
        return self._ops.sum(x, axis=-1, keepdims=True)

    def added(self, parts: Sequence[Any]) -> Any:
        return self._layers.Add()(parts) if len(parts) > 1 else parts[0]

    def joined(self, parts: Sequence[Any]) -> Any:
        return self._layers.Concatenate()(parts)

    def unit_length(self, x: Any) -> Any:
        return self._layers.UnitNormalization()(x)


class _InOnnx:
    """ONNX operators; values are names, and maps have their channels first.

    Args:
        layers: the `onnx_layers.Layers` that are added to.
        sides: dict of the name of a map to its rows, of the maps that are pooled.
    """

    def __init__(self, layers: onnx_layers.Layers, sides: dict[str, int]) -> None:
        self._layers, self._sides = layers, sides

    def side(self, x: str) -> int:
        return self._sides[x]

    def mean(self, x: str, *, keep_axes: bool = False) -> str:
        return self._layers.global_pooling(x, keep_axes)

    def largest(self, x: str) -> str:
        return self._layers.global_pooling(x, kind="GlobalMaxPool")

    def window(self, x: str, top: int, left: int, side: int) -> str:
        if side == self._sides[x]:
            return x
        return self._layers.cropped(x, (top, left), (top + side, left + side))

    def rectified(self, x: str) -> str:
        found = self._layers.node("Relu", [x])
        self._sides[found] = self._sides[x]
        return found

    def sign(self, x: str) -> str:
        return self._layers.node("Sign", [x])

    def linear(self, x: str, scale: float, offset: float) -> str:
        return self._layers.rescaled(x, scale, offset)

    def power(self, x: str, exponent: float) -> str:
        return self._layers.node("Pow", [x, self._layers.constant(exponent)])

    def log(self, x: str) -> str:
        return self._layers.node("Log", [x])

    def times(self, x: str, y: str) -> str:
        return self._layers.node("Mul", [x, y])

    def times_places(self, x: str, weights: np.ndarray) -> str:
        return self._layers.node("Mul", [x, self._layers.constant(weights[None])])

    def sum_of_channels(self, x: str) -> str:
        return self._layers.sum_of_channels(x)

    def added(self, parts: Sequence[str]) -> str:
        found = parts[0]
        for part in parts[1:]:
            found = self._layers.node("Add", [found, part])
        return found

    def joined(self, parts: Sequence[str]) -> str:
        return self._layers.node("Concat", list(parts), axis=1)

    def unit_length(self, x: str) -> str:
        return self._layers.unit_length(x)
