"""The layers that networks are made of, as ONNX operators.

Arrays inside are channels first, `(n, channels, rows, columns)`; images are channels last. Weights
are given as Keras has them and named as Keras names them, `layer/variable`: a network has the same
file whether Keras built it or not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hashnet import codes
from hashnet.network import onnx_graph

if TYPE_CHECKING:
    import onnx

CHANNELS_FIRST, CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)

# Kernels: Keras's order of axes to ONNX's.
CONVOLUTION, DEPTHWISE = (3, 2, 0, 1), (2, 3, 0, 1)

_PADDINGS = {"same": "SAME_UPPER", "valid": "VALID"}


class Layers(onnx_graph.Builder):
    """A network in the making, layer by layer; its values are names of arrays.

    Attributes:
        weights: dict of name to what is stored, float32, the axes in ONNX's order.

    Example:
        >>> layers = Layers()
        >>> pixels = layers.image(["n", 8, 8, 3])
        >>> kernel = layers.weight("f7/kernel", np.ones((3, 2), np.float32))
        >>> feature = layers.dense(layers.global_pooling(pixels), kernel)
        >>> layers.give("feature", feature, shape=["n", 2])
        >>> [node.op_type for node in layers.model().graph.node]
        ['Cast', 'Transpose', 'GlobalAveragePool', 'Flatten', 'Gemm']
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, np.ndarray] = {}

    def model(self) -> "onnx.ModelProto":
        """The network."""
        self.arrays |= self.weights
        return super().model()

    def weight(self, name: str, array: Any, order: tuple[int, ...] | None = None) -> str:
        """Add weights.

        Args:
            name: str, `layer/variable`.
            array: float array of any shape, as Keras has it.
            order: its axes in ONNX's order; None where it is the same.

        Returns:
            str, the name.
        """
        values = np.asarray(array, np.float32)
        self.weights[name] = values if order is None else values.transpose(order)
        return name

    def image(self, shape: Sequence[str | int | None]) -> str:
        """Add the input `image`, as float32, channels first.

        Args:
            shape: `(n, height, width, 3)`; a str or None for a side that varies.

        Returns:
            str, the name of the value.
        """
        import onnx

        self.take("image", "uint8", shape)
        pixels = self.node("Cast", ["image"], to=onnx.TensorProto.FLOAT)
        return self.node("Transpose", [pixels], perm=CHANNELS_FIRST)

    def rescaled(self, x: str, scale: Any, offset: Any) -> str:
        """`x * scale + offset`.

        Args:
            x: str, name of a map.
            scale, offset: numbers, or one for each channel.

        Returns:
            str, the name of the value.
        """

        def of_channels(numbers: Any) -> str:
            array = np.asarray(numbers, np.float32)
            return self.constant(array.reshape(-1, 1, 1) if array.ndim else array)

        return self.node("Add", [self.node("Mul", [x, of_channels(scale)]), of_channels(offset)])

    def convolution(
        self,
        x: str,
        kernel: str,
        bias: str | None = None,
        *,
        strides: Sequence[int],
        padding: str,
        dilations: Sequence[int] = (1, 1),
        group: int = 1,
    ) -> str:
        """A convolution.

        Args:
            x: str, name of a map.
            kernel, bias: str, names of weights; no bias where None.
            strides, dilations: int for rows and columns.
            padding: `"same"` or `"valid"`.
            group: int. In how many groups the channels are taken.

        Returns:
            str, the name of the value.
        """
        return self.node(
            "Conv",
            [x, kernel, bias] if bias else [x, kernel],
            kernel_shape=list(self.weights[kernel].shape[2:]),
            strides=list(strides),
            dilations=list(dilations),
            group=group,
            auto_pad=_PADDINGS[padding],
        )

    def normalised(
        self, x: str, gamma: str, beta: str, mean: str, variance: str, epsilon: float
    ) -> str:
        """Batch normalisation, which runtimes fold into the convolution before it.

        Args:
            x: str, name of a map.
            gamma, beta, mean, variance: str, names of weights.
            epsilon: float, added to the variance.

        Returns:
            str, the name of the value.
        """
        return self.node("BatchNormalization", [x, gamma, beta, mean, variance], epsilon=epsilon)

    def clipped(self, x: str, most: float) -> str:
        """`x` cut to 0 and above, and to `most` and below.

        Args:
            x: str, name of a value.
            most: float.

        Returns:
            str, the name of the value.
        """
        return self.node("Clip", [x, self.constant(0), self.constant(most)])

    def pooled(self, x: str, kind: str, size: Sequence[int], strides: Any, padding: str) -> str:
        """The maximum or the mean of each window.

        Args:
            x: str, name of a map.
            kind: `"MaxPool"` or `"AveragePool"`.
            size, strides: int for rows and columns.
            padding: `"same"` or `"valid"`.

        Returns:
            str, the name of the value.
        """
        return self.node(
            kind,
            [x],
            kernel_shape=list(size),
            strides=list(strides),
            auto_pad=_PADDINGS[padding],
        )

    def global_pooling(
        self, x: str, keep_axes: bool = False, kind: str = "GlobalAveragePool"
    ) -> str:
        """The mean or the maximum over all places.

        Args:
            x: str, name of a map.
            keep_axes: bool. Whether the answer is a map of one place.
            kind: `"GlobalAveragePool"` or `"GlobalMaxPool"`.

        Returns:
            str, the name of the value.
        """
        found = self.node(kind, [x])
        return found if keep_axes else self.node("Flatten", [found])

    def cropped(self, x: str, begin: Sequence[int], end: Sequence[int]) -> str:
        """A window of a map.

        Args:
            x: str, name of a map.
            begin, end: int for rows and columns.

        Returns:
            str, the name of the value.
        """
        numbers = (self.constant(list(one), "int64") for one in (begin, end, (2, 3)))
        return self.node("Slice", [x, *numbers])

    def sum_of_channels(self, x: str) -> str:
        """The sum of all channels, which stays as an axis of 1.

        Args:
            x: str, name of a map or of rows of numbers.

        Returns:
            str, the name of the value.
        """
        return self.node("ReduceSum", [x, self.constant([1], "int64")])

    def dense(self, x: str, kernel: str, bias: str | None = None) -> str:
        """A fully connected layer.

        Args:
            x: str, name of rows of numbers.
            kernel, bias: str, names of weights; no bias where None.

        Returns:
            str, the name of the value.
        """
        return self.node("Gemm", [x, kernel, bias] if bias else [x, kernel])

    def unit_length(self, x: str) -> str:
        """Rows scaled to length 1.

        Args:
            x: str, name of rows of numbers.

        Returns:
            str, the name of the value.
        """
        axis = self.constant([-1], "int64")
        squares = self.node("ReduceSum", [self.node("Mul", [x, x]), axis])
        inverse = self.node("Reciprocal", [self.node("Sqrt", [squares])])
        return self.node("Mul", [x, self.node("Min", [inverse, self.constant(1e12)])])

    def packed(self, latent: str, num_bits: int) -> str:
        """What `codes.from_latent` does, in integers, which no precision rounds.

        Args:
            latent: str, name of float32 `(n, num_bits)`.
            num_bits: int.

        Returns:
            str, the name of the value.
        """
        import onnx

        width = codes.code_bytes(num_bits)
        bits = self.node("GreaterOrEqual", [latent, self.constant(0.5)])
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
