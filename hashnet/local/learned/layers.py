"""The layers of networks that find local features, as ONNX operators, from PyTorch's weights.

Such a network takes one image of any height and width and gives its best features, all in one
graph: maps, their peaks, and a descriptor for each. Arrays are channels first, `(1, channels, rows,
columns)`. What only some places of a map need is computed for these places alone: a map of
descriptors for all pixels of a photo takes half a gigabyte.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from hashnet.local.features import MAX_FEATURES
from hashnet.network import onnx_graph, onnx_layers
from hashnet.network.torch_weights import StateDict

MULTIPLE = 32  # what the sides of images are whole multiples of
# Of the square in which a peak is the highest; no feature lies nearer to an edge.
RADIUS = 2
_END = 2**31  # of any axis, for operators that count from both ends
_EPSILON = 1e-5  # of normalisations


class LearnedLayers(onnx_graph.Builder):
    """A network for local features in the making; its values are names of arrays.

    Args:
        weights: a `StateDict`.

    Attributes:
        pixels: str, the image, float32 `(1, 3, height, width)`, of 0 to 255.
        size: rows and columns of the image, as `size_of` gives them.
    """

    def __init__(self, weights: StateDict) -> None:
        super().__init__()
        import onnx

        self._weights = weights
        self._float, self._int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
        self.take("image", "uint8", [1, "height", "width", 3])
        floats = self.node("Cast", ["image"], to=self._float)
        self.pixels = self.node("Transpose", [floats], perm=onnx_layers.CHANNELS_FIRST)
        self.size = self.size_of(self.pixels)

    def whole(self, numbers: Sequence[int] | np.ndarray) -> str:
        """Whole numbers, as int64."""
        return self.constant(numbers, "int64")

    def floats(self, x: str) -> str:
        """Numbers as float32."""
        return self.node("Cast", [x], to=self._float)

    def wholes(self, x: str) -> str:
        """Numbers as int64, cut off after the point."""
        return self.node("Cast", [x], to=self._int64)

    def kernel(self, name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
        """The kernel of a convolution.

        Args:
            name: str, of the layer.
            shape: rows, columns, channels in and out.

        Returns:
            float32 `(out, in, rows, columns)`.
        """
        return self._weights.of_keras(f"{name}.weight", shape).transpose(onnx_layers.CONVOLUTION)

    def vector(self, name: str, size: int) -> np.ndarray:
        """Weights of one axis."""
        return self._weights.of_keras(name, (size,))

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Weights of another number of axes than two or four, as they are stored."""
        return self._weights.of_keras(name, shape)

    def folded(
        self, kernel: np.ndarray, norm: str, *, scaled: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """A kernel and bias that also do what a batch normalisation behind them does.

        Args:
            kernel: float32 `(out, in, rows, columns)`.
            norm: str, name of the normalisation.
            scaled: bool. Whether it has a scale and an offset of its own.

        Returns:
            kernel, bias: float32.
        """
        size = len(kernel)
        mean = self.vector(f"{norm}.running_mean", size)
        variance = self.vector(f"{norm}.running_var", size)
        scale = 1 / np.sqrt(variance + _EPSILON)
        offset = np.zeros(size, np.float32)
        if scaled:
            scale = scale * self.vector(f"{norm}.weight", size)
            offset = self.vector(f"{norm}.bias", size)
        return kernel * scale[:, None, None, None], offset - mean * scale

    def convolved(
        self,
        x: str,
        kernel: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        stride: int = 1,
        padded: bool = True,
    ) -> str:
        """A convolution; with zeros around, so that its map is as large, or without."""
        size = kernel.shape[2]
        names = [x, self.constant(kernel)] + ([] if bias is None else [self.constant(bias)])
        return self.node(
            "Conv",
            names,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2 if padded else 0] * 4,
        )

    def normalised(self, x: str, stride: int = 1) -> str:
        """Each channel with a mean of 0 and a deviation of 1 over the image.

        Args:
            x: str, `(1, channels, rows, columns)`.
            stride: int, pixels of the image between two places of the map.
        """

        # InstanceNormalization adds up a million numbers one by one; means of means stay exact.
        def mean(of: str) -> str:
            tiles = self.averaged(of, MULTIPLE // stride) if stride < MULTIPLE else of
            return self.node("GlobalAveragePool", [tiles])

        centred = self.node("Sub", [x, mean(x)])
        variance = mean(self.node("Mul", [centred, centred]))
        deviation = self.node("Sqrt", [self.node("Add", [variance, self.constant(_EPSILON)])])
        return self.node("Mul", [centred, self.node("Reciprocal", [deviation])])

    def averaged(self, x: str, size: int) -> str:
        """The mean of each window of so many rows and columns."""
        return self.node("AveragePool", [x], kernel_shape=[size, size], strides=[size, size])

    def enlarged(self, x: str, factor: int, places: str) -> str:
        """A map with so many times the rows and columns, linearly between its places.

        Args:
            x: str.
            factor: int.
            places: `"align_corners"` or `"half_pixel"`.
        """
        scales = self.constant([1, 1, factor, factor])
        return self.node(
            "Resize", [x, "", scales], mode="linear", coordinate_transformation_mode=places
        )

    def highest(self, x: str, rows: int, columns: int, *, padded: bool = True) -> str:
        """The highest of each window; padded: also of those that reach over the edge."""
        pads = [rows // 2, columns // 2] * 2 if padded else [0] * 4
        return self.node("MaxPool", [x], kernel_shape=[rows, columns], strides=[1, 1], pads=pads)

    def highest_around(self, x: str) -> str:
        """The highest of the square around each place, the place itself included."""
        side = 2 * RADIUS + 1
        return self.highest(self.highest(x, 1, side), side, 1)

    def without(self, x: str, rows: tuple[int, int], columns: tuple[int, int]) -> str:
        """A map without so many first and last rows and columns."""
        starts = [rows[0], columns[0]]
        ends = [-last or _END for last in (rows[1], columns[1])]
        return self.node("Slice", [x, self.whole(starts), self.whole(ends), self.whole([2, 3])])

    def inner(self, x: str) -> str:
        """A map without its margins of `RADIUS`."""
        return self.without(x, (RADIUS, RADIUS), (RADIUS, RADIUS))

    def best(self, scores: str) -> tuple[str, str, str]:
        """The places of the highest scores.

        Args:
            scores: str, `(1, 1, rows, columns)`, of the image without margins of `RADIUS`.

        Returns:
            scores: str, float32 `(MAX_FEATURES,)`, descending.
            y, x: str, int64 `(MAX_FEATURES, 1)`, in the image.
        """
        flat = self.node("Reshape", [scores, self.whole([-1])])
        found, place = self.several("TopK", [flat, self.whole([MAX_FEATURES])], 2, axis=0)
        place = self.column(place)
        width = self.node("Sub", [self.size[1], self.whole([2 * RADIUS])])
        y = self.node("Div", [place, width])
        x = self.node("Sub", [place, self.node("Mul", [y, width])])
        y, x = (self.node("Add", [one, self.whole([RADIUS])]) for one in (y, x))
        return found, y, x

    def size_of(self, x: str) -> tuple[str, str]:
        """Rows and columns of a map.

        Args:
            x: str, `(1, channels, rows, columns)`.

        Returns:
            rows, columns: str, int64 `(1,)`.
        """
        shape = self.node("Shape", [x])
        rows, columns = (self.node("Gather", [shape, self.whole([axis])]) for axis in (2, 3))
        return rows, columns

    def flat_place(self, y: str, x: str) -> str:
        """Where pixels of the image lie in a flat map of its size."""
        return self.node("Add", [self.node("Mul", [y, self.size[1]]), x])

    def rows_of(self, x: str, channels: int) -> str:
        """A map as `(rows * columns, channels)`."""
        last = self.node("Transpose", [x], perm=onnx_layers.CHANNELS_LAST)
        return self.node("Reshape", [last, self.whole([-1, channels])])

    def column(self, x: str) -> str:
        """Numbers as `(k, 1)`."""
        return self.node("Reshape", [x, self.whole([-1, 1])])

    def columns(self, x: str, first: int, number: int = 1) -> str:
        """So many columns of `(k, n)`."""
        ends = self.whole([first]), self.whole([first + number]), self.whole([1])
        return self.node("Slice", [x, *ends])

    def places_of(self, x: str) -> tuple[str, str]:
        """The row and the column of each place of a map, float32 `(rows * columns, 1)`."""
        # Counted on a map of ones, whose size `onnx_check` can tell, as that of a Range it cannot.
        ends = self.whole([0]), self.whole([1]), self.whole([1])
        first = self.node("Slice", [x, *ends])
        ones = self.floats(self.node("Not", [self.node("Greater", [first, first])]))
        row, column = (
            self.node("CumSum", [ones, self.constant(axis, "int64")], exclusive=1)
            for axis in (2, 3)
        )
        return self.column(row), self.column(column)

    def shrunk(self, places: str, length: str, smaller: str) -> str:
        """Pixels along an axis as places along that of a smaller map of the same corners."""
        one = self.whole([1])
        steps, fewer = (self.floats(self.node("Sub", [end, one])) for end in (length, smaller))
        return self.node("Div", [self.node("Mul", [self.floats(places), fewer]), steps])

    def corners(self, at: tuple[str, str], size: tuple[str, str]) -> Iterator[tuple[str, str, str]]:
        """Yield the row, the column and the weight of the four pixels around each place.

        Args:
            at: rows and columns, float32 `(k, 1)`.
            size: of the map.

        Yields:
            y, x: str, int64 `(k, 1)`, cut to lie in the map.
            weight: str, float32 `(k, 1)`, for linear interpolation; 0 beyond the edge.
        """
        axes = []
        for places, length in zip(at, size, strict=True):
            low = self.node("Floor", [places])
            part = self.node("Sub", [places, low])
            last = self.node("Sub", [length, self.whole([1])])
            ends = []
            for move, share in ((0, self.node("Sub", [self.constant(1), part])), (1, part)):
                there = self.node("Add", [self.wholes(low), self.whole([move])])
                cut = self.node("Min", [self.node("Max", [there, self.whole([0])]), last])
                inside = self.floats(self.node("Equal", [there, cut]))
                ends.append((cut, self.node("Mul", [share, inside])))
            axes.append(ends)
        for (y, of_row), (x, of_column) in itertools.product(*axes):
            yield y, x, self.node("Mul", [of_row, of_column])

    def sampled(self, rows: str, at: tuple[str, str], size: tuple[str, str]) -> str:
        """What a map says between its places.

        Args:
            rows: str, `(rows * columns, channels)`.
            at, size: as for `corners`.

        Returns:
            str, `(k, channels)`.
        """
        flat = [
            (self.node("Add", [self.node("Mul", [y, size[1]]), x]), weight)
            for y, x, weight in self.corners(at, size)
        ]
        return self.weighted(rows, flat)

    def weighted(self, rows: str, corners: Sequence[tuple[str, str]]) -> str:
        """The sum of some rows for each place.

        Args:
            rows: str, `(n, channels)`.
            corners: which row and its weight, each `(k, 1)`.

        Returns:
            str, `(k, channels)`.
        """
        total = ""
        for row, weight in corners:
            found = self.node("Gather", [rows, self.node("Reshape", [row, self.whole([-1])])])
            part = self.node("Mul", [found, weight])
            total = self.node("Add", [total, part]) if total else part
        return total

    def of_length_1(self, x: str, axis: int = 1) -> str:
        """Rows scaled to length 1."""
        squares = self.node("ReduceSum", [self.node("Mul", [x, x]), self.whole([axis])])
        length = self.node("Max", [self.node("Sqrt", [squares]), self.constant(1e-12)])
        return self.node("Div", [x, length])

    def give_features(self, y: str, x: str, scores: str, descriptors: str, size: int) -> None:
        """Make the outputs: `yx`, `scores` and `descriptors`."""
        yx = self.node("Concat", [y, x], axis=1)
        self.give("yx", yx, shape=[MAX_FEATURES, 2])
        self.give("scores", scores, shape=[MAX_FEATURES])
        self.give("descriptors", descriptors, shape=[MAX_FEATURES, size])
